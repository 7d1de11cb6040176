"""`zhaiju serve` against the same checkpoint behind a plain FastAPI handler, one request per forward pass, in fp32.

Clients that ask one question after another, then ten times the load that was served, then a look at how soon all is as
before. Both servers and the clients share the machine. Prints a table, or with --json the figures.

    python benchmarks/service.py [--route read] [--clients 32] [--seconds 60] [--reader starter] [--intent DIR]
                                 [--backend auto] [--precision fp32] [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import zhaiju

Seen = tuple[float, float, int]  # began, took, status
OVERLOAD = 10


def plain(reader: str, intent: str | None) -> None:
    """The other way: a handler a route, a lock around the model."""
    import socket

    import uvicorn
    from fastapi import Body, FastAPI

    app, lock = FastAPI(), threading.Lock()
    models = {"read": zhaiju.load(reader, task="read")}
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
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise SystemExit("".join(said))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        time.sleep(2)  # until it listens
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


class Connection:
    """As little of HTTP as will do, so that the clients leave the processor to the servers."""

    def __init__(self, port: int, route: str) -> None:
        self.port = port
        self.head = (
            f"POST /v1/{route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
        )

    async def __aenter__(self) -> Connection:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, body: bytes) -> Seen:
        """Send one request and read its answer."""
        began = time.monotonic()
        self.writer.write(f"{self.head}{len(body)}\r\n\r\n".encode() + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", head)
        await self.reader.readexactly(int(length[1]) if length else 0)
        return began, time.monotonic() - began, int(head.split()[1])


async def closed(port: int, route: str, bodies: Sequence[bytes], clients: int, seconds: float) -> list[Seen]:
    """Clients that each wait for their answer before they ask again."""
    until = time.monotonic() + seconds
    seen: list[Seen] = []

    async def client(at: int) -> None:
        async with Connection(port, route) as connection:
            while time.monotonic() < until:
                seen.append(await connection.ask(bodies[at % len(bodies)]))
                at += clients

    await asyncio.gather(*map(client, range(clients)))
    return seen


async def flood(port: int, route: str, bodies: Sequence[bytes], rate: float, seconds: float) -> list[Seen]:
    """So many requests a second whatever comes of them, over connections that are kept."""
    seen: list[Seen] = []
    free: list[Connection] = []
    asking: set[asyncio.Task[None]] = set()

    async def ask(body: bytes) -> None:
        connection = free.pop() if free else await Connection(port, route).__aenter__()
        seen.append(await connection.ask(body))
        free.append(connection)

    began = time.monotonic()
    sent = 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate:
            task = asyncio.create_task(ask(bodies[sent % len(bodies)]))
            asking.add(task)
            task.add_done_callback(asking.discard)
            sent += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*asking)
    for connection in free:
        await connection.__aexit__()
    return seen


def figures(seen: Sequence[Seen], seconds: float) -> dict[str, float]:
    """Requests a second and latencies of those that were answered, and how many were not."""
    took = np.array([1000 * took for _, took, status in seen if status == 200] or [np.nan])
    return {
        "per_second": sum(status == 200 for *_, status in seen) / seconds,
        "p50_ms": float(np.percentile(took, 50)),
        "p99_ms": float(np.percentile(took, 99)),
        "refused": sum(status == 503 for *_, status in seen),
        "errors": sum(status not in (200, 503) for *_, status in seen),
    }


def bodies_of(route: str, data: Path) -> list[bytes]:
    """What is asked: the course's public questions, or CLINC150's dev utterances."""
    if route == "intent":
        rows = json.loads((data / "intent" / "eval.json").read_text("utf-8"))
        return [json.dumps({"text": row["text"]}).encode() for row in rows]
    contexts = json.loads((data / "course" / "context.json").read_text("utf-8"))
    rows = json.loads((data / "course" / "public.json").read_text("utf-8"))
    given = []
    for row in rows:
        told = [contexts[at] for at in row["paragraphs"]]
        body = {"contexts": told} if route == "answer" else {"context": contexts[row["relevant"]]}
        given.append(json.dumps({"question": row["question"]} | body, ensure_ascii=False).encode())
    return given


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    bodies = bodies_of(options.route, options.data)
    own = ["--reader", options.reader] + (["--intent", options.intent] if options.intent else [])
    ways = {
        "plain": [__file__, "--plain", *own],
        "zhaiju serve": ["-m", "zhaiju.cli", "serve", "--port", "0", "--backend", options.backend,
                         "--precision", options.precision, *own, *options.serve],
    }  # fmt: skip
    report: dict[str, Any] = {}
    for name, arguments in ways.items():
        with server(arguments) as (port, process):
            asyncio.run(closed(port, options.route, bodies, options.clients, 3))  # warm
            seen = asyncio.run(closed(port, options.route, bodies, options.clients, options.seconds))
            report[name] = figures(seen, options.seconds)
            if name == "plain":
                continue
            before = process.memory_info().rss
            rate = OVERLOAD * report[name]["per_second"]
            seen = asyncio.run(flood(port, options.route, bodies, rate, options.flood))
            ended = time.monotonic()
            over = report["overload"] = figures(seen, options.flood)
            refused = [1000 * took for _, took, status in seen if status == 503]
            over["p99_of_refusals_ms"] = float(np.percentile(refused, 99)) if refused else 0.0
            over["rss_before_mb"], over["rss_after_mb"] = before / 2**20, process.memory_info().rss / 2**20
            alone = asyncio.run(closed(port, options.route, bodies, 1, 2))
            usual = float(np.median([took for _, took, _ in alone[len(alone) // 2 :]]))
            slow = [began + took - ended for began, took, status in alone if status != 200 or took > 3 * usual]
            over["recovered_after_s"] = max(slow, default=0.0)
    report["ratio"] = report["zhaiju serve"]["per_second"] / report["plain"]["per_second"]
    return report


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--route", default="read", choices=["read", "answer", "intent"])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--flood", type=float, default=10)
    parser.add_argument("--reader", default="starter")
    parser.add_argument("--intent")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="More for zhaiju serve; comes last.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.plain:
        plain(options.reader, options.intent)
        return
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{options.route}, {options.clients} clients, {os.cpu_count()} logical processors")
    for name, row in report.items():
        print(f"{name}: {row:.2f}" if isinstance(row, float) else f"{name}: {json.dumps(row)}")


if __name__ == "__main__":
    main()
