import ast
import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.resources import files as resources

import pytest

import zhaiju
from checkpoints import INTENTS, SLOTTED
from zhaiju import cli
from zhaiju.data.examples import SelectPrediction
from zhaiju.errors import ConfigError
from zhaiju.tasks import TASKS

SAMPLE = resources("zhaiju.starter") / "sample"
SHAPE = ["--scratch", "--layers", "1", "--hidden", "16", "--heads", "2", "--intermediate", "32", "--lr", "0.001"]


def refused(result):
    """The one line of a refusal: exit code 2, nothing on stdout, no traceback."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("zhaiju: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A selector and a reader, tiny and hardly trained, made by the command line itself."""
    folder = tmp_path_factory.mktemp("runs")
    for task in ("select", "read"):
        command = [sys.executable, "-m", "zhaiju.cli", "train", task, *SHAPE, "--max-steps", "3", "--window", "256"]
        command += ["--train", str(SAMPLE / "train.json"), "--context", str(SAMPLE / "context.json")]
        subprocess.run([*command, "-o", str(folder / task)], check=True, capture_output=True)
    return folder


def test_help_of_every_command_has_an_example(run):
    for command in ("check", "tokens", "train", "evaluate", "predict", "answer", "score", "calibrate", "compare"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"Example: zhaiju {command} " in " ".join(out.split())


def test_every_setting_is_a_flag_with_its_doc(run):
    _, out, _ = run("train", "--help")
    text = " ".join(out.split())
    assert "--no-answer-rate" in text
    assert "Highest learning rate (AdamW)." in text


def test_tokens_shows_offsets_into_the_text(run):
    code, out, _ = run("tokens", "兩河文明 30000元", "--json")
    rows = json.loads(out)
    assert code == 0
    assert "".join(row["text"] for row in rows) == "兩河文明30000元"  # white space goes with the word after it
    assert {"index": 1, "token": "两", "id": rows[1]["id"], "start": 0, "end": 1, "text": "兩"} in rows
    assert {"文明", "元"} <= {row["text"] for row in rows}


def test_tokens_of_a_checkpoint(run, pair):
    code, out, _ = run("tokens", "竹圍街", "--encoder", pair / "read", "--json")
    assert code == 0
    assert [row["text"] for row in json.loads(out)] == ["竹", "圍", "街"]


def test_check_reports_the_sample_healthy(run):
    code, out, _ = run("check", SAMPLE / "train.json", "--context", SAMPLE / "context.json", "--json", "--strict")
    report = json.loads(out)
    assert code == 0
    assert (report["answers_total"], report["answers_misaligned"], report["answers_lost"]) == (260, 0, 0)


def test_check_strict_fails_on_a_misaligned_answer_and_names_the_nearest_place(run, tmp_path):
    row = {"id": "a", "question": "誰？", "context": "老王和老李都來了。", "answers": [{"text": "老李", "start": 0}]}
    (tmp_path / "d.json").write_text(json.dumps([row]), "utf-8")
    code, out, _ = run("check", tmp_path / "d.json", "--strict")
    assert code == 1
    assert "row a: answers: '老李' is not at 0, found '老王'; the text occurs at 3" in out


def test_the_whole_path_select_read_answer_score(run, pair, tmp_path):
    context, held_out = SAMPLE / "context.json", SAMPLE / "held_out.json"
    code, out, _ = run("evaluate", pair / "select", held_out, "--context", context, "--json")
    assert code == 0
    assert json.loads(out)["count"] == 60
    code, out, _ = run("evaluate", pair / "read", held_out, "--context", context, "--json")
    report = json.loads(out)
    assert {"em", "f1", "em_cmrc", "f1_cmrc", "em_drcd", "f1_drcd", "em_low", "em_high"} <= set(report)
    assert report["selector_miss"] == 0  # the right paragraph is given
    kinds = ("correct", "lost_to_windows", "boundary", "wrong_span", "length_cap", "no_answer")
    assert sum(report[kind] for kind in kinds) == 60
    predictions, details = tmp_path / "predictions.json", tmp_path / "details.jsonl"
    code, out, _ = run(
        "answer", context, held_out, "--selector", pair / "select", "--reader", pair / "read",
        "-o", predictions, "--details", details, "--json",
    )  # fmt: skip
    assert code == 0
    answered = json.loads(out)
    paragraphs = json.loads(context.read_text("utf-8"))
    for line in details.read_text("utf-8").splitlines():
        entry = json.loads(line)
        assert paragraphs[int(entry["source"])][entry["start"] : entry["end"]] == entry["answer"]
    code, out, _ = run("score", held_out, predictions)
    scored = ast.literal_eval(out)
    assert list(scored) == ["count", "em", "f1"]
    assert scored == {name: answered[name] for name in scored}


def test_fitted_k_and_weight_are_kept_with_the_pair(run, pair, tmp_path):
    arguments = ["answer", SAMPLE / "context.json", SAMPLE / "held_out.json", "--selector", pair / "select"]
    arguments += ["--reader", pair / "read", "-o", tmp_path / "p.json", "--json"]
    code, out, err = run(*arguments, "--fit", SAMPLE / "train.json")
    assert code == 0
    assert "pipeline" in err
    fitted = json.loads(out)
    _, out, err = run(*arguments)
    assert json.loads(out) == fitted
    assert "not fitted" not in err
    _, out, _ = run(*arguments, "--pipeline")
    assert (json.loads(out)["k"], json.loads(out)["weight"]) == (1, 0.0)


def test_unlabelled_questions_give_submissions_in_both_layouts(run, pair, tmp_path):
    rows = json.loads((SAMPLE / "held_out.json").read_text("utf-8"))[:5]
    bare = [{name: row[name] for name in ("id", "question", "paragraphs")} for row in rows]
    (tmp_path / "private.json").write_text(json.dumps(bare), "utf-8")
    arguments = ["answer", SAMPLE / "context.json", tmp_path / "private.json", "--reader", pair / "read"]
    arguments += ["--selector", pair / "select"]
    assert run(*arguments, "-o", tmp_path / "out.json")[0] == 0
    assert run(*arguments, "-o", tmp_path / "out.csv")[0] == 0
    submission = json.loads((tmp_path / "out.json").read_text("utf-8"))
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        table = {row["id"]: row["answer"] for row in csv.DictReader(stream)}
    assert submission == table
    assert list(submission) == [row["id"] for row in rows]
    code, _, _ = run(
        "predict", pair / "select", tmp_path / "private.json", "--context", SAMPLE / "context.json",
        "-o", tmp_path / "chosen.json",
    )  # fmt: skip
    assert code == 0
    chosen = json.loads((tmp_path / "chosen.json").read_text("utf-8"))
    assert all(chosen[row["id"]] in row["paragraphs"] for row in rows)
    code, out, _ = run("score", SAMPLE / "held_out.json", tmp_path / "chosen.json", "--json")
    assert code == 0
    assert json.loads(out)["missing_ids"] == [
        row["id"] for row in json.loads((SAMPLE / "held_out.json").read_text("utf-8"))[5:]
    ]


def test_predictions_of_a_csv_score_as_those_of_a_json(run, tmp_path):
    gold = json.loads((SAMPLE / "held_out.json").read_text("utf-8"))
    answers = {row["id"]: row["answers"][0]["text"] for row in gold[:30]}
    (tmp_path / "p.json").write_text(json.dumps(answers), "utf-8")
    with (tmp_path / "p.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *answers.items()])
    _, first, err = run("score", SAMPLE / "held_out.json", tmp_path / "p.json")
    _, second, _ = run("score", SAMPLE / "held_out.json", tmp_path / "p.csv")
    assert first == second == "{'count': 60, 'em': 0.5, 'f1': 0.5}\n"
    assert "30 of 60 ids have no prediction and score 0: sample-" in err


@pytest.mark.parametrize("task", ["select", "read"])
def test_answers_and_choices_written_as_jsonl_score_as_those_of_a_json(run, pair, tmp_path, task):
    context, gold = SAMPLE / "context.json", SAMPLE / "held_out.json"
    scored = []
    for name in ("p.json", "p.jsonl", "p.ndjson"):
        assert run("predict", pair / task, gold, "--context", context, "-o", tmp_path / name)[0] == 0
        code, out, err = run("score", gold, tmp_path / name, "--json")
        assert code == 0, err
        scored.append(json.loads(out))
        assert run("score", gold, tmp_path / name, "--task", task, "--json")[1] == out
    assert scored[0] == scored[1] == scored[2]
    assert (scored[0]["count"], scored[0]["missing_ids"]) == (60, [])
    assert scored[0]["accuracy" if task == "select" else "f1"] > 0
    assert cli._read_predictions(tmp_path / "p.jsonl") == cli._read_predictions(tmp_path / "p.json")


BAD_JSONL = {
    "not JSON": (b'{"id": "a"', "row line 1: not JSON"),
    "no object": (b"[5]", "row line 1: id: no prediction"),
    "no id": (b'\n{"answer": "x"}', "row line 2: id: no prediction"),
    "an id that is no text": (b'{"id": 5, "answer": "x"}', "row line 1: id: no prediction"),
    "no answer": (b'{"id": "a", "score": 1}', "expected tags or label or answer or source"),
    "a number": (b'{"id": "a", "answer": 5}', "row line 1: answer: no prediction"),
    "tags that are no texts": (b'{"id": "a", "tags": ["O", 5]}', "row line 1: tags: no prediction"),
    "half a surrogate pair": (b'{"id": "a", "answer": "\\ud800"}', "row a: answer: half of a surrogate pair"),
    "another encoding": ('{"id": "a", "answer": "甲"}'.encode("big5"), "not UTF-8"),
}


@pytest.mark.parametrize("kind", BAD_JSONL)
def test_bad_predictions_of_a_jsonl_are_refused_in_one_line(run, tmp_path, kind):
    content, message = BAD_JSONL[kind]
    (tmp_path / "p.jsonl").write_bytes(content)
    line = refused(run("score", SAMPLE / "held_out.json", tmp_path / "p.jsonl"))
    assert message in line
    assert "p.jsonl" in line


@pytest.mark.parametrize("command", ["evaluate", "predict", "calibrate"])
@pytest.mark.parametrize(("own", "other"), [("select", "read"), ("read", "intent"), ("read", "select")])
def test_another_task_than_the_checkpoints_own_is_refused_before_the_data_is_read(
    run, pair, tmp_path, command, own, other
):
    output = ["-o", tmp_path / "p.json"] if command == "predict" else []
    for data in (tmp_path / "nowhere.json", SAMPLE / "held_out.json"):
        line = refused(run(command, pair / own, data, *output, "--task", other))
        assert line == f"zhaiju: {pair / own} is a checkpoint for {own}, expected one for {other}"
    line = refused(run(command, pair / own, tmp_path / "nowhere.json", *output, "--task", own))
    assert "nowhere.json: no such file" in line
    assert not list(tmp_path.iterdir())


BAD_QUESTIONS = {
    "empty file": (b"", "not a data file"),
    "truncated": (b'[{"id": "a", "question": "\xe8\xaa\xb0', "the file ends too early"),
    "wrong encoding": ('[{"id": "甲"}]'.encode("big5"), "not UTF-8"),
    "NaN": (b'[{"id": NaN}]', "found 'NaN'"),
    "missing key": (b'[{"id": "a", "paragraphs": [0]}]', "row a: question: missing"),
    "wrong type": (b'[{"id": "a", "question": 5, "paragraphs": [0]}]', "row a: question: wrong type, found 5"),
    "empty question": (b'[{"id": "a", "question": " ", "paragraphs": [0]}]', "row a: question: empty text"),
    "no candidates": (b'[{"id": "a", "question": "x", "paragraphs": []}]', "row a: paragraphs: no candidate"),
    "index out of range": (
        b'[{"id": "a", "question": "x", "paragraphs": [99]}]',
        "row a: paragraphs: out of range, found 99",
    ),
    "repeated id": (
        b'[{"id": "a", "question": "x", "paragraphs": [0]}, {"id": "a", "question": "x", "paragraphs": [0]}]',
        "row a: id: repeated id",
    ),
    "question longer than the window": (
        json.dumps([{"id": "a", "question": "長" * 600, "paragraphs": [0]}]).encode(),
        "row a: question: the question does not fit the window of 256 tokens, found 600 tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_QUESTIONS)
def test_bad_questions_are_refused_in_one_line_and_nothing_is_written(run, pair, tmp_path, kind):
    content, message = BAD_QUESTIONS[kind]
    (tmp_path / "q.json").write_bytes(content)
    line = refused(
        run(
            "answer",
            SAMPLE / "context.json",
            tmp_path / "q.json",
            "--reader",
            pair / "read",
            "-o",
            tmp_path / "out.json",
        )
    )
    assert message in line
    assert "q.json" in line
    assert [path.name for path in tmp_path.iterdir()] == ["q.json"]


def test_a_paragraph_of_a_megabyte_is_read_whole(run, pair, tmp_path):
    text = "山下有一間很小的書店。" * 30_000 + "店主姓裘。"
    (tmp_path / "q.json").write_text(json.dumps([{"id": "a", "question": "店主姓什麼？", "context": text}]), "utf-8")
    code, _, err = run("predict", pair / "read", tmp_path / "q.json", "-o", tmp_path / "out.jsonl")
    assert code == 0, err
    entry = json.loads((tmp_path / "out.jsonl").read_text("utf-8"))
    assert text[entry["start"] : entry["end"]] == entry["answer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere/at/all", "q.json"], "no such directory: 'nowhere/at/all'"),
        (["evaluate", ".", "q.json"], "holds no checkpoint"),
        (["check", "nowhere.json"], "nowhere.json: no such file"),
        (["train", "chess", "--scratch", "--train", "q.json", "-o", "run"], "task 'chess' is not one of select, read"),
        (["train", "read", "--train", "q.json", "-o", "run"], "no encoder"),
        (["train", "read", "--scratch", "--train", "q.json", "-o", "run", "--lr", "fast"], "Invalid value for '--lr'"),
        (["train", "read", "--scratch", "--train", "q.json", "-o", "run", "--dropout", "2"], "expected 0 to 0.9"),
        (["tokens", ""], "text: empty text"),
        (["frobnicate"], "No such command"),
        (["score", "q.json", "q.json"], "not a predictions file"),
    ],
)
def test_wrong_usage_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    row = {"id": "a", "question": "誰？", "context": "老王來了。", "answers": [{"text": "老王", "start": 0}]}
    (tmp_path / "q.json").write_text(json.dumps([row]), "utf-8")
    assert message in refused(run(*arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["q.json"]


def test_corrupted_weights_are_refused(run, pair, tmp_path):
    import shutil

    shutil.copytree((pair / "read" / "best").resolve(), tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    line = refused(run("evaluate", tmp_path / "broken", SAMPLE / "held_out.json", "--context", SAMPLE / "context.json"))
    assert f"cannot load {tmp_path / 'broken'}" in line


def test_a_full_disk_leaves_the_old_file_alone(pair, tmp_path):
    (tmp_path / "out.jsonl").write_text("old", "utf-8")
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.dont_write_bytecode = True; "
        "from zhaiju.cli import main; main()"
    )
    command = [sys.executable, "-c", limited, "predict", pair / "read", SAMPLE / "held_out.json"]
    command += ["--context", SAMPLE / "context.json", "-o", tmp_path / "out.jsonl"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"zhaiju: cannot write {tmp_path / 'out.jsonl'}: File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "out.jsonl").read_text("utf-8") == "old"
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_no_write_permission_is_said(run, pair, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(args))

    monkeypatch.setattr("zhaiju.files.tempfile.mkstemp", refuse)  # root may write anywhere, so the system is played
    arguments = ["predict", pair / "read", SAMPLE / "held_out.json", "--context", SAMPLE / "context.json"]
    line = refused(run(*arguments, "-o", tmp_path / "out.json"))
    assert line == f"zhaiju: cannot write {tmp_path / 'out.json'}: Permission denied"


def test_control_characters_of_a_document_never_reach_the_terminal(run, tmp_path):
    code, out, _ = run("tokens", "a\x1b[31mb")
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b" in out


def test_course_rows_find_the_context_file_beside_them_or_ask_for_it(run, tmp_path):
    code, out, _ = run("check", SAMPLE / "held_out.json", "--json")
    assert code == 0
    assert json.loads(out)["answers_total"] == 60
    (tmp_path / "alone.json").write_bytes((SAMPLE / "held_out.json").read_bytes())
    line = refused(run("check", tmp_path / "alone.json"))
    assert "alone.json: course rows need their context file, expected --context FILE" in line


def test_a_csv_keeps_odd_line_ends_and_long_answers(run, tmp_path):
    answers = {"a": "甲\u2028乙", "b": "丙\x85丁\x0c戊", "c": "己" * 150_000}
    rows = [{"id": row, "question": "誰？", "answers": [{"text": text, "start": 0}]} for row, text in answers.items()]
    (tmp_path / "gold.json").write_text(json.dumps(rows), "utf-8")
    with (tmp_path / "p.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("id", "answer"), *answers.items()])
    assert cli._read_predictions(tmp_path / "p.csv") == answers


def test_half_a_surrogate_pair_in_predictions_is_refused(run, tmp_path):
    (tmp_path / "p.json").write_text('{"a": "\\ud800"}')
    line = refused(run("score", SAMPLE / "held_out.json", tmp_path / "p.json"))
    assert "row a: answer: half of a surrogate pair" in line


@pytest.mark.parametrize(("source", "value"), [("7", 7), ("0", 0), ("007", "007"), ("²", "²"), ("p7", "p7")])
def test_only_a_plain_number_becomes_a_number(source, value):
    assert TASKS["select"].value(SelectPrediction("a", 0, source, 1.0, (0.0,))) == value


def test_of_partly_labelled_questions_the_labelled_ones_are_scored(run, pair, tmp_path):
    rows = json.loads((SAMPLE / "held_out.json").read_text("utf-8"))[:4]
    del rows[1]["answers"], rows[1]["relevant"]
    rows[2] |= {"answers": [], "is_impossible": True}
    (tmp_path / "q.json").write_text(json.dumps(rows), "utf-8")
    code, out, err = run(
        "answer", SAMPLE / "context.json", tmp_path / "q.json", "--reader", pair / "read",
        "-o", tmp_path / "p.json", "--details", tmp_path / "d.jsonl", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["count"] == 3
    assert "3 of 4 questions are labelled" in err
    outcomes = [json.loads(line)["outcome"] for line in (tmp_path / "d.jsonl").read_text("utf-8").splitlines()]
    assert [outcome is None for outcome in outcomes] == [False, True, False, False]


def test_all_rows_faulty_and_left_out_is_no_crash(run, pair, tmp_path):
    (tmp_path / "q.json").write_text('[{"id": "a", "question": " ", "paragraphs": [0]}]')
    code, out, _ = run(
        "answer", SAMPLE / "context.json", tmp_path / "q.json", "--reader", pair / "read",
        "-o", tmp_path / "p.json", "--skip-faulty", "--json",
    )  # fmt: skip
    assert (code, json.loads(out)["count"]) == (0, 0)


@pytest.mark.parametrize("arguments", [["--prefilter", "2"], ["--certain", "0.9"]])
def test_sparing_a_selector_that_is_not_there_is_refused(run, pair, tmp_path, arguments):
    command = ["answer", SAMPLE / "context.json", SAMPLE / "held_out.json", "--reader", pair / "read"]
    assert "name one with --selector" in refused(run(*command, "-o", tmp_path / "p.json", *arguments))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Exception from src/inference: std::bad_alloc"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
    ids=str,
)
def test_out_of_memory_is_one_line_that_names_a_flag_where_the_command_has_one(run, monkeypatch, error, tmp_path):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("zhaiju.modeling.checkpoint.load_encoding", fail)
    monkeypatch.setattr("zhaiju.inference.engine.open_engine", fail)
    assert refused(run("tokens", "甲")).endswith("out of memory")
    found = refused(run("predict", "starter", SAMPLE / "held_out.json", "-o", tmp_path / "p.json"))
    assert found.endswith("out of memory; try smaller --batch-tokens")


# A signal meets a callback, which cannot raise: Python only tells of it.
CALLBACK = """
import os, signal, time, weakref
from zhaiju import cli

class Thing:
    pass

def interrupted(*args, **kwargs):
    thing = Thing()
    kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    time.sleep(60)

import zhaiju.modeling.checkpoint
zhaiju.modeling.checkpoint.load_encoding = interrupted
cli.main()
"""


def test_a_signal_that_meets_an_import_waits_for_its_end(tmp_path):
    (tmp_path / "met.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.2)\nprint('imported', flush=True)\n"
    )
    code = "import sys, zhaiju.modeling.checkpoint as v; from zhaiju import cli\n"
    code += "def met(*a, **k):\n    import met, time\n    time.sleep(60)\nv.load_encoding = met\ncli.main()"
    command = [sys.executable, "-c", code, "tokens", "甲"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "imported\n", "zhaiju: interrupted\n")


def test_a_signal_that_meets_a_callback_is_not_lost():
    command = [sys.executable, "-c", CALLBACK, "tokens", "甲"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "zhaiju: terminated\n")


@pytest.mark.parametrize("kind", [ImportError, ConfigError])
def test_a_signal_that_a_library_makes_an_error_of_is_told_as_a_signal(run, monkeypatch, kind):
    def interrupted(*args, **kwargs):
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            raise kind("initialization failed") from None

    monkeypatch.setattr("zhaiju.modeling.checkpoint.load_encoding", interrupted)
    assert run("tokens", "甲") == (130, "", "zhaiju: interrupted\n")


def test_a_directory_as_output_is_refused_before_the_work(run, pair, tmp_path):
    arguments = ["predict", pair / "read", SAMPLE / "held_out.json", "-o", tmp_path]
    assert refused(run(*arguments)) == f"zhaiju: cannot write {tmp_path}: it is a directory, expected a file"


# Intent and slots


def _clinc(intents):
    inside = [[example.text, example.label] for example in intents if example.label != "oos"]
    outside = [[example.text, "oos"] for example in intents if example.label == "oos"]
    return {
        f"{prefix}{split}": rows
        for split in ("train", "val", "test")
        for prefix, rows in (("", inside), ("oos_", outside))
    }


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A classifier and a tagger, tiny and hardly trained, made by the command line itself, and their files."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "data_full.json").write_text(json.dumps(_clinc(INTENTS)), "utf-8")
    (folder / "intent.json").write_text(
        json.dumps([{"id": one.id, "text": one.text, "intent": one.label} for one in INTENTS]), "utf-8"
    )
    (folder / "slots.json").write_text(
        json.dumps([{"id": one.id, "tokens": one.tokens, "tags": one.tags} for one in SLOTTED]), "utf-8"
    )
    for task, file in (("intent", "data_full.json"), ("slots", "slots.json")):
        command = ["train", task, *SHAPE, "--max-steps", "4", "--window", "64", "--positions", "64", "--threads", "1"]
        command += ["--train", str(folder / file), "--dev", str(folder / file), "--risk", "0.5", "--json"]
        cli.app([*command, "-o", str(folder / task)], standalone_mode=False)
    return folder


def _json(result):
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


FIGURES = {
    "intent": {"accuracy", "accuracy_low", "accuracy_high", "macro_f1", "oos_recall", "oos_precision",
               "in_scope_accuracy"},
    "slots": {"f1", "precision", "recall", "f1_low", "f1_high", "f1_strict", "token_accuracy", "sentence_accuracy"},
}  # fmt: skip


def test_out_of_scope_utterances_go_the_whole_way_from_a_clinc_file(run, labelled):
    report = _json(run("evaluate", labelled / "intent", labelled / "data_full.json", "--json"))
    assert report["count"] == len(INTENTS)  # both lists of the split
    assert FIGURES["intent"] | {"oos_auroc", "loss", "ece"} <= set(report)
    assert all(0 <= report[name] <= 1 for name in FIGURES["intent"] | {"oos_auroc", "ece"})
    run_labels = json.loads((labelled / "intent" / "best" / "config.json").read_text("utf-8"))["id2label"]
    assert list(run_labels.values()) == ["book", "oos", "weather"]
    for split in ("train", "val", "test"):
        again = _json(run("evaluate", labelled / "intent", labelled / "data_full.json", "--split", split, "--json"))
        assert again == report


@pytest.mark.parametrize("task", ["intent", "slots"])
@pytest.mark.parametrize("suffix", ["json", "csv", "jsonl"])
def test_written_predictions_score_as_the_checkpoint_does(run, labelled, tmp_path, task, suffix):
    gold, out = labelled / f"{task}.json", tmp_path / f"p.{suffix}"
    report = _json(run("evaluate", labelled / task, gold, "--json"))
    if task == "slots":
        assert FIGURES[task] | {"f1_all_pieces", "token_accuracy_all_pieces", "loss", "ece"} <= set(report)
    assert _json(run("predict", labelled / task, gold, "-o", out, "--json")) == {"count": len(INTENTS)}
    scored = _json(run("score", gold, out, "--json"))
    assert FIGURES[task] <= set(scored)
    assert {name: scored[name] for name in FIGURES[task]} == {name: report[name] for name in FIGURES[task]}
    assert (scored["count"], scored["missing_ids"]) == (len(INTENTS), [])
    code, plain, _ = run("score", gold, out)
    assert code == 0
    assert ast.literal_eval(plain) == {name: scored[name] for name in ("count", *TASKS[task].figures)}


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_details_of_predictions_are_whole(run, labelled, tmp_path, task):
    assert run("predict", labelled / task, labelled / f"{task}.json", "-o", tmp_path / "p.jsonl")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [one.id for one in INTENTS]
    for row, example in zip(rows, SLOTTED, strict=True):
        if task == "slots":
            assert len(row["tags"]) == len(row["scores"]) == len(example.tokens)
        else:
            assert row["label"] == row["n_best"][0]["label"]


def test_what_was_not_predicted_scores_nothing(run, labelled, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({SLOTTED[5].id: ["O", "O", "O"]}), "utf-8")
    code, out, err = run("score", labelled / "slots.json", tmp_path / "p.json", "--json")
    report = json.loads(out)
    assert (code, len(report["missing_ids"])) == (0, len(SLOTTED) - 1)
    assert f"{len(SLOTTED) - 1} of {len(SLOTTED)} ids have no prediction and score 0" in err
    assert report["sentence_accuracy"] == 1 / len(SLOTTED)
    (tmp_path / "p.json").write_text("{}", "utf-8")
    assert _json(run("score", labelled / "intent.json", tmp_path / "p.json", "--json"))["accuracy"] == 0


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_tables_show_each_class_and_what_is_taken_for_what(run, labelled, task):
    data = labelled / f"{task}.json"
    report = _json(run("evaluate", labelled / task, data, "--tables", "--json"))
    labels = {"book", "oos", "weather"} if task == "intent" else {"name", "place", "thing", "time"}
    assert {row["label"] for row in report["classes"]} == labels
    assert sum(row["support"] for row in report["classes"]) > len(INTENTS) - 1
    if task == "intent":
        wrong = round((1 - report["accuracy"]) * report["count"])
        assert sum(row["count"] for row in report["confusions"]) == wrong
        assert all(row["gold"] != row["predicted"] for row in report["confusions"])
    code, out, _ = run("evaluate", labelled / task, data, "--tables")
    assert code == 0
    assert all(label in out for label in labels)


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_calibrate_keeps_what_it_fits_with_the_checkpoint(run, labelled, tmp_path, task):
    import shutil

    shutil.copytree((labelled / task / "best").resolve(), tmp_path / "copy")
    found = _json(run("calibrate", tmp_path / "copy", labelled / f"{task}.json", "--risk", "1", "--json"))
    assert found["coverage"] == 1.0
    assert json.loads((tmp_path / "copy" / "zhaiju.json").read_text("utf-8"))["calibration"] == found
    report = _json(run("evaluate", tmp_path / "copy", labelled / f"{task}.json", "--json"))
    accuracy = report["accuracy" if task == "intent" else "token_accuracy"]
    assert report["threshold"] == found["threshold"]
    assert report["selective_accuracy"] == pytest.approx(accuracy, abs=0.1)


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_compare_puts_runs_side_by_side_on_their_dev_set_or_on_other_data(run, labelled, tmp_path, task):
    import shutil

    shutil.copytree(labelled / task, tmp_path / "again", symlinks=True)
    for data in ([], ["--data", labelled / f"{task}.json"]):
        tables = _json(run("compare", labelled / task, tmp_path / "again", *data, "--json"))
        assert {row["run"] for row in tables["figures"]} == {task, "again"}
        assert all((row["difference"], row["p"]) == (0, 1) for row in tables["differences"])
        assert len(tables["differences"]) == (1 if task == "intent" else 3)
    code, out, _ = run("compare", labelled / task, tmp_path / "again")
    assert code == 0
    assert "again" in out
    (tmp_path / "again" / "outcomes.json").unlink()
    assert "a run that is not finished" in refused(run("compare", labelled / task, tmp_path / "again"))


def test_runs_for_other_tasks_are_not_compared(run, labelled):
    assert "slots is for slots and intent for intent" in refused(
        run("compare", labelled / "intent", labelled / "slots")
    )


LABELLED_FAULTS = {
    "wrong number of tags": (["score", "slots.json", "short.json"], "row u0: tags: not as many tags as words"),
    "a class for tags": (["score", "slots.json", "classes.json"], "row u0: tags: not as many tags as words"),
    "unlabelled intents": (["evaluate", "intent", "bare.json"], "bare.json: row a: intent: no intent to score against"),
    "unlabelled tags": (["evaluate", "slots", "bare_slots.json"], "bare_slots.json: row a: tags: no tags to score"),
    "nothing to calibrate on": (["calibrate", "intent", "bare.json"], "bare.json: row a: intent: no intent to score"),
    "unknown bio": (["evaluate", "slots", "slots.json", "--bio", "lax"], "'lax' is not one of strict"),
    "unknown bio to score": (["score", "slots.json", "short.json", "--bio", "lax"], "'lax' is not one of strict"),
    "malformed tags": (["evaluate", "slots", "malformed.json", "--bio", "strict"], "row a: tags[0]: does not go on"),
    "wrong task": (["evaluate", "slots", "intent.json", "--task", "intent"], "is a checkpoint for slots, expected"),
    "wrong file": (["evaluate", "slots", "intent.json"], "row u0: tags: no tags to score against"),
    "no such split": (["evaluate", "intent", "data_full.json", "--split", "nope"], "no such split, found 'nope'"),
    "wrong number of words": (["predict", "slots", "odd.json", "-o", "p.json"], "row a: tags: not as many tags"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELLED_FAULTS)
def test_what_is_wrong_with_labelled_data_is_one_line(run, labelled, tmp_path, monkeypatch, kind):
    arguments, message = LABELLED_FAULTS[kind]
    for entry in labelled.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    made = {
        "short": {"u0": "O O"},
        "classes": {one.id: one.label for one in INTENTS},
        "bare": [{"id": "a", "text": "rain"}],
        "bare_slots": [{"id": "a", "tokens": ["rain"]}],
        "malformed": [{"id": "a", "tokens": ["rain"], "tags": ["I-thing"]}],
        "odd": [{"id": "a", "tokens": ["rain"], "tags": ["O", "O"]}],
    }
    for name, value in made.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value), "utf-8")
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert message in refused(run(*arguments))
    assert sorted(os.listdir(tmp_path)) == before


def test_a_malformed_tag_is_read_and_counted_unless_that_is_refused(run, labelled, tmp_path):
    (tmp_path / "m.json").write_text(json.dumps([{"id": "a", "tokens": ["rain"], "tags": ["I-thing"]}]), "utf-8")
    code, out, err = run("evaluate", labelled / "slots", tmp_path / "m.json", "--json")
    assert (code, json.loads(out)["count"]) == (0, 1)
    assert "1 malformed I- tags read as B- (see --bio)" in err


def test_sentences_without_labels_are_predicted(run, labelled, tmp_path):
    (tmp_path / "q.json").write_text(json.dumps([{"id": "a", "text": "book a boat to 港口"}]), "utf-8")
    for task, count in (("intent", 1), ("slots", 6)):
        assert run("predict", labelled / task, tmp_path / "q.json", "-o", tmp_path / "p.json")[0] == 0
        assert len(json.loads((tmp_path / "p.json").read_text("utf-8"))["a"].split()) == count


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_two_files_of_rows_without_ids_are_trained_on_together(run, tmp_path, task):
    rows = {
        "intent": [{"text": one.text, "intent": one.label} for one in INTENTS],
        "slots": [{"tokens": one.tokens, "tags": one.tags} for one in SLOTTED],
    }[task]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.json").write_text(json.dumps(rows), "utf-8")
    command = ["train", task, *SHAPE, "--max-steps", "1", "--window", "64", "--positions", "64", "--threads", "1"]
    files = [part for name in ("a", "b") for part in ("--train", tmp_path / name / "train.json")]
    code, out, err = run(*command, *files, "-o", tmp_path / "run", "--json")
    assert code == 0, err
    assert json.loads(out)["finished"]
    count = f"{task}: {2 * len(rows) - json.loads(out)['count']} training and {json.loads(out)['count']} dev examples"
    assert count in err
    line = refused(run(*command, *files, *files[:2], "-o", tmp_path / "again"))
    assert "train.json is given twice" in line


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_below_the_threshold_nothing_is_said(run, labelled, tmp_path, task):
    checkpoint, out = tmp_path / "copy", tmp_path / "out.json"
    shutil.copytree((labelled / task / "best").resolve(), checkpoint)
    meta = json.loads((checkpoint / "zhaiju.json").read_text("utf-8"))
    gold = labelled / f"{task}.json"
    said = {}
    for threshold in (0.0, 1.5):
        calibration = meta["calibration"] | {"threshold": threshold}
        (checkpoint / "zhaiju.json").write_text(json.dumps(meta | {"calibration": calibration}), "utf-8")
        report = _json(run("predict", checkpoint, gold, "-o", out, "--abstain", "--json"))
        said[threshold] = json.loads(out.read_text("utf-8"))
        assert report["threshold"] == threshold
        assert zhaiju.load(str(checkpoint)).thresholds == {task: threshold}
    run("predict", checkpoint, gold, "-o", out)
    assert said[0.0] == json.loads(out.read_text("utf-8"))
    assert {tag for text in said[1.5].values() for tag in text.split()} <= {"O"}  # no class at all, or no slot
    (checkpoint / "zhaiju.json").write_text(json.dumps(meta | {"calibration": {}}), "utf-8")
    code, _, err = run("predict", checkpoint, gold, "-o", out, "--abstain")
    assert code == 2
    assert "has no threshold to abstain by: it was not calibrated" in err
