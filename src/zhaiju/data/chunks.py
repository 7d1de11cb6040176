"""Windows of similar length, stacked into arrays: what a forward pass takes. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zhaiju.data.encoding import Window

PADDING_TOLERATED = 0.04
STEPS = ((64, 1), (256, 4))  # up to so many tokens, a multiple of so many; of 8 above


@dataclass(slots=True)
class Chunk:
    """Windows of similar length, padded to the longest.

    Attributes:
        input_ids: int64 [n, T].
        token_type_ids: int64 [n, T].
        attention_mask: int64 [n, T], 1 for tokens, 0 for padding.
        answerable: bool [n, T], tokens that may begin or end an answer: the context's, and the first, which
            stands for "no answer".
        rows: Place of each window in its batch.
    """

    input_ids: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    answerable: npt.NDArray[np.bool_]
    rows: list[int]


def padded(length: int, most: int) -> int:
    """A length rounded up to one of a hundred or so, but not beyond `most`.

    Libraries keep what they compute with for each shape that they see: oneDNN, in PyTorch, for the last 1,024 products
    of matrices.
    """
    step = next((step for tokens, step in STEPS if length <= tokens), 8)
    return max(length, min(length + -length % step, most))


def pad(windows: Sequence[Window], pad_id: int, rows: Sequence[int] = (), *, most: int = 0) -> Chunk:
    """Stack windows into one chunk.

    Args:
        windows: At least one.
        pad_id: Token to pad with.
        rows: See `Chunk`.
        most: See `padded`; 0: pad to the longest.
    """
    longest = max(map(len, windows))
    shape = len(windows), padded(longest, most)
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    token_type_ids = np.zeros(shape, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    answerable = np.zeros(shape, dtype=np.bool_)
    for row, window in enumerate(windows):
        length = len(window)
        input_ids[row, :length] = window.input_ids
        token_type_ids[row, :length] = window.token_type_ids
        attention_mask[row, :length] = 1
        answerable[row, :length] = window.starts >= 0
    answerable[:, 0] = True
    return Chunk(input_ids, token_type_ids, attention_mask, answerable, list(rows))


def arrays(chunk: Chunk) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What `Network.logits` takes, in its order."""
    return chunk.input_ids, chunk.token_type_ids, chunk.attention_mask
