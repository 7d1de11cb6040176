"""What runs a forward pass: arrays in, logits out."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from zhaiju.data.chunks import Chunk, arrays
from zhaiju.errors import ConfigError
from zhaiju.modeling.network import Network

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


class Backend(Protocol):
    """A way to run a checkpoint."""

    pad_id: int

    def run(self, chunk: Chunk) -> npt.NDArray[np.float32]:
        """Logits of a chunk's windows, float32 [n, …] (see `Network.logits`)."""
        ...


class TorchBackend:
    """PyTorch, on the device that the network is on.

    Args:
        network: The network; put into evaluation mode for each run and back.
        pad_id: Token to pad with; the attention mask hides it.
        precision: "fp32" or "bf16" (autocast).
    """

    def __init__(self, network: Network, *, pad_id: int, precision: Precision = "fp32") -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        self.network = network
        self.pad_id = pad_id
        self.precision = precision

    @torch.inference_mode()
    def run(self, chunk: Chunk) -> npt.NDArray[np.float32]:
        """See `Backend.run`."""
        device = next(self.network.parameters()).device
        training = self.network.training
        self.network.eval()
        try:
            tensors = (torch.from_numpy(array).to(device) for array in arrays(chunk))
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return self.network.logits(*tensors).float().cpu().numpy()
        finally:
            self.network.train(training)
