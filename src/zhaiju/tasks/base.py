"""What a task is: five members that the one engine and the one training loop call.

A task never sees a model. It turns examples into windows, and arrays of logits into predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from zhaiju.data.encoding import Encoding, Window

Floats = npt.NDArray[np.float32]

ExampleT_contra = TypeVar("ExampleT_contra", contravariant=True)
PredictionT_co = TypeVar("PredictionT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Head:
    """Which output layer a task trains and over which axis its softmax runs.

    Attributes:
        auto_class: The transformers class that a checkpoint of the task loads as, so that others can load it too.
        over: "choices": logits [windows] of an item compete, the best window of each choice counting;
            "tokens": logits [windows, 2, T], start and end each compete over a window's tokens.
    """

    auto_class: str
    over: Literal["choices", "tokens"]


@dataclass(slots=True)
class Item:
    """What training may not tear apart: the windows that compete with each other, and the right outcome.

    Attributes:
        windows: All windows of the item.
        label: "choices": the right choice; "tokens": the first and last token of the answer, both 0 (the
            [CLS] token) where the window does not hold it.
    """

    windows: list[Window]
    label: tuple[int, ...]

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
        """The prediction from each window's logits ("choices": shape [1]; "tokens": [2, T])."""
        ...

    def score(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """Figures on 0..1 under flat names; examples and predictions are in the same order."""
        ...
