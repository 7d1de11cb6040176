"""Paragraphs on disk: a LanceDB table that follows its documents and is searched without being read into memory.

A row is a paragraph. What is searched are its terms (`lexical.terms`), put down with spaces between them, so that
Lance's BM25 ranks as our own does; with an `Embedding` its vector too, and the two rankings are fused by reciprocal
ranks (Cormack and others, 2009).

A change of documents is one commit of Lance: whoever reads sees all of it or nothing, and a writer that is killed
leaves the last commit. In a local folder a lock lets one process write at a time. Elsewhere (`s3://…`) Lance itself
refuses what would overwrite another's commit.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zhaiju.corpus import cluster
from zhaiju.corpus.lexical import terms
from zhaiju.data.storage import check_endpoint, is_local, lock
from zhaiju.errors import ConfigError, DataError, OutputError, ZhaijuError, library, verbatim

if TYPE_CHECKING:
    from zhaiju.corpus.documents import Paragraph

VERSION = "1"
BATCH_DOCUMENTS = 256
BATCH_PARAGRAPHS = 2_000
BATCH_SECONDS = 10.0  # so that a slow reading of documents that is killed loses no more than that
CANDIDATES = 50
PLACES = ("local", "ray")  # where the full-text index can be built
KEPT = timedelta(hours=1)  # how long an old version stays for those who still read it

_TABLE = "paragraphs"
_FUSION = 60
_WORDS = "terms_idx"  # Lance's name for the full-text index of the column "terms"
_PLAIN = {
    "base_tokenizer": "whitespace",
    "max_token_length": None,
    "lower_case": False,
    "stem": False,
    "remove_stop_words": False,
    "ascii_folding": False,
}
_SHOWN = ["text", "document", "line", "page", "number", "heading"]
_NO_EMBEDDING = "none"
_KEY = "lance-schema:unenforced-primary-key"
_NO_MARKER = "text IS NOT NULL"
# Lance asks six times over, each with these, before it gives up; with its own it would take minutes.
_HASTY = {"connect_timeout": "2s", "timeout": "5s", "client_max_retries": "0"}


@dataclass(frozen=True, slots=True)
class Embedding:
    """Turns texts into vectors.

    Attributes:
        name: Of the encoder; an index is only ever used with the one it was made with.
        dimension: Numbers in a vector.
        embed: Texts to vectors of any length but 0: [texts, dimension].
    """

    name: str
    dimension: int
    embed: Callable[[Sequence[str]], npt.NDArray[np.floating]]

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of length 1: float32 [texts, dimension].

        Raises:
            ConfigError: `embed` gives another shape, or what is no number.
        """
        made: npt.NDArray[np.float32] = np.array(self.embed(texts), dtype=np.float32)
        if made.shape != (len(texts), self.dimension) or not np.isfinite(made).all():
            raise ConfigError(f"{self.name} gave {made.shape}, expected finite vectors {(len(texts), self.dimension)}")
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        made /= np.where(lengths > 0, lengths, 1)
        return made


@dataclass(frozen=True, slots=True)
class Found:
    """A paragraph that answers a search.

    Attributes:
        paragraph: It.
        score: What it is ranked by, the higher the better (see `Index.search`).
    """

    paragraph: Paragraph
    score: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as it is now: its name, the digest of its content, its paragraphs in order."""

    document: str
    digest: str
    paragraphs: Sequence[Paragraph]


@dataclass(frozen=True, slots=True)
class Stored:
    """A document in an index: its name, the digest it had, how many paragraphs it has."""

    document: str
    digest: str
    paragraphs: int


@dataclass(slots=True)
class Changes:
    """How many documents a `sync` found in which state."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: int = 0


class Index:
    """Paragraphs that can be searched; made by `Index.open`."""

    def __init__(self, table: Any, uri: str, embedding: Embedding | None) -> None:
        self._table = table
        self._embedding = embedding
        self._locked = False
        self.uri = uri

    @classmethod
    def open(cls, uri: str, *, create: bool = False, embedding: Embedding | None = None) -> Index:
        """Open an index.

        Args:
            uri: A folder, or an address that LanceDB understands, such as `s3://bucket/index`.
            create: Make it if there is none.
            embedding: Search by vectors too. An index has them only if it was made with an embedding.

        Raises:
            DataError: there is no index, or not one of this version.
            ConfigError: it was made with another embedding, or lancedb is not installed.
            OutputError: it cannot be made.
        """
        table = _opened(uri)
        if table is None and not create:
            raise DataError("holds no index", file=uri)
        if table is None:
            with lock(uri), _writing(uri):
                table = _opened(uri) or _created(uri, embedding)
        _check(table, uri, embedding)
        return cls(table, uri, embedding)

    @property
    def count(self) -> int:
        """Number of paragraphs."""
        with _reading(self.uri):
            return int(self._table.count_rows(_NO_MARKER))

    def documents(self) -> list[Stored]:
        """The documents in the order of their names."""
        rows = self._rows({"document": "document", "digest": "digest", "holds": _NO_MARKER})
        counts: dict[tuple[str, str], int] = {}
        for document, digest, holds in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            counts[document, digest] = counts.get((document, digest), 0) + holds
        return [Stored(*key, count) for key, count in sorted(counts.items())]

    def paragraphs(self, document: str) -> list[Paragraph]:
        """A document's paragraphs in order; none if it is not in the index."""
        rows = self._rows(
            {name: name for name in (*_SHOWN, "place")}, f"{_NO_MARKER} AND {_among([document])}"
        ).to_pylist()
        return [_paragraph(row) for row in sorted(rows, key=lambda row: row["place"])]

    def _rows(self, columns: dict[str, str], where: str | None = None) -> Any:
        with _reading(self.uri):
            query = self._table.search().select(columns)
            return (query.where(where) if where else query).to_arrow()

    def search(self, question: str, k: int) -> list[Found]:
        """The best `k` paragraphs, best first, fewer where fewer share anything with the question.

        The score is BM25's, or with an embedding the sum of 1 / (60 + rank) over both rankings.
        """
        if k < 1:
            return []
        limit = max(k, CANDIDATES)
        if self._embedding is None:
            with _reading(self.uri):
                found = _by_words(self._table, question, limit)
        else:
            vector = self._embedding.vectors([question])[0]
            with _reading(self.uri):
                found = _fused([_by_words(self._table, question, limit), _by_vector(self._table, vector, limit)])
        return [Found(_paragraph(row), score) for row, score in found[:k]]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep every other process from writing until the end of the block.

        Raises:
            OutputError: another one is writing.
        """
        if self._locked:
            yield
            return
        with lock(self.uri):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def commit(self, entries: Sequence[Entry], removed: Sequence[str] = ()) -> None:
        """Put documents in the place of what they were, and remove others, all at once or not at all.

        Raises:
            DataError: a name or a text is no Unicode, or a document is named twice.
            OutputError: it cannot be written, or another process is writing.
        """
        names = [*(entry.document for entry in entries), *removed]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError("is named twice in one commit", file=twice)
        for entry in entries:
            _check_unicode(entry)
        with _writing(self.uri):
            schema = self._table.schema
        rows = self._arrow(entries, schema)
        with self.writing(), _writing(self.uri):
            _with_words(self._table)
            if entries:
                merge = self._table.merge_insert(["document", "place"])
                merge = merge.when_matched_update_all().when_not_matched_insert_all()
                merge.when_not_matched_by_source_delete(_among(names)).execute(rows)
            elif removed:
                self._table.delete(_among(names))

    def update(self, document: str, digest: str, paragraphs: Sequence[Paragraph]) -> None:
        """Add a document or put it in the place of what it was; for many of them `commit` is quicker."""
        self.commit([Entry(document, digest, paragraphs)])

    def remove(self, document: str) -> None:
        """Remove a document; nothing happens if it is not there."""
        self.commit([], [document])

    @property
    def is_optimised(self) -> bool:
        """Whether the full-text index holds every row; others are found too, but slower."""
        with _reading(self.uri):
            statistics = self._table.index_stats(_WORDS)
        return statistics is not None and statistics.num_unindexed_rows == 0

    def optimise(self, *, on: str = "local") -> None:
        """Join small files, index what is not indexed yet, delete what has been superseded for an hour.

        Args:
            on: Of `PLACES`: this process, or a Ray cluster (see `corpus.cluster`), which indexes everything anew.

        Raises:
            ConfigError: there is no such place, or what it needs is not installed.
            OutputError: it cannot be written, or another process is writing.
        """
        check_place(on)
        with self.writing(), _writing(self.uri):
            _with_words(self._table)
            if on == "local" or not self._table.count_rows():  # lance-ray builds no index of nothing
                self._table.optimize(cleanup_older_than=KEPT)
            else:
                cluster.build(self._table.uri, "terms", name=_WORDS, settings=_PLAIN, kept=KEPT)

    def _arrow(self, entries: Sequence[Entry], schema: Any) -> Any:
        rows: dict[str, list[Any]] = {name: [] for name in schema.names if name != "vector"}
        for entry in entries:
            # A document without paragraphs has a row too, a marker, or it would be read again and again.
            for place, paragraph in enumerate(entry.paragraphs or [None]):
                rows["document"].append(entry.document)
                rows["digest"].append(entry.digest)
                rows["place"].append(place)
                rows["terms"].append("" if paragraph is None else " ".join(terms(paragraph.text)))
                for name in ("text", "line", "page", "number", "heading"):
                    rows[name].append(getattr(paragraph, name, None))
        columns: dict[str, Any] = dict(rows)
        if self._embedding is not None:
            given = [place for place, text in enumerate(rows["text"]) if text is not None]
            vectors = np.zeros((len(rows["text"]), self._embedding.dimension), dtype=np.float32)
            if given:
                vectors[given] = self._embedding.vectors([rows["text"][place] for place in given])
            columns["vector"] = list(vectors)
        return library("pyarrow").table(columns, schema=schema)


def sync(
    index: Index,
    documents: Iterable[tuple[str, str]],
    read: Callable[[str], Sequence[Paragraph]],
    *,
    prune_under: Sequence[str] = (),
    on: str = "local",
    failed: Callable[[str, ZhaijuError], None] = lambda document, error: None,
    progress: Callable[[str], None] = lambda document: None,
) -> Changes:
    """Make an index follow its documents. What was killed goes on where its last commit was.

    Args:
        index: It; locked against other writers meanwhile.
        documents: The name of each document there is, and a digest of its content.
        read: Called with the name of those that are new or whose digest is another.
        prune_under: Folders; a document in the index that is under one of them, or is one of them, but not among
            `documents` is removed. "" is above all.
        on: Where the full-text index is built in the end, "local" or "ray" (see `Index.optimise`).
        failed: Called with a document that could not be read. What the index holds of it stays.
        progress: Called with each document once it is dealt with.

    Raises:
        ConfigError: the index cannot be built there.
        OutputError: the index cannot be written, or another process is writing to it.
    """
    check_place(on)
    changes = Changes()
    with index.writing():
        known = {stored.document: stored.digest for stored in index.documents()}
        batch = _Batch(index)
        seen: set[str] = set()
        for document, digest in documents:
            if document in seen:
                continue
            seen.add(document)
            if known.get(document) == digest:
                changes.unchanged += 1
            else:
                try:
                    entry = Entry(document, digest, read(document))
                    _check_unicode(entry)
                except DataError as error:
                    changes.failed += 1
                    failed(document, error)
                else:
                    batch.add(entry)
                    changes.changed += document in known
                    changes.added += document not in known
            progress(document)
        gone = [name for name in known if name not in seen and any(is_under(name, folder) for folder in prune_under)]
        changes.removed = len(gone)
        batch.commit(gone)
        if batch.commits or not index.is_optimised:
            index.optimise(on=on)
    return changes


@dataclass(slots=True)
class _Batch:
    """Documents that will be committed together."""

    index: Index
    entries: list[Entry] = field(default_factory=list)
    paragraphs: int = 0
    began: float = field(default_factory=time.monotonic)
    commits: int = 0

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.paragraphs += len(entry.paragraphs)
        late = time.monotonic() - self.began > BATCH_SECONDS
        if late or len(self.entries) >= BATCH_DOCUMENTS or self.paragraphs >= BATCH_PARAGRAPHS:
            self.commit()

    def commit(self, removed: Sequence[str] = ()) -> None:
        if self.entries or removed:
            self.index.commit(self.entries, removed)
            self.commits += 1
        self.entries, self.paragraphs, self.began = [], 0, time.monotonic()


def check_place(on: str) -> None:
    """Raise an error unless the full-text index can be built there: one of `PLACES`, with what it needs."""
    if on not in PLACES:
        raise ConfigError(f"an index is built on {on!r}, expected {' or '.join(PLACES)}")
    if on == "ray":
        cluster.check_installed()


def is_under(document: str, folder: str) -> bool:
    """Whether a document is in a folder, or is what is named; "" is above all."""
    folder = folder.rstrip("/")
    return not folder or document == folder or document.startswith(f"{folder}/")


def _by_words(table: Any, question: str, limit: int) -> list[tuple[dict[str, Any], float]]:
    """The best rows and their BM25 scores."""
    asked = " ".join(dict.fromkeys(terms(question)))
    if not asked:
        return []
    query = table.search(library("lancedb.query").MatchQuery(asked, "terms"), query_type="fts")
    rows = query.select([*_SHOWN, "place", "_score"]).limit(limit).to_list()
    return _ordered((row, row["_score"]) for row in rows)


def _by_vector(table: Any, vector: npt.NDArray[np.float32], limit: int) -> list[tuple[dict[str, Any], float]]:
    query = table.search(vector, vector_column_name="vector").distance_type("dot").where(_NO_MARKER)
    rows = query.select([*_SHOWN, "place", "_distance"]).limit(limit).to_list()
    return _ordered((row, 1 - row["_distance"]) for row in rows)


def _fused(rankings: Sequence[Sequence[tuple[dict[str, Any], float]]]) -> list[tuple[dict[str, Any], float]]:
    """Rows by the sum of 1 / (60 + rank), the first rank being 1."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    scores: dict[tuple[str, int], float] = {}
    for ranking in rankings:
        for rank, (row, _) in enumerate(ranking, 1):
            key = _key(row)
            rows.setdefault(key, row)
            scores[key] = scores.get(key, 0.0) + 1 / (_FUSION + rank)
    return _ordered((row, scores[key]) for key, row in rows.items())


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return row["document"], row["place"]


def _ordered(rows: Iterable[tuple[dict[str, Any], float]]) -> list[tuple[dict[str, Any], float]]:
    """Best first; of equal ones by name and place, whatever the order on disk."""
    return sorted(rows, key=lambda pair: (-pair[1], pair[0]["document"], pair[0]["place"]))


def _paragraph(row: dict[str, Any]) -> Paragraph:
    from zhaiju.corpus.documents import Paragraph

    return Paragraph(**{name: row[name] for name in _SHOWN})


def _among(documents: Sequence[str]) -> str:
    """An SQL condition for some documents' rows."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in documents)
    return f"document IN ({quoted})"


def _check_unicode(entry: Entry) -> None:
    for text in (entry.document, entry.digest, *(part for p in entry.paragraphs for part in (p.text, p.heading or ""))):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            bad = verbatim(f"{text[error.start]!r} at character {error.start}")
            raise DataError("is no Unicode", file=ascii(entry.document)[1:-1], found=bad) from None


# --- the table


def _schema(embedding: Embedding | None) -> Any:
    pa = library("pyarrow")
    columns = [
        pa.field("document", pa.string(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),  # in the document, from 0
        pa.field("digest", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("terms", pa.string(), nullable=False),
        pa.field("line", pa.int32()),
        pa.field("page", pa.int32()),
        pa.field("number", pa.int32()),
        pa.field("heading", pa.string()),
    ]
    if embedding is not None:
        columns.append(pa.field("vector", pa.list_(pa.float32(), embedding.dimension)))
    # With a key, Lance sees that two writers without a lock add the same document; else both would be kept.
    for place, column in enumerate(columns[:2], 1):
        key = {_KEY: "true", f"{_KEY}:position": str(place)}
        columns[place - 1] = column.with_metadata(key)
    return pa.schema(columns, metadata={"zhaiju.version": VERSION, "zhaiju.embedding": _described(embedding)})


def _described(embedding: Embedding | None) -> str:
    return _NO_EMBEDDING if embedding is None else f"{embedding.name} ({embedding.dimension})"


def is_index(path: str) -> bool:
    """Whether a local folder holds an index: its table has a version, which a making that was stopped has not."""
    versions = os.path.join(path, f"{_TABLE}.lance", "_versions")
    return os.path.isdir(versions) and any(name.endswith(".manifest") for name in os.listdir(versions))


def exists(uri: str) -> bool:
    """Whether there is an index at an address, which is asked where it is not a local folder.

    Raises:
        DataError: it cannot be asked.
    """
    return is_index(uri) if is_local(uri) else _opened(uri) is not None


def _opened(uri: str) -> Any:
    """The table, None if there is none."""
    if is_local(uri) and not is_index(uri):
        return None
    try:
        if not is_local(uri):
            check_endpoint(uri)
            _connect(uri, _HASTY).open_table(_TABLE)
        return _connect(uri).open_table(_TABLE)
    except ValueError as error:
        if "not found" in str(error):
            return None
        raise DataError("cannot be read as an index", file=uri, found=_found(error)) from None
    except (OSError, RuntimeError) as error:
        raise DataError("cannot be read as an index", file=uri, found=_found(error)) from None


def _created(uri: str, embedding: Embedding | None) -> Any:
    table = _connect(uri).create_table(_TABLE, schema=_schema(embedding))
    _with_words(table)
    return table


def _connect(uri: str, options: dict[str, str] | None = None) -> Any:
    lancedb = library("lancedb")
    with _reading(uri):  # every search sees the last commit
        return lancedb.connect(uri, read_consistency_interval=timedelta(0), storage_options=options)


def _with_words(table: Any) -> None:
    """Make the full-text index where there is none: before the first row, so that no reader ever misses it."""
    if any(index.name == _WORDS for index in table.list_indices()):
        return
    table.create_index("terms", config=library("lancedb.index").FTS(**_PLAIN), name=_WORDS)


def _check(table: Any, uri: str, embedding: Embedding | None) -> None:
    """Raise an error unless a table is of this version and was made with this embedding."""
    with _reading(uri):
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if (version := metadata.get("zhaiju.version")) != VERSION:
        raise DataError("is an index of another version; make it anew", file=uri, found=version, expected=VERSION)
    made, wanted = metadata.get("zhaiju.embedding", _NO_EMBEDDING), _described(embedding)
    if made == wanted:
        return
    if made == _NO_EMBEDDING:
        raise ConfigError(
            f"{uri}: the index holds no vectors; leave the embedder {wanted} out, or make it anew with it"
        )
    name = made.rpartition(" (")[0]
    other = "" if embedding is None else f", not by {wanted}"
    raise ConfigError(f"{uri}: the index holds vectors by {made}{other}; open it with --embedder {name}")


# --- locks and errors

_MEANINGS = [
    (r"<Code>(\w+)</Code>", r"\1"),  # S3's own, such as NoSuchBucket
    (r"Failed to get AWS credentials", "no AWS credentials"),
    (r"(?s)kind: Connect,.*message: \\?\"([^\"\\]+)", r"\1"),
    (r"kind: Timeout", "no answer in time"),
    (r"HTTP error: ([^,\n]+)", r"\1"),
    (r"(?i)commit conflict|concurrent", "another process wrote at the same time; run it again"),
]


@contextmanager
def _writing(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(f"cannot write {uri}: {_reason(error)}") from error


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError("cannot be read as an index", file=uri, found=_found(error)) from error


def _found(error: Exception) -> str:
    return verbatim(_reason(error))


def _reason(error: Exception) -> str:
    """What Lance means, which may say it in a page of Rust."""
    said = str(error)
    for pattern, meaning in _MEANINGS:
        if told := re.search(pattern, said):
            return told.expand(meaning)
    return (said.splitlines() or [type(error).__name__])[0][:300]
