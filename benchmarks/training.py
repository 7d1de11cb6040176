"""Training a reader: zhaiju's loop against transformers' `Trainer` with the settings of its question answering example.

Both start from the same random weights and see the same windows (384 tokens, 128 shared) of the same questions, 12 to a
step, dropout 0.1, AdamW at 3e-4 (random weights learn next to nothing at the example's 3e-5) falling to 0. The Trainer
pads each to 384 as run_qa.py does; its features are made beforehand and not timed, ours are. Each way is a process of
its own, the ways take turns, and medians are reported, of time and of CPU time, which other programs disturb less. The
losses that both print are not the same sum (ours leaves out places that cannot hold an answer), so afterwards every
model is judged by one: cross-entropy over the places of 48 other windows that may hold an answer. Writes
docs/benchmark-training.md where --output names it.

    python benchmarks/training.py [--rounds 3] [--peer-python PYTHON] [--data ../shared/data/course] [--only small]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHAPES = {
    "small": ("4 layers, 256 wide", {}, 288),
    "base": ("12 layers, 768 wide", {"layers": 12, "hidden": 768, "heads": 12, "intermediate": 3072}, 36),
}
WAYS = [("Trainer", "fp32"), ("Trainer", "bf16"), ("zhaiju", "fp32"), ("zhaiju", "bf16")]
LENGTH, OVERLAP, BATCH, LR = 384, 128, 12, 3e-4
HELD_OUT = 48  # windows


def held_loss(folder: Path, model: Any) -> float:
    """A model's loss on the windows that nobody trains on: cross-entropy of start and end.

    Over the places that may hold an answer, the context's tokens and [CLS], as both sides search them: the Trainer's
    loss is over all places of a row, so that its models learn to leave the question alone, ours never counts it.
    """
    import numpy as np
    import torch

    held = {name: torch.from_numpy(values) for name, values in np.load(folder / "held.npz").items()}
    places = [held.pop(name) for name in ("start_positions", "end_positions")]
    with torch.inference_mode():
        output = model.eval()(**held)
    last = held["attention_mask"].sum(1, keepdim=True) - 1  # [SEP], which is of the context's type
    at = torch.arange(held["input_ids"].shape[1])
    outside = (held["token_type_ids"] == 0) & (at > 0) | (at >= last)
    losses = [
        torch.nn.functional.cross_entropy(logits.float().masked_fill(outside, -1e9), place)
        for logits, place in zip((output.start_logits, output.end_logits), places, strict=True)
    ]
    return float(sum(losses) / 2)


def peer(folder: Path, precision: str, threads: int) -> dict[str, Any]:
    """Train by the Trainer on features that lie in a folder; needs torch and transformers alone."""
    import numpy as np
    import torch
    from transformers import AutoModelForQuestionAnswering, Trainer, TrainingArguments, default_data_collator

    torch.set_num_threads(threads)
    columns = dict(np.load(folder / "features.npz"))
    rows = [{name: values[row] for name, values in columns.items()} for row in range(len(columns["input_ids"]))]
    model = AutoModelForQuestionAnswering.from_pretrained(folder / "model")
    arguments = TrainingArguments(
        str(folder / "trainer"), per_device_train_batch_size=BATCH, learning_rate=LR, num_train_epochs=1, seed=0,
        bf16=precision == "bf16", use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=default_data_collator)
    began, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    real = int(columns["attention_mask"].sum())
    return {"seconds": seconds, "cpu": cpu, "losses": losses, "padding": 1 - real / columns["attention_mask"].size,
            "held": held_loss(folder, model)}  # fmt: skip


def _settings(shape: str, precision: str) -> Any:
    from zhaiju.config import TrainSettings

    return TrainSettings(
        scratch=True, window=LENGTH, overlap=OVERLAP, lr=LR, warmup=0.0, weight_decay=0.0, epochs=1,
        batch_tokens=BATCH * LENGTH, batch_size=BATCH, precision=precision, **SHAPES[shape][1],
    )  # fmt: skip


def prepare(folder: Path, data: Path, shape: str) -> None:
    """Weights, features for the Trainer, and which questions they are from, into a folder."""
    import numpy as np
    import torch

    from zhaiju.data.chunks import pad
    from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, save
    from zhaiju.tasks import make_task
    from zhaiju.training.run import load_train_data

    settings = _settings(shape, "fp32")
    train = load_train_data("read", [data / "train.json"], context=data / "context.json").train
    torch.manual_seed(0)
    checkpoint = from_scratch(
        "read", dict.fromkeys(text for example in train for text in example.texts), encoder=None,
        shape=Shape(**{name: getattr(settings, name) for name in Shape.__dataclass_fields__}),
        window=LENGTH, overlap=OVERLAP, script="as-is",
    )  # fmt: skip
    task, items, questions = make_task("read"), [], 0
    while len(items) < SHAPES[shape][2]:
        items += task.items(train[questions], checkpoint.encoding, np.random.default_rng(0))
        questions += 1
    held = [
        item for one in train[-HELD_OUT:] for item in task.items(one, checkpoint.encoding, np.random.default_rng(0))
    ]
    for name, part in (("features", items), ("held", held[:HELD_OUT])):
        chunk = pad([item.windows[0] for item in part], checkpoint.encoding.pad_id)
        wide = [(0, 0), (0, LENGTH - chunk.input_ids.shape[1])]
        columns = {key: np.pad(getattr(chunk, key), wide) for key in ("input_ids", "token_type_ids", "attention_mask")}
        labels = np.array([item.label for item in part])
        np.savez(folder / f"{name}.npz", **columns, start_positions=labels[:, 0], end_positions=labels[:, 1])
    save(folder / "model", checkpoint.network, checkpoint.encoding, Meta(task="read"))
    (folder / "about.json").write_text(json.dumps({"questions": questions, "features": len(items)}), "utf-8")


def ours(folder: Path, data: Path, shape: str, precision: str, threads: int) -> dict[str, Any]:
    """Train by zhaiju's loop on the questions that the features are from."""
    import torch

    from zhaiju.modeling.attention import quick_attention
    from zhaiju.modeling.checkpoint import load
    from zhaiju.modeling.dropout import quick_dropout
    from zhaiju.tasks import make_task
    from zhaiju.threads import settle
    from zhaiju.training.loop import Loop, Stepped
    from zhaiju.training.run import load_train_data

    settle(threads)
    questions = json.loads((folder / "about.json").read_text("utf-8"))["questions"]
    train = load_train_data("read", [data / "train.json"], context=data / "context.json").train[:questions]
    torch.manual_seed(0)
    checkpoint = load(folder / "model", "read", window=LENGTH, overlap=OVERLAP)
    quick_attention(checkpoint.network.model)
    quick_dropout(checkpoint.network)
    loop = Loop(
        checkpoint.network, make_task("read"), train, checkpoint.encoding, _settings(shape, precision),
        evaluate=lambda: {"em": 0.0}, pad_id=checkpoint.encoding.pad_id,
    )  # fmt: skip
    began, cpu = time.perf_counter(), time.process_time()
    steps = [event for event in loop.events() if isinstance(event, Stepped)]
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    padding = 1 - sum(step.tokens for step in steps) / sum(step.padded for step in steps)
    held = held_loss(folder, checkpoint.network.model)
    losses = [step.loss for step in steps]
    return {"seconds": seconds, "cpu": cpu, "losses": losses, "padding": padding, "held": held}


def rows(
    data: Path, *, shapes: tuple[str, ...] = tuple(SHAPES), rounds: int = 3, peer_python: str = sys.executable
) -> list[dict[str, Any]]:
    """Measure.

    Args:
        data: Folder with the course's train.json and context.json.
        shapes: Keys of SHAPES.
        rounds: How often each way has its turn.
        peer_python: Interpreter whose transformers is compared with.

    Returns:
        One row a shape and way: examples (windows) a second and a second of CPU time, the ratios of both to the
        Trainer in fp32, the padding's share, and the loss on other windows afterwards.
    """
    from zhaiju.threads import usable_cores

    found = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder, data, shape)
            about = json.loads((folder / "about.json").read_text("utf-8"))
            runs: dict[tuple[str, str], list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way, precision in WAYS:
                    python = peer_python if way == "Trainer" else sys.executable
                    command = [python, __file__, "--worker", way, "--folder", name, "--shape", shape]
                    command += ["--precision", precision, "--data", str(data), "--threads", str(usable_cores())]
                    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                    runs[way, precision].append(json.loads(result.stdout.splitlines()[-1]))
                    last = runs[way, precision][-1]
                    told = f"{last['seconds']:.1f} s, {last['cpu']:.1f} s of CPU, losses {last['losses']}"
                    print(shape, way, precision, told, file=sys.stderr, flush=True)
            speeds = {
                key: [statistics.median(about["features"] / run[unit] for run in each) for unit in ("seconds", "cpu")]
                for key, each in runs.items()
            }
            base = speeds["Trainer", "fp32"]
            for (way, precision), (speed, cpu_speed) in speeds.items():
                last = runs[way, precision][-1]
                found.append(
                    {
                        "encoder": SHAPES[shape][0], "way": way, "precision": precision, "examples": about["features"],
                        "questions": about["questions"], "examples/s": speed, "ratio": speed / base[0],
                        "examples/CPU s": cpu_speed, "CPU ratio": cpu_speed / base[1], "padding": last["padding"],
                        "loss afterwards": last["held"],
                    }
                )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "course")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=SHAPES)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--output", type=Path)
    for hidden in ("--worker", "--folder", "--shape", "--precision", "--threads"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        own = Path(chosen.folder), chosen.precision, int(chosen.threads)
        print(
            json.dumps(peer(*own) if chosen.worker == "Trainer" else ours(own[0], chosen.data, chosen.shape, *own[1:]))
        )
        return
    if not (chosen.data / "train.json").is_file():
        sys.exit(f"no train.json in {chosen.data}; name a folder with --data")
    from zhaiju import ui

    table = rows(
        chosen.data, shapes=(chosen.only,) if chosen.only else tuple(SHAPES), rounds=chosen.rounds,
        peer_python=chosen.peer_python,
    )  # fmt: skip
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    cells = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in table]
    ui.table("training read", list(table[0]), cells)
    if chosen.output is None:
        return
    from importlib.metadata import version

    from zhaiju import files

    lines = ["| " + " | ".join(row) + " |" for row in [list(table[0]), ["---"] * len(table[0]), *cells]]
    about = (__doc__ or "").partition("\n\n")[2].partition("\n\n    python")[0].partition(" Writes docs")[0]
    text = f"""# Benchmark: training a reader

`python benchmarks/training.py --rounds {chosen.rounds}` on {time.strftime("%Y-%m-%d")}: {platform.machine()},
{os.cpu_count()} CPU cores, Python {platform.python_version()}, torch {version("torch")}, transformers
{version("transformers")}.

{about}

""" + "\n".join(lines)
    files.write_text(chosen.output, text + "\n")


if __name__ == "__main__":
    main()
