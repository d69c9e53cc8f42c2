"""The demo page: its numbers against `pipeline` and plain sums, its errors, and the page itself as a Space runs it."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from PIL import Image
from transformers import ViTImageProcessor, dynamic_module_utils, pipeline, set_seed

from hf_ltkd import ClassGroups, create_model
from hf_ltkd.hub.push import add_code


pytest.importorskip("gradio", reason="pip install gradio for the demo page")

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
    page = app.RESULT.render(comparison)
    assert "Groups" not in page and "Teacher" not in page and "training images" not in page
    assert page.count('class="row"') == page.count('class="bar student"') == 5


def test_names_are_escaped(app, folder, classifiers):
    groups = {**GROUPS.to_dict(), "names": ["<script>", "m", "t"]}
    classifiers = [app.Classifier(c.role, "<b>" + c.name, c.model, c.processor) for c in classifiers]
    page = app.RESULT.render(app.compare(app.read_image(folder / "image.png"), classifiers, groups))
    assert "&lt;b&gt;teacher" in page and "&lt;script&gt;" in page
    assert not re.search(r"<(?!/?(div|span|p|h3)\b)", page)


def test_files_that_are_no_image(app, tmp_path, monkeypatch):
    message = "This file cannot be read as an image"
    path = tmp_path / "image.png"
    path.write_text("no image")
    with pytest.raises(ValueError, match=message):
        app.read_image(path)
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=message):
        app.read_image(path)
    Image.new("1", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses more than twice as many
    with pytest.raises(ValueError, match=message):
        app.read_image(path)


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


def test_page_as_a_space(app, folder, classifiers, tmp_path):
    """From a Hub on loopback, without `hf_ltkd`, asked over HTTP."""
    from gradio_client import Client, handle_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "import runpy, sys; sys.modules['hf_ltkd'] = None; runpy.run_path(sys.argv.pop(), run_name='__main__')"
    with HubServer() as server:
        for role in ("teacher", "student"):
            server.repos[f"me/{role}"] = {file.name: file.read_bytes() for file in (folder / role).iterdir()}
        variables = {"STUDENT": "me/student", "TEACHER": "me/teacher", "GRADIO_SERVER_PORT": str(port)}
        variables |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        variables |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path), "TRUST_REMOTE_CODE": "1"}
        command, environment = [sys.executable, "-c", start, SCRIPT], {**os.environ, **variables}
        with open(tmp_path / "log", "w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 200
            while "Running on" not in (tmp_path / "log").read_text():
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.1)
            client = Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)
            page = client.predict(handle_file(folder / "image.png"), api_name="/compare")
            (tmp_path / "text.png").write_text("no image")
            no_image = [
                client.predict(file, api_name="/compare") for file in (handle_file(tmp_path / "text.png"), None)
            ]
        finally:
            process.kill()
            process.wait()
    groups = json.loads((folder / "student" / "class_groups.json").read_text())
    expected = app.compare(app.read_image(folder / "image.png"), classifiers, groups)
    rows = [*expected["groups"], *expected["classes"]]
    shown = [float(value) for value in re.findall(r'class="value">([\d.]+) %', page)]
    assert shown == pytest.approx([100 * p for row in rows for p in row["probabilities"]], abs=0.051)
    assert "Student: me/student" in page and "tail, 2 training images" in page
    assert no_image == [app.NO_IMAGE] * 2
