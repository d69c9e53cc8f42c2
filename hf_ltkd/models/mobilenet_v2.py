"""MobileNetV2 for small images: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks (2018).

https://arxiv.org/abs/1801.04381. The form of the distillation literature: stride 1 instead of 2 in the second stage,
ReLU instead of ReLU6, no dropout, widths rounded down by `int` instead of to multiples of 8, and a 1 × 1 expansion in
the first block too. This file needs transformers and torch alone, so that it can travel to the Hub with the weights.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple


# Channels at width 1, blocks, and stride of the first block (Tab. 2 of the paper, but for the second stage's stride).
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


class CifarMobileNetV2Config(PreTrainedConfig):
    """
    Args:
        width_multiplier (`float`, *optional*, defaults to 0.5):
            Factor on all channels; on the last convolution's 1280 only above 1.
        expand_ratio (`int`, *optional*, defaults to 6): Expansion inside a block; the first block has none.
        num_channels (`int`, *optional*, defaults to 3): Channels of the images.
        image_size (`int`, *optional*, defaults to 32): Side of the training images; any size can be classified.

    Raises:
        `ValueError`: if `width_multiplier` leaves a stage without channels or `expand_ratio` is below 1.
    """

    model_type = "cifar_mobilenet_v2"

    def __init__(
        self,
        width_multiplier: float = 0.5,
        expand_ratio: int = 6,
        num_channels: int = 3,
        image_size: int = 32,
        **kwargs,
    ):
        if width_multiplier < 1 / 16:
            raise ValueError(
                f"width_multiplier={width_multiplier} is not valid: it must be 1/16 or more, or the first stage's 16 "
                "channels vanish."
            )
        if expand_ratio < 1:
            raise ValueError(f"expand_ratio={expand_ratio} is not valid: it must be 1 or more.")
        self.width_multiplier = width_multiplier
        self.expand_ratio = expand_ratio
        self.num_channels = num_channels
        self.image_size = image_size
        super().__init__(**kwargs)


class CifarMobileNetV2Block(nn.Module):
    """1 × 1 expansion, depthwise 3 × 3, linear 1 × 1; the input is added where its shape allows."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand_ratio: int):
        super().__init__()
        expanded_channels = in_channels * expand_ratio
        self.has_residual = stride == 1 and in_channels == out_channels
        self.conv1 = nn.Conv2d(in_channels, expanded_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(expanded_channels)
        self.conv2 = nn.Conv2d(
            expanded_channels, expanded_channels, 3, stride=stride, padding=1, groups=expanded_channels, bias=False
        )
        self.bn2 = nn.BatchNorm2d(expanded_channels)
        self.conv3 = nn.Conv2d(expanded_channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        branch = self.bn1(self.conv1(hidden_state)).relu()
        branch = self.bn2(self.conv2(branch)).relu()
        branch = self.bn3(self.conv3(branch))
        return branch + hidden_state if self.has_residual else branch


class CifarMobileNetV2ForImageClassification(PreTrainedModel):
    """
    A MobileNetV2 with global average pooling and a linear head.

    `hidden_states` are the first convolution's output after its ReLU, the second, third, fifth and seventh stage's
    outputs (the last of each resolution; linear, no ReLU follows them), and the last convolution's output after its
    ReLU.

    Class attributes:
        hidden_states_before_relu (`bool`, `False` here):
            The next layer reads `hidden_states[i]` as they are, and `hidden_states[-1]` itself is averaged over height
            and width into `classifier`.
    """

    config_class = CifarMobileNetV2Config
    base_model_prefix = "cifar_mobilenet_v2"
    main_input_name = "pixel_values"
    input_modalities = "image"
    accepts_loss_kwargs = False
    hidden_states_before_relu: bool = False

    def __init__(self, config: CifarMobileNetV2Config):
        super().__init__(config)
        in_channels = int(32 * config.width_multiplier)
        self.conv1 = nn.Conv2d(config.num_channels, in_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.stages = nn.ModuleList()
        for index, (width, depth, stride) in enumerate(STAGES):
            channels = int(width * config.width_multiplier)
            expand_ratio = 1 if index == 0 else config.expand_ratio
            stage = nn.Sequential()
            for block in range(depth):
                stage.append(CifarMobileNetV2Block(in_channels, channels, stride if block == 0 else 1, expand_ratio))
                in_channels = channels
            self.stages.append(stage)
        last_channels = int(1280 * max(1.0, config.width_multiplier))
        self.conv2 = nn.Conv2d(in_channels, last_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last_channels)
        self.classifier = nn.Linear(last_channels, config.num_labels)  # type: ignore[arg-type]
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
            init.normal_(module.weight, std=0.01)
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
                Whether to return the six feature maps.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`): `False` returns a plain tuple.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_state = self.bn1(self.conv1(pixel_values.to(self.conv1.weight.dtype))).relu()
        hidden_states = [hidden_state]
        for index, stage in enumerate(self.stages):
            hidden_state = stage(hidden_state)
            if index in (1, 2, 4, 6):
                hidden_states.append(hidden_state)
        hidden_states.append(self.bn2(self.conv2(hidden_state)).relu())
        logits = self.classifier(hidden_states[-1].mean((2, 3)))
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
