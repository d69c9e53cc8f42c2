"""One run: training a teacher or a student, from its description to its result."""

import math
from typing import Any

import torch
import transformers
from filelock import FileLock
from job import Job, read_json_lines
from measure import GroupLosses, measure_group_mass
from methods import make_loss
from plan import Run, digest
from transformers import PreTrainedModel, PrinterCallback, set_seed
from transformers.trainer_utils import SaveStrategy

import hf_ltkd
from hf_ltkd import DistillationTrainer, DistillationTrainingArguments, TeacherCache
from hf_ltkd.data import ImageData
from hf_ltkd.metrics.group_accuracy.group_accuracy import class_accuracies
from hf_ltkd.teacher import teacher_fingerprint
from hf_ltkd.trainer.checkpoints import last_complete_checkpoint
from hf_ltkd.utils import describe_machine
from hf_ltkd.workflow.adjust import adjusted as adjusted_logits
from hf_ltkd.workflow.inputs import check_classes, load_classifier, new_classifier
from hf_ltkd.workflow.outputs import accuracies
from hf_ltkd.workflow.plan import TrainingPlan
from hf_ltkd.workflow.recommend import epochs_of


def class_accuracy(trainer: DistillationTrainer) -> list[float | None]:
    """Of the last evaluation."""
    answers, groups = trainer.evaluation["answers"], trainer.class_groups
    return class_accuracies(answers.predictions, answers.labels, groups.num_classes)


def perform(job: Job, run: Run) -> dict[str, Any]:
    """Does a run, and gives what goes into its line."""
    if run["role"] != "measure":
        return train(job, run)
    balanced, long_tailed = job.images(run, 1.0), job.images(run)
    device = job.training_arguments({**run, "training": {}}).device
    teacher = load_teacher(job, run, long_tailed.data).to(device)
    return {**measure_group_mass(run, teacher, balanced, long_tailed), **place(device)}


def train(job: Job, run: Run) -> dict[str, Any]:
    """Trains a teacher or a student, from its last checkpoint if there is one."""
    images, args = job.images(run), job.training_arguments(run)
    data, groups = images.data, images.groups
    chosen = next_trial(job, run) if "search" in run else {}
    if run.get("group_losses") or chosen:
        args.save_strategy = SaveStrategy.NO  # what is noted after each epoch must not have a gap, nor another trial
    loss = make_loss({**run, "arguments": {**run["arguments"], **chosen}}, data.split.class_counts, groups)
    source = teacher_of(job, run, data, args)
    result: dict[str, Any] = {
        "hyper_parameters": {k: v for k, v in loss.hyper_parameters().items() if k != "teacher_log_prior"},
        "source": loss.source or None,
        "training_images": len(data.train),
        "images": data.train.fingerprint,
        "evaluated_on": f"{len(data.test):,} {'test' if images.holdout is None else 'held-out training'} images",
        "teacher_fingerprint": fingerprint(source),
        "running": job.running,
        **place(args.device),
        **({"chosen": chosen} if chosen else {}),
    }
    check_sources(job, run, result)
    set_seed(run["seed"])
    network = new_classifier(run["model"], data)
    plan = TrainingPlan(name=run["model"], network=network, loss=loss, images=images, args=args, reason="")
    trainer = plan.trainer(network, loss, source)
    trainer.remove_callback(PrinterCallback)
    group_losses = None
    if run.get("group_losses"):
        group_losses = GroupLosses(trainer.train_dataset, groups, **run["group_losses"])
        trainer.add_callback(group_losses)
    try:
        checkpoint = last_complete_checkpoint(job.run_folder(run))
    except ValueError:  # there is none
        checkpoint = None
    try:
        trained = trainer.train(resume_from_checkpoint=checkpoint)
    except FloatingPointError as error:
        if run["role"] == "teacher":
            raise
        return {**result, "error": str(error)}  # a result too: this method does not train like this
    log = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    best = max(log, key=lambda entry: entry["eval_accuracy"], default=None)  # where each epoch was evaluated
    if run["role"] == "teacher":
        trainer.save_model()
        data.split.save_pretrained(args.output_dir)
        result["teacher_fingerprint"] = fingerprint(trainer.model)
    adjusted = None
    if run["loss"] == "ce" and loss.ce == "cross_entropy":
        with adjusted_logits(trainer.model, data.split.class_counts):
            metrics = trainer.evaluate()
        adjusted = {"metrics": accuracies(metrics, groups), "class_accuracy": class_accuracy(trainer)}
    metrics = trainer.evaluate()
    first_step = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    share = 1 - first_step / trainer.state.global_step  # of the training that this process did
    images, seconds = len(data.train) * trainer.state.epoch * share, trained.metrics["train_runtime"]
    return {
        **result,
        "metrics": accuracies(metrics, groups),
        "class_accuracy": class_accuracy(trainer),
        "adjusted": adjusted,
        "best_epoch": None if best is None else {"epoch": best["epoch"], **accuracies(best, groups)},
        "group_losses": None if group_losses is None else group_losses.values,
        "resumed_at_step": first_step or None,
        "seconds": seconds + metrics["eval_runtime"],
        "examples_per_second": images / seconds if images else None,
    }


def load_teacher(job: Job, run: Run, data: ImageData) -> PreTrainedModel:
    """
    Raises:
        `ValueError`: if a given teacher tells other classes apart, or the weights of one that was trained are gone.
    """
    folder, teacher = job.run_folder(run["teacher"]), run["teacher"]
    if teacher["role"] == "given":
        model = load_classifier(teacher["model"])
        check_classes(model, data)
        return model
    if not (folder / "model.safetensors").exists():
        raise ValueError(
            f"{str(job.results)!r} has the result of a teacher whose weights are missing in {str(folder)!r}: put them "
            "back, or choose another --output_dir to train a new one."
        )
    return load_classifier(str(folder))


def teacher_of(job: Job, run: Run, data: ImageData, args: DistillationTrainingArguments) -> Any:
    """The teacher, its cached logits, or `None`, as the run needs."""
    if run["teacher"] is None:
        return None
    folder, teacher = job.run_folder(run["teacher"]), load_teacher(job, run, data)
    if run["teacher_logits"] == "live":
        return teacher
    views = run.get("teacher_views") or math.ceil(epochs_of(args, len(data.train)))
    cache = folder / f"logits_{views}_{run['teacher_logits']}"
    try:
        return TeacherCache.open(cache, teacher=teacher, dataset=data.train)
    except ValueError:
        pass  # there is none yet, or a part of it; if it is another one, build says so
    folder.mkdir(parents=True, exist_ok=True)
    batch_size = run["teacher"].get("training", run["training"]).get("per_device_train_batch_size", 64)
    how = {"views": views, "dtype": run["teacher_logits"], "batch_size": batch_size, "device": args.device}
    how |= {"num_workers": args.dataloader_num_workers, "progress": not args.disable_tqdm}
    with FileLock(f"{cache}.lock", timeout=0):  # taken: another process asks the teacher, do something else meanwhile
        return TeacherCache.build(cache, teacher, data.train, **how)


def check_sources(job: Job, run: Run, result: dict[str, Any]) -> None:
    """
    Raises:
        `ValueError`: if the folder's runs on these images, or by this given teacher, were made with others.
    """
    same: dict[str, Any] = {"images": ("data", "imbalance_factor", "pixels_of", "draw")}
    if run["teacher"] and run["teacher"]["role"] == "given":
        same["teacher_fingerprint"] = ("teacher",)
    for line in read_json_lines(job.results):
        for name, keys in same.items():
            is_same = name in line and all(line["run"].get(key) == run.get(key) for key in keys)
            if is_same and line[name] != result[name]:
                raise ValueError(
                    f"The runs in {str(job.results)!r} were made with {name} {line[name]}, not with {result[name]}: "
                    "use what they were made with, or choose another --output_dir."
                )


def next_trial(job: Job, run: Run) -> dict[str, Any]:
    """What Optuna tries next, after the finished trials: the lines of the results are all that it remembers."""
    import optuna  # here, because it is optional

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, Any] = {}
    for name, values in run["search"]["space"].items():
        if all(type(value) in (int, float) for value in values):
            low, high = float(min(values)), float(max(values))
            space[name] = optuna.distributions.FloatDistribution(low, high, log=low > 0)
        else:
            space[name] = optuna.distributions.CategoricalDistribution(values)
    sampler = optuna.samplers.TPESampler(seed=run["seed"] + run["trial"])  # not the first points once more
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for line in read_json_lines(job.results):
        if "chosen" in line and digest(line["run"], trial=None) == digest(run, trial=None):
            value = line["metrics"][run["search"]["metric"]] if "metrics" in line else 0.0  # it diverged
            study.add_trial(optuna.create_trial(params=line["chosen"], distributions=space, value=value))
    return study.ask(space).params


def fingerprint(teacher: Any) -> str | None:
    """Which teacher it was: trained again on another machine, the same run gives other weights."""
    if isinstance(teacher, TeacherCache):
        return teacher.manifest["teacher"]
    return None if teacher is None else teacher_fingerprint(teacher)


def place(device: torch.device) -> dict[str, Any]:
    """Where a run was made, and with what."""
    versions = {module.__name__: module.__version__ for module in (hf_ltkd, transformers, torch)}
    return {"device": describe_machine(device.type), "threads": torch.get_num_threads(), "versions": versions}
