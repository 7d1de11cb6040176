"""Dropout that is fast on a CPU, for the time of a training; what is kept is a plain transformers checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class QuickDropout(nn.Module):
    """Dropout that is fast on a CPU: its masks are made from random bytes. Elsewhere PyTorch's own.

    Args:
        p: Probability that a value is dropped.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def kept(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A mask on the CPU, 1 for what is kept and 0 for what is dropped; not to be changed.

        A byte is drawn for each value, eight at a time, and compared with a threshold. Where `p` is no multiple of
        1/256 the threshold is itself drawn, so that `p` is met exactly.
        """
        count = math.prod(shape)
        whole, rest = divmod(self.p * 256, 1)
        threshold = int(whole) + int(float(torch.rand(())) < rest)
        numbers = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(1 << 63), None)
        return (numbers.view(torch.uint8)[:count] >= threshold).to(dtype).view(*shape)

    def forward(self, values: Tensor) -> Tensor:
        """Drop and rescale, in training only."""
        if not self.training or not self.p:
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.p)
        return (values * self.kept(values.shape, values.dtype)).mul_(1 / (1 - self.p))


def quick_dropout(module: nn.Module) -> None:
    """Replace each `Dropout` of a module by one that is fast on a CPU."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout):
            setattr(module, name, QuickDropout(child.p).train(child.training))
        else:
            quick_dropout(child)
