"""How much of what a bare matrix product reaches here the engine reaches, for the work of reading.

A 12-layer, 768-wide BERT with random weights reads questions of DRCD, or of the package's samples. Every batch's shape
is noted, and each of its matrix products (projections, feed-forward, the two of attention; nothing else is counted) is
then run alone, by PyTorch, at the same shapes and in the same precision. The sum of these times is a floor: softmax,
norms, GELU, embeddings, tokenising and span search come on top of it. The share is the floor divided by the time taken.

    python -m benchmarks.roofline [--data ../shared/data] [--questions 48] [--output docs/benchmark-roofline.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.works import BERT, Sources, make_bert, questions
from zhaiju import files, threads, ui
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import load

REPEATS = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Noting:
    """A backend that notes the shape and the seconds of every batch."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.shapes: Counter[tuple[int, int]] = Counter()
        self.seconds = 0.0

    def run(self, chunk: Any) -> Any:
        """What the backend gives."""
        began = time.perf_counter()
        logits = self.backend.run(chunk)
        self.seconds += time.perf_counter() - began
        self.shapes[chunk.input_ids.shape] += 1
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


def products(rows: int, length: int) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """The matrix products of one layer on a batch: how often, and the shapes of both factors."""
    tokens, hidden, inner, heads = rows * length, BERT.hidden, BERT.intermediate, BERT.heads
    each = hidden // heads
    return [
        (4, (tokens, hidden), (hidden, hidden)),
        (1, (tokens, hidden), (hidden, inner)),
        (1, (tokens, inner), (inner, hidden)),
        (1, (rows * heads, length, each), (rows * heads, each, length)),
        (1, (rows * heads, length, length), (rows * heads, length, each)),
    ]


def flops(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Floating-point operations of a product, or of a stack of them."""
    *stack, rows, inner = left
    return 2 * rows * inner * right[-1] * (stack[0] if stack else 1)


def alone(left: tuple[int, ...], right: tuple[int, ...], precision: str) -> float:
    """Seconds of a product alone, median of several."""
    a, b = (torch.randn(shape).to(DTYPES[precision]) for shape in (left, right))
    out = a @ b
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        torch.matmul(a, b, out=out)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def floor(shapes: Counter[tuple[int, int]], precision: str, note: Callable[[str], None]) -> tuple[float, float]:
    """Operations of all batches' matrix products, and the seconds that these take alone."""
    operations = seconds = 0.0
    for (rows, length), count in sorted(shapes.items()):
        for times, left, right in products(rows, length):
            times *= count * BERT.layers
            operations += times * flops(left, right)
            seconds += times * alone(left, right, precision)
    note(f"{precision}: {operations / 1e12:.2f} T operations, {operations / seconds / 1e9:.0f} G/s alone")
    return operations, seconds


def measure(data: Path | None, count: int, rounds: int, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each way of ours."""
    ways = [("torch", "fp32"), ("onnx", "fp32"), ("torch", "bf16")]
    if find_spec("openvino"):
        ways += [("openvino", "fp32"), ("openvino", "bf16")]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sources = Sources(data, None, {}, Path(folder), count, 0)
        where, exported = make_bert(sources, "read")
        examples = questions(sources)
        for backend, precision in sorted(ways, key=lambda way: (way[1] == "bf16", way)):
            checkpoint = load(where if backend == "torch" else exported, "read")
            engine, task = make_engine(checkpoint, backend=backend, precision=precision), checkpoint.task("read")
            list(engine.predict(task, examples))  # makes its kernels
            engine.backend = noting = Noting(engine.backend)  # type: ignore[assignment]
            shares = []
            for _ in range(rounds):
                noting.shapes.clear()
                noting.seconds = 0.0
                engine.encoding.forget()
                began = time.perf_counter()
                list(engine.predict(task, examples))
                whole = time.perf_counter() - began
                operations, least = floor(noting.shapes, precision, note)
                shares.append((least / whole, least / noting.seconds, whole, noting.seconds, least))
                note(
                    f"{backend} {precision}: {whole:.1f} s, in the network {noting.seconds:.1f} s, alone {least:.1f} s"
                )
            share, inside, whole, network, least = sorted(shares)[len(shares) // 2]
            rows.append(
                {
                    "way": f"{precision}, {backend}",
                    "operations": operations,
                    "alone": operations / least,
                    "reached": operations / whole,
                    "floor": least,
                    "network": network,
                    "whole": whole,
                    "share_network": inside,
                    "share": share,
                }
            )
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="The shared data's folder. Default: the package's samples.")
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="A Markdown page to write.")
    options = parser.parse_args()
    threads.prepare()
    found = measure(options.data, options.questions, options.rounds, ui.note)
    columns = ["way", "T operations", "alone, G/s", "reached, G/s", "alone, s", "network, s", "whole, s",
               "share in the network", "share of the whole"]  # fmt: skip
    cells = [
        [row["way"], f"{row['operations'] / 1e12:.2f}", f"{row['alone'] / 1e9:.0f}", f"{row['reached'] / 1e9:.0f}",
         f"{row['floor']:.1f}", f"{row['network']:.1f}", f"{row['whole']:.1f}", f"{row['share_network']:.0%}",
         f"{row['share']:.0%}"]
        for row in found
    ]  # fmt: skip
    ui.table("", columns, cells)
    if options.output is not None:
        about = (__doc__ or "").partition("\n\n")[2].partition("\n\n    python")[0]
        lines = ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *cells]]
        text = f"""# Benchmark: the roofline of reading

`python -m benchmarks.roofline --questions {options.questions}` on {time.strftime("%Y-%m-%d")}: {platform.machine()},
{os.cpu_count()} CPU cores, torch {torch.__version__}; medians of {options.rounds} rounds.

{about}

""" + "\n".join(lines)
        files.write_text(options.output, text + "\n")


if __name__ == "__main__":
    main()
