"""Memory: what was freed, given back to the system, and what need not be kept at all.

Batches filled by tokens differ in shape from step to step. glibc's allocator keeps the holes that this leaves: a
training of 957 steps was seen to grow to 6.8 GB that way, where it needs about 1 GB. Trimming now and then costs
nothing that could be measured and took the peak to 5.3 GB; never keeping large blocks at all (M_MMAP_THRESHOLD) keeps
it near 0.6 GB, but cost 40 % of the time.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

from zhaiju.errors import ConfigError


def trim() -> None:
    """Give freed memory back; does nothing where the C library cannot."""
    function = _malloc_trim()
    if function is not None:
        function(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> Any:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # musl has neither the name nor the need
        return None


def recompute_activations(model: Any) -> None:
    """Let a transformers model keep only what enters each layer for the backward pass, and compute the rest again.

    Random state is kept, so dropout drops the same values again and gradients are what they were.

    Raises:
        ConfigError: the architecture cannot.
    """
    # Its name in transformers has changed; both take how to checkpoint first.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"activation_checkpointing with {type(model).__name__}: {error}") from None
