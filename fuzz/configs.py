"""Readers of settings, recipes, checkpoints' small files and predictions."""

from __future__ import annotations

import json
import struct
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fuzz.mutate import of_bytes, of_json
from fuzz.target import Refusing, Target, file_of, hold, text_of
from zhaiju import cli
from zhaiju.config import TrainSettings, load_settings
from zhaiju.corpus.confidence import CONFIDENCE_FILE, ConfidenceModel
from zhaiju.corpus.features import FeatureWeights
from zhaiju.data.vocabulary import PlainTokenizer
from zhaiju.errors import CheckpointError, ConfigError, DataError
from zhaiju.inference.answer import load_joint
from zhaiju.modeling.checkpoint import Checkpoint, Meta, load_exported, read_meta, resolve
from zhaiju.tasks import TASKS
from zhaiju.training.recipe import ENCODERS, PARTS, load_recipe


def check_settings(data: bytes) -> None:
    """Settings that can be written and read back equal, or refused."""
    path = file_of("s.toml", data)
    with Refusing(ConfigError):
        settings = load_settings(path, {"encoder": "x"} if len(data) % 2 else {})
        hold(TrainSettings(**tomllib.loads(settings.to_toml())) == settings, "read back equal", settings)


def check_recipe(data: bytes) -> None:
    """A recipe whose parts give settings, or refused."""
    path = file_of("r.toml", data)
    with Refusing(ConfigError):
        recipe = load_recipe(str(path))
        for encoder in ENCODERS:
            recipe.label(encoder)
            for part in PARTS:
                with Refusing(ConfigError):
                    recipe.settings(part, encoder)


def check_meta(data: bytes) -> None:
    """What a checkpoint says of itself makes a task, or is refused."""
    path = file_of("meta/zhaiju.json", data)
    with Refusing(CheckpointError):
        meta = read_meta(str(path.parent))
        hold(isinstance(meta, Meta) and meta.temperature > 0, "a temperature", meta)
        for task in TASKS:
            if TASKS[task].head.over != "labels":
                with Refusing(CheckpointError, ConfigError):
                    Checkpoint(None, None, meta, "x").task(task)  # type: ignore[arg-type]


def check_fitted(data: bytes) -> None:
    """What was fitted is read, or refused: how stages are weighed, what to trust, and the features."""
    folder = file_of(f"fitted/{CONFIDENCE_FILE}", data).parent
    for name in ("answer.json", "ranking.json"):
        file_of(f"fitted/{name}", data)
    loads: tuple[Callable[[], object], ...] = (
        partial(ConfidenceModel.load, folder),
        partial(FeatureWeights.load, folder / "ranking.json"),
        partial(load_joint, str(folder), "selector"),
    )
    for load in loads:
        with Refusing(ConfigError):
            load()


def check_tokenizer(data: bytes) -> None:
    """A tokenizer that gives places in the text, or refused."""
    folder = file_of("tokenizer/tokenizer.json", data).parent
    with Refusing(CheckpointError):
        tokenizer = PlainTokenizer.load(folder)
        hold(isinstance(tokenizer, PlainTokenizer), "a tokenizer")


def check_exported(data: bytes) -> None:
    """The names and settings beside a graph are read, or refused."""
    file_of("exported/zhaiju.json", b"{}")
    file_of("exported/tokenizer.json", _TOKENIZER)
    path = file_of("exported/tokenizer_config.json", data)
    file_of("exported/config.json", data)
    with Refusing(CheckpointError, ConfigError):
        loaded = load_exported(path.parent)
        with Refusing(CheckpointError):
            hold(all(isinstance(label, str) for label in loaded.labels), "labels")
        hold(loaded.encoding.pad_id >= 0, "a token to pad with")


_TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2}, "unk_token": "[UNK]"},
        "pre_tokenizer": {"type": "Whitespace"},
    }
).encode()


def check_name(data: bytes) -> None:
    """Any name of a checkpoint is a directory, an id, or refused."""
    name = text_of(data)
    with Refusing(CheckpointError, ConfigError):
        hold(resolve(name), "a place")


def check_safetensors(data: bytes) -> None:
    """What `config.json` and weights say is looked at by safetensors itself, which must not fall over."""
    from safetensors import SafetensorError, safe_open

    length = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    path = file_of("model.safetensors", data)
    try:
        with safe_open(path, "numpy") as weights:
            hold(length < len(data), "a header inside the file", length)
            for name in weights.keys():  # noqa: SIM118  # it is no dict
                weights.get_slice(name).get_shape()
    except (SafetensorError, OSError):
        pass


def check_predictions(data: bytes, name: str) -> None:
    """Predictions to score are texts and whole numbers, or refused."""
    path = file_of(name, data)
    with Refusing(DataError):
        values = cli._read_predictions(Path(path))
        hold(all(isinstance(value, str | int) for value in values.values()), "answers", values)


_TOML = (
    "=", "\n", "[", "]", "[[", '"', "'''", "{", "}", "true", "1e400", "nan", "inf", "-", "0x", "1979-05-27", ".", "#",
    "lr", "window", "encoder", "scratch", "epochs", "bio", "overlap", "seed", "\\u", "\\UFFFFFFFF", "9" * 40,
)  # fmt: skip
_META = (
    "task", "window", "overlap", "script", "search", "calibration", "temperature", "threshold", "max_answer_chars",
    "n_best", "pieces", "null_threshold", "positions",
)  # fmt: skip
_FITTED = ("signals", "mean", "spread", "weights", "bias", "threshold", "k", "weight", "lexical")
_KINDS = (
    "type", "model", "vocab", "normalizer", "pre_tokenizer", "post_processor", "added_tokens", "unk_token", "padding",
    "truncation", "decoder", "merges", "pattern",
)  # fmt: skip
_LOOKS = ("pad_token", "unk_token", "mask_token", "content", "id2label", "label2id", "model_max_length")
_NAMES = ("/", "..", "~", "\\", "\0", "starter", "s3://", " ", "\n", "hf/", "a" * 300, ":")

TARGETS = (
    Target("settings", "read back equal, or refused", check_settings, of_bytes(*_TOML), 100_000),
    Target("recipe", "settings, or refused", check_recipe, of_bytes(*_TOML), 25_000),
    Target("meta", "a task, or refused", check_meta, of_json(*_META), 100_000),
    Target("fitted", "numbers, or refused", check_fitted, of_json(*_FITTED), 60_000),
    Target("tokenizer", "a tokenizer, or refused", check_tokenizer, of_json(*_KINDS), 30_000),
    Target("exported", "names and classes, or refused", check_exported, of_json(*_LOOKS), 50_000),
    Target("names", "a place, or refused", check_name, of_bytes(*_NAMES), 200_000),
    Target("safetensors", "weights, or refused", check_safetensors, of_json("dtype", "shape", "data_offsets"), 100_000),
    Target(
        "answers",
        "answers, or refused",
        partial(check_predictions, name="p.json"),
        of_json("id", "answer", "tags"),
        100_000,
    ),
    Target(
        "table",
        "answers, or refused",
        partial(check_predictions, name="p.csv"),
        of_bytes(*',"\n', "id", "answer"),
        100_000,
    ),
)
