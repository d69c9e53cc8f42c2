"""What every `compute_metrics` by group does: it takes an evaluation at once or batch by batch."""

from typing import Any

from transformers import EvalPrediction

from ..groups import ClassGroups, check_groups


class GroupMetric:
    """
    Sums up batches by `_add` and makes the result of them by `_result`; `reset` forgets them.

    Args:
        groups ([`ClassGroups`]): The groups of the classes.
    """

    def __init__(self, groups: ClassGroups):
        check_groups(groups)
        self.groups = groups
        self.reset()

    def reset(self) -> None:
        """Forgets the batches of an evaluation that did not end."""
        raise NotImplementedError

    def _add(self, predictions: Any, labels: Any) -> None:
        raise NotImplementedError

    def _result(self) -> dict[str, float]:
        raise NotImplementedError

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """`compute_result=False` is for all batches but the last, whose call gives the result of all of them."""
        predictions, labels = prediction.predictions, prediction.label_ids
        one_by_one = isinstance(labels, list)  # eval_do_concat_batches=False
        try:
            for batch in zip(predictions, labels, strict=True) if one_by_one else [(predictions, labels)]:
                self._add(*batch)
        except (ValueError, FloatingPointError):
            self.reset()
            raise
        if not compute_result:
            return {}
        result = self._result()
        self.reset()
        return result
