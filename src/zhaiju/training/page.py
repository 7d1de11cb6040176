"""The HTML page of figures and tables: one file, no network, light and dark, from a phone's width up."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

INK, MUTED, RULE, PAPER = "#1f2328", "#5c6570", "#d5d9de", "#ffffff"
# Okabe and Ito's colours, which colour-blind readers tell apart; yellow, too pale on white, is left out.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
DARK = {
    INK: "#e6e8ea",
    MUTED: "#a3abb5",
    RULE: "#3b424b",
    PAPER: "#15181c",
    "#0072b2": "#3d9fdc",
    "#d55e00": "#f2803f",
    "#009e73": "#2cc296",
    "#cc79a7": "#dd94bb",
    "#e69f00": "#f0b63a",
    "#56b4e9": "#a5dbff",
}
# The embedded font first: of one that comes later Chromium draws the first text as boxes.
FONTS = (
    "'Zhaiju Sans', system-ui, 'Noto Sans', 'Noto Sans CJK TC', 'PingFang TC', 'Microsoft JhengHei', "
    "'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', 'WenQuanYi Micro Hei', 'DejaVu Sans', sans-serif"
)

FONT_NAME = "Zhaiju Sans"
FONT_FILE = Path(__file__).parent / "fonts" / "ZhaijuSans.otf"

WRAPPED = 40  # characters beyond which a cell is broken into lines

FIRST_CHINESE = "\u2e80"  # where the blocks of Chinese begin

Cell = str | int | float | None


def variable(colour: str) -> str:
    """The CSS variable of a colour; on a dark page it has another value."""
    return f"var(--c{colour[1:]})"


def _variables(values: Mapping[str, str]) -> str:
    return "".join(f"--c{name[1:]}:{value};" for name, value in values.items())


STYLE = f"""
:root{{color-scheme:light dark;{_variables({name: name for name in DARK})}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:{variable(PAPER)};color:{variable(INK)};font:16px/1.5 {FONTS}}}
main{{max-width:100rem;margin:0 auto;padding:1rem clamp(.75rem,3vw,2.5rem) 3rem}}
h1{{font-size:1.5rem;line-height:1.25;margin:.5rem 0 1rem;overflow-wrap:anywhere}}
h2{{font-size:1.15rem;margin:2rem 0 .5rem;overflow-wrap:anywhere}}
p,main>ul{{max-width:45rem}}
.note{{color:{variable(MUTED)};font-size:.875rem}}
.panels{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem 1.5rem}}
figure{{margin:0;max-width:36rem}}
figure svg{{display:block;width:100%;height:auto}}
figcaption{{color:{variable(MUTED)};font-size:.875rem}}
.legend{{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;list-style:none;margin:0 0 1rem;padding:0}}
.legend li{{display:flex;align-items:center;gap:.5rem;min-width:0;overflow-wrap:anywhere}}
.legend svg{{flex:none}}
nav a{{color:inherit}}
.contents{{columns:18rem;padding-left:1.5rem;max-width:60rem}}
pre{{white-space:pre-wrap;max-width:45rem;font-size:.875rem;padding:.5rem .75rem;border:1px solid {variable(RULE)}}}
.scroll{{overflow-x:auto;max-width:100%;margin:.5rem 0 1.5rem}}
table{{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}}
caption{{text-align:left;font-weight:600;padding:.25rem 0;overflow-wrap:anywhere}}
caption span{{display:inline-block;position:sticky;left:0;max-width:calc(100vw - 2rem)}}
th,td{{text-align:left;padding:.3rem .75rem;border-bottom:1px solid {variable(RULE)};white-space:nowrap}}
td.n,th.n{{text-align:right}}
td.w,th.w{{white-space:normal;min-width:13rem;max-width:26rem}}
thead th{{color:{variable(MUTED)};font-weight:500}}
tbody th{{font-weight:400;position:sticky;left:0;background:{variable(PAPER)};background-clip:padding-box}}
tr.marked>*{{font-weight:700;background:color-mix(in srgb,{variable(COLOURS[0])} 16%,{variable(PAPER)})}}
@media (max-width:40rem){{
th,td{{padding:.3rem .4rem}}
thead th{{white-space:normal;vertical-align:bottom;min-width:4rem}}
tbody th{{white-space:normal;min-width:6rem;max-width:8.5rem;overflow-wrap:break-word}}
td.w,th.w{{min-width:10rem}}
tbody th.w{{min-width:7rem}}
}}
@media print{{.scroll{{overflow:visible}}}}
"""


def page(title: str, body: str, *, lang: str = "en") -> str:
    """A whole HTML document.

    Args:
        title: Plain text; the heading too.
        body: HTML to stand under the heading.
        lang: The language of the text, such as "en" or "zh-Hant".
    """
    return f"""<!doctype html>
<html lang="{escape(lang)}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{font_face(title + body)}{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def font_face(text: str) -> str:
    """CSS with the shipped font's glyphs for the Chinese in `text`, a few kB, for readers without a Chinese font."""
    wanted = {character for character in text if character >= FIRST_CHINESE}
    if not wanted:
        return ""
    from fontTools.subset import Options, Subsetter  # type: ignore[import-untyped]
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

    with TTFont(FONT_FILE, lazy=True, recalcTimestamp=False) as font:
        subsetter = Subsetter(Options(hinting=False, layout_features=[], notdef_outline=False))
        subsetter.populate(unicodes=map(ord, wanted))
        subsetter.subset(font)
        font.flavor = "woff"
        stream = io.BytesIO()
        font.save(stream)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"@font-face{{font-family:'{FONT_NAME}';src:url(data:font/woff;base64,{data}) format('woff')}}"


def figure(svg: str, caption: str = "") -> str:
    """An inline SVG with a caption in plain text."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{below}</figure>"


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, marked: int | None = None, mark: str = ""
) -> str:
    """A table that scrolls sideways by itself where the page is too narrow for it.

    Args:
        caption: Plain text.
        columns: Their headings.
        rows: A cell for each column; the first names its row. Fractions get four decimals, None a dash; long texts
            are broken into lines.
        marked: The row to emphasise.
        mark: What is written before its name, so that it is not told by colour alone.
    """
    numeric = [all(is_number(row[place]) for row in rows) for place in range(len(columns))]
    long = [
        any(isinstance(row[place], str) and len(str(row[place])) > WRAPPED for row in rows)
        for place in range(len(columns))
    ]
    classes = [
        ' class="n"' if is_number else ' class="w"' if is_long else ""
        for is_number, is_long in zip(numeric, long, strict=True)
    ]
    head = "".join(f'<th scope="col"{css}>{escape(name)}</th>' for name, css in zip(columns, classes, strict=True))
    lines = []
    for index, row in enumerate(rows):
        cells = [escape(cell(value)) for value in row]
        if index == marked and mark:
            cells[0] = f"{escape(mark)} {cells[0]}"
        line = f'<th scope="row"{classes[0]}>{cells[0]}</th>' + "".join(
            f"<td{css}>{text}</td>" for text, css in zip(cells[1:], classes[1:], strict=True)
        )
        lines.append(f'<tr class="marked">{line}</tr>' if index == marked else f"<tr>{line}</tr>")
    name = escape(caption)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table>'
        f"<caption><span>{name}</span></caption><thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def cell(value: Cell) -> str:
    """A value as a table shows it."""
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def is_number(value: Cell) -> bool:
    """Whether a value stands to the right in its column; an empty one may."""
    if isinstance(value, str):
        return value.replace(",", "").replace(".", "", 1).isdecimal()
    return True
