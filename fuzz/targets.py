"""All targets."""

from __future__ import annotations

from importlib import import_module

from fuzz.target import Target

MODULES = (
    "search",
    "scores",
    "data",
    "encoder",
    "documents",
    "configs",
    "archives",
    "service",
)  # the quickest to import first


def find(name: str) -> Target:
    """The target of a name, importing no more than needed; before a colon there may be the module that has it.

    Raises:
        KeyError: there is none.
    """
    named = name.rpartition(":")[0]
    for module in [named] if named else [f"fuzz.{module}" for module in MODULES]:
        for target in import_module(module).TARGETS:
            if target.name == name:
                return target  # type: ignore[no-any-return]
    raise KeyError(name)


def all_targets() -> dict[str, Target]:
    """Every target by its name."""
    return {target.name: target for module in MODULES for target in import_module(f"fuzz.{module}").TARGETS}
