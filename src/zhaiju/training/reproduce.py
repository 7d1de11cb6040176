"""The whole course report as one experiment that goes on where it was stopped.

::

    OUT/
      recipe.json        what is trained (kept, so that the experiment cannot change under way)
      data.json          SHA-256 of each file it is trained and judged on (kept for the same reason)
      runs/PART/         a run for each part (see `zhaiju.training.run`)
      results/PART.json  what was measured on it
      report.md  report.html

Each training goes on from its last checkpoint, each measurement is made once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import psutil

from zhaiju import files
from zhaiju.config import TrainSettings
from zhaiju.data.formats import ReadLog
from zhaiju.errors import ConfigError, DataError
from zhaiju.inference.answer import PIPELINE, Answerer
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import check_encoder, load
from zhaiju.tasks import ReadTask
from zhaiju.training.compare import compare, load_outcomes
from zhaiju.training.evaluate import evaluate
from zhaiju.training.first_way import FirstWayTask, cut_left
from zhaiju.training.loop import Event
from zhaiju.training.recipe import Recipe
from zhaiju.training.run import CALIBRATION_FILE, TrainData, environment, load_train_data, read_metrics, train

SAMPLE_SECONDS = 0.05


class InterruptedTraining(Exception):  # noqa: N818  # no error: it was asked for
    """A training was asked to stop; the same command goes on. The message names the part."""


@dataclass(frozen=True)
class Part:
    """A training of the experiment.

    Attributes:
        name: Of its run.
        task: A key of TASKS.
        settings: Its settings.
        encoder: Which encoder of the recipe.
        title: What it is, for people.
        first_way: Whether contexts are cut on the left and answers searched for.
    """

    name: str
    task: str
    settings: TrainSettings
    encoder: str
    title: str
    first_way: bool = False


@dataclass(frozen=True)
class Files:
    """Where the data is; None where a part of it is not there.

    Attributes:
        context: The course's paragraphs.
        train: The course's training questions.
        public: The course's labelled test questions.
        intent: Training and dev utterances.
        slots: Training utterances; a tenth is held out.
    """

    context: Path
    train: Path
    public: Path
    intent: tuple[Path, Path] | None
    slots: Path | None


def find_files(folder: Path) -> Files:
    """Find the course files in a folder.

    They are `context.json`, `train.json`, `public.json` in it or in `course/`, and `intent/train.json`,
    `intent/eval.json`, `slot/train.json` in it or beside it.

    Raises:
        DataError: there are no course files.
    """
    for course in (folder, folder / "course"):
        if all((course / f"{name}.json").is_file() for name in ("context", "train", "public")):
            break
    else:
        raise DataError(
            "no course files there",
            file=folder,
            expected="context.json, train.json and public.json, or course/ with them",
        )
    intent: tuple[Path, Path] | None = None
    slots: Path | None = None
    beside = Path(os.path.abspath(course)).parent  # the parent of "." is "."
    for root in (folder, beside):
        if intent is None and (root / "intent" / "train.json").is_file() and (root / "intent" / "eval.json").is_file():
            intent = root / "intent" / "train.json", root / "intent" / "eval.json"
        if slots is None and (root / "slot" / "train.json").is_file():
            slots = root / "slot" / "train.json"
    return Files(course / "context.json", course / "train.json", course / "public.json", intent, slots)


def parts_of(recipe: Recipe, found: Files) -> list[Part]:
    """The trainings, in their order. Utterances are left out where there are none.

    Raises:
        ConfigError: a setting of the recipe is wrong.
    """
    parts = []
    for task in ("select", "read"):
        for encoder in ("first", "second"):
            title = f"{task}, {recipe.label(encoder)}"
            parts.append(Part(f"{task}-{encoder}", task, recipe.settings(task, encoder), encoder, title))
    title = f"read the first way, {recipe.label('first')}"
    parts.append(Part("read-first-way", "read", recipe.settings("read", "first"), "first", title, first_way=True))
    scratch = recipe.settings("read_scratch", "second")
    parts.append(Part("read-scratch", "read", scratch, "second", "read from random weights"))
    for task, there in (("intent", found.intent), ("slots", found.slots)):
        if there is not None:
            title = f"{task}, {recipe.label('english')}"
            parts.append(Part(task, task, recipe.settings(task, "english"), "english", title))
            scratch = recipe.settings(f"{task}_scratch", "english")
            parts.append(Part(f"{task}-scratch", task, scratch, "english", f"{task} from random weights"))
    return parts


def reproduce(
    folder: Path,
    output: Path,
    recipe: Recipe,
    *,
    on_part: Callable[[str], None] = lambda title: None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Run the experiment, or what of it is left to run.

    Args:
        folder: See `find_files`.
        output: Where runs, results and the report go.
        recipe: What to train.
        on_part: Called with the title of each part that begins.
        on_event: Called with every event of the trainings.

    Returns:
        All that the report is made of.

    Raises:
        DataError: see `find_files` and the readers.
        ConfigError: the recipe is wrong, or `output` holds an experiment with another one or with other data.
        InterruptedTraining: a training was asked to stop.
    """
    found = find_files(folder)
    parts = parts_of(recipe, found)
    _check(parts, found, recipe, output)
    with files.writing_to(output):
        (output / "results").mkdir(parents=True, exist_ok=True)
    _claim(output, recipe, found)
    done: dict[str, Any] = {}
    for part in parts:
        run = output / "runs" / part.name
        kept = output / "results" / f"{part.name}.json"
        if not kept.is_file():
            on_part(part.title)
            began = time.perf_counter()
            data = _data(part, found, recipe, output)
            result = train(part.task, part.settings, data, run, on_event=on_event)
            if not result.finished:
                raise InterruptedTraining(part.title)
            files.write_json(kept, _measure(part, run, data) | {"seconds_here": time.perf_counter() - began})
        done[part.name] = json.loads(kept.read_text("utf-8"))
    for encoder in ("first", "second"):
        kept = output / "results" / f"pipeline-{encoder}.json"
        if not kept.is_file():
            on_part(f"select, then read: {recipe.label(encoder)}")
            data = _data(parts[0], found, recipe, output)
            files.write_json(kept, _pipeline(output / "runs", encoder, data, parts[0].settings.precision))
        done[f"pipeline-{encoder}"] = json.loads(kept.read_text("utf-8"))
    return {
        "recipe": {"name": recipe.name, "about": recipe.about, "limits": dict(recipe.limits)},
        "labels": {name: recipe.label(name) for name in recipe.encoders},
        "scratch": {name: recipe.from_scratch(name) for name in recipe.encoders},
        "environment": environment(),
        "results": done,
        "comparisons": _comparisons(output / "runs", done, recipe),
        "runs": {part.name: str(output / "runs" / part.name) for part in parts},
        "missing": [name for name, there in (("intent", found.intent), ("slots", found.slots)) if there is None],
    }


def _check(parts: Sequence[Part], found: Files, recipe: Recipe, output: Path) -> None:
    """Refuse now what a training hours away would be refused for: an encoder that cannot be had, faulty data."""
    left = [part for part in parts if not (output / "results" / f"{part.name}.json").is_file()]
    for encoder in dict.fromkeys(part.settings.encoder for part in left):
        if encoder is not None:
            check_encoder(encoder)
    for part in {part.task: part for part in left if not part.first_way}.values():
        _data(part, found, recipe, output)


def _claim(output: Path, recipe: Recipe, found: Files) -> None:
    """Keep the recipe and the data's fingerprints; refuse others in the same place. Utterances may come later."""
    path = output / "recipe.json"
    values = json.loads(json.dumps(asdict(recipe)))
    begun = any((output / "results").iterdir()) or (output / "runs").is_dir()
    if begun and path.is_file() and json.loads(path.read_text("utf-8")) != values:
        raise ConfigError(f"{output} holds an experiment with another recipe ({path}); use another -o")
    known = output / "data.json"
    before = json.loads(known.read_text("utf-8")) if known.is_file() else {}
    places = {"context": found.context, "train": found.train, "public": found.public, "slots": found.slots}
    places |= dict(zip(("intent, train", "intent, dev"), found.intent or (), strict=False))
    now = {name: files.fingerprint(place) for name, place in places.items() if place is not None}
    for name, place in places.items():
        if name in now and before.get(name, now[name]) != now[name]:
            raise ConfigError(f"{output} holds an experiment with other data than {place} ({known}); use another -o")
    files.write_json(path, values)
    if now.keys() - before:
        files.write_json(known, before | now)


def _data(part: Part, found: Files, recipe: Recipe, output: Path) -> TrainData:
    context: Path | None = None
    if part.task == "intent" and found.intent is not None:
        train_files, dev_files = [found.intent[0]], [found.intent[1]]
    elif part.task == "slots" and found.slots is not None:
        train_files, dev_files = [found.slots], []
    else:
        train_files, dev_files, context = [found.train], [found.public], found.context
    data = load_train_data(part.task, train_files, dev_files, context=context, seed=part.settings.split_seed)
    limits = {name: recipe.limits.get(name) or None for name in ("train", "dev")}
    data = replace(data, train=data.train[: limits["train"]], dev=data.dev[: limits["dev"]])
    if part.first_way:
        encoding = load(output / "runs" / "read-first", "read").encoding  # the same tokenizer and window
        data = replace(data, train=cut_left(data.train, encoding), dev=cut_left(data.dev, encoding), log=ReadLog())
    return data


def _measure(part: Part, run: Path, data: TrainData) -> dict[str, Any]:
    """The figures of a run's best checkpoint on its dev set, how fast it was evaluated, and its curve."""
    checkpoint = load(run, part.task)
    engine = make_engine(checkpoint, precision=part.settings.precision)
    task: Any = checkpoint.task(part.task)
    if part.first_way:
        task = FirstWayTask(max_answer_chars=task.max_answer_chars)
    evaluate(engine, task, data.dev[:64])  # the first passes are slower
    with peak_memory() as peak:
        began = time.perf_counter()
        figures, _ = evaluate(engine, task, data.dev)
        seconds = time.perf_counter() - began
    parameters = sum(value.numel() for value in checkpoint.network.parameters())
    entries = list(read_metrics(run))
    epochs = {entry["step"]: entry["epoch"] for entry in entries if entry["event"] == "step"}
    return {
        "title": part.title,
        "task": part.task,
        "encoder": part.encoder,
        "settings": asdict(part.settings),
        "train_count": len(data.train),
        "dev_count": len(data.dev),
        "data": data.fingerprints,
        "parameters": parameters,
        "figures": figures,
        "evaluation": {
            "seconds": seconds,
            "per_second": len(data.dev) / seconds,
            "peak_bytes": peak[0],
            "device": next(checkpoint.network.parameters()).device.type,
        },
        "training": {
            "steps": max((entry["step"] for entry in entries), default=0),
            "seconds": sum(entry["seconds"] for entry in entries if entry["event"] == "step"),
            "best_step": _best_step(run),
        },
        "evaluations": [
            entry | {"epoch": epochs.get(entry["step"])} for entry in entries if entry["event"] == "evaluate"
        ],
        "calibration": json.loads((run / CALIBRATION_FILE).read_text("utf-8")),
        "environment": json.loads((run / "environment.json").read_text("utf-8")),
    }


def _best_step(run: Path) -> int:
    return int((run / "best").resolve().name.removeprefix("step-"))


def _pipeline(runs: Path, encoder: str, data: TrainData, precision: str) -> dict[str, Any]:
    """What the selector chose, read: `count`, `em`, `f1`, … and `accuracy` of the choice."""
    reading, selecting = load(runs / f"read-{encoder}", "read"), load(runs / f"select-{encoder}", "select")
    read_task, select_task = reading.task("read"), selecting.task("select")
    assert isinstance(read_task, ReadTask)
    reader, selector = (make_engine(one, precision=precision) for one in (reading, selecting))
    answerer = Answerer(reader, selector, read_task=read_task, select_task=select_task, joint=PIPELINE)
    predictions = list(answerer.predict(data.dev))
    figures = read_task.score(data.dev, predictions)
    right = [prediction.index == example.relevant for example, prediction in zip(data.dev, predictions, strict=True)]
    return {"figures": figures | {"accuracy": sum(right) / len(right)}, "encoder": encoder}


def _comparisons(runs: Path, done: Mapping[str, Any], recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """Encoder against encoder, and pretrained against scratch where there is something pretrained."""
    pairs: list[tuple[str, Sequence[str]]] = [
        ("select", ("select-first", "select-second")),
        ("read", ("read-first", "read-second")),
    ]
    pairs += [
        (f"{task}, from scratch", (run, f"{task}-scratch"))
        for task, run, encoder in (
            ("read", "read-second", "second"),
            ("intent", "intent", "english"),
            ("slots", "slots", "english"),
        )
        if run in done and not recipe.from_scratch(encoder)
    ]
    return {
        title: compare([load_outcomes(runs / name, done[name]["title"]) for name in names])["differences"]
        for title, names in pairs
    }


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Watch this process's memory: the list's one entry is the most it held, in bytes, once the block is left.

    On a GPU it is what torch had allocated there.
    """
    import torch

    peak = [0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = int(torch.cuda.max_memory_allocated())
        return
    process, stop = psutil.Process(), Flag()

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss)
            if stop.wait(SAMPLE_SECONDS):
                return

    watcher = Thread(target=watch, name="zhaiju-memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
