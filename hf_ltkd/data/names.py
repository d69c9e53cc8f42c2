"""What files, folders and columns are usually called."""

import re
from collections.abc import Sequence


# The keywords of `datasets` (data_files.py), the longer ones first.
SPLITS = {
    "train": ("training", "train"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("testing", "test", "evaluation", "eval"),
}
KEYWORDS = {keyword: split for split, keywords in SPLITS.items() for keyword in keywords}
_ANY = "|".join(KEYWORDS)
# "Train", "val2017", "test_images", but not "train_station"
_FOLDER = re.compile(rf"({_ANY})([\W_]*(set|split|data|images?|imgs?|\d+))*", re.IGNORECASE)
# "train-00000-of-00002.parquet", "cifar100_test.parquet", "trainset.parquet"
_FILE = re.compile(rf"^(training|train|testing|test|validation|valid)|(?<![a-z])({_ANY})(?![a-z])", re.IGNORECASE)

PATH_NAMES = (
    "file_name filename path file file_path filepath image_path img_path image_file image_name image img".split()
)
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "species", "target", "cls")
SPLIT_NAMES = ("split", "subset")


def split_of(name: str, *, is_folder: bool, wanted: str | None = None) -> str | None:
    """
    The split that a file or folder is by its name: `"train"`, `"validation"`, `"test"`, or `None`.

    Args:
        name (`str`): Without the folder; in any case.
        is_folder (`bool`): A folder's whole name counts, since it may be a class's; a file's may go on.
        wanted (`str`, *optional*): One more split, which files and folders that begin with it are.
    """
    if wanted is not None and (
        name.lower() == wanted.lower() if is_folder else name.lower().startswith(wanted.lower())
    ):
        return wanted
    match = _FOLDER.fullmatch(name) if is_folder else _FILE.search(name)
    return KEYWORDS[next(filter(None, match.groups())).lower()] if match else None


def find_label_name(columns: Sequence[str], wanted: str, find: bool = True) -> str | None:
    """The column of labels: the one that is wanted or, to `find` one, the only one that is usually called so."""
    if wanted in columns:
        return wanted
    known = [column for column in columns if column.lower() in LABEL_NAMES]
    return known[0] if find and len(known) == 1 else None
