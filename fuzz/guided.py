"""The same targets guided by coverage, with atheris where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from fuzz.mutate import MOST
from fuzz.target import CORPUS, Target

PACKAGES = ["zhaiju", "markdown_it", "pypdf"]  # whose lines are to be reached


def watching(wanted: bool) -> AbstractContextManager[Any]:
    """A context in which what is imported tells which of its lines are reached; without atheris, one that does nothing.

    Args:
        wanted: Whether it is needed.
    """
    if not wanted or importlib.util.find_spec("atheris") is None:
        return nullcontext()
    return importlib.import_module("atheris").instrument_imports(include=PACKAGES)  # type: ignore[no-any-return]


def run(target: Target, *, seconds: float, seed: int, found: Path) -> int:
    """Let atheris look for inputs that reach new lines; it puts them, and what breaks, into the folder `found`.

    It returns only where atheris is not installed: libFuzzer ends the process, with 77 where something broke.
    """
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    grown = found / f"{target.name}-corpus"
    grown.mkdir(parents=True, exist_ok=True)
    options = [f"-seed={seed + 1}", f"-artifact_prefix={found}/{target.name}-", f"-max_len={MOST}", "-timeout=30"]
    if seconds != float("inf"):
        options.append(f"-max_total_time={int(seconds)}")
    atheris.Setup([sys.argv[0], *options, str(grown), str(CORPUS / target.name)], target.check)
    atheris.Fuzz()
    return 0
