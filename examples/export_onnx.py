"""Exports a student to ONNX, checks that its logits are the same, and measures size and latency beside its teacher's.

python examples/export_onnx.py --model student --teacher teacher --images photos

Writes `student/onnx/model.onnx` and `student/onnx/measurements.json`; the next push of the student sends them and puts
the measurements into its card. Run it while the machine has nothing else to do. It is for image classifiers
(`optimum-cli export onnx` exports text models) and needs `pip install onnx onnxruntime onnxscript`.
"""

import copy
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxscript import ir
from PIL import Image
from torch import nn
from transformers import HfArgumentParser, PreTrainedModel
from transformers.utils import cached_file

from hf_ltkd.data.image_files import IMAGE_SUFFIXES
from hf_ltkd.hub.describe import describe_model, weights_digests
from hf_ltkd.hub.names import ONNX_FILES
from hf_ltkd.teacher.live import check_same_classes
from hf_ltkd.utils import cpu_name, write_json
from hf_ltkd.workflow.inputs import load_classifier, load_processor
from hf_ltkd.workflow.outputs import COMPARISON_NAME


BATCHES = (1, 2, 7)
EXAMPLES = sum(BATCHES)
TOLERANCE = 1e-4  # of the largest logit
WARM_UP = 10  # runs that are not counted


@dataclass
class ExportArguments:
    model: str = field(metadata={"help": "The student's folder, or its Hub id."})
    teacher: str | None = field(
        default=None, metadata={"help": "The teacher's folder or Hub id, to be measured beside the student."}
    )
    images: list[str] | None = field(
        default=None, metadata={"help": "Image files or folders of them to compare the logits on (random pixels)."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "The folder that gets onnx/model.onnx (the student's)."}
    )
    threads: int = field(default=1, metadata={"help": "CPU threads that a network runs on while it is measured."})
    runs: int = field(default=100, metadata={"help": "Runs of each network that are measured."})

    def __post_init__(self):
        if self.output_dir is None and not os.path.isdir(self.model):
            raise ValueError(
                f"--model {self.model} is no folder here: if it is on the Hub, say with --output_dir where the ONNX "
                "file goes."
            )
        if self.threads < 1 or self.runs < 1:
            raise ValueError(f"--threads {self.threads} and --runs {self.runs} must both be 1 or more.")


class Logits(nn.Module):
    """A network that returns nothing but its logits."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def find_images(paths: list[str]) -> list[Path]:
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


def prepare(name: str, model: PreTrainedModel, files: list[Path]) -> torch.Tensor:
    """The examples as the network wants them, `[examples, channels, height, width]`; random pixels without `files`."""
    processor, shape = load_processor(name), describe_model(model)["input"]
    random = np.random.default_rng(0)
    if processor is None and files:
        raise ValueError(
            f"--images needs the image processor that {name!r} was trained with, but no preprocessor_config.json was "
            "saved with it: save one there, or leave --images out."
        )
    if processor is None:
        return torch.from_numpy(random.standard_normal((EXAMPLES, *shape), dtype=np.float32))
    images = [Image.open(file).convert("RGB") for file in files]
    if not files:
        images = [Image.fromarray(random.integers(0, 256, (*shape[1:], 3), dtype=np.uint8)) for _ in range(EXAMPLES)]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    return pixels[torch.arange(EXAMPLES) % len(pixels)]  # few files: again from the first


def export(name: str, model: PreTrainedModel, pixels: torch.Tensor, path: Path) -> None:
    """Writes the network for any batch of images of this size."""
    # Eager attention: that of PyTorch's fused kernels cannot always be exported for a batch of any size.
    network = Logits(copy.deepcopy(model))
    network.model.set_attn_implementation("eager")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.eval(),
                (pixels[:2],),
                dynamo=True,
                input_names=["pixel_values"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"PyTorch cannot export {name!r} ({type(model).__name__}) to ONNX: {reason}") from error
    # Each node tells the lines of code that it comes from, with the paths of this machine.
    ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    program.save(path)


def start(path: Path, threads: int) -> Callable[[torch.Tensor], np.ndarray]:
    """The exported network as a function of a batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or one network's threads slow the next
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits"], {"pixel_values": pixels.numpy()})[0]


def compare(name: str, model: PreTrainedModel, exported: Callable, pixels: torch.Tensor) -> tuple[float, float]:
    """The largest difference between the logits of both, and the largest logit."""
    differences, largest = [], []
    for batch in pixels.split(BATCHES):
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


def main():
    parser = HfArgumentParser(ExportArguments, description=__doc__.split("\n")[0])
    try:
        run(parser.parse_args_into_dataclasses()[0])
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def run(args: ExportArguments) -> None:
    torch.set_num_threads(args.threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision's operators
    folder = Path(args.output_dir or args.model)
    files = find_images(args.images) if args.images else []
    names = {"student": args.model, **({"teacher": args.teacher} if args.teacher else {})}
    models = {who: load_classifier(name, dtype=torch.float32).eval() for who, name in names.items()}
    if args.teacher:
        check_same_classes(models["student"], models["teacher"])
    digests = weights_digests(Path(cached_file(args.model, "config.json")).parent)
    if not digests:
        raise ValueError(f"{args.model!r} holds no model.safetensors: save it again with model.save_pretrained.")
    pixels = {who: prepare(names[who], model, files) for who, model in models.items()}

    folder.mkdir(parents=True, exist_ok=True)
    exported, differences, networks = {}, {}, {}
    with (
        tempfile.TemporaryDirectory(prefix="_onnx-", dir=folder) as made,
        tempfile.TemporaryDirectory() as elsewhere,  # the teacher's export is measured and thrown away
    ):
        for who, model in models.items():
            path = Path(made if who == "student" else elsewhere) / ONNX_FILES[0]
            path.parent.mkdir()
            export(names[who], model, pixels[who], path)
            exported[who] = start(path, args.threads)
            differences[who] = compare(names[who], model, exported[who], pixels[who])
            networks[who] = {
                "class": type(model).__name__,
                "input": list(pixels[who].shape[1:]),
                "onnx_bytes": sum(file.stat().st_size for file in path.parent.iterdir()),
            }
        first = {who: batch[:1] for who, batch in pixels.items()}
        with torch.inference_mode():
            onnx_times = measure({who: lambda w=who: exported[w](first[w]) for who in models}, args.runs)
            torch_times = measure({who: lambda w=who: models[w](pixel_values=first[w]) for who in models}, args.runs)
        for who, network in networks.items():
            network |= {"onnxruntime_ms": onnx_times[who], "pytorch_ms": torch_times[who]}
        examples = f"{len(files)} images" if files else f"{EXAMPLES} examples of random pixels"
        difference, largest = differences["student"]
        measurements = {
            "weights_sha256": digests,
            "examples": examples,
            "batch_sizes": BATCHES,
            "max_difference": difference,
            "max_logit": largest,
            "networks": networks,
            "threads": args.threads,
            "runs": args.runs,
            "cpu": cpu_name(),
            "versions": {package.__name__: package.__version__ for package in (onnxruntime, torch)},
        }
        exported.clear()  # ends the sessions: an open file cannot be moved everywhere
        write_json(Path(made) / ONNX_FILES[-1], measurements)
        put_in_place(Path(made), folder)

    print(f"{folder / ONNX_FILES[0]}: logits equal within {difference:.1e} (largest {largest:.3g})")
    print(f"compared on {examples} in batches of {', '.join(map(str, BATCHES))}\n")
    print(f"{'':<8} {'input':>14} {'ONNX, MB':>9} {'onnxruntime, ms':>18} {'PyTorch, ms':>18}")
    for who, network in networks.items():
        times = [f"{t['median']:.3f} ({t['p90']:.3f})" for t in (network["onnxruntime_ms"], network["pytorch_ms"])]
        size = f"{network['onnx_bytes'] / 1e6:.2f}"
        print(f"{who:<8} {'×'.join(map(str, network['input'])):>14} {size:>9} {times[0]:>18} {times[1]:>18}")
    print(f"\nOne image, {args.threads} thread(s) of {cpu_name()}: median (90th percentile) of {args.runs} runs")
    if any(times["p90"] > 2 * times["median"] for times in (*onnx_times.values(), *torch_times.values())):
        print("The times vary a lot: something else ran at the same time, measure again when the machine is idle.")
    if (folder / COMPARISON_NAME).is_file():
        print(f"To the card and the Hub: hf-ltkd push --model {folder} --to OWNER/NAME")
    elif (folder / "config.json").is_file():
        print(f"To the card and the Hub: python examples/push_student.py {folder} --repo_id OWNER/NAME")
        print("(with the --dataset, --teacher_results and so on of the card that it has now)")


if __name__ == "__main__":
    main()
