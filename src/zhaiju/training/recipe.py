"""What `zhaiju reproduce` trains: encoders and settings, as TOML.

A recipe names three encoders (`first` and `second` for Chinese, `english`) and, for each part of the experiment, its
settings (see `TrainSettings`). An encoder's own settings, such as the shape of one that starts from random weights,
stand with it and go before the part's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from zhaiju.config import TrainSettings, load_settings
from zhaiju.errors import ConfigError

RECIPES = ("report", "cpu", "quick")
ENCODERS = ("first", "second", "english")
PARTS = ("select", "read", "read_scratch", "intent", "intent_scratch", "slots", "slots_scratch")
PRETRAINED_ONLY = ("pooling", "head", "freeze_embeddings")
LIMITS = ("train", "dev")


@dataclass(frozen=True)
class Recipe:
    """An experiment.

    Attributes:
        name: What the report calls it.
        about: A sentence about it, for the report.
        encoders: For each of `ENCODERS` its settings; `label`, its name in tables, is among them.
        parts: For each of `PARTS` its settings.
        limits: Most training and dev examples of a part, `train` and `dev`; 0: all.
    """

    name: str
    about: str
    encoders: Mapping[str, Mapping[str, Any]]
    parts: Mapping[str, Mapping[str, Any]]
    limits: Mapping[str, int]

    def label(self, encoder: str) -> str:
        """An encoder's name in tables."""
        values = self.encoders[encoder]
        return str(values.get("label") or values.get("encoder") or "random weights")

    def from_scratch(self, encoder: str) -> bool:
        """Whether an encoder starts from random weights."""
        return bool(self.encoders[encoder].get("scratch"))

    def settings(self, part: str, encoder: str) -> TrainSettings:
        """The settings of a part with an encoder.

        Raises:
            ConfigError: a setting is unknown, of the wrong type or out of range, or there is no encoder.
        """
        own = {name: value for name, value in self.encoders[encoder].items() if name != "label"}
        if part.endswith("_scratch"):  # the same architecture and tokenizer, random weights
            own["scratch"] = True
        values = own | dict(self.parts.get(part, {}))
        if values.get("scratch"):  # there is nothing pretrained to make use of
            values = {name: value for name, value in values.items() if name not in PRETRAINED_ONLY}
        try:
            return load_settings(None, values)
        except ConfigError as error:
            raise ConfigError(f"recipe {self.name}, {part} with {encoder}: {error}") from None

    def with_encoders(self, **encoders: str | None) -> Recipe:
        """The recipe with other encoders: hub ids or directories; None leaves one."""
        named = {key: {"encoder": value, "label": _short(value)} for key, value in encoders.items() if value}
        return replace(self, encoders={**self.encoders, **named})


def _short(encoder: str) -> str:
    """A hub id as it is; of a directory its last parts, which say more than the path."""
    path = Path(encoder)
    return "/".join(path.parts[-2:]) if path.is_dir() else encoder


def load_recipe(what: str) -> Recipe:
    """A packaged recipe by its name, or one from a TOML file.

    Raises:
        ConfigError: there is none, it is not TOML, or it names what a recipe does not have.
    """
    if what in RECIPES:
        source, text = what, (resources("zhaiju.training") / "recipes" / f"{what}.toml").read_text("utf-8")
    else:
        source = what
        try:
            text = Path(what).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            known = ", ".join(RECIPES)
            raise ConfigError(f"recipe {what} cannot be read: {error}; known by name are {known}") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {source} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"recipe {source} is nested too deeply") from None
    _only(source, values, ("about", "encoders", "parts", "limits"))
    encoders, parts, limits = (_table(source, values, name) for name in ("encoders", "parts", "limits"))
    _only(f"{source}: encoders", encoders, ENCODERS)
    _only(f"{source}: parts", parts, PARTS)
    _only(f"{source}: limits", limits, LIMITS)
    for name in ENCODERS:
        _table(f"{source}: encoders", encoders, name)
        if name not in encoders:
            raise ConfigError(f"recipe {source} names no {name} encoder")
        if not isinstance(label := encoders[name].get("label", ""), str):
            raise ConfigError(f"recipe {source}: label of the {name} encoder is {label!r}, expected a text")
    for name in parts:
        _table(f"{source}: parts", parts, name)
    for name, limit in limits.items():
        if type(limit) is not int or limit < 0:
            raise ConfigError(f"recipe {source}: limits: {name} is {limit!r}, expected a whole number of at least 0")
    return Recipe(Path(source).stem, str(values.get("about", "")), encoders, parts, limits)


def _table(source: str, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"recipe {source}: {name} is {value!r}, expected a table")
    return value


def _only(source: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            raise ConfigError(f"recipe {source}: unknown {name!r}; known are {', '.join(known)}")
