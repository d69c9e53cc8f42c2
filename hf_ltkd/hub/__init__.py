"""What goes to the Hub: the description of a network, the card, the push."""

from .card import write_model_card
from .describe import describe_model
from .push import add_code, explained, published_files, push_folder


__all__ = ["add_code", "describe_model", "explained", "published_files", "push_folder", "write_model_card"]
