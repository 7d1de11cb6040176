"""Confidences that are frequencies, thresholds that keep their risk, and predictions that stay as they are."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import zhaiju
from budget import examples
from checkpoints import INTENTS, LABELS, PARAGRAPHS, QUESTIONS, SLOTTED, bert
from zhaiju.config import TrainSettings
from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import Context, QAExample, Span
from zhaiju.data.formats import ReadLog
from zhaiju.data.vocabulary import build_tokenizer
from zhaiju.errors import DataError
from zhaiju.inference.answer import PIPELINE, Joint, load_joint, save_joint
from zhaiju.inference.backends import TorchBackend
from zhaiju.inference.calibrate import MOST_EXAMPLES, calibrate, calibration_record
from zhaiju.inference.engine import Engine, make_engine
from zhaiju.modeling.checkpoint import load, read_meta, save_calibration
from zhaiju.tasks import TASKS, make_task
from zhaiju.tasks.calibration import (
    TEMPERATURES,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    platt_loss,
    reliability_table,
    risk_coverage,
)
from zhaiju.training.evaluate import evaluate
from zhaiju.training.run import TrainData, train

pytestmark = pytest.mark.usefixtures("one_thread")

OUTCOMES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60)
TIED = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), max_size=25)
MANY = settings(deadline=None, max_examples=examples(150))


def columns(outcomes):
    return np.array([one for one, _ in outcomes], np.float64), np.array([one for _, one in outcomes], np.bool_)


# The error


def test_calibration_error_of_a_hand_worked_case():
    confidence, correct = np.array([0.95, 0.85, 0.15, 1.0]), np.array([True, False, False, True])
    # Of two bins: 0.15 with nothing right, and 0.9333 with two of three.
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(
        1 / 4 * 0.15 + 3 / 4 * (2.8 / 3 - 2 / 3)
    )
    table = reliability_table(confidence, correct, bins=2)
    assert [(entry.low, entry.high, entry.count) for entry in table] == [(0, 0.5, 1), (0.5, 1, 3)]
    assert (table[1].confidence, table[1].accuracy) == pytest.approx((2.8 / 3, 2 / 3))


@MANY
@given(OUTCOMES, st.integers(1, 20))
@example([(1.0, True), (0.0, False)], 15)
def test_calibration_error_is_that_of_a_plain_loop(outcomes, bins):
    expected = 0.0
    for index in range(bins):
        inside = [one for one in outcomes if min(int(one[0] * bins), bins - 1) == index]
        if inside:
            sure = sum(one for one, _ in inside) / len(inside)
            right = sum(one for _, one in inside) / len(inside)
            expected += len(inside) / len(outcomes) * abs(sure - right)
    found = expected_calibration_error(*columns(outcomes), bins)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 <= found <= 1
    assert sum(entry.count for entry in reliability_table(*columns(outcomes), bins)) == len(outcomes)


def test_being_as_sure_as_right_is_no_error():
    confidence = np.repeat([0.25, 0.75], 400)
    correct = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])
    assert expected_calibration_error(confidence, correct) == pytest.approx(0)


# The threshold


@MANY
@given(st.one_of(TIED, OUTCOMES))
def test_risk_and_coverage_are_those_of_every_threshold(outcomes):
    coverage, risk, threshold = risk_coverage(*columns(outcomes))
    levels = sorted({one for one, _ in outcomes}, reverse=True)
    assert threshold.tolist() == levels
    for place, level in enumerate(levels):
        answered = [right for sure, right in outcomes if sure >= level]
        assert coverage[place] == pytest.approx(len(answered) / len(outcomes))
        assert risk[place] == pytest.approx(answered.count(False) / len(answered))
    assert (np.diff(coverage) > 0).all()


@MANY
@given(st.one_of(TIED, OUTCOMES), st.sampled_from([0.0, 0.05, 0.25, 1 / 3, 0.5, 1.0]))
def test_the_threshold_is_the_lowest_that_keeps_the_risk(outcomes, wanted):
    found = choose_threshold(*columns(outcomes), wanted)
    fitting = []
    for level in {one for one, _ in outcomes}:
        answered = [right for sure, right in outcomes if sure >= level]
        if answered.count(False) / len(answered) <= wanted:
            fitting.append((level, len(answered) / len(outcomes), answered.count(False) / len(answered)))
    assert found == (pytest.approx(min(fitting)) if fitting else (math.inf, 0.0, 0.0))


# The temperature


@pytest.mark.parametrize("wanted", [0.2, 0.5, 1.0, 2.7, 7.0])
def test_the_temperature_is_found(wanted):
    assert fit_temperature(lambda t: (math.log(t) - math.log(wanted)) ** 2) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("wanted", [0.4, 1.0, 3.0])
def test_the_temperature_of_made_outcomes_is_found(wanted):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 4)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    drawn = np.array([generator.choice(4, p=row) for row in shares[:8000]])
    sharp = logits[:8000] * wanted  # what a network that is too sure, or not sure enough, gives
    correct = sharp.argmax(1) == drawn

    def loss(temperature):
        warmed = np.exp(sharp / temperature - (sharp / temperature).max(1, keepdims=True))
        confidence = np.clip((warmed / warmed.sum(1, keepdims=True)).max(1), 1e-7, 1 - 1e-7)
        return -np.log(np.where(correct, confidence, 1 - confidence)).mean()

    assert fit_temperature(loss) == pytest.approx(wanted, rel=0.1)


@MANY
@given(st.lists(st.floats(0, 9), min_size=40, max_size=40))
def test_a_temperature_is_taken_only_where_it_is_better_than_none(values):
    """However the loss goes up and down."""

    def loss(temperature):
        return values[hash(round(temperature, 9)) % 40]

    found = fit_temperature(loss)
    assert loss(found) <= loss(1.0)
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]


def test_a_loss_that_no_temperature_changes_leaves_none():
    assert fit_temperature(lambda t: 0.5) == 1.0


# The best prediction stays the best

ENCODING = Encoding(build_tokenizer([*PARAGRAPHS, *QUESTIONS], kind="characters"), window=32, overlap=4)
ASKED = QAExample(
    "q", QUESTIONS[0], tuple(Context(text, str(place)) for place, text in enumerate(PARAGRAPHS)), 0,
    (Span("港口", PARAGRAPHS[0].index("港口")),),
)  # fmt: skip
ONE = {"select": ASKED, "read": ASKED, "intent": INTENTS[1], "slots": SLOTTED[0]}


def what(task, prediction):
    """What is predicted, its confidence apart."""
    if task == "select":
        return prediction.index
    if task == "read":
        spans = [(candidate.start, candidate.end) for candidate in prediction.n_best]
        return prediction.answer, prediction.start, prediction.end, prediction.index, spans
    if task == "intent":
        return [entry.label for entry in prediction.n_best]
    return prediction.tags, [(span.label, span.start, span.end) for span in prediction.spans]


@pytest.mark.parametrize("task", TASKS)
@settings(deadline=None, max_examples=examples(40))
@given(
    seed=st.integers(0, 10**6),
    coarse=st.booleans(),
    temperature=st.floats(*TEMPERATURES),
    threshold=st.sampled_from([None, 0.0, 2.0, -2.0]),
)
def test_no_temperature_changes_what_is_predicted(task, seed, coarse, temperature, threshold):
    made = make_task(task, labels=LABELS[task], null_threshold=threshold)
    windows = made.encode(ONE[task], ENCODING)
    generator = np.random.default_rng(seed)
    classes = len(LABELS[task])
    logits = []
    for window in windows:
        shape = {"select": (1,), "read": (2, len(window)), "intent": (classes,), "slots": (len(window), classes)}[task]
        # Coarse ones have many ties.
        value = generator.integers(-6, 7, shape) if coarse else generator.normal(size=shape) * 5
        logits.append(value.astype(np.float32))
    plain = made.decode(ONE[task], windows, logits)
    warmed = replace(made, temperature=temperature).decode(ONE[task], windows, logits)
    assert what(task, warmed) == what(task, plain)
    if task == "read":
        assert warmed.null_score == pytest.approx(plain.null_score)
        assert sum(candidate.score for candidate in warmed.n_best) <= 1 + 1e-9


@pytest.mark.parametrize("task", TASKS)
def test_logits_are_divided_by_the_temperature(task):
    made = make_task(task, labels=LABELS[task])
    windows = made.encode(ONE[task], ENCODING)[: 1 if task == "read" else None]  # of several, each has its own scale
    generator = np.random.default_rng(1)
    classes = len(LABELS[task])
    logits = []
    for window in windows:
        shape = {"select": (1,), "read": (2, len(window)), "intent": (classes,), "slots": (len(window), classes)}[task]
        logits.append(generator.normal(size=shape).astype(np.float32) * 8)
    warmed = replace(made, temperature=4.0).decode(ONE[task], windows, logits)
    divided = made.decode(ONE[task], windows, [value / 4 for value in logits])
    scores = "scores" if task == "slots" else "score"
    assert getattr(warmed, scores) == pytest.approx(getattr(divided, scores))
    assert getattr(warmed, scores) != pytest.approx(getattr(made.decode(ONE[task], windows, logits), scores))
    if task == "select":
        assert warmed.scores == pytest.approx(divided.scores)
    if task == "read":
        assert [c.score for c in warmed.n_best] == pytest.approx([c.score for c in divided.n_best])


# A checkpoint


QA = [
    replace(
        ASKED, id=f"q{number}", question=QUESTIONS[number % 4], relevant=place, answers=(Span(text, start),), gold=()
    )
    for number, (place, text, start) in enumerate(
        (place, text[start : start + 2], start) for start in (0, 3, 8) for place, text in enumerate(PARAGRAPHS)
    )
]  # fmt: skip
EXAMPLES = {"select": QA, "read": QA, "intent": INTENTS * 2, "slots": SLOTTED * 2}
EXAMPLES |= {
    task: [replace(example, id=f"{number}") for number, example in enumerate(EXAMPLES[task])]
    for task in ("intent", "slots")
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A hardly trained run for each task."""
    folder = tmp_path_factory.mktemp("calibrated")
    bert(folder / "bert")
    for task in TASKS:
        data = TrainData(EXAMPLES[task], EXAMPLES[task], [], ReadLog())
        train(task, _settings(folder), data, folder / task)
    return folder


def _settings(folder):
    return TrainSettings(
        encoder=str(folder / "bert"), window=64, overlap=8, threads=1, max_steps=3, batch_tokens=1024, lr=1e-2,
        negatives=2, risk=0.3,
    )  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_training_leaves_a_calibration_that_is_used(runs, task):
    kept = json.loads((runs / task / "best" / "zhaiju.json").read_text("utf-8"))["calibration"]
    record = json.loads((runs / task / "calibration.json").read_text("utf-8"))
    assert kept == {name: record[name] for name in kept}
    assert set(kept) == {"temperature", "threshold", "risk", "coverage", "ece", "ece_before", "count", "unit"}
    assert kept["unit"] == {"select": "question", "read": "question", "intent": "utterance", "slots": "word"}[task]
    assert kept["risk"] == 0.3
    words = sum(len(example.tokens) for example in EXAMPLES["slots"])
    assert kept["count"] == (words if task == "slots" else len(EXAMPLES[task]))
    loaded = load(runs / task)
    assert loaded.task(task).temperature == kept["temperature"] == loaded.meta.temperature
    outcomes = json.loads((runs / task / "outcomes.json").read_text("utf-8"))
    assert outcomes["ids"] == [example.id for example in EXAMPLES[task]]
    figures, _ = evaluate(make_engine(loaded), loaded.task(task), EXAMPLES[task])
    for name, table in outcomes["ratios"].items():
        right, of = np.sum(table, axis=0)
        assert right / of == pytest.approx(figures[name])


@pytest.mark.parametrize("task", TASKS)
def test_calibration_never_makes_the_log_loss_worse_nor_changes_a_prediction(runs, tmp_path, task):
    shutil.copytree((runs / task / "best").resolve(), tmp_path / "copy")
    loaded = load(tmp_path / "copy")
    engine = make_engine(loaded)
    plain = loaded.task(task, temperature=1.0)
    found, before, after = calibrate(engine, loaded.task(task), EXAMPLES[task], risk=0.3)
    assert platt_loss(after.confidence, after.correct) <= platt_loss(before.confidence, before.correct) + 1e-6
    assert after.correct.tolist() == before.correct.tolist()
    assert found.ece_before == pytest.approx(expected_calibration_error(before.confidence, before.correct))
    save_calibration(tmp_path / "copy", found.to_json() | {"temperature": 3.0})
    warm = load(tmp_path / "copy").task(task)
    assert warm.temperature == 3.0
    for one, two in zip(engine.predict(plain, EXAMPLES[task]), engine.predict(warm, EXAMPLES[task]), strict=True):
        assert what(task, one) == what(task, two)
    again, _, _ = calibrate(engine, warm, EXAMPLES[task], risk=0.3)
    assert again == found  # what was fitted before is not looked at


def test_at_the_threshold_the_risk_is_kept(runs):
    loaded = load(runs / "slots")
    engine, task = make_engine(loaded), loaded.task("slots")
    for risk in (0.0, 0.2, 0.5, 1.0):
        found, _, _ = calibrate(engine, task, EXAMPLES["slots"], risk=risk)
        if found.threshold is None:
            assert found.coverage == 0
            continue
        warmed = loaded.task("slots", temperature=found.temperature)
        report, _ = evaluate(engine, warmed, EXAMPLES["slots"], threshold=found.threshold - 1e-6)
        assert report["coverage"] == pytest.approx(found.coverage)
        assert report["selective_accuracy"] >= 1 - risk
    assert (found.coverage, report["selective_accuracy"]) == (1.0, pytest.approx(report["token_accuracy"]))


def test_a_threshold_that_nothing_reaches_answers_nothing(runs):
    loaded = load(runs / "intent")
    report, _ = evaluate(make_engine(loaded), loaded.task("intent"), EXAMPLES["intent"], threshold=1.1)
    assert (report["coverage"], report["selective_accuracy"]) == (0.0, 0.0)


@pytest.mark.parametrize("temperatures", [(1.0, 4.0), (0.2, 0.2), (9.0, 1.0)])
def test_a_calibrated_pair_still_answers_from_its_paragraphs(runs, tmp_path, temperatures):
    for task, temperature in zip(("select", "read"), temperatures, strict=True):
        shutil.copytree((runs / task / "best").resolve(), tmp_path / task)
        save_calibration(tmp_path / task, {"temperature": temperature})
    plain = zhaiju.load(str(runs / "read"), selector=str(runs / "select"))
    model = zhaiju.load(str(tmp_path / "read"), selector=str(tmp_path / "select"))
    for question in QUESTIONS[:2]:
        found, before = model.answer(question, PARAGRAPHS), plain.answer(question, PARAGRAPHS)
        assert PARAGRAPHS[found.index][found.start : found.end] == found.answer
        assert (found.answer, found.index) == (before.answer, before.index)  # the pipeline reads what was selected
        assert 0 < found.score <= 1
        assert found.selected == pytest.approx(model.select(question, PARAGRAPHS).score)


def test_k_and_weight_of_a_pair_are_not_used_once_one_of_them_is_calibrated_to_another_temperature(runs, tmp_path):
    where = {task: tmp_path / task for task in ("read", "select")}
    for task, path in where.items():
        shutil.copytree((runs / task / "best").resolve(), path)
        save_calibration(path, {"temperature": 1.5})
    pair = [str(path) for path in where.values()]
    fitted = Joint(3, 2.0)
    save_joint(*pair, fitted, {"fitted_on": "dev.json"})
    assert load_joint(*pair) == fitted
    for path in where.values():
        save_calibration(path, {"temperature": 1.5, "threshold": 0.3})  # the threshold has no say in it
        assert load_joint(*pair) == fitted
        for other in (1.0, 1.6, 1.5001):
            save_calibration(path, {"temperature": other})
            assert load_joint(*pair) is None
            assert zhaiju.load(pair[0], selector=pair[1]).joint == PIPELINE
        save_calibration(path, {"temperature": 1.5})
        assert load_joint(*pair) == fitted  # what was fitted is still there
    assert zhaiju.load(pair[0], selector=pair[1]).joint == fitted
    save_calibration(where["read"], {"temperature": 3.0})
    save_joint(*pair, PIPELINE, {})
    assert load_joint(*pair) == PIPELINE
    save_calibration(where["read"], {"temperature": 1.5})
    assert load_joint(*pair) == fitted
    # Which of the two has which temperature matters too.
    save_calibration(where["select"], {"temperature": 3.0})
    assert load_joint(*pair) is None


def test_k_and_weight_of_a_pair_that_was_never_calibrated_are_not_used_after_it_is(runs, tmp_path):
    pair = []
    for task in ("read", "select"):
        shutil.copytree((runs / task / "best").resolve(), tmp_path / task)
        save_calibration(tmp_path / task, {})
        pair.append(str(tmp_path / task))
    save_joint(*pair, Joint(2, 1.0), {})
    assert load_joint(*pair) == Joint(2, 1.0)
    loaded = load(tmp_path / "select")
    found, _, _ = calibrate(make_engine(loaded), loaded.task("select"), EXAMPLES["select"], risk=0.05)
    save_calibration(tmp_path / "select", replace(found, temperature=2.5).to_json())
    assert load_joint(*pair) is None


def test_the_record_holds_both_diagrams_and_a_curve_that_is_not_too_long(runs):
    loaded = load(runs / "slots")
    found, before, after = calibrate(make_engine(loaded), loaded.task("slots"), EXAMPLES["slots"], risk=0.3)
    many = replace(after, confidence=np.linspace(0, 1, 3000), correct=np.arange(3000) % 2 == 0)
    record = calibration_record(found, before, many)
    assert sum(entry["count"] for entry in record["reliability"]) == 3000
    assert sum(entry["count"] for entry in record["reliability_before"]) == found.count
    curve = [record[f"{name}_curve"] for name in ("coverage", "risk", "threshold")]
    assert {len(column) for column in curve} == {500}
    assert (curve[0][0], curve[0][-1]) == (1 / 3000, 1.0)
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("task", TASKS)
def test_a_single_example_can_be_calibrated_on(runs, task):
    loaded = load(runs / task)
    found, before, after = calibrate(make_engine(loaded), loaded.task(task), EXAMPLES[task][:1], risk=0.05)
    assert 0 <= found.ece <= 1
    json.dumps(calibration_record(found, before, after), allow_nan=False)


def test_nothing_to_calibrate_on_is_said(runs):
    loaded = load(runs / "intent")
    with pytest.raises(DataError, match="no labelled example"):
        calibrate(make_engine(loaded), loaded.task("intent"), [], risk=0.05)
    bare = [replace(EXAMPLES["intent"][0], label=None)]
    with pytest.raises(DataError, match="row 0: intent"):
        calibrate(make_engine(loaded), loaded.task("intent"), bare, risk=0.05)


def test_of_very_many_examples_evenly_chosen_ones_are_used(runs):
    class Sure(TorchBackend):
        def run(self, chunk):
            return np.tile(np.array([2, 0, 0], np.float32), (len(chunk.rows), 1))

    loaded = load(runs / "intent")
    engine = Engine(Sure(loaded.network, pad_id=0), loaded.encoding)
    made = [replace(INTENTS[0], id=str(number), label=LABELS["intent"][number % 4 == 3]) for number in range(2600)]
    found, _, after = calibrate(engine, loaded.task("intent"), made, risk=0.05)
    assert found.count == MOST_EXAMPLES
    assert after.correct.mean() == pytest.approx(0.75, abs=0.01)
    assert after.confidence[0] == pytest.approx(0.75, abs=0.01)  # it is right three times of four
    assert found.threshold is None


@pytest.mark.parametrize("killed", ["before the calibration", "before the outcomes"])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_killed_before_its_calibration_is_completed_by_the_same_command(runs, tmp_path, task, killed):
    shutil.copytree(runs / task, tmp_path / "run", symlinks=True)
    whole = {name: (runs / task / name).read_bytes() for name in ("outcomes.json", "calibration.json", "metrics.jsonl")}
    (tmp_path / "run" / "outcomes.json").unlink()
    meta = tmp_path / "run" / "best" / "zhaiju.json"
    before = meta.read_bytes()
    if killed == "before the calibration":
        (tmp_path / "run" / "calibration.json").unlink()
        values = json.loads(before)
        del values["calibration"]
        meta.write_text(json.dumps(values), "utf-8")
    weights = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    steps = []
    data = TrainData(EXAMPLES[task], EXAMPLES[task], [], ReadLog())
    assert train(task, _settings(runs), data, tmp_path / "run", on_event=steps.append).finished
    assert not steps
    assert read_meta(str(tmp_path / "run" / "best")) == read_meta(str(runs / task / "best"))
    assert (tmp_path / "run" / "best" / "model.safetensors").read_bytes() == weights
    for name, content in whole.items():
        assert (tmp_path / "run" / name).read_bytes() == content
