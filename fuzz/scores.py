"""Metrics, BIO tags and scripts: what always holds of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fuzz.mutate import BETWEEN, of_bytes, of_random
from fuzz.target import Refusing, Target, hold, text_of, texts_of
from zhaiju.corpus.documents import cut
from zhaiju.corpus.lexical import BM25, sentences, terms
from zhaiju.data.examples import TAG, SlotExample
from zhaiju.data.labelled import repair_bio, sentence_example, split_words
from zhaiju.data.script import SCRIPTS, convert, fold
from zhaiju.tasks import metrics
from zhaiju.tasks.tagging import auroc, entities, slot_table, strict_entities

_TOLERANCE = 1e-12


def check_metrics(data: bytes) -> None:
    """0..1; one text agrees with itself; more gold answers never cost; F1 is symmetric; an exact match is whole."""
    found, gold, other = texts_of(data, 3)
    for name, definition in metrics.DEFINITIONS.items():
        em, f1 = definition(found, [gold])
        hold(em in (0.0, 1.0) and 0 <= f1 <= 1, "0..1", name, em, f1)
        hold(definition(found, [found]) == (1.0, 1.0), "a text agrees with itself", name, found)
        more = definition(found, [gold, other])
        hold(more[0] >= em and more[1] >= f1, "more gold never costs", name)
        hold(more == definition(found, [other, gold]), "gold has no order", name)
        hold(abs(definition(gold, [found])[1] - f1) < _TOLERANCE, "symmetric", name)
        if em and name == "_drcd":  # the others compare without marks that may still part words
            hold(f1 == 1.0, "an exact match is whole", name, found, gold)
    hold("".join(metrics.words(found)) == found, "words are the text", found)
    hold(metrics.longest_run(found, gold) == metrics.longest_run(gold, found), "a run is symmetric")
    hold(metrics.longest_run(found, found + gold) == len(found), "a text's run in itself")


def _tags(data: bytes) -> list[str]:
    return [tag for tag in text_of(data).split(" ") if TAG.fullmatch(tag)]


def check_bio(data: bytes) -> None:
    """Repairing makes well-formed tags of the same entities, once; entities are in order and apart."""
    parts = data.split(BETWEEN, 1)
    tags = _tags(parts[0])
    repaired = repair_bio(tags)
    hold(repair_bio(repaired) == repaired, "repaired once", tags)
    hold(all(before[1:] == tag[1:] for before, tag in zip(tags, repaired, strict=True)), "labels stay", tags, repaired)
    before = "O"
    for tag in repaired:
        hold(not tag.startswith("I-") or before[2:] == tag[2:], "well-formed", repaired)
        before = tag
    found, strict = entities(tags), strict_entities(tags)
    for kind in (found, strict, entities(repaired)):
        hold(all(0 <= start < end <= len(tags) for _, start, end in kind), "inside", kind)
        hold(all(one[2] <= two[1] for one, two in pairwise(kind)), "in order", kind)
    hold(found == entities(repaired), "the same entities", tags, repaired)
    hold(sum(tag != "O" for tag in tags) == sum(end - start for _, start, end in found), "all of them", tags)
    if len(parts) > 1:
        other = (_tags(parts[1]) + ["O"] * len(tags))[: len(tags)]
        for row in slot_table([tags], [other]):
            hold(0 <= row["f1"] <= 1 and min(row["precision"], row["recall"]) <= row["f1"] + _TOLERANCE, "0..1", row)
            hold(row["f1"] <= max(row["precision"], row["recall"]) + _TOLERANCE, "between", row)
    with Refusing():
        SlotExample("x", tuple(text_of(parts[-1]).split(" ")), tuple(tags))


def check_script(data: bytes) -> None:
    """Converted character for character, whatever the script; folding likewise, and once."""
    text = text_of(data)
    for script in SCRIPTS if len(data) % 16 == 0 else SCRIPTS[:3]:
        converted = convert(text, script)
        hold(len(converted) == len(text), "as long", script, text, converted)
        hold(converted == "".join(convert(character, script) for character in text) or len(text) > 1, "alone", text)
    folded = fold(text)
    hold(len(folded) == len(text), "as long", text, folded)


def check_words(data: bytes) -> None:
    """Words are in order, apart, and all that is visible."""
    text = text_of(data)
    words = split_words(text)
    hold(all(one[1] <= two[0] for one, two in pairwise(words)), "in order", words)
    hold(all(start < end and text[start:end].strip() for start, end in words), "visible", text, words)
    inside = "".join(text[start:end] for start, end in words)
    hold(inside == "".join(character for character in text if not character.isspace()), "all", text, words)
    with Refusing():
        example = sentence_example("x", text)
        hold(example.tokens == tuple(text[start:end] for start, end in words), "the same words", text)


def check_cut(data: bytes) -> None:
    """Pieces are no longer than asked for, not empty, and together the text."""
    text = text_of(data[1:])
    limit = 1 + (data[0] if data else 0) % 60
    pieces = cut(text, limit)
    hold("".join(pieces) == text, "together the text", text, pieces)
    hold(all(0 < len(piece) <= limit for piece in pieces) or not text, "no longer", pieces)
    parts = sentences(text)
    hold(all(part.strip() for part in parts) or parts == [text], "visible", parts)


def check_bm25(data: bytes) -> None:
    """Scores are those of counting terms one by one; the best come first."""
    question, *texts = texts_of(data, 2 + data.count(BETWEEN) % 6)
    index = BM25(texts)
    scores = index.scores(question)
    hold(len(scores) == len(texts) and np.isfinite(scores).all() and (scores >= 0).all(), "a score each", scores)
    expected = _bm25(set(terms(question)), [terms(text) for text in texts])
    hold(np.allclose(scores, expected, rtol=1e-9, atol=1e-9), "as counted", scores.tolist(), expected)
    top = index.top(question, 3)
    hold([score for _, score in top] == sorted(scores[scores > 0].tolist(), reverse=True)[:3], "best first", top)


def _bm25(asked: set[str], texts: list[list[str]]) -> list[float]:
    mean = sum(map(len, texts)) / len(texts) or 1.0
    result = []
    for text in texts:
        score = 0.0
        for term in asked:
            often, found = text.count(term), sum(term in other for other in texts)
            if often:
                rarity = float(np.log(1 + (len(texts) - found + 0.5) / (found + 0.5)))
                score += rarity * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * len(text) / mean))
        result.append(score)
    return result


def check_auroc(data: bytes) -> None:
    """The chance that one of the higher exceeds one of the lower is what comparing all pairs gives."""
    if len(data) < 2:
        return
    place = 1 + data[0] % (len(data) - 1)
    higher, lower = list(data[:place]), list(data[place:])
    pairs = [(one > two) + 0.5 * (one == two) for one in higher for two in lower]
    hold(abs(auroc(higher, lower) - sum(pairs) / len(pairs)) < 1e-9, "as comparing all", higher, lower)


_TAG_WORDS = (
    " B-a",
    " I-a",
    " O",
    " B-b",
    " I-b",
    " B--",
    " I--",
    " B-a-",
    " I-a-",
    " B-甲",
    " I-甲",
    " B-_",
    "\u00a0",
    BETWEEN,
)
_PARTS = (BETWEEN, "。", "山", "the ", "a ", "1.5", "……", "Ａ", "後", "頭髮", "！？", "\n", "，")

TARGETS = (
    Target("bio", "repaired once, to the same entities", check_bio, of_bytes(*_TAG_WORDS), 1_000_000),
    Target("metrics", "0..1, symmetric, one for itself", check_metrics, of_bytes(*_PARTS), 150_000),
    Target("script", "character for character", check_script, of_bytes(*_PARTS), 300_000),
    Target("words", "all that is visible, in order", check_words, of_bytes(*_PARTS), 1_200_000),
    Target("auroc", "as comparing all pairs", check_auroc, of_random(2, 24), 400_000),
    Target("cut", "pieces together are the text", check_cut, of_bytes(*_PARTS), 2_200_000),
    Target("bm25", "as counting term by term", check_bm25, of_bytes(*_PARTS), 60_000),
)
