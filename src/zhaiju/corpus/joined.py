"""select and read joined with what was fitted for the pair: the one place where a reader gets its selector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from zhaiju.corpus.confidence import confidence_model
from zhaiju.corpus.features import ranking
from zhaiju.inference.answer import PIPELINE, Answerer, Shortcuts, load_joint
from zhaiju.inference.engine import Predictor
from zhaiju.modeling.checkpoint import STARTER, Checkpoint
from zhaiju.tasks import SelectTask
from zhaiju.tasks.base import Task


@dataclass(frozen=True, slots=True)
class Joined:
    """A reader and its selector.

    Attributes:
        answerer: Both.
        reader: The reader's checkpoint.
        selector: The selector's; None: the lexical ranking selects.
        fitted: Whether k and λ were fitted for the pair, and are used.
    """

    answerer: Answerer
    reader: Checkpoint
    selector: Checkpoint | None
    fitted: bool

    @property
    def where(self) -> tuple[str, str | None]:
        """The directories or hub ids of both."""
        return self.reader.where, None if self.selector is None else self.selector.where

    def weigh(self, k: int | None, weight: float | None) -> None:
        """Put another k, another λ, or both in the place of those in use."""
        now = self.answerer.joint
        self.answerer.joint = replace(now, k=now.k if k is None else k, weight=now.weight if weight is None else weight)


def join_up(
    load: Callable[[str, str], tuple[Predictor, Checkpoint]],
    reader: str,
    selector: str | None = None,
    *,
    pipeline: bool = False,
    refit: bool = False,
    shortcuts: Shortcuts | None = None,
    **settings: Any,
) -> Joined:
    """Load a reader and its selector.

    Args:
        load: Loads a checkpoint for a task.
        reader: The reader.
        selector: The selector; None or "starter": the lexical ranking.
        pipeline: Read only what the selector chose.
        refit: Leave aside what was fitted for the pair.
        shortcuts: What a trained selector need not look at.
        settings: Of the span search; None: as trained.

    Raises:
        CheckpointError, ConfigError: one of them cannot be loaded, or cannot do this.
    """
    reading, checkpoint = load(reader, "read")
    selecting: Predictor = ranking()
    select_task: Task[Any, Any] = SelectTask()
    chosen = lexical = None
    if selector not in (None, STARTER):
        lexical = ranking().scores
        selecting, chosen = load(selector, "select")
        select_task = chosen.task("select")
    fitted = None
    if not (pipeline or refit):
        fitted = load_joint(checkpoint.where, None if chosen is None else chosen.where)
    answerer = Answerer(
        reading,
        selecting,
        read_task=checkpoint.task("read", **settings),
        select_task=select_task,
        joint=fitted or PIPELINE,
        lexical=lexical,
        shortcuts=shortcuts,
        confidence=confidence_model(checkpoint.where, None if chosen is None else chosen.where),
    )
    return Joined(answerer, checkpoint, chosen, fitted is not None)
