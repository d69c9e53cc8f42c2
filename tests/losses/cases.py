"""Every loss, how its terms are computed by loops, and what it is tested on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from losses import loops
from losses.waves import wave
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from hf_ltkd import (
    BKDLoss,
    CATKDLoss,
    ClassGroups,
    CrossEntropyLoss,
    CWDLoss,
    DistillationLoss,
    DISTLoss,
    DKDLoss,
    GKLLoss,
    IFVDLoss,
    KDLoss,
    LTKDLoss,
    ReviewKDLoss,
    SumLoss,
    WTTMLoss,
    log_class_prior,
)


COUNTS = [500, 300, 200, 120, 80, 50, 30, 12, 8, 5]
GROUPS = ClassGroups.from_counts(COUNTS)
GROUPINGS = {
    "three groups": GROUPS,
    "any order": ClassGroups([2, 0, 1, 1, 0, 2, 2, 1, 0, 0], class_counts=COUNTS),
    "one group": ClassGroups([0] * 10, class_counts=COUNTS),
    "a group a class": ClassGroups.from_counts(COUNTS, num_groups=10),
}


class ToyNetwork(nn.Module):
    """Its hidden states are its input and that pooled; a linear head on the average."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(3, 10).double()

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True):
        maps = (pixel_values, pixel_values, F.avg_pool2d(pixel_values, 2))
        logits = self.classifier(maps[-1].mean((2, 3)))
        return ImageClassifierOutputWithNoAttention(logits=logits, hidden_states=maps)


def focal(logits, labels):
    """One value per example."""
    log_p = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2) * log_p


def focal_mean(logits, labels):
    return focal(logits, labels).mean()


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        make: Makes the loss, for 10 classes.
        scale: No term is above this times the largest log probability.
        by_loops: `(student rows, teacher rows, labels)` to terms by name; methods on feature maps have loops in their
            own tests.
        splits: Whether the loss of an optimizer step is the same however it is split into micro-batches.
    """

    make: Callable[[], DistillationLoss]
    scale: float
    by_loops: Callable[[loops.Rows, loops.Rows, list[int]], dict[str, float]] | None = None
    splits: bool = True

    def ready(self) -> tuple[DistillationLoss, Callable[[Tensor], Any], Callable[[Tensor], Any]]:
        """The loss and what makes outputs of student and teacher from an input: a network, or logits as they are."""
        loss = self.make()
        if not loss.needs_hidden_states:
            return loss, torch.nn.Identity(), torch.nn.Identity()
        torch.manual_seed(0)
        student, teacher = ToyNetwork(), ToyNetwork()
        loss.prepare(student, teacher, wave(2, 3, 4, 4))
        return loss.double().eval(), student, teacher

    def batch(self, size: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs for student and teacher, and labels."""
        shape = (size, 3, 4, 4) if self.make().needs_hidden_states else (size, 10)
        generator = torch.Generator().manual_seed(0)
        student, teacher = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        teacher[:, :3] += 2  # a biased teacher
        return student.to(dtype), teacher.to(dtype), torch.tensor([3, 7, 0, 9, 1, 5, 2, 8])[:size]


def ltkd_case(grouping: str, alpha: float = 2.0, beta: float = 3.0, temperature: float = 4.0, **switches) -> Case:
    groups = GROUPINGS[grouping]

    def by_loops(student, teacher, labels):
        cross, within = loops.ltkd(student, teacher, groups.group_of_class.tolist(), temperature, **switches)
        ce = loops.cross_entropy(student, labels)
        return {"cross_entropy": ce, "cross_group": alpha * cross, "within_group": beta * within}

    return Case(
        lambda: LTKDLoss(groups, alpha=alpha, beta=beta, temperature=temperature, **switches),
        temperature**2 * (alpha + beta * groups.num_groups),
        by_loops,
    )


def _bkd(s, t, y):
    weights = loops.class_balanced_weights(COUNTS, 0.99)
    return {"cross_entropy": loops.cross_entropy(s, y), "balanced_kd": loops.kd(s, t, 2.0, class_weights=weights)}


def _dkd(s, t, y):
    target, others = loops.dkd(s, t, y, 4.0)
    return {"logit_adjusted": loops.cross_entropy(s, y, loops.log_prior(COUNTS)), "target_class": target,
            "non_target_class": 8 * others}  # fmt: skip


def _dist(s, t, y):
    inter, intra = loops.dist(s, t, 2.0)
    return {"cross_entropy": loops.cross_entropy(s, y), "inter_class": 1.5 * inter, "intra_class": 3 * intra}


def prior_case(side: str) -> Case:
    """LTKD with the prior put in or taken out, at a tau of its own."""

    def by_loops(student, teacher, labels):
        prior = [1.5 * p for p in loops.log_prior(COUNTS)]
        shifted = loops.shifted(student, prior), teacher
        if side == "teacher":
            shifted = student, loops.shifted(teacher, [-p for p in prior])
        cross, within = loops.ltkd(*shifted, GROUPS.group_of_class.tolist(), 1.0, rebalance=False)
        return {"balanced_softmax": loops.cross_entropy(student, labels, loops.log_prior(COUNTS)),
                "cross_group": cross, "within_group": within}  # fmt: skip

    return Case(
        lambda: LTKDLoss(GROUPS, alpha=1.0, beta=1.0, temperature=1.0, rebalance=False, prior=side, tau=1.5,
                         ce="balanced_softmax"), 12, by_loops,
    )  # fmt: skip


def gkl_loss_in_epoch_1() -> GKLLoss:
    """With class means of an epoch of one example a class."""
    loss = GKLLoss(GROUPS, alpha=2.0, beta=3.0, gamma=0.3, weight_temperature=2.0).double()
    loss(torch.zeros(10, 10), GKL_EPOCH, torch.arange(10), epoch=0.0)
    loss.begin_epoch(1.0)
    return loss


def _gkl(s, t, y):
    class_means = [loops.softmax(row, 2.0) for row in GKL_EPOCH.tolist()]
    entropy, squares = loops.gkl(s, t, 4.0, [[p**0.3 for p in class_means[label]] for label in y])
    return {"cross_entropy": loops.cross_entropy(s, y), "soft_cross_entropy": 2 * entropy,
            "squared_differences": 3 * squares}  # fmt: skip


def _gkl_of_examples(s, t, y):
    entropy, squares = loops.gkl(s, t, 4.0, [[p**0.3 for p in loops.softmax(row, 4.0)] for row in t])
    return {"cross_entropy": loops.cross_entropy(s, y), "soft_cross_entropy": entropy,
            "squared_differences": 16 * squares}  # fmt: skip


def _sum(s, t, y):
    cross, within = loops.ltkd(s, t, GROUPS.group_of_class.tolist(), 4.0)
    return {"cross_entropy": loops.cross_entropy(s, y), "cross_group": cross, "within_group": 1.5 * within,
            "kd": 1.8 * loops.kd(s, t, 4.0)}  # fmt: skip


GKL_EPOCH = 3 * wave(10, 10, frequency=1.7)


# A class-balanced weight is at most the number of classes; an offset of the logits at most log 500.
CASES = {
    "ce": Case(
        lambda: CrossEntropyLoss(ce_weight=0.5), 1,
        lambda s, t, y: {"cross_entropy": 0.5 * loops.cross_entropy(s, y)},
    ),
    "balanced softmax": Case(
        lambda: CrossEntropyLoss(ce="balanced_softmax", class_counts=COUNTS), 3,
        lambda s, t, y: {"balanced_softmax": loops.cross_entropy(s, y, loops.log_prior(COUNTS))},
    ),
    "logit adjustment": Case(
        lambda: CrossEntropyLoss(ce="logit_adjusted", class_counts=COUNTS, tau=1.5), 3,
        lambda s, t, y: {"logit_adjusted": loops.cross_entropy(s, y, [1.5 * p for p in loops.log_prior(COUNTS)])},
    ),
    "class balance": Case(
        lambda: CrossEntropyLoss(ce="class_balanced", class_counts=COUNTS, effective_number_beta=0.99), 10,
        lambda s, t, y: {
            "class_balanced": loops.cross_entropy(s, y, weights=loops.class_balanced_weights(COUNTS, 0.99))
        },
    ),
    "kd": Case(
        lambda: KDLoss(kd_weight=0.9, ce_weight=0.1), 16,
        lambda s, t, y: {"cross_entropy": 0.1 * loops.cross_entropy(s, y), "kd": 0.9 * loops.kd(s, t, 4.0)},
    ),
    "kd, adjusted teacher": Case(
        lambda: KDLoss(teacher_log_prior=log_class_prior(COUNTS), ce_weight=0), 16,
        lambda s, t, y: {"kd": loops.kd(s, t, 4.0, loops.log_prior(COUNTS))},
    ),
    "dkd": Case(lambda: DKDLoss(ce="logit_adjusted", class_counts=COUNTS), 16 * 8, _dkd),
    "dist": Case(lambda: DISTLoss(gamma=2.0, dist_weight=1.5, temperature=2.0), 4 * 3, _dist, splits=False),
    "ldam": Case(
        lambda: CrossEntropyLoss(ce="ldam", class_counts=COUNTS, ldam_scale=3.0), 6,
        lambda s, t, y: {"ldam": loops.ldam(s, y, COUNTS, 0.5, 3.0)},
    ),
    "ldam, re-weighted": Case(
        lambda: CrossEntropyLoss(ce="ldam", class_counts=COUNTS, max_margin=2.0, ldam_scale=1.0, drw_epoch=5,
                                 effective_number_beta=0.99), 80,
        lambda s, t, y: {"ldam": loops.ldam(s, y, COUNTS, 2.0, 1.0, loops.deferred_weights(COUNTS, 0.99))},
    ),
    "kd, standardized": Case(
        lambda: KDLoss(standardize=True, temperature=2.0, kd_weight=9.0, prior="student", class_counts=COUNTS), 36,
        lambda s, t, y: {
            "cross_entropy": loops.cross_entropy(s, y),
            "kd": 9 * loops.kd(
                loops.standardized(loops.shifted(s, loops.log_prior(COUNTS))), loops.standardized(t), 2.0),
        },
    ),
    "wttm": Case(
        lambda: WTTMLoss(gamma=0.3, wttm_weight=2.0), 2 * 10**0.7,
        lambda s, t, y: {"cross_entropy": loops.cross_entropy(s, y), "transformed_teacher": 2 * loops.wttm(s, t, 0.3)},
    ),
    "cwd": Case(  # the softmax is over 8 examples at most, whose logits differ by no more than those of classes do
        lambda: CWDLoss(cwd_weight=2.0, temperature=3.0), 2 * 9 * 2,
        lambda s, t, y: {"cross_entropy": loops.cross_entropy(s, y), "channel_wise": 2 * loops.cwd(s, t, 3.0)},
        splits=False,
    ),
    # Cosines differ by 2 at most, and the pixels of a class that is there once are their own prototype.
    "ifvd": Case(
        lambda: IFVDLoss(ifvd_weight=3.0), 3 * 2**2,
        lambda s, t, y: {
            "cross_entropy": loops.cross_entropy(s, y), "intra_class_variation": 3 * loops.ifvd(s, t, y)
        }, splits=False,
    ),
    # The variance of t - s is at most a quarter of its squared range, which is twice the largest log probability (25).
    "gkl": Case(gkl_loss_in_epoch_1, 3 / 2 * 25, _gkl),
    "gkl, of examples": Case(lambda: GKLLoss(GROUPS, gamma=0.3, class_wise=False), 16 / 2 * 25, _gkl_of_examples),
    "ltkd, prior of the teacher": prior_case("teacher"),
    "ltkd, prior of the student": prior_case("student"),
    "bkd": Case(lambda: BKDLoss(COUNTS, effective_number_beta=0.99), 4, _bkd),
    "sum": Case(
        lambda: SumLoss([LTKDLoss(GROUPS, alpha=2.0, beta=3.0), KDLoss(kd_weight=0.9)], [0.5, 2.0]),
        16 * (0.5 * (2 + 3 * 3) + 1.8), _sum,
    ),
    "reviewkd": Case(ReviewKDLoss, 4),
    "catkd": Case(CATKDLoss, 4),
    "ltkd": ltkd_case("three groups"),
    "ltkd, T = 1": ltkd_case("three groups", temperature=1.0),
    "ltkd, any order": ltkd_case("any order"),
    "ltkd, biased": ltkd_case("any order", rebalance=False),
    "ltkd, weighted": ltkd_case("any order", reweight=False),
    "ltkd, one group": ltkd_case("one group"),
    "ltkd, a group a class": ltkd_case("a group a class"),
}  # fmt: skip
