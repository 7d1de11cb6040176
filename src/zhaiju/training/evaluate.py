"""Engine and score joined: the figures of a checkpoint on labelled data."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from zhaiju.data.encoding import Encoding
from zhaiju.inference.engine import Engine, Progress
from zhaiju.tasks.base import Task
from zhaiju.tasks.calibration import expected_calibration_error
from zhaiju.tasks.metrics import load_words

if TYPE_CHECKING:
    from zhaiju.training.processes import Processes


def together(predict: Callable[[Iterable[Any]], Iterator[Any]], examples: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each example with its prediction, as they come; only those that were read ahead are held.

    Args:
        predict: Gives a prediction for each example, in order, as `Engine.predict` and `Answerer.predict` do.
        examples: Read lazily.
    """
    ahead: deque[Any] = deque()

    def read() -> Iterator[Any]:
        for example in examples:
            ahead.append(example)
            yield example

    for prediction in predict(read()):
        yield ahead.popleft(), prediction


class Tally:
    """What scoring needs of examples and predictions, gathered as they come: no paragraph, no n-best list.

    Args:
        task: Their task.
        encoding: Also tell why each answer is right or wrong, where the task does; windows say if one was lost to them.
    """

    def __init__(self, task: Task[Any, Any], encoding: Encoding | None = None) -> None:
        self.task = task
        self.encoding = encoding
        self.examples: list[Any] = []
        self.predictions: list[Any] = []
        self._outcomes: Counter[str] = Counter()
        if task.outcomes:
            load_words()

    def add(self, example: Any, prediction: Any) -> str | None:
        """Take an example and its prediction in.

        Returns:
            One of the task's `outcomes` where that was asked for.

        Raises:
            DataError: the example has no gold.
        """
        self.task.require(example)
        self.examples.append(example.bare())
        self.predictions.append(prediction.bare())
        kind = None if self.encoding is None else self.task.outcome(example, prediction, self.encoding)
        if kind is not None:
            self._outcomes[kind] += 1
        return kind

    def report(self, threshold: float | None = None) -> dict[str, float]:
        """The task's figures and `ece` (expected calibration error); see `evaluate` about the threshold.

        Raises:
            DataError: an example has no gold.
        """
        report = self.task.score(self.examples, self.predictions)
        judgement = self.task.judge(self.examples, self.predictions)
        report["ece"] = expected_calibration_error(judgement.confidence, judgement.correct)
        if threshold is not None:
            answered = judgement.confidence >= threshold
            report["threshold"] = threshold
            report["coverage"] = float(answered.mean()) if len(answered) else 0.0
            report["selective_accuracy"] = float(judgement.correct[answered].mean()) if answered.any() else 0.0
        return report

    def outcomes(self) -> dict[str, int]:
        """How many answers there were of each kind; nothing where that was not asked for."""
        if self.encoding is None:
            return {}
        return {kind.replace(" ", "_"): self._outcomes[kind] for kind in self.task.outcomes}


def evaluate(
    engine: Engine,
    task: Task[Any, Any],
    examples: Iterable[Any],
    *,
    threshold: float | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> tuple[dict[str, float], list[Any]]:
    """Predict all examples and score them.

    Args:
        engine: Of the checkpoint.
        task: Its task.
        examples: Labelled.
        threshold: Also say what remains when only what is at least as sure is answered.
        progress: Called with the number of examples done since the last call.
        processes: Those that each predict their share of the examples, a list; all of them get the figures of all.

    Returns:
        The task's figures, `ece` (expected calibration error) and, with a threshold, `coverage` and
        `selective_accuracy`, the share answered and how much of that is right; and what scoring needed of the
        predictions, in the examples' order.
    """
    tally = Tally(task)
    ours = examples if processes is None else processes.share(list(examples))
    for example, prediction in together(partial(engine.predict, task, progress=progress), ours):
        tally.add(example, prediction)
    if processes is not None:
        tally.examples = processes.together(tally.examples)
        tally.predictions = processes.together(tally.predictions)
    return tally.report(threshold), tally.predictions
