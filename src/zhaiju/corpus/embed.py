"""Vectors of texts by a sentence encoder, for hybrid search: the mean of its last hidden states."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju.corpus.index import Embedding
from zhaiju.data.batching import by_budget
from zhaiju.modeling.checkpoint import load_encoder, resolve

BATCH_TOKENS = 8192


def load_embedding(what: str) -> Embedding:
    """An encoder as an `Embedding`.

    A text longer than the encoder takes is cut there: of a paragraph its beginning then speaks for it.

    Args:
        what: A checkpoint directory or hub id.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    where = resolve(what)
    if os.path.isdir(where):  # an index is asked from other folders than it was made in
        where = os.path.abspath(where)
    model, tokenizer, most = load_encoder(where)

    def embed(texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        import torch

        encoded = [tokenizer(text, truncation=True, max_length=most)["input_ids"] for text in texts]
        result = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        for batch in by_budget([len(ids) for ids in encoded], BATCH_TOKENS):
            longest = max(len(encoded[index]) for index in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.int64)
            mask = torch.zeros(len(batch), longest, dtype=torch.int64)
            for row, index in enumerate(batch):
                ids[row, : len(encoded[index])] = torch.tensor(encoded[index])
                mask[row, : len(encoded[index])] = 1
            with torch.inference_mode():
                states = model(input_ids=ids, attention_mask=mask)[0]
            weights = mask.unsqueeze(-1)
            result[batch] = ((states * weights).sum(1) / weights.sum(1).clamp(min=1)).float().numpy()
        return result

    return Embedding(where, model.config.hidden_size, embed)
