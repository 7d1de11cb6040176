"""The only path from examples to predictions: training's evaluation, `predict`, `answer` and single questions.

It knows tasks by their `encode` and `decode`, and models by a backend's `run`. It does not know what a question is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from zhaiju.data.batching import by_budget
from zhaiju.data.chunks import PADDING_TOLERATED, pad, padded
from zhaiju.data.encoding import Encoding, Window
from zhaiju.errors import CheckpointError, ConfigError, DataError
from zhaiju.inference.backends import AUTO, Backend, OnnxBackend, OpenVinoBackend, TorchBackend, choose
from zhaiju.modeling.checkpoint import Checkpoint, is_exported, load
from zhaiju.modeling.memory import keep_steady, trim
from zhaiju.tasks.base import Head, Task
from zhaiju.threads import wanted_threads

POOL_EXAMPLES = 2048
POOL_TOKENS = 32_768
POOL_BATCHES = 12
BATCH_TOKENS = 8192
TOKENS_A_THREAD = 512

Progress = Callable[[int], None]
Pool = list[tuple[Any, list[Window]]]


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


class Predictor(Protocol):
    """What predicts: an `Engine`, or something in front of one."""

    def predict(
        self, task: Task[Any, Any], examples: Iterable[Any], *, progress: Progress | None = None
    ) -> Iterator[Any]:
        """See `Engine.predict`."""
        ...


class Engine:
    """Runs a backend over examples, in batches filled by tokens.

    Examples are taken in pools; the windows of a pool are sorted by length and batched together. While a pool is
    computed, the next one is tokenised and the last one's logits are decoded, in threads of their own. Memory does not
    grow with the number of examples.

    Args:
        backend: What runs the forward passes.
        encoding: The checkpoint's tokenizer and windows.
        batch_tokens: Tokens of a batch, padding included.
        pool: Most examples of a pool; it also ends with the example that brings it to 32,768 tokens, or to a dozen
            batches where these are more.
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
            examples: Read lazily, up to three pools ahead.
            progress: Called with the number of examples done since the last call.

        Raises:
            DataError: an example cannot be encoded (its row is named).
            CheckpointError: the weights give something that is not a number.
        """
        source = iter(examples)

        most = max(POOL_TOKENS, POOL_BATCHES * self.batch_tokens)

        def encode() -> Pool:
            pool: Pool = []
            tokens = 0
            for example in islice(source, self.pool):
                pool.append((example, self.encode(task, example)))
                tokens += sum(map(len, pool[-1][1]))
                if tokens >= most:
                    break
            return pool

        def decode(pool: Pool, logits: list[Any]) -> list[Any]:
            rest = iter(logits)
            return [task.decode(example, ours, list(islice(rest, len(ours)))) for example, ours in pool]

        with ThreadPoolExecutor(2, thread_name_prefix="zhaiju-engine") as executor:
            pool, decoding = encode(), None
            many = sum(len(window) for _, ours in pool for window in ours) > BATCH_TOKENS
            while pool:
                following = executor.submit(encode)
                logits = self._run(task, pool, tidy=many)  # a question or two are not to wait for it
                if decoding is not None:
                    yield from self._told(decoding.result(), progress)
                decoding = executor.submit(decode, pool, logits)
                if following.exception() is not None:  # what came before the fault is told first
                    yield from self._told(decoding.result(), progress)
                pool = following.result()
            if decoding is not None:
                yield from self._told(decoding.result(), progress)

    def _told(self, predictions: list[Any], progress: Progress | None) -> Iterator[Any]:
        yield from predictions
        if progress is not None:
            progress(len(predictions))

    def encode(self, task: Task[Any, Any], example: Any) -> list[Window]:
        """All windows of an example.

        Raises:
            DataError: it cannot be encoded (its row is named).
        """
        try:
            return task.encode(example, self.encoding)
        except DataError as error:
            raise error.located(row=example.id) from None

    def batches(self, windows: Sequence[Window]) -> list[list[int]]:
        """Which windows to compute together, of no more than `batch_tokens`."""
        lengths = [padded(len(window), self.encoding.window) for window in windows]
        return by_budget(lengths, self.batch_tokens, waste=PADDING_TOLERATED)

    def run(self, head: Head, windows: Sequence[Window]) -> list[Any]:
        """The logits of each of a few windows, computed together.

        Raises:
            CheckpointError: they are not numbers.
        """
        chunk = pad(windows, self.backend.pad_id, range(len(windows)), most=self.encoding.window)
        logits = self.backend.run(chunk)
        results = [head.unpadded(row, len(window)) for row, window in zip(logits, windows, strict=True)]
        if not all(np.isfinite(found).all() for found in results):
            raise CheckpointError("the weights give logits that are not finite numbers")
        self.usage.windows += len(windows)
        self.usage.tokens += int(chunk.attention_mask.sum())
        self.usage.padded += chunk.attention_mask.size
        return results

    def _run(self, task: Task[Any, Any], pool: Pool, *, tidy: bool) -> list[Any]:
        """The logits of every window of a pool, in order; memory that was freed is given back where `tidy` says so."""
        windows = [window for _, ours in pool for window in ours]
        results: list[Any] = [None] * len(windows)
        for batch in self.batches(windows):
            for index, found in zip(batch, self.run(task.head, [windows[index] for index in batch]), strict=True):
                results[index] = found
            if tidy:
                trim()  # every batch has a shape of its own, and leaves holes that the next does not fit
        return results


def usual_batch_tokens(*, gpu: bool, threads: int = 0) -> int:
    """Tokens of a batch that computing is fast with: 8,192 on a GPU, 512 a thread of a CPU.

    More were hardly faster in any backend on a CPU, took a tenth to a quarter longer in PyTorch's bf16 (12 layers, 768
    wide, two threads, 8,192 tokens), and take more memory.

    Args:
        gpu: Whether it computes.
        threads: CPU threads; 0: see `zhaiju.threads`.
    """
    return BATCH_TOKENS if gpu else min(BATCH_TOKENS, TOKENS_A_THREAD * (threads or wanted_threads()))


def make_engine(
    checkpoint: Checkpoint,
    *,
    backend: str = AUTO,
    precision: str = "fp32",
    batch_tokens: int | None = None,
    threads: int = 0,
) -> Engine:
    """An engine for a checkpoint.

    Args:
        checkpoint: The checkpoint.
        backend: "auto", or a key of `zhaiju.inference.backends.BACKENDS` (see `choose` there).
        precision: "fp32", "bf16" or "int8".
        batch_tokens: Tokens of a batch, padding included; None: see `usual_batch_tokens`.
        threads: CPU threads of onnxruntime and OpenVINO; 0: one a core. PyTorch's are the process's.

    Raises:
        ConfigError: the backend does not have the precision, or cannot run this checkpoint.
        CheckpointError: there is no graph in this precision.
    """
    pad_id = checkpoint.encoding.pad_id
    network, gpu = checkpoint.network, False
    name = choose(backend, precision, exported=network is None, whole=is_exported(checkpoint.where))
    made: Backend
    if name == "onnx":
        if network is not None:
            raise ConfigError(f"{checkpoint.where} holds no graph for onnx; see zhaiju export")
        made = OnnxBackend(checkpoint.where, pad_id=pad_id, precision=precision, threads=threads)
    elif name == "openvino":
        source = checkpoint.where if network is None else network
        made = OpenVinoBackend(source, pad_id=pad_id, precision=precision, threads=threads)
    else:
        import torch

        gpu = torch.cuda.is_available()
        if gpu:
            network.to("cuda")
        made = TorchBackend(network, pad_id=pad_id, precision=precision, fixed=True)
    if batch_tokens is None:
        batch_tokens = usual_batch_tokens(gpu=gpu, threads=threads)
    return Engine(made, checkpoint.encoding, batch_tokens=batch_tokens)


def open_engine(
    what: str,
    task: str,
    *,
    window: int | None = None,
    overlap: int | None = None,
    backend: str = AUTO,
    precision: str = "fp32",
    batch_tokens: int | None = None,
) -> tuple[Engine, Checkpoint]:
    """Load a checkpoint, for a process that will go on predicting with it.

    Args:
        what: The starter, a run, a checkpoint directory or a hub id.
        task: What for.
        window: See `load`.
        overlap: See `load`.
        backend: See `make_engine`.
        precision: See `make_engine`.
        batch_tokens: See `make_engine`.

    Raises:
        CheckpointError, ConfigError: as those do.
    """
    keep_steady()
    checkpoint = load(what, task, window=window, overlap=overlap)
    return make_engine(checkpoint, backend=backend, precision=precision, batch_tokens=batch_tokens), checkpoint
