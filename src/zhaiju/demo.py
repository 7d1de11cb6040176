"""The demo behind `make demo`: train on the project's own sample, then answer questions nobody trained on.

Two small models are trained from random weights on 52 paragraphs and 260 questions; the 60 questions that are
answered belong to 12 other paragraphs. A run that is there already is used as it is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from zhaiju import ui
from zhaiju.config import TrainSettings
from zhaiju.errors import ZhaijuError

RUN = Path("demo-run")
SHOWN = 8
SELECT = TrainSettings(
    scratch=True,
    layers=2,
    hidden=128,
    heads=2,
    intermediate=512,
    vocabulary="characters",
    match_types=True,
    script="simplified",
    window=256,
    lr=1e-3,
    epochs=2,
    batch_tokens=8192,
)
READ = replace(
    SELECT,
    window=80,  # about a sentence beside the question
    overlap=20,
    max_answer_chars=20,
    epochs=20,
    batch_tokens=4096,
    eval_every=10_000,  # at the end only: EM on 30 held-out questions is too coarse to choose a step by
)


def main() -> None:
    """Train if needed, answer, compare."""
    try:
        with as_file(files("zhaiju.starter") / "sample") as sample:
            demo(sample, RUN)
    except ZhaijuError as error:
        ui.note(f"zhaiju: {error}")
        sys.exit(2)


def demo(sample: Path, run: Path) -> dict[str, dict[str, float]]:
    """Run the demo.

    Args:
        sample: Folder with context.json, train.json and held_out.json in the course layout.
        run: Folder for the two runs.

    Returns:
        The figures of the last table: for each way its `accuracy`, `em` and `f1`.
    """
    from zhaiju.data.formats import load_contexts, read_qa
    from zhaiju.inference.answer import Answerer
    from zhaiju.inference.engine import make_engine
    from zhaiju.modeling.checkpoint import load

    began = time.perf_counter()
    for task, settings in {"select": SELECT, "read": READ}.items():
        _train(task, settings, sample, run / task)
    contexts = load_contexts(sample / "context.json")
    examples = list(read_qa(sample / "held_out.json", contexts=contexts))
    reading, selecting = load(run / "read", "read"), load(run / "select", "select")
    answerer = Answerer(
        make_engine(reading),
        make_engine(selecting),
        read_task=reading.task("read"),
        select_task=selecting.task("select"),
    )
    predictions = list(answerer.predict(examples))
    out = ui.console()
    out.print(f"\nHeld-out questions, {SHOWN} of {len(examples)}:\n", style="bold")
    for place in range(0, len(examples), len(examples) // SHOWN)[:SHOWN]:
        example, prediction = examples[place], predictions[place]
        right = "right" if prediction.answer in example.gold else f"expected {example.gold[0]}"
        out.print(f"問  {example.question}", style="bold")
        out.print(ui.quote(example.contexts[prediction.index].text, prediction))
        out.print(f"    paragraph {prediction.source}, confidence {prediction.score:.1%}, {right}\n", style="dim")
    table = compare(examples, predictions, [context.text for context in contexts])
    ui.table(
        f"{len(examples)} held-out questions",
        ["", "paragraph right", "EM", "F1"],
        [[name, *(f"{value:.3f}" for value in row.values())] for name, row in table.items()],
    )
    out.print(f"\n{time.perf_counter() - began:.0f} seconds in all. The runs are in {run}/; the files in {sample}.")
    return table


def compare(examples: Sequence, predictions: Sequence, texts: Sequence[str]) -> dict[str, dict[str, float]]:  # type: ignore[type-arg]
    """Our answers beside two yardsticks on the same questions.

    BM25 takes the paragraph and then the sentence that share most with the question; chance takes the mean over all
    candidates and all sentences in them. A sentence is the finest thing that either can quote.
    """
    from zhaiju.corpus.lexical import BM25, sentences
    from zhaiju.tasks.metrics import course

    index = BM25(texts)
    place = {text: number for number, text in enumerate(texts)}
    rows: dict[str, list[tuple[float, float, float]]] = {"zhaiju": [], "BM25 (best sentence)": [], "chance": []}
    for example, prediction in zip(examples, predictions, strict=True):
        rows["zhaiju"].append((prediction.index == example.relevant, *course(prediction.answer, example.gold)))
        candidates = [context.text for context in example.contexts]
        scores = index.scores(example.question, [place[text] for text in candidates])
        chosen = int(scores.argmax())
        parts = sentences(candidates[chosen])
        best = int(BM25(parts).scores(example.question).argmax())
        rows["BM25 (best sentence)"].append((chosen == example.relevant, *course(parts[best], example.gold)))
        guesses = [course(part, example.gold) for text in candidates for part in sentences(text)]
        em, f1 = (sum(column) / len(guesses) for column in zip(*guesses, strict=True))
        rows["chance"].append((1 / len(candidates), em, f1))
    return {
        name: dict(
            zip(
                ("accuracy", "em", "f1"),
                (sum(column) / len(values) for column in zip(*values, strict=True)),
                strict=True,
            )
        )
        for name, values in rows.items()
    }


def _train(name: str, settings: TrainSettings, sample: Path, run: Path) -> None:
    if (run / "README.md").is_file() and json.loads((run / "environment.json").read_text("utf-8"))["task"] == name:
        ui.note(f"{name}: trained already, in {run}")
        return
    from zhaiju.training import run as training
    from zhaiju.training.loop import Event, Started, Stepped

    data = training.load_train_data(
        name, [sample / "train.json"], context=sample / "context.json", seed=settings.split_seed
    )
    with ui.progress(f"training {name} from random weights", None) as advance:

        def on_event(event: Event) -> None:
            if isinstance(event, Started):
                advance(event.step, total=event.steps)
            elif isinstance(event, Stepped):
                advance(1, note=f"loss {event.loss:.2f}")

        result = training.train(name, settings, data, run, on_event=on_event)
    if not result.finished:
        ui.note(f"stopped after step {result.step}, saved; make demo goes on from there")
        sys.exit(130)


if __name__ == "__main__":
    main()
