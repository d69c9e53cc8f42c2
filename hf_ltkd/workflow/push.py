"""A student's folder, sent to the Hub."""

import os
from pathlib import Path

from ..hub.card import write_model_card
from ..hub.names import COMPARISON_NAME
from ..hub.push import push_folder
from .inputs import load_classifier
from .outputs import Comparison


def push(model: str | os.PathLike, to: str, private: bool | None = None) -> str:
    """
    Sends a student's folder to the Hub, with a model card from what was measured.

    Args:
        model (`str` or `os.PathLike`): The folder.
        to (`str`): `"owner/name"`; made if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private.

    Returns:
        `str`: The address of the commit.

    Raises:
        `ValueError`: if the folder holds no image classifier.
        `OSError`: if the Hub cannot be reached or refuses; it says what to do.
    """
    folder = Path(model)
    load_classifier(model)  # says early that it is no student's folder
    card = Comparison.from_pretrained(folder).card_arguments() if (folder / COMPARISON_NAME).is_file() else {}
    write_model_card(folder, repo_id=to, **card)
    return push_folder(folder, to, private=private).commit_url
