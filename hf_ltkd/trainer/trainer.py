"""A `transformers.Trainer` whose loss distils. One file tells the whole step; the formulas are in `losses/`."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ..losses.base import DistillationLoss
from ..losses.checks import is_example, is_labelled
from ..metrics import GROUP_METRICS
from ..teacher.cache import CachedTeacherDataset, TeacherCache
from ..teacher.columns import inputs_of
from ..teacher.language import language_model_kind
from ..teacher.live import Teacher, as_outputs, ask_teacher, hand_over, load_teacher, networks_of, place_teacher
from ..utils import listed, student_inputs, teacher_inputs
from .callbacks import callbacks_of
from .calls import ModelCalls
from .checkpoints import CheckpointMixin
from .checks import (
    LOGITS_COLUMN,
    blame,
    check_best_metric,
    check_cache,
    check_device,
    check_finite,
    check_labels,
    check_loss_and_teacher,
    check_model,
    check_one_teacher,
    check_optimizer,
    check_overlap,
    check_scores,
    check_two_classes,
)
from .columns import STEP_CONTEXT, StepContext, columns_of, labels_of, unused_columns
from .engines import check_engine, make_shardable, mean_gradients
from .language import LanguageCalls
from .mixing import make_mixer
from .sampling import CLASS_SAMPLING, class_sampler
from .segmenters import PixelCalls, confusions_for, is_segmenter
from .student_files import StudentFilesMixin
from .training_args import DistillationTrainingArguments, check_arguments


logger = logging.getLogger(__name__)


class DistillationTrainer(CheckpointMixin, StudentFilesMixin):  # type: ignore[override]
    """
    Distils a teacher into a student. What `Trainer` does (checkpoints, resuming, callbacks, mixed precision,
    hyper-parameter search, `torchrun`) works as there.

    One optimizer step is one batch: loss and gradient are the same however its examples are split into ranks and
    accumulated micro-batches, the sums over the batch of Eq. 9 included. The named terms of the loss are logged beside
    `loss`; evaluation logs the student's cross-entropy as `eval_loss` and `eval_cross_entropy`.

    Args:
        model (`PreTrainedModel` or `torch.nn.Module`, *optional*): The student. Or give `model_init`.
        teacher_model (`PreTrainedModel`, `torch.nn.Module`, `str`, a list of these, or [`TeacherCache`], *optional*):
            The teacher, or its Hub id or folder; of a list the mean ([`TeacherEnsemble`]). It is frozen, put into eval
            mode, and never saved. Or its cached logits, made with the very `train_dataset`, or an [`EMATeacher`].
            `None` with a loss that needs none ([`CrossEntropyLoss`], which trains teachers and plain students), or if
            each example of `train_dataset` holds its `teacher_logits`.
        args (`TrainingArguments` or [`DistillationTrainingArguments`], *optional*): The training arguments.
        distillation_loss ([`DistillationLoss`]): The loss, for instance `LTKDLoss(groups)`.
            What it trains besides the student ([`ReviewKDLoss`]) is made afresh for these models, optimised and
            checkpointed with the student, and not saved with it.
        train_dataset, eval_dataset, data_collator, compute_metrics, processing_class, callbacks, optimizers,
        model_init, preprocess_logits_for_metrics:
            As in `Trainer`. With `compute_metrics=group_accuracy(groups)` the groups are saved with the student. An
            optimizer of your own has to be given `distillation_loss.parameters()` too: call
            `distillation_loss.prepare(model, teacher_model)` before you make it.

    Raises:
        `ValueError`: before training, if teacher, student, loss, groups and labels do not fit each other.
        `FloatingPointError`: in training, if the loss is not finite; it names the step and the culprit.
    """

    # The loss of a micro-batch is a mean, which the Trainer divides by the number of accumulated micro-batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        teacher_model: Teacher | Sequence[Teacher] | TeacherCache | None = None,
        args: TrainingArguments | None = None,
        *,
        distillation_loss: DistillationLoss,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Callable | None = None,
        compute_metrics: Callable | None = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, LambdaLR | None] = (None, None),
        model_init: Callable[..., PreTrainedModel] | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
    ):
        check_loss_and_teacher(distillation_loss, model, teacher_model, train_dataset, args)
        self.distillation_loss = distillation_loss
        self.teacher_cache = teacher_model if isinstance(teacher_model, TeacherCache) else None
        is_live = distillation_loss.needs_teacher and self.teacher_cache is None and teacher_model is not None
        self.teacher_model = load_teacher(teacher_model) if is_live else None  # type: ignore[arg-type]
        if self.teacher_cache is not None:
            check_cache(self.teacher_cache, model, distillation_loss, args)
            train_dataset = CachedTeacherDataset(train_dataset, self.teacher_cache)
        self._optimizer_is_given = optimizers[0] is not None
        if model is not None:
            check_model(model, self.teacher_model, distillation_loss)

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=[*callbacks_of(self, args), *(callbacks or [])],
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics or confusions_for(compute_metrics),
        )
        check_arguments(self.args, self.model, compute_metrics)
        # This loss takes no num_items_in_batch; transformers versions before loss_is_scaled_for_ga read it here.
        self.model_accepts_loss_kwargs = False
        if model is None:
            check_model(self.model, self.teacher_model, distillation_loss)  # type: ignore[arg-type]
        for name, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            for part in dataset.values() if isinstance(dataset, dict) else [dataset]:
                check_labels(name, part, self.model, distillation_loss)  # type: ignore[arg-type]
                check_device(name, part, self.args)
        is_cached = distillation_loss.needs_teacher and self.teacher_model is None
        self._mixer = make_mixer(self.args, self.model, distillation_loss, is_cached)  # type: ignore[arg-type]
        if self.args.train_sampling_strategy in CLASS_SAMPLING and train_dataset is not None:
            class_sampler(train_dataset, self.args)  # does it fit?
        self.distillation_loss.smooth_labels(self.args.label_smoothing_factor)
        check_best_metric(self.args, compute_metrics, eval_dataset)
        check_engine(self, distillation_loss)
        # What remove_unused_columns keeps: the Trainer would look at the student's forward alone.
        columns = [*columns_of(self._networks), *self.label_names, "label", "label_ids", *distillation_loss.columns]
        self._signature_columns = [*dict.fromkeys([*columns, LOGITS_COLUMN])]  # type: ignore[assignment]
        if self.teacher_model is not None:
            place_teacher(self.teacher_model, self.args.device)
            if self.args.torch_compile:
                self.teacher_model.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
        self.teacher_stream = None
        if isinstance(self.args, DistillationTrainingArguments) and self.args.overlap_teacher:
            check_overlap(self.args.device, self.teacher_model)
            self.teacher_stream = torch.cuda.Stream(self.args.device)
            self.teacher_stream.wait_stream(torch.cuda.current_stream())  # the teacher is on its way to the GPU
        self.make_calls()
        if model is not None:
            self._prepare_loss(self.model)  # type: ignore[arg-type]
        self.distillation_loss.to(self.args.device)
        if self._optimizer_is_given:
            check_optimizer(self.optimizer, distillation_loss)  # type: ignore[arg-type]
        self.forget_terms()
        self._columns_are_looked_at = False
        self._eval_terms: dict[str, list[Tensor]] = {}

    def make_calls(self) -> None:
        """How student and teacher are called; a student that `model_init` has made may be called otherwise."""
        of_images = PixelCalls if is_segmenter(self.model) else ModelCalls
        kind = LanguageCalls if language_model_kind(self.model) else of_images
        self.calls: ModelCalls = kind.of(self, self._networks)

    # ---- What the loss makes for a student, and trains with it ----

    def call_model_init(self, trial=None):
        model = super().call_model_init(trial)
        self._prepare_loss(model)
        return model

    def _prepare_loss(self, model: nn.Module) -> None:
        # Whoever makes the optimizer has prepared the loss before, so that it knows the loss's parameters.
        if self.distillation_loss.needs_teacher and not self._optimizer_is_given:
            self.distillation_loss.prepare(model, self.teacher_model)  # type: ignore[arg-type]  # None: cached logits

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        if self.is_fsdp_enabled:
            make_shardable(self.model)  # type: ignore[arg-type]
        optimizer = super().create_optimizer(*args, **kwargs)
        parameters = list(self.distillation_loss.to(self.args.device).parameters())
        if parameters and is_new:
            for parameter in parameters:
                parameter.data = broadcast(parameter.data)  # every rank starts from the same weights
            optimizer.add_param_group({"params": parameters, "weight_decay": self.args.weight_decay})
        return optimizer

    def training_step(self, *args, **kwargs) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:  # the last micro-batch of the step: do what DDP does for the student
            mean_gradients(self.accelerator, self.distillation_loss.parameters())
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy in CLASS_SAMPLING:
            return class_sampler(dataset, self.args)
        return super()._get_train_sampler(dataset)

    # ---- The step ----

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.teacher_stream is None:
            return self._get_step(epoch_iterator, num_batches, device)
        # The student's backward pass may still run: it is on another stream, and nothing here waits for it.
        training = torch.cuda.current_stream()
        with torch.cuda.stream(self.teacher_stream):
            batches, num_items_in_batch = self._get_step(epoch_iterator, num_batches, device)
        hand_over([(batch, vars(batch[STEP_CONTEXT])) for batch in batches], self.teacher_stream, training)
        return batches, num_items_in_batch

    def _get_step(self, epoch_iterator, num_batches, device):
        """Asks the teacher for all micro-batches of the step first, because Eq. 9 sums over all of them."""
        loss = self.distillation_loss
        loss.train().zero_grad()  # a step begins here; the Trainer zeroes the student alone
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, num_items_in_batch
        batches = [self._prepare_inputs(batch) for batch in batches]
        if self._mixer is not None:
            batches = self._mixer(batches, self.state.global_step)
        batches = [self.calls.on_grid(batch) for batch in batches]
        if not self._columns_are_looked_at and (unused := unused_columns(batches[0], self._networks, loss.columns)):
            logger.warning("Nobody takes these columns of the batch, which have no effect: %s.", listed(unused))
        self._columns_are_looked_at = True
        # A step that is one batch sums over itself, in the loss.
        needs_statistics = len(batches) * self.args.world_size > 1 or not loss.sums_itself
        contexts, rows = [], []
        for batch in batches:
            context, columns = StepContext(self._ask_teacher(batch)), self._columns_of(batch)
            labels = self._labels_of(batch, context.teacher_outputs)
            asked = context.teacher_outputs if needs_statistics else None
            rows.append(self.calls.rows(loss, asked, labels, self.state.epoch, columns))
            contexts.append(context)
        step = self.calls.gather(self.accelerator, torch.cat(rows))
        sizes = step[:, :2].sum(0) / (len(batches) * self.args.world_size)
        statistics = loss.begin_step(step[:, 2:]) if step.shape[1] > 2 else None
        for context, row in zip(contexts, rows, strict=True):
            # A step may consist of padding alone.
            context.weight, context.label_weight = (row[:, :2].sum(0) / sizes).nan_to_num()
            context.step_statistics = statistics
            context.micro_batches = len(batches)
        return [{**b, STEP_CONTEXT: c} for b, c in zip(batches, contexts, strict=True)], num_items_in_batch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the loss's terms in training; the student's cross-entropy in evaluation."""
        context, student = inputs.get(STEP_CONTEXT), self._networks[0]
        with_features = model.training or self._evaluates_with_teacher
        outputs = self.calls.ask(student, model, self._inputs_of(student, student_inputs(inputs), with_features))
        self.distillation_loss.train(model.training)
        check_two_classes(self.calls.num_classes(outputs))
        if not model.training:
            loss, losses = self._evaluation_loss(inputs, outputs, self._labels_of(inputs))
            return (loss, {"logits": self.calls.predictions(outputs, losses)}) if return_outputs else loss

        if context is None:  # called outside the training loop: this batch is the whole step
            inputs = self.calls.on_grid(inputs)
            context = StepContext(self._ask_teacher(inputs))
        compared, asked = self.calls.compared(outputs, inputs), context.teacher_outputs
        further = {"step_statistics": context.step_statistics, "epoch": self.state.epoch, **self._columns_of(inputs)}
        terms = self.calls.terms(self.distillation_loss, compared, asked, self._labels_of(inputs, asked), **further)
        weights = {self.distillation_loss.ce: context.label_weight}
        terms = {name: weights.get(name, context.weight) * term for name, term in terms.items()}
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            step = self.state.global_step + 1
            raise FloatingPointError(blame(step, terms, outputs, asked))
        for name, term in terms.items():
            self._train_terms[name] = self._train_terms.get(name, 0.0) + term.detach() / context.micro_batches
        self._train_steps += 1 / context.micro_batches
        return (loss, outputs) if return_outputs else loss

    # ---- Evaluation ----

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """Adds the named terms; what one evaluation has gathered is gone when the next begins."""
        check_finite(self.model, "evaluated")  # type: ignore[arg-type]
        self._eval_terms = {}
        if isinstance(self.compute_metrics, GROUP_METRICS):
            self.compute_metrics.reset()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)  # type: ignore[misc]
        metrics, loss = output.metrics, f"{metric_key_prefix}_loss"
        if metrics is not None and loss in metrics:
            for name, values in self._eval_terms.items():
                metrics[f"{metric_key_prefix}_{name}"] = torch.div(*torch.cat(values).double().sum(0)).item()
            metrics[f"{metric_key_prefix}_cross_entropy"] = metrics[loss]
        if metric_key_prefix == "eval" and metrics:
            self.remember_evaluation(output)
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if "labels" not in inputs:  # the Trainer asks the student itself
            inputs = self._inputs_of(self.model, student_inputs(inputs), with_features=False)
        elif prediction_loss_only:  # nobody reads the logits
            with torch.no_grad():
                return self.compute_loss(model, self._prepare_inputs(inputs)), None, None
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _evaluation_loss(self, inputs: dict, outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and that of each example, token or pixel: NaN where there is no class."""
        losses, labelled = self.calls.losses_of_each(outputs, labels), is_labelled(labels)
        check_scores(self.calls.scores(outputs, losses), labelled, self.state.global_step)
        # One sum an example, so that the gather cuts off what pads the last batch of several ranks.
        self._gather_eval_term("loss", losses)
        if self._evaluates_with_teacher:
            inputs = self.calls.on_grid({**inputs, "labels": labels})
            columns = {name: v for name, v in self._columns_of(inputs).items() if name != "sample_weights"}
            asked, compared = self._ask_teacher(inputs), self.calls.compared(outputs, inputs)
            labels, epoch = inputs["labels"], self.state.epoch
            terms = self.calls.terms(self.distillation_loss, compared, asked, labels, epoch=epoch, **columns)
            for name in dict.fromkeys(gather_object(list(terms))):
                if name != "cross_entropy":
                    term = terms.get(name, losses.new_full((), torch.nan)).detach()  # lacking without a valid label
                    self._gather_eval_term(name, torch.where(is_example(labels), term, torch.nan))
        return losses.nansum() / labelled.sum().clamp_min(1), losses

    def _gather_eval_term(self, name: str, values: Tensor) -> None:
        """Keeps the sum and the number of those `values` `[examples, ...]` of each example that are not NaN."""
        values = values.view(len(values), -1)
        pairs = torch.stack([values.nansum(1), (~values.isnan()).sum(1)], dim=1)
        self._eval_terms.setdefault(name, []).append(self.accelerator.gather_for_metrics(pairs))

    @property
    def _networks(self) -> list[nn.Module]:
        return [self.model, *networks_of(self.teacher_model)]  # type: ignore[list-item]

    @property
    def _evaluates_with_teacher(self) -> bool:
        asked = isinstance(self.args, DistillationTrainingArguments) and self.args.eval_with_teacher
        return asked and self.teacher_model is not None

    def _ask_teacher(self, inputs: dict) -> Any:
        check_one_teacher(self.teacher_model, inputs)
        if LOGITS_COLUMN in inputs:
            return self.calls.compared(as_outputs(inputs[LOGITS_COLUMN]), inputs)
        if (teacher := self.teacher_model) is None:
            return None
        own_inputs, autocast = self._inputs_of(teacher, teacher_inputs(inputs)), self.accelerator.autocast()
        outputs = self.calls.ask(teacher, lambda **inputs: ask_teacher(teacher, inputs, autocast), own_inputs)
        return self.calls.compared(outputs, inputs)

    def _columns_of(self, batch: dict) -> dict:
        return self.calls.columns({n: batch[n] for n in self.distillation_loss.columns if n in batch})

    def _inputs_of(self, model: Any, inputs: dict, with_features: bool = True) -> dict:
        own, of_loss = (LOGITS_COLUMN, STEP_CONTEXT), self.distillation_loss.columns
        model_inputs = inputs_of(model, {name: v for name, v in inputs.items() if name not in own}, of_loss)
        if with_features and self.distillation_loss.needs_hidden_states:
            model_inputs["output_hidden_states"] = True
        return model_inputs

    def _labels_of(self, batch: dict, teacher_outputs: Any = None) -> Tensor:
        return self.calls.labels(labels_of(batch, self.distillation_loss, teacher_outputs))

    # ---- Optimizer, logs, files ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        if isinstance(self.args, DistillationTrainingArguments) and self.args.weight_decay_on_all:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """`lr_milestones` is the one schedule that the Trainer lacks."""
        args = self.args
        if not isinstance(args, DistillationTrainingArguments) or not args.lr_milestones or self.lr_scheduler:
            return super().create_scheduler(num_training_steps, optimizer)
        factors = args.milestone_factors(num_training_steps)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factors)  # type: ignore[arg-type]
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def forget_terms(self) -> None:
        """What was summed up since the last log is of a training that has ended."""
        self._train_terms: dict[str, Tensor] = {}
        self._train_steps = 0.0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the named terms. Runs on every rank, so the reduction meets on all of them."""
        if "loss" in logs and self._train_steps:
            # A rank may lack a term, if nothing counted in all of its micro-batches.
            names = dict.fromkeys(gather_object(list(self._train_terms)))
            zero = torch.zeros((), device=self.args.device)
            means = torch.stack([self._train_terms.get(name, zero) for name in names]) / self._train_steps
            means = self.accelerator.reduce(means, "mean")
            logs.update(zip(names, means.tolist(), strict=True))
            logs.update(self.distillation_loss.scheduled(self.state.epoch))
            self.forget_terms()
        super().log(logs, start_time)
