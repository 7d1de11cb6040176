"""Runs side by side on the same examples: figures with intervals, and whether a difference is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.errors import ConfigError
from zhaiju.tasks.resampling import paired_test, ratio_bootstrap
from zhaiju.training.run import OUTCOMES_FILE


@dataclass(frozen=True)
class Outcomes:
    """How one run does on each example.

    Attributes:
        name: What it is called in tables.
        task: Its task.
        ids: Ids of the examples.
        dev: Fingerprints of the files that they are from.
        ratios: For each figure float64 [examples, 2] (see `Judgement`).
    """

    name: str
    task: str
    ids: tuple[str, ...]
    ratios: Mapping[str, npt.NDArray[np.float64]]
    dev: tuple[str, ...] = ()


def load_outcomes(run: Path, name: str | None = None) -> Outcomes:
    """What a finished run left of its best checkpoint on its dev set.

    Raises:
        ConfigError: it is no finished run.
    """
    path = run / OUTCOMES_FILE
    if not path.is_file():
        found = "a run that is not finished" if (run / "config.toml").is_file() else "not a run"
        raise ConfigError(f"{run} is {found}: expected {path}; finish it, or name data to compare on with --data")
    try:
        values = files.read_json(path)
        task = files.read_json(run / "environment.json")["task"]
        ratios = {key: np.asarray(table, np.float64).reshape(-1, 2) for key, table in values["ratios"].items()}
        return Outcomes(name or run.name, task, tuple(values["ids"]), ratios, tuple(values.get("dev", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def compare(runs: Sequence[Outcomes], *, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Figures of each run, and each later run against the first.

    Args:
        runs: At least one.
        seed: Of the resampling.

    Returns:
        `figures`: a row per figure and run: `figure`, `run`, `value`, `low`, `high` (95 % bootstrap interval).
        `differences`: a row per figure and later run: `figure`, `run`, `against`, `difference`, `low`, `high` (paired
        bootstrap), `p` (paired approximate randomisation; Noreen, 1989), `examples`.

    Raises:
        ConfigError: the runs are of different tasks, or were judged on different examples.
    """
    first = runs[0]
    for other in runs[1:]:
        if other.task != first.task:
            raise ConfigError(f"{other.name} is for {other.task} and {first.name} for {first.task}")
        if other.ids != first.ids or other.dev != first.dev:
            raise ConfigError(
                f"{other.name} and {first.name} were judged on different examples ({len(other.ids)} and "
                f"{len(first.ids)}); name data to compare on with --data"
            )
    figures: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for figure, base in first.ratios.items():
        for run in runs:
            if figure not in run.ratios:
                raise ConfigError(f"{run.name} does not tell its {figure}; train it again, or name data with --data")
            table = run.ratios[figure]
            low, high = ratio_bootstrap(table[:, 0], table[:, 1], seed=seed)
            value = float(table[:, 0].sum() / table[:, 1].sum()) if table[:, 1].sum() else 0.0
            figures.append({"figure": figure, "run": run.name, "value": value, "low": low, "high": high})
        for run in runs[1:]:
            table = run.ratios[figure]
            difference, low, high, p = paired_test(base[:, 0], base[:, 1], table[:, 0], table[:, 1], seed=seed)
            differences.append(
                {
                    "figure": figure,
                    "run": run.name,
                    "against": first.name,
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "p": p,
                    "examples": len(first.ids),
                }
            )
    return {"figures": figures, "differences": differences}
