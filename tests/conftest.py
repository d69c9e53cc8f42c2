"""No network, one thread, and where the real data lies."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers, datasets and evaluate read it

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402


torch.set_num_threads(1)


@pytest.fixture
def data_dir() -> Path:
    if "HF_LTKD_DATA" not in os.environ:
        pytest.skip("set HF_LTKD_DATA to the folder that holds cifar100/train.parquet")
    return Path(os.environ["HF_LTKD_DATA"])


pytest_plugins = ["photos"]
