"""Wide ResNets: Zagoruyko and Komodakis, Wide Residual Networks (2016).

https://arxiv.org/abs/1605.07146, without dropout. This file needs transformers and torch alone, so that it can travel
to the Hub with the weights.
"""

import math

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple


class CifarWideResNetConfig(PreTrainedConfig):
    """
    Args:
        depth (`int`, *optional*, defaults to 40): Layers, `6n + 4`: three stages of `n` blocks of two convolutions.
        widen_factor (`int`, *optional*, defaults to 2): Factor on the stages' 16, 32 and 64 channels.
        num_channels (`int`, *optional*, defaults to 3): Channels of the images.
        image_size (`int`, *optional*, defaults to 32): Side of the training images; any size can be classified.

    Raises:
        `ValueError`: if `depth` is not `6n + 4` or `widen_factor` is below 1.
    """

    model_type = "cifar_wide_resnet"

    def __init__(
        self,
        depth: int = 40,
        widen_factor: int = 2,
        num_channels: int = 3,
        image_size: int = 32,
        **kwargs,
    ):
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth={depth} is not valid: it must be 6n + 4, for instance 10, 16, 22, 28, 40.")
        if widen_factor < 1:
            raise ValueError(f"widen_factor={widen_factor} is not valid: it must be 1 or more.")
        self.depth = depth
        self.widen_factor = widen_factor
        self.num_channels = num_channels
        self.image_size = image_size
        super().__init__(**kwargs)


class CifarWideResNetBlock(nn.Module):
    """Normalisation and ReLU before each of two convolutions; returns the sum and what `bn1` made of the input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, hidden_state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normalized = self.bn1(hidden_state)
        activated = normalized.relu()
        residual = hidden_state if self.shortcut is None else self.shortcut(activated)
        return self.conv2(self.bn2(self.conv1(activated)).relu()) + residual, normalized


class CifarWideResNetForImageClassification(PreTrainedModel):
    """
    A Wide ResNet with global average pooling and a linear head.

    `hidden_states` are the first convolution's output and the three stages' outputs after the batch normalisation that
    follows them (the next stage's first, or the last one) and before its ReLU.

    Class attributes:
        hidden_states_before_relu (`bool`, `True` here):
            `relu(hidden_states[i])`, i >= 1, is what the next layer reads, and `relu(hidden_states[-1])` is averaged
            over height and width into `classifier`.
    """

    config_class = CifarWideResNetConfig
    base_model_prefix = "cifar_wide_resnet"
    main_input_name = "pixel_values"
    input_modalities = "image"
    accepts_loss_kwargs = False
    hidden_states_before_relu: bool = True

    def __init__(self, config: CifarWideResNetConfig):
        super().__init__(config)
        in_channels = 16
        self.conv1 = nn.Conv2d(config.num_channels, in_channels, 3, padding=1, bias=False)
        blocks_per_stage = (config.depth - 4) // 6
        self.stages = nn.ModuleList()
        for stride, width in zip((1, 2, 2), (16, 32, 64), strict=True):
            stage = nn.ModuleList()
            for block in range(blocks_per_stage):
                channels = width * config.widen_factor
                stage.append(CifarWideResNetBlock(in_channels, channels, stride if block == 0 else 1))
                in_channels = channels
            self.stages.append(stage)
        self.bn = nn.BatchNorm2d(in_channels)
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
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)  # torch's own default
            init.uniform_(module.weight, -bound, bound)
            init.zeros_(module.bias)

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
        hidden_state = self.conv1(pixel_values.to(self.conv1.weight.dtype))
        hidden_states = [hidden_state]
        for stage_index, stage in enumerate(self.stages):
            for block_index, block in enumerate(stage):  # type: ignore[arg-type, var-annotated]
                hidden_state, normalized = block(hidden_state)
                if stage_index > 0 and block_index == 0:
                    hidden_states.append(normalized)  # of the stage before
        hidden_states.append(self.bn(hidden_state))
        logits = self.classifier(hidden_states[-1].relu().mean((2, 3)))
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
