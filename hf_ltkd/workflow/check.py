"""What is wrong with the images, before anything is trained on them."""

from typing import Any

from ..data.arguments import DataArguments
from ..data.check import ImageReport, inspect
from ..data.holdout import describe_split
from ..data.sources import find_source
from .arguments import SourceArguments, split_settings
from .inputs import is_main_process, name_data


def check(data: Any = None, **settings: Any) -> ImageReport:
    """
    Opens every image once: which files are used for what, which are damaged or skipped, and which are there twice.

    Args:
        data (`str` or `os.PathLike`): A folder of images, a benchmark's name, or a dataset of the Hub.
        settings: `eval_fraction`, and any field of `DataArguments`.

    Returns:
        [`ImageReport`]: its `ok`, `problems()` and `describe()`.

    Raises:
        `ValueError`: if no images are named, they can't be told into classes, or none can be held out where there is
            no split to evaluate on.
    """
    source, fields = split_settings({"data": data, **settings}, SourceArguments, DataArguments)
    where = SourceArguments(**source)
    splits, fields = name_data(where, fields)
    if splits is not None:
        raise ValueError("check opens image files, and a dataset in memory has none: give its folder or name.")
    args = DataArguments(**fields)
    found = find_source(args)
    split = [] if args.rare != "keep" else describe_split(found, args, where.eval_fraction)
    report = inspect(found, args.label_column, progress=is_main_process())
    report.sources += split if not report.damaged else []  # else the images that are left are others
    return report
