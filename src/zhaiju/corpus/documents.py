"""Documents to paragraphs that know their place.

Text: a blank line ends a paragraph, and so does a line that begins with an ideographic space. The lines between are

- one paragraph, joined, where they are hard-wrapped: the next word would not have fitted (see `_wrapped`);
- else a paragraph each, where any of them is longer than a terminal is wide, as Chinese texts often are written;
- else one paragraph that keeps its line breaks: a verse, an address.

A join puts nothing between two Chinese or Japanese characters and one space between others, and drops the white space
around the break; what is joined is what is quoted. Markdown, HTML and DOCX bring their own paragraphs. A heading is no
paragraph but the `heading` of those below it, unless none follows before the next heading. List items are a paragraph
each, short ones that follow each other in a list are one; a table is one, a row per line. A paragraph longer than
`Limits.max_paragraph_characters` is cut at ends of sentences, into pieces that together are the paragraph.

The libraries for PDF, DOCX, HTML and Markdown are imported when the first such file is read.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import re
import stat
import sys
import time
import unicodedata
import warnings
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zhaiju.data.examples import check_text
from zhaiju.errors import ConfigError, DataError, verbatim

if TYPE_CHECKING:
    from markdown_it.token import Token
    from selectolax.lexbor import LexborNode

STDIN = "-"
STDIN_NAME = "<stdin>"
TEXT_SUFFIXES = (".txt", ".text")
MARKDOWN_SUFFIXES = (".md", ".markdown")
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
SUFFIXES = (*TEXT_SUFFIXES, *MARKDOWN_SUFFIXES, *HTML_SUFFIXES, ".pdf", ".docx", ".json")
DATA_SUFFIXES = (".jsonl", ".ndjson")

SHORT_ITEM = 80  # characters of a list item that is joined with its neighbours
CELLS = " | "
_TERMINAL = 84  # columns, the widest line that is no paragraph by itself: 80, a closing mark or two beyond
_NARROWEST_WRAP = 40  # columns; lines of equal length below that are verse
_WIDEST_WRAP = 130
_ENTRIES = 10_000  # files in a DOCX
_RATIO = 300  # of a file in a DOCX to what it takes there, for files above _RATIO_FROM
_RATIO_FROM = 1 << 20
_MARKUP = 8_000_000  # of `<`, `=` and `&` in a DOCX or HTML file: each may become a node of 200 bytes
_DEPTH = 100  # of Markdown blocks in each other
_OPEN_TAGS = 5_000  # lexbor's time grows with the square of the depth


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document may be at most; more is a `DataError`.

    Attributes:
        max_file_bytes: Size of the file.
        max_characters: Characters of its text.
        max_pages: Pages of a PDF.
        max_unpacked_bytes: Size of a DOCX once unpacked, as it declares it.
        max_seconds: Computing time that a PDF, DOCX, HTML or Markdown file may take, looked at between its parts.
        max_paragraph_characters: Characters of a paragraph; a longer one is no error but is cut.
    """

    max_file_bytes: int = 64 << 20
    max_characters: int = 20_000_000
    max_pages: int = 2_000
    max_unpacked_bytes: int = 256 << 20
    max_seconds: int = 120
    max_paragraph_characters: int = 1_200

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph, or a piece of a long one.

    Attributes:
        text: What quotes are slices of.
        document: The path as it was given or found, or "<stdin>".
        line: Of its first character, from 1, for text and Markdown.
        page: From 1, for PDF.
        number: Of the paragraph in the document, headings included, from 1, for DOCX and HTML; from 0 for a JSON list.
        heading: The nearest heading above it.
    """

    text: str
    document: str
    line: int | None = None
    page: int | None = None
    number: int | None = None
    heading: str | None = None

    @property
    def source(self) -> str:
        """The place as a reader would look it up: "notes/a.md:12", "paper.pdf p. 3", "letter.docx ¶7"."""
        if self.page is not None:
            return f"{self.document} p. {self.page}"
        if self.line is not None:
            return f"{self.document}:{self.line}"
        if self.number is None:
            return self.document
        if self.document.lower().endswith(".json"):
            return f"{self.document}[{self.number}]"
        return f"{self.document} ¶{self.number}"


def find_documents(
    paths: Iterable[str | Path], *, warn: Callable[[str], None], none_allowed: bool = False
) -> Iterator[Path]:
    """Every document that `paths` name, each once.

    A file is taken as it is named, "-" too. A folder is walked in the order of names: files with a suffix of
    `SUFFIXES` (of JSON files, lists of texts), nothing hidden, no link and nothing that is not a plain file.

    Args:
        paths: Files and folders.
        warn: Called with a line about each link and each folder that is passed over.
        none_allowed: No document at all is no error.

    Raises:
        DataError: a path does not exist or cannot be read, or there is no document at all.
    """
    seen: set[str] = set()
    for path in map(Path, paths):
        for found in _walk(path, warn) if _is_folder(path) else [path]:
            real = os.path.realpath(found)
            if real not in seen:
                seen.add(real)
                yield found
    if not seen and not none_allowed:
        raise DataError("no document found", expected=f"files that end in {' '.join(SUFFIXES)}")


def read_documents(paths: Sequence[str | Path], *, warn: Callable[[str], None]) -> Iterator[list[Paragraph]]:
    """The paragraphs of every document that `paths` name, one document after another.

    Args:
        paths: Files and folders; "-" is stdin.
        warn: Called with a line about what is passed over, among it each file of a folder that cannot be read.

    Raises:
        DataError: a path does not exist or cannot be read, or there is no document at all.
    """
    named = set(map(Path, paths))
    for path in find_documents(paths, warn=warn):
        try:
            yield read_document(path)
        except DataError as error:
            if path in named:
                raise
            warn(str(error))


def read_document(path: str | Path, *, limits: Limits | None = None) -> list[Paragraph]:
    """The paragraphs of one document, by its suffix; any other suffix is read as text. "-" is stdin.

    Raises:
        DataError: it cannot be read, is damaged, encrypted, no text, or beyond a limit.
    """
    limits = limits or Limits()
    path = Path(path)
    if str(path) == STDIN:
        return read_stdin(sys.stdin.buffer, limits=limits)
    _check_suffix(str(path))
    try:
        with path.open("rb") as stream:
            data = _read(stream, str(path), limits)
    except (OSError, ValueError) as error:
        raise DataError("cannot be read", file=path, found=verbatim(_reason(error))) from None
    return parse_document(data, str(path), limits=limits)


def parse_document(data: bytes, name: str, *, limits: Limits | None = None) -> list[Paragraph]:
    """The paragraphs of a document whose bytes are here, by the suffix of its name.

    Raises:
        DataError: it is damaged, encrypted, no text, or beyond a limit.
    """
    limits = limits or Limits()
    _check_suffix(name)
    if len(data) > limits.max_file_bytes:
        raise _too_large(name, f"{len(data):,} bytes", f"{limits.max_file_bytes:,}")
    return _READERS.get(Path(name).suffix.lower(), _read_text)(data, _Collector(name, limits))


def read_stdin(stream: IO[bytes], *, limits: Limits | None = None) -> list[Paragraph]:
    """The paragraphs of a text that comes through a pipe.

    Raises:
        DataError: it is no text, or beyond a limit.
    """
    limits = limits or Limits()
    return _read_text(_read(stream, STDIN_NAME, limits), _Collector(STDIN_NAME, limits))


def _check_suffix(name: str) -> None:
    suffix = Path(name).suffix.lower()
    if suffix in DATA_SUFFIXES:
        raise DataError(
            f"a {suffix} file holds data, not paragraphs", file=name, expected="a document, or a JSON list of texts"
        )


def cut(text: str, limit: int) -> list[str]:
    """Cut a text into pieces of at most `limit` characters that together are the text.

    Each cut is after the end of a sentence or a line, the one that makes the pieces most alike; where there is none,
    after a comma or a space; where there is none either, between two characters.
    """
    pieces = []
    start = 0
    while len(text) - start > limit:
        window = text[start : start + limit]
        rest = len(text) - start
        target = -(-rest // -(-rest // limit))  # as many pieces as needed, all of a size
        ends = _ends(_SENTENCE_END, window) or _ends(_PAUSE, window)
        stop = min(ends, key=lambda end: abs(end - target)) if ends else _between(text, start, start + limit) - start
        pieces.append(text[start : start + stop])
        start += stop
    return [*pieces, text[start:]]


CLOSERS = "”’」』）】》〉〕\"')\\]］"  # what may follow a full stop, for a class of a regular expression
_SENTENCE_END = re.compile(rf"(?:[。！？!?…]+[{CLOSERS}]*|\.[{CLOSERS}]*(?=\s)|\n)\s*")
_ENDS_SENTENCE = re.compile(rf"[。！？!?….：:][{CLOSERS}]*$")
_PAUSE = re.compile(r"[，、；：,;:]\s*|\s+")
_JOINERS = "\u200d\ufe0e\ufe0f"


def _ends(mark: re.Pattern[str], window: str) -> list[int]:
    """Where pieces of a window may end: not at its edge, where the mark may go on behind it."""
    return [match.end() for match in mark.finditer(window) if match.end() < len(window)]


def _between(text: str, start: int, stop: int) -> int:
    """The last place up to `stop` that does not part a character from its accents, or `stop`."""
    place = stop
    while place > start and (unicodedata.combining(text[place]) or text[place] in _JOINERS):
        place -= 1
    return place if place > start else stop


# --- from blocks to paragraphs


@dataclass(slots=True)
class _Block:
    """A paragraph before it is cut.

    Attributes:
        text: The whole of it.
        starts: For each of its lines in the file, the offset where it begins and the line's number; may be empty.
        page: Of a PDF.
        number: Filled in by the collector.
    """

    text: str
    starts: list[tuple[int, int]]
    page: int | None = None
    number: int | None = None

    def line_at(self, offset: int) -> int | None:
        """The line in the file that holds the character at `offset`."""
        if not self.starts:
            return None
        return self.starts[max(0, bisect_right(self.starts, offset, key=lambda start: start[0]) - 1)][1]


class _Collector:
    """Takes a document's blocks in reading order and gives its paragraphs."""

    def __init__(self, document: str, limits: Limits) -> None:
        self.document = document
        self.limits = limits
        self.numbered = False
        self._paragraphs: list[Paragraph] = []
        self._characters = 0
        self._count = 0
        self._heading: _Block | None = None
        self._heading_used = True
        self._items: list[_Block] = []

    def heading(self, block: _Block) -> None:
        """A heading begins; the one before it becomes a paragraph if nothing stood below it."""
        if not block.text.strip():
            return
        self._end_section()
        self._number(block)
        self._heading, self._heading_used = block, False

    def block(self, block: _Block) -> None:
        """A paragraph that stands by itself."""
        self.end_list()
        self._number(block)
        self._emit(block)

    def item(self, block: _Block) -> None:
        """A list item; short ones wait for their neighbours."""
        self._number(block)
        if len(block.text) > SHORT_ITEM:
            self.end_list()
            self._emit(block)
        elif block.text.strip():
            self._items.append(block)

    def end_list(self) -> None:
        """The short items that wait become one paragraph."""
        if self._items:
            joined = _merged(self._items)
            self._items = []
            self._emit(joined)

    def finish(self) -> list[Paragraph]:
        """All paragraphs, once the document has ended."""
        self._end_section()
        return self._paragraphs

    def _end_section(self) -> None:
        self.end_list()
        if self._heading is not None and not self._heading_used:
            lonely, self._heading = self._heading, None
            self._emit(lonely)

    def _number(self, block: _Block) -> None:
        if self.numbered and block.text.strip():
            self._count += 1
            block.number = self._count

    def _emit(self, block: _Block) -> None:
        self._characters += len(block.text)
        _check_length(self._characters, self.document, self.limits)
        offset = 0
        for piece in cut(block.text, self.limits.max_paragraph_characters):
            if visible := piece.lstrip():
                line = block.line_at(offset + len(piece) - len(visible))
                heading = None if self._heading is None else self._heading.text
                self._paragraphs.append(Paragraph(piece, self.document, line, block.page, block.number, heading))
                self._heading_used = True
            offset += len(piece)


class _TooSlow(BaseException):
    """Time is up: no Exception, which a library might take for a fault of the part of a page it is at."""


class _Clock:
    """Raises `_TooSlow` once a document has taken its computing time, that of other threads not counted."""

    def __init__(self, limits: Limits) -> None:
        self._until = time.thread_time() + limits.max_seconds

    def check(self, *_: object) -> None:
        """Raise if time is up; may be given anything, as a visitor or a rule of a parser is."""
        if time.thread_time() > self._until:
            raise _TooSlow

    def rule(self, *_: object) -> bool:
        """The same as a rule of a parser that never applies."""
        self.check()
        return False


@contextmanager
def _timed(collector: _Collector) -> Iterator[_Clock]:
    """A clock for what is done inside, whose end is a `DataError`."""
    try:
        yield _Clock(collector.limits)
    except _TooSlow:
        seconds = collector.limits.max_seconds
        raise DataError(
            "takes too long to read", file=collector.document, expected=f"at most {seconds} seconds of computing"
        ) from None


_Reader = Callable[[bytes, _Collector], list[Paragraph]]
_Lines = Sequence[tuple[str, int | None]]  # a text and its line in the file


def _joined(lines: _Lines, breaks: Sequence[bool] = ()) -> _Block:
    """Lines as one block: with a line break after those whose `breaks` say so, else by `_joint`."""
    text: list[str] = []
    starts: list[tuple[int, int]] = []
    length = 0
    last = ""
    for index, (piece, line) in enumerate(lines):
        if text:
            joint = "\n" if breaks and breaks[index - 1] else _joint(last, piece)
            text.append(joint)
            length += len(joint)
        if line is not None:
            starts.append((length, line))
        text.append(piece)
        length += len(piece)
        last = piece or last
    return _Block("".join(text), starts)


def _kept(lines: _Lines) -> _Block:
    """Lines as one block that keeps their breaks."""
    return _joined(lines, [True] * len(lines))


def _merged(blocks: Sequence[_Block]) -> _Block:
    """Blocks as one, a line for each, with the first one's page and number."""
    starts = []
    length = 0
    for block in blocks:
        starts += [(length + offset, line) for offset, line in block.starts]
        length += len(block.text) + 1
    return _Block("\n".join(block.text for block in blocks), starts, blocks[0].page, blocks[0].number)


_MARKS = "“”‘’—…·"  # narrow in one font, wide in another


def _is_wide(character: str) -> bool:
    """Whether it is a Chinese or Japanese character or mark; Hangul is written with spaces."""
    return unicodedata.east_asian_width(character) in "WF" and not "\uac00" <= character <= "\ud7a3"


def _joint(left: str, right: str) -> str:
    """What takes a line break's place: nothing beside Chinese and Japanese, a space elsewhere."""
    if not left or not right or (left.endswith("-") and right[0].isalpha()):
        return ""
    before, after = left[-1], right[0]
    wide = (_is_wide(before) or before in _MARKS) and (_is_wide(after) or after in _MARKS)
    return "" if wide and (_is_wide(before) or _is_wide(after)) else " "


def _joined_text(texts: Iterable[str]) -> str:
    return _joined([(text, None) for text in texts]).text


# --- plain text


def _read_text(data: bytes, collector: _Collector) -> list[Paragraph]:
    for block in _text_blocks(_text(data, collector)):
        collector.block(block)
    return collector.finish()


def _text_blocks(text: str) -> Iterator[_Block]:
    run: list[tuple[str, int | None]] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or raw.startswith("\u3000"):
            yield from _run_blocks(run)
            run = []
        if line:
            run.append((line, number))
    yield from _run_blocks(run)


def _run_blocks(run: _Lines) -> Iterator[_Block]:
    """The blocks of lines with no blank one between them."""
    texts = [text for text, _ in run]
    if not run:
        return
    if _wrapped(texts):
        yield _joined(run)
    elif any(_width(text) > _TERMINAL for text in texts):
        yield from (_joined([line]) for line in run)
    else:
        yield _kept(run)


def _wrapped(lines: Sequence[str]) -> bool:
    """Whether lines were broken for want of room.

    So it is where the widest has 40 to 130 columns, most of the others had no room for the next one's first word, and
    the breaks do not fall on ends of sentences, as they do where each line is a sentence or a paragraph of its own. A
    line that is one long word, such as a link, may be wider.
    """
    widths = [_width(line) for line in lines]
    widest = max((width for width, line in zip(widths, lines, strict=True) if _breakable(line)), default=0)
    if len(lines) < 2 or not _NARROWEST_WRAP <= widest <= _WIDEST_WRAP:
        return False
    forced = sum(_forced(line, following, widest) for line, following in pairwise(lines))
    ended = sum(bool(_ENDS_SENTENCE.search(line)) for line in lines[:-1])
    breaks = len(lines) - 1
    return forced >= 0.75 * breaks and ended < 0.5 * breaks


def _forced(line: str, following: str, widest: float) -> bool:
    """Whether the next line's first word would not have fitted; Chinese marks may not begin a line, so two do."""
    first = following[:2] if _is_wide(following[0]) else following.split(maxsplit=1)[0]
    return _width(line) + len(_joint(line, following)) + _width(first) > widest


def _breakable(line: str) -> bool:
    return " " in line or any(_is_wide(character) for character in line[: _WIDEST_WRAP + 1])


def _width(text: str) -> int:
    """Columns in a terminal; of a long text, some number that is wide enough."""
    text = text[: _WIDEST_WRAP + 1]
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


# --- JSON: the course's context files

_LIST_OF_TEXTS = re.compile(rb'(?:\xef\xbb\xbf)?\s*\[\s*["\]]')


def _read_context(data: bytes, collector: _Collector) -> list[Paragraph]:
    paragraphs = []
    try:
        texts = json.loads(_text(data, collector))
    except (ValueError, RecursionError) as error:
        raise _damaged("JSON", collector.document, error) from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError("holds no paragraphs", file=collector.document, expected="a JSON list of texts")
    for index, text in enumerate(texts):
        try:
            check_text(text, "paragraph", empty_allowed=True)
        except DataError as error:
            raise error.located(file=collector.document, row=str(index)) from None
        pieces = cut(text, collector.limits.max_paragraph_characters)
        paragraphs += [Paragraph(piece, collector.document, number=index) for piece in pieces if piece.strip()]
    return paragraphs


# --- Markdown

_FRONT_MATTER = re.compile(r"---[ \t]*\n((?:[ \t]*\S[^\n]*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_BREAK_TAG = re.compile(r"<br\s*/?>", re.IGNORECASE)


def _read_markdown(data: bytes, collector: _Collector) -> list[Paragraph]:
    from markdown_it import MarkdownIt

    text = _text(data, collector)
    if front := _FRONT_MATTER.match(text):
        text = "\n" * front.group().count("\n") + text[front.end() :]  # the lines below keep their numbers
        collector.block(_kept(list(_numbered_lines(front[1].rstrip("\n"), 2))))
    try:
        parser = MarkdownIt("commonmark", {"maxNesting": _DEPTH}).enable(["table", "strikethrough"])
        with _timed(collector) as clock:  # brackets, for one, take time that grows with their number's square
            parser.inline.ruler.before("text", "clock", clock.rule)
            parser.block.ruler.before("table", "clock", clock.rule)
            tokens = parser.parse(text)
    except RecursionError as error:
        raise _damaged("Markdown", collector.document, error) from None
    if any(token.level >= _DEPTH - 1 for token in tokens):
        raise DataError("blocks are nested too deeply", file=collector.document, expected=f"at most {_DEPTH}")
    _markdown_blocks(tokens, collector)
    return collector.finish()


def _markdown_blocks(tokens: Sequence[Token], collector: _Collector) -> None:
    depth = 0  # of lists
    kind = ""  # of the element that an inline token fills
    rows: list[_Block] = []
    row: list[str] = []
    for token in tokens:
        first = token.map[0] + 1 if token.map else 1
        add = collector.item if depth else collector.block
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                depth += 1
            case "bullet_list_close" | "ordered_list_close":
                depth -= 1
                if not depth:
                    collector.end_list()
            case "heading_open" | "paragraph_open" | "th_open" | "td_open":
                kind = token.tag
            case "tr_open":
                row, row_line = [], first
            case "tr_close":
                rows.append(_joined([(CELLS.join(row), row_line)]))
            case "table_close":
                add(_merged(rows))
                rows = []
            case "inline":
                block = _inline_block(token.children or [], first)
                if kind in ("th", "td"):
                    row.append(block.text.replace("\n", " "))
                elif kind == "p":
                    add(block)
                else:
                    collector.heading(block)
            case "fence" | "code_block":
                begin = first + (token.type == "fence")
                add(_kept(list(_numbered_lines(token.content.rstrip("\n"), begin))))
            case "html_block":
                for block in _html_texts(token.content, collector.document):
                    add(_Block(block.text, [(0, first)]))


def _numbered_lines(text: str, first: int) -> Iterator[tuple[str, int]]:
    """Each line with its number."""
    return ((line, number) for number, line in enumerate(text.split("\n"), start=first))


def _inline_block(tokens: Sequence[Token], line: int) -> _Block:
    """The text of inline tokens: of links and images what is read, of HTML only what is not a tag."""
    lines: list[tuple[str, int | None]] = []
    breaks: list[bool] = []
    current = ""
    for token in _inline_tokens(tokens):
        soft, hard = token.type == "softbreak", token.type == "hardbreak"
        tag = token.type == "html_inline" and bool(_BREAK_TAG.fullmatch(token.content))
        if soft or hard or tag:
            lines.append((current.strip(" "), line))
            breaks.append(not soft)
            current = ""
            line += not tag
        elif token.type != "html_inline":
            current += token.content
    return _joined([*lines, (current.strip(" "), line)], breaks)


def _inline_tokens(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        if token.type == "image":
            yield from _inline_tokens(token.children or [])
        else:
            yield token


# --- HTML


def _names(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


_DROPPED = _names("head script style noscript template iframe noembed noframes")
_HEADINGS = _names("h1 h2 h3 h4 h5 h6")
_LISTS = _names("ul ol dl menu")
_CELLS = _names("td th caption")
_LAYOUT = _HEADINGS | _LISTS | _names("table pre blockquote")  # a table that holds one is no table of data
_BLOCKS = _LAYOUT | _CELLS
_BLOCKS |= _names(
    "html body address article aside details dialog dd div dt fieldset figcaption figure footer form header"
)
_BLOCKS |= _names("hgroup hr li legend main nav option p search section select summary tbody textarea tfoot thead tr")
_UNCLOSED = _names("area base br col embed hr img input link meta source track wbr")  # void
_UNCLOSED |= _names("p li dt dd tr td th option thead tbody tfoot")  # closed by the next one of the kind
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_BR = "\0"  # no text has it, so it can stand for <br> until white space is collapsed
_SPACE = re.compile(r"[ \t\n\f\r]+")
_META_CHARSET = re.compile(rb"""<(?:meta|\?xml)\b[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_CHARSETS = re.compile(r"utf-8|ascii|(gb|big5|cp|iso8859|shift|euc|koi8)[\w-]*")


def _read_html(data: bytes, collector: _Collector) -> list[Paragraph]:
    collector.numbered = True
    text = _text(data, collector, declared=_declared_charset(data))
    with _timed(collector) as clock:
        _html_blocks(text, collector, clock)
    return collector.finish()


def _html_texts(html: str, document: str) -> list[_Block]:
    """The paragraphs of a piece of HTML inside Markdown, whose headings and lists count for nothing."""
    inside = _Collector(document, Limits(max_paragraph_characters=sys.maxsize))
    with _timed(inside) as clock:
        _html_blocks(html, inside, clock)
    return [_Block(paragraph.text, []) for paragraph in inside.finish()]


def _html_blocks(html: str, collector: _Collector, clock: _Clock) -> None:
    from selectolax.lexbor import LexborHTMLParser

    _check_depth(html, collector.document)
    root = LexborHTMLParser(html).root
    if root is None:
        return
    layout = _layout_tables(root, clock)
    buffer: list[str] = []
    lists = pre = 0
    heading = False
    rows: list[list[str]] | None = None

    def taken() -> list[str]:
        raw = "".join(buffer)
        buffer.clear()
        return list(_html_paragraphs(raw, keep=pre > 0))

    def add(text: str) -> None:
        (collector.heading if heading else collector.item if lists else collector.block)(_Block(text, []))

    for node, enters in _steps(root, clock):
        tag = node.tag or ""
        if tag == "-text":
            if enters:
                buffer.append(node.text_content or "")
        elif tag == "br":
            buffer.extend([_BR] if enters else [])
        elif rows is not None and tag in _BLOCKS:  # in a table of data
            if tag in _CELLS and not enters:
                rows[-1].append(_joined_text(" ".join(taken()).split("\n")))
            elif tag not in _CELLS:
                buffer.append(" ")
            if tag in ("tr", "caption") and not enters:
                rows.append([])
            elif tag == "table":
                add("\n".join(CELLS.join(row) for row in rows if any(row)))
                rows = None
        elif tag in _BLOCKS:
            for text in taken():
                add(text)
            if tag in _LISTS:
                lists += 1 if enters else -1
                if not lists:
                    collector.end_list()
            elif tag == "pre":
                pre += 1 if enters else -1
            elif tag in _HEADINGS:
                heading = enters
            elif tag == "table" and node.mem_id not in layout:
                rows = [[]]


def _html_paragraphs(raw: str, *, keep: bool) -> Iterator[str]:
    """The text between two block tags: its white space collapsed unless it is to be kept, cut at two <br> in a row."""
    if keep:
        yield raw.replace(_BR, "\n").strip("\n")
        return
    lines: list[str] = []
    for part in raw.split(_BR):
        line = _collapsed(part)
        if line:
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _collapsed(text: str) -> str:
    """White space as one space, and as none where it is a line break between two Chinese characters."""

    def space(match: re.Match[str]) -> str:
        if "\n" not in match.group():
            return " "
        return _joint(text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1])

    text = text.strip(" \t\n\f\r")
    return _SPACE.sub(space, text)


def _steps(root: LexborNode, clock: _Clock) -> Iterator[tuple[LexborNode, bool]]:
    """Each visible node as it is entered and as it is left, without recursion."""
    node, enters = root, True
    while True:
        clock.check()
        if enters and _is_dropped(node):
            enters = False
        else:
            yield node, enters
        if enters and (child := node.first_child) is not None:
            node = child
            continue
        if enters:
            yield node, False
        if node.mem_id == root.mem_id:
            return
        if (following := node.next) is not None:
            node, enters = following, True
        elif (parent := node.parent) is not None:
            node, enters = parent, False
        else:
            return


def _is_dropped(node: LexborNode) -> bool:
    tag = node.tag or ""
    if tag.startswith("-"):
        return False
    attributes = node.attributes
    return tag in _DROPPED or "hidden" in attributes or bool(_HIDDEN_STYLE.search(attributes.get("style") or ""))


def _layout_tables(root: LexborNode, clock: _Clock) -> set[int]:
    """The tables that hold headings, lists or tables."""
    layout = set()
    tables: list[int] = []
    for node, enters in _steps(root, clock):
        if node.tag not in _LAYOUT:
            continue
        if enters and tables:
            layout.add(tables[-1])
        if node.tag == "table":
            if enters:
                tables.append(node.mem_id)
            else:
                tables.pop()
    return layout


def _check_depth(html: str, document: str) -> None:
    if (marks := sum(map(html.count, "<=&"))) > _MARKUP:
        raise _too_large(document, f"{marks:,} marks", f"{_MARKUP:,}")
    depth = 0
    for closes, name in (tag.groups() for tag in _TAG.finditer(html)):
        if name.lower() not in _UNCLOSED:
            depth = max(0, depth + (-1 if closes else 1))
            if depth > _OPEN_TAGS:
                raise DataError("tags are nested too deeply", file=document, expected=f"at most {_OPEN_TAGS:,}")


def _declared_charset(data: bytes) -> str | None:
    """The codec of the encoding that an HTML or XML file says it has, if it is one that web pages are written in."""
    match = _META_CHARSET.search(data[:4096])
    try:
        name = codecs.lookup(match[1].decode("ascii")).name if match else ""
    except (LookupError, ValueError):
        return None
    name = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "iso8859-1": "cp1252"}.get(name, name)
    return name if _CHARSETS.fullmatch(name) else None


# --- PDF


def _read_pdf(data: bytes, collector: _Collector) -> list[Paragraph]:
    document = collector.document
    with _quiet("pypdf"), _timed(collector) as clock:
        from pypdf import PasswordType, PdfReader
        from pypdf.errors import DependencyError

        try:
            reader = PdfReader(io.BytesIO(data))
            locked = reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED
            pages = 0 if locked else len(reader.pages)
        except DependencyError:
            raise DataError("is encrypted with AES, which needs the package cryptography", file=document) from None
        except Exception as error:  # of whatever kind: the file is hostile or the library is at fault
            raise _damaged("PDF", document, error) from error
        if locked:
            raise DataError("is encrypted", file=document, expected="a PDF that opens without a password")
        if pages > collector.limits.max_pages:
            raise _too_large(document, f"{pages:,} pages", f"{collector.limits.max_pages:,}")
        blank = True
        for number in range(pages):
            clock.check()
            try:
                text = reader.pages[number].extract_text(visitor_operand_before=clock.check)
            except Exception as error:
                raise _damaged("PDF", f"{document} p. {number + 1}", error) from error
            for block in _page_blocks(_valid(text)):
                block.page = number + 1
                collector.block(block)
                blank = False
    if blank and pages:
        raise DataError(
            "has no text layer", file=document, expected="a PDF with text, not pictures of it (OCR it first)"
        )
    return collector.finish()


def _page_blocks(text: str) -> Iterator[_Block]:
    """Paragraphs of a page, which seldom has blank lines.

    A line that leaves room for the next one's first word ends a paragraph where it ends a sentence; else its break is
    kept, for it is a heading, an item or a row. Full is what a quarter of the lines reach.
    """
    lines = [line.strip() for line in re.split(r"\r\n?|\n", text)]
    widths = sorted(_width(line) for line in lines if line)
    if not widths:
        return
    full = 0.9 * max(widths[3 * len(widths) // 4], _NARROWEST_WRAP)
    run: list[tuple[str, int | None]] = []
    breaks: list[bool] = []
    for line, following in pairwise([*lines, ""]):
        if line:
            run.append((line, None))
        forced = bool(line and following) and _forced(line, following, full)
        if run and (not following or (not forced and _ENDS_SENTENCE.search(line))):
            yield _joined(run, breaks)
            run, breaks = [], []
        elif run:
            breaks.append(not forced)


def _valid(text: str) -> str:
    """Text without halves of surrogate pairs and NUL, which fonts with a wrong table give."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "\ufffd")


# --- DOCX

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_GONE = {f"{_W}del", f"{_W}moveFrom", f"{_W}pPr", f"{_W}rPr", _FALLBACK}  # deleted, moved away, or said twice
_CHARACTERS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "\u2011"}
_TEXT, _P, _TABLE, _ROW, _CELL, _BOX = (f"{_W}{name}" for name in ("t", "p", "tbl", "tr", "tc", "txbxContent"))
_HEADING_STYLE = re.compile(r"(Heading( \d)?|Title)\Z", re.IGNORECASE)


def _read_docx(data: bytes, collector: _Collector) -> list[Paragraph]:
    document = collector.document
    collector.numbered = True
    _check_zip(data, document, collector.limits)
    try:
        from docx import Document

        opened = Document(io.BytesIO(data))
        styles = {style.style_id: style.name or "" for style in opened.styles}
        with _timed(collector) as clock:
            blocks = list(_docx_blocks(opened.element.body, styles, clock))
    except DataError:
        raise
    except Exception as error:  # zipfile, lxml and python-docx each have their own
        raise _damaged("DOCX", document, error) from error
    for text, style in blocks:
        block = _Block(text, [])
        if _HEADING_STYLE.match(style):
            collector.heading(block)
        elif style.startswith("List"):
            collector.item(block)
        elif text.strip():
            collector.block(block)
    return collector.finish()


def _check_zip(data: bytes, document: str, limits: Limits) -> None:
    """Refuse an archive that would unpack to too much, by its directory; zipfile reads no more than that says."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_entries(archive.infolist(), document, limits)
            _check_markup(archive, document)
    except DataError:
        raise
    except Exception as error:
        raise _damaged("DOCX", document, error) from error


def _check_entries(entries: list[zipfile.ZipInfo], document: str, limits: Limits) -> None:
    if len(entries) > _ENTRIES:
        raise _too_large(document, f"{len(entries):,} files in it", f"{_ENTRIES:,}")
    size = sum(entry.file_size for entry in entries)
    if size > limits.max_unpacked_bytes:
        raise _too_large(document, f"{size:,} bytes unpacked", f"{limits.max_unpacked_bytes:,}")
    for entry in entries:
        if entry.file_size > max(_RATIO_FROM, _RATIO * entry.compress_size):
            ratio = entry.file_size // max(1, entry.compress_size)
            raise _too_large(document, f"{entry.filename} packed {ratio:,} to 1", f"{_RATIO} to 1")


def _check_markup(archive: zipfile.ZipFile, document: str) -> None:
    """Refuse XML of too many nodes, each many times as large as its few bytes, before a parser makes them."""
    marks = 0
    for entry in archive.infolist():
        with archive.open(entry) as stream:
            chunk = stream.read(1 << 20)
            start = chunk[:200].lstrip(codecs.BOM_UTF8 + codecs.BOM_UTF16_LE + b"\0 \t\r\n")
            if start.startswith(_EBCDIC):
                raise _encoded(entry.filename, document, "EBCDIC")
            if not start.startswith(b"<"):  # a picture
                continue
            if (encoding := _ENCODING.match(start.replace(b"\0", b""))) and not _UTF.fullmatch(encoding[1]):
                raise _encoded(entry.filename, document, encoding[1].decode("ascii", "replace"))
            while chunk:
                marks += sum(map(chunk.count, (b"<", b"=", b"&")))
                if marks > _MARKUP:
                    raise _too_large(document, f"more than {_MARKUP:,} marks in its XML", f"{_MARKUP:,}")
                chunk = stream.read(1 << 20)


_EBCDIC = b"\x4c\x6f\xa7\x94"  # how XML begins there
_ENCODING = re.compile(rb"""<\?xml\b[^>]*?\bencoding\s*=\s*["']([^"'>]*)""")
_UTF = re.compile(rb"utf-?(8|16(le|be)?)|us-ascii", re.IGNORECASE)


def _encoded(part: str, document: str, found: str) -> DataError:
    """Encodings in which `<` may be other bytes hide how much there is; the format does not allow them."""
    return DataError(
        "has XML in a strange encoding", file=document, field=part, found=found, expected="UTF-8 or UTF-16"
    )


def _docx_blocks(parent: Any, styles: dict[str, str], clock: _Clock) -> Iterator[tuple[str, str]]:
    """Text and style of the paragraphs and tables in an element, in reading order; text boxes after their paragraph."""
    for element in parent:
        clock.check()
        if element.tag == _P:
            yield _docx_text(element).strip(), styles.get(element.style or "", "")
            for box in _nearest(element, _BOX):
                yield from _docx_blocks(box, styles, clock)
        elif element.tag == _TABLE:
            rows = [
                [_docx_cell(cell, styles, clock) for cell in _nearest(row, _CELL)] for row in _nearest(element, _ROW)
            ]
            yield "\n".join(CELLS.join(row) for row in rows if any(row)), ""
        elif element.tag not in _GONE:  # content controls, tracked insertions
            yield from _docx_blocks(element, styles, clock)


def _docx_cell(cell: Any, styles: dict[str, str], clock: _Clock) -> str:
    """All text in a cell on one line."""
    return _joined_text(text.replace("\n", " ") for text, _ in _docx_blocks(cell, styles, clock) if text)


def _nearest(parent: Any, tag: str) -> Iterator[Any]:
    """The elements of a kind in an element, without those inside each other."""
    for child in parent:
        if child.tag == tag:
            yield child
        elif child.tag not in _GONE:
            yield from _nearest(child, tag)


def _docx_text(element: Any) -> str:
    """The text inside an element as it is printed: hyperlinks and tracked insertions too, text boxes not."""
    if element.tag == _TEXT:
        return element.text or ""
    if element.tag in _CHARACTERS:
        return _CHARACTERS[element.tag]
    return "".join(_docx_text(child) for child in element if child.tag not in _GONE and child.tag != _BOX)


# --- bytes to text


def _text(data: bytes, collector: _Collector, *, declared: str | None = None) -> str:
    """A text file's content, its line breaks all LF.

    The encoding is what a byte order mark says; else UTF-8 if all of it is; else what an HTML file declares; else
    GB18030 or Big5, whichever gives more common characters.

    Raises:
        DataError: it is in none of these, has a NUL, or is too long.
    """
    document = collector.document
    text = _decode(data, document, declared)
    if (place := text.find("\0")) >= 0:
        raise DataError("is no text", file=document, found=verbatim(f"NUL at character {place}"))
    _check_length(len(text), document, collector.limits)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes, document: str, declared: str | None) -> str:
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        failure = error
    truncated = failure.reason == "unexpected end of data" and not data[: failure.start].isascii()
    if not utf16 and not truncated and not data.startswith(codecs.BOM_UTF8):
        guesses = [(_decoded(data, declared), 1.0)] if declared else []
        guesses += [(text := _decoded(data, codec), _common(text, codec)) for codec in _COMMON]
        for text, share in sorted(guesses, key=lambda guess: -guess[1]):
            if text is not None and share >= _PLAUSIBLE:
                return text
    position = failure.start + (3 if data.startswith(codecs.BOM_UTF8) else 0)
    found = " ".join(f"{byte:02X}" for byte in data[position : position + 4])
    raise DataError(
        "is no text in a known encoding",
        file=document,
        found=verbatim(f"{found} at byte {position}"),
        expected="UTF-8, UTF-16 with a byte order mark, GB18030 or Big5",
    )


# The first bytes of each encoding's common characters and marks: GB 2312's first level, Big5's frequently used ones.
_COMMON = {"gb18030": [(0xA1, 0xA1), (0xA3, 0xA3), (0xB0, 0xD7)], "big5hkscs": [(0xA1, 0xA2), (0xA4, 0xC6)]}
_PLAUSIBLE = 0.4  # Traditional characters in GB18030 have about 0.7, a wrong guess 0.2 or less
_SAMPLE = 20_000


def _decoded(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return None


def _common(text: str | None, codec: str) -> float:
    """Which share of a text's characters beyond ASCII is common in an encoding."""
    characters = [character for character in (text or "") if not character.isascii()][:_SAMPLE]
    codes = [character.encode(codec, "replace") for character in characters]
    common = sum(
        len(code) == 2
        and any(first <= code[0] <= last for first, last in _COMMON[codec])
        and (codec != "gb18030" or code[1] >= 0xA1)
        for code in codes
    )
    return common / len(codes) if codes else 0.0


# --- files and errors


def _is_folder(path: Path) -> bool:
    if str(path) == STDIN:
        return False
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise DataError("no such file or folder", file=path) from None
    except (OSError, ValueError) as error:
        raise DataError("cannot be read", file=path, found=verbatim(_reason(error))) from None


def _walk(folder: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    """The documents in a folder, without recursion: a path may be deeper than Python's stack."""
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        if path is not folder and not path.is_dir():
            yield path
            continue
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if path is folder:
                raise DataError("cannot be read", file=path, found=verbatim(_reason(error))) from None
            warn(f"{path}: passed over, {_reason(error)}")
            continue
        waiting += [path / entry.name for entry in reversed(entries) if _is_wanted(path, entry, warn)]


def _is_wanted(folder: Path, entry: os.DirEntry[str], warn: Callable[[str], None]) -> bool:
    path = folder / entry.name
    known = path.suffix.lower() in SUFFIXES
    if entry.name.startswith("."):
        return False
    if entry.is_symlink():
        if known or entry.is_dir():
            warn(f"{path}: passed over, a symbolic link")
        return False
    if entry.is_dir(follow_symlinks=False):
        return True
    if not known or not entry.is_file(follow_symlinks=False):
        return False
    return path.suffix.lower() != ".json" or is_list_of_texts(path)


def is_list_of_texts(path: Path) -> bool:
    """Whether a JSON file begins as a list of texts, which is a document; others hold data."""
    try:
        with path.open("rb") as stream:
            return bool(_LIST_OF_TEXTS.match(stream.read(4096)))
    except OSError:
        return True  # reading it will say why


def _read(stream: IO[bytes], document: str, limits: Limits) -> bytes:
    data = stream.read(limits.max_file_bytes + 1)
    if len(data) > limits.max_file_bytes:
        raise _too_large(document, f"more than {limits.max_file_bytes:,} bytes", f"{limits.max_file_bytes:,}")
    return data


def _check_length(characters: int, document: str, limits: Limits) -> None:
    """Refuse a document of too many characters."""
    if characters > limits.max_characters:
        raise _too_large(document, f"{characters:,} characters", f"{limits.max_characters:,}")


def _too_large(document: str, found: str, limit: str) -> DataError:
    return DataError("is too large", file=document, found=verbatim(found), expected=f"at most {limit}")


def _damaged(kind: str, document: str, error: Exception) -> DataError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return DataError(f"cannot be read as {kind}", file=document, found=verbatim(reason))


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the log and the warnings of a library."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


_READERS: dict[str, _Reader] = {
    **dict.fromkeys(MARKDOWN_SUFFIXES, _read_markdown),
    **dict.fromkeys(HTML_SUFFIXES, _read_html),
    ".pdf": _read_pdf,
    ".docx": _read_docx,
    ".json": _read_context,
}
