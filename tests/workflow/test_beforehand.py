"""Whatever can be known to be wrong is said before an image is opened."""

import json

import pytest
import torch
from photos import TRAINING
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetModel

import hf_ltkd
from hf_ltkd.cli import main
from hf_ltkd.workflow.plan import make_plan
from hf_ltkd.workflow.push import push


@pytest.fixture(autouse=True)
def no_image_is_opened(monkeypatch, tmp_path):
    def opened(*args, **kwargs):
        raise AssertionError("images were looked at")

    monkeypatch.setattr("hf_ltkd.data.check.look_at", opened)
    monkeypatch.setattr("hf_ltkd.data.images._decode", opened)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def useless(tmp_path_factory, home):
    """A folder with broken/, a teacher of NaN, and headless/, a network without a trained head."""
    folder = tmp_path_factory.mktemp("useless")
    model = AutoModelForImageClassification.from_pretrained(home.teacher)
    with torch.no_grad():
        model.classifier.weight[0] = torch.nan
    model.save_pretrained(folder / "broken")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3)
    ResNetModel(config).save_pretrained(folder / "headless")
    (folder / "file").touch()
    model.save_pretrained(folder / "unfit")
    unfit = json.loads((folder / "unfit" / "config.json").read_text())
    (folder / "unfit" / "config.json").write_text(
        json.dumps({**unfit, "id2label": {"0": "red"}, "label2id": {"red": 0}})
    )
    return folder


DISTILL = "distill --teacher {home}/teacher --data {home}/photos --student resnet8 "
TEACH = "train-teacher --data {home}/photos "
BROKEN = "holds? NaN or Inf"
CASES = [
    (DISTILL + "--student resnet9", "--student resnet9: .*depth"),
    (DISTILL + "--student nonet", "There is no network 'nonet'"),
    (DISTILL + "--student ./none", "There is no image classifier './none'"),
    (DISTILL + "--student {useless}/broken", "The student .* tensors hold NaN or Inf"),
    (TEACH + "--model nonet", "There is no network 'nonet'"),
    (TEACH + "--model {useless}/broken", "The model .* tensors hold NaN or Inf"),
    (DISTILL + "--loss_args alfa=1", "alfa is not known: alpha, beta, temperature"),
    (DISTILL + "--loss_args alpha=-1", "alpha=-1 is not valid: it must be a number, 0 or more"),
    (DISTILL + "--loss_args alpha=much", "alpha='much' of LTKDLoss is not valid: it must be a number, such as 6.0"),
    (DISTILL + "--loss_args alpha=Infinity", "alpha=inf of LTKDLoss is not valid"),
    (DISTILL + "--loss_args rebalance=2", "rebalance=2 of LTKDLoss is not valid: it must be true or false"),
    (DISTILL + "--loss_args ce=softmax", "ce='softmax' is not known"),
    (DISTILL + "--loss dkd --pair resnet1 resnet2", "No hyper-parameters of DKDLoss are published for resnet1"),
    (DISTILL + "--push me/my/small", "--push 'me/my/small' is no name of a repository .* owner/name"),
    (DISTILL + "--push me/sm@ll", "is no name of a repository"),
    (DISTILL + "--hub_model_id me/sm@ll", "--hub_model_id 'me/sm@ll' is no name of a repository"),
    ("push --model {home}/student --to me/my/small", "--to 'me/my/small' is no name of a repository"),
    ("push --model {home}/student --to me/small --timeout 0", "timeout=0.0 is not valid"),
    (DISTILL + "--report_to wandb", "--report_to wandb needs a package that is not installed here: pip install wandb"),
    (DISTILL + "--report_to wandbb", "--report_to wandbb is not known: use none, all, or some of"),
    (TEACH + "--report_to clearml", "--report_to clearml needs a package"),
    (DISTILL + "--learning_rate -0.1", "learning_rate=-0.1 is not valid: it must be a number, above 0"),
    (DISTILL + "--learning_rate nan", "learning_rate=nan is not valid"),
    (TEACH + "--learning_rate 50", "learning_rate=50.0 is not valid: usual ones lie between"),
    (DISTILL + "--num_train_epochs 0", "num_train_epochs=0.0 is not valid"),
    (TEACH + "--num_train_epochs -3", "num_train_epochs=-3.0 is not valid"),
    (TEACH + "--max_steps -3", "max_steps=-3 is not valid"),
    (DISTILL + "--per_device_train_batch_size 0", "per_device_train_batch_size=0 is not valid"),
    (DISTILL + "--gradient_accumulation_steps 0", "gradient_accumulation_steps=0 is not valid"),
    (DISTILL + "--optim sdg", "sdg is not a valid OptimizerNames"),
    (DISTILL + "--seed -1", "seed=-1 is not valid: it must be a whole number, 0 or more"),
    (DISTILL + "--load_best_model_at_end true", "requires the save and eval strategy to match"),
    (DISTILL + "--num_groups 0", "num_groups=0 is not valid: it must be a whole number, 1 or more"),
    (DISTILL + "--num_groups 4", "num_groups=4 cannot group 3 classes"),
    (DISTILL + "--teacher_cache_views 0", "teacher_cache_views=0 is not valid: it must be a whole number, 1 or more"),
    (DISTILL + "--teacher_cache_views 2", "--teacher_cache_dtype need a --teacher_cache FOLDER"),
    (DISTILL + "--teacher_cache_dtype float16", "--teacher_cache_dtype need a --teacher_cache FOLDER"),
    (DISTILL + "--teacher_cache c --loss reviewkd", "--teacher_cache keeps .* which ReviewKDLoss does not compare"),
    (DISTILL + "--teacher_cache c --loss ce", "--teacher_cache keeps .* which CrossEntropyLoss does not compare"),
    (DISTILL + "--teacher_cache c --eval_with_teacher true", "--eval_with_teacher needs the teacher itself"),
    (DISTILL + "--teacher_cache c --overlap_teacher true", "--overlap_teacher needs the teacher itself"),
    (TEACH + "--loss_args tua=1", "tua is not known: ce_weight"),
    (TEACH + "--ce ldam --loss_args ce=cross_entropy", "--ce ldam and --loss_args ce=cross_entropy are two"),
    (DISTILL + "--eval_fraction 1.5", "eval_fraction=1.5 is not valid"),
    (DISTILL + "--eval_fraction 0.01", "too few to hold out 1% of it"),
    (DISTILL + "--split_seed -1", "split_seed=-1 is not valid"),
    (DISTILL + "--imbalance_factor 0.5", "imbalance_factor=0.5 is not valid"),
    (TEACH + "--image_size 100000", "image_size=100000 is not valid: it must be 1 to 4096 pixels"),
    ("check --data {home}/photos --group_column track", "no column 'track' to group images by"),
    ("check --data {home}/photos --eval_fraction 0", "eval_fraction=0.0 is not valid"),
    ("check --data {useless}/file", "is a file: give the folder that it is in"),
    (TEACH + "--model {useless}/unfit", "weights of the model .*/unfit' do not fit its config.json"),
    (DISTILL + "--output_dir {home}/photos", "--output_dir .*/photos' is the folder of --data"),
    (DISTILL + "--output_dir {home}/photos/student", "is inside the folder of --data"),
    (DISTILL + "--output_dir {home}/teacher/student", "is inside the folder of --teacher"),
    (DISTILL + "--output_dir {useless}/file", "is a file; choose another place"),
    (DISTILL + "--teacher_cache {home}/photos/cache", "--teacher_cache .* is inside the folder of --data"),
    (
        "adjust --model {home}/teacher --data {home}/photos --output_dir {home}/photos/x",
        "is inside the folder of --data",
    ),
    ("adjust --model {home}/teacher --image_size 8", "--data is missing"),
    ("adjust --model {home}/teacher --eval_fraction 0.5", "--data is missing"),
    (TEACH + "--output_dir {home}/photos/red", "is inside the folder of --data"),
    ("diagnose --teacher {home}/teacher --data {home}/photos --picture {home}/photos/red/a.png", "inside the folder"),
    ("export --model {home}/student --images {home}/photos --output_dir {home}/photos/x", "is inside the folder of"),
    (
        "evaluate --model {home}/teacher --data {home}/photos --batch_size 0",
        "batch_size=0 is not valid: it must be a whole number, 1 or more",
    ),
    ("evaluate --model {home}/teacher --data {home}/nowhere", "is no folder here"),
    ("evaluate --model {useless}/broken --data {home}/photos", "The model .* tensors hold NaN or Inf"),
    ("evaluate --model {useless}/headless --data {home}/photos", "is no trained classifier: it lacks classifier"),
    ("diagnose --teacher {useless}/broken --data {home}/photos", "The teacher .* tensors hold NaN or Inf"),
    (DISTILL + "--teacher {useless}/broken", "The teacher .* tensors hold NaN or Inf"),
    (
        DISTILL + "--teacher {useless}/headless",
        "is no trained classifier: it lacks classifier.*headless --data",
    ),
]


@pytest.mark.parametrize(("command", "message"), CASES, ids=[case[0].split("} ")[-1] for case in CASES])
def test_the_command_says_it_in_one_sentence(home, useless, tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.setattr("hf_ltkd.workflow.beforehand.get_token", lambda: "token")
    words = [word.format(home=home.folder, useless=useless) for word in command.split()]
    flags = [str(item) for name, value in TRAINING.items() for item in (f"--{name}", value)]
    before = home.files()
    assert main([*words[:1], *flags * (words[0] in ("distill", "train-teacher")), *words[1:]]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hf-ltkd: ")
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)
    assert home.files() == before and not list(tmp_path.iterdir())


def test_so_do_the_functions(home, useless):
    with pytest.raises(ValueError, match="alfa is not known"):
        hf_ltkd.distill(home.teacher, "resnet8", home.photos, loss_args={"alfa": 1}, **TRAINING)
    with pytest.raises(ValueError, match="There is no network 'nonet'"):
        hf_ltkd.train_teacher("nonet", home.photos, **TRAINING)
    with pytest.raises(ValueError, match="tensors hold NaN or Inf"):
        hf_ltkd.evaluate(AutoModelForImageClassification.from_pretrained(useless / "broken"), home.photos)
    with pytest.raises(ValueError, match="is no name of a repository"):
        push(home.student, "a/b/c")


def test_classes_are_compared_before_images_are_opened(home, tmp_path):
    for name in ("blue", "green"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.png").touch()
        (tmp_path / "photos" / name / "b.png").touch()
    with pytest.raises(ValueError, match="has 3 classes, the data 2"):
        hf_ltkd.evaluate(home.teacher, tmp_path / "photos", eval_fraction=0.5)


OWN = """
from hf_ltkd import DistillationLoss


class Labelled(DistillationLoss):
    needs_labels = True


class Alone(DistillationLoss):
    needs_teacher = False


class Hidden(DistillationLoss):
    needs_hidden_states = True


class Pixels(DistillationLoss):
    needs_pixels = True
"""


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        ("Labelled", {"teacher": None}, "--teacher is missing, which --loss own.py:Labelled needs"),
        ("Labelled", {"unlabelled": "x"}, "--unlabelled x does not go with --loss own.py:Labelled, which learns from"),
        ("Alone", {"unlabelled": "x", "teacher": None}, "--unlabelled x does not go with --loss own.py:Alone"),
        ("Alone", {"teacher_cache": "cache"}, "--teacher_cache keeps a teacher's logits, which Alone does not"),
        ("Hidden", {"teacher": ["a", "b"]}, "--loss own.py:Hidden compares hidden states, which 2 teachers"),
        (
            "Labelled",
            {"adjust_teacher": True},
            "--adjust_teacher goes with losses that compare logits alone, not with",
        ),
        ("Labelled", {"tune": 2}, "--tune has nothing to choose for --loss own.py:Labelled"),
        ("Labelled", {"pair": ["vgg13", "vgg8"]}, "No hyper-parameters of Labelled are published for vgg13"),
        ("Pixels", {}, "--loss own.py:Pixels is for models that give each pixel a class"),
        ("kd", {"adjust_teacher": True, "loss_args": {"prior": "student"}}, "--loss_args prior=student are two"),
        ("ltkd", {"loss_args": {"mass_per_image": True}}, "mass_per_image is for models that give each pixel a class"),
        ("gkl", {"unlabelled": "x", "loss_args": {"class_wise": True}}, "--unlabelled x does not go with --loss gkl"),
    ],
)
def test_what_goes_with_a_loss_is_known_by_what_it_needs(home, tmp_path, loss, settings, message):
    """And not by its name: it may be the user's own."""
    (tmp_path / "own.py").write_text(OWN)
    given = {"teacher": home.teacher, "student": "resnet8", "data": home.photos, "output_dir": "student", **TRAINING}
    with pytest.raises(ValueError) as error:
        make_plan(**given | {"loss": loss if loss.islower() else f"own.py:{loss}"} | settings)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "student").exists()
