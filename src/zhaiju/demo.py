"""The demo behind `make demo`: the packaged starter models answer questions about the project's own sample texts.

Nothing is trained, and the models never saw these texts. 60 questions about 12 of 64 paragraphs: leases, recipes,
notices, made up for the purpose.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from zhaiju import ui
from zhaiju.errors import ZhaijuError

SHOWN = 8


def main() -> None:
    """Answer, compare, show what to try next."""
    try:
        with as_file(files("zhaiju.starter") / "sample") as sample:
            demo(sample)
    except ZhaijuError as error:
        ui.note(f"zhaiju: {error}")
        sys.exit(2)


def demo(sample: Path) -> dict[str, dict[str, float]]:
    """Run the demo.

    Args:
        sample: Folder with context.json and held_out.json in the course layout.

    Returns:
        The figures of the table: for each way its `accuracy`, `em` and `f1`.
    """
    from zhaiju.corpus.ask import load_asker
    from zhaiju.data.formats import load_contexts, read_qa

    began = time.perf_counter()
    contexts = load_contexts(sample / "context.json")
    examples = list(read_qa(sample / "held_out.json", contexts=contexts))
    predictions = list(load_asker().answerer.predict(examples))
    out = ui.console()
    out.print(f"\n{SHOWN} of {len(examples)} questions:\n", style="bold")
    for place in range(0, len(examples), len(examples) // SHOWN)[:SHOWN]:
        example, prediction = examples[place], predictions[place]
        right = "right" if prediction.answer in example.gold else f"expected {example.gold[0]}"
        out.print(f"問  {example.question}", style="bold")
        out.print(ui.quote(example.contexts[prediction.index].text, prediction))
        out.print(f"    paragraph {prediction.source}, confidence {prediction.score:.1%}, {right}\n", style="dim")
    table = compare(examples, predictions, [context.text for context in contexts])
    ui.table(
        f"{len(examples)} questions about texts that no model here was trained on",
        ["", "paragraph right", "EM", "F1"],
        [[name, *(f"{value:.3f}" for value in row.values())] for name, row in table.items()],
    )
    out.print(f"\n{time.perf_counter() - began:.1f} seconds in all. Now your own documents:\n")
    out.print('    .venv/bin/zhaiju ask "你的問題？" folder-or-files\n')
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


if __name__ == "__main__":
    main()
