"""
No network, one thread, where the real data lies, and which tests share a process.

What takes seconds to import is imported inside the fixtures: the process that hands out the tests runs none.
"""

import gc
import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest


os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers, datasets and evaluate read it
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for processes that tests start
gc.disable()  # imports and collected tests are no garbage


@pytest.fixture(scope="module", autouse=True)
def quick_trainings():
    """Accelerate collects garbage when a training starts: it need not look at all that was ever imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def quick_cards():
    """The template of a card is compiled once."""
    from jinja2 import Environment

    Environment.compile = cache(Environment.compile)


@pytest.fixture(scope="session", autouse=True)
def drawing():
    """Drawing takes most of a second: a picture is one pixel, but `with drawing():`."""
    from matplotlib.figure import Figure
    from PIL import Image

    savefig = Figure.savefig
    Figure.savefig = lambda figure, file, **options: Image.new("L", (1, 1)).save(file, "png")

    @contextmanager
    def drawing():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Figure, "savefig", savefig)
            yield

    return drawing


@pytest.fixture
def pictures(drawing):
    """They are drawn."""
    with drawing():
        yield


@pytest.fixture
def data_dir() -> Path:
    if "HF_LTKD_DATA" not in os.environ:
        pytest.skip("set HF_LTKD_DATA to the folder that holds cifar100/train.parquet")
    return Path(os.environ["HF_LTKD_DATA"])


# The parameter puts "two_ranks" into the names of the tests, by which they are handed out below.
@pytest.fixture(scope="session", params=["two_ranks"])
def two_ranks():
    """Runs a function on two ranks: `two_ranks(function, *arguments)`, see ranks.py."""
    from ranks import TwoRanks

    ranks = TwoRanks()
    yield ranks
    if ranks.connections:
        ranks.stop()


# What takes longest, in this order.
LONGEST = (
    "two_ranks",
    "tests/experiments/",
    "workflow/test_segmentation.py",
    "hub/test_push",
    "test_documentation",
    "data/test_pixels",
    "workflow/test_export.py",
    "workflow/test_distill",
    "losses/test_every_loss",
    "examples/test_examples",
    "models/test_families",
    "workflow/test_train_teacher",
    "data/test_teacher_pixels",
    "trainer/test_arguments_table",
    "examples/test_segmentation_example",
)


def pytest_collection_modifyitems(items):
    gc.enable()
    for item in items:
        if "two_ranks" in item.fixturenames:
            item.add_marker("distributed")
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """
    With `--dist loadfile` a file goes to one process, for its fixtures' sake; so do all tests on two ranks, and those
    of the experiments. What takes longest starts first, so that no process works on while the others have ended.
    """
    from xdist.scheduler import LoadFileScheduling

    class FilesAndRanks(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if "two_ranks" in nodeid.partition("[")[2]:
                return "two_ranks"
            return "experiments" if nodeid.startswith("tests/experiments/") else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # by number of tests
    return FilesAndRanks(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Photos, a teacher, and a student that was distilled from it, see photos.py; not to be changed."""
    from photos import make_home

    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def hub():
    """A Hub on loopback; a process talks to it inside `hub_server.use_hub`."""
    from hub_server import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def elsewhere(hub, tmp_path_factory):
    """Runs scripts in a process that has the Hub, but not hf_ltkd: `elsewhere(script, **names)`."""
    from hub_server import Elsewhere

    machine = Elsewhere(hub, tmp_path_factory.mktemp("elsewhere"))
    yield machine
    if machine.process is not None:
        machine.process.kill()
        machine.process.wait()
