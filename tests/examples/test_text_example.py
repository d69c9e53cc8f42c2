"""The text script as a user starts it: a teacher, then students, on small parquet files."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from helpers import EXAMPLES, run_script
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer

from hf_ltkd import ClassGroups


COMMON = ["--max_steps", "3", "--use_cpu", "--learning_rate", "1e-3", "--per_device_train_batch_size", "8"]
COMMON += ["--disable_tqdm", "true", "--logging_steps", "1", "--report_to", "none", "--vocab_size", "300"]
GROUP_METRICS = {"eval_accuracy", "eval_head_accuracy", "eval_medium_accuracy", "eval_tail_accuracy"}


def distil(*arguments):
    run_script("distill_text_classification.py", *arguments)


def write(folder, split, counts, labels=None):
    """Texts of a class share a word; `counts` gives their number for each class, `labels` its name in the column."""
    random = np.random.default_rng(0)
    words = ["weather", "music", "unused", "timer"]
    rows = [
        (f"{random.choice(['please', 'now'])} {word}", i) for i, word in enumerate(words) for _ in range(counts[i])
    ]
    rows = [rows[i] for i in random.permutation(len(rows))]
    column = {"text": [text for text, _ in rows], "label": [i if labels is None else labels[i] for _, i in rows]}
    feature = ClassLabel(names=words) if labels is None else Value("string")
    features = Features({"text": Value("string"), "label": feature})
    folder.mkdir(exist_ok=True)
    Dataset.from_dict(column, features=features).to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of 20, 12 and 5 training texts, one without any, and a teacher trained from the command line."""
    folder = tmp_path_factory.mktemp("texts")
    write(folder, "train_imbalanced", [20, 12, 0, 5])
    write(folder, "test", [4, 4, 0, 4])
    distil("--data_dir", folder, *COMMON, "--loss", "ce", "--student", "2x64", "--output_dir", folder / "teacher")
    return folder


def distil_in_another_process(*arguments):
    command = [sys.executable, EXAMPLES / "distill_text_classification.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


def test_teacher_folder(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
    assert model.config.id2label == {0: "weather", 1: "music", 2: "timer"}  # "unused" has no training text
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 64)
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    assert model.config.vocab_size == len(tokenizer) <= 300 and tokenizer.model_max_length == 64
    assert tokenizer.tokenize("weather") == tokenizer.tokenize(" weather")  # not another token at the beginning
    assert ClassGroups.from_pretrained(folder / "teacher").class_counts == (20, 12, 5)
    assert set(json.loads((folder / "teacher" / "eval_results.json").read_text())) >= GROUP_METRICS


@pytest.mark.parametrize("distil", [distil, pytest.param(distil_in_another_process, marks=pytest.mark.slow)])
def test_same_seed_gives_the_same_teacher(folder, tmp_path, distil):
    """Tokenizer trainers exist that give other tokens each time, or in another process."""
    distil("--data_dir", folder, *COMMON, "--loss", "ce", "--student", "2x64", "--output_dir", tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "teacher" / "tokenizer.json").read_bytes()
    here, there = (load_file(path / "model.safetensors") for path in (tmp_path, folder / "teacher"))
    for name, weights in here.items():  # several threads may add in another order
        torch.testing.assert_close(weights, there[name], rtol=1e-3, atol=1e-5)


def test_student_of_the_teacher(folder, tmp_path):
    arguments = [
        "--student",
        "1x64",
        "--loss_args",
        "alpha=1",
        "temperature=2",
        "ce=balanced_softmax",
        "--validation_fraction",
        "0.2",
    ]
    arguments += ["--dropout", "0"]
    distil("--data_dir", folder, *COMMON, "--teacher", folder / "teacher", *arguments, "--output_dir", tmp_path)
    teacher, student = (AutoTokenizer.from_pretrained(path) for path in (folder / "teacher", tmp_path))
    assert student.get_vocab() == teacher.get_vocab()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (1, 64)
    assert model.config.hidden_dropout_prob == 0
    assert ClassGroups.from_pretrained(tmp_path).class_counts == (16, 9, 4)  # 8 of the 37 texts are kept out
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert {"balanced_softmax", "cross_group", "within_group"} <= set(state["log_history"][0])


def test_pretrained_student_and_names_as_labels(folder, tmp_path):
    """A column of class names gives the classes that ClassLabel gives, in the order of the alphabet."""
    names = ["a_weather", "b_music", "unused", "c_timer"]
    write(tmp_path / "named", "train", [20, 12, 0, 5], names)
    write(tmp_path / "named", "validation", [4, 4, 0, 4], names)
    data = ["--data_dir", tmp_path / "named", "--eval_split", "validation", *COMMON]
    distil(*data, "--loss", "ce", "--student", folder / "teacher", "--output_dir", tmp_path / "student")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert model.config.id2label == {0: "a_weather", 1: "b_music", 2: "c_timer"}
    assert set(json.loads((tmp_path / "student" / "eval_results.json").read_text())) >= GROUP_METRICS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data_dir", "x"], "--loss ltkd needs --teacher"),
        (["--loss", "ce", "--student", "2x100"], "--student 2x100: the hidden size must be a multiple of 64"),
        (["--loss", "ce"], "Give either --dataset_name"),
        (["--loss", "ce", "--data_dir", "nowhere"], "data_dir 'nowhere' is not a folder that holds train*.parquet"),
        (["--loss", "ce", "--data_dir", "x", "--validation_fraction", "10"], "validation_fraction=10.0 is not valid"),
        (["--loss", "ce", "--data_dir", None, "--text_column", "utterance"], "The texts have no column 'utterance'"),
        (["--loss", "ce", "--data_dir", None, "--eval_split", "dev"], "There is no split 'dev', only ['train']"),
        (["--loss", "ce", "--data_dir", None, "--loss_args", "beta"], "must have the form name=value"),
    ],
)
def test_wrong_arguments_are_explained(folder, tmp_path, arguments, message):
    arguments = [folder if argument is None else argument for argument in arguments]
    with pytest.raises(ValueError, match=re.escape(message)):
        distil(*arguments, "--output_dir", tmp_path)


def test_losses_on_feature_maps_are_no_choice(tmp_path):
    with pytest.raises(ValueError, match="--loss reviewkd compares feature maps of images"):
        distil("--loss", "reviewkd", "--data_dir", "x", "--teacher", "x", "--output_dir", tmp_path)


def test_texts_to_evaluate_of_an_unknown_class(tmp_path):
    write(tmp_path, "train", [4, 4, 0, 4])
    write(tmp_path, "test", [4, 4, 1, 4])
    with pytest.raises(ValueError, match=r"1 classes of the texts to evaluate on have no training text \('unused'"):
        distil("--data_dir", tmp_path, "--loss", "ce", "--output_dir", tmp_path / "x")


def test_another_tokenizer_of_the_student(folder, tmp_path):
    BertTokenizer().save_pretrained(tmp_path)
    AutoModelForSequenceClassification.from_pretrained(folder / "teacher").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="teacher and student must read the same token ids"):
        models = ["--teacher", folder / "teacher", "--student", tmp_path]
        distil("--data_dir", folder, *models, "--output_dir", tmp_path / "x")
