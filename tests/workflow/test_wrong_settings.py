"""Wrong settings of a command, in Python and on the command line: one sentence, before any work starts."""
# ruff: noqa: E501, B023

from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from helpers import write_image
from photos import CPU, Home
from PIL import Image as PILImage
from wrong import INF, NAN, NO_COUNT, NO_NUMBER, NO_WEIGHT, Wrong, table

import hf_ltkd
from hf_ltkd import create_model
from hf_ltkd.cli import main
from hf_ltkd.data.processors import make_processor
from hf_ltkd.workflow.adjust import adjust
from hf_ltkd.workflow.export import export
from hf_ltkd.workflow.push import push


def tiny(num_labels: int) -> torch.nn.Module:
    return create_model("resnet8", num_labels, image_size=8)


PHOTOS, TEACHERS, STUDENTS = "{home.photos}", "{home.teacher}", "{home.student}"
WORKFLOW: dict[str, Wrong] = {
    "teacher": Wrong(lambda v, h: hf_ltkd.distill(v, "resnet8", h.photos, **CPU), (None, 5, "nowhere", Path("nowhere"), [1], torch.nn.Linear(1, 1)), "teacher|model|classifier"),
    "student": Wrong(lambda v, h: hf_ltkd.distill(h.teacher, v, h.photos, **CPU), (5, "resnet9", "nowhere/x", [1], tiny(4)), "student|model|depth|classes|classifier"),
    "data": Wrong(lambda v, h: hf_ltkd.distill(h.teacher, "resnet8", v, **CPU), (None, 5, "nowhere", Path("nowhere"), [1, 2], "a/b/c", DatasetDict(), table([0, 1])), "data"),
    **{
        name: Wrong(lambda v, h, name=name: hf_ltkd.distill(h.teacher, "resnet8", h.photos, **{**CPU, name: v}), values, name.split("_")[0] + "|alfa|alpha")
        for name, values in {
            "loss": ("focal", 5, ["kd"]),
            "loss_args": ("alpha", 5, {"alfa": 1}, {"alpha": "x"}, {"alpha": NAN}, ["alpha"], ["alpha=x"]),
            "pair": ("resnet8", ["resnet8"], ["a", "b"], 5),
            "num_groups": (*NO_COUNT[:3], *NO_COUNT[4:], 4),
            "teacher_cache_views": (*NO_COUNT[:3], *NO_COUNT[4:]),
            "teacher_cache_dtype": ("int8", 5),
            "eval_fraction": (0, 1, *NO_WEIGHT[:1], *NO_WEIGHT[2:]),
            "image_size": (*NO_COUNT[:3], *NO_COUNT[4:]),
            "learning_rate": (-1, NAN, "fast"),
            "num_train_epochs": (NAN, INF, "x"),
            "seed": (-1, 1.5, "x"),
            "output_dir": (5, ["a"]),
            "benchmark": ("mnist",),
            "learning_rat": (1,),
            "adjust_teacher": ("yes", 1),
            "match_labels": ("yes", 1),
            "trust_remote_code": ("yes", 1),
            "unlabelled": ("nowhere", Path("nowhere"), 5),
            "augment": ("blur", "nowhere:blur", "json:nothing", 5),
            "mixup_alpha": (-1, NAN, INF, "x"),
            "cutmix_alpha": (-1, NAN, INF, "x"),
            "early_stopping_patience": (0, 1.5, "x", 3),
        }.items()
    },
    "adjusted for": Wrong(lambda v, h: hf_ltkd.distill(h.teacher, "resnet8", h.photos, loss=v, adjust_teacher=True, **CPU), ("reviewkd", "catkd", "ce"), "adjust_teacher"),
    "unlabelled for": Wrong(lambda v, h: hf_ltkd.distill(h.teacher, "resnet8", h.photos, loss=v, unlabelled=h.photos, **CPU), ("ce", "dkd", "kd"), "unlabelled"),
    "match_labels without a teacher": Wrong(lambda v, h: hf_ltkd.distill(v, "resnet8", h.photos, loss="ce", match_labels=True, **CPU), (None,), "match_labels"),
    "adjusted": Wrong(lambda v, h: adjust(v, output_dir="new"), (None, 5, "nowhere", Path("nowhere"), [1]), "model|classifier"),
    "tau": Wrong(lambda v, h: adjust(h.teacher, h.photos, "new", v), (0, -1, *NO_NUMBER[1:]), "tau"),
    "adjusted into": Wrong(lambda v, h: adjust(h.teacher, h.photos, h.folder / v), ("photos", "student"), "something in"),
    "ce of a teacher": Wrong(lambda v, h: hf_ltkd.train_teacher("resnet8", h.photos, ce=v, **CPU), ("focal", 5), "ce"),
    "peft": Wrong(lambda v, h: hf_ltkd.train_teacher("resnet8", h.photos, peft=v, **CPU), ("dora", 5, True, "lora"), "peft|pretrained|linear"),
    "model": Wrong(lambda v, h: hf_ltkd.evaluate(v, h.photos), (None, 5, "nowhere", Path("nowhere"), [1], tiny(4)), "model|classes|classifier"),
    "batch_size": Wrong(lambda v, h: hf_ltkd.evaluate(h.student, h.photos, batch_size=v), (*NO_COUNT[:3], *NO_COUNT[4:]), "batch_size"),
    "diagnosed teacher": Wrong(lambda v, h: hf_ltkd.diagnose(v, h.photos), (None, 5, "nowhere", Path("nowhere")), "model|classifier"),
    "diagnosing batch_size": Wrong(lambda v, h: hf_ltkd.diagnose(h.teacher, h.photos, batch_size=v), NO_COUNT[:3], "batch_size"),
    "trained model": Wrong(lambda v, h: hf_ltkd.train_teacher(v, h.photos, **CPU), (5, "resnet9", "a/b/c", [1], tiny(4)), "model|depth|classes|classifier"),
    "photos": Wrong(
        lambda v, h: hf_ltkd.train_teacher("resnet8", h.folder / v, image_size=8, **CPU),
        ("grey", "black", "empty", "photos/red", "teacher", "nowhere"),
        "colour|image|folder",
    ),
    "pushed": Wrong(lambda v, h: push(v, "me/x"), (None, 5, "nowhere", Path("nowhere")), "model|folder"),
    "pushed to": Wrong(lambda v, h: push(h.student, v), (None, 5, "a/b/c", "a b", "", "-x", "me/x.git "), "to|repo|Repo"),
    "timeout": Wrong(lambda v, h: push(h.student, "me/x", timeout=v), (0, *NO_WEIGHT), "timeout"),
    "results": Wrong(lambda v, h: push(h.student, "me/x", teacher_results=v), ("nowhere", Path("nowhere"), 5), "results"),
    "exported": Wrong(lambda v, h: export(v), (None, 5, "nowhere"), "model"),
    "threads": Wrong(lambda v, h: export(h.student, threads=v), (*NO_COUNT[:3], *NO_COUNT[4:]), "threads"),
    "runs": Wrong(lambda v, h: export(h.student, runs=v), (*NO_COUNT[:3], *NO_COUNT[4:]), "runs"),
    "exported images": Wrong(lambda v, h: export(h.student, images=v, runs=1), (["nowhere"], 5, "nowhere", [5]), "image"),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    """As tests/photos.py has it, but nothing was trained."""
    folder = tmp_path_factory.mktemp("home")
    for name, count in {"blue": 9, "green": 6, "red": 5}.items():
        for number in range(count):
            write_image(folder / "photos" / name / f"{number}.jpg", len(name) + number, 8, 8)
            write_one_colour(folder / "grey" / name / f"{number}.png", 128)
            write_one_colour(folder / "black" / name / f"{number}.png", 0)
    (folder / "empty").mkdir()
    labels = {"id2label": dict(enumerate(("blue", "green", "red")))}
    for name in ("teacher", "student"):
        create_model("resnet8", 3, 8, **labels).save_pretrained(folder / name)
        make_processor((8, 8), [0.5] * 3, [0.5] * 3).save_pretrained(folder / name)
    return Home(folder, None)  # type: ignore[arg-type]


def write_one_colour(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.new("RGB", (8, 8), (value,) * 3).save(path)


@pytest.fixture
def nothing_starts(monkeypatch):
    """What is taken for right fails at once, instead of training."""

    def started(*args, **kwargs):
        raise AssertionError("This was taken for right.")

    names = (
        "distill.run",
        "train_teacher.run",
        "images.group_report",
        "scenes.group_report",
        "diagnose.loss_parts",
        "push.push_folder",
    )
    for name in (*(f"hf_ltkd.workflow.{name}" for name in names), "hf_ltkd.cli.commands.estimate"):
        monkeypatch.setattr(name, started)
    monkeypatch.setattr("hf_ltkd.workflow.beforehand.get_token", lambda: "token")


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("name", WORKFLOW)
def test_a_wrong_setting_is_one_sentence(home, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    before = home.files()
    WORKFLOW[name].check((ValueError, OSError), home)
    assert home.files() == before and not list(tmp_path.iterdir())


DISTILL = f"distill --teacher {TEACHERS} --data {PHOTOS} --student resnet8 --use_cpu true"
COMMANDS = (
    "x", "distil", "--distill", "distill", f"distill --data {PHOTOS}", f"distill --teacher {TEACHERS}",
    f"distill --teacher {PHOTOS} --data {PHOTOS}", f"distill --teacher {TEACHERS} --data {TEACHERS}",
    f"distill --teacher nowhere --data {PHOTOS}", f"distill --teacher {TEACHERS} --data nowhere", "distill nowhere.yaml",
    "distill --config nowhere.yaml", "distill --config", f"distill --config {PHOTOS}", "distill --teacher",
    *(f"{DISTILL} {flags}" for flags in (
        "--loss focal", "--loss", "--loss_args alpha", "--loss_args alpha=x", "--loss_args alfa=1", "--loss_args alpha=-1",
        "--loss_args alpha=NaN", "--loss_args temperature=0", "--loss_args ce=focal", "--loss_args", "--pair a", "--pair a b",
        "--pair a b c", "--num_groups 0", "--num_groups 4", "--num_groups x", "--num_groups 1.5", "--image_size 0",
        "--image_size x", "--image_size -1", "--eval_fraction 0", "--eval_fraction 1", "--eval_fraction nan",
        "--eval_fraction x", "--learning_rate x", "--learning_rate nan", "--learning_rate -1", "--num_train_epochs x",
        "--num_train_epochs inf", "--per_device_train_batch_size 0", "--per_device_train_batch_size x", "--seed -1",
        "--seed x", "--max_steps x", "--bf16 maybe", "--recommend maybe", "--crop center", "--crop_padding -1",
        "--split_seed -1", "--split_seed x", "--imbalance_factor 0.5", "--imbalance_factor x", "--imbalance_factor nan",
        "--split_rule eq15", "--group_rule halves", "--rare forget", "--rare drop", "--min_class_images 0", "--group_column track",
        "--teacher_cache_views 0", "--teacher_cache_dtype int8", "--adjust_teacher --loss ce", "--mixup_alpha -1",
        "--mixup_alpha x", "--cutmix_alpha nan", "--augment blur", "--augment nowhere:blur", "--unlabelled nowhere",
        f"--unlabelled {PHOTOS}", f"--loss dkd --unlabelled {PHOTOS}", "--match_labels maybe", "--loss_args prior=both",
        "--loss_args standardize=1", "--loss_args drw_epoch=5", "--loss_args ce=ldam drw_epoch=-1", "--early_stopping_patience 0",
        "--early_stopping_patience 2 --eval_strategy no", "--teacher_cache c --mixup_alpha 1", "--max_steps 0", "--learning_rat 1", "--benchmark mnist",
        "--train_list a.txt", "--test_list a.txt", "--dataset_name a/b", "--preset mine", "--lr_decay 0", "--lr_milestones 2",
        "--hub_timeout 0", "--data_device nonsense", "--eval_split nowhere", "--resume_from_checkpoint nowhere",
        "--optim nonsense", "--lr_scheduler_type nonsense", "--save_strategy sometimes", "--eval_strategy sometimes",
        "--push a/b/c", "--weight_decay nan", "--warmup_steps -1", "--gradient_accumulation_steps 0",
        "--load_best_model_at_end true --metric_for_best_model nonsense", "--label_smoothing_factor 2", f"--output_dir {STUDENTS}",
        "--tune 0", "--tune 1", "--tune -3", "--tune x", "--tune 2.5", "--tune 3 --loss ce", "--tune 3 --loss catkd", "--seeds 0",
        "--seeds 1", "--seeds -1", "--seeds x", "--tune 3 --loss kd --loss_args kd_weight=1 temperature=4",
        "--tune 3 --eval_fraction 0.01", "--seeds 2 --eval_fraction 0.01", "--tune 3 --eval_with_teacher true", "--tune 3 --mixup_alpha 1",
    )),
    "evaluate", f"evaluate --model nowhere --data {PHOTOS}", f"evaluate --model {PHOTOS} --data {PHOTOS}",
    f"evaluate --model {STUDENTS}", f"evaluate --model {STUDENTS} --data {PHOTOS} --batch_size 0",
    f"evaluate --model {STUDENTS} --data {PHOTOS} --batch_size x", f"evaluate --model {STUDENTS} --data {PHOTOS}/red",
    "diagnose", f"diagnose --teacher nowhere --data {PHOTOS}", f"diagnose --teacher {TEACHERS} --data {PHOTOS} --batch_size 0",
    f"diagnose --teacher {TEACHERS} --data {PHOTOS} --num_groups 9", f"diagnose --teacher {TEACHERS} --data {PHOTOS} --student nowhere",
    f"distill --loss ce --match_labels --data {PHOTOS}", "adjust", "adjust --model nowhere", f"adjust --model {TEACHERS}",
    *(f"adjust --model {TEACHERS} --data {PHOTOS} {flags}" for flags in (
        "--tau 0", "--tau x", "--tau nan", "--tau inf", "--batch_size 0", f"--output_dir {PHOTOS}", "--data nowhere",
    )),
    f"train-teacher --model resnet8 --data {PHOTOS} --ce focal", f"train-teacher --model resnet8 --data {PHOTOS} --peft dora",
    f"train-teacher --model resnet9 --data {PHOTOS}", "train-teacher --model resnet8", f"train-teacher --model nowhere/x --data {PHOTOS}",
    "train-teacher --data nowhere", "check", "check --data nowhere", "check --data {home.folder}/photos/red", "check --image_size x",
    "push", f"push --model {STUDENTS}", f"push --model {PHOTOS} --to me/x", "push --model nowhere --to me/x",
    f"push --model {STUDENTS} --to a/b/c", f"push --model {STUDENTS} --to me/x --timeout 0", f"push --model {STUDENTS} --to me/x --timeout x",
    f"push --model {STUDENTS} --to me/x --teacher_results nowhere", "export", "export --model nowhere", f"export --model {STUDENTS} --runs 0",
    f"export --model {STUDENTS} --threads x", f"export --model {STUDENTS} --images nowhere", f"export --model {STUDENTS} --teacher nowhere",
)  # fmt: skip


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_is_one_sentence(home, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    before = home.files()
    assert main([word.format(home=home) for word in command.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-ltkd: ")]
    assert 30 < len(line) < 900 and "--traceback" not in line and "Error:" not in line, line
    assert home.files() == before and not list(tmp_path.iterdir())
