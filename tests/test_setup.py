"""What is imported is declared, and what is declared is imported."""

import ast
import re
import runpy
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import setuptools

from hf_ltkd import __version__


ROOT = Path(__file__).parents[1]
# Required by huggingface-hub for a model card, and by the Trainer of transformers.
INDIRECT = {"jinja2", "accelerate"}
# Imported where they are there: torch brings triton for a GPU, and who trains with DeepSpeed has installed it.
OPTIONAL = {"triton", "deepspeed"}
TOOLS = {"pytest-timeout", "pytest-xdist", "ruff", "mypy", "import-linter", "pre-commit"}  # commands and plugins
OWN = {"hf_ltkd"} | {path.stem for folder in ("examples", "tests") for path in (ROOT / folder).rglob("*")}
DISTRIBUTIONS = cache(packages_distributions)  # a second, when a test asks
FITTING = {"onnx", "timm", "torchvision"}  # onnxscript, timm's models and image processors need them


def canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@pytest.fixture(scope="module")
def declared():
    """The arguments of `setup()`."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", found.update)
        runpy.run_path(str(ROOT / "setup.py"))
    return found


def foreign_imports(statements) -> set[str]:
    """Distributions behind import statements; a module that is not installed stands for itself."""
    names = set()
    for node in statements:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    names -= OWN | set(sys.stdlib_module_names)
    return {canonical(distribution) for name in names for distribution in DISTRIBUTIONS().get(name, [name])}


def imported(folder: str) -> dict[str, list[str]]:
    """Distributions that the files of a folder import, with the files that do."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for distribution in foreign_imports(ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
            found.setdefault(distribution, []).append(str(path.relative_to(ROOT)))
    return found


def requirements(declared, *extras: str) -> set[str]:
    return {canonical(r) for r in sum((declared["extras_require"][e] for e in extras), declared["install_requires"])}


def test_the_package_imports_what_it_requires(declared):
    found, required = imported("hf_ltkd"), requirements(declared)
    extras = requirements(declared, *declared["extras_require"])
    assert {name: files for name, files in found.items() if name not in extras | OPTIONAL} == {}
    assert required - set(found) - INDIRECT == set()


@pytest.mark.parametrize("folder", ["examples", "tests"])
def test_what_examples_and_tests_import_is_required_or_an_extra(declared, folder):
    known = requirements(declared, *declared["extras_require"]) | {"gradio-client", "setuptools"}
    assert {name: files for name, files in imported(folder).items() if name not in known | OPTIONAL} == {}


def test_extras_are_imported(declared):
    everywhere = set().union(*map(imported, ("hf_ltkd", "examples", "tests")))
    assert requirements(declared, *declared["extras_require"]) - everywhere - INDIRECT - TOOLS - FITTING == set()


def test_a_plain_import_needs_no_extra(declared):
    """Modules of extras are imported inside functions, but for files that are programs of their own."""
    extras = requirements(declared, *declared["extras_require"]) - requirements(declared)
    for path in (ROOT / "hf_ltkd").rglob("*.py"):
        if path.name != "app.py":
            assert not foreign_imports(ast.parse(path.read_text(encoding="utf-8")).body) & extras, path


def test_version_and_files(declared):
    assert declared["version"] == __version__
    assert {"hf_ltkd", "hf_ltkd.losses", "hf_ltkd.metrics.group_accuracy"} <= set(declared["packages"])
    for pattern in declared["package_data"]["hf_ltkd"]:
        assert list((ROOT / "hf_ltkd").glob(pattern)), pattern
