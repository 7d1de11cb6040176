"""What runs a forward pass: arrays in, logits out. Libraries are imported when a backend is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from zhaiju.data.chunks import Chunk, arrays
from zhaiju.errors import CheckpointError, ConfigError
from zhaiju.threads import wanted_threads

if TYPE_CHECKING:
    from zhaiju.modeling.network import Network

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.safetensors"
TRANSPOSED = ".T"  # after the name of a weight that the graph wants transposed; names stand in brackets there
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


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

    def run(self, chunk: Chunk) -> npt.NDArray[np.float32]:
        """See `Backend.run`."""
        import torch

        device = next(self.network.parameters()).device
        training = self.network.training
        self.network.eval()
        try:
            tensors = (torch.from_numpy(array).to(device) for array in arrays(chunk))
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")
            with torch.inference_mode(), autocast:
                return self.network.logits(*tensors).float().cpu().numpy()
        finally:
            self.network.train(training)


class OnnxBackend:
    """onnxruntime on the CPU, in fp32: a graph that takes its weights from the safetensors file beside it.

    Args:
        directory: A checkpoint directory with `model.onnx` (see `zhaiju.inference.export`).
        pad_id: Token to pad with; the attention mask hides it.
        threads: CPU threads; 0: see `zhaiju.threads`.

    Raises:
        CheckpointError: the files are not there, or do not belong together.
    """

    def __init__(self, directory: str | Path, *, pad_id: int, threads: int = 0) -> None:
        import onnxruntime
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self.pad_id = pad_id
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or wanted_threads()
        options.log_severity_level = 3
        # Threads that wait by spinning are many times slower as soon as another program wants a core too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A weight that is not handed over would be read from the file's first bytes if the working directory has one.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            graph = (Path(directory) / GRAPH_FILE).read_bytes()
            arrays_of: dict[str, npt.NDArray[np.float32]] = {}
            for name, weight in load_file(Path(directory) / WEIGHTS_FILE).items():
                for wanted, array in ((f"[{name}]", weight), (f"[{name}{TRANSPOSED}]", weight.T)):
                    if wanted.encode() in graph:
                        arrays_of[wanted] = np.ascontiguousarray(array, dtype=np.float32)
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays_of.values()]
            options.add_external_initializers(list(arrays_of), values)
            self._arrays = arrays_of  # the session looks into their memory
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{directory} cannot be read: {error}") from None
        except Exception as error:  # onnxruntime's errors have no common class
            raise CheckpointError(f"{directory}: {str(error).splitlines()[0]}") from error

    def run(self, chunk: Chunk) -> npt.NDArray[np.float32]:
        """See `Backend.run`."""
        logits: npt.NDArray[np.float32] = self._session.run(None, dict(zip(INPUTS, arrays(chunk), strict=True)))[0]
        return logits
