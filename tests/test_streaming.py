"""However many questions there are, few are held at a time, and nothing is written by halves."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from importlib.resources import files as resources
from pathlib import Path

import pytest

from checkpoints import INTENTS, LABELS, SLOTTED
from zhaiju import cli
from zhaiju.data.examples import QAExample, ReadPrediction, SelectPrediction
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.errors import DataError
from zhaiju.files import atomic_directory
from zhaiju.inference import engine as engine_module
from zhaiju.inference.engine import make_engine
from zhaiju.modeling import memory
from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, load, save
from zhaiju.tasks import TASKS
from zhaiju.tasks.readers import open_examples
from zhaiju.training.evaluate import Tally, together

SAMPLE = resources("zhaiju.starter") / "sample"
SMALL = Shape(layers=1, hidden=16, heads=2, intermediate=32, positions=256)
MANY = 2_000
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A tiny checkpoint with random weights for each task."""
    folder = tmp_path_factory.mktemp("checkpoints")
    texts = [context.text for context in load_contexts(SAMPLE / "context.json")]
    texts += [example.text for example in INTENTS]
    for task, labels in LABELS.items():
        made = from_scratch(
            task, texts, encoder=None, shape=SMALL, window=192, overlap=32, script="as-is",
            labels=labels or None,
        )  # fmt: skip
        atomic_directory(
            folder / task, lambda path, made=made, task=task: save(path, made.network, made.encoding, Meta(task=task))
        )
    return folder


def rows(count):
    for number in range(count):
        yield {"id": f"q{number}", "question": "誰？", "context": f"{number}號的老王來了。", "relevant": None}


def write(path, values):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in values), "utf-8")
    else:
        path.write_text(json.dumps(list(values), ensure_ascii=False), "utf-8")
    return path


def test_examples_are_counted_at_once_and_read_as_often_as_they_are_asked_for(tmp_path):
    examples = open_examples("read", write(tmp_path / "q.json", rows(30)))
    assert (examples.count, examples.labelled) == (30, False)
    assert [example.id for example in examples] == [example.id for example in examples] == [f"q{n}" for n in range(30)]
    labelled = open_examples("read", SAMPLE / "held_out.json")
    assert (labelled.count, labelled.labelled) == (60, True)
    wrong = [row | {"answers": [{"text": "老李", "start": 0}]} for row in rows(3)]
    wrong[1] |= {"question": " "}
    examples = open_examples("read", write(tmp_path / "w.json", wrong), skip_faulty=True)
    for _ in range(2):
        assert [example.gold for example in examples] == [("老李",), ("老李",)]
        assert (len(examples.log.misaligned), len(examples.log.skipped)) == (2, 1)


@pytest.mark.parametrize("fault", [{"question": " "}, {"id": "q0"}])
def test_a_fault_in_the_last_row_is_found_before_any_work(run, tmp_path, monkeypatch, fault):
    values = list(rows(50))
    values[-1] |= fault
    monkeypatch.setattr(cli, "_load", None)  # to call it would be an error of another kind
    for name in ("q.json", "q.jsonl"):
        write(tmp_path / name, values)
        for command in (["predict", "starter"], ["answer", SAMPLE / "context.json"]):
            code, out, err = run(*command, tmp_path / name, "-o", tmp_path / "new" / "p.json")
            assert (code, out) == (2, "")
            assert name in err
            assert err.count("\n") == 1
            assert not (tmp_path / "new").exists()


def alive(kind):
    return sum(type(found) is kind for found in gc.get_objects())


@pytest.mark.parametrize("command", ["read", "select", "answer", "evaluate"])
def test_of_many_questions_few_are_held_at_a_time(run, checkpoints, tmp_path, monkeypatch, command):
    values = [row | {"answers": [{"text": "老王", "start": len(str(n)) + 2}]} for n, row in enumerate(rows(MANY))]
    if command in ("read", "answer"):
        values = rows(MANY)
    data, held, seen = write(tmp_path / "q.json", values), {}, 0

    task = TASKS["select" if command == "select" else "read"]

    def watch(prediction, threshold=None, original=task.value):
        nonlocal seen
        seen += 1
        if seen % 200 == 0:
            for kind in (QAExample, ReadPrediction, SelectPrediction):
                held[kind] = max(held.get(kind, 0), alive(kind))
        return original(prediction, threshold)

    monkeypatch.setattr(engine_module, "POOL_TOKENS", 4096)  # these texts are short: a pool would be most of them
    monkeypatch.setattr(task, "value", staticmethod(watch))
    monkeypatch.setattr(cli, "asdict", lambda prediction: {"answer": watch(prediction)})
    given = {
        "read": ["predict", checkpoints / "read", data],
        "select": ["predict", checkpoints / "select", data],
        "answer": ["answer", SAMPLE / "context.json", data, "--reader", checkpoints / "read",
                   "--selector", checkpoints / "select", "--k", "1"],
        "evaluate": ["evaluate", checkpoints / "read", data],
    }[command]  # fmt: skip
    before = {kind: alive(kind) for kind in (QAExample, ReadPrediction, SelectPrediction)}
    flag = "--details" if command == "evaluate" else "-o"
    code, _, err = run(*given, flag, tmp_path / "out.json")
    assert code == 0, err
    assert seen == MANY
    if command == "evaluate":  # what scoring needs is held of all, and no more: see below
        return
    for kind, most in held.items():
        assert most - before[kind] < MANY * 0.75


@pytest.mark.parametrize("name", ["out.json", "out.csv", "out.jsonl"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, DataError])
def test_nothing_is_left_of_a_run_that_ends_early(run, checkpoints, tmp_path, monkeypatch, name, stop):
    write(tmp_path / "q.json", rows(600))
    (tmp_path / name).write_text("old")
    seen = []

    def answer(prediction, *rest):
        seen.append(sorted(os.listdir(tmp_path)))
        if len(seen) == 400:
            raise stop("over")
        return "x"

    monkeypatch.setattr(TASKS["read"], "value", staticmethod(answer))
    monkeypatch.setattr(cli, "asdict", lambda prediction: {"answer": answer(prediction)})
    code, out, err = run("predict", checkpoints / "read", tmp_path / "q.json", "-o", tmp_path / name)
    assert (code, out) == (130 if stop is KeyboardInterrupt else 2, "")
    assert "Traceback" not in err
    assert len(seen[-1]) == 3  # the data, the old file, and what is written
    assert sorted(os.listdir(tmp_path)) == sorted([name, "q.json"])
    assert (tmp_path / name).read_text() == "old"


def test_a_question_that_fits_no_window_in_the_last_row_leaves_no_file(run, checkpoints, tmp_path):
    values = [*rows(600), {"id": "long", "question": "長" * 400, "context": "老王來了。"}]
    write(tmp_path / "q.json", values)
    code, out, err = run("predict", checkpoints / "read", tmp_path / "q.json", "-o", tmp_path / "p.json")
    assert (code, out) == (2, "")
    assert "q.json: row long: question: the question does not fit the window" in err
    assert os.listdir(tmp_path) == ["q.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once_and_what_was_tolerated_in_it_is_told_at_the_end(run, checkpoints, tmp_path):
    values = [row | {"answers": [{"text": "老李", "start": 0}]} for row in rows(40)]
    write(tmp_path / "q.jsonl", values)
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert run("predict", checkpoints / "read", tmp_path / "q.jsonl", "-o", tmp_path / "file.json")[0] == 0
    feeder = threading.Thread(target=write, args=(tmp_path / "pipe.jsonl", values))
    feeder.start()
    code, _, err = run("predict", checkpoints / "read", tmp_path / "pipe.jsonl", "-o", tmp_path / "pipe.json")
    feeder.join()
    assert code == 0, err
    assert "40 answers do not stand at their offset" in err
    assert (tmp_path / "pipe.json").read_bytes() == (tmp_path / "file.json").read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_stops_with_one_line_and_leaves_nothing_half_written(tmp_path, number, said):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "zhaiju.cli", "predict", "starter", pipe, "-o", tmp_path / "p.json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, pipe.open("w") as stream:
        stream.writelines(json.dumps(row | {"answers": []}) + "\n" for row in rows(2))
        stream.flush()
        begun = time.monotonic()
        while not list(tmp_path.glob(".p.json.*.tmp")):  # the pipe stays open: it waits for more
            assert process.poll() is None
            assert time.monotonic() - begun < 60
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, f"zhaiju: {said}\n")
    assert os.listdir(tmp_path) == ["pipe.jsonl"]


EXAMPLES = {"intent": INTENTS, "slots": SLOTTED}


@pytest.mark.parametrize("task", ["select", "read", "intent", "slots"])
def test_figures_of_what_is_kept_are_those_of_everything(checkpoints, task):
    examples = EXAMPLES.get(task) or list(
        read_qa(SAMPLE / "held_out.json", contexts=load_contexts(SAMPLE / "context.json"))
    )
    loaded = load(checkpoints / task, task)
    engine, chosen = make_engine(loaded), loaded.task(task)
    tally = Tally(chosen, engine.encoding)
    predictions = []
    for example, prediction in together(partial(engine.predict, chosen), iter(examples)):
        assert example is examples[len(predictions)]
        predictions.append(prediction)
        tally.add(example, prediction)
    report, judgement = tally.report(0.1), chosen.judge(examples, predictions)
    for name, value in chosen.score(examples, predictions).items():
        assert report[name] == value
    kept = chosen.judge(tally.examples, tally.predictions)
    assert kept.confidence.tolist() == judgement.confidence.tolist()
    assert kept.correct.tolist() == judgement.correct.tolist()
    assert {name: table.tolist() for name, table in kept.ratios.items()} == {
        name: table.tolist() for name, table in judgement.ratios.items()
    }
    assert chosen.tables(tally.examples, tally.predictions) == chosen.tables(examples, predictions)
    assert sum(tally.outcomes().values()) == (len(examples) if task == "read" else 0)
    texts = {text for example in examples for text in example.texts}
    assert not texts & {text for example in tally.examples for text in example.texts}


def test_large_blocks_go_back_to_the_system_unless_the_environment_says_otherwise(monkeypatch):
    class Library:
        def mallopt(self, *given):
            asked.append(given)

    asked = []
    monkeypatch.setattr(memory, "_c_library", Library)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    memory.keep_steady()
    assert asked == [(-3, memory.LARGE_BYTES), (-8, 1)]
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "100")
    memory.keep_steady()
    assert len(asked) == 2


@pytest.mark.slow
def test_the_benchmark_gives_a_row_for_each_command_and_size(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import memory as benchmark

    found = list(benchmark.rows((5, 10), folder=tmp_path))
    assert [(row["command"], row["questions"]) for row in found] == [
        (command, count) for command in benchmark.COMMANDS for count in (5, 10)
    ]
    assert all(row["peak_mib"] > 50 and row["seconds"] > 0 for row in found)
    assert [row["ratio"] for row in found[::2]] == [1.0] * 4
