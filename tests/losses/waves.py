"""Input that anyone can make again: sines of the position, in float64."""

import torch


def wave(*shape, frequency=1.0):
    """`sin(frequency · i)` for the i-th element."""
    count = torch.Size(shape).numel()
    return torch.sin(frequency * torch.arange(count, dtype=torch.float64)).reshape(shape)


def wave_logits():
    """Student and teacher logits of 4 examples and 6 classes."""
    b, c = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(6.0, dtype=torch.float64)[None]
    return 3 * torch.sin(0.7 * b + 1.3 * c), 4 * torch.cos(0.5 * b * c + 0.3)
