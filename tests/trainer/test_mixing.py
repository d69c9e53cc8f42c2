"""mixup and CutMix against the papers' formulas by hand, and the same step however it is split."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_step import tiny_vit
from test_trainer import GROUPS, images, trainer_for

from hf_ltkd import DistillationTrainingArguments, DKDLoss, KDLoss, LTKDLoss, TeacherCache
from hf_ltkd.trainer.mixing import Draw, draw, mix


def batch(size=5):
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(size, 3, 8, 8, generator=generator),
        "teacher_pixel_values": torch.randn(size, 3, 16, 16, generator=generator),
        "labels": torch.arange(size) % 6,
    }


PARTNER = [1, 0, 3, 2, 4]


def test_mixup():
    given = batch()
    mixed = mix(given, Draw(0.7), 6)
    for name in ("pixel_values", "teacher_pixel_values"):
        expected = 0.7 * given[name] + 0.3 * given[name][PARTNER]
        torch.testing.assert_close(mixed[name], expected)
    one_hot = F.one_hot(given["labels"], 6).float()
    torch.testing.assert_close(mixed["labels"], 0.7 * one_hot + 0.3 * one_hot[PARTNER])


def test_cutmix():
    """The box of the teacher's 16 pixels is that of the student's 8; the label's part is its area."""
    given = batch()
    mixed = mix(given, Draw(0.9, (0.25, 0.5, 0.75, 1.0)), 6)
    for name, side in (("pixel_values", 8), ("teacher_pixel_values", 16)):
        expected = given[name].clone()
        rows, columns = slice(side // 4, 3 * side // 4), slice(side // 2, side)
        expected[:, :, rows, columns] = given[name][PARTNER][:, :, rows, columns]
        assert torch.equal(mixed[name], expected)
    one_hot = F.one_hot(given["labels"], 6).float()
    torch.testing.assert_close(mixed["labels"], 0.75 * one_hot + 0.25 * one_hot[PARTNER])


def test_marks():
    """Neighbours of which one alone has a class, or is padding, stay as they are."""
    given = batch(6)
    given["labels"] = torch.tensor([2, -1, 3, -100, -1, -1])
    mixed = mix(given, Draw(0.7), 6)
    rows = [[0, 0, 1, 0, 0, 0], [-1] * 6, [0, 0, 0, 1, 0, 0], [-100] * 6, [-1] * 6, [-1] * 6]
    assert mixed["labels"].tolist() == [pytest.approx(row) for row in rows]
    assert torch.equal(mixed["pixel_values"][:4], given["pixel_values"][:4])
    torch.testing.assert_close(
        mixed["pixel_values"][4], 0.7 * given["pixel_values"][4] + 0.3 * given["pixel_values"][5]
    )
    again = mix(mixed, Draw(0.5), 6)  # soft labels may be mixed, too
    torch.testing.assert_close(again["labels"], mixed["labels"])
    del given["labels"]
    assert "labels" not in mix(given, Draw(0.7), 6)


def test_what_is_drawn():
    """Beta(alpha, alpha), CutMix in half of the steps, its box of the area 1 - lambda where nothing is cut off."""
    args = DistillationTrainingArguments(mixup_alpha=2.0, cutmix_alpha=0.5, seed=3)
    draws = [draw(args, step) for step in range(2000)]
    assert draws == [draw(args, step) for step in range(2000)]
    for is_cutmix, alpha in ((False, 2.0), (True, 0.5)):
        shares = [d.share for d in draws if (d.box is not None) == is_cutmix]
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(len(shares) - 1000) < 5 * np.sqrt(500)
        assert abs(np.mean(shares) - 0.5) < 5 * np.sqrt(variance / len(shares))
        assert np.var(shares) == pytest.approx(variance, rel=0.25)
    for d in draws:
        top, left, bottom, right = d.box or (0, 0, 0, 0)
        area = (bottom - top) * (right - left)
        assert 0 <= top <= bottom <= 1 and 0 <= left <= right <= 1 and area <= 1 - d.share + 1e-12
        if d.box and 0 < top and 0 < left and bottom < 1 and right < 1:
            assert area == pytest.approx(1 - d.share)


def train(folder, batch_size, accumulation, labels, settings):
    """One step: the student's weights, and the logs."""
    data = images(32)
    if labels is not None:
        data.labels = torch.tensor(labels)
    args = {"max_steps": 1, "per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    args |= {"learning_rate": 0.1, "optim": "sgd", "logging_steps": 1, "max_grad_norm": 0.0, **settings}
    loss = LTKDLoss(GROUPS, alpha=1.0, beta=1.0, temperature=1.0, ce="balanced_softmax")
    model, teacher = tiny_vit(1), tiny_vit(2, confidence=500.0)
    trainer = trainer_for(folder, loss=loss, model=model, teacher=teacher, args=args, train_dataset=data)
    trainer.train()
    logs = {k: trainer.state.log_history[0][k] for k in ("loss", "balanced_softmax", "cross_group", "within_group")}
    return {n: p.detach().numpy() for n, p in trainer.model.named_parameters()}, logs


def assert_same_step(first, second):
    assert first[1] == pytest.approx(second[1], rel=1e-4)
    for name, weight in first[0].items():
        np.testing.assert_allclose(second[0][name], weight, rtol=1e-4, atol=2e-6, err_msg=name)


HALF = [i % 6 if i % 5 < 2 else -1 for i in range(32)]
STEPS = [({"mixup_alpha": 1.0}, None), ({"cutmix_alpha": 1.0}, None), ({}, HALF), ({"mixup_alpha": 1.0}, HALF)]


@pytest.mark.parametrize("settings, labels", STEPS, ids=["mixup", "cutmix", "unlabelled", "mixup, unlabelled"])
def test_one_optimizer_step_is_one_batch(two_ranks, tmp_path, settings, labels):
    """1 × 32, 4 × 8, and 2 ranks × 4 × 4."""
    whole = train(tmp_path, 32, 1, labels, settings)
    assert_same_step(whole, train(tmp_path, 8, 4, labels, settings))
    for rank in two_ranks(train, tmp_path, 4, 4, labels, settings):
        assert_same_step(whole, rank)


def test_resumed_as_if_never_stopped(tmp_path):
    args = {"save_strategy": "steps", "save_steps": 2, "mixup_alpha": 0.4, "cutmix_alpha": 1.0, "max_steps": 4}
    whole = trainer_for(tmp_path / "whole", args=args)
    whole.train()
    trainer_for(tmp_path / "part", args=args | {"max_steps": 2, "lr_scheduler_type": "constant"}).train()
    resumed = trainer_for(tmp_path / "whole", args=args)
    resumed.train(str(tmp_path / "whole" / "checkpoint-2"))
    for expected, weight in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(expected, weight)


def test_refused_before_training(tmp_path):
    args = {"mixup_alpha": 0.2}
    with pytest.raises(ValueError, match="mixup_alpha=0.2 .* do not go with DKDLoss, which needs the one class"):
        trainer_for(tmp_path, loss=DKDLoss(), args=args)
    cache = TeacherCache.build(tmp_path / "cache", tiny_vit(2), images(32), views=1, progress=False)
    with pytest.raises(
        ValueError, match="do not go with a TeacherCache, whose logits are for images that are not mixed"
    ):
        trainer_for(tmp_path, loss=KDLoss(), teacher=cache, args=args)
    with pytest.raises(ValueError, match="cutmix_alpha=-1 is not valid"):
        DistillationTrainingArguments(cutmix_alpha=-1)
