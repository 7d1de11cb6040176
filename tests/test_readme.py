"""The README is true: its tree is the disk's, its commands parse, its example runs."""

import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files as resources
from pathlib import Path

import pytest
import typer

from zhaiju import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SAMPLE = resources("zhaiju.starter") / "sample"
COMMANDS = re.findall(r"^zhaiju .+$", README, re.MULTILINE)


def test_the_tree_is_what_is_on_disk():
    block = re.search(r"```\n(src/zhaiju/\n.*?)```", README, re.DOTALL)[1]
    inside = re.findall(r"^  (\S+)", block, re.MULTILINE)
    outside = re.findall(r"^(\w+)/", block, re.MULTILINE)[1:]
    source = ROOT / "src" / "zhaiju"
    on_disk = {
        f"{path.name}/" if path.is_dir() else path.name for path in source.iterdir() if not path.name.startswith("__")
    }
    assert set(inside) == on_disk
    assert all((ROOT / name).is_dir() for name in outside)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    name, *arguments = shlex.split(command)[1:]
    group = typer.main.get_command(cli.app)
    context = group.commands[name].make_context(name, arguments)  # raises on an unknown flag or a missing argument
    assert context.params
    for flag in re.findall(r"configs/\S+", command):
        assert (ROOT / flag).is_file()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE) or target == "setup"


def run_example(code, folder):
    """What a piece of Python prints, run in a folder as a user would."""
    environment = os.environ | {"HAYSTACK_TELEMETRY_ENABLED": "False"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_code_for_the_removed_pipeline_runs_after_the_change(tmp_path):
    before_and_after = re.search(r"```diff\n(.*?)```", README, re.DOTALL)[1].splitlines()
    kept = [line[1:] for line in before_and_after if not line.startswith("-")]
    assert [line for line in before_and_after if line.startswith("-")]
    code = "\n".join(kept).replace("deepset/roberta-base-squad2", "starter")
    *answer, score, start, end = run_example(code, tmp_path).split()
    context = re.search('context="(.*?)"', code)[1]
    assert context[int(start) : int(end)] == " ".join(answer)
    assert 0 <= float(score) <= 1


@pytest.mark.parametrize("library", ["haystack", "langchain"])
def test_examples_inside_other_libraries_run(tmp_path, library):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "town.md").write_text("林師傅在河邊修船。\n\n鎮上有兩家書店。\n", "utf-8")
    (code,) = re.findall(rf"```python\n((?:(?!```).)*zhaiju\.integrations\.{library}.*?)```", README, re.DOTALL)
    assert "林師傅" in run_example(code, tmp_path)


@pytest.mark.slow
def test_the_commands_and_the_python_example_run(tmp_path):
    """The README's own lines, on the project's sample, cut short by flags."""
    for source, target in {"train": "train", "held_out": "public", "context": "context"}.items():
        (tmp_path / f"{target}.json").write_bytes((SAMPLE / f"{source}.json").read_bytes())
    (tmp_path / "private.json").write_bytes((SAMPLE / "held_out.json").read_bytes())
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    section = README[README.index("## From course files") : README.index("### With pretrained")]
    small = ["--max-steps", "2", "--layers", "1", "--hidden", "16", "--heads", "2", "--threads", "1"]
    for line in re.findall(r"^zhaiju .+$", section, re.MULTILINE):
        arguments = shlex.split(line)[1:]
        if arguments[0] == "train":
            arguments += small
        if any(argument.startswith("s3://") for argument in arguments):
            continue  # tests/test_batch.py has a bucket, where there is one
        result = subprocess.run(
            [sys.executable, "-m", "zhaiju.cli", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "submission.csv").read_text("utf-8").startswith("id,answer\n")
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert run_example(example, tmp_path).split()
