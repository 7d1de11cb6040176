"""The span search against one that tries every pair of tokens."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data.encoding import Window
from zhaiju.data.examples import Context, QAExample
from zhaiju.tasks import ReadTask
from zhaiju.tasks.read import log_probabilities, search

ALPHABET = "山川 \u3000日e\u0301👩🏽"


@dataclass
class Case:
    text: str
    windows: list
    logits: list


def _window(spans, before=3, after=1):
    """A window: [CLS], a question, [SEP], tokens at `spans`, [SEP]."""
    starts = np.array([-1] * before + [start for start, _ in spans] + [-1] * after, dtype=np.int32)
    ends = np.array([-1] * before + [end for _, end in spans] + [-1] * after, dtype=np.int32)
    ids = np.arange(len(starts), dtype=np.int32)
    edges = (spans[0][0], spans[-1][1]) if spans else (0, 0)
    return Window(ids, np.zeros_like(ids), starts, ends, 0, *edges)


@st.composite
def _cases(draw, logit):
    """A text, tokens that may share characters, hold white space or have no width, and overlapping windows."""
    text = draw(st.text(ALPHABET, min_size=1, max_size=14).filter(str.strip))
    starts = sorted(draw(st.lists(st.integers(0, len(text)), min_size=1, max_size=12)))
    widths = draw(st.lists(st.integers(0, 3), min_size=len(starts), max_size=len(starts)))
    ends = np.maximum.accumulate([min(len(text), start + width) for start, width in zip(starts, widths, strict=True)])
    tokens = [(start, int(end)) for start, end in zip(starts, ends, strict=True)]
    windows, logits = [], []
    at = 0
    while True:
        until = min(len(tokens), at + draw(st.integers(1, 8)))
        window = _window(tokens[at:until], before=draw(st.integers(1, 4)), after=draw(st.integers(1, 2)))
        values = draw(st.lists(logit, min_size=2 * len(window), max_size=2 * len(window)))
        windows.append(window)
        logits.append(np.array(values, dtype=np.float32).reshape(2, -1))
        if until == len(tokens):
            return Case(text, windows, logits)
        at = draw(st.integers(min(at + 1, until), until))


def _brute_force(case, max_answer_chars, max_answer_tokens=None):
    """Every span with its best logit, and the logits of all pairs of tokens that make one."""
    best, every = {}, []
    for window, value in zip(case.windows, case.logits, strict=True):
        for i in range(len(window)):
            for j in range(i, len(window)):
                if window.starts[i] < 0 or window.starts[j] < 0:
                    continue
                if max_answer_tokens is not None and j - i + 1 > max_answer_tokens:
                    continue
                piece = case.text[window.starts[i] : window.ends[j]]
                start = int(window.starts[i]) + len(piece) - len(piece.lstrip())
                end = start + len(piece.strip())
                if not piece.strip() or (max_answer_chars is not None and end - start > max_answer_chars):
                    continue
                logit = float(value[0, i]) + float(value[1, j])
                every.append(logit)
                best[start, end] = max(logit, best.get((start, end), -np.inf))
    return sorted(best.items(), key=lambda entry: (-entry[1], entry[0])), every


_ties = st.integers(-2, 2).map(float)
_numbers = st.floats(-30, 30, width=32)
_caps = st.sampled_from([None, 1, 2, 3, 5, 50])


@settings(deadline=None, max_examples=examples(250))
@given(st.one_of(_cases(_ties), _cases(_numbers)), _caps, _caps, st.integers(1, 12))
def test_the_search_finds_what_trying_every_pair_finds(case, cap, tokens, n_best):
    expected, every = _brute_force(case, cap, tokens)
    caps = {"max_answer_chars": cap, "max_answer_tokens": tokens}
    found, evidence = search(case.text, case.windows, case.logits, n_best=n_best, **caps)
    assert found == [(start, end, logit) for (start, end), logit in expected[:n_best]]
    if every:
        highest = max(every)
        assert evidence == pytest.approx(highest + np.log(np.exp(np.array(every) - highest).sum()), abs=1e-9)
    else:
        assert evidence == -np.inf


@settings(deadline=None, max_examples=examples(100))
@given(st.one_of(_cases(_ties), _cases(_numbers)), _caps, st.integers(1, 6))
def test_a_prediction_is_the_best_span_with_its_share_of_all_of_them(case, cap, n_best):
    example = QAExample("q", "什麼？", (Context(case.text, "source"),))
    found = ReadTask(max_answer_chars=cap, n_best=n_best).decode(example, case.windows, case.logits)
    logs = [log_probabilities(window, value) for window, value in zip(case.windows, case.logits, strict=True)]
    expected, every = _brute_force(Case(case.text, case.windows, logs), cap)
    if not expected:
        assert (found.answer, found.start, found.end, found.score, found.n_best) == ("", 0, 0, 0.0, ())
        return
    assert len(found.n_best) == min(n_best, len(expected))
    assert (found.answer, found.start, found.end) == (found.n_best[0].text, found.n_best[0].start, found.n_best[0].end)
    whole = np.logaddexp.reduce(every)
    for candidate, ((start, end), logit) in zip(found.n_best, expected, strict=False):
        assert (candidate.start, candidate.end, candidate.logit) == (start, end, logit)
        assert case.text[start:end] == candidate.text == candidate.text.strip()
        assert candidate.score == pytest.approx(np.exp(logit - whole), rel=1e-6, abs=1e-12)
        assert cap is None or len(candidate.text) <= cap
    assert sum(candidate.score for candidate in found.n_best) <= 1 + 1e-9
    assert found.score == found.n_best[0].score
    null = min(float(value[0, 0]) + float(value[1, 0]) for value in logs)
    assert found.null_score == pytest.approx(null - found.n_best[0].logit)


def _case(text, *windows):
    """Windows of one token a character; each is (first, end, {place: start logit}, {place: end logit})."""
    made, logits = [], []
    for first, end, starts, ends in windows:
        window = _window([(place, place + 1) for place in range(first, end)])
        value = np.full((2, len(window)), -5.0, dtype=np.float32)
        for side, given_logits in enumerate((starts, ends)):
            for place, logit in given_logits.items():
                value[side, 3 + place - first] = logit
        made.append(window)
        logits.append(value)
    return Case(text, made, logits)


def _decode(case, **task):
    return ReadTask(**task).decode(QAExample("q", "什麼？", (Context(case.text, "c"),)), case.windows, case.logits)


TEXT = "阿姨說今年的槐花蜜只剩下九罐"


def test_an_end_before_its_start_gives_way_to_the_next_best():
    case = _case(TEXT, (0, 14, {10: 9.0, 6: 8.0}, {3: 9.0, 8: 7.0}))
    found = _decode(case)
    assert found.answer == "槐花蜜"  # 10..3 would sum to 18, and is no span


@pytest.mark.parametrize("place", range(3))
def test_a_span_in_the_question_gives_way_to_the_next_best(place):
    case = _case(TEXT, (0, 14, {12: 4.0}, {13: 4.0}))
    case.logits[0][:, place] = 50.0
    assert _decode(case).answer == "九罐"


def test_a_span_at_the_closing_token_gives_way_to_the_next_best():
    case = _case(TEXT, (0, 14, {12: 4.0}, {13: 4.0}))
    case.logits[0][:, -1] = 50.0
    assert _decode(case).answer == "九罐"


def test_a_span_longer_than_allowed_gives_way_to_the_next_best():
    case = _case(TEXT, (0, 14, {0: 9.0, 12: 1.0}, {13: 9.0}))
    assert _decode(case, max_answer_chars=None).answer == TEXT
    assert _decode(case, max_answer_chars=14).answer == TEXT
    assert _decode(case, max_answer_chars=13).answer == "九罐"


def test_white_space_gives_way_to_the_next_best():
    case = _case("九" + " " * 20 + "罐", (0, 22, dict.fromkeys(range(1, 21), 9.0), dict.fromkeys(range(1, 20), 9.0)))
    found = _decode(case)
    assert found.answer == "九"  # white space is nobody's: the spans that end in it end before it
    assert len(found.n_best) == 3
    assert {candidate.text for candidate in found.n_best} == {"九", "罐", "九" + " " * 20 + "罐"}


def test_of_equal_spans_the_earlier_and_then_the_shorter_is_first():
    case = _case("甲乙丙", (0, 3, {}, {}))
    assert [(one.start, one.end) for one in _decode(case, n_best=9).n_best] == [
        (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)
    ]  # fmt: skip


def test_a_span_that_two_windows_hold_is_listed_once_with_the_better_logit():
    case = _case(TEXT, (0, 10, {6: 3.0}, {8: 3.0}), (5, 14, {6: 4.0}, {8: 4.0}))
    found = _decode(case)
    assert found.answer == "槐花蜜"
    sure = log_probabilities(case.windows[1], case.logits[1])  # the other window has the span with 3.0
    assert found.n_best[0].logit == pytest.approx(sure.max(axis=1).sum())
    assert [one.text for one in found.n_best].count("槐花蜜") == 1
    swapped = Case(case.text, case.windows[::-1], case.logits[::-1])
    assert _decode(swapped).n_best[0] == found.n_best[0]


def test_tokens_of_one_character_do_not_crowd_others_out_of_the_list():
    tokens = [(place // 6, place // 6 + 1) for place in range(30)]  # as bytes are
    window = _window(tokens)
    value = np.zeros((2, len(window)), dtype=np.float32)
    value[:, 3:9] = 5.0
    found = _decode(Case("貓👩狗魚鳥", [window], [value]), n_best=4)
    assert [one.text for one in found.n_best] == ["貓", "貓👩", "貓👩狗", "貓👩狗魚"]


def test_a_window_without_context_is_passed_over():
    case = _case(TEXT, (0, 14, {12: 4.0}, {13: 4.0}))
    empty = Case(TEXT, [_window([]), *case.windows], [np.zeros((2, 4), np.float32), *case.logits])
    assert _decode(empty).answer == "九罐"
    nothing = _decode(Case(TEXT, [_window([])], [np.zeros((2, 4), np.float32)]))
    assert (nothing.answer, nothing.start, nothing.end, nothing.score) == ("", 0, 0, 0.0)


def test_the_index_and_source_are_those_of_the_paragraph_read():
    case = _case(TEXT, (0, 14, {12: 4.0}, {13: 4.0}))
    example = QAExample("q", "什麼？", (Context("別的", "a"), Context(TEXT, "b")), relevant=1)
    found = ReadTask().decode(example, case.windows, case.logits)
    assert (found.index, found.source) == (1, "b")
    empty = ReadTask().decode(example, [_window([])], [np.zeros((2, 4), np.float32)])
    assert (empty.index, empty.source, empty.answer) == (1, "b", "")


# No answer.


def _with_null(*nulls):
    """The best span has logit 8; each window's no-answer logit is as given."""
    windows = [(0, 10, {6: 4.0}, {8: 4.0}), (5, 14, {}, {})][: len(nulls)]
    case = _case(TEXT, *windows)
    for value, null in zip(case.logits, nulls, strict=True):
        value[:, 0] = null / 2
    return case


@pytest.mark.parametrize("null", [-50.0, 0.0, 50.0])
def test_without_a_threshold_there_is_always_a_quote(null):
    found = _decode(_with_null(null), null_threshold=None)
    assert found.answer == "槐花蜜"
    assert found.null_score == pytest.approx(null - 8)


@pytest.mark.parametrize(
    ("null", "threshold", "answer"),
    [
        (8.0, 0.0, "槐花蜜"),  # not more than
        (8.5, 0.0, ""),
        (8.5, 0.5, "槐花蜜"),
        (9.0, 0.5, ""),
        (7.0, -1.0, "槐花蜜"),
        (7.5, -1.0, ""),
        (100.0, np.inf, "槐花蜜"),
        (-100.0, -np.inf, ""),
    ],
)
def test_no_answer_wins_where_it_exceeds_the_best_span_by_more_than_the_threshold(null, threshold, answer):
    found = _decode(_with_null(null), null_threshold=threshold)
    assert found.answer == answer
    assert found.n_best[0].text == "槐花蜜"
    if not answer:
        assert (found.start, found.end) == (0, 0)


def test_a_window_that_does_not_hold_the_answer_does_not_win_by_high_logits():
    loud = _case(TEXT, (0, 10, {6: 2.0}, {8: 2.0}), (5, 14, {12: 9.0}, {13: 9.0}))
    loud.logits[1][:, 0] = 15.0  # it says so itself
    assert _decode(loud).answer == "槐花蜜"


def test_log_probabilities_are_over_the_context_and_none():
    window = _window([(0, 1), (1, 2), (2, 3)])
    value = np.random.default_rng(0).normal(size=(2, len(window))).astype(np.float32) * 9
    counted = window.starts >= 0
    counted[0] = True
    found = log_probabilities(window, value)
    assert np.exp(found[:, counted]).sum(axis=1) == pytest.approx([1, 1])
    assert found - value == pytest.approx(np.repeat(found[:, :1] - value[:, :1], len(window), axis=1), abs=1e-5)


@pytest.mark.parametrize(("nulls", "answer"), [((-20.0, 20.0), "槐花蜜"), ((20.0, 20.0), "")])
def test_a_question_has_no_answer_only_if_every_window_says_so(nulls, answer):
    assert _decode(_with_null(*nulls), null_threshold=0.0).answer == answer


def test_any_limit_longer_than_the_text_is_no_limit():
    window = _window([(0, 1), (1, 2), (2, 3)])
    logits = np.arange(2 * len(window), dtype=np.float32).reshape(2, -1)
    found = [search("山川日", [window], [logits], n_best=3, max_answer_chars=limit) for limit in (None, 10**3, 10**30)]
    assert found[0] == found[1] == found[2]
