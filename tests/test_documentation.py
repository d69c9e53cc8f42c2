"""What README files and docstrings show runs as it is printed; the commands in them are at least understood."""

import argparse
import ast
import copy
import doctest
import functools
import importlib
import pkgutil
import re
import runpy
import shlex
import string
import sys
from pathlib import Path
from unittest.mock import MagicMock

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from helpers import black
from PIL import Image as PILImage

import hf_ltkd


ROOT = Path(__file__).parents[1]
PAGES = sorted(page for folder in (".", "hf_ltkd", "examples") for page in (ROOT / folder).glob("README.md"))
PAGES += sorted(page for folder in ("hf_ltkd", "examples") for page in (ROOT / folder).glob("*/README.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- Python ----

NAMES = [f"class {i:02d}" for i in range(100)]


@pytest.fixture(scope="module")
def small_cifar100(tmp_path_factory):
    """A folder like the Hub's CIFAR-100, with two training images of each class."""
    folder = tmp_path_factory.mktemp("cifar100")
    features = Features({"img": Image(), "fine_label": ClassLabel(names=NAMES)})
    for split, size in (("train", 2), ("test", 1)):
        pixels = np.random.default_rng(0).integers(0, 256, (100 * size, 8, 8, 3), dtype=np.uint8)
        rows = {"img": list(pixels), "fine_label": list(range(100)) * size}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def small_data(small_cifar100):
    """What the README's first block loads of it, and how; `data["train"]` and `data["test"]` its image datasets."""

    class Data(hf_ltkd.data.ImageData):
        def __getitem__(self, split):
            return getattr(self, split)

    cifar100_lt = functools.partial(
        hf_ltkd.cifar100_lt, data_dir=str(small_cifar100), image_size=8, crop_padding=1, progress=False
    )
    data = cifar100_lt(100)
    data.__class__ = Data
    return data, cifar100_lt


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos, one folder per class: three photos of each but five of the first."""
    folder = tmp_path_factory.mktemp("home") / "photos"
    for index, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for number in range(3 if index else 5):
            PILImage.new("RGB", (8, 8), (index, 50 * number, 0)).save(folder / name / f"{number}.png")
    return folder


def write_streets(folder: Path) -> None:
    """Images and masks of 11 classes, in two splits."""
    for part in ("train", "test"):
        for kind, pixels in (("images", np.zeros((8, 8, 3))), ("masks", np.arange(64).reshape(8, 8) % 11)):
            (folder / part / kind).mkdir(parents=True)
            for number in (0, 1):
                PILImage.fromarray(pixels.astype(np.uint8)).save(folder / part / kind / f"{number}.png")


@pytest.fixture
def stand_ins(small_cifar100, small_data, photos, tmp_path, monkeypatch):
    """The names that a block takes for granted: a small CIFAR-100 for the real one, two steps for a training."""
    data, cifar100_lt = copy.deepcopy(small_data)
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(photos)
    write_streets(Path("streets"))
    short = {"max_steps": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    arguments = functools.partial(hf_ltkd.DistillationTrainingArguments, **short)
    files = {split: str(small_cifar100 / f"{split}.parquet") for split in ("train", "test")}
    splits = DatasetDict({split: Dataset.from_parquet(file) for split, file in files.items()})
    monkeypatch.setattr(hf_ltkd, "cifar100_lt", cifar100_lt)
    monkeypatch.setattr(hf_ltkd, "DistillationTrainingArguments", arguments)
    for job in ("distill", "train_teacher"):
        monkeypatch.setattr(hf_ltkd, job, functools.partial(getattr(hf_ltkd, job), **short))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    build = hf_ltkd.TeacherCache.build
    monkeypatch.setattr(hf_ltkd.TeacherCache, "build", lambda *args, views, **kwargs: build(*args, views=2, **kwargs))
    teacher = hf_ltkd.create_model("resnet8", 100, image_size=8, id2label=dict(enumerate(NAMES)))
    teacher.save_pretrained("teacher")
    data.image_processor.save_pretrained("teacher")
    random = torch.Generator().manual_seed(0)
    return {name: getattr(hf_ltkd, name) for name in hf_ltkd.__all__} | {
        "data": data,
        "groups": data.groups,
        "teacher": teacher,
        "student": hf_ltkd.create_model("resnet8", 100, image_size=8),
        "args": arguments("student"),
        "loss": hf_ltkd.KDLoss(),
        "train_dataset": data.train,
        "labels": torch.randint(0, 100, (8,), generator=random),
        "student_logits": torch.randn(8, 100, generator=random),
        "teacher_logits": torch.randn(8, 100, generator=random),
    }


PYTHON = [(page, i) for page in PAGES for i in range(len(blocks(page, "python")))]


@pytest.mark.filterwarnings("error:hf_ltkd:FutureWarning")  # pages show the names of today
@pytest.mark.parametrize(("page", "index"), PYTHON, ids=[f"{label(page)}-{i}" for page, i in PYTHON])
def test_python_of_a_page(page, index, stand_ins):
    exec(compile(blocks(page, "python")[index], f"{label(page)}, block {index}", "exec"), stand_ins)


class WithoutFences(doctest.DocTestParser):
    def parse(self, string, name="<string>"):
        return super().parse(re.sub(r"^ *```.*$", "", string, flags=re.MULTILINE), name)


def documented_modules() -> list[str]:
    found = pkgutil.walk_packages(hf_ltkd.__path__, "hf_ltkd.")
    return [
        m.name
        for m in found
        if not m.ispkg and ">>>" in Path(m.module_finder.path, m.name.rpartition(".")[2] + ".py").read_text()
    ]


@pytest.mark.parametrize("name", documented_modules())
def test_examples_in_docstrings(name, request, monkeypatch):
    module = importlib.import_module(name)
    for example in doctest.DocTestFinder(parser=WithoutFences()).find(module, globs={}):
        if not example.examples:
            continue
        if "cifar100_lt(" in example.docstring.partition(">>>")[2]:
            folder = request.getfixturevalue("data_dir") / "cifar100"
            cifar100_lt = functools.partial(hf_ltkd.cifar100_lt, data_dir=str(folder), progress=False)
            monkeypatch.setattr(hf_ltkd, "cifar100_lt", cifar100_lt)
            monkeypatch.setattr("hf_ltkd.data.images._decode", black)
        example.globs |= {public: getattr(hf_ltkd, public) for public in hf_ltkd.__all__}
        said: list[str] = []
        outcome = doctest.DocTestRunner().run(example, out=said.append)
        assert outcome.attempted and not outcome.failed, "".join(said)


# ---- Commands ----


def commands_in(text: str, language: str = "bash") -> list[list[str]]:
    """The commands of a shell block as lists of words, variables filled in."""
    found, variables = [], {}
    for line in text.replace("\\\n", " ").splitlines():
        if assignment := re.fullmatch(r'(?:export )?([A-Z_]+)="?(.*?)"?', line.strip()):
            variables[assignment[1]] = string.Template(assignment[2]).safe_substitute(variables)
        elif words := shlex.split(string.Template(line).safe_substitute(variables), comments=True):
            found.append(words)
    return found


def all_commands() -> list[tuple[str, list[str]]]:
    """Commands of the pages, and of the scripts' docstrings."""
    found = [
        (label(page), command) for page in PAGES for block in blocks(page, "bash") for command in commands_in(block)
    ]
    for script in sorted((ROOT / "examples").rglob("*.py")):
        text = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").replace("\\\n", " ")
        lines = [line for line in text.splitlines() if re.match(r"(python|torchrun|accelerate|hf-ltkd) ", line)]
        found += [(label(script), command) for command in commands_in("\n".join(lines))]
    return found


class Parsed(BaseException):
    """A command line was understood to its end."""


COMMANDS = [
    (where, command)
    for where, command in all_commands()
    if any(word.endswith(".py") for word in command) or command[0] == "hf-ltkd"
]


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[f"{w}: {shlex.join(c)}" for w, c in COMMANDS])
def test_command_is_understood(where, command, monkeypatch, tmp_path):
    parse, depth = argparse.ArgumentParser.parse_known_args, [0]

    def parse_and_stop(parser, args=None, namespace=None):
        depth[0] += 1  # parsers of subcommands are called by their parent
        try:
            values, unknown = parse(parser, args, namespace)
        finally:
            depth[0] -= 1
        if not unknown and not depth[0]:
            raise Parsed
        return values, unknown

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    monkeypatch.setitem(sys.modules, "gradio", MagicMock())  # which is imported before, for seconds
    modules = set(sys.modules)
    if command[0] == "hf-ltkd":
        script, arguments = None, command[1:]
    else:
        at = next(i for i, word in enumerate(command) if word.endswith(".py"))
        script, arguments = ROOT / command[at], command[at + 1 :]
        assert script.is_file(), f"there is no {command[at]}"
        monkeypatch.syspath_prepend(script.parent)
        for word in command[:at]:
            assert not word.endswith(".yaml") or (ROOT / word).is_file(), f"there is no {word}"
    if [Path(argument).suffix for argument in arguments] == [".yaml"]:  # a file of the user's
        return
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    try:
        with pytest.raises(Parsed):
            hf_ltkd.cli.main(arguments) if script is None else runpy.run_path(str(script), run_name="__main__")
    finally:
        for name in set(sys.modules) - modules:  # "report" of one folder is not that of another
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "examples")):
                del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_targets_of_make_and_linked_files_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for block in blocks(page, "bash"):
        for command in commands_in(block):
            assert command[0] != "make" or set(word for word in command[1:] if "=" not in word) <= targets, command
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in link or (page.parent / link).exists(), f"{label(page)} links to {link}"
