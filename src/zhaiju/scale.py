"""Very many questions: answered part by part, here or on a Ray cluster, into a folder of files.

The rows of the input are cut into parts of a fixed number of rows, in their order, so that they are the same each time.
A part is answered by one worker and becomes one file (`part-00012.parquet`), written whole or not at all. That is all
there is to going on after a kill: a part whose file is there is done, every other one is answered. `_manifest.json`
says what the folder was begun with; nothing else may go on in it. `_SUCCESS` is written last, once every part holds the
ids of its rows in their order; ids being unique, every row then came out exactly once.

Here a part follows the other in this process, whose engine uses every core. On Ray the same worker is a class that Daft
runs, one instance a CPU. One that dies is made anew, and its part answered anew. Each machine must have zhaiju, and
reach input, models and output under the same addresses with its own keys.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import posixpath
import re
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhaiju import files
from zhaiju.corpus import cluster
from zhaiju.corpus.features import fingerprint
from zhaiju.corpus.joined import join_up
from zhaiju.data import parquet
from zhaiju.data.formats import JSONL_SUFFIXES, ReadLog, load_contexts
from zhaiju.data.storage import Storage, is_local, local, lock
from zhaiju.errors import CheckpointError, ConfigError, DataError, OutputError, ZhaijuError, library
from zhaiju.inference.answer import Shortcuts
from zhaiju.inference.engine import Engine, open_engine
from zhaiju.modeling.checkpoint import STARTER, Checkpoint, resolve
from zhaiju.tasks import TASKS
from zhaiju.tasks.readers import paragraphs_of

if TYPE_CHECKING:
    from zhaiju.data.examples import Context

ANSWER = "answer"  # the work of `zhaiju answer`; that of `zhaiju predict` is named by its task
PLACES = ("local", "ray")
FORMATS = ("parquet", "jsonl")
PART_ROWS = 1_000
MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"

MOST_TRIES = 5  # of a part, on a cluster

_VERSION = 1
_NAMESPACE = "zhaiju"
_ROWS = JSONL_SUFFIXES | parquet.SUFFIXES  # what is read in a folder of input


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done to every row, the same on every machine.

    Attributes:
        task: `ANSWER`, or a task.
        model: The checkpoint; for `ANSWER` the reader.
        selector: `ANSWER`: the selector; None: the lexical ranking.
        context: Address of the course layout's paragraphs; None: beside the data, or not needed.
        pipeline: `ANSWER`: read only the likeliest paragraph.
        k: `ANSWER`: paragraphs to read; None: as fitted.
        weight: `ANSWER`: λ; None: as fitted.
        prefilter: See `Shortcuts`.
        certain: See `Shortcuts`.
        window: Most tokens of a window; None: as trained.
        overlap: Characters shared by neighbouring windows; None: as trained.
        max_answer_chars: Longest quote; None: as trained.
        backend: What computes.
        precision: How.
        batch_tokens: Tokens of a batch, padding included; None: the usual ones. Decides nothing but speed.
        split: intent: which part of a CLINC150 file.
        bio: slots: what a malformed tag is.
        skip_faulty: Leave faulty rows out.
    """

    task: str
    model: str
    selector: str | None = None
    context: str | None = None
    pipeline: bool = False
    k: int | None = None
    weight: float | None = None
    prefilter: int | None = None
    certain: float | None = None
    window: int | None = None
    overlap: int | None = None
    max_answer_chars: int | None = None
    backend: str = "auto"
    precision: str = "fp32"
    batch_tokens: int | None = None
    split: str | None = None
    bio: str = "repair"
    skip_faulty: bool = False

    @property
    def reads(self) -> str:
        """The task whose rows the input holds."""
        return "read" if self.task == ANSWER else self.task

    def identity(self) -> dict[str, Any]:
        """What predictions depend on beside the rows: settings, and fingerprints of models and paragraphs.

        Raises:
            CheckpointError, DataError: one of them cannot be read.
        """
        left_out = {"model", "selector", "context", "batch_tokens"}
        models = {"model": _checkpoint_fingerprint(self.model, self.reads)}
        if self.selector is not None:
            models["selector"] = _checkpoint_fingerprint(self.selector, "select")
        elif self.task == ANSWER:
            models["selector"] = fingerprint()
        context = None
        if self.context is not None:
            with local(self.context) as path:
                context = _fingerprint(path)
        settings = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {"settings": settings, "models": models, "context": context}

    def predictor(self) -> Callable[[Iterable[Any]], Iterator[Any]]:
        """Load the models; gives what turns examples into predictions.

        Raises:
            CheckpointError, ConfigError, DataError: as loading them does.
        """
        if self.task != ANSWER:
            engine, checkpoint = self._load(self.model, self.task)
            task = checkpoint.task(self.task, max_answer_chars=self.max_answer_chars)
            return lambda examples: engine.predict(task, examples)
        pair = join_up(
            self._load,
            self.model,
            self.selector,
            pipeline=self.pipeline,
            shortcuts=Shortcuts(self.prefilter, self.certain),
            max_answer_chars=self.max_answer_chars,
        )
        pair.weigh(self.k, self.weight)
        return pair.answerer.predict

    def _load(self, what: str, task: str) -> tuple[Engine, Checkpoint]:
        return open_engine(
            what,
            task,
            window=self.window,
            overlap=self.overlap,
            backend=self.backend,
            precision=self.precision,
            batch_tokens=self.batch_tokens,
        )

    def contexts(self) -> list[Context] | None:
        """The paragraphs that rows point into, if there are any.

        Raises:
            DataError: they cannot be read.
        """
        if self.context is None:
            return None
        with local(self.context) as path, _named(path, self.context):
            return load_contexts(path)

    def settled(self, data: str) -> Work:
        """The same with every path absolute, and with the context file beside the data if that is wanted.

        Raises:
            DataError: course rows without any.
        """
        context: str | Path | None = None
        if TASKS[self.reads].over_paragraphs:
            context = self.context
            if context is None and is_local(data):
                context = paragraphs_of(self.reads, Path(data), None)
        selector = None if self.selector == STARTER else self.selector
        return replace(
            self,
            model=_absolute(self.model) if os.path.isdir(self.model) else self.model,
            selector=_absolute(selector) if selector and os.path.isdir(selector) else selector,
            context=None if context is None else _absolute(str(context)),
        )

    def examples(
        self, path: Path, contexts: Sequence[Context] | None, *, log: ReadLog | None = None, start: int = 0
    ) -> Iterator[Any]:
        """The examples of a file, without those of its first `start` rows."""
        log = log or ReadLog(skip_faulty=self.skip_faulty)
        return TASKS[self.reads].read(path, contexts=contexts, split=self.split, bio=self.bio, log=log, start=start)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one input file that are answered together.

    Attributes:
        number: Its place among all parts.
        address: The file.
        first: Place of its first example in the file.
        rows: How many there are.
        seekable: Whether that is also the place of its row: no row was left out.
        ids: Digest of their ids.
        content: Digest of their ids and texts.
    """

    number: int
    address: str
    first: int
    rows: int
    seekable: bool
    ids: str
    content: str

    def name(self, kind: str) -> str:
        """The name of its output file."""
        return f"part-{self.number:05d}.{kind}"


@dataclass(frozen=True, slots=True)
class Report:
    """What `run` did: rows in all, their parts, and how many of these were answered now."""

    count: int
    parts: int
    answered: int


def run(
    work: Work,
    data: str,
    output: str,
    *,
    part_rows: int = PART_ROWS,
    kind: str = "parquet",
    on: str = "local",
    read: Callable[[ReadLog], None] = lambda log: None,
    begin: Callable[[int, int], Callable[[int], None]] = lambda rows, done: lambda more: None,
) -> Report:
    """Answer every row of the input into a folder; what was killed goes on.

    Args:
        work: What to do.
        data: Address of a file, or of a folder of JSONL and Parquet files.
        output: Address of the folder.
        part_rows: Rows of a part.
        kind: Of `FORMATS`.
        on: Of `PLACES`.
        read: Called with what was tolerated in each file.
        begin: Called with the number of rows and of those done before; gives what is called as more are done.

    Raises:
        ConfigError: an argument is wrong, Daft is not installed, or a machine of the cluster has other models.
        DataError: the input is not what it should be, or parts do not hold what they should.
        OutputError: the folder cannot be written, holds something else, or was begun with something else.
    """
    _check(part_rows, kind, on)
    data, output = _absolute(data), _absolute(output)
    work = work.settled(data)
    storage = Storage(output)
    with lock(output):
        identity = work.identity()
        inputs, parts = plan(work, data, part_rows, read)
        manifest = {"version": _VERSION, "format": kind, "part_rows": part_rows, **identity, "input": inputs}
        _begin(storage, manifest)
        present = set(storage.names())
        missing = [part for part in parts if part.name(kind) not in present]
        rows = sum(part.rows for part in parts)
        advance = begin(rows, rows - sum(part.rows for part in missing))
        answering = _on_ray if on == "ray" else _here
        if missing:
            answering(work, identity, missing, output, kind, advance)
        _verify(storage, parts, kind)
        report = Report(rows, len(parts), len(missing))
        storage.write(SUCCESS, _json({"count": report.count, "parts": report.parts}))
    return report


def plan(
    work: Work, data: str, part_rows: int, read: Callable[[ReadLog], None] = lambda log: None
) -> tuple[list[dict[str, Any]], list[Part]]:
    """Read the input to its end and cut it into parts, none across two files.

    Returns:
        For each file its name, fingerprint and rows; the parts.

    Raises:
        DataError: a row is faulty, or an id is there twice.
    """
    inputs: list[dict[str, Any]] = []
    parts: list[Part] = []
    seen: set[str] = set()
    addresses, contexts = _addresses(data), work.contexts()
    for address in addresses:
        with local(address) as path, _named(path, address):
            if not path.is_file():
                problem = "no such file" if not path.exists() else "can be read once only; parts want a file"
                raise DataError(problem, file=address)
            log = ReadLog(skip_faulty=work.skip_faulty)
            examples = work.examples(path, contexts, log=log)
            cut: list[tuple[int, int, str, str]] = []
            first = 0
            while taken := list(islice(examples, part_rows)):
                if len(addresses) > 1:  # within a file the reader looks
                    for example in taken:
                        if example.id in seen:
                            raise DataError(
                                "repeated id in another file", file=address, row=example.id, expected="one row an id"
                            )
                        seen.add(example.id)
                cut.append((first, len(taken), _digest(example.id for example in taken), _content(taken)))
                first += len(taken)
            seekable = not log.skipped and TASKS[work.reads].over_paragraphs
            for first, rows, ids, content in cut:
                parts.append(Part(len(parts), address, first, rows, seekable, ids, content))
            name = address.rstrip("/").rpartition("/")[2]
            inputs.append({"name": name, "sha256": _fingerprint(path), "rows": sum(rows for _, rows, _, _ in cut)})
            read(log)
    return inputs, parts


class Worker:
    """Answers parts one after another and writes each; its models are loaded once.

    Args:
        work: What to do.
        identity: What `work.identity` is where the work was planned.
        output: Address of the folder.
        kind: Of `FORMATS`.

    Raises:
        ConfigError: models or paragraphs are others here.
    """

    def __init__(self, work: Work, identity: Mapping[str, Any], output: str, kind: str) -> None:
        found = work.identity()
        for name in found:
            if found[name] != identity[name]:
                raise ConfigError(f"{os.uname().nodename} has other {name} under the same address than where it began")
        self._work = work
        self._storage = Storage(output)
        self._kind = kind
        self._contexts = work.contexts()
        self._predict = work.predictor()
        self._source: _Source | None = None

    def answer(self, part: Part) -> None:
        """Answer a part and write it, unless that was done while nobody was told.

        Raises:
            DataError: its rows are others here, or cannot be answered.
            OutputError: it cannot be written.
        """
        name = part.name(self._kind)
        if self._storage.has(name):
            return
        if self._source is None or self._source.address != part.address:
            self.close()
            self._source = _Source(self._work, part.address, self._contexts)
        examples = self._source.take(part)
        if _content(examples) != part.content:
            raise DataError("rows are others than when the work was planned", file=part.address, row=f"#{part.first}")
        try:
            rows = [TASKS[self._work.reads].row(prediction) for prediction in self._predict(examples)]
        except DataError as error:
            raise error.located(file=part.address) from None
        if _digest(row["id"] for row in rows) != part.ids:
            raise AssertionError(f"{name}: predictions do not belong to their rows")
        self._storage.write(name, encode(rows, self._work.reads, self._kind))

    def close(self) -> None:
        """Let go of the input."""
        if self._source is not None:
            self._source.close()
            self._source = None


class _Source:
    """An input file of which parts are taken, in any order; in theirs it is read once."""

    def __init__(self, work: Work, address: str, contexts: Sequence[Context] | None) -> None:
        self.address = address
        self._work = work
        self._stack = ExitStack()
        self._path = self._stack.enter_context(local(address))
        self._contexts = contexts
        self._examples: Iterator[Any] = iter(())
        self._at: int | None = None

    def take(self, part: Part) -> list[Any]:
        """The examples of a part."""
        if self._at is None or part.first < self._at or (part.seekable and part.first > self._at):
            self._at = part.first if part.seekable else 0
            self._examples = self._work.examples(self._path, self._contexts, start=self._at)
        passed = part.first - self._at
        self._at = part.first + part.rows
        return list(islice(self._examples, passed, passed + part.rows))

    def close(self) -> None:
        self._examples = iter(())
        self._stack.close()


# --- where it is done


def _here(
    work: Work,
    identity: Mapping[str, Any],
    parts: Sequence[Part],
    output: str,
    kind: str,
    advance: Callable[[int], None],
) -> None:
    worker = Worker(work, identity, output, kind)
    try:
        for part in parts:
            worker.answer(part)
            advance(part.rows)
    finally:
        worker.close()


class Tries:
    """How often each part was begun: one that takes every worker with it must not be begun for ever."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """Count a try of a part; gives how many there were."""
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]


class OnDaft:
    """A `Worker` that Daft makes where it runs: parts come as JSON, and what went wrong goes back as JSON."""

    def __init__(self, work: dict[str, Any], identity: dict[str, Any], output: str, kind: str, tries: str) -> None:
        self._worker: Worker | None = None
        self._make = partial(Worker, Work(**work), identity, output, kind)
        self._tries = tries

    def answer(self, part: str) -> str:
        """Answer a part; gives its number, and the kind and words of an error or nothing."""
        ray = importlib.import_module("ray")
        asked = Part(**json.loads(part))
        told = None
        try:
            tries = ray.get(ray.get_actor(self._tries, namespace=_NAMESPACE).begin.remote(asked.number))
            if tries > MOST_TRIES:
                raise DataError(
                    f"took {MOST_TRIES} workers with it",
                    file=asked.address,
                    row=f"#{asked.first + 1} to #{asked.first + asked.rows}",
                    expected="memory enough, and smaller parts or batches",
                )
            if self._worker is None:
                self._worker = self._make()
            self._worker.answer(asked)
        except ZhaijuError as error:
            told = [type(error).__name__, str(error)]
        return json.dumps({"number": asked.number, "error": told})


def _on_ray(
    work: Work,
    identity: Mapping[str, Any],
    parts: Sequence[Part],
    output: str,
    kind: str,
    advance: Callable[[int], None],
) -> None:
    daft, ray = _daft(), importlib.import_module("ray")
    rows = {part.number: part.rows for part in parts}
    try:
        with cluster.connected() as workers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                daft.set_runner_ray(noop_if_initialized=True)
            name = f"tries-{uuid.uuid4()}"
            tries = ray.remote(num_cpus=0)(Tries).options(name=name, namespace=_NAMESPACE).remote()
            made = daft.cls(
                OnDaft,
                cpus=1,
                max_concurrency=min(workers, len(parts)),
                # Daft's own limit is 4 for each worker, beyond which it starts everything anew, again and again.
                ray_options={"max_restarts": -1, "max_task_retries": -1},
            )
            worker = made(asdict(work), dict(identity), output, kind, name)
            frame = daft.from_pydict({"part": [json.dumps(asdict(part)) for part in parts]})
            frame = frame.into_partitions(len(parts)).select(worker.answer(daft.col("part")).alias("told"))
            for row in frame.iter_rows():
                told = json.loads(row["told"])
                if told["error"]:
                    known, words = told["error"]
                    raise {"ConfigError": ConfigError, "OutputError": OutputError}.get(known, DataError)(words)
                advance(rows[told["number"]])
            del tries
    except (OSError, RuntimeError, ray.exceptions.RayError, daft.exceptions.DaftCoreException) as error:
        raise OutputError(f"cannot write {output}: {_first(error)}; give the command again to go on") from error


def _daft() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library("ray")
        return library("daft")


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# --- checks


def _check(part_rows: int, kind: str, on: str) -> None:
    if part_rows < 1:
        raise ConfigError(f"part_rows is {part_rows}, expected at least 1")
    if kind not in FORMATS:
        raise ConfigError(f"format is {kind!r}, expected {' or '.join(FORMATS)}")
    if on not in PLACES:
        raise ConfigError(f"questions are answered on {on!r}, expected {' or '.join(PLACES)}")
    if on == "ray":
        _daft()


def _begin(storage: Storage, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a new folder, or raise an error unless a begun one has the same."""
    before = storage.read(MANIFEST)
    if before is None:
        if found := [name for name in storage.names() if not name.startswith(".")]:
            raise OutputError(
                f"cannot write {storage.address}: it holds {found[0]} and no {MANIFEST}; name a new folder"
            )
        storage.write(MANIFEST, _json(manifest))
        return
    try:
        known = json.loads(before)
        named = [name for name in manifest if known.get(name) != manifest[name]]
    except (ValueError, AttributeError):
        raise OutputError(f"cannot write {storage.address}: its {MANIFEST} cannot be read; name a new folder") from None
    if named:
        changed = {name: _changes(known.get(name), manifest[name]) for name in named}
        told = "; ".join(f"{name} {what}" for name, what in changed.items())
        raise OutputError(f"cannot go on in {storage.address}: it was begun otherwise ({told}); name a new folder")


def _changes(before: Any, now: Any) -> str:
    """What differs between two values of a manifest, in a few words."""
    if isinstance(before, list) and isinstance(now, list):
        return "has changed"
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return ", ".join(f"{name} {_changes(before.get(name), now.get(name))}" for name in names)
    return "has changed" if isinstance(now, str) and len(now) == 64 else f"{before} before, now {now}"


def _verify(storage: Storage, parts: Sequence[Part], kind: str) -> None:
    """Raise an error unless the folder holds each part, with the ids of its rows in their order, and no other."""
    wanted = {part.name(kind): part for part in parts}
    present = {name for name in storage.names() if re.fullmatch(r"part-\d+\.\w+", name)}
    if other := sorted(present ^ wanted.keys()):
        raise DataError("is missing" if other[0] in wanted else "belongs to no row", file=storage.at(other[0]))
    for name, part in wanted.items():
        try:
            found = _digest(ids_of(storage.read(name) or b"", kind))
        except (ValueError, KeyError, OSError):
            found = ""
        if found != part.ids:
            raise DataError("does not hold the rows that it should; remove it and run again", file=storage.at(name))


# --- rows


def encode(rows: Sequence[Mapping[str, Any]], task: str, kind: str) -> bytes:
    """A part's file."""
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    pa, pq = library("pyarrow"), library("pyarrow.parquet")
    schema = pa.schema([(name, _type(pa, type_)) for name, type_ in TASKS[task].columns.items()])
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), stream, compression="zstd")
    return bytes(stream.getvalue().to_pybytes())


def ids_of(data: bytes, kind: str) -> list[str]:
    """The ids in a part's file, in order."""
    if kind == "jsonl":
        return [json.loads(line)["id"] for line in data.decode().split("\n") if line]
    pa, pq = library("pyarrow"), library("pyarrow.parquet")
    ids: list[str] = pq.read_table(pa.BufferReader(data), columns=["id"])["id"].to_pylist()
    return ids


def _type(pa: Any, type_: Any) -> Any:
    if isinstance(type_, list):
        return pa.list_(_type(pa, type_[0]))
    if isinstance(type_, dict):
        return pa.struct([(name, _type(pa, inner)) for name, inner in type_.items()])
    return {"string": pa.string, "bool": pa.bool_, "int32": pa.int32, "float64": pa.float64}[type_]()


def _addresses(data: str) -> list[str]:
    """The input's files: itself, or those in it."""
    if not data.endswith("/") and not (is_local(data) and os.path.isdir(data)):
        return [data]
    storage = Storage(data)
    names = [name for name in storage.names() if posixpath.splitext(name)[1].lower() in _ROWS and name[0] not in "._"]
    if not names:
        raise DataError("holds no file of rows", file=data, expected=" or ".join(sorted(_ROWS)))
    return [storage.at(name) for name in names]


def _digest(ids: Iterable[str]) -> str:
    found = hashlib.sha256()
    for identity in ids:
        data = identity.encode()
        found.update(len(data).to_bytes(8) + data)
    return found.hexdigest()


def _content(examples: Iterable[Any]) -> str:
    return _digest(text for example in examples for text in (example.id, str(len(example.texts)), *example.texts))


def _fingerprint(path: Path) -> str:
    try:
        return files.fingerprint(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from None


def _checkpoint_fingerprint(what: str, task: str) -> str:
    """Of a directory the digest of its files, its card left out; of a hub's checkpoint its commit."""
    where = resolve(what, task)
    if os.path.isdir(where):
        found = sorted(path for path in Path(where).rglob("*") if path.is_file() and path.suffix not in (".md", ".tmp"))
        return _digest(text for path in found for text in (path.relative_to(where).as_posix(), _fingerprint(path)))
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(where, "config.json")).parent.name
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot load {where}: {_first(error)}") from None


@contextmanager
def _named(path: Path, address: str) -> Iterator[None]:
    """Have an error about a copy name the original."""
    try:
        yield
    except DataError as error:
        if is_local(address) or error.file != str(path):
            raise
        where = {"file": address, "row": error.row, "field": error.field}
        raise DataError(error.problem, found=error.found, expected=error.expected, **where) from None


def _absolute(address: str) -> str:
    """An address that means the same in another process; a slash at its end stays."""
    if not is_local(address):
        return address
    return os.path.abspath(address) + ("/" if address.endswith("/") and os.path.isdir(address) else "")


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=files.JSON_INDENT) + "\n").encode()
