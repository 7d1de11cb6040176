import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import kills
from zhaiju.config import TrainSettings
from zhaiju.data.chunks import arrays, pad
from zhaiju.data.examples import Context, IntentExample, QAExample, SlotExample, Span
from zhaiju.data.formats import ReadLog
from zhaiju.errors import ConfigError, DataError, OutputError, TrainingError
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import Shape, from_scratch, load
from zhaiju.tasks import TASKS
from zhaiju.training.evaluate import evaluate
from zhaiju.training.loop import Evaluated, Loop, Started, Stepped
from zhaiju.training.run import TrainData, hold_out, load_train_data, read_metrics, train

COLOURS = "紅橙黃綠藍靛紫黑白灰"
TINY = TrainSettings(
    scratch=True,
    layers=1,
    hidden=16,
    heads=2,
    intermediate=32,
    positions=96,
    window=64,
    overlap=10,
    lr=1e-2,
    epochs=2,
    batch_tokens=512,
    eval_every=5,
    save_every=3,
    threads=1,
)


def _examples(count, first=0):
    examples = []
    for number in range(first, first + count):
        colours = [COLOURS[(number * step + step) % 10] for step in (1, 3, 7)]
        contexts = tuple(
            Context(f"第{number}號倉庫的第{place}扇門漆成{colour}色，旁邊放著一只舊木箱。", str(place))
            for place, colour in enumerate(colours)
        )
        right = number % 3
        start = contexts[right].text.index(colours[right])
        examples.append(
            QAExample(f"r{number}", f"第{right}扇門是什麼顏色？", contexts, right, (Span(colours[right], start),))
        )
    return examples


def _utterances(task, count, first=0):
    """What colour the door of a store is: its class, or the tags of what is said of it."""
    made = []
    for number in range(first, first + count):
        colour = COLOURS[number % 3]
        words = (*str(number), "號", "倉庫", "的門", "是", f"{colour}色", "")
        tags = ("B-store", *["I-store"] * (len(str(number)) + 1), "O", "O", "B-colour", "O")
        made.append(
            IntentExample(f"r{number}", "".join(words), colour)
            if task == "intent"
            else SlotExample(f"r{number}", words, tags)
        )
    return made


def _data(task):
    make = _utterances if task in ("intent", "slots") else lambda task, *numbers: _examples(*numbers)
    fingerprints = [{"role": "train", "name": "made.json", "sha256": "0" * 64, "count": 40}]
    return TrainData(make(task, 40), make(task, 8, 100), fingerprints, ReadLog())


@pytest.fixture(scope="module")
def data():
    return _data("read")


def _weights(checkpoint):
    return load_file(checkpoint / "model.safetensors")


def _equal(first, second):
    one, two = _weights(first), _weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("task", TASKS)
def test_training_leaves_a_whole_run(tmp_path, task):
    data = _data(task)
    events = []
    result = train(task, TINY, data, tmp_path / "run", on_event=events.append)
    run = tmp_path / "run"
    steps = [event for event in events if isinstance(event, Stepped)]
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    assert result.finished
    assert [event.step for event in steps] == list(range(1, result.step + 1))
    assert [event.step for event in evaluations][-1] == result.step  # the end is always evaluated
    assert result.best_step == max(evaluations, key=lambda event: (event.value, -event.step)).step
    assert {entry.name for entry in run.iterdir()} == {
        ".zhaiju.lock", "README.md", "best", "calibration.json", "checkpoints", "config.toml", "environment.json",
        "last", "metrics.jsonl", "outcomes.json",
    }  # fmt: skip
    assert {entry.name for entry in (run / "last").iterdir()} >= {"config.json", "model.safetensors", "zhaiju.json"}
    assert {path.resolve() for path in (run / "checkpoints").iterdir()} == {
        (run / "best").resolve(),
        (run / "last").resolve(),
    }
    logged = [entry for entry in read_metrics(run) if entry["event"] == "step"]
    assert [entry["loss"] for entry in logged] == [event.loss for event in steps]
    environment = json.loads((run / "environment.json").read_text("utf-8"))
    assert environment["seed"] == TINY.seed
    assert environment["data"] == data.fingerprints
    assert environment["libraries"]["torch"] == torch.__version__


def test_the_learning_rate_rises_then_falls_to_nearly_nothing(tmp_path, data):
    events = []
    train("read", TINY, data, tmp_path / "run", on_event=events.append)
    rates = [event.lr for event in events if isinstance(event, Stepped)]
    top = int(np.argmax(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) <= TINY.lr
    assert rates[-1] < TINY.lr / 5


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, data):
    for name, settings in {"a": TINY, "b": TINY, "c": replace(TINY, seed=1)}.items():
        train("read", settings, data, tmp_path / name)
    assert _equal(tmp_path / "a" / "last", tmp_path / "b" / "last")
    assert not _equal(tmp_path / "a" / "last", tmp_path / "c" / "last")


class _KilledError(Exception):
    """The process dies."""


def _die_at(step, kind=Stepped):
    def die(event):
        if isinstance(event, kind) and event.step == step:
            raise _KilledError

    return die


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("at", [1, 4, 5])
def test_a_run_that_dies_and_goes_on_ends_with_the_same_weights(tmp_path, task, at):
    data, settings = _data(task), replace(TINY, max_steps=8, epochs=8)
    whole = train(task, settings, data, tmp_path / "whole")
    with pytest.raises(_KilledError):
        train(task, settings, data, tmp_path / "run", on_event=_die_at(at))
    result = train(task, settings, data, tmp_path / "run")
    assert (result.step, result.best_step, result.metrics) == (8, whole.best_step, whole.metrics)
    assert _equal(tmp_path / "run" / "last", tmp_path / "whole" / "last")
    assert _equal(tmp_path / "run" / "best", tmp_path / "whole" / "best")
    assert _without_times(tmp_path / "run") == _without_times(tmp_path / "whole")
    for name in ("calibration.json", "outcomes.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert load(tmp_path / "run").labels == load(tmp_path / "whole").labels


# The mean of the weights

AVERAGED = replace(TINY, max_steps=8, epochs=8, average=0.3)  # at step 5 it holds 1/3 of what was, so 0.3 is reached


def _same_state(one, other):
    """Whether two saved states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same_state(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same_state, one, other))
    return one == other


def _loop(settings, data, evaluate):
    torch.manual_seed(settings.seed)
    shape = Shape(layers=1, hidden=16, heads=2, intermediate=32, dropout=0.1)
    checkpoint = from_scratch("read", (c.text for e in data.train for c in e.contexts), encoder=None, shape=shape,
        window=64, overlap=10, script="as-is")  # fmt: skip
    network = checkpoint.network
    loop = Loop(network, TASKS["read"](), data.train, checkpoint.encoding, settings, evaluate=evaluate, pad_id=0)
    return loop, network


def _copy(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


@pytest.mark.parametrize("average", [0.3, 0.9])
def test_what_is_judged_and_kept_is_the_running_mean_of_the_weights(data, average):
    judged = []

    def judge():
        judged.append(_copy(network))
        return {"em": 0.0}

    loop, network = _loop(replace(AVERAGED, average=average, eval_every=2), data, judge)
    mean = _copy(network)
    for event in loop.events():
        if isinstance(event, Started):
            continue
        if isinstance(event, Stepped):
            weights = _copy(network)  # trained on as ever
            decay = min(average, event.step / (event.step + 10))
            mean = {name: decay * value + (1 - decay) * weights[name] for name, value in mean.items()}
            with loop.averaged():
                kept = _copy(network)
            assert all(torch.allclose(kept[name], value, atol=1e-6) for name, value in mean.items())
            assert any(not torch.allclose(kept[name], value, atol=1e-4) for name, value in weights.items())
        else:
            assert all(torch.equal(judged[-1][name], value) for name, value in kept.items())
        now = _copy(network)
        assert all(torch.equal(now[name], weights[name]) for name in now)
    assert len(judged) == 4


def test_the_mean_gives_way_to_the_weights_when_what_judges_fails(data):
    def judge():
        raise _KilledError

    loop, network = _loop(replace(AVERAGED, eval_every=2), data, judge)
    events = loop.events()
    steps = [next(events) for _ in range(3)]  # the start and two steps
    assert steps[-1].step == 2
    before = _copy(network)
    with pytest.raises(_KilledError):
        next(events)
    assert all(torch.equal(value, before[name]) for name, value in _copy(network).items())


def test_without_a_mean_nothing_is_kept_beside_the_weights(data):
    weights = []
    for enter in (False, True):
        loop, network = _loop(replace(AVERAGED, average=0.0), data, lambda: {"em": 0.0})
        for event in loop.events():
            if isinstance(event, Stepped) and enter:
                with loop.averaged():
                    inside = _copy(network)
                assert all(torch.equal(value, inside[name]) for name, value in _copy(network).items())
        assert loop.state_dict()["average"] == loop.state_dict()["weights"] == []
        weights.append(_copy(network))
    averaged, network = _loop(AVERAGED, data, lambda: {"em": 0.0})
    assert len(list(averaged.events())) > 8
    for other in (weights[1], _copy(network)):  # a mean changes nothing of how the weights are trained either
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())


def test_the_kept_checkpoint_holds_the_mean_and_the_state_the_weights(tmp_path, data):
    train("read", AVERAGED, data, tmp_path / "mean")
    train("read", replace(AVERAGED, average=0.0), data, tmp_path / "plain")
    state = load_state(tmp_path / "mean")
    kept = list(load(tmp_path / "mean" / "last").network.parameters())
    plain = list(load(tmp_path / "plain" / "last").network.parameters())
    assert len(state["average"]) == len(kept) == len(plain)
    for place, value in enumerate(kept):
        assert torch.equal(value, state["average"][place])
        assert torch.equal(plain[place], state["weights"][place])
    assert not _equal(tmp_path / "mean" / "last", tmp_path / "plain" / "last")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    for task in ("read", "intent"):
        train(task, AVERAGED, _data(task), folder / task)
    return folder


def _assert_the_same(run, whole):
    """Bit for bit: weights, figures, state, calibration."""
    for name in ("last", "best"):
        assert (run / name).resolve().name == (whole / name).resolve().name
        assert _equal(run / name, whole / name)
    assert _without_times(run) == _without_times(whole)
    assert _same_state(load_state(run), load_state(whole))
    for name in ("calibration.json", "outcomes.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("task", ["read", "intent"])
@pytest.mark.parametrize("at", [*range(1, 9)])
def test_an_averaged_run_that_dies_at_any_step_and_goes_on_ends_the_same(averaged, tmp_path, task, at):
    whole, run = averaged / task, tmp_path / "run"
    with pytest.raises(_KilledError):
        train(task, AVERAGED, _data(task), run, on_event=_die_at(at))
    assert train(task, AVERAGED, _data(task), run).finished
    _assert_the_same(run, whole)


def test_an_averaged_run_that_dies_between_an_evaluation_and_its_checkpoint_ends_the_same(averaged, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(_KilledError):
        train("read", AVERAGED, _data("read"), run, on_event=_die_at(5, Evaluated))
    train("read", AVERAGED, _data("read"), run)
    assert _without_times(run) == _without_times(averaged / "read")
    assert _same_state(load_state(run), load_state(averaged / "read"))


# A reader made from nothing, with all that helps a small one

SMALL_READER = replace(
    AVERAGED, window=36, vocabulary="characters", script="simplified", random_windows=True, no_answer_rate=0.5,
    mask_rate=0.1, average=0.99, batch_size=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def small_readers(tmp_path_factory):
    """Uninterrupted runs, with the mean of the weights and without."""
    folder = tmp_path_factory.mktemp("small-readers")
    for average in (0.99, 0.0):
        train("read", replace(SMALL_READER, average=average), _data("read"), folder / str(average))
    return folder


@pytest.mark.parametrize("average", [0.99, 0.0])
@pytest.mark.parametrize(("at", "kind"), [(1, Stepped), (4, Stepped), (5, Stepped), (5, Evaluated), (7, Stepped)])
def test_a_small_reader_that_dies_and_goes_on_ends_the_same(small_readers, tmp_path, average, at, kind):
    whole, run, settings = small_readers / str(average), tmp_path / "run", replace(SMALL_READER, average=average)
    with pytest.raises(_KilledError):
        train("read", settings, _data("read"), run, on_event=_die_at(at, kind))
    assert train("read", settings, _data("read"), run).step == 8
    _assert_the_same(run, whole)


@pytest.mark.parametrize("average", ["0.99", "0.0"])
@pytest.mark.parametrize("which", ["last", "best"])
def test_a_small_reader_is_a_plain_transformers_checkpoint(small_readers, average, which):
    import transformers

    where = small_readers / average / which
    model, report = transformers.AutoModelForQuestionAnswering.from_pretrained(where, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for parameter in model.parameters():  # where a mapped file has them is not where memory has; see `load`
        parameter.data = parameter.data.clone()
    ours = load(where)
    windows = [
        window for example in _examples(3) for window in ours.encoding.windows(example.question, example.context.text)
    ]
    assert len(windows) > 3
    ids, types, mask = (torch.from_numpy(array) for array in arrays(pad(windows, ours.encoding.pad_id)))
    with torch.inference_mode():
        theirs = model.eval()(input_ids=ids, token_type_ids=types, attention_mask=mask)
        logits = ours.network.eval().logits(ids, types, mask)
    assert torch.equal(logits, torch.stack([theirs.start_logits, theirs.end_logits], 1))


def test_what_is_judged_in_training_is_what_the_checkpoint_scores(small_readers):
    for average in ("0.99", "0.0"):
        entries = [entry for entry in read_metrics(small_readers / average) if entry["event"] == "evaluate"]
        loaded = load(small_readers / average / "last")
        figures, _ = evaluate(make_engine(loaded), loaded.task("read", temperature=1.0), _data("read").dev)
        assert {name: entries[-1][name] for name in figures} == figures


# First weights


def test_first_weights_are_set_once_and_not_again_when_a_run_goes_on(tmp_path, monkeypatch):
    from zhaiju.training import run as module

    data, settings = _data("intent"), replace(AVERAGED, head="discriminant", pooling="mean")
    made = []
    for name in ("discriminant_head", "mean_pooling"):
        own = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, own=own, name=name, **options: (made.append(name), own(*args, **options))
        )
    train("intent", settings, data, tmp_path / "whole")
    assert made == ["mean_pooling", "discriminant_head"]
    with pytest.raises(_KilledError):
        train("intent", settings, data, tmp_path / "run", on_event=_die_at(4))
    assert train("intent", settings, data, tmp_path / "run").finished
    assert train("intent", settings, data, tmp_path / "run").finished  # and a finished one is left alone
    assert made == ["mean_pooling", "discriminant_head"] * 2
    assert _equal(tmp_path / "run" / "last", tmp_path / "whole" / "last")
    assert _same_state(load_state(tmp_path / "run"), load_state(tmp_path / "whole"))


@pytest.mark.parametrize("task", TASKS)
def test_training_examples_are_scored_beside_the_dev_set_where_asked_for(tmp_path, task):
    data = _data(task)
    evaluated = []
    for name, count in (("none", 0), ("some", 5), ("all", 10**6)):
        events = []
        settings = replace(TINY, max_steps=2, eval_every=2, eval_train=count)
        train(task, settings, data, tmp_path / name, on_event=events.append)
        (entry,) = [entry for entry in read_metrics(tmp_path / name) if entry["event"] == "evaluate"]
        evaluated.append(entry)
        assert _equal(tmp_path / name / "last", tmp_path / "none" / "last")  # it changes nothing else
    primary = TASKS[task].figures[0]
    expected = {f"train_{primary}", "train_loss"} if task in ("intent", "slots") else {f"train_{primary}"}
    for entry, wished in zip(evaluated, (set(), expected, expected), strict=True):
        assert {name for name in entry if name.startswith("train_")} == wished
        assert entry[primary] == evaluated[0][primary]
    loaded = load(tmp_path / "some")
    figures, _ = evaluate(make_engine(loaded), loaded.task(task, temperature=1.0), data.train[:5])
    assert evaluated[1][f"train_{primary}"] == pytest.approx(figures[primary])


def test_smoothed_labels_keep_a_network_from_being_sure(tmp_path):
    data = _data("intent")
    sure = []
    for smoothing in (0.0, 0.5):
        settings = replace(TINY, max_steps=30, eval_every=30, save_every=0, dropout=0.0, label_smoothing=smoothing)
        train("intent", settings, data, tmp_path / str(smoothing))
        loaded = load(tmp_path / str(smoothing))
        found = make_engine(loaded).predict(loaded.task("intent", temperature=1.0), data.dev)
        sure.append(np.mean([prediction.score for prediction in found]))
    assert sure[0] > 0.9
    assert sure[1] < 0.8  # two thirds are the most that the target asks for


def test_accumulated_batches_take_the_step_of_one_large_batch(data):
    stepped = {}
    for name, cut in {"one": [8], "two": [4, 4], "uneven": [1, 5, 2]}.items():
        settings = replace(TINY, dropout=0.0)
        torch.manual_seed(0)
        checkpoint = from_scratch("read", (c.text for e in data.train for c in e.contexts), encoder=None,
            shape=Shape(layers=1, hidden=16, heads=2, intermediate=32, dropout=0.0), window=64, overlap=10,
            script="as-is")  # fmt: skip
        loop = Loop(
            checkpoint.network, TASKS["read"](), data.train, checkpoint.encoding, settings, evaluate=dict, pad_id=0
        )
        items = iter(loop.items(0))
        event = loop._take_step([[next(items) for _ in range(size)] for size in cut], 10)
        stepped[name] = event.loss, event.grad_norm
    assert stepped["two"] == pytest.approx(stepped["one"], rel=1e-5)
    assert stepped["uneven"] == pytest.approx(stepped["one"], rel=1e-5)


def test_early_stopping_counts_evaluations_without_a_better_one(tmp_path, data):
    events = []
    settings = replace(TINY, lr=1e-9, warmup=0.0, epochs=50, patience=2)
    result = train("read", settings, data, tmp_path / "run", on_event=events.append)
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    assert result.finished
    assert len(evaluations) == 3  # the first is the best so far, then two that are not
    assert [event.best for event in evaluations] == [True, False, False]


def test_a_loss_that_is_no_number_stops_with_the_step_named(tmp_path, data, monkeypatch):
    from zhaiju.modeling import network

    monkeypatch.setattr(network, "masked_cross_entropy", lambda logits, *rest, **settings: logits.sum() * float("nan"))
    with pytest.raises(TrainingError, match="loss of step 1 is nan"):
        train("read", TINY, data, tmp_path / "run")


def test_a_run_may_go_on_with_settings_that_decide_nothing_and_ends_the_same(tmp_path, data):
    settings = replace(TINY, max_steps=8, epochs=8)
    train("read", settings, data, tmp_path / "whole")
    with pytest.raises(_KilledError):
        train("read", settings, data, tmp_path / "run", on_event=_die_at(4))
    frugal = replace(settings, activation_checkpointing=True)
    assert train("read", frugal, data, tmp_path / "run").finished
    _assert_the_same(tmp_path / "run", tmp_path / "whole")


def test_nothing_to_train_on_is_said(tmp_path, data):
    bare = replace(data, train=[replace(example, answers=(), gold=()) for example in data.train])
    with pytest.raises(TrainingError, match="none of the 40 examples gives read anything"):
        train("read", TINY, bare, tmp_path / "run")


def test_other_settings_or_data_in_the_same_directory_are_refused(tmp_path, data):
    settings = replace(TINY, max_steps=2)
    train("read", settings, data, tmp_path / "run")
    with pytest.raises(ConfigError, match="other settings \\(seed: 0 -> 5\\)"):
        train("read", replace(settings, seed=5), data, tmp_path / "run")
    with pytest.raises(ConfigError, match="another task or other data"):
        train("select", settings, data, tmp_path / "run")
    changed = replace(data, fingerprints=[data.fingerprints[0] | {"sha256": "1" * 64}])
    with pytest.raises(ConfigError, match="another task or other data"):
        train("read", settings, changed, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="is not a run"):
        train("read", settings, data, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep me"


def test_a_finished_run_is_not_trained_again(tmp_path, data):
    first = train("read", TINY, data, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    events = []
    second = train("read", TINY, data, tmp_path / "run", on_event=events.append)
    assert second == first
    assert not events
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_published_run_without_its_state_is_not_trained_over(tmp_path, data):
    settings = replace(TINY, max_steps=2)
    train("read", settings, data, tmp_path / "run")
    (tmp_path / "run" / "last" / "training.pt").unlink()
    with pytest.raises(ConfigError, match="cannot go on"):
        train("read", settings, data, tmp_path / "run")


def test_held_out_paragraphs_are_not_trained_on():
    examples = _examples(60)
    kept, held = hold_out(examples, seed=3)
    texts = {example.context.text for example in kept}
    assert len(kept) + len(held) == 60
    assert 4 <= len(held) <= 10
    assert not texts & {example.context.text for example in held}
    assert hold_out(examples, seed=3)[1] == held
    assert hold_out(examples, seed=4)[1] != held
    with pytest.raises(DataError, match="one paragraph cannot be split"):
        hold_out(examples[:1], seed=0)


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_held_out_utterances_are_chosen_by_their_ids_whatever_else_is_there(task):
    made = _utterances(task, 3000)
    kept, held = hold_out(made, seed=3)
    assert len(kept) + len(held) == 3000
    assert 240 < len(held) < 360
    ids = {example.id for example in held}
    shuffled = [made[place] for place in np.random.default_rng(0).permutation(3000)]
    assert {example.id for example in hold_out(shuffled, seed=3)[1]} == ids
    more = hold_out([*made, *_utterances(task, 500, 5000)], seed=3)[1]
    assert {example.id for example in more} >= ids
    assert not {example.id for example in more} & {example.id for example in kept}
    other = {example.id for example in hold_out(made, seed=4)[1]}
    assert len(other & ids) < 60  # about a tenth of a tenth
    with pytest.raises(DataError, match="one example cannot be split"):
        hold_out(made[:1], seed=0)


def test_the_held_out_tenth_is_that_of_its_own_seed(tmp_path):
    rows = [{"id": example.id, "text": example.text, "intent": example.label} for example in _utterances("intent", 200)]
    (tmp_path / "t.json").write_text(json.dumps(rows), "utf-8")
    held = [[e.id for e in load_train_data("intent", [tmp_path / "t.json"], seed=seed).dev] for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def _write_files(folder, data):
    contexts, rows = [], []
    for example in [*data.train, *data.dev]:
        first = len(contexts)
        contexts += [context.text for context in example.contexts]
        rows.append(
            {
                "id": example.id,
                "question": example.question,
                "paragraphs": list(range(first, first + 3)),
                "relevant": first + example.relevant,
                "answers": [{"text": span.text, "start": span.start} for span in example.answers],
            }
        )
    (folder / "context.json").write_text(json.dumps(contexts, ensure_ascii=False), "utf-8")
    (folder / "train.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")


def _command(folder, run):
    flags = {
        "layers": 1, "hidden": 16, "heads": 2, "intermediate": 32, "positions": 96, "window": 64, "overlap": 10,
        "lr": 0.01, "epochs": 12, "batch-tokens": 512, "eval-every": 5, "save-every": 3, "threads": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "zhaiju.cli", "train", "select", "--scratch", "-o", str(run)]
    command += ["--train", str(folder / "train.json"), "--context", str(folder / "context.json")]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    return command


def _lines(run):
    path = run / "metrics.jsonl"
    return path.read_text("utf-8").count("\n") if path.is_file() else 0


def _without_times(run):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in read_metrics(run)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("whole")
    _write_files(folder, data)
    subprocess.run(_command(folder, folder / "run"), check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(kills.count(3)))
def test_a_run_killed_at_random_and_resumed_ends_with_the_same_weights(uninterrupted, tmp_path, seed):
    whole = uninterrupted / "run"
    total = _lines(whole)
    generator = np.random.default_rng(seed)
    run = tmp_path / "run"
    with ExitStack() as checked:
        alive = 0
        for wanted in sorted(generator.integers(1, total - 5, 2)):
            began = time.monotonic()
            process = subprocess.Popen(
                _command(uninterrupted, run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while process.poll() is None and _lines(run) < wanted:
                time.sleep(0.002)
            time.sleep(float(generator.random()) * 0.05)
            alive += checked.enter_context(kills.killed(process, "train", began=began, seed=seed))
        subprocess.run(_command(uninterrupted, run), check=True, capture_output=True)
        assert alive > 0
        assert (run / "last").resolve().name == (whole / "last").resolve().name
        assert (run / "best").resolve().name == (whole / "best").resolve().name
        assert _equal(run / "last", whole / "last")
        assert _equal(run / "best", whole / "best")
        assert _without_times(run) == _without_times(whole)
        assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_saves_and_the_same_command_goes_on(uninterrupted, tmp_path, number):
    run = tmp_path / "run"
    process = subprocess.Popen(_command(uninterrupted, run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and _lines(run) < 8:
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    step = load_state(run)["step"]
    assert step == sum(entry["event"] == "step" for entry in read_metrics(run))  # not a step is lost
    subprocess.run(_command(uninterrupted, run), check=True, capture_output=True)
    assert _equal(run / "last", uninterrupted / "run" / "last")


def load_state(run):
    return torch.load(run / "last" / "training.pt", weights_only=True)


def test_the_model_card_names_data_and_figures(tmp_path, data):
    result = train("read", replace(TINY, max_steps=5), data, tmp_path / "run")
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "made.json" in card
    assert f"| em | {result.metrics['em']:.4f} |" in card


def test_a_trained_checkpoint_is_a_plain_transformers_checkpoint(tmp_path, data):
    import transformers

    train("read", replace(TINY, max_steps=2), data, tmp_path / "run")
    model = transformers.BertForQuestionAnswering.from_pretrained(tmp_path / "run" / "best")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "best")
    ours = load(tmp_path / "run").network.eval()
    inputs = tokenizer("什麼顏色？", "門漆成紅色。", return_tensors="pt")
    with torch.inference_mode():
        theirs = model.eval()(**inputs)
        logits = ours.logits(inputs["input_ids"], inputs["token_type_ids"], inputs["attention_mask"])
    assert torch.equal(logits[0, 0], theirs.start_logits[0])


def test_files_are_fingerprinted_and_ids_may_not_repeat_across_files(tmp_path, data):
    _write_files(tmp_path, data)
    read = load_train_data("read", [tmp_path / "train.json"], context=tmp_path / "context.json")
    assert [entry["role"] for entry in read.fingerprints] == ["context", "train"]
    assert all(len(entry["sha256"]) == 64 for entry in read.fingerprints)
    os.link(tmp_path / "train.json", tmp_path / "again.json")
    with pytest.raises(DataError, match=r"again\.json: row r0: id: id stands in another file"):
        load_train_data("read", [tmp_path / "train.json", tmp_path / "again.json"], context=tmp_path / "context.json")


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_rows_without_ids_are_told_apart_by_their_files_wherever_those_are_read_from(tmp_path, monkeypatch, task):
    rows = {
        "intent": [{"text": example.text, "intent": example.label} for example in _utterances("intent", 30)],
        "slots": [{"tokens": example.tokens, "tags": example.tags} for example in _utterances("slots", 30)],
    }[task]
    paths = [tmp_path / name for name in ("a/t.json", "b/t.json", "u.json")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows), "utf-8")
    read = load_train_data(task, paths)
    ids = [example.id for example in (*read.train, *read.dev)]
    assert len(ids) == len(set(ids)) == 90
    assert {"a/t.json#1", "b/t.json#30", "u.json#7"} <= set(ids)
    monkeypatch.chdir(tmp_path / "a")
    again = load_train_data(task, [tmp_path / "a" / "t.json", *map(type(paths[0]), ("../b/t.json", "../u.json"))])
    assert [example.id for example in again.dev] == [example.id for example in read.dev]  # so a run can go on
    with pytest.raises(ConfigError, match=r"t\.json is given twice"):
        load_train_data(task, [paths[0], paths[0]])


def test_the_same_files_in_other_roles_are_other_data(tmp_path, data):
    settings = replace(TINY, max_steps=1)
    prints = [{"role": "train", "sha256": "a", "name": "a", "count": 1}, {"role": "dev", "sha256": "b"}]
    named = replace(data, fingerprints=[entry | {"name": "x", "count": 1} for entry in prints])
    train("read", settings, named, tmp_path / "run")
    merged = replace(named, fingerprints=[entry | {"role": "train"} for entry in named.fingerprints])
    with pytest.raises(ConfigError, match="other data"):
        train("read", settings, merged, tmp_path / "run")


def test_a_kill_before_the_settings_were_written_is_gone_on_from(tmp_path, data):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text("{}")
    (tmp_path / "run" / ".config.toml.x1.tmp").write_text("see")
    assert train("read", replace(TINY, max_steps=1), data, tmp_path / "run").finished


def test_saving_a_step_again_never_takes_away_what_last_points_at(tmp_path, data, monkeypatch):
    run = tmp_path / "run"
    removed = []
    remove = shutil.rmtree
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **kwargs: (removed.append((path, (run / "last").resolve())), remove(path))
    )
    train("read", replace(TINY, max_steps=6, save_every=3, eval_every=3), data, run)
    assert all(os.path.realpath(path) != str(last) for path, last in removed)
    state = torch.load(run / "last" / "training.pt", weights_only=True)
    assert (state["step"], state["evaluated_step"]) == (6, 6)


def test_a_second_process_in_the_same_run_is_refused(tmp_path, data):
    run = tmp_path / "run"

    def again(event):
        with pytest.raises(ConfigError, match="another process is training"):
            train("read", replace(TINY, max_steps=1), data, run, overwrite=True)

    assert train("read", replace(TINY, max_steps=1), data, run, on_event=again).finished


def test_an_overwrite_that_was_killed_can_be_given_again(tmp_path, data, monkeypatch):
    settings = replace(TINY, max_steps=1)
    train("read", settings, data, tmp_path / "run")

    def die(path, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            train("read", settings, data, tmp_path / "run", overwrite=True)
    assert train("read", settings, data, tmp_path / "run", overwrite=True).finished


@pytest.mark.parametrize("task", TASKS)
def test_dev_data_that_cannot_be_scored_is_refused_before_the_first_step(tmp_path, task):
    data = _data(task)
    nothing = {"intent": {"label": None}, "slots": {"tags": None}}
    bare = [
        replace(example, **nothing.get(task, {"relevant": None, "answers": (), "gold": ()})) for example in data.dev
    ]
    with pytest.raises(DataError, match="dev example without what it could be scored against"):
        train(task, TINY, replace(data, dev=bare), tmp_path / "run")
    with pytest.raises(DataError, match="no dev example"):
        train(task, TINY, replace(data, dev=[]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_full_disk_under_a_checkpoint_is_an_output_error(tmp_path, data, monkeypatch, kind):
    def full(*args, **kwargs):
        raise (
            SafetensorError("I/O error: No space left") if kind == "safetensors" else RuntimeError("write failed\nat 7")
        )

    monkeypatch.setattr("torch.save" if kind == "torch" else "transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(OutputError, match=r"cannot write .*step-00000001: (write failed|I/O error: No space left)$"):
        train("read", replace(TINY, max_steps=1), data, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
