"""The peers' virtual environments, made once from their packages and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from zhaiju.errors import ZhaijuError


@dataclass(frozen=True)
class Peer:
    """What a peer needs.

    Attributes:
        name: What the page calls it.
        requirements: Its packages; torch is held at our own version.
        shown: Packages whose versions the page tells.
    """

    name: str
    requirements: tuple[str, ...]
    shown: tuple[str, ...]


TRANSFORMERS = Peer("transformers 4.57", ("transformers==4.57.*", "accelerate"), ("transformers", "torch"))
HAYSTACK = Peer(
    "Haystack",
    ("haystack-ai", "transformers-haystack", "transformers", "accelerate", "sentencepiece"),
    ("haystack-ai", "transformers-haystack", "transformers", "torch"),
)


def prepare(peer: Peer) -> str:
    """The interpreter of a peer's environment, which is made if it is not there.

    Raises:
        ZhaijuError: it cannot be installed; the message says why.
    """
    torch = f"torch=={version('torch').partition('+')[0]}"
    wanted = "\n".join(sorted((*peer.requirements, torch, sys.version)))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zhaiju" / "bench"
    place = cache / f"{peer.name.split()[0].lower()}-{hashlib.sha256(wanted.encode()).hexdigest()[:10]}"
    python = place / "bin" / "python"
    if (place / ".ready").is_file():
        return str(python)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(place)],
        [str(python), "-m", "pip", "install", "-q", torch, "numpy"],  # alone first, so that it is found as ours was
        [str(python), "-m", "pip", "install", "-q", torch, *peer.requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.strip().splitlines() if "ERROR" in line] or done.stderr.splitlines()
            shutil.rmtree(place, ignore_errors=True)
            raise ZhaijuError(f"{peer.name} cannot be installed: {said[-1] if said else done.returncode}")
    (place / ".ready").touch()
    return str(python)


def versions(python: str, names: tuple[str, ...]) -> str:
    """The versions of packages in an environment, as text."""
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return done.stdout.strip()
