"""What runs a forward pass: arrays in, logits out. Libraries are imported when a backend is made.

| backend  | runs                                          | precisions       |
|----------|-----------------------------------------------|------------------|
| torch    | a loaded network, on the GPU where there is one | fp32, bf16     |
| onnx     | an exported graph, in onnxruntime             | fp32, int8       |
| openvino | an exported graph, or a loaded network        | fp32, bf16, int8 |
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from zhaiju.data.chunks import Chunk, arrays
from zhaiju.errors import CheckpointError, ConfigError, is_out_of_memory, library
from zhaiju.modeling.checkpoint import GRAPHS
from zhaiju.modeling.quantised import multiplied, read_rows
from zhaiju.threads import wanted_threads

if TYPE_CHECKING:
    from zhaiju.modeling.network import Network

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
BACKENDS = {"torch": ("fp32", "bf16"), "onnx": ("fp32", "int8"), "openvino": PRECISIONS}
AUTO = "auto"

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.safetensors"
TRANSPOSED = ".T"  # after the name of a weight that the graph wants transposed; names stand in brackets there
SHAPE_STEPS = ((32, 4), (128, 8), (1 << 30, 16))  # up to so many tokens, a multiple of so many
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
SPAN_OUTPUTS = ("start_logits", "end_logits")

Floats = npt.NDArray[np.float32]


class Backend(Protocol):
    """A way to run a checkpoint."""

    pad_id: int

    def run(self, chunk: Chunk) -> Floats:
        """Logits of a chunk's windows, float32 [n, …] (see `Network.logits`)."""
        ...


class TorchBackend:
    """PyTorch, on the device that the network is on.

    Args:
        network: The network; put into evaluation mode for each run and back.
        pad_id: Token to pad with; the attention mask hides it.
        precision: "fp32" or "bf16" (autocast).
        fixed: The weights will not change any more: bf16 then rounds those of linear layers once, not in every run.
    """

    def __init__(self, network: Network, *, pad_id: int, precision: str = "fp32", fixed: bool = False) -> None:
        _supports("torch", precision)
        self.network = _rounded(network) if fixed and precision == "bf16" else network
        self.pad_id = pad_id
        self.precision = precision

    def run(self, chunk: Chunk) -> Floats:
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


def _rounded(network: Network) -> Network:
    """A copy whose linear layers hold bf16 weights, as autocast would round them; it shares all other weights."""
    import torch

    shared: dict[int, Any] = {id(value): value for value in [*network.parameters(), *network.buffers()]}
    for module in network.modules():
        if type(module) is torch.nn.Linear:
            for value in module.parameters(recurse=False):
                rounded = value.detach().to(torch.bfloat16)
                shared[id(value)] = torch.nn.Parameter(rounded, requires_grad=False)
    return copy.deepcopy(network, shared)


class OnnxBackend:
    """onnxruntime on the CPU.

    Args:
        directory: A checkpoint directory that holds an exported graph (see `zhaiju.inference.export`).
        pad_id: Token to pad with; the attention mask hides it.
        precision: "fp32", or "int8" where a quantised graph was exported.
        threads: CPU threads; 0: see `zhaiju.threads`.

    Raises:
        CheckpointError: the files are not there, or do not belong together.
    """

    def __init__(self, directory: str | Path, *, pad_id: int, precision: str = "fp32", threads: int = 0) -> None:
        _supports("onnx", precision)
        import onnxruntime
        from safetensors import SafetensorError

        self.pad_id = pad_id
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or wanted_threads()
        options.log_severity_level = 3
        # Threads that wait by spinning are many times slower as soon as another program wants a core too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A weight that is not handed over would be read from the file's first bytes if the working directory has one.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            path = graph_path(directory, precision)
            graph = path.read_bytes()
            self._arrays: dict[str, Floats] = {}  # the session looks into their memory
            if path.parent == Path(directory):  # a graph beside the weights
                self._arrays = _referred(graph, Path(directory) / WEIGHTS_FILE, options.intra_op_num_threads)
                values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self._arrays.values()]
                options.add_external_initializers(list(self._arrays), values)
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{directory} cannot be read: {error}") from None
        except CheckpointError:
            raise
        except Exception as error:  # onnxruntime's errors have no common class
            if is_out_of_memory(error):
                raise
            raise CheckpointError(f"{directory}: {str(error).splitlines()[0]}") from error
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self._outputs = _outputs([entry.name for entry in self._session.get_outputs()], directory)

    def run(self, chunk: Chunk) -> Floats:
        """See `Backend.run`."""
        given = dict(zip(INPUTS, arrays(chunk), strict=True))
        return _stacked(self._session.run(self._outputs, {name: given[name] for name in self._inputs}))


class OpenVinoBackend:
    """OpenVINO on the CPU.

    Args:
        source: A checkpoint directory that holds an exported graph, or a network, which is converted first.
        pad_id: Token to pad with; the attention mask hides it.
        precision: "fp32", "bf16" (rounded as the graph is compiled), or "int8" where a quantised graph was exported.
        threads: CPU threads; 0: see `zhaiju.threads`.

    Raises:
        CheckpointError: the files are not there, or are no graph.
        ConfigError: OpenVINO is not installed, or the processor does not compute in bf16.
    """

    def __init__(self, source: str | Path | Network, *, pad_id: int, precision: str = "fp32", threads: int = 0) -> None:
        _supports("openvino", precision)
        openvino = library("openvino")
        self.pad_id = pad_id
        core = openvino.Core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise ConfigError("this processor does not compute in bf16; use --precision fp32 or int8")
        if isinstance(source, str | Path):
            try:
                model = core.read_model(graph_path(source, precision, self_contained=True))
            except RuntimeError as error:
                reason = next(
                    (line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__
                )
                raise CheckpointError(f"{source}: {reason.strip()}") from error
        elif precision == "int8":
            raise ConfigError("int8 needs a quantised graph; see zhaiju export")
        else:
            model = _converted(source)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # Said always: OpenVINO's own default is bf16 where the processor has it. What int8 leaves runs in bf16 too.
            "INFERENCE_PRECISION_HINT": "bf16" if precision != "fp32" and has_bf16 else "f32",
            "ENABLE_CPU_PINNING": False,  # the machine is not ours alone
        }
        settings["INFERENCE_NUM_THREADS"] = threads or wanted_threads()
        compiled = core.compile_model(model, "CPU", settings)
        self._inputs = [_named(entry, INPUTS) for entry in compiled.inputs]
        names = [_named(entry, SPAN_OUTPUTS) for entry in compiled.outputs]
        self._outputs = [names.index(name) for name in _outputs(names, str(source))]
        self._token_axis = _token_axis(compiled.outputs[0].get_partial_shape(), len(self._outputs))
        self._request = compiled.create_infer_request()

    def run(self, chunk: Chunk) -> Floats:
        """See `Backend.run`.

        OpenVINO makes, and keeps, kernels for every shape that it sees. So rows are taken in powers of two, and lengths
        rounded up to a multiple of 4, 8 or 16: a few dozen shapes, whatever the texts.
        """
        rows, tokens = chunk.input_ids.shape
        step = next(step for most, step in SHAPE_STEPS if tokens <= most)
        wider = [(0, 0), (0, -tokens % step)]
        given = {
            name: np.pad(array, wider, constant_values=self.pad_id if name == INPUTS[0] else 0)
            for name, array in zip(INPUTS, arrays(chunk), strict=True)
        }
        parts = []
        for first, last in _powers_of_two(rows):
            found = self._request.infer([given[name][first:last] for name in self._inputs])
            parts.append(_stacked([found[at] for at in self._outputs]).copy())  # the next run writes over them
        logits = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(logits) < rows:  # where it finds no memory, OpenVINO may give less than it was asked for
            raise MemoryError(f"OpenVINO computed {len(logits)} of {rows} windows")
        if self._token_axis is None:
            return logits
        return np.ascontiguousarray(logits[:, :, :tokens] if self._token_axis == 2 else logits[:, :tokens])


def _converted(network: Network) -> Any:
    """A network as an OpenVINO model, for any number of windows and tokens."""
    import openvino
    import torch

    wanted = inputs_of(network)
    training = network.training
    network.eval()
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            example = {name: torch.ones(2, 16, dtype=torch.int64) for name in wanted}
            return openvino.convert_model(logits_module(network), example_input=example)
    finally:
        network.train(training)


def _powers_of_two(rows: int) -> Iterator[tuple[int, int]]:
    """Cut `rows` rows into runs of 2^n, the longest first."""
    first = 0
    while first < rows:
        last = first + (1 << ((rows - first).bit_length() - 1))
        yield first, last
        first = last


def _token_axis(shape: Any, outputs: int) -> int | None:
    """Which axis of the stacked logits counts tokens: 2 of spans, 1 of tags, none of what is scored by window."""
    if outputs == 2:
        return 2
    if len(shape) != 3:
        return None
    return 2 if shape[1].is_static and shape[1].get_length() == 2 else 1


def _named(entry: Any, known: Sequence[str]) -> str:
    """Which of the known names an input or output has; one of its own where none, or ""."""
    own: set[str] = entry.get_names()
    return next((name for name in known if name in own), min(own, default=""))


def inputs_of(network: Network) -> tuple[str, ...]:
    """The names of what a graph of the network takes; token types only where the encoder knows them."""
    return INPUTS if network.takes_types and network.types != 0 else (INPUTS[0], INPUTS[2])


def logits_module(network: Network, *, split: bool = False) -> Any:
    """A module that gives a network's logits for the inputs of `inputs_of`, for exporters to trace.

    Args:
        network: The network.
        split: Start and end logits of spans come as two outputs [n, T] instead of one [n, 2, T].
    """
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def logits(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
            logits = self.network.logits(input_ids, token_type_ids, attention_mask)
            return (logits[:, 0], logits[:, 1]) if split and self.network.head.over == "tokens" else logits

    class Typed(Logits):
        def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
            return self.logits(input_ids, token_type_ids, attention_mask)

    class Untyped(Logits):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.logits(input_ids, input_ids, attention_mask)  # the types are not looked at

    return Typed() if inputs_of(network) == INPUTS else Untyped()


def graph_path(directory: str | Path, precision: str, *, self_contained: bool = False) -> Path:
    """The file of an exported graph.

    Args:
        directory: A checkpoint directory.
        precision: "fp32", "bf16" (the same file) or "int8".
        self_contained: It must hold its weights itself.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(directory) / GRAPHS["int8" if precision == "int8" else "fp32"]
    if path.is_file():
        return path
    beside = Path(directory) / GRAPH_FILE
    if precision == "int8":
        raise CheckpointError(f"{directory} holds no {GRAPHS['int8']}; see zhaiju export --precision int8")
    if self_contained or not beside.is_file():
        raise CheckpointError(f"{directory} holds no {GRAPHS['fp32']}; see zhaiju export")
    return beside


def _supports(backend: str, precision: str) -> None:
    if precision not in BACKENDS[backend]:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(BACKENDS[backend])}, which {backend} has")


def choose(backend: str, precision: str, *, exported: bool, whole: bool = True) -> str:
    """The backend that "auto" means.

    A loaded network runs in PyTorch. An exported graph runs in OpenVINO, the fastest, where that is installed, else in
    onnxruntime.

    Args:
        backend: A key of `BACKENDS`, or "auto".
        precision: A member of `PRECISIONS`.
        exported: Whether there is a graph and no network.
        whole: Whether the graph holds its weights itself; one that does not runs in onnxruntime alone.

    Raises:
        ConfigError: there is no such backend or precision, or the one does not have the other.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if backend == AUTO:
        if not exported:
            return "torch" if precision in BACKENDS["torch"] else "openvino"
        return "openvino" if precision == "bf16" or (whole and find_spec("openvino")) else "onnx"
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r} is not one of {', '.join((AUTO, *BACKENDS))}")
    if exported and backend == "torch":
        raise ConfigError("an exported graph runs in onnx or openvino, not in torch")
    _supports(backend, precision)
    return backend


def _referred(graph: bytes, path: Path, threads: int) -> dict[str, Floats]:
    """The weights of a safetensors file that a graph refers to by name, as float32."""
    wanted = [
        (f"[{name}{suffix}]", value, scale, bool(suffix))
        for name, (value, scale) in read_rows(path).items()
        for suffix in ("", TRANSPOSED)
        if f"[{name}{suffix}]".encode() in graph
    ]
    with ThreadPoolExecutor(threads) as pool:
        arrays = pool.map(lambda one: multiplied(one[1], one[2], transposed=one[3]), wanted)
        return dict(zip((name for name, *_ in wanted), arrays, strict=True))


def _outputs(names: Sequence[str], where: str | Path) -> list[str]:
    """The outputs to ask a graph for: both of spans, or the only one."""
    if set(SPAN_OUTPUTS) <= set(names):
        return list(SPAN_OUTPUTS)
    if len(names) != 1:
        raise CheckpointError(f"{where}: the graph gives {', '.join(names)}, expected logits, or start and end logits")
    return list(names)


def _stacked(outputs: Sequence[npt.NDArray[Any]]) -> Floats:
    found = outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=1)
    return np.asarray(found, dtype=np.float32)
