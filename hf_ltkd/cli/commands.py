"""Each command: what `workflow` does, and what the user is told of it."""

import logging
from typing import Any

from transformers.utils.logging import disable_progress_bar

from ..workflow import adjust, check, diagnose, distill, evaluate, export, push, train_teacher
from ..workflow.estimate import estimate
from ..workflow.plan import make_plan, plan_teacher
from . import text
from .describe import describe_export


def run(command: str, settings: dict[str, Any]) -> None:
    """A command by its name."""
    disable_progress_bar()  # of loading weights; those of decoding and training stay
    logging.getLogger("transformers.utils.import_utils").setLevel(logging.ERROR)  # Torchvision is not needed
    RUN[command](**settings)


def run_distill(dry_run: bool = False, **settings: Any) -> None:
    to = settings.pop("push", None) if dry_run else settings.get("push")  # a dry run needs no login
    plan = make_plan(**settings)
    text.print_plan(plan, estimate(plan, plan.teacher))
    if dry_run:
        target = f"pushes it to {to}" if to else "pushes nothing (no --push)"
        text.print_dry_run(plan, target)
        return
    text.print_start(plan)
    text.print_comparison(distill.run(plan))
    address = distill.publish(plan)
    if address is not None:
        text.say("Pushed", address)
    elif to is None:
        text.say_command("to publish them", "hf-ltkd", "push", "--model", str(plan.output_dir), "--to", "OWNER/NAME")


def run_train_teacher(dry_run: bool = False, **settings: Any) -> None:
    plan = plan_teacher(**settings)
    text.print_teacher_plan(plan, estimate(plan) if dry_run else None)
    if dry_run:
        text.print_dry_run(plan)
    else:
        text.print_teacher(plan, train_teacher.run(plan), settings)


def run_check(**settings: Any) -> None:
    report = check.check(**settings)
    text.say("Images", *report.describe())
    if not report.ok:
        raise ValueError(report.advice)


RUN = {
    "distill": run_distill,
    "train-teacher": run_train_teacher,
    "diagnose": lambda **settings: text.print_diagnosis(diagnose.diagnose(**settings)),
    "check": run_check,
    "adjust": lambda **settings: text.print_adjustment(adjust.adjust(**settings)),
    "evaluate": lambda **settings: text.print_evaluation(evaluate.evaluate(**settings)),
    "push": lambda **settings: text.say("Pushed", push.push(**settings).commit_url),
    "export": lambda **settings: text.say("ONNX", *describe_export(export.export(**settings))),
}
