"""Select and read throughput: zhaiju's engine against the plain way, same weights, same questions, same cores.

The plain way is the course's sample code: every pair cut or padded to 512 tokens, fixed batches of 4, fp32. Runs are
interleaved and medians are reported. Writes docs/benchmarks.md.

    python benchmarks/throughput.py [--questions 64] [--rounds 3] [--data ../shared/data/course]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zhaiju import files, ui
from zhaiju.data.examples import QAExample
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.inference.backends import TorchBackend
from zhaiju.inference.engine import Engine
from zhaiju.modeling.checkpoint import Checkpoint, Shape, from_scratch
from zhaiju.tasks import TASKS

ROOT = Path(__file__).parents[1]
SHAPES = {"4 layers, 256 wide": Shape(), "2 layers, 128 wide": Shape(layers=2, hidden=128, heads=2, intermediate=512)}
PLAIN_LENGTH = 512
PLAIN_BATCH = 4


def pairs(task: str, examples: list[QAExample]) -> list[tuple[str, str]]:
    """The (question, paragraph) pairs that a task scores."""
    if task == "read":
        return [(example.question, example.context.text) for example in examples]
    return [(example.question, context.text) for example in examples for context in example.contexts]


@torch.inference_mode()
def plain(checkpoint: Checkpoint, task: str, examples: list[QAExample]) -> tuple[int, int]:
    """Score all pairs the plain way; returns (tokens without padding, tokens with it)."""
    tokenizer, network = checkpoint.encoding.tokenizer, checkpoint.network.eval()
    wanted = pairs(task, examples)
    real = padded = 0
    for start in range(0, len(wanted), PLAIN_BATCH):
        questions, contexts = zip(*wanted[start : start + PLAIN_BATCH], strict=True)
        batch = tokenizer(
            list(questions), list(contexts), truncation="only_second", max_length=PLAIN_LENGTH,
            padding="max_length", return_tensors="pt",
        )  # fmt: skip
        network.logits(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"])
        real += int(batch["attention_mask"].sum())
        padded += batch["attention_mask"].numel()
    return real, padded


def ours(checkpoint: Checkpoint, task: str, examples: list[QAExample], precision: Any) -> tuple[int, int]:
    """Predict with the engine; returns (tokens without padding, tokens with it)."""
    engine = Engine(TorchBackend(checkpoint.network, pad_id=0, precision=precision), checkpoint.encoding)
    checkpoint.encoding.forget()  # each round tokenises anew, as the plain way does
    for _ in engine.predict(TASKS[task](), examples):
        pass
    return engine.usage.tokens, engine.usage.padded


def measure(ways: dict[str, Callable[[], tuple[int, int]]], rounds: int) -> dict[str, tuple[float, int, int]]:
    """Median seconds, tokens and padded tokens of each way, runs interleaved, one round thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, tuple[int, int]] = {}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            sizes[name] = way()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: (statistics.median(seconds[name]), *sizes[name]) for name in ways}


def main() -> None:
    """Run all comparisons and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "course")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    chosen = parser.parse_args()
    name, source = "course public set", chosen.data / "public.json"
    if not source.is_file():
        chosen.data = ROOT / "src" / "zhaiju" / "starter" / "sample"
        name, source = "the project's own sample", chosen.data / "held_out.json"
    contexts = load_contexts(chosen.data / "context.json")
    examples = list(read_qa(source, contexts=contexts))[: chosen.questions]
    torch.set_num_threads(os.cpu_count() or 1)
    rows = []
    for label, shape in SHAPES.items():
        for task in ("select", "read"):
            torch.manual_seed(0)
            checkpoint = from_scratch(
                task, (context.text for context in contexts), encoder=None, shape=shape, window=PLAIN_LENGTH,
                overlap=64, script="as-is", match_types=False,
            )  # fmt: skip
            count = len(pairs(task, examples))
            found = measure(
                {
                    "plain, fp32": lambda c=checkpoint, t=task: plain(c, t, examples),
                    "zhaiju, fp32": lambda c=checkpoint, t=task: ours(c, t, examples, "fp32"),
                    "zhaiju, bf16": lambda c=checkpoint, t=task: ours(c, t, examples, "bf16"),
                },
                chosen.rounds,
            )
            base = found["plain, fp32"][0]
            for way, (seconds, tokens, padded) in found.items():
                rows.append(
                    [task, label, way, f"{count / seconds:.1f}", f"{tokens / seconds:,.0f}",
                     f"{1 - tokens / padded:.1%}", f"{base / seconds:.2f}"]
                )  # fmt: skip
                ui.note(" | ".join(rows[-1]))
    columns = ["task", "encoder", "way", "pairs/s", "tokens/s", "padding", "x plain"]
    ui.table("", columns, rows)
    table = "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])
    page = f"""# Benchmarks

`make bench` on {time.strftime("%Y-%m-%d")}: {platform.machine()}, {os.cpu_count()} CPU cores, Python
{platform.python_version()}, torch {torch.__version__}; {len(examples)} questions of {name}; random weights, seed 0;
medians of {chosen.rounds} interleaved rounds.

The plain way is the course's sample code: every pair cut or padded to {PLAIN_LENGTH} tokens, fixed batches of
{PLAIN_BATCH}, fp32. What it cuts off is never looked at; zhaiju's windows (also of {PLAIN_LENGTH} tokens) hold all of
every paragraph. Times of zhaiju include tokenising, span search and prediction; those of the plain way end with the
logits. Tokens exclude padding, the padding column says how much was computed in vain.

{table}
"""
    files.write_text(chosen.output, page)


if __name__ == "__main__":
    sys.exit(main())
