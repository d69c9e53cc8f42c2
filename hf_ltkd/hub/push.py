"""What of a student's folder goes to the Hub, and how it gets there."""

import inspect
import os
import shlex
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, HfApi, get_session
from huggingface_hub.errors import HFValidationError
from torch import nn
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils.hub import hf_api

from ..utils import one_line, read_json, write_json
from .describe import network_class, onnx_measurements
from .names import ONNX_FILES, PUBLISHED


T = TypeVar("T")
ADVICE = {
    400: "it does not accept what was sent",
    401: "log in with `hf auth login`, or set HF_TOKEN to a token that is still valid",
    402: "it wants a paid account for that",
    403: "the token may not write there: choose a repository of yours, or a token with write access to this one",
    404: "there is no such repository, or the token does not see it: check the name",
    409: "somebody else wrote to the repository at the same time, or it exists with another name: try again",
    413: "a file is larger than it takes: make the student smaller, or ask for more storage",
    422: "it understands what was sent, but takes a value in it for wrong: check the name, license, language and tags",
    429: "these were too many requests: wait some minutes",
}
SLOWEST = 1e5  # bytes a second; a push that is slower is given up


def published_files(folder: str | os.PathLike) -> list[str]:
    """
    The files of a student's folder that go to the Hub, as paths in it. Of its subfolders these are `onnx/model.onnx`
    and what belongs to it, if `hf-ltkd export` made them from the very weights that are there.

    Raises:
        `ValueError`: if the folder has no `config.json` or no safetensors weights, or one of its files is damaged.
    """
    files = files_to_publish(Path(folder))
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        raise ValueError(
            f"{str(folder)!r} holds no trained model (config.json and model.safetensors): give the folder that "
            "trainer.save_model() wrote."
        )
    for name in files:
        if name.endswith(".json"):
            read_json(Path(folder) / name)
    return files


def files_to_publish(folder: Path) -> list[str]:
    """As [`published_files`], of a folder that may lack the model."""
    found = {path.name for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    config = read_json(folder / "config.json")
    references = (config.get("auto_map") or {}).values()
    for reference in (reference for reference in references if isinstance(reference, str)):
        module = folder / f"{reference.partition('.')[0]}.py"  # "another/repository--module.Class" has no file here
        if module.is_file():
            found |= {module.name, *(Path(file).name for file in get_relative_import_files(module))}
    if onnx_measurements(folder) is not None:
        found |= {name for name in ONNX_FILES if (folder / name).is_file()}
    return sorted(found)


def upload_patterns(folder: Path, files: list[str]) -> dict[str, Any]:
    """For `upload_folder`: what goes up, and what an earlier push may have left that belongs to other weights."""
    stale = (folder / ONNX_FILES[-1]).is_file() and ONNX_FILES[-1] not in files
    return {"allow_patterns": files, "delete_patterns": list(ONNX_FILES) if stale else None}


def add_code(folder: str | os.PathLike, model: nn.Module, carry: bool = True) -> None:
    """
    Puts the code file of a network of `hf_ltkd` beside its weights and names it in `config.json` (`auto_map`), or with
    `carry=False` takes that entry out. Other networks stay as they are: Transformers' need no code, and one's own are
    registered by `register_for_auto_class`.
    """
    network: Any = network_class(model)
    if not network.__module__.startswith("hf_ltkd.models."):
        return
    source, path = Path(inspect.getfile(network)), Path(folder) / "config.json"
    config = read_json(path)
    config.pop("auto_map", None)
    if carry:
        classes = {"AutoConfig": network.config_class, "AutoModelForImageClassification": network}
        config["auto_map"] = {name: f"{source.stem}.{its_class.__name__}" for name, its_class in classes.items()}
        shutil.copyfile(source, path.with_name(source.name))
    write_json(path, config)


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload student",
    timeout: float = 60.0,
    api: HfApi | None = None,
    prepare: Callable[[str], Any] | None = None,
) -> CommitInfo:
    """
    Sends a student's folder to the Hub; files that are there already with the same content are not sent again.

    Args:
        folder (`str` or `os.PathLike`): What [`~DistillationTrainer.save_model`] wrote.
        repo_id (`str`): The repository, `"name"` or `"owner/name"`; it is created if it does not exist.
        token (`str`, *optional*): Defaults to the one of `hf auth login` or `HF_TOKEN`.
        private (`bool`, *optional*): Whether a repository that is created is private.
        revision (`str`, *optional*): The branch, `"main"` by default.
        commit_message (`str`, *optional*, defaults to `"Upload student"`): Of the commit.
        timeout (`float`, *optional*, defaults to 60.0): Seconds that the Hub may stay silent; see [`time_limit`].
        api (`huggingface_hub.HfApi`, *optional*): To push with, for another endpoint.
        prepare (`Callable[[str], Any]`, *optional*):
            Called with `"owner/name"` once the Hub has the repository, to write what is sent with the student.

    Raises:
        `ValueError`: if the folder holds no trained model.
        `OSError`: if the Hub cannot be reached or refuses; it says what to do.
    """
    published_files(folder)
    client, folder = api or hf_api(), Path(folder)
    with explained(folder, repo_id, timeout):
        repo_id = within(
            time_limit(timeout), client.create_repo, repo_id, token=token, private=private, exist_ok=True
        ).repo_id
    if prepare is not None:
        prepare(repo_id)
    files = published_files(folder)
    with explained(folder, repo_id, timeout):
        return within(
            time_limit(timeout, (folder / name for name in files)),
            client.upload_folder,
            repo_id=repo_id,
            folder_path=str(folder),
            **upload_patterns(folder, files),
            commit_message=commit_message,
            token=token,
            revision=revision,
        )


def time_limit(timeout: float, files: Iterable[Path] = ()) -> float:
    """Seconds that sending `files` may take: five times as long as a silence, and ten more for each megabyte."""
    return 5 * timeout + sum(file.stat().st_size for file in files) / SLOWEST


def within(seconds: float, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """
    What a call returns; a `TimeoutError` after `seconds`, even if a Hub asks for an hour's patience or sends a byte
    now and then. The call goes on in a thread that ends with the process.
    """
    return in_background(seconds, function, *args, **kwargs).result()


def in_background(seconds: float, function: Callable[..., T], *args: Any, **kwargs: Any) -> "Future[T]":
    """As [`within`], without waiting."""
    future: Future[T] = Future()

    def settle(settle_it: Callable[[Any], None], value: Any) -> None:
        with suppress(InvalidStateError):  # whoever comes first
            settle_it(value)

    def call() -> None:
        try:
            settle(future.set_result, function(*args, **kwargs))
        except BaseException as error:
            settle(future.set_exception, error)
        clock.cancel()

    late = TimeoutError(f"it was not done after {seconds:.0f} seconds")
    clock = threading.Timer(seconds, settle, (future.set_exception, late))
    clock.daemon = True
    clock.start()
    threading.Thread(target=call, daemon=True).start()
    return future


@contextmanager
def explained(folder: str | os.PathLike, repo_id: str, timeout: float, trained: bool = True) -> Iterator[None]:
    """A context for calls to the Hub: silence has an end, and an error says where the student is and what to do."""
    get_session().timeout = timeout  # type: ignore[assignment]  # huggingface_hub's default: no limit
    try:
        yield
    except HFValidationError:  # a name that no repository can have; the message says so
        raise
    except Exception as error:  # of the HTTP library, which differs between versions of huggingface_hub, or OSError
        raise OSError(explanation(error, folder, repo_id, trained)) from error


def explanation(error: BaseException, folder: str | os.PathLike, repo_id: str, trained: bool) -> str:
    """Where the student is, why it was not pushed, and how to push it."""
    command = f"hf-ltkd push --model {shlex.quote(str(folder))} --to {shlex.quote(repo_id)}"
    if not trained:
        return (
            f"push_to_hub=True, but the repository {repo_id!r} could not be made: {reason(error)}. Nothing is trained "
            f"yet; or train with push_to_hub=False and push the folder afterwards: {command}"
        )
    return (
        f"The student is complete in {str(folder)!r}, but it was not pushed to {repo_id!r}: {reason(error)}. Then "
        f"push it: {command}"
    )


def reason(error: BaseException) -> str:
    """Why a call to the Hub failed, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return (
            f"the Hub could not be reached ({type(error).__name__}: {str(error) or 'no answer'}); check the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE"
        )
    advice = ADVICE.get(status, "this may be a fault of the Hub: try again later" if status >= 500 else ADVICE[400])
    message = one_line(getattr(error, "server_message", None) or "")[:200]
    return f"the Hub answered {status}; {advice}" + (f" (its words: {message})" if message else "")
