"""The only path from examples to predictions: training's evaluation, `predict`, `answer` and single questions.

It knows tasks by their `encode` and `decode`, and models by a backend's `run`. It does not know what a question is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np

from zhaiju.data.batching import by_budget
from zhaiju.data.chunks import PADDING_TOLERATED, pad
from zhaiju.data.encoding import Encoding, Window
from zhaiju.errors import CheckpointError, ConfigError, DataError
from zhaiju.inference.backends import Backend, OnnxBackend, Precision, TorchBackend
from zhaiju.modeling.checkpoint import Checkpoint
from zhaiju.modeling.memory import trim
from zhaiju.tasks.base import Task

POOL_EXAMPLES = 256
BATCH_TOKENS = 8192

Progress = Callable[[int], None]


@dataclass
class Usage:
    """What an engine has done so far."""

    windows: int = 0
    tokens: int = 0
    padded: int = 0

    @property
    def padding(self) -> float:
        """Share of the computed tokens that was padding, 0..1."""
        return 1 - self.tokens / self.padded if self.padded else 0.0


class Engine:
    """Runs a backend over examples, in batches filled by tokens.

    Examples are taken in pools; the windows of a pool are sorted by length and batched together, while the next
    pool is tokenised in a second thread. Memory does not grow with the number of examples.

    Args:
        backend: What runs the forward passes.
        encoding: The checkpoint's tokenizer and windows.
        batch_tokens: Tokens of a batch, padding included.
        pool: Examples of a pool.
    """

    def __init__(
        self,
        backend: Backend,
        encoding: Encoding,
        *,
        batch_tokens: int = BATCH_TOKENS,
        pool: int = POOL_EXAMPLES,
    ) -> None:
        self.backend = backend
        self.encoding = encoding
        self.batch_tokens = batch_tokens
        self.pool = pool
        self.usage = Usage()

    def predict(
        self, task: Task[Any, Any], examples: Iterable[Any], *, progress: Progress | None = None
    ) -> Iterator[Any]:
        """One prediction an example, in order.

        Args:
            task: The task.
            examples: Read lazily, a pool or two ahead.
            progress: Called with the number of examples done since the last call.

        Raises:
            DataError: an example cannot be encoded (its row is named).
            CheckpointError: the weights give something that is not a number.
        """
        source = iter(examples)

        def prepare() -> list[tuple[Any, list[Window]]]:
            return [(example, self._encode(task, example)) for example in islice(source, self.pool)]

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="zhaiju-encode") as executor:
            pending = executor.submit(prepare)
            while prepared := pending.result():
                pending = executor.submit(prepare)
                yield from self._run(task, prepared)
                trim()
                if progress is not None:
                    progress(len(prepared))

    def _encode(self, task: Task[Any, Any], example: Any) -> list[Window]:
        try:
            return task.encode(example, self.encoding)
        except DataError as error:
            raise error.located(row=example.id) from None

    def _run(self, task: Task[Any, Any], prepared: list[tuple[Any, list[Window]]]) -> Iterator[Any]:
        windows = [window for _, ours in prepared for window in ours]
        results: list[Any] = [None] * len(windows)
        for batch in by_budget([len(window) for window in windows], self.batch_tokens, waste=PADDING_TOLERATED):
            chunk = pad([windows[index] for index in batch], self.backend.pad_id, batch)
            logits = self.backend.run(chunk)
            if not np.isfinite(logits).all():
                raise CheckpointError("the weights give logits that are not finite numbers")
            for row, index in enumerate(batch):
                results[index] = task.head.unpadded(logits[row], len(windows[index]))
            self.usage.windows += len(batch)
            self.usage.tokens += int(chunk.attention_mask.sum())
            self.usage.padded += chunk.attention_mask.size
        at = 0
        for example, ours in prepared:
            yield task.decode(example, ours, results[at : at + len(ours)])
            at += len(ours)


def make_engine(checkpoint: Checkpoint, *, precision: str = "fp32", batch_tokens: int = BATCH_TOKENS) -> Engine:
    """An engine on PyTorch, on the GPU where there is one; on onnxruntime for an exported checkpoint."""
    pad_id = checkpoint.encoding.pad_id
    backend: Backend
    if checkpoint.network is None:
        if precision != "fp32":
            raise ConfigError(f"precision is {precision}, expected fp32 for an exported graph")
        backend = OnnxBackend(checkpoint.where, pad_id=pad_id)
    else:
        import torch

        if torch.cuda.is_available():
            checkpoint.network.to("cuda")
        backend = TorchBackend(checkpoint.network, pad_id=pad_id, precision=cast(Precision, precision))
    return Engine(backend, checkpoint.encoding, batch_tokens=batch_tokens)
