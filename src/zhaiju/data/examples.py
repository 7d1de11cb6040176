"""The contract between files, tasks and users: what goes in (examples) and what comes out (predictions).

All offsets count characters (Unicode code points, as Python's `str` does) of the *original* text and are
half-open: `context[start:end]`. They are checked on construction, so whoever holds an example may trust it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zhaiju.errors import DataError, verbatim

_SURROGATE = re.compile("[\ud800-\udfff]")


def wrong_type(value: object, name: str | None, expected: str) -> DataError:
    """The error for a field, or without a name a row, that holds another type of value or nothing."""
    return DataError("wrong type", field=name, found=verbatim("nothing") if value is None else value, expected=expected)


def check_text(value: object, name: str, *, empty_allowed: bool = False) -> str:
    """`value` if it is a usable text, else a `DataError` naming the field `name`."""
    if not isinstance(value, str):
        raise wrong_type(value, name, "a text")
    if not empty_allowed and not value.strip():
        raise DataError("empty text", field=name, found=value, expected="at least one visible character")
    if match := _SURROGATE.search(value):
        raise DataError(
            f"half of a surrogate pair at character {match.start()}",
            field=name,
            found=match.group(),
            expected="valid Unicode",
        )
    return value


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text: `context[start:end] == text`."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The first character after the span."""
        return self.start + len(self.text)

    def fits(self, context: str) -> bool:
        """Whether the text stands at its place in `context`."""
        return self.start >= 0 and context.startswith(self.text, self.start)


@dataclass(frozen=True, slots=True)
class Context:
    """A paragraph and the name it is quoted under (an index in the context file, a SQuAD paragraph id, …)."""

    text: str
    source: str

    def __post_init__(self) -> None:
        check_text(self.text, "context")
        check_text(self.source, "source", empty_allowed=True)


@dataclass(frozen=True, slots=True)
class QAExample:
    """A question over 1..n paragraphs; the one record behind select, read and answer.

    Attributes:
        id: Unique in its file.
        question: The question.
        contexts: The candidate paragraphs, at least one.
        relevant: Index in `contexts` of the paragraph that holds the answer; None where it is not known.
        answers: Spans of `contexts[relevant]` that answer the question; each is checked to stand there.
        gold: Answer texts to score against: the answers' texts and, after them, those whose offset is wrong
            in the source (such a text can be scored, but not trained on).
        impossible: The question is marked as having no answer (SQuAD v2).

    Raises:
        DataError: a text is empty, `relevant` is outside `contexts`, or an answer does not stand at its place.
    """

    id: str
    question: str
    contexts: tuple[Context, ...]
    relevant: int | None = None
    answers: tuple[Span, ...] = ()
    gold: tuple[str, ...] = ()
    impossible: bool = False

    def __post_init__(self) -> None:
        check_text(self.question, "question")
        if not self.contexts:
            raise DataError(
                "no candidate paragraph", field="paragraphs", found=[], expected="at least one", row=self.id
            )
        if self.relevant is not None and not 0 <= self.relevant < len(self.contexts):
            raise DataError(
                "relevant is not one of the candidates",
                field="relevant",
                found=self.relevant,
                expected=f"0..{len(self.contexts) - 1}",
                row=self.id,
            )
        if self.answers and self.relevant is None:
            raise DataError("answers without their paragraph", field="relevant", expected="an index", row=self.id)
        for span in self.answers:
            context = self.contexts[self.relevant or 0].text
            if not span.fits(context):
                raise DataError(
                    f"answer {span.text!r} does not stand at {span.start}",
                    field="answers",
                    found=context[max(span.start, 0) : max(span.end, 0)],
                    expected=span.text,
                    row=self.id,
                )
        if not self.gold and self.answers:
            object.__setattr__(self, "gold", tuple(span.text for span in self.answers))

    @property
    def context(self) -> Context:
        """The paragraph to read: the relevant one, or the only one.

        Raises:
            DataError: there are several and none is marked as relevant.
        """
        if self.relevant is not None:
            return self.contexts[self.relevant]
        if len(self.contexts) == 1:
            return self.contexts[0]
        raise DataError(
            "several paragraphs and none marked as relevant; `zhaiju answer` selects one first",
            field="relevant",
            expected="an index",
            row=self.id,
        )


@dataclass(frozen=True, slots=True)
class SelectPrediction:
    """Which paragraph answers the question.

    Attributes:
        id: The example's id.
        index: Index of the chosen paragraph in the example's `contexts`.
        source: Its name.
        score: Its probability among the candidates, 0..1.
        scores: The logit of every candidate, in their order; a paragraph's is that of its best window.
    """

    id: str
    index: int
    source: str
    score: float
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry of an n-best list: a slice `context[start:end]` of the named source."""

    text: str
    start: int
    end: int
    score: float
    logit: float
    source: str


@dataclass(frozen=True, slots=True)
class ReadPrediction:
    """The quote that answers a question.

    Attributes:
        id: The example's id.
        answer: The quote, `context[start:end]`; empty when there is none (`start == end == 0`).
        start: First character in the original context.
        end: First character after it.
        score: Probability of the span among all spans of all windows, 0..1.
        source: Name of the context.
        n_best: The best spans, best first, `answer` among them.
        null_score: Best span's logit subtracted from the no-answer logit; above the threshold in use the
            answer is empty. None where there is no span to compare with.
        index: Index of the context in the example's `contexts`.
        selected: Probability of the paragraph where one was selected, else None.
    """

    id: str
    answer: str
    start: int
    end: int
    score: float
    source: str
    n_best: tuple[Candidate, ...] = ()
    null_score: float | None = None
    index: int = 0
    selected: float | None = None
