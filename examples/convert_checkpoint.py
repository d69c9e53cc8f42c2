"""Turns a checkpoint of mdistiller or RepDistiller into a model folder for `from_pretrained` and the Hub.

python examples/convert_checkpoint.py --checkpoint ckpt_epoch_240.pth --model resnet32x4 --output_dir teacher

The folder holds `model.safetensors`, `config.json` and `preprocessor_config.json`. The checkpoint is read as weights
alone: nothing in it is executed.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser, PreTrainedModel, ViTImageProcessor

from hf_ltkd import create_model


@dataclass
class ConversionArguments:
    checkpoint: str = field(
        metadata={"help": "A file of torch.save: a state dict, or a dictionary that has one as 'model'."}
    )
    model: str = field(metadata={"help": "Our name of the network: resnet32x4, vgg13, wrn_40_2, mobilenet_v2, ..."})
    output_dir: str = field(metadata={"help": "Where the model folder is written."})
    num_labels: int = field(default=100, metadata={"help": "Number of classes, if there are no label_names."})
    label_names: str | None = field(
        default=None, metadata={"help": "A text file with the classes' names, one a line, in the order of their ids."}
    )
    image_size: int = field(default=32, metadata={"help": "Side in pixels that images are resized to."})
    mean: list[float] = field(
        default_factory=lambda: [0.5071, 0.4867, 0.4408],
        metadata={"help": "Mean per channel that the network was trained with (mdistiller's for CIFAR-100)."},
    )
    std: list[float] = field(
        default_factory=lambda: [0.2675, 0.2565, 0.2761],
        metadata={"help": "Standard deviation per channel that the network was trained with."},
    )


# Patterns in the reference's parameter names and what they are in ours, by `model_type`.
LAYERS = {rf"^layer{stage + 1}\.": f"stages.{stage}." for stage in range(4)}
RENAMES = {
    "cifar_resnet": {**LAYERS, r"\.downsample\.": ".shortcut.", r"^fc\.": "classifier."},
    "cifar_bottleneck_resnet": {**LAYERS, r"^linear\.": "classifier."},
    "cifar_shufflenet_v1": {**LAYERS, r"^linear\.": "classifier."},
    "cifar_vgg": {r"^block(\d)\.": r"stages.\1."},
    "cifar_wide_resnet": {
        **{rf"^block{stage + 1}\.layer\.": f"stages.{stage}." for stage in range(3)},
        r"\.convShortcut\.": ".shortcut.",
        r"^bn1\.": "bn.",
        r"^fc\.": "classifier.",
    },
    "cifar_mobilenet_v2": {
        r"^conv([12])\.0\.": r"conv\1.",
        r"^conv([12])\.1\.": r"bn\1.",
        r"^blocks\.": "stages.",
        **{rf"\.conv\.{3 * layer}\.": f".conv{layer + 1}." for layer in range(3)},
        **{rf"\.conv\.{3 * layer + 1}\.": f".bn{layer + 1}." for layer in range(3)},
        r"^classifier\.0\.": "classifier.",
    },
}


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """The state dict in the file `path`, on the CPU, without the `module.` that data parallelism puts before names."""
    try:
        # RepDistiller's last checkpoint also holds its command line, a plain object without code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was not loaded: expected a file of torch.save with tensors alone, since any other pickle can run "
            "code; where you trust it, load it with torch.load(..., weights_only=False) and save its state dict alone."
        ) from error
    state_dict = checkpoint["model"] if isinstance(checkpoint, Mapping) and "model" in checkpoint else checkpoint
    if not isinstance(state_dict, Mapping) or not all(torch.is_tensor(value) for value in state_dict.values()):
        raise ValueError(
            f"{path} holds no state dict: expected a dictionary of tensors, or one under the key 'model'; save "
            "model.state_dict() with torch.save."
        )
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def convert_state_dict(state_dict: Mapping[str, torch.Tensor], model: PreTrainedModel) -> None:
    """Loads a state dict of the reference zoo into `model`; names and shapes must fit one to one."""
    if model.config.model_type not in RENAMES:
        raise ValueError(
            f"{type(model).__name__} is not of the reference zoo: name one of its small-image networks, such as "
            "resnet32x4, vgg13, wrn_40_2, shufflenet_v1, mobilenet_v2, or resnet50 with an image_size of at most 64."
        )
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in RENAMES[model.config.model_type].items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in renamed]
    problems += [f"left over {name}" for name in renamed if name not in expected]
    problems += [
        f"{name} has shape {list(renamed[name].shape)} instead of {list(value.shape)}"
        for name, value in expected.items()
        if name in renamed and renamed[name].shape != value.shape
    ]
    if problems:
        more = f", and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(
            f"The checkpoint does not fit the network: {', '.join(problems[:10])}{more}. Check --model and the number "
            "of classes."
        )
    model.load_state_dict(renamed)


def main():
    (args,) = HfArgumentParser(ConversionArguments).parse_args_into_dataclasses()
    labels = {}
    num_labels = args.num_labels
    if args.label_names is not None:
        names = Path(args.label_names).read_text(encoding="utf-8").splitlines()
        labels = {"id2label": dict(enumerate(names))}
        num_labels = len(names)
    model = create_model(args.model, num_labels, args.image_size, **labels)
    convert_state_dict(read_state_dict(args.checkpoint), model)
    model.save_pretrained(args.output_dir)
    size = {"height": args.image_size, "width": args.image_size}
    ViTImageProcessor(size=size, image_mean=args.mean, image_std=args.std).save_pretrained(args.output_dir)
    print(f"Wrote {args.model} with {num_labels} classes to {args.output_dir}.")


if __name__ == "__main__":
    main()
