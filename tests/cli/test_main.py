"""The console command as a user calls it, on made-up images of three colours."""

import re
import shutil
import signal

import pytest
from photos import TRAINING
from transformers import AutoModelForImageClassification

import hf_ltkd
from hf_ltkd.cli import main
from hf_ltkd.cli.arguments import COMMANDS
from hf_ltkd.cli.main import HELP
from hf_ltkd.workflow import recommend


FLAGS = [str(item) for name, value in TRAINING.items() for item in (f"--{name}", value)]


def test_help_fits_a_screen(capsys):
    assert main([]) == main(["--help"]) == 0
    lines = HELP.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert all(f"  {name} " in HELP for name in COMMANDS) and HELP in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"hf-ltkd {hf_ltkd.__version__}\n"


def test_dry_run_says_it_all_and_writes_nothing(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recommend, "SHARP", 0)
    before = home.files()
    arguments = ["--teacher", home.teacher, "--data", home.photos, "--student", "resnet8", *FLAGS]
    assert main(["distill", *arguments, "--push", "me/small", "--dry_run"]) == 0  # needs no login
    assert home.files() == before and not list(tmp_path.iterdir())
    out = " ".join(capsys.readouterr().out.split())
    for figure in (
        "3 classes, 64 training images, used at 8 pixels (--image_size) 38 to 8 images a class: imbalance ratio 4.75",
        "tail 1 class 8 images",
        "Groups: 33, 34 and 33 % of the classes by training count, as in the paper",
        "6 images, 2 of every class, split off the training images",
        "20% of the smallest class, at most 20% (--eval_fraction), chosen with seed 0",
        "The teacher was trained without them.",
        "ltkd: alpha 1.0, beta 1.0, temperature 2.0, rebalance True, reweight True, ",
        "ce_weight 1.0, ce balanced_softmax, warmup_epochs 16.0 1 and 1",
        "1 and 1 beside a balanced softmax, at temperature 2 for a teacher that is right about half of the images",
        "240 epochs in batches of 16, sgd, learning rate 0.05",
        "(960 batches each;",
        f"240 epochs would take {64 * 240 * 3 * 4 / 1e6:.1f} MB",
        "A real run writes to 'student' and pushes it to me/small.",
    ):
        assert figure in out


def test_distilling(home, tmp_path, capsys):
    arguments = ["--teacher", home.teacher, "--data", home.photos, "--student", "resnet8", "--max_steps", "1", *FLAGS]
    assert main(["distill", *arguments, "--no_plain_student", "--output_dir", str(tmp_path / "new")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Distilling The student goes to" in out and "against the teacher, the adjusted" in out
    assert "Compare" not in out
    assert f"to publish them: hf-ltkd push --model {tmp_path / 'new'} --to OWNER/NAME" in out
    AutoModelForImageClassification.from_pretrained(tmp_path / "new")


def test_training_a_teacher(home, tmp_path, capsys):
    arguments = ["train-teacher", "--model", "resnet8", "--data", home.photos, "--image_size", "8", *FLAGS]
    arguments += ["--max_steps", "2", "--output_dir", str(tmp_path / "new")]
    assert main([*arguments, "--dry_run"]) == 0 and not list(tmp_path.iterdir())
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "Loss balanced_softmax: ce_weight 1.0, ce balanced_softmax" in out and "counts are skewed (ratio 4.75)" in out
    )
    assert "resnet8: 77,587 parameters" in out and "to train (2 batches each" in out and "Dry run" in out
    assert main([*arguments, "--eval_fraction", "0.1", "--split_seed", "3"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    following = f"hf-ltkd distill --teacher {tmp_path / 'new'} --data {home.photos} --eval_fraction 0.1 --split_seed 3"
    assert "Time" not in out and f"next: {following} --student" in out  # the student's images are the teacher's


def test_adjusting(home, tmp_path, capsys):
    target = str(tmp_path / "new")
    assert main(["adjust", "--model", home.student, "--data", home.photos, "--output_dir", target, "--tau", "2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "bias of each class less 2 · log of its share" in out and "3 classes of 38 to 8 training examples" in out
    assert "before" in out and f"the adjusted model is in '{target}'" in out
    assert main(["adjust", "--model", target]) == 2
    assert "has been adjusted already (tau 2.0)" in capsys.readouterr().err


def test_evaluation(home, capsys):
    assert main(["evaluate", "--model", home.student, "--data", home.photos]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["student"])
    shown = ["student", *re.findall(r"(\d+\.\d) \(", row)]
    assert "blue" in out and "precision" in out and "go where --output_dir FOLDER says" in " ".join(out.split())
    written = home.comparison.accuracy["this student"]
    expected = [written[name] for name in ("head_accuracy", "medium_accuracy", "tail_accuracy", "accuracy")]
    assert shown[0] == "student" and [float(x) / 100 for x in shown[1:]] == pytest.approx(expected, abs=6e-4)


def test_diagnosis(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recommend, "SHARP", 0)
    arguments = ["diagnose", "--teacher", home.teacher, "--data", home.photos, "--picture", str(tmp_path / "b.png")]
    assert main(arguments) == 0 and (tmp_path / "b.png").is_file()
    out = " ".join(capsys.readouterr().out.split())
    for share in home.comparison.teacher_probability.values():
        assert f"gets {share:.1%} of its probability" in out
    assert "KD 100.0% 0.0% 0.0% 0.0% LTKD(1, 1) 100.0%" in out
    assert "of a student that knows nothing yet, at temperature 2" in out
    assert "Start with alpha 1, beta 1, temperature 2, ce balanced_softmax: 1 and 1 beside a balanced softmax" in out


def test_push(home, monkeypatch, capsys):
    asked = {}
    commit = type("Commit", (), {"commit_url": "https://example.org/x"})
    monkeypatch.setattr("hf_ltkd.workflow.push.push", lambda **given: asked.update(given) or commit)
    assert main(["push", "--model", home.student, "--to", "me/small", "--private"]) == 0
    assert asked == {"model": home.student, "to": "me/small", "private": True}
    assert capsys.readouterr().out == "Pushed      https://example.org/x\n"


def test_the_result_is_told_before_a_push_that_fails(home, tmp_path, monkeypatch, capsys):
    def refused(*args, **kwargs):
        raise OSError("The student is complete, but it was not pushed.")

    monkeypatch.setattr("hf_ltkd.workflow.beforehand.get_token", lambda: "token")
    monkeypatch.setattr("hf_ltkd.workflow.distill.run", lambda plan: home.comparison)
    monkeypatch.setattr("hf_ltkd.workflow.distill.push", refused)
    arguments = ["--teacher", home.teacher, "--data", home.photos, "--student", "resnet8", *FLAGS]
    assert main(["distill", *arguments, "--push", "me/small", "--output_dir", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "this student" in shown.out
    assert shown.err.splitlines()[-1] == "hf-ltkd: The student is complete, but it was not pushed."


TEACHER = ["distill", "--teacher", "{folder}/teacher", "--data", "{folder}/photos"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "there is no command 'distil': use distill, train-teacher"),
        (["distill", "--data", "{folder}/photos"], "--teacher is missing"),
        (["distill", "--teacher", "{folder}/teacher"], "--data is missing"),
        (["evaluate", "--data", "{folder}/photos"], "required: --model"),
        (["distill", "--teacher", "{folder}/photos", "--data", "{folder}/photos"], "no image classifier"),
        (["evaluate", "--model", "{folder}/teacher", "--data", "{folder}"], "Class 0 is 'blue' for the model"),
        ([*TEACHER, "--colour", "red"], "unrecognized arguments: --colour red"),
        ([*TEACHER, "--loss_args", "alpha"], "must have the form name=value"),
        ([*TEACHER, "--output_dir", "{folder}/student"], "holds a model or an unfinished training already"),
        ([*TEACHER, "--push", "me/small"], "needs a login: run `hf auth login`"),
        ([*TEACHER, "--config", "{folder}/none.yaml"], "No such file or directory"),
        (["push", "--model", "{folder}/photos", "--to", "me/small"], "holds no trained model"),
    ],
)
def test_errors_are_one_sentence(home, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_ltkd.workflow.beforehand.get_token", lambda: None)
    before = home.files()
    assert main([argument.format(folder=home.folder) for argument in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hf-ltkd: ") and message in error
    assert home.files() == before and not list(tmp_path.iterdir())


def test_traceback_on_request(home, monkeypatch, capsys):
    assert main(["diagnose", "--teacher", "./x", "--data", home.photos, "--traceback"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and "ValueError: There is no image classifier './x'" in shown
    monkeypatch.setenv("HF_LTKD_TRACEBACK", "1")
    assert main(["nothing"]) == 2 and "there is no command 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [[], ["--traceback"]])
def test_what_is_shown_holds_no_credentials(monkeypatch, capsys, flag):
    def fail(*args):
        raise OSError("https://anna:pass%word@hub.example/api and http://secret@10.0.0.1:8080 with hf_" + "a1B2" * 8)

    monkeypatch.setattr("hf_ltkd.cli.commands.run", fail)
    assert main(["evaluate", "--model", "x", *flag]) == 2
    shown = capsys.readouterr().err
    assert "https://***@hub.example/api and http://***@10.0.0.1:8080 with ***" in shown
    assert not any(secret in shown for secret in ("anna", "pass%word", "secret@", "a1B2a1B2"))


@pytest.fixture
def sigint():
    """As a terminal has it: what is started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["distill", "train-teacher", "evaluate"])
@pytest.mark.usefixtures("sigint")
def test_an_interruption_is_one_line_and_says_how_to_go_on(monkeypatch, capsys, tmp_path, number, command):
    monkeypatch.setattr("hf_ltkd.cli.commands.run", lambda *args: signal.raise_signal(number))
    before = signal.getsignal(signal.SIGTERM)
    model = "--teacher" if command == "distill" else "--model"
    arguments = [command, model, "x", *(["--output_dir", str(tmp_path)] if command != "evaluate" else [])]
    for advice in ("is no checkpoint in", "add --resume_from_checkpoint true to the same command"):
        assert main(arguments) == 128 + number
        lines = capsys.readouterr().err.split("\n")
        assert lines[0] == lines[2] == "" and len(lines) == 3 and lines[1].startswith("hf-ltkd: interrupted")
        assert advice in lines[1] or command == "evaluate"
        (tmp_path / "checkpoint-1").mkdir(exist_ok=True)
    assert signal.getsignal(signal.SIGTERM) == before


def test_check_names_what_is_wrong(home, tmp_path, capsys):
    shutil.copytree(home.photos, tmp_path / "photos")
    assert main(["check", "--data", str(tmp_path / "photos")]) == 0
    damaged = next((tmp_path / "photos").rglob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:60])
    capsys.readouterr()
    assert main(["check", "--data", str(tmp_path / "photos")]) == 2
    said = capsys.readouterr()
    assert damaged.name in said.out and "1 images cannot be decoded" in said.out and "--skip_damaged" in said.err
