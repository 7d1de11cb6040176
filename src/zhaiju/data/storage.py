"""Files here and on object storage: those that are read come here whole, those that are written are never half there.

An address with a scheme (`s3://bucket/name`, and whatever else Arrow's file systems know) is object storage. Keys,
region and endpoint of an S3 come from the `AWS_…` variables, as for the index.
"""

from __future__ import annotations

import importlib
import os
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zhaiju import files
from zhaiju.errors import ConfigError, DataError, OutputError, verbatim

_BLOCK = 1 << 24


def is_local(address: str) -> bool:
    """Whether it is a path on this machine, not an address with a scheme."""
    return "://" not in address


def check_endpoint(address: str) -> None:
    """Raise an error for an endpoint in the environment that a client of S3 would only stumble over."""
    if not address.startswith("s3"):
        return
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        endpoint = os.environ.get(name)
        if not endpoint:
            continue
        scheme, _, rest = endpoint.partition("://")
        if scheme not in ("http", "https") or not rest or rest.split() != [rest]:
            raise ConfigError(f"{name} is {endpoint!r}, expected http://… or https://…")
        if scheme == "http" and os.environ.get("AWS_ALLOW_HTTP", "").lower() not in ("true", "1"):
            raise ConfigError(f"{name} is {endpoint}; http is allowed only with AWS_ALLOW_HTTP=true")


class Storage:
    """What lies under an address: a folder's files, or the objects whose names begin with it.

    Args:
        address: A path, or an address with a scheme.

    Raises:
        ConfigError: nothing is known of such an address, or what the environment says of its endpoint is wrong.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") or "/"
        self._fs: Any = None
        if not is_local(address):
            check_endpoint(address)
            self._fs, self._root = _file_system(self.address)

    def at(self, name: str) -> str:
        """The address of what is called `name` in it."""
        return posixpath.join(self.address, name)

    def names(self) -> list[str]:
        """The names of the files directly in it, sorted; none where there is nothing.

        Raises:
            DataError: it cannot be looked at.
        """
        with _reading(self.address):
            if self._fs is None:
                folder = Path(self.address)
                return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
            fs = importlib.import_module("pyarrow.fs")
            found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
            return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name in it.

        Raises:
            DataError: it cannot be looked at.
        """
        with _reading(self.at(name)):
            if self._fs is None:
                return Path(self.address, name).is_file()
            found = self._fs.get_file_info(posixpath.join(self._root, name))
            return bool(found.type == importlib.import_module("pyarrow.fs").FileType.File)

    def read(self, name: str) -> bytes | None:
        """The content of a file in it; None where there is no such file.

        Raises:
            DataError: it cannot be read.
        """
        with _reading(self.at(name)):
            try:
                if self._fs is None:
                    return Path(self.address, name).read_bytes()
                with self._fs.open_input_stream(posixpath.join(self._root, name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def fetch(self, name: str, to: Path) -> None:
        """Copy a file in it to a path on this machine.

        Raises:
            DataError: there is none, or it cannot be read.
            OutputError: `to` cannot be written.
        """
        with files.writing_to(to), to.open("wb") as stream:
            for block in self._blocks(name):
                stream.write(block)

    def _blocks(self, name: str) -> Iterator[bytes]:
        with _reading(self.at(name)):
            try:
                opened = self._fs.open_input_stream(posixpath.join(self._root, name)) if self._fs else None
                with opened or Path(self.address, name).open("rb") as source:
                    while block := source.read(_BLOCK):
                        yield block
            except FileNotFoundError:
                raise DataError("no such file", file=self.at(name)) from None

    def write(self, name: str, data: bytes) -> None:
        """Write a file in it, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        if self._fs is None:
            files.write_bytes(Path(self.address, name), data)
            return
        try:  # given at once, so that nothing can happen halfway: it appears when its upload is complete
            with self._fs.open_output_stream(posixpath.join(self._root, name)) as stream:
                stream.write(data)
        except OSError as error:
            raise OutputError(f"cannot write {self.at(name)}: {_reason(error)}") from None


@contextmanager
def lock(address: str) -> Iterator[None]:
    """Keep others from writing to a local folder, which is made; the system frees it however the process ends.

    Raises:
        OutputError: another process is writing to it, or it cannot be made.
    """
    if not is_local(address):
        yield
        return
    taken = OutputError(f"cannot write {address}: another process is writing to it")
    with files.lock(Path(address, files.LOCK_FILE), taken):
        yield


@contextmanager
def local(address: str) -> Iterator[Path]:
    """A file as one on this machine: itself, or a copy that is removed afterwards.

    Raises:
        DataError: there is none, or it cannot be read.
        ConfigError: as of `Storage`.
    """
    if is_local(address):
        yield Path(address)
        return
    above, _, name = address.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="zhaiju-") as folder:
        path = Path(folder, name)
        Storage(above).fetch(name, path)
        yield path


def _file_system(address: str) -> tuple[Any, str]:
    """Arrow's file system for an address, and the path there."""
    fs = importlib.import_module("pyarrow.fs")
    scheme, _, path = address.partition("://")
    try:
        if scheme != "s3":
            found, path = fs.FileSystem.from_uri(address)
            return found, path
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
        protocol, _, host = endpoint.partition("://")
        options: dict[str, Any] = {"allow_delayed_open": True}  # so that what is small is one PUT
        if endpoint:
            options |= {"scheme": protocol, "endpoint_override": host.rstrip("/")}
        if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            options["region"] = region
        retry = fs.AwsStandardS3RetryStrategy(max_attempts=5)
        return fs.S3FileSystem(retry_strategy=retry, connect_timeout=5, request_timeout=60, **options), path
    except (OSError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"{address} cannot be reached: {_reason(error)}") from None


@contextmanager
def _reading(address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError("cannot be read", file=address, found=verbatim(_reason(error))) from None


def _reason(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error)
    return (said.splitlines() or [type(error).__name__])[0][:300]
