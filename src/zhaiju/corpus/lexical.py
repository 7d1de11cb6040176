"""BM25 (Robertson and Zaragoza, 2009) over characters and character bigrams, script and case folded.

It knows nothing and is hard to beat: the yardstick for every selector.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from zhaiju.data.script import fold

K1 = 1.2
B = 0.75


def terms(text: str) -> list[str]:
    """Characters and bigrams of letters and digits; a bigram does not cross a mark or a space."""
    folded = fold(text)
    single = [character for character in folded if character.isalnum()]
    pairs = [first + second for first, second in pairwise(folded) if (first + second).isalnum()]
    return single + pairs


class BM25:
    """An index over paragraphs.

    Args:
        texts: The paragraphs.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.counts = [Counter(terms(text)) for text in texts]
        self.lengths = np.array([sum(count.values()) for count in self.counts], dtype=np.float64)
        self.mean = float(self.lengths.mean() if len(texts) else 0) or 1.0
        frequency = Counter(term for count in self.counts for term in count)
        total = len(texts)
        self.rarity = {term: math.log(1 + (total - found + 0.5) / (found + 0.5)) for term, found in frequency.items()}

    def scores(self, question: str, among: Sequence[int] | None = None) -> npt.NDArray[np.float64]:
        """The score of each paragraph, or of those `among` them: float64 [paragraphs]."""
        chosen = range(len(self.counts)) if among is None else among
        asked = [term for term in dict.fromkeys(terms(question)) if term in self.rarity]
        result = np.zeros(len(chosen))
        for place, index in enumerate(chosen):
            norm = K1 * (1 - B + B * self.lengths[index] / self.mean)
            count = self.counts[index]
            result[place] = sum(
                self.rarity[term] * count[term] * (K1 + 1) / (count[term] + norm) for term in asked if term in count
            )
        return result


def sentences(text: str) -> list[str]:
    """Cut a text after each 。！？!? and line break; blank parts are left out."""
    parts = [part for part in re.split(r"(?<=[。！？!?\n])", text) if part]
    return [part for part in parts if part.strip()] or [text]
