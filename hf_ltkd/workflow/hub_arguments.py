"""What a user may set for a push and for an ONNX export; free of torch."""

import os
from dataclasses import dataclass, field


@dataclass
class PushArguments:
    """What is pushed where, and what its card says that the folder's files don't."""

    model: str = field(metadata={"help": "The student's folder."})
    to: str = field(metadata={"help": "Its place on the Hub, as owner/name; made if it does not exist."})
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    dataset: str | None = field(
        default=None, metadata={"help": "The full dataset's name, best its Hub id; the card's metrics need it."}
    )
    dataset_split: str | None = field(default=None, metadata={"help": "The split that was evaluated on (test)."})
    teacher_name: str | None = field(default=None, metadata={"help": "The teacher's Hub id, for the card."})
    teacher_results: str | None = field(
        default=None, metadata={"help": "The teacher's eval_results.json, to stand beside the student's."}
    )
    plain_student_results: str | None = field(
        default=None, metadata={"help": "That of the same student trained without a teacher."}
    )
    license: str | None = field(default=None, metadata={"help": "The weights' license, e.g. apache-2.0."})
    language: str | None = field(default=None, metadata={"help": "The data's language, e.g. en."})
    tags: list[str] | None = field(default=None, metadata={"help": "More tags for the card."})
    revision: str | None = field(default=None, metadata={"help": "The branch (main)."})
    model_code: bool = field(
        default=True, metadata={"help": "Send the code of a network of hf_ltkd too, so that it loads without hf_ltkd."}
    )
    keep_card: bool = field(default=False, metadata={"help": "Send the folder's README.md as it is."})
    timeout: float = field(
        default=60.0,
        metadata={"help": "Seconds that the Hub may stay silent; a push may take five times that and 10 s a MB."},
    )


@dataclass
class ExportArguments:
    """What is exported to ONNX, and how it is measured."""

    model: str = field(metadata={"help": "The student's folder, or its Hub id."})
    teacher: str | None = field(
        default=None, metadata={"help": "The teacher's folder or Hub id, to be measured beside the student."}
    )
    images: list[str] | None = field(
        default=None, metadata={"help": "Image files or folders of them to compare the logits on (random pixels)."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "The folder that gets onnx/model.onnx (the student's)."}
    )
    threads: int = field(default=1, metadata={"help": "CPU threads that a network runs on while it is measured."})
    runs: int = field(default=100, metadata={"help": "Runs of each network that are measured."})

    def __post_init__(self):
        if self.output_dir is None and not os.path.isdir(self.model):
            raise ValueError(
                f"--model {self.model} is no folder here: if it is on the Hub, say with --output_dir where the ONNX "
                "file goes."
            )
        if self.threads < 1 or self.runs < 1:
            raise ValueError(f"--threads {self.threads} and --runs {self.runs} must both be 1 or more.")
