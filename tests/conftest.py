"""No network, one thread, and where the real data lies."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers, datasets and evaluate read it

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hub_server import Elsewhere, HubServer  # noqa: E402


torch.set_num_threads(1)


@pytest.fixture
def data_dir() -> Path:
    if "HF_LTKD_DATA" not in os.environ:
        pytest.skip("set HF_LTKD_DATA to the folder that holds cifar100/train.parquet")
    return Path(os.environ["HF_LTKD_DATA"])


@pytest.fixture(scope="session")
def hub():
    """A Hub on loopback; a process talks to it inside `hub_server.use_hub`."""
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def elsewhere(hub, tmp_path_factory):
    """Runs scripts in a process that has the Hub, but not hf_ltkd: `elsewhere(script, **names)`."""
    machine = Elsewhere(hub, tmp_path_factory.mktemp("elsewhere"))
    yield machine
    if machine.process is not None:
        machine.process.kill()
        machine.process.wait()
