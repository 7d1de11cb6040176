"""Peak memory against the number of questions: the command line in a process of its own, as a user runs it.

A 4-layer, 256-wide encoder with random weights is made on the spot, and files of made-up questions on made-up
paragraphs, every one different: nothing is there twice that a cache could keep. `predict` (read and select), `answer`
and `evaluate` then go through files of growing length. Their peaks are to be the same.

    python benchmarks/memory.py [--questions 1000 20000] [--commands read select answer evaluate] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhaiju import files, ui

SIZES = (1_000, 20_000)
PARAGRAPHS = 4_000  # of the course layout's context file, which stays in memory: as many for every size
CANDIDATES = 2
SENTENCES = (4, 16)  # of a paragraph, about 20 characters each
WHO = ["林師傅", "王小姐", "老張", "陳館長", "阿滿姨", "周醫師", "何船長", "蘇老師", "許站長", "郭同學"]
WHEN = ["清晨", "午後", "上個月", "去年冬天", "每逢初一", "颱風過後", "節慶前夕", "退休那年"]
WHERE = ["碼頭邊", "山腰的茶園", "舊車站", "圖書館二樓", "市集東側", "小學操場", "燈塔下", "河堤上"]
WHAT = ["修好了一艘木船", "種下三排茶樹", "整理出一櫃舊書", "賣掉最後一罐蜂蜜", "畫完整面牆", "換了新的玻璃"]

# The peak is the process's own high-water mark: what `getrusage` says of a child begins with its parent's.
CHILD = """
import re, resource, sys
from pathlib import Path
peak, sys.argv = Path(sys.argv[1]), ["zhaiju", *sys.argv[2:]]
from zhaiju.cli import main
try:
    main()
finally:
    status = Path("/proc/self/status")
    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = re.search(r"VmHWM:\\s*(\\d+)", status.read_text()) if status.exists() else None
    peak.write_text(str(int(found[1]) if found else kept // (1024 if sys.platform == "darwin" else 1)))
"""


def paragraph(generator: np.random.Generator, number: int) -> tuple[str, str, str, int]:
    """A paragraph that no other number has, a question about it, the answer and where it stands."""
    sentences = []
    for place in range(int(generator.integers(*SENTENCES, endpoint=True))):
        who, when, where, what = (list_[int(generator.integers(len(list_)))] for list_ in (WHO, WHEN, WHERE, WHAT))
        sentences.append(f"{when}，{who}在{where}{what}。" if place else f"{when}，{number}號的{who}在{where}{what}。")
        if not place:
            question, answer = f"{number}號的{who}在哪裡？", where
    text = "".join(sentences)
    return text, question, answer, text.index(answer)


def course_rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Questions over the paragraphs of `contexts`."""
    generator = np.random.default_rng([seed, 1])
    for number in range(count):
        chosen = generator.choice(PARAGRAPHS, CANDIDATES, replace=False).tolist()
        who = WHO[int(generator.integers(len(WHO)))]
        yield {"id": f"q{number}", "question": f"第{number}個問題：{who}做了什麼？", "paragraphs": chosen}


def contexts(seed: int = 0) -> list[str]:
    """The context file."""
    generator = np.random.default_rng([seed, 2])
    return [paragraph(generator, number)[0] for number in range(PARAGRAPHS)]


def flat_rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Labelled questions, each with a paragraph of its own."""
    generator = np.random.default_rng([seed, 3])
    for number in range(count):
        text, question, answer, start = paragraph(generator, number)
        answers = [{"text": answer, "start": start}]
        yield {"id": f"q{number}", "question": question, "context": text, "answers": answers}


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    """A JSON list, one row a line."""
    with path.open("w", encoding="utf-8") as stream:
        for place, row in enumerate(rows):
            stream.write(("[\n" if not place else ",\n") + json.dumps(row, ensure_ascii=False))
        stream.write("\n]\n")
    return path


def make_checkpoint(task: str, directory: Path) -> Path:
    """A checkpoint of the given task: 4 layers, 256 wide, random weights from a seed."""
    import torch

    from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, save

    torch.manual_seed(0)
    texts = [*contexts(), *(row["question"] for row in course_rows(1_000))]
    made = from_scratch(task, texts, encoder=None, shape=Shape(), window=256, overlap=64, script="as-is")
    assert made.network is not None
    directory.mkdir(parents=True)
    save(directory, made.network, made.encoding, Meta(task=task))
    return directory


def arguments(command: str, folder: Path, count: int) -> list[str]:
    """What the command line is given."""
    output = str(folder / f"{command}-{count}.json")
    flat, course, context = (str(folder / name) for name in (f"flat-{count}.json", f"course-{count}.json", "context"))
    return {
        "read": ["predict", str(folder / "read"), flat, "-o", output],
        "select": ["predict", str(folder / "select"), course, "--context", context, "-o", output],
        "answer": ["answer", context, course, "-o", output, "--selector", str(folder / "select"),
                   "--reader", str(folder / "read"), "--k", "1"],
        "evaluate": ["evaluate", str(folder / "read"), flat, "--details", output],
    }[command]  # fmt: skip


COMMANDS = ("read", "select", "answer", "evaluate")
COLUMNS = ("command", "questions", "peak MiB", "seconds", "ratio")


def measure(folder: Path, given: Sequence[str]) -> tuple[float, float]:
    """Peak memory in MiB and seconds of one command."""
    peak = folder / "peak"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(peak), *given], capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(given)}: {done.stderr}")
    return int(peak.read_text()) / 1024, time.perf_counter() - began


def rows(
    sizes: Sequence[int] = SIZES,
    commands: Sequence[str] = COMMANDS,
    *,
    folder: Path,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """Peak memory of each command on each number of questions.

    Args:
        sizes: Numbers of questions, the smallest first.
        commands: Of `COMMANDS`.
        folder: Where files and checkpoints are made; those that are there are used again.
        note: Called with a line after each run.

    Yields:
        `command`, `questions`, `peak_mib`, `seconds`, `ratio` (to the first size) each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "context").write_text(json.dumps(contexts(), ensure_ascii=False), "utf-8")
    for task in ("read", "select"):
        if not (folder / task).exists():
            make_checkpoint(task, folder / task)
    for count in sizes:
        write_rows(folder / f"flat-{count}.json", flat_rows(count))
        write_rows(folder / f"course-{count}.json", course_rows(count))
    for command in commands:
        first: float | None = None
        for count in sizes:
            peak, seconds = measure(folder, arguments(command, folder, count))
            first = peak if first is None else first
            note(f"{command}, {count} questions: {peak:.0f} MiB, {seconds:.0f} s, ratio {peak / first:.3f}")
            yield {"command": command, "questions": count, "peak_mib": peak, "seconds": seconds, "ratio": peak / first}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--keep", type=Path, help="Make the files here and leave them.")
    parser.add_argument("--output", type=Path, help="A Markdown page to write.")
    options = parser.parse_args()
    cells: list[list[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for row in rows(options.questions, options.commands, folder=folder, note=ui.note):
            cells.append(
                [row["command"], f"{row['questions']:,}", f"{row['peak_mib']:.0f}", f"{row['seconds']:.0f}",
                 f"{row['ratio']:.3f}"]
            )  # fmt: skip
            if options.output is not None:
                files.write_text(options.output, page(cells))
    ui.note(f"{platform.machine()}, {os.cpu_count()} CPU cores, {platform.platform()}")
    ui.table("", list(COLUMNS), cells)


def page(cells: Sequence[Sequence[str]]) -> str:
    """The Markdown page of so many rows of the table."""
    lines = ["| " + " | ".join(row) + " |" for row in [COLUMNS, ["---"] * len(COLUMNS), *cells]]
    about = (__doc__ or "").partition("\n\n")[2].partition("\n\n    python")[0]
    return f"""# Benchmark: peak memory against the number of questions

`python benchmarks/memory.py` on {time.strftime("%Y-%m-%d")}: {platform.machine()}, {os.cpu_count()} CPU cores, Python
{platform.python_version()}.

{about}

""" + "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
