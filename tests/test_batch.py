"""Very many questions: in parts, here and on Ray; each row comes out exactly once, however often it is killed.

Ray and Daft are in the extra `scale` only, so the tests on Ray are skipped where they are not installed.
"""

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files as resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kills
from checkpoints import INTENTS, LABELS, SLOTTED
from zhaiju import scale
from zhaiju.corpus import cluster
from zhaiju.data import parquet
from zhaiju.data.examples import QAExample, ReadPrediction
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.data.storage import Storage
from zhaiju.errors import CheckpointError, ConfigError, DataError, OutputError
from zhaiju.files import atomic_directory
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, load, save
from zhaiju.scale import MANIFEST, SUCCESS, Report, Work

ROOT = Path(__file__).parents[1]
SAMPLE = Path(str(resources("zhaiju.starter") / "sample"))
READ = Work(task="read", model="starter")


def rows(count, start=0):
    for number in range(start, start + count):
        yield {"id": f"q{number}", "question": "誰在河邊？", "context": f"{number}號的老王在河邊。"}


def write(path, values):
    """A file of rows in the layout that its name says."""
    values = list(values)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(values), path, row_group_size=4)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in values), "utf-8")
    else:
        path.write_text(json.dumps(values, ensure_ascii=False), "utf-8")
    return path


def parts(output):
    """What stands in the parts of a folder, in order."""
    found = []
    for path in sorted(output.glob("part-*")):
        if path.suffix == ".parquet":
            found += pq.read_table(path).to_pylist()
        else:
            found += [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    return found


def ids(output):
    return [row["id"] for row in parts(output)]


@pytest.fixture
def calls(monkeypatch):
    """The ids that were answered, by a stand-in for models that quotes the first sign of the last context."""
    seen = []

    def predict(examples):
        for example in examples:
            seen.append(example.id)
            last = len(example.contexts) - 1
            context = example.contexts[last]
            yield ReadPrediction(example.id, context.text[0], 0, 1, 0.5, context.source, index=last)

    monkeypatch.setattr(Work, "predictor", lambda self: predict)
    return seen


# --- what comes out


def test_each_row_of_each_layout_comes_out_once_and_in_order(calls, tmp_path):
    flat = list(rows(11))
    course = [{"id": str(n), "question": "誰？", "paragraphs": [n % 3, 3]} for n in range(11)]
    squad = {"data": [{"title": "t", "paragraphs": [
        {"context": f"{n}號的老王。", "id": f"p{n}", "qas": [{"id": f"{n}-{m}", "question": "誰？", "answers": []}
                                                        for m in range(n % 3)]} for n in range(8)]}]}  # fmt: skip
    (tmp_path / "squad.json").write_text(json.dumps(squad), "utf-8")
    (tmp_path / "context.json").write_text(json.dumps(["甲。", "乙。", "丙。", "丁。"]), "utf-8")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "b.parquet", rows(6, start=5))
    write(tmp_path / "folder" / "a.jsonl", rows(5))
    write(tmp_path / "folder" / "_ignored.jsonl", rows(5))
    given = {"folder": [row["id"] for row in flat]}
    for suffix in (".json", ".jsonl", ".parquet"):
        for name, values in (("flat", flat), ("course", course)):
            write(tmp_path / (name + suffix), values)
            given[name + suffix] = [row["id"] for row in values]
    given["squad.json"] = [f"{n}-{m}" for n in range(8) for m in range(n % 3)]
    for name, wanted in given.items():
        for kind, size in (("parquet", 4), ("jsonl", 1), ("parquet", 50)):
            output = tmp_path / f"{name}-{kind}-{size}"
            work = replace(READ, task="answer") if name.startswith("course") else READ
            report = scale.run(work, str(tmp_path / name), str(output), part_rows=size, kind=kind)
            assert ids(output) == wanted, name
            assert report.count == len(wanted)
            assert report.parts == report.answered == len(list(output.glob(f"part-*.{kind}")))
            assert json.loads((output / SUCCESS).read_text()) == {"count": report.count, "parts": report.parts}
            if name.startswith("course"):
                assert {(row["answer"], row["source"], row["index"]) for row in parts(output)} == {("丁", "3", 1)}
    assert [len(pq.read_table(path)) for path in sorted((tmp_path / "folder-parquet-4").glob("part-*"))] == [4, 1, 4, 2]


def test_parts_hold_what_the_single_file_holds(run, tmp_path):
    """`predict` and `answer` with the starter, by the command line."""
    context, rows = SAMPLE / "context.json", json.loads((SAMPLE / "held_out.json").read_text("utf-8"))
    questions = write(tmp_path / "held_out.json", rows[:16])
    shutil.copy(context, tmp_path)
    for command in (["predict", "starter", questions], ["answer", context, questions]):
        name = tmp_path / command[0]
        assert run(*command, "-o", f"{name}.jsonl")[0] == 0
        for flags in (["-o", f"{name}/"], ["-o", f"{name}-small", "--part-rows", "7", "--format", "jsonl"]):
            code, out, err = run(*command, *flags, "--json")
            assert code == 0, err
            count = json.loads(out)
            assert (count["count"], count["parts"]) == (16, 3 if "--part-rows" in flags else 1)
            single = [json.loads(line) for line in Path(f"{name}.jsonl").read_text("utf-8").split("\n") if line]
            found = parts(Path(flags[1]))
            for one, other in zip(single, found, strict=True):
                for field, value in other.items():
                    assert value == (pytest.approx(one[field], abs=1e-4) if isinstance(value, float) else one[field])
            scores = [run("score", questions, where, "--json")[1] for where in (f"{name}.jsonl", flags[1])]
            assert scores[0] == scores[1]
            assert json.loads(scores[0])["count"] == 16


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A tiny checkpoint with random weights for each task but read."""
    folder = tmp_path_factory.mktemp("checkpoints")
    texts = [context.text for context in load_contexts(SAMPLE / "context.json")]
    texts += [example.text for example in INTENTS]
    shape = Shape(layers=1, hidden=16, heads=2, intermediate=32, positions=256)
    for task, labels in LABELS.items():
        made = from_scratch(
            task, texts, encoder=None, shape=shape, window=192, overlap=32, script="as-is",
            labels=labels or None,
        )  # fmt: skip
        atomic_directory(
            folder / task, lambda path, made=made, task=task: save(path, made.network, made.encoding, Meta(task=task))
        )
    return folder


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("task", ["select", "intent", "slots"])
@pytest.mark.usefixtures("one_thread")
def test_every_task_works_in_parts(checkpoints, tmp_path, task, suffix):
    values = {
        "select": [{"id": f"q{n}", "question": "誰？", "contexts": [f"{n}號", "老王"]} for n in range(8)],
        "intent": [{"id": one.id, "text": one.text, "intent": one.label} for one in INTENTS],
        "slots": [{"id": one.id, "tokens": list(one.tokens), "tags": list(one.tags)} for one in SLOTTED],
    }[task]
    data = write(tmp_path / f"rows{suffix}", values)
    scale.run(Work(task=task, model=str(checkpoints / task)), str(data), str(tmp_path / "out"), part_rows=3)
    checkpoint = load(str(checkpoints / task), task)
    work = Work(task=task, model="")
    wanted = list(make_engine(checkpoint).predict(checkpoint.task(task), work.examples(data, None)))
    found = parts(tmp_path / "out")
    assert [row["id"] for row in found] == [one.id for one in wanted] == [row["id"] for row in values]
    for row, one in zip(found, wanted, strict=True):
        if task == "slots":
            assert tuple(row["tags"]) == one.tags
            assert [(span["label"], span["text"], span["start"]) for span in row["spans"]] == [
                (span.label, span.text, span.start) for span in one.spans
            ]
        else:
            assert row["score"] == pytest.approx(one.score, abs=1e-5)
            assert row["label" if task == "intent" else "source"] == (one.label if task == "intent" else one.source)


def test_parts_are_cut_at_the_same_rows_whatever_order_they_are_taken_in(calls, tmp_path):
    chance = random.Random(0)
    faulty = [row | ({"question": " "} if n % 7 == 3 else {}) for n, row in enumerate(rows(40))]
    for name in ("q.json", "q.jsonl", "q.parquet"):
        for values, work in ((list(rows(40)), READ), (faulty, replace(READ, skip_faulty=True))):
            path = write(tmp_path / name, values)
            _, planned = scale.plan(work, str(path), 6)
            whole = [example.id for example in work.examples(path, None)]
            worker = scale.Worker(work, work.identity(), str(tmp_path / f"{name}-{work.skip_faulty}"), "jsonl")
            for part in chance.sample(planned, len(planned)):
                worker.answer(part)
            worker.close()
            assert ids(tmp_path / f"{name}-{work.skip_faulty}") == whole
            assert [part.seekable for part in planned] == [not work.skip_faulty] * len(planned)


# --- going on


def test_what_was_stopped_goes_on_without_answering_done_parts_again(calls, tmp_path, monkeypatch):
    data, output = write(tmp_path / "q.jsonl", rows(25)), tmp_path / "out"
    written = Storage.write

    def fail_at_the_third(self, name, content):
        if name.startswith("part-00003"):
            raise OutputError("the disk is full")
        written(self, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write", fail_at_the_third)
        with pytest.raises(OutputError, match="the disk is full"):
            scale.run(READ, str(data), str(output), part_rows=5)
    assert ids(output) == [f"q{n}" for n in range(15)]
    assert not (output / SUCCESS).exists()
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    del calls[:]
    began = []
    report = scale.run(
        READ, str(data), str(output), part_rows=5, begin=lambda rows, done: began.append((rows, done)) or began.append
    )
    assert report == Report(25, 5, 2)
    assert began == [(25, 15), 5, 5]
    assert calls == [f"q{n}" for n in range(15, 25)]
    assert ids(output) == [f"q{n}" for n in range(25)]
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}.items()
    del calls[:]
    assert scale.run(READ, str(data), str(output), part_rows=5).answered == 0
    assert calls == []


@pytest.mark.slow
def test_what_was_killed_goes_on(tmp_path):
    data, output = write(tmp_path / "q.parquet", rows(600)), tmp_path / "out"
    command = [sys.executable, "-m", "zhaiju.cli", "predict", "starter", str(data), "-o", f"{output}/"]
    command += ["--part-rows", "20"]
    kept = {}
    for round_ in range(2):
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(output.glob("part-*"))) < len(kept) + 2:
            time.sleep(0.005)
        with kills.killed(process, "predict", began=began, seed=round_) as alive:
            assert alive
            found = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
            assert kept.items() < found.items()
            assert not (output / SUCCESS).exists()
        kept = found
    assert len(kept) < 30
    subprocess.run(command, check=True, capture_output=True)
    assert ids(output) == [f"q{n}" for n in range(600)]
    assert kept.items() < {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}.items()
    assert {path.name for path in output.iterdir()} - {f"part-{n:05d}.parquet" for n in range(30)} == {
        MANIFEST, SUCCESS, ".zhaiju.lock",
    }  # fmt: skip


def test_nothing_else_goes_on_in_a_folder(calls, run, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for path in Path(load("starter", "read").where).iterdir():
        if path.is_file():
            (model / path.name).write_bytes(path.read_bytes())
    (tmp_path / "context.json").write_text('["甲。", "乙。"]', "utf-8")
    course = [{"id": str(n), "question": "誰？", "paragraphs": [0, 1]} for n in range(4)]
    data, output = write(tmp_path / "q.json", course), f"{tmp_path / 'out'}/"
    command = ["answer", tmp_path / "context.json", data, "--reader", model, "-o", output]

    def refused(reason, *more):
        code, out, err = run(*command, *more)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert f"cannot go on in {tmp_path / 'out'}: it was begun otherwise ({reason}); name a new folder" in err

    assert run(*command)[0] == 0
    assert run(*command, "--batch-tokens", "99")[0] == 0  # decides nothing
    del calls[:]
    refused("part_rows 1000 before, now 3", "--part-rows", "3")
    refused("format parquet before, now jsonl", "--format", "jsonl")
    refused("settings window None before, now 128", "--window", "128")
    refused("models selector has changed", "--selector", str(model))
    kept = (model / "zhaiju.json").read_text("utf-8")
    (model / "zhaiju.json").write_text(kept + "\n", "utf-8")
    refused("models model has changed")
    (model / "zhaiju.json").write_text(kept, "utf-8")
    (tmp_path / "context.json").write_text('["甲。", "丙。"]', "utf-8")
    refused("context has changed")
    (tmp_path / "context.json").write_text('["甲。", "乙。"]', "utf-8")
    write(data, course[:3])
    refused("input has changed")
    write(data, course)
    data.rename(tmp_path / "moved.json")  # another name is another input
    command[2] = tmp_path / "moved.json"
    refused("input has changed")
    assert calls == []


def test_the_model_beside_what_it_was_begun_with_is_seen_by_every_worker(tmp_path):
    identity = READ.identity()
    other = identity | {"models": {"model": "another"}}
    with pytest.raises(ConfigError, match="has other models under the same address than where it began"):
        scale.Worker(READ, other, str(tmp_path), "parquet")


def test_input_that_changes_meanwhile_is_seen(calls, tmp_path):
    data = write(tmp_path / "q.jsonl", rows(10))
    _, planned = scale.plan(READ, str(data), 5)
    write(data, [row | {"context": "老李在河邊。"} for row in rows(10)])
    worker = scale.Worker(READ, READ.identity(), str(tmp_path / "out"), "parquet")
    with pytest.raises(DataError, match=r"q\.jsonl: row #5: rows are others than when the work was planned"):
        worker.answer(planned[1])
    assert calls == []


def test_folder_of_something_else_is_left_alone(calls, tmp_path):
    data = write(tmp_path / "q.jsonl", rows(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"it holds thesis\.txt and no _manifest\.json"):
        scale.run(READ, str(data), str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["thesis.txt"]
    (tmp_path / "out" / MANIFEST).write_text("no JSON")
    with pytest.raises(OutputError, match="cannot be read"):
        scale.run(READ, str(data), str(tmp_path / "out"))
    with scale.lock(str(tmp_path / "new")), pytest.raises(OutputError, match="another process is writing to it"):
        scale.run(READ, str(data), str(tmp_path / "new"))


@pytest.mark.parametrize("damage", ["another's", "rubbish", "surplus", "none"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_success_is_said_only_of_folders_that_hold_every_row_once(calls, tmp_path, damage, kind):
    data, output = write(tmp_path / "q.jsonl", rows(9)), tmp_path / "out"
    scale.run(READ, str(data), str(output), part_rows=3, kind=kind)
    (output / SUCCESS).unlink()
    first, second = (output / f"part-0000{n}.{kind}" for n in (0, 1))
    if damage == "another's":
        second.write_bytes(first.read_bytes())
    elif damage == "rubbish":
        second.write_bytes(b"\x00{")
    elif damage == "surplus":
        (output / f"part-00003.{kind}").write_bytes(first.read_bytes())
    else:
        second.write_bytes(b"")
    with pytest.raises(DataError, match="belongs to no row" if damage == "surplus" else "does not hold the rows"):
        scale.run(READ, str(data), str(output), part_rows=3, kind=kind)
    assert not (output / SUCCESS).exists()


# --- what is wrong is told before any work


def test_faults_are_told_before_any_work(calls, run, tmp_path):
    def refused(reason, data, *more, work=("predict", "starter")):
        code, out, err = run(*work, data, *(more or ("-o", f"{tmp_path / 'out'}/")))
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert reason in err
        assert not list(tmp_path.glob("out/part-*"))

    (tmp_path / "twice").mkdir()
    for name in ("a.jsonl", "b.parquet"):
        write(tmp_path / "twice" / name, rows(3))
    refused("b.parquet: row q0: repeated id in another file", tmp_path / "twice")
    (tmp_path / "empty").mkdir()
    refused("empty: holds no file of rows, expected .jsonl or .ndjson or .parquet", tmp_path / "empty")
    refused("nothing.json: no such file", tmp_path / "nothing.json")
    faulty = write(tmp_path / "f.jsonl", [*rows(4), {"id": "q4", "question": " ", "context": "x"}])
    refused("row q4: question: empty text", faulty)
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    refused("no.parquet: cannot be read as Parquet", tmp_path / "no.parquet")
    os.mkfifo(tmp_path / "pipe")
    refused("can be read once only", tmp_path / "pipe")
    good = write(tmp_path / "q.jsonl", rows(3))
    refused("--abstain is for a single file", good, "-o", f"{tmp_path / 'out'}/", "--abstain")
    refused("answered on 'mars', expected local or ray", good, "-o", tmp_path / "out", "--on", "mars")
    refused("format is 'csv', expected parquet or jsonl", good, "-o", f"{tmp_path / 'out'}/", "--format", "csv")
    refused("--format is that of parts", good, "-o", tmp_path / "p.json", "--format", "jsonl")
    refused("mars://out cannot be reached", good, "-o", "mars://out")
    answer = ("answer", SAMPLE / "context.json")
    refused("--fit, --details and --show are for a single file", good, "-o", "out/", "--show", "1", work=answer)
    assert calls == []


def test_score_refuses_parts_that_are_not_complete(calls, run, tmp_path):
    data, output = write(tmp_path / "q.jsonl", rows(3)), tmp_path / "out"
    scale.run(READ, str(data), str(output))
    (output / SUCCESS).unlink()
    code, _, err = run("score", data, output)
    assert (code, err.count("\n")) == (2, 1)
    assert "out: is not complete; give the command that writes it again, expected _SUCCESS" in err


def test_missing_library_is_told(calls, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    data = write(tmp_path / "q.jsonl", rows(3))
    code, _, err = run("predict", "starter", data, "-o", tmp_path / "out", "--on", "ray")
    assert (code, err) == (2, 'zhaiju: ray is not installed; pip install "zhaiju[scale]"\n')
    assert not (tmp_path / "out").exists()


def test_hub_checkpoint_that_cannot_be_had_is_told(tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError("the hub cannot be reached")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    data = write(tmp_path / "q.jsonl", rows(3))
    with pytest.raises(CheckpointError, match="cannot load nobody/nothing: the hub cannot be reached"):
        scale.run(replace(READ, model="nobody/nothing"), str(data), str(tmp_path / "out"))


# --- Parquet


def test_parquet_is_read_from_any_row(tmp_path):
    path = write(tmp_path / "q.parquet", rows(11))
    assert pq.ParquetFile(path).num_row_groups == 3
    whole = list(parquet.rows(path))
    assert whole == list(rows(11))
    for start in range(13):
        assert list(parquet.rows(path, start=start)) == whole[start:]
        assert (
            [one.id for one in read_qa(path, start=start)] == [row["id"] for row in whole[start:]] if start < 11 else 1
        )


def test_parquet_of_the_squad_data_sets_is_read(tmp_path):
    values = [
        {"id": "a", "question": "誰？", "context": "老王來了。", "answers": {"text": ["老王"], "answer_start": [0]}},
        {"id": "b", "question": "誰？", "context": "沒有人。", "answers": {"text": [], "answer_start": []}},
    ]
    first, second = read_qa(write(tmp_path / "q.parquet", values))
    assert (first.gold, second.gold) == (("老王",), ())
    assert isinstance(first, QAExample)


# --- object storage


@pytest.mark.slow
def test_everything_may_lie_in_a_bucket(run, bucket, tmp_path):
    storage = Storage(bucket)
    data = write(tmp_path / "q.parquet", rows(10))
    storage.write("in/a.parquet", data.read_bytes())
    course = [{"id": f"c{n}", "question": "誰？", "paragraphs": [n % 2, 2]} for n in range(5)]
    storage.write("course.json", json.dumps(course).encode())
    storage.write("context.json", json.dumps(["甲在河邊。", "乙在河邊。", "丙。"]).encode())
    code, out, err = run("predict", "starter", f"{bucket}/in/", "-o", f"{bucket}/out", "--part-rows", "4", "--json")
    assert (code, json.loads(out)) == (0, {"count": 10, "parts": 3, "answered": 3}), err
    written = Storage(f"{bucket}/out")
    assert written.names() == [SUCCESS, MANIFEST, *(f"part-0000{n}.parquet" for n in range(3))]
    found = [row for n in range(3) for row in scale.ids_of(written.read(f"part-0000{n}.parquet"), "parquet")]
    assert found == [f"q{n}" for n in range(10)]
    code, out, err = run("predict", "starter", f"{bucket}/in/", "-o", f"{bucket}/out", "--part-rows", "4", "--json")
    assert (code, json.loads(out)["answered"]) == (0, 0), err
    command = ["answer", f"{bucket}/context.json", f"{bucket}/course.json", "-o", f"{bucket}/answers/"]
    code, out, err = run(*command, "--json")
    assert (code, json.loads(out)) == (0, {"count": 5, "parts": 1, "answered": 1}), err
    storage.write("course.json", json.dumps([*course, {"id": "x", "paragraphs": [0]}]).encode())
    code, _, err = run(*command)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{bucket}/course.json: row x: question: missing" in err
    code, _, err = run("predict", "starter", f"{bucket}/nothing.json", "-o", f"{bucket}/new/")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{bucket}/nothing.json: no such file" in err


# --- Ray


@pytest.fixture
def ray(monkeypatch):
    for name in ("ray", "daft"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'zhaiju[scale]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": 2}))  # two workers, whatever machine it is


def on_ray(data, output, *more):
    command = [sys.executable, "-m", "zhaiju.cli", "predict", "starter", str(data), "-o", str(output), "--on", "ray"]
    command += ["--json", *(more or ("--part-rows", "20"))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers(process):
    """Processes on Ray in which a `Worker` lives."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ray::UDFActor" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_ray_gives_the_same_though_workers_are_killed(ray, tmp_path):
    data = write(tmp_path / "q.parquet", rows(1200))
    scale.run(READ, str(data), str(tmp_path / "here"), part_rows=20)
    there, killed = tmp_path / "there", set()
    process = on_ray(data, there)
    while process.poll() is None and len(killed) < 3:
        alive = workers(process)
        if len(alive) == 2 and len(list(there.glob("part-*"))) > 5 * len(killed):
            alive[len(killed) % 2].kill()
            killed.add(alive[len(killed) % 2].pid)
        time.sleep(0.05)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert len(killed) == 3
    assert json.loads(out) == {"count": 1200, "parts": 60, "answered": 60}
    assert ids(there) == [f"q{n}" for n in range(1200)]
    for one, other in zip(parts(tmp_path / "here"), parts(there), strict=True):
        assert one | {"score": 0, "null_score": 0} == other | {"score": 0, "null_score": 0}
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    before = {path.name: path.stat().st_mtime_ns for path in there.glob("part-*")}
    (there / "part-00007.parquet").unlink()
    out, said = on_ray(data, there).communicate(timeout=300)
    assert json.loads(out) == {"count": 1200, "parts": 60, "answered": 1}, said
    after = {path.name: path.stat().st_mtime_ns for path in there.glob("part-*")}
    assert {name for name in after if after[name] != before[name]} == {"part-00007.parquet"}


@pytest.mark.slow
def test_part_that_takes_every_worker_with_it_is_given_up(ray, tmp_path):
    data = write(tmp_path / "q.jsonl", rows(2000))
    process = on_ray(data, tmp_path / "out", "--part-rows", "2000")
    killed = 0
    while process.poll() is None:
        for worker in workers(process):
            if "eval_input" in " ".join(worker.cmdline()):
                worker.kill()
                killed += 1
        time.sleep(0.5)
    _, said = process.communicate()
    assert process.returncode == 2
    assert f"{data}: row #1 to #2000: took 5 workers with it" in said.splitlines()[-1]
    assert killed >= 5


@pytest.mark.slow
def test_what_a_worker_finds_wrong_is_one_line(ray, tmp_path):
    data = write(tmp_path / "q.jsonl", [*rows(5), {"id": "long", "question": "誰" * 5000, "context": "老王。"}])
    process = on_ray(data, tmp_path / "out")
    out, said = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert f"{data}: row long: question" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_cluster_that_does_not_start_is_told(monkeypatch):
    """Ray raises a plain Exception, which is nobody's to catch."""

    def init(**given):
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(RuntimeError, match="timed out during startup"), cluster.connected():
        pass


@pytest.mark.slow
def test_cluster_that_is_not_there_is_told(ray, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    data = write(tmp_path / "q.jsonl", rows(3))
    process = on_ray(data, tmp_path / "out")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "no Ray cluster at 127.0.0.1:9: Connection refused" in said.splitlines()[-1]


# --- the plan on paper


@pytest.fixture
def paper(monkeypatch):
    spec = importlib.util.spec_from_file_location("scale_benchmark", ROOT / "benchmarks" / "scale.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scale_benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_simulation_knows_what_queueing_theory_knows(paper, monkeypatch):
    """A single server with constant service times (M/D/1): the mean wait is ρ·s / 2(1 - ρ)."""
    monkeypatch.setattr(paper, "SIMULATED", 60_000)
    plan = paper.Plan(shard=1, shards=1, search=0.06, searchers=1, answer=1e-6, answerers=1, rate=10.0)
    seen = paper.simulate(plan, np.ones(3))
    wait = 0.6 * 0.06 / (2 * (1 - 0.6))
    assert seen.mean == pytest.approx(0.06 + wait + 4 * paper.HOP, rel=0.03)
    assert seen.searching_busy == pytest.approx(plan.searching_busy, rel=0.02) == pytest.approx(0.6, rel=0.02)


def test_plan_holds_what_its_formulas_say(paper):
    figures = {
        "shards": [{"paragraphs": n, "search_cpu": 0.004 + 2e-8 * n} for n in (1_000, 10_000, 100_000)],
        "answering": [{"precision": "int8", "cpu": 0.03}],
    }
    assert paper.largest_shard(figures) == 1_000_000
    plan = paper.make_plan(figures, 1_000_000)
    assert (plan.shards, plan.search) == (100, pytest.approx(0.024))
    assert (plan.searchers, plan.answerers) == (40, 50)  # 1,000 a second · 0.024 s / 0.6, · 0.03 s / 0.6
    assert plan.cores == 100 * 40 + 50
