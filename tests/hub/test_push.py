"""Students on a Hub on loopback: what goes up, who can load it, and what happens when the Hub fails."""

import json
import logging
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import TOKEN, use_hub
from huggingface_hub import ModelCard, hf_hub_download
from PIL import Image
from safetensors.torch import load
from transformers import AutoModelForImageClassification, set_seed

from hf_ltkd import ClassGroups, ReviewKDLoss, create_model
from hf_ltkd.hub.describe import weights_digests
from hf_ltkd.hub.names import ONNX_FILES, PUBLISHED
from hf_ltkd.hub.push import ADVICE, add_code, in_background, published_files, push_folder, reason, time_limit, within
from hf_ltkd.utils import write_json


OTHER_TOKEN = "hf_of_the_arguments"
STUDENT_FILES = {
    *("config.json", "model.safetensors", "preprocessor_config.json", "cifar_resnet.py"),
    *("class_groups.json", "training_arguments.json", "distillation.json"),
}
CARD_FILES = {"README.md", "group_accuracy.png", "class_accuracy.png"}
STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")


@pytest.fixture(scope="module")
def pushed(hub, make_trainer, tmp_path_factory):
    """Four trainings, one a strategy: their folder, and the logits and one image of the last."""
    out = tmp_path_factory.mktemp("machine")
    teacher = {"accuracy": 0.5, "head_accuracy": 0.9, "medium_accuracy": 0.5, "tail_accuracy": 0.1}
    with use_hub(hub, out):
        for strategy in STRATEGIES:
            trainer = make_trainer(
                out / strategy, ReviewKDLoss() if "checkpoint" in strategy else None, push_to_hub=True,
                hub_strategy=strategy, hub_token=OTHER_TOKEN, hub_always_push=True, eval_strategy="steps",
                eval_steps=2, metric_for_best_model="accuracy", save_total_limit=1,
            )  # fmt: skip
            trainer.train()
            trainer.teacher_model.save_pretrained(out / strategy / "teacher")
            trainer.save_state()
            trainer.push_to_hub(dataset="me/noise", teacher_metrics=teacher)
            assert not list((out / strategy).glob("_push-*"))
    logits = trainer.predict(trainer.eval_dataset).predictions
    pixels = (trainer.eval_dataset[3]["pixel_values"] * 0.25 + 0.5) * 255  # as before the normalisation
    Image.fromarray(pixels.round().byte().permute(1, 2, 0).numpy()).save(out / "image.png")
    return out, logits


def commits_of(hub, repo_id):
    return [(message, set(paths)) for name, message, paths in hub.commits if name == repo_id]


def test_what_each_strategy_sends(hub, pushed):
    student = STUDENT_FILES | CARD_FILES
    assert set(hub.repos["me/end"]) == set(hub.repos["me/every_save"]) == student
    kept = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "distillation_state.json"}
    kept |= STUDENT_FILES | {"distillation_loss.safetensors"}
    assert set(hub.repos["me/checkpoint"]) == student | {f"last-checkpoint/{name}" for name in kept}
    all_of_them = {f"checkpoint-{step}/{name}" for step in (2, 4) for name in kept}
    assert set(hub.repos["me/all_checkpoints"]) == student | all_of_them
    on_the_way = ["Training in progress, step 2", "Training in progress, step 4"]
    messages = {strategy: [message for message, _ in commits_of(hub, f"me/{strategy}")] for strategy in STRATEGIES}
    assert messages.pop("end") == ["End of training"]
    assert list(messages.values()) == 3 * [[*on_the_way, "End of training"]]


def test_unchanged_files_are_not_sent_again(hub, pushed):
    first, second, last = (paths for _, paths in commits_of(hub, "me/every_save"))
    assert first == STUDENT_FILES and second <= {"model.safetensors", "distillation.json"}
    assert last <= CARD_FILES | {"distillation.json"}


def test_the_student_alone_is_published(hub, pushed):
    out, _ = pushed
    student = create_model("resnet8", 6, image_size=8).state_dict()
    for strategy in STRATEGIES:
        assert set(load(hub.repos[f"me/{strategy}"]["model.safetensors"])) == set(student), strategy
    # Beside the student a folder holds the teacher, checkpoints and the trainer's state: they stay where they are.
    assert (out / "end" / "teacher").is_dir() and (out / "end" / "trainer_state.json").is_file()


def test_no_token_no_path_and_no_pickle_leaves_the_machine(hub, pushed):
    out, _ = pushed
    ours = f"Bearer {OTHER_TOKEN}"
    assert {ours} <= hub.authorizations <= {ours, f"Bearer {TOKEN}"}  # in the headers alone
    assert len(hub.received) > 100
    for body in hub.received:
        for secret in (TOKEN, OTHER_TOKEN, str(out), str(Path.home()), os.sep + out.parts[1] + os.sep):
            assert secret.encode() not in body, body[:100]
    for files in hub.repos.values():
        pickles = (".bin", ".pkl", ".pt", ".pth")
        assert not [name for name in files if name.endswith(pickles) and "checkpoint" not in name]
    assert not list(out.rglob("training_args.bin"))


def test_arguments_and_run(hub, pushed):
    files = hub.repos["me/end"]
    arguments, run = (json.loads(files[name]) for name in ("training_arguments.json", "distillation.json"))
    assert arguments["max_steps"] == 4 and arguments["per_device_train_batch_size"] == 8 and arguments["seed"] == 42
    assert not [name for name in arguments if name.endswith("token")] and "output_dir" not in arguments
    assert run["loss"]["class"] == "LTKDLoss" and run["loss"]["hyper_parameters"]["alpha"] == 1.5
    assert run["training"]["steps"] == 4 and run["training"]["examples_per_step"] == 8
    assert ClassGroups.from_dict(json.loads(files["class_groups.json"])).class_counts == (60, 50, 40, 30, 20, 10)


def test_card(hub, pushed):
    text = hub.repos["me/end"]["README.md"].decode()
    card = ModelCard(text)
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    measured = json.loads(hub.repos["me/end"]["distillation.json"])["metrics"]
    assert results["Accuracy"] == measured["accuracy"] and results["Tail accuracy"] == measured["tail_accuracy"]
    assert '"me/end", trust_remote_code=True' in text
    for hostile in ("<b>red", "`c`", "| a|b", "| *d*", "[e](f)", "\nh: 1"):
        assert hostile not in text
    assert "&lt;b&gt;red" in text and "| teacher | 90.0 (65–99) | 50.0 (25–75) |" in text


def test_training_goes_on_elsewhere_from_a_checkpoint_that_was_pushed(hub, pushed, make_trainer, tmp_path):
    """ReviewKD's own modules included."""
    with use_hub(hub, tmp_path):
        for name in hub.repos["me/checkpoint"]:
            if name.startswith("last-checkpoint/"):
                hf_hub_download("me/checkpoint", name, local_dir=tmp_path)
    trainer = make_trainer(tmp_path / "resumed", ReviewKDLoss(), max_steps=6, save_strategy="no")
    trainer.train(resume_from_checkpoint=str(tmp_path / "last-checkpoint"))
    assert trainer.state.global_step == 6
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 0 or np.isfinite(losses).all()


def test_where_hf_ltkd_is_installed_no_code_of_the_repository_runs(hub, pushed, trained, tmp_path):
    with use_hub(hub, tmp_path):
        model = AutoModelForImageClassification.from_pretrained("me/all_checkpoints").eval()
    assert type(model).__module__ == "hf_ltkd.models.cifar_resnet"
    pixels = trained.eval_dataset[list(range(36))]["pixel_values"]
    torch.testing.assert_close(model(pixels).logits, torch.tensor(pushed[1]))


LOAD = """
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

name, expected = "me/all_checkpoints", torch.tensor(logits)
model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True).eval()
pixels = AutoImageProcessor.from_pretrained(name)(Image.open(image), return_tensors="pt")
torch.testing.assert_close(model(**pixels).logits[0], expected, rtol=1e-5, atol=1e-5)
scores = pipeline("image-classification", name, trust_remote_code=True, device="cpu")(image, top_k=6)
scores = {item["label"]: item["score"] for item in scores}
ordered = torch.tensor([scores[model.config.id2label[i]] for i in range(6)])
torch.testing.assert_close(ordered, expected.softmax(0), rtol=1e-4, atol=1e-5)
answer = type(model).__module__
"""


def test_loads_where_hf_ltkd_is_not_installed(pushed, elsewhere):
    out, logits = pushed
    module = elsewhere(LOAD, logits=logits[3].tolist(), image=out / "image.png")
    assert module.startswith("transformers_modules.")


IMPORT = """
import os, sys, transformers

child = os.fork()  # this process stays without hf_ltkd
if child == 0:
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "NotInstalled"]
    import hf_ltkd
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    os._exit(type(model).__module__ != "hf_ltkd.models.cifar_resnet")
answer = os.waitpid(child, 0)[1]
"""


def test_a_folder_loads_where_hf_ltkd_is_imported_after_transformers(pushed, elsewhere):
    """models/test_registration.py has every order."""
    assert elsewhere(IMPORT, folder=pushed[0] / "end") == 0


@pytest.fixture
def faults(hub, tmp_path):
    """Faults of the Hub for one test: `faults[:] = [(text in the path, fault)]`."""
    hub.faults = []
    with use_hub(hub, tmp_path):
        yield hub.faults
    hub.faults = []


def error_of(function, *arguments, **more):
    with pytest.raises(OSError) as error:
        function(*arguments, **more)
    return str(error.value)


@pytest.mark.parametrize(
    ("where", "fault", "expected"),
    [
        ("/commit/", 400, "the Hub answered 400; it does not accept what was sent (its words: fault 400)"),
        ("/commit/", 401, "the Hub answered 401; log in with `hf auth login`"),
        ("/commit/", 403, "the Hub answered 403; the token may not write there"),
        ("/commit/", 409, "the Hub answered 409; somebody else wrote"),
        ("/commit/", 413, "the Hub answered 413; a file is larger than it takes"),
        ("/commit/", 422, "the Hub answered 422; it understands what was sent, but takes a value in it for wrong"),
        ("/commit/", 429, "the Hub answered 429; these were too many requests"),
        ("/commit/", 500, "the Hub answered 500; this may be a fault of the Hub"),
        ("/commit/", "drop", "the Hub could not be reached ("),
        ("/preupload/", 429, "the Hub answered 429"),
        ("/preupload/", "hang", "Timeout"),
        ("/repos/create", 418, "the Hub answered 418; it does not accept what was sent (its words: fault 418)"),
    ],
)
def test_a_failed_push_says_where_the_student_is_and_what_to_do(student, faults, where, fault, expected):
    faults[:] = [(where, fault)]
    message = error_of(push_folder, student, "me/student", timeout=0.2)
    assert message.startswith(f"The student is complete in '{student}', but it was not pushed to 'me/student': ")
    assert expected in message
    assert message.endswith(f". Then push it: hf-ltkd push --model {student} --to me/student")


@pytest.mark.parametrize(
    ("where", "fault"),
    [pytest.param("/preupload/", "later", marks=pytest.mark.slow), ("/commit/", "drip"), ("/create", "drip")],
)
def test_a_hub_that_never_comes_to_an_end(student, faults, hub, tmp_path, monkeypatch, where, fault):
    """An hour of Retry-After, and an answer a byte at a time: the whole push has a limit of five silences."""
    monkeypatch.setattr("hf_ltkd.hub.push.SLOWEST", 1e9)
    faults[:] = [(where, fault)]
    begin = time.monotonic()
    with use_hub(hub, tmp_path, sleep=time.sleep):
        message = error_of(push_folder, student, "me/student", timeout=0.2)
    assert 1 <= time.monotonic() - begin < 10
    assert "the Hub could not be reached (TimeoutError: it was not done after" in message and "hf-ltkd push" in message


def test_the_limit_grows_with_what_is_sent(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    assert time_limit(60) == 300 and time_limit(60, [tmp_path / "file"]) == 330


def test_within_a_time():
    assert within(5, lambda value: value + 1, 2) == 3
    with pytest.raises(KeyError, match="mine"):
        within(5, {}.__getitem__, "mine")
    released = threading.Event()
    with pytest.raises(TimeoutError, match="not done after 0 seconds"):
        within(0.05, released.wait)
    late = in_background(0.05, lambda: released.wait() and "too late")
    assert isinstance(late.exception(timeout=5), TimeoutError)
    released.set()  # what comes later changes nothing
    time.sleep(0.05)
    assert isinstance(late, Future) and isinstance(late.exception(), TimeoutError)


def test_an_explanation_shows_no_control_characters():
    class Refusal(Exception):
        response, server_message = type("Response", (), {"status_code": 422}), "\x1b[2J no\n\tlicense " + 300 * "x"

    text = reason(Refusal())
    assert text.isprintable() and text.startswith("the Hub answered 422; ") and "[2J no license xxx" in text
    assert len(text) < len(ADVICE[422]) + 250


def test_the_trainer_says_it_too(make_trainer, faults, tmp_path):
    faults[:] = [("/commit/", 403)]
    trainer = make_trainer(tmp_path / "student", hub_timeout=0.2)
    message = error_of(trainer.push_to_hub)
    assert "the Hub answered 403" in message and message.endswith(f"--model {tmp_path / 'student'} --to me/student")
    AutoModelForImageClassification.from_pretrained(tmp_path / "student")


@pytest.mark.parametrize(("fault", "expected"), [(401, "the Hub answered 401; log in with"), ("hang", "Timeout")])
def test_a_hub_that_fails_at_construction_is_one_sentence(make_trainer, faults, tmp_path, fault, expected):
    faults[:] = [("/repos/create", fault), ("/api/models/", fault)]
    message = error_of(make_trainer, tmp_path / "early", push_to_hub=True, hub_timeout=0.2)
    assert message.startswith("push_to_hub=True, but the repository 'early' could not be made: ")
    assert expected in message and "Nothing is trained yet" in message


def test_a_hub_that_fails_on_the_way_costs_nothing(make_trainer, hub, faults, tmp_path, caplog):
    trainer = make_trainer(tmp_path / "on_the_way", push_to_hub=True, hub_strategy="every_save")
    faults[:] = [("/commit/", 500)]
    with caplog.at_level(logging.ERROR, logger="hf_ltkd"):
        trainer.train()
        trainer.save_model()
    assert trainer.state.global_step == 4
    # Two checkpoints (a third message may stand for one that was skipped) and save_model, each with what to do.
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("hf_ltkd")]
    assert 2 <= len(messages) <= 3
    assert all("the Hub answered 500" in message and "hf-ltkd push" in message for message in messages)
    faults.clear()
    trainer.push_to_hub()
    assert STUDENT_FILES | {"README.md"} <= set(hub.repos["me/on_the_way"])  # once the Hub is well again


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


def write_onnx(folder):
    """What `hf-ltkd export` leaves, as far as pushing looks at it, and a file that is not ours."""
    times = {"median": 1.0, "p90": 2.0}
    network = {"input": [3, 8, 8], "onnx_bytes": 10**6, "onnxruntime_ms": times, "pytorch_ms": times}
    measured = {
        "weights_sha256": weights_digests(folder), "examples": "10 images", "batch_sizes": [1],
        "max_difference": 1e-6, "max_logit": 1.0, "networks": {"student": network}, "threads": 1, "runs": 9,
        "cpu": "a CPU", "versions": {},
    }  # fmt: skip
    write_json(folder / ONNX_FILES[2], measured)
    for name in (*ONNX_FILES[:2], "onnx/other.onnx"):
        (folder / name).write_bytes(name.encode())


def test_an_onnx_file_goes_with_its_weights_alone(make_trainer, hub, faults, tmp_path):
    def sent():
        return {name for name in hub.repos["me/exported"] if "onnx" in name}

    def card():
        return hub.repos["me/exported"]["README.md"].decode()

    trainer = make_trainer(tmp_path / "exported", push_to_hub=True, hub_strategy="every_save")
    trainer.train()
    trainer.push_to_hub()
    assert sent() == set() and "onnx" not in card()
    write_onnx(tmp_path / "exported")
    trainer.push_to_hub()
    assert sent() == set(ONNX_FILES) and "| student | 3 × 8 × 8 | 1.00 | 1 (2) | 1 (2) |" in card()
    hub.repos["me/exported"].clear()
    write_onnx(checkpoint := tmp_path / "exported" / "checkpoint-4")
    trainer._push_from_checkpoint(checkpoint)
    trainer._finish_current_push()
    assert sent() == set(ONNX_FILES)  # from the folder of the checkpoint
    with torch.no_grad():
        trainer.model.classifier.bias += 1
    with pytest.warns(UserWarning, match="made from other weights"):
        trainer.push_to_hub()
    assert sent() == set() and "onnx" not in card()  # neither sent nor left from before


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no trained model"):
        push_folder(tmp_path, "me/x")
