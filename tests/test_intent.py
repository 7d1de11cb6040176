"""Classes of utterances: the mean of their windows, and what happens to classes that are not known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.config import TrainSettings
from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import IntentExample
from zhaiju.data.formats import ReadLog
from zhaiju.data.vocabulary import build_tokenizer
from zhaiju.errors import DataError
from zhaiju.tasks import TASKS, IntentTask
from zhaiju.training.run import TrainData, load_train_data, train

LABELS = ("book", "oos", "weather")
TASK = IntentTask(LABELS)
TEXT = "請問明天港口有船嗎？"
ENCODING = Encoding(build_tokenizer([TEXT], kind="characters"), window=20, overlap=4)

pytestmark = pytest.mark.usefixtures("one_thread")

NUMBERS = st.integers(-64, 64).map(lambda number: number / 8)


def softmax(values):
    shares = np.exp(np.asarray(values, np.float64) - max(values))
    return shares / shares.sum()


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_windows_of_an_utterance_are_averaged(rows):
    found = TASK.decode(IntentExample("u", TEXT, "oos"), [], [np.array(row, np.float32) for row in rows])
    mean = np.mean(rows, axis=0)
    shares = softmax(mean.tolist())
    assert found.label == LABELS[int(mean.argmax())]  # of equal ones the first
    assert found.score == pytest.approx(shares.max())
    assert [entry.label for entry in found.n_best] == [LABELS[index] for index in np.argsort(-mean, kind="stable")]
    assert sum(entry.score for entry in found.n_best) == pytest.approx(1)
    assert found.loss == pytest.approx(-np.log(shares[1]))


@settings(deadline=None, max_examples=examples(100))
@given(st.text(min_size=1).filter(str.strip))
def test_the_windows_of_an_utterance_hold_all_of_it(text):
    windows = TASK.encode(IntentExample("u", text, None), ENCODING)
    assert (windows[0].start, windows[-1].end) == (0, len(text))
    held = {int(start) for window in windows for start in window.starts[window.starts >= 0]}
    assert held == set(range(len(text)))  # every character is a token
    (item,) = TASK.items(IntentExample("u", text, "weather"), ENCODING, np.random.default_rng(0))
    assert (item.label, item.targets, len(item.windows)) == ((2,), 1, len(windows))


def test_only_so_many_classes_are_listed_as_asked_for():
    logits = [np.array([1, 3, 2], np.float32)]
    for count, listed in ((1, ["oos"]), (2, ["oos", "weather"]), (9, ["oos", "weather", "book"])):
        found = IntentTask(LABELS, n_best=count).decode(IntentExample("u", TEXT, None), [], logits)
        assert [entry.label for entry in found.n_best] == listed
        assert found.loss is None


def predicted(gold, *rows):
    return [
        TASK.decode(example, [], [np.array(row, np.float32)]) for example, row in zip(gold, rows, strict=True)
    ]  # fmt: skip


def test_figures_of_a_hand_worked_case():
    gold = [IntentExample(str(number), "x", label) for number, label in enumerate(("book", "oos", "oos", "weather"))]
    found = predicted(gold, (5, 0, 0), (0, 5, 0), (0, 0, 6), (0, 0, 5))
    report = TASK.score(gold, found)
    assert (report["count"], report["accuracy"]) == (4, 0.75)
    assert (report["oos_recall"], report["oos_precision"], report["in_scope_accuracy"]) == (0.5, 1.0, 1.0)
    assert report["oos_auroc"] == 0.5  # of both that are oos, one looks less in scope than the others and one more
    share, wrong = (np.exp(logit) / (np.exp(logit) + 2) for logit in (5, 6))
    assert report["loss"] == pytest.approx(-(3 * np.log(share) + np.log((1 - wrong) / 2)) / 4)
    judgement = TASK.judge(gold, found)
    assert judgement.correct.tolist() == [True, True, False, True]
    assert judgement.confidence.tolist() == pytest.approx([share, share, wrong, share])
    assert judgement.ratios["accuracy"].tolist() == [[1, 1], [1, 1], [0, 1], [1, 1]]


def test_a_class_that_training_did_not_know_counts_as_wrong():
    gold = [IntentExample("1", "x", "book"), IntentExample("2", "x", "sing")]
    report = TASK.score(gold, predicted(gold, (5, 0, 0), (5, 0, 0)))
    assert report["accuracy"] == 0.5
    assert "loss" not in report


def test_an_utterance_without_a_class_cannot_be_scored_or_trained_on():
    bare = IntentExample("u7", "x", None)
    for call in (TASK.score, TASK.judge):
        with pytest.raises(DataError, match="row u7: intent: no intent to score against"):
            call([bare], predicted([bare], (1, 0, 0)))
    for label, message in ((None, "no intent to train on"), ("sing", "an unknown intent, found 'sing'")):
        with pytest.raises(DataError, match=f"row u7: intent: {message}"):
            TASK.items(IntentExample("u7", "x", label), ENCODING, np.random.default_rng(0))


def test_the_classes_of_a_training_are_those_of_its_examples_in_order():
    made = [IntentExample(str(number), "x", label) for number, label in enumerate(["weather", "book", "oos", "book"])]
    assert TASKS["intent"].classes(made) == LABELS
    assert TASKS["read"].classes(made) == ()
    with pytest.raises(DataError, match="row 9: intent: no intent to train on"):
        TASKS["intent"].classes([*made, IntentExample("9", "x", None)])


TINY = TrainSettings(
    scratch=True, layers=1, hidden=16, heads=2, intermediate=32, positions=32, window=32, overlap=4, threads=1,
    max_steps=2,
)  # fmt: skip


def test_dev_classes_that_training_does_not_know_count_as_wrong_to_the_end_of_the_run(tmp_path):
    made = [IntentExample(f"t{number}", TEXT[number:], LABELS[number % 3]) for number in range(9)]
    dev = [IntentExample("d1", TEXT, "book"), IntentExample("d2", TEXT, "sing")]
    result = train("intent", TINY, TrainData(made, dev, [], ReadLog()), tmp_path / "run")
    assert result.finished
    assert result.metrics["accuracy"] <= 0.5
    assert "loss" not in result.metrics


def test_a_training_example_without_a_class_is_refused_by_its_row(tmp_path):
    rows = [{"id": "a", "text": "x", "intent": "book"}, {"id": "b", "text": "y"}]
    (tmp_path / "t.json").write_text(json.dumps(rows), "utf-8")
    data = load_train_data("intent", [tmp_path / "t.json"], [tmp_path / "t.json"])
    with pytest.raises(DataError, match="row b: intent"):
        train("intent", TINY, data, tmp_path / "run")


def test_one_class_alone_can_be_trained(tmp_path):
    made = [IntentExample(str(number), TEXT[number:], "book") for number in range(4)]
    result = train("intent", TINY, TrainData(made, made, [], ReadLog()), tmp_path / "run")
    assert result.metrics["accuracy"] == 1
