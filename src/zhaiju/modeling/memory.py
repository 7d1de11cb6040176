"""Memory: what was freed, given back to the system, and what need not be kept at all.

Batches filled by tokens differ in shape from step to step. glibc's allocator keeps the holes that this leaves: a
training of 957 steps was seen to grow to 6.8 GB that way, where it needs about 1 GB. Trimming now and then costs
nothing that could be measured and took the peak to 5.3 GB; never keeping large blocks at all (M_MMAP_THRESHOLD) keeps
it near 0.6 GB, but cost 40 % of the time.

Predicting varies its shapes as much, and its peak crept up with every few hundred questions. There `keep_steady` lets
no block of 4 MB and more lie in the heap (a fixed threshold, where glibc's own rises to 32 MB) and has one heap for all
threads. What was tried on two busy cores, with 4 layers and batches of 8,192 tokens, single runs: without it `predict`
for read took 673 MB on 2,500 questions and was still rising. At 1 MB it peaked at 478 MB on 1,000 and 491 on 4,000,
`answer` at 542 and 571, for 8 % (`answer`) to 20 % (read) more CPU time. At 4 MB `answer` had 597 and 655 MB, for about
4 %.

The peak is where a batch, tokenising and decoding happen to be largest at once. What keeps it low are small batches
(see `usual_batch_tokens`) and trimming after each. On two quiet cores, with 4 layers and 1,000 questions, `predict` for
read peaked at 542 to 545 MiB with batches of 8,192 tokens, trimmed after each; with batches of 1,024 at 481 trimmed
after each (2.7 ms, 3 % of the time), at 500 to 506 after every second, at 512 to 517 after every fourth and at 533 to
536 after every eighth. What keeps it from growing are lengths rounded up to few (see `zhaiju.data.chunks.pad`): oneDNN
keeps kernels for the last 1,024 shapes, some 15 KB each.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from typing import Any

from zhaiju.errors import ConfigError

MMAP_THRESHOLD, ARENA_MAX = -3, -8  # M_MMAP_THRESHOLD and M_ARENA_MAX of malloc.h
LARGE_BYTES = 4 << 20


def keep_steady() -> None:
    """Have the system take large blocks back as they are freed, in this process from now on.

    Does nothing where the C library cannot, or where the environment says something about it.
    """
    library = _c_library()
    if library is not None and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        library.mallopt(MMAP_THRESHOLD, LARGE_BYTES)
        library.mallopt(ARENA_MAX, 1)


def trim() -> None:
    """Give freed memory back; does nothing where the C library cannot."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


@lru_cache(maxsize=1)
def _c_library() -> Any:
    """glibc, or None."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if library.malloc_trim and library.mallopt else None
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
