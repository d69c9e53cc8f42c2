"""The benchmark of loading: its baseline is the same augmentation, and its table says what its JSON says."""

import json
import random

import numpy as np
import pytest
from helpers import load_script, run_script
from PIL import Image as PILImage


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/data.py")


def test_baseline_crops_and_mirrors(benchmark):
    array = np.random.default_rng(0).integers(1, 256, (6, 6, 3), dtype=np.uint8)
    padded = np.pad(array, ((4, 4), (4, 4), (0, 0)))
    offsets = [(y, x) for y in range(9) for x in range(9)]
    crops = {padded[y : y + 6, x : x + 6][:, ::step].tobytes(): (y, x, step) for y, x in offsets for step in (1, -1)}
    random.seed(0)
    found = set()
    for _ in range(300):
        view = benchmark.pil_view(PILImage.fromarray(array), 6).permute(1, 2, 0).numpy()
        pixels = (255 * (view * benchmark.STD + benchmark.MEAN)).round().astype(np.uint8)
        found.add(crops[np.ascontiguousarray(pixels).tobytes()])
    assert len(found) > 100 and {step for *_, step in found} == {1, -1}


def test_photos(benchmark, tmp_path):
    paths = benchmark.make_photos(tmp_path, 4)
    images = [PILImage.open(path) for path in paths]
    assert [(image.format, image.size) for image in images] == [("JPEG", (500, 375))] * 4
    assert len({image.tobytes() for image in images}) == 4


def test_table_and_json(tmp_path, capsys):
    small = "--turns 1 --images 64 --photos 2 --photo_batch_size 2 --batch_sizes 32 --workers 0 1".split()
    run_script("benchmarks/data.py", *small, "--output_file", tmp_path / "data.json")
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "data.json").read_text())
    assert results["arguments"]["images"] == 64 and results["small"]["decoded"] == 1797
    cases = [(row["batch"], row["workers"]) for row in results["small"]["loaders"]]
    assert cases == [(32, 0), (32, 1)] and [row["workers"] for row in results["photographs"]["loaders"]] == [0, 1]
    for row in results["small"]["loaders"]:
        ours, pil = row["ours"], row["pil"]
        assert min(*ours.values(), *pil.values()) > 0
        cells = f"| 32 | {row['workers']} | {ours['wall']:,.0f} | {ours['core']:,.0f} | {pil['core']:,.0f} | "
        assert f"{cells}{ours['core'] / pil['core']:.1f} |" in printed
    assert results["machine"] in printed and "torch" in results["machine"] and "cores" in results["machine"]
