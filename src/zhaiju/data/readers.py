"""Which reader serves which task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from zhaiju.data.examples import Context
from zhaiju.data.formats import ReadLog, context_file, load_contexts, read_qa
from zhaiju.data.labelled import read_intents, read_slots


def paragraphs_of(task: str, path: Path, context: Path | None) -> Path | None:
    """The context file that goes with a data file: the one named, or the one beside it; None if it needs none.

    Raises:
        DataError: course rows without any.
    """
    if task in ("intent", "slots"):
        return None
    return context or context_file(path)


def read_examples(
    task: str,
    path: Path,
    *,
    contexts: Sequence[Context] | None = None,
    split: str | None = None,
    bio: str = "repair",
    log: ReadLog | None = None,
) -> Iterator[Any]:
    """The examples of a file for a task, in the file's order.

    Args:
        task: select, read, intent or slots.
        path: The file.
        contexts: select and read: the paragraphs that course rows point into.
        split: intent: which part of a CLINC150 file (train, val or test).
        bio: slots: what to do about a malformed tag, strict or repair.
        log: Receives what was tolerated.

    Raises:
        DataError: the file does not hold what its layout promises.
    """
    if task == "intent":
        return read_intents(path, split=split, log=log)
    if task == "slots":
        return read_slots(path, bio=cast(Literal["strict", "repair"], bio), log=log)
    return read_qa(path, contexts=contexts, log=log)


def read_all(
    task: str,
    path: Path,
    *,
    context: Path | None = None,
    split: str | None = None,
    bio: str = "repair",
    log: ReadLog | None = None,
) -> list[Any]:
    """`read_examples` with the context file found and read."""
    beside = paragraphs_of(task, path, context)
    contexts = load_contexts(beside) if beside else None
    return list(read_examples(task, path, contexts=contexts, split=split, bio=bio, log=log))
