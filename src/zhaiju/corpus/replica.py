"""A copy of an index on object storage, on this machine's disk, that follows it.

Lance writes no file of a table twice: a version is a manifest that names its files, and none of them changes. So a copy
of a version is never stale, and all there is to ask is whether there is a newer one. What a copy lacks is fetched; what
it shares with the one before is not. All processes of a machine share the copies:

::

    replicas/<digest of the address>/
        lock                  held by who makes a copy or removes one
        files/                what the newest copy consists of, and what has been fetched for the next one
        copies/<version>/     a table of one version: hard links to its files, and its manifest. It appears when it is
                              whole. Who reads it holds a lock on it, and only what nobody holds is removed
        latest                a link to the newest copy, for when object storage is away

A process that is killed leaves nothing but files that the next one goes on with. Where no copy can be kept (the limit,
a full disk, a table with parts elsewhere), the index is read where it is.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from zhaiju import files
from zhaiju.corpus.manifest import VERSIONS, File, number_of, parse
from zhaiju.data.storage import Listed, Storage, is_local
from zhaiju.errors import ConfigError, DataError, OutputError, ZhaijuError

RETRY_SECONDS = 5.0  # after which what did not work is tried again
FETCHES = 8  # at a time
STOP_SECONDS = 30.0
ATTEMPTS = 3  # at a version that is superseded and deleted while it is copied
GIB = 1 << 30

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replication:
    """How a copy of an index is kept on this machine.

    Attributes:
        most: Bytes that all copies in the folder may take. To make room, those of other indexes that nobody reads are
            removed, the least recently used first; an index that is too large is read where it is. Until a new version
            of an index takes the place of the one that is read, both need room, but what they share only once.
        every: Seconds after which it is asked for a newer version, in the background. 0: before every question, which
            waits for it.
        folder: Where; None: `replicas` in the cache (see `zhaiju.files.cache_folder`).
        warn: Told, in a line, when the index cannot be followed, and when it can again.
    """

    most: int = 10 * GIB
    every: float = 5.0
    folder: Path | None = None
    warn: Callable[[str], None] = log.warning


class Copy:
    """A version of an index on this machine; what it consists of stays as long as this object."""

    def __init__(self, path: Path, descriptor: int, table: Any) -> None:
        self.path = path
        self.table = table
        weakref.finalize(self, os.close, descriptor)


class Replica:
    """The newest copy of an index; made at once.

    Args:
        uri: The address of the index.
        table: The name of the table's folder in it.
        how: The settings.
        opened: Opens the table of a copy, by the folder that the table is in.

    Raises:
        ConfigError: it is on this machine already, nothing is known of such an address, or what `opened` raises.
        DataError: it cannot be asked, and there is no copy.
    """

    def __init__(self, uri: str, table: str, how: Replication, opened: Callable[[str], Any]) -> None:
        if is_local(uri):
            raise ConfigError(f"{uri} is on this machine already; only an index at an address (s3://…) is copied")
        if how.every < 0 or how.most < 0:
            raise ConfigError(f"every {how.every:g} seconds, at most {how.most:,} bytes: expected at least 0 of each")
        address = f"{uri.rstrip('/')}/{table}"
        self.uri = uri
        self._table = table
        self._how = how
        self._opened = opened
        self._asked, self._fetched = Storage(address, hasty=True), Storage(address)
        self._folder = files.cache_folder("replicas") if how.folder is None else how.folder
        where = "\n".join([address, os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""])
        self._home = self._folder / sha256(where.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        self._following = threading.Lock()
        self._copy: Copy | None = None
        self._listed: Listed | None = None  # the manifest that the copy has
        self._seen = time.monotonic()  # when the index was last asked
        self._away = False
        self._trouble: str | None = None
        self._tried = float("-inf")
        self.close: Callable[[], Any] = lambda: None  # ends the thread that follows
        self.follow()
        if how.every > 0:
            stopped = threading.Event()
            thread = threading.Thread(
                target=_keep_following, args=(weakref.ref(self), how.every, stopped), name="zhaiju-replica", daemon=True
            )
            thread.start()
            # Also at the end of Python, or Arrow's S3 would be gone under a thread that uses it.
            self.close = weakref.finalize(self, _stop, stopped, thread)

    @property
    def behind(self) -> float | None:
        """Seconds since the index was last asked, where it cannot be asked now and its copy answers; else None."""
        return time.monotonic() - self._seen if self._away else None

    @property
    def has_copy(self) -> bool:
        """Whether there is one to read, as of the last time that it was followed."""
        return self._copy is not None

    def copy(self) -> Copy | None:
        """The copy to read, as new as the settings promise; None: read the index where it is.

        Raises:
            DataError: as of `follow`.
        """
        if self._how.every == 0:
            self.follow()
        return self._copy

    def follow(self, *, now: bool = False) -> None:
        """Ask for a newer version and copy it. What does not work is told once and tried again later.

        Args:
            now: Try even if it did not work just now.

        Raises:
            DataError: the index cannot be asked, and there is no copy.
        """
        with self._following:
            if self._trouble is not None and not now and time.monotonic() - self._tried < RETRY_SECONDS:
                return
            self._tried = time.monotonic()
            try:
                self._follow()
            except (DataError, ConfigError) as error:
                self._copy = self._copy or self._left()
                if self._copy is None:
                    raise
                self._away = True
                self._tell(f"the copy of {self.uri} answers, as it was: {error}")
            except (OutputError, OSError, ValueError) as error:
                self._copy = self._listed = None
                self._away = False
                self._tell(f"{self.uri} is read where it is: {error}")
            else:
                self._away = False
                if self._trouble is not None:
                    self._trouble = None
                    self._how.warn(f"{self.uri} is followed again")

    def renew(self, copy: Copy) -> bool:
        """Make a copy anew if it is damaged, as by somebody who emptied the cache; returns whether it was.

        Raises:
            DataError: as of `follow`.
        """
        with self._following:
            if _is_whole(copy.path / self._table):
                return False
            if self._copy is copy:
                self._copy = self._listed = None
                with suppress(OutputError), self._locked():
                    _remove(copy.path, held=True)
        self.follow(now=True)
        return True

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._how.warn(trouble)

    def _follow(self) -> None:
        listed = self._newest()
        if listed is None:  # there is no index any more; who reads it where it is will be told
            self._copy = self._listed = None
            return
        with suppress(OSError):
            os.utime(self._home / "lock")  # used now, and as new as the index then
        if self._copy is not None and listed == self._listed and _manifest(self._copy.path / self._table).exists():
            return
        for _ in range(ATTEMPTS):
            with self._locked():
                # Asked again, for the lock may have been long in coming: so what is made is newer than what was made.
                listed = self._newest()
                manifest = None if listed is None else self._asked.read(f"{VERSIONS}/{listed.name}")
                if listed is None or manifest is None:
                    continue
                path = self._home / "copies" / f"{number_of(listed.name)}-{sha256(manifest).hexdigest()[:16]}"
                copy = self._take(path)
                if copy is None:
                    try:
                        self._make(path, listed.name, manifest)
                    except DataError:
                        if self._newest() == listed:
                            raise
                        continue
                    copy = self._take(path)
                if copy is not None:
                    self._copy, self._listed = copy, listed
                    files.point(self._home / "latest", path)
                    for other in (self._home / "copies").iterdir():
                        if other != path:
                            _remove(other)
                    return
        raise DataError("changes faster than it can be copied", file=self.uri)

    def _newest(self) -> Listed | None:
        """The manifest of the newest version; None if there is no index."""
        listed = [one for one in self._asked.listed(VERSIONS) if number_of(one.name) is not None]
        self._seen = time.monotonic()
        return max(listed, key=lambda one: number_of(one.name) or 0, default=None)

    def _take(self, path: Path) -> Copy | None:
        """Hold a copy; None where there is none."""
        descriptor = _hold(path)
        if descriptor is None:
            return None
        try:
            return Copy(path, descriptor, self._opened(str(path)))
        except BaseException:
            os.close(descriptor)
            raise

    def _left(self) -> Copy | None:
        """The newest copy that this or another process has made."""
        try:
            copy = self._take((self._home / "latest").resolve(strict=True))
            self._seen = time.monotonic() - (time.time() - (self._home / "lock").stat().st_mtime)
            return copy
        except OSError:
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep every other process from making and removing copies of this index."""
        with files.writing_to(self._home):
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)  # who may read the bucket is not everyone here
            descriptor = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with files.writing_to(self._home):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make(self, path: Path, name: str, manifest: bytes) -> None:
        """Fetch what is not there of a version, and make a copy of it."""
        version = parse(manifest)
        wanted = list(version.files)
        for folder in version.folders:
            wanted += [File(f"{folder}/{one.name}", one.size) for one in self._asked.listed(folder)]
        pool = self._home / "files"
        missing = [file for file in wanted if not _is_there(pool, file)]
        with files.writing_to(self._home):
            self._make_room(wanted, missing, len(manifest))
            for file in missing:
                (pool / file.name).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(FETCHES) as threads:
            fetching = [threads.submit(self._fetch, pool, file) for file in missing]
            try:
                for one in fetching:
                    one.result()
            except BaseException:
                for one in fetching:
                    one.cancel()
                raise

        def fill(temporary: Path) -> None:
            table = temporary / self._table
            for folder in {os.path.dirname(file.name) for file in wanted} | {VERSIONS}:
                (table / folder).mkdir(parents=True, exist_ok=True)
            for file in wanted:
                os.link(pool / file.name, table / file.name)
            (table / VERSIONS / name).write_bytes(manifest)

        files.atomic_directory(path, fill)
        _prune(pool, wanted)

    def _fetch(self, pool: Path, file: File) -> None:
        files.atomic_file(pool / file.name, lambda temporary: self._fetched.fetch(file.name, temporary))
        if not _is_there(pool, file):
            found = (pool / file.name).stat().st_size
            raise DataError("has another size", file=self._fetched.at(file.name), found=found, expected=str(file.size))

    def _make_room(self, wanted: Sequence[File], missing: Sequence[File], manifest: int) -> None:
        """Raise an OutputError unless there is room for what is missing, or can be made."""
        needed, most = manifest + sum(file.size for file in missing), self._how.most
        if (whole := manifest + sum(file.size for file in wanted)) > most:
            raise OutputError(f"it takes {whole:,} bytes, and copies may take {most:,}")
        if _size(self._folder) + needed <= most:
            return
        _prune(self._home / "files", wanted)
        for other in self._others():
            if _size(self._folder) + needed <= most:
                return
            _empty(other)
        for older in (self._home / "copies").glob("*"):
            _remove(older)
        if (taken := _size(self._folder)) + needed > most:
            raise OutputError(f"{needed:,} bytes more are needed; copies in use take {taken:,} and may take {most:,}")

    def _others(self) -> list[Path]:
        """The folders of other indexes' copies, the least recently used first."""
        found = []
        for home in self._folder.iterdir():
            with suppress(OSError):
                if home != self._home:
                    found.append(((home / "lock").stat().st_mtime, home))
        return [home for _, home in sorted(found)]


def _stop(stopped: threading.Event, thread: threading.Thread) -> None:
    stopped.set()
    if thread is not threading.current_thread():
        thread.join(STOP_SECONDS)


def _keep_following(replica: weakref.ref[Replica], every: float, stopped: threading.Event) -> None:
    while not stopped.wait(every):
        one = replica()
        if one is None:
            return
        try:
            one.follow()
        except ZhaijuError:  # there is no copy; who reads it where it is will be told
            pass
        except RuntimeError:
            if threading.main_thread().is_alive():
                raise
            return  # the end of Python, where no thread may start any more
        del one


def _is_there(pool: Path, file: File) -> bool:
    try:
        return file.size in (0, (pool / file.name).stat().st_size)
    except OSError:
        return False


def _manifest(table: Path) -> Path:
    """The only manifest of a copy."""
    return next((table / VERSIONS).glob("*.manifest"), table / VERSIONS / "none")


def _is_whole(table: Path) -> bool:
    """Whether every file of a copy is there."""
    try:
        version = parse(_manifest(table).read_bytes())
    except (OSError, ValueError):
        return False
    return all(_is_there(table, file) for file in version.files) and all(
        (table / one).is_dir() for one in version.folders
    )


def _hold(path: Path, how: int = fcntl.LOCK_SH) -> int | None:
    """Lock a copy's folder: its open descriptor, or None if there is none, or somebody is removing it or reads it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(path), os.fstat(descriptor)):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _remove(path: Path, *, held: bool = False) -> None:
    """Remove a copy that nobody reads, or a damaged one that somebody may; the lock of its index must be held."""
    descriptor = _hold(path, fcntl.LOCK_SH if held else fcntl.LOCK_EX)
    if descriptor is None:
        return
    try:
        gone = path.with_name(f".{path.name}.gone")
        with suppress(OSError):
            if not path.name.startswith("."):
                os.replace(path, gone)  # so that nobody ever sees half of it
                path = gone
            shutil.rmtree(path)
    finally:
        os.close(descriptor)


def _empty(home: Path) -> None:
    """Remove the copies of an index unless somebody reads or makes one."""
    try:
        descriptor = os.open(home / "lock", os.O_RDWR)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        copies = list((home / "copies").iterdir()) if (home / "copies").is_dir() else []
        for path in copies:
            _remove(path)
        if not any(path.exists() for path in copies):
            shutil.rmtree(home / "files", ignore_errors=True)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _prune(pool: Path, wanted: Sequence[File]) -> None:
    """Remove what is not wanted of the files; copies that have it keep it."""
    names = {file.name for file in wanted}
    for above, _, found in os.walk(pool):
        for name in found:
            path = Path(above, name)
            if path.relative_to(pool).as_posix() not in names:
                with suppress(OSError):
                    path.unlink()
        with suppress(OSError):
            if above != str(pool):
                os.rmdir(above)  # only if it is empty


def _size(folder: Path) -> int:
    """Bytes of the files under a folder, those of several names once."""
    sizes = {}
    for above, _, found in os.walk(folder):
        for name in found:
            with suppress(OSError):
                state = os.lstat(os.path.join(above, name))
                sizes[state.st_dev, state.st_ino] = state.st_size
    return sum(sizes.values())
