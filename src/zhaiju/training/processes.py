"""Several processes that train one network: what each of them does, and what they tell each other.

Each takes its share of every step's items (data parallelism), so the global batch, and with it the training, is that of
one process. Each predicts its share of the dev set; the predictions come together in order. Only the first writes.

Under FSDP (Zhao et al., 2023; PyTorch's `fully_shard`) each also holds no more than its share of weights, gradients and
the optimiser's state. A layer's weights come together for its passes alone, so there all must take as many passes. For
an evaluation they come together once, and what is written is whole: who reads it need not know how it was trained.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from zhaiju.data.chunks import arrays
from zhaiju.errors import ConfigError, ZhaijuError
from zhaiju.modeling.network import Batch, Network

T = TypeVar("T")
LEAVE_SECONDS = 0.3
KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
EXPECTED = "expected data parallelism (DDP), as torchrun starts it, or FSDP with fsdp_version: 2"


def is_first() -> bool:
    """Whether this process is the first, or alone, as its launcher has told it."""
    return int(os.environ.get("RANK", 0)) == 0


def _told(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"


def _sharding() -> FullyShardedDataParallelPlugin | None:
    """How the launcher wants FSDP to shard; None: not at all.

    Raises:
        ConfigError: it wants something that is not done here.
    """
    for name, kind in REFUSED.items():
        if _told(name):
            raise ConfigError(f"launched for {kind}; {EXPECTED}")
    if not _told("ACCELERATE_USE_FSDP"):
        return None
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # nothing to share
        os.environ["ACCELERATE_USE_FSDP"] = "false"
        return None
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ConfigError(f"launched for FSDP {version}; set fsdp_version: 2 in accelerate's fsdp_config")
    # Every process reads the weights: those that got none could not compute first ones.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    os.environ.pop("FSDP_BACKWARD_PREFETCH", None)  # of FSDP 1; the launcher sets it always, accelerate warns of it
    try:
        sharding = FullyShardedDataParallelPlugin()
    except ValueError as error:
        raise ConfigError(f"accelerate's fsdp_config: {error}") from None
    if sharding.activation_checkpointing:  # its second pass would drop other values than the first
        raise ConfigError("accelerate's fsdp_config: fsdp_activation_checkpointing; use --activation-checkpointing")
    if sharding.ignored_modules:  # nobody would sum their gradients
        raise ConfigError("accelerate's fsdp_config: fsdp_ignored_modules; expected none")
    return sharding


class Processes:
    """The processes of a training, seen from one of them.

    Attributes:
        accelerator: What prepares network and optimiser, and sums gradients.
        rank: Number of this one, from 0.
        count: How many there are.
        sharding: How weights are shared among them (FSDP); None: each holds all.

    Raises:
        ConfigError: they were launched for another kind of parallelism.
    """

    def __init__(self) -> None:
        self.sharding = _sharding()
        # A family's unused layer (a pooler, say) gets no gradient in any process.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(), fsdp_plugin=self.sharding, kwargs_handlers=[unused]
        )
        state = self.accelerator.state
        if self.sharding is not None and state.distributed_type is DistributedType.MULTI_CPU:
            # accelerate leaves FSDP out where there is no GPU; `fully_shard`, which it calls, does not mind.
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, self.sharding
        if state.distributed_type not in KINDS:
            raise ConfigError(f"launched for {state.distributed_type.value}; {EXPECTED}")
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes
        if self.count > 1:
            atexit.unregister(_leave)
            atexit.register(_leave)

    def prepare(self, network: Network, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Network and optimiser for what these processes do together; call and step these instead.

        Raises:
            ConfigError: FSDP is to wrap layers that the network does not have.
        """
        if self.sharding is None:
            prepared: tuple[Any, Any] = self.accelerator.prepare(network, optimizer)
            return prepared
        try:
            # The encoder: training and evaluation both call it, and accelerate knows transformers' models.
            if self.sharding.transformer_cls_names_to_wrap is None:
                self.sharding.transformer_cls_names_to_wrap = _layers(network.model)
            _, optimizer = self.accelerator.prepare(network.model, optimizer)
        except ValueError as error:
            raise ConfigError(f"accelerate's fsdp_config: {error}") from None
        return network, optimizer

    def no_sync(self, network: Any) -> AbstractContextManager[None]:
        """Leave gradients to be summed later. FSDP sums them at once: it holds no whole ones."""
        return nullcontext() if self.sharding is not None else self.accelerator.no_sync(network)

    def idle(self, network: Network, batch: Batch) -> Tensor | float:
        """Under FSDP, passes that add 0 to the loss until each process has taken as many as the others."""
        if self.sharding is None:
            return 0.0
        passes = torch.tensor(len(batch.chunks), device=self.accelerator.device)
        distributed.all_reduce(passes, distributed.ReduceOp.MAX)
        nothing: Tensor | float = 0.0
        for _ in range(int(passes) - len(batch.chunks)):
            row = (torch.from_numpy(array[:1]).to(self.accelerator.device) for array in arrays(batch.chunks[0]))
            nothing = nothing + network.logits(*row).sum() * 0
        return nothing

    def clip(self, network: Any, most: float) -> float:
        """Shorten the gradient to a norm of at most `most`; gives the norm that it had."""
        norm = self.accelerator.clip_grad_norm_(network.parameters(), most)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    @contextmanager
    def whole(self, network: Any) -> Iterator[None]:
        """Let each process hold all weights, so that they need not compute in step; nothing is trained meanwhile."""
        if self.sharding is None:
            yield
            return
        root, *parts = (module for module in network.modules() if isinstance(module, FSDPModule))
        root.set_reshard_after_forward(False)
        for part in (root, *parts):
            part.unshard()
        try:
            yield
        finally:
            for part in (root, *parts):
                part.reshard()
            for part in parts:
                part.set_reshard_after_forward(bool(self.sharding.reshard_after_forward), recurse=False)

    def gather(self, values: T) -> T:
        """Tensors, or lists and dicts of them, with the whole of each sharded one; only the first process gets it."""
        if self.sharding is None:
            return values
        found: Any = values
        if isinstance(found, dict):
            found = {name: self.gather(value) for name, value in found.items()}
        elif isinstance(found, list):
            found = [self.gather(value) for value in found]
        elif isinstance(found, DTensor):
            whole = found.full_tensor().detach()
            found = whole.cpu() if self.rank == 0 else whole.new_empty(0)
        result: T = found
        return result

    def load_optimizer(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Load the whole state of an optimiser, each process its share."""
        if self.sharding is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            shares = {
                number: {name: share_like(value, parameters[number]) for name, value in kept.items()}
                for number, kept in state["state"].items()
            }
            state = state | {"state": shares}
        optimizer.load_state_dict(state)

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


def _layers(model: Any) -> list[str]:
    """Names of the classes of a model's layers.

    transformers' own list has embeddings in it, which accelerate would then shard twice, and fail.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    return sorted(
        {type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)}
    )


def share_like(value: Tensor, tensor: Tensor) -> Tensor:
    """The share of a whole value that this process holds of a sharded tensor of its shape; else the value itself."""
    if not isinstance(tensor, DTensor) or value.shape != tensor.shape:
        return value
    mesh = tensor.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, tensor.placements, src_data_rank=None)


def exchange(parameter: Tensor, value: Tensor) -> Tensor:
    """Give a parameter another value; returns the one that it had."""
    if isinstance(parameter, DTensor):  # FSDP reads the memory that the parameter was made of
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(value)
        return before
    before = parameter.data
    parameter.data = value
    return before
