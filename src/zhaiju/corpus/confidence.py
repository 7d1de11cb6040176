"""How likely an answer is right: a logistic regression over what ranking and reading saw.

Below its threshold the documents are taken not to hold the answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.corpus.documents import CLOSERS
from zhaiju.corpus.lexical import terms
from zhaiju.data.examples import ReadPrediction
from zhaiju.errors import ConfigError
from zhaiju.modeling.checkpoint import starter

CONFIDENCE_FILE = "confidence.json"
FEATURES = ("coverage", "sentence", "lexical", "null", "span")
RIDGE = 1.0
STEPS = 50
# A full stop ends a sentence only after three letters or digits, so that "Dr." and "e.g." do not.
_SENTENCE_END = re.compile(rf"(?:[。！？!?]+[{CLOSERS}]*|(?<=\w{{3}})\.[{CLOSERS}]*(?=\s)|\n)\s*")


@dataclass(frozen=True)
class ConfidenceModel:
    """How likely an answer is right, by logistic regression over `FEATURES`.

    Attributes:
        mean: Mean of each feature where it was fitted.
        spread: Its standard deviation there.
        weights: Of the standardised features.
        bias: Added to their sum.
        threshold: Confidence below which to abstain.
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float

    def confidence(self, features: Sequence[float]) -> float:
        """Probability that the answer is right, 0..1."""
        standard = (np.asarray(features) - self.mean) / self.spread
        return float(_logistic(standard @ np.asarray(self.weights) + self.bias))

    def judge(self, question: str, text: str, logit: float, prediction: ReadPrediction) -> float:
        """The same of an answer; see `features_of`."""
        return self.confidence(features_of(question, text, logit, prediction))

    @classmethod
    def fit(cls, features: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], *, keep: float) -> ConfidenceModel:
        """Fit by Newton's method with a ridge penalty.

        Args:
            features: float64 [answers, features], of questions whose paragraph is there and of others.
            right: bool [answers].
            keep: Share of the right answers that the threshold lets through.

        Raises:
            ConfigError: all answers are right, or none is.
        """
        if right.all() or not right.any():
            raise ConfigError("confidence needs right and wrong answers to be fitted on")
        mean, spread = features.mean(0), np.maximum(features.std(0), 1e-6)
        inputs = np.column_stack([(features - mean) / spread, np.ones(len(features))])
        weights = np.zeros(inputs.shape[1])
        penalty = np.full(len(weights), RIDGE)
        penalty[-1] = 1e-6
        for _ in range(STEPS):
            odds = _logistic(inputs @ weights)
            slope = inputs.T @ (odds - right) + penalty * weights
            curve = (inputs * (odds * (1 - odds))[:, None]).T @ inputs + np.diag(penalty)
            weights = weights - np.linalg.solve(curve, slope)
        fitted = cls(tuple(mean.tolist()), tuple(spread.tolist()), tuple(weights[:-1].tolist()), float(weights[-1]), 0)
        confidences = [fitted.confidence(row) for row in features[right]]
        return replace(fitted, threshold=float(np.quantile(confidences, 1 - keep, method="lower")))

    @classmethod
    def load(cls, directory: str | Path) -> ConfidenceModel | None:
        """What `save` kept in a reader's directory; None where nothing was.

        Raises:
            ConfigError: the file is not what `save` writes.
        """
        path = Path(directory) / CONFIDENCE_FILE
        if not path.is_file():
            return None
        try:
            values = files.read_json(path)
            if tuple(values["features"]) != FEATURES:
                raise ValueError(f"it weighs {values['features']}, expected {list(FEATURES)}")
            rows = {name: tuple(map(float, values[name])) for name in ("mean", "spread", "weights")}
            if any(len(row) != len(FEATURES) for row in rows.values()):
                raise ValueError(f"expected {len(FEATURES)} numbers each")
            model = cls(**rows, bias=float(values["bias"]), threshold=float(values["threshold"]))
            if min(model.spread) <= 0 or not np.isfinite([*sum(rows.values(), ()), model.bias, model.threshold]).all():
                raise ValueError("expected finite numbers, those of spread above 0")
            return model
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ConfigError(f"{path} cannot be read: {error!r}") from None

    def save(self, directory: str | Path, about: Mapping[str, Any]) -> None:
        """Keep it in a reader's directory, with what it was fitted on."""
        values = {"features": list(FEATURES), **asdict(self), "about": dict(about)}
        files.write_json(Path(directory) / CONFIDENCE_FILE, values)


def _logistic(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


def features_of(question: str, text: str, logit: float, prediction: ReadPrediction) -> tuple[float, ...]:
    """What `FEATURES` are of an answer. None depends on how many other paragraphs there are.

    Args:
        question: The question.
        text: The paragraph that the answer stands in.
        logit: The selector's of that paragraph.
        prediction: The answer.
    """
    asked = set(terms(question))
    first, last = sentence_around(text, prediction.start, prediction.end)
    score = prediction.n_best[0].score if prediction.n_best else 0.0
    return (
        len(asked & set(terms(text))) / max(1, len(asked)),
        len(asked & set(terms(text[first:last]))) / max(1, len(asked)),
        logit,
        float(np.clip(prediction.null_score or 0.0, -30, 30)),
        math.log(max(score, 1e-6)),
    )


def confidence_model(reader: str, selector: str | None) -> ConfidenceModel | None:
    """What judges the answers of the packaged reader where the lexical ranking selects; others were not fitted.

    Args:
        reader: The reader's directory or hub id.
        selector: The selector's; None: the lexical ranking.

    Raises:
        ConfigError: what is kept is damaged.
    """
    return ConfidenceModel.load(reader) if (reader, selector) == (str(starter("read")), None) else None


def sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentences that `[start, end)` lies in, as `[first, last)` without white space around them."""
    first, last = 0, len(text)
    for match in _SENTENCE_END.finditer(text):
        if match.end() <= start:
            first = match.end()
        elif match.end() >= end:
            last = match.end()
            break
    first += len(text[first:start]) - len(text[first:start].lstrip())
    return first, end + len(text[end:last].rstrip())
