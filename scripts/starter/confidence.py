"""Fit what tells how sure a packaged reader is.

    python scripts/starter/confidence.py questions.json --context context.json

On questions that the reader was not trained on: its temperature and threshold, as `zhaiju calibrate` does, and then the
judge of its answers (`zhaiju.corpus.confidence.ConfidenceModel`). For the judge each question is asked of all
paragraphs, and of all but those that hold the answer, where whatever is quoted is wrong. Both are kept in the reader's
directory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju import ui
from zhaiju.corpus.ask import CANDIDATES, Hit, Paragraphs
from zhaiju.corpus.confidence import CONFIDENCE_FILE, FEATURES, ConfidenceModel, features_of
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.joined import join_up
from zhaiju.data.examples import QAExample, asked_of
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.inference.answer import Answerer
from zhaiju.inference.calibrate import calibrate
from zhaiju.inference.engine import Engine, make_engine
from zhaiju.modeling.checkpoint import Checkpoint, load, load_exported, save_calibration
from zhaiju.tasks.calibration import expected_calibration_error
from zhaiju.tasks.metrics import course

KEEP = 0.97  # share of right answers that the threshold lets through
RISK = 0.5


class _Without:
    """Paragraphs without one of them."""

    def __init__(self, paragraphs: Paragraphs, text: str) -> None:
        self.paragraphs = paragraphs
        self.text = text

    def search(self, question: str, k: int) -> list[Hit]:
        return [hit for hit in self.paragraphs.search(question, k + 1) if hit.paragraph.text != self.text][:k]


def examine(
    answerer: Answerer, examples: Sequence[QAExample], texts: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Ask every question twice: of all paragraphs, and of all but the one that holds the answer.

    Returns:
        Features float64 [2N, features], zeros where nothing was found, whether the quote is exactly right bool [2N]
        (never in the second half), and confidences float64 [2N].
    """
    whole = Paragraphs([Paragraph(text, "corpus", number=place) for place, text in enumerate(texts)])
    rows, right, confidence = [], [], []
    with ui.progress("asking", 2 * len(examples)) as advance:
        for there in (True, False):
            for example in examples:
                source = whole if there else _Without(whole, example.context.text)
                found = [hit.paragraph.text for hit in source.search(example.question, CANDIDATES)]
                advance(1)
                if not found:
                    rows.append((0.0,) * len(FEATURES))
                    right.append(False)
                    confidence.append(0.0)
                    continue
                (answered,) = answerer.answers([asked_of(example.id, example.question, found)])
                answer = answered.prediction
                logit = answered.selected.scores[answer.index]
                rows.append(features_of(example.question, found[answer.index], logit, answer))
                right.append(there and course(answer.answer, example.gold)[0] == 1)
                confidence.append(answer.confidence or 0.0)
    return np.array(rows), np.array(right), np.array(confidence)


def figures(answerer: Answerer, examples: Sequence[QAExample], texts: Sequence[str]) -> dict[str, Any]:
    """What the judge is worth on questions."""
    _, right, confidence = examine(answerer, examples, texts)
    count = len(examples)
    kept = confidence >= (answerer.threshold or 0.0)
    return {
        "questions": count,
        "threshold": answerer.threshold,
        "right_of_all": float(right[:count].mean()),
        "right_kept": float(kept[:count][right[:count]].mean()),
        "abstained_without": float(1 - kept[count:].mean()),
        "ece": expected_calibration_error(confidence, right),
    }


def open_reader(where: str, task: str) -> tuple[Engine, Checkpoint]:
    """A reader by its graph where it has one, as it is run when it is packaged."""
    reader = load_exported(where) if (Path(where) / "model.onnx").is_file() else load(where, task)
    return make_engine(reader), reader


def open_answerer(where: str) -> Answerer:
    """What answers with a reader, judged as was fitted so far."""
    answerer = join_up(open_reader, where).answerer
    answerer.confidence = ConfidenceModel.load(where)
    return answerer


def main() -> None:
    """Fit, keep, tell."""
    parser = argparse.ArgumentParser(prog="confidence.py", description=__doc__)
    parser.add_argument("questions", type=Path, help="labelled, unknown to the reader")
    parser.add_argument(
        "--context", type=Path, help="the paragraphs that rows point at; default: those of the questions"
    )
    parser.add_argument("--reader", type=Path, default=Path("src/zhaiju/starter/read"))
    parser.add_argument("--public", action="store_true", help="fit nothing, tell the figures on these questions")
    options = parser.parse_args()
    contexts = load_contexts(options.context) if options.context else None
    examples = [one for one in read_qa(options.questions, contexts=contexts) if one.answers]
    texts = [one.text for one in contexts or ()] or list(dict.fromkeys(one.context.text for one in examples))
    where = str(options.reader)
    if not options.public:
        engine, reader = open_reader(where, "read")
        calibration, _, _ = calibrate(engine, reader.task("read"), examples, risk=RISK)
        save_calibration(where, calibration.to_json())
        ui.note(json.dumps(calibration.to_json()))
        (options.reader / CONFIDENCE_FILE).unlink(missing_ok=True)
        features, right, _ = examine(open_answerer(where), examples, texts)
        ConfidenceModel.fit(features, right, keep=KEEP).save(where, {"questions": len(examples), "keep": KEEP})
    ui.note(json.dumps(figures(open_answerer(where), examples, texts), indent=2))


if __name__ == "__main__":
    main()
