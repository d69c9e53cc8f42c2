"""How right a saved model is about each group."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.bias import group_report
from ..data.arguments import DataArguments
from ..groups import CLASS_GROUPS_NAME, ClassGroups
from .arguments import EvaluateArguments, ModelArguments, SourceArguments, split_settings
from .inputs import Images, Model, fit_classes, load_classifier, load_images, model_name


@dataclass(frozen=True)
class Evaluation:
    """
    Attributes:
        model (`str`): The model's folder, Hub id or name.
        accuracy (`dict[str, float]`): The fractions `accuracy` and `{group}_accuracy`, `None` without an image.
        images ([`Images`]): What it was evaluated on, and the groups.
    """

    model: str
    accuracy: dict[str, float | None]
    images: Images


def evaluate(model: Model, data: Any = None, **settings: Any) -> Evaluation:
    """
    Accuracy per group of a saved model; the groups are those it was saved with, else (and where its classes
    were matched by name) those of the training images.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`): A folder, a Hub id, or a model in memory.
        data (`str`, `os.PathLike` or `datasets.DatasetDict`): As in [`distill`].
        settings: `batch_size` (128 by default), `match_labels`, `trust_remote_code`, `eval_fraction`, and any field of
            `DataArguments`.

    Raises:
        `ValueError`: if the model is not for these classes, or a setting is not known.
    """
    own, source, image_fields, trust = split_settings(
        {"model": model, "data": data, **settings}, EvaluateArguments, SourceArguments, DataArguments, ModelArguments
    )
    args = EvaluateArguments(**own)
    network = load_classifier(model, **trust)
    images = load_images(SourceArguments(**source), image_fields, network, **trust)
    fitted = fit_classes(network, images.data, args.match_labels)
    if fitted is network and (Path(model_name(model)) / CLASS_GROUPS_NAME).is_file():
        images = Images(images.data, ClassGroups.from_pretrained(model_name(model)), images.holdout)
    report = group_report(fitted, images.data.test, images.groups, batch_size=args.batch_size)
    return Evaluation(model_name(model), report.accuracy, images)
