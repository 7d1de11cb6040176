"""How rare terms are: one packaged table, so that a word weighs the same whatever paragraphs are at hand.

`scripts/starter/rarity.py` counts in how many paragraphs of running text a term is. The table keeps the commonest
terms; one that is not in it is as rare as can be. Terms are known by 32 bits of their hashes (`lexical.hashes_of`):
once in ten thousand times a term that is not in the table is taken for one that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju.corpus.lexical import Hashes
from zhaiju.errors import ConfigError

Keys = npt.NDArray[np.uint32]

KINDS = ("unit", "pair", "word")
STEP = 1 / 8  # between two levels of rarity


@dataclass(frozen=True)
class Rarity:
    """A table of terms.

    Attributes:
        keys: For each of `KINDS` the terms' keys, in order: uint32 [terms].
        levels: How rare each is, in steps of `STEP`: uint8 [terms].
        means: For each of `KINDS` how many terms a paragraph has on average.
        highest: The level of a term that is not in the table.
    """

    keys: Mapping[str, Keys]
    levels: Mapping[str, npt.NDArray[np.uint8]]
    means: Mapping[str, float]
    highest: int

    def of(self, kind: str, hashes: Hashes) -> npt.NDArray[np.float64]:
        """How rare terms are, the negative logarithm of the share of paragraphs that have them: float64 [terms]."""
        known, wanted = self.keys[kind], keys_of(hashes)
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[place] == wanted, self.levels[kind][place], self.highest) * STEP

    @classmethod
    def load(cls, path: Path) -> Rarity:
        """Read what `save` wrote.

        Raises:
            ConfigError: it is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                found = {name: kept[name] for name in kept.files}
            gaps = {kind: np.ascontiguousarray(found[f"{kind}_gaps"].T).view(np.uint32).ravel() for kind in KINDS}
            keys = {kind: np.cumsum(gaps[kind], dtype=np.uint32) for kind in KINDS}
            levels = {kind: found[f"{kind}_levels"] for kind in KINDS}
            if any(not 0 < len(keys[kind]) == len(levels[kind]) for kind in KINDS):
                raise ValueError("expected a level for each term")
            means = dict(zip(KINDS, found["means"].tolist(), strict=True))
            return cls(keys, levels, means, int(found["highest"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ConfigError(f"{path} cannot be read: {error!r}") from None

    def save(self, path: Path) -> None:
        """Write it; the same table makes the same bytes."""
        arrays: dict[str, Any] = {
            "means": np.array([self.means[kind] for kind in KINDS], dtype=np.float32),
            "highest": np.uint8(self.highest),
        }
        for kind in KINDS:
            gaps = np.diff(self.keys[kind], prepend=np.uint32(0))
            arrays[f"{kind}_gaps"] = np.ascontiguousarray(gaps.view(np.uint8).reshape(-1, 4).T)  # as it packs best
            arrays[f"{kind}_levels"] = self.levels[kind]
        np.savez_compressed(path, **arrays)


def keys_of(hashes: Hashes) -> Keys:
    """The keys of terms: uint32 [terms]."""
    return (hashes >> np.uint64(32)).astype(np.uint32)


@lru_cache(maxsize=1)
def packaged() -> Rarity:
    """The table that comes with the package.

    Raises:
        ConfigError: it is damaged.
    """
    return Rarity.load(path())


def path() -> Path:
    """Where that table is."""
    return Path(str(resources.files("zhaiju.starter"))) / "rarity.npz"
