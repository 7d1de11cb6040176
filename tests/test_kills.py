"""SIGKILL at random moments: under the output's name stands all or nothing, and the next run gives the same.

Training, the index and the service have such tests of their own, beside their other ones.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from importlib.resources import files as resources
from pathlib import Path

import pytest

from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, save

KILLS = int(os.environ.get("ZHAIJU_KILLS", 3))
SAMPLE = Path(str(resources("zhaiju.starter") / "sample"))
TINY = Shape(layers=1, hidden=16, heads=2, intermediate=32, positions=96)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "read"
    texts = [(SAMPLE / "context.json").read_text("utf-8")]
    made = from_scratch(
        "read", texts, encoder=None, shape=TINY, window=96, overlap=16, script="as-is", match_types=False
    )
    folder.mkdir()
    save(folder, made.network, made.encoding, Meta(task="read"))
    return folder


def command(name, checkpoint, output):
    context, questions = str(SAMPLE / "context.json"), str(SAMPLE / "train.json")
    return [sys.executable, "-m", "zhaiju.cli"] + {
        "predict": ["predict", "starter", questions, "--context", context, "-o", str(output)],
        "answer": ["answer", context, questions, "--reader", "starter", "-o", str(output)],
        "export": ["export", str(checkpoint), "-o", str(output)],
    }[name]


def content(output):
    """The bytes of a file, or of all files of a folder by name; None if there is nothing."""
    if output.is_file():
        return output.read_bytes()
    if not output.is_dir():
        return None
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    found.pop("README.md", None)  # the card has a date
    return found


def begun(process, folder):
    """Wait until it writes, or ends."""
    while process.poll() is None and not list(folder.glob(".*.tmp")):
        time.sleep(0.005)


@pytest.mark.parametrize(("name", "output"), [("predict", "p.json"), ("answer", "s.csv"), ("export", "exported")])
def test_what_was_killed_leaves_nothing_half_written_and_the_next_run_gives_the_same(
    checkpoint, tmp_path, name, output
):
    chance = random.Random(name)
    wanted, folder = tmp_path / "whole" / output, tmp_path / "killed"
    wanted.parent.mkdir()
    folder.mkdir()
    started = time.monotonic()
    subprocess.run(command(name, checkpoint, wanted), check=True, capture_output=True)
    seconds = time.monotonic() - started
    killed = 0

    def again():
        if (folder / output).is_dir():  # whole; export does not write over what is there
            shutil.rmtree(folder / output)
        return command(name, checkpoint, folder / output)

    for attempt in range(KILLS):
        process = subprocess.Popen(again(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if attempt % 2:
            time.sleep(chance.random() * seconds)
        else:  # while it writes, which is the shorter part
            begun(process, folder)
            time.sleep(chance.random() * 0.3)
        process.kill()
        killed += process.wait() == -9
        assert content(folder / output) in (None, content(wanted))
    assert killed
    subprocess.run(again(), check=True, capture_output=True)
    assert content(folder / output) == content(wanted)
    assert [entry.name for entry in folder.iterdir()] == [output]
