"""Weights in 8 bits: each row of a matrix as whole numbers from -127 to 127 times one scale.

They are a fourth of the size, and are computed with in fp32 again, so no processor rounds them otherwise than another.
In a safetensors file a matrix `name` has its scales beside it, as `name_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SCALE = "_scale"
MOST = 127
SMALLEST = 1e-8  # of a scale: a row of zeros has one too


def quantise(weights: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[Any]]:
    """Matrices in 8 bits with their scales (float32 [rows, 1]), everything else as float32."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, value in weights.items():
        value = np.asarray(value, dtype=np.float32)
        if value.ndim != 2:
            found[name] = value
            continue
        scale = np.maximum(np.abs(value).max(axis=1, keepdims=True) / MOST, np.float32(SMALLEST))
        found[name], found[name + SCALE] = np.rint(value / scale).astype(np.int8), scale
    return found


def read_rows(path: Path) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]]:
    """The weights of a safetensors file as they are kept, each with its scales where it has some.

    Raises:
        OSError, safetensors.SafetensorError: it cannot be read.
    """
    from safetensors.numpy import load_file

    held = load_file(path)
    scales = {name: held.pop(name + SCALE) for name in list(held) if name + SCALE in held}
    return {name: (value, scales.get(name)) for name, value in held.items()}


def multiplied(
    value: npt.NDArray[Any], scale: npt.NDArray[np.float32] | None, *, transposed: bool = False
) -> npt.NDArray[np.float32]:
    """A weight as float32, in memory row by row."""
    if transposed:
        value, scale = np.ascontiguousarray(value.T), None if scale is None else scale.T
    return value.astype(np.float32, copy=False) if scale is None else np.multiply(value, scale, dtype=np.float32)


def read_weights(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of a safetensors file as float32, those in 8 bits multiplied out.

    Raises:
        OSError, safetensors.SafetensorError: it cannot be read.
    """
    return {name: multiplied(value, scale) for name, (value, scale) in read_rows(path).items()}


def is_quantised(path: Path) -> bool:
    """Whether a safetensors file holds weights in 8 bits.

    Raises:
        safetensors.SafetensorError: it is damaged.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as held:
        names = set(held.keys())
    return any(name + SCALE in names for name in names)
