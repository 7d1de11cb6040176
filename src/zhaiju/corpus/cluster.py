"""The full-text index of a table too big for one machine, built by lance-ray on a Ray cluster.

The cluster is the one that `RAY_ADDRESS` names; without it, one is started on this machine and ended afterwards. Each
of its machines must have lance-ray, reach the table under the same address, and have the keys to it (`AWS_…`) in its
environment: none are sent to it.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any

from zhaiju.errors import library


def check_installed() -> None:
    """Raise an error where there is no lance-ray."""
    _library("lance_ray")


def build(table: str, column: str, *, name: str, settings: dict[str, Any], kept: timedelta) -> None:
    """Join a table's small files, build the full-text index of a column anew, delete versions older than `kept`.

    Raises:
        ConfigError: lance-ray is not installed.
        OSError, RuntimeError, ValueError: what Ray or Lance says.
    """
    lance_ray = _library("lance_ray")
    try:
        with connected() as workers:
            lance_ray.compact_files(table, num_workers=workers)
            lance_ray.create_scalar_index(
                table, column=column, index_type="INVERTED", name=name, num_workers=workers, **settings
            )
            _library("lance").dataset(table).cleanup_old_versions(older_than=kept)
    except _library("ray.exceptions").RayError as error:
        raise RuntimeError(str(error)) from error


@contextmanager
def connected() -> Iterator[int]:
    """Connect to the cluster at `RAY_ADDRESS`, else to one started here; gives the number of workers it has room for.

    Raises:
        ConfigError: Ray is not installed.
        OSError, RuntimeError, ValueError: what Ray says.
    """
    ray = _library("ray")
    if ray.is_initialized():  # a Python user's own
        yield _workers(ray)
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_reachable(address)
    local = {"include_dashboard": False} if address == "local" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Ray's processes are started by one that has used Lance
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **local)
        except (OSError, RuntimeError, ValueError):
            raise
        except Exception as error:  # of no other kind, such as that a busy machine did not start it in time
            raise RuntimeError(str(error)) from error
    with redirect_stdout(sys.stderr):  # Ray prints what it has to say of dead workers, some of it while it shuts down
        try:
            yield _workers(ray)
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise an error at once where nothing listens; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            raise OSError(f"no Ray cluster at {address}: {error.strerror or error}") from None


def _workers(ray: Any) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _library(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return library(name)
