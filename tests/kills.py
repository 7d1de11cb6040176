"""SIGKILL, as tests inject it: how often, and a record of each for `scripts/kills`.

ZHAIJU_KILLS says how often; ZHAIJU_KILL_LOG names the file to which every kill that met a living process is added, a
JSON object a line.
"""

import json
import os
import signal
import time
from contextlib import contextmanager

LOG = "ZHAIJU_KILL_LOG"


def count(ordinary):
    """Kills of a test: as the environment says, else as many as the ordinary tests inject."""
    return int(os.environ.get("ZHAIJU_KILLS", ordinary))


@contextmanager
def killed(process, command, *, began, seed):
    """Kill a process, whatever it is at; what is asserted in the block is the outcome that is recorded.

    Args:
        process: A `subprocess.Popen`.
        command: Of `zhaiju`, that it runs.
        began: When it was started, by `time.monotonic`.
        seed: What its moment was drawn with.

    Yields:
        Whether it was alive.
    """
    after = time.monotonic() - began
    process.kill()
    alive = process.wait() == -signal.SIGKILL
    outcome = "broken"
    try:
        yield alive
        outcome = "kept"
    finally:
        if alive and (path := os.environ.get(LOG)):
            entry = {"command": command, "after": round(after, 3), "seed": seed, "outcome": outcome}
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
