"""The command `hf-ltkd`: arguments in, text and pictures out."""

from .main import main


__all__ = ["main"]
