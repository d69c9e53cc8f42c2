"""UperNet on a small ResNet, as a configuration of Transformers' own classes.

Xiao et al., Unified Perceptual Parsing for Scene Understanding (ECCV 2018), https://arxiv.org/abs/1807.10221; the
backbone is a ResNet of four stages with one basic block each. The name and the sizes are ours.
"""

import transformers


def create_upernet(width: int, **config_kwargs) -> "transformers.PreTrainedModel":
    """
    A UperNet with fresh weights, and without an auxiliary head, which would not be trained.

    Args:
        width (`int`): Channels of the first stage; the others have 2, 4 and 8 times as many, the head twice as many.
        config_kwargs: Fields of the config, for instance `num_labels=19`.
    """
    sizes = {"embedding_size": width, "hidden_sizes": [width, 2 * width, 4 * width, 8 * width], "depths": [1] * 4}
    stages = [f"stage{stage}" for stage in (1, 2, 3, 4)]
    backbone = transformers.ResNetConfig(layer_type="basic", out_features=stages, **sizes)
    own = {"backbone_config": backbone, "hidden_size": 2 * width, "use_auxiliary_head": False}
    return transformers.UperNetForSemanticSegmentation(transformers.UperNetConfig(**own, **config_kwargs))
