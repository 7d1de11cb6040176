"""Checkpoints: directories that `from_pretrained` reads, ours and everybody's.

Ours hold `zhaiju.json` beside the usual files: the task and the settings of windows and search they were trained
with. Weights are written as safetensors; a `pytorch_model.bin` is read as bare tensors only (`weights_only=True`),
and no code that lies in a checkpoint is ever run.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import stat
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhaiju import files
from zhaiju.data.encoding import DEFAULT_OVERLAP, DEFAULT_WINDOW, Encoding
from zhaiju.data.script import AS_IS
from zhaiju.data.vocabulary import Kind, PlainTokenizer, build_tokenizer
from zhaiju.data.words import PIECES, WORDS, has_sentence_pieces
from zhaiju.errors import CheckpointError, ConfigError, is_out_of_memory, shorten
from zhaiju.modeling.quantised import is_quantised, read_weights
from zhaiju.tasks import TASKS, make_task
from zhaiju.tasks.base import Head, Task

if TYPE_CHECKING:
    from zhaiju.modeling.network import Network

META_FILE = "zhaiju.json"
STARTER = "starter"
UNLIMITED = 1 << 20
OPTIONAL = ("task", "window", "boundaries", "positions", "weights")  # settings that a zhaiju.json need not have
GRAPHS = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}  # the names that transformers.js looks for
_LARGEST = sys.float_info.max
# What a config.json may ask for, by what its numbers are called: a loader makes as many modules, names or rows.
MOST = {"layer": 1_000, "expert": 1_000, "group": 1_000, "head": 10_000, "label": 100_000}
MOST |= dict.fromkeys(("size", "dim", "position"), 1 << 24)
MOST_SINES = 1 << 24
SINES = ("roformer", "distilbert", "xlm", "flaubert")  # these compute tables of sines number by number
SLACK = 1 << 26  # weights that a network may have beyond a byte of file each: an output layer, a pooler
# What is read whole when a checkpoint is loaded, so that it must be small.
SMALL_FILES = (
    "config.json",
    META_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "generation_config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Meta:
    """What `zhaiju.json` holds."""

    task: str | None = None
    window: int | None = None
    overlap: int = DEFAULT_OVERLAP
    script: str = AS_IS
    boundaries: str | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    positions: int | None = None  # of an exported graph: most tokens that it takes
    weights: str | None = None  # of an exported graph: fingerprint of what it was exported from

    def __post_init__(self) -> None:
        kinds = {"task": str, "window": int, "overlap": int, "script": str, "boundaries": str}
        kinds |= {"positions": int, "weights": str}
        kinds |= {"search": dict, "calibration": dict}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if type(value) is not kind and not (value is None and name in OPTIONAL):
                raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
        cap = self.search.get("max_answer_chars")
        if cap is not None and (type(cap) is not int or cap < 0):
            raise TypeError(f"max_answer_chars is {cap!r}, expected 0 or more")
        temperature = self.calibration.get("temperature", 1.0)
        if not isinstance(temperature, int | float) or not 0 < temperature <= _LARGEST:
            raise TypeError(f"temperature is {temperature!r}, expected a number above 0")
        threshold = self.calibration.get("threshold")
        if threshold is not None and (
            isinstance(threshold, bool) or not isinstance(threshold, int | float) or not abs(threshold) <= _LARGEST
        ):
            raise TypeError(f"threshold is {threshold!r}, expected a number")
        if self.search.get("pieces", "first") not in ("first", "all"):
            raise TypeError(f"pieces is {self.search['pieces']!r}, expected first or all")

    @property
    def temperature(self) -> float:
        """What logits are divided by; 1 where nothing was fitted."""
        return float(self.calibration.get("temperature", 1.0))


@dataclass
class Checkpoint:
    """A loaded encoder with its head, tokenizer and settings.

    Attributes:
        network: A `Network`; None where its graph runs without PyTorch (see `load_exported`).
        encoding: Its tokenizer and windows.
        meta: The settings it was saved with.
        where: Its directory or hub id.
    """

    network: Any
    encoding: Encoding
    meta: Meta
    where: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of its output layer, in the order of the logits."""
        if self.network is None:
            return _labels_of(Path(self.where) / "config.json")
        names = self.network.model.config.id2label
        return tuple(str(names[index]) for index in sorted(names))

    @property
    def threshold(self) -> float | None:
        """Confidence below which it is better to abstain; None where none was fitted, or none keeps the risk."""
        found = self.meta.calibration.get("threshold")
        return None if found is None else float(found)

    def task(self, name: str, **settings: Any) -> Task[Any, Any]:
        """The task as this checkpoint was trained for it.

        Args:
            name: A key of TASKS.
            settings: Override what the checkpoint says; None leaves it.

        Raises:
            CheckpointError: its classes are no tags, and it is to tag.
        """
        own: dict[str, Any] = {"temperature": self.meta.temperature, **self.meta.search}
        if TASKS[name].head.over == "labels":
            own["labels"] = self.labels
            if (wrong := TASKS[name].refused(self.labels)) is not None:
                raise CheckpointError(f"{self.where} tells {wrong}")
        own |= {key: value for key, value in settings.items() if value is not None}
        return make_task(name, **own)


@dataclass(frozen=True)
class Shape:
    """Shape of a BERT that is made from nothing."""

    layers: int = 4
    hidden: int = 256
    heads: int = 4
    intermediate: int = 1024
    positions: int = 512
    dropout: float = 0.1
    vocabulary: Kind = "wordpiece"
    vocabulary_size: int = 21_128


def resolve(what: str | Path, task: str | None = None) -> str:
    """The checkpoint meant by a run directory, a checkpoint directory, a hub id or the word "starter".

    Args:
        what: It.
        task: Which starter is meant; None: the reader.

    Raises:
        CheckpointError: it looks like a path and there is no such directory, or it holds no checkpoint.
    """
    path, name = Path(what), str(what)
    if not name.strip():
        raise CheckpointError("no checkpoint named: expected a directory or a hub id")
    if name == STARTER:
        return str(starter(task or "read"))
    if os.path.isdir(path):  # unlike Path.is_dir, it takes any text
        for candidate in (path / "best", path / "last", path):
            if (candidate / "config.json").is_file():
                return str(candidate)
        raise CheckpointError(f"{what} holds no checkpoint: expected config.json, or best/ or last/ of a run")
    if os.path.exists(path):
        raise CheckpointError(f"{what} is a file, expected a checkpoint directory or a hub id")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise CheckpointError(f"no such directory: {what!r}")
    return name


def starter(task: str) -> Path:
    """The directory of the packaged model for a task.

    Raises:
        ConfigError: there is none.
    """
    path = Path(str(resources.files("zhaiju.starter"))) / task
    if not (path / META_FILE).is_file():
        raise ConfigError(f"there is no starter for {task}; it reads, and selects where no selector is named")
    return path


def load_exported(where: str | Path, *, window: int | None = None, overlap: int | None = None) -> Checkpoint:
    """Load a checkpoint directory whose graph was exported, without PyTorch and transformers.

    Args:
        where: The directory.
        window: Most tokens of a window; None: as saved.
        overlap: Characters shared by neighbouring windows; None: as saved.

    Raises:
        CheckpointError: a file is missing or damaged.
        ConfigError: the window is longer than the encoder's positions.
    """
    meta = read_meta(str(where))
    if window is not None and meta.positions is not None and window > meta.positions:
        raise ConfigError(f"window is {window} tokens, expected at most {meta.positions}, the encoder's positions")
    window, overlap = window or meta.window or DEFAULT_WINDOW, meta.overlap if overlap is None else overlap
    encoding = _as_trained(PlainTokenizer.load(Path(where)), meta, window, overlap)
    return Checkpoint(None, encoding, meta, str(where))


def _labels_of(path: Path) -> tuple[str, ...]:
    """The classes that a config.json names, in the order of the logits."""
    try:
        names = {int(index): str(name) for index, name in files.read_json(path)["id2label"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not name the classes: {error!r}") from None
    return tuple(names[index] for index in sorted(names))


def is_exported(where: str) -> bool:
    """Whether a checkpoint is a directory of graphs, without weights that PyTorch could load."""
    # Unlike Path's methods, these take any text.
    return any(os.path.isfile(os.path.join(where, name)) for name in GRAPHS.values()) and not any(
        os.path.exists(os.path.join(where, name)) for name in ("model.safetensors", "model.safetensors.index.json")
    )


def read_meta(where: str) -> Meta:
    """The settings saved with a checkpoint; defaults where there are none (a foreign checkpoint).

    Raises:
        CheckpointError: they are there, and are not what `save` writes.
    """
    path = _meta_file(where)
    if path is None:
        return Meta()
    try:
        values = files.read_json(path)
        if not isinstance(values, dict):
            raise TypeError("expected an object")
        return Meta(**{name: values[name] for name in Meta.__dataclass_fields__ if name in values})
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def _meta_file(where: str) -> Path | None:
    path = Path(where) / META_FILE
    if os.path.isdir(where):
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with _silence():
            return Path(hf_hub_download(where, META_FILE))
    except LocalEntryNotFoundError:  # the hub is out of reach
        if not isinstance(try_to_load_from_cache(where, "config.json"), str):
            raise CheckpointError(
                f"cannot load {where}: there is no such directory; as a hub id it was not downloaded before, and the "
                "hub cannot be reached"
            ) from None
        return None
    except (OSError, ValueError):  # a foreign checkpoint, or no checkpoint: then the loader of the weights says so
        return None


def load(
    what: str | Path,
    task: str | None = None,
    *,
    window: int | None = None,
    overlap: int | None = None,
    script: str | None = None,
    boundaries: str | None = None,
    labels: Sequence[str] | None = None,
    head_required: bool = True,
    exported: bool = True,
) -> Checkpoint:
    """Load a checkpoint for a task.

    Args:
        what: A run, a checkpoint directory or a hub id.
        task: The task; None takes the checkpoint's own word.
        window: Most tokens of a window; None: as trained, else 384 or what the encoder allows.
        overlap: Characters shared by neighbouring windows; None: as trained.
        script: What the encoder sees; None: as trained.
        boundaries: Where pieces end (see `Encoding`); None: as trained, else for a training to come with words where
            the task quotes and the encoder has sentence pieces.
        labels: Classes to tell apart, for a training to come; None: as trained.
        head_required: Refuse weights without the task's output layer; training starts it afresh instead.
        exported: Take the starter's graph, or an exported one, as it is; else load weights into PyTorch.

    Raises:
        CheckpointError: it cannot be loaded, is for another task, or weights are missing.
        ConfigError: there is no such task, or the window is longer than the encoder's positions.
    """
    where = resolve(what, task if head_required else None)  # any task is trained from the starter's encoder
    _check_files(where)
    meta = read_meta(where)
    task = task or meta.task
    if task is None:
        raise CheckpointError(f"{what} does not say which task it is for; name one of {', '.join(TASKS)}")
    if task not in TASKS:
        raise ConfigError(f"task {task!r} is not one of {', '.join(TASKS)}")
    if head_required and meta.task not in (None, task):
        raise CheckpointError(f"{what} is a checkpoint for {meta.task}, expected one for {task}")
    if is_exported(where) and not (exported and head_required):
        raise CheckpointError(f"{what} holds exported graphs, no weights to load; name what it was exported from")
    if head_required and exported and (str(what) == STARTER or is_exported(where)):
        return load_exported(where, window=window, overlap=overlap)
    from zhaiju.modeling.network import Network

    head = TASKS[task].head
    quotes = head.over == "tokens" and not head_required
    model = _load_model(where, head, labels, head_required=head_required)
    encoding = make_encoding(
        load_tokenizer(where),
        model.config,
        window=window if window is not None else meta.window,
        overlap=meta.overlap if overlap is None else overlap,
        script=meta.script if script is None else script,
        boundaries=boundaries or meta.boundaries or (None if quotes else PIECES),
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
    script: str | None,
    boundaries: str | None = None,
    labels: Sequence[str] | None = None,
) -> Checkpoint:
    """The task's architecture with random weights.

    Args:
        task: The task.
        texts: Training text, for the vocabulary; read only where no encoder is named.
        encoder: Take the architecture and the tokenizer of this checkpoint (a `config.json` and tokenizer files
            are enough, weights are not looked at); None: an encoder of `shape` with a vocabulary from `texts`.
        shape: See `encoder`.
        window: Most tokens of a window.
        overlap: Characters shared by neighbouring windows.
        script: What the encoder sees; None: texts as they are.
        boundaries: Where pieces end; None: with words where the task quotes and there are sentence pieces.
        labels: Classes to tell apart, where the task has any.
    """
    import transformers

    from zhaiju.modeling.network import Network

    head = TASKS[task].head
    script = script or AS_IS
    if encoder is not None:
        where = resolve(encoder)
        tokenizer = load_tokenizer(where)
        config = _load_config(where, head, labels)
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
        _set_labels(config, labels)
    if boundaries is None and head.over != "tokens":
        boundaries = PIECES
    encoding = make_encoding(tokenizer, config, window=window, overlap=overlap, script=script, boundaries=boundaries)
    model = _quietly(where, lambda: getattr(transformers, head.auto_class).from_config(config))
    return Checkpoint(Network(model, head), encoding, Meta(), where)


def make_encoding(
    tokenizer: Any, config: Any, *, window: int | None, overlap: int, script: str, boundaries: str | None
) -> Encoding:
    """An `Encoding` within what the encoder can take.

    Raises:
        CheckpointError: the tokenizer has tokens that the encoder does not know.
        ConfigError: the window is longer than the encoder's positions.
    """
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens and the encoder knows {config.vocab_size}; "
            "they do not belong together"
        )
    most = max_positions(tokenizer, config)
    if window is None:
        window = min(DEFAULT_WINDOW, most)
    if window > most:
        raise ConfigError(f"window is {window} tokens, expected at most {most}, the encoder's positions")
    if boundaries is None:
        quotable = tokenizer.is_fast and has_sentence_pieces(tokenizer.backend_tokenizer)
        boundaries = WORDS if quotable else PIECES
    return Encoding(tokenizer, window=window, overlap=overlap, script=script, boundaries=boundaries)


def load_encoding(
    what: str | Path, *, window: int = DEFAULT_WINDOW, overlap: int = DEFAULT_OVERLAP, script: str | None = None
) -> Encoding:
    """How a checkpoint cuts texts, its weights left alone.

    Args:
        what: A run, a checkpoint directory, a hub id, or "starter", which needs no transformers.
        window: Most tokens of a window.
        overlap: Characters shared by neighbouring windows.
        script: What the encoder sees; None: as trained.

    Raises:
        CheckpointError: it has no tokenizer.
    """
    where = resolve(what)
    tokenizer = PlainTokenizer.load(Path(where)) if str(what) == STARTER else load_tokenizer(where)
    return _as_trained(tokenizer, read_meta(where), window, overlap, script)


def _as_trained(tokenizer: Any, meta: Meta, window: int, overlap: int, script: str | None = None) -> Encoding:
    """How a checkpoint that was trained so cuts texts."""
    script = meta.script if script is None else script
    return Encoding(tokenizer, window=window, overlap=overlap, script=script, boundaries=meta.boundaries or PIECES)


def _check_files(where: str) -> None:
    """Refuse a directory whose files a loader would wait for, never finish, or unpack to more than they are.

    Weights are looked at where they are mapped or unpacked: the loader of safetensors checks their header itself.

    Raises:
        CheckpointError: one of them is no plain file, too large, or packed.
    """
    if not os.path.isdir(where):  # a hub id
        return
    for path in sorted(Path(where).iterdir()):
        weights = path.suffix in (".safetensors", ".bin")
        if not weights and path.name not in SMALL_FILES:
            continue
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):
                raise CheckpointError(f"{path} is no plain file")
            if path.suffix == ".bin" and zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    unpacked = sum(entry.file_size for entry in archive.infolist())
                if unpacked > about.st_size:
                    raise CheckpointError(
                        f"{path} unpacks to {unpacked:,} bytes, expected no more than it has, {about.st_size:,}"
                    )
        except (OSError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not weights and about.st_size > files.SMALL_BYTES:
            raise CheckpointError(
                f"{path} is too large, found {about.st_size:,} bytes, expected at most {files.SMALL_BYTES:,}"
            )


def _check_numbers(where: str) -> None:
    """Refuse a config.json whose numbers would have a loader compute or allocate without end.

    Raises:
        CheckpointError: a number is too large.
    """
    from transformers import PretrainedConfig

    values = _quietly(where, lambda: PretrainedConfig.get_config_dict(where)[0])
    if not isinstance(values, dict):
        raise CheckpointError(f"cannot load {where}: config.json is {shorten(values)}, expected an object")
    waiting = [values]
    while waiting:
        holder = waiting.pop()
        for name, value in holder.items():
            if isinstance(value, dict):
                waiting += [] if name in ("id2label", "label2id") else [value]
            elif isinstance(value, int | float):
                most = next((most for part, most in MOST.items() if part in name), math.inf)
                if value > most:
                    raise CheckpointError(
                        f"{where}: {name} in config.json is {shorten(value)}, expected at most {most:,}"
                    )


def _check_weights(where: str, auto_class: Any, config: Any) -> None:
    """Refuse a config.json that tells of a much larger network than the weights beside it hold.

    What is missing or of another shape is refused too, but only after the loader has made room for it.

    Raises:
        CheckpointError: it does.
    """
    import torch

    if not os.path.isdir(where):  # a hub id
        return
    held = sum(path.stat().st_size for path in Path(where).iterdir() if path.suffix in (".safetensors", ".bin"))
    with torch.device("meta"):  # nothing is allocated
        network = _quietly(where, lambda: auto_class.from_config(config))
    told = sum(parameter.numel() for parameter in network.parameters())
    if told > held + SLACK:
        raise CheckpointError(
            f"{where} has weights of other shapes than its config.json says: that tells of {told:,} numbers, "
            f"and its weights are {held:,} bytes"
        )


def load_encoder(what: str) -> tuple[Any, Any, int]:
    """An encoder without a head, its tokenizer, and the most tokens that it can take.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    import transformers

    where = resolve(what)
    tokenizer = load_tokenizer(where)
    config = _load_config(where, None, None)
    _check_weights(where, transformers.AutoModel, config)
    model, report = _pretrained(transformers.AutoModel, where, config)
    if report["mismatched_keys"]:
        raise CheckpointError(f"{where} has weights of other shapes than its config.json says")
    return model.eval(), tokenizer, max_positions(tokenizer, model.config)


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

    _check_files(where)
    tokenizer = _quietly(
        where,
        lambda: transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False, use_fast=True),
    )
    # Where the files are missing, transformers makes one that knows special tokens alone.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise CheckpointError(f"{where} holds no tokenizer: expected tokenizer.json, or vocab.txt")
    return tokenizer


@contextmanager
def refusing() -> Iterator[None]:
    """Make an `OSError` again of what torch, safetensors and tokenizers raise where the system refuses to write."""
    try:
        yield
    except Exception as error:
        theirs = type(error) in (RuntimeError, Exception) or type(error).__name__ == "SafetensorError"
        if is_out_of_memory(error) or not theirs:
            raise
        raise OSError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


def save(directory: Path, network: Network, encoding: Encoding, meta: Meta) -> None:
    """Write a checkpoint into an existing directory; the caller makes that atomic.

    Args:
        directory: It.
        network: What is kept.
        encoding: Its tokenizer and windows.
        meta: The settings to keep with it.

    Raises:
        OSError: it cannot be written.
    """
    with _silence(), refusing():
        network.model.save_pretrained(directory)
    _save_rest(directory, encoding, meta, {})


def save_exported(checkpoint: Checkpoint, directory: Path, task: str) -> None:
    """Write what belongs to exported graphs, weights excepted, into an existing directory."""
    config = checkpoint.network.model.config
    with _silence():
        config.save_pretrained(directory)
    weights = Path(checkpoint.where) / "model.safetensors"
    more: dict[str, Any] = {"positions": max_positions(checkpoint.encoding.tokenizer, config)}
    if weights.is_file():
        more["weights"] = files.fingerprint(weights)
    meta = replace(checkpoint.meta, task=task)
    _save_rest(directory, checkpoint.encoding, meta, more)


def _save_rest(directory: Path, encoding: Encoding, meta: Meta, more: Mapping[str, Any]) -> None:
    with _silence(), refusing():
        encoding.tokenizer.save_pretrained(directory)  # type: ignore[union-attr]
    _name_class_for_all(directory / "tokenizer_config.json")
    values = {
        "task": meta.task,
        "window": encoding.window,
        "overlap": encoding.overlap,
        "script": encoding.script,
        "boundaries": encoding.boundaries,
        "search": dict(meta.search),
        **more,
    }
    if meta.calibration:
        values["calibration"] = dict(meta.calibration)
    (directory / META_FILE).write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def _name_class_for_all(path: Path) -> None:
    """Name the tokenizer's class as transformers 4 knows it too; 5 reads both names alike."""
    if not path.is_file():
        return
    values = json.loads(path.read_text("utf-8"))
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


def save_calibration(directory: str | Path, calibration: Mapping[str, Any]) -> Path:
    """Keep what was fitted with a checkpoint directory, in the place of what was fitted before.

    Raises:
        ConfigError: it is a hub id, not a directory.
    """
    path = Path(directory) / META_FILE
    if not path.parent.is_dir():
        raise ConfigError(f"{directory} is not a directory, so nothing can be kept with it; download it to one")
    values = files.read_json(path) if path.is_file() else {}
    files.write_json(path, values | {"calibration": dict(calibration)})
    return path


def check_encoder(what: str) -> None:
    """Make sure that an encoder can be had: its config and its tokenizer load. Weights are not looked at.

    Raises:
        CheckpointError: they do not.
    """
    where = resolve(what)
    _load_config(where, TASKS["select"].head, None)
    load_tokenizer(where)


def _set_labels(config: Any, labels: Sequence[str] | None) -> None:
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}


def _load_config(where: str, head: Head | None, labels: Sequence[str] | None) -> Any:
    """The encoder's config, for a model with the task's head."""
    import transformers

    _check_files(where)
    _check_numbers(where)
    config = _quietly(where, lambda: transformers.AutoConfig.from_pretrained(where, trust_remote_code=False))
    if config.model_type in SINES and (sines := config.max_position_embeddings * config.hidden_size) > MOST_SINES:
        raise CheckpointError(
            f"{where}: max_position_embeddings x hidden_size in config.json is {sines:,}, "
            f"expected at most {MOST_SINES:,}"
        )
    if head is None:
        return config
    if head.over == "labels":
        _set_labels(config, labels)
        config.problem_type = None
    if head.over == "tokens":
        config.num_labels = 2  # start and end, whatever classes the encoder told apart before
    if head.over == "choices" and config.model_type in {"roformer", "convbert"} and not hasattr(config, "summary_type"):
        config.summary_type = "first"  # these would look at the last token, and that is padding
    return config


def _load_model(where: str, head: Head, labels: Sequence[str] | None, *, head_required: bool) -> Any:
    import transformers

    auto_class = getattr(transformers, head.auto_class)
    config = _load_config(where, head, labels)
    _check_weights(where, auto_class, config)
    model, report = _pretrained(auto_class, where, config)
    body = f"{model.base_model_prefix}."
    missing = sorted(report["missing_keys"])
    lost = [key for key in missing if key.startswith(body) and "pooler" not in key and "position_ids" not in key]
    if lost:
        raise CheckpointError(f"{where} lacks weights of its encoder: {', '.join(lost[:3])} ({len(lost)} in all)")
    misfits = sorted((key, list(found), list(expected)) for key, found, expected in report["mismatched_keys"])
    for key, found, expected in misfits:
        if key.startswith(body):
            raise CheckpointError(
                f"{where} has weights of other shapes than its config.json says: {key} is {found}, expected {expected}"
            )
    missing += [key for key, _, _ in misfits]  # another task's output layer
    if missing and head_required:
        raise CheckpointError(
            f"{where} has no trained output layer for this task (missing {', '.join(missing[:3])}); "
            "train it first with zhaiju train"
        )
    # As they come they lie in the mapped file, wherever its header ends. On some processors that changes the last bits
    # of what is computed from them, and a resumed training would no longer be the one that was cut short.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _pretrained(auto_class: Any, where: str, config: Any) -> tuple[Any, Mapping[str, Any]]:
    """A model with its weights, those in 8 bits multiplied out, and what transformers' loader tells of it."""

    def multiplied_out() -> tuple[Any, Mapping[str, Any]]:
        import torch

        model = auto_class.from_config(config)
        body = f"{model.base_model_prefix}."
        state = {
            name.removeprefix(body) if model.base_model is model else name: torch.from_numpy(value)
            for name, value in read_weights(weights).items()
        }
        return model, {"missing_keys": model.load_state_dict(state, strict=False).missing_keys, "mismatched_keys": []}

    weights = Path(where) / "model.safetensors"
    if _quietly(where, lambda: weights.is_file() and is_quantised(weights)):
        found: tuple[Any, Mapping[str, Any]] = _quietly(where, multiplied_out)
    else:
        found = _quietly(
            where,
            lambda: auto_class.from_pretrained(
                where,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, and are the caller's to refuse
                trust_remote_code=False,
                dtype="float32",
            ),
        )
    return found


def _quietly(where: str, call: Callable[[], Any]) -> Any:
    """Run a transformers loader, its chatter off, its many kinds of exception made one."""
    try:
        with _silence():
            return call()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, (pickle.UnpicklingError, EOFError)):
            reason = "its pytorch_model.bin is damaged, or holds more than tensors; nothing in it was run"
        elif not os.path.isdir(where):
            reason = f"there is no such directory, and as a hub id: {reason}"
        raise CheckpointError(f"cannot load {where}: {reason}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Turn off what transformers and its hub client log, warn of and draw."""
    from transformers.utils import logging as chatter

    hub = logging.getLogger("huggingface_hub")
    levels, bars = (chatter.get_verbosity(), hub.level), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    chatter.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.set_verbosity(levels[0])
        hub.setLevel(levels[1])
        if bars:
            chatter.enable_progress_bar()
