"""Loss and perplexity of a language model by how frequent the token is that it has to say."""

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .batches import GroupMetric


NOT_MEASURED = -100  # what pads the predictions of the Trainer, too


class group_perplexity(GroupMetric):  # noqa: N801  # used like a function: compute_metrics=group_perplexity(groups)
    """
    A `compute_metrics` for language models: `perplexity`, and `head_loss`, `head_perplexity`, `medium_loss`, ... by
    the group of the token that is to be said (or the names of other groups). A loss is the cross-entropy, a mean over
    the tokens, and a perplexity its exponential. A group without a token is not measured: it is left out.

    [`DistillationTrainer`] hands over the loss of each label, `[examples, length]`, not logits over the vocabulary.
    With a plain `Trainer` and a causal model do so by `preprocess_logits_for_metrics=group_perplexity.token_losses`.
    Batches one by one (`batch_eval_metrics=True`) do as well.

    Args:
        groups ([`ClassGroups`]): The groups of the tokens, [`ClassGroups.from_token_counts`].

    Raises:
        `ValueError`: when called with anything but a loss a label, or with tokens outside the groups.
        `FloatingPointError`: when called with a loss that is not finite.
    """

    def reset(self) -> None:
        self._sums, self._tokens = np.zeros((2, self.groups.num_groups))

    def _result(self) -> dict[str, float]:
        sums, tokens = self._sums, self._tokens
        of = {name: (sums[group], tokens[group]) for group, name in enumerate(self.groups.names)}
        measured = {name: float(total / count) for name, (total, count) in of.items() if count}
        with np.errstate(over="ignore"):
            result = {"perplexity": float(np.exp(sums.sum() / tokens.sum()))} if measured else {}
            for name, loss in measured.items():
                result |= {f"{name}_loss": loss, f"{name}_perplexity": float(np.exp(loss))}
        return result

    def _add(self, predictions: Any, labels: Any) -> None:
        losses, labels = np.asarray(predictions), np.asarray(labels)
        if losses.shape != labels.shape or losses.dtype.kind != "f":
            raise ValueError(
                f"Predictions of shape {losses.shape} and labels of shape {labels.shape} do not fit: group_perplexity "
                "takes the loss of each label, so give a plain Trainer preprocess_logits_for_metrics="
                "group_perplexity.token_losses."
            )
        counted = (labels >= 0) & (losses != NOT_MEASURED)
        losses, labels = losses[counted].astype(np.float64), labels[counted]
        if not np.isfinite(losses).all():
            raise FloatingPointError(
                f"The losses of {(~np.isfinite(losses)).sum()} of {len(losses)} tokens are NaN or Inf: the model is "
                "broken."
            )
        if len(labels) and labels.max() >= self.groups.num_classes:
            raise ValueError(
                f"The labels hold the token {labels.max()}, the groups are for {self.groups.num_classes}: count the "
                "tokens of the whole vocabulary."
            )
        groups = self.groups.group_of_class.numpy()[labels]
        self._sums += np.bincount(groups, losses, minlength=self.groups.num_groups)
        self._tokens += np.bincount(groups, minlength=self.groups.num_groups)

    @staticmethod
    def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
        """
        The loss of each label of a causal model.

        Args:
            logits (`torch.Tensor` of shape `[batch, length, vocabulary]`): Those for the next token; or a tuple that
                begins so.
            labels (`torch.Tensor` of shape `[batch, length]`): Token ids, or -100.

        Returns:
            `torch.Tensor` of shape `[batch, length]`: -100 where the label is, and for the first one, which is not
            predicted.
        """
        logits = logits[0] if isinstance(logits, tuple) else logits
        losses = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        losses = losses.view(len(labels), -1).masked_fill(labels[:, 1:] == NOT_MEASURED, NOT_MEASURED)
        return F.pad(losses, (1, 0), value=NOT_MEASURED)
