"""The dataset doctor behind `zhaiju check`: everything that is wrong with a file, not only the first thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhaiju.data.encoding import Encoding, cover, locate, slice_of
from zhaiju.data.examples import Context, QAExample, Span
from zhaiju.data.formats import Misaligned, ReadLog, context_file, load_contexts, parse_row, rows
from zhaiju.errors import DataError

REPEATED_ANSWER_OCCURRENCES = 2


@dataclass
class Report:
    """What the doctor found in one file.

    Attributes:
        file: The file.
        rows: Questions in it, faulty ones included.
        contexts: Different paragraphs used.
        faults: One message a faulty row: file, row, field, what was found, what was expected.
        misaligned: Answers that do not stand at their offset, with the nearest place where their text does occur.
        answers_total: Answers in the rows that could be read.
        answers_too_long: Answers with more tokens than a window has room for beside the question.
        answers_lost: Other aligned answers that do not survive the way to tokens and back; must be 0.
        answers_inside_tokens: Answers that begin or end inside a token of this encoder, and so can only be quoted
            with a few characters more.
        answers_repeated: Answers whose text stands more than once in their paragraph: only the offset tells which.
        answers_over_limit: Answers longer than the reader's default limit of 50 characters.
        unknown_tokens: Share of the tokens that the encoder does not know, 0..1; None without an encoder.
        unknown_examples: The texts that most often become unknown tokens.
        shared_contexts: Paragraphs that another file checked with it uses too, by that file's name.
    """

    file: str
    rows: int = 0
    contexts: int = 0
    faults: list[str] = field(default_factory=list)
    misaligned: list[Misaligned] = field(default_factory=list)
    answers_total: int = 0
    answers_too_long: int = 0
    answers_lost: int = 0
    lost: list[str] = field(default_factory=list)
    answers_inside_tokens: int = 0
    answers_repeated: int = 0
    answers_over_limit: int = 0
    unknown_tokens: float | None = None
    unknown_examples: list[str] = field(default_factory=list)
    shared_contexts: dict[str, int] = field(default_factory=dict)

    @property
    def answers_misaligned(self) -> int:
        """Number of misaligned answers."""
        return len(self.misaligned)

    @property
    def healthy(self) -> bool:
        """Nothing that training or scoring would stumble over."""
        return not (self.faults or self.misaligned or self.answers_lost)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "misaligned"}
        return values | {
            "answers_misaligned": self.answers_misaligned,
            "misaligned": [
                {
                    "row": fault.row,
                    "text": fault.text,
                    "start": fault.start,
                    "found": fault.found,
                    "nearest": fault.nearest,
                }
                for fault in self.misaligned
            ],
            "faults_total": len(self.faults),
        }


def check_files(
    paths: Sequence[Path],
    *,
    context: Path | None = None,
    encoding: Encoding,
    limit: int = 50,
    progress: Callable[[int], None] | None = None,
) -> list[Report]:
    """Examine data files.

    Args:
        paths: The files.
        context: The context file of course rows; None: `context.json` beside them.
        encoding: Cuts the texts.
        limit: Longest quote, in characters, for `answers_over_limit`.
        progress: Called with the number of rows done since the last call.

    Raises:
        DataError: a file as a whole cannot be read.
    """
    contexts = load_contexts(context) if context else None
    used: list[set[str]] = []
    reports = []
    for path in paths:
        beside = context_file(path) if contexts is None else None
        report, examples = _read_all(path, load_contexts(beside) if beside else contexts)
        texts = {context.text for example in examples for context in example.contexts}
        report.contexts = len(texts)
        used.append({example.contexts[example.relevant].text for example in examples if example.relevant is not None})
        if examples:
            for example in examples:
                _examine(report, example, encoding, limit)
                if progress is not None:
                    progress(1)
            _count_unknown(report, texts, encoding)
        reports.append(report)
    for place, report in enumerate(reports):
        for other, theirs in enumerate(used):
            if other != place and (shared := len(used[place] & theirs)):
                report.shared_contexts[str(paths[other])] = shared
    return reports


def _read_all(path: Path, contexts: Sequence[Context] | None) -> tuple[Report, list[QAExample]]:
    report = Report(str(path))
    log = ReadLog(report.misaligned)
    examples = []
    seen: set[str] = set()
    for row in rows(path):
        report.rows += 1
        if row.id in seen:
            report.faults.append(
                str(
                    DataError(
                        "repeated id",
                        file=path,
                        row=row.id,
                        field="id",
                        found=row.id,
                        expected="one row an id",
                    )
                )
            )
        seen.add(row.id)
        try:
            examples.append(parse_row(row, contexts=contexts, log=log))
        except DataError as error:
            report.faults.append(str(error.located(file=path, row=row.id)))
    if not report.rows:
        raise DataError("no question in it", file=path, expected="at least one row")
    report.answers_total = sum(len(example.answers) for example in examples) + len(report.misaligned)
    return report, examples


def _examine(report: Report, example: QAExample, encoding: Encoding, limit: int) -> None:
    if not example.answers:
        return
    context = example.context.text
    try:
        capacity = encoding.capacity(example.question)
    except DataError as error:
        report.faults.append(str(error.located(file=report.file, row=example.id)))
        return
    for span in example.answers:
        report.answers_repeated += context.count(span.text) >= REPEATED_ANSWER_OCCURRENCES
        report.answers_over_limit += len(span.text) > limit
        verdict = survival(example.question, context, span, encoding, capacity)
        if verdict == "too long":
            report.answers_too_long += 1
        elif verdict == "inside a token":
            report.answers_inside_tokens += 1
        elif verdict == "lost":
            report.answers_lost += 1
            report.lost.append(f"row {example.id}: {span.text!r} at {span.start}")


def survival(question: str, context: str, span: Span, encoding: Encoding, capacity: int) -> str:
    """Send an answer to tokens and back: "kept", "too long", "inside a token" or "lost".

    White space at an answer's ends is never quoted, and characters that have no token (control characters) cannot
    be: neither is asked for.
    """
    tokens = encoding.tokens(context)
    first, last = cover(tokens, span.start, span.end)
    if last - first + 1 > capacity:
        return "too long"
    for window in encoding.windows(question, context, hold=(span,)):
        place = locate(window, span)
        if place is None:
            continue
        start, end = slice_of(context, int(window.starts[place[0]]), int(window.ends[place[1]]))
        if start < span.start or end > span.end:
            wanted = slice_of(context, span.start, span.end)
            return "kept" if (start, end) == wanted else "inside a token"
        trimmed = context[span.start : start] + context[end : span.end]
        if start < end and (not trimmed.strip() or not encoding.tokens(trimmed).ids.size):
            return "kept"
    return "lost"


def _count_unknown(report: Report, texts: set[str], encoding: Encoding) -> None:
    unknown_id = encoding.tokenizer.unk_token_id
    total = unknown = 0
    examples: Counter[str] = Counter()
    for text in sorted(texts):
        tokens = encoding.tokens(text)
        total += len(tokens.ids)
        for index in (tokens.ids == unknown_id).nonzero()[0]:
            unknown += 1
            examples[text[tokens.starts[index] : tokens.ends[index]]] += 1
    report.unknown_tokens = unknown / total if total else 0.0
    report.unknown_examples = [text for text, _ in examples.most_common(10)]
