"""Requests that arrive together are computed together.

A `Batcher` stands before one engine. Requests, each in a thread of its own, take turns to cut their texts into windows
and hand them over; the batcher's thread takes windows of several requests at a time, as many as a batch of the engine
holds, and gives each request its logits as soon as its last window is done.

Whose windows come next is fair queueing: a request is due once it has waited as long as its tokens are worth
(`SECONDS_PER_TOKEN`), so that a short one passes a long one, and a long one is passed only by those that arrive soon
after it. Nothing waits for a batch to fill, beyond a window of a few milliseconds where the engine had nothing to do.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zhaiju.data.encoding import Window
from zhaiju.inference.engine import Engine, Predictor, Progress
from zhaiju.service.turns import Baton, Turns
from zhaiju.tasks.base import Head, Task

SECONDS_PER_TOKEN = 1 / 5_000


class LateError(Exception):
    """A request's time is up, or nobody waits for it any more."""


class StoppedError(Exception):
    """The service stops and takes no more work."""


class Ticket:
    """Until when a request is wanted.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self.deadline = time.monotonic() + seconds
        self._dropped = False

    def drop(self) -> None:
        """Nobody waits for it any more."""
        self._dropped = True

    @property
    def is_late(self) -> bool:
        """Whether its work need not be done."""
        return self._dropped or time.monotonic() >= self.deadline

    def check(self) -> None:
        """Raise a `LateError` if its work need not be done."""
        if self.is_late:
            raise LateError


@dataclass(eq=False, slots=True)
class _Job:
    head: Head
    windows: Sequence[Window]
    ticket: Ticket
    turns: Turns
    arrived: float
    due: float
    tokens: int  # of windows that are not taken yet
    taken: int = 0
    left: int = 0
    logits: list[Any] = field(default_factory=list)
    error: Exception | None = None
    done: Baton = field(default_factory=Baton)

    def fail(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
            self.turns.ask(self.done)


@dataclass(frozen=True, slots=True)
class Batch:
    """What was computed at once.

    Attributes:
        requests: How many requests had windows in it.
        windows: How many windows.
        tokens: Their tokens.
        padded: Tokens computed, padding included.
    """

    requests: int
    windows: int
    tokens: int
    padded: int


class Batcher:
    """Puts the windows of several requests into the batches of one engine, in a thread of its own.

    Args:
        engine: The engine; nobody else uses it from now on.
        more: Others of the same checkpoint, each with a thread, that compute beside it.
        window: Seconds that an idle engine waits for company of the first request.
        observe: Called after each batch.
        turns: Who asks takes turns; None: of its own.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        more: Sequence[Engine] = (),
        window: float = 0.002,
        observe: Callable[[Batch], None] = lambda batch: None,
        turns: Turns | None = None,
    ) -> None:
        self.engine = engine
        self._window = window
        self._observe = observe
        self._waiting: list[_Job] = []
        self._changed = threading.Condition()
        self._turns = turns or Turns()
        self._open = True
        self._threads = [
            threading.Thread(target=self._work, args=(one,), name="zhaiju-batcher", daemon=True)
            for one in (engine, *more)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still works."""
        return all(thread.is_alive() for thread in self._threads)

    def predictor(self, ticket: Ticket) -> Predictor:
        """What a request predicts with in place of the engine."""
        return _Seat(self, ticket)

    def predict(self, task: Task[Any, Any], examples: Iterable[Any], ticket: Ticket) -> list[Any]:
        """One prediction an example, in order; waits until they are there.

        Raises:
            DataError: an example cannot be encoded (its row is named).
            CheckpointError: the weights give something that is not a number.
            LateError: time was up before.
            StoppedError: the batcher was closed before.
        """
        with self._turns.taken():
            encoded = []
            for example in examples:
                self._turns.let_pass()
                ticket.check()
                encoded.append((example, self.engine.encode(task, example)))
            logits = iter(self._logits(task.head, [window for _, windows in encoded for window in windows], ticket))
            predictions = []
            for example, windows in encoded:
                self._turns.let_pass()
                ticket.check()
                predictions.append(task.decode(example, windows, [next(logits) for _ in windows]))
        return predictions

    def close(self, *, drain: bool = True) -> None:
        """Take no more work, do what was taken (or drop it), and end the threads."""
        with self._changed:
            self._open = False
            if not drain:
                for job in self._waiting:
                    job.fail(StoppedError())
                self._waiting = []
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _logits(self, head: Head, windows: Sequence[Window], ticket: Ticket) -> list[Any]:
        if not windows:
            return []
        now = time.monotonic()
        tokens = sum(map(len, windows))
        due = now + SECONDS_PER_TOKEN * tokens
        job = _Job(
            head, windows, ticket, self._turns, now, due, tokens, left=len(windows), logits=[None] * len(windows)
        )
        with self._changed:
            if not self._open:
                raise StoppedError
            self._waiting.append(job)
            self._changed.notify_all()
        if not self._turns.wait(job.done, ticket.deadline):
            raise LateError
        if job.error is not None:
            raise job.error
        return job.logits

    def _work(self, engine: Engine) -> None:
        while taken := self._next():
            batches = self.engine.batches([job.windows[place] for job, place in taken])
            for batch in sorted(batches, key=lambda batch: min(taken[index][0].due for index in batch)):
                self._compute(engine, [taken[index] for index in batch])

    def _next(self) -> list[tuple[_Job, int]]:
        """The windows to compute next, no more than a batch holds; none: the batcher is closed and all is done."""
        with self._changed:
            while True:
                self._waiting = [job for job in self._waiting if _is_wanted(job)]
                if not self._waiting:
                    if not self._open:
                        return []
                    self._changed.wait()
                    continue
                rest = min(job.arrived for job in self._waiting) + self._window - time.monotonic()
                full = sum(job.tokens for job in self._waiting) >= self.engine.batch_tokens
                if full or rest <= 0 or not self._open:
                    return self._taken()
                self._changed.wait(rest)

    def _taken(self) -> list[tuple[_Job, int]]:
        taken: list[tuple[_Job, int]] = []
        # Side by side each takes its share, for the others not to stand idle.
        room = min(self.engine.batch_tokens, -(-sum(job.tokens for job in self._waiting) // len(self._threads)))
        for job in sorted(self._waiting, key=lambda job: job.due):
            while job.taken < len(job.windows):
                length = len(job.windows[job.taken])
                if taken and length > room:
                    return taken
                taken.append((job, job.taken))
                room -= length
                job.tokens -= length
                job.taken += 1
            self._waiting.remove(job)
        return taken

    def _compute(self, engine: Engine, batch: Sequence[tuple[_Job, int]]) -> None:
        wanted = [(job, place) for job, place in batch if _is_wanted(job)]
        if not wanted:
            return
        jobs = list(dict.fromkeys(job for job, _ in wanted))
        before = engine.usage.tokens, engine.usage.padded
        try:
            logits = engine.run(jobs[0].head, [job.windows[place] for job, place in wanted])
        except Exception as error:  # whatever a library raises concerns these requests only
            for job in jobs:
                job.fail(error)
            return
        done = []
        with self._changed:
            for (job, place), found in zip(wanted, logits, strict=True):
                job.logits[place] = found
                job.left -= 1
                if not job.left:
                    done.append(job)
        for job in done:
            self._turns.ask(job.done)
        usage = engine.usage
        self._observe(Batch(len(jobs), len(wanted), usage.tokens - before[0], usage.padded - before[1]))


def _is_wanted(job: _Job) -> bool:
    """Whether its work is to be done; if nobody waits for it any more it is told so."""
    if job.error is None and job.ticket.is_late:
        job.fail(LateError())
    return job.error is None


@dataclass(frozen=True, slots=True)
class _Seat:
    """A request's place in front of an engine."""

    batcher: Batcher
    ticket: Ticket

    def predict(
        self, task: Task[Any, Any], examples: Iterable[Any], *, progress: Progress | None = None
    ) -> Iterator[Any]:
        predictions = self.batcher.predict(task, examples, self.ticket)
        if progress is not None:
            progress(len(predictions))
        return iter(predictions)
