"""Settings: each declared once, with its doc, its range and its default.

The command line's flags and help, the check of a TOML file and the saved config of a run all come from here.
Precedence: defaults, then the TOML file, then flags. An explicit 0, "" or false is a value, never "not given".
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from zhaiju.data.encoding import DEFAULT_OVERLAP, DEFAULT_WINDOW
from zhaiju.data.script import SCRIPTS
from zhaiju.data.vocabulary import KINDS
from zhaiju.data.words import BOUNDARIES
from zhaiju.errors import ConfigError


def setting(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    decides: bool = True,
) -> Any:
    """A dataclass field with its doc and the values that it may take.

    `decides` is False where a training leaves the same behind whatever the value: it may then be another when a run
    goes on.
    """
    return field(
        default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices, "decides": decides}
    )


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides what a training leaves behind, the data apart, and how it gets there."""

    encoder: str | None = setting(None, "Encoder to start from: a hub id or a directory.")
    scratch: bool = setting(
        False,
        "Start from random weights: of the encoder's architecture and tokenizer if one is named, else of the shape "
        "below with a vocabulary built from the training text.",
    )
    layers: int = setting(4, "Layers of an encoder from nothing.", low=1)
    hidden: int = setting(256, "Width of an encoder from nothing.", low=8)
    heads: int = setting(4, "Attention heads of an encoder from nothing.", low=1)
    intermediate: int = setting(1024, "Width of the feed-forward layers of an encoder from nothing.", low=8)
    positions: int = setting(512, "Most tokens that an encoder from nothing can take.", low=16)
    dropout: float = setting(0.1, "Dropout of the encoder.", low=0, high=0.9)
    vocabulary: str = setting(
        "wordpiece",
        "Tokens of an encoder from nothing: Chinese characters and word pieces, or every character by itself.",
        choices=KINDS,
    )
    vocabulary_size: int = setting(21_128, "Most entries of that vocabulary.", low=6)
    window: int = setting(DEFAULT_WINDOW, "Most tokens of a window, question and special tokens included.", low=16)
    overlap: int = setting(DEFAULT_OVERLAP, "Characters that neighbouring windows of a paragraph share.", low=0)
    script: str | None = setting(
        None, "Script that the encoder sees, quotes keep their own; none given: the encoder's own.", choices=SCRIPTS
    )
    boundaries: str | None = setting(
        None,
        "Where sentence pieces end: with words (words), or wherever the tokenizer cuts (pieces); none given: with "
        "words where the task quotes.",
        choices=BOUNDARIES,
    )
    negatives: int = setting(3, "select: wrong paragraphs drawn beside the right one, anew each epoch.", low=1)
    no_answer_rate: float = setting(
        1.0, "read: share of the windows without an answer that an epoch trains on.", low=0, high=1
    )
    random_windows: bool = setting(
        False,
        "read: train on one window an answer, put around it at random anew each epoch, and at no_answer_rate on one "
        "without, of the same paragraph or of another candidate.",
    )
    mask_rate: float = setting(
        0.0, "select, read: mean share of a window's tokens hidden from the encoder in training.", low=0, high=0.5
    )
    max_answer_chars: int = setting(50, "read: longest quote in characters; 0: no limit.", low=0, high=1 << 31)
    pooling: str = setting(
        "cls",
        "intent: read the encoder's first token (cls), or first rebuild its last layer so that this token is the mean "
        "of all (mean): for encoders that were trained to be read by their mean.",
        choices=("cls", "mean"),
    )
    head: str = setting(
        "random",
        "intent: first weights of the output layer: random, or the linear discriminant of the training data.",
        choices=("random", "discriminant"),
    )
    pieces: str = setting(
        "first",
        "slots: label a word's first piece alone, or all its pieces, whose mean then decides.",
        choices=("first", "all"),
    )
    bio: str = setting(
        "repair",
        "slots: refuse an I- tag that begins a slot (strict), or read it as B- (repair).",
        choices=("strict", "repair"),
    )
    lr: float = setting(3e-5, "Highest learning rate (AdamW).", low=0)
    epochs: int = setting(3, "Times that the training data is gone through.", low=1)
    max_steps: int = setting(0, "Stop after this many steps, whatever the epochs; 0: by epochs.", low=0)
    warmup: float = setting(0.1, "Share of the steps over which the learning rate rises.", low=0, high=1)
    weight_decay: float = setting(0.01, "Weight decay, biases and norms excepted.", low=0)
    label_smoothing: float = setting(
        0.0, "Share of each target that is spread evenly over all outcomes.", low=0, high=0.9
    )
    average: float = setting(
        0.0,
        "Decay of the exponential moving average of the weights, which is then evaluated and kept; 0: none.",
        low=0,
        high=0.99999,
    )
    freeze_embeddings: bool = setting(False, "Leave the embeddings as they are: faster, and hardly worse.")
    clip: float = setting(1.0, "Largest gradient norm; 0: no clipping.", low=0)
    batch_tokens: int = setting(8192, "Tokens of a batch, padding included.", low=16)
    batch_size: int = setting(0, "Most questions, windows (read) or utterances of a batch; 0: as many as fit.", low=0)
    accumulation: int = setting(1, "Batches to a step.", low=1)
    precision: str = setting("fp32", "Precision of the passes; weights stay fp32.", choices=("fp32", "bf16"))
    eval_every: int = setting(0, "Steps between evaluations on the dev set; 0: after each epoch.", low=0)
    eval_train: int = setting(
        0, "Training examples to score beside the dev set, as train_…; 0: none.", low=0, high=1 << 31
    )
    save_every: int = setting(0, "Steps between checkpoints beside those of evaluations; 0: none.", low=0)
    patience: int = setting(0, "Stop after this many evaluations without a better one; 0: never.", low=0)
    seed: int = setting(0, "Seed of weights, order, draws and dropout.", low=0, high=(1 << 63) - 1)
    split_seed: int = setting(
        0, "Seed of the tenth that is held out where no dev data is named.", low=0, high=(1 << 63) - 1
    )
    risk: float = setting(
        0.05, "Share of wrong predictions that is accepted: sets the threshold of abstention.", low=0, high=1
    )
    activation_checkpointing: bool = setting(
        False,
        "Keep only what enters each layer and compute the rest again on the way back: less memory, a third more time.",
        decides=False,
    )
    threads: int = setting(
        0, "CPU threads; 0: OMP_NUM_THREADS, else one a physical core that may be used.", low=0, high=1 << 16
    )
    skip_faulty: bool = setting(False, "Leave faulty rows out, counted, instead of stopping at the first.")

    def __post_init__(self) -> None:
        for name, kind in types_of_settings().items():
            _check(name, getattr(self, name), kind)
        if self.encoder is None and not self.scratch:
            raise ConfigError("no encoder: name one (--encoder hub/id or a directory) or give --scratch")
        if self.scratch and self.freeze_embeddings:
            raise ConfigError("freeze_embeddings with scratch: random embeddings would stay random")
        if self.lr == 0:
            raise ConfigError("lr is 0, expected more: nothing would be learnt")

    def to_toml(self) -> str:
        """The settings as a TOML file that `load_settings` reads back equal."""
        import tomli_w

        return tomli_w.dumps({name: value for name, value in asdict(self).items() if value is not None})


def load_settings(file: Path | None, overrides: Mapping[str, Any]) -> TrainSettings:
    """Settings from a TOML file and flags.

    Args:
        file: The file, or None.
        overrides: Flags; None values are those not given.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, of the wrong type or out of range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file} is not TOML: {error}") from None
        except RecursionError:
            raise ConfigError(f"{file} is nested too deeply") from None
    values |= {name: value for name, value in overrides.items() if value is not None}
    known = [entry.name for entry in fields(TrainSettings)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown setting {name!r}{f' in {file}' if file else ''}; {hint}")
    for name, kind in types_of_settings().items():  # a whole number is a fine value for a float
        if kind is float and type(values.get(name)) is int:
            try:
                values[name] = float(values[name])
            except OverflowError:
                digits = len(str(abs(values[name])))
                raise ConfigError(f"setting {name} has {digits:,} digits, expected fewer") from None
    return TrainSettings(**values)


def differences(old: TrainSettings, new: TrainSettings) -> list[str]:
    """What differs and decides what a training leaves, one `name: old -> new` each."""
    before, after = asdict(old), asdict(new)
    deciding = [entry.name for entry in fields(TrainSettings) if entry.metadata["decides"]]
    return [f"{name}: {before[name]!r} -> {after[name]!r}" for name in deciding if before[name] != after[name]]


def types_of_settings() -> dict[str, Any]:
    """The type of each setting of `TrainSettings`."""
    hints = get_type_hints(TrainSettings)
    return {entry.name: hints[entry.name] for entry in fields(TrainSettings)}


def plain_type(kind: Any) -> tuple[type, bool]:
    """(The type without None, whether None is allowed)."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(part for part in get_args(kind) if part is not type(None)), True
    return kind, False


def _check(name: str, value: Any, kind: Any) -> None:
    limits = TrainSettings.__dataclass_fields__[name].metadata
    wanted, optional = plain_type(kind)
    if value is None and optional:
        return
    if type(value) is not wanted:
        raise ConfigError(f"setting {name} is {value!r}, expected {wanted.__name__}")
    if limits["choices"] is not None and value not in limits["choices"]:
        raise ConfigError(f"setting {name} is {value!r}, expected one of {', '.join(limits['choices'])}")
    low, high = limits["low"], limits["high"]
    if isinstance(value, float) and value != value:
        raise ConfigError(f"setting {name} is not a number")
    if (low is not None and value < low) or (high is not None and value > high):
        wanted_range = f"at least {low}" if high is None else f"{low} to {high}"
        raise ConfigError(f"setting {name} is {value!r}, expected {wanted_range}")
