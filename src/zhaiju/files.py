"""Writing that is never half done: to a temporary file beside the target, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from zhaiju.errors import OutputError, ZhaijuError

try:
    import fcntl
except ImportError:  # elsewhere nobody's left-overs are removed
    fcntl = None  # type: ignore[assignment]

JSON_INDENT = 2
LOCK_FILE = ".zhaiju.lock"  # in a folder that one process writes to at a time
SMALL_BYTES = 64 << 20  # of a file that is read whole and is no data: the largest tokenizers take about half


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def lock(path: Path, taken: ZhaijuError) -> Iterator[None]:
    """Hold the lock file `path`, which stays; the system frees it however the process ends.

    Args:
        path: The lock file; its folder is made.
        taken: Raised where another holds it.

    Raises:
        OutputError: it cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path, timeout=0, thread_local=False)
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire()
        except Timeout:
            raise taken from None
    try:
        yield
    finally:
        held.release()


@contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that appears under `path` only once it is whole.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full; `path` is then untouched.
    """
    # What is no Unicode, such as a byte of a file's name, becomes an escape that JSON knows too.
    with _atomic(Path(path), "w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        yield stream


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data`, whole or not at all."""
    with _atomic(Path(path), "wb") as stream:
        stream.write(data)


@contextmanager
def _atomic(path: Path, mode: str, **how: Any) -> Iterator[IO[Any]]:
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "is a directory", str(path))
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe: nothing to rename onto
            with path.open(mode, **how) as stream:
                yield stream
            return
        path = path.resolve()  # a link stays a link
        descriptor, temporary = _beside(path, folder=False)
        try:
            with os.fdopen(descriptor, mode, **how) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                os.chmod(temporary, 0o666 & ~_umask())
                os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, whole or not at all."""
    with atomic_open(path) as stream:
        json.dump(value, stream, ensure_ascii=False, indent=JSON_INDENT, allow_nan=False)
        stream.write("\n")


@contextmanager
def atomic_object(path: str | os.PathLike[str]) -> Iterator[Callable[[str, str | int], None]]:
    """Write a JSON object entry by entry: the bytes that `write_json` would write, and under `path` once it is whole.

    Yields:
        A function to call with each key, which the caller has only once, and its value.
    """
    with atomic_open(path) as stream:
        opening = "{"

        def write(key: str, value: str | int) -> None:
            nonlocal opening
            entry = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
            stream.write(f"{opening}\n{' ' * JSON_INDENT}{entry}")
            opening = ","

        yield write
        stream.write("{}\n" if opening == "{" else "\n}\n")


def read_small(path: str | os.PathLike[str], *, most: int = SMALL_BYTES) -> str:
    """The text of a file that ought to be small and may be hostile.

    Args:
        path: A plain file, or a link to one; a pipe would have us wait for ever, and a device never ends.
        most: Bytes that it may have.

    Raises:
        OSError: it cannot be read, or is no plain file.
        ValueError: it is larger, or no UTF-8.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to opens at once
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no plain file", str(path))
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"is too large, found more than {most:,} bytes, expected at most {most:,}")
    return content.decode("utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file that ought to be small and may be hostile.

    Raises:
        OSError: see `read_small`.
        ValueError: see `read_small`; or it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(read_small(path))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_open(path) as stream:
        stream.write(text)


def atomic_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the directory `path` by `fill(temporary)`, so that it appears only once it is whole.

    An existing `path` is removed just before, so write under a new name what others point at.
    """
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _beside(path, folder=True)
        try:
            fill(temporary)
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    os.chmod(file, 0o666 & ~_umask())
                    _sync_file(file)
            os.chmod(temporary, 0o777 & ~_umask())
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(descriptor)
        sync_directory(path.parent)


def atomic_file(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the file `path` by `fill(temporary)`, so that it replaces an older one only once it is whole."""
    with writing_to(path):
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            fill(temporary)
            _sync_file(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def point(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, replacing an older one in a single step."""
    with writing_to(link):
        temporary = link.with_name(f".{link.name}.tmp")
        with suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(os.path.relpath(target, link.parent))
        os.replace(temporary, link)
        sync_directory(link.parent)


def fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk, so that a rename survives a power cut."""
    with _opened(path) as descriptor:
        os.fsync(descriptor)


def remove_left_overs(path: Path) -> None:
    """Remove the temporary files and folders that killed writers of `path` have left; those of living ones stay."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError, AttributeError), _opened(stale) as descriptor:  # AttributeError: no fcntl
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()


def _beside(path: Path, *, folder: bool) -> tuple[int, Path]:
    """Make an empty temporary file or folder beside `path`, and remove what killed writers of it have left.

    A writer holds a lock on its own for as long as it lives, so those of living ones stay.

    Returns:
        Its open descriptor, which holds the lock, and its name: `.<name>.*.tmp`.
    """
    remove_left_overs(path)
    while True:
        if folder:
            name = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
            descriptor = os.open(name, os.O_RDONLY)
        else:
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        # Not every system and network's file system locks; there nobody's left-overs are removed.
        with suppress(OSError, AttributeError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(name):
            return descriptor, Path(name)
        os.close(descriptor)  # another writer took it for a left-over before it was locked


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
