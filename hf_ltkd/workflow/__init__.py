"""What an engineer does, as functions with a result: a file a job."""
