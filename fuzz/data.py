"""Readers of data sets: refused in one line, or read, and what is read keeps the promises of examples."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fuzz.mutate import of_bytes, of_json
from fuzz.target import Refusing, Target, file_of, hold
from zhaiju.data import jsonstream
from zhaiju.data.check_labelled import check_labelled
from zhaiju.data.examples import TAG, Context, QAExample, SlotExample, check_text
from zhaiju.data.formats import ReadLog, gold_answers, gold_choices, load_contexts, read_qa
from zhaiju.data.jsonstream import JSONStream
from zhaiju.data.labelled import gold_labels, gold_tags, has_splits, kind_of, read_intents, read_slots
from zhaiju.errors import DataError
from zhaiju.tasks.readers import paragraphs_of

PARAGRAPHS = [
    Context(text, str(place))
    for place, text in enumerate(
        ["林師傅在河邊修船。", "鎮上有兩家書店，一家賣舊書。", "The ferry leaves at nine.", "🐐"]
    )
]


def _refuse(name: str) -> Any:
    raise ValueError(name)


_plain = json.JSONDecoder(parse_constant=_refuse)


def check_jsonstream(data: bytes) -> None:
    """What is read piece by piece is what Python's own reader reads whole, or both refuse it."""
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    whole: Any = None
    try:
        whole, accepted = _plain.decode(text), True
    except (ValueError, RecursionError):
        accepted = False
    jsonstream.CHUNK_CHARS = 1 + len(data) % 11
    try:
        refusing = Refusing(DataError)
        with refusing:
            cursor = JSONStream(io.StringIO(text, newline=""), Path("x.json"))
            value = cursor.value()
            cursor.end()
        hold((refusing.error is None) == accepted, "as json has it", text, refusing.error)
        if accepted:
            hold(_same(value, whole), "the same value", text, value)
        for kind, brackets in (("items", list), ("names", dict)):
            if accepted and isinstance(whole, brackets):
                cursor = JSONStream(io.StringIO(text, newline=""), Path("x.json"))
                if kind == "items":
                    hold(_same(list(cursor.items()), whole), "the same items", text)
                else:
                    hold(_same({name: cursor.value() for name in cursor.names()}, whole), "the same names", text)
                cursor.end()
    finally:
        jsonstream.CHUNK_CHARS = 1 << 20


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same, types included; a text is what `repr` shows, deep ones are not compared."""
    try:
        return bool(one == other) and repr(one) == repr(other)
    except RecursionError:
        return True


def _held(example: QAExample) -> None:
    """The contract of an example."""
    for text in example.texts:
        hold(check_text(text, "text") == text, "a usable text", text)
    for span in example.answers:
        hold(example.context.text[span.start : span.end] == span.text, "an answer at its place", span)
        hold(span.text in example.gold, "an answer among gold", span)
    hold(example.contexts and (example.relevant is None or example.relevant < len(example.contexts)), "candidates")


def _all(read: Callable[[], Iterator[Any]]) -> tuple[list[Any], Exception | None]:
    """What a reader gave before it refused, and the refusal."""
    found: list[Any] = []
    refusing = Refusing(DataError)
    with refusing:
        found.extend(read())
    return found, refusing.error


def check_questions(data: bytes, name: str) -> None:
    """Rows with faults are told and left out, or the first one refused; the rest is the same both ways."""
    path = file_of(name, data)
    strict, refused = _all(lambda: read_qa(path, contexts=PARAGRAPHS, log=ReadLog()))
    log = ReadLog(skip_faulty=True)
    found, error = _all(lambda: read_qa(path, contexts=PARAGRAPHS, log=log))
    for example in found:
        _held(example)
    hold(len({example.id for example in found}) == len(found), "each id once", found)
    hold(found[: len(strict)] == strict, "what comes before a fault", len(strict), len(found))
    if refused is None:
        hold(error is None and not log.skipped and found == strict, "no fault either way", error, log.skipped)
    for fault in (*log.skipped, *log.misaligned):
        hold(len(str(fault).splitlines()) == 1, "a fault is one line", str(fault))
    if refused is None and name.endswith("l") and len(strict) > 1:
        hold(list(read_qa(path, contexts=PARAGRAPHS, log=ReadLog(), start=1)) == strict[1:], "passed over", strict)
    for read in (gold_answers, gold_choices, partial(paragraphs_of, "read", context=path)):
        with Refusing(DataError):
            read(path)


def check_contexts(data: bytes) -> None:
    """A list of usable texts, or refused."""
    with Refusing(DataError):
        found = load_contexts(file_of("context.json", data))
        hold([context.source for context in found] == [str(place) for place in range(len(found))], "numbered", found)


def check_utterances(data: bytes, name: str) -> None:
    """The same for utterances; what the doctor and scoring say agrees with what is read. One of three ways a case."""
    path = file_of(name, data)
    way = len(data) % 3
    if way == 0:
        _read_both_ways(partial(read_slots, path), path)
    elif way == 1:
        _read_both_ways(partial(read_intents, path, split="train" if len(data) % 2 else None), path)
    else:
        for told in (kind_of, has_splits, gold_labels, gold_tags, lambda path: list(read_slots(path, bio="strict"))):
            with Refusing(DataError):
                told(path)
        with Refusing(DataError):
            report = check_labelled(path)
            hold(0 <= report.labelled <= report.rows - len(report.faults), "labelled rows", report)
            hold(sum(report.classes.values()) >= report.labelled or report.kind == "slots", "classes", report)


def _read_both_ways(read: Callable[..., Iterator[Any]], path: Path) -> None:
    strict, refused = _all(read)
    log = ReadLog(skip_faulty=True)
    found, error = _all(partial(read, log=log))
    hold(found[: len(strict)] == strict, "what comes before a fault", strict, found)
    hold(len({example.id for example in found}) == len(found), "each id once", found)
    hold(refused is not None or (error is None and not log.skipped), "no fault either way", error, log.skipped)
    for example in found:
        for text in example.texts:
            check_text(text, "text", empty_allowed=True)
        if isinstance(example, SlotExample) and example.tags is not None:
            hold(len(example.tags) == len(example.tokens), "a tag a word", example)
            hold(all(map(TAG.fullmatch, example.tags)), "tags", example)
    for fault in log.skipped:
        hold(len(str(fault).splitlines()) == 1, "a fault is one line", str(fault))


_NAMES = (
    "id", "question", "paragraphs", "relevant", "answers", "answer", "text", "start", "answer_start", "context",
    "contexts", "source", "is_impossible", "data", "qas", "title",
)  # fmt: skip
_UTTERANCE = ("id", "text", "intent", "label", "tokens", "tags", "train", "val", "test", "oos_train", "oos_val")
_JSON = (
    *'{}[],:"\\', "\\u", "\\ud83d", "\\ude00", "1e", "-", "0", ".5", "E+9", "true", "nul", "NaN", "-Infinity",
    "\ufeff",
)  # fmt: skip
_TABLE = (
    "text", "tokens", "tags", "intent", "id", ",", "\t", '"', '""', "\r\n", "\n", "\r", " ", "B-x", "I-x", "O", "\0",
)  # fmt: skip
_CONLL = (
    "\n\n", "\n", "\t", " ", "B-x", "I-x", "O", "I-y", "# id = a\n", "# sent_id =", "-DOCSTART-", "\u00a0", "\r\n",
)  # fmt: skip

TARGETS = (
    Target("jsonstream", "as Python's own reader", check_jsonstream, of_bytes(*_JSON), 1_500_000),
    Target("course", "examples, or refused", partial(check_questions, name="c.json"), of_json(*_NAMES), 100_000),
    Target("squad", "examples, or refused", partial(check_questions, name="s.json"), of_json(*_NAMES), 100_000),
    Target("jsonl", "examples, or refused", partial(check_questions, name="f.jsonl"), of_json(*_NAMES), 100_000),
    Target("contexts", "texts, or refused", check_contexts, of_json("text"), 100_000),
    Target("intents", "examples, or refused", partial(check_utterances, name="i.json"), of_json(*_UTTERANCE), 100_000),
    Target("slots", "examples, or refused", partial(check_utterances, name="i.jsonl"), of_json(*_UTTERANCE), 100_000),
    Target("csv", "examples, or refused", partial(check_utterances, name="t.csv"), of_bytes(*_TABLE), 100_000),
    Target("tsv", "examples, or refused", partial(check_utterances, name="t.tsv"), of_bytes(*_TABLE), 100_000),
    Target("conll", "examples, or refused", partial(check_utterances, name="t.conll"), of_bytes(*_CONLL), 100_000),
)
