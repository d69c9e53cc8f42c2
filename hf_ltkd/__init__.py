"""Long-tailed knowledge distillation for the Hugging Face stack. A name costs its import when it is used."""

import importlib
import sys
from typing import Any

import lazy_loader
import wrapt

from . import _moved


__version__ = "0.1.0"

_lazy_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if f"{__name__}.{name}" in _moved.MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    return _lazy_name(name) if name in __all__ else _moved.moved_name(f"{__name__}.{name}")


def _register_networks(_module: Any = None) -> None:
    """
    Makes the Auto classes know our networks, whichever of them is imported first; called again until all are there.

    The modules below import each other, so that one may be there in part only when another is complete.
    """
    modeling = sys.modules.get("transformers.modeling_utils")
    if modeling is not None and not hasattr(modeling, "PreTrainedModel"):
        return
    networks = getattr(importlib.import_module(f"{__name__}.models"), "MODEL_CLASSES", {})
    auto = "transformers.models.auto"
    auto_config = getattr(sys.modules.get(f"{auto}.configuration_auto"), "AutoConfig", None)
    auto_model = getattr(sys.modules.get(f"{auto}.modeling_auto"), "AutoModelForImageClassification", None)
    for config_class, model_class in networks.items():
        if auto_config is not None:
            auto_config.register(config_class.model_type, config_class, exist_ok=True)
        if auto_model is not None:
            auto_model.register(config_class, model_class, exist_ok=True)


for _module in (
    "transformers.modeling_utils",
    "transformers.models.auto.configuration_auto",
    "transformers.models.auto.modeling_auto",
    "hf_ltkd.models",
):
    wrapt.register_post_import_hook(_register_networks, _module)
