"""Engine and score joined: the figures of a checkpoint on labelled data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from zhaiju.data.examples import QAExample, ReadPrediction
from zhaiju.inference.engine import Engine, Progress
from zhaiju.tasks.base import Task
from zhaiju.tasks.metrics import OUTCOMES, outcome


def evaluate(
    engine: Engine, task: Task[Any, Any], examples: Sequence[Any], *, progress: Progress | None = None
) -> tuple[dict[str, float], list[Any]]:
    """Predict all examples and score them.

    Returns:
        The task's figures, and the predictions in the examples' order.
    """
    predictions = list(engine.predict(task, examples, progress=progress))
    return task.score(examples, predictions), predictions


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
