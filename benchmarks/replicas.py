"""An index on a bucket, read where it is and from a copy on this machine; and how copies follow while others write.

The bucket is one of moto's, an S3 emulator in Python on this machine's loopback: what a request takes there is not what
it takes on a network, so requests are counted too. Paragraphs are made up (see `benchmarks/scale.py`).

    python benchmarks/replicas.py [--paragraphs 5000] [--questions 60] [--output docs/benchmark-replicas.md]

moto may sit in another environment: ZHAIJU_MOTO_PYTHON names its Python.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale import LOADED, Language
from zhaiju import files, ui
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.index import Entry, Index
from zhaiju.corpus.replica import Replication

EACH = 20  # paragraphs of a document
BEST = 5  # paragraphs wanted, as in `ask`
CHANGES = 10
READERS = 3
SERVER = """
import sys, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=True)
server.start()
address = "http://127.0.0.1:%d" % server.get_host_and_port()[1]
boto3.client("s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="key",
             aws_secret_access_key="secret").create_bucket(Bucket="bucket")
print("at", address, flush=True)
sys.stdin.read()
"""


class Bucket:
    """An S3 that counts what it is asked."""

    def __init__(self, log: Path) -> None:
        self._log = log

    @property
    def requests(self) -> int:
        """How many so far."""
        return self._log.read_bytes().count(b" HTTP/1.1")

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Bucket]:
        """Start one and have this process ask it."""
        python = os.environ.get("ZHAIJU_MOTO_PYTHON", sys.executable)
        with (folder / "requests").open("wb") as log:
            process = subprocess.Popen(
                [python, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
            assert process.stdout is not None
            address = next((line.split()[1] for line in process.stdout if line.startswith("at ")), None)
            if address is None:
                sys.exit("moto's server is not installed: pip install 'moto[server]'")
            os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
            os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true"}
            try:
                yield cls(folder / "requests")
            finally:
                process.communicate()


def documents(language: Language, paragraphs: int) -> Iterator[Entry]:
    for first in range(0, paragraphs, EACH):
        texts = ["".join(language.paragraph(number)) for number in range(first, min(paragraphs, first + EACH))]
        name = str(first)
        yield Entry(name, "1", [Paragraph(text, name, line=line) for line, text in enumerate(texts, 1)])


def build(uri: str, entries: Sequence[Entry]) -> Index:
    index = Index.open(uri, create=True)
    for start in range(0, len(entries), 100):
        index.commit(entries[start : start + 100])
    index.optimise()
    return index


# --- one reader


@dataclass(frozen=True, slots=True)
class Asked:
    """What questions took a reader: seconds, but for `requests`, which are of one question on average."""

    way: str
    opening: float
    first: float
    median: float
    p95: float
    requests: float
    found: Any


def ask(way: str, uri: str, replica: Replication | None, questions: Sequence[str], bucket: Bucket) -> Asked:
    began = time.perf_counter()
    index = Index.open(uri, replica=replica)
    opening = time.perf_counter() - began
    seconds, found = [], []
    asked = bucket.requests
    for place, question in enumerate(questions):
        if place == 1:
            asked = bucket.requests
        began = time.perf_counter()
        hits = index.search(question, BEST)
        seconds.append(time.perf_counter() - began)
        found.append([(hit.paragraph, round(hit.score, 3)) for hit in hits])
    requests = (bucket.requests - asked) / (len(questions) - 1)
    index.close()
    later = sorted(seconds[1:])
    p95 = later[int(0.95 * (len(later) - 1))]
    return Asked(way, opening, seconds[0], statistics.median(later), p95, requests, found)


# --- following


def follow(writer: Index, folder: Path, language: Language, paragraphs: int, bucket: Bucket) -> dict[str, float]:
    """What it takes a reader that asks before every question to see a change of ten documents."""
    reader = Index.open(writer.uri, replica=Replication(every=0, folder=folder))
    reader.search("一", BEST)
    took, again, requests, fetched = [], [], [], []
    for change in range(CHANGES):
        names = [str(EACH * (10 * change + place) % paragraphs) for place in range(10)]
        text = "".join(language.paragraph(paragraphs + change))
        writer.commit([Entry(name, f"c{change}", [Paragraph(text, name, line=1)] * EACH) for name in names])
        before, known = bucket.requests, inodes(folder)
        began = time.perf_counter()
        hits = reader.search(text[:12], BEST)
        took.append(time.perf_counter() - began)
        assert text in {hit.paragraph.text for hit in hits}
        requests.append(bucket.requests - before)
        began = time.perf_counter()
        reader.search(text[:12], BEST)
        again.append(time.perf_counter() - began)
        fetched.append(sum(size for key, size in inodes(folder).items() if key not in known))
    whole = sum(inodes(folder).values())
    return {
        "seconds": statistics.median(took),
        "slowest": max(took),
        "again": statistics.median(again),
        "requests": statistics.mean(requests),
        "fetched": statistics.mean(fetched),
        "whole": whole,
    }


def inodes(folder: Path) -> dict[int, int]:
    found = [path.stat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {state.st_ino: state.st_size for state in found}


# --- several readers while a writer goes on


def read_until_killed(uri: str, folder: str, every: float, seconds: float) -> dict[str, int]:
    """In a process of its own: ask on and on, and look at every answer.

    Each commit changes all of a set of documents, whose headings say which commit it was: an answer that shows two of
    them, or not all documents, is half of a version.
    """
    index = Index.open(uri, replica=Replication(every=every, folder=Path(folder)))
    print("started", flush=True)
    until = time.monotonic() + seconds
    questions = halves = backwards = 0
    last, seen = -1, set()
    while time.monotonic() < until:
        found = [one.paragraph for one in index.search("龘龘", 50)]
        commits = {int(paragraph.heading or -1) for paragraph in found}
        questions += 1
        halves += len(found) != EACH or len(commits) != 1
        backwards += min(commits, default=last) < last
        last = max(commits, default=last)
        seen |= commits
    index.close()
    return {"questions": questions, "halves": halves, "backwards": backwards, "versions": len(seen), "last": last}


def contend(writer: Index, folder: Path, every: float, seconds: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--reader", writer.uri, str(folder), str(every), str(seconds)]

    def write(commit: int) -> None:
        marked = [Entry(f"m{n}", str(commit), [Paragraph("龘龘", f"m{n}", heading=str(commit))]) for n in range(EACH)]
        writer.commit(marked)

    write(0)
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(READERS)]
    for reader in readers:
        assert reader.stdout is not None
        reader.stdout.readline()
    commits = 0
    while any(reader.poll() is None for reader in readers):
        commits += 1
        write(commits)
        if commits % 10 == 0:
            writer.optimise()
    told = [json.loads(reader.communicate()[0]) for reader in readers]
    assert not any(reader.returncode for reader in readers)
    return {"commits": commits} | {name: sum(one[name] for one in told) for name in told[0]}


# --- the page


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])


def ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def page(options: argparse.Namespace) -> str:
    language = Language.make()
    entries = list(documents(language, options.paragraphs))
    questions = [language.question(number, options.paragraphs) for number in range(options.questions)]
    with tempfile.TemporaryDirectory() as name, Bucket.started(Path(name)) as bucket:
        folder = Path(name)
        build(str(folder / "index"), entries)
        writer = build("s3://bucket/index", entries)
        copies = folder / "copies"
        ways: list[tuple[str, str, Replication | None]] = [
            ("a folder on this machine", str(folder / "index"), None),
            ("the bucket", writer.uri, None),
            ("a copy, made now", writer.uri, Replication(every=5, folder=folder / "new")),
            ("a copy, asked every 5 s", writer.uri, Replication(every=5, folder=copies)),
            ("a copy, asked before every question", writer.uri, Replication(every=0, folder=copies)),
        ]
        Index.open(writer.uri, replica=Replication(every=0, folder=copies))
        asked = [ask(*way, questions, bucket) for way in ways]
        assert all(one.found == asked[0].found for one in asked), "not every way found the same"
        followed = follow(writer, copies, language, options.paragraphs, bucket)
        contended = [(every, contend(writer, copies, every, options.seconds)) for every in (0.0, 0.2)]
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    quiet = (
        "The machine was quiet."
        if load <= LOADED
        else f"**The machine was busy with other work** ({load:.1f} processes waiting for each core): times are too "
        "long by far, counts are right. To be measured again on a quiet one."
    )
    command = f"--paragraphs {options.paragraphs} --questions {options.questions} --seconds {options.seconds:g}"
    text = f"""# Benchmark: copies of an index on a bucket

`python benchmarks/replicas.py {command}`
on {datetime.date.today().isoformat()}: {platform.machine()}, {os.cpu_count()} CPU cores, Python
{platform.python_version()}. {quiet}

The bucket is one of moto's, an S3 emulator in Python on this machine's loopback: what a request takes there is not what
it takes on a network, so requests are counted too. {options.paragraphs:,} made-up paragraphs, {options.questions}
questions, the best {BEST} paragraphs wanted; every way finds the same, with the same scores.

| read from | opening | first question | later: median | 95 % within | requests to the bucket, each |
| --- | --- | --- | --- | --- | --- |
"""
    for one in asked:
        text += f"| {one.way} | {ms(one.opening)} | {ms(one.first)} | {ms(one.median)} | {ms(one.p95)} "
        text += f"| {one.requests:.1f} |\n"
    text += f"""
## Following a change

A writer puts {10} documents of {EACH} paragraphs in the place of what they were, {CHANGES} times; a copy that is asked
before every question shows the change in the next one, which takes {ms(followed["seconds"])} (median; the slowest
{ms(followed["slowest"])}; the same question again {ms(followed["again"])}) and
{followed["requests"]:.0f} requests. Of the {followed["whole"] / 1e6:.1f} MB that a copy
takes, {followed["fetched"] / 1e6:.2f} MB are fetched; the rest is there. A copy asked every N seconds shows it after at
most N seconds and what the fetching takes; its questions do not wait.

## Several readers while a writer goes on

{READERS} processes share one folder of copies and ask for {options.seconds:g} seconds, while a writer changes {EACH}
documents a commit, as fast as it can, and puts the index in order after every tenth. An answer with documents of two
commits, or not all {EACH}, would be half of a version; one older than the one before would be a step back.

"""
    rows = [
        ["before every question" if every == 0 else f"every {every:g} s", *(f"{found[name]:,}" for name in
         ("commits", "questions", "versions", "halves", "backwards"))]
        for every, found in contended
    ]  # fmt: skip
    columns = ["asked", "commits", "questions", "versions seen, of all readers", "half of a version", "steps back"]
    return text + table(columns, rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paragraphs", type=int, default=5_000)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--output", type=Path, help="The page to write.")
    parser.add_argument("--reader", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        uri, folder, every, seconds = options.reader
        print(json.dumps(read_until_killed(uri, folder, float(every), float(seconds))))
        return
    text = page(options)
    if options.output:
        files.write_text(options.output, text)
        ui.note(f"written: {options.output}")
    else:
        print(text)


if __name__ == "__main__":
    main()
