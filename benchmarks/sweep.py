"""Train a task at several settings and table what each gives: how the defaults in configs/ were chosen.

    python benchmarks/sweep.py slots --config configs/slots-minilm.toml --train train.json --vary lr=2e-4,3e-4 \
        --vary epochs=5,7 --seeds 0,1 -o runs/sweep --encoder DIR [--each-alone]

Every combination is trained (with `--each-alone` every value by itself, the rest as in the config). A run that is there
already is not trained again, and one that was stopped goes on. Prints a Markdown table: means over the seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from zhaiju import ui
from zhaiju.config import load_settings
from zhaiju.tasks import TASKS
from zhaiju.training.loop import Event, Started, Stepped
from zhaiju.training.run import load_train_data, read_metrics, train


def values_of(text: str) -> tuple[str, list[Any]]:
    """`lr=1e-4,2e-4` as (name, values), each value read as TOML or else as text."""
    name, _, listed = text.partition("=")
    values = []
    for value in listed.split(","):
        try:
            values.append(tomllib.loads(f"value = {value}")["value"])
        except tomllib.TOMLDecodeError:
            values.append(value)
    return name, values


def combinations(varied: list[tuple[str, list[Any]]], *, each_alone: bool) -> list[dict[str, Any]]:
    """The settings to try."""
    if each_alone:
        return [{}, *({name: value} for name, values in varied for value in values)]
    return [
        dict(zip([name for name, _ in varied], chosen, strict=True))
        for chosen in itertools.product(*(values for _, values in varied))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--dev", type=Path)
    parser.add_argument("--context", type=Path)
    parser.add_argument("--encoder")
    parser.add_argument("--vary", type=values_of, action="append", default=[])
    parser.add_argument("--each-alone", action="store_true")
    parser.add_argument("--steps", type=int, default=0, help="stop each run after so many steps; 0: as in the config")
    parser.add_argument("--dev-limit", type=int, default=None, help="judge on the first so many dev examples")
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    names = TASKS[options.task].figures
    print(f"| settings | {' | '.join(names)} | training, s | tokens/s |\n|{'---|' * (len(names) + 3)}", flush=True)
    for chosen in combinations(options.vary, each_alone=options.each_alone):
        label = ", ".join(f"{name} {value}" for name, value in chosen.items()) or "as in the config"
        rows = []
        for seed in options.seeds:
            fixed = {"seed": seed} | ({"encoder": options.encoder} if options.encoder else {})
            fixed |= {"max_steps": options.steps} if options.steps else {}
            settings = load_settings(options.config, fixed | chosen)
            data = load_train_data(
                options.task, [options.train], [options.dev] if options.dev else [], context=options.context,
                seed=settings.split_seed, bio=settings.bio,
            )  # fmt: skip
            if options.dev_limit is not None:
                del data.dev[options.dev_limit :]
            run = options.output / f"{options.task}-{label.replace(', ', '-').replace(' ', '_')}-seed{seed}"
            with ui.progress(f"{label}, seed {seed}", None) as advance:

                def on_event(event: Event, advance: Any = advance) -> None:
                    if isinstance(event, Started):
                        advance(event.step, total=event.steps)
                    elif isinstance(event, Stepped):
                        advance(1, note=f"loss {event.loss:.3f}")

                result = train(options.task, settings, data, run, on_event=on_event)
            if not result.finished:
                raise SystemExit(130)
            steps = [entry for entry in read_metrics(run) if entry["event"] == "step"]
            seconds = sum(entry["seconds"] for entry in steps)
            rows.append([*(result.metrics[name] for name in names), seconds, sum(e["tokens"] for e in steps) / seconds])
        means = np.mean(rows, axis=0)
        figures = " | ".join(f"{value:.4f}" for value in means[:-2])
        print(f"| {label} | {figures} | {means[-2]:.0f} | {means[-1]:,.0f} |", flush=True)
        ui.note(json.dumps({"settings": chosen, "rows": np.round(rows, 4).tolist()}))


if __name__ == "__main__":
    main()
