"""intent: which of L classes is this utterance?

Sentence classification after Devlin et al. (2019). An utterance longer than the window is scored in several windows
whose logits are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zhaiju.data.encoding import Encoding, Window
from zhaiju.data.examples import OUT_OF_SCOPE, IntentExample, IntentPrediction, LabelScore
from zhaiju.errors import DataError
from zhaiju.tasks.base import Floats, Head, Item, Judgement, log_softmax, mean_loss, means
from zhaiju.tasks.tagging import intent_report


@dataclass(frozen=True)
class IntentTask:
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
    head = Head("AutoModelForSequenceClassification", "labels")
    primary_metric = "accuracy"

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

    def judge(self, examples: Sequence[IntentExample], predictions: Sequence[IntentPrediction]) -> Judgement:
        """By utterance.

        Raises:
            DataError: an example has no class.
        """
        gold = _gold(examples)
        correct = np.array([label == ours.label for label, ours in zip(gold, predictions, strict=True)], dtype=np.bool_)
        confidence = np.array([prediction.score for prediction in predictions], dtype=np.float64)
        return Judgement(confidence, correct, means(accuracy=correct))

    def score(self, examples: Sequence[IntentExample], predictions: Sequence[IntentPrediction]) -> dict[str, float]:
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


def _gold(examples: Sequence[IntentExample]) -> list[str]:
    labels = []
    for example in examples:
        if example.label is None:
            raise DataError("no intent to score against", row=example.id, field="intent")
        labels.append(example.label)
    return labels
