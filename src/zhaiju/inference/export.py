"""A checkpoint's forward pass as an ONNX graph, for runtimes without PyTorch.

`export` makes a directory that runs here, in plain onnxruntime, in OpenVINO and in transformers.js, and refuses to
where it would answer differently. `export_graph` puts a graph beside the weights of a checkpoint directory that takes
them from there: so they are kept once, in half precision if that is how they were saved.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.data.batching import by_budget
from zhaiju.data.chunks import Chunk, arrays, pad
from zhaiju.errors import CheckpointError, ConfigError, not_installed
from zhaiju.inference.answer import JOINT_FILE
from zhaiju.inference.backends import (
    GRAPH_FILE,
    INPUTS,
    SPAN_OUTPUTS,
    TRANSPOSED,
    WEIGHTS_FILE,
    OnnxBackend,
    TorchBackend,
    inputs_of,
    logits_module,
)
from zhaiju.inference.engine import Engine, make_engine
from zhaiju.modeling.checkpoint import GRAPHS, Checkpoint, load_exported, save_exported
from zhaiju.modeling.quantised import read_weights
from zhaiju.tasks.base import Task

PROBE = "摘句 Zhaiju，ＡＢ１２ café 「二〇二六年」 don't e\u0301\r\n👩🏽\u200d🚀"
SMALL = 1024  # values of a constant that stays in the graph
TOLERANCE = 1e-4  # between logits in fp32
MOST_LOST = 0.005  # of each figure, in bf16 and int8
CALIBRATED_ON = 100  # examples whose activations say how to round


@dataclass(frozen=True)
class Quantisation:
    """How weights and activations become 8-bit integers.

    Attributes:
        static: Ranges of activations come from examples; else each run finds its own.
        per_channel: A scale for each column of a weight; else one for all of it.
        embeddings: Round the embeddings too.
        output_layer: Round the task's output layer too.
    """

    static: bool = True
    per_channel: bool = True
    embeddings: bool = True
    output_layer: bool = False


BEST = Quantisation()


@dataclass(frozen=True)
class Verified:
    """What an exported graph was found to do.

    Attributes:
        precision: "fp32", "bf16" or "int8".
        backend: What it ran in.
        difference: Largest difference to PyTorch's logits; None where that is not what is judged.
        before: The task's figures in fp32; empty where no labelled examples were given.
        after: Those of the graph.
        count: Of how many examples.
    """

    precision: str
    backend: str
    difference: float | None
    before: dict[str, float]
    after: dict[str, float]
    count: int

    @property
    def lost(self) -> float:
        """The largest fall of a figure, 0..1; 0 if none fell."""
        return max((self.before[name] - self.after[name] for name in self.before), default=0.0)


def export(
    checkpoint: Checkpoint,
    name: str,
    directory: Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    examples: Sequence[Any] = (),
    progress: Callable[[int], None] | None = None,
) -> list[Verified]:
    """Write a checkpoint as a directory of ONNX graphs, if these do what it does.

    `onnx/model.onnx` is always written, and has to give PyTorch's logits. `onnx/model_quantized.onnx` is written for
    "int8"; it, and the graph computed in bf16 where "bf16" is asked for, may lose 0.5 points of each of the task's
    figures on the labelled examples. Ranges for int8 come from the first 100 examples, which then do not count.

    Args:
        checkpoint: Loaded with a network.
        name: Its task.
        directory: Must not exist.
        precisions: Of `PRECISIONS`.
        examples: Labelled examples, for bf16 and int8.
        progress: Called with the number of examples done since the last call.

    Raises:
        CheckpointError: a graph does not do what the checkpoint does; nothing is written.
        ConfigError: there are no examples to tell by, or onnx is not installed.
    """
    lossy = [precision for precision in precisions if precision != "fp32"]
    if lossy and len(examples) < 2:
        raise ConfigError(f"{', '.join(lossy)} needs labelled examples to be judged on; name some with --data")
    if checkpoint.encoding.serialised() is None:
        raise CheckpointError(
            f"{checkpoint.where} cannot be exported: its tokenizer is in part Python (RoFormer's cuts words by jieba), "
            "and would cut texts otherwise where that is missing"
        )
    calibrating = list(examples[: min(CALIBRATED_ON, len(examples) // 2)]) if "int8" in lossy else []
    judged = list(examples[len(calibrating) :])
    model = _graph(checkpoint, split=True)
    task = checkpoint.task(name)
    found: list[Verified] = []

    def fill(temporary: Path) -> None:
        graph = temporary / GRAPHS["fp32"]
        graph.parent.mkdir()
        graph.write_bytes(model.SerializeToString())
        save_exported(checkpoint, temporary, name)
        if (fitted := Path(checkpoint.where) / JOINT_FILE).is_file():
            (temporary / JOINT_FILE).write_bytes(fitted.read_bytes())
        exported = load_exported(temporary)
        _same_tokens(checkpoint, exported, judged)
        found.append(_agreement(checkpoint, exported, task, judged))
        if "int8" in lossy:
            windows = [window for example in calibrating for window in task.encode(example, checkpoint.encoding)]
            quantise(graph, temporary / GRAPHS["int8"], windows, checkpoint.encoding.pad_id)
        before = _figures(make_engine(exported), task, judged, progress) if lossy else {}
        for precision in lossy:
            engine = make_engine(exported, precision=precision)
            after = _figures(engine, task, judged, progress)
            runtime = "onnx" if isinstance(engine.backend, OnnxBackend) else "openvino"
            result = Verified(precision, runtime, None, before, after, len(judged))
            found.append(result)
            if result.lost > MOST_LOST:
                fell = ", ".join(f"{key} {before[key]:.4f} to {after[key]:.4f}" for key in before)
                raise CheckpointError(
                    f"{precision} answers worse: {fell} on {len(judged)} examples; at most {MOST_LOST:.3f} may be lost"
                )

    files.atomic_directory(directory, fill)
    return found


def _same_tokens(checkpoint: Checkpoint, exported: Checkpoint, examples: Sequence[Any]) -> None:
    """Make sure that the tokenizer that was written cuts texts as the one that was loaded.

    Raises:
        CheckpointError: it does not.
    """
    for text in [PROBE, *(text for example in examples[:8] for text in example.texts)]:
        ours, theirs = checkpoint.encoding.compute(text), exported.encoding.compute(text)
        if ours.ids.tolist() != theirs.ids.tolist() or ours.starts.tolist() != theirs.starts.tolist():
            raise CheckpointError(f"{checkpoint.where} cannot be exported: its tokenizer, saved, cuts texts otherwise")


def _agreement(checkpoint: Checkpoint, exported: Checkpoint, task: Task[Any, Any], examples: Sequence[Any]) -> Verified:
    """The graph's logits against PyTorch's, on windows of the examples and on noise.

    Raises:
        CheckpointError: they differ by more than `TOLERANCE`.
    """
    pad_id = checkpoint.encoding.pad_id
    ours = TorchBackend(checkpoint.network, pad_id=pad_id)
    theirs = OnnxBackend(exported.where, pad_id=pad_id)
    windows = [window for example in examples[:8] for window in task.encode(example, checkpoint.encoding)]
    chunks = [*_noise(checkpoint), *_chunks(windows, pad_id)]
    difference = 0.0
    for chunk in chunks:
        seen = chunk.attention_mask == 1
        gap = np.abs(ours.run(chunk) - theirs.run(chunk))
        if gap.shape[-1] == seen.shape[1] and task.head.over == "tokens":
            gap = gap.transpose(0, 2, 1)[seen]  # what a padded token is given is nobody's
        elif task.head.per_token:
            gap = gap[seen]
        difference = max(difference, float(gap.max()))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"the graph's logits differ from PyTorch's by {difference:.2g}, at most {TOLERANCE:g} may be"
        )
    return Verified("fp32", "onnx", difference, {}, {}, len(examples))


def _noise(checkpoint: Checkpoint) -> Iterator[Chunk]:
    """Chunks of random tokens, of several numbers and lengths, half of the rows padded."""
    generator = np.random.default_rng(0)
    types = getattr(checkpoint.network.model.config, "type_vocab_size", 0) or 1
    for rows, tokens in ((1, 9), (2, 30), (5, min(77, checkpoint.encoding.window))):
        shape = rows, tokens
        lengths = np.where(np.arange(rows) % 2, generator.integers(4, tokens + 1, rows), tokens)
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        ids = generator.integers(0, checkpoint.network.model.config.vocab_size, shape)
        yield Chunk(
            np.where(mask == 1, ids, checkpoint.encoding.pad_id),
            generator.integers(0, types, shape),
            mask,
            mask == 1,
            list(range(rows)),
        )


def _chunks(windows: Sequence[Any], pad_id: int, budget: int = 2048) -> Iterator[Chunk]:
    for batch in by_budget([len(window) for window in windows], budget):
        yield pad([windows[at] for at in batch], pad_id, batch)


def _figures(
    engine: Engine, task: Task[Any, Any], examples: Sequence[Any], progress: Callable[[int], None] | None
) -> dict[str, float]:
    report = task.score(examples, list(engine.predict(task, examples, progress=progress)))
    return {name: report[name] for name in task.figures}


def quantise(graph: Path, output: Path, windows: Sequence[Any], pad_id: int, how: Quantisation = BEST) -> None:
    """Write a graph with 8-bit weights, and 8-bit activations at the inputs of its linear layers.

    Static ones stand in the graph as QuantizeLinear and DequantizeLinear (QDQ; Jacob et al., 2018), which onnxruntime
    and OpenVINO both turn into integer products.

    Args:
        graph: A graph that holds its weights.
        output: Where to.
        windows: What ranges of activations are found on; none are needed where they are not static.
        pad_id: Token to pad with.
        how: The way.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Windows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, names: Sequence[str]) -> None:
            self.names = names
            self.chunks = _chunks(windows, pad_id)

        def get_next(self) -> dict[str, npt.NDArray[np.int64]] | None:
            chunk = next(self.chunks, None)
            if chunk is None:
                return None
            given = dict(zip(INPUTS, arrays(chunk), strict=True))
            return {name: given[name] for name in self.names}

    with TemporaryDirectory(dir=output.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        kinds = ["MatMul", "Gemm", *(["Gather"] if how.embeddings else [])]
        left_out = [] if how.output_layer else _last_products(model.graph)
        options = {"MatMulConstBOnly": True, "WeightSymmetric": True}
        if how.static:
            quantize_static(
                str(prepared), str(output), Windows([entry.name for entry in model.graph.input]),
                quant_format=QuantFormat.QDQ, op_types_to_quantize=kinds, per_channel=how.per_channel,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=left_out,
                extra_options=options,
            )  # fmt: skip
        else:
            quantize_dynamic(
                str(prepared), str(output), op_types_to_quantize=kinds, per_channel=how.per_channel,
                weight_type=QuantType.QInt8, nodes_to_exclude=left_out, extra_options=options,
            )  # fmt: skip


def _last_products(graph: Any) -> list[str]:
    """The products nearest to the outputs: the task's output layer."""
    made = {name: node for node in graph.node for name in node.output}
    found, waiting = [], [entry.name for entry in graph.output]
    while waiting:
        node = made.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in ("MatMul", "Gemm"):
            found.append(node.name)
        else:
            waiting += node.input
    return found


def _graph(checkpoint: Checkpoint, *, split: bool) -> Any:
    """The network as an ONNX model that holds its weights.

    Raises:
        ConfigError: onnx is not installed.
    """
    import torch

    network = checkpoint.network
    names = inputs_of(network)
    # A tensor of its own for each: given one thrice, the exporter takes them for one input.
    inputs = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in names)
    rows, tokens = torch.export.Dim("windows", max=1 << 16), torch.export.Dim("tokens", min=4)
    spans = split and network.head.over == "tokens"
    training, attention = network.training, getattr(network.model.config, "_attn_implementation", None)
    network.eval()
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chatter.setLevel(logging.ERROR)
            if attention == "sdpa":  # its guards against empty rows make a third more operators
                network.model.set_attn_implementation("eager")
            program = torch.onnx.export(
                logits_module(network, split=split),
                inputs,
                dynamo=True,
                verbose=False,
                input_names=list(names),
                output_names=list(SPAN_OUTPUTS) if spans else ["logits"],
                dynamic_shapes=({0: rows, 1: tokens},) * len(names),
            )
    except ImportError as error:
        raise (not_installed(error) or error) from None
    finally:
        chatter.setLevel(level)
        if attention == "sdpa":
            network.model.set_attn_implementation(attention)
        network.train(training)
    assert program is not None
    model = program.model_proto
    _strip(model.graph)
    del model.metadata_props[:]
    return model


def export_graph(checkpoint: Checkpoint) -> Path:
    """Write `model.onnx` beside the weights of a checkpoint directory.

    Args:
        checkpoint: Loaded from a directory that holds `model.safetensors`.

    Returns:
        The graph's path.

    Raises:
        CheckpointError: a large constant of the graph is none of the weights.
    """
    model = _graph(checkpoint, split=False)
    _refer(model.graph, read_weights(Path(checkpoint.where) / WEIGHTS_FILE))
    path = Path(checkpoint.where) / GRAPH_FILE

    def fill(temporary: Path) -> None:
        temporary.write_bytes(model.SerializeToString())

    files.atomic_file(path, fill)
    return path


def _strip(graph: Any) -> None:
    """Remove what the exporter tells of its own work."""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*graph.value_info, *graph.input, *graph.output, *graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    del graph.metadata_props[:]


def _refer(graph: Any, weights: dict[str, npt.NDArray[np.float32]]) -> None:
    """Turn every large constant into a reference to the weight that it equals, as it is or transposed."""
    from onnx import TensorProto, numpy_helper

    names: dict[str, str] = {}
    for constant in graph.initializer:
        if np.prod(constant.dims) <= SMALL:
            continue
        value = numpy_helper.to_array(constant)
        name = _same(value, weights)
        if name is None:
            raise CheckpointError(f"the graph's constant {constant.name} {list(value.shape)} is none of the weights")
        names[constant.name] = name
        reference = TensorProto(name=name, data_type=constant.data_type, dims=constant.dims)
        reference.data_location = TensorProto.EXTERNAL
        reference.external_data.add(key="location", value=WEIGHTS_FILE)
        constant.CopyFrom(reference)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _same(value: npt.NDArray[Any], weights: dict[str, npt.NDArray[np.float32]]) -> str | None:
    for name, weight in weights.items():
        if weight.shape == value.shape and np.array_equal(weight, value):
            return f"[{name}]"
        if weight.ndim == 2 and weight.T.shape == value.shape and np.array_equal(weight.T, value):
            return f"[{name}{TRANSPOSED}]"
    return None
