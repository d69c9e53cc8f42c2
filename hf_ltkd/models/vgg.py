"""VGG with batch normalisation for small images: Simonyan and Zisserman, Very Deep Convolutional Networks for
Large-Scale Image Recognition (2014).

https://arxiv.org/abs/1409.1556. The form of the distillation literature (`vgg8`, `vgg13`): one linear layer instead of
three, average pooling before it, and only as many max-pools as a small image bears. This file needs transformers and
torch alone, so that it can travel to the Hub with the weights.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple


class CifarVGGConfig(PreTrainedConfig):
    """
    Args:
        hidden_sizes (`Sequence[int]`, *optional*, defaults to `(64, 128, 256, 512, 512)`):
            Channels of the five stages.
        depths (`Sequence[int]`, *optional*, defaults to `(2, 2, 2, 2, 2)`, which is `vgg13`): Convolutions per stage.
        num_channels (`int`, *optional*, defaults to 3): Channels of the images.
        image_size (`int`, *optional*, defaults to 32):
            Side of the training images; any size from 8 pixels on can be classified.

    Raises:
        `ValueError`: if there are not five stages of at least one convolution.
    """

    model_type = "cifar_vgg"

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] | list[int] = (64, 128, 256, 512, 512),
        depths: tuple[int, ...] | list[int] = (2, 2, 2, 2, 2),
        num_channels: int = 3,
        image_size: int = 32,
        **kwargs,
    ):
        if len(hidden_sizes) != 5 or len(depths) != 5:
            raise ValueError(
                f"hidden_sizes={list(hidden_sizes)} and depths={list(depths)} are not valid: the network has five "
                "stages, so give five numbers each."
            )
        if min(depths) < 1:
            raise ValueError(f"depths={list(depths)} is not valid: every stage needs 1 or more convolutions.")
        self.hidden_sizes = list(hidden_sizes)
        self.depths = list(depths)
        self.num_channels = num_channels
        self.image_size = image_size
        super().__init__(**kwargs)


class CifarVGGForImageClassification(PreTrainedModel):
    """
    A VGG with global average pooling and a linear head.

    `hidden_states` are the first stage's output after its last ReLU and the other four stages' outputs before theirs.

    Class attributes:
        hidden_states_before_relu (`bool`, `True` here):
            `relu(hidden_states[i])`, i >= 1, is what the next layer reads, and `relu(hidden_states[-1])` is averaged
            over height and width into `classifier`.
    """

    config_class = CifarVGGConfig
    base_model_prefix = "cifar_vgg"
    main_input_name = "pixel_values"
    input_modalities = "image"
    accepts_loss_kwargs = False
    hidden_states_before_relu: bool = True

    def __init__(self, config: CifarVGGConfig):
        super().__init__(config)
        in_channels = config.num_channels
        self.stages = nn.ModuleList()
        for channels, depth in zip(config.hidden_sizes, config.depths, strict=True):
            stage = nn.Sequential()  # without the last ReLU
            for layer in range(depth):
                if layer > 0:
                    stage.append(nn.ReLU())
                stage.append(nn.Conv2d(in_channels, channels, 3, padding=1))
                stage.append(nn.BatchNorm2d(channels))
                in_channels = channels
            self.stages.append(stage)
        self.classifier = nn.Linear(in_channels, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            init.zeros_(module.bias)  # type: ignore[arg-type]
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
            pixel_values (`torch.Tensor` of shape `[batch, channels, height, width]`):
                Normalised images of any size from 8 pixels on.
            labels (`torch.Tensor` of shape `[batch]`, *optional*): With them, the cross-entropy is `loss`.
            output_hidden_states (`bool`, *optional*, defaults to `config.output_hidden_states`):
                Whether to return the five feature maps.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`): `False` returns a plain tuple.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        pools = 4 if pixel_values.shape[2] >= 64 else 3  # the fifth stage sees 4 × 4 for 32 and for 64 pixels
        hidden_state = pixel_values.to(self.classifier.weight.dtype)
        hidden_states = []
        for index, stage in enumerate(self.stages):
            hidden_state = stage(hidden_state)
            hidden_states.append(hidden_state if index > 0 else hidden_state.relu())
            hidden_state = hidden_state.relu()
            if index < pools:
                hidden_state = nn.functional.max_pool2d(hidden_state, 2)
        logits = self.classifier(hidden_state.mean((2, 3)))
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
