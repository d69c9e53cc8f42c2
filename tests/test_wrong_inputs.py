"""Wrong inputs: each gives one sentence of ours that names what was given, before any work starts."""
# ruff: noqa: E501, B023

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from photos import CPU
from wrong import INF, NAN, NO_COUNT, NO_NUMBER, NO_WEIGHT, Wrong, table

import hf_ltkd
from hf_ltkd import (
    BKDLoss,
    CATKDLoss,
    ClassGroups,
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    DISTLoss,
    DKDLoss,
    ImageDataset,
    KDLoss,
    LazyImageDataset,
    LongTailSplit,
    LTKDLoss,
    ReviewKDLoss,
    SegmentationDataset,
    TeacherCache,
    create_loss,
    create_model,
    group_accuracy,
    mean_iou,
)
from hf_ltkd.data.arguments import DataArguments
from hf_ltkd.data.holdout import hold_out
from hf_ltkd.data.pixels import Pixels


GROUPS = ClassGroups.from_counts([30, 20, 10])
STUDENT, TEACHER, LABELS = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
PIXELS = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
PLAIN: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3}
NO_COUNTS: tuple[Any, ...] = (
    None,
    5,
    "abc",
    [],
    [3, 0, 1],
    [3, -2, 1],
    [3, 1.5, 1],
    [3, NAN, 1],
    [3, INF, 1],
    [3, None, 1],
)


def images(labels: Any = (0, 1, 2, 0), **kwargs: Any) -> ImageDataset:
    return ImageDataset(kwargs.pop("images", PIXELS), labels, **{**PLAIN, **kwargs})


def tiny(num_labels: int = 3) -> Any:
    return create_model("resnet8", num_labels, image_size=8)


def trainer(**change: Any) -> DistillationTrainer:
    arguments = change.pop("arguments", {})
    given = {"model": tiny(), "teacher_model": tiny(), "distillation_loss": KDLoss(), "train_dataset": images()}
    args = DistillationTrainingArguments(output_dir="never_written", **CPU, **arguments)
    return DistillationTrainer(args=args, **{**given, **change})


TABLE = table([0, 1, 2] * 10, ClassLabel(num_classes=3))
WRONG_TABLES = (
    None, [0, 1, 2], {"label": [0, 1]}, DatasetDict(train=TABLE), DatasetDict(test=TABLE), TABLE.to_iterable_dataset(),
    table([]), table([0.5, 1.0]), table(["a", "b"]), table([[0], [1]]), table([0, None]), table([-1, 0]),
    table([0, 3_000_000_000]), table([0, 10**15]), table([True, False]), TABLE.rename_column("label", "class"),
)  # fmt: skip
TOKENS = Dataset.from_dict({"input_ids": [[1, 7], [2]]})
LAZY = Dataset.from_dict({"image": ["x.png"] * 4, "label": [0, 1, 2, 0]}).cast_column("image", Image())

MASKS = Dataset.from_dict(
    {"image": [np.zeros((2, 2, 3), np.uint8)] * 2, "mask": [[[0, 1], [2, 255]], [[0, 0], [1, 1]]]},
    features=Features({"image": Image(), "mask": List(List(Value("int32")))}),
)


def scenes(**change: Any) -> SegmentationDataset:
    dataset, given = (
        change.pop("dataset", MASKS),
        {"num_classes": 3, "processor": Pixels((2, 2), [0.5] * 3, [0.5] * 3)},
    )
    return SegmentationDataset(dataset, **{**given, "augment": True, **change})


CALLS: dict[str, Wrong] = {
    # ---- groups ----
    "group_of_class": Wrong(
        ClassGroups,
        (None, "tail", 5, [], [[0, 1]], [0.5, 1], [-1, 0], [1, 2], [0, 10**9], [True, False], ["a"], [0, None], [0, NAN], {0: 1}),
        "group",
    ),
    "names": Wrong(lambda v: ClassGroups([0, 1, 2], names=v), ("abc", 5, ["a"], ["a", "a", "b"], [], ["a", "b", ""]), "names"),
    "groups' class_counts": Wrong(lambda v: ClassGroups([0, 1, 2], class_counts=v), (*NO_COUNTS[1:], [1]), "counts|classes"),
    "counts": Wrong(ClassGroups.from_counts, NO_COUNTS, "counts|classes"),
    "token counts": Wrong(ClassGroups.from_token_counts, (-1, 1.5, None, "abc", [], [0, 0], [3, -1], [0, 1, 2]), "counts|seen|num_groups"),
    "num_groups": Wrong(lambda v: ClassGroups.from_counts([3, 2, 1], v), (*NO_COUNT, 4, True), "num_groups"),
    "many": Wrong(lambda v: ClassGroups.from_thresholds([300, 50, 5], v), (*NO_NUMBER, 10, 1000), "many"),
    "few": Wrong(lambda v: ClassGroups.from_thresholds([300, 50, 5], few=v), (*NO_NUMBER, 101, 0), "few"),
    "from_dict": Wrong(ClassGroups.from_dict, (None, {}, {"x": 1}, [0, 1], "x"), "group_of_class"),
    "from_pretrained": Wrong(ClassGroups.from_pretrained, (Path("nowhere"), "nowhere"), "class_groups.json"),
    "masks": Wrong(lambda v: ClassGroups.from_masks(v, "label"), WRONG_TABLES, ""),
    "mask_column": Wrong(lambda v: ClassGroups.from_masks(MASKS, v), (None, 5, "labels", ["mask"]), "column"),
    "num_classes of masks": Wrong(lambda v: ClassGroups.from_masks(MASKS, num_classes=v), (2, 4, 10**9, 300, *(n for n in NO_COUNT if n is not None)), "class"),
    "ignore_index": Wrong(lambda v: ClassGroups.from_masks(MASKS, ignore_index=v), (1.5, *NO_NUMBER), "ignore_index"),
    "count": Wrong(lambda v: ClassGroups.from_masks(MASKS, count=v), (None, 5, "area", ["pixels"]), "count"),
    "colors": Wrong(lambda v: ClassGroups.from_masks(MASKS, colors=v), (5, "red", [], {}, [0, 1], [(1, 2)], [(0, 0, 256)], {(0, 0, 0): "sky"}, [(0, 0, 0)]), "colo"),
    "num_proc": Wrong(lambda v: ClassGroups.from_masks(MASKS, num_proc=v), tuple(n for n in NO_COUNT if n is not None), "num_proc"),
    "mask folder": Wrong(hf_ltkd.read_mask_folder, (Path("nowhere"), "nowhere"), "folder"),
    "segmentation images": Wrong(lambda v: scenes(dataset=v), WRONG_TABLES, ""),
    "segmentation columns": Wrong(lambda v: scenes(image_column=v), (None, 5, "photo", "mask"), "column"),
    "segmentation classes": Wrong(lambda v: scenes(num_classes=v), (300, *NO_COUNT), "class"),
    "segmentation processor": Wrong(lambda v: scenes(processor=v), (None, 5, "segformer", [1]), "processor"),
    "scale of views": Wrong(lambda v: scenes(scale=v), (*NO_NUMBER, 1, [1, 2, 3], (2, 1), (0, 1), (-1, 1), ("a", "b")), "scale"),
    "segmentation seed": Wrong(lambda v: scenes(seed=v), (1.5, *NO_NUMBER), "seed"),
    "segmentation index": Wrong(lambda v: scenes()[v], (2, -3, None, "a", 0.5), "index"),
    # ---- data ----
    "long_tailed_counts": Wrong(lambda v: hf_ltkd.long_tailed_counts(v, 2), NO_COUNTS, "c"),
    "gamma": Wrong(lambda v: hf_ltkd.long_tailed_counts([9, 9], v), (0, 0.5, *NO_WEIGHT), "imbalance_factor"),
    "rule": Wrong(lambda v: hf_ltkd.make_long_tailed(TABLE, 2, rule=v), ("eq15", None, 5, []), "rule"),
    "make_long_tailed": Wrong(lambda v: hf_ltkd.make_long_tailed(v, 2), tuple(t for t in WRONG_TABLES if t is not WRONG_TABLES[3]), ""),
    "class_counts": Wrong(hf_ltkd.class_counts, WRONG_TABLES, ""),
    "label_column": Wrong(lambda v: hf_ltkd.class_counts(TABLE, v), (None, 5, "labels", ["label"]), "label"),
    "tokens to count": Wrong(lambda v: hf_ltkd.token_counts(v, 9), (None, TABLE, table([0]), Dataset.from_dict({"input_ids": [["a"]]})), "column"),
    "token column": Wrong(lambda v: hf_ltkd.token_counts(TOKENS, 9, column=v), (None, 5, "labels"), "column"),
    "vocab_size": Wrong(lambda v: hf_ltkd.token_counts(TOKENS, v), (*NO_COUNT, 7), "vocab_size"),
    "split's seed": Wrong(lambda v: hf_ltkd.make_long_tailed(TABLE, 2, seed=v), (-1, 1.5, *NO_NUMBER), "seed"),
    "split of other data": Wrong(LongTailSplit.of(TABLE, 2).apply, (None, table([0, 1]), table(["a"])), ""),
    "LongTailSplit": Wrong(LongTailSplit.from_pretrained, (Path("nowhere"), "nowhere"), "long_tail.json"),
    "eval_fraction": Wrong(lambda v: hold_out(TABLE, eval_fraction=v), (0, 1, 2, *NO_WEIGHT), "eval_fraction"),
    "held out of": Wrong(hold_out, (*WRONG_TABLES, table([0, 0, 0]), table([0, 1, 2])), ""),
    "group_column": Wrong(lambda v: hold_out(TABLE, group_column=v), ("track", 5), "group"),
    "images": Wrong(
        lambda v: images(images=v),
        (None, [], "x", PIXELS.float(), PIXELS[0], PIXELS.numpy(), PIXELS[:, :, :0]),
        "images",
    ),
    "labels": Wrong(
        images,
        (None, 5, "abcd", ["a"] * 4, [0, 1], [0.5] * 4, [NAN] * 4, [None] * 4, [[0]] * 4, [0, 1, 2, 10**30], [True] * 4, [-2] * 4),
        "labels",
    ),
    "mean": Wrong(lambda v: images(mean=v), (None, "abc", 0.5, [0.5], [NAN] * 3, [INF] * 3, ["a"] * 3, [None] * 3), "mean"),
    "std": Wrong(lambda v: images(std=v), (None, "abc", 0.5, [0.5], [0.0] * 3, [-1.0] * 3, [NAN] * 3, [INF] * 3), "std|deviation"),
    "padding": Wrong(lambda v: images(padding=v, augment=True), (-1, 1.5, *NO_NUMBER), "padding"),
    "seed": Wrong(lambda v: images(seed=v), (1.5, *NO_NUMBER), "seed"),
    "device": Wrong(lambda v: images(device=v), ("nonsense", 1.5, "cuda:99"), "device"),
    "teacher's images": Wrong(lambda v: images(teacher=v), ("x", PIXELS, images(images=PIXELS[..., :4])), "teacher"),
    "index": Wrong(lambda v: images()[v], (4, -5, 1.5, "a", None, 10**12), "example"),
    "epoch": Wrong(lambda v: images().set_epoch(v), (-1, 1.5, *NO_NUMBER), "epoch"),
    "lazy images": Wrong(lambda v: LazyImageDataset(v, "image", [0, 1, 2, 0], **PLAIN), (None, [], "x", TABLE), "image"),
    "image_column": Wrong(lambda v: LazyImageDataset(LAZY, v, [0, 1, 2, 0], **PLAIN), (None, 5, "img", "label"), "column"),
    "lazy image_size": Wrong(lambda v: LazyImageDataset(LAZY, "image", [0, 1, 2, 0], image_size=v, **PLAIN), NO_COUNT, "image_size"),
    "lazy labels": Wrong(lambda v: LazyImageDataset(LAZY, "image", v, **PLAIN), ([0, 1], ["a"] * 4, None), "labels"),
    "benchmark": Wrong(lambda v: DataArguments(benchmark=v, data_dir="x"), ("cifar10", 5), "benchmark"),
    "DataArguments": Wrong(lambda v: DataArguments(**v), ({}, {"data_dir": "x", "dataset_name": "a/b"}, {"benchmark": "cifar100_lt"}), "--"),
    **{
        name: Wrong(lambda v, name=name: DataArguments(data_dir="x", **{name: v}), values, name)
        for name, values in {
            "image_size": NO_COUNT[:3] + NO_COUNT[4:],
            "crop_padding": (-1, 1.5, *NO_NUMBER[1:]),
            "min_class_images": NO_COUNT[:3] + NO_COUNT[4:],
            "imbalance_factor": (0, 0.5, *NO_WEIGHT[:1], *NO_NUMBER[1:]),
            "split_seed": (-1, 1.5, *NO_NUMBER),
            "crop": ("center", 5),
            "split_rule": ("eq15", None, 5),
            "group_rule": ("halves", 5),
            "rare": ("forget", None, 5),
            "augment": ("blur", "", None, 5),
        }.items()
    },
    "data_dir": Wrong(lambda v: hf_ltkd.cifar100_lt(10, data_dir=v, progress=False), (Path("nowhere"), "nowhere", 5), "nowhere|5"),
    # ---- losses ----
    **{
        f"{name}'s {whose}": Wrong(call, (None, 5, [[0.1, 0.2, 0.7]] * 4, TEACHER[0], TEACHER[:2], TEACHER[:, :2], TEACHER.long()), "logits")
        for name, function in {
            "kd": hf_ltkd.kd_loss, "dist": hf_ltkd.dist_loss,
            "ltkd": lambda s, t: hf_ltkd.ltkd_loss(s, t, GROUPS), "dkd": lambda s, t: hf_ltkd.dkd_loss(s, t, LABELS),
            "gkl": hf_ltkd.gkl_loss, "wttm": hf_ltkd.wttm_loss,
            "bkd": lambda s, t: hf_ltkd.bkd_loss(s, t, torch.ones(3)),
        }.items()
        for whose, call in {
            "student": lambda v, f=function: f(v, TEACHER), "teacher": lambda v, f=function: f(STUDENT, v),
        }.items()
    },
    **{
        f"{name}'s class ids": Wrong(
            call, (None, 5, [0, 1, 2, 0], LABELS[:2], LABELS.float(), LABELS + 1, LABELS - 2, LABELS[None], LABELS > 0, torch.rand(4, 2)), "labels"
        )
        for name, call in {
            "dkd": lambda v: hf_ltkd.dkd_loss(STUDENT, TEACHER, v),
            "balanced softmax": lambda v: hf_ltkd.balanced_softmax_loss(STUDENT, v, [3, 2, 1]),
            "logit adjustment": lambda v: hf_ltkd.logit_adjusted_loss(STUDENT, v, [3, 2, 1]),
            "class balanced": lambda v: hf_ltkd.class_balanced_loss(STUDENT, v, torch.ones(3)),
            "ldam": lambda v: hf_ltkd.ldam_loss(STUDENT, v, [3, 2, 1]),
            "GKLLoss": lambda v: hf_ltkd.GKLLoss(GROUPS)(STUDENT, TEACHER, v),
            "KDLoss": lambda v: KDLoss()(STUDENT, TEACHER, v),
            "CrossEntropyLoss": lambda v: CrossEntropyLoss()(STUDENT, None, v),
        }.items()
    },
    "a soft label": Wrong(lambda v: KDLoss()(STUDENT, TEACHER, v), (torch.ones(4, 3), torch.zeros(4, 3), torch.full((4, 3), NAN)), "labels"),
    "a soft label for one class": Wrong(
        lambda v: v(STUDENT, TEACHER, torch.eye(4, 3)), (DKDLoss(), hf_ltkd.dkd_loss, hf_ltkd.GKLLoss(GROUPS)), "labels"
    ),
    "no class for": Wrong(lambda v: v(STUDENT, TEACHER, LABELS - 1), (DKDLoss(), hf_ltkd.dkd_loss, hf_ltkd.GKLLoss(GROUPS)), "-1"),
    **{
        f"{name}'s temperature": Wrong(call, (0, *NO_WEIGHT), "temperature")
        for name, call in {
            "kd": lambda v: hf_ltkd.kd_loss(STUDENT, TEACHER, temperature=v),
            "gkl": lambda v: hf_ltkd.gkl_loss(STUDENT, TEACHER, temperature=v),
            "gkl's weight": lambda v: hf_ltkd.gkl_loss(STUDENT, TEACHER, weight_temperature=v),
            "ltkd": lambda v: hf_ltkd.ltkd_loss(STUDENT, TEACHER, GROUPS, temperature=v),
            "decomposition": lambda v: hf_ltkd.kl_decomposition(STUDENT, TEACHER, GROUPS, temperature=v),
            **{
                loss: lambda v, loss=loss: create_loss(loss, GROUPS, temperature=v)
                for loss in ("kd", "ltkd", "dkd", "dist", "bkd", "gkl")
            },
        }.items()
    },
    **{
        f"{loss}'s {name}": Wrong(lambda v, loss=loss, name=name: create_loss(loss, GROUPS, **{name: v}), NO_WEIGHT, name)
        for loss, names in {
            "ltkd": ("alpha", "beta", "ce_weight", "warmup_epochs", "group_mass_momentum"), "kd": ("kd_weight",),
            "dkd": ("alpha", "beta"), "dist": ("beta", "gamma", "dist_weight"), "bkd": ("bkd_weight",),
            "gkl": ("alpha", "beta", "gamma"), "wttm": ("gamma", "wttm_weight"),
            "ce": ("tau", "max_margin", "ldam_scale"), "reviewkd": ("review_weight",), "catkd": ("cat_weight",),
        }.items()
        for name in names
    },
    "drw_epoch": Wrong(lambda v: create_loss("ce", GROUPS, ce="ldam", drw_epoch=v), (NO_WEIGHT[0], *NO_WEIGHT[2:]), "drw_epoch"),
    "drw_epoch without ldam": Wrong(lambda v: create_loss("ce", GROUPS, drw_epoch=v), (0, 160), "ldam"),
    "prior": Wrong(lambda v: create_loss("kd", GROUPS, prior=v), ("both", 5, True, ["teacher"]), "prior"),
    "prior without counts": Wrong(lambda v: KDLoss(prior=v), ("teacher", "student"), "class_counts"),
    "class_counts of a prior": Wrong(lambda v: KDLoss(prior="teacher", class_counts=v), NO_COUNTS, "class_counts"),
    "standardize": Wrong(lambda v: KDLoss(standardize=v), (None, "yes", 1), "standardize"),
    **{
        name: Wrong(lambda v, loss=loss, name=name: create_loss(loss, GROUPS, **{name: v}), (None, "yes", 1, 0.5), name)
        for name, loss in {"rebalance": "ltkd", "reweight": "ltkd", "class_wise": "gkl", "normalize": "catkd", "standardize": "wttm"}.items()
    },
    "margin": Wrong(lambda v: hf_ltkd.ldam_loss(STUDENT, LABELS, [3, 2, 1], max_margin=v), NO_WEIGHT, "margin"),
    "scale": Wrong(lambda v: hf_ltkd.ldam_loss(STUDENT, LABELS, [3, 2, 1], scale=v), NO_WEIGHT, "scale"),
    "class_counts of LDAM": Wrong(lambda v: hf_ltkd.ldam_loss(STUDENT, LABELS, v), (*NO_COUNTS, [1, 2]), "class_counts"),
    "temperature of CWD": Wrong(lambda v: hf_ltkd.CWDLoss(temperature=v), (0, *NO_WEIGHT), "temperature"),
    "weight of IFVD": Wrong(lambda v: hf_ltkd.IFVDLoss(ifvd_weight=v), NO_WEIGHT, "ifvd_weight"),
    "weight of CWD": Wrong(lambda v: hf_ltkd.CWDLoss(cwd_weight=v), NO_WEIGHT, "cwd_weight"),
    "gamma of WTTM": Wrong(lambda v: hf_ltkd.wttm_loss(STUDENT, TEACHER, gamma=v), NO_WEIGHT, "gamma"),
    "weight_probs": Wrong(lambda v: hf_ltkd.gkl_loss(STUDENT, TEACHER, weight_probs=v), (5, [1.0], torch.ones(3), LABELS), "weight_probs"),
    "groups of GKL": Wrong(hf_ltkd.GKLLoss, (None, "thirds", [0, 1, 2]), "groups"),
    "effective_number_beta": Wrong(lambda v: create_loss("ce", GROUPS, ce="class_balanced", effective_number_beta=v), (1, *NO_WEIGHT), "beta"),
    "resolution": Wrong(lambda v: CATKDLoss(resolution=v), NO_COUNT, "resolution"),
    "ce": Wrong(lambda v: KDLoss(ce=v), ("focal", None, 5, "balanced_softmax"), "ce="),
    "class_counts of a loss": Wrong(lambda v: KDLoss(ce="balanced_softmax", class_counts=v), NO_COUNTS, "class_counts"),
    "class_counts of BKD": Wrong(BKDLoss, NO_COUNTS, "class_counts"),
    "class_balanced_weights": Wrong(hf_ltkd.class_balanced_weights, NO_COUNTS, "class_counts"),
    "log_class_prior": Wrong(hf_ltkd.log_class_prior, NO_COUNTS, "class_counts"),
    "teacher_log_prior": Wrong(lambda v: KDLoss(teacher_log_prior=v), ("abc", 5, [NAN, 0], [INF, 0], [[0.0]], [None]), "teacher_log_prior"),
    "group_mass": Wrong(lambda v: hf_ltkd.ltkd_loss(STUDENT, TEACHER, GROUPS, group_mass=v), ([1.0] * 3, 5, torch.ones(2)), "group_mass"),
    "groups of LTKD": Wrong(LTKDLoss, (None, "thirds", [0, 1, 2], {"a": 1}), "groups"),
    "groups of ltkd_loss": Wrong(lambda v: hf_ltkd.ltkd_loss(STUDENT, TEACHER, v), (None, [0, 1, 2], ClassGroups([0, 1])), "groups"),
    "create_loss": Wrong(lambda v: create_loss(v, GROUPS), (None, 5, "focal", "nowhere:Loss", "json:loads", ""), "loss"),
    "create_loss for": Wrong(lambda v: create_loss("kd", v), (None, "thirds", [0, 1, 2]), "groups"),
    "loss arguments": Wrong(lambda v: create_loss("kd", GROUPS, **v), ({"alfa": 1}, {"alpha": 1}), "alfa|alpha"),
    "pair": Wrong(lambda v: create_loss("dkd", GROUPS, pair=v), (("resnet8", "resnet8"), ("a",), "ab", 5), "pair|published"),
    "features": Wrong(
        lambda v: hf_ltkd.hierarchical_context_loss(v, [torch.zeros(2, 4, 8, 8)]),
        (None, [], [None], [torch.zeros(2, 4, 4, 4)], [torch.zeros(2, 4)], torch.zeros(2, 4, 8, 8)),
        "maps",
    ),
    "maps": Wrong(
        lambda v: hf_ltkd.class_attention_loss(v, torch.zeros(2, 4, 8, 8)),
        (None, [1], torch.zeros(2, 3, 8, 8), torch.zeros(2, 4)),
        "maps",
    ),
    "outputs": Wrong(lambda v: KDLoss()(v, TEACHER, LABELS), (None, "x", {"logit": STUDENT}, [STUDENT]), "logits"),
    "review_weight alone": Wrong(lambda v: ReviewKDLoss(review_weight=v), ("x",), "review_weight"),
    "dist_weight": Wrong(lambda v: DISTLoss(dist_weight=v), ("x",), "dist_weight"),
    "dkd's alpha": Wrong(lambda v: DKDLoss(alpha=v), ("x",), "alpha"),
    # ---- networks, metrics, caches ----
    "network": Wrong(lambda v: create_model(v, 10), (None, 5, "resnet9", "resnet8x0", "wrn_41_2", "vgg7", ""), "network|depth"),
    "num_labels": Wrong(lambda v: create_model("resnet8", v), NO_COUNT, "num_labels"),
    "network's image_size": Wrong(lambda v: create_model("resnet8", 3, v), NO_COUNT, "image_size"),
    "group_accuracy": Wrong(group_accuracy, (None, "thirds", [0, 1, 2]), "groups"),
    "predictions": Wrong(
        lambda v: group_accuracy(GROUPS)(type("P", (), {"predictions": v, "label_ids": np.array([0, 1, 2])})()),
        (None, np.zeros((3, 4)), np.zeros((2, 3)), np.full((3, 3), NAN), np.array(["a", "b", "c"])),
        "classes|Predictions|logits",
    ),
    "mean_iou": Wrong(mean_iou, (None, "thirds", [0, 1, 2]), "groups"),
    "leave_out": Wrong(lambda v: mean_iou(GROUPS, leave_out=v), (5, "sky", [3], ["sky"], [-1], [0, 1, 2], [None]), "leave_out"),
    "class_names": Wrong(lambda v: mean_iou(GROUPS, class_names=v), (5, "abc", [], ["a"], ["a", "a", "b"]), "class_names"),
    "segmented": Wrong(
        lambda v: mean_iou(GROUPS)(type("P", (), {"predictions": v, "label_ids": np.zeros((1, 2, 2), int)})()),
        (None, "x", np.zeros((1, 2, 2)), np.zeros((2, 3, 2, 2)), np.zeros((1, 4, 2, 2)), np.full((1, 3, 2, 2), NAN), np.full((1, 2, 2), 3)),
        "redictions|ogits",
    ),
    "views": Wrong(lambda v: TeacherCache.build("never_written", tiny(), images(), views=v), NO_COUNT, "views"),
    "batch_size": Wrong(lambda v: TeacherCache.build("never_written", tiny(), images(), views=1, batch_size=v), NO_COUNT, "batch_size"),
    "dtype": Wrong(lambda v: TeacherCache.build("never_written", tiny(), images(), views=1, dtype=v), ("int8", None, torch.float32), "dtype"),
    "cached teacher": Wrong(lambda v: TeacherCache.build("never_written", v, images(), views=1), (None, 5, "nowhere"), "teacher|nowhere"),
    "cached images": Wrong(lambda v: TeacherCache.build("never_written", tiny(), v, views=1), (None, [], TABLE, images(np.array([], int), images=PIXELS[:0])), "dataset"),
    "cache": Wrong(TeacherCache.open, (Path("nowhere"), "nowhere", 5, None), "cache|directory"),
    # ---- the trainer ----
    "distillation_loss": Wrong(lambda v: trainer(distillation_loss=v), (None, "kd", KDLoss, hf_ltkd.kd_loss), "distillation_loss"),
    "teacher_model": Wrong(lambda v: trainer(teacher_model=v), (None, 5, tiny(4), [], [tiny(), 5], [tiny(), tiny(4)]), "teacher"),
    "student": Wrong(lambda v: trainer(model=v), (tiny(4),), "classes"),
    "loss for other classes": Wrong(lambda v: trainer(distillation_loss=v), (LTKDLoss(ClassGroups([0, 1])),), "classes"),
    "labels beyond the student": Wrong(lambda v: trainer(train_dataset=images(v)), ([0, 1, 2, 3], [0, 1, 2, 99]), "label"),
    **{
        name: Wrong(lambda v, name=name: trainer(arguments={name: v}), values, name)
        for name, values in {
            "learning_rate": (NAN, INF, -1, "fast"),
            "weight_decay": (NAN, INF, "little"),
            "num_train_epochs": (NAN, INF, "many"),
            "per_device_train_batch_size": (0, -1, 1.5, "x"),
            "gradient_accumulation_steps": (0, -1, 1.5, "x"),
            "lr_milestones": ([0], [1], [2], [NAN], ["a"], 0.5, "half"),
            "lr_decay": (0, 2, *NO_WEIGHT),
            "hub_timeout": (0, *NO_WEIGHT),
            "preset": ("mine", 5),
            "label_smoothing_factor": (-1, 1.5, NAN, "x"),
            "label_names": (["y"],),
            "mixup_alpha": NO_WEIGHT,
            "cutmix_alpha": NO_WEIGHT,
            "max_steps": (0, -2, 1.5, "x"),
            "max_grad_norm": (-1, NAN, "x"),
            "early_stopping_patience": (0, -1, 1.5, 3, "x"),
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    CALLS[name].check((ValueError, TypeError, IndexError, OSError, FloatingPointError))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
