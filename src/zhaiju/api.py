"""What `zhaiju.load` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from math import inf
from typing import Any, TypeVar, cast, overload

from zhaiju.corpus.features import ranking
from zhaiju.corpus.joined import join_up
from zhaiju.data.examples import (
    IntentExample,
    IntentPrediction,
    QAExample,
    ReadPrediction,
    SelectPrediction,
    SlotExample,
    SlotPrediction,
    asked_of,
    wrong_type,
)
from zhaiju.data.labelled import sentence_example
from zhaiju.errors import ConfigError, DataError
from zhaiju.inference.answer import Answerer, Confidence, Joint
from zhaiju.inference.backends import AUTO
from zhaiju.inference.engine import Engine, Predictor, make_engine
from zhaiju.modeling.checkpoint import STARTER, Checkpoint, load, read_meta, resolve
from zhaiju.tasks import TASKS, SelectTask, known
from zhaiju.tasks.base import Task
from zhaiju.tasks.read import ReadTask

PredictionT = TypeVar("PredictionT")

# Arguments of transformers' former pipeline that have no counterpart, and why.
_WINDOWS = "windows are those that the checkpoint was trained with, and nothing is cut"
_GONE = dict.fromkeys(("max_seq_len", "doc_stride", "max_question_len", "padding"), _WINDOWS) | {
    "align_to_words": "offsets are those of the tokens",
    "batch_size": "batches are filled by tokens",
    "num_workers": "batches are filled by tokens",
    "topk": "it is called top_k",
}


class Model:
    """One checkpoint, or a reader with its selector, which is the lexical ranking where none is named.

    Every method takes one question (or utterance) or a list of them, and returns one prediction or a list.

    Args:
        parts: For each task that can be done the engine and the task.
        joint: How selector and reader are weighed.
        confidence: Judges their answers.

    Attributes:
        parts: As given, with the lexical ranking for a reader that comes without a selector.
        joint: As given.
        confidence: As given.
        where: For each task the directory or hub id of its checkpoint.
        thresholds: For each task the confidence (`score`) below which it is better to abstain; None where none was
            fitted.
    """

    def __init__(
        self,
        parts: Mapping[str, tuple[Predictor, Task[Any, Any]]],
        *,
        joint: Joint | None = None,
        confidence: Confidence | None = None,
    ) -> None:
        self.parts = dict(parts)
        if "read" in parts:
            self.parts.setdefault("select", (ranking(), SelectTask()))
        self.where: dict[str, str] = {}
        self.joint = joint
        self.confidence = confidence
        self.thresholds: dict[str, float | None] = {}

    @classmethod
    def load(
        cls,
        what: str,
        *,
        selector: str | None = None,
        task: str | None = None,
        backend: str = AUTO,
        precision: str = "fp32",
    ) -> Model:
        """See `zhaiju.load`."""
        name = task or read_meta(resolve(what)).task or "read"
        if selector is not None and name != "read":
            raise ConfigError(f"{what} is a checkpoint for {name}; a selector goes with a reader")

        def open_one(what: str, task: str) -> tuple[Engine, Checkpoint]:
            checkpoint = load(what, task)
            return make_engine(checkpoint, backend=backend, precision=precision), checkpoint

        if (what, name) == (STARTER, "select"):
            return cls({"select": (ranking(), SelectTask())})
        parts: dict[str, tuple[Predictor, Task[Any, Any]]]
        joint: Joint | None = None
        confidence: Confidence | None = None
        if name == "read":
            pair = join_up(open_one, what, selector)
            answerer, joint, confidence = pair.answerer, pair.answerer.joint, pair.answerer.confidence
            checkpoints = {"read": pair.reader} | ({"select": pair.selector} if pair.selector else {})
            parts = {
                "read": (answerer.reader, answerer.read_task),
                "select": (answerer.selector, answerer.select_task),
            }
        else:
            engine, checkpoint = open_one(what, name)
            checkpoints, parts = {name: checkpoint}, {name: (engine, checkpoint.task(name))}
        model = cls(parts, joint=joint, confidence=confidence)
        model.thresholds = {name: one.threshold for name, one in checkpoints.items()}
        model.where = {name: one.where for name, one in checkpoints.items()}
        return model

    def through(self, wrap: Callable[[str, Predictor], Predictor]) -> Model:
        """The same model with something in front of its engines: a server's batches, a counter.

        Args:
            wrap: Called with a task's name and its engine; gives what predicts in the engine's place.
        """
        parts = {name: (wrap(name, engine), task) for name, (engine, task) in self.parts.items()}
        model = Model(parts, joint=self.joint, confidence=self.confidence)
        model.thresholds = self.thresholds
        model.where = self.where
        return model

    def answerer(self, **settings: Any) -> Answerer:
        """Selector and reader joined.

        Args:
            settings: Of the span search, in the place of the reader's own.

        Raises:
            ConfigError: this is no reader.
        """
        reader, read_task = self._part("read")
        selector, select_task = self._part("select")
        return Answerer(
            reader,
            selector,
            read_task=replace(cast(ReadTask, read_task), **settings),
            select_task=select_task,
            joint=self.joint,
            lexical=ranking().scores,
            confidence=self.confidence,
        )

    def _part(self, name: str) -> tuple[Predictor, Task[Any, Any]]:
        if name not in self.parts:
            known(name)
            raise ConfigError(f"no checkpoint for {name} is loaded here, only for {', '.join(self.parts)}; load one")
        return self.parts[name]

    def predict(self, task: str, inputs: Any) -> Any:
        """Predict for any task.

        Args:
            task: A key of `zhaiju.tasks.TASKS`.
            inputs: A mapping with the task's `fields` ({"question": …, "context": …}), or a list of such.

        Returns:
            The task's prediction, or a list of them.

        Raises:
            DataError: an input does not hold what it should, or does not fit the window.
            ConfigError: nothing is loaded for the task.
        """
        self._part(task)
        many = not isinstance(inputs, Mapping)
        rows = _several(inputs, "inputs", "a mapping, or a list of them") if many else [inputs]
        for row in rows:
            if not isinstance(row, Mapping):
                raise wrong_type(row, "inputs", f"a mapping of {' and '.join(TASKS[task].fields)}")
        examples = [TASKS[task].example(str(place), row) for place, row in enumerate(rows)]
        return _one(self._predict(task, examples), many)

    def _predict(self, name: str, examples: Sequence[Any]) -> list[Any]:
        engine, task = self._part(name)
        return list(engine.predict(task, examples))

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
            ConfigError: this is no reader.
        """
        self._part("read")
        asked, many = _list(question, "question")
        told, _ = _list(context, "context")
        examples = [asked_of(str(index), text, [paragraph]) for index, text, paragraph in _pairs(asked, told)]
        return _one(self._predict("read", examples), many)

    def __call__(
        self,
        *inputs: Any,
        question: Any = None,
        context: Any = None,
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        **others: object,
    ) -> Any:
        """Read as transformers' `pipeline("question-answering")` did, which version 5.3 took out.

        The arguments and the keys of the result are the pipeline's. Otherwise than there, `score` is the probability
        among all allowed spans of all windows, and a list always gives a list, however long it is.

        Args:
            inputs: A question and a context; or a mapping of "question" and "context"; or a list of such.
            question: A question, or a list of them.
            context: Its context, or a list of as many; one context serves a list of questions.
            top_k: How many answers; of more than one a list is given.
            max_answer_len: Longest answer in tokens.
            handle_impossible_answer: That there is no answer may be one, with "" as its text.
            others: No other argument is taken; here for the sake of the error.

        Returns:
            {"score", "start", "end", "answer"}, `context[start:end] == answer`; for `top_k` above 1 a list of these,
            best first; for a list of questions a list of what one gives.

        Raises:
            ConfigError: an argument is not one of these, or this is no reader.
            DataError: a text is missing, empty or of the wrong type, or the question does not fit the window.
        """
        for name in others:
            reason = f"; {_GONE[name]}" if name in _GONE else ""
            taken = "question, context, top_k, max_answer_len or handle_impossible_answer"
            raise ConfigError(f"{name} is not taken here, expected {taken}{reason}")
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1")
        engine, task = self._part("read")
        task = replace(
            cast(ReadTask, task),
            n_best=top_k,
            max_answer_chars=None,
            max_answer_tokens=max_answer_len,
            null_threshold=-inf if handle_impossible_answer else None,  # below: say so whatever it is
        )
        pairs, many = _asked(inputs, question, context)
        examples = [asked_of(str(index), asked, [told]) for index, (asked, told) in enumerate(pairs)]
        found = [_answers(one, top_k, handle_impossible_answer) for one in engine.predict(task, examples)]
        return _one([answers if top_k > 1 else answers[0] for answers in found], many)

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
        self._part("select")
        examples, many = _examples(question, contexts)
        return _one(self._predict("select", examples), many)

    @overload
    def answer(  # type: ignore[overload-overlap]  # a str is a sequence of str, and means one question
        self, question: str, contexts: Sequence[str]
    ) -> ReadPrediction: ...
    @overload
    def answer(self, question: Sequence[str], contexts: Sequence[Sequence[str]]) -> list[ReadPrediction]: ...
    def answer(self, question: Any, contexts: Any) -> ReadPrediction | list[ReadPrediction]:
        """Quote the answer from one of several paragraphs; `index` and `source` say from which.

        Raises:
            DataError: a text is empty, there is no paragraph, or the question does not fit the window.
            ConfigError: this is no reader.
        """
        answerer = self.answerer()
        examples, many = _examples(question, contexts)
        return _one(list(answerer.predict(examples)), many)

    @overload
    def intent(self, text: str) -> IntentPrediction: ...  # type: ignore[overload-overlap]  # a str is one utterance
    @overload
    def intent(self, text: Sequence[str]) -> list[IntentPrediction]: ...
    def intent(self, text: str | Sequence[str]) -> IntentPrediction | list[IntentPrediction]:
        """Say what an utterance is about.

        Raises:
            DataError: a text is empty.
            ConfigError: this is no intent classifier.
        """
        self._part("intent")
        texts, many = _list(text, "text")
        _check_texts(texts, "text")
        examples = [IntentExample(str(index), one, None) for index, one in enumerate(texts)]
        return _one(self._predict("intent", examples), many)

    @overload
    def slots(self, text: str) -> SlotPrediction: ...
    @overload
    def slots(
        self, text: Sequence[str] | Sequence[Sequence[str]], *, words: bool | None = None
    ) -> SlotPrediction | list[SlotPrediction]: ...
    def slots(self, text: Any, *, words: bool | None = None) -> SlotPrediction | list[SlotPrediction]:
        """Find the filled slots.

        Args:
            text: A sentence, or the words of one; or a list of either. Spans count characters of a sentence, and
                words of a list of words.
            words: Whether a list of texts is the words of one sentence (True) or a list of sentences (False). None:
                sentences, if white space stands inside one of them.

        Raises:
            DataError: a text is empty, or of the wrong type.
            ConfigError: this is no slot tagger.
        """
        self._part("slots")
        if isinstance(text, str):
            return _one(self._predict("slots", [sentence_example("0", text)]), False)
        if not isinstance(text, Sequence):
            raise wrong_type(text, "text", "a sentence, words, or a list of either")
        entries = list(text)
        for entry in entries:
            if not isinstance(entry, Sequence):
                raise wrong_type(entry, "text", "a sentence or a list of words")
        if not all(isinstance(entry, str) for entry in entries):  # lists of words, perhaps sentences among them
            examples = [
                sentence_example(str(index), entry)
                if isinstance(entry, str)
                else SlotExample(str(index), tuple(entry), None)
                for index, entry in enumerate(entries)
            ]
            return _one(self._predict("slots", examples), True)
        if words is None:
            words = not any(len(entry.split()) > 1 for entry in entries)
        if words:
            return _one(self._predict("slots", [SlotExample("0", tuple(entries), None)]), False)
        return _one(
            self._predict("slots", [sentence_example(str(index), entry) for index, entry in enumerate(entries)]), True
        )


def _list(value: Any, name: str) -> tuple[list[Any], bool]:
    """(The values, whether there may be several): one text is itself, anything else that has an order a list."""
    if isinstance(value, str):
        return [value], False
    return _several(value, name, "a text or a list of texts"), True


def _several(value: Any, name: str, expected: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping | Set) or not isinstance(value, Iterable):
        raise wrong_type(value, name, expected)
    return list(value)


def _check_texts(texts: Sequence[Any], name: str) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise wrong_type(text, name, "a text")


def _pairs(questions: Sequence[str], contexts: Sequence[Any]) -> list[tuple[int, str, Any]]:
    if len(questions) != len(contexts):
        raise DataError("questions and contexts differ in number", found=len(contexts), expected=str(len(questions)))
    return [(index, text, context) for index, (text, context) in enumerate(zip(questions, contexts, strict=True))]


def _examples(question: Any, contexts: Any) -> tuple[list[QAExample], bool]:
    asked, many = _list(question, "question")
    told = _several(contexts, "contexts", "a list of paragraphs")
    groups = [_several(one, "contexts", "a list of paragraphs for each") for one in told] if many else [told]
    return [asked_of(str(index), text, paragraphs) for index, text, paragraphs in _pairs(asked, groups)], many


def _one(results: list[PredictionT], many: bool) -> PredictionT | list[PredictionT]:
    return results if many else results[0]


def _asked(inputs: tuple[Any, ...], question: Any, context: Any) -> tuple[list[tuple[Any, Any]], bool]:
    """Questions with their contexts, and whether there may be several, from the arguments of a call."""
    if not inputs:
        asked, many = _list(question, "question")
        told = [context] * len(asked) if many and isinstance(context, str) else _list(context, "context")[0]
        return [(text, paragraph) for _, text, paragraph in _pairs(asked, told)], many
    if question is not None or context is not None:
        raise ConfigError("question and context are given twice, by name and by place; expected one of both")
    if len(inputs) > 1:
        if len(inputs) > 2:
            raise ConfigError(f"found {len(inputs)} arguments without a name, expected a question and a context")
        return _asked((), *inputs)
    if isinstance(inputs[0], Mapping):
        return [_pair(inputs[0])], False
    return [
        _pair(entry) for entry in _several(inputs[0], "inputs", "a mapping of question and context, or a list")
    ], True


def _pair(entry: Any) -> tuple[Any, Any]:
    if not isinstance(entry, Mapping) or {*entry} != {"question", "context"}:
        raise wrong_type(entry, "inputs", "a mapping of question and context")
    return entry["question"], entry["context"]


def _answers(found: ReadPrediction, top_k: int, impossible: bool) -> list[dict[str, Any]]:
    """A reading as the pipeline told it: at least one answer, best first.

    Where there may be none, the reading's own answer is that there is none.
    """
    rest = 1 - found.score if impossible else 1.0
    answers: list[dict[str, Any]] = [
        {"score": one.score * rest, "start": one.start, "end": one.end, "answer": one.text} for one in found.n_best
    ]
    if impossible or not answers:
        answers.append({"score": found.score, "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda answer: -answer["score"])[:top_k]
