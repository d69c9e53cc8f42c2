"""Long-tailed splits, seeded views of images, image files and columns of any kind, the benchmarks of the paper."""

from typing import Any

import lazy_loader

from .._moved import moved_name


_lazy_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return _lazy_name(name) if name in __all__ else moved_name(f"{__name__}.{name}")
