"""Short names that tell runs, or files, apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zhaiju.errors import ConfigError


def distinct(runs: Sequence[str | Path]) -> list[str]:
    """Their names, with as much of the path before them as tells them apart.

    Raises:
        ConfigError: one is given twice.
    """
    paths = [Path(os.path.abspath(run)).parts for run in runs]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise ConfigError(f"{runs[place]} is given twice, expected different ones")
    names = []
    for path in paths:
        others = [other for other in paths if other != path]
        length = 1
        while any(other[-length:] == path[-length:] for other in others):
            length += 1
        names.append(str(Path(*path[-length:])))
    return names
