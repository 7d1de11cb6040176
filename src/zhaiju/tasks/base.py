"""What a task is: all that differs between tasks, which everything else asks of it.

A task never sees a model. It reads rows into examples, turns examples into windows, and arrays of logits into
predictions, which it judges and scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from zhaiju.data.encoding import Encoding, Window
from zhaiju.data.examples import Context, QAExample
from zhaiju.data.formats import ReadLog, read_qa
from zhaiju.data.labelled import read_rows
from zhaiju.errors import DataError

Floats = npt.NDArray[np.float32]

ExampleT = TypeVar("ExampleT")
PredictionT = TypeVar("PredictionT")


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


class Task(ABC, Generic[ExampleT, PredictionT]):
    """A task of zhaiju, a frozen dataclass of what it can be set to; `zhaiju.tasks.TASKS` holds them all.

    A task over "labels" has a field `labels` too, the classes in the order of the logits: in training those of
    `classes`, then those of the checkpoint. Windows come from the encoding: `windows(question, context)`,
    `text_windows(text)`, `word_windows(words)`; those of one item over "labels" are averaged.

    Examples have an `id`, their `texts`, and `bare()`, what scoring needs of them; predictions have an `id`, a `score`
    (the confidence, 0..1) and `bare()` too.

    Attributes:
        name: Its name, on the command line and in Python.
        unit: What is right or wrong: "question", "utterance", "word".
        head: Its output layer.
        figures: Names of its figures, the primary one first; of each, higher is better.
        fields: What a row of it holds without its label: columns of a table, keys of JSON.
        probe: A short row.
        column: The name of its answer in a table of predictions.
        columns: Fields of a prediction that are kept in tables of very many, `id` first and the answer second, each
            with its type: string, bool, int32 or float64, [type] for a list, {field: type} for a record.
        kept: Settings of a training that belong to the checkpoint, for predicting.
        over_paragraphs: Whether its rows may point into paragraphs of another file.
        outcomes: Why a prediction can be right or wrong; none where the task does not tell.
        temperature: Logits are divided by it (see `zhaiju.tasks.calibration`).
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    head: ClassVar[Head]
    figures: ClassVar[tuple[str, ...]]
    fields: ClassVar[tuple[str, ...]]
    probe: ClassVar[Mapping[str, Any]]
    column: ClassVar[str]
    columns: ClassVar[Mapping[str, Any]]
    kept: ClassVar[tuple[str, ...]] = ()
    over_paragraphs: ClassVar[bool] = False
    outcomes: ClassVar[tuple[str, ...]] = ()
    temperature: float

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        needed = ("name", "unit", "head", "figures", "fields", "probe", "column", "columns")
        if lacking := [name for name in needed if not hasattr(cls, name)]:
            raise TypeError(f"the task {cls.__name__} does not say its {', '.join(lacking)}")

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        contexts: Sequence[Context] | None = None,
        split: str | None = None,
        bio: str = "repair",
        log: ReadLog | None = None,
        start: int = 0,
    ) -> Iterator[ExampleT]:
        """The examples of a file, in its order; of rows with `fields` as columns or keys, unless a task does better.

        Args:
            path: The file.
            contexts: The paragraphs that rows point into.
            split: Which part of a file that has several: train, val or test.
            bio: What to do about a malformed tag, strict or repair.
            log: Receives what was tolerated.
            start: Rows to pass over, unchecked, where that is possible.

        Raises:
            DataError: the file does not hold what its layout promises.
        """
        return read_rows(path, cls.example, cls.fields, log)

    @classmethod
    @abstractmethod
    def example(cls, identity: str, row: Mapping[str, Any]) -> ExampleT:
        """An example from a row with `fields`, and with its label where the row has it.

        Raises:
            DataError: the row does not hold what it should.
        """

    @classmethod
    @abstractmethod
    def missing(cls, example: ExampleT) -> str | None:
        """The field without which a prediction for the example cannot be scored, if it is not there."""

    @classmethod
    def require(cls, example: ExampleT) -> None:
        """Refuse an example that nothing can be scored against.

        Raises:
            DataError: it is `missing` something.
        """
        if (field := cls.missing(example)) is not None:
            row = example.id  # type: ignore[attr-defined]
            raise DataError(f"no {field} to score against", row=row, field=field)

    @classmethod
    def classes(cls, examples: Sequence[ExampleT]) -> tuple[str, ...]:
        """The classes that a training on these examples tells apart, in the order of the logits; () without any.

        Raises:
            DataError: an example has none.
        """
        if cls.head.over == "labels":
            raise NotImplementedError(f"the task {cls.name} tells classes apart, and has no classes() to say which")
        return ()

    @classmethod
    def refused(cls, labels: Sequence[str]) -> str | None:
        """What is wrong with a checkpoint's classes, to end "it tells …" with, if they cannot be this task's."""
        return None

    @abstractmethod
    def items(self, example: ExampleT, encoding: Encoding, generator: np.random.Generator) -> list[Item]:
        """What one labelled example gives to train on in one epoch."""

    @abstractmethod
    def encode(self, example: ExampleT, encoding: Encoding) -> list[Window]:
        """All windows to predict from."""

    @abstractmethod
    def decode(self, example: ExampleT, windows: Sequence[Window], logits: Sequence[Floats]) -> PredictionT:
        """The prediction from each window's logits: "choices" [1]; "tokens" [2, T]; "labels" [L] or [T, L]."""

    @classmethod
    @abstractmethod
    def judge(cls, examples: Sequence[ExampleT], predictions: Sequence[PredictionT]) -> Judgement:
        """How each prediction stands to its gold; examples and predictions are in the same order."""

    @classmethod
    @abstractmethod
    def score(cls, examples: Sequence[ExampleT], predictions: Sequence[PredictionT]) -> dict[str, float]:
        """Figures on 0..1 under flat names; examples and predictions are in the same order."""

    @classmethod
    def tables(
        cls, examples: Sequence[ExampleT], predictions: Sequence[PredictionT]
    ) -> dict[str, list[dict[str, Any]]]:
        """Rows for each class (`classes`), the most frequent mistakes (`confusions`), or nothing."""
        return {}

    def outcome(self, example: ExampleT, prediction: PredictionT, encoding: Encoding) -> str | None:
        """Which of `outcomes` a prediction is."""
        return None

    @classmethod
    def confidence(cls, prediction: PredictionT) -> float:
        """How sure a prediction is, 0..1."""
        return float(prediction.score)  # type: ignore[attr-defined]

    @classmethod
    @abstractmethod
    def value(cls, prediction: PredictionT, threshold: float | None = None) -> str | int:
        """What a predictions file has of a prediction; "" where it is less sure than the threshold."""

    @classmethod
    def parse(cls, example: ExampleT, value: str | int | None) -> PredictionT:
        """A prediction from what `value` gave; from None, or "" where a threshold was not reached, one that is wrong.

        Raises:
            DataError: it can be no prediction for the example.
        """
        raise NotImplementedError

    @classmethod
    def gold(cls, path: Path, *, split: str | None = None, bio: str = "repair") -> Mapping[str, Any]:
        """What a predictions file is scored against, by id.

        Raises:
            DataError: the file does not hold it.
        """
        found: dict[str, Any] = {}
        for example in cls.read(path, split=split, bio=bio):
            try:
                cls.require(example)
            except DataError as error:
                raise error.located(file=path) from None
            found[example.id] = example  # type: ignore[attr-defined]
        return found

    @classmethod
    def score_values(cls, gold: Mapping[str, Any], values: Mapping[str, str | int]) -> dict[str, float]:
        """Figures of a predictions file, where a row that is not there is wrong.

        Raises:
            DataError: a value can be no prediction.
        """
        examples = list(gold.values())
        return cls.score(examples, [cls.parse(example, values.get(row)) for row, example in gold.items()])

    @classmethod
    def row(cls, prediction: PredictionT) -> dict[str, Any]:
        """The `columns` of a prediction, as plain values."""
        return {name: _plain(getattr(prediction, name)) for name in cls.columns}


class OverParagraphs:
    """What tasks share whose rows are questions over paragraphs."""

    over_paragraphs: ClassVar[bool] = True

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        contexts: Sequence[Context] | None = None,
        log: ReadLog | None = None,
        start: int = 0,
        **_: Any,
    ) -> Iterator[QAExample]:
        """See `zhaiju.data.formats.read_qa`."""
        return read_qa(path, contexts=contexts, log=log, start=start)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


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
