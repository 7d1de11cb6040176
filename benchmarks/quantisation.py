"""Ways to round a network to 8 bits, and to bf16, against each other: what each costs in figures, and what it wins.

Exports a checkpoint once, quantises its graph in every way, and runs each in onnxruntime and in OpenVINO on labelled
examples. Ranges of activations come from the first 100 examples, which are not judged. Writes
docs/benchmark-quantisation.md.

    python benchmarks/quantisation.py [WHAT DATA [--context FILE]] [--examples 676] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import onnxruntime
import openvino

from zhaiju import files, ui
from zhaiju.inference.engine import make_engine
from zhaiju.inference.export import CALIBRATED_ON, Quantisation, export, quantise
from zhaiju.modeling.checkpoint import GRAPHS, load, load_exported
from zhaiju.tasks import TASKS
from zhaiju.tasks.readers import read_all

ROOT = Path(__file__).parents[1]
COURSE = ROOT.parent / "shared" / "data" / "course"
WAYS = {
    "static, per channel": Quantisation(),
    "static, per tensor": Quantisation(per_channel=False),
    "static, per channel, embeddings in fp32": Quantisation(embeddings=False),
    "static, per channel, output layer too": Quantisation(output_layer=True),
    "dynamic, per channel": Quantisation(static=False),
    "dynamic, per tensor": Quantisation(static=False, per_channel=False),
    "dynamic, per channel, embeddings in fp32": Quantisation(static=False, embeddings=False),
    "dynamic, per channel, output layer too": Quantisation(static=False, output_layer=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="starter")
    parser.add_argument("data", nargs="?", type=Path, default=COURSE / "public.json")
    parser.add_argument("--context", type=Path)
    parser.add_argument("--task", default="read")
    parser.add_argument("--examples", type=int, default=1 << 20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmark-quantisation.md")
    options = parser.parse_args()
    if not options.data.is_file():
        sys.exit(f"no data at {options.data}; name a checkpoint and labelled data")
    examples = read_all(options.task, options.data, context=options.context)[: options.examples]
    checkpoint = load(options.what, options.task, exported=False)
    task = checkpoint.task(options.task)
    calibrating, judged = examples[:CALIBRATED_ON], examples[CALIBRATED_ON:]
    windows = [window for example in calibrating for window in task.encode(example, checkpoint.encoding)]
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        export(checkpoint, options.task, plain)
        engines = {("fp32", name): make_engine(load_exported(plain), backend=name) for name in ("onnx", "openvino")}
        engines["fp32", "torch"] = make_engine(checkpoint)
        engines["bf16", "openvino"] = make_engine(load_exported(plain), backend="openvino", precision="bf16")
        engines["bf16", "torch"] = make_engine(checkpoint, precision="bf16")
        sizes = {"fp32": (plain / GRAPHS["fp32"]).stat().st_size}
        for way, how in WAYS.items():
            where = Path(folder) / way.replace(" ", "-").replace(",", "")
            export(checkpoint, options.task, where)
            quantise(where / GRAPHS["fp32"], where / GRAPHS["int8"], windows, checkpoint.encoding.pad_id, how)
            sizes[way] = (where / GRAPHS["int8"]).stat().st_size
            for name in ("onnx", "openvino"):
                ui.note(f"{way} in {name}")
                engines[way, name] = make_engine(load_exported(where), backend=name, precision="int8")
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in engines}
        figures = {}
        for turn in range(options.rounds + 1):
            for key, engine in engines.items():
                began = time.perf_counter()
                predictions = list(engine.predict(task, judged if not turn else judged[:128]))
                if turn:
                    seconds[key].append(time.perf_counter() - began)
                else:
                    report = task.score(judged, predictions)
                    figures[key] = [report[name] for name in TASKS[options.task].figures]
                    ui.note(f"{key}: {figures[key]}")
    base = figures["fp32", "torch"]
    slowest = statistics.median(seconds["fp32", "torch"])
    rows = [
        [
            way,
            name,
            *(f"{value:.4f} ({100 * (value - before):+.2f})" for value, before in zip(found, base, strict=True)),
            f"{slowest / statistics.median(seconds[way, name]):.2f}",
            f"{sizes[way] / 1e6:.1f}" if way in sizes else "",
        ]
        for (way, name), found in figures.items()
    ]
    columns = ["way", "runs in", *TASKS[options.task].figures, "x torch fp32", "MB"]
    ui.table("", columns, rows)
    table = "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])
    page = f"""# Benchmark: rounding to 8 bits and to bf16

`python benchmarks/quantisation.py {options.what} …/{options.data.name}` on {time.strftime("%Y-%m-%d")}:
{platform.machine()},
{os.cpu_count()} CPU cores, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, OpenVINO
{openvino.__version__.split("-")[0]}.

{len(judged)} examples are judged (in brackets points against PyTorch in fp32); the ranges of static activations come
from {len(calibrating)} others. Times are medians of {options.rounds} interleaved rounds over 128 of them.

{table}
"""
    files.write_text(options.output, page)


if __name__ == "__main__":
    main()
