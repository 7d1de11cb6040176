"""The README is true: its tree is the disk's, its commands parse, its example runs."""

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
        result = subprocess.run(
            [sys.executable, "-m", "zhaiju.cli", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "submission.csv").read_text("utf-8").startswith("id,answer\n")
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    result = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()
