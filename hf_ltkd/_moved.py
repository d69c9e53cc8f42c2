"""Modules and names of version 0.1.0 that have moved: they work for one more version, with a warning."""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


MODULES = {
    "hf_ltkd.checkpoints": "hf_ltkd.trainer.checkpoints",
    "hf_ltkd.checks": "hf_ltkd.trainer.checks",
    "hf_ltkd.commands": "hf_ltkd.workflow",
    "hf_ltkd.engines": "hf_ltkd.trainer.engines",
    "hf_ltkd.estimate": "hf_ltkd.workflow.estimate",
    "hf_ltkd.hub_trainer": "hf_ltkd.trainer.student_files",
    "hf_ltkd.inputs": "hf_ltkd.workflow.inputs",
    "hf_ltkd.logit_files": "hf_ltkd.teacher.logit_files",
    "hf_ltkd.losses.closed_form": "hf_ltkd.losses._ltkd_fused",
    "hf_ltkd.losses.triton_kernels": "hf_ltkd.losses._ltkd_triton",
    "hf_ltkd.model_card": "hf_ltkd.hub.card",
    "hf_ltkd.outputs": "hf_ltkd.workflow.outputs",
    "hf_ltkd.plots": "hf_ltkd.analysis.plots",
    "hf_ltkd.recommend": "hf_ltkd.workflow.recommend",
    "hf_ltkd.report": "hf_ltkd.cli.text",
    "hf_ltkd.teacher_cache": "hf_ltkd.teacher.cache",
    "hf_ltkd.training_args": "hf_ltkd.trainer.training_args",
}
NAMES = {
    "hf_ltkd.LongTailRecipe": ("hf_ltkd.data", "LongTailSplit"),
    "hf_ltkd.data.LongTailRecipe": ("hf_ltkd.data", "LongTailSplit"),
    "hf_ltkd.data.SetEpochCallback": ("hf_ltkd.trainer.callbacks", "SetEpochCallback"),
}


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes with version 0.3.", FutureWarning, stacklevel=3)


def moved_name(old: str) -> Any:
    """
    What a name of before stands for now.

    Raises:
        `AttributeError`: if there never was such a name.
    """
    if old not in NAMES:
        module, _, name = old.rpartition(".")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    module, name = NAMES[old]
    _warn(old, f"{module}.{name}")
    return getattr(importlib.import_module(module), name)


class MovedModules(MetaPathFinder, Loader):
    """Imports the module of today under the name of before."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = MODULES[module.__name__]
        _warn(module.__name__, new)
        sys.modules[module.__name__] = importlib.import_module(new)


sys.meta_path.append(MovedModules())
