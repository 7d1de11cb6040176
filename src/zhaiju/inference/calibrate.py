"""Fit a checkpoint's temperature and threshold on labelled examples; see `zhaiju.tasks.calibration`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from zhaiju.data.encoding import Window
from zhaiju.errors import DataError
from zhaiju.inference.engine import Engine, Progress
from zhaiju.tasks.base import Floats, Head, Judgement, Task
from zhaiju.tasks.calibration import (
    Flags,
    Scores,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    platt_loss,
    reliability_table,
    risk_coverage,
)

CURVE_POINTS = 500
GRID = tuple(2.0 ** (power / 3) for power in range(-9, 10))  # 1/8 to 8
MOST_EXAMPLES = 2000  # to fit one number on; spans of thousands of paragraphs would be searched 40 times over


@dataclass(frozen=True)
class Calibration:
    """What is kept with a checkpoint.

    Attributes:
        temperature: What logits are divided by.
        threshold: Confidence below which it is better to abstain; None where no threshold keeps the risk.
        risk: Share of wrong answers that was accepted.
        coverage: Share of the units that is as sure as the threshold.
        ece: Expected calibration error at this temperature; fitted on one half and measured on the other, both ways.
        ece_before: The same at temperature 1.
        count: Units that it was fitted on.
        unit: What is right or wrong: a question, an utterance or a word.
    """

    temperature: float
    threshold: float | None
    risk: float
    coverage: float
    ece: float
    ece_before: float
    count: int
    unit: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Kept:
    example: Any
    windows: Sequence[Window]
    logits: Sequence[Floats]


class _KeepLogits:
    """A task that leaves predictions undecoded, so that they can be decoded at many temperatures."""

    def __init__(self, task: Task[Any, Any]) -> None:
        self.head: Head = task.head
        self.encode = task.encode

    def decode(self, example: Any, windows: Sequence[Window], logits: Sequence[Floats]) -> _Kept:
        return _Kept(example, windows, [np.array(value) for value in logits])


def calibrate(
    engine: Engine,
    task: Any,
    examples: Sequence[Any],
    *,
    risk: float,
    progress: Progress | None = None,
) -> tuple[Calibration, Judgement, Judgement]:
    """Fit the temperature and then the threshold.

    Args:
        engine: Of the checkpoint.
        task: Its task; the temperature in it is not looked at.
        examples: Labelled; of more than 2,000 that many, evenly chosen, are used.
        risk: Share of wrong answers to accept when choosing the threshold, 0..1.
        progress: Called with the number of examples done since the last call.

    Returns:
        The calibration, and what is known of each unit before and after it.

    Raises:
        DataError: an example is not labelled, or there is none.
    """
    if not examples:
        raise DataError("no labelled example to calibrate on", expected="at least one")
    for example in examples:
        task.require(example)
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MOST_EXAMPLES)).astype(int))
    kept = list(engine.predict(_KeepLogits(task), [examples[index] for index in chosen], progress=progress))  # type: ignore[arg-type]

    def judge(temperature: float, part: Sequence[_Kept]) -> Judgement:
        warmed = replace(task, temperature=temperature)
        predictions = [warmed.decode(one.example, one.windows, one.logits) for one in part]
        judgement: Judgement = warmed.judge([one.example for one in part], predictions)
        return judgement

    grid = [judge(temperature, kept) for temperature in GRID]  # each span is searched for once a temperature, not more
    confidence = np.stack([judgement.confidence for judgement in grid])  # [temperatures, units]
    before = grid[GRID.index(1.0)]
    correct = before.correct
    temperature = round(_fit(confidence, correct), 4)  # as it is kept, so that the threshold belongs to it
    after = judge(temperature, kept)
    threshold, coverage, _ = choose_threshold(after.confidence, after.correct, risk)
    return (
        Calibration(
            temperature=temperature,
            threshold=threshold if np.isfinite(threshold) else None,
            risk=risk,
            coverage=coverage,
            ece=_held_out_error(confidence, correct),
            ece_before=expected_calibration_error(before.confidence, before.correct),
            count=len(after.correct),
            unit=task.unit,
        ),
        before,
        after,
    )


def _at(confidence: Scores, temperature: float) -> Scores:
    """Confidences at a temperature [units], between those at the grid's temperatures [temperatures, units]."""
    place = np.clip(np.interp(np.log(temperature), np.log(GRID), np.arange(len(GRID))), 0, len(GRID) - 1)
    low = min(int(place), len(GRID) - 2)
    share = place - low
    return np.asarray((1 - share) * confidence[low] + share * confidence[low + 1])


def _fit(confidence: Scores, correct: Flags) -> float:
    return fit_temperature(lambda temperature: platt_loss(_at(confidence, temperature), correct))


def _held_out_error(confidence: Scores, correct: Flags) -> float:
    """The error when each half of the units is judged at the temperature of the other."""
    halves = [slice(0, None, 2), slice(1, None, 2)]
    judged = np.empty(len(correct))
    for side in (0, 1):
        theirs, ours = halves[1 - side], halves[side]
        judged[ours] = _at(confidence[:, ours], _fit(confidence[:, theirs], correct[theirs]))
    return expected_calibration_error(judged, correct)


def calibration_record(calibration: Calibration, before: Judgement, after: Judgement) -> dict[str, Any]:
    """All that is needed to draw it: the calibration, both reliability diagrams and the risk-coverage curve."""
    coverage, risk, threshold = risk_coverage(after.confidence, after.correct)
    kept = np.unique(np.linspace(0, len(coverage) - 1, min(len(coverage), CURVE_POINTS)).astype(int))
    return calibration.to_json() | {
        "reliability_before": [asdict(entry) for entry in reliability_table(before.confidence, before.correct)],
        "reliability": [asdict(entry) for entry in reliability_table(after.confidence, after.correct)],
        "coverage_curve": coverage[kept].tolist(),
        "risk_curve": risk[kept].tolist(),
        "threshold_curve": threshold[kept].tolist(),
    }
