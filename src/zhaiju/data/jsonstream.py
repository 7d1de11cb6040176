"""Items of a large JSON file one by one, in memory that does not grow with the file.

`ijson` was tried and is not used: its C parser turns half a surrogate pair into "?", and a text that is not the
file's own shifts no offset but is no quote. This reader is Python's own `json` over a sliding buffer, so what it
accepts is exactly what `json.load` accepts, NaN and Infinity apart, which JSON does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any, NoReturn

from zhaiju.errors import DataError

CHUNK_CHARS = 1 << 17
MAX_VALUE_CHARS = 1 << 26  # of one value, such as a row with all its paragraphs, or of a line
_SPACE = " \t\r\n"
_ESCAPE = 12  # the longest token that a cut may fall inside of: a pair of \\uXXXX escapes
_TAIL = 2  # a number that goes on may be cut this far after the part that is one by itself: "1" of "1e+"


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


class _ConstantError(ValueError):
    pass


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


class JSONStream:
    """A cursor over one JSON text file (UTF-8, byte order mark tolerated)."""

    def __init__(self, stream: IO[str], file: Path) -> None:
        self._stream = stream
        self._file = file
        self._buffer = ""
        self._at = 0
        self._lines = 1  # line number of the buffer's first character
        self._columns = 0  # characters of its line before it
        self._ended = False

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end of the file."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in _SPACE:
                    return self._buffer[self._at]
                self._at += 1
            if not self._fill():
                return ""

    def expect(self, characters: str) -> str:
        """Consume and return the next character, which must be one of `characters`."""
        found = self.peek()
        if not found or found not in characters:
            wanted = " or ".join(repr(character) for character in characters)
            self.fail("the file ends too early" if not found else "not JSON", found or None, wanted)
        self._at += 1
        return found

    def value(self) -> Any:
        """Consume and return the next whole JSON value."""
        self.peek()
        grow = CHUNK_CHARS
        while True:
            try:
                value, end = _decoder.raw_decode(self._buffer, self._at)
            except _ConstantError as error:
                self.fail("not JSON", str(error), "a number, text, list or object")
            except RecursionError:
                self.fail("nested too deeply")
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._buffer) - _ESCAPE
                if cut and len(self._buffer) - self._at > MAX_VALUE_CHARS:
                    self.fail("a value is too long", expected=f"at most {MAX_VALUE_CHARS:,} characters")
                if cut and self._fill(grow):
                    grow *= 2  # a value larger than the buffer costs at most twice its length
                    continue
                self._at = min(error.pos, len(self._buffer))
                early = error.msg.startswith("Unterminated") or not self._buffer[self._at :].strip(_SPACE)
                self.fail("the file ends too early" if early else f"not JSON ({error.msg})")
            except ValueError as error:  # an integer of more digits than Python converts
                self.fail(f"not JSON ({error})")
            # A number may go on in the next chunk; anything else is closed by its own last character.
            if end >= len(self._buffer) - _TAIL and isinstance(value, int | float) and self._fill(grow):
                continue
            self._at = end
            return value

    def key(self) -> Any:
        """Consume an object's next key and the colon after it; return the key."""
        if self.peek() != '"':
            self.expect('"')
        key = self.value()
        self.expect(":")
        return key

    def names(self) -> Iterator[Any]:
        """Consume an object and yield its keys; the caller consumes the value after each."""
        self.expect("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            yield self.key()
            if self.expect(",}") == "}":
                return

    def items(self) -> Iterator[Any]:
        """Consume an array and yield its items."""
        for _ in self.places():
            yield self.value()

    def places(self) -> Iterator[int]:
        """Consume an array and yield the index of each of its items; the caller consumes the item."""
        self.expect("[")
        if self.peek() == "]":
            self._at += 1
            return
        for index in count():
            yield index
            if self.expect(",]") == "]":
                return

    def fail(self, problem: str, found: str | None = None, expected: str | None = None) -> NoReturn:
        """Raise a `DataError` that names the file, line and column of the cursor."""
        line, before = self._place()
        raise DataError(
            f"{problem} at line {line} column {before + 1}", file=self._file, found=found, expected=expected
        )

    def end(self) -> None:
        """Refuse anything but white space after the value."""
        if found := self.peek():
            self.fail("text after the end of the JSON value", found)

    def _place(self) -> tuple[int, int]:
        """The cursor's line number and how many characters of the line are before it."""
        newline = self._buffer.rfind("\n", 0, self._at)
        before = self._at - newline - 1 if newline >= 0 else self._columns + self._at
        return self._lines + self._buffer.count("\n", 0, self._at), before

    def _fill(self, size: int | None = None) -> bool:
        if self._ended:
            return False
        chunk = read_text_chunk(self._stream, self._file, size or CHUNK_CHARS)
        if not chunk:
            self._ended = True
            return False
        self._lines, self._columns = self._place()
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        return True


def read_text_chunk(stream: IO[str], file: Path, size: int = -1) -> str:
    """Read text, turning a wrong encoding or an unreadable file into a `DataError`."""
    try:
        return stream.read(size)
    except UnicodeDecodeError as error:
        raise wrong_encoding(error, file) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=file) from None


def wrong_encoding(error: UnicodeDecodeError, file: Path) -> DataError:
    """The `DataError` for a file that is not UTF-8."""
    return DataError(
        "not UTF-8",
        file=file,
        found=bytes(error.object[error.start : error.start + 4]),
        expected="UTF-8 text (convert it, for example with iconv -f BIG5 -t UTF-8)",
    )


def open_text(file: Path) -> IO[str]:
    """Open a text file as UTF-8, byte order mark or not; a `DataError` says why it cannot be."""
    try:
        return file.open(encoding="utf-8-sig", newline="")
    except FileNotFoundError:
        raise DataError("no such file", file=file) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=file) from None


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """A text file's lines with their numbers; a `DataError` says why it cannot be read as UTF-8."""
    with open_text(file) as stream:
        try:
            for number in count(1):
                line = stream.readline(MAX_VALUE_CHARS + 1)
                if not line:
                    return
                if len(line) > MAX_VALUE_CHARS:
                    raise DataError(
                        "a line is too long",
                        file=file,
                        row=f"line {number}",
                        expected=f"at most {MAX_VALUE_CHARS:,} characters",
                    )
                yield number, line
        except UnicodeDecodeError as error:
            raise wrong_encoding(error, file) from None
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", file=file) from None


def parse_json_line(line: str, file: Path, number: int) -> Any:
    """Parse one line of a JSONL file."""
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except _ConstantError as error:
        raise DataError("not JSON", file=file, row=f"line {number}", found=str(error), expected="a number") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
        raise DataError(
            f"not JSON ({reason})",
            file=file,
            row=f"line {number}",
            found=line.strip(),
            expected="one object a line",
        ) from None
