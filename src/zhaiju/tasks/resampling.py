"""Intervals and tests of figures, by resampling examples.

Intervals are percentiles of a bootstrap (Efron, 1979); two systems are compared by an approximate randomisation test
(Noreen, 1989). A figure is a ratio of sums over examples: F1, which is no mean of them, is resampled as what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Numbers = Sequence[float] | npt.NDArray[Any]

CELLS = 1 << 20  # numbers that a chunk of resamples may hold


def ratio_bootstrap(
    numerator: Numbers, denominator: Numbers, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the sum of [N] numerators over the sum of [N] denominators, 0 for 0 / 0."""
    if not len(numerator) or not resamples:
        return 0.0, 0.0
    rows = np.stack([numerator, denominator], axis=1).astype(np.float64)
    sums = _resampled(rows, resamples, np.random.default_rng(seed))
    return _interval(_ratios(sums[:, 0], sums[:, 1]))


def paired_test(
    numerator_a: Numbers,
    denominator_a: Numbers,
    numerator_b: Numbers,
    denominator_b: Numbers,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float, float]:
    """Compare two systems on the same [N] examples, each by its sum of numerators over its sum of denominators.

    Returns:
        The difference b - a; its 95 % interval by a paired bootstrap; and p, two-sided, of an approximate
        randomisation test: how often the difference is as large when each example's a and b change places with
        probability one half, `(1 + hits) / (1 + resamples)`.
    """
    if not len(numerator_a):
        return 0.0, 0.0, 0.0, 1.0
    generator = np.random.default_rng(seed)
    rows = np.stack([numerator_a, denominator_a, numerator_b, denominator_b], axis=1).astype(np.float64)
    total = rows.sum(axis=0)
    difference = float(_differences(total[None])[0])
    low, high = _interval(_differences(_resampled(rows, resamples, generator)))
    steps, counts = np.unique(rows[:, 2:] - rows[:, :2], axis=0, return_counts=True)
    hits = 0
    for size in _chunks(resamples, len(steps)):
        moved = generator.binomial(counts, 0.5, size=(size, len(steps))) @ steps  # [size, 2]
        swapped = _differences(np.concatenate([total[:2] + moved, total[2:] - moved], axis=1))
        hits += int((np.abs(swapped) >= abs(difference) - 1e-12).sum())
    return difference, low, high, (1 + hits) / (1 + resamples)


def _ratios(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator != 0)


def _differences(sums: Floats) -> Floats:
    """From sums [R, 4] of numerator and denominator of a, then of b: the ratios' difference b - a, [R]."""
    return _ratios(sums[:, 2], sums[:, 3]) - _ratios(sums[:, 0], sums[:, 1])


def _resampled(rows: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Column sums [resamples, K] of as many rows [N, K] drawn with replacement.

    How often each *distinct* row is drawn is multinomial, so that the work grows with their number and not with N.
    """
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    drawn = (
        generator.multinomial(len(rows), counts / len(rows), size=size) @ distinct
        for size in _chunks(resamples, len(distinct))
    )
    return np.concatenate(list(drawn))


def _chunks(resamples: int, width: int) -> Iterable[int]:
    """Sizes of chunks of resamples that are `width` numbers each."""
    size = max(1, CELLS // width)
    return (min(size, resamples - done) for done in range(0, resamples, size))


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
