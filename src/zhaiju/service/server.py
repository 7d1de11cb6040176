"""Listening, and stopping so that what was accepted is answered."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

from zhaiju.errors import ConfigError
from zhaiju.service.protocol import protocol

if TYPE_CHECKING:
    from fastapi import FastAPI

SWITCH_SECONDS = 0.001  # that a thread computes in Python before the event loop may go on; Python's own is 0.005
STOPPING = (signal.SIGINT, signal.SIGTERM)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, not listening yet.

    Raises:
        ConfigError: the address is taken, or none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen at {host} port {port}: {error.strerror or error}") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """The address to open in a browser."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_at(
    bound: socket.socket,
    app: FastAPI,
    *,
    grace: float = 30.0,
    patience: float = 10.0,
    connections: int = 512,
    behind_proxy: bool = False,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM comes; a second SIGINT stops at once.

    Args:
        bound: Where, from `bind`.
        app: What.
        grace: Seconds that a stop waits for what was accepted.
        patience: See `Settings`.
        connections: See `Settings`.
        behind_proxy: Take clients' addresses from a proxy on this machine.
        started: Called with the address once it listens.
    """
    _log_to_stderr()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # to go through all that models are made of takes a tenth of a second, in which nothing is answered

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started(address_of(bound))

    server = Server(configured(app, grace=grace, patience=patience, connections=connections, behind_proxy=behind_proxy))
    with _stopping(server):
        server.run(sockets=[bound])


def configured(
    app: FastAPI,
    *,
    grace: float = 30.0,
    patience: float = 10.0,
    connections: int = 512,
    behind_proxy: bool = False,
) -> uvicorn.Config:
    """How it is served; see `serve_at`."""
    return uvicorn.Config(
        app,
        http=protocol(app.state.door, patience=patience, connections=connections),
        ws="none",  # there are none here, whatever libraries are installed
        log_config=None,
        access_log=False,  # it would log what stands in addresses
        lifespan="on",
        server_header=False,
        proxy_headers=behind_proxy,
        timeout_graceful_shutdown=max(1, round(grace)),
    )


@contextmanager
def _stopping(server: uvicorn.Server) -> Iterator[None]:
    """Let a signal stop the server even before it has its own handlers, and not kill the process after it stopped."""

    def stop(number: int, frame: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("zhaiju.service", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
