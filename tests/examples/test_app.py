"""The demo page: its numbers against `pipeline` and plain sums, its errors, and the page itself as a Space runs it."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import use_hub
from huggingface_hub import HfApi
from PIL import Image, ImageFile
from transformers import (
    MobileNetV2ImageProcessorPil,
    SegformerImageProcessorPil,
    ViTImageProcessor,
    dynamic_module_utils,
    pipeline,
    set_seed,
)

from hf_ltkd import ClassGroups, create_model
from hf_ltkd.data.pixels import to_rgb
from hf_ltkd.hub.push import add_code


# Not imported when tests are collected, which takes seconds.
without_gradio = importlib.util.find_spec("gradio") is None
pytestmark = pytest.mark.skipif(without_gradio, reason="pip install gradio for the demo page")
SCRIPT = Path(__file__).parents[2] / "examples" / "app.py"
NAMES = ["<img src=x onerror=alert(1)>", "a & b", "${c}", "{{d}}", '"e"', "f", "g"]
GROUPS = ClassGroups([0, 0, 1, 1, 1, 2, 2], class_counts=[9000, 80, 50, 40, 30, 3, 2])


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("app", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(folder, network, names=NAMES, side=8):
    model = create_model(network, len(names), image_size=side, id2label=dict(enumerate(names)))
    model.save_pretrained(folder)
    add_code(folder, model)
    size = {"height": side, "width": side}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.2] * 3, do_convert_rgb=True).save_pretrained(
        folder
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher that reads 12 × 12 pixels, a student that reads 8 × 8, and an image of 32 × 24."""
    folder = tmp_path_factory.mktemp("app")
    set_seed(0)
    save(folder / "teacher", "resnet14", side=12)
    save(folder / "student", "resnet8")
    GROUPS.save_pretrained(folder / "student")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def classifiers(app, folder):
    return [app.Classifier.load(role, str(folder / role)) for role in ("teacher", "student")]


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "CMYK", "P", "1"])
def test_probabilities_are_those_of_the_pipeline(app, folder, classifiers, tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image = Image.open(folder / "image.png")
    (image if mode == "RGBA" else image.convert("RGB").convert(mode)).save(path)
    comparison = app.compare(app.read_image(path), classifiers, app.load_groups(str(folder / "student"), 7))
    expected = []
    for role in ("teacher", "student"):
        scores = pipeline("image-classification", str(folder / role), device="cpu")(str(path), top_k=7)
        expected.append({score["label"]: score["score"] for score in scores})
    assert [model["best"] for model in comparison["models"]] == [max(scores, key=scores.get) for scores in expected]
    for entry in comparison["classes"]:
        assert entry["probabilities"] == pytest.approx([scores[entry["name"]] for scores in expected], abs=1e-6)
        class_id = NAMES.index(entry["name"])
        assert entry["group"] == ("head", "head", "medium", "medium", "medium", "tail", "tail")[class_id]
        assert entry["count"] == GROUPS.class_counts[class_id]
    listed = {entry["name"] for entry in comparison["classes"]}
    assert listed == {name for scores in expected for name in sorted(scores, key=scores.get)[-5:]}
    highest = [max(entry["probabilities"]) for entry in comparison["classes"]]
    assert highest == sorted(highest, reverse=True)
    for group, members in zip(comparison["groups"], (NAMES[:2], NAMES[2:5], NAMES[5:]), strict=True):
        sums = [sum(scores[name] for name in members) for scores in expected]
        assert group["probabilities"] == pytest.approx(sums, abs=1e-6) and group["classes"] == len(members)


@pytest.fixture(scope="module")
def segmenters(app, tmp_path_factory):
    """A teacher that reads squares of 24 × 24 pixels, and a student that reads the middle of an image, as 16 × 16."""
    folder, classifiers = tmp_path_factory.mktemp("segmenters"), []
    resize = {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
    for role, processor in {
        "teacher": SegformerImageProcessorPil(size={"height": 24, "width": 24}),
        "student": MobileNetV2ImageProcessorPil(**resize),
    }.items():
        set_seed(len(role))
        model = create_model("upernet_4", 7, id2label=dict(enumerate(NAMES)))
        with torch.no_grad():
            model.decode_head.classifier.weight.mul_(100)
        model.save_pretrained(folder / role)
        processor.save_pretrained(folder / role)
        classifiers.append(app.Classifier.load(role, str(folder / role)))
    return classifiers


def test_where_segmentations_see_which_class(app, folder, segmenters):
    """Class ids are those of `post_process_semantic_segmentation` on the part of the image that a network sees."""
    image, groups = app.read_image(folder / "image.png"), GROUPS.to_dict()
    parts = [image, image.crop((6, 2, 26, 22))]  # 32 × 24 scaled by 20 / 24, of which 16 × 16: the middle 19.2
    comparison = app.compare(image, segmenters, groups)
    shares = []
    for model, classifier, part in zip(comparison["models"], segmenters, parts, strict=True):
        assert model["image"].size == part.size
        np.testing.assert_array_equal(np.asarray(model["image"]), np.asarray(part))
        outputs = classifier.model(**classifier.processor(image, return_tensors="pt"))
        sizes = [part.size[::-1]]
        (expected,) = SegformerImageProcessorPil().post_process_semantic_segmentation(outputs, sizes)
        np.testing.assert_array_equal(model["ids"], expected.numpy())
        shares.append((expected.flatten().bincount(minlength=7) / expected.numel()).tolist())
        mean = outputs.logits[0].softmax(0).mean((1, 2))
        of_group = [mean[GROUPS.group_of_class == g].sum().item() for g in range(3)]
        index = segmenters.index(classifier)
        assert [g["probabilities"][index] for g in comparison["groups"]] == pytest.approx(of_group, abs=1e-6)
    for entry in comparison["classes"]:
        assert entry["pixels"] == pytest.approx([share[entry["id"]] for share in shares])
    assert {entry["id"] for entry in comparison["classes"]} == {c for c in range(7) if max(s[c] for s in shares)}
    order = [int(GROUPS.group_of_class[entry["id"]]) for entry in comparison["classes"]]
    assert order == sorted(order) and len(set(order)) > 1


def test_overlay_and_its_legend(app, folder, segmenters):
    comparison = app.compare(app.read_image(folder / "image.png"), segmenters, GROUPS.to_dict())
    *overlays, bars, networks, classes = app.present(comparison)
    for (image, masks), model in zip(overlays, comparison["models"], strict=True):
        assert image is model["image"] and set(sum(mask for mask, _ in masks).ravel()) == {0.6}  # a class a pixel
        for mask, label in masks:
            group, name = label.split(": ", 1)
            np.testing.assert_array_equal(mask > 0, model["ids"] == NAMES.index(name))
            assert group == GROUPS.names[GROUPS.group_of_class[NAMES.index(name)]]
    assert [row[:3] for row in classes] == [
        [c["group"], c["name"], f"{GROUPS.class_counts[c['id']]:,}"] for c in comparison["classes"]
    ]
    assert len(networks) == 2 and len(bars) == 6
    page = app.build_page(segmenters, GROUPS.to_dict(), [])
    parts = [part for part in page.blocks.values() if not isinstance(part, app.gr.blocks.BlockContext)]
    kinds = sorted(type(part).__name__ for part in parts)
    assert kinds == ["AnnotatedImage"] * 2 + ["BarPlot", "Dataframe", "Dataframe", "Image", "Markdown"]
    colors = next(part for part in parts if type(part).__name__ == "AnnotatedImage").color_map
    assert len(set(colors.values())) == 7 and {label for _, masks in overlays for _, label in masks} <= set(colors)


def test_segmentation_alone_without_groups(app, segmenters):
    comparison = app.compare(Image.new("RGB", (2000, 500)), segmenters[1:], None)
    assert comparison["models"][0]["image"].size == (400, 400)
    (_, masks), table, classes = app.present(comparison)
    assert {label for _, label in masks} <= set(NAMES) and classes[0][0] == classes[0][2] == ""


def test_a_teacher_of_the_other_kind(app, classifiers, segmenters):
    with pytest.raises(ValueError, match="The teacher gives each pixel a class, the student each image one"):
        app.check_labels(segmenters[0], classifiers[1])


def test_size_and_latency(app, classifiers, monkeypatch):
    clock = iter([0, 5, 0, 1, 0, 3, 0, 2, 0, 9])  # seconds: five passes of 5, 1, 3, 2 and 9
    monkeypatch.setattr(app.time, "perf_counter", lambda: next(clock))
    (model,) = app.compare(Image.new("RGB", (8, 8)), classifiers[1:], None)["models"]
    weights = classifiers[1].model.state_dict()
    assert model["milliseconds"] == 3000
    assert model["parameters"] == sum(p.numel() for p in classifiers[1].model.parameters())
    # The rest are batch normalisation's statistics in float32 and its counters in int64.
    extra = sum(
        8 if name.endswith("tracked") else 4 * w.numel()
        for name, w in weights.items()
        if "running" in name or name.endswith("tracked")
    )
    assert model["megabytes"] == pytest.approx((4 * model["parameters"] + extra) / 1e6)


def test_student_alone_without_groups(app, folder, classifiers, tmp_path):
    shutil.copytree(folder / "student", tmp_path, dirs_exist_ok=True)
    (tmp_path / "class_groups.json").unlink()
    assert app.load_groups(str(tmp_path), 7) is None
    comparison = app.compare(Image.new("RGB", (8, 8)), classifiers[1:], None)
    assert comparison["groups"] == [] and len(comparison["classes"]) == 5
    likeliest, table = app.present(comparison)
    assert likeliest == {entry["name"]: entry["probabilities"][0] for entry in comparison["classes"]}
    assert table == [["student", table[0][1], f"{comparison['models'][0]['parameters']:,}", table[0][3]]]


def test_names_are_never_markup(app, classifiers):
    """Labels, axes and cells are plain text; only the title is Markdown."""
    page = app.build_page(classifiers, {**GROUPS.to_dict(), "names": ["<script>", "m", "t"]}, [])
    parts = [part for part in page.blocks.values() if not isinstance(part, app.gr.blocks.BlockContext)]
    kinds = [type(part).__name__ for part in parts]
    assert sorted(kinds) == ["BarPlot", "Dataframe", "Image", "Label", "Label", "Markdown"]
    table = parts[kinds.index("Dataframe")]
    assert table.datatype == "str" and table.headers[1] == "<script>, %"
    assert "<script>" not in parts[kinds.index("Markdown")].value


def test_files_that_are_no_photograph(app, tmp_path, monkeypatch):
    """Whatever they are called: a PostScript file must not come to Ghostscript."""

    def not_to_be_called(*args, **kwargs):
        raise AssertionError("this file was opened")

    path = tmp_path / "image.png"
    path.write_text("no image")
    contents = [path.read_bytes(), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"]
    Image.effect_noise((64, 64), 50).save(path)
    contents.append(path.read_bytes()[:1000])
    Image.new("RGB", (8, 8)).save(path, "ppm")
    contents.append(path.read_bytes())
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", not_to_be_called)
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="This file cannot be read as an image: give one of BMP, GIF, JPEG, PNG"):
            app.read_image(path)


@pytest.mark.parametrize("side", [8_000, 20_000])  # 20,000: more than Pillow opens
def test_images_that_would_fill_the_memory(app, tmp_path, monkeypatch, side):
    path = tmp_path / "image.png"
    Image.new("1", (side, side)).save(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="more than 50 million pixels: make it smaller first"):
        app.read_image(path)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_photographs_of_every_format(app, tmp_path, kind):
    Image.new("RGB", (40, 20), (250, 5, 5)).save(tmp_path / "image", kind)
    image = app.read_image(tmp_path / "image")
    assert image.size == (40, 20) and image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[10, 10], (250, 5, 5), atol=10)  # the loss of JPEG and WebP


WILD = {
    "I;16": np.array([[0, 300], [40000, 65535]], dtype=np.uint16),
    "I": np.array([[0, 300], [40000, 65535]], dtype=np.int32),
    "I, large": np.array([[-5, 300], [40000, 655350]], dtype=np.int32),
    "F": np.array([[0, 0.25], [0.5, 1]], dtype=np.float32),
    "F, no number": np.array([[np.nan, 0.25], [0.5, 300]], dtype=np.float32),
    "F, one value": np.full((2, 2), 1e6, dtype=np.float32),
    "RGBA": np.array([[[10, 20, 30, 0], [10, 20, 30, 128]]], dtype=np.uint8),
    "L": np.array([[7]], dtype=np.uint8),
}


@pytest.mark.parametrize("kind", WILD)
def test_images_of_every_mode_are_those_of_the_training(app, kind):
    image = Image.fromarray(WILD[kind])
    np.testing.assert_array_equal(np.asarray(app.to_rgb(image)), np.asarray(to_rgb(image, on_white=False)))


def test_photographs_stand_upright(app, tmp_path):
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "image.jpg", exif=orientation)
    assert app.read_image(tmp_path / "image.jpg").size == (20, 40)


def test_a_models_own_code_runs_only_when_the_user_says_so(app, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # gets that folder too
    shutil.copytree(folder / "student", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "of_nobody_here"}))
    with pytest.raises(ValueError, match="is no image classifier .* contains custom code"):
        app.Classifier.load("student", str(tmp_path))
    model = app.Classifier.load("student", str(tmp_path), trust_remote_code=True).model
    assert type(model).__module__.startswith("transformers_modules.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --student, or set the variable STUDENT"),
        (["--student", "{}/nowhere/at/all"], "nowhere/at/all' is no image classifier with an image processor"),
        (["--student", "{}/unprepared"], "unprepared' is no image classifier with an image processor"),
        (["--student", "{}/student", "--teacher", "{}/six"], "The teacher has 6 classes, the student 7"),
        (
            ["--student", "{}/student", "--teacher", "{}/other"],
            "Class 6 is 'G' for the teacher and 'g' for the student",
        ),
        (["--student", "{}/regrouped"], "is of 3 classes, the student has 7"),
        (["--student", "{}/student", "--examples", "{}/student"], "must be a folder with images"),
    ],
)
def test_wrong_arguments_are_explained(app, folder, tmp_path, monkeypatch, capsys, arguments, message):
    save(tmp_path / "six", "resnet8", NAMES[:6])
    save(tmp_path / "other", "resnet8", [*NAMES[:5], "LABEL_5", "G"])  # a class without a name goes with any
    for name in ("student", "unprepared", "regrouped"):
        shutil.copytree(folder / "student", tmp_path / name)
    (tmp_path / "unprepared" / "preprocessor_config.json").unlink()
    ClassGroups([0, 1, 2]).save_pretrained(tmp_path / "regrouped")
    monkeypatch.delenv("STUDENT", raising=False)
    monkeypatch.delenv("TEACHER", raising=False)
    monkeypatch.setattr(sys, "argv", ["app.py", *(argument.format(tmp_path) for argument in arguments)])
    with pytest.raises(SystemExit):
        app.main()
    assert message in capsys.readouterr().err


OPEN = """
import json, os, runpy, sys
import gradio as gr
from gradio_client import Client, handle_file

opened, launch = [], gr.Blocks.launch

def launch_and_go_on(page, **arguments):
    opened.append(page)
    launch(page, **arguments, prevent_thread_lock=True, quiet=True)

gr.Blocks.launch = launch_and_go_on
os.environ.update(variables)
sys.argv = ["app.py"]
runpy.run_path(script, run_name="__main__")
gr.Blocks.launch = launch
client = Client(opened[0].local_url, verbose=False)
answer = [client.predict(path and handle_file(path), api_name="/compare") for path in (*images, None)]
opened[0].close()
"""


@pytest.mark.slow
def test_page_as_a_space(app, hub, elsewhere, folder, classifiers, tmp_path):
    """From a Hub on loopback, without `hf_ltkd`, asked over HTTP."""
    with use_hub(hub, tmp_path):
        for role in ("teacher", "student"):
            HfApi().create_repo(f"me/demo_{role}")
            HfApi().upload_folder(repo_id=f"me/demo_{role}", folder_path=folder / role)
    (tmp_path / "text.png").write_text("no image")
    variables = {"STUDENT": "me/demo_student", "TEACHER": "me/demo_teacher", "TRUST_REMOTE_CODE": "1"}
    images = [str(folder / "image.png"), str(tmp_path / "text.png")]
    page, *no_image = elsewhere(OPEN, script=SCRIPT, variables=variables, images=images)
    groups = json.loads((folder / "student" / "class_groups.json").read_text())
    expected = app.compare(app.read_image(folder / "image.png"), classifiers, groups)
    *labels, bars, table = page
    for index, label in enumerate(labels):
        shown = {entry["label"]: entry["confidence"] for entry in label["confidences"]}
        names = {f"{c['name']} ({c['group']}, {c['count']:,} in training)": c for c in expected["classes"]}
        probabilities = {name: entry["probabilities"][index] for name, entry in names.items()}
        best = sorted(probabilities, key=probabilities.get)[-5:]
        assert label["label"] == best[-1] and shown == pytest.approx({n: probabilities[n] for n in best}, abs=1e-5)
    assert bars["columns"] == ["network", "group", "probability"] and bars["mark"] == "bar"
    rows = [("teacher", 0), ("student", 1)]
    for (network, index), row in zip(rows, table["data"], strict=True):
        sums = {group["name"]: group["probabilities"][index] for group in expected["groups"]}
        assert {g: p for n, g, p in bars["data"] if n == network} == pytest.approx(sums, abs=1e-5)
        assert row[0] == network and row[-2] == f"{expected['models'][index]['parameters']:,}"
        assert [float(cell) for cell in row[1:4]] == pytest.approx([100 * p for p in sums.values()], abs=0.051)
    assert table["headers"] == ["network", "head, %", "medium, %", "tail, %", "ms", "parameters", "MB"]
    for nothing in no_image:
        assert nothing[2] is None and not any(label and label.get("confidences") for label in nothing[:2])
