"""The metric and the demo as Spaces, on a Hub on loopback: what is published, and that it works without hf_ltkd."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import SpaceCard


ROOT = Path(__file__).parents[2]
TOKEN = "hf_of_the_environment"

PUBLISH = """
import contextlib, io, json, os, runpy, sys, time, types, urllib.request
from pathlib import Path
import huggingface_hub.utils._http as http

http.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})  # between its tries
results = {}

def publish(name, *arguments):
    sys.argv = ["publish_space.py", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            runpy.run_path(os.environ["PUBLISH_SPACE"], run_name="__main__")
        except SystemExit as error:
            out.write(str(error))
    results[name] = out.getvalue()

def fault(*faults):
    body = json.dumps(faults).encode()
    urllib.request.urlopen(urllib.request.Request(os.environ["HF_ENDPOINT"] + "/faults", body, method="PUT")).read()

out = sys.argv[1]
publish("metric", "metric", "--to", "me/group_accuracy")
publish("again", "metric", "--to", "me/group_accuracy")
publish("other name", "metric", "--to", "me/long-tail", "--private")
publish("demo", "demo", "--to", "me/demo", "--student", "me/small", "--teacher", "me/big")
publish("alone", "demo", "--to", "me/alone", "--student", "me/small", "--teacher", "me/big")
publish("alone", "demo", "--to", "me/alone", "--student", "me/small", "--trust_remote_code")
publish("folder", "metric", "--to", "me/group_accuracy", "--folder", out + "/a b")
publish("no owner", "metric", "--to", "group_accuracy")
publish("dot", "metric", "--to", "me/a.b")
publish("app", "metric", "--to", "me/app")
publish("local", "demo", "--to", "me/demo", "--student", out)
publish("no id", "demo", "--to", "me/demo", "--student", "me/a b")
for kind in (401, 402, 500, "drop", "hang"):
    fault(["/api/spaces/me/faulty/commit/", kind])
    publish(f"commit {kind}", "metric", "--to", "me/faulty", "--timeout", "1")
fault(["/variables", 403])
publish("variables 403", "demo", "--to", "me/faulty", "--student", "me/small")
Path(out, "results.json").write_text(json.dumps(results))
"""

WITHOUT_HF_LTKD = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_ltkd":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
"""

# Each argument but the first is a name that is loaded; the card's code comes after them.
LOAD = """
import json
import evaluate

computed = []
for name in sys.argv[2:]:
    metric = evaluate.load(name, class_counts=[900, 300, 60, 30, 10, 5])
    computed.append(metric.compute(predictions=[0, 0, 1, 2, 2, 4, 0], references=[0, 0, 1, 2, 3, 4, 5]))
exec(open(sys.argv[1]).read())
print(json.dumps([*computed, results]))
"""

OPEN = """
import json, runpy
from gradio_client import Client

page = runpy.run_path(sys.argv[1] + "/app.py")["page"]
page.launch(prevent_thread_lock=True, quiet=True)
client = Client(page.local_url, verbose=False)
counts, groups = "training examples per class", "group of each class, 0 for the first"
answers = [
    client.predict("0 0 1 2 2 4 0", "[0, 0, 1, 2, 3, 4, 5]", "900 300 60 30 10 5", counts, 3, api_name="/compute"),
    client.predict("0 1", "0 0", "0 1", groups, 3, api_name="/compute"),
]
for wrong in (("0 1.5", "0 0", "2 1"), ("", "0", "2 1"), ("0", "0 0", "2 1"), ("0 1", "0 2", "2 1")):
    try:
        client.predict(*wrong, counts, 2, api_name="/compute")
    except Exception as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def run(script, *arguments, hub_url="http://127.0.0.1:9", home):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub_url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment |= {"PUBLISH_SPACE": str(ROOT / "examples" / "publish_space.py"), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The Hub after every call of the script, what each call said, and the folder of the process."""
    out = tmp_path_factory.mktemp("machine")
    with HubServer() as hub:
        run(PUBLISH, out, hub_url=hub.url, home=out)
        hub.faults = []
        yield hub, json.loads((out / "results.json").read_text()), out


def test_what_is_published(published):
    hub, results, _ = published
    assert set(hub.repos["spaces/me/group_accuracy"]) == {
        *("group_accuracy.py", "app.py", "requirements.txt", "README.md")
    }
    assert set(hub.repos["spaces/me/long-tail"]) == {"long-tail.py", "app.py", "requirements.txt", "README.md"}
    assert set(hub.repos["spaces/me/demo"]) == {"app.py", "requirements.txt", "README.md"}
    assert hub.repos["spaces/me/demo"]["app.py"] == (ROOT / "examples" / "app.py").read_bytes()
    assert results["metric"] == results["again"] == f"{hub.url}/spaces/me/group_accuracy\n"
    paths = [paths for _, paths in hub.commits]
    assert paths.count(["README.md", "app.py", "group_accuracy.py", "requirements.txt"]) == 1  # again sends nothing
    creations = [json.loads(body) for body in hub.received if b'"sdk"' in body]
    assert {(body["type"], body["sdk"]) for body in creations} == {("space", "gradio")}
    assert {body["name"] for body in creations if body.get("visibility") == "private"} == {"long-tail"}


def test_variables_of_the_demo(published):
    hub, _, _ = published
    both = {"STUDENT": "me/small", "TEACHER": "me/big", "TRUST_REMOTE_CODE": "0"}
    assert hub.variables["spaces/me/demo"] == both
    assert hub.variables["spaces/me/alone"] == {"STUDENT": "me/small", "TRUST_REMOTE_CODE": "1"}  # no teacher any more


def test_cards(published):
    hub, _, _ = published
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
    return folder


def test_metric_loads_without_hf_ltkd_and_the_card_is_true(published, tmp_path):
    hub, _, _ = published
    folder = write(hub.repos["spaces/me/group_accuracy"], tmp_path / "group_accuracy")
    code, shown = re.findall(r"```(?:python)?\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)[:2]
    (tmp_path / "card.py").write_text(code)
    names = ["me/group_accuracy", "me/long-tail", folder, folder / "group_accuracy.py"]
    output = run(WITHOUT_HF_LTKD + LOAD, tmp_path / "card.py", *names, hub_url=hub.url, home=tmp_path)
    assert json.loads(output.splitlines()[-1]) == [ast.literal_eval(shown)] * 5


def test_folder_holds_what_would_be_published(published):
    hub, results, out = published
    files = {path.name: path.read_bytes() for path in (out / "a b").iterdir()}
    assert files == hub.repos["spaces/me/group_accuracy"]
    assert results["folder"] == f"Open the page: cd '{out / 'a b'}' && python app.py\n"


def test_page_of_the_metric(published, tmp_path):
    """It loads the metric from its own folder, where there is neither a Hub nor hf_ltkd."""
    pytest.importorskip("gradio")
    folder = write(published[0].repos["spaces/me/long-tail"], tmp_path / "space")
    first, second, *errors = json.loads(run(WITHOUT_HF_LTKD + OPEN, folder, home=tmp_path).splitlines()[-1])
    assert first["class_accuracy"] == [1, 1, 1, 0, 1, 0] and first["accuracy"] == pytest.approx(5 / 7)
    assert second == {
        **{"accuracy": 0.5, "group_0_accuracy": 0.5, "group_1_accuracy": None},  # JSON has no nan
        **{"balanced_accuracy": 0.5, "class_accuracy": [0.5, None]},
    }
    for error, reason in zip(
        errors, ["not '1.5'", "are missing", "Mismatch in the number", "outside the classes 0 to 1"], strict=True
    ):
        assert reason in error


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no owner", "--to group_accuracy must have the form owner/name, for instance me/group_accuracy"),
        ("dot", "choose a name without dots and other than app, for instance me/group_accuracy"),
        ("app", "choose a name without dots and other than app"),
        ("local", "is a folder of this machine, which a Space cannot read: push it (hf-ltkd push --model"),
        ("no id", "'me/a b'"),
        ("commit 401", "me/faulty was not published: the Hub answered 401; log in with `hf auth login`"),
        ("commit 402", "the Hub answered 402; it wants a paid account"),
        ("commit 500", "the Hub answered 500; this may be a fault of the Hub"),
        ("commit drop", "the Hub could not be reached ("),
        ("commit hang", "the Hub could not be reached (ReadTimeout"),
        ("variables 403", "the Hub answered 403; the token may not write there"),
    ],
)
def test_errors(published, what, reason):
    hub, results, _ = published
    assert reason in results[what] and "Traceback" not in results[what]
    assert not hub.repos["spaces/me/faulty"] and "spaces/me/app" not in hub.repos


def test_nothing_secret_is_sent(published):
    hub, _, out = published
    assert hub.authorizations == {f"Bearer {TOKEN}"}
    assert not [body for body in hub.received if TOKEN.encode() in body or str(out).encode() in body]
