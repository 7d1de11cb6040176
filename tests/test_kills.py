"""SIGKILL at random moments: under the output's name stands all or nothing, and the next run gives the same.

Training, the service and the labels have such tests of their own, beside their other ones, and so has the index where
its documents change.
"""

import json
import random
import runpy
import shutil
import subprocess
import sys
import time
from importlib.resources import files as resources
from pathlib import Path

import pytest

import kills
from zhaiju.corpus.index import Index, is_index
from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, save

KILLS = kills.count(3)
SAMPLE = Path(str(resources("zhaiju.starter") / "sample"))
TINY = Shape(layers=1, hidden=16, heads=2, intermediate=32, positions=96)


def make_checkpoint(folder):
    """A reader of random weights."""
    texts = [(SAMPLE / "context.json").read_text("utf-8")]
    made = from_scratch("read", texts, encoder=None, shape=TINY, window=96, overlap=16, script="as-is")
    folder.mkdir()
    save(folder, made.network, made.encoding, Meta(task="read"))
    return folder


def write_documents(folder):
    """A file for each paragraph of the sample."""
    for number, text in enumerate(json.loads((SAMPLE / "context.json").read_text("utf-8"))):
        (folder / f"{number}.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "read")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("documents"))


def command(name, checkpoint, documents, output):
    context, questions = str(SAMPLE / "context.json"), str(SAMPLE / "held_out.json")
    return [sys.executable, "-m", "zhaiju.cli"] + {
        "predict": ["predict", str(checkpoint), questions, "--context", context, "-o", str(output)],
        "answer": ["answer", context, questions, "--reader", str(checkpoint), "-o", str(output)],
        "export": ["export", str(checkpoint), "-o", str(output)],
        "index": ["index", str(documents), "-o", str(output)],
    }[name]


def content(output):
    """The bytes of a file, or of all files of a folder by name; of an index its documents; None if there is nothing."""
    if output.is_file():
        return output.read_bytes()
    if is_index(str(output)):
        index = Index.open(str(output))
        return {stored: index.paragraphs(stored.document) for stored in index.documents()}
    if not output.is_dir():
        return None
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    found.pop("README.md", None)  # the card has a date
    found.pop(".zhaiju.lock", None)  # an index that is not begun
    return found or None


def begun(process, folder):
    """Wait until it writes, or ends."""
    while process.poll() is None and not list(folder.iterdir()):
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output"), [("predict", "p.json"), ("answer", "s.csv"), ("export", "exported"), ("index", "i.index")]
)
def test_what_was_killed_leaves_nothing_half_written_and_the_next_run_gives_the_same(
    checkpoint, documents, tmp_path, name, output
):
    chance = random.Random(name)
    wanted, folder = tmp_path / "whole" / output, tmp_path / "killed"
    wanted.parent.mkdir()
    folder.mkdir()
    started = time.monotonic()
    subprocess.run(command(name, checkpoint, documents, wanted), check=True, capture_output=True)
    seconds = time.monotonic() - started
    whole = content(wanted)
    count = 0

    def again():
        if name != "index" and (folder / output).is_dir():  # whole; export does not write over what is there
            shutil.rmtree(folder / output)
        return command(name, checkpoint, documents, folder / output)

    for attempt in range(KILLS):
        if name == "index":
            shutil.rmtree(folder / output, ignore_errors=True)
        began, process = (
            time.monotonic(),
            subprocess.Popen(again(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        )
        if attempt % 2:
            time.sleep(chance.random() * seconds)
        else:  # while it writes, which is the shorter part
            begun(process, folder)
            time.sleep(chance.random() * 0.3)
        with kills.killed(process, name, began=began, seed=name) as alive:
            count += alive
            found = content(folder / output)
            assert found in (None, whole) or (name == "index" and found.items() <= whole.items())
    assert count
    subprocess.run(again(), check=True, capture_output=True)
    assert content(folder / output) == whole
    assert [entry.name for entry in folder.iterdir()] == [output]


def test_kills_are_summed_up_by_command_and_too_few_or_a_broken_one_is_a_failure(tmp_path, monkeypatch, capsys):
    log, script = tmp_path / "log", str(Path(__file__).parents[1] / "scripts" / "kills")
    monkeypatch.setenv(kills.LOG, str(log))

    def sleeper():
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def summed(*more):
        monkeypatch.setattr(sys, "argv", [script, str(log), *more])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        return bool(ended.value.code), capsys.readouterr().out

    for name in ("index", "serve"):
        with kills.killed(sleeper(), name, began=time.monotonic(), seed=0) as alive:
            assert alive
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    with kills.killed(done, "index", began=time.monotonic(), seed=0) as alive:
        assert not alive  # and not counted
    failed, shown = summed("--least", "1")
    assert not failed
    assert "| index | 1 | 1 |" in shown
    assert "| the first five | 1 | 1 |" in shown
    assert summed("--least", "2")[0]
    with pytest.raises(ValueError), kills.killed(sleeper(), "train", began=time.monotonic(), seed=0):  # noqa: PT011
        raise ValueError
    failed, shown = summed()
    assert failed
    assert "| train | 1 | 0 |" in shown
