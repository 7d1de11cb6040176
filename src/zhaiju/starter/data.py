"""The packaged starter models: what they are trained on. `scripts/train_starter` does the rest with `zhaiju train`.

Trained on: DRCD's development set in the course layout, without whatever belongs to `public.json`; CMRC 2018's
development and trial sets. Held out of it: the questions of a tenth of DRCD's articles, to choose the step by, to
calibrate and to fit the weights of selector, reader and BM25. The voices (`zhaiju.corpus.voices`) are fitted on the
same training questions, also with candidates that are harder to tell apart: `variants`. The selector's weight beside
them comes from the same, by folds: `prepare_fold`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zhaiju import files
from zhaiju.corpus.lexical import BM25
from zhaiju.data.examples import Context, QAExample
from zhaiju.data.formats import ReadLog, load_contexts, read_qa

CMRC = ("cmrc2018-dev.json", "cmrc2018-trial.json")
DRCD = "drcd-dev.json"
HELD_OUT = 10  # one article in so many
FOLDS = 5  # of the other articles
NEAREST = 3  # wrong paragraphs of a variant that BM25 likes best
WRONG = 4  # paragraphs that BM25 likes best beside the right one, for questions that come without candidates


def prepare(data: Path, output: Path) -> dict[str, int]:
    """Write `context.json`, `train.json` and `dev.json` in the course layout.

    Beside them `articles.json`: for each paragraph the title of its article in DRCD, null for those of CMRC 2018.

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
    articles = _articles(data / "squad" / DRCD)

    kept = _Kept([context.text for context in contexts], hidden)
    train: list[dict[str, Any]] = []
    dev: list[dict[str, Any]] = []
    for row in json.loads((course / "train.json").read_text("utf-8")):
        if row["relevant"] not in hidden:
            held_out = _is_held_out(articles[contexts[row["relevant"]].text])
            (dev if held_out else train).append(kept.row(row))
    train += _without_candidates([data / "squad" / name for name in CMRC], kept.place)
    _write(output, kept.texts, train, dev, [articles.get(text) for text in kept.texts])
    return {"paragraphs": len(kept.texts), "train": len(train), "dev": len(dev), "kept_out": len(hidden)}


def prepare_fold(prepared: Path, output: Path, fold: int) -> dict[str, int]:
    """Write the prepared data without a fold, which is kept out just as `prepare` keeps `public.json` out.

    A fold is the training questions of some of DRCD's articles. Neither they nor a paragraph that answers one of them
    is left anywhere: not as a right candidate, not as a wrong one, not in `context.json`.

    Args:
        prepared: The folder that `prepare` wrote.
        output: Folder to write into.
        fold: Which, from 0 to `FOLDS` - 1.

    Returns:
        How many paragraphs, training and dev questions there are, and how many paragraphs were kept out.

    Raises:
        DataError: a file is not what it should be.
    """
    texts = [context.text for context in load_contexts(prepared / "context.json")]
    titles = json.loads((prepared / "articles.json").read_text("utf-8"))
    rows = {name: json.loads((prepared / f"{name}.json").read_text("utf-8")) for name in ("train", "dev")}
    hidden = {row["relevant"] for row in rows["train"] if is_of_fold(titles[row["relevant"]], fold)}
    kept = _Kept(texts, hidden)
    train, dev = ([kept.row(row) for row in rows[name] if row["relevant"] not in hidden] for name in ("train", "dev"))
    title_of = dict(zip(texts, titles, strict=True))
    _write(output, kept.texts, train, dev, [title_of[text] for text in kept.texts])
    return {"paragraphs": len(kept.texts), "train": len(train), "dev": len(dev), "kept_out": len(hidden)}


def is_of_fold(title: str | None, fold: int) -> bool:
    """Whether the questions of an article are those of a fold; CMRC 2018's, without a title, are of none."""
    return title is not None and _number(title) // HELD_OUT % FOLDS == fold


class _Kept:
    """The paragraphs that are left when some are kept out, and rows in the course layout that point at them.

    Args:
        texts: All paragraphs.
        hidden: The places of those that are kept out.

    Attributes:
        texts: Those left that a row has needed so far.
    """

    def __init__(self, texts: Sequence[str], hidden: Collection[int]) -> None:
        self.all = texts
        self.hidden = hidden
        self.hidden_texts = {texts[index] for index in hidden}
        self.texts: list[str] = []
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        assert text not in self.hidden_texts
        if text not in self.places:
            self.places[text] = len(self.texts)
            self.texts.append(text)
        return self.places[text]

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row whose right paragraph is not kept out, without the wrong ones that are."""
        paragraphs = [self.place(self.all[index]) for index in row["paragraphs"] if index not in self.hidden]
        return row | {"paragraphs": paragraphs, "relevant": self.place(self.all[row["relevant"]])}


def _write(output: Path, texts: Any, train: Any, dev: Any, articles: Any) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, values in (("context", texts), ("train", train), ("dev", dev), ("articles", articles)):
        files.write_json(output / f"{name}.json", values)


def variants(prepared: Path, name: str) -> dict[str, list[QAExample]]:
    """The prepared questions `name`, "train" or "dev", with several sets of candidates.

    Args:
        prepared: The folder that `prepare` wrote.
        name: Which of its files.

    Returns:
        "given": DRCD's questions with the candidates that they came with; "nearest": with the three wrong paragraphs
        of DRCD that BM25 likes best; "same article": with up to four of their own article; "CMRC 2018": that set's
        questions as they were prepared. Questions without a wrong candidate are left out.

    Raises:
        DataError: a file is not what it should be.
    """
    contexts = load_contexts(prepared / "context.json")
    titles = json.loads((prepared / "articles.json").read_text("utf-8"))
    drcd = [context for context, title in zip(contexts, titles, strict=True) if title is not None]
    title_of = dict(zip((context.text for context in contexts), titles, strict=True))
    index = BM25([context.text for context in drcd])
    result: dict[str, list[QAExample]] = {"given": [], "nearest": [], "same article": [], "CMRC 2018": []}
    for example in read_qa(prepared / f"{name}.json", contexts=contexts):
        own = example.context
        if title_of[own.text] is None:
            result["CMRC 2018"].append(example)
            continue
        result["given"].append(example)
        order = np.argsort(-index.scores(example.question), kind="stable")
        wrong = [drcd[place] for place in order.tolist() if drcd[place].text != own.text]
        same = [context for context in wrong if title_of[context.text] == title_of[own.text]]
        result["nearest"].append(_with(example, wrong[:NEAREST]))
        result["same article"].append(_with(example, same[:WRONG]))
    return {kind: [one for one in examples if len(one.contexts) > 1] for kind, examples in result.items()}


def _with(example: QAExample, wrong: Sequence[Context]) -> QAExample:
    return replace(example, contexts=(example.context, *wrong), relevant=0, answers=())


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
    return _number(title) % HELD_OUT == 0


def _number(title: str) -> int:
    return int(hashlib.md5(title.encode()).hexdigest(), 16)


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
