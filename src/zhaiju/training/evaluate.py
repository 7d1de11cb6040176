"""Engine and score joined: the figures of a checkpoint on labelled data."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import QAExample, ReadPrediction
from zhaiju.inference.engine import Engine, Progress
from zhaiju.tasks import ReadTask
from zhaiju.tasks.base import Task
from zhaiju.tasks.calibration import expected_calibration_error
from zhaiju.tasks.metrics import OUTCOMES, load_words, outcome
from zhaiju.tasks.tagging import confusions, intent_table, slot_table

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
        encoding: For read: also tell why each answer is right or wrong; its windows say whether one was lost to them.
    """

    def __init__(self, task: Task[Any, Any], encoding: Encoding | None = None) -> None:
        self.task = task
        self.encoding = encoding
        self.examples: list[Any] = []
        self.predictions: list[Any] = []
        self._outcomes: Counter[str] = Counter()
        if isinstance(task, ReadTask):
            load_words()

    def add(self, example: Any, prediction: Any) -> str | None:
        """Take an example and its prediction in.

        Returns:
            One of `OUTCOMES` where that was asked for.
        """
        self.examples.append(example.bare())
        self.predictions.append(prediction.bare())
        if self.encoding is None or not isinstance(self.task, ReadTask):
            return None
        kind = _outcome(example, prediction, self.encoding, self.task.max_answer_chars or None)
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
        if self.encoding is None or not isinstance(self.task, ReadTask):
            return {}
        return {kind.replace(" ", "_"): self._outcomes[kind] for kind in OUTCOMES}


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


def _outcome(example: QAExample, prediction: ReadPrediction, encoding: Encoding, max_answer_chars: int | None) -> str:
    held = not example.answers or any(
        window.start <= span.start and span.end <= window.end
        for window in encoding.windows(example.question, example.context.text)
        for span in example.answers
    )
    return outcome(example, prediction, held=held, max_answer_chars=max_answer_chars)


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
