"""How far a correct computation may be from the exact value: derived, so that it holds on every CPU."""

import torch
from torch import Tensor


def tolerance(additions: float, magnitude: float, dtype: torch.dtype) -> float:
    """
    `additions · eps · magnitude`.

    Every operation rounds its result by at most eps / 2 of it. A sum of n numbers is therefore off by at most
    (n - 1) · eps / 2 times the sum of their absolute values, in whatever order, vector width or number of threads they
    are added (Higham, Accuracy and Stability of Numerical Algorithms, Eq. 4.4). The other half of eps is for the few
    operations before and after: exp and log, a product, a quotient.

    Args:
        additions: Summands of the longest sum that a result goes through: the classes of a softmax, for instance.
        magnitude: Sum of their absolute values, times what the sum is multiplied with. Of a mean, and of a sum
            weighted by probabilities, that is the largest of them: of a KL divergence the largest log probability.
    """
    return additions * torch.finfo(dtype).eps * magnitude


def assert_close(actual: Tensor, expected: Tensor | float, additions: float, magnitude: float) -> None:
    """Compares in float64; the rounding is that of `actual`'s type."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    allowed = tolerance(additions, magnitude, actual.dtype)
    torch.testing.assert_close(actual.detach().double(), expected.detach(), rtol=0, atol=allowed)


def largest_log_prob(*logits: Tensor, temperature: float = 1.0) -> float:
    """No log probability of a softmax, over all of the classes or some of them, is larger than this (in absolute)."""
    spread = max((2 * z.detach().double().abs().max().item() / temperature for z in logits), default=0.0)
    return spread + torch.tensor(float(logits[0].shape[-1])).log().item() + 1.0
