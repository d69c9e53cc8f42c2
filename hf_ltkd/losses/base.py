"""The contract of every distillation loss, and what all share: the student's own cross-entropy and the warm-up."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..groups import ClassGroups
from ..utils import check_number
from .checks import (
    IGNORED_LABEL,
    UNLABELLED,
    are_labelled,
    check_class_counts,
    check_classes,
    check_labels,
    check_not_negative,
    check_probabilities,
    is_labelled,
    logits_of,
    select_valid,
)
from .class_balanced import class_balanced_weights
from .columns import check_is_weighed, further_arguments, taken, weigh, weighted_mean
from .cross_entropy import CrossEntropyName, corrected_cross_entropy, own_cross_entropy, plain_cross_entropy
from .published import published_values
from .schedule import Scheduled, numbers_of


class DistillationLoss(Scheduled):
    """
    Base class: student outputs, teacher outputs and labels in, a dict of named terms out whose sum is the loss.

    A subclass implements [`~DistillationLoss.distillation_terms`] and, if its formula sums over the batch,
    [`~DistillationLoss.batch_statistics`]. It knows nothing of trainers and can be used in any training loop.

    Args:
        ce_weight (`float`, *optional*, defaults to 1.0): Weight of the student's own cross-entropy with the labels.
        ce (`str` or `Callable`, *optional*, defaults to `"cross_entropy"`):
            The form of that cross-entropy: a function of logits `[n, classes]` and labels `[n]` to one value each (or
            their mean), its `"module:function"`, or a name. Beside the plain one, four correct for the class counts:
            `"balanced_softmax"` ([`balanced_softmax_loss`]), `"logit_adjusted"` ([`logit_adjusted_loss`]),
            `"class_balanced"` ([`class_balanced_loss`]) and `"ldam"` ([`ldam_loss`]). Joining one of them with a
            distillation method is an extension of this package, not part of the method's paper.
        class_counts (`Sequence[int]` of length `classes`, *optional*):
            Training examples per class, for those four.
        tau (`float`, *optional*, defaults to 1.0): Of `"logit_adjusted"`.
        effective_number_beta (`float`, *optional*, defaults to 0.9999):
            Of `"class_balanced"` and `drw_epoch` ([`class_balanced_weights`]).
        max_margin, ldam_scale (`float`, *optional*, default to 0.5 and 1.0):
            Of `"ldam"`. The authors' scale, 30, is for a head of normalised features and weights; with a plain linear
            head, as networks here have, it is 30 times the learning rate.
        drw_epoch (`float`, *optional*):
            Of `"ldam"`: from this epoch on the classes are weighted (deferred re-weighting; the authors' is 160 of
            200), by 1 in the mean over the training examples. `None` never weighs them.
        warmup_epochs (`float`, *optional*, defaults to 0.0):
            The distillation terms grow linearly from 0 to their full weight over this many epochs.

    Numbers that are weights, temperatures or of `ce` may be a [`Schedule`] over the epochs.

    Attributes:
        needs_teacher (`bool`): Whether `teacher_outputs` is read at all.
        needs_labels (`bool`): Whether its terms read each example's class: no soft labels, none without a class.
        needs_hidden_states (`bool`): Whether both models have to return their `hidden_states`.
        needs_pixels (`bool`): Whether it is for models that give each pixel a class.
        sums_itself (`bool`): Whether [`~DistillationLoss.batch_statistics`] and [`~DistillationLoss.begin_step`] are
            spared a step that is a single batch without weights, over which `distillation_terms` sums by itself.
        num_classes (`int` or `None`): The number of classes the loss was made for, `None` if it fits any.
        columns (`frozenset[str]`): The columns of the batch that it reads: `sample_weights`, and what
            `distillation_terms` and `batch_statistics` name as further arguments.
        source (`str`): Where the hyper-parameters come from, if made by [`~DistillationLoss.for_pair`].

    Raises:
        `ValueError`: if a weight or `warmup_epochs` is negative, `ce` is unknown or lacks its `class_counts`, or
            `drw_epoch` is given without `ce="ldam"`.
    """

    needs_teacher: bool = True
    needs_labels: bool = False
    needs_hidden_states: bool = False
    needs_pixels: bool = False
    sums_itself: bool = False
    num_classes: int | None = None
    columns: frozenset[str] = frozenset(["sample_weights"])
    source: str = ""
    _of_terms: dict[str, Any] = {}  # the columns that distillation_terms takes, with their defaults
    _of_statistics: dict[str, Any] = {}  # the same of batch_statistics
    _has_statistics: bool = False

    def __init__(
        self,
        *,
        ce_weight: float = 1.0,
        ce: CrossEntropyName | str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        class_counts: Sequence[int] | Tensor | None = None,
        tau: float = 1.0,
        effective_number_beta: float = 0.9999,
        max_margin: float = 0.5,
        ldam_scale: float = 1.0,
        drw_epoch: float | None = None,
        warmup_epochs: float = 0.0,
    ):
        super().__init__()
        check_not_negative(ce_weight=ce_weight, tau=tau, max_margin=max_margin, ldam_scale=ldam_scale)
        check_number("warmup_epochs", warmup_epochs, 0)
        for beta in numbers_of(effective_number_beta):
            check_number("effective_number_beta", beta, 0, below=1)
        if drw_epoch is not None:
            check_number("drw_epoch", drw_epoch, 0)
            if ce != "ldam":
                raise ValueError(f"drw_epoch={drw_epoch} goes with ce='ldam', not with ce={ce!r}: leave it out.")
        self.ce_weight, self.warmup_epochs = ce_weight, warmup_epochs
        self.tau, self.effective_number_beta = tau, effective_number_beta
        self.max_margin, self.ldam_scale, self.drw_epoch = max_margin, ldam_scale, drw_epoch
        self.ce: str = ce if isinstance(ce, str) else ""  # what the term is called
        self._ce: Any = ce  # by which the loss is made again
        self._counts: list[float] | None = None
        self._class_weights: Tensor | None = None
        self._cross_entropy: Callable[..., Tensor] = plain_cross_entropy
        if ce not in get_args(CrossEntropyName):
            self.ce, self._ce, self._cross_entropy = own_cross_entropy(ce)
        elif ce != "cross_entropy":
            if class_counts is None:
                raise ValueError(
                    f"ce={ce!r} needs class_counts, the training examples per class: pass "
                    "class_counts=class_counts(train_dataset), or groups made by ClassGroups.from_counts."
                )
            self._counts = check_class_counts(class_counts).tolist()
            self.num_classes = len(self._counts)
            with super().at(0.0):
                self._apply_schedules()

    def _apply_schedules(self) -> None:
        """Makes the cross-entropy of the numbers in force."""
        if self._counts is not None:
            counts = torch.tensor(self._counts, dtype=torch.float64)
            weights = class_balanced_weights(counts, beta=self.effective_number_beta)
            self._class_weights = None if self.drw_epoch is None else weights * counts.sum() / (weights @ counts)
            numbers = self.tau, self.max_margin, self.ldam_scale
            self._cross_entropy = corrected_cross_entropy(self.ce, counts, weights, *numbers)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        of_before = vars(cls).get("batch_statistics")
        if of_before is not None and len(signature(of_before).parameters) == 2:
            warnings.warn(
                f"{cls.__name__}.batch_statistics(teacher_outputs) is now batch_statistics(teacher_outputs, labels); "
                "the old form goes with version 0.3.",
                FutureWarning,
                stacklevel=2,
            )
            cls.batch_statistics = lambda self, outputs, labels=None: of_before(self, outputs)  # type: ignore
        cls._has_statistics = cls.batch_statistics is not DistillationLoss.batch_statistics
        cls._of_terms = further_arguments(cls, "distillation_terms", 5)
        cls._of_statistics = further_arguments(cls, "batch_statistics", 3)
        cls.columns = frozenset(["sample_weights", *cls._of_terms, *cls._of_statistics])

    @classmethod
    def from_groups(cls, groups: ClassGroups, **arguments) -> "DistillationLoss":
        """
        The loss for these groups: how [`create_loss`] makes every loss. A loss that takes the groups themselves
        overrides it; the others get their class counts.
        """
        return cls(**{"class_counts": groups.class_counts, **arguments})

    @classmethod
    def for_pair(cls, teacher: str, student: str, *args, dataset: str = "cifar100", **overrides) -> "DistillationLoss":
        """
        The loss with the hyper-parameters that its authors published for a teacher and a student; `source` of the
        result says where.

        Args:
            teacher, student (`str`): Names of [`create_model`], for instance `"resnet32x4"`, `"resnet8x4"`.
            args: Positional arguments of the loss, such as the groups of [`LTKDLoss`].
            dataset (`str`, *optional*, defaults to `"cifar100"`): `"cifar100"`, `"imagenet"`, `"imagenet_lt"`.
            overrides: Keyword arguments that win over the published ones.

        Raises:
            `ValueError`: if nothing is published for this loss and pair; it lists the pairs there are.
        """
        values = published_values(cls, dataset, teacher, student)
        loss = cls(*args, **{**values.arguments, **overrides})
        loss.source = values.source
        return loss

    def smooth_labels(self, amount: float) -> None:
        """
        The student's own cross-entropy is from now on that with labels of which `amount` is spread evenly over the
        classes (Szegedy et al., 2016), for `TrainingArguments(label_smoothing_factor=amount)`. 0 is none.

        Raises:
            `ValueError`: if `ce` is another form than the plain cross-entropy.
        """
        if self.ce == "cross_entropy":
            self._cross_entropy = partial(plain_cross_entropy, label_smoothing=amount)
        elif amount:
            raise ValueError(
                f"label_smoothing_factor={amount} goes with the plain cross-entropy, not with ce={self.ce!r}: leave "
                "one of them out."
            )

    def hyper_parameters(self) -> dict[str, Any]:
        """
        The constructor's arguments by name with the values in force, the method's own first: numbers, words and lists
        of these, for model cards and result files, without groups and counts. A loss with arguments of its own
        overrides it: `return {"my_weight": self.my_weight, **super().hyper_parameters()}`.
        """
        return {
            "ce_weight": self.ce_weight,
            "ce": self._ce,
            "tau": self.tau,
            "effective_number_beta": self.effective_number_beta,
            "max_margin": self.max_margin,
            "ldam_scale": self.ldam_scale,
            "drw_epoch": self.drw_epoch,
            "warmup_epochs": self.warmup_epochs,
        }

    def used_hyper_parameters(self) -> dict[str, Any]:
        """Those of [`~DistillationLoss.hyper_parameters`] that have an effect: `tau` only where `ce` has one."""
        is_ldam, weighs = self.ce == "ldam", self.ce == "class_balanced" or self.drw_epoch is not None
        of_ce = {"ce": True, "tau": self.ce == "logit_adjusted", "effective_number_beta": weighs, "drw_epoch": True}
        of_ce |= {"max_margin": is_ldam, "ldam_scale": is_ldam}
        hidden = {name for name, has_effect in of_ce.items() if not (has_effect and self.ce_weight)}
        init = type(self).__init__
        own = {} if init is DistillationLoss.__init__ else signature(init).parameters  # which may be called the same
        return {n: v for n, v in self.hyper_parameters().items() if v is not None and (n in own or n not in hidden)}

    def prepare(self, student: nn.Module, teacher: nn.Module, pixel_values: Tensor | None = None) -> None:
        """
        Looks at both models and makes what the method trains besides the student. [`DistillationTrainer`] calls it; a
        training loop of your own calls it once before it makes its optimizer, which takes `loss.parameters()` too.

        Args:
            student, teacher (`torch.nn.Module`): The models.
            pixel_values (`torch.Tensor` of shape `[batch, channels, height, width]`, *optional*):
                An input of the training's size. `None` makes one from the configs of the models.
        """

    def forward(
        self,
        student_outputs: Any,
        teacher_outputs: Any,
        labels: Tensor,
        *,
        epoch: float | None = None,
        step_statistics: Tensor | None = None,
        **columns: Any,
    ) -> dict[str, Tensor]:
        """
        Args:
            student_outputs, teacher_outputs (`ModelOutput` or `torch.Tensor`):
                What the models returned, or their logits of shape `[batch, classes]`; of shape
                `[batch, length, classes]` for token classification.
            labels (`torch.Tensor` of shape `[batch]` or `[batch, length]`, int64):
                The class of each example or token. Those of -100 count nowhere; those of -1 have no class: the
                method's terms count them, the cross-entropy, a mean over the examples with a class, does not. Or soft
                labels `[batch, classes]`, probabilities in floating point; a mark fills the whole row.
            epoch (`float`, *optional*):
                Epochs trained so far, fractions included, for `warmup_epochs` and `drw_epoch`. `None` means after
                both.
            step_statistics (`torch.Tensor` of shape `[micro_batches, k]`, *optional*):
                [`~DistillationLoss.batch_statistics`] of every micro-batch of the optimizer step, on all ranks. `None`
                means that this batch is the whole step.
            columns: What else of the batch the loss reads, by name (its `columns`). Of `sample_weights`, of shape
                `[batch]` (or `[batch, length]`) and 0 or more, every mean is weighted, and every sum over the batch.

        Returns:
            `dict[str, torch.Tensor]`: scalars, each weighted and averaged over the valid examples of the batch (the
            first, called as `ce`, over those with a class), that sum to the loss.

        Raises:
            `ValueError`: if labels, logits, sample weights and other columns do not fit each other or this loss, or a
                term is called as another or `loss`.
        """
        check_labels(labels, logits_of(student_outputs), IGNORED_LABEL, UNLABELLED)
        if columns:
            labels, columns = self._checked_columns(labels, columns)
        if torch.compiler.is_compiling():  # without schedules
            return self._terms(student_outputs, teacher_outputs, labels, epoch, step_statistics, columns)
        with self.at(epoch):
            return self._terms(student_outputs, teacher_outputs, labels, epoch, step_statistics, columns)

    def _terms(self, student_outputs, teacher_outputs, labels, epoch, step_statistics, columns) -> dict[str, Tensor]:
        all_labelled = are_labelled(labels)
        if not all_labelled or labels.is_floating_point():
            self.check_classes(labels)
        if not all_labelled or logits_of(student_outputs).ndim > 2:
            asked = teacher_outputs if self.needs_teacher else None
            labels, student_outputs, teacher_outputs, columns = select_valid(labels, student_outputs, asked, columns)
        if labels.shape[0] == 0:  # nothing to learn; the sum keeps the student in the graph
            return {self.ce: logits_of(student_outputs).sum()}
        if self.training and epoch is not None:
            self.begin_epoch(epoch)
        weights = columns.get("sample_weights")
        if step_statistics is None and not (self.sums_itself and weights is None):  # this batch is the whole step
            statistics = self._statistics(teacher_outputs, labels, columns)
            step_statistics = None if statistics is None else self.begin_step(statistics[None])
        terms: dict[str, Tensor] = {}
        if self.ce_weight:
            logits, targets, cross_entropy = logits_of(student_outputs), labels, self._cross_entropy
            if not all_labelled:
                known = is_labelled(labels).nonzero(as_tuple=True)
                logits, targets, weights = logits[known], labels[known], None if weights is None else weights[known]
            check_probabilities(targets)
            if self.drw_epoch is not None and (epoch is None or epoch + 1e-6 >= self.drw_epoch):
                cross_entropy = partial(cross_entropy, class_weights=self._class_weights)
            losses = cross_entropy(logits, targets, reduction="none") if len(targets) else logits.sum(1)
            terms[self.ce] = self.ce_weight * weighted_mean(self.ce, losses, weights, targets, False)
        own = self._method_terms(student_outputs, teacher_outputs, labels, epoch, step_statistics, columns)
        for name in own:
            if name in (self.ce, "loss"):
                raise ValueError(f"{type(self).__name__} has a term called {name!r}, which is taken: rename it.")
        return terms | own

    def _method_terms(
        self, student_outputs, teacher_outputs, labels, epoch, step_statistics, columns
    ) -> dict[str, Tensor]:
        """[`~DistillationLoss.distillation_terms`] as they count: means, warmed up."""
        further = taken(type(self).__name__, self._of_terms, columns)
        terms = self.distillation_terms(student_outputs, teacher_outputs, labels, step_statistics, **further)
        weights, is_weighed = columns.get("sample_weights"), "sample_weights" in self._of_terms
        factor = self._warmup(epoch)
        return {n: factor * weighted_mean(n, term, weights, labels, is_weighed) for n, term in terms.items()}

    def _warmup(self, epoch: float | None) -> float:
        return 1.0 if epoch is None or epoch >= self.warmup_epochs else epoch / self.warmup_epochs

    def statistics_of(
        self, teacher_outputs: Any, labels: Tensor, *, epoch: float | None = None, **columns: Any
    ) -> Tensor | None:
        """[`~DistillationLoss.batch_statistics`] of a micro-batch as it comes; arguments as in `forward`."""
        if not self._has_statistics:
            return None
        labels, columns = self._checked_columns(labels, columns)
        labels, teacher_outputs, columns = select_valid(labels, teacher_outputs, columns)
        self.check_classes(labels)
        with self.at(epoch):
            return self._statistics(teacher_outputs, labels, columns)

    def _statistics(self, teacher_outputs: Any, labels: Tensor, columns: dict[str, Any]) -> Tensor | None:
        if not self._has_statistics:
            return None
        check_is_weighed(type(self).__name__, self._of_statistics, columns)
        further = taken(type(self).__name__, self._of_statistics, columns)
        return self.batch_statistics(teacher_outputs, labels, **further)

    def _checked_columns(self, labels: Tensor, columns: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        if unknown := columns.keys() - self.columns:
            raise ValueError(f"{type(self).__name__} reads {sorted(self.columns)}, not {sorted(unknown)}.")
        if "sample_weights" in columns:
            labels, columns["sample_weights"] = weigh(labels, columns["sample_weights"])
        return labels, columns

    def check_classes(self, labels: Tensor) -> None:
        """
        Raises:
            `ValueError`: if the loss has `needs_labels`, and labels are soft or -1. It waits for a GPU.
        """
        if self.needs_labels:
            check_classes(type(self).__name__, labels)

    def distillation_terms(
        self, student_outputs: Any, teacher_outputs: Any, labels: Tensor, step_statistics: Tensor | None
    ) -> dict[str, Tensor]:
        """
        The method's own weighted terms by name: one value per example, `[batch]`, or their mean. A column of the batch
        that an override names as a further argument is handed to it by name.
        """
        raise TypeError(f"{type(self).__name__} must implement distillation_terms().")

    def begin_epoch(self, epoch: float) -> None:
        """
        Called with the epochs trained so far before the first step of each epoch, on all ranks, and by `forward` in
        training. A loss that remembers epochs overrides it; it may be called again within one.
        """

    def batch_statistics(self, teacher_outputs: Any, labels: Tensor) -> Tensor | None:
        """
        What the formula sums over the valid examples of the batch, as a tensor of shape `[k]`; `None` if it sums
        nothing. Columns as in [`~DistillationLoss.distillation_terms`].
        """
        return None

    def begin_step(self, step_statistics: Tensor) -> Tensor:
        """
        Called once an optimizer step with the statistics of all its micro-batches, `[micro_batches, k]`; what it
        returns is handed to `distillation_terms`. A loss that remembers steps overrides it.
        """
        return step_statistics


def values_of(**arguments: Any) -> dict[str, Any]:
    """The arguments with numbers for tensors (weights that are trained, for instance)."""
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in arguments.items()}
