"""How right a saved model is about each group."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.bias import group_report
from ..data.arguments import DataArguments
from ..groups import CLASS_GROUPS_NAME, ClassGroups
from ..metrics.answers import Answers
from .arguments import EvaluateArguments, ModelArguments, SourceArguments, split_settings
from .beforehand import check_apart, check_weights
from .inputs import Images, Model, fit_classes, load_classifier, load_images, model_name, name_data
from .report import scores_beside, write_report


@dataclass(frozen=True)
class Evaluation:
    """
    Attributes:
        model (`str`): The model's folder, Hub id or name.
        accuracy (`dict[str, float]`): The fractions `accuracy` and `{group}_accuracy`, `None` without an image.
        images ([`Images`]): What it was evaluated on, and the groups.
        answers ([`Answers`]): To each of these images.
        files (`list[Path]`): What was written.
    """

    model: str
    accuracy: dict[str, float | None]
    images: Images
    answers: Answers
    files: list[Path] = field(default_factory=list)

    @property
    def intervals(self) -> dict[str, list[float] | None]:
        """The 95 % interval of each accuracy, of balanced accuracy and macro-F1."""
        return self.answers.intervals(self.images.groups)

    @property
    def scores(self) -> dict[str, float | None]:
        """Macro-F1, balanced, worst-class and harmonic mean accuracy, many to few-shot accuracy, calibration error."""
        return scores_beside(self.answers, self.images.groups)

    @property
    def classes(self) -> list[dict[str, Any]]:
        """Precision, recall, F1 and support of each class by name."""
        return self.answers.class_report(self.images.groups, self.images.data.class_names)


def evaluate(model: Model, data: Any = None, **settings: Any) -> Evaluation:
    """
    Accuracy per group of a saved model; the groups are those it was saved with, else (and where its classes
    were matched by name) those of the training images.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`): A folder, a Hub id, or a model in memory.
        data (`str`, `os.PathLike` or `datasets.DatasetDict`): As in [`distill`].
        settings: `batch_size` (128 by default), `match_labels`, `trust_remote_code`, `output_dir` (a folder for
            `class_report.json` and `confusion.png`), `eval_fraction`, and any field of `DataArguments`.

    Raises:
        `ValueError`: if the model is not for these classes, or a setting is not known.
    """
    model_name(model)
    own, source, image_fields, trust = split_settings(
        {"model": model, "data": data, **settings}, EvaluateArguments, SourceArguments, DataArguments, ModelArguments
    )
    args, where = EvaluateArguments(**own), SourceArguments(**source)
    named = name_data(where, image_fields)[1]
    if args.output_dir is not None:
        check_apart("output_dir", args.output_dir, {"data": named.get("data_dir")})
    network = load_classifier(model, **trust)
    check_weights(network, "model")
    images = load_images(where, image_fields, network, match_labels=args.match_labels, **trust)
    fitted = fit_classes(network, images.data, args.match_labels)
    if fitted is network and (Path(model_name(model)) / CLASS_GROUPS_NAME).is_file():
        images = Images(images.data, ClassGroups.from_pretrained(model_name(model)), images.holdout)
    report = group_report(fitted, images.data.test, images.groups, batch_size=args.batch_size)
    answers: Any = report.answers
    files = [] if args.output_dir is None else write_report(args.output_dir, answers, images)
    folder = Path(args.output_dir or "")
    return Evaluation(model_name(model), report.accuracy, images, answers, [folder / name for name in files])
