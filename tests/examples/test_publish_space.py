"""The metric and the demo as Spaces, on a Hub on loopback: what is published, and that it works without hf_ltkd."""

import ast
import contextlib
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, use_hub
from huggingface_hub import SpaceCard


ROOT = Path(__file__).parents[2]
CALLS = {
    "metric": "metric --to me/group_accuracy",
    "again": "metric --to me/group_accuracy",
    "other name": "metric --to me/long-tail --private",
    "demo": "demo --to me/demo --student me/small --teacher me/big",
    "alone with a teacher": "demo --to me/alone --student me/small --teacher me/big",
    "alone": "demo --to me/alone --student me/small --trust_remote_code",
    "folder": "metric --to me/group_accuracy --folder {out}/a%b",
    "no owner": "metric --to group_accuracy",
    "dot": "metric --to me/a.b",
    "app": "metric --to me/app",
    "local": "demo --to me/demo --student {out}",
    "no id": "demo --to me/demo --student me/a%b",
}
FAULTS = {
    **{f"commit {fault}": ("/commit/", fault, "metric --to me/faulty --timeout 0.2")
       for fault in (400, 401, 402, 500, "drop", "drip")},
    "variables 403": ("/variables", 403, "demo --to me/faulty --student me/small"),
}  # fmt: skip


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """What each call of the script said, the number of commits before, and the folder of the process."""
    out, results = tmp_path_factory.mktemp("machine"), {}
    spec = importlib.util.spec_from_file_location("publish_space", ROOT / "examples" / "publish_space.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def call(command):
        words = [word.format(out=out).replace("%", " ") for word in command.split()]
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as said,
            contextlib.redirect_stderr(said),
        ):
            patch.setattr(sys, "argv", ["publish_space.py", *words])
            try:
                script.main()
            except SystemExit as error:
                said.write(str(error))
        return said.getvalue()

    before = len(hub.commits)
    with use_hub(hub, out):
        for name, command in CALLS.items():
            results[name] = call(command)
        for name, (where, fault, command) in FAULTS.items():
            hub.faults = [(where, fault)]
            results[name] = call(command)
            hub.faults = []
    return results, before, out


def test_what_is_published(hub, published):
    results, before, _ = published
    metric = {"app.py", "requirements.txt", "README.md"}
    assert set(hub.repos["spaces/me/group_accuracy"]) == metric | {"group_accuracy.py"}
    assert set(hub.repos["spaces/me/long-tail"]) == metric | {"long-tail.py"}
    assert set(hub.repos["spaces/me/demo"]) == {"app.py", "requirements.txt", "README.md"}
    assert hub.repos["spaces/me/demo"]["app.py"] == (ROOT / "examples" / "app.py").read_bytes()
    assert results["metric"] == results["again"] == f"{hub.url}/spaces/me/group_accuracy\n"
    paths = [paths for repo_id, _, paths in hub.commits[before:] if repo_id == "spaces/me/group_accuracy" and paths]
    assert paths == [["README.md", "app.py", "group_accuracy.py", "requirements.txt"]]  # again sends nothing
    creations = [json.loads(body) for body in hub.received if b'"sdk"' in body]
    assert {(body["type"], body["sdk"]) for body in creations} == {("space", "gradio")}
    assert {body["name"] for body in creations if body.get("visibility") == "private"} == {"long-tail"}


def test_variables_of_the_demo(hub, published):
    both = {"STUDENT": "me/small", "TEACHER": "me/big", "TRUST_REMOTE_CODE": "0"}
    assert hub.variables["spaces/me/demo"] == both
    assert hub.variables["spaces/me/alone"] == {"STUDENT": "me/small", "TRUST_REMOTE_CODE": "1"}  # no teacher any more


def test_cards(hub, published):
    metric, demo = (
        SpaceCard(hub.repos[f"spaces/me/{name}"]["README.md"].decode()) for name in ("group_accuracy", "demo")
    )
    for card in (metric, demo):
        assert (card.data.sdk, card.data.app_file, card.data.license) == ("gradio", "app.py", "apache-2.0")
        assert re.fullmatch(r"6\.\d+\.\d+", card.data.sdk_version) and card.text.strip().startswith("# ")
    assert metric.data.tags == ["evaluate", "metric"] and demo.data.models == ["me/small", "me/big"]
    other = hub.repos["spaces/me/long-tail"]
    assert 'evaluate.load("me/long-tail", class_counts' in other["README.md"].decode()
    assert b"group_accuracy" not in other["README.md"] + other["app.py"]


def write(space, folder):
    folder.mkdir()
    for name, content in space.items():
        (folder / name).write_bytes(content)
    return str(folder)


# What is loaded by each of `names`, and what the card's code prints.
LOAD = """
import evaluate

answer = []
for name in names:
    metric = evaluate.load(name, class_counts=[900, 300, 60, 30, 10, 5])
    answer.append(metric.compute(predictions=[0, 0, 1, 2, 2, 4, 0], references=[0, 0, 1, 2, 3, 4, 5]))
exec(code)
answer.append(results)
"""


@pytest.mark.slow
def test_metric_loads_without_hf_ltkd_and_the_card_is_true(hub, published, elsewhere, tmp_path):
    folder = write(hub.repos["spaces/me/group_accuracy"], tmp_path / "group_accuracy")
    card = hub.repos["spaces/me/group_accuracy"]["README.md"].decode()
    code, shown = re.findall(r"```(?:python)?\n(.*?)```", card, flags=re.DOTALL)[:2]
    names = ["me/group_accuracy", "me/long-tail", folder, f"{folder}/group_accuracy.py"]
    assert elsewhere(LOAD, names=names, code=code) == [ast.literal_eval(shown)] * 5


def test_folder_holds_what_would_be_published(hub, published):
    results, _, out = published
    files = {path.name: path.read_bytes() for path in (out / "a b").iterdir()}
    assert files == hub.repos["spaces/me/group_accuracy"]
    assert results["folder"] == f"Open the page: cd '{out / 'a b'}' && python app.py\n"


OPEN = """
import runpy
from gradio_client import Client

page = runpy.run_path(folder + "/app.py")["page"]
page.launch(prevent_thread_lock=True, quiet=True)
client = Client(page.local_url, verbose=False)
counts, groups = "training examples per class", "group of each class, 0 for the first"
answer = [
    client.predict("0 0 1 2 2 4 0", "[0, 0, 1, 2, 3, 4, 5]", "900 300 60 30 10 5", counts, 3, api_name="/compute"),
    client.predict("0 1", "0 0", "0 1", groups, 3, api_name="/compute"),
]
for wrong in (("0 1.5", "0 0", "2 1"), ("", "0", "2 1"), ("0", "0 0", "2 1"), ("0 1", "0 2", "2 1")):
    try:
        client.predict(*wrong, counts, 2, api_name="/compute")
    except Exception as error:
        answer.append(str(error))
page.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="pip install gradio")
def test_page_of_the_metric(hub, published, elsewhere, tmp_path):
    """It loads the metric from its own folder, where hf_ltkd is not installed."""
    first, second, *errors = elsewhere(OPEN, folder=write(hub.repos["spaces/me/long-tail"], tmp_path / "space"))
    assert first["class_accuracy"] == [1, 1, 1, 0, 1, 0] and first["accuracy"] == pytest.approx(5 / 7)
    assert second == {
        **{"accuracy": 0.5, "group_0_accuracy": 0.5, "group_1_accuracy": None},  # JSON has no nan
        **{"balanced_accuracy": 0.5, "class_accuracy": [0.5, None]},
    }
    reasons = ["not '1.5'", "are missing", "Mismatch in the number", "outside the classes 0 to 1"]
    assert len(errors) == len(reasons) and all(map(str.__contains__, errors, reasons)), errors


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no owner", "--to group_accuracy must have the form owner/name, for instance me/group_accuracy"),
        ("dot", "choose a name without dots and other than app, for instance me/group_accuracy"),
        ("app", "choose a name without dots and other than app"),
        ("local", "is a folder of this machine, which a Space cannot read: push it (hf-ltkd push --model"),
        ("no id", "'me/a b'"),
        ("commit 400", "the Hub answered 400; it does not accept what was sent (its words: fault 400)"),
        ("commit 401", "me/faulty was not published: the Hub answered 401; log in with `hf auth login`"),
        ("commit 402", "the Hub answered 402; it wants a paid account"),
        ("commit 500", "the Hub answered 500; this may be a fault of the Hub"),
        ("commit drop", "the Hub could not be reached ("),
        ("commit drip", "the Hub could not be reached (TimeoutError: it was not done after 1 seconds)"),
        ("variables 403", "the Hub answered 403; the token may not write there"),
    ],
)
def test_errors(hub, published, what, reason):
    assert reason in published[0][what] and "Traceback" not in published[0][what]
    assert not hub.repos["spaces/me/faulty"] and "spaces/me/app" not in hub.repos


def test_nothing_secret_is_sent(hub, published):
    out = str(published[-1]).encode()
    assert f"Bearer {TOKEN}" in hub.authorizations  # in the headers alone
    assert not [body for body in hub.received if TOKEN.encode() in body or out in body]
