"""Where the time of a training goes: its first steps, taken apart. No run is left behind."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zhaiju.config import TrainSettings
from zhaiju.errors import ConfigError
from zhaiju.training.loop import SECTIONS, Loop, Stepped
from zhaiju.training.run import TrainData, assemble

WARM_STEPS = 2
TRACED_STEPS = 2
OPERATORS = 12
MATMUL_SECONDS = 0.3


@dataclass(frozen=True)
class Profile:
    """What was measured.

    Attributes:
        steps: Steps that were timed, after the warm-up.
        seconds: Of a step, the mean; what an epoch costs once is shared among its steps.
        parts: For each part of a step its milliseconds, the mean. Tokenising is that of a first epoch; later ones
            have next to none, as far as the texts are kept.
        operators: For the dearest operators of PyTorch their share of all operators' own time.
        items_per_second: Items trained on.
        tokens_per_second: Tokens, padding not counted.
        padding: Share of the computed tokens that was padding, 0..1.
        flops: Floating-point operations of the matrix products, a second; what is computed twice counts twice.
        matmul_flops: The same of the training's most frequent matrix product alone, in its precision.
        matmul_shape: That product: rows, columns in, columns out.
        threads: CPU threads.
        precision: fp32 or bf16.
    """

    steps: int
    seconds: float
    parts: dict[str, float]
    operators: dict[str, float]
    items_per_second: float
    tokens_per_second: float
    padding: float
    flops: float
    matmul_flops: float
    matmul_shape: tuple[int, int, int]
    threads: int
    precision: str

    @property
    def roofline(self) -> float:
        """Share of the bare matrix product's speed that the whole training reaches."""
        return self.flops / self.matmul_flops

    def to_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return asdict(self) | {"roofline": self.roofline}


class _Stopwatch:
    """Seconds of named sections."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        _wait()
        began = time.perf_counter()
        try:
            yield
        finally:
            _wait()
            self.seconds[name] += time.perf_counter() - began


def profile(task_name: str, settings: TrainSettings, data: TrainData, steps: int) -> Profile:
    """Take a training's first steps and say where their time goes; evaluations are left out.

    Args:
        task_name: A key of TASKS.
        settings: The settings.
        data: From `load_train_data`.
        steps: How many steps to time, after a short warm-up.

    Raises:
        ConfigError: `steps` is less than 1.
        TrainingError: see `Loop`.
    """
    if steps < 1:
        raise ConfigError(f"profile is {steps} steps, expected at least 1")
    total = WARM_STEPS + steps + TRACED_STEPS + 1
    settings = replace(settings, max_steps=total, eval_every=0, save_every=0, patience=0)
    _, loop = assemble(task_name, settings, data)
    loop.evaluate = lambda: {loop.task.figures[0]: 0.0}
    watch = _Stopwatch()
    loop.section = watch
    _time_tokens(loop, watch)
    events = (event for event in loop.events() if isinstance(event, Stepped))
    first = next(events)
    an_epoch = max(1, round(1 / first.epoch))  # steps
    once = {"tokenising": watch.seconds["tokenising"]}
    once["items"] = watch.seconds["items"] - once["tokenising"]
    for _ in range(WARM_STEPS - 1):
        next(events)
    watch.seconds.clear()
    timed = [next(events) for _ in range(steps)]
    parts = {name: seconds / an_epoch for name, seconds in once.items()}
    parts |= {name: watch.seconds[name] / steps for name in SECTIONS}
    inside = sum(step.seconds for step in timed) / steps
    parts["rest"] = max(0.0, inside - sum(watch.seconds[name] for name in SECTIONS) / steps)
    seconds = sum(parts.values())
    operators = _operators(lambda: [next(events) for _ in range(TRACED_STEPS)])
    flops_a_token, shape = _flops(loop, lambda: next(events))
    padded = sum(step.padded for step in timed)
    return Profile(
        steps=steps,
        seconds=seconds,
        parts={name: value * 1e3 for name, value in parts.items()},
        operators=operators,
        items_per_second=sum(step.items for step in timed) / steps / seconds,
        tokens_per_second=sum(step.tokens for step in timed) / steps / seconds,
        padding=1 - sum(step.tokens for step in timed) / padded,
        flops=flops_a_token * padded / steps / seconds,
        matmul_flops=_matmul(shape, loop.accelerator.device, settings.precision),
        matmul_shape=shape,
        threads=torch.get_num_threads(),
        precision=settings.precision,
    )


def _time_tokens(loop: Loop, watch: _Stopwatch) -> None:
    compute = loop.encoding.compute

    def timed(source: Any) -> Any:
        with watch("tokenising"):
            return compute(source)

    setattr(loop.encoding, "compute", timed)  # noqa: B010  # of this one alone


def _operators(run: Callable[[], object]) -> dict[str, float]:
    """Shares of the operators' own time, on the GPU where there is one."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells of its own beginning and end
    gpu = torch.cuda.is_available()
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * gpu
    with torch.profiler.profile(activities=activities) as traced:
        run()
    own = {
        entry.key: float(entry.self_device_time_total if gpu else entry.self_cpu_time_total)
        for entry in traced.key_averages()
    }
    whole = sum(own.values()) or 1.0
    return {name: own[name] / whole for name in sorted(own, key=lambda name: -own[name])[:OPERATORS]}


def _flops(loop: Loop, run: Callable[[], Stepped]) -> tuple[float, tuple[int, int, int]]:
    """(Operations of a step's matrix products by its tokens, padding counted; the shape with most of them)."""
    shapes: Counter[tuple[int, int, int]] = Counter()

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        rows, columns = inputs[0].numel() // inputs[0].shape[-1], inputs[0].shape[-1]
        shapes[rows, columns, output.shape[-1]] += rows * columns * output.shape[-1]

    linear = [module for module in loop.network.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(count) for module in linear]
    # These are not among those that PyTorch counts.
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    counter = FlopCounterMode(display=False, custom_mapping={forward: _attention(2), backward: _attention(5)})
    with counter:
        step = run()
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() / step.padded, shapes.most_common(1)[0][0]


def _attention(products: int) -> Callable[..., int]:
    """Operations of attention that consists of so many matrix products; its shapes are [n, heads, T, D]."""

    def count(first: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        shape = next(
            value for value in (first, *rest) if isinstance(value, list | tuple | torch.Size) and len(value) == 4
        )
        return products * 2 * shape[0] * shape[1] * shape[2] * shape[2] * shape[3]

    return count


def _matmul(shape: tuple[int, int, int], device: torch.device, precision: str) -> float:
    """Floating-point operations a second of one matrix product alone, the best of several."""
    rows, columns, out = shape
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (
        torch.ones(rows, columns, device=device, dtype=dtype),
        torch.ones(out, columns, device=device, dtype=dtype),
    )
    best, end = float("inf"), time.perf_counter() + MATMUL_SECONDS
    while time.perf_counter() < end or best == float("inf"):
        _wait()
        began = time.perf_counter()
        torch.mm(left, right.t())
        _wait()
        best = min(best, time.perf_counter() - began)
    return 2.0 * rows * columns * out / best


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
