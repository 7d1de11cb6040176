"""What every worker does: load, say so, then run a round whenever it is told to and say how long it took.

A worker is started with one argument, a JSON object. It reads lines from stdin, runs one round for each, and answers
each by a line of JSON on stdout: seconds and, the first time, answers. What libraries print goes to stderr.
"""

import json
import os
import sys
import time


def serve(load):
    """Run rounds of what `load(spec)` returns, a function that returns answers, until stdin ends."""
    spec = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        import torch

        torch.set_num_threads(spec["threads"])
    except ImportError:
        pass
    run = load(spec)
    run(2)
    told = False
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        few = int(line) or None
        began = time.perf_counter()
        answers = run(few)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "answers": None if told else answers}), file=out, flush=True)
        told = told or few is None


def rows(path):
    """The rows of a JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)
