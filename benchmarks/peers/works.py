"""What is compared: for each work its data, its weights, and the ways of doing it.

Weights are random where no trained ones are needed: how fast a network runs does not depend on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.peers.workers import Way
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.inference.export import export, quantise
from zhaiju.modeling.checkpoint import GRAPHS, Checkpoint, Meta, Shape, from_scratch, load, save
from zhaiju.tasks.readers import read_all

BERT = Shape(layers=12, hidden=768, heads=12, intermediate=3072)
MINILM = Shape(layers=6, hidden=384, heads=12, intermediate=1536)
PIPELINE = "transformers 4.57 pipeline"
HAYSTACK = "Haystack ExtractiveReader"
PLAIN = "the course's sample way"
LATENCY_CHARACTERS = 450
CALIBRATION_ROWS = 32


@dataclass
class Work:
    """A comparison.

    Attributes:
        name: Its title.
        unit: What is counted.
        count: How many a round does.
        about: What else a reader should know.
        ways: All ways of it; peers are named by the constants above.
        bars: (our way, peer, least ratio).
        equal: Pairs of ways whose answers should be the same.
        rounds: Rounds that it wants, at least.
    """

    name: str
    unit: str
    count: int
    about: str
    ways: list[Way]
    bars: list[tuple[str, str, float]]
    equal: list[tuple[str, str]] = field(default_factory=list)
    rounds: int = 1


@dataclass(frozen=True)
class Sources:
    """Where data and peers are.

    Attributes:
        data: The shared data's folder; None: texts are made from the package's own samples.
        encoder: A MiniLM directory; None: random weights of its shape.
        pythons: The interpreters of peers that could be installed.
        work: A folder to write checkpoints and rows into.
        questions: Most questions of a work.
        utterances: Most utterances of one.
    """

    data: Path | None
    encoder: str | None
    pythons: dict[str, str]
    work: Path
    questions: int
    utterances: int


def sample() -> Path:
    """The project's own texts and questions."""
    return Path(str(resources("zhaiju.starter"))) / "sample"


def read_work(sources: Sources) -> Work:
    """Read with a 12-layer encoder."""
    examples = questions(sources)
    rows = _rows(sources, "read", [{"question": one.question, "context": one.context.text} for one in examples])
    where, exported = make_bert(sources, "read")
    common = {"task": "read", "rows": rows, "checkpoint": where}
    narrow = {"backend": "torch", "precision": "fp32", "window": 384, "overlap": 128}
    ways = [*_ours(common, exported), Way("fp32, torch, windows of 384", "ours.py", common | narrow)]
    if PIPELINE in sources.pythons:
        ways.append(Way(PIPELINE, "transformers_pipeline.py", common, sources.pythons[PIPELINE]))
    if HAYSTACK in sources.pythons:
        ways.append(Way(HAYSTACK, "haystack_reader.py", common, sources.pythons[HAYSTACK]))
    bars = [
        (ours, peer, least)
        for peer in (PIPELINE, HAYSTACK)
        for ours, least in (("int8, openvino", 3.0), ("bf16, openvino", 2.3), ("fp32, openvino", 1.15))
    ]
    about = (
        "A 12-layer, 768-wide BERT with random weights. The peers at their defaults: windows of 384 tokens. Zhaiju at "
        "its own: windows as long as the encoder allows (512), evenly cut."
    )
    return Work("read", "questions", len(examples), about, ways, bars, rounds=1)


def same_answers_work(sources: Sources) -> Work:
    """The same settings on both sides: the same windows, the same limits, so the same answers."""
    examples = [one for one in questions(sources) if len(one.question) + len(one.context.text) < 480]
    examples = examples[: max(4, sources.questions // 5)]
    rows = _rows(sources, "same", [{"question": one.question, "context": one.context.text} for one in examples])
    where, exported = make_bert(sources, "read")
    common = {"task": "read", "rows": rows, "checkpoint": where}
    unlimited = {"max_seq_len": 512, "doc_stride": 64, "max_answer_len": 512, "align_to_words": False}
    ours = common | {"settings": {"max_answer_chars": 0}}
    ways = [way for way in _ours(ours, exported) if way.name.startswith("fp32")]
    if PIPELINE in sources.pythons:
        way = Way(PIPELINE, "transformers_pipeline.py", common | {"settings": unlimited}, sources.pythons[PIPELINE])
        ways.append(way)
    about = (
        "Paragraphs that fit one window of 512 tokens on both sides, no limit to an answer's length, spans not "
        "widened to words: the same inputs, so the same answers, string by string."
    )
    bars = [("fp32, openvino", PIPELINE, 1.15)]
    equal = [(way.name, PIPELINE) for way in ways if way.name != PIPELINE]
    return Work("read, settings equal", "questions", len(examples), about, ways, bars, equal)


def answer_work(sources: Sources) -> Work:
    """Select and read against the course's sample code."""
    few = max(4, sources.questions // 10)
    folder = sources.data / "course" if sources.data else sample()
    source = folder / ("private.json" if sources.data else "held_out.json")
    examples = list(read_qa(source, contexts=load_contexts(folder / "context.json")))[:few]
    rows = _rows(
        sources, "answer",
        [{"question": one.question, "contexts": [context.text for context in one.contexts]} for one in examples],
    )  # fmt: skip
    reader, exported_reader = make_bert(sources, "read")
    selector, exported_selector = make_bert(sources, "select")
    common = {"task": "answer", "rows": rows, "reader": reader, "selector": selector}
    exported = {"reader": exported_reader, "selector": exported_selector}
    ways = [Way(PLAIN, "plain_way.py", common)]
    for more, suffix in (({}, ""), ({"prefilter": 2}, ", pre-filter")):
        ways += [Way(way.name + suffix, way.script, way.spec | more) for way in _ours(common, exported)]
    bars = [("bf16, openvino", PLAIN, 3.0), ("int8, openvino", PLAIN, 3.0), ("int8, openvino, pre-filter", PLAIN, 5.0)]
    about = (
        "Two 12-layer, 768-wide BERTs with random weights; four candidates a question. The sample way pads or cuts "
        "every pair to 512 tokens and takes four at a time, in fp32, with this environment's transformers. The "
        "pre-filter lets the selector see the first two of the lexical ranking."
    )
    return Work("select and read", "questions", len(examples), about, ways, bars)


def intent_work(sources: Sources) -> Work:
    """Utterances, MiniLM."""
    texts = _utterances(sources, "intent", sources.utterances)
    return _classify(sources, "intent", texts, tuple(f"class {at}" for at in range(150)))


def slots_work(sources: Sources) -> Work:
    """Sentences, MiniLM."""
    texts = _utterances(sources, "slots", sources.utterances * 7 // 12)
    kinds = [f"kind{at}" for at in range(39)]
    return _classify(sources, "slots", texts, ("O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")))


def latency_work(sources: Sources) -> Work:
    """One question at a time."""
    examples = [one for one in questions(sources) if len(one.context.text) >= LATENCY_CHARACTERS][:1]
    one = examples[0] if examples else questions(sources)[0]
    row = {"question": one.question, "context": (one.context.text * 20)[:LATENCY_CHARACTERS]}
    rows = _rows(sources, "latency", [row])
    where, exported = make_bert(sources, "read")
    common = {"task": "read", "rows": rows, "checkpoint": where}
    ways = _ours(common, exported)
    for name, script in ((PIPELINE, "transformers_pipeline.py"), (HAYSTACK, "haystack_reader.py")):
        if name in sources.pythons:
            ways.append(Way(name, script, common, sources.pythons[name]))
    bars = [("int8, openvino", peer, 2.0) for peer in (PIPELINE, HAYSTACK)]
    about = f"One question about a paragraph of {LATENCY_CHARACTERS} characters, warm; 12 layers, 768 wide."
    return Work("one question", "questions", 1, about, ways, bars, rounds=9)


WORKS: dict[str, Callable[[Sources], Work]] = {
    "read": read_work,
    "same": same_answers_work,
    "answer": answer_work,
    "intent": intent_work,
    "slots": slots_work,
    "latency": latency_work,
}


def _classify(sources: Sources, task: str, texts: Sequence[str], labels: tuple[str, ...]) -> Work:
    rows = _rows(sources, task, [{"text": text} for text in texts])
    where, exported = _minilm(sources, task, texts, labels)
    common = {"task": task, "rows": rows, "checkpoint": where}
    ways = _ours(common, exported)
    if PIPELINE in sources.pythons:
        ways.append(Way(PIPELINE, "transformers_pipeline.py", common, sources.pythons[PIPELINE]))
    bars = [("int8, openvino", PIPELINE, 3.0), ("bf16, openvino", PIPELINE, 3.0)]
    unit = "utterances" if task == "intent" else "sentences"
    shape = "MiniLM (6 layers, 384 wide)" if sources.encoder else "a BERT of MiniLM's shape, random weights"
    about = f"{shape} with {len(labels)} classes, its output layer random; the pipeline in batches of 32."
    if task == "slots":
        about += " The pipeline tells the tags of pieces that are not O, and not of words: its answers are other lists."
    equal = [("fp32, torch", PIPELINE)] if task == "intent" else []
    return Work(task, unit, len(texts), about, ways, bars, equal, rounds=3)


def _ours(common: dict[str, Any], exported: str | dict[str, str]) -> list[Way]:
    """Zhaiju in every precision and the backend that is fastest in it."""
    graphs = exported if isinstance(exported, dict) else {"checkpoint": exported}
    ways = [
        Way(f"{precision}, torch", "ours.py", common | {"backend": "torch", "precision": precision})
        for precision in ("fp32", "bf16")
    ]
    ways.append(Way("fp32, onnxruntime", "ours.py", common | graphs | {"backend": "onnx", "precision": "fp32"}))
    if find_spec("openvino"):
        ways += [
            Way(f"{precision}, openvino", "ours.py", common | graphs | {"backend": "openvino", "precision": precision})
            for precision in ("fp32", "bf16", "int8")
        ]
    return ways


def questions(sources: Sources) -> list[Any]:
    """The questions of the works on questions."""
    if sources.data:
        path = sources.data / "squad" / "drcd-dev.json"
        # One in so many, so that the first documents are not all of it.
        examples = read_all("read", path)
        return examples[:: max(1, len(examples) // sources.questions)][: sources.questions]
    folder = sample()
    examples = list(read_qa(folder / "held_out.json", contexts=load_contexts(folder / "context.json")))
    return (examples * (1 + sources.questions // len(examples)))[: sources.questions]


def _utterances(sources: Sources, task: str, count: int) -> list[str]:
    if sources.data:
        examples = read_all(task, sources.data / {"slots": "slot"}.get(task, task) / "train.json", split="train")
        texts = [" ".join(one.tokens) if task == "slots" else one.text for one in examples]
    else:
        texts = [f"please tell me what {word} number {at} is" for at in range(50) for word in ("road", "train", "ship")]
    return (texts * (1 + count // len(texts)))[:count]


def _rows(sources: Sources, name: str, rows: list[dict[str, Any]]) -> str:
    path = sources.work / f"{name}.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return str(path)


def make_bert(sources: Sources, task: str) -> tuple[str, str]:
    """A random 12-layer BERT and its exported graphs."""
    where = sources.work / f"bert-{task}"
    examples = questions(sources)
    if not where.exists():
        import torch

        torch.manual_seed(0)
        texts = dict.fromkeys(text for one in examples for text in one.texts)
        made = from_scratch(task, texts, encoder=None, shape=BERT, window=BERT.positions, overlap=64, script="as-is")
        encode = made.task(task).encode
        windows = [window for one in examples[:CALIBRATION_ROWS] for window in encode(one, made.encoding)]
        _keep(made, task, where, windows)
    return str(where), f"{where}-exported"


def _minilm(sources: Sources, task: str, texts: Sequence[str], labels: tuple[str, ...]) -> tuple[str, str]:
    """MiniLM with an output layer of random weights, and its exported graphs."""
    where = sources.work / f"minilm-{task}"
    if not where.exists():
        import torch

        torch.manual_seed(0)
        if sources.encoder:
            made = load(sources.encoder, task, labels=labels, window=128, head_required=False)
        else:
            made = from_scratch(
                task, texts, encoder=None, shape=MINILM, window=128, overlap=8, script="as-is",
                labels=labels,
            )  # fmt: skip
        windows = [window for text in texts[:200] for window in made.encoding.text_windows(text)]
        _keep(made, task, where, windows)
    return str(where), f"{where}-exported"


def _keep(made: Checkpoint, task: str, where: Path, windows: Sequence[Any]) -> None:
    where.mkdir()
    save(where, made.network, made.encoding, Meta(task=task))
    exported = Path(f"{where}-exported")
    export(load(where, task), task, exported)
    if find_spec("openvino"):
        quantise(exported / GRAPHS["fp32"], exported / GRAPHS["int8"], windows, made.encoding.pad_id)
