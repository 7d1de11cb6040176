"""Files to examples.

Layouts, told apart by what is in the file (JSONL and Parquet by their names, `.jsonl`, `.ndjson`, `.parquet`):

- course, 2021 edition: a list of `{id, question, paragraphs: [int], relevant: int, answers: [{text, start}]}`
  beside a context file, a list of texts; 2022 edition: `answer: {text, start}`; at prediction time without
  `relevant` and answers;
- SQuAD v1 and v2 (SQuAD, DRCD, CMRC 2018, XQuAD): `{data: [{title, paragraphs: [{context, qas: [{id, question,
  answers: [{text, answer_start}], is_impossible}]}]}]}`;
- flat rows, as a list, JSONL or Parquet: `{id, question, context | contexts, relevant, answers}` where `answers` is
  a list of `{text, start}` (or `answer_start`) or the flattened `{text: [...], answer_start: [...]}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from zhaiju.data import parquet
from zhaiju.data.examples import Context, QAExample, Span, check_text, wrong_type
from zhaiju.data.jsonstream import JSONStream, open_text, parse_json_line, read_lines
from zhaiju.errors import DataError, join_lines, shorten

JSONL_SUFFIXES = {".jsonl", ".ndjson"}


@dataclass(frozen=True, slots=True)
class Row:
    """One question as its file has it, before anything about it is trusted."""

    id: str
    number: int
    layout: str  # "course", "squad" or "flat"
    raw: Mapping[str, Any]
    shared: Context | None = None  # the SQuAD shape's paragraph, one object for all its questions


@dataclass(slots=True)
class Misaligned:
    """An answer whose text is not where its offset says: reported, scored, never trained on.

    Attributes:
        row: The row's id.
        text: The answer's text.
        start: Where the file says that it stands.
        found: What stands there.
        nearest: The nearest place where the text does occur, or None.
    """

    row: str
    text: str
    start: int
    found: str
    nearest: int | None

    def __str__(self) -> str:
        where = f"the text occurs at {self.nearest}" if self.nearest is not None else "the text does not occur"
        told = f"row {self.row}: answers: {self.text!r} is not at {self.start}, found {self.found!r}; {where}"
        return join_lines(told)


@dataclass(slots=True)
class ReadLog:
    """What a reader tolerated, for its caller to report.

    Attributes:
        misaligned: Answers that do not stand at their place.
        skip_faulty: Leave rows with any other fault out instead of stopping at the first.
        skipped: The faults of those rows.
        repaired: Number of I- tags without their beginning that were read as B- (slots).
    """

    misaligned: list[Misaligned] = field(default_factory=list)
    skip_faulty: bool = False
    skipped: list[DataError] = field(default_factory=list)
    repaired: int = 0


def load_contexts(path: str | Path) -> list[Context]:
    """The course's context file: a JSON list of texts. A context's source is its index.

    Raises:
        DataError: the file cannot be read, is not such a list, or a paragraph is empty.
    """
    path = Path(path)
    contexts = []
    for index, text in enumerate(_items(path)):
        try:
            contexts.append(Context(check_text(text, "context"), str(index)))
        except DataError as error:
            raise error.located(file=path, row=str(index)) from None
    if not contexts:
        raise DataError("no paragraph in it", file=path, expected="a list of texts")
    return contexts


def context_file(path: str | Path) -> Path | None:
    """The context file that a file of course rows needs: `context.json` beside it. None for other layouts.

    Raises:
        DataError: there is none beside it, or the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():  # a pipe can be read once only
        return None
    first = next(rows(path), None)
    if first is None or first.layout != "course":
        return None
    beside = path.with_name("context.json")
    if not beside.is_file():
        raise DataError(
            "course rows need their context file",
            file=path,
            expected="--context FILE, a list of texts, or a context.json beside it",
        )
    return beside


def read_qa(
    path: str | Path, *, contexts: Sequence[Context] | None = None, log: ReadLog | None = None, start: int = 0
) -> Iterator[QAExample]:
    """Read questions in any of the layouts above, in the file's order, one at a time.

    Args:
        path: The file.
        contexts: The paragraphs that course rows point into, from `load_contexts`.
        log: Receives the misaligned answers; they stay in `gold` and leave `answers`.
        start: Rows to pass over, unchecked.

    Raises:
        DataError: at the first row that does not hold what its layout promises, or at a repeated id.
    """
    path = Path(path)
    seen: set[str] = set()
    for row in rows(path, start=start):
        try:
            if row.id in seen:
                raise DataError("repeated id", field="id", found=row.id, expected="one row an id")
            seen.add(row.id)
            example = parse_row(row, contexts=contexts, log=log)
        except DataError as error:
            located = error.located(file=path, row=row.id)
            if log is None or not log.skip_faulty:
                raise located from None
            log.skipped.append(located)
            continue
        yield example
    if not seen:
        raise DataError("no question in it", file=path, expected="at least one row")


def rows(path: Path, *, start: int = 0) -> Iterator[Row]:
    """The questions of a file, unchecked. `read_qa` and the dataset doctor both start here.

    Args:
        path: The file.
        start: Rows to pass over; of JSONL and Parquet they are not even parsed.

    Raises:
        DataError: the file as a whole is not JSON, or of no known layout.
    """
    if path.suffix.lower() in JSONL_SUFFIXES:
        yield from _number(path, _jsonl(path, start), start)
    elif path.suffix.lower() in parquet.SUFFIXES:
        yield from _number(path, parquet.rows(path, start=start), start)
    else:
        yield from islice(_json(path), start, None)


def _json(path: Path) -> Iterator[Row]:
    with open_text(path) as stream:
        cursor = JSONStream(stream, path)
        first = cursor.peek()
        if first == "[":
            yield from _number(path, cursor.items())
        elif first == "{":
            yield from _squad_rows(path, cursor)
        else:
            cursor.fail("not a data file", first or "nothing", "a JSON list or object")
        cursor.end()


def parse_row(row: Row, *, contexts: Sequence[Context] | None, log: ReadLog | None = None) -> QAExample:
    """Check one row and make it an example.

    Raises:
        DataError: without file and row, which the caller knows.
    """
    raw = row.raw
    question = check_text(_get(raw, "question"), "question")
    if row.layout == "course":
        candidates, relevant = _course_candidates(raw, contexts)
    elif row.shared is not None:
        candidates, relevant = (row.shared,), 0
    else:
        candidates, relevant = _flat_candidates(raw, row.id)
    impossible = raw.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise wrong_type(impossible, "is_impossible", "true or false")
    aligned, gold = [], []
    if not impossible:
        for span in _spans(raw):
            if relevant is None:
                if not candidates:
                    raise DataError("answers, and no paragraph that they could be in", field="answers")
                if len(candidates) > 1:
                    raise DataError("answers without their paragraph", field="relevant", expected="an index")
                relevant = 0
            context = candidates[relevant].text
            gold.append(span.text)
            if span.fits(context):
                aligned.append(span)
            elif log is not None:
                log.misaligned.append(misalignment(row.id, span, context))
            else:
                raise DataError(str(misalignment(row.id, span, context)), field="answers")
    return QAExample(
        id=row.id,
        question=question,
        contexts=candidates,
        relevant=relevant,
        answers=tuple(aligned),
        gold=tuple(gold),
        impossible=impossible,
    )


def gold_answers(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Answer texts by id, for scoring: needs no context file and does not look at offsets.

    Raises:
        DataError: a row has no answers, or an id is repeated.
    """
    path = Path(path)
    gold: dict[str, tuple[str, ...]] = {}
    for row in rows(path):
        if row.id in gold:
            raise DataError("repeated id", file=path, row=row.id, field="id", found=row.id, expected="one row an id")
        try:
            spans = () if row.raw.get("is_impossible") is True else _spans(row.raw)
            texts = tuple(dict.fromkeys(span.text for span in spans))
        except DataError as error:
            raise error.located(file=path, row=row.id) from None
        if not texts and not row.raw.get("is_impossible"):
            raise DataError("no answer to score against", file=path, row=row.id, field="answers")
        gold[row.id] = texts or ("",)
    if not gold:
        raise DataError("no question in it", file=path, expected="at least one row")
    return gold


def gold_choices(path: str | Path) -> dict[str, int]:
    """The right paragraph of course rows by id, as an index into the context file, for scoring.

    Raises:
        DataError: a row does not say which paragraph is right.
    """
    path = Path(path)
    gold: dict[str, int] = {}
    for row in rows(path):
        index = row.raw.get("relevant")
        if isinstance(index, bool) or not isinstance(index, int):
            problem = "no relevant paragraph to score against" if index is None else "wrong type"
            raise DataError(problem, file=path, row=row.id, field="relevant", found=index, expected="a whole number")
        gold[row.id] = index
    return gold


def misalignment(row: str, span: Span, context: str) -> Misaligned:
    """Describe an answer that is not at its place."""
    found = context[max(span.start, 0) : max(span.start, 0) + len(span.text)]
    return Misaligned(row, span.text, span.start, found, nearest(context, span.text, span.start))


def nearest(context: str, text: str, start: int) -> int | None:
    """The occurrence of `text` in `context` whose start is nearest to `start`; the earlier one of two."""
    before = context.rfind(text, 0, max(start, 0) + len(text))
    after = context.find(text, max(start, 0))
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: (abs(place - start), place)) if found else None


def _jsonl(path: Path, start: int = 0) -> Iterator[Any]:
    """The rows of a JSONL file, without the first `start`."""
    lines = (numbered for numbered in read_lines(path) if numbered[1].strip())
    return (parse_json_line(line, path, number) for number, line in islice(lines, start, None))


def _items(path: Path) -> Iterator[Any]:
    with open_text(path) as stream:
        cursor = JSONStream(stream, path)
        if cursor.peek() != "[":
            cursor.fail("not a context file", cursor.peek() or "nothing", "a JSON list of texts")
        yield from cursor.items()
        cursor.end()


def _number(path: Path, items: Iterable[Any], start: int = 0) -> Iterator[Row]:
    for number, raw in enumerate(items, start + 1):
        where = f"#{number}"
        if not isinstance(raw, dict):
            raise wrong_type(raw, None, "an object with id and question").located(file=path, row=where)
        layout = "course" if "paragraphs" in raw else "flat"
        yield Row(_row_id(raw, path, where), number, layout, raw)


def _squad_rows(path: Path, cursor: JSONStream) -> Iterator[Row]:
    """The questions paragraph by paragraph; everything beside `data` is passed over."""
    number = 0
    found_data = False
    for key in cursor.names():
        if key != "data":
            cursor.value()
            continue
        found_data = True
        if cursor.peek() != "[":
            cursor.fail("wrong type of data", cursor.peek(), "a list of articles")
        for index in cursor.places():
            for row in _article_rows(path, cursor, f"data[{index}]"):
                number += 1
                yield Row(row.id, number, row.layout, row.raw, row.shared)
    if not found_data:
        raise DataError("not of the SQuAD shape", file=path, field="data", expected="a list of articles")


def _article_rows(path: Path, cursor: JSONStream, where: str) -> Iterator[Row]:
    """One article's, which may be the whole file's: no more than a paragraph of it is held at a time."""
    if cursor.peek() != "{":
        raise wrong_type(cursor.value(), None, "an object").located(file=path, row=where)
    found_paragraphs = False
    for key in cursor.names():
        if key != "paragraphs":
            cursor.value()
            continue
        found_paragraphs = True
        if cursor.peek() != "[":
            _list(path, {key: cursor.value()}, key, where)  # says what is wrong with it
        for index, paragraph in enumerate(cursor.items()):
            yield from _paragraph_rows(path, paragraph, f"{where}.paragraphs[{index}]")
    if not found_paragraphs:
        _list(path, {}, "paragraphs", where)


def _paragraph_rows(path: Path, paragraph: Any, place: str) -> Iterator[Row]:
    questions = _list(path, paragraph, "qas", place)
    try:
        source = paragraph.get("id", place)
        context = Context(check_text(_get(paragraph, "context"), "context"), str(source))
    except DataError as error:
        raise error.located(file=path, row=place) from None
    for position, raw in enumerate(questions):
        spot = f"{place}.qas[{position}]"
        if not isinstance(raw, dict):
            raise wrong_type(raw, None, "an object").located(file=path, row=spot)
        yield Row(_row_id(raw, path, spot), 0, "squad", raw, context)


def _list(path: Path, holder: Any, name: str, where: str) -> list[Any]:
    if not isinstance(holder, dict):
        raise wrong_type(holder, None, "an object").located(file=path, row=where)
    value = holder.get(name)
    if not isinstance(value, list):
        problem = "missing" if value is None else "wrong type"
        raise DataError(problem, file=path, row=where, field=name, found=value, expected="a list")
    return value


def _row_id(raw: Mapping[str, Any], path: Path, where: str) -> str:
    value = raw.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        problem = "missing" if value is None else "wrong type"
        raise DataError(problem, file=path, row=where, field="id", found=value, expected="a text or a whole number")
    try:
        return check_text(str(value), "id")
    except DataError as error:
        raise error.located(file=path, row=where) from None


def _get(raw: Mapping[str, Any], name: str) -> Any:
    if name not in raw:
        raise DataError("missing", field=name, expected=f"one of the row's keys {shorten(list(raw))}")
    return raw[name]


def _index(value: object, name: str, limit: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(value, name, "a whole number")
    if not 0 <= value < limit:
        raise DataError("out of range", field=name, found=value, expected=f"0..{limit - 1} ({what})")
    return value


def _course_candidates(
    raw: Mapping[str, Any], contexts: Sequence[Context] | None
) -> tuple[tuple[Context, ...], int | None]:
    indices = raw["paragraphs"]
    if contexts is None:
        raise DataError("course rows need their context file", expected="--context FILE, a list of texts")
    if not isinstance(indices, list):
        raise wrong_type(indices, "paragraphs", "a list of whole numbers")
    checked = [_index(value, "paragraphs", len(contexts), "rows of the context file") for value in indices]
    if len(set(checked)) < len(checked):
        raise DataError("repeated paragraph", field="paragraphs", found=indices, expected="each paragraph once")
    relevant = None
    if raw.get("relevant") is not None:
        index = _index(raw["relevant"], "relevant", len(contexts), "rows of the context file")
        if index not in checked:
            raise DataError(
                "relevant is not in paragraphs", field="relevant", found=index, expected=f"one of {checked}"
            )
        relevant = checked.index(index)
    return tuple(contexts[index] for index in checked), relevant


def _flat_candidates(raw: Mapping[str, Any], row: str) -> tuple[tuple[Context, ...], int | None]:
    if "context" in raw:
        return (Context(check_text(raw["context"], "context"), str(raw.get("source", row))),), 0
    values = _get(raw, "contexts")
    if not isinstance(values, list):
        raise wrong_type(values, "contexts", "a list of texts")
    candidates = []
    for place, value in enumerate(values):
        text, source = (value.get("text"), value.get("source", place)) if isinstance(value, dict) else (value, place)
        candidates.append(Context(check_text(text, f"contexts[{place}]"), str(source)))
    relevant = raw.get("relevant")
    if relevant is None:
        return tuple(candidates), None
    return tuple(candidates), _index(relevant, "relevant", len(candidates), "places in contexts")


def _spans(raw: Mapping[str, Any]) -> Iterator[Span]:
    """The answers of a row in whichever way its layout writes them."""
    value = raw.get("answers", raw.get("answer"))
    if value is None:
        return
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        starts = value.get("answer_start", value.get("start"))
        if not isinstance(starts, list) or len(starts) != len(value["text"]):
            raise DataError(
                "texts and offsets differ in number", field="answers", found=value, expected="an offset for every text"
            )
        value = [{"text": text, "start": start} for text, start in zip(value["text"], starts, strict=True)]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise wrong_type(value, "answers", "a list of {text, start}")
    for place, answer in enumerate(value):
        name = f"answers[{place}]"
        if not isinstance(answer, dict):
            raise wrong_type(answer, name, "{text, start}")
        start = answer.get("start", answer.get("answer_start"))
        if isinstance(start, bool) or not isinstance(start, int):
            raise wrong_type(start, f"{name}.start", "a whole number")
        yield Span(check_text(answer.get("text"), f"{name}.text"), start)
