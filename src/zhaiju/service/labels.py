"""Questions and answers that people mark in their own paragraphs, kept in a file of the SQuAD shape.

The file is what `zhaiju train`, `evaluate` and `check` read. It holds a paragraph once it has a question, a line each,
and whatever else it held before. Each change is in it, on disk, before it is accepted; one process at a time works on
it, and what another program wrote into it meanwhile is not overwritten.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from zhaiju import files
from zhaiju.corpus.documents import Paragraph, find_documents, is_list_of_texts, read_document
from zhaiju.corpus.lexical import BM25
from zhaiju.data.examples import QAExample, Span, check_text
from zhaiju.data.formats import JSONL_SUFFIXES, ReadLog, context_file, load_contexts, parse_row, rows
from zhaiju.data.jsonstream import JSONStream, open_text, read_lines
from zhaiju.errors import DataError, OutputError, verbatim
from zhaiju.service.batching import StoppedError, Ticket
from zhaiju.service.documents import shown_paragraph
from zhaiju.service.limits import RETRY_SECONDS, RequestError, at_most

MOST_EXAMPLES = 50_000
MOST_ANSWERS = 50  # of a question
MOST_CHARACTERS = 20_000_000  # of all paragraphs
VERSION = "v2.0"  # the one that knows is_impossible
DELETED = "deleted_ids"  # of questions that the sources hold, so that they do not come back
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Example:
    """A question about a paragraph.

    Attributes:
        id: Says which, by `ID`.
        paragraph: Index of its paragraph.
        question: The question.
        answers: Where it is answered.
        is_impossible: The paragraph does not hold the answer. Neither this nor answers: the question is open.
    """

    id: str
    paragraph: int
    question: str
    answers: tuple[Span, ...] = ()
    is_impossible: bool = False

    @property
    def is_open(self) -> bool:
        """Whether nobody has said yet what answers it."""
        return not self.answers and not self.is_impossible


@dataclass(frozen=True, slots=True)
class Question:
    """A question that the sources bring, about the paragraph with the text `context`; else as `Example`."""

    id: str
    question: str
    context: str
    answers: tuple[Span, ...] = ()
    is_impossible: bool = False


@dataclass(slots=True)
class Sources:
    """What is labelled.

    Attributes:
        paragraphs: In the order in which they are shown.
        questions: That come with them, labelled or open.
    """

    paragraphs: list[Paragraph] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def read_sources(
    paths: Sequence[str | Path], *, context: Path | None = None, warn: Callable[[str], None] = lambda line: None
) -> Sources:
    """The paragraphs of documents, and those of data files with their questions.

    An answer that does not stand at its offset moves to the nearest place where its text stands; where there is none,
    the question is open, as is one without answers. An open question about one of several paragraphs is put to the
    one that BM25 ranks first. Faulty rows are left out, unless a file has no others.

    Args:
        paths: Documents, folders of them, and data files in any of the layouts for questions.
        context: The context file of course rows; None: `context.json` beside them.
        warn: Called with a line about what is passed over or moved.

    Raises:
        DataError: one of them cannot be read, or there is no text in them.
    """
    sources = Sources()
    for path in map(Path, paths):
        if _is_data(path):
            _read_data(path, context, sources, warn)
            continue
        for document in find_documents([path], warn=warn, none_allowed=True):
            try:
                sources.paragraphs += map(_shown, read_document(document))
            except DataError as error:
                if document == path:
                    raise
                warn(str(error))
    if not sources.paragraphs:
        raise DataError("no text in it", file=", ".join(map(str, paths)), expected="documents or data files")
    return sources


def read_questions(path: Path, paragraphs: Sequence[Paragraph]) -> list[Question]:
    """Open questions from a text file, one a line, each put to the paragraph that BM25 ranks first.

    Raises:
        DataError: the file cannot be read, or a line is no text.
    """
    index = BM25([paragraph.text for paragraph in paragraphs])
    found = {}
    for number, line in read_lines(path):
        if question := line.strip():
            try:
                check_text(question, "question")
            except DataError as error:
                raise error.located(file=path, row=f"line {number}") from None
            best = index.top(question, 1)
            name = f"q-{sha256(question.encode()).hexdigest()[:16]}"
            found[name] = Question(name, question, paragraphs[best[0][0] if best else 0].text)
    return list(found.values())


class Labels:
    """The examples of a file. Its methods may be called from several threads.

    Paragraphs of the sources come first, then those that only the file has; of equal ones the first is kept. What the
    sources bring labelled goes into the file at once, unless it has a question of that id or had one that was deleted.

    Args:
        output: The file; it is made with the first example.
        sources: What is labelled.

    Raises:
        DataError: the file is there and of another shape, or there is too much in it and the sources.
        OutputError: it cannot be written, or another process works on it.
    """

    def __init__(self, output: str | os.PathLike[str], sources: Sources) -> None:
        self._path = Path(output)
        self._changing = threading.Lock()
        self.paragraphs: list[Paragraph] = []
        self._places: dict[str, int] = {}
        self._examples: dict[str, Example] = {}
        self._head: dict[str, Any] = {"version": VERSION}
        self._articles: list[dict[str, Any]] = []
        self._deleted: tuple[str, ...] = ()
        self._digest: str | None = None
        self._closed = False
        self._offered = {_key(question.id): question.id for question in sources.questions}
        if self._path.exists() and not self._path.is_file():
            raise OutputError(f"cannot write {self._path}: it is no file")
        with ExitStack() as held:
            held.enter_context(_alone(self._path))
            self._open(sources)
            self._held = held.pop_all()

    def __enter__(self) -> Labels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The file's base name."""
        return _plain(self._path.name)

    @property
    def count(self) -> int:
        """How many questions are labelled."""
        with self._changing:
            return sum(not example.is_open for example in self._examples.values())

    def examples(self) -> Sequence[Example]:
        """All examples, the file's in its order, then open ones."""
        with self._changing:
            return list(self._examples.values())

    def content(self) -> str:
        """What is in the file, or would be.

        Raises:
            RequestError: another program has changed it.
        """
        with self._changing:
            self._check_unchanged()
            return _rendered(self._head, self._articles, self._deleted)

    def put(
        self, wanted: str, paragraph: int, question: str, spans: Sequence[tuple[int, int]], ticket: Ticket
    ) -> Example:
        """Add an example, or replace the one with this id. It is on disk when this returns.

        Args:
            wanted: Its id.
            paragraph: Index of its paragraph.
            question: The question.
            spans: Start and end of each answer in code points; none: the paragraph does not hold the answer.
            ticket: Nothing is written once it is late.

        Raises:
            RequestError: one of these is not as it should be, there are too many examples, or the file was changed by
                another program or cannot be written.
            LateError: time was up before.
        """
        if not ID.fullmatch(wanted):
            raise RequestError(422, "invalid", "an id is 1 to 64 letters, digits, - and _ of ASCII", field="id")
        if not 0 <= paragraph < len(self.paragraphs):
            most = len(self.paragraphs) - 1
            raise RequestError(
                422, "invalid", f"there is no paragraph {paragraph}, expected 0..{most}", field="paragraph"
            )
        _check_question(question)
        place = self.paragraphs[paragraph]
        example = Example(wanted, paragraph, question, _spans(place.text, spans), not spans)
        with self._changing:
            self._check_open(ticket)
            if wanted not in self._examples and len(self._examples) >= MOST_EXAMPLES:
                message = f"there are {MOST_EXAMPLES:,} examples, and may be no more"
                raise RequestError(422, "too_many", message, field="id")
            articles = _copied(self._articles)
            _put(articles, place, wanted, self._qa(example))
            self._save(articles, tuple(name for name in self._deleted if name != wanted))
            self._examples[wanted] = example
        return example

    def delete(self, wanted: str, ticket: Ticket) -> Example:
        """Take out the example with this id. It is gone from the disk when this returns.

        Raises:
            RequestError: there is none, or the file was changed by another program or cannot be written.
            LateError: time was up before.
        """
        with self._changing:
            self._check_open(ticket)
            if wanted not in self._examples:
                raise RequestError(404, "not_found", "there is no example with this id", field="id")
            articles = _copied(self._articles)
            _remove(articles, wanted)
            self._save(articles, (*self._deleted, wanted) if wanted in self._offered else self._deleted)
            return self._examples.pop(wanted)

    def close(self) -> None:
        """Finish what is being written, write no more, and let another process work on the file."""
        with self._changing:
            self._closed = True
            self._held.close()

    def _open(self, sources: Sources) -> None:
        files.remove_left_overs(self._path.resolve())
        self._digest = _digest(self._path)
        held = [] if self._digest is None else self._read()
        for paragraph in (*sources.paragraphs, *_squad_paragraphs(self._articles, self.name)):
            if paragraph.text not in self._places:
                self._places[paragraph.text] = len(self.paragraphs)
                self.paragraphs.append(paragraph)
        characters = sum(map(len, self._places))
        if characters > MOST_CHARACTERS:
            raise _too_much(f"{characters:,} characters of paragraphs", MOST_CHARACTERS)
        for question in held:
            self._take(question, self._path)
        new = self._import([question for question in sources.questions if _key(question.id) not in self._deleted])
        if len(self._examples) > MOST_EXAMPLES:
            raise _too_much(f"{len(self._examples):,} questions", MOST_EXAMPLES)
        if new:
            articles = _copied(self._articles)
            _add(articles, [(self.paragraphs[example.paragraph], self._qa(example)) for example in new])
            self._write(articles, self._deleted)

    def _read(self) -> list[Question]:
        """Take over what the file holds; gives its questions."""
        raw = _squad(self._path)
        if raw is None:
            raise DataError("holds no labels", file=self._path, expected="a file of the SQuAD shape, or a new one")
        found = []
        for row in rows(self._path):
            try:
                example = parse_row(row, contexts=None)
            except DataError as error:
                raise error.located(file=self._path, row=row.id) from None
            found.append(_question(example, example.answers))
        self._articles = raw.pop("data")
        deleted = raw.pop(DELETED, [])
        if not isinstance(deleted, list) or not all(isinstance(name, str) for name in deleted):
            raise DataError("wrong type", file=self._path, field=DELETED, expected="a list of texts")
        self._deleted = tuple(deleted)
        self._head = raw
        return found

    def _import(self, questions: Iterable[Question]) -> list[Example]:
        """Take what the sources bring and the file has not; gives what is labelled of it."""
        known = set(self._examples)
        return [
            example
            for question in questions
            if _key(question.id) not in known and not (example := self._take(question, "the files given")).is_open
        ]

    def _take(self, question: Question, file: str | Path) -> Example:
        key = _key(question.id)
        if key in self._examples:
            raise DataError("repeated id", file=file, row=question.id, field="id", expected="one question an id")
        place = self._places[question.context]
        answers = tuple(dict.fromkeys(question.answers))
        self._examples[key] = Example(key, place, question.question, answers, question.is_impossible)
        return self._examples[key]

    def _qa(self, example: Example) -> dict[str, Any]:
        """An example as the SQuAD shape has it, with the id that it came with."""
        return {
            "id": self._offered.get(example.id, example.id),
            "question": example.question,
            "answers": [{"text": span.text, "answer_start": span.start} for span in example.answers],
            "is_impossible": example.is_impossible,
        }

    def _check_open(self, ticket: Ticket) -> None:
        ticket.check()
        if self._closed:
            raise StoppedError

    def _check_unchanged(self) -> None:
        try:
            same = _digest(self._path) == self._digest
        except DataError as error:
            log.error("the labels cannot be read: %s", error)
            raise _unwritable() from None
        if not same:
            message = "another program has changed the file since; start zhaiju label again to go on from what it holds"
            raise RequestError(409, "changed", message)

    def _save(self, articles: list[dict[str, Any]], deleted: tuple[str, ...]) -> None:
        self._check_unchanged()
        try:
            self._write(articles, deleted)
        except OutputError as error:
            log.error("the labels cannot be written: %s", error)
            raise _unwritable() from None

    def _write(self, articles: list[dict[str, Any]], deleted: tuple[str, ...]) -> None:
        """Write the file, and if that went well, take it for what is there."""
        content = _rendered(self._head, articles, deleted)
        files.write_text(self._path, content)
        self._digest = sha256(content.encode("utf-8", "backslashreplace")).hexdigest()
        self._articles, self._deleted = articles, deleted


# --- sources


def _shown(paragraph: Paragraph) -> Paragraph:
    """A paragraph whose document has a name without a path of the server, and without bytes that are no text."""
    paragraph = shown_paragraph(paragraph)
    return replace(paragraph, document=_plain(paragraph.document))


def _is_data(path: Path) -> bool:
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in JSONL_SUFFIXES or (suffix == ".json" and not is_list_of_texts(path)))


def _read_data(path: Path, context: Path | None, sources: Sources, warn: Callable[[str], None]) -> None:
    beside = context or context_file(path)
    contexts = load_contexts(beside) if beside else None
    squad = _squad(path)
    if squad is not None:
        sources.paragraphs += _squad_paragraphs(squad["data"], _plain(path.name))
    log = ReadLog()
    moved = lost = read = 0
    for row in rows(path):
        try:
            example = parse_row(row, contexts=contexts, log=log)
        except DataError as error:
            log.skipped.append(error.located(file=path, row=row.id))
            log.misaligned.clear()
            continue
        read += 1
        if squad is None:
            sources.paragraphs += [Paragraph(one.text, _plain(path.name)) for one in example.contexts]
        found = [Span(one.text, one.nearest) for one in log.misaligned if one.nearest is not None]
        moved, lost = moved + len(found), lost + len(log.misaligned) - len(found)
        log.misaligned.clear()
        sources.questions.append(_question(example, (*example.answers, *found)))
    if log.skipped and not read:
        raise log.skipped[0]
    if log.skipped:
        warn(f"{len(log.skipped)} faulty rows left out, first {log.skipped[0]}")
    if moved:
        warn(f"{path}: {moved} answers did not stand at their offset; they moved to the nearest place that has them")
    if lost:
        warn(f"{path}: {lost} answers do not stand in their paragraph and were left out")


def _squad(path: Path) -> dict[str, Any] | None:
    """A whole file of the SQuAD shape, each of whose parts is of the right type; None: of another layout.

    Raises:
        DataError: it is not JSON, or not what the shape promises.
    """
    if path.suffix.lower() in JSONL_SUFFIXES:
        return None
    with open_text(path) as stream:
        cursor = JSONStream(stream, path)
        if cursor.peek() != "{":
            return None
        raw = cursor.value()
        cursor.end()
    for _ in rows(path):  # it looks at every part
        pass
    return dict(raw)


def _squad_paragraphs(articles: Iterable[Mapping[str, Any]], name: str) -> Iterator[Paragraph]:
    """The paragraphs, each under its article's title; `name` where there is none."""
    for article in articles:
        title = article.get("title")
        document = title if isinstance(title, str) and title.strip() else name
        yield from (Paragraph(paragraph["context"], document) for paragraph in article["paragraphs"])


def _question(example: QAExample, answers: tuple[Span, ...]) -> Question:
    place = example.relevant
    if place is None:
        best = BM25([one.text for one in example.contexts]).top(example.question, 1)
        place = best[0][0] if best else 0
    return Question(example.id, example.question, example.contexts[place].text, answers, example.impossible)


# --- the file's content


def _key(name: str) -> str:
    """The id under which clients see a question of any id."""
    return name if ID.fullmatch(name) else f"x-{sha256(name.encode()).hexdigest()[:32]}"


def _copied(articles: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Articles whose lists of paragraphs and questions may be changed; the old ones stay if these cannot be written."""
    return [
        article | {"paragraphs": [paragraph | {"qas": list(paragraph["qas"])} for paragraph in article["paragraphs"]]}
        for article in articles
    ]


def _put(articles: list[dict[str, Any]], place: Paragraph, key: str, question: dict[str, Any]) -> None:
    """Replace the question with a key where it stands, or move it to another paragraph, or add it.

    It keeps its id, and what else is known of it.
    """
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        for index, before in enumerate(paragraph["qas"]):
            if _key(str(before["id"])) != key:
                continue
            rest = {name: value for name, value in before.items() if name not in ("answer", "plausible_answers")}
            question = rest | question | {"id": before["id"]}
            if paragraph["context"] == place.text:
                paragraph["qas"][index] = question
                return
            _remove(articles, key)
            _add(articles, [(place, question)])
            return
    _add(articles, [(place, question)])


def _add(articles: list[dict[str, Any]], added: Iterable[tuple[Paragraph, dict[str, Any]]]) -> None:
    """Add questions, each to its paragraph; a new one to the first article that has its document's name as title."""
    titles = {title: article for article in reversed(articles) if isinstance(title := article.get("title"), str)}
    contexts = {
        paragraph["context"]: paragraph for article in reversed(articles) for paragraph in article["paragraphs"]
    }
    for place, question in added:
        title = place.document
        if place.text not in contexts:
            if title not in titles:
                titles[title] = {"title": title, "paragraphs": []}
                articles.append(titles[title])
            contexts[place.text] = {"context": place.text, "qas": []}
            titles[title]["paragraphs"].append(contexts[place.text])
        contexts[place.text]["qas"].append(question)


def _remove(articles: list[dict[str, Any]], key: str) -> None:
    """Remove a question, and its paragraph and article where nothing else is in them."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            left = [question for question in paragraph["qas"] if _key(str(question["id"])) != key]
            if len(left) < len(paragraph["qas"]):
                paragraph["qas"] = left
                if not left:
                    article["paragraphs"] = [one for one in article["paragraphs"] if one is not paragraph]
                if not article["paragraphs"]:
                    articles[:] = [one for one in articles if one is not article]
                return


def _rendered(head: Mapping[str, Any], articles: Iterable[Mapping[str, Any]], deleted: Sequence[str]) -> str:
    """The file's content, a paragraph a line."""
    rest = dict(head) | ({DELETED: deleted} if deleted else {})
    told = []
    for article in articles:
        about = {name: value for name, value in article.items() if name != "paragraphs"}
        paragraphs = ",".join(f"\n{_json(paragraph)}" for paragraph in article["paragraphs"])
        told.append(f'\n{_opened(about)}"paragraphs": [{paragraphs}]}}')
    return f'{_opened(rest)}"data": [{",".join(told)}]}}\n'


def _opened(values: Mapping[str, Any]) -> str:
    """A JSON object as far as its next key."""
    return "{" + "".join(f"{_json(name)}: {_json(value)}, " for name, value in values.items())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(name: str) -> str:
    """A name without bytes of a path that are no text."""
    return name.encode("utf-8", "replace").decode()


# --- checks


def _check_question(question: str) -> None:
    try:
        check_text(question, "question")
    except DataError as error:
        raise RequestError(422, "invalid", error.problem, field="question") from None


def _spans(text: str, given: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    at_most(len(given), MOST_ANSWERS, "answers", "answers")
    found: list[Span] = []
    for place, (start, end) in enumerate(given):
        name = f"answers[{place}]"
        for part, value in (("start", start), ("end", end)):
            if not 0 <= value <= len(text):
                message = f"{value} is not in the paragraph, expected 0..{len(text)}"
                raise RequestError(422, "invalid", message, field=f"{name}.{part}")
        if not text[start:end].strip():
            raise RequestError(422, "invalid", "there is no visible character in it", field=name)
        span = Span(text[start:end], start)
        if span in found:
            raise RequestError(422, "invalid", f"the same as answers[{found.index(span)}]", field=name)
        found.append(span)
    return tuple(found)


def _unwritable() -> RequestError:
    return RequestError(503, "unwritable", "the file cannot be written now; the log says more", retry=RETRY_SECONDS)


def _too_much(found: str, most: int) -> DataError:
    return DataError("too much to label", found=verbatim(found), expected=f"at most {most:,}")


# --- the file


def _digest(path: Path) -> str | None:
    """What a file's content hashes to; None if there is none."""
    try:
        return files.fingerprint(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from None


def _alone(path: Path) -> AbstractContextManager[None]:
    """Keep other processes from labelling into a file.

    The lock is a file of its own, since the one it is for is replaced with each change.
    """
    target = path.resolve()
    taken = OutputError(f"cannot write {path}: another zhaiju label works on it")
    return files.lock(target.with_name(f".{target.name}.lock"), taken)
