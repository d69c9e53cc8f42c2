"""Image and mask in one view: as a slow way draws them, the same from any loader, refused by name."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from transformers import BeitImageProcessorPil, MobileNetV2ImageProcessorPil, MobileViTImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_ltkd.data import SegmentationDataset, read_mask_folder, read_masks
from hf_ltkd.data.mask_files import has_masks
from hf_ltkd.data.processors import pixels_of
from hf_ltkd.data.segmentation import scaled_box
from hf_ltkd.data.views import random_bits


SIZE = {"height": 24, "width": 32}
PROCESSOR = SegformerImageProcessorPil(size=SIZE)
PIXELS = pixels_of(PROCESSOR)
CLASSES = 5
SIZES = ((64, 48), (96, 64))  # of images, width and height


def scene(seed: int, width: int = 64, height: int = 48) -> tuple[PILImage.Image, np.ndarray]:
    """An image whose colour says which class its pixel is of: blocks, so that edges are few."""
    ids = np.random.default_rng(seed).integers(0, CLASSES, (height // 16, width // 16)).repeat(16, 0).repeat(16, 1)
    return PILImage.fromarray(np.stack([ids * 60, 255 - ids * 60, ids * 0 + 100], -1).astype(np.uint8)), ids


def data(count: int = 6, sizes: tuple = SIZES) -> Dataset:
    scenes = [scene(i, *sizes[i % len(sizes)]) for i in range(count)]
    rows = {
        "image": [image for image, _ in scenes],
        "mask": [PILImage.fromarray(m.astype(np.uint8)) for _, m in scenes],
    }
    return Dataset.from_dict(rows, features=Features({"image": Image(), "mask": Image()}))


def views(augment: bool = True, **arguments) -> SegmentationDataset:
    arguments = {"num_classes": CLASSES, "processor": PIXELS} | arguments
    return SegmentationDataset(arguments.pop("dataset", None) or data(), augment=augment, **arguments)


def stacked(dataset: SegmentationDataset) -> dict[str, torch.Tensor]:
    items = [dataset[i] for i in range(len(dataset))]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SHIFTS = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]


def test_what_the_trainer_gets():
    [batch] = DataLoader(views(), 6)
    assert batch["pixel_values"].shape == (6, 3, 24, 32) and batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].shape == (6, 24, 32) and batch["labels"].dtype == torch.int64
    assert set(batch["labels"].unique().tolist()) <= {*range(CLASSES), 255}


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("batch_size, num_workers", [(4, 0), (1, 2)])
def test_any_loader_gives_the_same_views(augment, batch_size, num_workers):
    dataset = views(augment)
    dataset.set_epoch(3)
    batches = [*DataLoader(dataset, batch_size, num_workers=num_workers)]
    assert same({name: torch.cat([b[name] for b in batches]) for name in batches[0]}, stacked(dataset))


def test_epochs_and_seeds_differ_and_come_back():
    dataset = views()
    first = stacked(dataset)
    dataset.set_epoch(1)
    assert not same(stacked(dataset), first) and not same(stacked(views(seed=1)), first)
    dataset.set_epoch(0)
    assert same(stacked(dataset), first) and same(stacked(views()), first)


def test_evaluation_is_what_the_processor_makes():
    """Pixels and masks alike, of processors that resize to a size, and that crop the centre."""
    for processor in (PROCESSOR, MobileNetV2ImageProcessorPil(size={"shortest_edge": 40}, crop_size=SIZE)):
        dataset = views(False, processor=processor)
        for i, row in enumerate(data()):
            made = processor(row["image"], segmentation_maps=row["mask"], return_tensors="pt")
            assert torch.equal(dataset[i]["labels"], made["labels"][0])
            torch.testing.assert_close(dataset[i]["pixel_values"], made["pixel_values"][0], rtol=0, atol=1e-5)


def plain_view(ids, box, flip, size) -> list[list[set[int]]]:
    """
    The id that lies below the middle of each pixel of the view, 255 beyond the image; both, where it is on an edge
    between two pixels.
    """
    left, top, right, bottom = box
    height, width = size
    padded = {(y, x): int(ids[y, x]) for y in range(ids.shape[0]) for x in range(ids.shape[1])}

    def around(start, end, pixel, pixels):
        middle = start + (pixel + 0.5) * (end - start) / pixels
        return {math.floor(middle - 1e-6), math.floor(middle + 1e-6)}

    rows = [around(top, bottom, y, height) for y in range(height)]
    columns = [around(left, right, width - 1 - x if flip else x, width) for x in range(width)]
    return [[{padded.get((y, x), 255) for y in ys for x in xs} for xs in columns] for ys in rows]


def agreement(levels, labels) -> float:
    """Where the colour, which says the class of a pixel, is that of its label."""
    valid = labels != 255
    return ((levels / 60 - labels).abs() < 0.5)[valid].float().mean().item()


def colour(pixel_values, pixels=PIXELS):
    return (pixel_values[0] * pixels.std[0] + pixels.mean[0]) * 255


@pytest.mark.parametrize("scale", [(0.5, 0.7), (1, 1), (1.5, 2.0)])
def test_masks_by_a_plain_loop_and_images_beside_them(scale):
    dataset = views(scale=scale)
    dataset.set_epoch(2)
    bits = random_bits(0, np.arange(6, dtype=np.uint64), 2)
    agree = dict.fromkeys(SHIFTS, 0.0)
    for i in range(6):
        image, ids = scene(i, *SIZES[i % 2])
        box = scaled_box(image.width, image.height, PIXELS, scale, bits[i])
        flip = bool(bits[i] >> np.uint64(62) & np.uint64(1))
        item = dataset[i]
        labels, red = item["labels"], colour(item["pixel_values"])
        expected = plain_view(ids, box, flip, (24, 32))
        assert all(
            label in known
            for row, these in zip(labels.tolist(), expected, strict=True)
            for label, known in zip(row, these, strict=True)
        )
        for shift in SHIFTS:
            agree[shift] += agreement(red, labels.roll(shift, (0, 1)))
        beyond = torch.nn.functional.max_pool2d((labels != 255).float()[None], 5, 1, 2)[0] == 0
        assert (red[beyond].abs() < 1e-3).all() and beyond.any() == (scale[0] < 0.7)
    assert max(agree, key=agree.get) == (0, 0)  # the mask lies where the image does, to the pixel


def test_boxes_scale_the_image_as_evaluation_does():
    bits = random_bits(0, np.arange(300, dtype=np.uint64), 0)
    boxes = np.array([scaled_box(640, 480, PIXELS, (0.5, 2.0), b) for b in bits])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    factor = 640 / widths
    assert np.allclose(640 / widths, 480 / heights, atol=0.01)
    assert factor.min() < 0.55 and factor.max() > 1.9 and abs(factor.mean() - 1.25) < 3 * 1.5 / 12**0.5 / 300**0.5
    inside = widths <= 640
    assert (boxes[inside][:, 0] >= 0).all() and (boxes[inside][:, 2] <= 640).all()
    around = boxes[~inside]
    assert (around[:, 0] <= 0).all() and (around[:, 2] >= 640).all()
    assert len(np.unique(around[:, 0])) > 50 and len(np.unique(boxes[inside][:, 1])) > 50
    cropped = pixels_of(MobileNetV2ImageProcessorPil(size={"shortest_edge": 40}, crop_size=SIZE))
    left, top, right, bottom = scaled_box(120, 80, cropped, (1, 1), bits[0])
    assert (right - left, bottom - top) == (64, 48)  # half as large in evaluation


def test_a_teacher_sees_the_same_view_in_its_own_size():
    teacher = BeitImageProcessorPil(size={"height": 48, "width": 64}, do_center_crop=False)
    for augment in (False, True):
        dataset = views(augment, teacher_processor=teacher)
        item, alone = dataset[1], views(augment)[1]
        assert item["teacher_pixel_values"].shape == (3, 48, 64)
        assert torch.equal(item["labels"], alone["labels"]) and torch.equal(
            item["pixel_values"], alone["pixel_values"]
        )
        assert same(dataset.for_student()[1], alone)
        own = dataset.for_teacher()[1]
        assert torch.equal(own["pixel_values"], item["teacher_pixel_values"]) and own["labels"].shape == (48, 64)
        assert len(own) == 2
        levels = colour(own["pixel_values"], pixels_of(teacher))
        agree = {shift: agreement(levels, own["labels"].roll(shift, (0, 1))) for shift in SHIFTS}
        assert max(agree, key=agree.get) == (0, 0)
    assert "teacher_pixel_values" not in views(teacher_processor=PROCESSOR)[0]


def test_reduced_labels_by_default_where_the_processor_says_so():
    rows = data()
    reducing = SegformerImageProcessorPil(size=SIZE, do_reduce_labels=True)
    made = views(False, processor=reducing, num_classes=4, dataset=rows)[0]["labels"]
    plain = views(False)[0]["labels"]
    assert torch.equal(made, torch.where(plain == 0, 255, plain - 1))
    assert torch.equal(views(False, processor=reducing, reduce_labels=False)[0]["labels"], plain)


def test_a_transform_changes_colours_alone():
    dataset, plain = views(transform=lambda image: image.point(lambda level: 255 - level)), views()
    for i in range(6):
        changed, item = dataset[i], plain[i]
        assert torch.equal(changed["labels"], item["labels"])
        both = [(t["pixel_values"][1] * PIXELS.std[1] + PIXELS.mean[1]) * 255 for t in (changed, item)]
        torch.testing.assert_close(both[0] + both[1], torch.full((24, 32), 255.0), rtol=0, atol=0.01)
    assert "transform" in dataset.augmentation and dataset.augmentation["scale"] == (0.5, 2.0)
    with pytest.raises(ValueError, match="The transform made 8 × 8 pixels of 24 × 32"):
        views(transform=lambda image: image.resize((8, 8)))[0]


def test_camvid(data_dir):
    """Every training view of a real image shows its own classes, and evaluation is the image and its mask."""
    if not (data_dir / "camvid").is_dir():
        pytest.skip("the data has no folder camvid")
    rows = Dataset.from_parquet(str(data_dir / "camvid" / "validation.parquet"), keep_in_memory=True).select(range(8))
    processor = pixels_of(SegformerImageProcessorPil(size={"height": 180, "width": 240}))
    test, train = (SegmentationDataset(rows, num_classes=11, processor=processor, augment=a) for a in (False, True))
    for i, row in enumerate(rows):
        ids = np.asarray(row["mask"])
        assert (test[i]["labels"].numpy() == ids).all()
        assert {*train[i]["labels"].unique().tolist()} <= {*np.unique(ids).tolist(), 255}


def pair_columns(image, mask, feature=None) -> Dataset:
    features = Features({"image": Image(), "mask": feature or Image()})
    return Dataset.from_dict({"image": [image], "mask": [mask]}, features=features)


BLACK = PILImage.new("RGB", (8, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_column": "photo"}, "no column 'photo': .* the images as image_column"),
        ({"mask_column": "labels"}, "no column 'labels': .* the masks as mask_column"),
        ({"num_classes": 0}, "num_classes=0 is not valid"),
        ({"num_classes": 300}, "ignore_index=255 is one of the 300 classes"),
        ({"scale": (2.0, 0.5)}, r"scale=\(2.0, 0.5\) is not valid: give the smallest"),
        ({"scale": (0, 1)}, "both above 0"),
        ({"scale": 2}, "scale=2 is not valid"),
        ({"seed": None}, "seed=None is not valid"),
        ({"augment": False, "transform": lambda image: image}, "transform is for training views"),
        (
            {"processor": MobileViTImageProcessorPil()},
            "MobileViTImageProcessorPil .* no mask can follow: set",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        views(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (BLACK, np.zeros((8, 6), np.uint8), r"mask of row 0 is of 8 × 6 .* its image of row 0 of 6 × 8: a mask must"),
        (BLACK, np.full((6, 8), 9, np.uint8), "mask of row 0 has the id 9"),
        (BLACK, None, "There is no mask of row 0"),
        ({"path": "none.png", "bytes": None}, np.zeros((6, 8), np.uint8), "The image 'none.png' cannot be read"),
    ],
)
def test_wrong_pairs(image, mask, message):
    mask = None if mask is None else PILImage.fromarray(mask)
    with pytest.raises(ValueError, match=message):
        views(dataset=pair_columns(image, mask))[0]


def test_masks_as_arrays():
    image, ids = scene(0)
    as_array = pair_columns(image, ids.tolist(), List(List(Value("int32"))))
    as_file = pair_columns(image, PILImage.fromarray(ids.astype(np.uint8)))
    assert same(views(dataset=as_array)[0], views(dataset=as_file)[0])


# ---- folders ----


def write_pair(images, masks, name: str, seed: int = 0) -> None:
    image, ids = scene(seed)
    for folder, made, suffix in ((images, image, ".jpg"), (masks, PILImage.fromarray(ids.astype(np.uint8)), ".png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        made.save(folder / (name + suffix))


@pytest.mark.parametrize("masks", ["masks", "annotations"])
@pytest.mark.parametrize("layout", ["splits inside", "splits outside", "training alone"])
def test_folders(tmp_path, layout, masks):
    splits = {"training": "train"} if layout == "training alone" else {"training": "train", "val": "validation"}
    for folder in splits:
        for i, name in enumerate(("b", "town/a")):
            parts = (tmp_path / "images", tmp_path / masks)
            if layout == "splits inside":
                parts = tuple(part / folder for part in parts)
            elif layout == "splits outside":
                parts = (tmp_path / folder / "images", tmp_path / folder / masks)
            write_pair(*parts, name, i)
    read = read_masks(tmp_path)
    assert {*read} == {*splits.values()}
    for split in read.values():
        dataset = views(False, dataset=split)
        for i in range(2):
            assert (dataset.example(i)[1] == scene(i)[1]).all()


@pytest.mark.parametrize(
    "files", [("train.parquet", "val.parquet"), ("data/training-0.parquet", "data/dev-0.parquet")]
)
def test_parquet_files(tmp_path, files):
    for count, file in zip((3, 2), files, strict=True):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        data(count).to_parquet(tmp_path / file)
    read = read_masks(tmp_path)
    assert {name: len(split) for name, split in read.items()} == {"train": 3, "validation": 2}
    assert (views(False, dataset=read["validation"]).example(1)[1] == scene(1, 96, 64)[1]).all()


def test_which_folders_hold_masks(tmp_path):
    assert not has_masks(tmp_path)
    (tmp_path / "cats").mkdir()
    data(1).to_parquet(tmp_path / "cats" / "train.parquet")
    assert has_masks(tmp_path)
    data(1).add_column("label", [0]).to_parquet(tmp_path / "cats" / "train.parquet")
    assert not has_masks(tmp_path)  # images of a class each that have masks, too
    for name in ("val/images", "val/annotations"):
        (tmp_path / name).mkdir(parents=True)
    assert has_masks(tmp_path)


@pytest.mark.parametrize(
    "folders", [("images/train", "masks/train", "images/test"), ("train/images", "train/masks", "val/images")]
)
def test_a_split_without_masks_is_named(tmp_path, folders):
    for folder in folders:
        write_pair(tmp_path / folder, tmp_path / "elsewhere", "a", 0)
        for path in (tmp_path / folder).iterdir():
            path.rename(path.with_suffix(".png"))
    with pytest.warns(UserWarning, match="The (test|validation) split in .* is not used: it lacks images or masks"):
        assert [*read_masks(tmp_path)] == ["train"]


def test_pairs_that_are_not_whole_can_be_listed(tmp_path):
    for name in "abc":
        write_pair(tmp_path / "images", tmp_path / "masks", name, 0)
    next((tmp_path / "masks").glob("b.*")).unlink()
    problems = []
    assert len(read_masks(tmp_path, problems)["train"]) == 2
    assert len(problems) == 1 and "1 of the 3 images in" in problems[0]
    with pytest.raises(ValueError) as raised:
        read_masks(tmp_path)
    assert [str(raised.value)] == problems


def test_data_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="'me/nowhere' is no folder here of parquet files or of images/ and masks/"):
        read_masks("me/nowhere")
    data(1).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="has the splits test, but none to train on: call one 'train'"):
        read_masks(tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="no dataset of the Hub that can be loaded: "):
        read_masks(tmp_path)


def test_wrong_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder '.*nowhere'"):
        read_mask_folder(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="holds images/, and no training images with masks: expected images/ and"):
        read_mask_folder(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="images' holds no image"):
        read_mask_folder(tmp_path)
    for name in "abc":
        write_pair(tmp_path / "images", tmp_path / "masks", name)
    (tmp_path / "masks" / "b.png").rename(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"1 of the 3 images in '.*images' have no mask of the same name \(b.jpg\)"):
        read_mask_folder(tmp_path)
    (tmp_path / "b.png").rename(tmp_path / "masks" / "b.png")
    (tmp_path / "images" / "c.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of the 3 masks in '.*masks' have no image of the same name \(c.png\)"):
        read_mask_folder(tmp_path)
    write_pair(tmp_path / "images", tmp_path / "masks", "c")
    (tmp_path / "images" / "c.jpg").rename(tmp_path / "images" / "a.jpeg")
    with pytest.raises(ValueError, match="a.jpeg' and '.*a.jpg' have the same name"):
        read_mask_folder(tmp_path)
