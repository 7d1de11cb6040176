"""select: which of these paragraphs answers the question? Multiple choice over 1..n paragraphs.

Each (question, window of a paragraph) pair is scored by itself; a paragraph is worth its best window. So choices
vary in number without padding, and a batch is filled by length and not by question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from zhaiju.data.encoding import Encoding, Window
from zhaiju.data.examples import QAExample, SelectPrediction, asked_of, wrong_type
from zhaiju.data.formats import gold_choices
from zhaiju.errors import DataError
from zhaiju.tasks.base import Floats, Head, Item, Judgement, OverParagraphs, Task, masked, means
from zhaiju.tasks.metrics import accuracy


@dataclass(frozen=True)
class SelectTask(OverParagraphs, Task[QAExample, SelectPrediction]):
    """Paragraph selection.

    Attributes:
        negatives: Wrong paragraphs drawn beside the right one for training, anew in each epoch.
        mask_rate: Mean share of a window's tokens that training hides.
        temperature: Logits are divided by it (see `zhaiju.tasks.calibration`).
    """

    negatives: int = 3
    mask_rate: float = 0.0
    temperature: float = 1.0

    name = "select"
    unit = "question"
    head = Head("AutoModelForMultipleChoice", "choices")
    figures = ("accuracy",)
    fields = ("question", "contexts")
    probe: ClassVar = {"question": "a", "contexts": ["b"]}
    column = "answer"
    columns: ClassVar = {"id": "string", "source": "string", "index": "int32", "score": "float64"}

    @classmethod
    def example(cls, identity: str, row: Mapping[str, Any]) -> QAExample:
        """A `question` and its `contexts`, a list of paragraphs."""
        if not isinstance(row.get("contexts"), list):
            raise wrong_type(row.get("contexts"), "contexts", "a list of paragraphs")
        return asked_of(identity, row.get("question"), row["contexts"])

    @classmethod
    def missing(cls, example: QAExample) -> str | None:
        """Which paragraph is right."""
        return "relevant" if example.relevant is None else None

    def items(self, example: QAExample, encoding: Encoding, generator: np.random.Generator) -> list[Item]:
        """One item: the right paragraph first, then the drawn ones. A single candidate teaches nothing.

        Raises:
            DataError: the example does not say which paragraph is right.
        """
        if example.relevant is None:
            raise DataError("no relevant paragraph to train on", row=example.id, field="relevant")
        wrong = [index for index in range(len(example.contexts)) if index != example.relevant]
        if not wrong:
            return []
        drawn = generator.permutation(wrong)[: self.negatives]
        windows = []
        for choice, index in enumerate([example.relevant, *drawn.tolist()]):
            windows += encoding.windows(example.question, example.contexts[index].text, choice=choice)
        if self.mask_rate:
            windows = [masked(window, encoding, generator, self.mask_rate) for window in windows]
        return [Item(windows, (0,))]

    def encode(self, example: QAExample, encoding: Encoding) -> list[Window]:
        """The windows of every candidate."""
        windows = []
        for choice, context in enumerate(example.contexts):
            windows += encoding.windows(example.question, context.text, choice=choice)
        return windows

    def decode(self, example: QAExample, windows: Sequence[Window], logits: Sequence[Floats]) -> SelectPrediction:
        """The candidate with the best window; of equal ones the first."""
        scores = np.full(len(example.contexts), -np.inf)
        for window, value in zip(windows, logits, strict=True):
            scores[window.choice] = max(scores[window.choice], float(value[0]) / self.temperature)
        best = int(scores.argmax())
        odds = np.exp(scores - scores[best])
        return SelectPrediction(
            id=example.id,
            index=best,
            source=example.contexts[best].source,
            score=float(odds[best] / odds.sum()),
            scores=tuple(scores.tolist()),
        )

    @classmethod
    def judge(cls, examples: Sequence[QAExample], predictions: Sequence[SelectPrediction]) -> Judgement:
        """By question.

        Raises:
            DataError: an example does not say which paragraph is right.
        """
        for example in examples:
            if example.relevant is None:
                raise DataError("no relevant paragraph to score against", row=example.id, field="relevant")
        correct = np.array([a.relevant == b.index for a, b in zip(examples, predictions, strict=True)], dtype=np.bool_)
        confidence = np.array([prediction.score for prediction in predictions], dtype=np.float64)
        return Judgement(confidence, correct, means(accuracy=correct))

    @classmethod
    def score(cls, examples: Sequence[QAExample], predictions: Sequence[SelectPrediction]) -> dict[str, float]:
        """`count`, `accuracy` with its interval, and `chance`, the accuracy of drawing a candidate at random.

        Raises:
            DataError: an example does not say which paragraph is right.
        """
        report = accuracy(cls.judge(examples, predictions).correct)
        report["chance"] = float(np.mean([1 / len(example.contexts) for example in examples])) if examples else 0.0
        return report

    @classmethod
    def value(cls, prediction: SelectPrediction, threshold: float | None = None) -> str | int:
        """The paragraph's name, which in the course layout is its number."""
        if threshold is not None and prediction.score < threshold:
            return ""
        return number_or_name(prediction.source)

    @classmethod
    def gold(cls, path: Path, *, split: str | None = None, bio: str = "repair") -> dict[str, int]:
        """See `zhaiju.data.formats.gold_choices`."""
        return gold_choices(path)

    @classmethod
    def score_values(cls, gold: Mapping[str, Any], values: Mapping[str, str | int]) -> dict[str, float]:
        """`count`, and `accuracy` with its interval."""
        return accuracy([row in values and str(values[row]) == str(choice) for row, choice in gold.items()])


def number_or_name(source: str) -> str | int:
    """A paragraph's number where its name is one; "007" and "²" are names."""
    return int(source) if re.fullmatch("0|[1-9][0-9]{0,17}", source) else source
