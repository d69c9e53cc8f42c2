"""What `hf-ltkd` does beside distilling: train a teacher, evaluate, diagnose, push."""

import json
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..analysis.bias import group_report, loss_parts
from ..cli.text import (
    describe_bias,
    describe_evaluation,
    describe_images,
    describe_start,
    describe_training,
    group_table,
    say,
    share_table,
)
from ..groups import CLASS_GROUPS_NAME, ClassGroups
from ..hub.card import write_model_card
from ..hub.names import BIAS_PICTURE, COMPARISON_NAME
from ..hub.push import push_folder
from ..losses import CrossEntropyLoss
from ..metrics import group_accuracy
from ..trainer.trainer import DistillationTrainer
from .inputs import check_classes, data_name, is_pretrained, load_classifier, load_images, make_groups, new_classifier
from .outputs import (
    card_arguments,
    check_output_dir,
    draw_bias,
    save_split,
    without_prefix,
)
from .recommend import recommend_num_groups, recommend_training, recommend_weights, training_arguments


def train_teacher(model: str, images: dict[str, Any], training: dict[str, Any], eval_fraction: float) -> None:
    """
    Trains a classifier by cross-entropy, on the training images that `distill` will train the student on.

    Args:
        model (`str`): A name of [`create_model`], a folder or a Hub id.
        images, training, eval_fraction: As in [`distill`].

    Raises:
        `ValueError`: if model, images and arguments do not fit each other.
    """
    output_dir = Path(training.setdefault("output_dir", "teacher"))
    resume = training.get("resume_from_checkpoint")
    check_output_dir(output_dir, resume)
    seed = training.get("seed", 42)
    data, holdout = load_images(images, model, eval_fraction=eval_fraction, seed=seed, progress=True)
    groups = make_groups(data)
    say("Images", *describe_images(data, groups))
    say("Evaluation", *describe_evaluation(data, groups, holdout))
    recommended = recommend_training(len(data.train), model, is_pretrained(model))
    args = training_arguments(training, recommended, data.args.crop)
    set_seed(seed)
    network = new_classifier(model, data)
    say("Teacher", f"{model}: {network.num_parameters():,} parameters")
    say("Training", describe_training(args), f"(recommended: {recommended.reason}; what you set wins)")
    trainer = DistillationTrainer(
        network,
        args=args,
        distillation_loss=CrossEntropyLoss(),
        train_dataset=data.train,
        eval_dataset=data.test,
        compute_metrics=group_accuracy(groups),
        processing_class=data.image_processor,
    )
    trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    trainer.save_model()
    save_split(trainer, data, holdout)
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    say("Result", *group_table({model: without_prefix(metrics, groups)}, groups))
    say("Files", f"the teacher is in {str(output_dir)!r}")
    say("", f"next: hf-ltkd distill --teacher {output_dir} --data {data_name(data)} --student resnet8x4 --dry_run")


def evaluate(model: str, images: dict[str, Any], eval_fraction: float, batch_size: int = 128) -> dict[str, Any]:
    """
    Accuracy per group of a saved model; the groups are those it was saved with, else those of the training images.

    Args:
        model (`str`): A folder or a Hub id.
        images, eval_fraction: As in [`distill`].
        batch_size (`int`, *optional*, defaults to 128): Images that the model is asked for at once.

    Raises:
        `ValueError`: if the model is not for these classes.
    """
    network = load_classifier(model)
    data, holdout = load_images(images, model, eval_fraction=eval_fraction, seed=0, progress=True)
    check_classes(network, model, data)
    saved = (Path(model) / CLASS_GROUPS_NAME).is_file()
    groups = ClassGroups.from_pretrained(model) if saved else make_groups(data)
    say("Evaluation", *describe_evaluation(data, groups, holdout))
    report = group_report(network, data.test, groups, batch_size=batch_size)
    say("Result", *group_table({Path(model).name: report.accuracy}, groups))
    return report.accuracy


def diagnose(
    teacher: str, images: dict[str, Any], eval_fraction: float, picture: str = BIAS_PICTURE, batch_size: int = 128
) -> None:
    """
    How much of its probability a teacher gives to head, medium and tail, where the losses of KD and LTKD would go, and
    what to start from; draws Fig. 3 of the paper and the losses.

    Args:
        teacher (`str`): A folder or a Hub id.
        images, eval_fraction: As in [`distill`].
        picture (`str`, *optional*, defaults to `"teacher_bias.png"`): Where the picture goes.
        batch_size (`int`, *optional*, defaults to 128): Images that the teacher is asked for at once.

    Raises:
        `ValueError`: if the teacher is not for these classes.
    """
    network = load_classifier(teacher)
    data, holdout = load_images(images, teacher, eval_fraction=eval_fraction, seed=0, progress=True)
    check_classes(network, teacher, data)
    groups = make_groups(data)
    say("Images", *describe_images(data, groups))
    say("Evaluation", *describe_evaluation(data, groups, holdout))
    report = group_report(network, data.test, groups, batch_size=batch_size)
    say("Teacher", *describe_bias(report, groups))
    weights = recommend_weights(groups.num_classes)
    alpha, beta, temperature = (weights.values[name] for name in ("alpha", "beta", "temperature"))
    parts = loss_parts(network, data.train, groups, temperature=temperature, max_batches=100)
    shares = {"KD": parts.kd_shares(), f"LTKD({alpha:g}, {beta:g})": parts.ltkd_shares(alpha, beta)}
    say("Loss", f"of a student that knows nothing yet, at temperature {temperature:g}", *share_table(shares, groups))
    say("Start with", *describe_start(weights, recommend_num_groups(groups.num_classes)))
    draw_bias(network, data, groups, Path(picture), shares)
    say("Files", f"the picture is {picture!r}")


def push(model: str, to: str, private: bool | None = None) -> None:
    """
    Sends a student's folder to the Hub, with a model card from what was measured.

    Args:
        model (`str`): The folder.
        to (`str`): `"owner/name"`; made if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private.

    Raises:
        `ValueError`: if the folder holds no image classifier.
        `OSError`: if the Hub cannot be reached or refuses; it says what to do.
    """
    folder = Path(model)
    load_classifier(model)  # says early that it is no student's folder
    comparison = folder / COMPARISON_NAME
    card = card_arguments(json.loads(comparison.read_text(encoding="utf-8"))) if comparison.is_file() else {}
    write_model_card(folder, repo_id=to, **card)
    say("Pushed", push_folder(folder, to, private=private).commit_url)
