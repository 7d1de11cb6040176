"""What 100 million paragraphs and 1,000 questions a second would take, from what is measured here.

Measures the index at growing numbers of made-up paragraphs, and what selecting and reading cost a question; computes a
cluster from that; and lets a discrete-event simulation of its queues say whether the arithmetic holds.

    python benchmarks/scale.py [--paragraphs 1000 10000 100000] [--output docs/scale.md]
    python benchmarks/scale.py --simulate    # only that, from the figures in docs/scale.json
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju import files, ui

ROOT = Path(__file__).parents[1]
SIZES = (1_000, 10_000, 100_000)
CHARACTERS, WORDS, MEAN_LENGTH = 4_000, 40_000, 250
QUESTIONS = 200
CANDIDATES = 5  # paragraphs that a shard gives, and that are selected from, as in `ask`
LOADED = 1.0  # processes waiting for a core, for each core, from which on figures are marked

TARGET_PARAGRAPHS = 100_000_000
TARGET_RATE = 1_000.0
BUSY = 0.6  # share of the time that a core is to be busy
SEARCH_BUDGET = 0.1  # seconds, mean, that a search of a shard may take
REACH = 10  # times the largest shard measured, to which figures are drawn on
SIMULATED = 20_000  # questions
HOP = 0.001  # seconds for a message to another machine and what it takes to send it
COPIES = 2  # of what is stored

Floats = npt.NDArray[np.float64]


# --- made-up text


@dataclass(frozen=True)
class Language:
    """Words of one or two characters, the r-th of them in proportion to 1 / (r + 2.7)."""

    words: tuple[str, ...]
    cumulative: Floats

    @classmethod
    def make(cls, seed: int = 0) -> Language:
        """The same one for the same seed."""
        generator = np.random.default_rng([seed, 1])
        frequency = 1 / (np.arange(CHARACTERS) + 10.0)
        signs = generator.choice(CHARACTERS, (WORDS, 2), p=frequency / frequency.sum())
        length = 1 + (generator.random(WORDS) < 0.7)
        words = tuple("".join(chr(0x4E00 + sign) for sign in row[:n]) for row, n in zip(signs, length, strict=True))
        share = 1 / (np.arange(WORDS) + 2.7)
        return cls(words, np.cumsum(share / share.sum()))

    def draw(self, generator: np.random.Generator, count: int) -> list[str]:
        """Some words at random."""
        return [self.words[place] for place in np.searchsorted(self.cumulative, generator.random(count))]

    def paragraph(self, number: int, seed: int = 0) -> list[str]:
        """The words of a paragraph; a mark ends each clause."""
        generator = np.random.default_rng([seed, 2, number])
        count = int(generator.gamma(4, MEAN_LENGTH / 1.8 / 4)) + 8
        words = self.draw(generator, count)
        return [word + ("，" if place % 7 == 6 else "") for place, word in enumerate(words[:-1])] + [words[-1] + "。"]

    def question(self, number: int, paragraphs: int, seed: int = 0) -> str:
        """Four words that stand together in one of so many paragraphs, three that stand anywhere."""
        generator = np.random.default_rng([seed, 3, number])
        words = self.paragraph(int(generator.integers(paragraphs)), seed)
        start = int(generator.integers(max(1, len(words) - 4)))
        return "".join(words[start : start + 4]).strip("，。") + "".join(self.draw(generator, 3)) + "？"


# --- measuring


def build(folder: Path, size: int) -> dict[str, float]:
    """Make an index of that many paragraphs."""
    from zhaiju.corpus.documents import Paragraph
    from zhaiju.corpus.index import Index, sync

    language, documents, characters = Language.make(), 1_000, 0
    each = math.ceil(size / documents)

    def read(name: str) -> list[Paragraph]:
        nonlocal characters
        numbers = range(int(name) * each, min(size, (int(name) + 1) * each))
        texts = ["".join(language.paragraph(number)) for number in numbers]
        characters += sum(map(len, texts))
        return [Paragraph(text, name, line=line) for line, text in enumerate(texts, 1)]

    index = Index.open(str(folder), create=True)
    began, cpu = time.perf_counter(), time.process_time()
    sync(index, ((str(number), "1") for number in range(math.ceil(size / each))), read)
    assert index.count == size
    with warnings.catch_warnings(action="ignore"):  # that others may be reading: nobody is
        index._table.optimize(cleanup_older_than=timedelta(0))  # what an hour without changes would leave
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "paragraphs": size,
        "characters": characters / size,
        "bytes": stored / size,
        "build_cpu": (time.process_time() - cpu) / size,
        "build_wall": (time.perf_counter() - began) / size,
    }


def search(folder: Path, size: int) -> dict[str, Any]:
    """Search an index in this process: what it costs, how long it takes, what it keeps in memory."""
    import psutil

    from zhaiju.corpus.index import Index

    language, process = Language.make(), psutil.Process()
    index = Index.open(str(folder))
    asked = [language.question(number, size) for number in range(QUESTIONS + 20)]
    before = process.memory_info().rss
    for question in asked[:20]:
        index.search(question, CANDIDATES)
    walls, cpus = [], []
    for question in asked[20:]:
        wall, cpu = time.perf_counter(), time.process_time()
        index.search(question, CANDIDATES)
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return {
        "search_cpu": float(np.mean(cpus)),
        "search_cpus": [round(cpu, 6) for cpu in cpus],
        "search_median": float(np.median(walls)),
        "search_p99": float(np.quantile(walls, 0.99)),
        "memory": process.memory_info().rss - before,
    }


def answering(folder: Path) -> list[dict[str, Any]]:
    """CPU seconds a question, selecting from five made-up paragraphs and reading one, with the starter."""
    from zhaiju.data.examples import Context, QAExample
    from zhaiju.inference.answer import Answerer
    from zhaiju.inference.engine import Engine, make_engine
    from zhaiju.inference.export import CALIBRATED_ON, export, quantise
    from zhaiju.modeling.checkpoint import GRAPHS, load, load_exported
    from zhaiju.tasks.readers import read_all

    language = Language.make()
    examples = [
        QAExample(
            str(number),
            language.question(number, 1_000),
            tuple(
                Context("".join(language.paragraph((number * 7 + place) % 1_000)), str(place))
                for place in range(CANDIDATES)
            ),
        )
        for number in range(QUESTIONS)
    ]
    sample = Path(str(resources("zhaiju.starter") / "sample"))
    known = read_all("read", sample / "train.json", context=sample / "context.json")[:CALIBRATED_ON]
    engines: dict[str, dict[str, Engine]] = {"fp32": {}, "int8": {}}
    for task in ("select", "read"):
        checkpoint = load("starter", task, exported=False)
        where = folder / task
        export(checkpoint, task, where)
        windows = [window for example in known for window in checkpoint.task(task).encode(example, checkpoint.encoding)]
        quantise(where / GRAPHS["fp32"], where / GRAPHS["int8"], windows, checkpoint.encoding.pad_id)
        for precision, made in engines.items():
            made[task] = make_engine(load_exported(where), precision=precision, threads=1)
    found = []
    for precision, made in engines.items():
        answerer = Answerer(made["read"], made["select"])
        list(answerer.predict(examples[:20]))
        cpus = []
        for _ in range(3):
            cpu = time.process_time()
            list(answerer.predict(examples))
            cpus.append((time.process_time() - cpu) / len(examples))
        name = type(made["read"].backend).__name__.removesuffix("Backend")
        found.append({"precision": precision, "backend": name, "cpu": float(np.median(cpus))})
    return found


def measure(sizes: Sequence[int]) -> dict[str, Any]:
    """All figures that the plan is computed from."""
    figures: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}",
        "load": [os.getloadavg()[0] / (os.cpu_count() or 1)],
        "shards": [],
    }
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            row: dict[str, Any] = {}
            for what in ("build", "search"):  # each in a process of its own, whose memory is nobody else's
                command = [sys.executable, __file__, "--part", what, str(Path(temporary) / str(size)), str(size)]
                row |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            figures["shards"].append(row)
            figures["load"].append(os.getloadavg()[0] / (os.cpu_count() or 1))
            ui.note(f"{size:,} paragraphs: {row['bytes']:.0f} bytes each, {1000 * row['search_cpu']:.2f} ms a search")
        command = [sys.executable, __file__, "--part", "answering", temporary, "0"]
        figures["answering"] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    figures["load"].append(os.getloadavg()[0] / (os.cpu_count() or 1))
    return figures


# --- the plan


@dataclass(frozen=True)
class Line:
    """CPU seconds of a search of n paragraphs: fixed + each · n, through the two largest sizes measured."""

    fixed: float
    each: float

    def at(self, paragraphs: float) -> float:
        """The seconds for so many paragraphs."""
        return self.fixed + self.each * paragraphs


@dataclass(frozen=True)
class Plan:
    """A cluster.

    Attributes:
        shard: Paragraphs in a shard.
        shards: How many there are.
        search: CPU seconds of a search of one shard.
        searchers: Cores of each shard; each of them answers one search at a time.
        answer: CPU seconds to select and read.
        answerers: Cores that do that.
        rate: Questions a second.
    """

    shard: int
    shards: int
    search: float
    searchers: int
    answer: float
    answerers: int
    rate: float

    @property
    def cores(self) -> int:
        """All cores."""
        return self.shards * self.searchers + self.answerers

    @property
    def searching_busy(self) -> float:
        """Share of the time that a searching core is busy, by arithmetic."""
        return self.rate * self.search / self.searchers

    @property
    def answering_busy(self) -> float:
        """The same of a core that selects and reads."""
        return self.rate * self.answer / self.answerers


def line(shards: Sequence[dict[str, Any]]) -> Line:
    small, large = sorted(shards, key=lambda row: row["paragraphs"])[-2:]
    each = (large["search_cpu"] - small["search_cpu"]) / (large["paragraphs"] - small["paragraphs"])
    each = max(each, 0.0)
    return Line(large["search_cpu"] - each * large["paragraphs"], each)


def make_plan(figures: dict[str, Any], shard: int, precision: str = "int8") -> Plan:
    search = line(figures["shards"]).at(shard)
    answer = next(row["cpu"] for row in figures["answering"] if row["precision"] == precision)
    return Plan(
        shard=shard,
        shards=math.ceil(TARGET_PARAGRAPHS / shard),
        search=search,
        searchers=math.ceil(round(TARGET_RATE * search / BUSY, 6)),
        answer=answer,
        answerers=math.ceil(round(TARGET_RATE * answer / BUSY, 6)),
        rate=TARGET_RATE,
    )


def largest_shard(figures: dict[str, Any]) -> int:
    """The largest of a row of round sizes whose search, by the line, keeps to the budget; the line is not drawn far."""
    sizes = [base * 10**power for power in (3, 4, 5, 6) for base in (1, 2, 5)] + [10_000_000]
    most = REACH * max(row["paragraphs"] for row in figures["shards"])
    fitting = [size for size in sizes if size <= most and line(figures["shards"]).at(size) <= SEARCH_BUDGET]
    return max(fitting, default=sizes[0])


# --- the simulation


@dataclass(frozen=True)
class Simulated:
    """What a simulation saw: shares of the time that cores were busy, and seconds from question to answer."""

    searching_busy: float
    answering_busy: float
    mean: float
    median: float
    p99: float
    search_p99: float


def simulate(plan: Plan, spread: Floats, *, shards: int | None = None, seed: int = 0) -> Simulated:
    """Questions come at random (Poisson), go to a queue at every shard, and when the last has answered to a reader.

    First come, first served at each. What a search takes is drawn from the searches measured, scaled to the plan's
    mean, anew for each shard; what an answer takes varies by a quarter around its mean (gamma).

    Args:
        plan: The cluster.
        spread: What the measured searches took; only their shape counts.
        shards: How many to simulate; None: all. The slowest of fewer is quicker.
        seed: Of chance.
    """
    generator = np.random.default_rng([seed, 4])
    arrivals = np.cumsum(generator.exponential(1 / plan.rate, SIMULATED))
    count = shards or plan.shards
    shape = spread / spread.mean() * plan.search
    free = np.zeros((count, plan.searchers))  # when each core of each shard is free
    rows = np.arange(count)
    found, worked = np.empty(SIMULATED), 0.0
    for number, arrival in enumerate(arrivals):
        took = shape[generator.integers(len(shape), size=count)]
        first = free.argmin(axis=1)
        done = np.maximum(free[rows, first], arrival + HOP) + took
        free[rows, first] = done
        found[number] = done.max() + HOP
        worked += float(took.sum())
    answered, answer_work = np.empty(SIMULATED), 0.0
    readers = [0.0] * plan.answerers
    for number in np.argsort(found, kind="stable"):
        took_one = float(generator.gamma(16, plan.answer / 16))
        done_one = max(heapq.heappop(readers), float(found[number]) + HOP) + took_one
        heapq.heappush(readers, done_one)
        answered[number] = done_one + HOP
        answer_work += took_one
    span = float(arrivals[-1])
    settled = slice(SIMULATED // 10, None)  # once the queues are what they will be
    seconds = (answered - arrivals)[settled]
    return Simulated(
        searching_busy=worked / span / count / plan.searchers,
        answering_busy=answer_work / span / plan.answerers,
        mean=float(seconds.mean()),
        median=float(np.median(seconds)),
        p99=float(np.quantile(seconds, 0.99)),
        search_p99=float(np.quantile((found - arrivals)[settled], 0.99)),
    )


def simulations(figures: dict[str, Any], plan: Plan) -> list[tuple[str, Plan, Simulated]]:
    """The plan, and the plan with less than it asks for.

    Raises:
        SystemExit: cores are not as busy as the arithmetic says.
    """
    largest = max(figures["shards"], key=lambda row: row["paragraphs"])
    spread = np.array(largest["search_cpus"])
    cases = [
        ("as planned", plan),
        ("a tenth of the searching cores gone", replace(plan, searchers=max(1, math.floor(plan.searchers * 0.9)))),
        ("a fifth more questions", replace(plan, rate=plan.rate * 1.2)),
    ]
    found = [(name, case, simulate(case, spread)) for name, case in cases]
    for name, case, seen in found:
        ui.note(f"{name}: " + json.dumps(asdict(seen)))
        for said, was in ((case.searching_busy, seen.searching_busy), (case.answering_busy, seen.answering_busy)):
            if abs(was - said) > 0.03 * said:
                sys.exit(f"{name}: cores were busy {was:.3f} of the time, by arithmetic {said:.3f}")
    return found


# --- the page


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def page(figures: dict[str, Any]) -> Iterator[str]:
    """The page's paragraphs and tables."""
    shards, cost = figures["shards"], line(figures["shards"])
    largest = max(shards, key=lambda row: row["paragraphs"])
    plan = make_plan(figures, largest_shard(figures))
    fp32 = make_plan(figures, plan.shard, "fp32")
    searching = plan.shards * plan.searchers
    stored = largest["bytes"] * TARGET_PARAGRAPHS / 1e9
    hours = plan.cores / (plan.rate * 3600) * 1e6
    memory = max(0, *(row["memory"] for row in shards)) / 1e6
    worst = largest["search_cpu"] / largest["paragraphs"]
    slowest = plan.search * max(largest["search_cpus"]) / largest["search_cpu"]
    traffic = TARGET_RATE * plan.shards * CANDIDATES * 3 * largest["characters"] / 1e9
    busiest = max(figures["load"])
    quiet = (
        "The machine was quiet."
        if busiest <= LOADED
        else f"**The machine was busy with other work** (up to {busiest:.1f} processes waiting for each core): times on "
        "the clock are too long by far, CPU times by somewhat. To be measured again on a quiet one."
    )
    yield f"""# 100 million paragraphs, 1,000 questions a second

A plan on paper. Nothing here was run at that size: every number is measured on one small machine, computed from what
was, or simulated, and the headings say which. `python benchmarks/scale.py --output docs/scale.md` does all three anew and
writes this page.

Measured on {figures["date"]}: {figures["machine"]}. {quiet}

## Measured

The index (a LanceDB table, searched by words) at {len(shards)} sizes, of made-up paragraphs of about
{MEAN_LENGTH} characters whose words are as unevenly common as words are; {QUESTIONS} questions of a dozen characters,
the best {CANDIDATES} paragraphs wanted."""
    yield table(
        ["paragraphs", "characters each", "bytes each", "CPU to build, each", "CPU of a search", "clock: median",
         "clock: p99", "memory while searching"],
        [
            [f"{row['paragraphs']:,}", f"{row['characters']:.0f}", f"{row['bytes']:,.0f}", ms(row["build_cpu"]),
             ms(row["search_cpu"]), ms(row["search_median"]), ms(row["search_p99"]),
             f"{max(row['memory'], 0) / 1e6:.0f} MB"]
            for row in shards
        ],
    )  # fmt: skip
    yield (
        f"A straight line through the two largest: a search takes {ms(cost.fixed)}, and {ms(1e6 * cost.each)} more for "
        "each million paragraphs."
    )
    yield (
        f"Selecting from {CANDIDATES} such paragraphs and reading one, with the starter on one thread, "
        f"{QUESTIONS} questions in batches:"
    )
    yield table(
        ["precision", "computed by", "CPU of a question"],
        [[row["precision"], row["backend"], ms(row["cpu"])] for row in figures["answering"]],
    )
    yield f"""## Computed

Paragraphs are dealt out to shards. A question goes to every shard, each gives its best {CANDIDATES}, the best
{CANDIDATES} of all are selected from, one is read. With N paragraphs in S shards, Q questions a second, a search that
takes a + b·n CPU seconds among n paragraphs, and c to select and read:

- cores that search: Q · (S·a + N·b) / u, where u = {BUSY} is how busy a core may be;
- cores that select and read: Q · c / u;
- so large shards cost less, until one search takes longer than may be waited for: {ms(SEARCH_BUDGET)} here.

The line is drawn on to {REACH} times the largest index measured, no further. Because two points make a line whatever
they are, the last column has what a search would take if it grew in proportion to the paragraphs, which is the worst."""
    yield table(
        ["paragraphs in a shard", "shards", "CPU of a search", "cores of a shard", "cores that search", "",
         "CPU of a search, at worst"],
        [
            [f"{size:,}", f"{one.shards:,}", ms(one.search), f"{one.searchers:,}", f"{one.shards * one.searchers:,}",
             "**the plan**" if size == plan.shard else "", ms(max(one.search, worst * size))]
            for size in sorted({largest["paragraphs"], largest["paragraphs"] * REACH, plan.shard})
            for one in [make_plan(figures, size)]
        ],
    )  # fmt: skip
    yield "The plan, with int8:"
    yield table(
        ["", ""],
        [
            ["shards", f"{plan.shards:,} of {plan.shard:,} paragraphs"],
            ["cores that search", f"{searching:,}: {plan.searchers:,} for each shard, on two machines or more"],
            ["cores that select and read", f"{plan.answerers:,} (fp32: {fp32.answerers:,})"],
            ["stored", f"{stored:,.0f} GB; {COPIES} copies {COPIES * stored:,.0f} GB"],
            ["memory of a shard", f"{largest['bytes'] * plan.shard / 1e9:.2f} GB of index in the page cache, and "
             f"{memory:.0f} MB a process"],
            ["memory in all, two machines a shard", f"{COPIES * (stored + memory * plan.shards / 1000):,.0f} GB"],
            ["building the index", f"{largest['build_cpu'] * TARGET_PARAGRAPHS / 3600:,.0f} CPU-hours, once"],
            ["a million questions", f"{hours:,.0f} CPU-hours"],
        ],
    )  # fmt: skip
    yield f"""Money, an hour: cores · price of a core-hour + GB of memory · price of a GB-hour; a month: GB stored · price of a
GB-month. No prices here: they age faster than this page.

Latency without queues: {ms(HOP)} to the shards, {ms(plan.search)} for a mean search ({ms(slowest)} for the slowest of its
kind that was seen), {ms(HOP)} back, {ms(HOP)} to a reader, {ms(plan.answer)} there, {ms(HOP)} back.

## Simulated

Every core of every shard and every reading core, first come, first served; {SIMULATED:,} questions that come at random.
`python benchmarks/scale.py --simulate` does it again from the figures in `docs/scale.json`, and ends with an error where
cores are not as busy as the arithmetic says, to within 3 %."""
    yield table(
        ["", "searching cores busy: computed", "simulated", "reading cores busy: computed", "simulated", "median",
         "p99", "p99 until the last shard has answered"],
        [
            [name, f"{case.searching_busy:.3f}", f"{seen.searching_busy:.3f}", f"{case.answering_busy:.3f}",
             f"{seen.answering_busy:.3f}", ms(seen.median), ms(seen.p99), ms(seen.search_p99)]
            for name, case, seen in simulations(figures, plan)
        ],
    )  # fmt: skip
    yield f"""## What it says

- Searching is {searching / plan.cores:.0%} of the cores, because every question is looked for among all paragraphs. Whatever keeps
  it out of some shards (a customer, a topic, a language), or answers it from a cache, saves that share.
- The slowest of {plan.shards:,} shards decides how long a question takes, so the tail of one search is the usual case of
  all of them: the median above is near the slowest search, not near the mean one.
- Before any machine is bought: build one shard of {plan.shard:,} paragraphs of your own and measure it by this script's
  `search`. Your paragraphs are not made up, and the column "at worst" is {max(1, worst * plan.shard / plan.search):.1f} times the plan's.
- Not in it: vectors (4 bytes · their dimension more a paragraph), documents that change, the hour after a machine has
  failed, and the network: {traffic:.1f} GB a second come together from the shards if they send texts and not only scores."""


def main() -> None:
    """Measure or read the figures, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paragraphs", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--simulate", action="store_true", help="Measure nothing; take the figures that are there.")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "scale.json")
    parser.add_argument("--output", type=Path, help="The page to write; the figures are written too.")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        what, folder, size = options.part
        part = {"build": build, "search": search}.get(what)
        print(json.dumps(part(Path(folder), int(size)) if part else answering(Path(folder))))
        return
    figures = json.loads(options.figures.read_text("utf-8")) if options.simulate else measure(options.paragraphs)
    if options.simulate and not options.output:
        simulations(figures, make_plan(figures, largest_shard(figures)))
        return
    if options.output and not options.simulate:
        files.write_json(options.figures, figures)
    text = "\n\n".join(page(figures)) + "\n"
    if options.output:
        files.write_text(options.output, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
