"""`push`: the card of what was measured and of what a person wrote, and nothing written before the Hub was reached."""

import json
import shutil

import pytest
from hub_server import use_hub
from huggingface_hub import ModelCard
from transformers import BertConfig, BertForSequenceClassification, ViTImageProcessorPil

from hf_ltkd import ClassGroups, create_model
from hf_ltkd.cli.main import main
from hf_ltkd.hub.card import write_model_card
from hf_ltkd.utils import write_json
from hf_ltkd.workflow.push import push


GROUPS = ClassGroups([0, 1, 2], class_counts=[60, 30, 10])
STUDENT = {"eval_accuracy": 0.5, "eval_head_accuracy": 0.7, "eval_medium_accuracy": 0.5, "eval_tail_accuracy": 0.3}
TEACHER = {"accuracy": 0.4, "head_accuracy": 0.8, "medium_accuracy": 0.35, "tail_accuracy": 0.05}
PLAIN = {"accuracy": 0.375, "head_accuracy": 0.725, "medium_accuracy": 0.3, "tail_accuracy": 0.1}


@pytest.fixture
def student(tmp_path):
    """A folder as `save_pretrained` and a script leave it, without the code of the network."""
    folder = tmp_path / "student"
    create_model("resnet8", 3, image_size=8).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    GROUPS.save_pretrained(folder)
    write_json(folder / "eval_results.json", STUDENT)
    return folder


@pytest.fixture
def place(hub, tmp_path):
    """A repository of one's own on the Hub, as long as the test runs."""
    with use_hub(hub, tmp_path / "home"):
        yield "me/pushed"
    hub.faults = []
    hub.repos.pop("me/pushed", None)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def card_on(hub, repo_id):
    return ModelCard(hub.repos[repo_id]["README.md"].decode())


def test_what_a_comparison_says_goes_into_the_card(hub, place, student):
    names = {"dataset": "me/birds", "dataset_split": "held-out training images", "teacher_name": "me/big"}
    write_json(student / "comparison.json", {**names, "accuracy": {"teacher": TEACHER, "plain student": PLAIN}})
    commit = push(student, place)
    assert commit.commit_url.startswith(f"{hub.url}/{place}/commit/")
    card = card_on(hub, place)
    assert card.data.datasets == ["me/birds"] and card.data.eval_results[0].dataset_split == names["dataset_split"]
    assert "| teacher | 80.0 | 35.0 | 5.0 | 40.0 |" in card.text and "| plain student | 72.5 |" in card.text
    assert f'"{place}", trust_remote_code=True' in card.text and "comparison.json" not in hub.repos[place]
    parameters = sum(p.numel() for p in create_model("resnet8", 3, image_size=8).parameters())
    assert json.loads(hub.repos[place]["distillation.json"])["student"]["parameters"] == parameters


def test_what_is_given_wins(hub, place, student, tmp_path):
    """All flags of the command."""
    write_json(student / "comparison.json", {
        "dataset": "me/birds", "dataset_split": "validation", "teacher_name": "me/big", "accuracy": {"teacher": PLAIN},
    })  # fmt: skip
    for name, metrics in (("teacher", TEACHER), ("plain", PLAIN)):
        write_json(tmp_path / f"{name}.json", {f"eval_{metric}": value for metric, value in metrics.items()})
    flags = {
        "--model": student, "--to": place, "--dataset": "me/bees", "--dataset_split": "test",
        "--teacher_results": tmp_path / "teacher.json", "--plain_student_results": tmp_path / "plain.json",
        "--license": "mit", "--language": "en", "--revision": "main", "--timeout": "2",
    }  # fmt: skip
    words = [str(word) for pair in flags.items() for word in pair]
    assert main(["push", *words, "--tags", "bees", "wasps", "--private", "--no_model_code"]) == 0
    card = card_on(hub, place)
    result = card.data.eval_results[0]
    assert (result.dataset_type, result.dataset_split, result.metric_value) == ("me/bees", "test", 0.5)
    assert card.data.license == "mit" and card.data.language == "en" and card.data.tags[-2:] == ["bees", "wasps"]
    assert "| teacher | 80.0 | 35.0 | 5.0 | 40.0 |" in card.text and "| plain student | 72.5 |" in card.text
    assert "cifar_resnet.py" not in hub.repos[place] and "import hf_ltkd" in card.text
    (creation,) = [json.loads(body) for body in hub.received if b'"pushed"' in body and b"visibility" in body][-1:]
    assert creation["visibility"] == "private"


@pytest.mark.usefixtures("pictures")
def test_the_second_push_sends_only_what_is_missing(hub, place, student):
    push(student, place, dataset="me/bees", license="mit")
    first = dict(hub.repos[place])
    push(student, place, dataset="me/bees")
    assert hub.repos[place] == first
    write_json(student / "eval_results.json", {**STUDENT, "eval_accuracy": 0.6})
    push(student, place, dataset="me/bees")
    _, _, paths = hub.commits[-1]
    assert paths == ["README.md", "eval_results.json", "group_accuracy.png"]
    assert card_on(hub, place).data.license == "mit"


@pytest.mark.parametrize("fault", [401, 500, "drop"])
def test_nothing_is_written_before_the_hub_was_reached(hub, place, student, fault):
    write_model_card(student)
    with (student / "README.md").open("a") as file:
        file.write("\nMine.\n")
    before = content(student)
    hub.faults = [("/repos/create", fault)]
    with pytest.raises(OSError, match="The student is complete"):
        push(student, place, dataset="me/bees", timeout=0.2)
    assert content(student) == before


def test_what_a_person_wrote_stays_here_and_on_the_hub(hub, place, student):
    push(student, place, dataset="me/bees")
    text = (student / "README.md").read_text().replace("---\n", "---\nlicense: mit\n", 1)
    (student / "README.md").write_text(text + "\nWritten here.\n")
    push(student, place, dataset="me/bees")
    assert card_on(hub, place).data.license == "mit" and "Written here." in card_on(hub, place).text
    # Then on the Hub's page, while this machine's folder knows nothing of it.
    edited = hub.repos[place]["README.md"].decode().replace("license: mit", "license: mit\nlanguage: en")
    hub.repos[place]["README.md"] = edited.encode()
    push(student, place, dataset="me/bees")
    card = card_on(hub, place)
    assert (card.data.license, card.data.language) == ("mit", "en") and "Written here." in card.text
    (student / "README.md").unlink()
    push(student, place, dataset="me/bees")
    assert card_on(hub, place).text == card.text


def test_a_card_that_is_kept(hub, place, student):
    (student / "README.md").write_text("Mine alone.\n")
    push(student, place, keep_card=True, license="mit")
    assert hub.repos[place]["README.md"] == b"Mine alone.\n"
    (student / "README.md").unlink()
    push(student, place, keep_card=True)  # there is none to keep
    assert "A classifier trained with" in card_on(hub, place).text


def test_the_code_goes_as_in_training(hub, place, student):
    write_json(student / "training_arguments.json", {"hub_model_code": False})
    push(student, place)
    assert "cifar_resnet.py" not in hub.repos[place]
    push(student, place, model_code=True)
    assert "cifar_resnet.py" in hub.repos[place]


def test_a_repository_named_without_its_owner(hub, place, student):
    push(student, "pushed")
    assert '"me/pushed"' in card_on(hub, place).text


def test_a_student_of_text(hub, place, tmp_path):
    tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertForSequenceClassification(tiny).save_pretrained(tmp_path / "text")
    push(tmp_path / "text", place)
    assert card_on(hub, place).data.pipeline_tag == "text-classification"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nowhere"}, "'nowhere' holds no trained model"),
        ({"teacher_results": "nowhere.json"}, "The results 'nowhere.json' cannot be read"),
        ({"plain_student_results": "list.json"}, "The results 'list.json' are no table of names and numbers"),
        ({"to": "me/a b"}, "me/a b"),
        ({"model": "broken"}, "'broken/README.md' cannot be read"),
    ],
)
def test_errors_before_the_hub_is_asked(hub, place, student, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(student, tmp_path / "broken")
    (tmp_path / "broken" / "README.md").write_text("---\n- a list\n---\n")
    (tmp_path / "list.json").write_text("[1]")
    before, asked = content(student), len(hub.received)
    with pytest.raises(ValueError, match=message):
        push(**{"model": "student", "to": place, **arguments})
    assert content(student) == before and len(hub.received) == asked
