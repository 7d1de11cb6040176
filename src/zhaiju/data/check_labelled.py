"""The dataset doctor for utterances: what `zhaiju check` says of a file for intent or slots."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zhaiju.data.examples import IntentExample, SlotExample
from zhaiju.data.formats import ReadLog
from zhaiju.data.labelled import SPLITS, has_splits, kind_of, read_intents, read_slots
from zhaiju.errors import DataError

SMALL_CLASS = 10  # fewer examples than these teach little


@dataclass
class UtteranceReport:
    """What the doctor found in one file.

    Attributes:
        file: The file.
        kind: intent or slots.
        rows: Utterances in it, faulty ones included.
        labelled: Those with a class or tags.
        faults: One message a faulty row: file, row, field, what was found, what was expected.
        classes: How often each class (intent) or each kind of slot (slots) stands in it, most frequent first.
        malformed_tags: I- tags that do not go on with the word before them.
        blank_words: Words without a visible character.
        repeated: Utterances that stand in it more than once.
        conflicting: Those of them that are labelled in more than one way, with the ways, most frequent first.
        small_classes: Classes with fewer than 10 utterances.
    """

    file: str
    kind: str
    rows: int = 0
    labelled: int = 0
    faults: list[str] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    malformed_tags: int = 0
    blank_words: int = 0
    repeated: int = 0
    conflicting: list[str] = field(default_factory=list)
    small_classes: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Nothing that training or scoring would stumble over."""
        return not (self.faults or self.malformed_tags)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self) | {"faults_total": len(self.faults)}


def check_labelled(path: Path) -> UtteranceReport:
    """Examine a file of utterances, all splits of a CLINC150 file together.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    kind = kind_of(path)
    if kind is None:
        raise DataError("not a file of utterances", file=path, expected="rows with text and intent, or tokens and tags")
    log = ReadLog(skip_faulty=True)
    report = UtteranceReport(str(path), kind)
    if kind == "slots":
        examples: list[Any] = list(read_slots(path, log=log))
    elif has_splits(path):
        examples = [example for split in SPLITS for example in _split(path, split, log)]
    else:
        examples = list(read_intents(path, log=log))
    report.faults = [str(fault) for fault in log.skipped]
    report.rows = len(examples) + len(log.skipped)
    if not report.rows:
        raise DataError("no utterance in it", file=path, expected="at least one row")
    report.malformed_tags = log.repaired
    ways: dict[str, Counter[str | None]] = {}
    classes: Counter[str] = Counter()
    for example in examples:
        text, way, names = _labels(example)
        report.labelled += way is not None
        classes.update(names)
        ways.setdefault(text, Counter())[way] += 1
        if isinstance(example, SlotExample):
            report.blank_words += sum(not word.strip() for word in example.tokens)
    report.classes = dict(sorted(classes.items(), key=lambda entry: (-entry[1], entry[0])))
    report.repeated = sum(found.total() > 1 for found in ways.values())
    labels = {text: [way for way, _ in found.most_common() if way is not None] for text, found in ways.items()}
    report.conflicting = [f"{text!r}: {' | '.join(found)}" for text, found in labels.items() if len(found) > 1]
    if kind == "intent":
        report.small_classes = [name for name, count in report.classes.items() if count < SMALL_CLASS]
    return report


def _split(path: Path, split: str, log: ReadLog) -> list[IntentExample]:
    try:
        return list(read_intents(path, split=split, log=log))
    except DataError as error:
        if error.problem in ("no such split", "no utterance in it"):
            return []
        raise


def _labels(example: IntentExample | SlotExample) -> tuple[str, str | None, list[str]]:
    """(The text, its label written out, the classes to count)."""
    if isinstance(example, IntentExample):
        return example.text, example.label, [] if example.label is None else [example.label]
    tags = example.tags
    kinds = [tag[2:] for tag in tags or () if tag.startswith("B-")]
    return " ".join(example.tokens), None if tags is None else " ".join(tags), kinds
