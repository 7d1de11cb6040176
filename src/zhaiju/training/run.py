"""A run: a directory that a training leaves, and that a killed one goes on from.

::

    RUN/
      config.toml        every setting
      environment.json   versions, machine, threads, seed, command, fingerprints of the data
      metrics.jsonl      one line an event: steps and evaluations
      calibration.json   temperature, threshold, reliability and risk-coverage of the best checkpoint on the dev set
      outcomes.json      how the best checkpoint does on each dev example, for comparing runs
      README.md          model card
      checkpoints/       step-00000400/ …: only the best and the last are kept
      best -> checkpoints/step-…    last -> checkpoints/step-…

Each file and directory appears whole or not at all. A checkpoint's `training.pt` holds the optimiser and random
state; continuing from it gives the weights that an uninterrupted run would have given, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zhaiju import files
from zhaiju.config import TrainSettings, differences, load_settings
from zhaiju.data.examples import QAExample
from zhaiju.data.formats import ReadLog, load_contexts
from zhaiju.errors import ConfigError, DataError, TrainingError
from zhaiju.inference.backends import TorchBackend
from zhaiju.inference.calibrate import MOST_EXAMPLES, calibrate, calibration_record
from zhaiju.inference.engine import Engine, make_engine, usual_batch_tokens
from zhaiju.modeling.attention import quick_attention
from zhaiju.modeling.checkpoint import Checkpoint, Meta, Shape, from_scratch, load, refusing, save, save_calibration
from zhaiju.modeling.dropout import quick_dropout
from zhaiju.modeling.initialise import discriminant_head, freeze_embeddings, mean_pooling
from zhaiju.modeling.memory import recompute_activations
from zhaiju.tasks import TASKS, make_task
from zhaiju.tasks.base import Task
from zhaiju.tasks.readers import paragraphs_of
from zhaiju.threads import settle
from zhaiju.training.evaluate import evaluate
from zhaiju.training.loop import Evaluated, Event, Loop, Stepped
from zhaiju.training.names import distinct
from zhaiju.training.processes import Processes

STATE_FILE = "training.pt"
CALIBRATION_FILE = "calibration.json"
OUTCOMES_FILE = "outcomes.json"
HELD_OUT_SHARE = 0.1
_GONE = re.compile(r"gloo|NCCL|TCPStore|Connection (closed|reset)|Broken pipe", re.IGNORECASE)
LIBRARIES = ("zhaiju", "torch", "transformers", "tokenizers", "accelerate", "numpy", "opencc", "rjieba")


@dataclass(frozen=True)
class TrainData:
    """What a training trains and is judged on, and where it came from.

    Attributes:
        train: Training examples.
        dev: Held-out examples.
        fingerprints: For each file its role, name, SHA-256 and number of examples.
        log: What the readers tolerated.
    """

    train: list[Any]
    dev: list[Any]
    fingerprints: list[dict[str, Any]]
    log: ReadLog


@dataclass(frozen=True)
class RunResult:
    """How a run stands.

    Attributes:
        run: Its directory.
        finished: False if it was interrupted; the same command continues it.
        step: Steps done.
        best_step: Step of the best evaluation.
        metrics: The best evaluation's figures.
    """

    run: Path
    finished: bool
    step: int
    best_step: int
    metrics: dict[str, float]


def load_train_data(
    task: str,
    train: Sequence[Path],
    dev: Sequence[Path] = (),
    *,
    context: Path | None = None,
    seed: int = 0,
    bio: str = "repair",
    skip_faulty: bool = False,
) -> TrainData:
    """Read training and dev files.

    Without dev files a seeded tenth is held out of the training files (see `hold_out`).

    Args:
        task: A key of TASKS.
        train: Training files; of a CLINC150 file its `train` and `oos_train`.
        dev: Dev files; of a CLINC150 file its `val` and `oos_val`.
        context: select and read: the course layout's paragraphs.
        seed: Of the held-out tenth.
        bio: slots: what to do about a malformed tag, strict or repair.
        skip_faulty: Leave faulty rows out instead of stopping at the first.

    Raises:
        DataError: a file does not hold what its layout promises, or an id stands in two training files.
        ConfigError: a file is given twice.
    """
    log = ReadLog(skip_faulty=skip_faulty)
    context = paragraphs_of(task, train[0], context)
    contexts = load_contexts(context) if context else None
    fingerprints = []
    if context:
        fingerprints.append(_fingerprint("context", context, len(contexts or ())))

    def read(paths: Sequence[Path], role: str, split: str) -> list[Any]:
        examples: dict[str, Any] = {}
        for path, name in zip(paths, distinct(paths), strict=True):
            before = len(examples)
            for example in TASKS[task].read(path, contexts=contexts, split=split, bio=bio, log=log):
                if len(paths) > 1 and example.id.startswith("#"):  # a row's number, for want of an id
                    example = replace(example, id=f"{name}{example.id}")
                if example.id in examples:
                    raise DataError("id stands in another file already", file=path, row=example.id, field="id")
                examples[example.id] = example
            fingerprints.append(_fingerprint(role, path, len(examples) - before))
        return list(examples.values())

    examples = read(train, "train", "train")
    if dev:
        return TrainData(examples, read(dev, "dev", "val"), fingerprints, log)
    kept, held_out = hold_out(examples, seed)
    return TrainData(kept, held_out, fingerprints, log)


def hold_out(examples: Sequence[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """Split off about a tenth of the examples.

    Utterances (intent, slots) by a hash of their id, so that a row stays on its side whatever else is in the file.
    Questions (select, read) by the paragraph that answers them, with all its questions: for read no held-out
    paragraph is trained on; for select one may still be drawn as a wrong choice.

    Raises:
        DataError: there is nothing to split.
    """
    if not isinstance(examples[0], QAExample):
        if len(examples) < 2:
            raise DataError("one example cannot be split into training and dev data; name dev data with --dev")
        shares = [_share(seed, example.id) for example in examples]
        held = {place for place, share in enumerate(shares) if share < HELD_OUT_SHARE}
        if not 0 < len(held) < len(examples):  # of a handful, the one that comes nearest
            held = {int(np.argmin(shares))}
    else:
        held = _held_paragraphs(examples, seed)
    return (
        [example for place, example in enumerate(examples) if place not in held],
        [example for place, example in enumerate(examples) if place in held],
    )


def _share(seed: int, row: str) -> float:
    """A number in 0..1 that an id always has."""
    digest = hashlib.sha256(f"{seed}:{row}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _held_paragraphs(examples: Sequence[QAExample], seed: int) -> set[int]:
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        text = example.contexts[example.relevant if example.relevant is not None else 0].text
        places.setdefault(text, []).append(place)
    groups = list(places.values())
    if len(groups) < 2:
        raise DataError("one paragraph cannot be split into training and dev data; name dev data with --dev")
    wanted = max(1, round(len(examples) * HELD_OUT_SHARE))
    held: set[int] = set()
    for index in np.random.default_rng([seed, 0xDE]).permutation(len(groups))[:-1]:
        if len(held) >= wanted:
            break
        held.update(groups[index])
    return held


def train(
    task_name: str,
    settings: TrainSettings,
    data: TrainData,
    run: Path,
    *,
    overwrite: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    on_progress: Callable[[int], None] | None = None,
) -> RunResult:
    """Train, or continue a training that was cut short.

    Args:
        task_name: A key of TASKS.
        settings: The settings.
        data: From `load_train_data`.
        run: The run's directory. If it holds an unfinished run with the same settings and data, that one goes on.
        overwrite: Remove a run that is there already.
        on_event: Called with every event of the loop.
        on_progress: Called with the number of dev examples done during evaluations.

    Raises:
        ConfigError: the directory holds a run with other settings or data, or something else, or another process
            is training into it.
        DataError: a dev example cannot be scored.
        TrainingError: see `Loop`.
    """
    _check_dev(task_name, data)
    processes = Processes()
    with ExitStack() as lock:
        resumed = processes.first(
            lambda: (lock.enter_context(_alone(run)), _claim(run, task_name, settings, data, overwrite=overwrite))[1]
        )
        with _not_left_alone(run, processes):
            return _train(task_name, settings, data, run, resumed, processes, on_event, on_progress)


def _train(
    task_name: str,
    settings: TrainSettings,
    data: TrainData,
    run: Path,
    resumed: Path | None,
    processes: Processes,
    on_event: Callable[[Event], None],
    on_progress: Callable[[int], None] | None,
) -> RunResult:
    checkpoint, loop = assemble(task_name, settings, data, resumed, processes=processes, on_progress=on_progress)
    if resumed is not None:
        loop.load_state_dict(torch.load(resumed / STATE_FILE, weights_only=True, map_location="cpu"))
    processes.first(lambda: _prepare(run, loop))
    meta = Meta(task=task_name, search={name: getattr(settings, name) for name in TASKS[task_name].kept})

    with _stop_requests() as stop, _logging(run, first=processes.rank == 0) as log:
        for event in loop.events():
            log(event)
            on_event(event)
            saved = False
            if isinstance(event, Evaluated) or (
                isinstance(event, Stepped) and settings.save_every and event.step % settings.save_every == 0
            ):
                _save(run, loop, checkpoint, meta)
                saved = True
            if processes.any(stop.is_set()) and not loop.finished:
                if not saved and loop.step:
                    _save(run, loop, checkpoint, meta)
                return _result(run, loop, finished=False)

    if not processes.first((run / "last").exists):
        _save(run, loop, checkpoint, meta)

    def conclude() -> RunResult:
        result = _result(run, loop, finished=True)
        if not (run / OUTCOMES_FILE).is_file():
            _conclude(run, task_name, settings, data, on_progress)
        files.write_text(run / "README.md", model_card(task_name, settings, data, result))
        return result

    return processes.first(conclude)


@contextmanager
def _not_left_alone(run: Path, processes: Processes) -> Iterator[None]:
    """Say in a line what torch says in a page where another process of the training is gone.

    Raises:
        TrainingError: it is.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's are of no other class
        if processes.count == 1 or not _GONE.search(str(error)):
            raise
        raise TrainingError(
            f"another process of this training has ended; the same command goes on from the last save in {run}"
        ) from error


def _prepare(run: Path, loop: Loop) -> None:
    """Make what stands in the run's directory agree with the loop's state."""
    if loop.best_step:  # a kill may have come between writing the checkpoint and pointing at it
        files.point(run / "best", _step_directory(run, loop.best_step))
    _truncate_metrics(run / "metrics.jsonl", loop.step, evaluated=loop.evaluated_step)


@contextmanager
def _logging(run: Path, *, first: bool) -> Iterator[Callable[[Event], None]]:
    """Give a function that the first process appends events to metrics.jsonl with."""
    if not first:
        yield lambda event: None
        return
    path = run / "metrics.jsonl"
    with files.writing_to(path):
        stream = path.open("ab", buffering=0)  # what a full disk has refused is not to be written again at closing
    with stream:
        yield partial(_log, stream)


def assemble(
    task_name: str,
    settings: TrainSettings,
    data: TrainData,
    resumed: Path | None = None,
    *,
    processes: Processes | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Checkpoint, Loop]:
    """A network and the loop that trains it, as the settings say.

    Args:
        task_name: A key of TASKS.
        settings: The settings.
        data: From `load_train_data`.
        resumed: A checkpoint of the same training to start from; the loop's state is not loaded.
        processes: Those that train together; None: this one alone, or what it was launched as.
        on_progress: Called with the number of dev examples done during evaluations.
    """
    settle(settings.threads)
    processes = processes or Processes()
    torch.manual_seed(settings.seed)
    labels = TASKS[task_name].classes(data.train)
    task = make_task(task_name, labels=labels, **asdict(settings))
    checkpoint = _start(task_name, settings, data, resumed, labels)
    pad_id = checkpoint.encoding.pad_id
    if resumed is None and task.head.over == "labels" and not task.head.per_token:
        _first_weights(checkpoint, task, settings, data)
    quick_attention(checkpoint.network.model)
    quick_dropout(checkpoint.network)
    if settings.freeze_embeddings:
        freeze_embeddings(checkpoint.network)
    if settings.activation_checkpointing:
        recompute_activations(checkpoint.network.model)
    engine = Engine(
        TorchBackend(checkpoint.network, pad_id=pad_id, precision=settings.precision),
        checkpoint.encoding,
        batch_tokens=_batch_tokens(settings),
    )

    known = [example for example in data.train if task.missing(example) is None][: settings.eval_train]

    def judge() -> dict[str, float]:
        report = evaluate(engine, task, data.dev, progress=on_progress, processes=processes)[0]
        if known:
            seen, _ = evaluate(engine, task, known, processes=processes)
            report |= {f"train_{name}": seen[name] for name in (task.figures[0], "loss") if name in seen}
        return report

    return checkpoint, Loop(
        checkpoint.network,
        task,
        data.train,
        checkpoint.encoding,
        settings,
        evaluate=judge,
        pad_id=pad_id,
        processes=processes,
    )


def _batch_tokens(settings: TrainSettings) -> int:
    """Of a batch that is evaluated: no more than one that is trained on."""
    return min(settings.batch_tokens, usual_batch_tokens(gpu=torch.cuda.is_available()))


def _conclude(
    run: Path, task_name: str, settings: TrainSettings, data: TrainData, on_progress: Callable[[int], None] | None
) -> None:
    """Calibrate the best checkpoint on the dev set, and keep how it does on each dev example."""
    best = load(run / "best", task_name)
    engine = make_engine(best, precision=settings.precision, batch_tokens=_batch_tokens(settings))
    task = best.task(task_name)
    calibration, before, after = calibrate(engine, task, data.dev, risk=settings.risk, progress=on_progress)
    save_calibration(best.where, calibration.to_json())
    judgement = after
    if len(data.dev) > MOST_EXAMPLES:
        judgement = task.judge(data.dev, list(engine.predict(task, data.dev, progress=on_progress)))
    files.write_json(run / CALIBRATION_FILE, calibration_record(calibration, before, after))
    ratios = {name: table.tolist() for name, table in judgement.ratios.items()}
    ids = [example.id for example in data.dev]
    files.write_json(run / OUTCOMES_FILE, {"ids": ids, "dev": _dev_identity(settings, data), "ratios": ratios})


def _dev_identity(settings: TrainSettings, data: TrainData) -> list[str]:
    """What the dev set is: its files, or the files that a tenth was held out of and the seed of that."""
    dev = [entry["sha256"] for entry in data.fingerprints if entry["role"] == "dev"]
    train = [entry["sha256"] for entry in data.fingerprints if entry["role"] == "train"]
    return dev or [*train, f"split_seed {settings.split_seed}"]


def _check_dev(task: str, data: TrainData) -> None:
    """Refuse dev data that the first evaluation, perhaps hours away, could not score."""
    if not data.dev:
        raise DataError("no dev example to judge the training on", expected="at least one")
    for example in data.dev:
        if (field := TASKS[task].missing(example)) is not None:
            raise DataError("a dev example without what it could be scored against", row=example.id, field=field)


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Keep a second process out of the run's directory. The lock ends with the process, however that ends."""
    if run.exists() and (not run.is_dir() or _is_foreign(run)):  # nothing is left in it, not even a lock
        raise ConfigError(f"{run} exists and is not a run; use another -o")
    taken = ConfigError(f"another process is training into {run}; wait for it, or use another -o")
    with files.lock(run / files.LOCK_FILE, taken):
        yield


def _is_foreign(run: Path) -> bool:
    """Whether a folder holds something and no run, not even one that was killed before config.toml was there."""
    known = ("environment.json", files.LOCK_FILE)
    return not (run / "config.toml").is_file() and any(
        entry.name not in known and entry.suffix != ".tmp" for entry in run.iterdir()
    )


def _empty(run: Path) -> None:
    """Remove what is in a run's directory, the file that makes it a run last."""
    with files.writing_to(run):
        for entry in sorted(run.iterdir(), key=lambda entry: entry.name == "config.toml"):
            if entry.name == files.LOCK_FILE:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _claim(run: Path, task: str, settings: TrainSettings, data: TrainData, *, overwrite: bool) -> Path | None:
    """Make the directory a run's, or find the checkpoint that it goes on from."""
    about = {"task": task, "data": data.fingerprints}
    if overwrite and (run / "config.toml").is_file():
        _empty(run)
    if (run / "config.toml").is_file():
        changed = differences(load_settings(run / "config.toml", {}), settings)
        if changed:
            raise ConfigError(
                f"{run} holds a run with other settings ({'; '.join(changed)}); use another -o or --overwrite"
            )
        old = json.loads((run / "environment.json").read_text("utf-8"))
        if old["task"] != task or [(entry["role"], entry["sha256"]) for entry in old["data"]] != [
            (entry["role"], entry["sha256"]) for entry in data.fingerprints
        ]:
            raise ConfigError(f"{run} holds a run for another task or other data; use another -o or --overwrite")
        last = run / "last"
        if last.is_dir() and not (last / STATE_FILE).is_file():
            raise ConfigError(
                f"{run} holds a run without {last / STATE_FILE}, so it cannot go on; use another -o or --overwrite"
            )
        return last.resolve() if last.is_dir() else None
    files.write_json(run / "environment.json", environment() | {"seed": settings.seed} | about)
    files.write_text(run / "config.toml", settings.to_toml())
    return None


def _start(
    task: str, settings: TrainSettings, data: TrainData, resumed: Path | None, labels: tuple[str, ...]
) -> Checkpoint:
    if resumed is not None:
        return load(resumed, task)
    chosen = {
        "window": settings.window,
        "overlap": settings.overlap,
        "script": settings.script,
        "boundaries": settings.boundaries,
        "labels": labels or None,
    }
    if not settings.scratch:
        return load(settings.encoder or "", task, **chosen, head_required=False)  # type: ignore[arg-type]
    shape = Shape(**{name: getattr(settings, name) for name in Shape.__dataclass_fields__})
    texts = dict.fromkeys(text for example in data.train for text in example.texts)
    return from_scratch(task, texts, encoder=settings.encoder, shape=shape, **chosen)  # type: ignore[arg-type]


def _first_weights(checkpoint: Checkpoint, task: Task[Any, Any], settings: TrainSettings, data: TrainData) -> None:
    if settings.pooling == "mean":
        mean_pooling(checkpoint.network)
    if settings.head == "discriminant":
        generator = np.random.default_rng(settings.seed)
        items = [item for example in data.train for item in task.items(example, checkpoint.encoding, generator)]
        discriminant_head(
            checkpoint.network,
            items,
            checkpoint.encoding.pad_id,
            smoothing=settings.label_smoothing,
            precision=settings.precision,
        )


def _step_directory(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def _save(run: Path, loop: Loop, checkpoint: Checkpoint, meta: Meta) -> None:
    """Have the first process write the state."""
    loop.processes.first(lambda: _write(run, loop, checkpoint, meta))


def _write(run: Path, loop: Loop, checkpoint: Checkpoint, meta: Meta) -> None:
    """Write the state, point `last` and `best` at it, then remove what nothing points at: safe at every moment."""
    directory = _step_directory(run, loop.step)

    def save_state(path: Path) -> None:
        with refusing():
            torch.save(loop.state_dict(), path)

    def fill(temporary: Path) -> None:
        with loop.averaged():
            save(temporary, checkpoint.network, checkpoint.encoding, meta)
        save_state(temporary / STATE_FILE)

    if (run / "last").resolve() == directory.resolve() and (directory / STATE_FILE).is_file():
        # Saved a second time, by an evaluation: the weights are there, and "last" may not point at nothing meanwhile.
        files.atomic_file(directory / STATE_FILE, save_state)
    else:
        files.atomic_directory(directory, fill)
    files.point(run / "last", directory)
    if loop.best_step == loop.step:
        files.point(run / "best", directory)
    wanted = {directory, _step_directory(run, loop.best_step)}
    for other in (run / "checkpoints").iterdir():
        if other not in wanted:
            shutil.rmtree(other, ignore_errors=True)
    if loop.best_step != loop.step:
        with suppress(FileNotFoundError):  # only the last one is gone on from
            (_step_directory(run, loop.best_step) / STATE_FILE).unlink()


def _log(stream: Any, event: Event) -> None:
    if isinstance(event, Stepped):
        values = {
            "event": "step",
            "step": event.step,
            "epoch": round(event.epoch, 4),
            "loss": event.loss,
            "lr": event.lr,
            "grad_norm": event.grad_norm,
            "items": event.items,
            "tokens": event.tokens,
            "padding": round(1 - event.tokens / event.padded, 4),
            "seconds": round(event.seconds, 4),
        }
    elif isinstance(event, Evaluated):
        values = {
            "event": "evaluate",
            "step": event.step,
            **event.metrics,
            "seconds": round(event.seconds, 3),
        }
    else:
        return
    line = json.dumps(values).encode() + b"\n"
    with files.writing_to(Path(stream.name)):
        while line:  # a disk that is nearly full takes a part
            line = line[stream.write(line) :]
        if isinstance(event, Evaluated):
            os.fsync(stream.fileno())


def _truncate_metrics(path: Path, step: int, *, evaluated: int) -> None:
    """Drop the lines of steps that will be taken again, and a last line that was cut."""
    kept = []
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if entry["step"] <= (evaluated if entry["event"] == "evaluate" else step):
                    kept.append(line)
    files.write_text(path, "".join(f"{line}\n" for line in kept))


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that was cut is left out."""
    for line in (run / "metrics.jsonl").read_text("utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def _result(run: Path, loop: Loop, *, finished: bool) -> RunResult:
    metrics: dict[str, float] = {}
    for entry in read_metrics(run):
        if entry["event"] == "evaluate" and entry["step"] == loop.best_step:
            metrics = {name: value for name, value in entry.items() if name not in ("event", "step", "seconds")}
    return RunResult(run, finished, loop.step, loop.best_step, metrics)


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM ask for a stop after the current step; a second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:  # a launcher makes a SIGTERM of the first
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def environment() -> dict[str, Any]:
    """Where and with what this is run."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _fingerprint(role: str, path: Path, count: int) -> dict[str, Any]:
    return {"role": role, "name": path.name, "sha256": files.fingerprint(path), "count": count}


def model_card(task: str, settings: TrainSettings, data: TrainData, result: RunResult) -> str:
    """The run's README: what it is, what it was trained on, how well it does, how to use it."""
    figures = "\n".join(
        f"| {name} | {value:.4f} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in result.metrics.items()
    )
    sources = "\n".join(
        f"| {entry['role']} | {entry['name']} | {entry['count']} | `{entry['sha256'][:16]}…` |"
        for entry in data.fingerprints
    )
    origin = "random weights" if settings.scratch else str(settings.encoder)
    if settings.scratch and settings.encoder:
        origin += f", architecture of {settings.encoder}"
    judged = "the dev file" if any(entry["role"] == "dev" for entry in data.fingerprints) else "a held-out tenth"
    return f"""---
library_name: transformers
tags: [zhaiju, {task}]
---
# {task} from {origin}

Trained by zhaiju {version("zhaiju")} on {len(data.train)} examples, {result.step} steps; the best evaluation was at
step {result.best_step}. Settings are in `config.toml`, versions and the machine in `environment.json`, the curve in
`metrics.jsonl`.

## Data

| role | file | rows | SHA-256 |
|---|---|---|---|
{sources}

Answers that do not stand at their offset and were not trained on: {len(data.log.misaligned)}. Faulty rows left out:
{len(data.log.skipped)}.

## Figures on {judged} ({len(data.dev)} examples, seed {settings.seed}), best step

| figure | value |
|---|---|
{figures}

## Use

```
zhaiju evaluate {result.run.name} DATA
```

The weights inherit the licences of the data and of the encoder named above.
"""
