"""An encoder with a task's head: arrays of token ids in, logits or a loss out.

The class axis is last: select [items, choices], read [windows, 2, tokens], intent [items, L], slots
[windows, tokens, L]. So one masked cross-entropy serves all.
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
from zhaiju.data.chunks import PADDING_TOLERATED, Chunk, arrays, pad
from zhaiju.tasks.base import IGNORED, Head, Item


@dataclass(slots=True)
class Batch:
    """Items to train on together.

    Attributes:
        chunks: Their windows.
        labels: int64; "choices" and "labels": [items]; "tokens": [windows, 2]; "labels" per token: [windows, T].
        places: int64 [windows], where windows of an item are scored together: item x choices + choice of each.
        shape: There (items, most choices).
    """

    chunks: list[Chunk]
    labels: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64] | None = None
    shape: tuple[int, int] = (0, 1)

    @property
    def tokens(self) -> tuple[int, int]:
        """(Tokens without padding, tokens with it)."""
        real = sum(int(chunk.attention_mask.sum()) for chunk in self.chunks)
        return real, sum(chunk.attention_mask.size for chunk in self.chunks)


def collate(items: Sequence[Item], head: Head, pad_id: int) -> Batch:
    """Make a batch of items; their windows are cut into chunks of which little is padding."""
    windows = [window for item in items for window in item.windows]
    lengths = [len(window) for window in windows]
    groups = by_budget(lengths, sum(lengths) * len(lengths), waste=PADDING_TOLERATED)
    chunks = [pad([windows[index] for index in group], pad_id, group) for group in groups]
    if head.per_token:
        labels = np.full((len(windows), max(lengths)), IGNORED, dtype=np.int64)
        for row, item in enumerate(items):
            labels[row, : len(item.label)] = item.label
        return Batch(chunks, labels)
    if head.over == "tokens":
        return Batch(chunks, np.array([item.label for item in items]))
    choices = 1 + max(window.choice for window in windows)
    places = np.array([place * choices + window.choice for place, item in enumerate(items) for window in item.windows])
    return Batch(chunks, np.array([item.label[0] for item in items]), places, (len(items), choices))


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
            float32, "choices": [n, 1]; "tokens": [n, 2, T]; "labels": [n, L], or [n, T, L] per token.
        """
        inputs = self._inputs(input_ids, token_type_ids, attention_mask)
        if self.head.over == "choices":
            inputs = {name: value.unsqueeze(1) for name, value in inputs.items()}  # [n, 1, T]
        output = self.model(**inputs)
        if self.head.over == "tokens":
            return torch.stack([output.start_logits, output.end_logits], dim=1).float()
        return output.logits.float()  # type: ignore[no-any-return]

    def hidden(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoder's last hidden states, [n, T, H]; arguments as of `logits`."""
        states: Tensor = self.model.base_model(**self._inputs(input_ids, token_type_ids, attention_mask))[0]
        return states

    def _inputs(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.takes_types and self.types != 0:
            inputs["token_type_ids"] = token_type_ids.clamp(max=self.types - 1) if self.types else token_type_ids
        return inputs

    def forward(self, batch: Batch, smoothing: float = 0.0) -> Tensor:
        """The batch's loss, summed over its items' targets.

        Args:
            batch: From `collate`.
            smoothing: See `masked_cross_entropy`.
        """
        device = next(self.parameters()).device
        labels = torch.from_numpy(batch.labels).to(device)
        outputs = [
            self.logits(*(torch.from_numpy(array).to(device) for array in arrays(chunk))) for chunk in batch.chunks
        ]
        if batch.places is not None:
            rows = [row for chunk in batch.chunks for row in chunk.rows]
            places = torch.from_numpy(batch.places[rows]).to(device)
            if self.head.over == "labels":
                return masked_cross_entropy(
                    _means(torch.cat(outputs), places, len(labels)), labels, smoothing=smoothing
                )
            scores = torch.cat(outputs).squeeze(1)  # [windows]
            best = scores.new_full((batch.shape[0] * batch.shape[1],), -torch.inf)
            best = best.scatter_reduce(0, places, scores, "amax").view(batch.shape)  # [items, choices]
            return masked_cross_entropy(best, labels, best > -torch.inf, smoothing=smoothing)
        losses = []
        for chunk, output in zip(batch.chunks, outputs, strict=True):
            ours = labels[chunk.rows]
            if self.head.per_token:  # [n, T, L], [n, T]
                losses.append(masked_cross_entropy(output, ours[:, : output.shape[1]], smoothing=smoothing))
            else:  # [n, 2, T], [n, 2], [n, 1, T]
                answerable = torch.from_numpy(chunk.answerable).to(device).unsqueeze(1)
                losses.append(masked_cross_entropy(output, ours, answerable, smoothing=smoothing) / 2)
        return torch.stack(losses).sum()


def _means(logits: Tensor, places: Tensor, items: int) -> Tensor:
    """Mean of the rows [windows, L] of each of `items` items: an utterance that needs several windows."""
    sums = logits.new_zeros(items, logits.shape[1]).index_add(0, places, logits)
    return sums / torch.bincount(places, minlength=items).unsqueeze(1)


def masked_cross_entropy(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy over the last axis, summed.

    Args:
        logits: float [..., C].
        labels: int64 [...], each an unmasked class, or `IGNORED`.
        mask: bool, broadcastable to [..., C]; False takes a class out of the softmax.
        smoothing: Share of the target that is spread evenly over the unmasked classes (Szegedy et al., 2016).
    """
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    rows, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss = F.cross_entropy(rows, targets, reduction="sum", ignore_index=IGNORED)
    if not smoothing:
        return loss
    allowed = torch.ones_like(rows, dtype=torch.bool) if mask is None else mask.expand_as(logits).reshape(rows.shape)
    spread = -F.log_softmax(rows, dim=-1).masked_fill(~allowed, 0.0).sum(-1) / allowed.sum(-1)
    return (1 - smoothing) * loss + smoothing * spread[targets != IGNORED].sum()
