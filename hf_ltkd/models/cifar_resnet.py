"""ResNets for small images: He et al., Deep Residual Learning for Image Recognition (2015), Sec. 4.2.

https://arxiv.org/abs/1512.03385. The wide forms (`resnet8x4`, `resnet32x4`) are the ones of the distillation
literature. This file needs transformers and torch alone, so that it can travel to the Hub with the weights.
"""

import math

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple


class CifarResNetConfig(PreTrainedConfig):
    """
    Args:
        depth (`int`, *optional*, defaults to 20): Layers, `6n + 2`: three stages of `n` blocks of two convolutions.
        embedding_size (`int`, *optional*, defaults to 16): Channels of the first convolution.
        hidden_sizes (`Sequence[int]`, *optional*, defaults to `(16, 32, 64)`): Channels of the three stages.
        num_channels (`int`, *optional*, defaults to 3): Channels of the images.
        image_size (`int`, *optional*, defaults to 32): Side of the training images; any size can be classified.

    Raises:
        `ValueError`: if `depth` is not `6n + 2` or there are not three stages.
    """

    model_type = "cifar_resnet"

    def __init__(
        self,
        depth: int = 20,
        embedding_size: int = 16,
        hidden_sizes: tuple[int, ...] | list[int] = (16, 32, 64),
        num_channels: int = 3,
        image_size: int = 32,
        **kwargs,
    ):
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth={depth} is not valid: it must be 6n + 2, for instance 8, 14, 20, 32, 56, 110.")
        if len(hidden_sizes) != 3:
            raise ValueError(f"hidden_sizes={list(hidden_sizes)} is not valid: the network has three stages.")
        self.depth = depth
        self.embedding_size = embedding_size
        self.hidden_sizes = list(hidden_sizes)
        self.num_channels = num_channels
        self.image_size = image_size
        super().__init__(**kwargs)


class CifarResNetBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut; returns the sum *before* its ReLU, which the next layer applies."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(hidden_state)
        hidden_state = self.bn1(self.conv1(hidden_state)).relu()
        return self.bn2(self.conv2(hidden_state)) + residual


class CifarResNetForImageClassification(PreTrainedModel):
    """
    A CIFAR ResNet with global average pooling and a linear head.

    `hidden_states` are the first convolution's output after its ReLU and the three stages' outputs before theirs.

    Class attributes:
        hidden_states_before_relu (`bool`, `True` here):
            `relu(hidden_states[i])`, i >= 1, is what the next layer reads, and `relu(hidden_states[-1])` is averaged
            over height and width into `classifier`.
    """

    config_class = CifarResNetConfig
    base_model_prefix = "cifar_resnet"
    main_input_name = "pixel_values"
    input_modalities = "image"
    accepts_loss_kwargs = False
    hidden_states_before_relu: bool = True

    def __init__(self, config: CifarResNetConfig):
        super().__init__(config)
        self.conv1 = nn.Conv2d(config.num_channels, config.embedding_size, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(config.embedding_size)
        blocks_per_stage = (config.depth - 2) // 6
        in_channels = config.embedding_size
        self.stages = nn.ModuleList()
        for stride, channels in zip((1, 2, 2), config.hidden_sizes, strict=True):
            stage = nn.ModuleList()
            for block in range(blocks_per_stage):
                stage.append(CifarResNetBlock(in_channels, channels, stride if block == 0 else 1))
                in_channels = channels
            self.stages.append(stage)
        self.classifier = nn.Linear(in_channels, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)  # type: ignore[arg-type]
            init.ones_(module.running_var)  # type: ignore[arg-type]
            init.zeros_(module.num_batches_tracked)  # type: ignore[arg-type]
        elif isinstance(module, nn.Linear):  # torch's own default
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `[batch, channels, height, width]`): Normalised images of any size.
            labels (`torch.Tensor` of shape `[batch]`, *optional*): With them, the cross-entropy is `loss`.
            output_hidden_states (`bool`, *optional*, defaults to `config.output_hidden_states`):
                Whether to return the four feature maps.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`): `False` returns a plain tuple.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_state = self.bn1(self.conv1(pixel_values.to(self.conv1.weight.dtype))).relu()
        hidden_states = [hidden_state]
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                hidden_state = block(hidden_state.relu())
            hidden_states.append(hidden_state)
        logits = self.classifier(hidden_state.relu().mean((2, 3)))
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
