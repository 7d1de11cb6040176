"""`zhaiju train --profile`: where the time goes, and nothing left behind."""

import json

import pytest
import torch

from test_training import TINY, _data
from zhaiju.errors import ConfigError
from zhaiju.training.loop import SECTIONS
from zhaiju.training.profile import WARM_STEPS, profile

SMALL = ["--layers", "1", "--hidden", "16", "--heads", "2", "--intermediate", "32", "--window", "64", "--threads", "1"]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("task", ["select", "read", "slots"])
def test_the_parts_of_a_step_add_up_and_speeds_agree(task):
    found = profile(task, TINY, _data(task), 3)
    assert list(found.parts) == ["tokenising", "items", *SECTIONS, "rest"]
    assert all(value >= 0 for value in found.parts.values())
    assert sum(found.parts.values()) == pytest.approx(found.seconds * 1e3)
    assert found.parts["forward"] > 0
    assert found.parts["backward"] > 0
    assert found.steps == 3
    assert 0 <= found.padding < 1
    assert found.tokens_per_second > found.items_per_second > 0
    assert 0 < found.roofline < 1
    assert 0 < sum(found.operators.values()) <= 1
    assert found.threads == 1
    assert json.loads(json.dumps(found.to_json()))["roofline"] == found.roofline


@pytest.mark.usefixtures("threads")
def test_operations_are_those_of_the_layers():
    """Six for each weight and token, and attention's two products thrice."""
    from dataclasses import replace

    found = profile("read", replace(TINY, dropout=0.1), _data("read"), 1)
    without = profile("read", replace(TINY, dropout=0.0), _data("read"), 1)
    weights = 4 * 16 * 16 + 2 * 16 * 32 + 16 * 2
    for one in (found, without):
        a_token = one.flops * one.seconds / (one.tokens_per_second * one.seconds / (1 - one.padding))
        length = (a_token / 6 - weights) / (2 * 16)  # attention: 2 products of T x 16 for each token, thrice
        assert 20 < length < 64


def test_few_steps_are_refused():
    with pytest.raises(ConfigError, match="profile is 0 steps"):
        profile("read", TINY, _data("read"), 0)


@pytest.mark.usefixtures("threads")
def test_more_steps_than_an_epoch_has():
    found = profile("intent", TINY, _data("intent"), 12)
    assert found.steps == 12
    assert WARM_STEPS == 2


@pytest.fixture
def sample(tmp_path, monkeypatch):
    rows = [{"text": f"{number} 號倉庫", "intent": f"c{number % 2}"} for number in range(30)]
    (tmp_path / "train.json").write_text(json.dumps(rows), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("threads")
def test_the_command_prints_tables_or_json_and_leaves_nothing(run, sample):
    command = ["train", "intent", "--scratch", *SMALL, "--train", "train.json", "--profile", "2"]
    code, out, _ = run(*command)
    assert code == 0
    for word in ("tokenising", "forward", "optimiser", "operators", "tokens/s", "reached of that"):
        assert word in out
    code, out, _ = run(*command, "--json", "-o", "runs/none")
    assert code == 0
    assert json.loads(out)["steps"] == 2
    assert [path.name for path in sample.iterdir()] == ["train.json"]


@pytest.mark.parametrize("given", ["0", "-3", "many"])
def test_a_bad_number_of_steps_is_one_line(run, sample, given):
    code, out, err = run("train", "intent", "--scratch", "--train", "train.json", "--profile", given)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "--profile" in err


def test_without_a_directory_there_is_nothing_to_train_into(run, sample):
    code, _, err = run("train", "intent", "--scratch", "--train", "train.json")
    assert code == 2
    assert "name one with -o" in err
