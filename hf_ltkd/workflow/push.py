"""A student's folder on the Hub, with a card of what was measured and of what a person wrote into it."""

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from huggingface_hub.errors import EntryNotFoundError
from transformers.utils.hub import hf_api

from ..data.processors import pixels_of
from ..hub.card import write_model_card
from ..hub.describe import describe_model
from ..hub.names import ARGUMENTS_NAME, CARD_NAME, COMPARISON_NAME, RUN_NAME
from ..hub.push import add_code, explained, published_files, push_folder, time_limit, within
from ..hub.readme import read_readme, take_over
from ..teacher.live import load_teacher
from ..utils import check_number, read_json, write_json
from .beforehand import check_hub_id, check_weights
from .inputs import load_processor
from .outputs import Comparison


def push(
    model: str | os.PathLike,
    to: str,
    *,
    push_anyway: bool = False,
    private: bool | None = None,
    dataset: str | None = None,
    dataset_split: str | None = None,
    teacher_name: str | None = None,
    teacher_results: str | os.PathLike | None = None,
    plain_student_results: str | os.PathLike | None = None,
    license: str | None = None,
    language: str | None = None,
    tags: Sequence[str] | None = None,
    revision: str | None = None,
    model_code: bool | None = None,
    keep_card: bool = False,
    timeout: float = 60.0,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> CommitInfo:
    """
    Sends a student's folder to the Hub, with its model card; again, it sends only what is missing. Nothing in the
    folder is written before the Hub was reached, and what a person wrote into `README.md`, here or on the Hub, stays.

    Args:
        model (`str` or `os.PathLike`): The folder, of `hf-ltkd distill` or of [`~DistillationTrainer.save_model`].
        to (`str`): `"owner/name"`, or `"name"` for a repository of one's own; made if it does not exist.
        push_anyway (`bool`, *optional*, defaults to `False`):
            Whether a student is sent that is worse than one without a teacher by `comparison.json`.
        private (`bool`, *optional*): Whether a new repository is private.
        dataset (`str`, *optional*, defaults to that of `comparison.json`):
            The full dataset's name, best its Hub id; without it the card has no metrics in its front matter.
        dataset_split (`str`, *optional*, defaults to that of `comparison.json`, else `"test"`): What was evaluated on.
        teacher_name (`str`, *optional*, defaults to that of `comparison.json`): The teacher's Hub id.
        teacher_results, plain_student_results (`str` or `os.PathLike`, *optional*, default to `comparison.json`):
            `eval_results.json` of the teacher, and of the same student trained without one.
        license, language, tags (`str`, `str`, `Sequence[str]`, *optional*): For the card's front matter.
        revision (`str`, *optional*): The branch, `"main"` by default.
        model_code (`bool`, *optional*, defaults to what its training had as `hub_model_code`):
            Whether the code of a network of `hf_ltkd` goes with it, so that it loads without `hf_ltkd`.
        keep_card (`bool`, *optional*, defaults to `False`): Whether a `README.md` is sent as it is.
        timeout (`float`, *optional*, defaults to 60.0):
            Seconds that the Hub may stay silent; the whole push may take five times that and 10 seconds a megabyte.
        token (`str`, *optional*): Defaults to the one of `hf auth login` or `HF_TOKEN`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code in the folder may be run.

    Returns:
        `huggingface_hub.CommitInfo`: The commit, with its `commit_url`.

    Raises:
        `ValueError`: if the folder holds no classifier, a broken one, or one that is worse than without a teacher, or
            if a file of results or `README.md` cannot be read.
        `OSError`: if the Hub cannot be reached or refuses; it says what to do.
    """
    if not isinstance(model, str | os.PathLike):
        raise ValueError(f"The model is a {type(model).__name__}: give the folder that holds it.")
    check_hub_id("to", to)
    check_number("timeout", timeout, above=0)
    folder = Path(model)
    published_files(folder)
    network: Any = load_teacher(str(folder), trust_remote_code)  # loads any classifier
    check_weights(network, "model")
    card: dict[str, Any] = {}
    if (folder / COMPARISON_NAME).is_file():
        comparison = Comparison.from_pretrained(folder)
        card = comparison.card_arguments()
        if not push_anyway:
            comparison.check_is_better()
    given = {
        "dataset": dataset,
        "dataset_split": dataset_split,
        "teacher_name": teacher_name,
        "teacher_metrics": teacher_results and _read_results(teacher_results),
        "plain_student_metrics": plain_student_results and _read_results(plain_student_results),
        "license": license,
        "language": language,
        "tags": tags and list(tags),
    }
    card |= {name: value for name, value in given.items() if value is not None}
    keep_card = keep_card and (folder / CARD_NAME).is_file()
    if not keep_card:
        read_readme(folder / CARD_NAME)
    if model_code is None:
        model_code = read_json(folder / ARGUMENTS_NAME).get("hub_model_code", True)

    def write_files(repo_id: str) -> None:
        add_code(folder, network, model_code)
        if not (folder / RUN_NAME).is_file():
            write_json(folder / RUN_NAME, {"student": describe_model(network, _input_shape(folder, network))})
        if not keep_card:
            with explained(folder, repo_id, timeout):
                within(time_limit(timeout), _take_over_card, folder, repo_id, revision, token)
            write_model_card(folder, repo_id=repo_id, **card)

    how: dict[str, Any] = {"private": private, "revision": revision, "timeout": timeout, "token": token}
    return push_folder(folder, to, prepare=write_files, **how)


def _input_shape(folder: Path, network: Any) -> list[int] | None:
    """That of the image processor, where there is one that says it."""
    processor = load_processor(folder)
    with suppress(ValueError):  # its pixels have no fixed size
        if processor is not None:
            return [getattr(network.config, "num_channels", 3), *pixels_of(processor).size]
    return None


def _take_over_card(folder: Path, repo_id: str, revision: str | None, token: str | None) -> None:
    """What a person wrote on the Hub goes into the folder's card."""
    with tempfile.TemporaryDirectory() as elsewhere:
        try:
            card = hf_api().hf_hub_download(repo_id, CARD_NAME, revision=revision, token=token, local_dir=elsewhere)
        except EntryNotFoundError:
            return
        take_over(folder / CARD_NAME, Path(card))


def _read_results(path: str | os.PathLike) -> dict[str, Any]:
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The results {str(path)!r} cannot be read ({error}): give an eval_results.json.") from error
    if not isinstance(results, dict):
        raise ValueError(f"The results {str(path)!r} are no table of names and numbers: give an eval_results.json.")
    return results
