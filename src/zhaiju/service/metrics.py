"""What a service counts, for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from zhaiju.service.batching import Batch

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
LOOK_SECONDS = 0.02
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one service.

    Args:
        inside: How many requests it works on or that wait.
    """

    def __init__(self, inside: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("zhaiju_requests", "Requests answered.", ["route", "status"], registry=self._registry)
        self._seconds = Histogram(
            "zhaiju_request_seconds", "Time to answer.", ["route"], buckets=SECONDS, registry=self._registry
        )
        Gauge("zhaiju_queue", "Requests in work or waiting.", registry=self._registry).set_function(inside)
        self._batch_requests = Histogram(
            "zhaiju_batch_requests", "Requests in a batch.", ["engine"], buckets=SIZES, registry=self._registry
        )
        self._batch_windows = Histogram(
            "zhaiju_batch_windows", "Windows in a batch.", ["engine"], buckets=SIZES, registry=self._registry
        )
        self._tokens = Counter("zhaiju_tokens", "Tokens computed.", ["engine"], registry=self._registry)
        self._padding = Counter(
            "zhaiju_padding_tokens", "Tokens of padding computed.", ["engine"], registry=self._registry
        )

        self._lag = Histogram(
            "zhaiju_loop_lag_seconds",
            "How much later than due the event loop came to a timer.",
            buckets=LAGS,
            registry=self._registry,
        )

    async def watch_loop(self) -> None:
        """Count, until cancelled, how late the running event loop is."""
        while True:
            due = time.monotonic() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self._lag.observe(max(0.0, time.monotonic() - due))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def computed(self, engine: str, batch: Batch) -> None:
        """Count a batch."""
        self._batch_requests.labels(engine).observe(batch.requests)
        self._batch_windows.labels(engine).observe(batch.windows)
        self._tokens.labels(engine).inc(batch.tokens)
        self._padding.labels(engine).inc(batch.padded - batch.tokens)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
