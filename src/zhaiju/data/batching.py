"""Batches filled by tokens, not by rows: long texts share a batch with long ones, so little is padding.

The one sampler of training and inference. It sees lengths only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POOL_BATCHES = 50
SMALL_BATCH = 4


def by_budget(lengths: Sequence[int], budget: int, *, most: int | None = None, waste: float = 1.0) -> list[list[int]]:
    """Group indices so that (longest in the group) x (group size) stays within `budget`.

    Args:
        lengths: Tokens of each item.
        budget: Tokens of a batch, padding included. An item longer than that gets a batch of its own.
        most: Most items in a batch.
        waste: Largest share of a batch that may be padding, 0..1; batches of up to 4 items may waste more.

    Returns:
        Lists of indices, longest items first, each index exactly once. Deterministic.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    real = 0
    for index in order:
        last = batches[-1] if batches else []
        padded = (len(last) + 1) * lengths[last[0]] if last else 0
        fits = padded <= budget and (most is None or len(last) < most)
        if last and fits and (len(last) < SMALL_BATCH or real + lengths[index] >= padded * (1 - waste)):
            last.append(index)
            real += lengths[index]
        else:
            batches.append([index])
            real = lengths[index]
    return batches


def for_epoch(
    lengths: Sequence[int], budget: int, *, most: int | None = None, seed: int, epoch: int
) -> list[list[int]]:
    """Shuffled batches for one epoch of training; the same for the same seed and epoch, on any machine.

    Items are shuffled, cut into pools of about 50 batches, grouped by length inside each pool, and the
    batches shuffled again: nearly no padding, yet other neighbours in every epoch.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    mean = max(float(np.mean(lengths)) if len(lengths) else 1.0, 1.0)
    per_batch = max(1, int(budget / mean)) if most is None else max(1, min(most, int(budget / mean)))
    pool = per_batch * POOL_BATCHES
    batches = []
    for start in range(0, len(order), pool):
        members = order[start : start + pool]
        for batch in by_budget([lengths[index] for index in members], budget, most=most):
            batches.append([int(members[place]) for place in batch])
    return [batches[index] for index in generator.permutation(len(batches))]


def padding(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of a set of batches that is padding, 0..1."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches if batch)
    real = sum(lengths[index] for batch in batches for index in batch)
    return 1.0 - real / padded if padded else 0.0
