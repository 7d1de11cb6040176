"""The metrics of training runs, for their curves."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zhaiju.errors import ConfigError
from zhaiju.service import schemas
from zhaiju.service.limits import RETRY_SECONDS, RequestError
from zhaiju.training.curves import SMOOTHING, Curve, extremes, group_size, read_curves, smooth

log = logging.getLogger(__name__)


class Runs:
    """Training runs, read anew each time: one of them may still go on.

    Args:
        paths: Directories that `train` left.

    Raises:
        ConfigError: one of them is no run, or given twice.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._names = _names(self._paths)
        read_curves(self._paths)

    def read(self) -> schemas.RunsResponse:
        """What they have come to.

        Raises:
            RequestError: one of them cannot be read now.
        """
        try:
            curves = read_curves(self._paths, titles=self._names)
        except ConfigError as error:
            log.error("the runs cannot be read: %s", error)
            raise RequestError(503, "runs_unreadable", "the runs cannot be read now", retry=RETRY_SECONDS) from None
        return schemas.RunsResponse(runs=[_run(curve) for curve in curves])


def _names(paths: Sequence[Path]) -> list[str]:
    """Their base names, numbered where several have one; no path of the server is told."""
    names: list[str] = []
    for path in paths:
        base = path.resolve().name
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base} ({number})"
        names.append(name)
    return names


def _run(curve: Curve) -> schemas.RunResponse:
    return schemas.RunResponse(
        name=curve.name,
        task=curve.task,
        best_step=None if curve.best is None else curve.evaluations[curve.best]["step"],
        steps=_steps(curve),
        evaluations=[
            schemas.EvaluationPoint(
                step=entry["step"], figures={key: _finite(entry[key]) for key in curve.figures if key in entry}
            )
            for entry in curve.evaluations
        ],
    )


def _steps(curve: Curve) -> list[schemas.StepPoint]:
    if not len(curve.steps):
        return []
    size = group_size(len(curve.steps))
    starts = np.arange(0, len(curve.steps), size)
    ends = np.minimum(starts + size, len(curve.steps))
    smoothed = smooth(curve.loss, max(len(curve.loss) // SMOOTHING, 1))
    low, high = extremes(curve.loss, size)
    return [
        schemas.StepPoint(
            step=int(curve.steps[end - 1]),
            loss=_finite(smoothed[end - 1]),
            low=_finite(low[place]),
            high=_finite(high[place]),
            lr=_finite(curve.lr[end - 1]),
        )
        for place, end in enumerate(ends)
    ]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
