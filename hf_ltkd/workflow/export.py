"""
A student as ONNX: the same logits, checked, and its size and latency beside its teacher's.

For image classifiers and models that give each pixel a class (`optimum-cli export onnx` exports text models); needs
`pip install "hf_ltkd[onnx]"`.
"""

import copy
import importlib.util
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel
from transformers.utils import cached_file

from ..data.check import IMAGE_FORMATS
from ..data.image_files import IMAGE_SUFFIXES
from ..data.pixels import to_rgb
from ..hub.describe import describe_model, weights_digests
from ..hub.names import ONNX_FILES
from ..teacher.live import check_same_classes
from ..teacher.loading import load_model
from ..trainer.segmenters import is_segmenter
from ..utils import cpu_name, write_json
from .arguments import ExportArguments
from .beforehand import check_apart, check_weights
from .inputs import load_classifier, load_processor, model_name
from .segmenters import names_segmenter


BATCHES = (1, 2, 7)
EXAMPLES = sum(BATCHES)
TOLERANCE = 1e-4  # of the largest logit
WARM_UP = 10  # runs that are not counted


def export(
    model: str,
    teacher: str | None = None,
    images: str | Sequence[str] | None = None,
    output_dir: str | os.PathLike | None = None,
    threads: int = 1,
    runs: int = 100,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """
    Writes `onnx/model.onnx` and `onnx/measurements.json` into a student's folder; the next push sends them and puts
    the measurements into its card. An export that fails or is killed leaves the files of the one before. Call it while
    the machine has nothing else to do.

    Args:
        model (`str`): The student's folder, or its Hub id.
        teacher (`str`, *optional*): The teacher's folder or Hub id, to be measured beside the student.
        images (`str` or `Sequence[str]`, *optional*, defaults to random pixels):
            Image files, or folders that hold some, to compare the logits on.
        output_dir (`str` or `os.PathLike`, *optional*, defaults to `model`): The folder that gets `onnx/`.
        threads (`int`, *optional*, defaults to 1): CPU threads that a network runs on while it is measured.
        runs (`int`, *optional*, defaults to 100): Runs of each network that are measured, one image each.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code may be run that models come with.

    Returns:
        `dict`: The measurements, and `path` of the ONNX file: `max_difference` from PyTorch's logits, `max_logit`, and
        by network (`student`, `teacher`) `input` `[channels, height, width]`, `onnx_bytes`, and the milliseconds
        (`median`, `p90`) in `onnxruntime_ms` and `pytorch_ms`. Of a segmentation also `any_size`, whether the file
        takes images of other sizes, too, and by network `output` `[classes, height, width]`.

    Raises:
        `ValueError`: if there is no such model, it cannot be exported, or its export gives other logits.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"An export needs {', '.join(missing)}, not installed here: pip install 'hf_ltkd[onnx]'.")
    import onnxruntime  # optional, as everywhere below

    model_name(model)
    if not isinstance(images, str | os.PathLike | Sequence | None):
        raise ValueError(f"images is a {type(images).__name__}: give image files, or folders that hold some.")
    images = [str(images)] if isinstance(images, str | os.PathLike) else [str(path) for path in images or []]
    ExportArguments(str(model), output_dir=None if output_dir is None else str(output_dir), threads=threads, runs=runs)
    folder = Path(output_dir or model)
    files = find_images(images) if images else []
    if output_dir is not None:
        check_apart("output_dir", output_dir, {"teacher": teacher, **{f"images {path}": path for path in images}})
    names = {"student": str(model), **({"teacher": str(teacher)} if teacher else {})}
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    models = {who: load_network(name, **trust) for who, name in names.items()}
    for who, network in models.items():
        check_weights(network, who)
    of_pixels = is_segmenter(models["student"])
    if teacher:
        if is_segmenter(models["teacher"]) != of_pixels:
            raise ValueError(
                f"The teacher is a {type(models['teacher']).__name__} and the student a "
                f"{type(models['student']).__name__}: either both give each pixel a class, or none does."
            )
        check_same_classes(models["student"], models["teacher"])
    digests = weights_digests(Path(cached_file(names["student"], "config.json")).parent)  # type: ignore[arg-type]
    if not digests:
        raise ValueError(f"{names['student']!r} holds no model.safetensors: save it again with model.save_pretrained.")
    batches = BATCHES[:2] if of_pixels else BATCHES  # seven images' logits of all pixels would fill a small machine
    files = files[: sum(batches)]
    pixels = {who: prepare(names[who], network, files, **trust)[: sum(batches)] for who, network in models.items()}

    exported, differences, networks, any_size = {}, {}, {}, {}
    with (
        threads_of_torch(threads),
        unfinished_folder(folder) as made,
        tempfile.TemporaryDirectory() as elsewhere,  # the teacher's export is measured and thrown away
    ):
        for who, network in models.items():
            path = (made if who == "student" else Path(elsewhere)) / ONNX_FILES[0]
            path.parent.mkdir()
            others = other_sizes(network, pixels[who]) if who == "student" else []
            exported[who], any_size[who] = write_and_start(names[who], network, pixels[who], path, threads, others)
            differences[who] = compare(names[who], network, exported[who], pixels[who].split(batches))
            networks[who] = {
                "class": type(network).__name__,
                "input": list(pixels[who].shape[1:]),
                "onnx_bytes": sum(file.stat().st_size for file in path.parent.iterdir()),
            }
            if of_pixels:
                networks[who]["output"] = list(exported[who](pixels[who][:1]).shape[1:])
        first = {who: batch[:1] for who, batch in pixels.items()}
        with torch.inference_mode():
            onnx_times = measure({who: partial(exported[who], batch) for who, batch in first.items()}, runs)
            torch_times = measure({w: partial(models[w], pixel_values=batch) for w, batch in first.items()}, runs)
        for who in models:
            networks[who] |= {"onnxruntime_ms": onnx_times[who], "pytorch_ms": torch_times[who]}
        difference, largest = differences["student"]
        measurements = {
            "weights_sha256": digests,
            "examples": f"{len(files)} image{'s' * (len(files) > 1)}"
            if files
            else f"{sum(batches)} examples of random pixels",
            "batch_sizes": batches,
            "max_difference": difference,
            "max_logit": largest,
            "networks": networks,
            **({"any_size": any_size["student"]} if of_pixels else {}),
            "threads": threads,
            "runs": runs,
            "cpu": cpu_name(),
            "versions": {package.__name__: package.__version__ for package in (onnxruntime, torch)},
        }
        exported.clear()  # ends the sessions: an open file cannot be moved everywhere
        write_json(made / ONNX_FILES[-1], measurements)
        put_in_place(made, folder)
    return {"path": str(folder / ONNX_FILES[0]), **measurements}


def load_network(name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """An image classifier, or a model that was saved as one that gives each pixel a class, in float32."""
    how: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    if names_segmenter(name, trust_remote_code):
        return load_model(name, AutoModelForSemanticSegmentation, **how).eval()
    return load_classifier(name, **how).eval()


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """A folder in `folder` for files that are not complete; what killed exports left there goes first."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("_onnx-*"):
        process = left.name.split("-")[1]
        if not (process.isdecimal() and int(process) != os.getpid() and psutil.pid_exists(int(process))):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"_onnx-{os.getpid()}-", dir=folder) as made:
        yield Path(made)


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """So many CPU threads, and no word on operators of torchvision that the exporter misses."""
    before, logger = torch.get_num_threads(), logging.getLogger("torch.onnx")
    level = logger.level
    torch.set_num_threads(threads)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        logger.setLevel(level)


def find_images(paths: Sequence[str]) -> list[Path]:
    """Up to as many image files as are compared, from all over the folders."""
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"--images {path} does not exist: give image files, or folders that hold some.")
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        files += inside if path.is_dir() else [path]
    if not files:
        raise ValueError(f"--images {' '.join(paths)}: there is no image file ({', '.join(IMAGE_SUFFIXES)}).")
    return files[:: max(1, len(files) // EXAMPLES)][:EXAMPLES]


def prepare(name: str, model: PreTrainedModel, files: list[Path], trust_remote_code: bool = False) -> torch.Tensor:
    """The examples as the network wants them, `[examples, channels, height, width]`; random pixels without `files`."""
    processor, shape = load_processor(name, trust_remote_code), describe_model(model)["input"]
    random = np.random.default_rng(0)
    if processor is None and files:
        raise ValueError(
            f"--images needs the image processor that {name!r} was trained with, but no preprocessor_config.json was "
            "saved with it: save one there, or leave --images out."
        )
    if processor is None:
        return torch.from_numpy(random.standard_normal((EXAMPLES, *shape), dtype=np.float32))
    images = [_open(file) for file in files]
    if not files:
        images = [Image.fromarray(random.integers(0, 256, (*shape[1:], 3), dtype=np.uint8)) for _ in range(EXAMPLES)]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    return pixels[torch.arange(EXAMPLES) % len(pixels)]  # few files: again from the first


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            image.load()  # before the file is closed
            return to_rgb(image)
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"--images {file} cannot be read as {', '.join(IMAGE_FORMATS)}: {error}.") from error


class Logits(nn.Module):
    """A network that returns nothing but its logits."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def write_and_start(
    name: str, model: PreTrainedModel, pixels: torch.Tensor, path: Path, threads: int, others: list[torch.Tensor]
) -> tuple[Callable[[torch.Tensor], np.ndarray], bool]:
    """
    Writes the network for any batch of images like these, and of any size if the file has PyTorch's logits for
    `others`, of other sizes. Returns the exported network as a function of a batch, and whether it takes any size.
    """
    if others:
        try:
            write_onnx(name, model, pixels, path, any_size=True)
            exported = start(path, threads)
            compare(name, model, exported, others)
            return exported, True
        except Exception:  # whatever PyTorch and ONNX Runtime raise
            pass
    write_onnx(name, model, pixels, path)
    return start(path, threads), False


@torch.inference_mode()
def other_sizes(model: PreTrainedModel, pixels: torch.Tensor) -> list[torch.Tensor]:
    """An image in two other sizes, an odd one and a larger one, if this is a segmentation that takes them."""
    if not is_segmenter(model):
        return []
    height, width = pixels.shape[2:]
    batches = [F.interpolate(pixels[:1], (height + more, width + 2 * more)) for more in (7, 32)]
    try:
        for batch in batches:
            model(pixel_values=batch)
    except Exception:  # whatever a model raises whose weights are for one size
        return []
    return batches


def write_onnx(name: str, model: PreTrainedModel, pixels: torch.Tensor, path: Path, any_size: bool = False) -> None:
    """Writes the network for any batch of images of this size, or of any size."""
    import onnx
    from onnxscript import ir

    # Eager attention: that of PyTorch's fused kernels cannot always be exported for a batch of any size.
    network = Logits(copy.deepcopy(model))
    network.model.set_attn_implementation("eager")
    dimensions: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any_size:
        dimensions |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network.eval(),
                (pixels[:2],),
                dynamo=True,
                input_names=["pixel_values"],
                output_names=["logits"],
                dynamic_shapes=(dimensions,),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"PyTorch cannot export {name!r} ({type(model).__name__}) to ONNX: {reason}") from error
    # Each node tells the lines of code that it comes from, with the paths of this machine.
    ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    program.save(path)
    # verify=True would check as much, and no more than log what is wrong; the logits are compared in `compare`.
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"The ONNX export of {name!r} is not valid: {str(error).splitlines()[0]}") from error


def start(path: Path, threads: int) -> Callable[[torch.Tensor], np.ndarray]:
    """The exported network as a function of a batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, and need not be printed too
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or one network's threads slow the next
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits"], {"pixel_values": pixels.numpy()})[0]


def compare(
    name: str, model: PreTrainedModel, exported: Callable, batches: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """The largest difference between the logits of both, and the largest logit."""
    differences, largest = [], []
    for batch in batches:
        with torch.inference_mode():
            expected = model(pixel_values=batch).logits.numpy()
        logits = exported(batch)
        if logits.shape != expected.shape:
            raise ValueError(f"{name!r} gives logits of shape {expected.shape}, its ONNX export {logits.shape}.")
        differences.append(np.abs(logits - expected).max())
        largest.append(np.abs(expected).max())
    difference, scale = float(max(differences)), float(max(largest))
    if not difference <= TOLERANCE * scale:  # not so for NaN either
        raise ValueError(
            f"The ONNX export of {name!r} gives other logits than PyTorch: they differ by up to {difference:.3g}, the "
            f"largest is {scale:.3g}, and {TOLERANCE} of it would be in order. Nothing was written; its forward may "
            "depend on more than the pixels (random numbers, torch.compiler.is_exporting)."
        )
    return difference, scale


def measure(contenders: dict[str, Callable[[], Any]], runs: int) -> dict[str, dict[str, float]]:
    """Milliseconds; the contenders take turns, so that whatever else the machine does meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(WARM_UP + runs):
        for name, predict in contenders.items():
            begin = time.perf_counter()
            predict()
            times[name].append(1000 * (time.perf_counter() - begin))
    return {
        name: {"median": float(np.median(values[WARM_UP:])), "p90": float(np.percentile(values[WARM_UP:], 90))}
        for name, values in times.items()
    }


def put_in_place(made: Path, folder: Path) -> None:
    """Replaces what an earlier export left; without measurements, which come last, nothing is published."""
    (folder / ONNX_FILES[-1]).unlink(missing_ok=True)
    (folder / ONNX_FILES[-1]).parent.mkdir(exist_ok=True)
    for name in (ONNX_FILES[1], ONNX_FILES[0], ONNX_FILES[-1]):  # the weights before the network that names them
        if (made / name).is_file():
            os.replace(made / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
