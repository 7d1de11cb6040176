"""What all figures share: style, fonts, SVG and PNG.

matplotlib is imported inside functions, so that nobody pays for it who draws nothing. Its settings are set for the
time of one figure and then set back, one figure at a time; pyplot is not used.

Chinese comes from a font that is shipped, so that a figure is the same on every machine; what that lacks is looked for
in the system's Chinese fonts. An SVG keeps its text as text, and carries the few Chinese glyphs that it needs.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from zhaiju import files
from zhaiju.training.page import COLOURS, DARK, FONT_FILE, FONT_NAME, FONTS, INK, MUTED, RULE, font_face, variable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import LayoutEngine

SYSTEM_FONTS = (
    "Noto Sans CJK TC", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans TC", "Source Han Sans SC",
    "PingFang TC", "PingFang SC", "Heiti TC", "Heiti SC", "Microsoft JhengHei", "Microsoft YaHei",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip

PANEL = (4.6, 3.1)  # inches, width and height
IN_PAGE = (4.0, 2.9)  # the same in a page, where a phone's width must do
PNG_DPI = 160
LABEL_GAP = 0.085  # least distance of two labels beside a panel, as a share of its height
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1, 1.4), (6, 1.6, 1.2, 1.6))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
SHAPES = "●■◆▲▼✚✖"  # the same as text

STYLE: dict[Any, Any] = {
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "zhaiju",
}

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def style() -> Iterator[None]:
    """Draw in the project's style; the settings of matplotlib that were there before are there again after."""
    import matplotlib

    with _ONE_AT_A_TIME, warnings.catch_warnings(), matplotlib.rc_context():
        # A character that no font has is a box in the PNG, and itself in the SVG and the page.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        matplotlib.rcParams["font.family"] = _families()
        yield


def _families() -> list[str]:
    """Fonts in the order in which a character is looked for."""
    from matplotlib.font_manager import fontManager

    known = {entry.name for entry in fontManager.ttflist}
    if FONT_NAME not in known:
        fontManager.addfont(FONT_FILE)
    return ["DejaVu Sans", FONT_NAME, *(name for name in SYSTEM_FONTS if name in known)]


@dataclass(frozen=True, slots=True)
class Look:
    """What tells one of several lines from the others: colour, and without colour dashes and marker."""

    colour: str
    dashes: tuple[float, ...]
    marker: str
    shape: str

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of matplotlib's `plot`."""
        return {"color": self.colour, "linestyle": (0, self.dashes) if self.dashes else "-"}

    def sample(self) -> str:
        """A piece of the line as inline SVG, for a legend in HTML."""
        dashes = " ".join(f"{2 * length:g}" for length in self.dashes)
        colour = variable(self.colour)
        return (
            '<svg width="44" height="14" viewBox="0 0 44 14" aria-hidden="true">'
            f'<path d="M0 7h44" style="stroke:{colour};stroke-width:2;stroke-dasharray:{dashes or "none"}"/>'
            f'<text x="22" y="11.5" text-anchor="middle" style="fill:{colour};font-size:12px">{self.shape}</text></svg>'
        )


def look(index: int) -> Look:
    """The look of the line at a place; the first 28 differ."""
    place = index % len(MARKERS)
    return Look(COLOURS[place], DASHES[index % len(DASHES)], MARKERS[place], SHAPES[place])


def printable(text: str, limit: int = 48) -> str:
    """`text` as a figure can show it: no control character, the middle of a long one left out."""
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return shown if len(shown) <= limit else f"{shown[: limit // 2]}…{shown[len(shown) - limit // 2 + 1 :]}"


def padding() -> LayoutEngine:
    """The layout of a figure: nothing over another, some room between."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)


def canvas(columns: int = 1, rows: int = 1, *, size: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure with its panels, row by row; call it, and all that draws on them, inside `style`."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(size[0] * columns, size[1] * rows), layout=padding())
    panels = drawn.subplots(rows, columns, squeeze=False)
    return drawn, list(panels.flat)


def png(drawn: Figure) -> bytes:
    """The figure as PNG, the same bytes each time."""
    stream = io.BytesIO()
    drawn.savefig(stream, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return stream.getvalue()


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as SVG.

    Attributes:
        file: To be written as a file; the same text each time.
        inline: To stand in a page, as wide as its place, in the page's colours.
    """

    file: str
    inline: str


def picture(drawn: Figure, description: str, name: str = "") -> Picture:
    """The figure as SVG.

    Args:
        drawn: The figure.
        description: What it shows, for those who cannot see it.
        name: Letters, digits and hyphens; no other SVG of the page has it.
    """
    text = _svg(drawn, description)
    head = f"<title>{escape(description)}</title><style>{font_face(text)}</style>"
    file = '<?xml version="1.0" encoding="utf-8"?>\n' + text.replace(">", f">\n {head}", 1) + "\n"
    return Picture(file, _inline(text, name))


def _inline(text: str, name: str) -> str:
    text = re.sub(r"\s*<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would be the whole page's
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 style="stroke-linejoin:round"', text, count=1)
    text = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    for colour in DARK:
        text = re.sub(rf"(?<=: ){colour}\b", variable(colour), text)
    return text


def _svg(drawn: Figure, description: str) -> str:
    stream = io.StringIO()
    drawn.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = stream.getvalue()
    text = text[text.index("<svg") :].rstrip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*", lambda found: f"font-family: {FONTS}", text)
    return re.sub(r"^<svg", lambda found: f'<svg role="img" aria-label={quoteattr(description)}', text)


def write_figure(stem: Path, drawn: Figure, description: str) -> list[Path]:
    """Write `stem`.png and `stem`.svg, each whole or not at all.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    pixels, text = png(drawn), picture(drawn, description).file
    target = stem.with_name(f"{stem.name}.png")
    with files.writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)

    def fill(temporary: Path) -> None:
        temporary.write_bytes(pixels)

    files.atomic_file(target, fill)
    other = stem.with_name(f"{stem.name}.svg")
    files.write_text(other, text)
    return [target, other]


def whole_steps(axes: Axes, highest: float) -> None:
    """Make x the steps of a training, 0 to `highest`."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, max(highest, 1) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("step")


def labels_beside(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write labels to the right of a panel, each with a thin line to its point, none over another.

    Args:
        axes: The panel, its limits set.
        labels: x and y of the point, text and colour of the line, at most about ten.
    """
    low, high = axes.get_ylim()
    ranked = sorted(labels, key=lambda label: label[1])
    heights = spread([(label[1] - low) / ((high - low) or 1) for label in ranked], LABEL_GAP)
    for (x, y, text, colour), height in zip(ranked, heights, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": colour,
                "linewidth": 0.8,
                "alpha": 0.55,
                "shrinkB": 4,
            },
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """`places`, rising, moved apart as little as keeps them `gap` from each other and, if there is room, in 0..1."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else 0.0))
    ceiling = max(1.0, gap * (len(moved) - 1))
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
