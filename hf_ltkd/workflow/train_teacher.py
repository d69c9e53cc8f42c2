"""A classifier trained by cross-entropy, on the images that `distill` will train the student on."""

from typing import Any

from .evaluate import Evaluation
from .inputs import Model
from .outputs import name_dataset, train_and_save
from .plan import TrainingPlan, plan_teacher


def train_teacher(model: Model | None = None, data: Any = None, **settings: Any) -> Evaluation:
    """
    Trains a classifier by cross-entropy and saves it.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`, *optional*):
            A name of [`create_model`] (by default `"resnet32x4"`, for pixels `"upernet_32"`), a folder, a Hub id, or
            a model in memory.
        data (`str`, `os.PathLike` or `datasets.DatasetDict`): As in [`distill`].
        settings: `ce`, `loss_args`, `peft`, `trust_remote_code`, `eval_fraction`, `recommend`, and any field of
            `DataArguments`, `MaskArguments` (`task="semantic-segmentation"`, ...) and
            [`DistillationTrainingArguments`], for instance `output_dir="teacher"`.

    Raises:
        `ValueError`: if model, images and settings do not fit each other, or a setting is not known; before anything
            is trained.
    """
    return run(plan_teacher(model=model, data=data, **settings))


def run(plan: TrainingPlan) -> Evaluation:
    """
    Trains, saves and evaluates what was planned.

    Raises:
        `ValueError`: if another process trains into the plan's folder.
    """
    with plan.holding_folder():
        trainer = plan.trainer(plan.network, plan.loss)
        accuracy, answers = train_and_save(trainer, plan)
        if plan.args.push_to_hub:
            trainer.push_to_hub(dataset=name_dataset(plan.images.data))  # now the card has the accuracies
    return Evaluation(model=str(plan.output_dir), accuracy=accuracy, images=plan.images, answers=answers)
