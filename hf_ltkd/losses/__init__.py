"""Every method in a file of its own: the pure function first, the module for the trainer below."""

from ..groups import ClassGroups
from .balanced_softmax import balanced_softmax_loss
from .base import CrossEntropyLoss, DistillationLoss
from .bkd import BKDLoss, bkd_loss
from .catkd import CATKDLoss, class_attention_loss
from .class_balanced import class_balanced_loss, class_balanced_weights
from .dist import DISTLoss, dist_loss
from .dkd import DKDLoss, dkd_loss
from .kd import KDLoss, kd_loss
from .logit_adjustment import log_class_prior, logit_adjusted_loss
from .ltkd import KLDecomposition, LTKDLoss, kl_decomposition, ltkd_loss
from .reviewkd import ReviewKDLoss, hierarchical_context_loss


LOSSES: dict[str, type[DistillationLoss]] = {
    "ce": CrossEntropyLoss,
    "kd": KDLoss,
    "ltkd": LTKDLoss,
    "dkd": DKDLoss,
    "dist": DISTLoss,
    "reviewkd": ReviewKDLoss,
    "catkd": CATKDLoss,
    "bkd": BKDLoss,
}


def create_loss(
    name: str, groups: ClassGroups, *, pair: tuple[str, str] | None = None, dataset: str = "cifar100", **kwargs
) -> DistillationLoss:
    """
    A loss by its name, for scripts.

    Args:
        name (`str`): `"ce"`, `"kd"`, `"ltkd"`, `"dkd"`, `"dist"`, `"reviewkd"`, `"catkd"` or `"bkd"`.
        groups ([`ClassGroups`]): With class counts, which the losses that correct for them read.
        pair (`tuple[str, str]`, *optional*):
            Names of teacher and student: takes their published hyper-parameters ([`DistillationLoss.for_pair`]).
        dataset (`str`, *optional*, defaults to `"cifar100"`): That `pair` was published for.
        kwargs: Arguments of the loss; they win over published ones.

    Raises:
        `ValueError`: if there is no such loss, or it does not take an argument.
    """
    if name not in LOSSES:
        raise ValueError(f"There is no loss {name!r}: use one of {', '.join(LOSSES)}.")
    loss_class = LOSSES[name]
    args = [groups] if name == "ltkd" else [groups.class_counts] if name == "bkd" else []
    if not args:
        kwargs.setdefault("class_counts", groups.class_counts)
    try:
        return loss_class.for_pair(*pair, *args, dataset=dataset, **kwargs) if pair else loss_class(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{loss_class.__name__} does not take these arguments: {error}") from error


__all__ = [
    "BKDLoss",
    "CATKDLoss",
    "CrossEntropyLoss",
    "DISTLoss",
    "DKDLoss",
    "DistillationLoss",
    "KDLoss",
    "KLDecomposition",
    "LOSSES",
    "LTKDLoss",
    "ReviewKDLoss",
    "balanced_softmax_loss",
    "bkd_loss",
    "class_attention_loss",
    "class_balanced_loss",
    "class_balanced_weights",
    "create_loss",
    "dist_loss",
    "dkd_loss",
    "hierarchical_context_loss",
    "kd_loss",
    "kl_decomposition",
    "log_class_prior",
    "logit_adjusted_loss",
    "ltkd_loss",
]
