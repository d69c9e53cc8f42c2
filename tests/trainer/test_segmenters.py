"""Semantic segmentation in the trainer: grids, ignored pixels, splits of a step, families of models, refusals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segmenters import CLASSES, FAMILIES, GROUPS, losses, one_step, scenes, segformer, trainer_for, upernet
from torch import nn

from hf_ltkd import (
    CATKDLoss,
    CrossEntropyLoss,
    CWDLoss,
    DISTLoss,
    DKDLoss,
    KDLoss,
    LTKDLoss,
    ReviewKDLoss,
    balanced_softmax_loss,
    channel_wise_loss,
    dkd_loss,
    kd_loss,
    ltkd_loss,
)
from hf_ltkd.teacher.loading import load_model


def batch_of(data):
    return {name: torch.stack([item[name] for item in data]) for name in data[0]}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path, family):
    """As student and as teacher; `eval_loss` is what the model's own loss is over the pixels of the whole set."""
    for student, teacher in ((FAMILIES[family](), segformer(2)), (segformer(1), FAMILIES[family]())):
        trainer = trainer_for(tmp_path, student, teacher, LTKDLoss(GROUPS), per_device_eval_batch_size=5)
        trainer.train()
        assert {"cross_entropy", "cross_group", "within_group"} < trainer.state.log_history[0].keys()
        assert all(parameter.grad is None for parameter in teacher.parameters())
        metrics = trainer.evaluate()
    trainer = trainer_for(tmp_path, FAMILIES[family](), None, CrossEntropyLoss(), per_device_eval_batch_size=5)
    student, batch = trainer.model.eval(), batch_of(scenes())
    masks = batch["labels"].masked_fill(batch["labels"] == -100, 255)
    metrics = trainer.evaluate()
    with torch.no_grad():
        outputs = student(pixel_values=batch["pixel_values"], labels=masks)
    logits = F.interpolate(outputs.logits, masks.shape[1:], mode="bilinear", align_corners=False)
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits, masks, ignore_index=255).item(), rel=1e-5)
    if not getattr(student.config, "use_auxiliary_head", False):
        assert metrics["eval_loss"] == pytest.approx(outputs.loss.item(), rel=1e-5)
    right = (logits.argmax(1) == masks)[masks != 255].double().mean().item()
    assert metrics["eval_accuracy"] == pytest.approx(right, rel=1e-9)


def rows_by_a_loop(student, teacher, batch, grid):
    """Logits and label of each pixel that counts, found one by one in float64."""
    with torch.no_grad():
        student, teacher = (n.double()(pixel_values=batch["pixel_values"].double()).logits for n in (student, teacher))
    size = student.shape[2:] if grid == "student" else batch["labels"].shape[1:]
    student, teacher = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (student, teacher))
    rows, height, width = [], *batch["labels"].shape[1:]
    for image in range(len(student)):
        for y in range(size[0]):
            for x in range(size[1]):
                # The pixel that the centre of the coarser one lies in.
                label = batch["labels"][image, int((y + 0.5) * height / size[0]), int((x + 0.5) * width / size[1])]
                if label not in (255, -100):
                    rows.append((student[image, :, y, x], teacher[image, :, y, x], label))
    return (torch.stack(values) for values in zip(*rows, strict=True))


@pytest.mark.parametrize("grid", ["student", "labels"])
def test_a_loop_over_pixels(tmp_path, grid):
    batch = batch_of(scenes(6))
    networks = segformer(1, confidence=100.0).eval(), upernet(use_auxiliary_head=True).eval()
    with torch.no_grad():
        networks[1].decode_head.classifier.weight.mul_(100)  # teacher and student differ
    student, teacher, labels = rows_by_a_loop(*networks, batch, grid)
    networks[0].float(), networks[1].float()
    counts = GROUPS.class_counts
    expected = {
        LTKDLoss(GROUPS, ce="balanced_softmax"): balanced_softmax_loss(student, labels, counts)
        + ltkd_loss(student, teacher, GROUPS),
        KDLoss(): F.cross_entropy(student, labels) + kd_loss(student, teacher),
        DKDLoss(ce_weight=0): dkd_loss(student, teacher, labels),
    }
    for loss, value in expected.items():
        trainer = trainer_for(tmp_path, *networks, loss, logits_grid=grid)
        found = trainer.compute_loss(networks[0].train(), dict(batch))
        networks[0].eval()
        assert found.item() == pytest.approx(value.item(), rel=1e-4), type(loss).__name__


def test_the_step_is_the_same_however_it_is_split(two_ranks, tmp_path):
    names = [*losses()]
    whole = one_step(str(tmp_path / "a"), names, 8, 1, 1)
    first, second = two_ranks(one_step, str(tmp_path / "b"), names, 2, 2, 2)
    others = {"rank 0": first, "rank 1": second}
    for how, other in others.items():
        for name, (weights, logs) in whole.items():
            other_weights, other_logs = other[name]
            for key, value in weights.items():
                np.testing.assert_allclose(other_weights[key], value, rtol=1e-4, atol=2e-6, err_msg=f"{how} {name}")
            terms = {"cross_group", "within_group", "channel_wise", "kd", "intra_class_variation"} & logs.keys()
            for key in ["loss", "cross_entropy", *terms, "eval_loss", "eval_mean_iou", "eval_tail_accuracy"]:
                if key in logs:
                    assert other_logs[key] == pytest.approx(logs[key], rel=1e-4), (how, name, key)


def test_group_mass_per_image():
    """An image of one class decides as much as any other, however large it is."""
    torch.manual_seed(0)
    teacher, sizes = 3 * torch.randn(70, CLASSES, dtype=torch.float64), [10, 60]
    ids = torch.arange(2).repeat_interleave(torch.tensor(sizes))
    probs = torch.zeros(70, GROUPS.num_groups, dtype=torch.float64)
    probs.index_add_(1, GROUPS.group_of_class, teacher.softmax(1))
    per_image = LTKDLoss(GROUPS, temperature=1.0, mass_per_image=True).batch_statistics(teacher, image_ids=ids)
    torch.testing.assert_close(per_image.exp(), probs[:10].mean(0) + probs[10:].mean(0))
    whole = LTKDLoss(GROUPS, temperature=1.0).batch_statistics(teacher, image_ids=ids)
    torch.testing.assert_close(whole.exp(), probs.sum(0))


def test_asking_for_the_grid_leaves_no_trace(tmp_path):
    student = upernet(use_auxiliary_head=False)
    trainer = trainer_for(tmp_path, student, None, CrossEntropyLoss())
    student.train()
    student.backbone.eval()  # somebody keeps a part as it is
    before = {name: value.clone() for name, value in student.state_dict().items()}
    modes, random = [module.training for module in student.modules()], torch.get_rng_state()
    batch = trainer.calls.on_grid(batch_of(scenes()))
    assert batch["labels"].shape == (8, 32, 32) and set(batch["labels"].unique().tolist()) <= {-100, *range(CLASSES)}
    assert trainer.calls.on_grid(batch) is batch
    assert modes == [module.training for module in student.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_student_that_is_made_for_the_training(tmp_path):
    """`model_init` may make one of another stride than it made before."""
    made = iter([segformer(1), FAMILIES["mobilenet"]()])
    trainer = trainer_for(tmp_path, None, segformer(2), KDLoss(), model_init=lambda: next(made))
    trainer.train()
    assert trainer.calls.on_grid(batch_of(scenes()))["labels"].shape == (8, 4, 4)


def test_channel_wise_loss_by_a_loop():
    torch.manual_seed(0)
    student, teacher = 5 * torch.randn(2, 2, 3, 4, 6, dtype=torch.float64)
    student.requires_grad_()
    total = 0.0
    for image in range(2):
        for channel in range(3):
            log_p, log_q = ((x[image, channel].flatten() / 4).log_softmax(0) for x in (teacher, student))
            total = total + F.kl_div(log_q, log_p, log_target=True, reduction="sum")
    expected = 4**2 * total / (2 * 3)
    found = channel_wise_loss(student, teacher)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda x: channel_wise_loss(x, teacher), student)
    large = torch.tensor([1e4, -1e4, 0.0, 0.0]).view(1, 1, 2, 2)
    assert torch.isfinite(channel_wise_loss(large, -large)) and channel_wise_loss(large, large) == 0
    # The loss is over the pixels that count: as the function on maps without the others.
    labels = torch.zeros(2, 4, 6, dtype=torch.long)
    labels[1, :, 4:] = -100
    terms = CWDLoss(cwd_weight=2.0)(
        student.permute(0, 2, 3, 1), teacher.permute(0, 2, 3, 1), labels, image_ids=torch.arange(2)
    )
    parts = channel_wise_loss(student[:1], teacher[:1]), channel_wise_loss(student[1:, ..., :4], teacher[1:, ..., :4])
    torch.testing.assert_close(terms["channel_wise"], sum(parts))  # 2 times their mean


def test_evaluation_with_the_teacher(tmp_path):
    for loss, names in ((LTKDLoss(GROUPS), ["cross_group", "within_group"]), (CWDLoss(), ["channel_wise"])):
        trainer = trainer_for(
            tmp_path, segformer(1), segformer(2, 300.0), loss, eval_with_teacher=True, per_device_eval_batch_size=8
        )
        metrics = trainer.evaluate()
        total = trainer.compute_loss(trainer.model.train(), batch_of(scenes())).item()
        on_grid = trainer.calls.on_grid(batch_of(scenes()))
        pixels = trainer.calls.compared(trainer.model(pixel_values=on_grid["pixel_values"]), on_grid)
        cross_entropy = F.cross_entropy(pixels.permute(0, 3, 1, 2), on_grid["labels"]).item()
        assert sum(metrics[f"eval_{name}"] for name in names) == pytest.approx(total - cross_entropy, rel=1e-4)


def test_a_student_comes_back(tmp_path):
    trainer = trainer_for(tmp_path, upernet(), segformer(2), DISTLoss())
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    model = load_model(tmp_path)
    assert type(model).__name__ == "UperNetForSemanticSegmentation"
    trainer.create_model_card(dataset="scenes")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    scores = trainer.compute_metrics.scores()
    ious = " | ".join(f"{100 * scores[name]:.1f}" for name in ("head_iou", "medium_iou", "tail_iou", "mean_iou"))
    assert f"| this student | {ious} |" in card and "pipeline_tag: image-segmentation" in card
    assert f"| head | 5000 | {100 * scores['class_accuracy'][0]:.1f} | {100 * scores['class_iou'][0]:.1f} |" in card
    weights = trainer.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


class Classifier(nn.Module):
    def forward(self, pixel_values):
        return pixel_values.mean((2, 3))


@pytest.mark.parametrize(
    "student, teacher, loss, arguments, message",
    [
        (segformer, segformer, ReviewKDLoss, {}, "ReviewKDLoss compares feature maps of classifiers"),
        (segformer, segformer, CATKDLoss, {}, "CATKDLoss compares feature maps of classifiers"),
        (segformer, lambda: [segformer(), segformer()], KDLoss, {}, "Several teachers are classifiers .* a Segformer"),
        (segformer, Classifier, KDLoss, {}, "The teacher is a Classifier and the student a Segformer"),
        (Classifier, Classifier, CWDLoss, {}, "CWDLoss compares where in an image a class is, and a Classifier does"),
        (segformer, segformer, KDLoss, {"cutmix_alpha": 1.0}, "make soft labels of whole images, and masks have none"),
        (segformer, segformer, KDLoss, {"logits_grid": "teacher"}, "logits_grid='teacher' is not known"),
    ],
)
def test_wrong_pairs(tmp_path, student, teacher, loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, student(), teacher(), loss(), **arguments)


def test_wrong_labels(tmp_path):
    trainer = trainer_for(tmp_path, segformer(1), None, CrossEntropyLoss())
    batch = batch_of(scenes())
    for labels, message in (
        (batch["labels"][:, 0], r"shape \(8, 32\) and torch.int64: give the class id of each pixel"),
        (batch["labels"].float(), "torch.float32: give the class id of each pixel"),
        (batch["labels"].clamp_min(7), r"The labels hold \d+, outside the classes 0 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.compute_loss(trainer.model.train(), {**batch, "labels": labels})
