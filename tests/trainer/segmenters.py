"""Tiny segmentation models of every family, and one optimizer step over the same 8 images, however they are split."""

import torch
from helpers import ONE_STEP
from torch import nn
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    Data2VecVisionConfig,
    Data2VecVisionForSemanticSegmentation,
    DPTConfig,
    DPTForSemanticSegmentation,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    set_seed,
)

from hf_ltkd import (
    ClassGroups,
    CrossEntropyLoss,
    CWDLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    DKDLoss,
    GKLLoss,
    IFVDLoss,
    KDLoss,
    LTKDLoss,
    mean_iou,
)


CLASSES = 5
GROUPS = ClassGroups.from_counts([5000, 3000, 1000, 500, 50])


def segformer(seed: int = 1, confidence: float = 1.0, **settings) -> SegformerForSemanticSegmentation:
    """No batch normalisation and no dropout, which would depend on how a step is split. Stride 4."""
    set_seed(seed)
    config = SegformerConfig(
        num_labels=CLASSES, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
        classifier_dropout_prob=0.0, drop_path_rate=0.0, **settings,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config)
    model.decode_head.batch_norm = nn.Identity()
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(confidence)
    return model


def upernet(**settings) -> UperNetForSemanticSegmentation:
    stages = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "out_features": [f"stage{i}" for i in (1, 2, 3, 4)]}
    return UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=ResNetConfig(embedding_size=8, **stages), hidden_size=16, num_labels=CLASSES,
            auxiliary_channels=8, auxiliary_in_channels=16, pool_scales=[1, 2], **settings,
        )
    )  # fmt: skip


VIT = {"num_labels": CLASSES, "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 4}
VIT |= {"num_attention_heads": 2, "intermediate_size": 16}
UPER = {"auxiliary_channels": 8, "pool_scales": [1, 2]}
FAMILIES = {
    "segformer": segformer,
    "upernet": upernet,
    "mobilenet": lambda: MobileNetV2ForSemanticSegmentation(
        MobileNetV2Config(num_labels=CLASSES, depth_multiplier=0.25, min_depth=4, image_size=32, output_stride=8)
    ),
    "mobilevit": lambda: MobileViTForSemanticSegmentation(
        MobileViTConfig(
            num_labels=CLASSES, image_size=32, hidden_sizes=[12, 16, 20], neck_hidden_sizes=[8, 8, 8, 12, 12, 16, 16],
            aspp_out_channels=8, atrous_rates=[1, 2, 3], num_attention_heads=2, output_stride=8,
        )
    ),
    "beit": lambda: BeitForSemanticSegmentation(BeitConfig(out_indices=[1, 2, 3, 4], **VIT, **UPER)),
    "data2vec": lambda: Data2VecVisionForSemanticSegmentation(
        Data2VecVisionConfig(out_indices=[0, 1, 2, 3], **VIT, **UPER)
    ),
    "dpt": lambda: DPTForSemanticSegmentation(
        DPTConfig(backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, **VIT)
    ),
}  # fmt: skip


def scenes(count: int = 8, size: int = 32) -> list[dict[str, torch.Tensor]]:
    """Images and masks; ignored pixels are spread unevenly, and the second image has no other."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 3, size, size, generator=generator)
    masks = torch.randint(0, CLASSES - 1, (count, size // 4, size // 4), generator=generator)
    masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    masks[1], masks[3, : size // 2], masks[4, :, 3:], masks[-1, 0] = 255, 255, -100, CLASSES - 1
    return [{"pixel_values": p, "labels": m} for p, m in zip(pixels, masks, strict=True)]


def losses() -> dict:
    counts = GROUPS.class_counts
    return {
        "ltkd": LTKDLoss(GROUPS, alpha=1.0, beta=1.0, temperature=1.0),
        "ltkd_per_image": LTKDLoss(GROUPS, temperature=1.0, mass_per_image=True, ce="balanced_softmax"),
        "cwd": CWDLoss(),
        "ifvd": IFVDLoss(),
        "kd": KDLoss(ce="logit_adjusted", class_counts=counts),
        "dkd": DKDLoss(ce="class_balanced", class_counts=counts),
        "gkl": GKLLoss(GROUPS, beta=0.01, class_wise=False),
        "ce": CrossEntropyLoss(),
    }


def trainer_for(folder, student, teacher, loss, model_init=None, **arguments) -> DistillationTrainer:
    settings = {"per_device_train_batch_size": 8, "lr_scheduler_type": "constant", **ONE_STEP, **arguments}
    args = DistillationTrainingArguments(str(folder), **settings)
    data = scenes()
    metric = mean_iou(GROUPS)
    return DistillationTrainer(
        student, teacher, args, distillation_loss=loss, train_dataset=data, eval_dataset=data, compute_metrics=metric,
        model_init=model_init,
    )  # fmt: skip


def one_step(folder: str, names: list[str], batch_size: int, accumulation: int, world_size: int) -> dict:
    """Weights and logs of one step and an evaluation by the name of the loss."""
    results = {}
    for name in names:
        trainer = trainer_for(
            folder,
            segformer(1),
            segformer(2, confidence=300.0),
            losses()[name],
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=5,
            gradient_accumulation_steps=accumulation,
        )
        assert trainer.accelerator.num_processes == world_size
        trainer.train()
        trainer.evaluate()
        logs = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
        results[name] = {n: w.numpy() for n, w in trainer.model.state_dict().items()}, logs
    return results
