"""Scores of intent and slots: pure functions of predictions and gold. No model, no tokenizer, no file.

Slots are tags in BIO form (Ramshaw and Marcus, 1995), scored by whole entities (Tjong Kim Sang and De Meulder, 2003).
Two readings of malformed tags stand side by side, both as seqeval 1.2.2 has them: its default, that of the CoNLL
script, lets an I- tag begin an entity; its strict mode (IOB2) wants a B- tag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import count
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from zhaiju.data.examples import OUT_OF_SCOPE
from zhaiju.tasks.metrics import accuracy
from zhaiju.tasks.resampling import ratio_bootstrap

Entity = tuple[str, int, int]
Tags = Sequence[str]
Floats = npt.NDArray[np.float64]
Numbers = Sequence[float] | npt.NDArray[Any]


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
