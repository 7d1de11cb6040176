"""Files to labelled utterances: a class for each (intent), or a BIO tag for each word (slots).

Layouts, told apart by the name, and JSON by what is in it:

- course: a JSON list of `{text, intent, id}` or `{tokens, tags, id}`, or the same as JSONL or Parquet (by their names);
  `label` may stand for `intent`. At prediction time without intent or tags; a row of words to tag may then have
  `text`, a sentence, instead of `tokens`;
- tables with a header, `.csv` (commas) and `.tsv` (tabs): the same names as columns, words and tags separated by
  single spaces, two spaces around a word that is empty. An empty cell is one that is not there;
- CLINC150 (Larson et al., 2019), intent: `{"train": [[text, intent], …], "oos_train": […], "val": …}`;
- CoNLL, slots (`.conll`, `.bio`, `.txt`, and `.tsv` without a header): a word a line, its tag in the last column,
  a blank line between sentences. Columns are separated by tabs, in a line without one by spaces. A single column is
  an unlabelled sentence. `# id = x` before a sentence names it, other `# … = …` there and -DOCSTART- are passed over.

A row without an id is "#1", "#2", … by its place in the file.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from zhaiju.data import parquet
from zhaiju.data.examples import OUT_OF_SCOPE, TAG, IntentExample, SlotExample, check_text, wrong_type
from zhaiju.data.formats import JSONL_SUFFIXES, ReadLog
from zhaiju.data.jsonstream import JSONStream, open_text, parse_json_line, read_lines
from zhaiju.errors import DataError, verbatim

BIO = Literal["strict", "repair"]

ROW_SUFFIXES = JSONL_SUFFIXES | parquet.SUFFIXES
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SPLITS = ("train", "val", "test")
CONLL_SUFFIXES = {".conll", ".bio", ".txt"}

_Example = TypeVar("_Example")
_Label = TypeVar("_Label")
_Row = tuple[str, Any]  # where it stands, "" for its number in the file; its values, or the fault that it has none

_COMMENT = re.compile(r"# +([^=\s][^=]*?) *= *(.*)")

# Characters that are words by themselves: the blocks of Han, kana, hangul, and their punctuation. Full-width letters
# and digits are not among them.
_ALONE = re.compile(
    "[\u1100-\u11ff\u2e80-\u30ff\u3130-\u319f\u31c0-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\ufe30-\ufe4f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uffdc\U0001aff0-\U0001b16f\U0001f200-\U0001f2ff"
    "\U00020000-\U0003ffff]"
)


def split_words(text: str) -> list[tuple[int, int]]:
    """How a sentence becomes words: half-open `(start, end)` in characters, together all but the white space.

    White space separates words, and each Chinese, Japanese or Korean character or mark is a word by itself, together
    with the combining marks and variation selectors after it. Nothing else is cut: "bye!" and "it's" are words.
    """
    words: list[tuple[int, int]] = []
    inside = alone = False  # in a word; in one that takes no more characters
    for at, character in enumerate(text):
        if character.isspace():
            inside = False
        elif inside and unicodedata.category(character).startswith("M"):
            words[-1] = (words[-1][0], at + 1)
        else:
            before, alone = alone, _ALONE.match(character) is not None
            if inside and not before and not alone:
                words[-1] = (words[-1][0], at + 1)
            else:
                words.append((at, at + 1))
            inside = True
    return words


def read_intents(path: str | Path, *, split: str | None = None, log: ReadLog | None = None) -> Iterator[IntentExample]:
    """Read utterances and their classes, in the file's order, one at a time.

    Args:
        path: The file.
        split: "train", "val" or "test" of a CLINC150 file, its out-of-scope rows included; other files have one.
        log: With `skip_faulty`, receives the faults of the rows left out.

    Raises:
        DataError: the file is of no known layout, holds nothing or has no such split; at the first row that does
            not hold what it should, or at a repeated id.
    """
    path = Path(path)
    return _examples(path, _intent_rows(path, split), intent_example, "text and intent", log)


def read_slots(path: str | Path, *, bio: BIO = "repair", log: ReadLog | None = None) -> Iterator[SlotExample]:
    """Read utterances as words and their tags, in the file's order, one at a time.

    Args:
        path: The file.
        bio: What an I- tag that does not go on with the word before it is: "strict" refuses it, "repair" reads it as
            the B- tag of its label and counts it in `log.repaired`.
        log: With `skip_faulty`, receives the faults of the rows left out.

    Raises:
        DataError: as `read_intents` does.
    """
    path = Path(path)

    def parse(identity: str, raw: Mapping[str, Any]) -> SlotExample:
        return slot_example(identity, raw, bio, log)

    return _examples(path, _slot_rows(path), parse, "tokens and tags", log)


def read_rows(
    path: str | Path,
    parse: Callable[[str, Mapping[str, Any]], _Example],
    fields: tuple[str, ...],
    log: ReadLog | None = None,
) -> Iterator[_Example]:
    """Read rows of named fields, in the file's order, one at a time: a JSON list, JSONL, Parquet, or a table.

    Args:
        path: The file.
        parse: Makes an example of an id and a row.
        fields: Those that a row has; a table needs one of them as a column.
        log: With `skip_faulty`, receives the faults of the rows left out.

    Raises:
        DataError: as `read_intents` does.
    """
    path = Path(path)
    return _examples(path, _rows(path, fields), parse, " and ".join(fields), log)


def kind_of(path: str | Path) -> Literal["intent", "slots"] | None:
    """Whether a file holds utterances with a class each or with tags, by its name, header or first row.

    None: neither, so it is for questions, or nothing that is known here; the reader of questions then says what.
    """
    path = Path(path)
    if not path.is_file():  # a pipe can be read once only
        return None
    if _is_conll(path):
        return "slots"
    names = names_of(path)
    if {"question", "paragraphs"} & names:
        return None
    if {"tokens", "tags"} & names:
        return "slots"
    return (
        "intent"
        if {"intent", "text", *(prefix + split for prefix in ("", "oos_") for split in SPLITS)} & names
        else None
    )


def _is_conll(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in CONLL_SUFFIXES or (suffix == ".tsv" and not _has_header(path))


def names_of(path: str | Path) -> set[str]:
    """The columns of a file's rows by its header or first row; none of what is no file, as a pipe, or has none."""
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file() or _is_conll(path):
        return set()
    if suffix in DELIMITERS:
        _, first = next(read_lines(path), (1, ""))
        return {cell.strip().strip('"') for cell in first.lstrip("\ufeff").split(DELIMITERS[suffix])}
    if suffix in ROW_SUFFIXES:
        _, raw = next(_plain_rows(path), ("", None))
        return set(raw) if isinstance(raw, dict) else set()
    return set(_first_names(path))


def has_splits(path: str | Path) -> bool:
    """Whether a file for intent is a JSON object of splits, as CLINC150's; never what is no file, as a pipe."""
    path = Path(path)
    if not path.is_file() or path.suffix.lower() in {*DELIMITERS, *ROW_SUFFIXES, *CONLL_SUFFIXES}:
        return False
    with open_text(path) as stream:
        return JSONStream(stream, path).peek() == "{"


def _first_names(path: Path) -> Iterable[str]:
    """The keys of a JSON list's first row, or of an object up to the first that holds a list."""
    with open_text(path) as stream:
        cursor = JSONStream(stream, path)
        first = cursor.peek()
        if first == "[":
            raw = next(cursor.items(), None)
            return raw if isinstance(raw, dict) else ()
        names = []
        for name in cursor.names() if first == "{" else ():
            names.append(name)
            if cursor.peek() == "[":
                break
            cursor.value()
        return names


def gold_labels(path: str | Path, split: str | None = None) -> dict[str, str]:
    """The class of every utterance by id, for scoring.

    Raises:
        DataError: as `read_intents` does, or an utterance has no class.
    """
    examples = read_intents(path, split=split)
    return {example.id: _labelled(path, example, "intent", example.label) for example in examples}


def gold_tags(path: str | Path, bio: BIO = "repair") -> dict[str, tuple[str, ...]]:
    """The tags of every utterance by id, for scoring.

    Raises:
        DataError: as `read_slots` does, or an utterance has no tags.
    """
    return {example.id: _labelled(path, example, "tags", example.tags) for example in read_slots(path, bio=bio)}


def _labelled(path: str | Path, example: IntentExample | SlotExample, field: str, label: _Label | None) -> _Label:
    if label is None:
        raise DataError(f"no {field} to score against", file=path, row=example.id, field=field)
    return label


def sentence_example(identity: str, text: str) -> SlotExample:
    """A sentence to tag, cut into words.

    Raises:
        DataError: there is no visible character in it.
    """
    offsets = tuple(split_words(check_text(text, "text")))
    return SlotExample(identity, tuple(text[start:end] for start, end in offsets), None, text, offsets)


def repair_bio(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags with B-x for every I-x at the start, after O or after another label: well-formed BIO."""
    repaired: list[str] = []
    before = "O"
    for tag in tags:
        starts = tag.startswith("I-") and before[2:] != tag[2:]
        before = f"B-{tag[2:]}" if starts else tag
        repaired.append(before)
    return tuple(repaired)


def _examples(
    path: Path,
    rows: Iterator[_Row],
    parse: Callable[[str, Mapping[str, Any]], _Example],
    holds: str,
    log: ReadLog | None,
) -> Iterator[_Example]:
    number = 0
    seen: set[str] = set()
    for number, (place, raw) in enumerate(rows, 1):
        where = place or f"#{number}"
        try:
            if isinstance(raw, DataError):
                raise raw
            if not isinstance(raw, dict):
                raise wrong_type(raw, None, f"an object with {holds}")
            if raw.get("id") is None:
                identity = f"#{number}"
            else:
                where = identity = _identity(raw["id"])
            if identity in seen:
                raise DataError("repeated id", field="id", found=identity, expected="one row an id")
            seen.add(identity)
            example = parse(identity, raw)
        except DataError as error:
            # A row that only has its number is named by its place, which says more.
            located = DataError(
                error.problem, file=path, row=where, field=error.field, found=error.found, expected=error.expected
            )
            if log is None or not log.skip_faulty:
                raise located from None
            log.skipped.append(located)
            continue
        yield example
    if not number:
        raise DataError("no utterance in it", file=path, expected="at least one row")


def _identity(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise wrong_type(value, "id", "a text or a whole number")
    return check_text(str(value), "id")


def intent_example(identity: str, raw: Mapping[str, Any]) -> IntentExample:
    """An utterance and, where the row has it, its class.

    Raises:
        DataError: the row does not hold what it should.
    """
    return IntentExample(identity, raw.get("text"), raw.get("intent", raw.get("label")))  # type: ignore[arg-type]


def slot_example(identity: str, raw: Mapping[str, Any], bio: BIO = "repair", log: ReadLog | None = None) -> SlotExample:
    """An utterance as words, or as a sentence to be cut into words, and, where the row has them, its tags.

    Raises:
        DataError: the row does not hold what it should.
    """
    tags = _texts(raw.get("tags"), "tags", "tags")
    if raw.get("tokens") is None and raw.get("text") is not None:
        if tags is not None:
            raise DataError("tags without their words", field="tokens", expected="a list of words")
        return sentence_example(identity, check_text(raw["text"], "text"))
    tokens = _texts(raw.get("tokens"), "tokens", "words")
    if tokens is None:
        raise DataError("missing", field="tokens", expected="a list of words, or text, a sentence")
    example = SlotExample(identity, tokens, tags)
    if tags is None:
        return example
    repaired = repair_bio(tags)
    changed = [place for place, (tag, other) in enumerate(zip(tags, repaired, strict=True)) if tag != other]
    if changed and bio == "strict":
        first = changed[0]
        raise DataError(
            "does not go on with the word before it",
            field=f"tags[{first}]",
            found=tags[first],
            expected=f"{repaired[first]}, or a word of that label before it",
        )
    if log is not None:
        log.repaired += len(changed)
    return replace(example, tags=repaired) if changed else example


def _texts(value: object, name: str, what: str) -> tuple[str, ...] | None:
    """A list as the file has it; its items are checked by the example."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise wrong_type(value, name, f"a list of {what}")
    return tuple(value)


def _rows(
    path: Path, fields: tuple[str, ...], of_object: Callable[[JSONStream], Iterator[_Row]] | None = None
) -> Iterator[_Row]:
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        yield from _table_rows(path, DELIMITERS[suffix], fields)
    elif suffix in ROW_SUFFIXES:
        yield from _plain_rows(path)
    else:
        yield from _json_rows(path, of_object)


def _intent_rows(path: Path, split: str | None) -> Iterator[_Row]:
    return _rows(path, ("text",), lambda cursor: _clinc_rows(path, cursor, split))


def _slot_rows(path: Path) -> Iterator[_Row]:
    suffix = path.suffix.lower()
    if suffix in CONLL_SUFFIXES or (suffix == ".tsv" and not _has_header(path)):
        yield from _conll_rows(path)
    elif suffix in DELIMITERS:
        for place, raw in _rows(path, ("tokens", "text")):
            yield place, _cut_cells(raw)
    else:
        yield from _rows(path, ())


def _json_rows(path: Path, of_object: Callable[[JSONStream], Iterator[_Row]] | None = None) -> Iterator[_Row]:
    with open_text(path) as stream:
        cursor = JSONStream(stream, path)
        first = cursor.peek()
        if first == "[":
            yield from (("", raw) for raw in cursor.items())
        elif first == "{" and of_object:
            yield from of_object(cursor)
        else:
            cursor.fail("not a data file", first or "nothing", "a JSON list of rows")
        cursor.end()


def _clinc_rows(path: Path, cursor: JSONStream, split: str | None) -> Iterator[_Row]:
    """The rows of one split, one by one; everything beside it is passed over."""
    splits: dict[str, None] = {}
    for name in cursor.names():
        if cursor.peek() != "[":
            cursor.value()
            continue
        inside = name.removeprefix("oos_")
        splits[inside] = None
        for index, pair in enumerate(cursor.items()):
            if inside == split:
                yield f"{name}[{index}]", _pair(pair, name)
    if split not in splits:
        problem = "the file has several splits and none is chosen" if split is None else "no such split"
        expected = f"one of {', '.join(splits)}" if splits else "a JSON list of rows, or the splits of CLINC150"
        raise DataError(problem if splits else "not a data file", file=path, found=split, expected=expected)


def _pair(value: object, name: str) -> dict[str, Any] | DataError:
    if not isinstance(value, list) or len(value) != 2:
        return wrong_type(value, None, "[text, intent]")
    return {"text": value[0], "intent": OUT_OF_SCOPE if name.startswith("oos_") else value[1]}


def _plain_rows(path: Path) -> Iterator[_Row]:
    if path.suffix.lower() in parquet.SUFFIXES:
        return (("", raw) for raw in parquet.rows(path))
    return (("", parse_json_line(line, path, number)) for number, line in read_lines(path) if line.strip())


def _table_rows(path: Path, delimiter: str, needed: tuple[str, ...]) -> Iterator[_Row]:
    lines = (line for _, line in read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not set(needed) & set(header):
            raise DataError("no such column", file=path, row="line 1", found=header, expected=" or ".join(needed))
        if len(set(header)) < len(header):
            raise DataError("repeated column", file=path, row="line 1", found=header, expected="each name once")
        for cells in reader:
            if len(cells) == len(header):
                yield "", {name: cell for name, cell in zip(header, cells, strict=True) if cell or name in needed}
            elif cells:  # else a blank line
                found, expected = verbatim(f"{len(cells)} cells"), f"{len(header)}, as in the header"
                yield f"line {reader.line_num}", DataError("unequal number of cells", found=found, expected=expected)
    except csv.Error as error:
        raise DataError(f"not a table ({error})", file=path, row=f"line {reader.line_num}") from None


def _cut_cells(raw: Any) -> Any:
    """A table's row with its words and tags as lists."""
    if not isinstance(raw, dict):
        return raw
    lists = {name: raw[name].split(" ") if raw[name] else None for name in ("tokens", "tags") if name in raw}
    return {**raw, **lists}


def _has_header(path: Path) -> bool:
    """Whether the first line names columns: it has `tokens` or `text`, and no tag."""
    _, first = next(read_lines(path), (1, ""))
    cells = [cell.strip().strip('"') for cell in first.split("\t")]
    return bool({"tokens", "text"} & set(cells)) and not any(map(TAG.fullmatch, cells))


def _conll_rows(path: Path) -> Iterator[_Row]:
    named: str | None = None
    sentence: list[tuple[int, list[str]]] = []  # line number and columns
    for number, ended in read_lines(path):
        line = ended.rstrip("\r\n")
        columns = _columns(line)
        if not sentence and (comment := _COMMENT.fullmatch(line)):
            if comment[1] in ("id", "sent_id"):
                named = comment[2].strip()
        elif columns and columns[0] != "-DOCSTART-":
            sentence.append((number, columns))
        elif sentence:
            yield _conll_row(named, sentence)
            named, sentence = None, []
    if sentence:
        yield _conll_row(named, sentence)


def _columns(line: str) -> list[str]:
    """A line's columns: only tabs and spaces separate, a word may hold other white space."""
    if not line.strip(" \t"):
        return []
    return line.split("\t") if "\t" in line else [column for column in line.split(" ") if column]


def _conll_row(named: str | None, sentence: list[tuple[int, list[str]]]) -> _Row:
    first, columns = sentence[0]
    for number, other in sentence:
        if len(other) != len(columns):
            found, expected = verbatim(f"{len(other)} at line {number}"), f"{len(columns)} as at line {first}"
            return named or f"line {first}", DataError("unequal number of columns", found=found, expected=expected)
    tokens = [row[0] for _, row in sentence]
    tags = [row[-1] for _, row in sentence] if len(columns) > 1 else None
    return f"line {first}", {"tokens": tokens, "tags": tags, "id": named}
