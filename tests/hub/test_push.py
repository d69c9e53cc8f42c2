"""Students on a Hub on loopback: what goes up, who can load it, and what happens when the Hub fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard
from safetensors.torch import load
from transformers import AutoModelForImageClassification, set_seed

from hf_ltkd import ClassGroups, create_model
from hf_ltkd.hub.names import PUBLISHED
from hf_ltkd.hub.push import add_code, published_files, push_folder


EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN, OTHER_TOKEN = "hf_of_the_environment", "hf_of_the_arguments"
STUDENT_FILES = {
    *("config.json", "model.safetensors", "preprocessor_config.json", "cifar_resnet.py"),
    *("class_groups.json", "training_arguments.json", "distillation.json"),
}
CARD_FILES = {"README.md", "group_accuracy.png", "class_accuracy.png"}

# Shared by the scripts below: six classes of 8 × 8 pixels.
COMMON = """
import json, logging, os, runpy, shutil, sys, time, types, urllib.request
from pathlib import Path
import numpy as np, torch
from PIL import Image
from huggingface_hub import hf_hub_download
from transformers import AutoModelForImageClassification, ViTImageProcessorPil, set_seed
from hf_ltkd import (ClassGroups, DistillationTrainer, DistillationTrainingArguments, ImageDataset, LongTailSplit,
    LTKDLoss, ReviewKDLoss, create_model, group_accuracy)

out, groups = Path(sys.argv[1]), ClassGroups.from_counts([60, 50, 40, 30, 20, 10])
pixels = torch.randint(0, 256, (32, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
data = ImageDataset(pixels, torch.arange(32) % 6, mean=[0.5] * 3, std=[0.25] * 3)
processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
names = {"id2label": dict(enumerate(["<b>red", "a|b", "`c`", "*d*", "[e](f)", "g\\n---\\nh: 1"]))}

def trainer_for(name, loss=None, **kwargs):
    set_seed(0)
    args = DistillationTrainingArguments(out / name, max_steps=4, save_steps=2, per_device_train_batch_size=8,
        use_cpu=True, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, **kwargs)
    return DistillationTrainer(
        create_model("resnet8", 6, image_size=8, **names), create_model("resnet14", 6, image_size=8, **names), args,
        distillation_loss=loss or LTKDLoss(groups), train_dataset=data, eval_dataset=data,
        compute_metrics=group_accuracy(groups), processing_class=processor)
"""

PUSH = """
for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
    loss = ReviewKDLoss() if "checkpoint" in strategy else None
    trainer = trainer_for(strategy, loss, push_to_hub=True, hub_strategy=strategy, hub_token="hf_of_the_arguments",
        hub_always_push=True, eval_strategy="steps", eval_steps=2, metric_for_best_model="accuracy",
        save_total_limit=1)
    trainer.train()
    (out / strategy / "teacher").mkdir()
    trainer.teacher_model.save_pretrained(out / strategy / "teacher")
    trainer.save_state()
    trainer.push_to_hub(dataset="me/noise", teacher_metrics={"accuracy": 0.5, "head_accuracy": 0.9,
        "medium_accuracy": 0.5, "tail_accuracy": 0.1})
    assert not list((out / strategy).glob("_push-*"))
logits = trainer.predict(data).predictions
np.save(out / "logits.npy", logits)
# Training goes on elsewhere from the checkpoint that was pushed, ReviewKD's own modules included.
kept = next((out / "checkpoint").glob("checkpoint-*"))  # of the same file names
for name in os.listdir(kept):
    hf_hub_download("me/checkpoint", f"last-checkpoint/{name}", local_dir=out / "elsewhere")
resumed = trainer_for("elsewhere", ReviewKDLoss())
resumed.args.max_steps = 6
resumed.train(resume_from_checkpoint=str(out / "elsewhere" / "last-checkpoint"))
assert resumed.state.global_step == 6
Image.fromarray(pixels[3].permute(1, 2, 0).numpy()).save(out / "image.png")
# Where hf_ltkd is installed the repository's code is not run, and nobody is asked whether it may.
model = AutoModelForImageClassification.from_pretrained("me/all_checkpoints").eval()
assert type(model).__module__ == "hf_ltkd.models.cifar_resnet"
torch.testing.assert_close(model(data[list(range(32))]["pixel_values"]).logits, torch.tensor(logits))
"""

LOAD = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_ltkd":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

out, name = sys.argv[1], "me/all_checkpoints"
expected = torch.tensor(np.load(f"{out}/logits.npy"))[3]
model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True).eval()
pixels = AutoImageProcessor.from_pretrained(name)(Image.open(f"{out}/image.png"), return_tensors="pt")
torch.testing.assert_close(model(**pixels).logits[0], expected, rtol=1e-5, atol=1e-5)
answer = pipeline("image-classification", name, trust_remote_code=True, device="cpu")(f"{out}/image.png", top_k=6)
scores = {item["label"]: item["score"] for item in answer}
ordered = torch.tensor([scores[model.config.id2label[i]] for i in range(6)])
torch.testing.assert_close(ordered, expected.softmax(0), rtol=1e-4, atol=1e-5)
assert not [module for module in sys.modules if module.startswith("hf_ltkd")]
"""

FAULTS = """
import huggingface_hub.utils._http as http
http.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})  # between its tries
results = {}

def fault(*faults):
    body = json.dumps(faults).encode()
    urllib.request.urlopen(urllib.request.Request(os.environ["HF_ENDPOINT"] + "/faults", body, method="PUT")).read()

def message_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (OSError, SystemExit) as error:
        return str(error)

def push_student(*arguments):
    sys.argv = ["push_student.py", *map(str, arguments)]
    runpy.run_path(os.environ["PUSH_STUDENT"], run_name="__main__")

# A push that fails at the end: the message, and the folder afterwards.
trainer = trainer_for("student", hub_timeout=1.0, push_to_hub=False)
trainer.train()
for kind in (401, 403, 409, 429, 500, "hang", "drop"):
    fault(["/commit/", kind])
    results[f"commit {kind}"] = message_of(trainer.push_to_hub)
    AutoModelForImageClassification.from_pretrained(out / "student")
for kind in (429, "hang"):
    fault(["/preupload/", kind])
    results[f"preupload {kind}"] = message_of(trainer.push_to_hub)

# The script: refused first, then sent, then nothing left to send.
fault(["/commit/", 403])
results["script"] = message_of(push_student, out / "student", "--repo_id", "me/script", "--timeout", "1.0")
fault()
for attempt in range(2):
    push_student(out / "student", "--repo_id", "me/script", "--dataset", "me/noise", "--model_code")

# Constructing, and checkpoints on the way: training goes on.
fault(["/repos/create", 401], ["/api/models/", 401])
results["constructor"] = message_of(trainer_for, "early", push_to_hub=True, hub_timeout=1.0)
fault(["/repos/create", "hang"])
results["constructor hangs"] = message_of(trainer_for, "early", push_to_hub=True, hub_timeout=1.0)
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("hf_ltkd.hub_trainer").addHandler(handler)
fault()
trainer = trainer_for("on_the_way", push_to_hub=True, hub_strategy="every_save")
fault(["/commit/", 500])
trainer.train()
trainer.save_model()
trainer.evaluate()
results["on the way"] = messages
results["steps"] = trainer.state.global_step
fault()
trainer.push_to_hub()
(out / "results.json").write_text(json.dumps(results))
"""


ONNX = """
import hashlib

def export(folder):
    # What examples/export_onnx.py leaves, as far as pushing looks at it.
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    times = {"median": 1.0, "p90": 2.0}
    network = {"input": [3, 8, 8], "onnx_bytes": 10**6, "onnxruntime_ms": times, "pytorch_ms": times}
    measured = {"weights_sha256": {"model.safetensors": weights}, "examples": "10 images", "batch_sizes": [1],
        "max_difference": 1e-6, "max_logit": 1.0, "networks": {"student": network}, "threads": 1, "runs": 9,
        "cpu": "a CPU", "versions": {}}
    (folder / "onnx").mkdir(exist_ok=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"network")
    (folder / "onnx" / "model.onnx.data").write_bytes(b"weights")
    (folder / "onnx" / "other.onnx").write_bytes(b"not ours")
    (folder / "onnx" / "measurements.json").write_text(json.dumps(measured))

trainer = trainer_for("student", push_to_hub=True, hub_strategy="every_save")
trainer.train()
trainer.push_to_hub()
export(out / "student")
trainer.push_to_hub(commit_message="exported")
export(checkpoint := out / "student" / "checkpoint-4")
trainer._push_from_checkpoint(checkpoint)
trainer._finish_current_push()
trainer.push_to_hub(commit_message="again")
with torch.no_grad():
    trainer.model.classifier.bias += 1
trainer.push_to_hub(commit_message="other weights")
"""


def run(script, hub, out, check=True):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(out / "home"), "OMP_NUM_THREADS": "1"}
    environment |= {"PUSH_STUDENT": str(EXAMPLES / "push_student.py")}
    command = [sys.executable, "-c", script, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """Four trainings, one a strategy, in an own process; the Hub they pushed to and their folder."""
    out = tmp_path_factory.mktemp("machine")
    with HubServer() as hub:
        run(COMMON + PUSH, hub, out)
        yield hub, out


def in_repository(hub, repo_id):
    return set(hub.repos[repo_id])


def test_what_each_strategy_sends(pushed):
    hub, _ = pushed
    student = STUDENT_FILES | CARD_FILES
    assert in_repository(hub, "me/end") == in_repository(hub, "me/every_save") == student
    kept = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "distillation_state.json"}
    kept |= STUDENT_FILES | {"distillation_loss.safetensors"}
    assert in_repository(hub, "me/checkpoint") == student | {f"last-checkpoint/{name}" for name in kept}
    all_of_them = {f"checkpoint-{step}/{name}" for step in (2, 4) for name in kept}
    assert in_repository(hub, "me/all_checkpoints") == student | all_of_them
    messages = [message for message, _ in hub.commits]
    on_the_way = ["Training in progress, step 2", "Training in progress, step 4"]
    assert messages == ["End of training", *3 * [*on_the_way, "End of training"]]


def test_unchanged_files_are_not_sent_again(pushed):
    hub, _ = pushed
    first, second, last = (set(paths) for _, paths in hub.commits[1:4])  # every_save
    assert first == STUDENT_FILES and second <= {"model.safetensors", "distillation.json"}
    assert last <= CARD_FILES | {"distillation.json"}


def test_the_student_alone_is_published(pushed):
    hub, out = pushed
    student = create_model("resnet8", 6, image_size=8).state_dict()
    for repo_id, files in hub.repos.items():
        assert set(load(files["model.safetensors"])) == set(student), repo_id
    # Beside the student a folder holds the teacher, checkpoints and the trainer's state: they stay where they are.
    assert (out / "end" / "teacher").is_dir() and (out / "end" / "trainer_state.json").is_file()


def test_no_token_no_path_and_no_pickle_leaves_the_machine(pushed):
    hub, out = pushed
    assert hub.authorizations == {f"Bearer {TOKEN}", f"Bearer {OTHER_TOKEN}"}  # in the headers alone
    assert len(hub.received) > 100
    for body in hub.received:
        for secret in (TOKEN, OTHER_TOKEN, str(out), str(Path.home()), os.sep + out.parts[1] + os.sep):
            assert secret.encode() not in body, body[:100]
    for files in hub.repos.values():
        assert not [
            name for name in files if name.endswith((".bin", ".pkl", ".pt", ".pth")) and "checkpoint" not in name
        ]
    assert not list(out.rglob("training_args.bin"))


def test_arguments_and_run(pushed):
    hub, _ = pushed
    files = hub.repos["me/end"]
    arguments, run = (json.loads(files[name]) for name in ("training_arguments.json", "distillation.json"))
    assert arguments["max_steps"] == 4 and arguments["per_device_train_batch_size"] == 8 and arguments["seed"] == 42
    assert (
        not [name for name in arguments if "token" in name and name.endswith("token")]
        and "output_dir" not in arguments
    )
    assert run["loss"]["class"] == "LTKDLoss" and run["loss"]["hyper_parameters"]["alpha"] == 6.0
    assert run["training"]["steps"] == 4 and run["training"]["examples_per_step"] == 8
    assert ClassGroups.from_dict(json.loads(files["class_groups.json"])).class_counts == (60, 50, 40, 30, 20, 10)


def test_card(pushed):
    hub, _ = pushed
    text = hub.repos["me/end"]["README.md"].decode()
    card = ModelCard(text)
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    measured = json.loads(hub.repos["me/end"]["distillation.json"])["metrics"]
    assert results["Accuracy"] == measured["accuracy"] and results["Tail accuracy"] == measured["tail_accuracy"]
    assert '"me/end", trust_remote_code=True' in text
    for hostile in ("<b>red", "`c`", "| a|b", "| *d*", "[e](f)", "\nh: 1"):
        assert hostile not in text
    assert "&lt;b&gt;red" in text and "| teacher | 90.0 | 50.0 | 10.0 | 50.0 |" in text


def test_loads_where_hf_ltkd_is_not_installed(pushed):
    hub, out = pushed
    run(LOAD, hub, out)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    out = tmp_path_factory.mktemp("faults")
    with HubServer() as hub:
        run(COMMON + FAULTS, hub, out)
        yield hub, json.loads((out / "results.json").read_text()), out


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("commit 401", "the Hub answered 401; log in with `hf auth login`"),
        ("commit 403", "the Hub answered 403; the token may not write there"),
        ("commit 409", "the Hub answered 409; somebody else wrote"),
        ("commit 429", "the Hub answered 429; these were too many requests"),
        ("commit 500", "the Hub answered 500; this may be a fault of the Hub"),
        ("commit hang", "the Hub could not be reached (ReadTimeout"),
        ("commit drop", "the Hub could not be reached ("),
        ("preupload 429", "the Hub answered 429"),
        ("preupload hang", "the Hub could not be reached (ReadTimeout"),
    ],
)
def test_a_failed_push_says_where_the_student_is_and_what_to_do(faulty, what, reason):
    _, results, out = faulty
    message = results[what]
    assert message.startswith(f"The student is complete in '{out / 'student'}', but it was not pushed to 'me/student'")
    assert reason in message
    assert message.endswith(f"hf-ltkd push --model {out / 'student'} --to me/student")


def test_push_student_sends_what_is_missing(faulty):
    hub, results, _ = faulty
    assert "was not pushed to 'me/script': the Hub answered 403" in results["script"]
    assert in_repository(hub, "me/script") == STUDENT_FILES | CARD_FILES - {"group_accuracy.png", "class_accuracy.png"}
    assert [paths for _, paths in hub.commits if _ == "Upload student"] == [sorted(in_repository(hub, "me/script"))]


def test_a_hub_that_fails_at_construction_is_one_sentence(faulty):
    _, results, _ = faulty
    assert results["constructor"].startswith(
        "push_to_hub=True, but the repository 'early' could not be made: the Hub answered 401; log in with"
    )
    assert "ReadTimeout" in results["constructor hangs"] and "Nothing is trained yet" in results["constructor hangs"]


def test_a_hub_that_fails_on_the_way_costs_nothing(faulty):
    hub, results, out = faulty
    assert results["steps"] == 4
    # Two checkpoints (a third message may stand for one that was skipped) and save_model, each with what to do.
    assert 2 <= len(results["on the way"]) <= 3
    assert all("the Hub answered 500" in m and "hf-ltkd push" in m for m in results["on the way"])
    assert STUDENT_FILES | {"README.md"} <= in_repository(hub, "me/on_the_way")  # once the Hub is well again


def test_only_files_of_a_student_go_up(tmp_path):
    set_seed(0)
    model = create_model("resnet8", 3, image_size=8)
    model.save_pretrained(tmp_path)
    for name in ("training_args.bin", "optimizer.pt", "notes.txt", "secret.json", "mine.py", "emissions.csv"):
        (tmp_path / name).write_text("x")
    assert published_files(tmp_path) == ["config.json", "model.safetensors"]
    weights = (tmp_path / "model.safetensors").stat().st_mtime_ns
    add_code(tmp_path, model)
    assert published_files(tmp_path) == ["cifar_resnet.py", "config.json", "model.safetensors"]
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == weights
    AutoModelForImageClassification.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    add_code(tmp_path / "again", model, carry=False)
    assert published_files(tmp_path / "again") == ["config.json", "model.safetensors"]
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())
    assert not [pattern for pattern in PUBLISHED if pattern.startswith("*")]


def test_an_onnx_file_goes_with_its_weights_alone(tmp_path, monkeypatch):
    history, commit, get = {}, hub_server._Handler.commit, hub_server._Handler.do_GET

    def get_or_list(handler):
        if handler.path.startswith("/api/models/me/student/tree/main"):
            files = handler.server.repos["me/student"].items()
            handler.answer([{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files])
        else:
            get(handler)

    def commit_and_delete(handler, repo_id, operations):
        commit(handler, repo_id, operations)
        files = handler.server.repos[repo_id]
        for operation in operations:
            if operation["key"] == "deletedFile":
                del files[operation["value"]["path"]]
        history[handler.server.commits[-1][0]] = dict(files)

    monkeypatch.setattr(hub_server._Handler, "commit", commit_and_delete)
    monkeypatch.setattr(hub_server._Handler, "do_GET", get_or_list)
    with HubServer() as hub:
        run(COMMON + ONNX, hub, tmp_path)
    onnx = {"onnx/model.onnx", "onnx/model.onnx.data", "onnx/measurements.json"}
    names = {message: {name for name in files if "onnx" in name} for message, files in history.items()}
    assert names["End of training"] == set() and names["exported"] == names["again"] == onnx
    assert names["other weights"] == set()  # neither sent nor left from before
    assert names["Training in progress, step 4"] == onnx  # from the folder of the checkpoint
    cards = {message: files["README.md"].decode() for message, files in history.items() if "README.md" in files}
    assert "| student | 3 × 8 × 8 | 1.00 | 1 (2) | 1 (2) |" in cards["exported"]
    assert "onnx" not in cards["other weights"] and "onnx" not in cards["End of training"]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no trained model"):
        push_folder(tmp_path, "me/x")
