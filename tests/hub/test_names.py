"""A file beside a student has one name, in one place."""

import ast
from pathlib import Path

import pytest

from hf_ltkd.data.holdout import HOLDOUT_NAME
from hf_ltkd.hub import names


ROOT = Path(__file__).parents[2]
NAMES = {
    names.RUN_NAME, names.ARGUMENTS_NAME, names.EVALUATION_NAME, names.EMISSIONS_NAME, names.COMPARISON_NAME,
    names.BIAS_PICTURE, *names.PICTURES, *names.ONNX_FILES, names.CLASS_GROUPS_NAME, names.SPLIT_NAME, HOLDOUT_NAME,
}  # fmt: skip
DEFINED = {"hf_ltkd/hub/names.py", "hf_ltkd/groups.py", "hf_ltkd/data/long_tail.py", "hf_ltkd/data/holdout.py"}
# The page runs where hf_ltkd is not installed; what a command's help shows must not import torch.
ON_THEIR_OWN = {"examples/app.py", "hf_ltkd/workflow/arguments.py"}


def literals(path: Path) -> set[str]:
    """The strings of a module, without its docstrings, which name files for people."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text.strip("/") for text in texts}


@pytest.mark.parametrize("folder", ["hf_ltkd", "examples"])
def test_no_other_module_spells_a_name(folder):
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        module = path.relative_to(ROOT).as_posix()
        if module not in DEFINED | ON_THEIR_OWN and literals(path) & NAMES:
            found[module] = sorted(literals(path) & NAMES)
    assert found == {}


def test_the_search_finds_them():
    spelled = set().union(*(literals(ROOT / module) for module in DEFINED))
    assert NAMES <= spelled and len(NAMES) == 16


def test_what_is_published_is_named_once():
    assert len(set(names.PUBLISHED)) == len(names.PUBLISHED)
    assert {*names.PICTURES, names.RUN_NAME, names.CARD_NAME} < set(names.PUBLISHED)
    assert names.COMPARISON_NAME not in names.PUBLISHED  # it is in the card
