"""Whom a teacher favours, and where the losses would go."""

import pytest
import torch
import torch.nn.functional as F
from photos import accuracy_by_hand
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_ltkd import ClassGroups, diagnose
from hf_ltkd.data import DataArguments
from hf_ltkd.data.holdout import load_or_hold_out


def test_the_bias_is_what_the_teacher_answers(home, tmp_path):
    result = diagnose(home.teacher, home.photos, picture=tmp_path / "bias.png")
    data, _ = load_or_hold_out(DataArguments(data_dir=home.photos, image_size=8), progress=False)
    teacher = AutoModelForImageClassification.from_pretrained(home.teacher).eval()
    pixels = torch.stack([item["pixel_values"] for item in data.test.__getitems__(list(range(6)))])
    with torch.no_grad():
        share = teacher(pixels).logits.softmax(1).mean(0)
    assert result.bias.probability == pytest.approx(share.tolist(), abs=1e-5)
    by_hand = accuracy_by_hand(home.teacher, home.photos)
    assert result.bias.accuracy["tail_accuracy"] == pytest.approx(by_hand[2])
    assert list(home.comparison.teacher_probability.values()) == pytest.approx(share.tolist(), abs=1e-5)
    # One class a group: within it there is nothing to learn, and all of both losses is between the groups.
    assert result.loss_shares == {"KD": [1, 0, 0, 0], "LTKD(1, 1)": [1, 0, 0, 0]}
    assert result.weights.values["temperature"] == 1 and result.num_groups.values == {"num_groups": 3}
    assert Image.open(tmp_path / "bias.png").height > 800 and result.picture == tmp_path / "bias.png"


def test_the_loss_of_a_student_in_two_groups(home, tmp_path):
    """KD's shares by hand from Eq. 8, over the first epoch's whole batches of 64."""
    result = diagnose(
        home.teacher, home.photos, student=home.student, num_groups=2, picture=str(tmp_path / "bias.png")
    )
    assert result.student == home.student
    teacher, student = (
        AutoModelForImageClassification.from_pretrained(m).eval() for m in (home.teacher, home.student)
    )
    groups = ClassGroups.from_counts([38, 18, 8], 2)
    assert result.images.groups.to_dict() == groups.to_dict()
    pixels = torch.stack([item["pixel_values"] for item in result.images.data.train.__getitems__(list(range(64)))])
    with torch.no_grad():
        p, q = (model(pixels).logits.double().softmax(1) for model in (teacher, student))
    member = F.one_hot(groups.group_of_class, 2).double()
    group_p, group_q = p @ member, q @ member
    kl = (p * (p.log() - q.log())).sum(1).mean()
    between = (group_p * (group_p.log() - group_q.log())).sum(1).mean()
    assert result.loss_shares["KD"][0] == pytest.approx((between / kl).item(), rel=1e-4)
    assert sum(result.loss_shares["LTKD(1, 1)"]) == pytest.approx(1)


def test_a_student_that_is_the_teacher_has_nothing_to_learn(home, tmp_path):
    result = diagnose(home.teacher, home.photos, student=home.teacher, picture=tmp_path / "bias.png")
    assert result.loss_shares["KD"] == [0, 0, 0, 0]


def test_errors(home, tmp_path):
    with pytest.raises(ValueError, match="There is no image classifier"):
        diagnose(tmp_path / "nothing", home.photos)
    with pytest.raises(ValueError, match="no setting 'pictures', did you mean 'picture'"):
        diagnose(home.teacher, home.photos, pictures="x.png")
    assert not list(tmp_path.iterdir())
