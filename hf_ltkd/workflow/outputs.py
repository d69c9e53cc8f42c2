"""What the commands write beside a model."""

from pathlib import Path
from typing import Any

from torch import nn

from ..analysis.bias import teacher_group_mass
from ..analysis.plots import plot_teacher_bias
from ..data.arguments import PRESETS
from ..data.holdout import Holdout
from ..data.images import ImageData
from ..groups import ClassGroups
from ..trainer.trainer import DistillationTrainer


def check_output_dir(folder: Path, resume: Any = None) -> None:
    """
    Raises:
        `ValueError`: if a model or a training is there already that would be overwritten.
    """
    if not resume and ((folder / "config.json").exists() or any(folder.glob("checkpoint-*"))):
        raise ValueError(
            f"{str(folder)!r} holds a model or an unfinished training already: choose another --output_dir, go on "
            "with --resume_from_checkpoint true, or remove the folder."
        )


def save_split(trainer: DistillationTrainer, data: ImageData, holdout: Holdout | None) -> None:
    """Writes how the training images were cut and held out beside the model."""
    if trainer.is_world_process_zero():
        data.split.save_pretrained(trainer.args.output_dir)  # type: ignore[arg-type]
        if holdout is not None:
            holdout.save_pretrained(trainer.args.output_dir)  # type: ignore[arg-type]


def draw_bias(
    teacher: nn.Module,
    data: ImageData,
    groups: ClassGroups,
    path: Path,
    loss_shares: dict[str, list[float]] | None = None,
) -> None:
    """Fig. 3 from up to 30 batches of evaluation and of training images, and where the losses go."""
    evaluation, training = (
        teacher_group_mass(teacher, images, groups, max_batches=30) for images in (data.test, data.train)
    )
    plot_teacher_bias(evaluation, training, groups, path, loss_shares=loss_shares)


def name_dataset(data: ImageData) -> str:
    """The Hub id, or the name of a local folder, worded so that nobody looks for it on the Hub."""
    preset = PRESETS[data.args.benchmark].dataset_name
    return data.args.dataset_name or preset or f"{Path(data.args.data_dir or '').absolute().name} (local folder)"


def card_arguments(comparison: dict[str, Any]) -> dict[str, Any]:
    """What `comparison.json` tells [`write_model_card`]."""
    return {
        **{name: comparison[name] for name in ("dataset", "dataset_split", "teacher_name")},
        "teacher_metrics": comparison["accuracy"]["teacher"],
        "plain_student_metrics": comparison["accuracy"].get("plain student"),
    }


def without_prefix(metrics: dict[str, float], groups: ClassGroups) -> dict[str, float]:
    """The accuracies of a Trainer's metrics."""
    return {name: metrics[f"eval_{name}"] for name in ("accuracy", *(f"{group}_accuracy" for group in groups.names))}
