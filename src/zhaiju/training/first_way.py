"""The course report's first way to find spans, kept as the yardstick that the second way is measured against.

The context is cut on the left where it is too long, and one window is read. The answer is searched for as text, and
its first occurrence is taken for the answer. At prediction the best first and the best last token are taken each by
itself; where they are no span there is no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zhaiju.data.encoding import Encoding, Window, slice_of
from zhaiju.data.examples import Context, QAExample, ReadPrediction, Span
from zhaiju.tasks import ReadTask
from zhaiju.tasks.base import Floats


def cut_left(examples: Iterable[QAExample], encoding: Encoding) -> list[QAExample]:
    """Reading examples as the first way sees them: one paragraph, its end as far as it fits, answers searched for.

    An answer that is cut away leaves `answers` and stays in `gold`, so it is not trained on and still scored.
    """
    shortened = []
    for example in examples:
        text = example.context.text.rstrip()  # so that something visible is left
        room = encoding.capacity(example.question)
        while len((tokens := encoding.tokens(text)).ids) > room:  # again: the rest of a word may be more pieces
            text = text[max(int(tokens.starts[-room]), int(tokens.ends[-room - 1]), 1) :]
        found = dict.fromkeys((answer, text.find(answer)) for answer in example.gold if answer)
        answers = tuple(Span(answer, start) for answer, start in found if start >= 0)
        context = Context(text, example.context.source)
        shortened.append(replace(example, contexts=(context,), relevant=0, answers=answers, gold=example.gold or ("",)))
    return shortened


@dataclass(frozen=True)
class FirstWayTask(ReadTask):
    """Reading without an n-best list."""

    def decode(self, example: QAExample, windows: Sequence[Window], logits: Sequence[Floats]) -> ReadPrediction:
        """The best first and the best last token; nothing if they are no span."""
        context, window = example.context, windows[0]
        inside = np.flatnonzero(window.starts >= 0)
        if not len(inside):
            return ReadPrediction(example.id, "", 0, 0, 0.0, context.source)
        first, last = (inside[int(logits[0][side, inside].argmax())] for side in (0, 1))
        if last < first:
            return ReadPrediction(example.id, "", 0, 0, 0.0, context.source)
        start, end = slice_of(context.text, int(window.starts[first]), int(window.ends[last]))
        odds = [np.exp(side - side.max()) for side in logits[0][:, inside]]
        score = float(np.prod([values.max() / values.sum() for values in odds]))
        return ReadPrediction(example.id, context.text[start:end], start, end, score, context.source)
