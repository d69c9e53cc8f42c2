"""ImageNet networks, as configurations of Transformers' own classes.

ResNet: He et al., Deep Residual Learning for Image Recognition (2015), https://arxiv.org/abs/1512.03385, with the
stride of a bottleneck on its 3 × 3 convolution.
MobileNetV1: Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications (2017),
https://arxiv.org/abs/1704.04861, in the form of the distillation literature: ReLU instead of ReLU6, symmetric padding,
no dropout, and torch's batch normalisation.
"""

from typing import Any

import transformers
from torch import nn


# The family in Transformers' class names, which are looked up when they are needed, and fields of the config.
IMAGENET_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": (
        "ResNet",
        {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    ),
    "resnet34": (
        "ResNet",
        {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3]},
    ),
    "resnet50": ("ResNet", {}),
    "mobilenet_v1": (
        "MobileNetV1",
        {"hidden_act": "relu", "tf_padding": False, "classifier_dropout_prob": 0.0, "layer_norm_eps": 1e-5},
    ),
}


def create_imagenet_model(name: str, **config_kwargs) -> "transformers.PreTrainedModel":
    """
    A network of `IMAGENET_NETWORKS` with fresh weights.

    Args:
        name (`str`): `resnet18`, `resnet34`, `resnet50` or `mobilenet_v1`.
        config_kwargs: Fields of the config, for instance `num_labels=1000`.
    """
    family, fields = IMAGENET_NETWORKS[name]
    config = getattr(transformers, f"{family}Config")(**{**fields, **config_kwargs})
    model = getattr(transformers, f"{family}ForImageClassification")(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Transformers' MobileNetV1 has 0.9997, TensorFlow's decay, which makes torch keep the last batch alone.
            module.momentum = 0.1
    return model
