"""The one training loop: a generator of events. Logging, saving, stopping and progress bars consume them.

AdamW (Loshchilov and Hutter, 2019) with linear warm-up and decay, and an exponential moving average (EMA) of the
weights where it is asked for. The loop is handed `evaluate`; it knows no files. Its state after any step restores it
exactly: the same steps follow, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zhaiju.config import TrainSettings
from zhaiju.data.batching import for_epoch
from zhaiju.data.encoding import Encoding
from zhaiju.errors import DataError, TrainingError
from zhaiju.modeling.memory import trim
from zhaiju.modeling.network import Network, collate
from zhaiju.tasks.base import Item, Task
from zhaiju.training.processes import Processes

TRIM_STEPS = 20
SECTIONS = ("collating", "forward", "backward", "optimiser", "averaging", "giving memory back")  # of a step

Section = Callable[[str], AbstractContextManager[None]]


def _untimed(name: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Started:
    """Training begins or goes on.

    Attributes:
        step: Steps done so far.
        steps: Steps in all, as far as the first epoch tells.
        items: Items of an epoch.
    """

    step: int
    steps: int
    items: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step of the optimiser is done.

    Attributes:
        step: Its number, from 1.
        epoch: Epochs done, as a fraction.
        loss: Mean loss of its items' targets.
        lr: Learning rate it was taken with.
        grad_norm: Gradient norm before clipping; 0 without clipping.
        items: Items in it.
        tokens: Tokens in it, padding not counted.
        padded: Tokens in it, padding counted.
        seconds: Time it took.
    """

    step: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    items: int
    tokens: int
    padded: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The dev set was scored.

    Attributes:
        step: After which step.
        metrics: The task's figures.
        value: The primary one.
        best: Whether it is the best so far (an equal later one is not).
        seconds: Time it took.
    """

    step: int
    metrics: dict[str, float]
    value: float
    best: bool
    seconds: float


Event = Started | Stepped | Evaluated


class Loop:
    """The state of a training and the generator that moves it on.

    Args:
        network: What is trained.
        task: Gives items, and names the primary metric.
        examples: Labelled examples.
        encoding: The tokenizer and windows.
        settings: The settings.
        evaluate: Scores the network as it is on the dev set.
        pad_id: Token to pad with.
        processes: Those that train it together; None: this one alone, or what it was launched as.

    Raises:
        TrainingError: the examples give nothing to train on.
    """

    def __init__(
        self,
        network: Network,
        task: Task[Any, Any],
        examples: Sequence[Any],
        encoding: Encoding,
        settings: TrainSettings,
        *,
        evaluate: Callable[[], dict[str, float]],
        pad_id: int,
        processes: Processes | None = None,
    ) -> None:
        self.task = task
        self.examples = examples
        self.encoding = encoding
        self.settings = settings
        self.evaluate = evaluate
        self.pad_id = pad_id
        self.section: Section = _untimed  # entered around each part of a step, and around making items
        self.processes = processes or Processes()
        self.accelerator = self.processes.accelerator
        optimizer = torch.optim.AdamW(_parameter_groups(network, settings.weight_decay), lr=settings.lr, fused=True)
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.trained: list[torch.Tensor] = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.average = [value.detach().clone() for value in self.trained] if settings.average else []
        self.step = 0
        self.epoch = 0
        self.position = 0  # batches of the epoch that are done
        self.best_value = -np.inf
        self.best_step = 0
        self.since_best = 0
        self.evaluated_step = 0

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs beside the weights to go on exactly."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "weights": [value.detach() for value in self.trained] if self.average else [],
            "average": self.average,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "best_value": float(self.best_value),
            "best_step": self.best_step,
            "since_best": self.since_best,
            "evaluated_step": self.evaluated_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken; weights that are not averaged are loaded elsewhere."""
        with torch.no_grad():
            for name, ours in (("weights", self.trained), ("average", self.average)):
                for value, kept in zip(ours, state.get(name, ()), strict=False):
                    value.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        for name in ("step", "epoch", "position", "best_value", "best_step", "since_best", "evaluated_step"):
            setattr(self, name, state[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the mean of the weights into the network, for what is judged and kept; afterwards they are as before.

        Without averaging the weights stay.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for place, mean in enumerate(self.average):
            self.average[place], self.trained[place].data = self.trained[place].data, mean

    def _follow(self) -> None:
        """Move the mean towards the weights; at first faster, so that it forgets where training began."""
        if self.average:
            decay = min(self.settings.average, self.step / (self.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.trained, 1 - decay)

    def items(self, epoch: int) -> list[Item]:
        """What an epoch trains on; the same whenever it is asked for the same epoch."""
        generator = np.random.default_rng([self.settings.seed, epoch, 1])
        items = []
        for example in self.examples:
            try:
                items += self.task.items(example, self.encoding, generator)
            except DataError as error:
                raise error.located(row=example.id) from None
        if not items:
            raise TrainingError(
                f"none of the {len(self.examples)} examples gives {self.task.name} anything to train on"
            )
        return items

    def events(self) -> Iterator[Event]:
        """Train to the end, yielding what happens. Between two events the state may be saved.

        Raises:
            TrainingError: the loss is no finite number.
        """
        settings = self.settings
        first = True
        while not self.finished:
            with self.section("items"):
                items = self.items(self.epoch)
            batches = for_epoch(
                [item.size for item in items],
                settings.batch_tokens,
                most=settings.batch_size or None,
                seed=settings.seed,
                epoch=self.epoch,
            )
            groups = [batches[at : at + settings.accumulation] for at in range(0, len(batches), settings.accumulation)]
            if first:
                first = False
                yield Started(self.step, settings.max_steps or len(groups) * settings.epochs, len(items))
            # A state saved between a step and its evaluation goes on with the evaluation.
            if self._evaluation_due(len(groups)):
                yield self._evaluate()
            while self.position < len(groups) and not self.finished:
                group = [[items[index] for index in batch] for batch in groups[self.position]]
                yield self._take_step(group, len(groups))
                if self._evaluation_due(len(groups)):
                    yield self._evaluate()
            if not self.finished:
                self.epoch += 1
                self.position = 0
        if self.evaluated_step != self.step:
            yield self._evaluate()

    def _evaluation_due(self, groups: int) -> bool:
        if self.evaluated_step == self.step:
            return False
        every = self.settings.eval_every
        return self.step % every == 0 if every else self.position == groups

    @property
    def finished(self) -> bool:
        """Whether all steps are taken, or enough evaluations went by without a better one."""
        if self.settings.patience and self.since_best >= self.settings.patience:
            return True
        if self.settings.max_steps:
            return self.step >= self.settings.max_steps
        return self.epoch >= self.settings.epochs

    def learning_rate(self, groups: int) -> float:
        """The rate of the coming step: up over the warm-up's share of the training, then down to 0."""
        if self.settings.max_steps:
            done, unit = self.step / self.settings.max_steps, 1 / self.settings.max_steps
        else:
            unit = 1 / (groups * self.settings.epochs)
            done = self.epoch / self.settings.epochs + self.position * unit
        warmup = self.settings.warmup
        if done < warmup:
            return self.settings.lr * min(1.0, (done + unit) / warmup)
        return self.settings.lr * (1 - done) / max(1 - warmup, unit)

    def _take_step(self, group: list[list[Item]], groups: int) -> Stepped:
        began = time.perf_counter()
        lr = self.learning_rate(groups)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        self.network.train()
        self.processes.seed(self.settings.seed, self.step)
        targets = sum(item.targets for items in group for item in items)
        total: Any = 0.0  # read once: on a GPU, reading waits for it
        tokens = padded = 0
        for place, items in enumerate(group):
            ours = self.processes.share(items)
            with self.section("collating"):
                batch = collate(ours or items[:1], self.task.head, self.pad_id)
            wait = self.accelerator.no_sync(self.network) if place < len(group) - 1 else nullcontext()
            autocast = torch.autocast(
                self.accelerator.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
            )
            with wait:
                with self.section("forward"), autocast:
                    # Gradients are averaged over the processes, and are to be summed.
                    weight = self.processes.count if ours else 0
                    part = self.network(batch, self.settings.label_smoothing) / targets * weight
                with self.section("backward"):
                    self.accelerator.backward(part)
            total = total + part.detach().double() / self.processes.count
            if ours:
                tokens += batch.tokens[0]
                padded += batch.tokens[1]
        loss, told, computed = self.processes.sum(float(total), tokens, padded)
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.step + 1} is {loss}; try a lower learning rate (now {lr:.2g}), "
                "more warm-up, or precision fp32"
            )
        norm = 0.0
        with self.section("optimiser"):
            if self.settings.clip:
                norm = float(self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip))
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.step += 1
        with self.section("averaging"):
            self._follow()
        if self.step % TRIM_STEPS == 0:
            with self.section("giving memory back"):
                trim()
        self.position += 1
        epoch = self.epoch + self.position / groups
        return Stepped(
            self.step, epoch, loss, lr, norm, sum(map(len, group)), int(told), int(computed),
            time.perf_counter() - began,
        )  # fmt: skip

    def _evaluate(self) -> Evaluated:
        began = time.perf_counter()
        with self.averaged():
            metrics = self.evaluate()
        value = metrics[self.task.figures[0]]
        best = value > self.best_value
        if best:
            self.best_value, self.best_step, self.since_best = value, self.step, 0
        else:
            self.since_best += 1
        self.evaluated_step = self.step
        return Evaluated(self.step, metrics, value, best, time.perf_counter() - began)


def _parameter_groups(network: Network, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only, as BERT was trained."""
    matrices = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
