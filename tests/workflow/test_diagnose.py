"""Whom a teacher favours, and where the losses would go."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, load_dataset
from datasets import Image as ImageColumn
from photos import accuracy_by_hand
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    SegformerImageProcessorPil,
    set_seed,
)

from hf_ltkd import ClassGroups, create_model, diagnose
from hf_ltkd.cli import main
from hf_ltkd.data import DataArguments
from hf_ltkd.data.holdout import load_or_hold_out
from hf_ltkd.workflow import recommend


@pytest.mark.usefixtures("pictures")
def test_the_bias_is_what_the_teacher_answers(home, tmp_path):
    (tmp_path / "bias.png").touch()  # that of an earlier run
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
    assert result.weights.values["temperature"] == (2 if by_hand.mean() >= 0.5 else 1)
    assert result.num_groups.values == {"num_groups": 3}
    assert Image.open(tmp_path / "bias.png").height > 800 and result.picture == tmp_path / "bias.png"


def test_the_loss_of_a_student_in_two_groups(home, tmp_path, monkeypatch):
    """KD's shares by hand from Eq. 8, over the first epoch's whole batches of 64, at temperature 2."""
    monkeypatch.setattr(recommend, "SHARP", 0)
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
        p, q = ((model(pixels).logits.double() / 2).softmax(1) for model in (teacher, student))
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


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """Scenes as parquet files, with a teacher and a student of another size of pixels that know nothing."""
    folder = tmp_path_factory.mktemp("streets")
    for seed, (split, count) in enumerate({"train": 9, "test": 4}.items()):
        random = np.random.default_rng(seed)
        masks = np.sort(random.choice(5, (count, 24, 32), p=[0.5, 0.3, 0.1, 0.06, 0.04]), axis=1)
        masks[:, 0] = 255
        pixels = np.stack([masks * 40, 200 - masks * 30, masks * 0], axis=-1).clip(0, 255).astype(np.uint8)
        columns = {"image": [*map(Image.fromarray, pixels)], "mask": [*map(Image.fromarray, masks.astype(np.uint8))]}
        features = Features({"image": ImageColumn(), "mask": ImageColumn()})
        Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / f"{split}.parquet")
    for name, size in (("teacher", (24, 32)), ("student", (48, 64))):
        set_seed(len(name))
        create_model("upernet_4", 5).save_pretrained(folder / name)
        SegformerImageProcessorPil(size={"height": size[0], "width": size[1]}).save_pretrained(folder / name)
    return folder


@pytest.mark.usefixtures("pictures")
def test_a_teacher_of_pixels(streets, tmp_path, capsys):
    """Its share of each group and its IoU by hand, from files and image processor; what the command says of them."""
    picture = tmp_path / "bias.png"
    command = ["diagnose", "--teacher", str(streets / "teacher"), "--data", str(streets / "data")]
    assert main([*command, "--student", str(streets / "student"), "--picture", str(picture)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    model = AutoModelForSemanticSegmentation.from_pretrained(streets / "teacher").eval()
    processor = AutoImageProcessor.from_pretrained(streets / "teacher")
    groups = ClassGroups.from_masks(load_dataset(str(streets / "data"), split="train"))
    mass, confusion = torch.zeros(5, dtype=torch.float64), torch.zeros(5, 5)
    for example in load_dataset(str(streets / "data"), split="test"):
        mask = torch.from_numpy(np.array(example["mask"])).long()
        with torch.no_grad():
            logits = model(**processor(example["image"], return_tensors="pt")).logits[0].double()
        mass += logits.softmax(0)[:, mask != 255].sum(1)
        confusion.index_put_((mask[mask != 255], logits.argmax(0)[mask != 255]), torch.tensor(1.0), accumulate=True)
    right = confusion.diagonal()
    iou = right / (confusion.sum(0) + confusion.sum(1) - right)
    for group, name in enumerate(groups.names):
        of_group = groups.group_of_class == group
        share, due = mass[of_group].sum() / mass.sum(), confusion[of_group].sum() / confusion.sum()
        words = (
            f"{name} gets {share:.1%} of its probability for {due:.1%} of the pixels, IoU {iou[of_group].mean():.1%}"
        )
        assert words in said
    assert "of the student" in said and "part of the loss between groups within head" in said
    with Image.open(picture) as drawn:
        assert drawn.height > 1000


def test_pixels_in_python(streets, tmp_path):
    """A student that is the teacher has nothing to learn, in groups of one's own number."""
    teacher, data = str(streets / "teacher"), str(streets / "data")
    result = diagnose(teacher, data, student=teacher, num_groups=2, picture=tmp_path / "bias.png", batch_size=2)
    assert result.loss_shares["KD"] == pytest.approx([0, 0, 0], abs=1e-5)
    assert len(result.bias.probability) == 2 and sum(result.bias.images) == 4 * 23 * 32


def test_wrong_settings_for_pixels(streets, home):
    with pytest.raises(ValueError, match="--match_labels does not go with --task semantic-segmentation"):
        diagnose(str(streets / "teacher"), str(streets / "data"), match_labels=True)
    with pytest.raises(ValueError, match="The student .* is CifarResNet.*, which does not give each pixel a class"):
        diagnose(str(streets / "teacher"), str(streets / "data"), student=home.student)
    with pytest.raises(ValueError, match="--mask_column is for --task semantic-segmentation"):
        diagnose(home.teacher, home.photos, mask_column="mask")
