"""An exported student gives the same logits, tells nothing of the machine, and never stands beside other weights."""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import with_random_weights
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
)

from hf_ltkd import create_model
from hf_ltkd.cli.describe import describe_export
from hf_ltkd.cli.main import main
from hf_ltkd.hub.card import write_model_card
from hf_ltkd.hub.push import published_files
from hf_ltkd.workflow import export as module
from hf_ltkd.workflow.export import WARM_UP, compare, export, find_images, measure, prepare, put_in_place


onnx = pytest.importorskip("onnx", reason="pip install onnx onnxruntime onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime onnxscript")
pytest.importorskip("onnxscript", reason="pip install onnx onnxruntime onnxscript")

ONNX = ["onnx/measurements.json", "onnx/model.onnx"]
TINY_VIT = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16,
    patch_size=8, num_labels=5)  # fmt: skip
TINY_SWIN = SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4,
    num_labels=3)  # fmt: skip


def content_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A convolutional student, a transformer as its teacher, and images; the student is exported."""
    machine = tmp_path_factory.mktemp("machine")
    networks = {
        "student": (create_model("resnet8", 5, image_size=8), 8),
        "teacher": (ViTForImageClassification(TINY_VIT), 16),
    }
    for name, (network, side) in networks.items():
        with_random_weights(network).save_pretrained(machine / name)
        processor = ViTImageProcessorPil(size={"height": side, "width": side}, image_std=[0.2, 0.3, 0.4])
        processor.save_pretrained(machine / name)
    random = np.random.default_rng(0)
    for index in range(12):
        path = machine / "images" / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
    (machine / "images" / "notes.txt").write_text("no image")
    before = content_of(machine / "teacher")
    measured = export(machine / "student", str(machine / "teacher"), str(machine / "images"), runs=3)
    assert content_of(machine / "teacher") == before
    return machine, measured


@pytest.fixture
def student(machine, tmp_path):
    """A copy of the exported student."""
    return Path(shutil.copytree(machine[0] / "student", tmp_path / "student"))


@pytest.fixture
def export_made_before(machine, monkeypatch):
    """`export` writes the student's ONNX file as it was made above, which takes seconds."""
    made = (machine[0] / "student" / "onnx" / "model.onnx").read_bytes()
    monkeypatch.setattr(module, "write_onnx", lambda name, model, pixels, path, **_: path.write_bytes(made))


def logits_of(folder, pixels):
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    return session.run(["logits"], {"pixel_values": pixels})[0]


def test_logits_of_real_images(machine):
    folder = machine[0] / "student"
    model = AutoModelForImageClassification.from_pretrained(folder).double().eval()
    images = [Image.open(path) for path in sorted((machine[0] / "images").rglob("*.png"))[:5]]
    pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="np")["pixel_values"]
    expected = model(torch.from_numpy(pixels).double()).logits.detach().numpy()
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits_of(folder, pixels), expected, atol=1e-5 * np.abs(expected).max())
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("pixel_values", ["batch", 3, 8, 8])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 5])]


def test_measurements(machine):
    folder, returned = machine[0] / "student", machine[1]
    measured = json.loads((folder / "onnx" / "measurements.json").read_text())
    assert json.loads(json.dumps(returned)) == {"path": str(folder / "onnx" / "model.onnx"), **measured}
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert measured["weights_sha256"] == {"model.safetensors": digest}
    assert measured["examples"] == "10 images" and measured["batch_sizes"] == [1, 2, 7]
    assert measured["max_difference"] < 1e-5 * measured["max_logit"] and measured["max_logit"] > 0.5
    networks = measured["networks"]
    assert [networks[who]["input"] for who in ("student", "teacher")] == [[3, 8, 8], [3, 16, 16]]
    assert networks["student"]["onnx_bytes"] == (folder / "onnx" / "model.onnx").stat().st_size
    weights = (machine[0] / "teacher" / "model.safetensors").stat().st_size
    assert weights < networks["teacher"]["onnx_bytes"] < weights + 100_000  # its weights and its graph
    for network in networks.values():
        for times in (network["onnxruntime_ms"], network["pytorch_ms"]):
            assert 0 < times["median"] <= times["p90"]
    assert (measured["threads"], measured["runs"]) == (1, 3) and measured["cpu"]


def test_text(machine):
    measured = machine[1]
    steady = {"median": 1.0, "p90": 1.5}
    networks = {who: {**n, "onnxruntime_ms": steady, "pytorch_ms": steady} for who, n in measured["networks"].items()}
    first, title, *rows, last, push = describe_export({**measured, "networks": networks})
    assert first.startswith(f"{measured['path']}: logits equal within {measured['max_difference']:.1e}")
    assert first.endswith("on 10 images in batches of 1, 2, 7") and "one image, 1 thread(s) of" in last
    size = measured["networks"]["teacher"]["onnx_bytes"] / 1e6
    assert rows[1].split() == ["teacher", "3×16×16", f"{size:.2f}", "1.000", "(1.500)", "1.000", "(1.500)"]
    assert len(title) == len(rows[0]) == len(rows[1]) and push.endswith("student --to OWNER/NAME")
    networks["student"]["pytorch_ms"] = {"median": 1.0, "p90": 2.1}
    assert "The times vary a lot" in describe_export({**measured, "networks": networks})[-2]


def test_nothing_of_the_machine_is_in_the_files(machine):
    files = content_of(machine[0] / "student")
    assert {name for name in files if "onnx" in name} == set(ONNX)  # and nothing unfinished
    for name in ONNX:
        for private in (str(machine[0]), str(Path.home()), os.getcwd(), "site-packages", ".py"):
            assert private.encode() not in files[name]


def test_card_and_its_lines(student):
    text = write_model_card(student).read_text(encoding="utf-8")
    measured = json.loads((student / "onnx" / "measurements.json").read_text())
    assert f"differ\nfrom PyTorch's by at most {measured['max_difference']:.1e}" in text
    for who, size in (("student", "3 × 8 × 8"), ("teacher", "3 × 16 × 16")):
        times = measured["networks"][who]["onnxruntime_ms"]
        megabytes = measured["networks"][who]["onnx_bytes"] / 1e6
        assert f"| {who} | {size} | {megabytes:.2f} | {times['median']:.3g} ({times['p90']:.3g}) |" in text
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
    with pytest.warns(UserWarning, match="make it again: hf-ltkd export --model .*student"):
        assert "ONNX" not in write_model_card(student).read_text(encoding="utf-8")


def test_a_mismatch_changes_nothing(student, export_made_before):
    """The file is of other weights, as if the network did other things while it is exported."""
    other = AutoModelForImageClassification.from_pretrained(student)
    with torch.no_grad():
        other.classifier.bias[0] += 1
    other.save_pretrained(student)
    before = content_of(student)
    with pytest.raises(ValueError, match="gives other logits than PyTorch: they differ by up to 1, the largest is"):
        export(student, runs=1)
    assert content_of(student) == before and not list(student.glob("_onnx-*"))


def test_a_graph_that_is_not_valid(student, monkeypatch):
    """The checker of ONNX sees what is wrong with the graph before anything is run."""
    before, graph = content_of(student), onnx.load(student / "onnx" / "model.onnx")
    graph.graph.node[0].op_type = "NoSuchOperator"
    program = type("Program", (), {"save": lambda self, path: onnx.save(graph, path), "model": None})()
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: program)
    monkeypatch.setattr("onnxscript.ir.passes.common.ClearMetadataAndDocStringPass", lambda: lambda model: None)
    with pytest.raises(ValueError, match="The ONNX export of .* is not valid: .*NoSuchOperator"):
        export(student, runs=1)
    assert content_of(student) == before


def test_a_network_that_cannot_be_exported(student, monkeypatch):
    def refuse(*args, **kwargs):
        raise torch.onnx.OnnxExporterError("of many lines\nmore") from NotImplementedError("aten::odd\nmore")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(ValueError, match=r"PyTorch cannot export .* \(CifarResNet.*\) to ONNX: aten::odd$"):
        export(student, runs=1)


def test_an_interrupted_export(student, export_made_before, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    before = content_of(student)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "measure", interrupt)
        export(student, runs=1)
    assert content_of(student) == before and not list(student.glob("_onnx-*"))
    # In the moment of moving the files: what is there may be new and old, hence it is not published.
    monkeypatch.setattr(os, "replace", interrupt_after(os.replace, calls=2))  # measurements, model.onnx
    with pytest.raises(KeyboardInterrupt):
        export(student, runs=1)
    assert not set(ONNX) & set(published_files(student))


def interrupt_after(function, calls):
    done = []

    def limited(*args):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(args)
        return function(*args)

    return limited


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process that shares this one's imports")
def test_a_killed_export(student, export_made_before, monkeypatch):
    """The earlier file stays; what the killed one left goes at the next, what a living one works with does not."""
    before = content_of(student)
    child = os.fork()
    if child == 0:
        signal.alarm(100)  # rather than wait for ever
        monkeypatch.setattr(module, "measure", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        export(student, runs=1)
        os._exit(1)  # not reached
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (left,) = student.glob("_onnx-*")
    assert (left / "onnx" / "model.onnx").is_file()
    assert {name: content for name, content in content_of(student).items() if name in before} == before
    assert set(ONNX) < set(published_files(student))
    of_the_past, alive = student / "_onnx-x7k2", student / f"_onnx-{os.getppid()}-x"
    for folder in (of_the_past, alive):
        folder.mkdir()
    export(student, runs=1)
    assert list(student.glob("_onnx-*")) == [alive]


def test_weights_in_a_file_of_their_own(student, monkeypatch):
    """As above 1.5 GB; the file goes when a later export needs none."""
    graph = onnx.load(student / "onnx" / "model.onnx")
    separate = {"save_as_external_data": True, "location": "model.onnx.data"}
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_onnx", lambda name, model, pixels, path, **_: onnx.save(graph, path, **separate))
        export(student, runs=1)
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
    shutil.rmtree(student / "later")
    assert {name for name in content_of(student) if "onnx" in name} == set(ONNX)


def test_threads_and_logging_are_as_before(student, export_made_before):
    threads, level = torch.get_num_threads(), logging.getLogger("torch.onnx").level
    assert export(student, threads=threads + 1, runs=1)["threads"] == threads + 1
    assert (torch.get_num_threads(), logging.getLogger("torch.onnx").level) == (threads, level)


def test_random_pixels_without_an_image_processor(student, tmp_path, export_made_before):
    """Of the size that the config names; for another folder, by the command."""
    (student / "preprocessor_config.json").unlink()
    before = content_of(student)
    pixels = prepare(str(student), AutoModelForImageClassification.from_pretrained(student), [])
    assert pixels.shape == (10, 3, 8, 8) and 0.9 < pixels.std() < 1.1
    out = tmp_path / "out"
    assert main(["export", "--model", str(student), "--output_dir", str(out), "--threads", "1", "--runs", "1"]) == 0
    assert sorted(content_of(out)) == ONNX and content_of(student) == before


@pytest.mark.slow  # each takes a minute or less; a convolutional network and a transformer are exported above
@pytest.mark.parametrize(
    "network",
    [
        *("resnet20", "resnet8x4", "vgg8", "wrn_16_2", "shufflenet_v1", "mobilenet_v2", "resnet50"),
        lambda: create_model("resnet18", 3, image_size=96),
        lambda: create_model("mobilenet_v1", 3, image_size=96),
        lambda: ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])),
        lambda: MobileNetV2ForImageClassification(MobileNetV2Config(image_size=64, depth_multiplier=0.35)),
        lambda: SwinForImageClassification(TINY_SWIN),
    ],
)
def test_networks(network, tmp_path):
    model = with_random_weights(create_model(network, 3) if isinstance(network, str) else network())
    model.save_pretrained(tmp_path)
    pixels = torch.randn(4, *export(tmp_path, runs=1)["networks"]["student"]["input"])
    expected = model(pixels).logits.detach()
    assert expected.std(0).max() > 1e-3 * expected.abs().max()  # the images matter
    logits = torch.from_numpy(logits_of(tmp_path, pixels.numpy()))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_compare_sees_what_is_different():
    model = with_random_weights(create_model("resnet8", 5, image_size=8))
    pixels = torch.randn(10, 3, 8, 8)
    with torch.no_grad():
        largest = model(pixels).logits.abs().max().item()

    def off_by(error):
        return lambda batch: model(batch).logits.detach().numpy() + np.float32(error * largest)

    difference, scale = compare("x", model, off_by(5e-5), [pixels])
    assert scale == pytest.approx(largest, rel=1e-5) and difference == pytest.approx(5e-5 * largest, rel=0.05)
    for wrong in (off_by(2e-4), off_by(np.nan)):
        with pytest.raises(ValueError, match="The ONNX export of 'x' gives other logits"):
            compare("x", model, wrong, pixels.split(5))
    with pytest.raises(ValueError, match=r"shape \(1, 5\), its ONNX export \(1, 4\)"):
        compare("x", model, lambda batch: model(batch).logits[:, :4].detach().numpy(), [pixels[:1]])


def test_contenders_take_turns():
    order = []
    times = measure({name: lambda name=name: order.append(name) for name in "ab"}, runs=4)
    assert order == ["a", "b"] * (WARM_UP + 4)
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
        ("--model {student} --threads 0", "threads=0 is not valid"),
        ("--model {text}", "There is no image classifier '.*text' in this folder"),
        ("--model {student} --images {none}", "--images .*none does not exist"),
        ("--model {student} --images {text}", "there is no image file"),
        ("--model {student} --images {text}/config.json", "cannot identify image file .*config.json"),
        ("--model {plain} --images {images}", "--images needs the image processor"),
        ("--model {student} --teacher {plain}", "The teacher has 7 classes, the student 5"),
        ("--model {pickled}", "holds no model.safetensors"),
    ],
)
def test_errors(machine, tmp_path, capsys, command, message):
    """Each in one line, before anything is written."""
    model = create_model("resnet8", 7, image_size=8)
    model.save_pretrained(tmp_path / "plain")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_bytes((tmp_path / "plain" / "config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertForSequenceClassification(tiny).save_pretrained(tmp_path / "text")
    folders = {name: machine[0] / name for name in ("student", "images")}
    folders |= {name: tmp_path / name for name in ("none", "plain", "text", "pickled")}
    before = content_of(machine[0])
    capsys.readouterr()
    assert main(["export", *(word.format(**folders) for word in command.split())]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.startswith("hf-ltkd: ") and content_of(machine[0]) == before


def test_what_is_not_installed(student, monkeypatch):
    found = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if "onnx" in name else found(name))
    with pytest.raises(ValueError, match=r"needs onnx, onnxruntime, onnxscript, .*: pip install 'hf_ltkd\[onnx\]'"):
        export(student)
