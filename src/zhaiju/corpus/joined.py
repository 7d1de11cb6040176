"""select and read joined with all that belongs to the pair: what was fitted for it, and what words say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from zhaiju.corpus.voices import Weights
from zhaiju.inference.answer import PIPELINE, Answerer, Joint, Lexical, Shortcuts, load_joint
from zhaiju.inference.engine import Engine
from zhaiju.modeling.checkpoint import STARTER, Checkpoint


@dataclass(frozen=True, slots=True)
class Joined:
    """A reader, perhaps with a selector.

    Attributes:
        answerer: Both.
        reader: The reader's checkpoint.
        selector: The selector's directory or hub id.
        weights: Those of the voices beside the selector, if its lexical scores are theirs.
        unfitted: How both are weighed where nothing was fitted for the pair.
        fitted: Whether something was, and is used.
    """

    answerer: Answerer
    reader: Checkpoint
    selector: str | None
    weights: Weights | None
    unfitted: Joint
    fitted: bool

    def weigh(self, k: int | None, weight: float | None) -> None:
        """Put another k, another λ, or both in the place of those in use."""
        now = self.answerer.joint
        self.answerer.joint = replace(now, k=now.k if k is None else k, weight=now.weight if weight is None else weight)


def join_up(
    load: Callable[[str, str], tuple[Engine, Checkpoint]],
    reader: str,
    selector: str | None,
    *,
    lexical: Callable[[Weights | None], Lexical],
    pipeline: bool = False,
    refit: bool = False,
    shortcuts: Shortcuts | None = None,
    max_answer_chars: int | None = None,
) -> Joined:
    """Load a reader and its selector.

    Args:
        load: Loads a checkpoint for a task.
        reader: The reader.
        selector: The selector; None: every candidate is read.
        lexical: Gives the lexical scores, called only where they are wanted: the voices' where they have weights,
            else BM25's.
        pipeline: Read only what the selector chose.
        refit: Leave aside what was fitted for the pair.
        shortcuts: What the selector need not look at.
        max_answer_chars: Longest quote; None: as trained.

    Raises:
        CheckpointError, ConfigError: one of them cannot be loaded, or cannot do this.
    """
    shortcuts = shortcuts or Shortcuts()
    reading, checkpoint = load(reader, "read")
    selecting = where = select_task = weights = fitted = None
    if selector is not None:
        selecting, chosen = load(selector, "select")
        where, select_task = chosen.where, chosen.task("select")
        weights = Weights.load(where)
    if where is not None and not refit and not pipeline:
        fitted = load_joint(checkpoint.where, where, voices=weights is not None)
        if fitted is None and weights is not None and (fitted := load_joint(checkpoint.where, where)):
            weights = None  # fitted with BM25's scores, before there were others
    unfitted = Joint() if weights is None else Joint(lexical=1.0, selector=weights.selector)
    wanted = shortcuts != Shortcuts() or (not pipeline and (weights is not None or selector == STARTER))
    answerer = Answerer(
        reading,
        selecting,
        read_task=checkpoint.task("read", max_answer_chars=max_answer_chars),
        select_task=select_task,
        joint=PIPELINE if pipeline else fitted or unfitted,
        lexical=lexical(weights) if wanted else None,
        shortcuts=shortcuts,
    )
    return Joined(answerer, checkpoint, where, weights, unfitted, fitted is not None)
