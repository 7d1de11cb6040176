import json
import math

import pytest

from zhaiju.data.examples import Candidate, Context, QAExample, ReadPrediction, SelectPrediction
from zhaiju.errors import ConfigError
from zhaiju.inference.answer import PIPELINE, Joint, join, load_joint

EXAMPLE = QAExample(
    "q", "誰？", tuple(Context(text, str(i)) for i, text in enumerate(["甲來了。", "乙來了。", "丙來了。"]))
)


def reading(index, logit, probability):
    text = EXAMPLE.contexts[index].text[0]
    candidate = Candidate(text, 0, 1, probability, logit, str(index))
    return ReadPrediction("q", text, 0, 1, probability, str(index), (candidate,), index=index)


SELECTED = SelectPrediction("q", 1, "1", 0.6, tuple(math.log(p) for p in (0.3, 0.6, 0.1)))


def test_the_pipeline_quotes_the_chosen_paragraph_whatever_its_span_is_worth():
    answer = join(EXAMPLE, SELECTED, [reading(1, -5.0, 0.2)], PIPELINE)
    assert (answer.answer, answer.index, answer.source) == ("乙", 1, "1")
    assert answer.selected == pytest.approx(0.6)
    assert answer.score == pytest.approx(0.2 * 0.6)  # the span's probability times that of its paragraph


@pytest.mark.parametrize(("weight", "quoted"), [(0.0, "甲"), (1.0, "甲"), (4.0, "乙")])
def test_the_weight_decides_between_a_likely_paragraph_and_a_likely_span(weight, quoted):
    # log(0.6 / 0.3) = 0.69 in favour of 乙, a logit of 2 in favour of 甲: λ must exceed 2.9
    readings = [reading(1, 1.0, 0.5), reading(0, 3.0, 0.5)]
    answer = join(EXAMPLE, SELECTED, readings, Joint(2, weight))
    assert answer.answer == quoted
    assert [candidate.logit for candidate in answer.n_best] == sorted(
        (candidate.logit for candidate in answer.n_best), reverse=True
    )


def test_scores_of_all_paragraphs_read_are_probabilities():
    readings = [reading(index, logit, 1.0) for index, logit in ((1, 0.3), (0, 2.0), (2, -1.0))]
    answer = join(EXAMPLE, SELECTED, readings, Joint(3, 1.0))
    weighed = {1: 0.6 * math.exp(0.3), 0: 0.3 * math.exp(2.0), 2: 0.1 * math.exp(-1.0)}
    assert answer.score == pytest.approx(max(weighed.values()) / sum(weighed.values()))


def test_without_a_selector_the_best_span_wins():
    answer = join(EXAMPLE, None, [reading(0, 0.0, 0.5), reading(2, 1.0, 0.5)], Joint())
    assert (answer.answer, answer.selected) == ("丙", None)


def test_no_span_at_all_is_an_empty_answer():
    nothing = ReadPrediction("x", "", 0, 0, 0.0, "1", index=1)
    assert join(EXAMPLE, SELECTED, [nothing], PIPELINE).answer == ""


@pytest.mark.parametrize(("k", "weight"), [(0, 1.0), (1.5, 1.0), (2, math.nan), (2, math.inf), (2, -1.0), (2, "1")])
def test_settings_that_rank_nothing_are_refused(k, weight):
    with pytest.raises(ConfigError, match="expected"):
        Joint(k, weight)


@pytest.mark.parametrize("entry", [[1], {"k": 2}, {"k": "x", "weight": 1.0}])
def test_a_damaged_record_of_a_fit_is_said(tmp_path, entry):
    (tmp_path / "answer.json").write_text(json.dumps({"selector": entry}))
    with pytest.raises(ConfigError, match="fit again"):
        load_joint(str(tmp_path), "selector")
