import json
import math

import numpy as np
import pytest

from zhaiju.data.examples import Candidate, Context, QAExample, ReadPrediction, SelectPrediction
from zhaiju.errors import ConfigError
from zhaiju.inference.answer import PIPELINE, Answerer, Joint, join, load_joint, mix, save_joint

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


def test_no_span_at_all_is_an_empty_answer():
    nothing = ReadPrediction("x", "", 0, 0, 0.0, "1", index=1)
    assert join(EXAMPLE, SELECTED, [nothing], PIPELINE).answer == ""


@pytest.mark.parametrize(("k", "weight"), [(0, 1.0), (1.5, 1.0), (2, math.nan), (2, math.inf), (2, -1.0), (2, "1")])
def test_settings_that_rank_nothing_are_refused(k, weight):
    with pytest.raises(ConfigError, match="expected"):
        Joint(k, weight)


@pytest.mark.parametrize("lexical", [-0.1, math.nan, math.inf, "1", None])
def test_a_lexical_weight_that_weighs_nothing_is_refused(lexical):
    with pytest.raises(ConfigError, match=r"lexical is .* expected a number of at least 0"):
        Joint(1, 0.0, lexical)


# --- lexical scores beside the selector's


def test_mixing_adds_weighed_scores_and_gives_probabilities_again():
    mixed = mix(EXAMPLE, SELECTED, [0.0, 0.0, 2.0], Joint(lexical=1.5))
    assert mixed.scores == pytest.approx([*SELECTED.scores[:2], SELECTED.scores[2] + 3.0])
    assert (mixed.index, mixed.source) == (2, "2")
    assert mixed.score == pytest.approx(0.1 * math.exp(3) / (0.9 + 0.1 * math.exp(3)))
    same = mix(EXAMPLE, SELECTED, [7.0, 8.0, 9.0], Joint())
    assert (same.index, same.score, same.scores) == (1, pytest.approx(0.6), pytest.approx(SELECTED.scores))


class Stub:
    """An engine that gives what `predict_one` gives."""

    def __init__(self, predict_one):
        self.predict_one = predict_one

    def predict(self, task, examples):
        return map(self.predict_one, examples)


def first_character(example):
    """A reader that quotes the first character of what it is given."""
    context = example.contexts[0]
    candidate = Candidate(context.text[0], 0, 1, 0.5, 0.0, context.source)
    return ReadPrediction(example.id, context.text[0], 0, 1, 0.5, context.source, (candidate,))


def choose(probabilities):
    """A selector that finds paragraphs this likely, whatever is asked."""
    scores = tuple(math.log(p) for p in probabilities)
    best = scores.index(max(scores))
    return lambda example: SelectPrediction(example.id, best, str(best), max(probabilities), scores)


def labelled(number, relevant):
    right = EXAMPLE.contexts[relevant].text[0]
    return QAExample(f"q{number}", f"{right}？", EXAMPLE.contexts, relevant=relevant, gold=(right,))


QUESTIONS = [labelled(number, number % 3) for number in range(12)]


def answerer(probabilities, lexical=None, joint=None):
    return Answerer(Stub(first_character), Stub(choose(probabilities)), lexical=lexical, joint=joint)


def test_the_lexical_weight_decides_which_paragraph_is_read():
    for weight, quoted in ((0.0, "乙"), (1.0, "乙"), (2.0, "丙"), (50.0, "丙")):  # log(0.6 / 0.1) is 1.79
        made = answerer((0.3, 0.6, 0.1), lambda question, texts: np.array([0.0, 0.0, 1.0]), Joint(1, 0.0, weight))
        assert {prediction.answer for prediction in made.predict(QUESTIONS)} == {quoted}


def test_without_lexical_scores_their_weight_does_not_count():
    made = answerer((0.3, 0.6, 0.1), joint=Joint(1, 0.0, 2.0))
    assert [prediction.answer for prediction in made.predict(QUESTIONS[:1])] == ["乙"]


def test_fit_weighs_lexical_scores_that_know_better():
    made = answerer((0.3, 0.6, 0.1), lambda question, texts: np.array([9.0 * (text[0] in question) for text in texts]))
    joint, grid = made.fit(QUESTIONS)
    assert joint.lexical > 0
    assert made.joint == joint
    assert max(entry["em"] for entry in grid) == 1.0
    assert [prediction.answer for prediction in made.predict(QUESTIONS)] == [one.gold[0] for one in QUESTIONS]


@pytest.mark.parametrize("relevant", [0, None])
def test_fit_leaves_out_lexical_scores_that_mislead_or_cannot_be_judged(relevant):
    questions = [labelled(number, 0) for number in range(6)]
    if relevant is None:
        questions = [QAExample(one.id, one.question, one.contexts, gold=one.gold) for one in questions]
    made = answerer((0.9, 0.05, 0.05), lambda question, texts: np.array([0.0, 3.0, 2.0]))
    assert made.fit(questions)[0].lexical == 0.0
    assert answerer((0.9, 0.05, 0.05)).fit(questions)[0].lexical == 0.0  # there are none


# --- what is kept of a fit


@pytest.mark.parametrize("joint", [Joint(2, 0.5, 0.2), Joint(1, 0.0, 0.0)])
def test_what_was_fitted_comes_back(tmp_path, joint):
    (tmp_path / "select").mkdir()
    (tmp_path / "other").mkdir()
    save_joint(str(tmp_path), str(tmp_path / "select"), joint, {"count": 3})
    save_joint(str(tmp_path), None, Joint(3, 1.0), {"count": 4})
    assert load_joint(str(tmp_path), str(tmp_path / "select")) == joint
    assert load_joint(str(tmp_path), None) == Joint(3, 1.0)
    assert load_joint(str(tmp_path), str(tmp_path / "other")) is None


@pytest.mark.parametrize(
    "entry",
    [
        [1],
        {"k": 2},
        {"k": "x", "weight": 1.0},
        {"k": 1, "weight": 0.0, "lexical": -1},
        {"k": 1, "lexical": 1},
        {"k": 1, "weight": 0.0},
    ],
)
def test_a_damaged_record_of_a_fit_is_said(tmp_path, entry):
    (tmp_path / "answer.json").write_text(json.dumps({"selector": entry}))
    with pytest.raises(ConfigError, match="fit again"):
        load_joint(str(tmp_path), "selector")
