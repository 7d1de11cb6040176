"""Which files a version of a Lance table consists of, as its manifest says.

A manifest is Protocol Buffers' wire format between lengths and a footer; of Lance's `table.proto` only the fields that
name files are looked at. What a table could keep elsewhere is announced by a flag, and a table with a flag that is not
known here is refused, so that no file is ever left out without a word.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

VERSIONS = "_versions"
_MAGIC = b"LANC"
_FOOTER = 16  # position of the manifest's message, major and minor version, magic
_FLAGS = 1 | 4 | 8 | 32  # deletions, format 2, settings, no files of transactions: none moves a file elsewhere
_REVERSED = 20  # digits of a name that counts down from 2**64 - 1
_INNER = b"__lance"  # what Lance's own indices are called, some of which have files elsewhere


@dataclass(frozen=True, slots=True)
class File:
    """A file of a table, which never changes.

    Attributes:
        name: Relative to the table.
        size: In bytes; 0 where the manifest does not say.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Version:
    """What a version of a table consists of, but for its manifest.

    Attributes:
        number: Of the version.
        files: Those that are named.
        folders: Those of which everything belongs to it, where their files are not named.
    """

    number: int
    files: tuple[File, ...]
    folders: tuple[str, ...]


def number_of(name: str) -> int | None:
    """The version whose manifest has this name; None if it is no manifest's."""
    stem, dot, kind = name.partition(".")
    if not dot or kind != "manifest" or not (stem.isascii() and stem.isdecimal()):
        return None
    return 2**64 - 1 - int(stem) if len(stem) == _REVERSED else int(stem)


def parse(manifest: bytes) -> Version:
    """Read a manifest.

    Raises:
        ValueError: it is none, or its table uses something that is not known here.
    """
    try:
        return _parse(manifest)
    except (struct.error, LookupError, UnicodeDecodeError) as error:
        raise ValueError(f"no manifest: {error!r}") from None


def _parse(manifest: bytes) -> Version:
    if manifest[-4:] != _MAGIC:
        raise ValueError("no manifest: it does not end in LANC")
    number = flags = 0
    section: int | None = None
    files: list[File] = []
    folders: list[str] = []
    for field, value in _fields(_message(manifest, struct.unpack_from("<Q", manifest, len(manifest) - _FOOTER)[0])):
        if field == 2:
            files += _of_fragment(_bytes(value))
        elif field == 3:
            number = _number(value)
        elif field == 6:
            section = _number(value)
        elif field == 9:
            flags = _number(value)
    if flags & ~_FLAGS:
        raise ValueError(f"a table with the flags {flags:b}, expected at most {_FLAGS:b}")
    if section is not None:
        for field, value in _fields(_message(manifest, section)):
            if field == 1:
                named, folder = _of_index(_bytes(value))
                files += named
                folders += [] if named else [folder]
    for file in files:
        if not all(part.strip(".") for part in file.name.split("/")) or "\0" in file.name:
            raise ValueError(f"a file is called {file.name!r}")  # it would lie elsewhere
    return Version(number, tuple(files), tuple(folders))


def _of_fragment(message: bytes) -> list[File]:
    number = 0
    files = []
    deleted: bytes | None = None
    for field, value in _fields(message):
        if field == 1:
            number = _number(value)
        elif field == 2:
            of_file = dict(_fields(_bytes(value)))
            files.append(File(f"data/{_bytes(of_file[1]).decode()}", _number(of_file.get(6, 0))))
        elif field == 3:
            deleted = _bytes(value)
    if deleted is not None:
        of = {field: _number(value) for field, value in _fields(deleted)}
        kind = ("arrow", "bin")[of.get(1, 0)]
        files.append(File(f"_deletions/{number}-{of.get(2, 0)}-{of.get(3, 0)}.{kind}", 0))
    return files


def _of_index(message: bytes) -> tuple[list[File], str]:
    """The files of an index, none where they are not named, and its folder."""
    folder = name = b""
    files = []
    for field, value in _fields(message):
        if field == 1:
            folder = _bytes(dict(_fields(_bytes(value)))[1])
        elif field == 3:
            name = _bytes(value)
        elif field == 10:
            files.append(dict(_fields(_bytes(value))))
    if name.startswith(_INNER) or len(folder) != 16:
        raise ValueError(f"an index that is not known here: {name!r}")
    within = f"_indices/{uuid.UUID(bytes=folder)}"
    return [File(f"{within}/{_bytes(of[1]).decode()}", _number(of.get(2, 0))) for of in files], within


# --- the wire format


def _message(data: bytes, at: int) -> bytes:
    length = int.from_bytes(data[at : at + 4], "little")
    if at + 4 + length > len(data):
        raise ValueError("no manifest: it is cut off")
    return data[at + 4 : at + 4 + length]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each field's number and value; what has a fixed size is bytes too."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"no manifest: a field of kind {kind}")
        if at + length > len(message):
            raise ValueError("no manifest: a field is cut off")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the low ones first, and where it ends."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("no manifest: a number is too long")


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("no manifest: bytes where a number is expected")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("no manifest: a number where bytes are expected")
    return value
