"""An exported student gives the same logits, tells nothing of the machine, and never stands beside other weights."""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)

from hf_ltkd import create_model
from hf_ltkd.hub.card import write_model_card
from hf_ltkd.hub.describe import describe_model
from hf_ltkd.hub.push import published_files
from hf_ltkd.models import CifarResNetForImageClassification


onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime onnxscript")
pytest.importorskip("onnxscript", reason="pip install onnx onnxruntime onnxscript")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import export_onnx  # noqa: E402
from export_onnx import ExportArguments, compare, find_images, measure, put_in_place  # noqa: E402


ONNX = ["onnx/measurements.json", "onnx/model.onnx"]


def with_random_weights(model):
    """Weights and statistics with which the logits depend on the pixels; those of deep fresh networks hardly do."""
    set_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.3)
        else:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(torch.randn(16, *describe_model(model)["input"]))
    return model.eval()


def content_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A student, its teacher and images; the student is exported."""
    machine = tmp_path_factory.mktemp("machine")
    for name, network in (("student", "resnet8"), ("teacher", "resnet14")):
        with_random_weights(create_model(network, 5, image_size=8)).save_pretrained(machine / name)
        processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_std=[0.2, 0.3, 0.4])
        processor.save_pretrained(machine / name)
    random = np.random.default_rng(0)
    for index in range(12):
        path = machine / "images" / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
    (machine / "images" / "notes.txt").write_text("no image")
    before = content_of(machine / "teacher")
    arguments = {"images": [str(machine / "images")], "runs": 3}
    export_onnx.run(ExportArguments(str(machine / "student"), str(machine / "teacher"), **arguments))
    assert content_of(machine / "teacher") == before
    return machine


@pytest.fixture
def student(machine, tmp_path):
    """A copy of the exported student."""
    for name, content in content_of(machine / "student").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def logits_of(folder, pixels):
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    return session.run(["logits"], {"pixel_values": pixels})[0]


def test_logits_of_real_images(machine):
    folder = machine / "student"
    model = AutoModelForImageClassification.from_pretrained(folder).double().eval()
    images = [Image.open(path) for path in sorted((machine / "images").rglob("*.png"))[:5]]
    pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="np")["pixel_values"]
    expected = model(torch.from_numpy(pixels).double()).logits.detach().numpy()
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits_of(folder, pixels), expected, atol=1e-5 * np.abs(expected).max())
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("pixel_values", ["batch", 3, 8, 8])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 5])]


def test_measurements(machine):
    folder = machine / "student"
    measured = json.loads((folder / "onnx" / "measurements.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert measured["weights_sha256"] == {"model.safetensors": digest}
    assert measured["examples"] == "10 images" and measured["batch_sizes"] == [1, 2, 7]
    assert measured["max_difference"] < 1e-5 * measured["max_logit"] and measured["max_logit"] > 0.5
    networks = measured["networks"]
    assert list(networks) == ["student", "teacher"] and networks["student"]["input"] == [3, 8, 8]
    assert networks["student"]["onnx_bytes"] == (folder / "onnx" / "model.onnx").stat().st_size
    assert networks["teacher"]["onnx_bytes"] > networks["student"]["onnx_bytes"] + 300_000  # 97,536 more parameters
    for network in networks.values():
        for times in (network["onnxruntime_ms"], network["pytorch_ms"]):
            assert 0 < times["median"] <= times["p90"]
    assert (measured["threads"], measured["runs"]) == (1, 3) and measured["cpu"]


def test_nothing_of_the_machine_is_in_the_files(machine):
    files = content_of(machine / "student")
    assert {name for name in files if "onnx" in name} == set(ONNX)  # and nothing unfinished
    for name in ONNX:
        for private in (str(machine), str(Path.home()), os.getcwd(), "site-packages", ".py"):
            assert private.encode() not in files[name]


def test_card_and_its_lines(student):
    text = write_model_card(student).read_text(encoding="utf-8")
    measured = json.loads((student / "onnx" / "measurements.json").read_text())
    assert f"differ\nfrom PyTorch's by at most {measured['max_difference']:.1e}" in text
    for who in ("student", "teacher"):
        times = measured["networks"][who]["onnxruntime_ms"]
        size = measured["networks"][who]["onnx_bytes"] / 1e6
        assert f"| {who} | 3 × 8 × 8 | {size:.2f} | {times['median']:.3g} ({times['p90']:.3g}) |" in text
    assert f"3 runs, and in brackets the 90th percentile, on 1 thread of {measured['cpu']}" in text.replace("\\", "")
    code = re.search(r"```python\n(import onnxruntime.*?)```", text, flags=re.DOTALL)[1]
    pixels = np.random.default_rng(0).standard_normal((3, 3, 8, 8), dtype=np.float32)
    names = {"pixels": pixels}
    exec(code.replace("path/to/this/folder", student.as_posix()), names)
    np.testing.assert_array_equal(names["logits"], logits_of(student, pixels))


def test_an_export_of_other_weights_is_left_out(student):
    assert set(ONNX) < set(published_files(student))
    with_random_weights(create_model("resnet8", 5, image_size=8)).save_pretrained(student)
    assert set(ONNX) < set(published_files(student))  # the same weights, saved again
    create_model("resnet8", 5, image_size=8).save_pretrained(student)
    with pytest.warns(UserWarning, match="was made from other weights"):
        assert not set(ONNX) & set(published_files(student))
    with pytest.warns(UserWarning, match="run examples/export_onnx.py again"):
        assert "ONNX" not in write_model_card(student).read_text(encoding="utf-8")


def test_a_mismatch_changes_nothing(student, monkeypatch):
    before, forward = content_of(student), CifarResNetForImageClassification.forward

    def other_when_exported(self, pixel_values):
        outputs = forward(self, pixel_values)
        outputs.logits = outputs.logits + (0.01 if torch.compiler.is_exporting() else 0.0)
        return outputs

    monkeypatch.setattr(CifarResNetForImageClassification, "forward", other_when_exported)
    with pytest.raises(ValueError, match="gives other logits than PyTorch: they differ by up to 0.01"):
        export_onnx.run(ExportArguments(str(student), runs=1))
    assert content_of(student) == before and not list(student.glob("_onnx-*"))


def test_an_interrupted_export(student, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    before = content_of(student)
    monkeypatch.setattr(export_onnx, "measure", interrupt)
    monkeypatch.setattr(export_onnx, "export", lambda name, model, pixels, path: path.write_bytes(b"half"))
    monkeypatch.setattr(export_onnx, "start", lambda path, threads: None)
    monkeypatch.setattr(export_onnx, "compare", lambda *args: (0.0, 1.0))
    with pytest.raises(KeyboardInterrupt):
        export_onnx.run(ExportArguments(str(student)))
    assert content_of(student) == before and not list(student.glob("_onnx-*"))
    # In the moment of moving the files: what is there may be new and old, hence it is not published.
    monkeypatch.setattr(export_onnx, "measure", lambda names, runs: {name: {"median": 1, "p90": 1} for name in names})
    monkeypatch.setattr(os, "replace", interrupt_after(os.replace, calls=2))  # measurements, model.onnx
    with pytest.raises(KeyboardInterrupt):
        export_onnx.run(ExportArguments(str(student)))
    assert (student / "onnx" / "model.onnx").read_bytes() == b"half"
    assert not set(ONNX) & set(published_files(student))


def interrupt_after(function, calls):
    done = []

    def limited(*args):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(args)
        return function(*args)

    return limited


def test_weights_in_a_file_of_their_own(student, monkeypatch):
    """As above 1.5 GB; the file goes when a later export needs none."""
    with monkeypatch.context() as patch:
        save = torch.onnx.ONNXProgram.save
        patch.setattr(torch.onnx.ONNXProgram, "save", lambda self, path: save(self, path, external_data=True))
        export_onnx.run(ExportArguments(str(student), runs=1))
    files = content_of(student)
    assert len(files["onnx/model.onnx.data"]) > 300_000 > 100_000 > len(files["onnx/model.onnx"])
    assert "onnx/model.onnx.data" in published_files(student)
    pixels = torch.randn(2, 3, 8, 8)
    expected = AutoModelForImageClassification.from_pretrained(student).eval()(pixels).logits
    torch.testing.assert_close(torch.from_numpy(logits_of(student, pixels.numpy())), expected, rtol=1e-4, atol=1e-4)
    text = write_model_card(student, repo_id="me/it").read_text(encoding="utf-8")
    downloads = re.findall(r'^path = hf_hub_download\("me/it", "(.*)"\)$', text, flags=re.MULTILINE)
    assert downloads == ["onnx/model.onnx.data", "onnx/model.onnx"]
    measured = json.loads(files["onnx/measurements.json"])
    both = len(files["onnx/model.onnx.data"]) + len(files["onnx/model.onnx"])
    assert measured["networks"]["student"]["onnx_bytes"] == both and list(measured["networks"]) == ["student"]
    assert measured["examples"] == "10 examples of random pixels"
    for name in ONNX:
        (student / "later" / name).parent.mkdir(parents=True, exist_ok=True)
        (student / "later" / name).write_bytes(files[name])
    put_in_place(student / "later", student)
    assert {name for name in content_of(student) if "onnx" in name} == set(ONNX)


TINY_VIT = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
    patch_size=8, num_labels=3)  # fmt: skip
TINY_SWIN = SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4,
    num_labels=3)  # fmt: skip


@pytest.mark.parametrize(
    "network",
    [
        lambda: ViTForImageClassification(TINY_VIT),
        *(
            pytest.param(network, marks=pytest.mark.slow)
            for network in (
                "resnet20",
                "resnet8x4",
                "vgg8",
                "wrn_16_2",
                "shufflenet_v1",
                "mobilenet_v2",
                "resnet50",
                lambda: create_model("resnet18", 3, image_size=96),
                lambda: create_model("mobilenet_v1", 3, image_size=96),
                lambda: ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])),
                lambda: MobileNetV2ForImageClassification(MobileNetV2Config(image_size=64, depth_multiplier=0.35)),
                lambda: SwinForImageClassification(TINY_SWIN),
            )
        ),
    ],
)
def test_networks(network, tmp_path):
    """Without an image processor: random pixels of the size that the config names; for another folder."""
    model = with_random_weights(create_model(network, 3) if isinstance(network, str) else network())
    model.save_pretrained(tmp_path / "model")
    export_onnx.run(ExportArguments(str(tmp_path / "model"), output_dir=str(tmp_path / "out"), runs=1))
    measured = json.loads((tmp_path / "out" / "onnx" / "measurements.json").read_text())
    shape = measured["networks"]["student"]["input"]
    pixels = torch.randn(4, *shape)
    expected = model(pixels).logits.detach()
    assert expected.std(0).max() > 1e-3 * expected.abs().max()  # the images matter
    logits = torch.from_numpy(logits_of(tmp_path / "out", pixels.numpy()))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert not (tmp_path / "model" / "onnx").exists()


def test_compare_sees_what_is_different():
    model = with_random_weights(create_model("resnet8", 5, image_size=8))
    pixels = torch.randn(10, 3, 8, 8)
    with torch.no_grad():
        largest = model(pixels).logits.abs().max().item()

    def off_by(error):
        return lambda batch: model(batch).logits.detach().numpy() + np.float32(error * largest)

    difference, scale = compare("x", model, off_by(5e-5), pixels)
    assert scale == pytest.approx(largest, rel=1e-5) and difference == pytest.approx(5e-5 * largest, rel=0.05)
    for wrong in (off_by(2e-4), off_by(np.nan)):
        with pytest.raises(ValueError, match="The ONNX export of 'x' gives other logits"):
            compare("x", model, wrong, pixels)
    with pytest.raises(ValueError, match=r"shape \(1, 5\), its ONNX export \(1, 4\)"):
        compare("x", model, lambda batch: model(batch).logits[:, :4].detach().numpy(), pixels)


def test_contenders_take_turns():
    order = []
    times = measure({name: lambda name=name: order.append(name) for name in "ab"}, runs=4)
    assert order == ["a", "b"] * (export_onnx.WARM_UP + 4)
    assert set(times) == {"a", "b"} and 0 <= times["a"]["median"] <= times["a"]["p90"]


def test_images_come_from_all_over_the_folder(tmp_path):
    for index in range(95):
        (tmp_path / f"{index:02}.PNG").write_bytes(b"")
    assert [int(path.stem) for path in find_images([str(tmp_path)])] == list(range(0, 90, 9))
    assert len(find_images([str(tmp_path / "00.PNG")] * 3)) == 3


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--model me/it", "--model me/it is no folder here: .* --output_dir"),
        ("--model {student} --threads 0", "--threads 0 and --runs 100 must both be 1 or more"),
        ("--model {text}", "There is no image classifier '.*text' in this folder"),
        ("--model {student} --images {none}", "--images .*none does not exist"),
        ("--model {student} --images {text}", "there is no image file"),
        ("--model {student} --images {text}/config.json", "cannot identify image file .*config.json"),
        ("--model {plain} --images {images}", "--images needs the image processor"),
        ("--model {student} --teacher {plain}", "The teacher has 7 classes, the student 5"),
        ("--model {pickled}", "holds no model.safetensors"),
    ],
)
def test_errors(machine, tmp_path, monkeypatch, command, message):
    """Each in one line, before anything is written."""
    model = create_model("resnet8", 7, image_size=8)
    model.save_pretrained(tmp_path / "plain")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_bytes((tmp_path / "plain" / "config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertForSequenceClassification(tiny).save_pretrained(tmp_path / "text")
    folders = {name: machine / name for name in ("student", "images")}
    folders |= {name: tmp_path / name for name in ("none", "plain", "text", "pickled")}
    before = content_of(machine)
    monkeypatch.setattr(sys, "argv", ["export_onnx.py", *(word.format(**folders) for word in command.split())])
    with pytest.raises(SystemExit, match=message) as error:
        export_onnx.main()
    assert "\n" not in str(error.value) and content_of(machine) == before
