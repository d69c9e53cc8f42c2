"""Images per second from a dataset to a batch, and where the time goes: small images in memory, photographs in files.

python examples/benchmarks/data.py --benchmark cifar100_lt --imbalance_factor 1 --output_file data.json

Takes the data arguments of the other scripts; without any, scikit-learn's digits, enlarged to 32 pixels. All loaders
are a `DataLoader` with the collator that the Trainer uses. They take turns; figures are medians over the turns.
Images per second are wall time from the end of a warm-up to the last batch; per core they are the CPU time of all
processes, which other work on the machine disturbs little. `PIL` is the same augmentation, image by image, as one
writes it for `with_transform`. The photographs are crops of 500 × 375 pixels out of scikit-learn's two, saved as JPEG
of quality 95, and read from the system's memory rather than its disk. The stages are CPU time of one thread.
"""

import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
import torch
import transformers
from datasets import Dataset, Image
from PIL import Image as PILImage
from PIL import ImageOps
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser, default_data_collator

from hf_ltkd import ImageDataset, LazyImageDataset
from hf_ltkd.data import DataArguments, LabelledImages, decode_images
from hf_ltkd.data.lazy import random_resized_crop_box
from hf_ltkd.data.sources import load_splits
from hf_ltkd.utils import describe_machine, write_json


MEAN, STD = np.array([0.5, 0.45, 0.4], dtype=np.float32), np.array([0.25, 0.25, 0.25], dtype=np.float32)
PADDING = 4
WARM_UP = 6  # batches that do not count: more than two workers prepare in advance


@dataclass
class Arguments:
    batch_sizes: list[int] = field(default_factory=lambda: [64, 256], metadata={"help": "Small images in a batch."})
    workers: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Processes that load."})
    turns: int = field(default=7, metadata={"help": "Turns of each loader."})
    images: int = field(default=25_600, metadata={"help": "Small images of a turn; PIL gets a tenth of them."})
    photos: int = field(default=512, metadata={"help": "Photographs of a turn."})
    photo_batch_size: int = field(default=64, metadata={"help": "Photographs in a batch."})
    threads: int = field(default=1, metadata={"help": "Threads of the process that trains."})
    device: str = field(default="cpu", metadata={"help": "Where small images are kept and augmented: cpu or cuda."})
    output_file: str | None = field(default=None, metadata={"help": "Where the figures go, as JSON."})


def main():
    args, rest = HfArgumentParser(Arguments).parse_args_into_dataclasses(return_remaining_strings=True)
    data_args = HfArgumentParser(DataArguments).parse_args_into_dataclasses(args=rest)[0] if rest else None
    torch.set_num_threads(args.threads)
    datasets.disable_progress_bars()
    small = measure_small(data_args, args)
    with tempfile.TemporaryDirectory() as folder:
        photos = measure_photos(make_photos(Path(folder), args.photos), args)

    print("| small images in a batch | workers | images per second | per core | PIL, per core | ratio |")
    print("|---|---|---|---|---|---|")
    for row in small["loaders"]:
        ours, pil = row["ours"], row["pil"]
        rates = f"{ours['wall']:,.0f} | {ours['core']:,.0f} | {pil['core']:,.0f} | {ours['core'] / pil['core']:.1f}"
        print(f"| {row['batch']} | {row['workers']} | {rates} |")
    print("\n| photographs: workers | images per second | per core |\n|---|---|---|")
    for row in photos["loaders"]:
        print(f"| {row['workers']} | {row['wall']:.0f} | {row['core']:.0f} |")
    print("\n| stage | µs per small image | µs per photograph |\n|---|---|---|")
    for stage, seconds in photos["stages"].items():
        cell = f"{1e6 * small['stages'][stage]:.1f}" if stage in small["stages"] else ""
        print(f"| {stage} | {cell} | {1e6 * seconds:.0f} |")
    versions = f"transformers {transformers.__version__}, datasets {datasets.__version__}, Pillow {PIL.__version__}"
    machine = f"{describe_machine(args.device)}, {versions}"
    print(f"\n{machine}, {args.threads} thread(s), {args.turns} turns")
    print(f"{small['decoded']} small images were decoded once, in {small['decoding_seconds']:.1f} s.")
    if args.output_file:
        results = {"machine": machine, "arguments": vars(args), "small": small, "photographs": photos}
        write_json(args.output_file, results)


def measure_small(data_args: DataArguments | None, args: Arguments) -> dict:
    images, size = small_images(data_args)
    begin = time.perf_counter()
    pixels = decode_images(images, "image", size)
    decoding_seconds = time.perf_counter() - begin
    labels = [0] * len(images)
    in_memory = ImageDataset(pixels, labels, mean=MEAN, std=STD, augment=True, padding=PADDING, device=args.device)
    by_pil = images.with_transform(
        lambda rows: {"pixel_values": [pil_view(image, size) for image in rows["image"]], "labels": rows["label"]}
    )

    workers = args.workers if args.device == "cpu" else [0]
    cases = [(batch, count) for batch in args.batch_sizes for count in workers]
    loaders = {}
    for case in cases:
        loaders[case, "ours"] = loader(in_memory, *case, args.images, args.device)
        loaders[case, "pil"] = loader(by_pil, *case, args.images // 10, args.device)
    rates = take_turns(loaders, args.turns)
    rows = [
        {"batch": batch, "workers": count, **{name: rates[(batch, count), name] for name in ("ours", "pil")}}
        for batch, count in cases
    ]
    stages = batch_stages(in_memory, args.batch_sizes[0])
    return {"decoded": len(images), "decoding_seconds": decoding_seconds, "loaders": rows, "stages": stages}


def small_images(data_args: DataArguments | None) -> tuple[Dataset, int]:
    """A dataset with the columns `image` and `label`, and the side of its images in pixels."""
    if data_args is None:
        enlarged = [PILImage.fromarray(np.uint8(digit * 255 / 16)).resize((32, 32)) for digit in load_digits().images]
        return Dataset.from_dict({"image": enlarged, "label": load_digits().target}).cast_column("image", Image()), 32
    train = load_splits(data_args)["train"]
    column = data_args.image_column or next(name for name, type in train.features.items() if isinstance(type, Image))
    train = train.select_columns([column, data_args.label_column])
    return train.rename_columns({column: "image", data_args.label_column: "label"}), data_args.image_size


def pil_view(image: PILImage.Image, size: int) -> Tensor:
    """A random crop of the padded image, mirrored or not, normalised."""
    image = ImageOps.expand(image.convert("RGB").resize((size, size)), PADDING)
    left, top = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
    image = image.crop((left, top, left + size, top + size))
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    normalised = (np.asarray(image, dtype=np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(normalised.transpose(2, 0, 1).copy())


def make_photos(folder: Path, count: int) -> list[str]:
    photos = [PILImage.fromarray(photo) for photo in load_sample_images().images]  # 640 × 427 pixels
    draw = random.Random(0)
    for number in range(count):
        left, top = draw.randint(0, 640 - 500), draw.randint(0, 427 - 375)
        crop = photos[number % 2].crop((left, top, left + 500, top + 375))
        crop.save(folder / f"{number}.jpg", quality=95)
    return [str(folder / f"{number}.jpg") for number in range(count)]


def measure_photos(paths: list[str], args: Arguments) -> dict:
    files = Dataset.from_dict({"image": paths}).cast_column("image", Image())
    photos = LazyImageDataset(files, "image", [0] * len(paths), mean=MEAN, std=STD, augment=True)
    loaders = {count: loader(photos, args.photo_batch_size, count, len(paths), "cpu") for count in args.workers}
    rates = take_turns(loaders, args.turns)
    first = paths[: args.photo_batch_size]
    decoded = [Image().decode_example({"path": path, "bytes": None}) for path in first]
    all_bits = np.random.default_rng(0).integers(0, 2**64, len(first), dtype=np.uint64)

    def decode() -> None:
        for path in first:
            Image().decode_example({"path": path, "bytes": None})

    def crop_and_resize() -> None:
        for image, bits in zip(decoded, all_bits, strict=True):
            box = random_resized_crop_box(*image.size, bits)
            image.crop(box).resize((photos.image_size,) * 2, PILImage.Resampling.BILINEAR)

    stages = {"decode": cpu_seconds(decode, len(first)), "crop, resize": cpu_seconds(crop_and_resize, len(first))}
    whole = batch_stages(photos, len(first))
    whole["augment, normalise"] -= sum(stages.values())
    sizes = [Path(path).stat().st_size for path in paths]
    rows = [{"workers": count, **rate} for count, rate in rates.items()]
    return {"mean_file_size": statistics.mean(sizes), "loaders": rows, "stages": {**stages, **whole}}


def batch_stages(dataset: LabelledImages, batch_size: int) -> dict[str, float]:
    """CPU seconds per image of what the dataset does, and of stacking its images to a batch."""
    indices = torch.randint(len(dataset), (batch_size,)).tolist()
    items = dataset.__getitems__(indices)
    return {
        "augment, normalise": cpu_seconds(lambda: dataset.__getitems__(indices), batch_size),
        "collate": cpu_seconds(lambda: default_data_collator(items), batch_size),
    }


def loader(
    dataset: torch.utils.data.Dataset | Dataset, batch_size: int, workers: int, images: int, device: str
) -> Callable[[], dict[str, float]]:
    """A call that loads `images` in random order, after a warm-up, and returns how many of them a second."""
    batches = max(1, images // batch_size)

    def measure() -> dict[str, float]:
        order = torch.randint(len(dataset), ((WARM_UP + batches) * batch_size,)).tolist()
        cpu_begin = cpu_time()
        loader = DataLoader(dataset, batch_size, sampler=order, num_workers=workers, collate_fn=default_data_collator)
        for number, batch in enumerate(loader, start=1):
            # A value of every page: a batch of a worker is mapped into this process when it is read.
            batch["pixel_values"].to(device).flatten()[::1024].sum().item()
            if number == WARM_UP:
                begin = time.perf_counter()
        wall = batches * batch_size / (time.perf_counter() - begin)
        return {"wall": wall, "core": len(order) / (cpu_time() - cpu_begin)}

    return measure


def cpu_time() -> float:
    """Seconds of this process and of the workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def take_turns(loaders: dict[Any, Callable[[], dict[str, float]]], turns: int) -> dict[Any, dict[str, float]]:
    """The medians of what each loader returns."""
    values: dict[Any, list[dict[str, float]]] = {name: [] for name in loaders}
    for _ in tqdm(range(turns), desc="Turns"):
        for name, measure in loaders.items():
            values[name].append(measure())
    return {
        name: {key: statistics.median(turn[key] for turn in some) for key in some[0]} for name, some in values.items()
    }


def cpu_seconds(call: Callable[[], object], images: int, calls: int = 12) -> float:
    """CPU time of this thread per image: the median of some calls, the first two left out."""
    seconds = []
    for _ in range(calls):
        begin = time.thread_time()
        call()
        seconds.append(time.thread_time() - begin)
    return statistics.median(seconds[2:]) / images


if __name__ == "__main__":
    main()
