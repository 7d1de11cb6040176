"""The contract between files, tasks and users: what goes in (examples) and what comes out (predictions).

All offsets count characters (Unicode code points, as Python's `str` does) of the *original* text and are
half-open: `context[start:end]`. They are checked on construction, so whoever holds an example may trust it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from zhaiju.errors import DataError, verbatim

OUT_OF_SCOPE = "oos"  # CLINC150's name for "none of the classes"

_SURROGATE = re.compile("[\ud800-\udfff]")
TAG = re.compile(r"O|[BI]-\S+")


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

    @property
    def texts(self) -> tuple[str, ...]:
        """All its texts."""
        return (self.question, *(context.text for context in self.contexts))

    def bare(self) -> QAExample:
        """What scoring needs of it: gold and the number of paragraphs, but none of their texts."""
        return replace(self, question=_NO_TEXT, contexts=_no_contexts(len(self.contexts)), answers=())


def asked_of(identity: str, question: Any, paragraphs: Sequence[Any]) -> QAExample:
    """A question over paragraphs that are quoted by their place among them; of one it is the relevant one.

    Raises:
        DataError: a text is empty or none.
    """
    contexts = tuple(Context(text, str(place)) for place, text in enumerate(paragraphs))
    return QAExample(identity, question, contexts, relevant=0 if len(contexts) == 1 else None)


_NO_TEXT = "…"


@lru_cache(maxsize=256)
def _no_contexts(count: int) -> tuple[Context, ...]:
    return (Context(_NO_TEXT, ""),) * count


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A class and its probability, 0..1."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class IntentPrediction:
    """What an utterance is about.

    Attributes:
        id: The example's id.
        label: The likeliest class.
        score: Its probability, 0..1.
        n_best: The likeliest classes, best first.
        loss: Negative log-probability, at temperature 1, of the example's own class; None where it has none, or one
            that is not known.
    """

    id: str
    label: str
    score: float
    n_best: tuple[LabelScore, ...]
    loss: float | None = None

    def bare(self) -> IntentPrediction:
        """What scoring needs of it: of `n_best` the likeliest class that is one."""
        inside = next((entry for entry in self.n_best if entry.label != OUT_OF_SCOPE), None)
        return replace(self, n_best=() if inside is None else (inside,))


@dataclass(frozen=True, slots=True)
class SlotSpan:
    """A filled slot: half-open, in characters of the sentence (`sentence[start:end] == text`).

    Where words were given and no sentence, `start` and `end` count words, and `text` is the words joined by spaces.
    `score` is the probability of its least sure tag, 0..1.
    """

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class SlotPrediction:
    """The slots of an utterance.

    Attributes:
        id: The example's id.
        tags: A tag for each word, well-formed BIO.
        spans: The filled slots, in order.
        scores: Probability of each tag, 0..1.
        pieces: Number of word pieces of each word; 0 for a blank one.
        loss: Mean negative log-probability, at temperature 1, of the example's own tags; None where it has none, or
            one that is not known.
    """

    id: str
    tags: tuple[str, ...]
    spans: tuple[SlotSpan, ...]
    scores: tuple[float, ...]
    pieces: tuple[int, ...]
    loss: float | None = None

    def bare(self) -> SlotPrediction:
        """What scoring needs of it: the tags, but not the spans."""
        return replace(self, spans=())


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

    def bare(self) -> SelectPrediction:
        """What scoring needs of it: the choice, but not the logits."""
        return replace(self, scores=())


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
        confidence: Probability that the answer is right, 0..1, where a paragraph was selected, else None.
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
    confidence: float | None = None

    def bare(self) -> ReadPrediction:
        """What scoring needs of it: the answer, but not the runners-up."""
        return replace(self, n_best=())


@dataclass(frozen=True, slots=True)
class IntentExample:
    """An utterance and its class.

    Attributes:
        id: Unique in its file.
        text: The utterance.
        label: Its class; None where it is not known.

    Raises:
        DataError: the utterance or the class is empty.
    """

    id: str
    text: str
    label: str | None

    def __post_init__(self) -> None:
        check_text(self.text, "text")
        if self.label is not None:
            check_text(self.label, "intent")

    @property
    def texts(self) -> tuple[str, ...]:
        """All its texts."""
        return (self.text,)

    def bare(self) -> IntentExample:
        """What scoring needs of it: the class."""
        return replace(self, text=_NO_TEXT, label=None if self.label is None else sys.intern(self.label))


@dataclass(frozen=True, slots=True)
class SlotExample:
    """An utterance as words, and a tag for each.

    Attributes:
        id: Unique in its file.
        tokens: The words, at least one; real data has empty ones.
        tags: As many; each "O", "B-x" or "I-x", in an order that need not be well-formed. None where not known.
        text: The sentence that the words are slices of, if there is one.
        offsets: Half-open characters of each word in `text`, in order and without overlap.

    Raises:
        DataError: there is no word, tags or offsets are not as many, a tag has another form, or a word does not
            stand at its place.
    """

    id: str
    tokens: tuple[str, ...]
    tags: tuple[str, ...] | None
    text: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if not self.tokens:
            raise DataError("no word in it", field="tokens", found=[], expected="at least one", row=self.id)
        for place, word in enumerate(self.tokens):
            check_text(word, f"tokens[{place}]", empty_allowed=True)
        if self.tags is not None:
            self._as_many(self.tags, "tags")
            for place, tag in enumerate(self.tags):
                if not TAG.fullmatch(check_text(tag, f"tags[{place}]", empty_allowed=True)):
                    raise DataError(
                        "unknown form of tag",
                        field=f"tags[{place}]",
                        found=tag,
                        expected="O, B- and a label, or I- and a label",
                        row=self.id,
                    )
        if (self.text is None) != (self.offsets is None):
            raise DataError("a sentence and offsets go together", field="offsets", expected="both", row=self.id)
        if self.text is not None and self.offsets is not None:
            self._as_many(self.offsets, "offsets")
            self._aligned(check_text(self.text, "text"), self.offsets)

    @property
    def texts(self) -> tuple[str, ...]:
        """All its texts."""
        return (" ".join(self.tokens),)

    def bare(self) -> SlotExample:
        """What scoring needs of it: the tags."""
        tags = None if self.tags is None else tuple(map(sys.intern, self.tags))
        return replace(self, tokens=("",) * len(self.tokens), tags=tags, text=None, offsets=None)

    def _as_many(self, values: tuple[object, ...], name: str) -> None:
        if len(values) != len(self.tokens):
            raise DataError(
                f"not as many {name} as words",
                field=name,
                found=verbatim(f"{len(values)} {name}"),
                expected=f"{len(self.tokens)}, one for each word",
                row=self.id,
            )

    def _aligned(self, text: str, offsets: tuple[tuple[int, int], ...]) -> None:
        before = 0
        for place, (word, (start, end)) in enumerate(zip(self.tokens, offsets, strict=True)):
            if not before <= start <= end or text[start:end] != word:
                raise DataError(
                    f"word {word!r} does not stand at {start}..{end}",
                    field=f"offsets[{place}]",
                    found=text[max(start, 0) : max(end, 0)],
                    expected=f"{word!r}, after the word before it",
                    row=self.id,
                )
            before = end
