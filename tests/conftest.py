"""No network, one thread, where the real data lies, and which tests share a process."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers, datasets and evaluate read it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for processes that tests start

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from ranks import TwoRanks  # noqa: E402


torch.set_num_threads(1)


@pytest.fixture
def data_dir() -> Path:
    if "HF_LTKD_DATA" not in os.environ:
        pytest.skip("set HF_LTKD_DATA to the folder that holds cifar100/train.parquet")
    return Path(os.environ["HF_LTKD_DATA"])


@pytest.fixture(scope="session")
def two_ranks():
    """Runs a function on two ranks: `two_ranks(function, *arguments)`, see ranks.py."""
    ranks = TwoRanks()
    yield ranks
    if ranks.connections:
        ranks.stop()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if "two_ranks" in item.fixturenames:
            item.add_marker("distributed")
            item.add_marker(pytest.mark.xdist_group("two_ranks"))  # one process has the ranks


def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadgroup`: a file is one process's, for its fixtures' sake, but for the tests of a group."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling  # here, because a session without -n does without xdist

    class FilesAndGroups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name, at, group = nodeid.rpartition("@")
            return group if at and "]" not in group else nodeid.partition("::")[0]

    return FilesAndGroups(config, log)
