"""Engine and score joined: the figures of a checkpoint on labelled data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from zhaiju.data.examples import QAExample, ReadPrediction
from zhaiju.inference.engine import Engine, Progress
from zhaiju.tasks.base import Task
from zhaiju.tasks.calibration import expected_calibration_error
from zhaiju.tasks.metrics import OUTCOMES, outcome
from zhaiju.tasks.tagging import confusions, intent_table, slot_table


def evaluate(
    engine: Engine,
    task: Task[Any, Any],
    examples: Sequence[Any],
    *,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, float], list[Any]]:
    """Predict all examples and score them.

    Args:
        engine: Of the checkpoint.
        task: Its task.
        examples: Labelled.
        threshold: Also say what remains when only what is at least as sure is answered.
        progress: Called with the number of examples done since the last call.

    Returns:
        The task's figures, `ece` (expected calibration error) and, with a threshold, `coverage` and
        `selective_accuracy`, the share answered and how much of that is right; and the predictions in the examples'
        order.
    """
    predictions = list(engine.predict(task, examples, progress=progress))
    report = task.score(examples, predictions)
    judgement = task.judge(examples, predictions)
    report["ece"] = expected_calibration_error(judgement.confidence, judgement.correct)
    if threshold is not None:
        answered = judgement.confidence >= threshold
        report["threshold"] = threshold
        report["coverage"] = float(answered.mean()) if len(answered) else 0.0
        report["selective_accuracy"] = float(judgement.correct[answered].mean()) if answered.any() else 0.0
    return report, predictions


def outcomes(
    examples: Sequence[QAExample],
    predictions: Sequence[ReadPrediction],
    *,
    engine: Engine,
    max_answer_chars: int | None,
) -> tuple[dict[str, int], list[str]]:
    """Why answers are right or wrong: how many of each kind, and the kind of each.

    Args:
        examples: With gold answers.
        predictions: In the same order.
        engine: The reader's; its windows tell whether an answer was lost to them.
        max_answer_chars: The cap in use.
    """
    kinds = []
    for example, prediction in zip(examples, predictions, strict=True):
        held = not example.answers or any(
            window.start <= span.start and span.end <= window.end
            for window in engine.encoding.windows(example.question, example.context.text)
            for span in example.answers
        )
        kinds.append(outcome(example, prediction, held=held, max_answer_chars=max_answer_chars))
    counts = Counter(kinds)
    return {name: counts[name] for name in OUTCOMES}, kinds


def tables(task: str, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows for each class (`classes`) and, for intent, the most frequent mistakes (`confusions`); else nothing."""
    if task == "intent":
        gold, found = [example.label for example in examples], [prediction.label for prediction in predictions]
        pairs = [{"gold": one, "predicted": other, "count": count} for one, other, count in confusions(gold, found)]
        return {"classes": [dict(row) for row in intent_table(gold, found)], "confusions": pairs}
    if task == "slots":
        return {
            "classes": [
                dict(row)
                for row in slot_table(
                    [example.tags for example in examples], [prediction.tags for prediction in predictions]
                )
            ]
        }
    return {}
