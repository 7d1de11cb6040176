"""Turns a training's weights into the packaged reader: 8 bits in safetensors, the graph beside them, the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from e5 import Encoder
from encoder import MASK, config, pruned
from safetensors.numpy import save_file

from zhaiju import files
from zhaiju.data.chunks import pad
from zhaiju.errors import CheckpointError
from zhaiju.inference.engine import make_engine
from zhaiju.inference.export import export_graph
from zhaiju.modeling.checkpoint import load, load_exported
from zhaiju.modeling.quantised import quantise

WINDOW, OVERLAP = 200, 80  # tokens, characters; see the lab notes
LONGEST = 50  # characters of a quote
AGREE = 1e-3  # largest difference of logits between PyTorch and the graph
PROBE = ("誰在二〇二六年造了這座橋？", "這座橋由當地的石匠於一九三二年造成，全長一百二十公尺。" * 12)


def package(
    encoder: Encoder, kept: Sequence[int], weights: Mapping[str, Any], output: Path, *, quantised: bool = True
) -> None:
    """Write a checkpoint directory for reading, and its graph.

    Args:
        encoder: What the weights were made from.
        kept: The pieces that it has.
        weights: Float32 arrays by the names of `BertForQuestionAnswering`.
        output: Must not exist.
        quantised: In 8 bits; else as float32, to compare with.

    Raises:
        CheckpointError: the graph's logits are not those of PyTorch.
    """

    def fill(temporary: Path) -> None:
        tokenizer, _ = pruned(encoder, kept)
        tokenizer.save(str(temporary / "tokenizer.json"), pretty=False)
        names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": MASK}
        about = {f"{name}_token": token for name, token in names.items()} | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": encoder.shape.max_position_embeddings,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        }
        _write(temporary / "tokenizer_config.json", about)
        _write(temporary / "config.json", config(encoder, kept) | {"architectures": ["BertForQuestionAnswering"]})
        meta = {"task": "read", "window": WINDOW, "overlap": OVERLAP, "script": "simplified", "boundaries": "words"}
        _write(temporary / "zhaiju.json", meta | {"search": {"max_answer_chars": LONGEST}})
        held = quantise(weights) if quantised else {name: np.asarray(value) for name, value in weights.items()}
        save_file(held, temporary / "model.safetensors")

    files.atomic_directory(output, fill)
    export_graph(load(output, "read", exported=False))
    again, exported = load(output, "read", exported=False), load_exported(output)
    windows = again.encoding.windows(*PROBE)
    chunk = pad(windows, again.encoding.pad_id)
    difference = np.abs(make_engine(again).backend.run(chunk) - make_engine(exported).backend.run(chunk)).max()
    if not difference <= AGREE:
        raise CheckpointError(f"{output}: the graph's logits differ from PyTorch's by {difference}")


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
