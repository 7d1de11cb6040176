"""What the command line shows on a terminal: progress on stderr, tables and highlighted quotes on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from zhaiju.data.examples import ReadPrediction

PLAIN_SECONDS = 15.0
AROUND_CHARS = 60
MARKS = ("⟦", "⟧")  # around a quote where there is no colour


def console(*, stderr: bool = False) -> Console:
    """A console that does not reinterpret text: brackets in a paragraph are not markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def silent() -> Iterator[None]:
    """Show nothing: another process of the same work does."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; where that is no terminal, a line every 15 seconds.

    Yields:
        A function to call with the number of units done since the last call and, as `note=`, what to show beside
        the bar.
    """
    if sys.stderr.isatty():
        with _bar(label, total) as advance:
            yield advance
    else:
        yield _lines(label, total)


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Callable[..., None]]:
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
    )
    with rich_progress.Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, note="")

        def advance(done: int = 0, *, note: str | None = None, total: int | None = None) -> None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            if total is not None:
                fields["total"] = total
            bar.update(task, advance=done, **fields)

        yield advance


def _lines(label: str, total: int | None) -> Callable[..., None]:
    began = last = time.monotonic()
    done_so_far = 0
    limit = total
    beside = ""

    def advance(done: int = 0, *, note: str | None = None, total: int | None = None) -> None:
        nonlocal last, done_so_far, limit, beside
        done_so_far += done
        limit = total if total is not None else limit
        beside = note if note is not None else beside
        if time.monotonic() - last >= PLAIN_SECONDS:
            last = time.monotonic()
            of = f"/{limit}" if limit else ""
            print(
                f"{label}: {done_so_far}{of} after {last - began:.0f} s {beside}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    return advance


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout."""
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left", show_edge=False, pad_edge=False, show_header=any(columns))
    for place, column in enumerate(columns):
        numeric = bool(rows) and all(row[place][:1].isdigit() or row[place][:1] in "-" for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console().print(grid)


def figures(values: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a table of figures."""
    return [[name, f"{value:.4f}" if isinstance(value, float) else str(value)] for name, value in values.items()]


def quote(context: str, prediction: ReadPrediction) -> Text:
    """The quote highlighted in as much of its paragraph as fits a few lines."""
    from rich.text import Text

    start, end = prediction.start, prediction.end
    left = max(0, start - AROUND_CHARS)
    right = min(len(context), end + AROUND_CHARS)
    text = Text("…" if left else "")
    text.append(visible(context[left:start]))
    before, after = ("", "") if sys.stdout.isatty() else MARKS
    text.append(before + visible(context[start:end]) + after, style="bold black on yellow")
    text.append(visible(context[end:right]))
    text.append("…" if right < len(context) else "")
    return text


def marked(text: str, start: int, end: int, first: int, last: int) -> Text:
    """`text[first:last]` with `text[start:end]` highlighted in it, on one line."""
    from rich.text import Text

    before, after = ("", "") if sys.stdout.isatty() else MARKS
    line = Text(one_line(text[first:start]))
    line.append(before + one_line(text[start:end]) + after, style="bold black on yellow")
    line.append(one_line(text[end:last]))
    return line


def one_line(text: str) -> str:
    """`visible`, with line breaks and tabs as spaces."""
    return visible(text.replace("\n", " ").replace("\t", " "))


def visible(text: str) -> str:
    """`text` with control characters made visible, so that no document can steer the terminal.

    Spaces of all widths stay as they are, and so do the joiners of emoji and of Indian and Arabic letters.
    """
    return "".join(character if _is_harmless(character) else f"\\x{ord(character):02x}" for character in text)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON in which what could steer a terminal is escaped; read back it is the same value."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return "".join(character if _is_harmless(character) else json.dumps(character)[1:-1] for character in text)


def _is_harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t\u200c\u200d" or unicodedata.category(character) == "Zs"
