"""The command `hf-ltkd`: arguments in, text and pictures out."""

from .arguments import parse
from .main import main


__all__ = ["main", "parse"]
