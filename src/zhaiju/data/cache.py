"""Tokenised texts, kept on disk for the next training on them and mapped into memory.

Texts are kept, not windows: windows depend on the question, the settings and, with random windows, on the seed and the
epoch, and are slices of a text's tokens that cost little to cut. Texts do not, so one file serves select and read, any
window and every seed.

A file is named by a hash of all that decides its content: the texts, the whole tokenizer, the settings of `Encoding`
that concern texts, the versions of the libraries and the source of the modules that tokenise. So it is never out of
date, and it is never changed: it appears whole under its name, whoever else writes the same one. Every text's tokens
carry a checksum that is looked at before they are used; what is damaged is computed anew and the file made anew by the
next training. The folder is $ZHAIJU_CACHE, else zhaiju in $XDG_CACHE_HOME or ~/.cache; beyond `LIMIT` bytes the files
that were not used for longest are removed.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.data import encoding as encodings
from zhaiju.data import script
from zhaiju.data.encoding import Encoding, Tokens
from zhaiju.errors import OutputError

Source = str | tuple[str, ...]  # a text, or a list of words

LIMIT = 1 << 30
SUFFIX = ".tokens"
LIBRARIES = ("tokenizers", "transformers", "opencc", "numpy")

_MAGIC = b"zhaiju 2"
_HEAD = np.dtype([("magic", "V8"), ("index", "<i8"), ("count", "<i8"), ("digest", "V32")])
_ENTRY = np.dtype([("key", "V32"), ("at", "<i8"), ("tokens", "<i8"), ("sum", "<u4")])


def identity(encoding: Encoding) -> bytes | None:
    """A hash of all that decides what an encoding makes of a text; None where that cannot be told."""
    serialised = encoding.serialised()
    if serialised is None:
        return None
    digest = hashlib.sha256(_MAGIC)
    for part in (serialised, encoding.script, *(f"{name} {version(name)}" for name in LIBRARIES)):
        digest.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
    for module in (encodings, script):
        digest.update(hashlib.sha256(Path(module.__file__ or "").read_bytes()).digest())
    return digest.digest()


def key_of(source: Source) -> bytes:
    """A hash of a text, or of a list of words."""
    if isinstance(source, str):
        return hashlib.sha256(b"t" + source.encode("utf-8", "surrogatepass")).digest()
    digest = hashlib.sha256(b"w")
    for word in source:
        digest.update(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest())
    return digest.digest()


class _TooLargeError(Exception):
    """A file would become larger than it may."""


class TokenStore:
    """A file of tokenised texts, mapped into memory.

    Args:
        path: The file.

    Raises:
        ValueError: it is not what `write` has written.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < _HEAD.itemsize:
            raise ValueError(f"{path} is cut")
        head = np.frombuffer(self._map, _HEAD, 1)[0]
        at, count = int(head["index"]), int(head["count"])
        if head["magic"].tobytes() != _MAGIC or at + count * _ENTRY.itemsize != len(self._map) or count < 0 or at < 0:
            raise ValueError(f"{path} is damaged")
        self._index = np.frombuffer(self._map, _ENTRY, count, at)
        if hashlib.sha256(self._index.tobytes()).digest() != head["digest"].tobytes():
            raise ValueError(f"{path} is damaged")
        self._prefixes = _prefixes(self._index)  # in ascending order
        self.hits = 0

    def get(self, source: Source) -> Tokens | None:
        """The tokens of a text; None if it is not there, or damaged: then the file is removed."""
        key = key_of(source)
        place = int(np.searchsorted(self._prefixes, np.frombuffer(key, ">u8", 1)[0]))
        while place < len(self._index) and self._index[place]["key"].tobytes()[:8] == key[:8]:
            if self._index[place]["key"].tobytes() == key:
                return self._read(self._index[place])
            place += 1
        return None

    def _read(self, entry: np.void) -> Tokens | None:
        at, tokens = int(entry["at"]), int(entry["tokens"])
        if zlib.crc32(memoryview(self._map)[at : at + 12 * tokens]) != int(entry["sum"]):
            self.path.unlink(missing_ok=True)
            return None
        self.hits += 1
        return Tokens(*np.frombuffer(self._map, np.int32, 3 * tokens, at).reshape(3, tokens))


def _prefixes(index: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    keys = np.ascontiguousarray(index["key"]).view(">u8").reshape(-1, 4)
    return keys[:, 0].astype(np.uint64)


def write(stream: IO[bytes], encoding: Encoding, sources: Iterable[Source], *, limit: int = LIMIT) -> bool:
    """Tokenise texts into a file. Memory holds one at a time, and an index.

    Args:
        stream: Where to; seekable.
        encoding: Tokenises.
        sources: The texts, each once.
        limit: Most bytes.

    Returns:
        False if it would have become larger; what was written is then worth nothing.
    """
    stream.write(bytes(_HEAD.itemsize))
    entries = []
    for source in sources:
        tokens = encoding.compute(source)
        data = b"".join(array.tobytes() for array in (tokens.ids, tokens.starts, tokens.ends))
        entries.append((key_of(source), stream.tell(), len(tokens.ids), zlib.crc32(data)))
        stream.write(data + bytes(-len(data) % 8))
        if stream.tell() + _ENTRY.itemsize * len(entries) > limit:
            return False
    entries.sort()
    index = np.array(entries, _ENTRY)
    at = stream.tell()
    stream.write(index.tobytes())
    stream.seek(0)
    stream.write(np.array([(_MAGIC, at, len(index), hashlib.sha256(index.tobytes()).digest())], _HEAD).tobytes())
    return True


def keep(encoding: Encoding, sources: Iterable[Source], folder: Path | None = None) -> TokenStore | None:
    """Give an encoding the tokens of these texts from disk, tokenising what is not there yet.

    Args:
        encoding: It then looks into the file before it tokenises.
        sources: The texts of a training.
        folder: Where; None: see `zhaiju.files.cache_folder`.

    Returns:
        What it was given; None where nothing can be kept: the folder cannot be written, the disk is full, or the
        texts are too many. Training goes on without.
    """
    folder = files.cache_folder("tokens") if folder is None else folder
    distinct = {key_of(source): source for source in sources}
    own = identity(encoding)
    if own is None:
        return None
    name = hashlib.sha256(own + b"".join(sorted(distinct))).hexdigest()[:40]
    path = folder / f"{name}{SUFFIX}"
    try:
        store = _open(path)
        if store is None and _make(path, encoding, list(distinct.values())):
            store = _open(path)
            _prune(folder, path)
    except (OSError, OutputError):
        return None
    encoding.store = store
    return store


def _open(path: Path) -> TokenStore | None:
    try:
        store = TokenStore(path)
        os.utime(path)  # used now
        return store
    except FileNotFoundError:
        return None
    except ValueError:  # an empty file cannot be mapped either
        path.unlink(missing_ok=True)
        return None


def _make(path: Path, encoding: Encoding, sources: Sequence[Source]) -> bool:
    try:
        with files.atomic_binary(path) as stream:
            if not write(stream, encoding, sources):
                raise _TooLargeError
    except _TooLargeError:
        return False
    return True


def _prune(folder: Path, new: Path) -> None:
    """Remove what killed writers left, and the files not used for longest until all take `LIMIT` bytes at most."""
    files.remove_left_overs_in(folder)
    found, now = [], time.time()
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):
            state = path.stat()
            # What the clock says was used in the future, for it was set back since, is not to stay for ever.
            used = state.st_mtime if state.st_mtime <= now else 0.0
            found.append((path == new, used, state.st_size, path))
    total = 0
    for _, _, size, path in sorted(found, reverse=True):
        total += size
        if total > LIMIT and path != new:
            path.unlink(missing_ok=True)
