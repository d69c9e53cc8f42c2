"""The paper's networks as `PreTrainedModel`; importing this makes the Auto classes know them."""

import re

from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from .cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification


AutoConfig.register(CifarResNetConfig.model_type, CifarResNetConfig, exist_ok=True)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification, exist_ok=True)


def create_model(name: str, num_labels: int, image_size: int = 32, **config_kwargs) -> PreTrainedModel:
    """
    A network of the paper with fresh weights.

    Args:
        name (`str`):
            `resnet{depth}` or `resnet{depth}x{width}` with a depth of 6n + 2: `resnet8`, `resnet20`, `resnet8x4`,
            `resnet32x4`, and so on.
        num_labels (`int`): Number of classes.
        image_size (`int`, *optional*, defaults to 32): Side of the training images, kept in the config.
        config_kwargs: Further fields of the config, for instance `num_channels=1` or `id2label={0: "cat", ...}`.

    Raises:
        `ValueError`: if there is no network of this name.
    """
    match = re.fullmatch(r"resnet(\d+)(?:x(\d+))?", name)
    if match is None:
        raise ValueError(f"There is no network {name!r}: use resnet20, resnet8x4, or another depth 6n + 2 and width.")
    if config_kwargs.get("id2label"):
        config_kwargs.setdefault("label2id", {name: int(i) for i, name in config_kwargs["id2label"].items()})
    depth, width = int(match[1]), int(match[2] or 1)
    if width == 0:
        raise ValueError(f"The network {name!r} would have no channels: use a width of 1 or more.")
    config = CifarResNetConfig(
        depth=depth,
        # The stem of resnet*x4 has 32 channels and its stages 4 × (16, 32, 64); plain ResNets start with 16.
        embedding_size=max(16, 8 * width),
        hidden_sizes=[16 * width, 32 * width, 64 * width],
        image_size=image_size,
        num_labels=num_labels,
        **config_kwargs,
    )
    return CifarResNetForImageClassification(config)


__all__ = ["CifarResNetConfig", "CifarResNetForImageClassification", "create_model"]
