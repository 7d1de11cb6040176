"""An encoder with a task's head: arrays of token ids in, logits or a loss out.

The class axis is last: select [items, choices], read [windows, 2, tokens]. So one masked cross-entropy serves all.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zhaiju.data.batching import by_budget
from zhaiju.data.encoding import Window
from zhaiju.tasks.base import Head, Item

PADDING_TOLERATED = 0.04


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


@dataclass(slots=True)
class Batch:
    """Items to train on together.

    Attributes:
        chunks: Their windows.
        labels: int64; "choices": [items]; "tokens": [windows, 2].
        slots: int64 [windows], "choices" only: item x choices + choice of each window.
        shape: "choices" only: (items, most choices).
        count: Number of items.
    """

    chunks: list[Chunk]
    labels: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64] | None
    shape: tuple[int, int] | None
    count: int

    @property
    def tokens(self) -> tuple[int, int]:
        """(Tokens without padding, tokens with it)."""
        real = sum(int(chunk.attention_mask.sum()) for chunk in self.chunks)
        return real, sum(chunk.attention_mask.size for chunk in self.chunks)


def pad(windows: Sequence[Window], pad_id: int, rows: Sequence[int] = ()) -> Chunk:
    """Stack windows into one chunk."""
    shape = len(windows), max(map(len, windows))
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


def collate(items: Sequence[Item], head: Head, pad_id: int) -> Batch:
    """Make a batch of items; their windows are cut into chunks of which little is padding."""
    windows = [window for item in items for window in item.windows]
    lengths = [len(window) for window in windows]
    groups = by_budget(lengths, sum(lengths) * len(lengths), waste=PADDING_TOLERATED)
    chunks = [pad([windows[index] for index in group], pad_id, group) for group in groups]
    if head.over == "choices":
        choices = 1 + max(window.choice for window in windows)
        slots = np.array(
            [place * choices + window.choice for place, item in enumerate(items) for window in item.windows]
        )
        labels = np.array([item.label[0] for item in items])
        return Batch(chunks, labels, slots, (len(items), choices), len(items))
    return Batch(chunks, np.array([item.label for item in items]), None, None, len(items))


class Network(nn.Module):
    """A transformers model behind one interface for all heads and all encoders.

    Args:
        model: A model of the class that `head.auto_class` names.
        head: The task's head.
    """

    def __init__(self, model: Any, head: Head) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self.types = getattr(model.config, "type_vocab_size", None)

    def logits(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score windows.

        Args:
            input_ids: int64 [n, T].
            token_type_ids: int64 [n, T]; left out, or held below the number of types, where the encoder knows
                fewer.
            attention_mask: int64 [n, T].

        Returns:
            float32, "choices": [n, 1]; "tokens": [n, 2, T].
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.takes_types and self.types != 0:
            inputs["token_type_ids"] = token_type_ids.clamp(max=self.types - 1) if self.types else token_type_ids
        if self.head.over == "choices":
            inputs = {name: value.unsqueeze(1) for name, value in inputs.items()}  # [n, 1, T]
            return self.model(**inputs).logits.float()  # type: ignore[no-any-return]
        output = self.model(**inputs)
        return torch.stack([output.start_logits, output.end_logits], dim=1).float()

    def forward(self, batch: Batch) -> Tensor:
        """The batch's loss, summed over its items."""
        device = next(self.parameters()).device
        labels = torch.from_numpy(batch.labels).to(device)
        outputs = [
            self.logits(*(torch.from_numpy(array).to(device) for array in arrays(chunk))) for chunk in batch.chunks
        ]
        if batch.slots is not None and batch.shape is not None:
            rows = [row for chunk in batch.chunks for row in chunk.rows]
            places = torch.from_numpy(batch.slots[rows]).to(device)
            scores = torch.cat(outputs).squeeze(1)  # [windows]
            best = scores.new_full((batch.shape[0] * batch.shape[1],), -torch.inf)
            best = best.scatter_reduce(0, places, scores, "amax").view(batch.shape)  # [items, choices]
            return masked_cross_entropy(best, labels, best > -torch.inf)
        losses = [
            masked_cross_entropy(  # [n, 2, T], [n, 2], [n, 1, T]
                output, labels[chunk.rows], torch.from_numpy(chunk.answerable).to(device).unsqueeze(1)
            )
            / 2
            for chunk, output in zip(batch.chunks, outputs, strict=True)
        ]
        return torch.stack(losses).sum()


def arrays(chunk: Chunk) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What `Network.logits` takes, in its order."""
    return chunk.input_ids, chunk.token_type_ids, chunk.attention_mask


def masked_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy over the last axis, summed.

    Args:
        logits: float [..., C].
        labels: int64 [...], each an unmasked class.
        mask: bool, broadcastable to [..., C]; False takes a class out of the softmax.
    """
    masked = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return F.cross_entropy(masked.reshape(-1, masked.shape[-1]), labels.reshape(-1), reduction="sum")
