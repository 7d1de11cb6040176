"""What a target is, and what it may find: anything but a documented error in one line, and a broken promise."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from types import TracebackType

from fuzz.mutate import BETWEEN, Make
from zhaiju.errors import ZhaijuError

CORPUS = Path(__file__).parent / "corpus"


class BrokenError(AssertionError):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Target:
    """A part of zhaiju and what it promises.

    Attributes:
        name: Of its folder in the corpus, too.
        promise: In words, for the table.
        check: Gives an input to the part; raises what must not be.
        make: Makes an input from a source of random numbers and the corpus.
        cases: Of a campaign of ten million.
    """

    name: str
    promise: str
    check: Callable[[bytes], None]
    make: Make
    cases: int

    def corpus(self) -> list[bytes]:
        """Its kept files, in the order of their names."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*")) if path.is_file()]


def block_of(target: Target, seeds: Sequence[bytes], seed: int, block: int, size: int) -> Iterator[bytes]:
    """The inputs number `block * size` and following; they depend on nothing else than the corpus."""
    random = Random(f"{seed} {target.name} {block}")
    for _ in range(size):
        yield target.make(random, seeds)


def hold(kept: object, promise: str, *values: object) -> None:
    """Raise a `BrokenError` that names a promise and the values where it is not kept."""
    if not kept:
        raise BrokenError(f"{promise}: {', '.join(map(repr, values))}"[:500])


class Refusing:
    """A context in which a documented error may be raised, its message one line.

    Attributes:
        error: The one that was.
    """

    def __init__(self, *kinds: type[Exception]) -> None:
        self._kinds = kinds or (ZhaijuError,)
        self.error: Exception | None = None

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, self._kinds):
            return False
        message = str(error)
        hold(len(message.splitlines()) == 1, "an error is one line", message)
        self.error = error
        return True


def text_of(data: bytes) -> str:
    """Any bytes as text; what is no UTF-8 becomes halves of surrogate pairs."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")


def texts_of(data: bytes, count: int) -> list[str]:
    """As many texts."""
    parts = data.split(BETWEEN, count - 1)
    return [text_of(part) for part in parts] + [""] * (count - len(parts))


class Numbers:
    """Small numbers from bytes, one after another; zeros once they have ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, limit: int) -> int:
        """A number below a limit of at most 256."""
        at = self._at
        if at >= len(self._data):
            return 0
        self._at = at + 1
        return self._data[at] % limit

    def take(self, count: int) -> bytes:
        """The next bytes, with zeros where they have ended."""
        found = self._data[self._at : self._at + count]
        self._at += count
        return found.ljust(count, b"\0")


@cache
def _folder() -> Path:
    """A folder of this process in memory, where the system has one."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="zhaiju-fuzz-", dir=memory if memory.is_dir() else None)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def file_of(name: str, data: bytes) -> Path:
    """A file with that content; the next of its name replaces it. The name may have a folder of its own before it."""
    path = _folder() / name
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb", buffering=0) as stream:
        stream.write(data)
    return path
