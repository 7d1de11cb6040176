"""Retrieval over all paragraphs of the course's context file: in memory (BM25) and from disk (LanceDB).

python benchmarks/retrieval.py --data ../shared/data
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from zhaiju import ui
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.index import Index, sync
from zhaiju.corpus.lexical import BM25

DEPTHS = (1, 4, 10)


def measure(search: Callable[[str], list[int]], questions: Sequence[dict]) -> dict[str, float]:  # type: ignore[type-arg]
    """Recall of the relevant paragraph at each depth, and seconds of a search."""
    ranks, seconds = [], []
    for row in questions:
        began = time.perf_counter()
        found = search(row["question"])
        seconds.append(time.perf_counter() - began)
        ranks.append(found.index(row["relevant"]) if row["relevant"] in found else max(DEPTHS))
    recall = {f"recall@{depth}": sum(rank < depth for rank in ranks) / len(ranks) for depth in DEPTHS}
    return {**recall, "search, median ms": 1000 * median(seconds), "search, slowest ms": 1000 * max(seconds)}


def in_memory(texts: Sequence[str], questions: Sequence[dict]) -> dict[str, float]:  # type: ignore[type-arg]
    began = time.perf_counter()
    index = BM25(texts)
    built = time.perf_counter() - began
    figures = measure(lambda question: [place for place, _ in index.top(question, max(DEPTHS))], questions)
    return {**figures, "build, s": built}


def on_disk(texts: Sequence[str], questions: Sequence[dict], folder: str) -> dict[str, float]:  # type: ignore[type-arg]
    import lancedb  # noqa: F401  # its import is measured below

    began = time.perf_counter()
    index = Index.open(folder, create=True)
    names = [(str(place), "1") for place in range(len(texts))]
    sync(index, names, lambda name: [Paragraph(texts[int(name)], name)])
    built = time.perf_counter() - began

    def search(question: str) -> list[int]:
        return [int(found.paragraph.document) for found in index.search(question, max(DEPTHS))]

    figures = measure(search, questions)
    code = (
        "import sys, time; began = time.perf_counter(); from zhaiju.corpus.index import Index;"
        "Index.open(sys.argv[1]); print(time.perf_counter() - began)"
    )
    opened = min(float(subprocess.check_output([sys.executable, "-c", code, folder])) for _ in range(3))
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 2**20
    return {**figures, "build, s": built, "open with import, s": opened, "size, MiB": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--questions", default="public", help="train, for choosing anything; public")
    arguments = parser.parse_args()
    texts = json.loads((arguments.data / "course" / "context.json").read_text("utf-8"))
    questions = json.loads((arguments.data / "course" / f"{arguments.questions}.json").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        columns = [in_memory(texts, questions), on_disk(texts, questions, folder)]
    names = list(columns[1])
    rows = [[name, *(f"{column[name]:.4f}" if name in column else "" for column in columns)] for name in names]
    ui.table(f"{len(questions)} questions, {len(texts)} paragraphs", ["", "BM25 in memory", "index on disk"], rows)


if __name__ == "__main__":
    main()
