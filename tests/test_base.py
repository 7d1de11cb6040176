"""What `pip install zhaiju` alone does: without the packages of any extra, and where there is no POSIX.

Each runs in a process of its own, in which the packages cannot be imported.
"""

import json
import os
import subprocess
import sys
from importlib.resources import files as resources
from pathlib import Path

import pytest

from zhaiju.errors import EXTRAS

SAMPLE = resources("zhaiju.starter") / "sample"
SOURCE = Path(__file__).parents[1] / "src"
POSIX = ("fcntl", "grp", "pwd", "resource", "termios")
BLOCK = """
import os, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["BLOCKED"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
for name in os.environ["BLOCKED"].split():
    sys.modules.pop(name, None)
"""


@pytest.fixture
def without(tmp_path):
    """A function that runs zhaiju, or code, where some packages are not installed: exit code, stdout, stderr."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK, "utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# 河邊\n\n林師傅在河邊修船。\n", "utf-8")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCE}", "OMP_NUM_THREADS": "1"}

    def call(blocked, *arguments):
        done = subprocess.run(
            [sys.executable, *(("-m", "zhaiju") if arguments[0] != "-c" else ()), *map(str, arguments)],
            env=environment | {"BLOCKED": " ".join(blocked)},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return call


QUESTIONS = [SAMPLE / "held_out.json", "--context", SAMPLE / "context.json"]
ALONE = {
    "ask": ["ask", "誰在修船？", "notes", "--json"],
    "answer": ["answer", SAMPLE / "context.json", SAMPLE / "held_out.json", "-o", "answers.json", "--json"],
    "check": ["check", *QUESTIONS, "--json"],
    "tokens": ["tokens", "林師傅在河邊修船", "--json"],
    "evaluate": ["evaluate", "starter", *QUESTIONS, "--json"],
    "predict": ["predict", "starter", *QUESTIONS, "-o", "predictions.csv", "--json"],
}


@pytest.mark.parametrize("name", ALONE)
def test_without_any_extra(without, name):
    code, out, err = without(EXTRAS, *ALONE[name])
    assert code == 0, err
    told = json.loads(out)
    if name == "ask":
        assert told["quotes"][0]["answer"] == "林師傅"
    if name == "evaluate":
        assert told["em"] > 0.5


def test_what_was_predicted_without_extras_is_scored_without_them(without):
    assert without(EXTRAS, *ALONE["predict"])[0] == 0
    code, out, err = without(EXTRAS, "score", SAMPLE / "held_out.json", "predictions.csv", "--json")
    assert code == 0, err
    assert json.loads(out)["em"] > 0.5


WANTS = {
    "train": ["train", "read", "--scratch", "--train", SAMPLE / "train.json", "-o", "run"],
    "index": ["index", "notes", "-o", "notes.index"],
    "serve": ["serve", "--port", "0"],
}


@pytest.mark.parametrize("extra", WANTS)
def test_whoever_needs_an_extra_is_told_the_line_to_type(without, extra):
    code, out, err = without(EXTRAS, *WANTS[extra])
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith(f' is not installed; pip install "zhaiju[{extra}]"')
    assert "Traceback" not in err


def test_python_is_told_too(without):
    code, out, err = without(
        EXTRAS,
        "-c",
        "import zhaiju\n"
        "print(zhaiju.load('starter').read('誰在修船？', '林師傅在河邊修船。').answer)\n"
        "try:\n    zhaiju.load('some/hub-id')\nexcept zhaiju.ConfigError as error:\n    print(error)",
    )
    assert code == 0, err
    assert out.splitlines() == ["林師傅", 'huggingface_hub is not installed; pip install "zhaiju[train]"']


def test_nothing_of_posix_is_needed_to_import(without):
    names = [
        "zhaiju.api", "zhaiju.cli", "zhaiju.corpus.ask", "zhaiju.corpus.documents", "zhaiju.corpus.index",
        "zhaiju.data.storage", "zhaiju.inference.engine", "zhaiju.scale", "zhaiju.tasks.readers",
        "zhaiju.training.evaluate", "zhaiju.service.labels",
    ]  # fmt: skip
    code, _, err = without(POSIX, "-c", "\n".join(f"import {name}" for name in names))
    assert code == 0, err
