"""Several processes that train one network: what each of them does, and what they tell each other.

Each takes its share of every step's items (data parallelism), so the global batch, and with it the training, is that of
one process. Each predicts its share of the dev set; the predictions come together in order. Only the first writes.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import distributed

from zhaiju.errors import ConfigError, ZhaijuError

T = TypeVar("T")
LEAVE_SECONDS = 0.3
KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
EXPECTED = "expected data parallelism (DDP), as torchrun starts it"


def is_first() -> bool:
    """Whether this process is the first, or alone, as its launcher has told it."""
    return int(os.environ.get("RANK", 0)) == 0


class Processes:
    """The processes of a training, seen from one of them.

    Attributes:
        accelerator: What prepares network and optimiser, and sums gradients.
        rank: Number of this one, from 0.
        count: How many there are.

    Raises:
        ConfigError: they were launched for another kind of parallelism.
    """

    def __init__(self) -> None:
        for name, kind in REFUSED.items():
            if os.environ.get(name, "false").lower() == "true":
                raise ConfigError(f"launched for {kind}; {EXPECTED}")
        # A family's unused layer (a pooler, say) gets no gradient in any process.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
        if self.accelerator.distributed_type not in KINDS:
            raise ConfigError(f"launched for {self.accelerator.distributed_type.value}; {EXPECTED}")
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes
        if self.count > 1:
            atexit.unregister(_leave)
            atexit.register(_leave)

    def share(self, values: Sequence[T]) -> Sequence[T]:
        """This process's part: every `count`-th value."""
        return values[self.rank :: self.count]

    def together(self, own: Sequence[T]) -> list[T]:
        """The values of all processes, in the order that `share` took them from; each once."""
        if self.count == 1:
            return list(own)
        parts: list[Any] = [None] * self.count
        distributed.all_gather_object(parts, list(own))
        found: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            found[rank :: self.count] = part
        return found

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over the processes."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        distributed.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so."""
        return self.sum(float(flag))[0] > 0

    def first(self, do: Callable[[], T]) -> T:
        """Have the first process do something; every process gets what it returned.

        Raises:
            ZhaijuError: it failed. The others exit with 2 then, as the first one will, and say nothing.
        """
        if self.count == 1:
            return do()
        failed: ZhaijuError | None = None
        told: list[Any] = [None, True]
        if self.rank == 0:
            try:
                told = [do(), True]
            except ZhaijuError as error:
                failed, told = error, [None, False]
        distributed.broadcast_object_list(told)
        if failed is not None:
            raise failed
        if not told[1]:
            sys.exit(2)
        result: T = told[0]
        return result

    def seed(self, seed: int, step: int) -> None:
        """Give each process random numbers of its own in every step, whatever came before; alone they go on."""
        if self.count > 1:
            torch.manual_seed((seed * 1_000_003 + step) * self.count + self.rank)


def _leave() -> None:
    """Leave the others, and let gloo's threads let go of what they sent last.

    One that does so when Python has ended already ends the process by SIGABRT, and its launcher calls that a failure.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(LEAVE_SECONDS)
