"""The comparison tells what it measured: paired rounds, answers compared, failures named."""

import json

import pytest

from benchmarks.peers import __main__ as benching
from benchmarks.peers import works
from benchmarks.peers.__main__ import bench, page
from benchmarks.peers.environments import Peer, prepare
from benchmarks.peers.workers import Way, race, ratio
from zhaiju.errors import ZhaijuError
from zhaiju.modeling.checkpoint import Shape

TINY = Shape(layers=1, hidden=16, heads=2, intermediate=32, positions=512)


def script(folder, name, body):
    """A worker of its own; paths of `ways/` are not looked at."""
    path = folder / name
    path.write_text(body, "utf-8")
    return str(path)


ANSWERING = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for turn, line in enumerate(sys.stdin):
    open(sys.argv[0] + ".log", "a").write(f"{turn} {line}")
    print(json.dumps({"seconds": SECONDS[turn], "answers": ["a", "b"] if turn == 0 else None}), flush=True)
"""


def test_rounds_are_interleaved_and_ratios_are_paired(tmp_path):
    told = []
    ways = [
        Way(name, script(tmp_path, f"{name}.py", ANSWERING.replace("SECONDS", str(seconds))), {})
        for name, seconds in (("peer", [2.0, 9.0, 6.0]), ("ours", [1.0, 3.0, 1.0]))
    ]
    found = race(ways, rounds=3, threads=1, few=7, note=told.append)
    assert found["peer"].seconds == [2.0, 9.0, 6.0]
    assert found["ours"].answers == ["a", "b"]
    assert ratio(found["peer"], found["ours"]) == 3.0  # of 2, 3 and 6; not 6 / 1, the medians' ratio
    assert (tmp_path / "ours.py.log").read_text().split() == ["0", "7", "1", "7", "2", "7"]
    assert [line.split(", ")[1].split(":")[0] for line in told if line.startswith("round")] == ["peer", "ours"] * 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import sys; sys.exit('no module named turtle')", "no module named turtle"),
        ("print('{\"ready\": true}', flush=True); input(); raise ValueError('out of turtles')", "out of turtles"),
    ],
)
def test_a_way_that_fails_is_named_with_what_it_said_and_the_others_go_on(tmp_path, body, said):
    ways = [
        Way("broken", script(tmp_path, "broken.py", body), {}),
        Way("ours", script(tmp_path, "ours.py", ANSWERING.replace("SECONDS", "[1.0, 1.0]")), {}),
    ]
    found = race(ways, rounds=2, threads=1)
    assert said in found["broken"].failed
    assert found["ours"].seconds == [1.0, 1.0]


def test_a_peer_that_cannot_be_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("subprocess.run", failing)
    with pytest.raises(ZhaijuError, match="Turtle cannot be installed: ERROR: No matching distribution"):
        prepare(Peer("Turtle", ("turtle-of-no-index==9",), ()))
    assert not list((tmp_path / "zhaiju" / "bench").iterdir())


def failing(command, **_):
    import subprocess

    return subprocess.CompletedProcess(command, 1, "", "looking\nERROR: No matching distribution\n")


def record(**more):
    ours = {"name": "fp32, torch", "per_second": 2.5, "seconds": [4.0]}
    rows = [
        ours | {"ratios": {works.PIPELINE: 1.2}, "equal": {works.PIPELINE: 9}},
        {"name": "int8, openvino", "failed": "it is not installed"},
        {"name": works.PIPELINE, "per_second": 2.0, "seconds": [5.0], "ratios": {}, "equal": {"fp32, torch": 9}},
    ]  # fmt: skip
    work = {
        "work": "read", "title": "read", "unit": "questions", "count": 10, "date": "2026-11-26", "about": "About.",
        "rounds": 1, "rows": rows,
        "bars": [{"way": "fp32, torch", "peer": works.PIPELINE, "least": 1.5, "reached": 1.2}],
        "same": [["fp32, torch", works.PIPELINE]],
    }  # fmt: skip
    return {
        "date": "2026-01-01", "machine": "m", "python": "3",
        "versions": {"zhaiju": "0", "Haystack": "not compared: no"}, "works": [work | more],
    }  # fmt: skip


def test_the_page_tells_what_was_missed_what_failed_and_who_was_not_compared():
    text = page(record())
    assert "| Haystack | not compared: no |" in text
    assert "| int8, openvino | failed: it is not installed |" in text
    assert "1.5 | 1.20 (missed) |" in text
    assert "equal: 9 of 10" in text
    assert "| fp32, torch | 2.50 | 1.20 |" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", list(works.WORKS))
def test_every_comparison_runs_on_the_package_s_own_texts(tmp_path, monkeypatch, name):
    monkeypatch.setattr(works, "BERT", TINY)
    monkeypatch.setattr(works, "MINILM", TINY)
    monkeypatch.setattr(benching, "_minilm", lambda: None)
    found = bench(tmp_path, only=[name], questions=12, utterances=24, rounds=1, threads=1, peers=False)
    (work,) = found["works"]
    failed = {row["name"]: row["failed"] for row in work["rows"] if "failed" in row}
    assert {name for name, why in failed.items() if "does not compute in bf16" not in why} == set()
    fp32 = next(row for row in work["rows"] if row["name"] == "fp32, torch")
    assert fp32["per_second"] > 0
    others = {row["name"] for row in work["rows"]} - {"fp32, torch", works.PLAIN}
    for other in others & {"fp32, onnxruntime", "fp32, openvino"}:
        assert fp32["equal"][other] >= work["count"] - 1  # of random weights, two spans may be worth the same
    if name == "answer":
        assert fp32["equal"][works.PLAIN] > 0
    written = {path.name for path in tmp_path.iterdir()}
    assert {"benchmarks.md", "benchmarks.json"} <= written
    assert json.loads((tmp_path / "benchmarks.json").read_text("utf-8")) == json.loads(json.dumps(found))
