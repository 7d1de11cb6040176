"""How the packaged starter models are made: `scripts/train_starter`.

What is fitted after the training (temperatures, the weights of selector, BM25 and reader, the judge of answers) is
fitted on the questions held out of it; the weights of the voices, which have nothing to learn by heart, on the training
questions. The selector's weight beside the voices is fitted on training questions too, asked of selectors that were
trained without them: `train_fold`, `likeliest`. `public.json` is only ever used to report figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

from zhaiju import files, ui
from zhaiju.config import load_settings
from zhaiju.corpus.ask import Asker, Paragraphs, Trust, make_asker
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.lexical import scores_of
from zhaiju.corpus.voices import RIDGE, VOICES, Floats, Voices, Weights, voices_of
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
from zhaiju.training.evaluate import Tally
from zhaiju.training.loop import Evaluated, Event, Started, Stepped

PARTS = ("prepare", "select", "read", "package", "folds", "voices", "report")
TASKS = ("select", "read")
WINDOWS = {"select": (256, 32), "read": (170, 40)}  # tokens and overlap at use; see the lab notes
LOGITS_FILE = "logits.json"
AGREE = 1e-3  # largest difference of logits between PyTorch and the graph
KEEP = 0.97  # share of right answers on the held-out questions that the threshold lets through
RISK = 0.5
IMPORTANCE = {"given": 1.0, "nearest": 1.0, "same article": 1.0, "CMRC 2018": 0.5}  # of a question, for the voices
SELECTOR = (*(place / 20 for place in range(21)), 1.25, 1.5, 2.0)  # its weights to choose from, beside the voices
TRAINED = (0, 1, 2)  # folds that a selector is trained without; settled before the first was asked


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
    counts = prepare_fold(work / "data", folder / "data", fold)
    made = _made_as(output, folder)
    if (folder / LOGITS_FILE).is_file() and _fold_logits(output, folder):
        ui.note(f"fold {fold}: done already")
        return
    ui.note(f"fold {fold}: {json.dumps(counts)}")
    run = folder / "select"
    train("select", config, folder / "data", run, steps=made["steps"], until=made["step"])
    selector = package("select", run / "last", folder / "packaged")
    asked = fold_questions(work / "data", fold)
    engine, task = make_engine(selector), selector.task("select")  # not calibrated: its temperature is 1
    with ui.progress(f"asking without fold {fold}", sum(map(len, asked.values()))) as advance:
        logits = {
            kind: {one.id: list(one.scores) for one in engine.predict(task, examples, progress=advance)}
            for kind, examples in asked.items()
        }
    seconds = sum(entry["seconds"] for entry in training.read_metrics(run) if entry["event"] == "step")
    files.write_json(folder / LOGITS_FILE, {"made": made, "seconds": round(seconds), "logits": logits})


def _made_as(output: Path, folder: Path) -> dict[str, Any]:
    """What a fold's selector is made as: the packaged one's schedule, the fold's data."""
    like = json.loads((output / "fitted.json").read_text("utf-8"))["runs"]["select"]
    data = files.fingerprint(folder / "data" / "train.json")
    return {"steps": like["steps"], "step": like["best_step"], "train": data}


def _fold_logits(output: Path, folder: Path) -> dict[str, dict[str, list[float]]]:
    """A fold's logits by kind of candidates and question.

    Raises:
        ConfigError: there are none, or they were made otherwise than the packaged selector.
    """
    if not (folder / LOGITS_FILE).is_file():
        raise ConfigError(f"{folder / LOGITS_FILE} is not there; `train_starter folds` makes it")
    there = json.loads((folder / LOGITS_FILE).read_text("utf-8"))
    made = _made_as(output, folder)
    if there["made"] != made:
        raise ConfigError(f"{folder} holds a selector made as {there['made']}, expected {made}; remove the folder")
    return cast(dict[str, dict[str, list[float]]], there["logits"])


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


@dataclass(frozen=True, slots=True)
class Row:
    """A question with some candidates, and what is said of them.

    Attributes:
        kind: Where the candidates are from, a key of `IMPORTANCE`.
        article: The article that answers it.
        voices: The weighted sum of the voices for each candidate.
        selector: The selector's logit for each, at the packaged selector's temperature.
        right: Which candidate is the right one.
    """

    kind: str
    article: str
    voices: Floats
    selector: Floats
    right: int


def likeliest(rows: Sequence[Row]) -> tuple[float, Floats]:
    """The selector's weight beside the voices, by stacking (Wolpert, 1992; van der Laan et al., 2007).

    The rule was fixed before any of its figures were seen, those of `public.json` among them: rows of folds, each asked
    of a selector and of voices that were made without the fold, at a step settled beforehand; all kinds of candidates
    that DRCD's questions have in `variants`, weighed with `IMPORTANCE`; of the weights in `SELECTOR` the one with the
    least sum of negative log-likelihoods over all folds. Nothing that was chosen on these rows flatters the selector,
    so no allowance is made for it.

    Returns:
        The weight, and each row's weighed loss under each: float64 [len(SELECTOR), rows].
    """
    losses = np.array(
        [
            [-IMPORTANCE[row.kind] * log_softmax(row.voices + b * row.selector)[row.right] for row in rows]
            for b in SELECTOR
        ]
    )
    return SELECTOR[int(losses.sum(1).argmin())], losses


def gap(losses: Floats, others: Floats, articles: Sequence[str]) -> dict[str, float]:
    """How much larger the mean of some losses is than that of others, and its standard error.

    Args:
        losses: float64 [rows].
        others: float64 [rows].
        articles: Of each row; rows of one article are one observation, for they err together.
    """
    difference = losses - others
    groups = np.unique(articles, return_inverse=True)[1]
    error = np.sqrt((np.bincount(groups, difference - difference.mean()) ** 2).sum()) / len(difference)
    return {"gap": float(difference.mean()), "error": float(error)}


def fit_voices(output: Path, work: Path) -> dict[str, Any]:
    """Fit the voices on the training questions, their selector's weight on the folds', k and λ on the held-out ones.

    Returns:
        What was found, for the card.

    Raises:
        ConfigError: a fold's logits are missing, or are not what `train_fold` would make.
    """
    prepared = work / "data"
    titles = json.loads((prepared / "articles.json").read_text("utf-8"))
    contexts = load_contexts(prepared / "context.json")
    drcd = [one for one, title in zip(contexts, titles, strict=True) if title is not None]
    article = dict(zip((one.text for one in contexts), titles, strict=True))
    counted = Voices([one.text for one in drcd])
    parts = {task: load_exported(output / task) for task in TASKS}
    select = parts["select"].task("select")

    def rows(asked: dict[str, list[QAExample]], logits: dict[str, list[Any]], weights: Floats) -> list[Row]:
        return [
            Row(
                kind,
                article[one.context.text],
                counted.table(one.question, [context.text for context in one.contexts]) @ weights,
                np.asarray(scores, dtype=np.float64),
                _relevant(one),
            )
            for kind, examples in asked.items()
            for one, scores in zip(examples, logits[kind], strict=True)
        ]

    stacked: list[Row] = []
    with ui.progress("voices without each fold", len(TRAINED)) as advance:
        for fold in TRAINED:
            folder = work / "folds" / str(fold)
            found, asked = _fold_logits(output, folder), fold_questions(prepared, fold)
            tempered = {
                kind: [np.asarray(found[kind][one.id]) / parts["select"].meta.temperature for one in examples]
                for kind, examples in asked.items()
            }
            stacked += rows(asked, tempered, taught_voices(folder / "data")[0])
            advance(1)
    selector, losses = likeliest(stacked)
    weights, fitted_on = taught_voices(prepared)
    held = {kind: examples for kind, examples in variants(prepared, "dev").items() if examples}
    engine = make_engine(parts["select"])
    own = {kind: [one.scores for one in engine.predict(select, examples)] for kind, examples in held.items()}
    flattered = rows(held, own, weights)
    theirs, _ = likeliest(flattered)
    fitted = Weights(tuple(weights.tolist()), selector)
    best, articles = losses[SELECTOR.index(selector)], [row.article for row in stacked]
    record: dict[str, Any] = {
        "fitted_on": fitted_on,
        "importance": IMPORTANCE,
        "ridge": RIDGE,
        "folds": list(TRAINED),
        "selector_fitted_on": {kind: sum(row.kind == kind for row in stacked) for kind in asked},
        "losses": {f"{b:g}": float(row.mean()) for b, row in zip(SELECTOR, losses, strict=True)},
        "beside_best": {f"{b:g}": gap(row, best, articles) for b, row in zip(SELECTOR, losses, strict=True)},
        "out_of_fold": _accuracies(stacked, [0.0, selector]),
        "held_out_likeliest": theirs,
        "held_out": _accuracies(flattered, sorted({0.0, selector, theirs})),
    }
    about = {name: record[name] for name in ("fitted_on", "folds", "selector_fitted_on")}
    about |= {"date": time.strftime("%Y-%m-%d", time.gmtime()), "zhaiju": version("zhaiju")}
    fitted.save(output / "select", about)

    answerer = make_asker(parts["read"], parts["select"], None, None).answerer
    answerer.lexical = voices_of(drcd, fitted)
    dev = list(read_qa(prepared / "dev.json", contexts=contexts))
    joint, grid = answerer.fit(dev, base=Joint(lexical=1.0, selector=selector))
    chosen = next(entry for entry in grid if (entry["k"], entry["weight"]) == (joint.k, joint.weight))
    about = {"fitted_on": "held-out questions", "count": len(dev), "em": chosen["em"], "f1": chosen["f1"]}
    save_joint(str(output / "read"), str(output / "select"), joint, about, voices=True)
    record["weights"] = dict(zip(VOICES, fitted.voices, strict=True))
    record["joint"] = {"k": joint.k, "weight": joint.weight, "lexical": joint.lexical, "selector": joint.selector}
    record["joint"] |= about
    return record


def taught_voices(prepared: Path) -> tuple[Floats, dict[str, int]]:
    """The voices' weights, fitted on the training questions of a folder, and how many there are of each kind."""
    contexts = load_contexts(prepared / "context.json")
    titles = json.loads((prepared / "articles.json").read_text("utf-8"))
    known = {
        cmrc: Voices([one.text for one, title in zip(contexts, titles, strict=True) if (title is None) == cmrc])
        for cmrc in (False, True)
    }
    taught = [(kind, one) for kind, examples in variants(prepared, "train").items() for one in examples]
    weights = fit_logit(
        [known[kind == "CMRC 2018"].table(one.question, [two.text for two in one.contexts]) for kind, one in taught],
        [_relevant(one) for _, one in taught],
        [IMPORTANCE[kind] for kind, _ in taught],
    )
    return weights, {kind: sum(one == kind for one, _ in taught) for kind in IMPORTANCE}


def _accuracies(rows: Sequence[Row], weights: Sequence[float]) -> dict[str, dict[str, float]]:
    """By kind of candidates: the accuracy of the selector, and of the voices with it at each weight."""
    result: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == kind]
        right = [row.right for row in of_kind]
        result[kind] = {"selector": _accuracy([row.selector for row in of_kind], right)} | {
            f"voices + {b:g} selector": _accuracy([row.voices + b * row.selector for row in of_kind], right)
            for b in weights
        }
    return result


def _relevant(example: QAExample) -> int:
    assert example.relevant is not None
    return example.relevant


def _accuracy(scores: Sequence[Any], right: Sequence[int]) -> float:
    return float(np.mean([int(np.argmax(row)) == place for row, place in zip(scores, right, strict=True)]))


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
    for name in TASKS:
        task = parts[name].task(name)
        predictions[name] = list(engines[name].predict(task, public))
        tally = Tally(task)
        for example, prediction in zip(public, predictions[name], strict=True):
            tally.add(example, prediction)
        figures[name] = tally.report()
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
        figures[name] = {"accuracy": _accuracy(rows, right), "best_two": float(np.mean(best_two))}
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


def ran(work: Path) -> dict[str, Any]:
    """What the card tells of the two trainings and of the data that they had, from their runs."""
    told: dict[str, Any] = {"runs": {}, "prepared": {}}
    for task in TASKS:
        about = json.loads((work / task / "environment.json").read_text("utf-8"))
        events = list(training.read_metrics(work / task))
        steps = [entry for entry in events if entry["event"] == "step"]
        best = max(
            (entry for entry in events if entry["event"] == "evaluate"),
            key=lambda entry: entry[{"select": "accuracy", "read": "em"}[task]],
        )
        told["runs"][task] = {
            "steps": len(steps),
            "best_step": best["step"],
            "hours": round(sum(entry["seconds"] for entry in steps) / 3600, 2),
            "seed": about["seed"],
            "date": about["date"][:10],
            "machine": about["machine"],
            "torch": about["libraries"]["torch"],
        }
        told["prepared"] |= {one["role"]: {"rows": one["count"], "sha256": one["sha256"]} for one in about["data"]}
    return told


def card(output: Path) -> str:
    """The model card, from what is kept of the runs, and of what was fitted and measured."""
    fitted, figures = (json.loads((output / name).read_text("utf-8")) for name in ("fitted.json", "figures.json"))
    runs = fitted["runs"]
    rows = []
    for task, told in runs.items():
        weights = load_exported(output / task)
        size = (output / task / "model.safetensors").stat().st_size
        rows.append(
            f"| {task} | {size / 1e6:.1f} MB | {told['steps']:,} | {told['best_step']:,} | {told['hours']:.2f} | "
            f"{weights.encoding.window} | {told['seed']} |"
        )
    sources = "\n".join(
        f"| {role} | {entry['rows']:,} | `{entry['sha256']}` |" for role, entry in fitted["prepared"].items()
    )
    originals = "\n".join(f"| {name} | `{digest}` |" for name, digest in fitted["sources"].items())
    voiced = fitted["voices"]
    told = ", ".join(f"{kind}: {count:,}" for kind, count in voiced["fitted_on"].items())
    stacked = ", ".join(f"{kind}: {count:,}" for kind, count in voiced["selector_fitted_on"].items())
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

Trained {runs["read"]["date"]} on {runs["read"]["machine"]}, torch {runs["read"]["torch"]}, by `scripts/train_starter`,
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
The selector's weight beside them, {voiced["joint"]["selector"]:g}, is the likeliest for training questions that were asked of other selectors
({stacked}), by stacking (Wolpert, 1992): {len(voiced["folds"])} selectors were trained
just as this one and stopped at its best step, each without a fifth of DRCD's articles' questions and without the
paragraphs that answer these. They know of their questions what this one knows of `public.json`.

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
    """Prepare, train, package, fit, train without folds, weigh the voices, report; each part may be named alone."""
    parser = argparse.ArgumentParser(prog="train_starter", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--fold", type=int, nargs="+", choices=range(FOLDS), help=f"folds: these; default: {TRAINED}")
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
            record = fit(options.output, prepared) | ran(options.work) | counts | {"zhaiju": version("zhaiju")}
            files.write_json(options.output / "fitted.json", record)
            ui.note(f"packaged and fitted in {time.perf_counter() - began:.0f} s")
        if "folds" in parts:
            for fold in options.fold or TRAINED:
                train_fold(fold, options.output, options.configs / "starter-select.toml", options.work)
        if "voices" in parts:
            began = time.perf_counter()
            record = json.loads((options.output / "fitted.json").read_text("utf-8"))
            record["voices"] = fit_voices(options.output, options.work)
            files.write_json(options.output / "fitted.json", record)
            ui.note(f"voices fitted in {time.perf_counter() - began:.0f} s")
        if "report" in parts:
            figures = report(options.output, options.data / "course")
            files.write_json(options.output / "figures.json", figures)
            files.write_text(options.output / "README.md", card(options.output))
    except ZhaijuError as error:
        ui.note(f"train_starter: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
