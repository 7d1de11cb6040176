"""Runs side by side: the same run does not differ from itself, a better one does, and like is compared with like."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from checkpoints import INTENTS, SLOTTED, bert
from zhaiju.config import TrainSettings
from zhaiju.data.formats import ReadLog
from zhaiju.errors import ConfigError
from zhaiju.training.compare import Outcomes, compare, load_outcomes
from zhaiju.training.run import TrainData, train

pytestmark = pytest.mark.usefixtures("one_thread")


def outcomes(name, correct, task="intent", ids=None):
    table = np.stack([np.asarray(correct, np.float64), np.ones(len(correct))], 1)
    return Outcomes(name, task, tuple(ids or map(str, range(len(correct)))), {"accuracy": table})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Tiny runs for intent, with two seeds, and one for slots."""
    folder = tmp_path_factory.mktemp("compare")
    bert(folder / "bert")
    settings = TrainSettings(
        encoder=str(folder / "bert"), window=64, threads=1, max_steps=3, batch_tokens=512, lr=1e-2, eval_every=3
    )
    for name, task, seed in (("one", "intent", 0), ("two", "intent", 1), ("tags", "slots", 0)):
        made = {"intent": INTENTS, "slots": SLOTTED}[task]
        train(task, replace(settings, seed=seed), TrainData(made, made, [], ReadLog()), folder / name)
    return folder


@pytest.mark.parametrize("name", ["one", "tags"])
def test_a_run_does_not_differ_from_itself(runs, name):
    tables = compare([load_outcomes(runs / name, "first"), load_outcomes(runs / name, "again")])
    assert [row["run"] for row in tables["figures"]][:2] == ["first", "again"]
    assert {row["figure"] for row in tables["differences"]} == (
        {"accuracy"} if name == "one" else {"f1", "token_accuracy", "sentence_accuracy"}
    )
    for row in tables["differences"]:
        assert (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)
        assert (row["run"], row["against"], row["examples"]) == ("again", "first", 8)


def test_figures_are_those_of_the_run_within_their_interval(runs):
    result = [json.loads(line) for line in (runs / "tags" / "metrics.jsonl").read_text("utf-8").splitlines()][-1]
    for row in compare([load_outcomes(runs / "tags")])["figures"]:
        assert row["run"] == "tags"
        assert row["value"] == pytest.approx(result[row["figure"]], abs=1e-9)
        assert row["low"] <= row["value"] <= row["high"]


def test_one_run_alone_has_figures_and_no_differences(runs):
    tables = compare([load_outcomes(runs / "one")])
    assert (len(tables["figures"]), tables["differences"]) == (1, [])


def test_runs_of_other_seeds_are_compared_on_the_same_examples(runs):
    (row,) = compare([load_outcomes(runs / "one"), load_outcomes(runs / "two")])["differences"]
    values = {
        entry["run"]: entry["value"] for entry in compare([load_outcomes(runs / n) for n in ("one", "two")])["figures"]
    }
    assert row["difference"] == pytest.approx(values["two"] - values["one"])
    assert row["low"] <= row["difference"] <= row["high"]
    assert 0 < row["p"] <= 1


@pytest.mark.parametrize("count", [20, 200])
def test_a_run_that_is_better_on_every_example_is_better_for_sure(count):
    (row,) = compare([outcomes("worse", [0] * count), outcomes("better", [1] * count)])["differences"]
    assert (row["difference"], row["low"], row["high"]) == (1, 1, 1)
    assert row["p"] < 0.05
    (row,) = compare([outcomes("better", [1] * count), outcomes("worse", [0] * count)])["differences"]
    assert row["difference"] == -1
    assert row["p"] < 0.05


def test_a_run_that_is_better_on_two_examples_may_be_so_by_chance():
    (row,) = compare([outcomes("worse", [0, 0]), outcomes("better", [1, 1])])["differences"]
    assert row["p"] > 0.3


def test_every_later_run_is_compared_with_the_first():
    made = [outcomes(name, np.arange(40) % step == 0) for name, step in (("a", 2), ("b", 3), ("c", 4))]
    rows = compare(made)["differences"]
    assert [(row["run"], row["against"]) for row in rows] == [("b", "a"), ("c", "a")]
    assert [row["difference"] for row in rows] == pytest.approx([14 / 40 - 0.5, -0.25])
    assert compare(made) == compare(made)  # seeded


def test_f1_is_resampled_as_the_ratio_that_it_is():
    table = np.array([[0, 0], [2, 2], [0, 4]], np.float64)
    made = Outcomes("a", "slots", ("1", "2", "3"), {"f1": table})
    (row,) = compare([made])["figures"]
    assert row["value"] == pytest.approx(1 / 3)
    empty = Outcomes("a", "slots", ("1",), {"f1": np.zeros((1, 2))})
    assert compare([empty])["figures"][0]["value"] == 0


# What cannot be compared


def test_runs_for_other_tasks_are_refused(runs):
    with pytest.raises(ConfigError, match=r"^tags is for slots and one for intent$"):
        compare([load_outcomes(runs / "one"), load_outcomes(runs / "tags")])


@pytest.mark.parametrize("ids", [["1", "0"], ["0"], ["0", "1", "2"]])
def test_runs_judged_on_other_examples_are_refused(ids):
    with pytest.raises(
        ConfigError, match=rf"different examples \({len(ids)} and 2\); name data to compare on with --data"
    ):
        compare([outcomes("a", [1, 0]), outcomes("b", [1] * len(ids), ids=ids)])


def test_a_run_that_is_not_finished_is_refused(runs, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "outcomes.json").unlink()
    with pytest.raises(ConfigError, match="a run that is not finished"):
        load_outcomes(tmp_path / "run")
    for nothing in (tmp_path, tmp_path / "nowhere", runs / "bert"):
        with pytest.raises(ConfigError, match="not a run"):
            load_outcomes(nothing)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"ids": ["1"], "ratios": 5}', '{"ids": ["1"], "ratios": {"f1": [["a", 1]]}}', "\udcff"]
)
def test_damaged_outcomes_are_refused(runs, tmp_path, text):
    shutil.copytree(runs / "one", tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "outcomes.json").write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=r"outcomes\.json cannot be read"):
        load_outcomes(tmp_path / "run")
