"""How right a saved model is about each group."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.arguments import DataArguments, MaskArguments
from ..groups import CLASS_GROUPS_NAME, ClassGroups
from ..metrics.answers import Answers
from ..metrics.pixel_answers import PixelAnswers
from .arguments import SEGMENTATION, EvaluateArguments, ModelArguments, SourceArguments, split_settings
from .beforehand import check_apart, check_weights
from .classes import check_answer
from .images import Images
from .inputs import Model, fit_classes, load_classifier, load_images, model_name, name_data
from .report import scores_beside, write_report
from .scenes import PIXEL_BATCH, load_scenes
from .segmenters import check_mask_classes, load_segmenter, masks_of, names_segmenter


@dataclass(frozen=True)
class Evaluation:
    """
    Attributes:
        model (`str`): The model's folder, Hub id or name.
        accuracy (`dict[str, float]`): The fractions `accuracy` and `{group}_accuracy`, `None` without an image.
        images ([`Images`]): What it was evaluated on, and the groups.
        answers ([`Answers`] or [`PixelAnswers`]): To each of these images.
        files (`list[Path]`): What was written.
    """

    model: str
    accuracy: dict[str, float | None]
    images: Images
    answers: Answers | PixelAnswers
    files: list[Path] = field(default_factory=list)

    @property
    def intervals(self) -> dict[str, list[float] | None]:
        """The 95 % interval of each accuracy, of balanced accuracy and macro-F1; of pixels of each IoU."""
        return self.answers.intervals(self.images.groups)

    @property
    def scores(self) -> dict[str, float | None]:
        """
        Macro-F1, balanced, worst-class and harmonic mean accuracy, many to few-shot accuracy, calibration error; of
        pixels `mean_iou`, `{group}_iou` and balanced accuracy.
        """
        return scores_beside(self.answers, self.images.groups)

    @property
    def classes(self) -> list[dict[str, Any]]:
        """Precision, recall, F1 and support of each class by name; of pixels IoU, accuracy, precision and support."""
        return self.answers.class_report(self.images.groups, self.images.data.class_names)


def evaluate(model: Model, data: Any = None, **settings: Any) -> Evaluation:
    """
    Accuracy per group of a saved model, and of one for pixels its IoU; the groups are those it was saved with, else
    (and where its classes were matched by name) those of the training images.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`): A folder, a Hub id, or a model in memory.
        data (`str`, `os.PathLike` or `datasets.DatasetDict`): As in [`distill`].
        settings: `batch_size` (128 by default, 16 of pixels), `match_labels`, `trust_remote_code`, `output_dir` (a
            folder for `class_report.json` and `confusion.png`), `eval_fraction`, and any field of `DataArguments` and,
            for a model that gives each pixel a class, `MaskArguments`.

    Raises:
        `ValueError`: if the model is not for these classes, or a setting is not known.
    """
    model_name(model)
    own, source, image_fields, mask_fields, trust = split_settings(
        {"model": model, "data": data, **settings},
        *(EvaluateArguments, SourceArguments, DataArguments, MaskArguments, ModelArguments),
    )
    args, where = EvaluateArguments(**own), SourceArguments(**source)
    named = name_data(where, image_fields)[1]
    if args.output_dir is not None:
        check_apart("output_dir", args.output_dir, {"data": named.get("data_dir")})
    if names_segmenter(model, **trust):
        mask_fields.setdefault("task", SEGMENTATION)
    masks, has_groups = masks_of(mask_fields, settings), (Path(model_name(model)) / CLASS_GROUPS_NAME).is_file()
    groups = ClassGroups.from_pretrained(model_name(model)) if has_groups else None
    images: Images
    if masks is not None:
        network = load_segmenter(model, "model", **trust)
        args = replace(args, batch_size=own.get("batch_size", PIXEL_BATCH))
        images = load_scenes(where, image_fields, masks, network, groups=groups, **trust)
        check_mask_classes(network, images)
        check_answer(model_name(model), network, images.data.test)
    else:
        network = load_classifier(model, **trust)
        check_weights(network, "model")
        images = load_images(where, image_fields, network, match_labels=args.match_labels, **trust)
        fitted = fit_classes(network, images.data, args.match_labels)
        if groups is not None and fitted is network:
            images = replace(images, groups=groups)
        network = fitted
    report = images.report(network, args.batch_size)
    answers: Any = report.answers
    files = [] if args.output_dir is None else write_report(args.output_dir, answers, images)
    folder = Path(args.output_dir or "")
    return Evaluation(model_name(model), report.accuracy, images, answers, [folder / name for name in files])
