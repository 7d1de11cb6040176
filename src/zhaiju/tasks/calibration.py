"""How far a confidence can be trusted, and from where on it is better to say nothing.

Temperature scaling after Guo et al. (2017): logits are divided by one number, fitted on labelled data, so that
confidences become frequencies. The best prediction stays the best. It is fitted here on the log loss of "the
prediction is right", which suits spans, choices, classes and tags alike.
Abstention after El-Yaniv and Wiener (2010): the risk-coverage curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BINS = 15
TEMPERATURES = (0.125, 8.0)
ROUNDS = 16
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a reliability diagram; `confidence` and `accuracy` are means, 0 in an empty bin."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability_table(confidence: Scores, correct: Flags, bins: int = BINS) -> list[Bin]:
    """The reliability diagram: `bins` of equal width over 0..1, the last one closed."""
    places = np.minimum((confidence * bins).astype(np.intp), bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums = np.bincount(places, confidence, minlength=bins)
    hits = np.bincount(places, correct, minlength=bins)
    return [
        Bin(index / bins, (index + 1) / bins, int(count), float(total / (count or 1)), float(right / (count or 1)))
        for index, (count, total, right) in enumerate(zip(counts, sums, hits, strict=True))
    ]


def expected_calibration_error(confidence: Scores, correct: Flags, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over the bins, weighed by their counts (Naeini et al., 2015)."""
    table = reliability_table(confidence, correct, bins)
    return sum(entry.count * abs(entry.confidence - entry.accuracy) for entry in table) / max(len(confidence), 1)


def platt_loss(confidence: Scores, correct: Flags) -> float:
    """Log loss with Platt's (1999) targets, a little short of 0 and 1: what is always right is not made certain."""
    if not len(confidence):
        return 0.0
    clipped = np.clip(confidence, 1e-7, 1 - 1e-7)
    right = int(correct.sum())
    target = np.where(correct, (right + 1) / (right + 2), 1 / (len(correct) - right + 2))
    return float(-(target * np.log(clipped) + (1 - target) * np.log(1 - clipped)).mean())


def risk_coverage(confidence: Scores, correct: Flags) -> tuple[Scores, Scores, Scores]:
    """Risk against coverage when only what is at least as sure as a threshold is answered.

    Returns:
        float64 [K] each, coverage rising: coverage (share answered), risk (share of those that is wrong) and
        threshold. K is the number of different confidences, which ties cannot be cut between.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    answered = np.arange(1, len(ranked) + 1)
    risk = np.cumsum(~correct[order]) / answered
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.zeros(0, np.intp)
    return answered[last] / max(len(ranked), 1), risk[last], ranked[last]


def choose_threshold(confidence: Scores, correct: Flags, risk: float) -> tuple[float, float, float]:
    """The lowest threshold at which no more than `risk` of what is answered is wrong.

    Returns:
        (threshold, coverage, risk there); (inf, 0, 0) where even the surest are wrong more often.
    """
    coverage, risks, thresholds = risk_coverage(confidence, correct)
    fitting = np.flatnonzero(risks <= risk)
    if not len(fitting):
        return float("inf"), 0.0, 0.0
    place = fitting[-1]
    return float(thresholds[place]), float(coverage[place]), float(risks[place])


def fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature with the least loss, by golden-section search over its logarithm (Kiefer, 1953).

    1 where the search finds none that is better than that.

    Args:
        loss: Gives the log loss at a temperature.
    """
    low, high = np.log(TEMPERATURES)
    inner, outer = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_inner, at_outer = loss(float(np.exp(inner))), loss(float(np.exp(outer)))
    for _ in range(ROUNDS):
        if at_inner <= at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - GOLDEN * (high - low)
            at_inner = loss(float(np.exp(inner)))
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + GOLDEN * (high - low)
            at_outer = loss(float(np.exp(outer)))
    found = float(np.exp((low + high) / 2))
    return found if loss(found) < loss(1.0) else 1.0
