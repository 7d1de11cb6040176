"""Cold and warm times of the starter's `ask` over 1,000 paragraphs.

python benchmarks/starter.py [--data ../shared/data] [-o docs/benchmark-starter.md]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLD_RUNS = 5
WARM_QUESTIONS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    course = options.data / "course"
    contexts = json.loads((course / "context.json").read_text("utf-8"))
    questions = [row["question"] for row in json.loads((course / "public.json").read_text("utf-8"))][:WARM_QUESTIONS]
    lines = [
        "# The starter",
        "",
        f"`python benchmarks/starter.py`, {time.strftime('%Y-%m-%d', time.gmtime())}, {platform.machine()}, Python "
        f"{platform.python_version()}. Data: DRCD's development set in the course layout, CC BY-SA 3.0.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        documents, index = Path(folder) / "documents", Path(folder) / "index"
        documents.mkdir()
        for place, text in enumerate(contexts):
            (documents / f"{place:04}.txt").write_text(text + "\n", "utf-8")
        zhaiju = [sys.executable, "-m", "zhaiju.cli"]
        cold = timed([*zhaiju, "ask", questions[0], str(documents)])
        began = time.perf_counter()
        subprocess.run([*zhaiju, "index", str(documents), "-o", str(index)], check=True, capture_output=True)
        indexing = time.perf_counter() - began
        cold_index = timed([*zhaiju, "ask", questions[0], "--index", str(index)])
        warm = warm_times(questions, index)
    lines += [
        "| | seconds |",
        "|---|---|",
        f"| `ask` on a folder of {len(contexts):,} files, from the shell, median of {COLD_RUNS} | {cold:.2f} |",
        f"| `index` of the same folder | {indexing:.2f} |",
        f"| `ask --index`, from the shell | {cold_index:.2f} |",
        f"| a question to the opened index, median of {len(warm)} | {statistics.median(warm):.4f} |",
        f"| … 95th percentile | {sorted(warm)[int(0.95 * len(warm))]:.4f} |",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, "utf-8")


def timed(command: list[str]) -> float:
    """Median seconds of a command."""
    times = []
    for _ in range(COLD_RUNS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def warm_times(questions: list[str], index: Path) -> list[float]:
    """Seconds of each question to an opened index, the first ten left out."""
    from zhaiju.corpus.ask import load_asker
    from zhaiju.corpus.index import Index

    source, asker = Index.open(str(index)), load_asker()
    times = []
    for question in questions:
        began = time.perf_counter()
        asker.ask(question, source)
        times.append(time.perf_counter() - began)
    return times[10:]


if __name__ == "__main__":
    main()
