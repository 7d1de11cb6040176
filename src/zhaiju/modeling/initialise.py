"""Better first weights than random ones for a classifier on a pretrained encoder.

A sentence encoder such as MiniLM (Wang et al., 2020; Reimers and Gurevych, 2019) was trained to be read by the mean of
its tokens, while `AutoModelForSequenceClassification` reads the first token. `mean_pooling` rebuilds the last layer so
that the first token *is* that mean; `discriminant_head` sets the output layer to Fisher's linear discriminant
(Fisher, 1936) of the training utterances, its covariance shrunk (Ledoit and Wolf, 2004). Both only set weights: the
checkpoint stays a plain transformers one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zhaiju.data.batching import by_budget
from zhaiju.data.chunks import PADDING_TOLERATED, arrays, pad
from zhaiju.errors import ConfigError
from zhaiju.modeling.network import Network
from zhaiju.tasks.base import Item, log_softmax

STRENGTH = 4.0  # of the mean beside the first token's own vector
SHRINKAGE = 0.3  # of the covariance towards a multiple of the identity
SPREAD = 0.3  # standard deviation before the tanh: in its nearly straight part
SCALES = tuple(2.0**power for power in range(-2, 7))
BATCH_TOKENS = 4096

Floats = npt.NDArray[np.float64]


@torch.no_grad()
def mean_pooling(network: Network) -> None:
    """Turn the last layer into one that adds to each token the mean of all tokens, and does nothing else at first.

    Its attention looks everywhere alike (queries 0), its values and outputs are multiples of the identity, its
    feed-forward part gives 0. All of it can be trained on.

    Raises:
        ConfigError: the encoder's layers are not built like BERT's.
    """
    try:
        layer = network.model.base_model.encoder.layer[-1]
        attention, output = layer.attention.self, layer.attention.output
        parts = (attention.query, attention.key, attention.value, output.dense, layer.output.dense)
        norms = (output.LayerNorm, layer.output.LayerNorm)
        if {name for name, _ in attention.named_children()} - {"dropout"} != {"query", "key", "value"}:
            raise AttributeError  # ConvBERT's also convolves
    except AttributeError:
        name = type(network.model).__name__
        raise ConfigError(f"pooling mean needs an encoder with BERT's layers, found {name}; use pooling cls") from None
    identity = torch.eye(attention.value.weight.shape[0]) * STRENGTH**0.5
    attention.query.weight.zero_()
    attention.value.weight.copy_(identity)
    output.dense.weight.copy_(identity)
    layer.output.dense.weight.zero_()
    for part in parts:
        part.bias.zero_()
    for norm in norms:
        norm.weight.fill_(1.0)
        norm.bias.zero_()


def discriminant_head(
    network: Network, items: Sequence[Item], pad_id: int, *, smoothing: float = 0.0, precision: str = "fp32"
) -> None:
    """Set the output layer to the linear discriminant of the items' vectors.

    The dense layer before the tanh whitens the vectors by the shrunk covariance within classes; the last layer then
    compares with the classes' means, at the scale that has the least loss on the items.

    Args:
        network: For a task that tells classes apart, one for each item.
        items: Labelled; of an item of several windows the first is looked at.
        pad_id: Token to pad with.
        smoothing: Of the labels, for the choice of the scale.
        precision: Of the one pass over the items.

    Raises:
        ConfigError: the output layer is not built like BERT's or RoBERTa's.
    """
    dense, last = _layers(network.model)
    labels = np.array([item.label[0] for item in items])
    vectors = _vectors(network, [item.windows[0] for item in items], pad_id, precision)  # [N, H]
    classes, width = last.weight.shape
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)[:, None]
    means = _sums(vectors, labels, classes) / counts
    centre = vectors.mean(axis=0)
    within = vectors - means[labels]
    covariance = within.T @ within / len(vectors)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.eye(width) * np.trace(covariance) / width
    values, axes = np.linalg.eigh(covariance)
    whiten = (axes / np.sqrt(np.maximum(values, 1e-12))) @ axes.T
    whitened = (vectors - centre) @ whiten
    scale = SPREAD / max(float(whitened.std()), 1e-12)
    hidden = np.tanh(whitened * scale)
    means = _sums(hidden, labels, classes) / counts
    biases = -0.5 * (means**2).sum(axis=1)
    best = min(SCALES, key=lambda factor: _loss(hidden @ means.T * factor + biases * factor, labels, smoothing))
    with torch.no_grad():
        _set(dense, scale * whiten, -scale * whiten @ centre)
        _set(last, best * (means - means.mean(axis=0)), best * (biases - biases.mean()))


def freeze_embeddings(network: Network) -> None:
    """Leave the embeddings as they are: on small data they hardly learn, and cost a third of a step.

    Raises:
        ConfigError: the encoder has none of that name.
    """
    embeddings = getattr(network.model.base_model, "embeddings", None)
    if embeddings is None:
        raise ConfigError(f"freeze_embeddings: {type(network.model).__name__} has no embeddings of that name")
    for parameter in embeddings.parameters():
        parameter.requires_grad_(False)


def _layers(model: Any) -> tuple[Any, Any]:
    """(The dense layer before the tanh, the last layer)."""
    pooler: Any = getattr(model.base_model, "pooler", None)
    if hasattr(pooler, "dense") and isinstance(getattr(model, "classifier", None), torch.nn.Linear):
        return pooler.dense, model.classifier
    head: Any = getattr(model, "classifier", None)
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert") and hasattr(head, "out_proj"):
        return head.dense, head.out_proj
    raise ConfigError(
        f"head discriminant needs an output layer like BERT's, found {type(model).__name__}; use head random"
    )


@torch.inference_mode()
def _vectors(network: Network, windows: Sequence[Any], pad_id: int, precision: str) -> Floats:
    """What the output layer gets of each window: the first token's last hidden state, float64 [N, H]."""
    device = next(network.parameters()).device
    found: list[Any] = [None] * len(windows)
    training = network.training
    network.eval()
    try:
        for group in by_budget([len(window) for window in windows], BATCH_TOKENS, waste=PADDING_TOLERATED):
            chunk = pad([windows[index] for index in group], pad_id, group)
            tensors = [torch.from_numpy(array).to(device) for array in arrays(chunk)]
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                first = network.hidden(*tensors)[:, 0].float().cpu().numpy()
            for row, index in enumerate(group):
                found[index] = first[row]
    finally:
        network.train(training)
    return np.stack(found).astype(np.float64)


def _sums(rows: Floats, labels: npt.NDArray[np.int64], classes: int) -> Floats:
    sums = np.zeros((classes, rows.shape[1]))
    np.add.at(sums, labels, rows)
    return sums


def _loss(logits: Floats, labels: npt.NDArray[np.int64], smoothing: float) -> float:
    logs = log_softmax(logits)
    right = logs[np.arange(len(labels)), labels]
    return float(-((1 - smoothing) * right + smoothing * logs.mean(axis=1)).mean())


def _set(layer: Any, weight: Floats, bias: Floats) -> None:
    layer.weight.copy_(torch.from_numpy(weight))
    layer.bias.copy_(torch.from_numpy(bias))
