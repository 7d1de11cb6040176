"""Threads that take turns in Python.

Python's interpreter runs one thread at a time, and whoever wants it queues for it: a server whose every request is a
thread that wants it would let its event loop wait behind all of them, a few milliseconds for each. So only a few run at
a time. Whoever waits for something else (an engine, a search) waits without a turn, and is woken once: when there is
both what it waits for and a turn for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

TURNS = 2
T = TypeVar("T")


class Baton:
    """What comes with a turn.

    Args:
        start: Called once there is a turn, in place of waking who waits.
    """

    __slots__ = ("_lock", "_start", "is_given", "is_gone")

    def __init__(self, start: Callable[[], object] | None = None) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_given = False
        self.is_gone = False

    def hand_over(self) -> None:
        """Wake or start whom it is for."""
        if self._start is None:
            self._lock.release()
        else:
            self._start()

    def wait(self, deadline: float = math.inf) -> bool:
        """Whether it came before a time of `time.monotonic`."""
        if deadline == math.inf:
            return self._lock.acquire()
        return self._lock.acquire(timeout=max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX)))


class Turns:
    """Turns, first come, first served.

    Args:
        most: How many there are.
    """

    def __init__(self, most: int = TURNS) -> None:
        self._changing = threading.Lock()
        self._free = most
        self._waiting: deque[Baton] = deque()
        self._held = threading.local()

    def ask(self, baton: Baton) -> None:
        """Hand a baton over, and with it a turn, as soon as there is one; not if nobody waits for it any more."""
        with self._changing:
            if baton.is_gone:
                return
            if not self._free:
                self._waiting.append(baton)
                return
            self._free -= 1
            baton.is_given = True
        baton.hand_over()

    def release(self) -> None:
        """Hand a turn on."""
        with self._changing:
            if not self._waiting:
                self._free += 1
                return
            baton = self._waiting.popleft()
            baton.is_given = True
        baton.hand_over()

    @contextmanager
    def given(self) -> Iterator[None]:
        """Run with a turn that this thread was started with."""
        self._held.is_held = True
        try:
            yield
        finally:
            self._held.is_held = False
            self.release()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Run with a turn, the one that this thread has if it has one."""
        if self.is_held:
            yield
            return
        baton = Baton()
        self.ask(baton)
        baton.wait()
        with self.given():
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run without a turn, for what takes long and is not Python."""
        if not self.is_held:
            yield
            return
        self._held.is_held = False
        self.release()
        try:
            yield
        finally:
            self._again()

    def wait(self, baton: Baton, deadline: float = math.inf) -> bool:
        """Wait without a turn for a baton that another thread asks for; go on with a turn in any case.

        Returns:
            Whether it came before the deadline, a time of `time.monotonic`.
        """
        self._held.is_held = False
        self.release()
        came = baton.wait(deadline)
        if not came:
            with self._changing:
                came = baton.is_given
                baton.is_gone = not came
                if baton in self._waiting:
                    self._waiting.remove(baton)
            if came:
                baton.wait()
        if came:
            self._held.is_held = True
        else:
            self._again()
        return came

    def let_pass(self) -> None:
        """Let others go first, if some wait."""
        if self._waiting:
            with self.aside():
                pass

    @property
    def is_held(self) -> bool:
        """Whether this thread has a turn."""
        return getattr(self._held, "is_held", False)

    def _again(self) -> None:
        baton = Baton()
        self.ask(baton)
        baton.wait()
        self._held.is_held = True


class Crew:
    """Threads that do work in turns.

    Args:
        most: How many threads, those that wait included.
        turns: The turns.
    """

    def __init__(self, most: int, turns: Turns) -> None:
        self._turns = turns
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="zhaiju-request")

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Have work done in a thread, as soon as there is a turn for it."""
        future: Future[T] = Future()

        def start() -> None:
            try:
                self._threads.submit(do)
            except RuntimeError:  # closed
                future.cancel()
                self._turns.release()

        def do() -> None:
            with self._turns.given():
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._turns.ask(Baton(start))
        return future

    def run_aside(self, work: Callable[[], T]) -> Future[T]:
        """Have work done in a thread that takes no turn, since most of it is not Python."""
        return self._threads.submit(work)

    def close(self) -> None:
        """Take no more work; what has not begun is cancelled."""
        self._threads.shutdown(cancel_futures=True)
