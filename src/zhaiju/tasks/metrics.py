"""Scores: pure functions of predictions and gold. No model, no tokenizer, no file.

Three definitions of exact match (EM) and F1 stand side by side, because published figures use all three:

- course: words after segmentation, punctuation and white space dropped; EM compares what is left, F1 the bags of
  words. The segmenter sees simplified characters (jieba's dictionary cuts Traditional text wrongly) and its cuts
  are mapped back to the original text. Its name and version belong to the figure: `SEGMENTER`.
- CMRC 2018 (Cui et al., EMNLP 2019, official `cmrc2018_evaluate.py`): Chinese by character, the rest by word,
  a fixed set of marks dropped; F1 on the longest common *run*. The official script cuts the rest with NLTK; the
  pattern here differs from it on 1 of the 3,219 questions of the development set.
- DRCD (Shao et al., 2018): SQuAD v1.1's rules (Rajpurkar et al., 2016) with full-width marks dropped too, F1 on
  the bag of characters.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju.data.examples import QAExample, ReadPrediction
from zhaiju.data.script import convert, encodable
from zhaiju.tasks.resampling import ratio_bootstrap

Score = tuple[float, float]
Definition = Callable[[str, Sequence[str]], Score]

_CMRC_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』") | {"……"}
_LATIN_WORD = re.compile(r"\w+(?:[.,']\w+)*|[^\w\s]")
_CHINESE = re.compile("[\u4e00-\u9fa5]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DRCD_MARKS = frozenset(string.punctuation + "，。、！？；：《》")


def segmenter() -> str:
    """Name and version of what cuts words for the course's definition."""
    return f"opencc-{version('opencc')}/t2s+rjieba-{version('rjieba')}"


def words(text: str) -> list[str]:
    """Cut a text into words, each a slice of the text itself; together they are the text."""
    import rjieba

    simplified = encodable(convert(text, "simplified"))
    cut, at = [], 0
    for word in rjieba.cut(simplified):
        cut.append(text[at : at + len(word)])
        at += len(word)
    return cut


def load_words() -> None:
    """Load the dictionaries that `words` needs, of some 40 MB, now and not in the midst of a long run."""
    words("摘句")


def is_mark(word: str) -> bool:
    """Whether a word is nothing but punctuation and white space."""
    return all(character.isspace() or unicodedata.category(character).startswith("P") for character in word)


@lru_cache(maxsize=1 << 13)
def _course_words(text: str) -> tuple[str, ...]:
    return tuple(word for word in words(text) if not is_mark(word))


def course(prediction: str, gold: Sequence[str]) -> Score:
    """EM and F1 of one answer by the course's definition, the best over the gold answers, 0..1."""
    found = _course_words(prediction)
    return _best(
        (float("".join(found) == "".join(_course_words(text))), bag_f1(found, _course_words(text))) for text in gold
    )


def cmrc(prediction: str, gold: Sequence[str]) -> Score:
    """EM and F1 of one answer by the CMRC 2018 definition."""
    found = cmrc_segments(prediction)
    bare = _cmrc_bare(prediction)
    return _best((float(bare == _cmrc_bare(text)), run_f1(found, cmrc_segments(text))) for text in gold)


def drcd(prediction: str, gold: Sequence[str]) -> Score:
    """EM and F1 of one answer by the DRCD definition."""
    found = drcd_normal(prediction)
    return _best(
        (
            float(found == drcd_normal(text)),
            bag_f1(found.replace(" ", ""), drcd_normal(text).replace(" ", "")),
        )
        for text in gold
    )


DEFINITIONS: dict[str, Definition] = {"": course, "_cmrc": cmrc, "_drcd": drcd}


def _best(scores: Any) -> Score:
    pairs = list(scores)
    return max(em for em, _ in pairs), max(f1 for _, f1 in pairs)


def bag_f1(found: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags; two empty ones agree."""
    if not found or not gold:
        return float(not found and not gold)
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold))


def run_f1(found: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of the longest run that two sequences share; two empty ones agree."""
    if not found or not gold:
        return float(not found and not gold)
    return 2 * longest_run(found, gold) / (len(found) + len(gold))


def longest_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest contiguous run that stands in both."""
    best = 0
    row = [0] * (len(second) + 1)
    for item in first:
        previous = row
        row = [0] * (len(second) + 1)
        for place, other in enumerate(second, 1):
            if item == other:
                row[place] = previous[place - 1] + 1
                best = max(best, row[place])
    return best


def _cmrc_bare(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _CMRC_MARKS)


def cmrc_segments(text: str) -> list[str]:
    """CMRC 2018's mixed segmentation: Chinese characters one by one, words elsewhere, marks dropped."""
    segments: list[str] = []
    other = ""
    for character in text.lower().strip():
        if character in _CMRC_MARKS:
            continue
        if _CHINESE.match(character):
            segments.extend(_LATIN_WORD.findall(other))
            segments.append(character)
            other = ""
        else:
            other += character
    segments.extend(_LATIN_WORD.findall(other))
    return segments


def drcd_normal(text: str) -> str:
    """SQuAD v1.1's normal form, full-width marks dropped too."""
    kept = "".join(character for character in text.lower() if character not in _DRCD_MARKS)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def score_answers(
    gold: Mapping[str, Sequence[str]], predictions: Mapping[str, str], *, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Score answers by all definitions.

    Args:
        gold: Answer texts by id; `("",)` for a question without answer.
        predictions: One answer an id. A missing id scores 0 (see `missing`); others than gold's are ignored.
        resamples: Bootstrap resamples for the 95 % intervals of the course's figures; 0 leaves them out.
        seed: Of the bootstrap.

    Returns:
        `count`; `em`, `f1` (course), `em_cmrc`, `f1_cmrc`, `em_drcd`, `f1_drcd`, all 0..1; `missing`; and
        `em_low`, `em_high`, `f1_low`, `f1_high`.
    """
    per_question = answer_scores(gold, predictions)
    report: dict[str, float] = {"count": len(gold)}
    for name, column in per_question.items():
        report[name] = float(column.mean()) if len(column) else 0.0
    report["missing"] = len(missing(gold, predictions))
    if resamples:
        for name in ("em", "f1"):
            report[f"{name}_low"], report[f"{name}_high"] = bootstrap(per_question[name], resamples, seed)
    return report


def answer_scores(
    gold: Mapping[str, Sequence[str]], predictions: Mapping[str, str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Per question and definition: `em`, `f1`, `em_cmrc`, … as float64 [questions], in gold's order."""
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for suffix, definition in DEFINITIONS.items():
        pairs = [
            definition(predictions[row], answers) if row in predictions else (0.0, 0.0) for row, answers in gold.items()
        ]
        table = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
        columns[f"em{suffix}"], columns[f"f1{suffix}"] = table[:, 0], table[:, 1]
    return columns


def missing(gold: Mapping[str, Any], predictions: Mapping[str, Any]) -> list[str]:
    """Ids of gold that have no prediction, in gold's order."""
    return [row for row in gold if row not in predictions]


def bootstrap(values: npt.NDArray[np.float64], resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean."""
    return ratio_bootstrap(values, np.ones(len(values)), resamples, seed)


OUTCOMES = (
    "correct",
    "selector miss",
    "lost to windows",
    "length cap",
    "boundary",
    "wrong span",
    "no answer",
)


def outcome(
    example: QAExample, prediction: ReadPrediction, *, held: bool = True, max_answer_chars: int | None = None
) -> str:
    """Why an answer is right or wrong: one of `OUTCOMES`, the first that applies.

    Args:
        example: With its gold.
        prediction: The answer to it.
        held: Whether some window held a whole gold answer.
        max_answer_chars: The cap in use.
    """
    if course(prediction.answer, example.gold or ("",))[0]:
        return "correct"
    if example.relevant is not None and prediction.index != example.relevant:
        return "selector miss"
    if not held:
        return "lost to windows"
    if max_answer_chars is not None and example.gold and min(map(len, example.gold)) > max_answer_chars:
        return "length cap"
    if not prediction.answer:
        return "no answer"
    if any(prediction.start < span.end and span.start < prediction.end for span in example.answers):
        return "boundary"
    return "wrong span"


def accuracy(
    correct: Sequence[bool] | npt.NDArray[np.bool_], *, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """`count`, `accuracy`, `accuracy_low`, `accuracy_high`."""
    values = np.asarray(correct, dtype=np.float64)
    low, high = bootstrap(values, resamples, seed)
    return {
        "count": len(values),
        "accuracy": float(values.mean()) if len(values) else 0.0,
        "accuracy_low": low,
        "accuracy_high": high,
    }
