"""Runs targets case by case in a process of its own, and keeps count.

The process has a limit of memory. Before each case it writes the input to memory that the driver shares, so that one
that kills it, or that never ends, is found too; a new process goes on behind it. What was counted is written every few
seconds, whole blocks only, and a campaign goes on from there.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import platform
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.target import Target, block_of
from zhaiju import files

MEMORY = 2 << 30  # bytes of address space beyond what the libraries take
SLOW = 2.0  # seconds of computing in which a case is to be done
STUCK = 30.0  # after which it is given up
KILLED = 90.0  # seconds without a sign of life after which its process is killed: C code cannot be asked to stop
SAVE_SECONDS = 3.0
KEPT = 1 << 17  # bytes of an input that are kept of one that kills its process
OURS = Path(files.__file__).parent
_HEAD = struct.Struct("<qqi")  # block, case in it, length of the input


class StuckError(BaseException):
    """A case takes too long; no Exception, so that nobody takes it for a fault of the input."""


@dataclass
class Finding:
    """A way in which a target broke a promise.

    Attributes:
        what: The error and where it was raised.
        message: Of its first case.
        cases: How many cases showed it.
        first: The first one's number.
        input: The file that keeps it.
        mended: How, once it is; filled in by hand.
    """

    what: str
    message: str
    cases: int = 1
    first: int = 0
    input: str = ""
    mended: str = ""


@dataclass
class Tally:
    """What came of a target so far.

    Attributes:
        cases: How many were run.
        distinct: How many of them no other of their block had the same bytes as.
        seconds: Of computing, that of making inputs left out.
        slowest: Seconds of computing of the slowest case.
        slowest_case: Its number.
        block: Cases of a block; it stays, since it decides the inputs.
        findings: By what they are.
        date: Of the last case.
    """

    cases: int = 0
    distinct: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_case: int = 0
    block: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)
    date: str = ""

    @classmethod
    def load(cls, values: dict[str, Any]) -> Tally:
        """From JSON."""
        found = {what: Finding(**finding) for what, finding in values["findings"].items()}
        return cls(**{**values, "findings": found})


@dataclass
class Block:
    """What came of one block, or the part of it that a process still had to do."""

    distinct: int
    seconds: float
    slowest: float
    slowest_at: int
    findings: list[tuple[str, str, int, bytes]]  # what, message, case in the block, input


def run_block(
    target: Target,
    inputs: Sequence[bytes],
    *,
    told: Callable[[int, bytes], None] | None = None,
    noted: Callable[[str, str, int, bytes], None] | None = None,
) -> Block:
    """Run some inputs in this process; `told` is called before each, `noted` with each finding, at once."""
    result = Block(len(set(inputs)), 0.0, 0.0, 0, [])

    def note(what: str, message: str, at: int, data: bytes) -> None:
        result.findings.append((what, message, at, data))
        if noted is not None:
            noted(what, message, at, data)

    began = before = time.process_time()
    for at, data in enumerate(inputs):
        if told is not None:
            told(at, data)
        try:
            target.check(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            note(*describe(error), at, data)
        after = time.process_time()
        if after - before > result.slowest:
            result.slowest, result.slowest_at = after - before, at
        if after - before > SLOW:
            note("slow", f"took {after - before:.1f} s", at, data)
        before = after
    result.seconds = before - began
    return result


def describe(error: BaseException) -> tuple[str, str]:
    """The error and the place in zhaiju that it came through, or that of the promise; and its message."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(OURS)] or frames
    told = [frame for frame in frames if frame.name != "hold"]
    last = told[-1] if type(error).__name__ == "BrokenError" and told else ours[-1]
    message = str(error)
    kept = f": {message.partition(':')[0]}" if type(error).__name__ == "BrokenError" else ""
    return f"{type(error).__name__} in {Path(last.filename).name} {last.name}{kept}", message[:500]


def _work(target: Target, seed: int, size: int, block: int, skip: int, shared: str, pipe: Connection) -> None:
    """A process's life: blocks from `block` on, the first `skip` cases of the first one left out."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends it

    def stuck(number: int, frame: FrameType | None) -> None:
        raise StuckError(f"not done after {STUCK:.0f} s")

    signal.signal(signal.SIGPROF, stuck)
    seeds = target.corpus()
    run_block(target, seeds)  # whatever is imported when it is first needed
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with open(shared, "r+b") as stream:
        memory = mmap.mmap(stream.fileno(), 0)
    while True:
        inputs = list(block_of(target, seeds, seed, block, size))[skip:]

        def told(at: int, data: bytes, block: int = block, skip: int = skip) -> None:
            kept = data[: len(memory) - _HEAD.size]
            _HEAD.pack_into(memory, 0, block, at + skip, len(kept))
            memory[_HEAD.size : _HEAD.size + len(kept)] = kept
            signal.setitimer(signal.ITIMER_PROF, STUCK)

        def noted(what: str, message: str, at: int, data: bytes, block: int = block, skip: int = skip) -> None:
            pipe.send((what, message, block * size + skip + at, data))  # at once, for this process may die of the next

        try:
            result = run_block(target, inputs, told=told, noted=noted)
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send((block, skip, result))
        except BrokenPipeError:  # the driver was killed
            return
        block, skip = block + 1, 0


class Campaign:
    """Targets, how far they are, and the file that says so.

    Args:
        results: The file; one that is there goes on.
        found: Folder that inputs with findings are put into.
        seed: Of all inputs.
    """

    def __init__(self, results: Path, found: Path, seed: int) -> None:
        self._results = results
        self._found = found
        before = files.read_json(results) if results.is_file() else {"seed": seed, "targets": {}}
        if before["seed"] != seed:
            raise SystemExit(f"{results} is of seed {before['seed']}; give --seed {before['seed']} or another file")
        self._seed = seed
        self._tallies = {name: Tally.load(values) for name, values in before["targets"].items()}

    def tally(self, target: Target) -> Tally:
        """How far a target is."""
        return self._tallies.setdefault(target.name, Tally())

    def save(self) -> None:
        """Write the file."""
        values = {
            "seed": self._seed,
            "cases": sum(tally.cases for tally in self._tallies.values()),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {_processor()}",
            "targets": {name: asdict(tally) for name, tally in sorted(self._tallies.items())},
        }
        self._results.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(self._results, values)

    def run_all(
        self,
        targets: Sequence[Target],
        wanted: Mapping[str, int],
        *,
        seconds: float,
        turn: float,
        say: Callable[[str], None],
    ) -> None:
        """Run targets in turns until each has as many cases as are wanted of it, or for that long."""
        ends = time.monotonic() + seconds
        while left := [target for target in targets if self.tally(target).cases < wanted[target.name]]:
            for target in left:
                if time.monotonic() >= ends:
                    return
                self.run(target, wanted[target.name], turn, ends, say)

    def run(self, target: Target, cases: int, turn: float, ends: float, say: Callable[[str], None]) -> None:
        """Run a target until it has that many cases in all, or has computed for `turn` seconds, or until `ends`."""
        tally = self.tally(target)
        tally.block = tally.block or block_size(target)
        saved = time.monotonic()
        computed = tally.seconds + turn

        def is_over() -> bool:
            return tally.cases >= cases or tally.seconds >= computed or time.monotonic() >= ends

        with tempfile.NamedTemporaryFile(prefix="zhaiju-fuzz-", dir=_memory()) as shared:
            shared.truncate(_HEAD.size + KEPT)
            skip = 0
            while not is_over():
                block = tally.cases // tally.block
                shared.seek(0)
                shared.write(_HEAD.pack(-1, 0, 0))
                shared.flush()
                worker = _Worker(target, self._seed, tally.block, block, skip, shared.name)
                try:
                    while not is_over():
                        given = worker.next()
                        if given is None:
                            skip = self._died(target, tally, worker, shared.name)
                            break
                        if isinstance(given[0], str):
                            self._note(target, tally, *given)
                            continue
                        self._add(tally, *given)
                        skip = 0
                        if time.monotonic() - saved > SAVE_SECONDS:
                            self.save()
                            saved = time.monotonic()
                            say(_line(target, tally, cases))
                finally:
                    worker.kill()
        self.save()
        say(_line(target, tally, cases))

    def _add(self, tally: Tally, block: int, skip: int, result: Block) -> None:
        first = block * tally.block + skip
        if result.slowest > tally.slowest:
            tally.slowest, tally.slowest_case = round(result.slowest, 3), first + result.slowest_at
        tally.cases = (block + 1) * tally.block
        tally.distinct += result.distinct
        tally.seconds = round(tally.seconds + result.seconds, 6)
        tally.date = date.today().isoformat()

    def _died(self, target: Target, tally: Tally, worker: _Worker, shared: str) -> int:
        """Note the input that a process died of; the number of cases of its block not to run again."""
        content = Path(shared).read_bytes()
        block, at, length = _HEAD.unpack_from(content)
        if block < 0:
            raise SystemExit(f"{target.name}: the process ends before its first case ({worker.end})")
        data = content[_HEAD.size : _HEAD.size + length]
        self._note(target, tally, f"process {worker.end}", "", block * tally.block + at, data)
        if at + 1 == tally.block:
            tally.cases = (block + 1) * tally.block
            return 0
        return int(at + 1)

    def _note(self, target: Target, tally: Tally, what: str, message: str, case: int, data: bytes) -> None:
        if what in tally.findings:
            tally.findings[what].cases += 1
            return
        name = f"{target.name}-{sha256(data).hexdigest()[:12]}"
        self._found.mkdir(parents=True, exist_ok=True)
        (self._found / name).write_bytes(data)
        tally.findings[what] = Finding(what, message, 1, case, name)


class _Worker:
    """A process that runs blocks until it is killed."""

    def __init__(self, target: Target, seed: int, size: int, block: int, skip: int, shared: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_start, args=(target.name, seed, size, block, skip, shared, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self.end = ""

    def next(self) -> Any:
        """What came of the next block; None where the process died of it."""
        try:
            if self._pipe.poll(KILLED + STUCK):
                return self._pipe.recv()
            self._process.kill()
            self.end = f"killed, no block done in {KILLED + STUCK:.0f} s"
        except EOFError:
            self._process.join(10)
            code = self._process.exitcode or 0
            self.end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return None

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join(10)
        self._pipe.close()


def _start(name: str, *rest: Any) -> None:
    from fuzz.targets import find

    _work(find(name), *rest)


def block_size(target: Target) -> int:
    """Cases of a block: a second of computing at most, since the slower ones have fewer."""
    return next(
        size for most, size in ((500_000, 2_000), (100_000, 500), (30_000, 100), (0, 20)) if target.cases >= most
    )


def _line(target: Target, tally: Tally, cases: int) -> str:
    speed = tally.cases / max(tally.seconds, 0.1)
    found = f", {len(tally.findings)} findings" if tally.findings else ""
    return f"{target.name:12} {tally.cases:>11,} of {cases:,}, {speed:,.0f}/s, slowest {tally.slowest:.2f} s{found}"


def _memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def _processor() -> str:
    """The processor's name, where the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
