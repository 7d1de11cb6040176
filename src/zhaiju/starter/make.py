"""How the packaged starter models are made: `scripts/train_starter`.

Everything that is fitted after the training (temperatures, the weights of selector, BM25 and reader, the judge of
answers) is fitted on the questions held out of it. `public.json` is only ever used to report figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from zhaiju import files, ui
from zhaiju.config import load_settings
from zhaiju.corpus.ask import Asker, Paragraphs, Trust, make_asker
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.lexical import scores_of
from zhaiju.data.chunks import pad
from zhaiju.data.examples import Context, QAExample
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.errors import CheckpointError, ConfigError, ZhaijuError
from zhaiju.inference.answer import load_joint, save_joint
from zhaiju.inference.calibrate import calibrate
from zhaiju.inference.engine import make_engine
from zhaiju.inference.export import export_graph
from zhaiju.modeling.checkpoint import Checkpoint, load, load_exported, save, save_calibration
from zhaiju.starter.data import fingerprints, prepare
from zhaiju.tasks.calibration import expected_calibration_error
from zhaiju.tasks.metrics import course
from zhaiju.training import run as training
from zhaiju.training.evaluate import evaluate
from zhaiju.training.loop import Evaluated, Event, Started, Stepped

TASKS = ("select", "read")
WINDOWS = {"select": (256, 32), "read": (170, 40)}  # tokens and overlap at use; see the lab notes
AGREE = 1e-3  # largest difference of logits between PyTorch and the graph
KEEP = 0.97  # share of right answers on the held-out questions that the threshold lets through
RISK = 0.5


def train(task: str, config: Path, data: Path, run: Path) -> None:
    """Train one of the two models as `zhaiju train` does; a run that was cut short goes on."""
    settings = load_settings(config, {})
    found = training.load_train_data(
        task, [data / "train.json"], [data / "dev.json"], context=data / "context.json", skip_faulty=True
    )
    with ui.progress(f"training {task}", None) as advance:

        def on_event(event: Event) -> None:
            if isinstance(event, Started):
                advance(event.step, total=event.steps)
            elif isinstance(event, Stepped):
                advance(1, note=f"loss {event.loss:.3f}, {event.tokens / event.seconds:,.0f} tokens/s")
            elif isinstance(event, Evaluated):
                ui.note(f"{task}, step {event.step}: {event.value:.4f}{' (best so far)' if event.best else ''}")

        result = training.train(task, settings, found, run, on_event=on_event)
    if not result.finished:
        ui.note(f"{task}: stopped after step {result.step}, saved; the same command goes on from there")
        sys.exit(130)


def package(task: str, run: Path, output: Path) -> Checkpoint:
    """Write a run's best weights in half precision, with their graph.

    Raises:
        CheckpointError: the graph's logits are not those of PyTorch.
    """
    trained = load(run, task)
    trained.network.model.half()
    trained.encoding.window, trained.encoding.overlap = WINDOWS[task]

    def fill(temporary: Path) -> None:
        save(temporary, trained.network, trained.encoding, replace(trained.meta, calibration={}))

    files.atomic_directory(output, fill)
    export_graph(load(output, task))
    exported = load_exported(output)
    again = load(output, task)
    text = "".join(chr(0x4E00 + place) for place in range(300))
    windows = again.encoding.windows(text[:20], text)
    chunk = pad(windows, again.encoding.pad_id)
    difference = np.abs(make_engine(again).backend.run(chunk) - make_engine(exported).backend.run(chunk)).max()
    if not difference <= AGREE:
        raise CheckpointError(f"{output}: the graph's logits differ from PyTorch's by {difference}")
    return exported


def fit(output: Path, data: Path) -> dict[str, Any]:
    """Fit all that is fitted on the held-out questions, and keep it with the models.

    Returns:
        What was found, for the card.
    """
    contexts = load_contexts(data / "context.json")
    dev = list(read_qa(data / "dev.json", contexts=contexts))
    record: dict[str, Any] = {"held_out": len(dev)}
    for task in TASKS:
        checkpoint = load_exported(output / task)
        calibration, _, _ = calibrate(make_engine(checkpoint), checkpoint.task(task), dev, risk=RISK)
        save_calibration(output / task, calibration.to_json())
        record[task] = calibration.to_json()
    parts = {task: load_exported(output / task) for task in TASKS}
    asker = make_asker(parts["read"], parts["select"], None, None)
    asker.answerer.lexical = scores_of(contexts)
    joint, grid = asker.answerer.fit(dev)
    best = next(entry for entry in grid if (entry["k"], entry["weight"]) == (joint.k, joint.weight))
    about = {"fitted_on": "held-out questions", "count": len(dev), "em": best["em"], "f1": best["f1"]}
    save_joint(str(output / "read"), str(output / "select"), joint, about)
    record["joint"] = {"k": joint.k, "weight": joint.weight, "lexical": joint.lexical} | about
    signals, right, _ = examine(make_asker(parts["read"], parts["select"], joint, None), dev, contexts)
    trust = Trust.fit(signals, right, keep=KEEP)
    trust.save(output / "read", {"questions": len(dev), "keep": KEEP})
    record["trust"] = {"threshold": trust.threshold, "weights": list(trust.weights)}
    return record


def examine(
    asker: Asker,
    examples: Sequence[QAExample],
    contexts: Sequence[Context],
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, Any]]:
    """Ask every question twice: of all paragraphs, and of all but the one that holds the answer.

    Returns:
        Signals float64 [2N, signals], whether the quote is exactly right bool [2N] (never in the second half), and
        confidences [2N].
    """
    paragraphs = [Paragraph(context.text, "corpus", number=place) for place, context in enumerate(contexts)]
    whole = Paragraphs(paragraphs)
    rows: list[tuple[float, ...]] = []
    right: list[bool] = []
    confidence: list[float] = []
    for there in (True, False):
        for example in examples:
            source = whole if there else _Without(whole, example.context.text)
            answer, signals = asker.examine(example.question, source)
            rows.append(signals)
            text = answer.quotes[0].text if answer.quotes else ""
            right.append(there and course(text, example.gold)[0] == 1)
            confidence.append(answer.confidence)
            progress(1)
    return np.array(rows), np.array(right), np.array(confidence)


class _Without:
    """Paragraphs without one of them."""

    def __init__(self, paragraphs: Paragraphs, text: str) -> None:
        self.paragraphs = paragraphs
        self.text = text

    def search(self, question: str, k: int) -> list[Any]:
        return [hit for hit in self.paragraphs.search(question, k + 1) if hit.paragraph.text != self.text][:k]


def report(output: Path, course_folder: Path) -> dict[str, Any]:
    """The figures on `public.json`, which took no part in anything before."""
    contexts = load_contexts(course_folder / "context.json")
    public = list(read_qa(course_folder / "public.json", contexts=contexts))
    figures: dict[str, Any] = {
        "questions": len(public),
        "paragraphs": len(contexts),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    parts = {task: load_exported(output / task) for task in TASKS}
    engines = {task: make_engine(part) for task, part in parts.items()}
    for task in TASKS:
        figures[task] = evaluate(engines[task], parts[task].task(task), public)[0]
    lexical = scores_of(contexts)
    joint = load_joint(str(output / "read"), str(output / "select"))
    trust = Trust.load(output / "read")
    assert joint is not None
    assert trust is not None
    answerer = make_asker(parts["read"], parts["select"], joint, None).answerer
    answerer.lexical = lexical
    pairs = list(zip(public, answerer.select(public, joint.lexical), strict=True))
    figures["mix"] = {"accuracy": float(np.mean([one.index == example.relevant for example, one in pairs]))}
    bm25 = [int(np.argmax(lexical(example))) == example.relevant for example in public]
    figures["bm25"] = {"accuracy": float(np.mean(bm25))}
    answers = list(answerer.predict(public))
    scores = [course(one.answer, example.gold) for example, one in zip(public, answers, strict=True)]
    figures["answer"] = {"em": float(np.mean(scores, 0)[0]), "f1": float(np.mean(scores, 0)[1])}
    _, right, confidence = examine(make_asker(parts["read"], parts["select"], joint, trust), public, contexts)
    kept = confidence >= trust.threshold
    count = len(public)
    figures["abstention"] = {
        "right_of_all": float(right[:count].mean()),
        "right_kept": float(kept[:count][right[:count]].mean()),
        "abstained_without": float(1 - kept[count:].mean()),
        "ece": expected_calibration_error(confidence, right),
    }
    return figures


def card(output: Path, work: Path) -> str:
    """The model card, from the runs and from what was fitted and measured."""
    fitted, figures = (json.loads((output / name).read_text("utf-8")) for name in ("fitted.json", "figures.json"))
    runs = {task: json.loads((work / task / "environment.json").read_text("utf-8")) for task in TASKS}
    rows = []
    for task in TASKS:
        steps = [entry for entry in training.read_metrics(work / task) if entry["event"] == "step"]
        best = max(
            (entry for entry in training.read_metrics(work / task) if entry["event"] == "evaluate"),
            key=lambda entry: entry[{"select": "accuracy", "read": "em"}[task]],
        )
        weights = load_exported(output / task)
        size = (output / task / "model.safetensors").stat().st_size
        hours = sum(entry["seconds"] for entry in steps) / 3600
        rows.append(
            f"| {task} | {size / 1e6:.1f} MB | {len(steps):,} | {best['step']:,} | {hours:.2f} | "
            f"{weights.encoding.window} | {runs[task]['seed']} |"
        )
    sources = "\n".join(
        f"| {entry['role']} | {entry['count']:,} | `{entry['sha256']}` |" for entry in runs["read"]["data"]
    )
    originals = "\n".join(f"| {name} | `{digest}` |" for name, digest in fitted["sources"].items())
    read, select, abstention = figures["read"], figures["select"], figures["abstention"]
    return f"""---
license: cc-by-sa-4.0
language: [zh]
library_name: transformers
tags: [zhaiju, extractive question answering, multiple choice]
---
# The starter: a selector and a reader for Chinese

Two RoFormer encoders (Su et al., 2021) from random weights: characters as tokens, rotary positions, and token types
that tell each character what matching and jieba's word list know of it (`zhaiju.data.hints`). Apart from these token
types they are plain transformers checkpoints (`RoFormerForMultipleChoice`, `RoFormerForQuestionAnswering`) in half
precision; `model.onnx` is the graph alone and takes its weights from `model.safetensors`.

| | weights | steps | best step | hours of steps, 1 thread | window | seed |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Trained {runs["read"]["date"][:10]} on {runs["read"]["machine"]}, torch {runs["read"]["libraries"]["torch"]}, by `scripts/train_starter`,
settings `configs/starter-select.toml` and `configs/starter-read.toml`, other programs beside it.

## Data

DRCD's development set (CC BY-SA 3.0) in the course layout, without the {fitted["kept_out"]} paragraphs that answer a question of
`public.json`, wherever they stood, and without that file's questions; CMRC 2018's development and trial sets (CC BY-SA
4.0), wrong paragraphs beside the right one chosen by BM25. Nothing else: no other text, no other model. Vocabulary from
the same questions and paragraphs. The questions of a tenth of DRCD's articles ({fitted["held_out"]}) were held out: the best step,
temperatures, weights of selector, BM25 and reader, and the judge of answers come from them.

| prepared file | rows | SHA-256 |
|---|---|---|
{sources}

| original | SHA-256 |
|---|---|
{originals}

## Figures on `course/public.json` ({figures["questions"]} questions, {figures["date"]}), which took no part in anything above

| | |
|---|---|
| reader, right paragraph given | EM {read["em"]:.4f}, F1 {read["f1"]:.4f} (course's definition); CMRC 2018's {read["em_cmrc"]:.4f} / {read["f1_cmrc"]:.4f}; DRCD's {read["em_drcd"]:.4f} / {read["f1_drcd"]:.4f} |
| selector alone | accuracy {select["accuracy"]:.4f} (chance {select["chance"]:.4f}) |
| BM25 alone | accuracy {figures["bm25"]["accuracy"]:.4f} |
| selector and BM25 (weight {fitted["joint"]["lexical"]:g}) | accuracy {figures["mix"]["accuracy"]:.4f} |
| both stages (k {fitted["joint"]["k"]}, λ {fitted["joint"]["weight"]:g}) | EM {figures["answer"]["em"]:.4f}, F1 {figures["answer"]["f1"]:.4f} |
| `ask` over all {figures["paragraphs"]:,} paragraphs | exactly right {abstention["right_of_all"]:.4f} |
| threshold {fitted["trust"]["threshold"]:.4f}: right answers kept | {abstention["right_kept"]:.4f} |
| … abstains where the paragraph was taken out | {abstention["abstained_without"]:.4f} |
| expected calibration error of the confidence, both halves together | {abstention["ece"]:.4f} |

`python benchmarks/starter.py` measures them again.

## What to expect of it

It finds the paragraph nearly always and the exact words often not: half of its answers begin or end elsewhere than a
person's would. It knows no world, only forms: which words match, what is a name, a place, a number. Chinese prose in
both scripts; not English, not tables, not code, not poems.

## Licence

CC BY-SA 4.0, attributions in [LICENSE](LICENSE).
"""


def main() -> None:
    """Prepare, train, package, fit, report; each part may be named alone."""
    parser = argparse.ArgumentParser(prog="train_starter", description=__doc__)
    parser.add_argument("parts", nargs="*", help="prepare, select, read, package, report; default: all")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--configs", type=Path, default=Path("configs"))
    parser.add_argument("--work", type=Path, default=Path("starter-work"), help="runs and prepared data")
    parser.add_argument("--output", type=Path, default=Path("src/zhaiju/starter"))
    options = parser.parse_args()
    known = ("prepare", "select", "read", "package", "report")
    parts = options.parts or list(known)
    try:
        if wrong := [part for part in parts if part not in known]:
            raise ConfigError(f"part {wrong[0]!r} is not one of {', '.join(known)}")
        prepared = options.work / "data"
        if "prepare" in parts:
            counts = prepare(options.data, prepared) | {"sources": fingerprints(options.data)}
            files.write_json(prepared / "counts.json", counts)
            ui.note(json.dumps(counts))
        for task in TASKS:
            if task in parts:
                train(task, options.configs / f"starter-{task}.toml", prepared, options.work / task)
        if "package" in parts:
            for task in TASKS:
                package(task, options.work / task, options.output / task)
            began = time.perf_counter()
            counts = json.loads((prepared / "counts.json").read_text("utf-8"))
            record = fit(options.output, prepared) | counts | {"zhaiju": version("zhaiju")}
            files.write_json(options.output / "fitted.json", record)
            ui.note(f"packaged and fitted in {time.perf_counter() - began:.0f} s")
        if "report" in parts:
            figures = report(options.output, options.data / "course")
            files.write_json(options.output / "figures.json", figures)
            files.write_text(options.output / "README.md", card(options.output, options.work))
    except ZhaijuError as error:
        ui.note(f"train_starter: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
