"""Post-hoc logit adjustment of a trained model, folded into the bias of its head, so that the saved model has it."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.arguments import DataArguments, MaskArguments
from ..groups import CLASS_GROUPS_NAME, ClassGroups
from ..hub.card import write_model_card
from ..hub.describe import describe_model, hub_id
from ..hub.names import (
    CARD_NAME,
    CONFUSION_PICTURE,
    EVALUATION_NAME,
    ONNX_FILES,
    PICTURES,
    PUBLISHED,
    REPORT_NAME,
    RUN_NAME,
)
from ..hub.push import published_files
from ..losses import log_class_prior
from ..losses.checks import logits_of
from ..teacher.live import load_teacher, networks_of
from ..trainer.segmenters import is_segmenter
from ..utils import read_json, write_json
from .arguments import SEGMENTATION, AdjustArguments, ModelArguments, SourceArguments, split_settings
from .beforehand import check_apart, check_weights
from .inputs import Images, check_classes, load_images, model_name, name_data
from .report import scores_beside, write_report
from .scenes import PIXEL_BATCH, Scenes, load_scenes
from .segmenters import check_mask_classes, masks_of


BY_HAND = "predict with logits - tau * hf_ltkd.log_class_prior(class_counts) instead."
# Of distillation.json: what a run measured of the weights that the adjustment changes.
MEASURED = ("metrics", "class_accuracy", "class_iou", "class_examples", "test_examples")


@dataclass(frozen=True)
class Adjustment:
    """
    Attributes:
        model (`str`): The model that was adjusted.
        output_dir (`Path`): Where the adjusted one is.
        tau (`float`): How strongly the prior counted.
        class_counts (`tuple[int, ...]`): Training examples per class.
        caution (`str`, *optional*): Why the model may be over-corrected now.
        before, after (`dict[str, float]`, *optional*): The fractions `accuracy` and `{group}_accuracy` of both, of
            pixels `mean_iou` and `{group}_iou` too, where `data` was given.
        images ([`Images`], *optional*): What they were evaluated on.
    """

    model: str
    output_dir: Path
    tau: float
    class_counts: tuple[int, ...]
    caution: str | None = None
    before: dict[str, float | None] | None = None
    after: dict[str, float | None] | None = None
    images: Images | None = None


def adjust(
    model: str | os.PathLike,
    data: Any = None,
    output_dir: str | os.PathLike = "adjusted",
    tau: float = 1.0,
    **settings: Any,
) -> Adjustment:
    """
    Writes a model whose logits are those of another less `tau · log prior` (post-hoc logit adjustment, Menon et al.,
    ICLR 2021, arXiv 2007.07314, Eq. 9): what a classifier trained by a plain cross-entropy on long-tailed data should
    answer on balanced data. Everything but the bias of the head stays.

    Args:
        model (`str` or `os.PathLike`): A folder or Hub id of a classifier.
        data (`str`, `os.PathLike` or `datasets.DatasetDict`, *optional*):
            The images, as in [`distill`], whose training counts are taken where the model was saved without
            `class_groups.json`; both models are evaluated on them.
        output_dir (`str` or `os.PathLike`, *optional*, defaults to `"adjusted"`): A new folder.
        tau (`float`, *optional*, defaults to 1.0): How strongly the prior counts.
        settings: `batch_size` (128 by default, 16 of pixels), `trust_remote_code`, `eval_fraction`, and any field of
            `DataArguments` and, for a model that gives each pixel a class, `MaskArguments`.

    Raises:
        `ValueError`: if the model has been adjusted already, its head cannot hold the adjustment, nothing tells the
            counts, or there is something in `output_dir`; nothing is written then.
    """
    name = model_name(model)
    own, trust, source, image_fields, mask_fields = split_settings(
        {"model": model, "data": data, "output_dir": output_dir, "tau": tau, **settings},
        *(AdjustArguments, ModelArguments, SourceArguments, DataArguments, MaskArguments),
    )
    args, where = AdjustArguments(**own), SourceArguments(**source)
    has_images = bool(source or image_fields or mask_fields)  # a field of theirs alone is an error, not ignored
    read = {"model": name, "data": name_data(where, image_fields)[1].get("data_dir") if has_images else None}
    target = Path(args.output_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"There is something in {str(target)!r} already: choose another --output_dir.")
    check_apart("output_dir", args.output_dir, read)
    folder = _folder_of(name)
    published = published_files(folder)
    run = read_json(folder / RUN_NAME)
    if "logit_adjustment" in run:
        raise ValueError(
            f"{name!r} has been adjusted already (tau {run['logit_adjustment']['tau']}): adjust the model that it was "
            "made from."
        )
    network: Any = load_teacher(folder, **trust)
    check_weights(network, "model")
    groups = ClassGroups.from_pretrained(folder) if (folder / CLASS_GROUPS_NAME).is_file() else None
    if is_segmenter(network):
        mask_fields.setdefault("task", SEGMENTATION)
        args = replace(args, batch_size=own.get("batch_size", PIXEL_BATCH))
    masks = masks_of(mask_fields, {"data": data, **settings})
    images: Images | None = None
    if has_images and masks is not None:
        images = load_scenes(where, image_fields, masks, network, groups=groups, **trust)
        check_mask_classes(network, images)
    elif has_images:
        images = load_images(where, image_fields, network, **trust)
        check_classes(network, images.data)
    counts = _class_counts(name, groups, network, images)

    before = after = None
    answers: Any = None
    if images is not None:
        images = replace(images, groups=groups or images.groups)
        before, _ = _measured(network, images, args.batch_size)
    adjust_head(network, counts, tau=args.tau)
    if images is not None:
        after, answers = _measured(network, images, args.batch_size)

    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="_adjust-", dir=target.absolute().parent) as elsewhere:
        made = Path(elsewhere) / target.name
        network.save_pretrained(made)
        _check_saved(network, made, **trust)
        stale = {"config.json", EVALUATION_NAME, REPORT_NAME, CONFUSION_PICTURE, *ONNX_FILES, *PICTURES}
        for file in {*published, CARD_NAME} - stale:
            if (folder / file).is_file() and not file.startswith("model"):  # the weights are there already
                shutil.copy(folder / file, made / file)
        kept = {key: value for key, value in run.items() if key not in MEASURED}
        kept = kept or {"student": describe_model(network)}
        if after is not None and images is not None:
            scores = {**after, **scores_beside(answers, images.groups)}
            kept |= {"metrics": scores, "test_examples": len(images.data.test)}
            rows = answers.class_report(images.groups, images.data.class_names)
            columns = {"class_accuracy": "recall", "class_examples": "support"}
            if masks is not None:
                columns = {"class_accuracy": "accuracy", "class_iou": "iou"}
            kept |= {name: [row[column] for row in rows] for name, column in columns.items()}
            write_report(made, answers, images)
        write_json(made / RUN_NAME, {**kept, "logit_adjustment": {"tau": args.tau, "class_counts": list(counts)}})
        write_model_card(made)
        if target.exists():
            target.rmdir()
        os.replace(made, target)
    return Adjustment(name, target, args.tau, counts, caution(_corrections(run)), before, after, images)


@contextmanager
def adjusted(model: nn.Module, class_counts: Sequence[int], *, tau: float = 1.0) -> Iterator[None]:
    """Within, a model's logits are less `tau · log prior`; its weights stay. Arguments as in [`adjust_head`]."""
    shift = tau * log_class_prior(class_counts)

    def take_out(module: Any, inputs: Any, outputs: Any) -> Any:
        logits = logits_of(outputs)
        of_class = shift.to(logits)
        logits = logits - (of_class[:, None, None] if logits.ndim == 4 else of_class)  # of pixels [..., height, width]
        return logits if isinstance(outputs, Tensor) else replace(outputs, logits=logits)

    hook = model.register_forward_hook(take_out)
    try:
        yield
    finally:
        hook.remove()


def adjust_head(model: PreTrainedModel, class_counts: Sequence[int], *, tau: float = 1.0) -> None:
    """
    Adds `-tau · log prior` to the bias of a model's last linear layer, in place.

    Args:
        model (`PreTrainedModel`): A classifier; its mode is left in eval.
        class_counts (`Sequence[int]` of length `classes`): Training examples per class.
        tau (`float`, *optional*, defaults to 1.0): How strongly the prior counts.

    Raises:
        `ValueError`: if no bias moves the logits so, or the counts are not one a class; the model is as it was then.
    """
    shift, name = -tau * log_class_prior(class_counts), type(model).__name__
    inputs, called = _probe(model), []
    hooks = [
        layer.register_forward_hook(lambda layer, *_: called.append(layer))
        for layer in model.modules()
        if len(shift) in (getattr(layer, "out_features", None), getattr(layer, "out_channels", None))
    ]
    logits = _logits(model, inputs)
    for hook in hooks:
        hook.remove()
    if logits.shape[-1] != len(shift):
        raise ValueError(f"{name} has {logits.shape[-1]} classes, and there are counts of {len(shift)}.")
    heads = [layer for layer in dict.fromkeys(called) if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not heads:
        raise ValueError(f"{name} has no last linear layer whose bias could hold the adjustment: {BY_HAND}")
    if any(head.bias is None for head in heads[-1:]):
        raise ValueError(f"The last layer of {name} has no bias, so that no saved model could be adjusted: {BY_HAND}")
    for layers in (heads[-1:], heads):  # the last one; or all whose logits are averaged, as in a distilled DeiT
        biases = [layer.bias for layer in layers if layer.bias is not None]
        saved = [bias.detach().clone() for bias in biases]
        with torch.no_grad():
            for bias in biases:
                bias += shift.to(bias)
        if _equal(model, _logits(model, inputs), logits + shift.to(logits)):
            return
        with torch.no_grad():
            for bias, value in zip(biases, saved, strict=True):
                bias.copy_(value)
    raise ValueError(f"The logits of {name} are not those of its last linear layer: {BY_HAND}")


def _folder_of(name: str) -> Path:
    """The folder itself, or where the files of a repository of the Hub are kept."""
    if os.path.isdir(name):
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=[*PUBLISHED, "*.py"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"There is no model {name!r} as a folder here or on the Hub: {reason}") from error


def _measured(network: PreTrainedModel, images: Images, batch_size: int) -> tuple[dict[str, float | None], Any]:
    """Accuracy of each group, of pixels every score, and the answers that they are of."""
    report = images.report(network, batch_size)
    answers: Any = report.answers
    scores = answers.scores(images.groups) if isinstance(images, Scenes) else {}
    return {**report.accuracy, **scores}, answers


def _class_counts(
    name: str, groups: ClassGroups | None, network: PreTrainedModel, images: Images | None
) -> tuple[int, ...]:
    """Those that the model was saved with, else those of the training images."""
    counts: Sequence[int] | None = groups.class_counts if groups is not None else None
    if counts is None and images is not None:
        counts = images.class_counts
    if counts is None:
        raise ValueError(
            f"{name!r} was saved without the training examples of each class ({CLASS_GROUPS_NAME}): give the images "
            "that it was trained on with --data."
        )
    if len(counts) != network.config.num_labels:
        raise ValueError(f"{name!r} has {network.config.num_labels} classes, and there are counts of {len(counts)}.")
    return tuple(map(int, counts))


def corrections(teacher: nn.Module) -> list[str]:
    """What corrected a teacher, or one of several, for the class counts, as the files beside its weights say."""
    found = []
    for network in networks_of(teacher):
        name = (isinstance(network, PreTrainedModel) and network.config.name_or_path) or ""
        if os.path.isdir(name):
            found += _corrections(read_json(Path(name) / RUN_NAME))
        elif isinstance(network, PreTrainedModel) and hub_id(network):
            try:
                found += _corrections(read_json(Path(hf_hub_download(name, RUN_NAME))))
            except OSError:  # a model of another program has no such file
                continue
    return found


def _corrections(run: dict[str, Any]) -> list[str]:
    loss = run.get("loss") or {}
    values = loss.get("hyper_parameters", {})
    found = [f"ce={values['ce']}"] if values.get("ce", "cross_entropy") != "cross_entropy" else []
    for part in ({"loss": loss.get("class"), **values}, *values.get("losses", [])):  # the latter of a SumLoss
        found += [f"prior={part['prior']}"] if part.get("prior") else []
        found += [part["loss"]] if part["loss"] in ("LTKDLoss", "BKDLoss", "ltkd", "bkd") else []
    return found + ["logit adjustment"] * ("logit_adjustment" in run)


def caution(corrected: list[str]) -> str | None:
    """Why a model with these [`corrections`] may be over-corrected by an adjustment."""
    if not corrected:
        return None
    return (
        f"It was corrected for the class counts already ({', '.join(corrected)}): corrected twice, it may favour rare "
        "classes, so compare both."
    )


def _probe(model: PreTrainedModel) -> dict[str, Tensor]:
    """
    An input of random pixels, or of the tokens that Transformers tries models with.

    Raises:
        `ValueError`: if the model takes something else, such as sound.
    """
    if model.main_input_name != "pixel_values":
        if model.main_input_name not in model.dummy_inputs:
            raise ValueError(
                f"{type(model).__name__} takes {model.main_input_name}, and an adjustment is tried on images or "
                f"tokens alone: {BY_HAND}"
            )
        return {name: value[:1].to(model.device) for name, value in model.dummy_inputs.items()}
    shape = describe_model(model).get("input", (3, 224, 224))
    pixels = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": pixels.to(model.device, model.dtype)}


@torch.no_grad()
def _logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    logits = model.eval()(**inputs).logits.float()
    return logits.movedim(1, -1) if logits.ndim == 4 else logits  # of pixels [batch, classes, height, width]


def _equal(model: PreTrainedModel, logits: Tensor, expected: Tensor) -> bool:
    """Up to rounding: that of 16 bits, if the bias has no more."""
    tolerance = max(1e-4, 4 * torch.finfo(model.dtype).eps)
    return torch.allclose(logits, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def _check_saved(network: PreTrainedModel, folder: Path, trust_remote_code: bool = False) -> None:
    inputs, again = _probe(network), load_teacher(folder, trust_remote_code)
    if not _equal(network, _logits(again, inputs), _logits(network, inputs)):  # type: ignore[arg-type]
        raise ValueError(f"{type(network).__name__} gives other logits when it is loaded again: nothing was written.")
