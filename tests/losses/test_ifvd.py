"""Intra-class feature variation: a loop over pixels, images of their own, and who weighs what."""

import pytest
import torch
from losses import loops
from losses.tolerance import assert_close

from hf_ltkd import IFVDLoss, intra_class_variation_loss


GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (
    torch.randn(2, channels, 4, 6, dtype=torch.float64, generator=GENERATOR) + 0.5 for channels in (3, 5)
)
LABELS = torch.randint(3, (2, 4, 6), generator=GENERATOR)
LABELS[1, :, 4:] = -100  # of 24 and 16 pixels


def of_images(student, teacher):
    """Each image by a loop, and how many of its pixels count."""
    for image, labels in enumerate(LABELS):
        counts = labels != -100
        rows = [maps[image].permute(1, 2, 0)[counts].tolist() for maps in (student, teacher)]
        yield loops.ifvd(*rows, labels[counts].tolist()), int(counts.sum())


def test_a_loop_over_pixels():
    (first, n), (second, m) = of_images(STUDENT, TEACHER)
    assert first > 0.05 and second > 0.05
    student = STUDENT.clone().requires_grad_()
    found = intra_class_variation_loss(student, TEACHER, LABELS)
    assert_close(found, (n * first + m * second) / (n + m), 5 * 24, 4)
    assert torch.autograd.gradcheck(lambda maps: intra_class_variation_loss(maps, TEACHER, LABELS), student)
    half = intra_class_variation_loss(STUDENT.half(), TEACHER.half(), LABELS)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(found.item(), rel=0.02)


def test_what_changes_nothing():
    """Another length of a pixel's features, and another order of the pixels."""
    expected = intra_class_variation_loss(STUDENT, TEACHER, LABELS)
    assert_close(intra_class_variation_loss(7 * STUDENT, TEACHER / 3, LABELS), expected, 5 * 24, 4)
    turned = (x.flip(-1).transpose(-2, -1) for x in (STUDENT, TEACHER, LABELS))
    assert_close(intra_class_variation_loss(*turned), expected, 5 * 24, 4)
    assert intra_class_variation_loss(STUDENT, STUDENT, LABELS) == 0
    assert intra_class_variation_loss(STUDENT, TEACHER, torch.full_like(LABELS, -100)) == 0


def test_the_loss_is_the_function_over_images():
    teacher = TEACHER[:, :3]
    (first, n), (second, m) = of_images(STUDENT, teacher)
    rows = STUDENT.permute(0, 2, 3, 1), teacher.permute(0, 2, 3, 1), LABELS
    term = IFVDLoss()(*rows, image_ids=torch.arange(2))["intra_class_variation"]
    assert_close(term, 200 * (n * first + m * second) / (n + m), 5 * 24, 200 * 4)
    # A pixel that weighs twice is there twice: in the mean of its class, too.
    weights = torch.randint(3, LABELS.shape, generator=GENERATOR)
    copies = weights[LABELS != -100]
    images = torch.arange(2)[:, None, None].expand_as(LABELS)
    several = [x[LABELS != -100].repeat_interleave(copies, 0) for x in (*rows, images)]
    found = IFVDLoss()(*rows, image_ids=torch.arange(2), sample_weights=weights)
    expected = IFVDLoss()(*several[:3], image_ids=several[3])
    assert_close(found["intra_class_variation"], expected["intra_class_variation"], 5 * 48, 200 * 4)


@pytest.mark.parametrize(
    "student, teacher, labels, message",
    [
        (STUDENT[0], TEACHER, LABELS, r"Student maps have the shape \(3, 4, 6\): give \[batch, channels"),
        (STUDENT, TEACHER[:, :, :3], LABELS, r"shape \(2, 3, 6, 5\) and labels of shape \(2, 4, 6\) do not fit"),
        (STUDENT, TEACHER, LABELS.clamp(max=-1), "IFVD needs the class of each example, and some have none"),
        (STUDENT, TEACHER, STUDENT, "IFVD needs the class of each example and cannot take soft labels"),
    ],
)
def test_wrong_inputs(student, teacher, labels, message):
    with pytest.raises(ValueError, match=message):
        intra_class_variation_loss(student, teacher, labels)
