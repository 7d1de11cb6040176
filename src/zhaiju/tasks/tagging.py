"""Scores of intent and slots: pure functions of predictions and gold. No model, no tokenizer, no file.

Slots are tags in BIO form (Ramshaw and Marcus, 1995), scored by whole entities (Tjong Kim Sang and De Meulder, 2003).
Two readings of malformed tags stand side by side, both as seqeval 1.2.2 has them: its default, that of the CoNLL
script, lets an I- tag begin an entity; its strict mode (IOB2) wants a B- tag.

Intervals are percentiles of a bootstrap over examples (Efron, 1979), and two systems are compared by an approximate
randomisation test (Noreen, 1989), so that F1, which is no mean over examples, is resampled as the ratio it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import count
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from zhaiju.data.examples import OUT_OF_SCOPE
from zhaiju.tasks.metrics import accuracy

Entity = tuple[str, int, int]
Tags = Sequence[str]
Floats = npt.NDArray[np.float64]
Numbers = Sequence[float] | npt.NDArray[Any]

CELLS = 1 << 20  # numbers that a chunk of resamples may hold


class ClassScore(TypedDict):
    """A class and how well it was found; `support` is how often gold has it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def entities(tags: Tags) -> list[Entity]:
    """`(label, start, end)` of every entity, half-open in words, by seqeval's default reading.

    An entity goes on while I- tags of its label follow; any other B- or I- tag begins one.
    """
    return _entities(tags, strict=False)


def strict_entities(tags: Tags) -> list[Entity]:
    """The same by seqeval's strict reading (IOB2): only a B- tag begins an entity."""
    return _entities(tags, strict=True)


def _entities(tags: Tags, *, strict: bool) -> list[Entity]:
    found: list[Entity] = []
    open_label: str | None = None
    for place, tag in enumerate(tags):
        # seqeval drops every dash around a label in its strict mode, and only the first one otherwise.
        label = (tag[1:].strip("-") if strict else tag[1:].removeprefix("-")) or "_"
        if tag[0] == "I" and label == open_label:
            found[-1] = (label, found[-1][1], place + 1)
        elif tag[0] == "B" or (tag[0] == "I" and not strict):
            found.append((label, place, place + 1))
            open_label = label
        else:
            open_label = None
    return found


def slot_report(gold: Sequence[Tags], predicted: Sequence[Tags], pieces: Sequence[Sequence[int]]) -> dict[str, float]:
    """Figures of slot filling on 0..1.

    Args:
        gold: The tags of every sentence, one a word.
        predicted: As many.
        pieces: Number of word pieces of every word.

    Returns:
        `count` of sentences; `f1`, `precision`, `recall`, over all entities, one tag a word; the same as `f1_strict`,
        …, and as `f1_all_pieces`, … and `token_accuracy_all_pieces`, where a word's tag stands once for each of its
        pieces (a B- tag as B-: how some published figures count); `token_accuracy`, over words;
        `sentence_accuracy`, of sentences with every tag right; and `f1_low`, `f1_high`, `sentence_accuracy_low`,
        `sentence_accuracy_high`.
    """
    repeated_gold = [_repeat(tags, counts) for tags, counts in zip(gold, pieces, strict=True)]
    repeated_predicted = [_repeat(tags, counts) for tags, counts in zip(predicted, pieces, strict=True)]
    default = _entity_counts(gold, predicted, entities)
    counted = {
        "": default,
        "_strict": _entity_counts(gold, predicted, strict_entities),
        "_all_pieces": _entity_counts(repeated_gold, repeated_predicted, entities),
    }
    right = _right_tags(gold, predicted)
    right_pieces = _right_tags(repeated_gold, repeated_predicted)
    whole = (right[:, 0] == right[:, 1]).astype(np.float64)
    ones = np.ones(len(whole))
    report: dict[str, float] = {"count": len(gold)}
    for suffix, counts in counted.items():
        values = _precision_recall_f1(*counts.sum(axis=0))
        report |= {name + suffix: value for name, value in zip(("precision", "recall", "f1"), values, strict=True)}
    report["token_accuracy"] = _ratio(*right.sum(axis=0))
    report["token_accuracy_all_pieces"] = _ratio(*right_pieces.sum(axis=0))
    report["sentence_accuracy"] = _ratio(whole.sum(), len(whole))
    report["f1_low"], report["f1_high"] = ratio_bootstrap(2 * default[:, 0], default[:, 1] + default[:, 2])
    report["sentence_accuracy_low"], report["sentence_accuracy_high"] = ratio_bootstrap(whole, ones)
    return report


def slot_table(gold: Sequence[Tags], predicted: Sequence[Tags]) -> list[ClassScore]:
    """Precision, recall and F1 of every label, by its name; one tag a word, seqeval's default reading."""
    return _class_scores(_placed_entities(gold), _placed_entities(predicted))


def intent_report(
    gold: Sequence[str], predicted: Sequence[str], confidence: Sequence[float], oos: str = OUT_OF_SCOPE
) -> dict[str, float]:
    """Figures of intent classification on 0..1.

    Args:
        gold: The class of every utterance.
        predicted: As many.
        confidence: How sure the system is that the utterance is of one of the classes other than `oos`.
        oos: The class of utterances that are of no class (Larson et al., 2019).

    Returns:
        `count`, `accuracy`, `accuracy_low`, `accuracy_high`, and `macro_f1`, the mean over the classes in gold or
        predicted. If gold has out-of-scope rows, `oos_recall` and `oos_precision`; if it has others too,
        `in_scope_accuracy` and `oos_auroc`, the chance that `confidence` is lower for a random one of the
        former than for a random one of the latter, ties by half.
    """
    correct = np.array([label == ours for label, ours in zip(gold, predicted, strict=True)], dtype=np.bool_)
    outside = np.array([label == oos for label in gold], dtype=np.bool_)
    report = accuracy(correct)
    table = {score["label"]: score for score in intent_table(gold, predicted)}
    report["macro_f1"] = sum(score["f1"] for score in table.values()) / max(len(table), 1)
    if outside.any():
        report["oos_recall"] = table[oos]["recall"]
        report["oos_precision"] = table[oos]["precision"]
        if not outside.all():
            sure = np.asarray(confidence, dtype=np.float64)
            report["in_scope_accuracy"] = float(correct[~outside].mean())
            report["oos_auroc"] = auroc(sure[~outside], sure[outside])
    return report


def intent_table(gold: Sequence[str], predicted: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of every class in gold or predicted, by its name."""
    return _class_scores(set(zip(gold, count())), set(zip(predicted, count())))


def confusions(gold: Sequence[str], predicted: Sequence[str], most: int = 20) -> list[tuple[str, str, int]]:
    """The most frequent wrong pairs `(gold, predicted, count)`, most frequent first, then by name."""
    counts = Counter(pair for pair in zip(gold, predicted, strict=True) if pair[0] != pair[1])
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [(label, ours, times) for (label, ours), times in ordered[:most]]


def auroc(higher: Numbers, lower: Numbers) -> float:
    """The chance that a random one of `higher` exceeds a random one of `lower`, ties by half (Mann and Whitney, 1947).

    Both hold at least one number.
    """
    values = np.concatenate([higher, lower])
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # from 1; equal values share their mean
    n, m = len(higher), len(lower)
    return float((ranks[place[:n]].sum() - n * (n + 1) / 2) / (n * m))


def ratio_bootstrap(
    numerator: Numbers, denominator: Numbers, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the sum of [N] numerators over the sum of [N] denominators, 0 for 0 / 0."""
    if not len(numerator) or not resamples:
        return 0.0, 0.0
    rows = np.stack([numerator, denominator], axis=1).astype(np.float64)
    sums = _resampled(rows, resamples, np.random.default_rng(seed))
    return _interval(_ratios(sums[:, 0], sums[:, 1]))


def paired_test(
    numerator_a: Numbers,
    denominator_a: Numbers,
    numerator_b: Numbers,
    denominator_b: Numbers,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float, float]:
    """Compare two systems on the same [N] examples, each by its sum of numerators over its sum of denominators.

    Returns:
        The difference b - a; its 95 % interval by a paired bootstrap; and p, two-sided, of an approximate
        randomisation test: how often the difference is as large when each example's a and b change places with
        probability one half, `(1 + hits) / (1 + resamples)`.
    """
    if not len(numerator_a):
        return 0.0, 0.0, 0.0, 1.0
    generator = np.random.default_rng(seed)
    rows = np.stack([numerator_a, denominator_a, numerator_b, denominator_b], axis=1).astype(np.float64)
    total = rows.sum(axis=0)
    difference = float(_differences(total[None])[0])
    low, high = _interval(_differences(_resampled(rows, resamples, generator)))
    steps, counts = np.unique(rows[:, 2:] - rows[:, :2], axis=0, return_counts=True)
    hits = 0
    for size in _chunks(resamples, len(steps)):
        moved = generator.binomial(counts, 0.5, size=(size, len(steps))) @ steps  # [size, 2]
        swapped = _differences(np.concatenate([total[:2] + moved, total[2:] - moved], axis=1))
        hits += int((np.abs(swapped) >= abs(difference) - 1e-12).sum())
    return difference, low, high, (1 + hits) / (1 + resamples)


def _repeat(tags: Tags, counts: Sequence[int]) -> list[str]:
    return [tag for tag, times in zip(tags, counts, strict=True) for _ in range(times)]


def _entity_counts(
    gold: Sequence[Tags], predicted: Sequence[Tags], read: Callable[[Tags], list[Entity]]
) -> npt.NDArray[np.int64]:
    """int64 [sentences, 3]: entities found rightly, found, and expected."""
    rows = []
    for tags, ours in zip(gold, predicted, strict=True):
        expected, found = set(read(tags)), set(read(ours))
        rows.append((len(expected & found), len(found), len(expected)))
    return np.asarray(rows, dtype=np.int64).reshape(-1, 3)


def _placed_entities(sentences: Sequence[Tags]) -> set[tuple[str, Hashable]]:
    return {(label, (row, start, end)) for row, tags in enumerate(sentences) for label, start, end in entities(tags)}


def _right_tags(gold: Sequence[Tags], predicted: Sequence[Tags]) -> npt.NDArray[np.int64]:
    """int64 [sentences, 2]: tags that are right, and tags."""
    rows = [
        (sum(tag == other for tag, other in zip(tags, ours, strict=True)), len(tags))
        for tags, ours in zip(gold, predicted, strict=True)
    ]
    return np.asarray(rows, dtype=np.int64).reshape(-1, 2)


def _class_scores(expected: set[tuple[str, Hashable]], found: set[tuple[str, Hashable]]) -> list[ClassScore]:
    """From what there is and what was found, each as its label and its place."""
    right, ours, gold = (Counter(label for label, _ in items) for items in (expected & found, found, expected))
    table: list[ClassScore] = []
    for label in sorted(gold | ours):
        precision, recall, f1 = _precision_recall_f1(right[label], ours[label], gold[label])
        table.append({"label": label, "precision": precision, "recall": recall, "f1": f1, "support": gold[label]})
    return table


def _precision_recall_f1(right: float, found: float, expected: float) -> tuple[float, float, float]:
    return _ratio(right, found), _ratio(right, expected), _ratio(2 * right, found + expected)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0


def _ratios(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator != 0)


def _differences(sums: Floats) -> Floats:
    """From sums [R, 4] of numerator and denominator of a, then of b: the ratios' difference b - a, [R]."""
    return _ratios(sums[:, 2], sums[:, 3]) - _ratios(sums[:, 0], sums[:, 1])


def _resampled(rows: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Column sums [resamples, K] of as many rows [N, K] drawn with replacement.

    How often each *distinct* row is drawn is multinomial, so that the work grows with their number and not with N.
    """
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    drawn = (
        generator.multinomial(len(rows), counts / len(rows), size=size) @ distinct
        for size in _chunks(resamples, len(distinct))
    )
    return np.concatenate(list(drawn))


def _chunks(resamples: int, width: int) -> Iterable[int]:
    """Sizes of chunks of resamples that are `width` numbers each."""
    size = max(1, CELLS // width)
    return (min(size, resamples - done) for done in range(0, resamples, size))


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
