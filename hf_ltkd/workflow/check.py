"""What is wrong with the images, before anything is trained on them."""

from typing import Any

from ..data.arguments import DataArguments
from ..data.check import ImageReport, inspect
from ..data.holdout import describe_split
from ..data.sources import find_source
from .arguments import SourceArguments, split_settings
from .inputs import find_data, is_main_process


def check(data: Any = None, **settings: Any) -> ImageReport:
    """
    Opens every image once: which files are used for what, which are damaged or skipped, and which are there twice.

    Args:
        data (`str` or `os.PathLike`): A folder of images, a benchmark's name, or a dataset of the Hub.
        settings: Any field of `DataArguments`.

    Returns:
        [`ImageReport`]: its `ok`, `problems()` and `describe()`.

    Raises:
        `ValueError`: if no images are named, they can't be told into classes, or none can be held out where there is
            no split to evaluate on.
    """
    source, fields = split_settings({"data": data, **settings}, SourceArguments, DataArguments)
    if "data" in source:
        fields |= find_data(source["data"])
    elif not {"data_dir", "dataset_name", "benchmark"} & set(fields):
        raise ValueError("--data is missing: give a folder of images, a benchmark's name or a dataset of the Hub.")
    args = DataArguments(**fields)
    found = find_source(args)
    split = [] if args.rare != "keep" else describe_split(found, args, SourceArguments(**source).eval_fraction)
    report = inspect(found, args.label_column, progress=is_main_process())
    report.sources += split if not report.damaged else []  # else the images that are left are others
    return report
