"""Teacher and student with image processors of their own: each gets its own pixels of the same view."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessor, MobileViTImageProcessor, ViTImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput

from hf_ltkd import ClassGroups, DistillationTrainer, DistillationTrainingArguments, ImageDataset, KDLoss, TeacherCache
from hf_ltkd.analysis import group_report
from hf_ltkd.data import DataArguments, LazyImageDataset, load_image_data
from hf_ltkd.data.lazy import random_resized_crop_box, shifted_box
from hf_ltkd.data.pixels import Resampling
from hf_ltkd.data.processors import pixels_of
from hf_ltkd.data.views import random_bits
from hf_ltkd.teacher.cache import CachedTeacherDataset
from hf_ltkd.utils import student_inputs, teacher_inputs


def processor(size=8, **settings):
    return ViTImageProcessor(size={"height": size, "width": size}, **settings)


STUDENT = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
TEACHER = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two classes of images of 8 × 8, and `photos` of many shapes."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name, shape in (("small", lambda: (8, 8)), ("photos", lambda: tuple(rng.integers(20, 60, 2)))):
        for split, count in (("train", 12), ("test", 6)):
            images = [PILImage.fromarray(rng.integers(0, 256, (*shape(), 3), dtype=np.uint8)) for _ in range(count)]
            features = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee"])})
            data = Dataset.from_dict({"image": images, "label": [i % 2 for i in range(count)]}, features=features)
            (tmp_path / name).mkdir(exist_ok=True)
            data.to_parquet(str(tmp_path / name / f"{split}.parquet"))
    return tmp_path


def load(folder, crop="padded", **kwargs):
    args = DataArguments(data_dir=str(folder), crop=crop, crop_padding=2, image_size=8)
    return load_image_data(args, seed=3, progress=False, **kwargs)


def items(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


def stacked(dataset, name="pixel_values"):
    return torch.stack([item[name] for item in items(dataset)])


def undone(values, settings):
    """Pixels scaled to 0..1 again."""
    return (
        values * torch.tensor(settings["image_std"])[:, None, None]
        + torch.tensor(settings["image_mean"])[:, None, None]
    )


@pytest.mark.parametrize("crop, kind", [("padded", ImageDataset), ("resized", LazyImageDataset)])
def test_one_view_two_normalisations(crop, kind, folder):
    data = load(folder / "small", crop, processor=processor(**STUDENT), teacher_processor=processor(**TEACHER))
    alone = load(folder / "small", crop, processor=processor(**STUDENT))
    for dataset, same in ((data.train, alone.train), (data.test, alone.test)):
        assert isinstance(dataset, kind)
        views = []
        for view in range(3):
            dataset.set_epoch(view)
            same.set_epoch(view)
            student, teacher = stacked(dataset), stacked(dataset, "teacher_pixel_values")
            assert torch.equal(student, stacked(same)) and "teacher_pixel_values" not in items(same)[0]
            torch.testing.assert_close(undone(student, STUDENT), undone(teacher, TEACHER), rtol=0, atol=1e-6)
            views.append(student)
        assert torch.equal(views[0], views[1]) != dataset.augment


@pytest.mark.parametrize("augment", [True, False])
def test_sizes_filters_and_channel_orders_of_one_crop(augment, folder):
    """Against the crop that the seed chooses, resized by Pillow, and each processor without its own resizing."""
    square = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}, "size": {"shortest_edge": 20}}
    blue_first = MobileViTImageProcessor(**square, resample=Resampling.BILINEAR)
    bicubic = processor(12, resample=Resampling.BICUBIC, **TEACHER)
    data = load(folder / "photos", "resized", processor=blue_first, teacher_processor=bicubic)
    dataset = data.train if augment else data.test
    dataset.set_epoch(2)
    for index, item in enumerate(items(dataset)):
        image = dataset._images[index]["image"]
        if not augment:
            for name, own in (("pixel_values", blue_first), ("teacher_pixel_values", bicubic)):
                expected = own(image, return_tensors="pt")["pixel_values"][0]
                torch.testing.assert_close(item[name], expected, rtol=0, atol=1e-5)
            continue
        bits = random_bits(3, np.array([index], dtype=np.uint64), 2)[0]
        crop = image.crop(random_resized_crop_box(*image.size, bits))
        mirror = bool(bits >> np.uint64(62) & np.uint64(1))
        crops = [crop.resize((s, s), f) for s, f in ((16, Resampling.BILINEAR), (12, Resampling.BICUBIC))]
        student, teacher = (np.asarray(c) / 255 for c in crops)
        student = torch.tensor(student[..., ::-1].copy()).permute(2, 0, 1)
        teacher = (
            (torch.tensor(teacher) - torch.tensor(TEACHER["image_mean"])) / torch.tensor(TEACHER["image_std"])
        ).permute(2, 0, 1)
        for name, expected in (("pixel_values", student), ("teacher_pixel_values", teacher)):
            expected = expected.flip(-1) if mirror else expected
            torch.testing.assert_close(item[name], expected.float(), rtol=0, atol=1e-5)


def test_shifted_views_of_two_sizes(folder):
    """The student's are those of images in memory; the teacher's are the same shift of the image before resizing."""
    data = load(folder / "small", processor=processor(**STUDENT), teacher_processor=processor(24, **STUDENT))
    in_memory = load(folder / "small", processor=processor(**STUDENT))
    assert isinstance(data.train, LazyImageDataset) and isinstance(in_memory.train, ImageDataset)
    for view in range(3):
        data.train.set_epoch(view)
        in_memory.train.set_epoch(view)
        assert torch.equal(stacked(data.train), stacked(in_memory.train))
    bits = random_bits(3, np.array([5], dtype=np.uint64), 2)
    image = data.train._images[5]["image"].crop(shifted_box(8, 8, 2 / 8, bits[0]))
    expected = processor(24, **STUDENT)(image, return_tensors="pt")["pixel_values"][0]
    expected = expected.flip(-1) if bits[0] >> np.uint64(62) & np.uint64(1) else expected
    torch.testing.assert_close(data.train[5]["teacher_pixel_values"], expected, rtol=0, atol=2e-2)  # mirrored after


def test_the_same_pixels_are_handed_out_once(folder):
    for crop in ("padded", "resized"):
        data = load(folder / "small", crop, processor=processor(**STUDENT), teacher_processor=processor(**STUDENT))
        alone = load(folder / "small", crop, processor=processor(**STUDENT))
        assert set(data.train[0]) == set(data.test[0]) == {"pixel_values", "labels"}
        assert data.train.fingerprint == alone.train.fingerprint
    crops = [CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": 8, "width": 8}) for edge in (8, 10)]
    data = load(folder / "photos", "resized", processor=crops[0], teacher_processor=crops[1])
    assert "teacher_pixel_values" not in data.train[0]  # they differ in evaluation alone
    assert "teacher_pixel_values" in data.test[0]


@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_fingerprint_is_of_both(crop, folder):
    def fingerprint(student, teacher=None):
        return load(folder / "small", crop, processor=student, teacher_processor=teacher).train.fingerprint

    own = processor(**STUDENT)
    others = [processor(**TEACHER), processor(12, **STUDENT), processor(resample=Resampling.BICUBIC, **TEACHER)]
    found = [fingerprint(own), *(fingerprint(own, teacher) for teacher in others), fingerprint(others[0])]
    assert len(set(found[:3])) == 3 and found[4] not in found[:4]
    assert fingerprint(processor(**STUDENT), processor(**TEACHER)) == found[1]


def test_a_processor_changes_nothing_for_our_own_networks(folder):
    """Fingerprints, and so caches, are those of mean and deviation alone."""
    for crop in ("padded", "resized"):
        plain = load(folder / "photos", crop, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
        again = load(folder / "photos", crop, processor=plain.image_processor)
        assert plain.train.fingerprint == again.train.fingerprint and plain.mean == again.mean == [0.1, 0.2, 0.3]
        for one, other in ((plain.train, again.train), (plain.test, again.test)):
            assert torch.equal(stacked(one), stacked(other))


@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_saved_processor_makes_the_test_images(crop, folder):
    for kwargs in ({}, {"processor": processor(12, resample=Resampling.BICUBIC, do_rescale=False)}):
        data = load(folder / "photos", crop, **kwargs)
        expected = data.image_processor([row["image"] for row in images_of(folder)], return_tensors="pt")
        seen = stacked(data.test)
        torch.testing.assert_close(seen, expected["pixel_values"], rtol=1e-5, atol=1e-5)
        assert data.args.image_size == seen.shape[-1]


def images_of(folder):
    return Dataset.from_parquet(str(folder / "photos" / "test.parquet"))


class Contrast(ViTImageProcessor):
    """Of one's own, and no map of bytes."""

    def __call__(self, images, **kwargs):
        made = super().__call__(images, **kwargs)
        made["pixel_values"] = made["pixel_values"] / made["pixel_values"].std()
        return made


def test_pixels_that_are_no_bytes_are_made_each_time(folder):
    own = Contrast(size={"height": 8, "width": 8})
    data = load(folder / "photos", processor=own)
    assert isinstance(data.train, LazyImageDataset) and data.train.padding == 2 / 8
    expected = torch.stack([own(row["image"], return_tensors="pt")["pixel_values"][0] for row in images_of(folder)])
    assert torch.equal(stacked(data.test), expected)
    torch.testing.assert_close(stacked(data.train).std((1, 2, 3)), torch.ones(12))


def test_mean_and_std_of_a_processor_are_its_own(folder):
    load(folder / "small", processor=processor(**TEACHER), mean=TEACHER["image_mean"], std=TEACHER["image_std"])
    with pytest.raises(ValueError, match=r"mean=\[0.5, 0.5, 0.5\] is not what ViTImageProcessor\w* subtracts"):
        load(folder / "small", processor=processor(**TEACHER), mean=[0.5] * 3, std=[0.5] * 3)


# ---- Who sees what ----


def test_for_one_of_them(folder):
    data = load(folder / "small", processor=processor(**STUDENT), teacher_processor=processor(**TEACHER))
    student, teacher = data.train.for_student(), data.train.for_teacher()
    student.set_epoch(4)
    assert data.train.view == teacher.view == 4
    assert set(student[0]) == set(teacher[0]) == {"pixel_values", "labels"}
    assert torch.equal(stacked(student), stacked(data.train))
    assert torch.equal(stacked(teacher), stacked(data.train, "teacher_pixel_values"))
    assert student.fingerprint == teacher.fingerprint == data.train.fingerprint


def test_inputs_of_a_batch():
    batch = {"pixel_values": 1, "teacher_pixel_values": 2, "mask": 3}
    assert student_inputs(batch) == {"pixel_values": 1, "mask": 3}
    assert teacher_inputs(batch) == {"pixel_values": 2, "mask": 3}


class Network(nn.Module):
    """Remembers what it was shown; logits are linear in the mean of each channel."""

    def __init__(self, seed):
        super().__init__()
        self.head = nn.Linear(3, 2)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(seed))
        self.shown = []

    def forward(self, pixel_values, labels=None):
        self.shown.append(pixel_values.detach())
        return ImageClassifierOutput(logits=self.head(pixel_values.mean((2, 3))))


@pytest.fixture(params=["padded", "resized"])
def pair(folder, request):
    return load(
        folder / "small", request.param, processor=processor(**STUDENT), teacher_processor=processor(**TEACHER)
    )


def test_reports_show_the_teacher_its_own_pixels(pair):
    teacher = Network(0)
    group_report(teacher, pair.test, ClassGroups.from_counts([6, 6], num_groups=2))
    assert torch.equal(torch.cat(teacher.shown), stacked(pair.test, "teacher_pixel_values"))


@pytest.mark.parametrize("cached", [False, True])
def test_training_shows_each_its_own_pixels(cached, pair, tmp_path):
    teacher, student = Network(0), Network(1)
    source = teacher
    if cached:
        source = TeacherCache.build(tmp_path / "logits", teacher, pair.train, views=2, batch_size=4, progress=False)
        item = CachedTeacherDataset(pair.train, source)[0]
        assert set(item) == {"pixel_values", "labels", "teacher_logits"}
    args = DistillationTrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True, eval_strategy="epoch",
    )  # fmt: skip
    student.shown.clear()
    trainer = DistillationTrainer(
        student, source, args, distillation_loss=KDLoss(), train_dataset=pair.train, eval_dataset=pair.test
    )
    trainer.train()

    def all_shown(name):
        rows = []
        for view in range(2):
            pair.train.set_epoch(view)
            rows += stacked(pair.train, name).flatten(1).tolist()
        return sorted(rows)

    training = [batch for batch in student.shown if len(batch) == 4]
    assert sorted(torch.cat(training).flatten(1).tolist()) == all_shown("pixel_values")
    shown = torch.cat(teacher.shown).flatten(1)
    assert {*map(tuple, shown.tolist())} == {*map(tuple, all_shown("teacher_pixel_values"))}
    if cached:
        pair.train.set_epoch(1)
        expected = teacher(stacked(pair.train, "teacher_pixel_values")).logits
        torch.testing.assert_close(source.logits(range(12), view=1), expected, rtol=1e-5, atol=1e-6)


def test_workers_and_batches_give_the_same(pair):
    pair.train.set_epoch(1)
    expected = stacked(pair.train, "teacher_pixel_values")
    batches = DataLoader(pair.train, 5, num_workers=2)
    assert torch.equal(torch.cat([batch["teacher_pixel_values"] for batch in batches]), expected)


def test_images_of_two_sizes_in_memory():
    small, large = (torch.zeros(2, 3, side, side, dtype=torch.uint8) for side in (8, 12))
    how = {"labels": [0, 1], "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(
        ValueError, match=r"shape \(2, 3, 1, 1, 12, 12\).*they must be the same images in the same size"
    ):
        ImageDataset(small, **how, teacher=ImageDataset(large, **how))


def test_neither_pixels_nor_normalisation():
    images = Dataset.from_dict({"image": [PILImage.new("RGB", (8, 8))]}).cast_column("image", Image())
    with pytest.raises(ValueError, match="Neither mean and std nor pixels are given"):
        LazyImageDataset(images, "image", [0])
    pixels = pixels_of(processor(**TEACHER))
    expected = processor(**TEACHER)(PILImage.new("RGB", (8, 8)), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(LazyImageDataset(images, "image", [0], pixels=pixels)[0]["pixel_values"], expected)
