"""Where images come from: the Hub, parquet files, folders of images, or lists of image files."""

from pathlib import Path

from datasets import DatasetDict, load_dataset

from .arguments import PRESETS, DataArguments
from .image_files import read_class_folders, read_image_list, read_tiny_imagenet
from .long_tail import class_counts


def load_splits(args: DataArguments) -> DatasetDict:
    """
    The training split and the splits to evaluate on that `args` names; nothing is decoded.

    Raises:
        `ValueError`: if `data_dir` is not a folder, or holds no images in a layout that is known.
        `FileNotFoundError`: if an image of a list does not exist.
    """
    if args.dataset_name is not None:
        return load_dataset(args.dataset_name, args.dataset_config_name)
    folder = Path(args.data_dir or "").expanduser()
    if not folder.is_dir():
        raise ValueError(f"data_dir {str(folder)!r} is not a folder.")
    folder = folder.absolute()  # so that images are found from another working directory, too
    eval_splits = PRESETS[args.benchmark].eval_splits if args.eval_split is None else (args.eval_split,)
    if args.train_list is not None and args.test_list is not None:
        train = read_image_list(args.train_list, folder)
        test = read_image_list(args.test_list, folder, num_classes=len(class_counts(train)))
        return _name_labels(DatasetDict({"train": train, eval_splits[0]: test}), args.label_column)

    files = {name: sorted(map(str, folder.glob(f"{name}*.parquet"))) for name in ("train", *eval_splits)}
    if any(files.values()):
        wanted = ["train", *[name for name in eval_splits if files[name]][:1]]
        return load_dataset("parquet", data_files={name: files[name] for name in wanted if files[name]})
    if not (folder / "train").is_dir():
        raise ValueError(
            f"data_dir {str(folder)!r} holds neither train*.parquet nor a folder train/ with one folder per class."
        )
    if (folder / "val" / "val_annotations.txt").is_file():
        return _name_labels(read_tiny_imagenet(folder), args.label_column)
    splits = _class_folders(folder, eval_splits)
    if splits is None:
        return load_dataset("imagefolder", data_dir=str(folder))
    return _name_labels(splits, args.label_column)


def _class_folders(folder: Path, eval_splits: tuple[str, ...]) -> DatasetDict | None:
    """Plain class folders, listed in a fraction of the time that the general image folder reader takes."""
    for name in eval_splits:
        for eval_folder in ("validation", "valid", "val") if name in ("validation", "valid") else (name,):
            if (folder / eval_folder).is_dir():
                train = read_class_folders(folder / "train")
                classes = [] if train is None else train.features["label"].names
                test = None if train is None else read_class_folders(folder / eval_folder, classes)
                return None if test is None else DatasetDict({"train": train, name: test})
    return None


def _name_labels(splits: DatasetDict, label_column: str) -> DatasetDict:
    return splits if label_column == "label" else splits.rename_column("label", label_column)
