"""An exported segmentation model gives the same maps of logits; of images of any size where its network takes them."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import with_random_weights
from segmenters import CLASSES, FAMILIES
from transformers import SegformerImageProcessorPil

from hf_ltkd import create_model
from hf_ltkd.cli.describe import describe_export
from hf_ltkd.hub.card import write_model_card
from hf_ltkd.workflow import export as module
from hf_ltkd.workflow.export import export


pytest.importorskip("onnx", reason="pip install onnx onnxruntime onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime onnxscript")
pytest.importorskip("onnxscript", reason="pip install onnx onnxruntime onnxscript")


def save_segmenter(folder, family="segformer", side=32):
    made = FAMILIES[family]()
    model = with_random_weights(type(made)(made.config))  # whole: `segformer` leaves its normalisation out
    model.config.id2label = {c: f"class {c}" for c in range(CLASSES)}
    model.save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return model


def as_exported(monkeypatch, models, fits=lambda pixels: True):
    """An export takes no time, and its file gives what PyTorch gives for the pixels that it fits."""
    made = []

    def write(name, model, pixels, path, any_size=False):
        made.append((Path(name).name, any_size))
        path.write_bytes(b"a graph")

    def run(model, pixels):
        with torch.no_grad():
            return model(pixels).logits.numpy() + (0 if fits(pixels) else 1)

    monkeypatch.setattr(module, "write_onnx", write)
    monkeypatch.setattr(module, "start", lambda *_: partial(run, models[made[-1][0]]))
    return made


@pytest.mark.parametrize("fits", ["any size", "one size"])
def test_logits_are_a_map(tmp_path, monkeypatch, fits):
    """Where the file is wrong about images of other sizes, it is made again for one size."""
    models = {who: save_segmenter(tmp_path / who, side=side) for who, side in (("student", 32), ("teacher", 48))}
    made = as_exported(monkeypatch, models, lambda p: fits == "any size" or p.shape[2:] in ((32, 32), (48, 48)))
    measured = export(tmp_path / "student", str(tmp_path / "teacher"), runs=1)
    sizes = [True] if fits == "any size" else [True, False]
    assert made == [*(("student", size) for size in sizes), ("teacher", False)]
    assert measured["batch_sizes"] == (1, 2) and measured["examples"] == "3 examples of random pixels"
    student, teacher = (measured["networks"][who] for who in ("student", "teacher"))
    assert (student["input"], student["output"]) == ([3, 32, 32], [5, 8, 8])
    assert (teacher["input"], teacher["output"]) == ([3, 48, 48], [5, 12, 12])
    assert measured["any_size"] == (fits == "any size")
    kind = {"any size": "any size", "one size": "this size alone"}[fits]
    assert f"the student's file takes images of {kind}; logits 5×8×8 of each" in describe_export(measured)
    card = write_model_card(tmp_path / "student").read_text(encoding="utf-8")
    assert "`[batch, 5, 8, 8]`; images may" + {"any size": " be", "one size": " not be of another"}[fits] in card


def test_weights_for_one_size(tmp_path, monkeypatch):
    made = as_exported(monkeypatch, {"student": save_segmenter(tmp_path / "student", "dpt")})
    measured = export(tmp_path / "student", runs=1)
    assert made == [("student", False)] and not measured["any_size"]


def test_a_classifier_as_the_teacher(tmp_path):
    save_segmenter(tmp_path / "student")
    create_model("resnet8", 5, image_size=8).save_pretrained(tmp_path / "teacher")
    with pytest.raises(
        ValueError, match="The teacher is a CifarResNetForImage.* and the student a SegformerForSemantic"
    ):
        export(tmp_path / "student", str(tmp_path / "teacher"))
    assert not (tmp_path / "student" / "onnx").exists()


@pytest.mark.slow  # each takes a minute or less
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, tmp_path):
    """Real files; of any size where PyTorch's network is, and its export can be."""
    model = save_segmenter(tmp_path, family)
    measured = export(tmp_path, runs=1)
    assert measured["any_size"] == (family == "segformer")
    for size in ((32, 32), *[(40, 57)] * measured["any_size"]):
        pixels = torch.randn(4, 3, *size)
        expected = model(pixels).logits.detach()
        session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
        logits = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
