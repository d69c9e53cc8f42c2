"""A Trainer that writes beside the student's weights what explains them, and pushes both."""

import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import EvalLoopOutput, HubStrategy
from transformers.utils import PushInProgress
from transformers.utils.hub import hf_api

import hf_ltkd

from ..hub.card import write_model_card
from ..hub.describe import describe_model
from ..hub.names import ARGUMENTS_NAME, RUN_NAME
from ..hub.push import (
    add_code,
    explained,
    explanation,
    files_to_publish,
    in_background,
    time_limit,
    upload_patterns,
    within,
)
from ..losses.base import DistillationLoss
from ..metrics import GROUP_METRICS, answers_of, mean_iou, without_prefix
from ..metrics.answers import Answers
from ..metrics.group_accuracy.group_accuracy import class_accuracies
from ..teacher.cache import TeacherCache
from ..utils import one_line, write_json
from .callbacks import Clock
from .checkpoints import TRAINER_STATE_NAME
from .describe import describe_teacher
from .training_args import DistillationTrainingArguments, public_arguments


logger = logging.getLogger(__name__)

SECONDS_UNTIL_THERE_IS_ROOM = 60


class StudentFilesMixin(Trainer):
    """The part of [`DistillationTrainer`] that writes files beside the student's weights and pushes them."""

    distillation_loss: DistillationLoss
    teacher_model: nn.Module | None
    teacher_cache: TeacherCache | None
    examples_per_step: int
    _evaluations: tuple | list[dict[str, Any]] = ()  # of the best weights so far, and the last one
    _teacher_described: tuple[Any, dict[str, Any]] | None = None
    _evaluates_apart: bool = False
    _described: tuple[Any, dict[str, Any]] | None = None

    @property
    def class_groups(self):
        """The [`ClassGroups`] of the loss or of the metric, whichever has them, or `None`."""
        metric_groups = self.compute_metrics.groups if isinstance(self.compute_metrics, GROUP_METRICS) else None
        return getattr(self.distillation_loss, "groups", metric_groups)

    @property
    def student_description(self) -> dict[str, Any]:
        """[`describe_model`] of the student, looked at once for each size of images."""
        what = (self.model, self._input_shapes.get("student"))
        if self._described is None or self._described[0] != what:
            self._described = what, describe_model(self.accelerator.unwrap_model(self.model), what[1])
        return self._described[1]

    @property
    def teacher_description(self) -> dict[str, Any] | None:
        """[`describe_model`] of the teacher, or the fingerprint that its cached logits carry."""
        if self.teacher_cache is not None:
            return {"fingerprint": self.teacher_cache.manifest["teacher"]}
        if self.teacher_model is None:
            return None
        shape = self._input_shapes.get("teacher", self._input_shapes.get("student"))
        if self._teacher_described is None or self._teacher_described[0] != shape:
            self._teacher_described = shape, describe_teacher(self.teacher_model, shape)
        return self._teacher_described[1]

    @cached_property
    def _input_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    @cached_property
    def clock(self) -> Clock:
        """How long the student has been trained, in all parts of its training."""
        return Clock()

    @property
    def run_description(self) -> dict[str, Any]:
        """What is known of the run, as JSON values without paths; saved as `distillation.json`."""
        args, state, evaluation = self.args, self.state, self.evaluation or {}
        loss, device = self.distillation_loss, args.device.type
        name = torch.cuda.get_device_name() if device == "cuda" else f"{device.upper()} ({platform.machine()})"
        return {
            "student": self.student_description,
            "teacher": self.teacher_description,
            "loss": {
                "class": type(loss).__name__,
                "source": loss.source,
                "hyper_parameters": loss.used_hyper_parameters(),
            },
            "metrics": without_prefix(evaluation.get("metrics", {})),
            **(evaluation.get("pixels") or _per_class(evaluation.get("answers"), self.class_groups)),
            "test_examples": evaluation.get("examples"),
            "training": {
                "steps": state.global_step,
                "epochs": state.epoch,
                "seconds": self.clock.seconds,
                "evaluated": evaluation and self._described_step(evaluation),
                "examples_per_step": self.examples_per_step,
                "hardware": f"{args.world_size} × {name}",
                "versions": {package.__name__: package.__version__ for package in (hf_ltkd, torch, transformers)},
            },
        }

    def _described_step(self, evaluation: dict[str, Any]) -> dict[str, Any]:
        """Which weights an evaluation is of, and what they were chosen by, if not for being the last."""
        state, chosen_by = self.state, None
        if self.args.load_best_model_at_end and state.best_global_step and not self.is_in_train:
            chosen_by = self.args.metric_for_best_model
        step = state.best_global_step if chosen_by else evaluation["step"]
        epochs = [e["epoch"] for e in state.log_history if e.get("step") == step and "epoch" in e]
        epoch = epochs[-1] if epochs else state.epoch
        return {"step": step, "epoch": epoch, "chosen_by": chosen_by, "chosen_apart": evaluation["apart"]}

    def evaluate(self, eval_dataset: Any = None, *args, **kwargs) -> dict[str, float]:
        """As `Trainer.evaluate`, and notes whether the images are others than those that checkpoints are chosen on."""
        self._evaluates_apart = eval_dataset is not None and eval_dataset is not self.eval_dataset
        return super().evaluate(eval_dataset, *args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Notes the shape of the images that the networks see."""
        inputs = super()._prepare_inputs(inputs)
        for who, name in (("student", "pixel_values"), ("teacher", "teacher_pixel_values")):
            if isinstance(inputs.get(name), torch.Tensor):
                self._input_shapes[who] = tuple(inputs[name].shape[1:])
        return inputs

    def remember_evaluation(self, output: EvalLoopOutput) -> None:
        """Keeps the metrics of `evaluate` and, where it sees them, the predictions."""
        of_pixels = self.compute_metrics if isinstance(self.compute_metrics, mean_iou) else None
        evaluation = {
            "state": self.state,  # another object in each training
            "step": self.state.global_step,
            "in_training": self.is_in_train,
            "apart": self._evaluates_apart,
            "examples": output.num_samples,
            "metrics": dict(output.metrics or {}),
            "answers": of_pixels.answers if of_pixels else _answers(output, self.class_groups),
            "pixels": of_pixels and of_pixels.of_classes(),
        }
        best = [e for e in self._evaluations if e["state"] is self.state and e["step"] == self.state.best_global_step]
        self._evaluations = [*best[-1:], evaluation]

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The last evaluation of the weights that the model has now, or `None` if there was none."""
        for evaluation in reversed(self._evaluations):
            best = evaluation["in_training"] and self.args.load_best_model_at_end and not self.is_in_train
            step = self.state.best_global_step if best else self.state.global_step
            if evaluation["state"] is self.state and evaluation["step"] == step:
                return evaluation
        return None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        As `Trainer.save_model`, but a student is never lost: where its folder cannot be written, it is put into a new
        one among the system's temporary files; where that is full too, this waits for room. A push that fails is
        logged, and the script goes on.

        Raises:
            `OSError`: if the student is elsewhere than in its folder; it says where.
        """
        while True:
            try:
                self._write_student(output_dir)
                break
            except (OSError, SafetensorError) as error:
                if _internal_call or not self.args.should_save or self.is_fsdp_enabled or self.is_deepspeed_enabled:
                    raise  # checkpoints have messages of their own; ranks that write together cannot be asked again
                self._put_elsewhere(str(output_dir or self.args.output_dir), error)
            time.sleep(SECONDS_UNTIL_THERE_IS_ROOM)
        if self.args.push_to_hub and not _internal_call:
            try:
                self.push_to_hub(commit_message="Model save")
            except OSError as error:
                logger.error("%s", error)

    def _put_elsewhere(self, folder: str, error: Exception) -> None:
        """Writes the student among the temporary files; an `OSError` says where it is, a log that there is no room."""
        elsewhere = ""
        try:
            elsewhere = tempfile.mkdtemp(prefix="hf_ltkd-student-")
            self._write_student(elsewhere)
        except (OSError, SafetensorError) as full:
            shutil.rmtree(elsewhere, ignore_errors=True)
            logger.error(
                "The trained student can be written neither to %r (%s) nor among the temporary files (%s): make room. "
                "It is tried again every %d seconds.",
                *(folder, one_line(error), one_line(full), SECONDS_UNTIL_THERE_IS_ROOM),
            )
            return
        raise OSError(
            f"The student could not be written to {folder!r} ({one_line(error)}) and is in {elsewhere!r}: make room "
            "and move it, before the temporary files are cleared."
        ) from error

    def _write_student(self, output_dir: str | None) -> None:
        untied = self.model.register_state_dict_post_hook(_untie)  # type: ignore[union-attr]
        try:
            super().save_model(output_dir, _internal_call=True)
        finally:
            untied.remove()
        folder = Path(output_dir or self.args.output_dir)  # type: ignore[arg-type]
        if self.args.should_save:
            add_code(folder, self.accelerator.unwrap_model(self.model), self._argument("hub_model_code"))
            # The Trainer pickles its arguments, with the token and the machine's paths; nothing ever reads that back.
            (folder / "training_args.bin").unlink(missing_ok=True)
            write_json(folder / ARGUMENTS_NAME, public_arguments(self.args))
            write_json(folder / RUN_NAME, self.run_description)
            if self.class_groups is not None:
                self.class_groups.save_pretrained(folder)

    def create_model_card(self, **kwargs) -> None:  # type: ignore[override]  # more of them
        """Writes `README.md` with pictures into `output_dir`; takes the arguments of [`write_model_card`]."""
        if self.is_world_process_zero():
            folder: Any = self.args.output_dir
            write_json(Path(folder) / RUN_NAME, self.run_description)
            kwargs.setdefault("repo_id", self.hub_model_id or self.args.hub_model_id)
            write_model_card(folder, **kwargs)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        with self._explained(trained=not self.args.push_to_hub):  # with it, the constructor asks for the repository
            within(time_limit(self._argument("hub_timeout")), super().init_hf_repo, token, private)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Future | None:
        """
        As `Trainer.push_to_hub`, after the student is on disk, and only with the files of a student.

        Args:
            kwargs: Arguments of [`write_model_card`], for instance `dataset`, `teacher_metrics`.

        Raises:
            `OSError`: if the Hub cannot be reached or refuses; it says what to do.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        tags = kwargs.pop("tags", None) or []
        kwargs["tags"] = [
            *([tags] if isinstance(tags, str) else tags),
            *(getattr(self.model, "model_tags", None) or []),
        ]
        self.create_model_card(**kwargs)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
            self.create_model_card(**kwargs)  # now with the owner's name
        self._finish_current_push()
        folder = Path(str(self.args.output_dir))
        names = files_to_publish(folder)
        files, patterns = [folder / name for name in names], upload_patterns(folder, names)
        future = self._upload(folder, files, commit_message, token, revision, **patterns)
        with self._explained():
            return future.result() if blocking else future

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """
        Sends the student of a checkpoint in the background; with the strategies `checkpoint` and `all_checkpoints` the
        whole checkpoint too, with what the loss trains beside the student, since it is there to be resumed from.
        """
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint = Path(checkpoint_folder)
        # Links: the checkpoint may be rotated away while it is sent.
        staged = Path(tempfile.mkdtemp(prefix="_push-", dir=self.args.output_dir))
        for name in files_to_publish(checkpoint):
            (staged / name).parent.mkdir(exist_ok=True)
            _link(checkpoint / name, staged / name)
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            copy = staged / ("last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name)
            shutil.copytree(checkpoint, copy, copy_function=_link)
            state = json.loads((copy / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            write_json(copy / TRAINER_STATE_NAME, {**state, "best_model_checkpoint": None})  # a path of this machine

        future = self._upload(staged, staged.rglob("*"), f"Training in progress, step {self.state.global_step}")

        def finish(future: Future) -> None:
            shutil.rmtree(staged, ignore_errors=True)
            if not future.cancelled() and (error := future.exception()) is not None:
                logger.error("%s", explanation(error, checkpoint_folder, str(self.hub_model_id), trained=True))

        future.add_done_callback(finish)
        if self.push_in_progress is None or self.push_in_progress.is_done():
            self.push_in_progress = PushInProgress([future])  # type: ignore
        else:
            self.push_in_progress.jobs.append(future)

    def _upload(
        self, folder: Path, files: Iterable[Path], message: str | None, token=None, revision=None, **kwargs
    ) -> Future:
        """Sends the files of a folder in the background, after the pushes that are not done yet."""
        jobs: list[Future] = self.push_in_progress.jobs if self.push_in_progress else []
        earlier = [job for job in jobs if not job.done()]

        def upload() -> CommitInfo:
            wait(earlier)
            return hf_api().upload_folder(
                repo_id=str(self.hub_model_id),
                folder_path=folder,
                commit_message=message,
                token=token or self.args.hub_token,
                revision=revision or self.args.hub_revision,
                **kwargs,
            )

        limit = time_limit(self._argument("hub_timeout"), files)
        with self._explained():
            return in_background((1 + len(earlier)) * limit, upload)

    def _explained(self, trained: bool = True):
        folder = str(self.args.output_dir)
        repo_id = self.hub_model_id or self.args.hub_model_id or Path(folder).absolute().name
        return explained(folder, repo_id, self._argument("hub_timeout"), trained)

    def _argument(self, name: str) -> Any:
        """An argument that plain `TrainingArguments` lack."""
        return getattr(self.args, name, getattr(DistillationTrainingArguments, name))


def _untie(model: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Safetensors takes neither weights that share memory, as tied ones do, nor those of a channels-last network."""
    if prefix or isinstance(model, PreTrainedModel):  # which knows its tied weights
        return
    seen = set()
    for name, tensor in state.items():
        memory = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone(memory_format=torch.contiguous_format) if memory in seen else tensor.contiguous()
        seen.add(memory)


def _link(source: str | os.PathLike, target: str | os.PathLike) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _answers(output: EvalLoopOutput, groups) -> Answers | None:
    """What the student says, if there is a prediction per label."""
    if groups is None or not isinstance(output.label_ids, np.ndarray):
        return None
    try:
        return answers_of(output.predictions, output.label_ids, groups.num_classes)
    except ValueError:  # whatever else preprocess_logits_for_metrics makes of them
        return None


def _per_class(answers: Answers | None, groups) -> dict[str, Any]:
    """The accuracy of each class, `None` for those without a test example, and how many there are of each."""
    if answers is None:
        return {"class_accuracy": None}
    accuracy = class_accuracies(answers.predictions, answers.labels, groups.num_classes)
    return {
        "class_accuracy": accuracy,
        "class_examples": np.bincount(answers.labels, minlength=groups.num_classes).tolist(),
    }
