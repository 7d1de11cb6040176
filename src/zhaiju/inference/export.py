"""A checkpoint's forward pass as an ONNX graph that takes its weights from the checkpoint's own safetensors file.

So weights are kept once, in half precision if that is how they were saved, and any runtime that reads the checkpoint
reads the same numbers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.errors import CheckpointError
from zhaiju.inference.backends import GRAPH_FILE, INPUTS, TRANSPOSED, WEIGHTS_FILE
from zhaiju.modeling.checkpoint import Checkpoint

SMALL = 1024  # values of a constant that stays in the graph


def export_graph(checkpoint: Checkpoint) -> Path:
    """Write `model.onnx` beside the weights of a checkpoint directory.

    Args:
        checkpoint: Loaded from a directory that holds `model.safetensors`.

    Returns:
        The graph's path.

    Raises:
        CheckpointError: a large constant of the graph is none of the weights.
    """
    import torch

    network = checkpoint.network
    network.eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
            return self.network.logits(input_ids, token_type_ids, attention_mask)

    # A tensor of its own for each: given one thrice, the exporter takes them for one input.
    inputs = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in INPUTS)
    rows, tokens = torch.export.Dim("windows", max=1 << 16), torch.export.Dim("tokens", min=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Logits(),
            inputs,
            dynamo=True,
            verbose=False,
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_shapes=({0: rows, 1: tokens},) * len(INPUTS),
        )
    assert program is not None
    model = program.model_proto
    _strip(model.graph)
    del model.metadata_props[:]
    _refer(model.graph, _weights(Path(checkpoint.where)))
    path = Path(checkpoint.where) / GRAPH_FILE

    def fill(temporary: Path) -> None:
        temporary.write_bytes(model.SerializeToString())

    files.atomic_file(path, fill)
    return path


def _weights(directory: Path) -> dict[str, npt.NDArray[np.float32]]:
    from safetensors.numpy import load_file

    return {name: value.astype(np.float32) for name, value in load_file(directory / WEIGHTS_FILE).items()}


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
