"""Tiny images of six colours, two trained teachers, and the runner in this process."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import transformers
import yaml
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessor, set_seed

from hf_ltkd import create_model


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "examples" / "experiments")]

import run  # noqa: E402
from tiny import COLOURS, TINY, lines_of  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def quiet():
    """The log level as it was."""
    verbosity = transformers.logging.get_verbosity()
    yield
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Six colours, 20 training and 8 test images of each, with experiments and trained teachers beside them."""
    folder = tmp_path_factory.mktemp("images")
    features, random = Features({"img": Image(), "colour": ClassLabel(names=[*COLOURS])}), np.random.default_rng(0)
    for split, size in (("train", 20), ("test", 8)):
        labels = np.repeat(np.arange(6), size)
        pixels = random.integers(0, 216, (len(labels), 8, 8, 3))
        pixels += 40 * np.array([*COLOURS.values()])[labels][:, None, None]
        columns = {"img": [PILImage.fromarray(image) for image in pixels.astype(np.uint8)], "colour": labels}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    for seed in (0, 1):
        set_seed(seed)
        create_model("resnet8x2", 6, image_size=8, id2label=dict(enumerate(COLOURS))).save_pretrained(
            folder / f"teacher{seed}"
        )
        processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
        processor.save_pretrained(folder / f"teacher{seed}")
    too_much, ltkd = {"loss": "ltkd", "arguments": {"alpha": 1e39}}, TINY["methods"]["LTKD"]
    adjusted = {"loss": "ce", "adjust_student": True}
    mass = {"measure": "group_mass", "batch_size": 16, "batches": 100, "temperatures": [1, 4]}
    for name, values in {
        "tiny": TINY,
        "more": {"extends": "tiny.yaml", "methods": {**TINY["methods"], "too much": too_much}},
        "adjusted": {"extends": "tiny.yaml", "seeds": [0], "methods": {"Student, adjusted": adjusted, "LTKD": ltkd}},
        "diverging": {
            **{"extends": "tiny.yaml", "seeds": [0], "pairs": ["resnet8"]},
            "methods": {"Student, adjusted": {**adjusted, "training": {"learning_rate": 1e30}}},
        },
        "mass": {"extends": "tiny.yaml", "seeds": [0], "methods": {"mass": mass}},
        "parts": {"extends": "tiny.yaml", "group_losses": {"temperature": 4}, "methods": {"LTKD": ltkd}},
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def start(images):
    """Runs `run.py` in this process, with experiments of the images' folder; gives the lines of the results."""

    def start(output_dir, *arguments, experiment="tiny", report=False, cost=False):
        command = ["--data_dir", images, "--output_dir", output_dir, *arguments]
        command += [] if experiment is None else ["--experiment", images / f"{experiment}.yaml"]
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            patch.setattr(run, "take_one_gpu", lambda: 0)
            if not cost:
                patch.setattr(run, "describe", lambda job, cells: None)
            if not report:
                patch.setattr(run, "write_report", lambda *arguments: None)
            run.main(list(map(str, command)))
        return lines_of(output_dir)

    return start


@pytest.fixture(scope="session")
def whole(start, tmp_path_factory) -> Path:
    """The folder of the whole tiny experiment, run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    start(folder)
    return folder
