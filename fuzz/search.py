"""Span search and tagging: what is fast against what tries everything, on small sizes.

Logits are what an engine may give: it refuses those that are not finite (see `zhaiju.inference.engine.Engine.run`), so
of these it is only asked that nothing but a span comes of them.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from fuzz.mutate import of_random
from fuzz.target import Numbers, Target, hold
from zhaiju.data.encoding import Window
from zhaiju.data.examples import Context, QAExample
from zhaiju.tasks import ReadTask
from zhaiju.tasks.read import search
from zhaiju.tasks.slots import best_tags

ALPHABET = "山川 \u3000日e\u0301👩🏽\n"
CAPS = (None, None, 1, 2, 3, 5, 50, 10**30)
ODD = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, -0.0, 0.0], dtype=np.float32)


def _windows(numbers: Numbers) -> tuple[str, list[Window], list[np.ndarray], bool]:
    """A text, overlapping windows over its tokens, their logits, and whether all of these are finite.

    Tokens may share characters, hold white space or have no width.
    """
    text = "".join(ALPHABET[numbers.below(len(ALPHABET))] for _ in range(1 + numbers.below(12)))
    starts = sorted(numbers.below(len(text) + 1) for _ in range(1 + numbers.below(9)))
    ends = [min(len(text), start + numbers.below(4)) for start in starts]
    for place in range(1, len(ends)):
        ends[place] = max(ends[place], ends[place - 1])
    kind = numbers.below(8)  # 0..4 ties, 5..6 any numbers, 7 odd ones
    windows, logits = [], []
    finite = True
    at = 0
    while True:
        until = min(len(starts), at + 1 + numbers.below(8))
        before, after = 1 + numbers.below(3), 1 + numbers.below(2)
        size = before + until - at + after
        places = [np.full(size, -1, dtype=np.int32) for _ in range(2)]
        places[0][before : before + until - at] = starts[at:until]
        places[1][before : before + until - at] = ends[at:until]
        ids = np.arange(size, dtype=np.int32)
        windows.append(Window(ids, ids, *places, 0, starts[at], ends[until - 1]))
        raw = np.frombuffer(numbers.take(2 * size), dtype=np.uint8).reshape(2, size)
        value = (raw % 5).astype(np.float32) - 2 if kind < 5 else (raw.astype(np.float32) - 128) / 7
        if kind == 7:
            value = np.where(raw < 60, ODD[raw % len(ODD)], value)
            finite &= bool(np.isfinite(value).all())
        logits.append(value)
        if until == len(starts):
            return text, windows, logits, finite
        at = min(at + 1 + numbers.below(4), until)


def _all_spans(
    text: str, windows: list[Window], logits: list[np.ndarray], chars: int | None, tokens: int | None
) -> tuple[list[tuple[tuple[int, int], float]], list[float]]:
    """Every span with its best logit, and the logits of all pairs of tokens that make one."""
    best: dict[tuple[int, int], float] = {}
    every = []
    for window, value in zip(windows, logits, strict=True):
        starts, ends = window.starts.tolist(), window.ends.tolist()
        first, last = value.astype(np.float64).tolist()
        inside = [place for place, start in enumerate(starts) if start >= 0]
        for i in inside:
            for j in inside[inside.index(i) :]:
                if tokens is not None and j - i + 1 > tokens:
                    break
                piece = text[starts[i] : ends[j]]
                kept = piece.strip()
                if not kept or (chars is not None and len(kept) > chars):
                    continue
                start = starts[i] + piece.index(kept[0])
                logit = first[i] + last[j]
                every.append(logit)
                span = start, start + len(kept)
                if not logit <= best.get(span, -math.inf) or span not in best:
                    best[span] = logit
    return sorted(best.items(), key=lambda entry: (-entry[1], entry[0])), every


def check_search(data: bytes) -> None:
    """The best spans are those that trying every pair finds, and the evidence is their sum."""
    numbers = Numbers(data)
    chars, tokens, most = CAPS[numbers.below(8)], CAPS[numbers.below(8)], 1 + numbers.below(12)
    text, windows, logits, finite = _windows(numbers)
    caps = {"max_answer_chars": chars, "max_answer_tokens": tokens}
    with np.errstate(all=None if finite else "ignore"):
        found, evidence = search(text, windows, logits, n_best=most, **caps)
    expected, every = _all_spans(text, windows, logits, chars, tokens)
    hold({span[:2] for span in found} <= {span for span, _ in expected}, "a span", found)
    hold(len(found) == min(most, len(expected)), "as many spans as there are", found, len(expected))
    if finite:
        hold(found == [(*span, logit) for span, logit in expected[:most]], "the best spans", found, expected[:most])
        if every:
            highest = max(every)
            whole = highest + math.log(sum(math.exp(logit - highest) for logit in every))
            hold(abs(whole - evidence) <= 1e-9 * max(1.0, abs(whole)), "all evidence", evidence, whole)
        else:
            hold(evidence == -math.inf, "no evidence", evidence)


def check_quote(data: bytes) -> None:
    """A prediction is a slice of its context, sure of itself by its share of all spans, or says that there is none."""
    numbers = Numbers(data)
    cap, most, threshold = CAPS[numbers.below(8)], 1 + numbers.below(6), (None, None, 0.0, -1.0, 2.0)[numbers.below(5)]
    temperature = (1.0, 1.0, 0.5, 3.7, 1e-3, 1e3)[numbers.below(6)]
    text, windows, logits, finite = _windows(numbers)
    if not finite or not text.strip():
        return
    task = ReadTask(max_answer_chars=cap, n_best=most, null_threshold=threshold, temperature=temperature)
    found = task.decode(QAExample("q", "?", (Context(text, "c"),)), windows, logits)
    hold(text[found.start : found.end] == found.answer == found.answer.strip(), "a quote", found)
    hold(0 <= found.score <= 1 + 1e-9, "a probability", found.score)
    if all(abs(one.logit) < 1e9 for one in found.n_best):  # beyond, a double holds no difference of one
        hold(sum(one.score for one in found.n_best) <= 1 + 1e-6, "shares of one", found.n_best)
    hold(all(text[one.start : one.end] == one.text.strip() != "" for one in found.n_best), "quotes", found.n_best)
    hold([one.logit for one in found.n_best] == sorted((one.logit for one in found.n_best), reverse=True), "best first")
    if threshold is None and found.n_best:
        hold(found.answer == found.n_best[0].text, "always quotes", found)


def check_tags(data: bytes) -> None:
    """The tags are the likeliest of all well-formed sequences."""
    numbers = Numbers(data)
    labels = (("O", "B-a", "I-a"), ("I-a", "O", "B-a", "B-b", "I-b"), ("O", "I-a"), ("O", "B-", "I-b"))[
        numbers.below(4)
    ]
    words = numbers.below(5)
    raw = np.frombuffer(numbers.take(words * len(labels)), dtype=np.uint8).reshape(words, len(labels))
    logs = (raw % 7 if numbers.below(2) else raw / 3).astype(np.float64)
    found = best_tags(logs, labels).tolist()
    hold(len(found) == words and all(0 <= tag < len(labels) for tag in found), "a tag a word", found)
    names = [labels[tag] for tag in found]
    fine = [one for one in product(range(len(labels)), repeat=words) if _well_formed([labels[tag] for tag in one])]
    hold(_well_formed(names), "well-formed", names)
    rows = logs.tolist()
    total = sum(rows[word][tag] for word, tag in enumerate(found))
    best = max(sum(rows[word][tag] for word, tag in enumerate(one)) for one in fine)
    hold(abs(total - best) < 1e-9 * max(1.0, abs(best)), "the likeliest", names, total, best)


def _well_formed(tags: list[str]) -> bool:
    return all(tag[:2] != "I-" or before[2:] == tag[2:] != "" for before, tag in zip(["O", *tags], tags, strict=False))


TARGETS = (
    Target("search", "as trying every span", check_search, of_random(20, 160), 500_000),
    Target("quote", "a slice of its context, and shares of one", check_quote, of_random(20, 160), 100_000),
    Target("tags", "the likeliest well-formed sequence", check_tags, of_random(3, 32), 300_000),
)
