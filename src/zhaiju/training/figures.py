"""Figures: how far a confidence can be trusted; for pages a panel of lines and one of bars.

Learning curves are in `zhaiju.training.curves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zhaiju.tasks.calibration import Bin
from zhaiju.training import drawing
from zhaiju.training.page import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = Sequence[float] | npt.NDArray[np.float64]

SIZE = (10.2, 5.0)  # inches, side by side
STACKED = (4.2, 8.2)  # the same for a page, one below the other
BEFORE, AFTER = drawing.look(1), drawing.look(0)


def draw_calibration(stem: Path, record: Mapping[str, Any], *, title: str = "") -> list[Path]:
    """Draw the reliability diagram before and after the temperature, and the risk-coverage curve.

    Args:
        stem: Path of the files to write, without their suffix.
        record: From `zhaiju.inference.calibrate.calibration_record`.
        title: Of the whole figure.

    Returns:
        The files written: `stem`.png and `stem`.svg.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    with drawing.style():
        drawn, description = _calibration(record, title, stacked=False)
        return drawing.write_figure(stem, drawn, description)


def calibration_figure(record: Mapping[str, Any], *, name: str, title: str = "") -> drawing.Picture:
    """The same for a page, its panels one below the other.

    Args:
        record: From `zhaiju.inference.calibrate.calibration_record`.
        name: See `drawing.picture`.
        title: Of the whole figure.
    """
    with drawing.style():
        drawn, description = _calibration(record, title, stacked=True)
        return drawing.picture(drawn, description, name)


def _calibration(record: Mapping[str, Any], title: str, *, stacked: bool) -> tuple[Figure, str]:
    """The figure and what it shows; to be called inside `drawing.style`."""
    from matplotlib.figure import Figure

    before, after = ([Bin(**entry) for entry in record[key]] for key in ("reliability_before", "reliability"))
    drawn = Figure(figsize=STACKED if stacked else SIZE, layout=drawing.padding())
    grid = (
        drawn.add_gridspec(3, 1, height_ratios=(3, 1, 3)) if stacked else drawn.add_gridspec(2, 2, height_ratios=(3, 1))
    )
    reliability, strip = drawn.add_subplot(grid[0, 0]), drawn.add_subplot(grid[1, 0])
    _reliability(reliability, before, after)
    reliability.set_title(f"ECE {record['ece_before']:.4f} before, {record['ece']:.4f} after temperature")
    _counts(strip, before, after)
    _risk_coverage(drawn.add_subplot(grid[2, 0] if stacked else grid[:, 1]), record)
    if title:
        drawn.suptitle(drawing.printable(title), x=0.01, ha="left", fontsize=12)
    description = (
        f"{title + ': ' if title else ''}reliability diagram of {record['count']} {record['unit']}s, expected "
        f"calibration error {record['ece_before']:.4f} before and {record['ece']:.4f} after the temperature "
        f"{record['temperature']:g}; risk-coverage curve, {_chosen(record)}."
    )
    return drawn, drawing.printable(description, 10_000)


def _reliability(axes: Axes, before: Sequence[Bin], after: Sequence[Bin]) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, label="as right as sure")
    for name, bins, shown, filled in (("before", before, BEFORE, False), ("after", after, AFTER, True)):
        used = [entry for entry in bins if entry.count]
        axes.plot(
            [entry.confidence for entry in used],
            [entry.accuracy for entry in used],
            marker=shown.marker,
            markersize=5,
            markerfacecolor=shown.colour if filled else "white",
            label=f"{name} temperature",
            **shown.line,
        )
    axes.legend(loc="best", fontsize=9)
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03), ylabel="accuracy")
    axes.tick_params(labelbottom=False)


def _counts(axes: Axes, before: Sequence[Bin], after: Sequence[Bin]) -> None:
    """A bar with its number for each bin after, an outline for before."""
    middles = [(entry.low + entry.high) / 2 for entry in after]
    widths = [(entry.high - entry.low) * 0.86 for entry in after]
    axes.bar(middles, [entry.count for entry in after], widths, color=AFTER.colour, alpha=0.35)
    axes.stairs(
        [entry.count for entry in before],
        [*(entry.low for entry in before), before[-1].high],
        color=BEFORE.colour,
        linestyle=BEFORE.line["linestyle"],
        linewidth=1.2,
    )
    for entry, middle in zip(after, middles, strict=True):
        axes.annotate(
            short_count(entry.count),
            (middle, entry.count),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="count")
    axes.margins(y=0.3)
    axes.locator_params(axis="y", nbins=3, integer=True)
    axes.grid(visible=False, axis="x")


def short_count(count: int) -> str:
    """A count in at most four characters or so: 7, 950, 1.2k, 38k, 2.0M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}" if count < 10 * size else f"{count // size}{letter}"
    return str(count)


def _risk_coverage(axes: Axes, record: Mapping[str, Any]) -> None:
    """Draw the curve, the risk that was accepted and the threshold that was chosen for it."""
    coverage, risks = record["coverage_curve"], record["risk_curve"]
    axes.step(coverage, risks, where="post", color=AFTER.colour, linewidth=1.7)
    axes.set(xlim=(0, 1.02), xlabel="coverage: share answered", ylabel="risk: share of those that is wrong")
    highest = max([*risks, 0.01, *([] if record["threshold"] is None else [record["risk"]])])
    axes.set_ylim(0, highest * 1.25)
    axes.set_title("risk and coverage")
    if record["risk"] < highest * 1.25:
        axes.axhline(record["risk"], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"accepted risk {record['risk']:g}",
            (1.02, record["risk"]),
            xytext=(-2, -10),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            fontsize=8,
        )
    axes.text(0.03, 0.97, _chosen(record), transform=axes.transAxes, va="top", fontsize=9)
    if record["threshold"] is not None:
        wrong = np.interp(record["coverage"], coverage, risks)
        axes.plot(record["coverage"], wrong, "*", color=AFTER.colour, markersize=15, markeredgecolor=INK, zorder=3)


def _chosen(record: Mapping[str, Any]) -> str:
    if record["threshold"] is None:
        return f"no threshold keeps a risk of {record['risk']:g}"
    return f"threshold {record['threshold']:.3f} answers {record['coverage']:.1%} of the {record['unit']}s"


def line_figure(
    lines: Mapping[str, tuple[Numbers, Numbers]],
    *,
    name: str,
    description: str,
    title: str = "",
    x: str = "",
    y: str = "",
) -> drawing.Picture:
    """A panel of lines, each named beside its end.

    Args:
        lines: For each name x and y of its points.
        name: See `drawing.picture`.
        description: See `drawing.picture`.
        title: Its title.
        x: What x is.
        y: What y is.
    """
    with drawing.style():
        drawn, (axes,) = drawing.canvas(size=drawing.IN_PAGE)
        ends = []
        for index, (line, (xs, ys)) in enumerate(lines.items()):
            shown = drawing.look(index)
            axes.plot(xs, ys, marker=shown.marker, markersize=4, **shown.line)
            if len(xs):
                ends.append((float(xs[-1]), float(ys[-1]), drawing.printable(line, 24), shown.colour))
        axes.set(title=title, xlabel=x, ylabel=y)
        drawing.labels_beside(axes, ends)
        return drawing.picture(drawn, description, name)


def bar_figure(
    groups: Sequence[str],
    bars: Mapping[str, Numbers],
    *,
    name: str,
    description: str,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    title: str = "",
    x: str = "",
) -> drawing.Picture:
    """Lying bars with their values, in groups, the first group on top.

    Args:
        groups: Their names.
        bars: For each name of a bar its value in every group, 0 or more.
        name: See `drawing.picture`.
        description: See `drawing.picture`.
        intervals: For a name of a bar the lowest and highest value in every group.
        title: Its title.
        x: What the length of a bar is.
    """
    with drawing.style():
        drawn, (axes,) = drawing.canvas(size=(drawing.IN_PAGE[0], 0.9 + 0.24 * len(groups) * (len(bars) + 0.6)))
        thickness = 0.8 / max(len(bars), 1)
        handles: list[Any] = []
        for index, (bar, values) in enumerate(bars.items()):
            ends = (intervals or {}).get(bar)
            heights = np.arange(len(groups)) + (index - (len(bars) - 1) / 2) * thickness
            handles.extend(axes.barh(heights, values, thickness * 0.88, color=drawing.look(index).colour)[:1])
            if ends is not None:
                low, high = np.array(ends, np.float64).reshape(-1, 2).T
                axes.hlines(heights, low, high, color=INK, linewidth=1.2)
            for place, value in enumerate(values):
                reach = value if ends is None else max(value, ends[place][1])
                axes.annotate(
                    f"{round(value, 4):g}",
                    (reach, heights[place]),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
        axes.set_yticks(range(len(groups)), [drawing.printable(group, 24) for group in groups])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        axes.set(title=title, xlabel=x)
        if len(bars) > 1:
            drawn.legend(handles, [drawing.printable(bar, 24) for bar in bars], loc="outside upper left", ncols=2)
        return drawing.picture(drawn, description, name)
