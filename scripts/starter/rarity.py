"""Count how rare terms are, for `zhaiju.corpus.rarity`.

    python scripts/starter/rarity.py

Running text of several kinds (preprints, articles about Taiwan, statutes) and the paragraphs that questions of the
training data are about, cut into paragraphs of about 450 characters. Each kind counts as much as any other, however
much there is of it: what is counted is the mean share of its paragraphs that have a term. English is counted for
itself, and a term is as common as it is in the language in which it is more common; else "the" were a rare word.

Paragraphs that answer a question of `course/public.json` are left out, wherever they stand.
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zhaiju import ui
from zhaiju.corpus.features import cut, plain_of
from zhaiju.corpus.rarity import KINDS, STEP, Keys, Rarity, keys_of

LENGTH = 450  # characters of a paragraph
EVERY = 3  # of the preprints, by far the most, every third paragraph is enough
BLOCK = 1024
HIGHEST = 9.0  # rarity from which on a term is left out of the table
ENGLISH = "English"

Counts = dict[str, tuple[Keys, npt.NDArray[np.int64]]]


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Lines joined and cut to about `LENGTH` characters; a blank line ends a paragraph."""
    gathered = ""
    for line in lines:
        gathered += line
        if not line.strip() or len(gathered) >= LENGTH:
            yield from _pieces(gathered)
            gathered = ""
    yield from _pieces(gathered)


def _pieces(text: str) -> Iterator[str]:
    count = max(1, round(len(text) / LENGTH))
    size = -(-len(text) // count)
    yield from (text[at : at + size] for at in range(0, len(text), size or 1) if text[at : at + size].strip())


def texts(data: Path) -> dict[str, list[str]]:
    """The paragraphs by kind."""
    found: dict[str, list[str]] = {}
    for kind in ("chinaxiv", "taiwanmd", "twlaws"):
        found[kind] = []
        for path in sorted((data / "text").glob(f"{kind}_*.txt.xz")):
            with lzma.open(path, "rt", encoding="utf-8") as file:
                found[kind] += paragraphs(file)
    found["chinaxiv"] = found["chinaxiv"][::EVERY]
    hidden = {row["relevant"] for row in _json(data / "course" / "public.json")}
    course = _json(data / "course" / "context.json")
    answering = {course[place] for place in hidden}
    asked = [text for text in course if text not in answering]
    for name in ("cmrc2018-dev", "cmrc2018-trial", "cmrc2018-train", "drcd-train-part"):
        asked += [text for text in _squad(data / "squad" / f"{name}.json") if text not in answering]
    found["asked about"] = [piece for text in dict.fromkeys(asked) for piece in _pieces(text)]
    found[ENGLISH] = list(dict.fromkeys(_squad(data / "squad" / "squad-en-part.json")))
    return found


def _json(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return json.loads(path.read_text("utf-8"))


def _squad(path: Path) -> list[str]:
    articles = json.loads(path.read_text("utf-8"))["data"]
    return [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]


def count(texts: Sequence[str]) -> tuple[Counts, dict[str, float]]:
    """In how many paragraphs each term is, and how many terms a paragraph has on average."""
    counts: Counts = {kind: (np.zeros(0, np.uint32), np.zeros(0, np.int64)) for kind in KINDS}
    total = dict.fromkeys(KINDS, 0)
    with ui.progress("counting", len(texts)) as advance:
        for start in range(0, len(texts), BLOCK):
            found = [cut(plain_of(text)) for text in texts[start : start + BLOCK]]
            for kind in KINDS:
                keys = [keys_of(one.terms[kind].hashes) for one in found]
                total[kind] += sum(map(len, keys))
                counts[kind] = _added(*counts[kind], [np.unique(one) for one in keys])
            advance(len(found))
    return counts, {kind: total[kind] / len(texts) for kind in KINDS}


def _added(known: Keys, counts: npt.NDArray[np.int64], more: Sequence[Keys]) -> tuple[Keys, npt.NDArray[np.int64]]:
    keys, place = np.unique(np.concatenate([known, *more]), return_inverse=True)
    added = np.bincount(place[len(known) :], minlength=len(keys))
    added[place[: len(known)]] += counts
    return keys, added


def _share(keys: Keys, counts: tuple[Keys, npt.NDArray[np.int64]], paragraphs: int) -> npt.NDArray[np.float64]:
    """The share of paragraphs that have each term: float64 [keys]."""
    known, often = counts
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, often[place], 0) / paragraphs


def make(counted: dict[str, tuple[Counts, dict[str, float], int]]) -> Rarity:
    """The table.

    Args:
        counted: For each kind of text what `count` gives, and the number of its paragraphs.
    """
    chinese = [kind for kind in counted if kind != ENGLISH]
    table_keys, levels = {}, {}
    for kind in KINDS:
        keys = np.unique(np.concatenate([counts[kind][0] for counts, _, _ in counted.values()]))
        shares = {name: _share(keys, counts[kind], paragraphs) for name, (counts, _, paragraphs) in counted.items()}
        share = np.maximum(np.mean([shares[name] for name in chinese], axis=0), shares[ENGLISH])
        rarity = -np.log(share)
        kept = rarity < HIGHEST
        table_keys[kind] = keys[kept]
        levels[kind] = np.round(rarity[kept] / STEP).astype(np.uint8)
    means = {kind: float(np.mean([counted[name][1][kind] for name in chinese])) for kind in KINDS}
    return Rarity(table_keys, levels, means, round(HIGHEST / STEP))


def main() -> None:
    """Count and write the table."""
    parser = argparse.ArgumentParser(prog="rarity.py", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("-o", "--output", type=Path, default=Path("src/zhaiju/starter/rarity.npz"))
    options = parser.parse_args()
    table = make({kind: (*count(found), len(found)) for kind, found in texts(options.data).items()})
    table.save(options.output)
    sizes = ", ".join(f"{len(table.keys[kind]):,} {kind}s" for kind in KINDS)
    ui.note(f"{sizes}: {options.output.stat().st_size:,} bytes in {options.output}")


if __name__ == "__main__":
    main()
