"""ShuffleNet for small images: Zhang et al., ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices (2017).

https://arxiv.org/abs/1707.01083. The form of the distillation literature: the stem is a 1 × 1 convolution without
stride or max-pool, and a ReLU follows the depthwise convolution too. This file needs transformers and torch alone, so
that it can travel to the Hub with the weights.
"""

import math

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple


class CifarShuffleNetV1Config(PreTrainedConfig):
    """
    Args:
        embedding_size (`int`, *optional*, defaults to 24): Channels of the first convolution.
        hidden_sizes (`Sequence[int]`, *optional*, defaults to `(240, 480, 960)`): Channels of the stages.
        depths (`Sequence[int]`, *optional*, defaults to `(4, 8, 4)`): Units per stage.
        groups (`int`, *optional*, defaults to 3): Groups of the 1 × 1 convolutions.
        num_channels (`int`, *optional*, defaults to 3): Channels of the images.
        image_size (`int`, *optional*, defaults to 32): Side of the training images; any size can be classified.

    Raises:
        `ValueError`: if there are not as many `depths` of 1 or more as `hidden_sizes`, or `embedding_size` and
            `hidden_sizes` are not growing multiples of `4 * groups`.
    """

    model_type = "cifar_shufflenet_v1"

    def __init__(
        self,
        embedding_size: int = 24,
        hidden_sizes: tuple[int, ...] | list[int] = (240, 480, 960),
        depths: tuple[int, ...] | list[int] = (4, 8, 4),
        groups: int = 3,
        num_channels: int = 3,
        image_size: int = 32,
        **kwargs,
    ):
        if len(depths) != len(hidden_sizes) or min(depths, default=0) < 1:
            raise ValueError(
                f"depths={list(depths)} is not valid: give 1 or more units for each of the {len(hidden_sizes)} stages "
                "of hidden_sizes."
            )
        sizes = [embedding_size, *hidden_sizes]
        if sizes != sorted(set(sizes)) or any(size % (4 * groups) for size in sizes):
            raise ValueError(
                f"embedding_size={embedding_size} and hidden_sizes={list(hidden_sizes)} are not valid: with "
                f"groups={groups} they must be growing multiples of {4 * groups}."
            )
        self.embedding_size = embedding_size
        self.hidden_sizes = list(hidden_sizes)
        self.depths = list(depths)
        self.groups = groups
        self.num_channels = num_channels
        self.image_size = image_size
        super().__init__(**kwargs)


class CifarShuffleNetV1Unit(nn.Module):
    """
    Grouped 1 × 1, channel shuffle, depthwise 3 × 3, grouped 1 × 1; returns the map *before* its ReLU.

    With `stride=2` the average-pooled input is concatenated, which gives `out_channels`, otherwise the input is added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, in_groups: int, out_groups: int):
        super().__init__()
        branch_channels = out_channels - in_channels if stride == 2 else out_channels
        bottleneck_channels = branch_channels // 4
        self.in_groups = in_groups
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, bottleneck_channels, 1, groups=in_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(bottleneck_channels)
        self.conv2 = nn.Conv2d(
            bottleneck_channels,
            bottleneck_channels,
            3,
            stride=stride,
            padding=1,
            groups=bottleneck_channels,
            bias=False,
        )
        self.bn2 = nn.BatchNorm2d(bottleneck_channels)
        self.conv3 = nn.Conv2d(bottleneck_channels, branch_channels, 1, groups=out_groups, bias=False)
        self.bn3 = nn.BatchNorm2d(branch_channels)

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        branch = self.bn1(self.conv1(hidden_state)).relu()
        branch = nn.functional.channel_shuffle(branch, self.in_groups)
        branch = self.bn2(self.conv2(branch)).relu()
        branch = self.bn3(self.conv3(branch))
        if self.stride == 1:
            return branch + hidden_state
        return torch.cat([branch, nn.functional.avg_pool2d(hidden_state, 3, stride=2, padding=1)], dim=1)


class CifarShuffleNetV1ForImageClassification(PreTrainedModel):
    """
    A ShuffleNet with global average pooling and a linear head.

    `hidden_states` are the first convolution's output after its ReLU and the stages' outputs before theirs.

    Class attributes:
        hidden_states_before_relu (`bool`, `True` here):
            `relu(hidden_states[i])`, i >= 1, is what the next layer reads, and `relu(hidden_states[-1])` is averaged
            over height and width into `classifier`.
    """

    config_class = CifarShuffleNetV1Config
    base_model_prefix = "cifar_shufflenet_v1"
    main_input_name = "pixel_values"
    input_modalities = "image"
    accepts_loss_kwargs = False
    hidden_states_before_relu: bool = True

    def __init__(self, config: CifarShuffleNetV1Config):
        super().__init__(config)
        self.conv1 = nn.Conv2d(config.num_channels, config.embedding_size, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(config.embedding_size)
        in_channels = config.embedding_size
        in_groups = 1  # The stem has too few channels to be grouped (Sec. 3.2 of the paper).
        self.stages = nn.ModuleList()
        for channels, depth in zip(config.hidden_sizes, config.depths, strict=True):
            stage = nn.ModuleList()
            for unit in range(depth):
                stride = 2 if unit == 0 else 1
                stage.append(CifarShuffleNetV1Unit(in_channels, channels, stride, in_groups, config.groups))
                in_channels, in_groups = channels, config.groups
            self.stages.append(stage)
        self.classifier = nn.Linear(in_channels, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # torch's own default
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)  # type: ignore[arg-type]
            init.ones_(module.running_var)  # type: ignore[arg-type]
            init.zeros_(module.num_batches_tracked)  # type: ignore[arg-type]

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
            for unit in stage:  # type: ignore[attr-defined]
                hidden_state = unit(hidden_state.relu())
            hidden_states.append(hidden_state)
        logits = self.classifier(hidden_state.relu().mean((2, 3)))
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
