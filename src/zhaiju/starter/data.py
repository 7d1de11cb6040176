"""The packaged starter models: what they are trained on. `scripts/train_starter` does the rest with `zhaiju train`.

Trained on: DRCD's development set in the course layout, without whatever belongs to `public.json`; CMRC 2018's
development and trial sets. Held out of it: the questions of a tenth of DRCD's articles, to choose the step by, to
calibrate and to fit the weights of selector, reader and BM25.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhaiju import files
from zhaiju.corpus.lexical import BM25
from zhaiju.data.formats import ReadLog, load_contexts, read_qa

CMRC = ("cmrc2018-dev.json", "cmrc2018-trial.json")
DRCD = "drcd-dev.json"
HELD_OUT = 10  # one article in so many
WRONG = 4  # paragraphs that BM25 likes best beside the right one, for questions that come without candidates


def prepare(data: Path, output: Path) -> dict[str, int]:
    """Write `context.json`, `train.json` and `dev.json` in the course layout.

    Args:
        data: Folder with `course/` and `squad/`.
        output: Folder to write into.

    Returns:
        How many paragraphs, training and dev questions there are, and how many paragraphs were kept out because a
        question of `public.json` is answered by them.

    Raises:
        DataError: a file is not what it should be.
    """
    course = data / "course"
    contexts = load_contexts(course / "context.json")
    public = json.loads((course / "public.json").read_text("utf-8"))
    hidden = {row["relevant"] for row in public}
    hidden_texts = {contexts[index].text for index in hidden}
    articles = _articles(data / "squad" / DRCD)

    texts: list[str] = []
    places: dict[str, int] = {}

    def place(text: str) -> int:
        assert text not in hidden_texts
        if text not in places:
            places[text] = len(texts)
            texts.append(text)
        return places[text]

    train: list[dict[str, Any]] = []
    dev: list[dict[str, Any]] = []
    for row in json.loads((course / "train.json").read_text("utf-8")):
        if row["relevant"] in hidden:
            continue
        kept = [index for index in row["paragraphs"] if index not in hidden]
        held_out = _is_held_out(articles[contexts[row["relevant"]].text])
        (dev if held_out else train).append(
            row
            | {
                "paragraphs": [place(contexts[index].text) for index in kept],
                "relevant": place(contexts[row["relevant"]].text),
            }
        )
    train += _without_candidates([data / "squad" / name for name in CMRC], place)
    written = {
        "context": texts,
        "train": train,
        "dev": dev,
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, values in written.items():
        files.write_json(output / f"{name}.json", values)
    return {"paragraphs": len(texts), "train": len(train), "dev": len(dev), "kept_out": len(hidden)}


def fingerprints(data: Path) -> dict[str, str]:
    """The SHA-256 of each file that `prepare` reads."""
    names = [
        *(f"course/{name}.json" for name in ("context", "train", "public")),
        *(f"squad/{n}" for n in (DRCD, *CMRC)),
    ]
    return {name: files.fingerprint(data / name) for name in names}


def _articles(path: Path) -> Mapping[str, str]:
    """The title of each paragraph's article."""
    return {
        paragraph["context"]: article["title"]
        for article in json.loads(path.read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
    }


def _is_held_out(title: str) -> bool:
    return int(hashlib.md5(title.encode()).hexdigest(), 16) % HELD_OUT == 0


def _without_candidates(paths: Sequence[Path], place: Any) -> Iterator[dict[str, Any]]:
    """Rows in the course layout for questions with one paragraph; the wrong ones are those BM25 likes best."""
    log = ReadLog(skip_faulty=True)  # a few rows are misaligned, or have no question
    examples = [example for path in paths for example in read_qa(path, log=log) if example.answers]
    paragraphs = list(dict.fromkeys(example.context.text for example in examples))
    index = BM25(paragraphs)
    for example in examples:
        scores = index.scores(example.question)
        own = paragraphs.index(example.context.text)
        wrong = [int(other) for other in np.argsort(-scores, kind="stable")[: WRONG + 1] if other != own][:WRONG]
        yield {
            "id": example.id,
            "question": example.question,
            "paragraphs": [place(paragraphs[other]) for other in (own, *wrong)],
            "relevant": place(example.context.text),
            "answers": [{"text": answer.text, "start": answer.start} for answer in example.answers],
        }
