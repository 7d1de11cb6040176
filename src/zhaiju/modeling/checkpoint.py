"""Checkpoints: directories that `from_pretrained` reads, ours and everybody's.

Ours hold `zhaiju.json` beside the usual files: the task and the settings of windows and search they were trained
with. Weights are written as safetensors; a `pytorch_model.bin` is read as bare tensors only (`weights_only=True`),
and no code that lies in a checkpoint is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhaiju.data.encoding import MATCH_TYPES, Encoding
from zhaiju.data.script import AS_IS
from zhaiju.data.vocabulary import Kind, build_tokenizer
from zhaiju.errors import CheckpointError, ConfigError
from zhaiju.modeling.network import Network
from zhaiju.tasks import TASKS
from zhaiju.tasks.base import Head

META_FILE = "zhaiju.json"
UNLIMITED = 1 << 20
DEFAULT_WINDOW = 384
DEFAULT_OVERLAP = 64


@dataclass(frozen=True)
class Meta:
    """What `zhaiju.json` holds."""

    task: str | None = None
    window: int | None = None
    overlap: int = DEFAULT_OVERLAP
    script: str = AS_IS
    match_types: bool = False
    search: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """A loaded encoder with its head, tokenizer and settings."""

    network: Network
    encoding: Encoding
    meta: Meta
    where: str


@dataclass(frozen=True)
class Shape:
    """Architecture of an encoder that is made from nothing (a `BertConfig`)."""

    layers: int = 4
    hidden: int = 256
    heads: int = 4
    intermediate: int = 1024
    positions: int = 512
    dropout: float = 0.1
    vocabulary: Kind = "wordpiece"
    vocabulary_size: int = 21_128


def resolve(what: str | Path) -> str:
    """The checkpoint meant by a run directory, a checkpoint directory or a hub id.

    Raises:
        CheckpointError: it looks like a path and there is no such directory, or it holds no checkpoint.
    """
    path = Path(what)
    if path.is_dir():
        for candidate in (path / "best", path / "last", path):
            if (candidate / "config.json").is_file():
                return str(candidate)
        raise CheckpointError(f"{what} holds no checkpoint: expected config.json, or best/ or last/ of a run")
    name = str(what)
    if path.exists():
        raise CheckpointError(f"{what} is a file, expected a checkpoint directory or a hub id")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not name.strip():
        raise CheckpointError(f"no such directory: {what!r}")
    return name


def read_meta(where: str) -> Meta:
    """The settings saved with a checkpoint; defaults where there are none (a foreign checkpoint)."""
    path = Path(where) / META_FILE
    if not path.is_file():
        return Meta()
    try:
        values = json.loads(path.read_text("utf-8"))
        known = {name: values[name] for name in Meta.__dataclass_fields__ if name in values}
        return Meta(**known)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def load(
    what: str | Path,
    task: str | None = None,
    *,
    window: int | None = None,
    overlap: int | None = None,
    script: str | None = None,
    match_types: bool | None = None,
    head_required: bool = True,
) -> Checkpoint:
    """Load a checkpoint for a task.

    Args:
        what: A run, a checkpoint directory or a hub id.
        task: The task; None takes the checkpoint's own word.
        window: Most tokens of a window; None: as trained, else 384 or what the encoder allows.
        overlap: Characters shared by neighbouring windows; None: as trained.
        script: What the encoder sees; None: as trained.
        match_types: Whether token types tell what matches; None: as trained.
        head_required: Refuse weights without the task's output layer; training starts it afresh instead.

    Raises:
        CheckpointError: it cannot be loaded, is for another task, or weights are missing.
        ConfigError: the window is longer than the encoder's positions.
    """
    where = resolve(what)
    meta = read_meta(where)
    task = task or meta.task
    if task is None:
        raise CheckpointError(f"{what} does not say which task it is for; name one of {', '.join(TASKS)}")
    if head_required and meta.task not in (None, task):
        raise CheckpointError(f"{what} is a checkpoint for {meta.task}, expected one for {task}")
    head = TASKS[task].head
    model = _load_model(where, head, head_required=head_required)
    encoding = make_encoding(
        load_tokenizer(where),
        model.config,
        window=window if window is not None else meta.window,
        overlap=meta.overlap if overlap is None else overlap,
        script=meta.script if script is None else script,
        match_types=meta.match_types if match_types is None else match_types,
    )
    return Checkpoint(Network(model, head), encoding, meta, where)


def from_scratch(
    task: str,
    texts: Iterable[str],
    *,
    encoder: str | None,
    shape: Shape,
    window: int,
    overlap: int,
    script: str,
    match_types: bool,
) -> Checkpoint:
    """The task's architecture with random weights.

    Args:
        task: The task.
        texts: Training text, for the vocabulary; read only where no encoder is named.
        encoder: Take the architecture and the tokenizer of this checkpoint (a `config.json` and tokenizer files
            are enough, weights are not looked at); None: a BERT of `shape` with a vocabulary from `texts`.
        shape: See `encoder`.
        window: Most tokens of a window.
        overlap: Characters shared by neighbouring windows.
        script: What the encoder sees.
        match_types: Whether token types tell what matches.
    """
    import transformers

    head = TASKS[task].head
    if encoder is not None:
        where = resolve(encoder)
        tokenizer = load_tokenizer(where)
        config = _quietly(where, lambda: transformers.AutoConfig.from_pretrained(where, trust_remote_code=False))
    else:
        where = "scratch"
        tokenizer = build_tokenizer(texts, kind=shape.vocabulary, size=shape.vocabulary_size, script=script)
        if shape.hidden % shape.heads:
            raise ConfigError(f"hidden is {shape.hidden}, expected a multiple of heads ({shape.heads})")
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            num_attention_heads=shape.heads,
            intermediate_size=shape.intermediate,
            max_position_embeddings=shape.positions,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.dropout,
            pad_token_id=tokenizer.pad_token_id,
        )
    if match_types:
        config.type_vocab_size = MATCH_TYPES
    encoding = make_encoding(tokenizer, config, window=window, overlap=overlap, script=script, match_types=match_types)
    model = _quietly(where, lambda: getattr(transformers, head.auto_class).from_config(config))
    return Checkpoint(Network(model, head), encoding, Meta(), where)


def make_encoding(
    tokenizer: Any, config: Any, *, window: int | None, overlap: int, script: str, match_types: bool
) -> Encoding:
    """An `Encoding` within what the encoder can take.

    Raises:
        ConfigError: the window is longer than the encoder's positions, or it knows too few token types.
    """
    most = max_positions(tokenizer, config)
    if window is None:
        window = min(DEFAULT_WINDOW, most)
    if window > most:
        raise ConfigError(f"window is {window} tokens, expected at most {most}, the encoder's positions")
    if match_types and (getattr(config, "type_vocab_size", 0) or 0) < MATCH_TYPES:
        raise ConfigError(
            f"match_types needs an encoder with type_vocab_size {MATCH_TYPES}, "
            f"found {getattr(config, 'type_vocab_size', 0)}; train one with --scratch"
        )
    return Encoding(tokenizer, window=window, overlap=overlap, script=script, match_types=match_types)


def max_positions(tokenizer: Any, config: Any) -> int:
    """Most tokens that an encoder can take."""
    positions = getattr(config, "max_position_embeddings", None) or UNLIMITED
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "longformer"}:
        positions -= (config.pad_token_id or 0) + 1  # these count positions from the padding index on
    return int(min(positions, getattr(tokenizer, "model_max_length", None) or UNLIMITED, UNLIMITED))


def load_tokenizer(where: str) -> Any:
    """The fast tokenizer of a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    import transformers

    return _quietly(
        where,
        lambda: transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False, use_fast=True),
    )


def save(directory: Path, network: Network, encoding: Encoding, meta: Meta) -> None:
    """Write a checkpoint into an existing directory; the caller makes that atomic."""
    network.model.save_pretrained(directory, safe_serialization=True)
    encoding.tokenizer.save_pretrained(directory)
    values = {
        "task": meta.task,
        "window": encoding.window,
        "overlap": encoding.overlap,
        "script": encoding.script,
        "match_types": encoding.match_types,
        "search": dict(meta.search),
    }
    (directory / META_FILE).write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def _load_model(where: str, head: Head, *, head_required: bool) -> Any:
    import transformers

    auto_class = getattr(transformers, head.auto_class)
    model, report = _quietly(
        where,
        lambda: auto_class.from_pretrained(where, output_loading_info=True, trust_remote_code=False, dtype="float32"),
    )
    body = f"{model.base_model_prefix}."
    missing = sorted(report["missing_keys"])
    lost = [key for key in missing if key.startswith(body) and "pooler" not in key and "position_ids" not in key]
    if lost:
        raise CheckpointError(f"{where} lacks weights of its encoder: {', '.join(lost[:3])} ({len(lost)} in all)")
    if missing and head_required:
        raise CheckpointError(
            f"{where} has no trained output layer for this task (missing {', '.join(missing[:3])}); "
            "train it first with zhaiju train"
        )
    if report.get("mismatched_keys"):
        raise CheckpointError(f"{where} has weights of other shapes than its config.json says")
    return model


def _quietly(where: str, call: Any) -> Any:
    """Run a transformers loader, its chatter off, its many kinds of exception made one."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return call()
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"cannot load {where}: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
