"""Training on utterances of ten words against the same model padded to 128 tokens, the course report's setting.

Both ways train by configs/intent-minilm.toml on the same utterances in the same batches, from the same weights, with
the same order and number of steps; only the padding differs. Examples a second are measured on the steps after the
first ten of each, and both are then scored on the dev set. Writes docs/benchmark-utterances.md.

    python benchmarks/utterances.py --encoder DIR [--examples 3000] [--epochs 1] [--data ../shared/data/intent]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zhaiju import files, ui
from zhaiju.config import TrainSettings, load_settings
from zhaiju.inference.engine import make_engine
from zhaiju.modeling import network
from zhaiju.modeling.checkpoint import load
from zhaiju.modeling.initialise import discriminant_head, freeze_embeddings, mean_pooling
from zhaiju.tasks import IntentTask, make_task
from zhaiju.training import loop as looping
from zhaiju.training.evaluate import evaluate
from zhaiju.training.loop import Loop, Started, Stepped
from zhaiju.training.run import load_train_data

ROOT = Path(__file__).parents[1]
LENGTH = 128
WARM_STEPS = 10


def padded(items: Any, head: Any, pad_id: int) -> network.Batch:
    """A batch whose every window is 128 tokens long, the rest of it masked."""
    batch = network.collate(items, head, pad_id)
    windows = [window for item in items for window in item.windows]
    chunk = network.pad(windows, pad_id, range(len(windows)))
    wider = [(0, 0), (0, LENGTH - chunk.input_ids.shape[1])]
    chunk.input_ids = np.pad(chunk.input_ids, wider, constant_values=pad_id)
    chunk.token_type_ids = np.pad(chunk.token_type_ids, wider)
    chunk.attention_mask = np.pad(chunk.attention_mask, wider)
    chunk.answerable = np.pad(chunk.answerable, wider)
    return network.Batch([chunk], batch.labels, batch.places, batch.shape)


def run(collate: Callable[..., Any], settings: TrainSettings, data: Any, name: str) -> dict[str, float]:
    """Train one way; examples a second, share of padding, dev accuracy."""
    looping.collate = collate  # type: ignore[attr-defined]  # what differs between the ways
    torch.manual_seed(settings.seed)
    labels = IntentTask.classes(data.train)
    checkpoint = load(str(settings.encoder), "intent", window=LENGTH, labels=labels, head_required=False)
    task = make_task("intent", labels=labels)
    generator = np.random.default_rng(settings.seed)
    items = [item for example in data.train for item in task.items(example, checkpoint.encoding, generator)]
    mean_pooling(checkpoint.network)
    discriminant_head(
        checkpoint.network, items, checkpoint.encoding.pad_id, smoothing=settings.label_smoothing,
        precision=settings.precision,
    )  # fmt: skip
    freeze_embeddings(checkpoint.network)
    loop = Loop(
        checkpoint.network,
        task,
        data.train,
        checkpoint.encoding,
        settings,
        evaluate=lambda: {"accuracy": 0.0},
        pad_id=checkpoint.encoding.pad_id,
    )
    steps: list[Stepped] = []
    with ui.progress(name, None) as advance:
        for event in loop.events():
            if isinstance(event, Started):
                advance(0, total=event.steps)
            elif isinstance(event, Stepped):
                steps.append(event)
                advance(1, note=f"loss {event.loss:.2f}")
    timed = steps[WARM_STEPS:]
    figures, _ = evaluate(make_engine(checkpoint), task, data.dev)
    return {
        "per_second": sum(step.items for step in timed) / sum(step.seconds for step in timed),
        "padding": 1 - sum(step.tokens for step in timed) / sum(step.padded for step in timed),
        "accuracy": figures["accuracy"],
        "steps": len(steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "intent")
    parser.add_argument("--examples", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", default="bf16")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"no data at {options.data}; name a folder with train.json and eval.json with --data")
    data = load_train_data("intent", [options.data / "train.json"], [options.data / "eval.json"])
    del data.train[options.examples :]
    config = ROOT / "configs" / "intent-minilm.toml"
    own = {"encoder": options.encoder, "epochs": options.epochs, "precision": options.precision}
    settings = load_settings(config, own | {"batch_tokens": 64 * LENGTH})
    ours = run(network.collate, settings, data, "by length")
    theirs = run(padded, settings, data, "padded to 128")
    ratio = ours["per_second"] / theirs["per_second"]
    words = float(np.mean([len(example.text.split()) for example in data.train]))
    rows = "\n".join(
        f"| {name} | {row['per_second']:.1f} | {row['padding']:.1%} | {row['accuracy']:.4f} |"
        for name, row in (("padded to 128", theirs), ("by length (zhaiju)", ours))
    )
    text = f"""# Benchmark: training on utterances

`python benchmarks/utterances.py --encoder …/{Path(options.encoder).parent.name}/{Path(options.encoder).name}
--examples {options.examples} --epochs {options.epochs}` on {time.strftime("%Y-%m-%d")}: {platform.machine()},
{os.cpu_count()} CPU cores, Python {platform.python_version()}, torch {torch.__version__}, {options.precision}, seed 0.

{len(data.train)} utterances of {words:.1f} words on average, batches of 64, {ours["steps"]} steps each way; the same
weights, order and learning rates. Accuracy is that on the {len(data.dev)} utterances of the dev file.

| way | examples/s in training | padding | accuracy |
|---|---|---|---|
{rows}

By length is **{ratio:.1f} times** as fast.
"""
    files.write_text(ROOT / "docs" / "benchmark-utterances.md", text)
    print(text)


if __name__ == "__main__":
    main()
