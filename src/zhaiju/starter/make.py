"""How the packaged starter models are made: `scripts/train_starter`.

Everything that is fitted after the training (temperatures, the weights of selector, BM25 and reader, the judge of
answers) is fitted on the questions held out of it; the weights of the voices, which have nothing to learn by heart, on
the training questions. `public.json` is only ever used to report figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

from zhaiju import files, ui
from zhaiju.config import load_settings
from zhaiju.corpus.ask import Asker, Paragraphs, Trust, make_asker
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.lexical import scores_of
from zhaiju.corpus.voices import RIDGE, VOICES, Voices, Weights, voices_of
from zhaiju.corpus.voices import fit as fit_logit
from zhaiju.data.chunks import pad
from zhaiju.data.examples import Context, QAExample, SelectPrediction
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.errors import CheckpointError, ConfigError, ZhaijuError
from zhaiju.inference.answer import Joint, load_joint, mix, save_joint
from zhaiju.inference.calibrate import calibrate
from zhaiju.inference.engine import Engine, make_engine
from zhaiju.inference.export import export_graph
from zhaiju.modeling.checkpoint import Checkpoint, load, load_exported, save, save_calibration
from zhaiju.starter.data import FOLDS, fingerprints, is_of_fold, prepare, prepare_fold, variants
from zhaiju.tasks.base import log_softmax
from zhaiju.tasks.calibration import expected_calibration_error
from zhaiju.tasks.metrics import course
from zhaiju.training import run as training
from zhaiju.training.evaluate import evaluate
from zhaiju.training.loop import Evaluated, Event, Started, Stepped

PARTS = ("prepare", "select", "read", "package", "folds", "voices", "report")
TASKS = ("select", "read")
WINDOWS = {"select": (256, 32), "read": (170, 40)}  # tokens and overlap at use; see the lab notes
LOGITS_FILE = "logits.json"
AGREE = 1e-3  # largest difference of logits between PyTorch and the graph
KEEP = 0.97  # share of right answers on the held-out questions that the threshold lets through
RISK = 0.5
IMPORTANCE = {"given": 1.0, "nearest": 1.0, "same article": 1.0, "CMRC 2018": 0.5}  # of a question, for the voices
SELECTOR = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0)


def train(task: str, config: Path, data: Path, run: Path, *, steps: int = 0, until: int = 0) -> None:
    """Train one of the two models as `zhaiju train` does; a run that was cut short goes on.

    Args:
        task: "select" or "read".
        config: Its settings.
        data: The prepared data.
        run: The run's directory.
        steps: Steps of the schedule; 0: as many as the settings' epochs have.
        until: Stop after this one, with its checkpoint kept and none judged on the way; 0: train to the end.
    """
    settings = load_settings(config, {"max_steps": steps, "eval_every": steps} if until else {})
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

        result = training.train(task, settings, found, run, until=until, on_event=on_event)
    if not result.finished and not 0 < until <= result.step:
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


def train_fold(fold: int, output: Path, config: Path, work: Path) -> None:
    """Train a selector just as the packaged one, but without a fold, and keep its logits for the fold's questions.

    What the packaged selector knows of `public.json`, which is nothing, this one knows of the fold: see `prepare_fold`.
    Settings and seed are the same. The schedule has as many steps as the packaged selector's, and the training stops
    where that was at its best: a step that is settled beforehand cannot flatter the fold. The weights are packaged as
    those are (half precision, windows at use) before they are asked. A fold that is done is left as it is; one that
    was cut short goes on.

    Args:
        fold: Which, from 0 to `FOLDS` - 1.
        output: The folder of the packaged models.
        config: The selector's settings.
        work: The folder with the prepared data.

    Raises:
        ConfigError: what is there was made with another schedule.
    """
    folder = work / "folds" / str(fold)
    like = json.loads((output / "fitted.json").read_text("utf-8"))["runs"]["select"]
    schedule = {"steps": like["steps"], "step": like["best_step"]}
    if (folder / LOGITS_FILE).is_file():
        there = json.loads((folder / LOGITS_FILE).read_text("utf-8"))
        if {name: there[name] for name in schedule} != schedule:
            raise ConfigError(f"{folder} was trained otherwise than the packaged selector ({schedule}); remove it")
        ui.note(f"fold {fold}: done already")
        return
    counts = prepare_fold(work / "data", folder / "data", fold)
    ui.note(f"fold {fold}: {json.dumps(counts)}")
    run = folder / "select"
    train("select", config, folder / "data", run, steps=schedule["steps"], until=schedule["step"])
    selector = package("select", run / "last", folder / "packaged")
    asked = fold_questions(work / "data", fold)
    engine, task = make_engine(selector), selector.task("select")  # not calibrated, so its temperature is 1
    logits = {
        kind: {one.id: list(one.scores) for one in engine.predict(task, examples)} for kind, examples in asked.items()
    }
    seconds = sum(entry["seconds"] for entry in training.read_metrics(run) if entry["event"] == "step")
    files.write_json(
        folder / LOGITS_FILE, {"fold": fold, **schedule, **counts, "seconds": round(seconds), "logits": logits}
    )


def fold_questions(prepared: Path, fold: int) -> dict[str, list[QAExample]]:
    """The training questions that are a fold's, with each set of candidates of `variants`."""
    contexts = load_contexts(prepared / "context.json")
    titles = json.loads((prepared / "articles.json").read_text("utf-8"))
    texts = {one.text for one, title in zip(contexts, titles, strict=True) if is_of_fold(title, fold)}
    return {
        kind: [one for one in examples if one.context.text in texts]
        for kind, examples in variants(prepared, "train").items()
        if kind != "CMRC 2018"
    }


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


def fit_voices(output: Path, prepared: Path) -> dict[str, Any]:
    """Fit the voices on the training questions, then their selector's weight, k and λ on the held-out ones.

    The selector's weight is the smallest whose loss is within one standard error of the best: its best step and its
    temperature were chosen on the same questions, which overrates it there.

    Returns:
        What was found, for the card.
    """
    contexts = load_contexts(prepared / "context.json")
    titles = json.loads((prepared / "articles.json").read_text("utf-8"))
    known = {
        source: Voices([one.text for one, title in zip(contexts, titles, strict=True) if (title is None) == cmrc])
        for source, cmrc in (("DRCD", False), ("CMRC 2018", True))
    }

    def table(kind: str, example: QAExample) -> Any:
        corpus = known.get(kind, known["DRCD"])
        return corpus.table(example.question, [context.text for context in example.contexts])

    taught = [(kind, one) for kind, examples in variants(prepared, "train").items() for one in examples]
    weights = fit_logit(
        [table(kind, one) for kind, one in taught],
        [_relevant(one) for _, one in taught],
        [IMPORTANCE[kind] for kind, _ in taught],
    )
    asked = {kind: examples for kind, examples in variants(prepared, "dev").items() if examples}
    held = [(kind, one) for kind, examples in asked.items() for one in examples]
    sums = [table(kind, one) @ weights for kind, one in held]
    parts = {task: load_exported(output / task) for task in TASKS}
    found = make_engine(parts["select"]).predict(parts["select"].task("select"), [one for _, one in held])
    logits = [np.asarray(one.scores) for one in found]
    right = [_relevant(one) for _, one in held]
    rows = list(zip(sums, logits, right, strict=True))
    losses = np.array([[-log_softmax(own + b * other)[place] for own, other, place in rows] for b in SELECTOR])
    groups = np.unique([one.id for _, one in held], return_inverse=True)[1]
    chosen, likeliest = least_within_error(losses, groups)
    record: dict[str, Any] = {
        "fitted_on": {kind: sum(one == kind for one, _ in taught) for kind in IMPORTANCE},
        "importance": IMPORTANCE,
        "ridge": RIDGE,
        "selector_fitted_on": {kind: len(examples) for kind, examples in asked.items()},
        "selector_likeliest": SELECTOR[likeliest],
        "held_out": {},
    }
    for kind in asked:
        of_kind = np.array([one == kind for one, _ in held])
        record["held_out"][kind] = {"selector": _accuracy(logits, right, of_kind)} | {
            f"voices + {b:g} selector": _accuracy(
                [own + b * other for own, other in zip(sums, logits, strict=True)], right, of_kind
            )
            for b in sorted({0.0, SELECTOR[chosen], SELECTOR[likeliest]})
        }
    fitted = Weights(tuple(weights.tolist()), SELECTOR[chosen])
    about = {name: record[name] for name in ("fitted_on", "selector_fitted_on", "selector_likeliest")}
    about |= {"date": time.strftime("%Y-%m-%d", time.gmtime()), "zhaiju": version("zhaiju")}
    fitted.save(output / "select", about)

    answerer = make_asker(parts["read"], parts["select"], None, None).answerer
    answerer.lexical = voices_of(
        [one for one, title in zip(contexts, titles, strict=True) if title is not None], fitted
    )
    dev = list(read_qa(prepared / "dev.json", contexts=contexts))
    joint, grid = answerer.fit(dev, base=Joint(lexical=1.0, selector=fitted.selector))
    best = next(entry for entry in grid if (entry["k"], entry["weight"]) == (joint.k, joint.weight))
    about = {"fitted_on": "held-out questions", "count": len(dev), "em": best["em"], "f1": best["f1"]}
    save_joint(str(output / "read"), str(output / "select"), joint, about, voices=True)
    record["weights"] = dict(zip(VOICES, fitted.voices, strict=True))
    record["joint"] = {"k": joint.k, "weight": joint.weight, "lexical": joint.lexical, "selector": joint.selector}
    record["joint"] |= about
    return record


def least_within_error(losses: Any, groups: Any) -> tuple[int, int]:
    """The one-standard-error rule (Breiman et al., 1984).

    Args:
        losses: float64 [settings, rows], settings in order.
        groups: int64 [rows]; rows of one group are one observation.

    Returns:
        The first setting whose mean loss is within one standard error (of the difference) of the best, and the best.
    """
    best = int(losses.mean(1).argmin())
    for place, row in enumerate(losses):
        gap = row - losses[best]
        error = np.sqrt((np.bincount(groups, gap - gap.mean()) ** 2).sum()) / len(gap)
        if gap.mean() <= error:
            return place, best
    raise AssertionError("the best is within any error of itself")


def _relevant(example: QAExample) -> int:
    assert example.relevant is not None
    return example.relevant


def _accuracy(scores: Sequence[Any], right: Sequence[int], wanted: Any) -> float:
    hits = [int(np.argmax(row)) == place for row, place in zip(scores, right, strict=True)]
    return float(np.asarray(hits)[wanted].mean())


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


class _Remembered:
    """An engine that was asked already: gives for each example the prediction of the same id."""

    def __init__(self, predictions: Sequence[SelectPrediction]) -> None:
        self.predictions = {one.id: one for one in predictions}

    def predict(self, task: Any, examples: Sequence[QAExample]) -> Iterator[SelectPrediction]:
        return (self.predictions[example.id] for example in examples)


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
    predictions = {}
    for task in TASKS:
        figures[task], predictions[task] = evaluate(engines[task], parts[task].task(task), public)
    weights = Weights.load(output / "select")
    where = str(output / "read"), str(output / "select")
    joint, with_voices = load_joint(*where), load_joint(*where, voices=True)
    trust = Trust.load(output / "read")
    assert weights is not None
    assert joint is not None
    assert with_voices is not None
    assert trust is not None
    right = [_relevant(example) for example in public]
    for name, lexical, weighed, mixed in (
        ("bm25", scores_of(contexts), joint, "mix_bm25"),
        ("voices", voices_of(contexts, weights), with_voices, "mix"),
    ):
        rows = [lexical(example) for example in public]
        best_two = [
            place in np.argsort(-np.asarray(row), kind="stable")[:2] for row, place in zip(rows, right, strict=True)
        ]
        both = [mix(*three, weighed).index for three in zip(public, predictions["select"], rows, strict=True)]
        figures[name] = {"accuracy": _accuracy(rows, right, slice(None)), "best_two": float(np.mean(best_two))}
        figures[mixed] = {"accuracy": float(np.mean(np.equal(both, right)))}
    answerer = make_asker(parts["read"], parts["select"], with_voices, None).answerer
    answerer.lexical = lexical
    answerer.selector = cast(Engine, _Remembered(predictions["select"]))
    answers = list(answerer.predict(public))
    scores = [course(one.answer, example.gold) for example, one in zip(public, answers, strict=True)]
    figures["answer"] = {"em": float(np.mean(scores, 0)[0]), "f1": float(np.mean(scores, 0)[1])}
    _, exact, confidence = examine(make_asker(parts["read"], parts["select"], joint, trust), public, contexts)
    kept = confidence >= trust.threshold
    count = len(public)
    figures["abstention"] = {
        "right_of_all": float(exact[:count].mean()),
        "right_kept": float(kept[:count][exact[:count]].mean()),
        "abstained_without": float(1 - kept[count:].mean()),
        "ece": expected_calibration_error(confidence, exact),
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
    voiced = fitted["voices"]
    told = ", ".join(f"{kind}: {count:,}" for kind, count in voiced["fitted_on"].items())
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

`answer`, which is given candidates and all their paragraphs, weighs the selector against eleven *voices*, rules that
count what question and paragraph share (`zhaiju.corpus.voices`); `ask` against BM25, which its search has at hand. The
voices' weights come from the training questions: DRCD's with the candidates that they came with, with BM25's three
nearest and with those of the same article, CMRC 2018's with BM25's four nearest ({told}).
The selector's weight beside them, {voiced["joint"]["selector"]:g}, is the smallest whose likelihood on the held-out questions, with the same kinds
of candidates, is within one standard error of the best ({voiced["selector_likeliest"]:g}): the selector's step and temperature were chosen on the
same questions, which overrates it there.

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
| BM25 alone | accuracy {figures["bm25"]["accuracy"]:.4f}; the right one among its best two {figures["bm25"]["best_two"]:.4f} |
| voices alone | accuracy {figures["voices"]["accuracy"]:.4f}; the right one among their best two {figures["voices"]["best_two"]:.4f} |
| selector and BM25 (weight {fitted["joint"]["lexical"]:g}), as `ask` has it | accuracy {figures["mix_bm25"]["accuracy"]:.4f} |
| voices and selector (weight {voiced["joint"]["selector"]:g}), as `answer` has it | accuracy {figures["mix"]["accuracy"]:.4f} |
| both stages (k {voiced["joint"]["k"]}, λ {voiced["joint"]["weight"]:g}) | EM {figures["answer"]["em"]:.4f}, F1 {figures["answer"]["f1"]:.4f} |
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
    """Prepare, train, package, fit, weigh the voices, report; each part may be named alone."""
    parser = argparse.ArgumentParser(prog="train_starter", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--fold", type=int, nargs="+", choices=range(FOLDS), help="folds: only these")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--configs", type=Path, default=Path("configs"))
    parser.add_argument("--work", type=Path, default=Path("starter-work"), help="runs and prepared data")
    parser.add_argument("--output", type=Path, default=Path("src/zhaiju/starter"))
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    try:
        if wrong := [part for part in parts if part not in PARTS]:
            raise ConfigError(f"part {wrong[0]!r} is not one of {', '.join(PARTS)}")
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
        if "folds" in parts:
            for fold in options.fold or range(FOLDS):
                train_fold(fold, options.output, options.configs / "starter-select.toml", options.work)
        if "voices" in parts:
            began = time.perf_counter()
            record = json.loads((options.output / "fitted.json").read_text("utf-8"))
            record["voices"] = fit_voices(options.output, prepared)
            files.write_json(options.output / "fitted.json", record)
            ui.note(f"voices fitted in {time.perf_counter() - began:.0f} s")
        if "report" in parts:
            figures = report(options.output, options.data / "course")
            files.write_json(options.output / "figures.json", figures)
            files.write_text(options.output / "README.md", card(options.output, options.work))
    except ZhaijuError as error:
        ui.note(f"train_starter: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
