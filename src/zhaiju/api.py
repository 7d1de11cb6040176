"""What `zhaiju.load` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast, overload

from zhaiju.data.examples import Context, QAExample, ReadPrediction, SelectPrediction
from zhaiju.errors import ConfigError, DataError
from zhaiju.inference.answer import Answerer, Joint, load_joint
from zhaiju.inference.backends import Precision, TorchBackend
from zhaiju.inference.engine import BATCH_TOKENS, Engine
from zhaiju.modeling.checkpoint import Checkpoint, load, read_meta, resolve
from zhaiju.tasks import ReadTask, SelectTask


def make_engine(checkpoint: Checkpoint, *, precision: str = "fp32", batch_tokens: int = BATCH_TOKENS) -> Engine:
    """An engine on PyTorch, on the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        checkpoint.network.to("cuda")
    backend = TorchBackend(checkpoint.network, pad_id=checkpoint.encoding.pad_id, precision=cast(Precision, precision))
    return Engine(backend, checkpoint.encoding, batch_tokens=batch_tokens)


def read_task(checkpoint: Checkpoint, *, max_answer_chars: int | None = None) -> ReadTask:
    """The read task with the search settings that a checkpoint was trained with, unless told otherwise.

    Args:
        checkpoint: The reader.
        max_answer_chars: None: as trained; 0: no limit.
    """
    chosen = checkpoint.meta.search.get("max_answer_chars", 50) if max_answer_chars is None else max_answer_chars
    return ReadTask(max_answer_chars=chosen or None)


PredictionT = TypeVar("PredictionT")


class Model:
    """One checkpoint, or a reader with its selector.

    Every method takes one question or a list of them, and returns one prediction or a list.
    """

    def __init__(
        self,
        *,
        reader: Engine | None,
        selector: Engine | None,
        task: ReadTask | None = None,
        joint: Joint | None = None,
    ) -> None:
        self._reader = reader
        self._selector = selector
        self._task = task or ReadTask()
        self._joint = joint

    @classmethod
    def load(cls, what: str, *, selector: str | None = None, task: str | None = None, precision: str = "fp32") -> Model:
        """See `zhaiju.load`."""
        name = task or read_meta(resolve(what)).task or "read"
        if name == "select":
            if selector is not None:
                raise ConfigError(f"{what} is a selector itself; load a reader with selector=…")
            return cls(reader=None, selector=make_engine(load(what, "select"), precision=precision))
        reading = load(what, name)
        engine = make_engine(reading, precision=precision)
        if selector is None:
            return cls(reader=engine, selector=None, task=read_task(reading))
        selecting = load(selector, "select")
        return cls(
            reader=engine,
            selector=make_engine(selecting, precision=precision),
            task=read_task(reading),
            joint=load_joint(reading.where, selecting.where),
        )

    @overload
    def read(  # type: ignore[overload-overlap]  # a str is a sequence of str, and means one question
        self, question: str, context: str
    ) -> ReadPrediction: ...
    @overload
    def read(self, question: Sequence[str], context: Sequence[str]) -> list[ReadPrediction]: ...
    def read(
        self, question: str | Sequence[str], context: str | Sequence[str]
    ) -> ReadPrediction | list[ReadPrediction]:
        """Quote the answer from a paragraph.

        Raises:
            DataError: a text is empty, or the question does not fit the window.
            ConfigError: this is a selector.
        """
        if self._reader is None:
            raise ConfigError("this is a selector; load a reader to read")
        asked, many = _list(question)
        told, _ = _list(context)
        examples = [_example(index, text, [paragraph]) for index, text, paragraph in _pairs(asked, told)]
        readings: list[ReadPrediction] = list(self._reader.predict(self._task, examples))
        return _one(readings, many)

    @overload
    def select(  # type: ignore[overload-overlap]  # a str is a sequence of str, and means one question
        self, question: str, contexts: Sequence[str]
    ) -> SelectPrediction: ...
    @overload
    def select(self, question: Sequence[str], contexts: Sequence[Sequence[str]]) -> list[SelectPrediction]: ...
    def select(self, question: Any, contexts: Any) -> SelectPrediction | list[SelectPrediction]:
        """Choose the paragraph that answers the question.

        Raises:
            DataError: a text is empty, there is no paragraph, or the question does not fit the window.
            ConfigError: there is no selector.
        """
        if self._selector is None:
            raise ConfigError("there is no selector; load one, or give a reader selector=…")
        examples, many = _examples(question, contexts)
        selections: list[SelectPrediction] = list(self._selector.predict(SelectTask(), examples))
        return _one(selections, many)

    @overload
    def answer(  # type: ignore[overload-overlap]  # a str is a sequence of str, and means one question
        self, question: str, contexts: Sequence[str]
    ) -> ReadPrediction: ...
    @overload
    def answer(self, question: Sequence[str], contexts: Sequence[Sequence[str]]) -> list[ReadPrediction]: ...
    def answer(self, question: Any, contexts: Any) -> ReadPrediction | list[ReadPrediction]:
        """Quote the answer from one of several paragraphs; `index` and `source` say from which.

        Without a selector every paragraph is read.

        Raises:
            DataError: a text is empty, there is no paragraph, or the question does not fit the window.
            ConfigError: this is a selector.
        """
        if self._reader is None:
            raise ConfigError("this is a selector; load a reader with selector=… to answer")
        examples, many = _examples(question, contexts)
        answerer = Answerer(self._reader, self._selector, read_task=self._task, joint=self._joint)
        return _one(list(answerer.predict(examples)), many)


def _list(value: str | Sequence[str]) -> tuple[list[str], bool]:
    return ([value], False) if isinstance(value, str) else (list(value), True)


def _pairs(questions: Sequence[str], contexts: Sequence[Any]) -> list[tuple[int, str, Any]]:
    if len(questions) != len(contexts):
        raise DataError("questions and contexts differ in number", found=len(contexts), expected=str(len(questions)))
    return [(index, text, context) for index, (text, context) in enumerate(zip(questions, contexts, strict=True))]


def _examples(question: Any, contexts: Any) -> tuple[list[QAExample], bool]:
    if isinstance(contexts, str):
        raise DataError("wrong type", field="contexts", found=contexts, expected="a list of paragraphs")
    asked, many = _list(question)
    groups = list(contexts) if many else [contexts]
    for paragraphs in groups:
        if isinstance(paragraphs, str):
            raise DataError("wrong type", field="contexts", found=paragraphs, expected="a list of paragraphs for each")
    return [_example(index, text, paragraphs) for index, text, paragraphs in _pairs(asked, groups)], many


def _example(index: int, question: str, paragraphs: Sequence[str]) -> QAExample:
    contexts = tuple(Context(text, str(place)) for place, text in enumerate(paragraphs))
    return QAExample(str(index), question, contexts, relevant=0 if len(contexts) == 1 else None)


def _one(results: list[PredictionT], many: bool) -> PredictionT | list[PredictionT]:
    return results if many else results[0]
