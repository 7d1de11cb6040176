"""read: which characters of this paragraph are the answer?

Span reading after Devlin et al. (2019), sections 4.2 and 4.3.

The start and end logits of all windows of a question, each window's as log-probabilities, are searched together for
the n best spans; a pair that is no span (its end before its start, outside the context, longer than allowed) is never a
candidate, so the next best one takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from zhaiju.data.encoding import Encoding, Pair, Window, cover, locate
from zhaiju.data.examples import Candidate, QAExample, ReadPrediction, Span, asked_of, wrong_type
from zhaiju.data.formats import gold_answers
from zhaiju.errors import DataError
from zhaiju.tasks import metrics
from zhaiju.tasks.base import Floats, Head, Item, Judgement, OverParagraphs, Task, log_softmax, masked, means

NO_ANSWER = (0, 0)
TRIES = 4  # windows without an answer to choose one from


@dataclass(frozen=True)
class ReadTask(OverParagraphs, Task[QAExample, ReadPrediction]):
    """Span reading.

    Attributes:
        max_answer_chars: Longest span to consider, in characters; None or 0 for no limit.
        n_best: How many spans a prediction lists.
        null_threshold: Answer "" when the no-answer logit exceeds the best span's by more than this; None: always
            quote.
        no_answer_rate: Share of the windows without an answer that an epoch trains on, 0..1.
        random_windows: Train on one window an answer, at a random place around it, and at `no_answer_rate` on one
            window without it, of the same paragraph or of another candidate.
        mask_rate: Mean share of a window's tokens that training hides.
        temperature: Logits are divided by it (see `zhaiju.tasks.calibration`).
        max_answer_tokens: Longest span in tokens; None for no limit.
    """

    max_answer_chars: int | None = 50
    n_best: int = 5
    null_threshold: float | None = None
    no_answer_rate: float = 1.0
    random_windows: bool = False
    mask_rate: float = 0.0
    temperature: float = 1.0
    max_answer_tokens: int | None = None

    name = "read"
    unit = "question"
    head = Head("AutoModelForQuestionAnswering", "tokens")
    figures = ("em", "f1")
    fields = ("question", "context")
    probe: ClassVar = {"question": "a", "context": "b"}
    column = "answer"
    columns: ClassVar = {
        "id": "string",
        "answer": "string",
        "start": "int32",
        "end": "int32",
        "score": "float64",
        "source": "string",
        "index": "int32",
        "null_score": "float64",
        "selected": "float64",
        "confidence": "float64",
    }
    kept = ("max_answer_chars",)
    outcomes = metrics.OUTCOMES

    @classmethod
    def example(cls, identity: str, row: Mapping[str, Any]) -> QAExample:
        """A `question` and the `context` to read."""
        if not isinstance(row.get("context"), str):
            raise wrong_type(row.get("context"), "context", "a text")
        return asked_of(identity, row.get("question"), [row["context"]])

    @classmethod
    def missing(cls, example: QAExample) -> str | None:
        """Its answers."""
        return None if example.gold or example.impossible else "answers"

    def items(self, example: QAExample, encoding: Encoding, generator: np.random.Generator) -> list[Item]:
        """One item a window, labelled with the first answer that it holds whole.

        An answer that falls between two windows gets one of its own. An example without a usable answer gives
        nothing, unless it is marked as impossible: then all its windows say so.
        """
        if not example.answers and not example.impossible:
            return []
        if self.random_windows and example.answers:
            items = _random_items(example, encoding, generator, self.no_answer_rate)
        else:
            items = self._all_items(example, encoding, generator)
        if self.mask_rate:
            items = [Item([masked(item.windows[0], encoding, generator, self.mask_rate)], item.label) for item in items]
        return items

    def _all_items(self, example: QAExample, encoding: Encoding, generator: np.random.Generator) -> list[Item]:
        context = example.context.text
        items = []
        for window in encoding.windows(example.question, context, hold=example.answers):
            label = NO_ANSWER
            for span in example.answers:
                if (place := locate(window, span)) is not None:
                    label = place
                    break
            # Drawn for every window, so that a setting of 0.5 keeps what 0.6 keeps and fewer.
            if generator.random() < self.no_answer_rate or label != NO_ANSWER:
                items.append(Item([window], label))
        return items

    def encode(self, example: QAExample, encoding: Encoding) -> list[Window]:
        """The windows of the paragraph to read."""
        return encoding.windows(example.question, example.context.text)

    def decode(self, example: QAExample, windows: Sequence[Window], logits: Sequence[Floats]) -> ReadPrediction:
        """The best span over all windows, or no answer where that was asked for and is likelier."""
        context = example.context
        index = example.relevant or 0
        logs = [log_probabilities(window, value) for window, value in zip(windows, logits, strict=True)]
        found, evidence = search(
            context.text,
            windows,
            logs,
            n_best=self.n_best,
            max_answer_chars=self.max_answer_chars or None,
            max_answer_tokens=self.max_answer_tokens,
            temperature=self.temperature,
        )
        n_best = [
            Candidate(context.text[start:end], start, end, float(np.exp(logit - evidence)), logit, context.source)
            for start, end, logit in found
        ]
        if not n_best:
            return ReadPrediction(example.id, "", 0, 0, 0.0, context.source, index=index)
        best = n_best[0]
        # A window without the answer says so, and is right; the question has none only if every window says so.
        null = min(float(value[0, 0]) + float(value[1, 0]) for value in logs) / self.temperature
        null_score = (null - best.logit) * self.temperature  # so that a threshold means the same at any temperature
        if self.null_threshold is not None and null_score > self.null_threshold:
            score = float(np.exp(null - np.logaddexp(null, evidence)))  # "no answer" against all spans together
            return ReadPrediction(example.id, "", 0, 0, score, context.source, tuple(n_best), null_score, index)
        return ReadPrediction(
            example.id,
            best.text,
            best.start,
            best.end,
            best.score,
            context.source,
            tuple(n_best),
            null_score,
            index,
        )

    @classmethod
    def judge(cls, examples: Sequence[QAExample], predictions: Sequence[ReadPrediction]) -> Judgement:
        """By question; correct is an exact match by the course's definition.

        Raises:
            DataError: an example has no gold answer.
        """
        gold = _gold(examples)
        pairs = [metrics.course(prediction.answer, gold[prediction.id]) for prediction in predictions]
        em, f1 = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
        confidence = np.array([prediction.score for prediction in predictions], dtype=np.float64)
        return Judgement(confidence, em == 1, means(em=em, f1=f1))

    @classmethod
    def score(cls, examples: Sequence[QAExample], predictions: Sequence[ReadPrediction]) -> dict[str, float]:
        """All definitions of EM and F1; see `zhaiju.tasks.metrics`.

        Raises:
            DataError: an example has no gold answer.
        """
        return metrics.score_answers(_gold(examples), {prediction.id: prediction.answer for prediction in predictions})

    def outcome(self, example: QAExample, prediction: ReadPrediction, encoding: Encoding) -> str:
        """See `zhaiju.tasks.metrics.outcome`; the encoding's windows say whether the answer was lost to them."""
        held = not example.answers or any(
            window.start <= span.start and span.end <= window.end
            for window in encoding.windows(example.question, example.context.text)
            for span in example.answers
        )
        return metrics.outcome(example, prediction, held=held, max_answer_chars=self.max_answer_chars or None)

    @classmethod
    def value(cls, prediction: ReadPrediction, threshold: float | None = None) -> str:
        """The quote."""
        return "" if threshold is not None and prediction.score < threshold else prediction.answer

    @classmethod
    def gold(cls, path: Path, *, split: str | None = None, bio: str = "repair") -> dict[str, tuple[str, ...]]:
        """See `zhaiju.data.formats.gold_answers`."""
        return gold_answers(path)

    @classmethod
    def score_values(cls, gold: Mapping[str, Any], values: Mapping[str, str | int]) -> dict[str, float]:
        """As `score`."""
        return metrics.score_answers(gold, {row: str(value) for row, value in values.items()})


def _random_items(
    example: QAExample, encoding: Encoding, generator: np.random.Generator, no_answer_rate: float
) -> list[Item]:
    """A window around one of the answers; at a rate also one that holds none."""
    pair = encoding.pair(example.question, example.context.text)
    span = example.answers[int(generator.integers(len(example.answers)))]
    first, last = cover(pair.told, span.start, span.end)
    total, room = len(pair.told.ids), min(pair.capacity, len(pair.told.ids))
    items = []
    if first <= last < first + room:
        a = int(generator.integers(max(0, last + 1 - room), min(first, total - room) + 1))
        window = pair.window(a, a + room)
        label = locate(window, span)
        items.append(Item([window], NO_ANSWER if label is None else label))
    if generator.random() >= no_answer_rate:
        return items
    others = [context.text for context in example.contexts if context.text != example.context.text]
    if others and generator.random() < 0.5:
        other = others[int(generator.integers(len(others)))]
        wrong = _likeliest(encoding.pair(example.question, other), [], generator)
    else:
        wrong = _likeliest(pair, example.answers, generator) if total > room else None
    return items if wrong is None else [*items, Item([wrong], NO_ANSWER)]


def _likeliest(pair: Pair, answers: Sequence[Span], generator: np.random.Generator) -> Window | None:
    """Of a few random windows that touch no answer, the one whose tokens are most often the question's; or None."""
    total, room = len(pair.told.ids), min(pair.capacity, len(pair.told.ids))
    asked = np.array(pair.frame.head, dtype=np.int32)
    best, most = None, -1
    for _ in range(TRIES):
        a = int(generator.integers(0, total - room + 1))
        window = pair.window(a, a + room)
        if any(answer.start < window.end and window.start < answer.end for answer in answers):
            continue
        shared = int(np.isin(pair.told.ids[a : a + room], asked).sum())
        if shared > most:
            best, most = window, shared
    return best


def _gold(examples: Sequence[QAExample]) -> dict[str, tuple[str, ...]]:
    gold = {}
    for example in examples:
        if not example.gold and not example.impossible:
            raise DataError("no answer to score against", row=example.id, field="answers")
        gold[example.id] = example.gold or ("",)
    return gold


def log_probabilities(window: Window, logits: Floats) -> Floats:
    """The logits [2, T] as log-probabilities over the window's context tokens and its first, which stands for "none".

    So spans of several windows can be compared: one that does not hold the answer says so, whatever its logits.
    """
    counted = window.starts >= 0
    counted[0] = True
    own = logits[:, counted].astype(np.float64)
    found: Floats = logits - (own - log_softmax(own))[:, :1].astype(np.float32)
    return found


def search(
    context: str,
    windows: Sequence[Window],
    logits: Sequence[Floats],
    *,
    n_best: int,
    max_answer_chars: int | None,
    max_answer_tokens: int | None = None,
    temperature: float = 1.0,
) -> tuple[list[tuple[int, int, float]], float]:
    """The best spans over all windows of a question.

    A span begins and ends with a visible character: white space that a tokenizer counts to a word is not its.

    Args:
        context: The text that the windows are of.
        windows: The windows.
        logits: For each window float [2, T]: start and end logits.
        n_best: How many distinct spans to return, at most.
        max_answer_chars: Longest span; None for no limit.
        max_answer_tokens: The same in tokens.
        temperature: What logits are divided by, after the ranking: rounding must not change it.

    Returns:
        Spans `(start, end, logit)` in characters of the context, best first, of equal ones the earlier and then
        the shorter first; and the logarithm of the summed exponentials of all allowed spans' logits, so that
        `exp(logit - that)` is a probability.
    """
    kept: dict[tuple[int, int], float] = {}
    evidence = -np.inf
    following, preceding = _visible(context)
    for window, value in zip(windows, logits, strict=True):
        inside = np.flatnonzero(window.starts >= 0)
        if not len(inside):
            continue
        spans, scores = _spans(
            following[window.starts[inside]],
            preceding[window.ends[inside]],
            value[:, inside].astype(np.float64),
            max_answer_chars,
            max_answer_tokens,
        )
        if not len(scores):
            continue
        evidence = float(np.logaddexp(evidence, _log_sum_exp(scores / temperature)))
        for span, score in _top(spans, scores, n_best).items():
            kept[span] = max(score, kept.get(span, -np.inf))
    ranked = sorted(kept.items(), key=lambda entry: (-entry[1], entry[0]))
    return [(start, end, score / temperature) for (start, end), score in ranked[:n_best]], evidence


def _visible(text: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each place 0..len: the first visible character from it on, and the end of the last one before it."""
    total = len(text)
    visible = np.fromiter((not character.isspace() for character in text), np.bool_, total)
    places = np.arange(total)
    following = np.minimum.accumulate(np.where(visible, places, total)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(visible, places + 1, 0))
    return np.append(following, total), np.insert(preceding, 0, 0)


def _spans(
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    logits: npt.NDArray[np.float64],
    max_answer_chars: int | None,
    max_answer_tokens: int | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Every allowed span of a window: int64 [S, 2] characters and float64 [S] logits.

    The spans from token i are a run of last tokens i..limit[i], so all of them lie in a band of a [T, T] table
    as wide as the longest run.
    """
    total = len(starts)
    if max_answer_chars is None:
        limit = np.full(total, total - 1)
    else:
        limit = np.searchsorted(ends, starts + min(max_answer_chars, int(ends[-1])), side="right") - 1
    if max_answer_tokens is not None:
        limit = np.minimum(limit, np.arange(total) + min(max_answer_tokens, total) - 1)
    width = int((limit - np.arange(total)).max()) + 1
    if width <= 0:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    first = np.arange(total)[:, None]  # [T, 1]
    last = first + np.arange(width)[None, :]  # [T, width]
    allowed = last <= limit[:, None]
    first, last = np.broadcast_to(first, last.shape)[allowed], last[allowed]  # [S]
    wide = ends[last] > starts[first]  # not so for white space, or a piece of a character that has no width
    first, last = first[wide], last[wide]
    return np.stack([starts[first], ends[last]], axis=1), logits[0, first] + logits[1, last]


def _top(spans: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], most: int) -> dict[tuple[int, int], float]:
    """The `most` best distinct spans; of equal ones the earlier, then the shorter ones.

    A byte-level tokenizer has several tokens to a character, and so one span under many names.
    """
    best: dict[tuple[int, int], float] = {}
    size = most
    while True:
        if len(scores) > size:
            chosen = np.flatnonzero(scores >= np.partition(scores, len(scores) - size)[len(scores) - size])
        else:
            chosen = np.arange(len(scores))
        for place in chosen[np.lexsort((spans[chosen, 1], spans[chosen, 0], -scores[chosen]))]:
            best.setdefault((int(spans[place, 0]), int(spans[place, 1])), float(scores[place]))
            if len(best) == most:
                return best
        if len(chosen) == len(scores):
            return best
        size *= 4


def _log_sum_exp(values: npt.NDArray[np.float64]) -> float:
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).sum()))
