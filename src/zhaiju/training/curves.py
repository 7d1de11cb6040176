"""Learning curves: the metrics.jsonl of one or several runs as small multiples over steps.

Three files come of it: curves.png, curves.svg, and curves.html with the same panels as text that can be searched and
the figures of every evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.errors import ConfigError, shorten
from zhaiju.tasks import TASKS
from zhaiju.training import drawing
from zhaiju.training.names import distinct
from zhaiju.training.page import INK, MUTED, Cell, figure, page, table
from zhaiju.training.run import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = npt.NDArray[np.float64]

TITLES = {"em": "EM", "f1": "F1", "loss": "training loss", "lr": "learning rate"}  # else the name with spaces
SMOOTHING = 25  # the smoothed loss is the mean over one part in so many of the steps
MOST_POINTS = 600  # of a line; more could not be seen apart
LOSS_CAPTION = (
    f"Light: each step, or from lowest to highest of a few. Strong: the mean of a {SMOOTHING}th of all steps."
)
MOST_LABELS = 8  # beside a panel


@dataclass(frozen=True, slots=True)
class Curve:
    """What a run's metrics.jsonl says so far.

    Attributes:
        name: The run's name, different from those of the others.
        task: A key of TASKS.
        steps: float64 [S], as are the next two: the steps taken.
        loss: Training loss.
        lr: Learning rate.
        evaluations: For each evaluation its `step`, `seconds` and figures.
        seconds: Time of all steps and evaluations together.
    """

    name: str
    task: str
    steps: Numbers
    loss: Numbers
    lr: Numbers
    evaluations: list[dict[str, Any]]
    seconds: float

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures that are drawn of its evaluations."""
        return TASKS[self.task].figures

    @property
    def best(self) -> int | None:
        """Which evaluation is the best by the task's primary figure, the first of equal ones; None without any."""
        primary = TASKS[self.task].figures[0]
        values = [entry.get(primary, np.nan) for entry in self.evaluations]
        return None if np.isnan(values).all() else int(np.nanargmax(values))

    @property
    def last_step(self) -> int:
        """The last step taken, 0 before the first."""
        return int(max([*self.steps[-1:], *(entry["step"] for entry in self.evaluations[-1:])], default=0))

    def over_steps(self, key: str) -> tuple[Numbers, Numbers]:
        """Steps and values, float64 [points] each, of "loss", "lr" or a figure; none where it has none."""
        if key in ("loss", "lr"):
            return self.steps, self.loss if key == "loss" else self.lr
        points = [(entry["step"], entry[key]) for entry in self.evaluations if key in self.figures and key in entry]
        steps, values = np.array(points, np.float64).reshape(-1, 2).T
        return steps, values


def draw_curves(runs: Sequence[Path], output: Path, *, titles: Sequence[str] | None = None) -> list[Path]:
    """Draw the learning curves of one or several runs, also of one that still trains.

    Args:
        runs: Directories that `train` left.
        output: A directory, made if need be.
        titles: A name for each run in place of its directory's.

    Returns:
        The files written: curves.png, curves.svg and curves.html in `output`.

    Raises:
        ConfigError: a directory is not a run or is given twice, or there are not as many titles as runs.
        OutputError: `output` cannot be made or written.
    """
    curves = read_curves(runs, titles=titles)
    keys = [*dict.fromkeys(key for curve in curves for key in curve.figures), "loss", "lr"]
    with drawing.style():
        written = drawing.write_figure(output / "curves", _together(curves, keys), _description(curves, keys))
    panels = [
        figure(panel(curves, key, f"p{place}").inline, LOSS_CAPTION if key == "loss" else "")
        for place, key in enumerate(keys)
    ]
    target = output / "curves.html"
    files.write_text(target, _html(curves, panels))
    return [*written, target]


def read_curves(runs: Sequence[Path], *, titles: Sequence[str] | None = None) -> list[Curve]:
    """Read what `draw_curves` draws; its arguments and errors are the same."""
    if not runs:
        raise ConfigError("no run to draw, expected at least one directory that `zhaiju train` left")
    if titles is not None and len(titles) != len(runs):
        raise ConfigError(f"{len(titles)} titles, expected one for each of the {len(runs)} runs")
    names = distinct(runs)
    return [_read(run, name) for run, name in zip(runs, titles or names, strict=True)]


def _read(run: Path, name: str) -> Curve:
    expected = "expected a directory that `zhaiju train` left"
    try:
        about = files.read_json(run / "environment.json")
    except OSError as error:
        raise ConfigError(f"{run} is not a run (environment.json: {error.strerror}), {expected}") from None
    except ValueError:
        raise ConfigError(f"{run} is not a run (environment.json is not JSON), {expected}") from None
    task = about.get("task") if isinstance(about, dict) else None
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(f"{run}: its task is {shorten(task)}, expected one of {', '.join(TASKS)}")
    steps, evaluations, seconds = [], [], 0.0
    for entry in _entries(run):
        try:
            kind = entry["event"]
            if kind == "step":
                steps.append((float(entry["step"]), float(entry["loss"]), float(entry["lr"])))
            elif kind == "evaluate":
                figures = {key: float(entry[key]) for key in TASKS[task].figures if key in entry}
                evaluations.append({**entry, "step": int(entry["step"]), **figures})
            seconds += float(entry.get("seconds", 0))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ConfigError(
                f"{run / 'metrics.jsonl'}: a line is no step or evaluation, found {shorten(entry)}, {expected}"
            ) from None
    columns = np.array(steps, np.float64).reshape(-1, 3).T
    return Curve(name, task, columns[0], columns[1], columns[2], evaluations, seconds)


def _entries(run: Path) -> list[Any]:
    try:
        return list(read_metrics(run))
    except FileNotFoundError:  # a training that has only just begun
        return []
    except OSError as error:
        raise ConfigError(f"{run / 'metrics.jsonl'} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{run / 'metrics.jsonl'} is not UTF-8, expected what `zhaiju train` wrote") from None


def smooth(values: Numbers, width: int) -> Numbers:
    """The mean of each value and its neighbours, float64 [N]: `width` in all, fewer at the ends."""
    places = np.arange(len(values))
    low = np.maximum(places - (width - 1) // 2, 0)
    high = np.minimum(places + width // 2 + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((sums[high] - sums[low]) / (high - low))


def group_size(points: int) -> int:
    """How many steps make a point, so that no line has more than `MOST_POINTS`."""
    return max(-(-points // MOST_POINTS), 1)


def extremes(values: Numbers, size: int) -> tuple[Numbers, Numbers]:
    """The lowest and the highest of every `size` values, float64 [ceil(N / size)] each."""
    starts = np.arange(0, len(values), size)
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _title(key: str) -> str:
    return TITLES.get(key, key.replace("_", " "))


def _panel(axes: Axes, curves: Sequence[Curve], key: str) -> None:
    """Draw one figure of all runs over steps."""
    labels = []
    for index, curve in enumerate(curves):
        shown = drawing.look(index)
        steps, values = curve.over_steps(key)
        if not len(steps):
            continue
        if key in ("loss", "lr"):
            size = group_size(len(steps))
            if key == "loss":
                if size == 1:
                    axes.plot(steps, values, color=shown.colour, alpha=0.22, linewidth=0.8)
                else:
                    axes.fill_between(
                        steps[::size], *extremes(values, size), color=shown.colour, alpha=0.18, linewidth=0
                    )
                values = smooth(values, max(len(values) // SMOOTHING, 1))
            kept = np.unique([*range(0, len(steps), size), len(steps) - 1])
            axes.plot(steps[kept], values[kept], linewidth=1.7, **shown.line)
            continue
        axes.plot(steps, values, marker=shown.marker, markersize=4, linewidth=1.5, **shown.line)
        if curve.best is not None and key in (best := curve.evaluations[curve.best]):
            axes.plot(best["step"], best[key], "*", color=shown.colour, markersize=13, markeredgecolor=INK, zorder=3)
            labels.append((best["step"], best[key], f"{best[key]:.4f} @ {best['step']:,}", shown.colour))
    drawing.whole_steps(axes, max(curve.last_step for curve in curves))
    axes.set_title(_title(key))
    if not axes.lines:
        axes.set_yticks([])
        text = "no step yet" if key in ("loss", "lr") else "no evaluation yet"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
        return
    axes.locator_params(axis="y", nbins=5)
    axes.yaxis.set_major_formatter("{x:g}")
    if key in ("loss", "lr"):
        axes.set_ylim(0, 1.05 * axes.dataLim.ymax or None)
    drawing.labels_beside(axes, sorted(labels, key=lambda label: -label[1])[:MOST_LABELS])


def _together(curves: Sequence[Curve], keys: Sequence[str]) -> Figure:
    """All panels in one figure, with a legend above."""
    columns = len(keys) if len(keys) <= 3 else 2 if len(keys) == 4 else 3
    drawn, panels = drawing.canvas(columns, -(-len(keys) // columns))
    for axes, key in zip(panels, keys, strict=False):
        _panel(axes, curves, key)
    for axes in panels[len(keys) :]:
        axes.remove()
    names = [drawing.printable(curve.name) for curve in curves]
    widest = max(sum(2 if character > "⺀" else 1 for character in name) for name in names)
    drawn.legend(
        _samples(len(curves)),
        names,
        loc="outside upper left",
        ncols=max(1, min(len(names), int(drawn.get_figwidth() / (0.8 + 0.085 * widest)))),
    )
    return drawn


def _samples(runs: int) -> list[Any]:
    from matplotlib.lines import Line2D

    looks = [drawing.look(index) for index in range(runs)]
    return [
        Line2D([], [], color=shown.colour, linestyle=shown.line["linestyle"], marker=shown.marker, markersize=4)
        for shown in looks
    ]


def panel(curves: Sequence[Curve], key: str, name: str, *, legend: bool = False) -> drawing.Picture:
    """One panel for a page.

    Args:
        curves: The runs.
        key: "loss", "lr" or a figure.
        name: See `drawing.picture`.
        legend: Name the runs above it.
    """
    with drawing.style():
        width, height = drawing.IN_PAGE
        drawn, (axes,) = drawing.canvas(size=(width, height + legend * 0.2 * len(curves)))
        _panel(axes, curves, key)
        if legend:
            names = [drawing.printable(curve.name, 40) for curve in curves]
            drawn.legend(_samples(len(curves)), names, loc="outside upper left")
        return drawing.picture(drawn, _description(curves, [key]), name)


def _description(curves: Sequence[Curve], keys: Sequence[str]) -> str:
    """What the panels show, in words."""
    sentences = [f"{', '.join(map(_title, keys))} over steps."]
    for curve in curves:
        parts = []
        for key in keys:
            values = curve.over_steps(key)[1]
            if not len(values):
                continue
            if key in ("loss", "lr"):
                parts.append(f"{_title(key)} {values[0]:.4g} at first, {values[-1]:.4g} at last")
            elif curve.best is not None:
                best = curve.evaluations[curve.best]
                parts.append(f"{_title(key)} {best.get(key, np.nan):.4f} at the best step {best['step']}")
        sentences.append(f"{drawing.printable(curve.name)}: {'; '.join(parts) or 'nothing yet'}.")
    return " ".join(sentences)


def _html(curves: Sequence[Curve], panels: Sequence[str]) -> str:
    names = [drawing.printable(curve.name, 10_000) for curve in curves]
    legend = "".join(
        f"<li>{drawing.look(index).sample()}<span>{escape(name)}</span></li>" for index, name in enumerate(names)
    )
    body = [
        f'<ul class="legend">{legend}</ul>',
        '<p class="note">A star marks the best evaluation of a run; beside it stand its value and its step.</p>',
        f'<div class="panels">\n{"".join(panels)}\n</div>',
        "<h2>Runs</h2>",
        _summary(curves, names),
        "<h2>Evaluations</h2>",
        *(_evaluations(curve, name) for curve, name in zip(curves, names, strict=True)),
    ]
    return page("Learning curves", "\n".join(body))


def _summary(curves: Sequence[Curve], names: Sequence[str]) -> str:
    keys = list(dict.fromkeys(key for curve in curves for key in curve.figures))
    columns = ["run", "task", "steps", "best step"]
    columns += [f"{_title(key)} {when}" for when in ("best", "last") for key in keys]
    rows: list[list[Cell]] = []
    for curve, name in zip(curves, names, strict=True):
        best = {} if curve.best is None else curve.evaluations[curve.best]
        last = curve.evaluations[-1] if curve.evaluations else {}
        of_its_own = [key if key in curve.figures else "" for key in keys]
        row: list[Cell] = [name, curve.task, curve.last_step, best.get("step")]
        row += [values.get(key) for values in (best, last) for key in of_its_own]
        rows.append([*row, round(curve.seconds)])
    return table("One row a run", [*columns, "seconds"], rows)


def _evaluations(curve: Curve, name: str) -> str:
    if not curve.evaluations:
        return f"<p>{escape(name)}: no evaluation yet.</p>"
    found = _names_of_numbers(curve.evaluations)
    first = [key for key in curve.figures if key in found]
    rest = [key for key in found if key not in (*first, "step", "seconds") and not key.endswith(("_low", "_high"))]
    rows = [
        [entry["step"], *(entry.get(key) for key in (*first, *rest)), f"{entry.get('seconds', 0):.1f}"]
        for entry in curve.evaluations
    ]
    columns = ["step", *map(_title, (*first, *rest)), "seconds"]
    return table(name, columns, rows, marked=curve.best, mark="★ best")


def _names_of_numbers(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that hold a number wherever they stand, in the order in which they appear."""
    keys = dict.fromkeys(key for entry in evaluations for key in entry)
    return [key for key in keys if all(isinstance(entry.get(key, 0), int | float) for entry in evaluations)]
