"""slots: which words of this utterance fill a slot, and which slot?

Tagging in BIO form (Ramshaw and Marcus, 1995) after Devlin et al. (2019): a word is tagged by its first piece. The
likeliest *well-formed* sequence is taken, so no prediction has an I- tag without its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from zhaiju.data.encoding import Encoding, Window
from zhaiju.data.examples import SlotExample, SlotPrediction, SlotSpan
from zhaiju.data.formats import ReadLog
from zhaiju.data.labelled import BIO, read_slots, slot_example
from zhaiju.errors import DataError
from zhaiju.tasks.base import IGNORED, Floats, Head, Item, Judgement, Task, log_softmax, mean_loss, means
from zhaiju.tasks.tagging import entities, slot_report, slot_table

SPAN = {"label": "string", "text": "string", "start": "int32", "end": "int32", "score": "float64"}


@dataclass(frozen=True)
class SlotsTask(Task[SlotExample, SlotPrediction]):
    """Slot tagging.

    Attributes:
        labels: The tags, in the order of the logits; "O" is among them.
        pieces: "first": a word is learnt and told by its first piece; "all": every piece has the word's tag, and
            the mean of their logits tells.
        temperature: Logits are divided by it (see `zhaiju.tasks.calibration`).
    """

    labels: tuple[str, ...]
    pieces: str = "first"
    temperature: float = 1.0

    name = "slots"
    unit = "word"
    head = Head("AutoModelForTokenClassification", "labels", per_token=True)
    figures = ("f1", "token_accuracy", "sentence_accuracy")
    fields = ("tokens", "text")
    probe: ClassVar = {"tokens": ["a"]}
    column = "tags"
    columns: ClassVar = {"id": "string", "tags": ["string"], "spans": [SPAN]}
    kept = ("pieces",)

    @classmethod
    def read(cls, path: Path, *, bio: str = "repair", log: ReadLog | None = None, **_: Any) -> Iterator[SlotExample]:
        """See `zhaiju.data.labelled.read_slots`."""
        return read_slots(path, bio=cast(BIO, bio), log=log)

    @classmethod
    def example(cls, identity: str, row: Mapping[str, Any]) -> SlotExample:
        """An utterance as `tokens`, words, with their `tags`; or as `text`, which is cut into words."""
        return slot_example(identity, row)

    @classmethod
    def missing(cls, example: SlotExample) -> str | None:
        """Its tags."""
        return "tags" if example.tags is None else None

    @classmethod
    def classes(cls, examples: Sequence[SlotExample]) -> tuple[str, ...]:
        """The tag O, and a B- and an I- tag of each kind in the examples, whether or not both occur.

        Raises:
            DataError: an example has no tags.
        """
        kinds = sorted({tag[2:] for tags in _gold(examples, "train on") for tag in tags if tag != "O"})
        return ("O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))

    @classmethod
    def refused(cls, labels: Sequence[str]) -> str | None:
        """The first of the classes that is no BIO tag, or an I- tag whose B- tag is missing; "no O"."""
        wrong = [name for name in labels if name != "O" and not (name[:2] in ("B-", "I-") and name[2:])]
        wrong += [name for name in labels if name[:2] == "I-" and f"B-{name[2:]}" not in labels]  # it could never begin
        problem = repr(wrong[0]) if wrong else None if "O" in labels else "'no O'"
        return problem and f"{problem} apart, expected O, B-… and I-…; is it a tagger?"

    def items(self, example: SlotExample, encoding: Encoding, generator: np.random.Generator) -> list[Item]:
        """One item a window: the first piece of each word (or each piece) has the word's tag, all other tokens none.

        Raises:
            DataError: the example has no tags, or one that is not among `labels`.
        """
        if example.tags is None:
            raise DataError("no tags to train on", row=example.id, field="tags")
        for tag in example.tags:
            if tag not in self.labels:
                raise DataError("an unknown tag", row=example.id, field="tags", found=tag)
        items = []
        windows = encoding.word_windows(example.tokens)
        for window, (places, words) in zip(windows, _first_pieces(_pieces(windows), windows), strict=True):
            label = np.full(len(window), IGNORED, dtype=np.int64)
            if self.pieces == "all":
                places = np.flatnonzero(window.starts >= 0)
                words = window.starts[places].astype(np.int64)
            for place, word in zip(places, words, strict=True):
                label[place] = self.labels.index(example.tags[word])
            if targets := int((label != IGNORED).sum()):
                items.append(Item([window], tuple(label.tolist()), targets))
        return items

    def encode(self, example: SlotExample, encoding: Encoding) -> list[Window]:
        """The windows of the utterance."""
        return encoding.word_windows(example.tokens)

    def decode(self, example: SlotExample, windows: Sequence[Window], logits: Sequence[Floats]) -> SlotPrediction:
        """The likeliest well-formed tags and their spans. A word without pieces, a blank one, is "O"."""
        total = len(example.tokens)
        outside = self.labels.index("O")
        found = np.full((total, len(self.labels)), -np.inf)
        found[:, outside] = 0.0
        depth = np.full(total, -1)  # where windows overlap, the one with more around the word decides
        pieces = _pieces(windows)
        for window, value, (places, words) in zip(windows, logits, _first_pieces(pieces, windows), strict=True):
            around = np.minimum(places, len(window) - 1 - places)
            better = around > depth[words]
            chosen = words[better]
            depth[chosen] = around[better]
            if self.pieces == "all":
                value = _mean_of_words(window, value)
            found[chosen] = value[places[better]]
        best = best_tags(found, self.labels)  # before the temperature, whose rounding must not change it
        logs = log_softmax(found / self.temperature)
        tags = tuple(self.labels[index] for index in best)
        scores = np.exp(logs[np.arange(total), best])
        spans = tuple(_span(example, label, start, end, scores) for label, start, end in entities(tags))
        counts = tuple(np.bincount(pieces, minlength=total).tolist())
        loss = None
        if example.tags is not None and set(example.tags) <= set(self.labels):
            words = np.flatnonzero(depth >= 0)  # not the blank ones
            own = [self.labels.index(example.tags[word]) for word in words]
            loss = -float(log_softmax(found[words])[np.arange(len(words)), own].mean()) if len(words) else 0.0
        return SlotPrediction(example.id, tags, spans, tuple(scores.tolist()), counts, loss)

    @classmethod
    def judge(cls, examples: Sequence[SlotExample], predictions: Sequence[SlotPrediction]) -> Judgement:
        """By word, blank ones left out; figures by utterance.

        Raises:
            DataError: an example has no tags.
        """
        correct: list[bool] = []
        confidence: list[float] = []
        spans, words, whole = [], [], []
        for gold, prediction in zip(_gold(examples), predictions, strict=True):
            right = [expected == found for expected, found in zip(gold, prediction.tags, strict=True)]
            seen = [place for place, count in enumerate(prediction.pieces) if count]  # a blank word is no guess
            correct += [right[place] for place in seen]
            confidence += [prediction.scores[place] for place in seen]
            expected, found = set(entities(gold)), set(entities(prediction.tags))
            spans.append((2 * len(expected & found), len(expected) + len(found)))
            words.append((sum(right), len(right)))
            whole.append(all(right))
        return Judgement(
            np.array(confidence, dtype=np.float64),
            np.array(correct, dtype=np.bool_),
            {
                "f1": np.asarray(spans, np.float64).reshape(-1, 2),
                "token_accuracy": np.asarray(words, np.float64).reshape(-1, 2),
                **means(sentence_accuracy=whole),
            },
        )

    @classmethod
    def score(cls, examples: Sequence[SlotExample], predictions: Sequence[SlotPrediction]) -> dict[str, float]:
        """See `zhaiju.tasks.tagging.slot_report`; and `loss`, the mean over utterances of their tags' mean loss.

        Raises:
            DataError: an example has no tags.
        """
        report = slot_report(
            _gold(examples),
            [prediction.tags for prediction in predictions],
            [prediction.pieces for prediction in predictions],
        )
        return report | mean_loss(prediction.loss for prediction in predictions)

    @classmethod
    def tables(
        cls, examples: Sequence[SlotExample], predictions: Sequence[SlotPrediction]
    ) -> dict[str, list[dict[str, Any]]]:
        """How well each kind of slot is found."""
        return {"classes": [dict(row) for row in slot_table(_gold(examples), [one.tags for one in predictions])]}

    @classmethod
    def confidence(cls, prediction: SlotPrediction) -> float:
        """That of its least sure slot."""
        return min((span.score for span in prediction.spans), default=1.0)

    @classmethod
    def value(cls, prediction: SlotPrediction, threshold: float | None = None) -> str:
        """The tags, separated by spaces; no slot whose least sure word is less sure than the threshold."""
        tags = list(prediction.tags)
        for _, start, end in entities(tags):
            if threshold is not None and min(prediction.scores[start:end]) < threshold:
                tags[start:end] = ["O"] * (end - start)
        return " ".join(tags)

    @classmethod
    def parse(cls, example: SlotExample, value: str | int | None) -> SlotPrediction:
        """Tags, without their probabilities; in the place of none some that no gold has: its O is wrong then too.

        Raises:
            DataError: they are not as many as the words.
        """
        total = len(example.tokens)
        tags = ["?"] * total if value is None else str(value).split()
        if len(tags) != total:
            raise DataError(
                "not as many tags as words", row=example.id, field="tags", found=tags, expected=f"{total} tags"
            )
        return SlotPrediction(example.id, tuple(tags), (), (), (1,) * total)

    @classmethod
    def score_values(cls, gold: Mapping[str, Any], values: Mapping[str, str | int]) -> dict[str, float]:
        """As `score`, without what counts pieces, of which a file knows nothing."""
        report = super().score_values(gold, values)
        return {name: value for name, value in report.items() if not name.endswith("_all_pieces")}


def _gold(examples: Sequence[SlotExample], what: str = "score against") -> list[tuple[str, ...]]:
    tags = []
    for example in examples:
        if example.tags is None:
            raise DataError(f"no tags to {what}", row=example.id, field="tags")
        tags.append(example.tags)
    return tags


def _pieces(windows: Sequence[Window]) -> npt.NDArray[np.int64]:
    """int64 [pieces], the word that each piece of the utterance is of: all windows joined."""
    words = np.zeros(max((window.first + int((window.starts >= 0).sum()) for window in windows), default=0), np.int64)
    for window in windows:
        inside = window.starts[window.starts >= 0]
        words[window.first : window.first + len(inside)] = inside
    return words


def _first_pieces(
    pieces: npt.NDArray[np.int64], windows: Sequence[Window]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """For each window the places in it of words' first pieces, and the words.

    A window may begin inside a word, with a piece that is not its first one.
    """
    first = np.flatnonzero(np.diff(pieces, prepend=-1))
    for window in windows:
        inside = np.flatnonzero(window.starts >= 0)
        here = first[(first >= window.first) & (first < window.first + len(inside))]
        yield here - window.first + (int(inside[0]) if len(inside) else 0), pieces[here]


def _mean_of_words(window: Window, logits: Floats) -> Floats:
    """The logits [T, L] with those of each word's pieces in the window replaced by their mean."""
    inside = np.flatnonzero(window.starts >= 0)
    if not len(inside):
        return logits
    _, first, place, count = np.unique(
        window.starts[inside], return_index=True, return_inverse=True, return_counts=True
    )
    means = logits.copy()
    means[inside] = (np.add.reduceat(logits[inside], first, axis=0) / count[:, None])[place]
    return means


def _span(example: SlotExample, label: str, start: int, end: int, scores: npt.NDArray[np.float64]) -> SlotSpan:
    """The words `[start, end)` as a quote of the sentence, or where there is none, as words."""
    score = float(scores[start:end].min())  # as sure as its least sure word
    if example.text is None or example.offsets is None:
        return SlotSpan(label, " ".join(example.tokens[start:end]), start, end, score)
    first, last = example.offsets[start][0], example.offsets[end - 1][1]
    return SlotSpan(label, example.text[first:last], first, last, score)


@lru_cache(maxsize=16)
def _well_formed(labels: tuple[str, ...]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(Which of the labels may come first, [L]; which may follow which, [L, L])."""
    begins = np.array([not label.startswith("I-") for label in labels])
    return begins, np.array([[after[:2] != "I-" or before[2:] == after[2:] for after in labels] for before in labels])


def best_tags(logs: npt.NDArray[np.float64], labels: Sequence[str]) -> npt.NDArray[np.intp]:
    """The likeliest sequence of tags that is well-formed (Viterbi, 1967).

    Args:
        logs: float64 [words, L], log-probability of each tag, or its logit: what all tags of a word have in common
            does not matter.
        labels: The L tags.

    Returns:
        intp [words].
    """
    total = len(logs)
    best: npt.NDArray[np.intp] = logs.argmax(axis=1)
    begins, allowed = _well_formed(tuple(labels))
    if not total or (begins[best[0]] and allowed[best[:-1], best[1:]].all()):
        return best
    barred = np.where(allowed, 0.0, -1e9)  # finite: where nothing else is left, the least bad sequence is taken
    score = logs[0] + np.where(begins, 0.0, -1e9)
    back = np.zeros((total, len(labels)), dtype=np.intp)
    for word in range(1, total):
        paths = score[:, None] + barred
        back[word] = paths.argmax(axis=0)
        score = paths.max(axis=0) + logs[word]
    best[-1] = score.argmax()
    for word in range(total - 1, 0, -1):
        best[word - 1] = back[word, best[word]]
    return best
