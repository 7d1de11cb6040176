"""Changes to a network for the time of its training; what is kept is a plain transformers checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from zhaiju.data.hints import HINT_TYPES, SPECIAL, fields
from zhaiju.modeling.network import Network

POOL = 1 << 24
_PARAMETRISED = ".parametrizations.weight.original"


class SumOfParts(nn.Module):
    """Token type embeddings as sums: of an embedding for each value of each of a hint's fields.

    So a type that hardly occurs is known by its parts. Parts [P, H] in, types [641, H] out.
    """

    def __init__(self) -> None:
        super().__init__()
        found = fields(np.arange(HINT_TYPES))
        sizes = [int(values.max()) + 1 for values in found.values()]
        starts = np.cumsum([0, *sizes[:-1]])
        self.size = int(sum(sizes))
        members = np.stack([values + start for values, start in zip(found.values(), starts, strict=True)], 1)
        self.register_buffer("members", torch.from_numpy(members), persistent=False)
        self.members: Tensor
        self.side = sizes[0]

    def forward(self, parts: Tensor) -> Tensor:
        """The table of types."""
        table = F.embedding(self.members.to(parts.device), parts)  # [641, fields, H]
        special = table[SPECIAL, :1].sum(0, keepdim=True)  # a special token has a side and nothing else
        return torch.cat([special, table[SPECIAL + 1 :].sum(1)])

    def right_inverse(self, table: Tensor) -> Tensor:
        """Fresh parts, as wide and as spread as the table is; a plain table has none to find again."""
        return torch.randn(self.size, table.shape[1]) * table.std()


def sum_token_types(network: Network) -> None:
    """Train the hints' token types as sums of parts."""
    embeddings = network.model.base_model.embeddings.token_type_embeddings
    parametrize.register_parametrization(embeddings, "weight", SumOfParts(), unsafe=True)


def is_parametrised(network: nn.Module) -> bool:
    """Whether a checkpoint of the network does not hold all that a training needs to go on."""
    return any(name.endswith(_PARAMETRISED) for name, _ in network.named_parameters())


def plain_state(model: nn.Module, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The state as it is without parametrisations: what a checkpoint holds.

    Args:
        model: The model.
        state: A state of it; None: the one that it has.
    """
    plain = dict(model.state_dict() if state is None else state)
    for name in [name for name in plain if name.endswith(_PARAMETRISED)]:
        weight = plain.pop(name)
        where = name.removesuffix(_PARAMETRISED)
        with torch.no_grad():
            for parametrisation in model.get_submodule(f"{where}.parametrizations.weight").children():
                weight = parametrisation(weight)
        plain[f"{where}.weight"] = weight
    return plain


class QuickDropout(nn.Module):
    """Dropout that is fast on a CPU: its masks are made from random bytes. Elsewhere PyTorch's own.

    Args:
        p: Probability that a value is dropped.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def kept(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A mask on the CPU, 1 for what is kept and 0 for what is dropped; not to be changed.

        A byte is drawn for each value, eight at a time, and compared with a threshold. Where `p` is no multiple of
        1/256 the threshold is itself drawn, so that `p` is met exactly.
        """
        count = math.prod(shape)
        whole, rest = divmod(self.p * 256, 1)
        threshold = int(whole) + int(float(torch.rand(())) < rest)
        numbers = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(1 << 63), None)
        return (numbers.view(torch.uint8)[:count] >= threshold).to(dtype).view(*shape)

    def forward(self, values: Tensor) -> Tensor:
        """Drop and rescale, in training only."""
        if not self.training or not self.p:
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.p)
        return (values * self.kept(values.shape, values.dtype)).mul_(1 / (1 - self.p))


class PooledDropout(QuickDropout):
    """Dropout whose masks are slices of a pool, at random places: no number is drawn for a value at all.

    Args:
        p: Probability that a value is dropped.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        kept = torch.rand(POOL, generator=torch.Generator().manual_seed(0)) >= p
        self.masks = kept.to(torch.bfloat16)

    def kept(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A slice of the pool, in bf16; of more values than it holds a fresh mask."""
        count = math.prod(shape)
        if count >= POOL:
            return super().kept(shape, dtype)
        start = int(torch.randint(POOL - count, ()))
        return self.masks[start : start + count].view(*shape)


def quick_dropout(module: nn.Module) -> None:
    """Replace each `Dropout` of a module by one that is fast on a CPU."""
    _replace(module, QuickDropout)


def pool_dropout(module: nn.Module) -> None:
    """Replace each `Dropout` of a module; those of one probability share a pool."""
    _replace(module, lru_cache(PooledDropout))


def _replace(parent: nn.Module, make: Callable[[float], nn.Module]) -> None:
    for name, child in parent.named_children():
        if isinstance(child, nn.Dropout):
            setattr(parent, name, make(child.p).train(child.training))
        else:
            _replace(child, make)
