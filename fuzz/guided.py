"""The same targets guided by coverage, with atheris where it is installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from fuzz.mutate import MOST
from fuzz.target import CORPUS, Target


def run(target: Target, *, seconds: float, seed: int, found: Path) -> int:
    """Let atheris look for inputs that reach new lines; it puts them, and what breaks, into the folder `found`.

    It never returns: libFuzzer ends the process, with 77 where something broke.
    """
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    grown = found / f"{target.name}-corpus"
    grown.mkdir(parents=True, exist_ok=True)
    kept = CORPUS / target.name
    # Modules that are loaded already are instrumented where they are.
    atheris.instrument_all()
    options = [f"-seed={seed + 1}", f"-artifact_prefix={found}/{target.name}-", f"-max_len={MOST}", "-timeout=30"]
    if seconds != float("inf"):
        options.append(f"-max_total_time={int(seconds)}")
    atheris.Setup([sys.argv[0], *options, str(grown), str(kept)], target.check)
    atheris.Fuzz()
    return 0
