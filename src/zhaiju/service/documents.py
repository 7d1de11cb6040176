"""The documents of a service: an index that clients may add to.

Documents that `zhaiju index` put there are named by their paths on the server. These never leave it: a document shows
under the name that a client gave it, or under the base name of its path, and is deleted by an id that says neither.
"""

from __future__ import annotations

import logging
import ntpath
import os
import posixpath
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256

from zhaiju.corpus.documents import Limits, Paragraph, parse_document
from zhaiju.corpus.index import Embedding, Entry, Found, Index
from zhaiju.errors import DataError, OutputError, ZhaijuError
from zhaiju.service.batching import Ticket
from zhaiju.service.limits import RETRY_SECONDS, RequestError

MOST_NAME = 200  # characters
COMMITS = 16  # after which the index is put in order
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as clients see it.

    Attributes:
        id: Says which; the same for the same name.
        name: Its name.
        paragraphs: How many it has.
    """

    id: str
    name: str
    paragraphs: int


def identity(document: str) -> str:
    """A document's id."""
    return sha256(document.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _is_path(document: str) -> bool:
    return posixpath.isabs(document) or ntpath.isabs(document) or bool(ntpath.splitdrive(document)[0])


def shown(document: str) -> str:
    """A document's name without a path of the server."""
    return ntpath.basename(document) if _is_path(document) else document


def shown_paragraph(paragraph: Paragraph) -> Paragraph:
    """A paragraph whose document has its shown name."""
    return replace(paragraph, document=shown(paragraph.document))


class Documents:
    """The documents in an index.

    Args:
        uri: The index.
        create: Make it if there is none.
        embedding: The encoder that it was made with, if it holds vectors.
        limits: What a document may be.

    Raises:
        ZhaijuError: it cannot be opened.
    """

    def __init__(
        self,
        uri: str,
        *,
        create: bool = False,
        embedding: Embedding | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._index = Index.open(uri, create=create, embedding=embedding)
        self._limits = limits or Limits()
        self._writing = threading.Lock()
        self._tidying = ThreadPoolExecutor(1, thread_name_prefix="zhaiju-documents")
        self._commits = 0

    def search(self, question: str, k: int) -> list[Found]:
        """See `Index.search`."""
        try:
            return self._index.search(question, k)
        except ZhaijuError as error:
            raise _unreadable(error) from None

    def list(self) -> Sequence[Document]:
        """All of them, by name."""
        try:
            stored = self._index.documents()
        except ZhaijuError as error:
            raise _unreadable(error) from None
        found = [Document(identity(one.document), shown(one.document), one.paragraphs) for one in stored]
        return sorted(found, key=lambda document: (document.name, document.id))

    def add(self, given: Sequence[tuple[str, bytes]], ticket: Ticket) -> Sequence[Document]:
        """Put documents in, all of them or none; one of the same name is replaced.

        Args:
            given: Name and content of each.
            ticket: Nothing is put in once it is late.

        Raises:
            RequestError: one of them is no document, two have one name, or the index cannot be written.
            LateError: time was up before.
        """
        entries = []
        seen: set[str] = set()
        for place, (name, data) in enumerate(given):
            ticket.check()
            _check_name(name, f"documents[{place}].name")
            if name in seen:
                raise RequestError(422, "invalid", "two documents have this name", field=f"documents[{place}].name")
            seen.add(name)
            try:
                paragraphs = parse_document(data, name, limits=self._limits)
            except DataError as error:
                raise RequestError(422, "invalid", told(error), field=f"documents[{place}]") from None
            if not paragraphs:
                raise RequestError(422, "invalid", "there is no text in it", field=f"documents[{place}]")
            entries.append(Entry(name, sha256(data).hexdigest(), paragraphs))
        with self._writing:
            ticket.check()
            self._commit(entries)
        return [Document(identity(entry.document), entry.document, len(entry.paragraphs)) for entry in entries]

    def delete(self, wanted: str, ticket: Ticket) -> Document:
        """Take out the one with this id.

        Raises:
            RequestError: there is none, or the index cannot be written.
            LateError: time was up before.
        """
        with self._writing:
            ticket.check()
            try:
                stored = self._index.documents()
            except ZhaijuError as error:
                raise _unreadable(error) from None
            for one in stored:
                if identity(one.document) == wanted:
                    self._commit([], [one.document])
                    return Document(wanted, shown(one.document), one.paragraphs)
        raise RequestError(404, "not_found", "there is no document with this id", field="id")

    def check(self) -> None:
        """Raise an error if it cannot be read."""
        try:
            _ = self._index.is_optimised
        except ZhaijuError as error:
            raise _unreadable(error) from None

    def close(self) -> None:
        """End the thread that keeps the index in order."""
        self._tidying.shutdown(wait=True, cancel_futures=True)

    def _commit(self, entries: Sequence[Entry], removed: Sequence[str] = ()) -> None:
        try:
            self._index.commit(entries, removed)
        except DataError as error:
            raise RequestError(422, "invalid", told(error), field="documents") from None
        except OutputError as error:
            log.error("the index cannot be written: %s", error)
            message = "the index cannot be written now; try again"
            raise RequestError(503, "index_busy", message, retry=RETRY_SECONDS) from None
        self._commits += 1
        if self._commits % COMMITS == 0:
            self._tidying.submit(self._tidy)

    def _tidy(self) -> None:
        with self._writing, suppress(ZhaijuError):  # another process may be writing; the next time will do
            self._index.optimise()


def told(error: DataError) -> str:
    """What an error says, without where on the server."""
    return str(DataError(error.problem, found=error.found, expected=error.expected))


def _check_name(name: str, field: str) -> None:
    if len(name) > MOST_NAME:
        raise RequestError(422, "too_long", f"{len(name):,} characters, expected at most {MOST_NAME}", field=field)
    if not name.strip() or not name.isprintable():
        raise RequestError(422, "invalid", "a name is visible characters on one line", field=field)
    if _is_path(name) or os.pardir in name.replace("\\", "/").split("/"):
        raise RequestError(422, "invalid", "a name is no absolute path, and has no .. in it", field=field)


def _unreadable(error: ZhaijuError) -> RequestError:
    log.error("the index cannot be read: %s", error)
    return RequestError(503, "index_unreadable", "the index cannot be read now", retry=RETRY_SECONDS)
