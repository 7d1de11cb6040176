"""A tool for LangChain: a model asks, documents answer, word for word and with their source."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from zhaiju.corpus.ask import Answer, Paragraphs, Searchable, load_asker
from zhaiju.corpus.documents import read_documents
from zhaiju.corpus.index import Index, is_index
from zhaiju.data.examples import check_text
from zhaiju.errors import ConfigError, DataError, not_installed
from zhaiju.modeling.checkpoint import STARTER

try:
    from langchain_core.tools import StructuredTool, ToolException
except ImportError as error:
    raise (not_installed(error) or error) from error

ABOUT = (
    "Answers a factual question by quoting documents word for word. Gives the quotes, each with the sentence that it "
    "stands in and its source, or says that the documents do not seem to hold the answer."
)
NOTHING = "The documents do not seem to hold the answer."
SHARE = 0.1  # of the best quote's score; a quote below it would only mislead the model
log = logging.getLogger(__name__)


def make_tool(
    source: str | Path | Iterable[str | Path] | Searchable,
    *,
    reader: str = STARTER,
    selector: str | None = None,
    quotes: int = 3,
    name: str = "quote",
    description: str = ABOUT,
) -> StructuredTool:
    """A tool that answers questions from documents.

    What the model reads is a text, a quote a line, without those that are far less likely than the best; the message's
    artifact has them all, as `zhaiju ask --json` prints them. A
    question that cannot be asked (an empty one, one too long) is told to the model as an error of the tool. It may be
    used from several threads, and from `async` code.

    Args:
        source: An index, by its folder or address or opened; or documents and folders of them, which are read now.
        reader: "starter", a run, a checkpoint directory or a hub id.
        selector: A run, a checkpoint directory or a hub id; None: words alone rank the paragraphs.
        quotes: How many quotes at most.
        name: What the model calls it by.
        description: What the model is told of it.

    Raises:
        ZhaijuError: there is no such index or document, or a checkpoint cannot be loaded.
    """
    if quotes < 1:
        raise ConfigError(f"quotes is {quotes}, expected at least 1")
    opened = _open(source)
    asker = load_asker(reader, selector)
    lock = Lock()

    def answer(question: Annotated[str, "The question, one whole sentence."]) -> tuple[str, dict[str, Any]]:
        try:
            check_text(question, "question")
            with lock:
                found = asker.ask(question, opened)
        except DataError as error:
            if error.field != "question":
                raise
            raise ToolException(str(error)) from None
        return _text(found, quotes), found.as_dict(quotes)

    return StructuredTool.from_function(
        answer,
        name=name,
        description=description,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _open(source: str | Path | Iterable[str | Path] | Searchable) -> Searchable:
    if isinstance(source, str | Path):
        if "://" in str(source) or is_index(os.fspath(source)):
            return Index.open(os.fspath(source))
        source = [source]
    if not isinstance(source, Iterable):
        return source
    paths = list(source)
    paragraphs = [one for document in read_documents(paths, warn=log.warning) for one in document]
    if not paragraphs:
        raise DataError("no text in the documents", file=", ".join(map(str, paths)))
    return Paragraphs(paragraphs)


def _text(found: Answer, quotes: int) -> str:
    if not found.found:
        return NOTHING
    told = [one for one in found.quotes[:quotes] if one.score >= SHARE * found.quotes[0].score]
    return "\n".join(f"“{one.text}” ({one.source}): {' '.join(one.sentence.split())}" for one in told)
