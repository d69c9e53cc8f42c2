"""The paper's networks as `PreTrainedModel`; after `import hf_ltkd` the Auto classes know them."""

import re
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..utils import check_number
from .bottleneck_resnet import CifarBottleneckResNetConfig, CifarBottleneckResNetForImageClassification
from .cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from .imagenet import IMAGENET_NETWORKS, create_imagenet_model
from .mobilenet_v2 import CifarMobileNetV2Config, CifarMobileNetV2ForImageClassification
from .shufflenet_v1 import CifarShuffleNetV1Config, CifarShuffleNetV1ForImageClassification
from .upernet import create_upernet
from .vgg import CifarVGGConfig, CifarVGGForImageClassification
from .wide_resnet import CifarWideResNetConfig, CifarWideResNetForImageClassification


MODEL_CLASSES: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {
    model_class.config_class: model_class
    for model_class in (
        CifarBottleneckResNetForImageClassification,
        CifarMobileNetV2ForImageClassification,
        CifarResNetForImageClassification,
        CifarShuffleNetV1ForImageClassification,
        CifarVGGForImageClassification,
        CifarWideResNetForImageClassification,
    )
}

# Beside them `resnet{depth}[x{width}]` and `wrn_{depth}_{width}`, whose names hold the numbers.
NETWORKS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "vgg8": (CifarVGGConfig, {"depths": [1, 1, 1, 1, 1]}),
    "vgg11": (CifarVGGConfig, {"depths": [1, 1, 2, 2, 2]}),
    "vgg13": (CifarVGGConfig, {"depths": [2, 2, 2, 2, 2]}),
    "vgg16": (CifarVGGConfig, {"depths": [2, 2, 3, 3, 3]}),
    "vgg19": (CifarVGGConfig, {"depths": [2, 2, 4, 4, 4]}),
    "shufflenet_v1": (CifarShuffleNetV1Config, {}),
    "mobilenet_v2": (CifarMobileNetV2Config, {}),
    "resnet50": (CifarBottleneckResNetConfig, {}),
}


def create_model(name: str, num_labels: int, image_size: int = 32, **config_kwargs) -> PreTrainedModel:
    """
    A network of the paper, or one for pixels, with fresh weights.

    Args:
        name (`str`):
            For small images (CIFAR, TinyImageNet), with their own classes in `hf_ltkd.models`:

            - `resnet{depth}` or `resnet{depth}x{width}` with a depth of 6n + 2: `resnet8`, `resnet20`, `resnet8x4`,
              `resnet32x4`, and so on;
            - `wrn_{depth}_{width}` with a depth of 6n + 4: `wrn_40_2`, `wrn_40_1`, and so on;
            - `vgg8`, `vgg11`, `vgg13`, `vgg16`, `vgg19`, `shufflenet_v1`, `mobilenet_v2`;
            - `resnet50` for an `image_size` of at most 64.

            For ImageNet, with Transformers' classes: `resnet18`, `resnet34`, `mobilenet_v1`, and `resnet50` for an
            `image_size` above 64.

            For a class of each pixel, of images of any size: `upernet_{width}`, such as `upernet_16`, a UperNet on a
            ResNet of four stages whose first has so many channels; the name and the sizes are ours.
        num_labels (`int`): Number of classes.
        image_size (`int`, *optional*, defaults to 32): Side of the training images, kept in the config.
        config_kwargs: Further fields of the config, for instance `num_channels=1` or `id2label={0: "cat", ...}`.

    Raises:
        `ValueError`: if there is no network of this name.
    """
    check_number("num_labels", num_labels, 1, whole=True)
    check_number("image_size", image_size, 1, whole=True)
    if config_kwargs.get("id2label"):
        config_kwargs.setdefault("label2id", {name: int(i) for i, name in config_kwargs["id2label"].items()})
    fields = {"num_labels": num_labels, "image_size": image_size, **config_kwargs}
    if name in IMAGENET_NETWORKS and (name not in NETWORKS or image_size > 64):
        return create_imagenet_model(name, **fields)
    if match := re.fullmatch(r"upernet_([1-9]\d*)", str(name)):
        del fields["image_size"]
        return create_upernet(int(match[1]), **fields)
    config: PreTrainedConfig
    if name in NETWORKS:  # before the pattern: 50 is 6n + 2 too
        config_class, network_fields = NETWORKS[name]
        config = config_class(**{**network_fields, **fields})
    elif match := re.fullmatch(r"wrn_(\d+)_(\d+)", str(name)):
        config = CifarWideResNetConfig(depth=int(match[1]), widen_factor=int(match[2]), **fields)
    elif match := re.fullmatch(r"resnet(\d+)(?:x(\d+))?", str(name)):
        depth, width = int(match[1]), int(match[2] or 1)
        if width == 0:
            raise ValueError(f"The network {name!r} would have no channels: use a width of 1 or more.")
        config = CifarResNetConfig(
            depth=depth,
            # The stem of resnet*x4 has 32 channels and its stages 4 × (16, 32, 64); plain ResNets start with 16.
            embedding_size=max(16, 8 * width),
            hidden_sizes=[16 * width, 32 * width, 64 * width],
            **fields,
        )
    else:
        others = ", ".join(dict.fromkeys([*NETWORKS, *IMAGENET_NETWORKS]))
        raise ValueError(
            f"There is no network {name!r}: use resnet20, resnet8x4, or another depth 6n + 2 and width, wrn_40_2, or "
            f"another depth 6n + 4 and width, or one of {others}; for pixels upernet_16, or another width."
        )
    return MODEL_CLASSES[type(config)](config)


__all__ = [
    "CifarBottleneckResNetConfig",
    "CifarBottleneckResNetForImageClassification",
    "CifarMobileNetV2Config",
    "CifarMobileNetV2ForImageClassification",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "CifarShuffleNetV1Config",
    "CifarShuffleNetV1ForImageClassification",
    "CifarVGGConfig",
    "CifarVGGForImageClassification",
    "CifarWideResNetConfig",
    "CifarWideResNetForImageClassification",
    "create_model",
]
