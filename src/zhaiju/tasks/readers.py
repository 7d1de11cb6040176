"""Files to examples of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhaiju.data.formats import ReadLog, context_file, load_contexts
from zhaiju.tasks import TASKS


def paragraphs_of(task: str, path: Path, context: Path | None) -> Path | None:
    """The context file that goes with a data file: the one named, or the one beside it; None if it needs none.

    Raises:
        DataError: course rows without any.
    """
    return (context or context_file(path)) if TASKS[task].over_paragraphs else None


@dataclass(slots=True)
class Examples:
    """The examples of a file, read anew each time that they are iterated over, one at a time.

    Of what was read only the ids stay, to refuse one that is repeated. Course rows point into paragraphs that are
    in memory; they are the corpus.

    Attributes:
        read: Gives them.
        count: How many there are; None for what can be read once only, such as a pipe.
        labelled: Whether one of them at least can be scored; True where that is not known either.
        log: What was tolerated; complete once it is known how many there are, or they have been read.
    """

    read: Callable[[ReadLog], Iterator[Any]]
    count: int | None
    labelled: bool
    log: ReadLog

    def __iter__(self) -> Iterator[Any]:
        if self.count is None:
            yield from self.read(self.log)
            return
        log = ReadLog(skip_faulty=self.log.skip_faulty)
        for example in self.read(log):
            yield example
            log.misaligned.clear()  # it is known already
            log.skipped.clear()


def open_examples(
    task: str,
    path: Path,
    *,
    context: Path | None = None,
    split: str | None = None,
    bio: str = "repair",
    skip_faulty: bool = False,
) -> Examples:
    """What the task reads of a file, with the context file found and read, for use one by one.

    A file is read to its end at once, which takes seconds for 100,000 questions: how many there are is then known,
    and so is a fault in the last row, before any work is done.

    Raises:
        DataError: the file does not hold what its layout promises.
    """
    beside = paragraphs_of(task, path, context)
    contexts = load_contexts(beside) if beside else None

    def read(log: ReadLog) -> Iterator[Any]:
        return TASKS[task].read(path, contexts=contexts, split=split, bio=bio, log=log)

    log = ReadLog(skip_faulty=skip_faulty)
    if path.exists() and not path.is_file():  # a pipe can be read once only
        return Examples(read, None, True, log)
    count, labelled = 0, False
    for example in read(log):
        count += 1
        labelled = labelled or TASKS[task].missing(example) is None
    return Examples(read, count, labelled, log)


def read_all(
    task: str,
    path: Path,
    *,
    context: Path | None = None,
    split: str | None = None,
    bio: str = "repair",
    log: ReadLog | None = None,
) -> list[Any]:
    """The same, all of them in memory."""
    beside = paragraphs_of(task, path, context)
    contexts = load_contexts(beside) if beside else None
    return list(TASKS[task].read(path, contexts=contexts, split=split, bio=bio, log=log))
