"""What a task is: five members that the one engine and the one training loop call.

A task never sees a model. It turns examples into windows, and arrays of logits into predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from zhaiju.data.encoding import Encoding, Window

Floats = npt.NDArray[np.float32]

ExampleT_contra = TypeVar("ExampleT_contra", contravariant=True)
PredictionT_co = TypeVar("PredictionT_co", covariant=True)


IGNORED = -100  # a token that nothing is learnt from


@dataclass(frozen=True, slots=True)
class Head:
    """Which output layer a task trains and over which axis its softmax runs.

    Attributes:
        auto_class: The transformers class that a checkpoint of the task loads as, so that others can load it too.
        over: "choices": logits [windows] of an item compete, the best window of each choice counting;
            "tokens": logits [windows, 2, T], start and end each compete over a window's tokens;
            "labels": the classes compete, logits [windows, L], or [windows, T, L] with `per_token`.
        per_token: Whether every token has a class of its own.
    """

    auto_class: str
    over: Literal["choices", "tokens", "labels"]
    per_token: bool = False

    def unpadded(self, logits: Floats, length: int) -> Floats:
        """A window's logits without those of its padding."""
        if self.over == "tokens":
            return logits[:, :length]
        return logits[:length] if self.per_token else logits


@dataclass(slots=True)
class Item:
    """What training may not tear apart: the windows that compete with each other, and the right outcome.

    Attributes:
        windows: All windows of the item.
        label: "choices": the right choice; "tokens": the first and last token of the answer, both 0 (the
            [CLS] token) where the window does not hold it; "labels": the class, or each token's class, `IGNORED`
            where it has none.
        targets: How many outcomes its loss is the sum of.
    """

    windows: list[Window]
    label: tuple[int, ...]
    targets: int = 1

    @property
    def size(self) -> int:
        """Tokens of all windows together."""
        return sum(map(len, self.windows))


class Task(Protocol[ExampleT_contra, PredictionT_co]):
    """A task of zhaiju; `zhaiju.tasks.TASKS` holds them all."""

    name: str
    head: Head
    primary_metric: str  # higher is better

    def items(self, example: ExampleT_contra, encoding: Encoding, generator: np.random.Generator) -> list[Item]:
        """What one labelled example gives to train on in one epoch."""
        ...

    def encode(self, example: ExampleT_contra, encoding: Encoding) -> list[Window]:
        """All windows to predict from."""
        ...

    def decode(self, example: ExampleT_contra, windows: Sequence[Window], logits: Sequence[Floats]) -> PredictionT_co:
        """The prediction from each window's logits: "choices" [1]; "tokens" [2, T]; "labels" [L] or [T, L]."""
        ...

    def judge(self, examples: Sequence[Any], predictions: Sequence[Any]) -> Judgement:
        """How each prediction stands to its gold; examples and predictions are in the same order."""
        ...

    def score(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """Figures on 0..1 under flat names; examples and predictions are in the same order."""
        ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """What calibration and the comparison of runs need to know of predictions on labelled examples.

    Attributes:
        confidence: float64 [units], probability that the unit is right. Units are questions, utterances or words.
        correct: bool [units].
        ratios: For each figure float64 [examples, 2]: what an example adds to its numerator and denominator.
    """

    confidence: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]
    ratios: Mapping[str, npt.NDArray[np.float64]]


def means(**columns: Sequence[float] | npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float64]]:
    """`Judgement.ratios` of figures that are means over examples."""
    return {
        name: np.stack([np.asarray(column, np.float64), np.ones(len(column))], 1) for name, column in columns.items()
    }


def masked(window: Window, encoding: Encoding, generator: np.random.Generator, rate: float) -> Window:
    """The window with some of its tokens hidden, special ones excepted: up to twice `rate` of each side."""
    hidden = np.zeros(len(window), dtype=np.bool_)
    context = window.starts >= 0
    question = ~context
    question[: len(encoding.template.prefix)] = False
    after = len(encoding.template.middle) + int(context.sum()) + len(encoding.template.suffix)
    question[len(window) - after :] = False
    for side in (question, context):
        hidden |= side & (generator.random(len(window)) < 2 * rate * generator.random())
    return replace(window, input_ids=np.where(hidden, np.int32(encoding.mask_id), window.input_ids))


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def mean_loss(losses: Iterable[float | None]) -> dict[str, float]:
    """`loss`, the mean; nothing where one is not known."""
    values = list(losses)
    known = [value for value in values if value is not None]
    return {"loss": float(np.mean(known))} if known and len(known) == len(values) else {}
