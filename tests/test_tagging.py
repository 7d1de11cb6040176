import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Tokens
from sklearn.metrics import f1_score as sklearn_f1
from sklearn.metrics import roc_auc_score

from budget import examples
from zhaiju.data.labelled import gold_labels, gold_tags, repair_bio
from zhaiju.tasks import resampling
from zhaiju.tasks.resampling import paired_test, ratio_bootstrap
from zhaiju.tasks.tagging import (
    auroc,
    confusions,
    entities,
    intent_report,
    intent_table,
    slot_report,
    slot_table,
    strict_entities,
)

TAGS = st.sampled_from(["O", "O", "B-a", "I-a", "B-b", "I-b", "B-a-b", "I-a-b"])
ODD_TAGS = st.sampled_from(["O", "B-a", "I-a", "B-", "I-", "B", "I", "B-_", "I-_", "B--a", "I--a", "B-a-", "I-a-"])
SENTENCES = st.lists(st.lists(st.tuples(TAGS, TAGS, st.integers(0, 3)), min_size=1, max_size=8), min_size=1, max_size=8)
LABELS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "oos"]), st.sampled_from(["a", "b", "d", "oos"])), min_size=1
)


def columns(sentences):
    """Gold, predicted and pieces of sentences that are lists of triples."""
    return tuple([[row[column] for row in sentence] for sentence in sentences] for column in range(3))


def many(count):
    return settings(deadline=None, max_examples=examples(count))


# Entities


@many(500)
@given(st.one_of(st.lists(TAGS, max_size=12), st.lists(ODD_TAGS, max_size=12)))
def test_entities_are_those_of_seqeval(tags):
    assert entities(tags) == [(label, start, end + 1) for label, start, end in get_entities(tags)]
    strict = [(entity.tag, entity.start, entity.end) for entity in Tokens(tags, IOB2).entities]
    assert strict_entities(tags) == strict


@many(100)
@given(st.lists(TAGS, max_size=12))
def test_both_readings_of_well_formed_tags_are_the_same(tags):
    repaired = repair_bio(tags)
    assert entities(tags) == entities(repaired) == strict_entities(repaired)


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("B-a I-a O", [("a", 0, 2)], [("a", 0, 2)]),
        ("B-a B-a", [("a", 0, 1), ("a", 1, 2)], [("a", 0, 1), ("a", 1, 2)]),
        ("O I-a I-a", [("a", 1, 3)], []),
        ("B-a I-b", [("a", 0, 1), ("b", 1, 2)], [("a", 0, 1)]),
        ("O O", [], []),
    ],
)
def test_entities_of_hand_worked_cases(tags, lenient, strict):
    assert entities(tags.split()) == lenient
    assert strict_entities(tags.split()) == strict


# Slots


@many(150)
@given(SENTENCES)
def test_slot_figures_are_those_of_seqeval(sentences):
    gold, predicted, pieces = columns(sentences)
    report = slot_report(gold, predicted, pieces)
    for suffix, options in (("", {}), ("_strict", {"mode": "strict", "scheme": IOB2})):
        for name, theirs in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            assert report[name + suffix] == pytest.approx(theirs(gold, predicted, zero_division=0, **options))
    repeated = [
        [
            [tag for tag, times in zip(*pair, strict=True) for _ in range(times)]
            for pair in zip(tags, pieces, strict=True)
        ]
        for tags in (gold, predicted)
    ]
    for name, theirs in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert report[f"{name}_all_pieces"] == pytest.approx(theirs(*repeated, zero_division=0))
    right = [tag == ours for side in zip(gold, predicted, strict=True) for tag, ours in zip(*side, strict=True)]
    assert report["count"] == len(gold)
    assert report["token_accuracy"] == pytest.approx(np.mean(right))
    whole = [tags == ours for tags, ours in zip(gold, predicted, strict=True)]
    assert report["sentence_accuracy"] == pytest.approx(np.mean(whole))
    weights = list(itertools.chain(*pieces))
    if any(weights):
        assert report["token_accuracy_all_pieces"] == pytest.approx(np.average(right, weights=weights))


@many(150)
@given(SENTENCES)
def test_slot_table_is_that_of_seqeval(sentences):
    gold, predicted, _ = columns(sentences)
    table = slot_table(gold, predicted)
    assume(table)
    theirs = classification_report(gold, predicted, output_dict=True, zero_division=0)
    assert [row["label"] for row in table] == sorted(set(theirs) - {"micro avg", "macro avg", "weighted avg"})
    for row in table:
        expected = theirs[row["label"]]
        assert row["support"] == expected["support"]
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"])
        )


def test_a_b_tag_of_two_pieces_counts_as_two_entities():
    gold = [["B-a", "I-a", "O"]]
    predicted = [["B-a", "O", "O"]]
    report = slot_report(gold, predicted, [[2, 1, 0]])
    assert report["f1"] == 0
    assert report["f1_all_pieces"] == 0.5  # B-a, B-a + I-a against B-a, B-a
    assert report["precision_all_pieces"] == report["recall_all_pieces"] == 0.5
    assert report["token_accuracy_all_pieces"] == 2 / 3
    assert report["token_accuracy"] == 2 / 3
    assert report["sentence_accuracy"] == 0


def test_slot_report_has_these_figures_and_no_others():
    names = {
        *("count", "f1", "precision", "recall", "f1_strict", "precision_strict", "recall_strict", "f1_all_pieces"),
        *("precision_all_pieces", "recall_all_pieces", "token_accuracy_all_pieces"),
        *("token_accuracy", "sentence_accuracy"),
        *("f1_low", "f1_high", "sentence_accuracy_low", "sentence_accuracy_high"),
    }
    report = slot_report([["B-a"]], [["B-a"]], [[1]])
    assert report.keys() == names
    assert set(report.values()) == {1}
    assert slot_report([], [], []) == dict.fromkeys(names, 0)
    assert slot_table([], []) == []


def test_slots_of_unequal_number_are_no_report():
    with pytest.raises(ValueError, match="zip"):
        slot_report([["O"]], [], [])
    with pytest.raises(ValueError, match="zip"):
        slot_report([["O", "O"]], [["O"]], [[1, 1]])


def test_slot_intervals_hold_the_figures_and_narrow_with_more_sentences():
    gold = [["B-a", "O"], ["B-b", "I-b"], ["O", "O"], ["B-a", "B-a"]]
    predicted = [["B-a", "O"], ["B-b", "O"], ["O", "B-a"], ["B-a", "B-a"]]
    few, more = (slot_report(gold * times, predicted * times, [[1, 1]] * 4 * times) for times in (5, 500))
    for name in ("f1", "sentence_accuracy"):
        for report in (few, more):
            assert report[f"{name}_low"] < report[name] < report[f"{name}_high"]
        assert more[f"{name}_high"] - more[f"{name}_low"] < (few[f"{name}_high"] - few[f"{name}_low"]) / 5


# Intents


@many(150)
@given(LABELS)
def test_intent_figures_are_those_of_scikit_learn(pairs):
    gold, predicted = ([pair[side] for pair in pairs] for side in (0, 1))
    report = intent_report(gold, predicted, [0.5] * len(gold))
    assert report["count"] == len(gold)
    assert report["accuracy"] == pytest.approx(np.mean([label == ours for label, ours in pairs]))
    assert report["macro_f1"] == pytest.approx(sklearn_f1(gold, predicted, average="macro", zero_division=0))
    assert report["accuracy_low"] <= report["accuracy"] <= report["accuracy_high"]
    outside = {name for name in report if "oos" in name or "scope" in name}
    if "oos" not in gold:
        assert not outside
    elif set(gold) == {"oos"}:
        assert outside == {"oos_recall", "oos_precision"}
    else:
        assert outside == {"oos_recall", "oos_precision", "in_scope_accuracy", "oos_auroc"}
        assert report["oos_auroc"] == 0.5
        assert report["in_scope_accuracy"] == pytest.approx(
            np.mean([label == ours for label, ours in pairs if label != "oos"])
        )


def test_out_of_scope_figures_of_a_hand_worked_case():
    gold = ["a", "a", "b", "oos", "oos"]
    predicted = ["a", "oos", "a", "oos", "b"]
    report = intent_report(gold, predicted, [0.9, 0.3, 0.6, 0.2, 0.6])
    assert report["in_scope_accuracy"] == pytest.approx(1 / 3)
    assert report["oos_recall"] == 0.5
    assert report["oos_precision"] == 0.5
    assert report["oos_auroc"] == pytest.approx(4.5 / 6)
    assert intent_report(["none"], ["none"], [0.1], oos="none")["oos_recall"] == 1


def test_intent_table_and_confusions_of_a_hand_worked_case():
    gold = ["a", "a", "b", "b", "c"]
    predicted = ["a", "b", "a", "b", "d"]
    assert intent_table(gold, predicted) == [
        {"label": "a", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
        {"label": "b", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
        {"label": "c", "precision": 0, "recall": 0, "f1": 0, "support": 1},
        {"label": "d", "precision": 0, "recall": 0, "f1": 0, "support": 0},
    ]
    assert confusions(gold * 2 + ["c"], predicted * 2 + ["d"]) == [("c", "d", 3), ("a", "b", 2), ("b", "a", 2)]
    assert confusions(gold, predicted, most=1) == [("a", "b", 1)]
    assert confusions(gold, gold) == []


def test_no_utterances_have_a_report_of_zeros():
    assert set(intent_report([], [], []).values()) == {0}
    assert intent_table([], []) == []


@many(150)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1), min_size=1),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1), min_size=1),
)
def test_auroc_is_the_chance_to_be_ranked_higher_ties_by_half(higher, lower):
    wins = [(high > low) + 0.5 * (high == low) for high in higher for low in lower]
    assert auroc(higher, lower) == pytest.approx(np.mean(wins))
    assert auroc(higher, lower) == pytest.approx(1 - auroc(lower, higher))


def test_auroc_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    higher, lower = generator.normal(1, 1, 300).round(1), generator.normal(0, 1, 200).round(1)
    theirs = roc_auc_score([1] * 300 + [0] * 200, np.concatenate([higher, lower]))
    assert auroc(higher, lower) == pytest.approx(theirs)


# Intervals and comparisons


def test_ratio_bootstrap_is_that_of_rows_drawn_one_by_one():
    generator = np.random.default_rng(1)
    denominator = generator.integers(0, 4, 300)
    numerator = generator.binomial(denominator, 0.7)
    rows = generator.integers(0, 300, (4000, 300))
    plain = np.percentile(numerator[rows].sum(axis=1) / denominator[rows].sum(axis=1), [2.5, 97.5])
    assert ratio_bootstrap(numerator, denominator, resamples=4000) == pytest.approx(plain, abs=0.005)


def test_ratio_bootstrap_is_seeded_and_has_an_answer_for_nothing():
    ours = ratio_bootstrap([1, 0, 1, 1], [1, 1, 1, 1])
    assert ours == ratio_bootstrap([1, 0, 1, 1], [1, 1, 1, 1])
    assert ours != ratio_bootstrap(list(range(9)), [9] * 9, seed=1)
    assert ratio_bootstrap([], []) == (0, 0)
    assert ratio_bootstrap([0, 0], [0, 0]) == (0, 0)
    assert ratio_bootstrap([2, 2], [4, 4]) == (0.5, 0.5)


@many(15)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(2, 4), st.integers(0, 2), st.integers(2, 4)), min_size=1, max_size=8
    )
)
def test_p_is_that_of_all_exchanges(rows):
    table = np.array(rows, dtype=float)
    difference, low, high, p = paired_test(*table.T, resamples=4000)
    plain = table.sum(axis=0)
    assert difference == pytest.approx(plain[2] / plain[3] - plain[0] / plain[1])
    assert low <= high
    hits = 0
    for swaps in itertools.product([False, True], repeat=len(table)):
        sums = np.where(np.array(swaps)[:, None], table[:, [2, 3, 0, 1]], table).sum(axis=0)
        hits += abs(sums[2] / sums[3] - sums[0] / sums[1]) >= abs(difference) - 1e-12
    assert p == pytest.approx(hits / 2 ** len(table), abs=0.05)


def test_systems_that_are_the_same_do_not_differ():
    right = np.array([1, 0, 1, 1, 0])
    assert paired_test(right, np.ones(5), right, np.ones(5)) == (0, 0, 0, 1)
    assert paired_test([], [], [], []) == (0, 0, 0, 1)


def test_a_system_that_is_better_throughout_differs_whichever_comes_first():
    ones = np.ones(40)
    worse, better = np.tile([1, 0, 0, 0], 10), np.tile([1, 1, 1, 0], 10)
    difference, low, high, p = paired_test(worse, ones, better, ones)
    assert difference == 0.5
    assert 0.3 < low < 0.5 < high < 0.7
    assert p == pytest.approx(2 / 2**20, abs=2e-4)
    again = paired_test(better, ones, worse, ones)
    assert again[0] == -0.5
    assert again[1:3] == pytest.approx((-high, -low), abs=0.05)


def test_p_is_small_as_often_as_it_says_where_nothing_differs():
    generator = np.random.default_rng(2)
    ones = np.ones(100)
    small = 0
    for seed in range(200):
        first, second = generator.integers(0, 2, (2, 100))
        small += paired_test(first, ones, second, ones, resamples=400, seed=seed)[3] <= 0.05
    assert small <= 10 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_resamples_in_small_chunks_are_the_same(monkeypatch):
    generator = np.random.default_rng(3)
    rows = generator.integers(0, 5, (4, 30))
    whole = ratio_bootstrap(rows[0], rows[1] + 1), paired_test(rows[0], rows[1] + 1, rows[2], rows[3] + 1, 500)
    monkeypatch.setattr(resampling, "CELLS", 70)
    chunked = ratio_bootstrap(rows[0], rows[1] + 1), paired_test(rows[0], rows[1] + 1, rows[2], rows[3] + 1, 500)
    assert chunked[0] == pytest.approx(whole[0])
    assert chunked[1] == pytest.approx(whole[1])


# Real data


def test_gold_tags_scored_against_themselves_are_perfect(shared):
    gold = list(gold_tags(shared / "slot" / "train.json").values())
    report = slot_report(gold, gold, [[1] * len(tags) for tags in gold])
    assert report.pop("count") == 7244
    assert set(report.values()) == {1}
    assert {row["label"]: row["support"] for row in slot_table(gold, gold)} == {
        "date": 1415,
        "first_name": 781,
        "last_name": 564,
        "people": 1842,
        "time": 1529,
    }


def test_gold_intents_scored_against_themselves_are_perfect(shared):
    gold = list(gold_labels(shared / "intent" / "eval.json").values())
    report = intent_report(gold, gold, [1.0] * len(gold))
    assert report.pop("count") == 3000
    assert set(report.values()) == {1}
    assert {row["support"] for row in intent_table(gold, gold)} == {20}
