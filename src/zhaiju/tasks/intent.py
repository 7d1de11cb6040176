"""intent: which of L classes is this utterance?

Sentence classification after Devlin et al. (2019). An utterance longer than the window is scored in several windows
whose logits are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from zhaiju.data.encoding import Encoding, Window
from zhaiju.data.examples import OUT_OF_SCOPE, IntentExample, IntentPrediction, LabelScore
from zhaiju.data.formats import ReadLog
from zhaiju.data.labelled import intent_example, read_intents
from zhaiju.errors import DataError
from zhaiju.tasks.base import Floats, Head, Item, Judgement, Task, log_softmax, mean_loss, means
from zhaiju.tasks.tagging import confusions, intent_report, intent_table


@dataclass(frozen=True)
class IntentTask(Task[IntentExample, IntentPrediction]):
    """Intent classification.

    Attributes:
        labels: The classes, in the order of the logits.
        n_best: How many classes a prediction lists.
        temperature: Logits are divided by it (see `zhaiju.tasks.calibration`).
    """

    labels: tuple[str, ...]
    n_best: int = 5
    temperature: float = 1.0

    name = "intent"
    unit = "utterance"
    head = Head("AutoModelForSequenceClassification", "labels")
    figures = ("accuracy",)
    fields = ("text",)
    probe: ClassVar = {"text": "a"}
    column = "intent"
    columns: ClassVar = {"id": "string", "label": "string", "score": "float64"}

    @classmethod
    def read(
        cls, path: Path, *, split: str | None = None, log: ReadLog | None = None, **_: Any
    ) -> Iterator[IntentExample]:
        """See `zhaiju.data.labelled.read_intents`."""
        return read_intents(path, split=split, log=log)

    @classmethod
    def example(cls, identity: str, row: Mapping[str, Any]) -> IntentExample:
        """An utterance, `text`, and its class, `intent`."""
        return intent_example(identity, row)

    @classmethod
    def missing(cls, example: IntentExample) -> str | None:
        """Its class."""
        return "intent" if example.label is None else None

    @classmethod
    def classes(cls, examples: Sequence[IntentExample]) -> tuple[str, ...]:
        """Those of the examples, sorted.

        Raises:
            DataError: an example has none.
        """
        return tuple(sorted(set(_gold(examples, "train on"))))

    def items(self, example: IntentExample, encoding: Encoding, generator: np.random.Generator) -> list[Item]:
        """One item, its windows judged together.

        Raises:
            DataError: the example has no class, or one that is not among `labels`.
        """
        if example.label is None:
            raise DataError("no intent to train on", row=example.id, field="intent")
        if example.label not in self.labels:
            raise DataError("an unknown intent", row=example.id, field="intent", found=example.label)
        return [Item(encoding.text_windows(example.text), (self.labels.index(example.label),))]

    def encode(self, example: IntentExample, encoding: Encoding) -> list[Window]:
        """The windows of the utterance."""
        return encoding.text_windows(example.text)

    def decode(self, example: IntentExample, windows: Sequence[Window], logits: Sequence[Floats]) -> IntentPrediction:
        """The likeliest class; of equal ones the first."""
        mean = np.asarray(np.mean(logits, axis=0), np.float64)
        logs = log_softmax(mean / self.temperature)
        best = np.argsort(-mean, kind="stable")[: self.n_best]
        n_best = tuple(LabelScore(self.labels[index], float(np.exp(logs[index]))) for index in best)
        loss = -float(log_softmax(mean)[self.labels.index(example.label)]) if example.label in self.labels else None
        return IntentPrediction(example.id, n_best[0].label, n_best[0].score, n_best, loss)

    @classmethod
    def judge(cls, examples: Sequence[IntentExample], predictions: Sequence[IntentPrediction]) -> Judgement:
        """By utterance.

        Raises:
            DataError: an example has no class.
        """
        gold = _gold(examples)
        correct = np.array([label == ours.label for label, ours in zip(gold, predictions, strict=True)], dtype=np.bool_)
        confidence = np.array([prediction.score for prediction in predictions], dtype=np.float64)
        return Judgement(confidence, correct, means(accuracy=correct))

    @classmethod
    def score(cls, examples: Sequence[IntentExample], predictions: Sequence[IntentPrediction]) -> dict[str, float]:
        """`count`, `accuracy` with its interval, `macro_f1`; with out-of-scope rows also how they are told apart.

        And `loss`, the mean negative log-probability of the right class, where all classes are known.

        Raises:
            DataError: an example has no class.
        """
        inside = [
            max((entry.score for entry in prediction.n_best if entry.label != OUT_OF_SCOPE), default=0.0)
            for prediction in predictions
        ]
        report = intent_report(_gold(examples), [prediction.label for prediction in predictions], inside)
        return report | mean_loss(prediction.loss for prediction in predictions)

    @classmethod
    def tables(
        cls, examples: Sequence[IntentExample], predictions: Sequence[IntentPrediction]
    ) -> dict[str, list[dict[str, Any]]]:
        """How well each class is found, and which are most often taken for which."""
        gold, found = _gold(examples), [prediction.label for prediction in predictions]
        pairs = [{"gold": one, "predicted": other, "count": count} for one, other, count in confusions(gold, found)]
        return {"classes": [dict(row) for row in intent_table(gold, found)], "confusions": pairs}

    @classmethod
    def value(cls, prediction: IntentPrediction, threshold: float | None = None) -> str:
        """The class."""
        return "" if threshold is not None and prediction.score < threshold else prediction.label

    @classmethod
    def parse(cls, example: IntentExample, value: str | int | None) -> IntentPrediction:
        """A class, without its probability."""
        return IntentPrediction(example.id, "" if value is None else str(value), 0.0, ())

    @classmethod
    def score_values(cls, gold: Mapping[str, Any], values: Mapping[str, str | int]) -> dict[str, float]:
        """As `score`, without what needs probabilities."""
        report = super().score_values(gold, values)
        report.pop("oos_auroc", None)
        return report


def _gold(examples: Sequence[IntentExample], what: str = "score against") -> list[str]:
    labels = []
    for example in examples:
        if example.label is None:
            raise DataError(f"no intent to {what}", row=example.id, field="intent")
        labels.append(example.label)
    return labels
