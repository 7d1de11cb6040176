"""`zhaiju serve` against the same checkpoint behind a plain FastAPI handler, one request per forward pass, in fp32.

Parts, each alone with --part:

    plain     the plain handler: clients that each ask one question after another
    serve     the same of `zhaiju serve`
    overload  ten times the requests a second that it serves, sent whatever comes of them; then how soon it is over

Servers and clients share the machine. The clients are one loop over raw sockets in this process; a latency runs from
when a request was handed to the socket to when its answer was seen to be there. What the clients cost is told with each
part: their share of one processor, and how long their loop was kept from looking at the sockets (p99). With --nice
below 0 (which takes privileges) they are held up less.

    python benchmarks/service.py [--route read] [--part all] [--clients 32] [--seconds 60] [--reader starter]
                                 [--intent DIR] [--backend auto] [--precision fp32] [--plain-reader starter]
                                 [--plain-intent DIR] [--data ../shared/data] [--output page.md]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import zhaiju
from zhaiju.files import write_text

OVERLOAD = 10
MOST_CONNECTIONS = 900  # of the open loop; what finds none free is counted, not sent
LATE = 10.0  # seconds that answers are waited for after the last request
PARTS = ("plain", "serve", "overload")


def plain(reader: str, intent: str | None) -> None:
    """The other way: a handler a route, a lock around the model."""
    import uvicorn
    from fastapi import Body, FastAPI

    app, lock = FastAPI(), threading.Lock()
    models = {} if reader == "none" else {"read": zhaiju.load(reader, task="read")}
    models |= {"intent": zhaiju.load(intent, task="intent")} if intent else {}

    @app.post("/v1/{route}")
    def handle(route: str, body: dict[str, Any] = Body(...)) -> dict[str, Any]:  # noqa: B008
        with lock:
            if route == "read":
                found: Any = models["read"].read(body["question"], body["context"])
            elif route == "answer":
                found = models["read"].answer(body["question"], body["contexts"])
            else:
                found = models["intent"].intent(body["text"])
        return {
            name: getattr(found, name) for name in ("answer", "start", "end", "label", "score") if hasattr(found, name)
        }

    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    print(f"serving at http://127.0.0.1:{bound.getsockname()[1]}", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[bound])


@contextmanager
def server(arguments: Sequence[str]) -> Iterator[tuple[int, psutil.Process]]:
    """Its port and its process."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),  # --nice is for the clients
    )
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise SystemExit("".join(said))
        threading.Thread(target=_drain, args=[process.stderr], daemon=True).start()
        time.sleep(2)  # until it listens
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _drain(stream: Any) -> None:
    for _ in stream:
        pass


@dataclass
class Seen:
    """What clients saw.

    Attributes:
        answers: Of each answer when it was asked for, seconds that it took, and its status.
        seconds: How long requests were sent.
        ended: When the last was sent.
        unsent: Requests that found no connection free.
        broken: Connections that ended without an answer.
        share: Of one processor, what the clients took.
        lag_ms: How long the clients' loop was away from the sockets, 99th percentile.
    """

    answers: list[tuple[float, float, int]] = field(default_factory=list)
    seconds: float = 0.0
    ended: float = 0.0
    unsent: int = 0
    broken: int = 0
    share: float = 0.0
    lag_ms: float = 0.0


class Connection:
    """A socket and what it waits for."""

    __slots__ = ("buffer", "connecting", "expected", "sent", "socket", "status")

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connecting: bytes | None = None
        self.buffer = b""
        self.expected = 0
        self.status = 0
        self.sent = 0.0
        with suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", port))

    def ask(self, request: bytes) -> None:
        """Send a request, now or once it is connected."""
        self.buffer, self.expected = b"", 0
        self.sent = time.monotonic()
        try:
            if self.socket.send(request) != len(request):
                raise SystemExit("a request did not fit into the socket's buffer; ask shorter ones")
            self.connecting = None
        except (BlockingIOError, OSError):
            self.connecting = request

    def read(self) -> bool | None:
        """Whether an answer is whole; None: the other side is gone."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            return None
        if not data:
            return None
        self.buffer += data
        if not self.expected:
            head = self.buffer.find(b"\r\n\r\n")
            if head < 0:
                return False
            self.status = int(self.buffer[9:12])
            length = re.search(rb"content-length: (\d+)", self.buffer[:head].lower())
            self.expected = head + 4 + (int(length[1]) if length else 0)
        return len(self.buffer) >= self.expected


def ask(port: int, requests: Sequence[bytes], seconds: float, *, clients: int = 0, rate: float = 0.0) -> Seen:
    """Ask for some seconds: so many clients, each waiting for its answer before it asks again, or so many a second."""
    seen = Seen(seconds=seconds)
    poll = select.epoll()
    open_: dict[int, Connection] = {}
    idle: deque[Connection] = deque()
    number = 0
    lags: list[float] = []

    def send() -> None:
        nonlocal number
        request = requests[number % len(requests)]
        number += 1
        if idle:
            connection = idle.pop()
        elif len(open_) < (clients or MOST_CONNECTIONS):
            connection = Connection(port)
            open_[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        else:
            seen.unsent += 1
            return
        connection.ask(request)

    def forget(connection: Connection) -> None:
        del open_[connection.socket.fileno()]
        connection.socket.close()

    cpu, began = time.process_time(), time.monotonic()
    until = began + seconds
    for _ in range(clients):
        send()
    while True:
        now = time.monotonic()
        sending = now < until
        if sending and rate:
            while number < (now - began) * rate:
                send()
        elif not sending:
            seen.ended = seen.ended or now
            if len(idle) == len(open_) or now > until + LATE:
                break
        looked = time.monotonic()
        events = poll.poll(0.001 if rate and sending else 0.05)
        now = time.monotonic()  # what is ready was so by now, however long the others take below
        for number_, event in events:
            connection = open_[number_]
            if event & select.EPOLLOUT:
                poll.modify(number_, select.EPOLLIN)
                if connection.connecting is not None:
                    connection.ask(connection.connecting)
            if not event & ~select.EPOLLOUT:
                continue
            whole = connection.read()
            if whole is None:
                if connection in idle:
                    idle.remove(connection)
                else:
                    seen.broken += 1
                forget(connection)
                if clients and sending:
                    send()
            elif whole:
                seen.answers.append((connection.sent, now - connection.sent, connection.status))
                closes = b"\nconnection: close" in connection.buffer[: connection.expected].lower()
                if closes:
                    forget(connection)
                else:
                    idle.append(connection)
                if clients and time.monotonic() < until:
                    send()
        lags.append(time.monotonic() - now + max(0.0, now - looked - 0.05))
    seen.share = (time.process_time() - cpu) / (time.monotonic() - began)
    seen.lag_ms = float(1000 * np.percentile(lags, 99)) if lags else 0.0
    seen.broken += len(open_) - len(idle)
    for connection in open_.values():
        connection.socket.close()
    return seen


def figures(seen: Seen) -> dict[str, float]:
    """Requests a second and latencies of those that were answered, and how many were not."""
    took = np.array([1000 * took for _, took, status in seen.answers if status == 200] or [np.nan])
    refused = np.array([1000 * took for _, took, status in seen.answers if status == 503] or [np.nan])
    found = {
        "per_second": sum(status == 200 for *_, status in seen.answers) / seen.seconds,
        "p50_ms": float(np.percentile(took, 50)),
        "p99_ms": float(np.percentile(took, 99)),
        "errors": seen.broken + sum(status not in (200, 503) for *_, status in seen.answers),
        "refused": sum(status == 503 for *_, status in seen.answers),
    }
    if found["refused"]:
        found["refused_p50_ms"] = float(np.percentile(refused, 50))
        found["refused_p99_ms"] = float(np.percentile(refused, 99))
    if seen.unsent:
        found["unsent"] = seen.unsent
    return found | {"clients_share": seen.share, "clients_lag_ms": seen.lag_ms}


def used(process: psutil.Process) -> float:
    """Seconds of a processor that a process has taken."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def memory(process: psutil.Process) -> Iterator[list[int]]:
    """Resident bytes, looked at ten times a second."""
    found: list[int] = [process.memory_info().rss]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            found.append(process.memory_info().rss)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        done.set()
        looking.join()


def requests_of(route: str, data: Path) -> list[bytes]:
    """What is asked, shuffled by a seed: the course's public questions, or CLINC150's dev utterances."""
    if route == "intent":
        rows = json.loads((data / "intent" / "eval.json").read_text("utf-8"))
        bodies = [json.dumps({"text": row["text"]}).encode() for row in rows]
    else:
        contexts = json.loads((data / "course" / "context.json").read_text("utf-8"))
        bodies = []
        for row in json.loads((data / "course" / "public.json").read_text("utf-8")):
            told = [contexts[at] for at in row["paragraphs"]]
            body = {"contexts": told} if route == "answer" else {"context": contexts[row["relevant"]]}
            bodies.append(json.dumps({"question": row["question"]} | body, ensure_ascii=False).encode())
    random.Random(0).shuffle(bodies)  # neighbours are of one text, and long ones stand together
    head = f"POST /v1/{route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


def overload(
    port: int, process: psutil.Process, requests: Sequence[bytes], rate: float, seconds: float
) -> dict[str, float]:
    """Figures of a flood, and of what follows."""
    alone = ask(port, requests, 2, clients=1).answers
    usual = float(np.median([took for _, took, _ in alone]))
    with memory(process) as resident:
        before = used(process)
        seen = ask(port, requests, seconds, rate=rate)
        taken = used(process) - before
        after = ask(port, requests, 3, clients=1)
    slow = [began + took - seen.ended for began, took, status in after.answers if status != 200 or took > 3 * usual]
    drained = max((began + took - seen.ended for began, took, _ in seen.answers), default=0.0)
    return figures(seen) | {
        "sent_per_second": (len(seen.answers) + seen.broken) / seconds,
        "recovered_after_s": max([drained, *slow]),
        "server_share": taken / (seconds + drained),
        "rss_before_mb": resident[0] / 2**20,
        "rss_most_mb": max(resident) / 2**20,
        "rss_after_mb": resident[-1] / 2**20,
    }


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All figures that are asked for."""
    requests = requests_of(options.route, options.data)
    parts = PARTS if options.part == "all" else (options.part,)
    report: dict[str, dict[str, float]] = {}
    if "plain" in parts:
        reader, intent = options.plain_reader or options.reader, options.plain_intent or options.intent
        with server([__file__, "--plain", "--reader", reader, *(["--intent", intent] if intent else [])]) as (port, _):
            ask(port, requests, options.warm, clients=options.clients)
            report["plain"] = figures(ask(port, requests, options.seconds, clients=options.clients))
    if "serve" in parts or "overload" in parts:
        arguments = ["--reader", options.reader, *(["--model", f"intent={options.intent}"] if options.intent else [])]
        arguments += ["--backend", options.backend, "--precision", options.precision, *options.serve]
        with server(["-m", "zhaiju.cli", "serve", "--port", "0", *arguments]) as (port, process):
            ask(port, requests, options.warm, clients=options.clients)
            seconds = options.seconds if "serve" in parts else min(5.0, options.seconds)
            with memory(process) as resident:
                before = used(process)
                report["serve"] = figures(ask(port, requests, seconds, clients=options.clients))
                report["serve"]["server_share"] = (used(process) - before) / seconds
            report["serve"]["rss_most_mb"] = max(resident) / 2**20
            if "overload" in parts:
                rate = OVERLOAD * report["serve"]["per_second"]
                report["overload"] = overload(port, process, requests, rate, options.flood)
    if "plain" in report and "serve" in report:
        report["serve"]["times_plain"] = report["serve"]["per_second"] / report["plain"]["per_second"]
    return report


def page(options: argparse.Namespace, report: Mapping[str, Mapping[str, float]]) -> str:
    """The figures as Markdown."""
    names = list(dict.fromkeys(name for row in report.values() for name in row))
    lines = [
        f"# Service under load: {options.route}",
        "",
        f"`python {' '.join(sys.argv)}` on {time.strftime('%Y-%m-%d')}: {options.clients} clients, "
        f"{options.seconds:g} s, {os.cpu_count()} logical processors, "
        f"{options.backend} {options.precision} against plain fp32; overload: {OVERLOAD} times what was served, "
        f"{options.flood:g} s.",
        "",
        "| | " + " | ".join(report) + " |",
        "|---|" + "---|" * len(report),
    ]
    for name in names:
        cells = ("" if name not in row else f"{row[name]:,.2f}".rstrip("0").rstrip(".") for row in report.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--route", default="read", choices=["read", "answer", "intent"])
    parser.add_argument("--part", default="all", choices=["all", *PARTS])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm", type=float, default=3, help="Seconds of requests that do not count.")
    parser.add_argument("--flood", type=float, default=10, help="Seconds of overload.")
    parser.add_argument("--reader", default="starter")
    parser.add_argument("--intent")
    parser.add_argument("--plain-reader", help="That of the plain handler, where --reader is an exported one.")
    parser.add_argument("--plain-intent", help="The same of --intent.")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--nice", type=int, default=0, help="Niceness of the clients; below 0 takes privileges.")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--output", type=Path, help="A Markdown file to write.")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="More for zhaiju serve; comes last.")
    options = parser.parse_args()
    if options.plain:
        plain(options.reader, options.intent)
        return
    if options.nice:
        os.setpriority(os.PRIO_PROCESS, 0, options.nice)
    report = measure(options)
    if options.output is not None:
        write_text(options.output, page(options, report))
    print(json.dumps(report, indent=2) if options.json else page(options, report), end="")


if __name__ == "__main__":
    main()
