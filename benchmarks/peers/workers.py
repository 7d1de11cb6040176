"""Ways of doing one work, each in a process of its own, run in turn so that the machine's moods hit all alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhaiju.errors import ZhaijuError

WAYS = Path(__file__).parent / "ways"
READY_SECONDS = 900


@dataclass(frozen=True)
class Way:
    """One way of doing a work.

    Attributes:
        name: What the table calls it.
        script: A file of `ways/`.
        spec: What it is told.
        python: The interpreter that runs it; None: this one.
    """

    name: str
    script: str
    spec: dict[str, Any]
    python: str | None = None


@dataclass
class Timed:
    """What was found of a way.

    Attributes:
        seconds: Of each round.
        answers: Of the first.
        failed: Why there are none.
    """

    seconds: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    failed: str | None = None

    @property
    def median(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.seconds)


def race(
    ways: Sequence[Way], *, rounds: int, threads: int, few: int = 0, note: Callable[[str], None] = lambda _: None
) -> dict[str, Timed]:
    """Run every way `rounds` times, interleaved.

    Args:
        ways: The ways.
        rounds: Rounds of each.
        threads: CPU threads of each.
        few: Only this many rows a round; 0: all.
        note: Told what is going on.

    Returns:
        For each way its times and answers. One that fails is there, with what it said.
    """
    found = {way.name: Timed() for way in ways}
    workers: dict[str, _Worker] = {}
    try:
        for way in ways:
            note(f"loading {way.name}")
            try:
                workers[way.name] = _Worker(way, threads)
            except ZhaijuError as error:
                found[way.name].failed = str(error)
                note(f"{way.name}: {error}")
        for turn in range(rounds):
            for name, worker in list(workers.items()):
                try:
                    result = worker.ask(few)
                except ZhaijuError as error:
                    found[name].failed = str(error)
                    note(f"{name}: {error}")
                    workers.pop(name).close()
                    continue
                found[name].seconds.append(result["seconds"])
                found[name].answers = result["answers"] or found[name].answers
                note(f"round {turn + 1}, {name}: {result['seconds']:.1f} s")
    finally:
        for worker in workers.values():
            worker.close()
    return found


def ratio(peer: Timed, ours: Timed) -> float:
    """How many times as fast ours is: the median over the rounds of a paired ratio."""
    return statistics.median(theirs / own for theirs, own in zip(peer.seconds, ours.seconds, strict=True))


class _Worker:
    """A process that runs one way."""

    def __init__(self, way: Way, threads: int) -> None:
        self.name = way.name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # one that waits for its turn takes no time from the others
            "TOKENIZERS_PARALLELISM": "true",
            "HF_HUB_OFFLINE": "1",
            "HAYSTACK_TELEMETRY_ENABLED": "False",
            "PYTHONWARNINGS": "ignore",
        }
        if way.python is not None:
            environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [way.python or sys.executable, str(WAYS / way.script), json.dumps(way.spec | {"threads": threads})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        timer = threading.Timer(READY_SECONDS, self._process.kill)
        timer.start()
        try:
            self._read()
        finally:
            timer.cancel()

    def ask(self, few: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what it said last is read below
            self._process.stdin.write(f"{few}\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            self.close()
            raise ZhaijuError(f"{self.name} stopped: {said[-1] if said else self._process.returncode}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
