"""From what a user named to splits that can be trained on: looked at, without damaged images and rare classes."""

import warnings
from functools import partial

import numpy as np
from datasets import ClassLabel

from ..utils import listed, on_main_process
from .arguments import DataArguments
from .check import ImageReport, inspect
from .long_tail import class_names, read_labels
from .sources import Source, find_source


OTHER = "other"  # the class that rare ones are merged into


def prepare(
    args: DataArguments, *, source: Source | None = None, progress: bool = True
) -> tuple[Source, ImageReport | None]:
    """
    [`find_source`], and what `args` says of damaged images and rare classes.

    Args:
        args ([`DataArguments`]): Which images; `check_images`, `skip_damaged`, `min_class_images` and `rare`.
        source ([`Source`], *optional*): What `args` names, where it is found already.
        progress (`bool`, *optional*, defaults to `True`): Whether looking at the images shows a bar.

    Returns:
        `tuple`: the source and, with `check_images`, what was seen; its `digests` are those of the source's rows.

    Raises:
        `ValueError`: as [`find_source`], or if an image is damaged and `skip_damaged` is not set.
    """
    source, report = source or find_source(args), None
    if "train" not in source.splits:
        return source, None
    if args.check_images:
        report = on_main_process(partial(inspect, source, args.label_column, progress=progress))
        if report.damaged and not args.skip_damaged:
            raise ValueError(
                f"{len(report.damaged):,} of {sum(map(len, source.splits.values())):,} images cannot be decoded: "
                f"{listed(report.damaged_places())}. Repair or remove them, or leave them out with --skip_damaged."
            )
        if report.damaged:
            source.said.append(f"left out, since they cannot be decoded: {listed(report.damaged_places(), 20)}")
            report.damaged = {}
        source.said += report.problems()
        if report.shared:
            warnings.warn(report.problems()[-1], stacklevel=2)
    kept = {split: np.ones(len(dataset), dtype=bool) for split, dataset in source.splits.items()}
    for split, rows in (report.rows if report else {}).items():
        kept[split][rows] = False
    if args.rare != "keep":
        _without_rare_classes(source, kept, args)
    for split, mask in kept.items():
        if not mask.all():
            source.rows[split] = np.flatnonzero(mask)
            source.splits[split] = source.splits[split].select(source.rows[split])
            if report is not None:
                report.digests[split] = report.digests[split][mask]
    return source, report


def _without_rare_classes(source: Source, kept: dict[str, np.ndarray], args: DataArguments) -> None:
    """Drops the classes with fewer than `min_class_images` training images, or makes one of them."""
    column = args.label_column
    labels, num_classes = read_labels(source.splits["train"], column)
    rare = np.bincount(labels[kept["train"]], minlength=num_classes) < (args.min_class_images or 1)
    if not rare.any():
        return
    if rare.all():
        raise ValueError(f"All classes have fewer than min_class_images={args.min_class_images} training images.")
    names = class_names(source.splits["train"], column)
    rare_names = [name for name, is_rare in zip(names, rare, strict=True) if is_rare]
    new_names = [name for name, is_rare in zip(names, rare, strict=True) if not is_rare]
    what = f"{len(rare_names)} classes of fewer than {args.min_class_images} training images ({listed(rare_names)})"
    if args.rare == "merge":
        new_names += [OTHER] * (OTHER not in new_names)
        source.said.append(f"{what} are merged into the class {OTHER!r} (--rare merge)")
    else:
        source.said.append(f"{what} are left out (--rare drop)")
    ids = {name: class_id for class_id, name in enumerate(new_names)}
    table = np.array([ids.get(OTHER if is_rare else name, 0) for name, is_rare in zip(names, rare, strict=True)])
    for split, dataset in source.splits.items():
        labels = read_labels(dataset, column)[0]
        if args.rare == "drop":
            kept[split] &= ~rare[labels]
        relabelled = dataset.remove_columns(column).add_column(
            column, table[labels], feature=ClassLabel(names=new_names)
        )
        source.splits[split] = relabelled
