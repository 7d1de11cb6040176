"""Fit the weights of the lexical features.

    python scripts/starter/ranking.py

By a conditional logit on training questions with several sets of candidates: DRCD's with those that they came with,
with the three paragraphs that BM25 likes best, and with others of their own article; those of CMRC 2018 and SQuAD with
the four that BM25 likes best. To judge by, the questions of a tenth of DRCD's and SQuAD's articles are held out, and
those of both training sets are left alone.
`course/public.json` takes no part, neither its questions nor the paragraphs that answer them; `--public` asks it once,
when all is settled.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zhaiju import files, ui
from zhaiju.corpus import rarity
from zhaiju.corpus.features import FeatureWeights, LexicalRanking, ranking, table
from zhaiju.corpus.lexical import BM25
from zhaiju.data.examples import Context, QAExample
from zhaiju.data.formats import ReadLog, load_contexts, read_qa

Floats = npt.NDArray[np.float64]

CMRC = ("cmrc2018-dev.json", "cmrc2018-trial.json")
HELD_OUT = 10  # one article in so many
NEAREST = 3  # wrong paragraphs of DRCD that BM25 likes best
WRONG = 4  # of the own article, and for questions that come without candidates
IMPORTANCE = {"given": 1.0, "nearest": 1.0, "same article": 1.0, "CMRC 2018": 0.5, "SQuAD": 0.5}  # of a question
RIDGE = 3.0
STEPS = 100


def questions(data: Path) -> tuple[dict[str, list[QAExample]], dict[str, list[QAExample]]]:
    """By kind of candidates, a key of `IMPORTANCE`: the questions to fit on, and those held out.

    Raises:
        DataError: a file is not what it should be.
    """
    contexts = load_contexts(data / "course" / "context.json")
    hidden = {
        contexts[row["relevant"]].text for row in json.loads((data / "course" / "public.json").read_text("utf-8"))
    }
    title_of = _titles(data / "squad" / "drcd-dev.json")
    left = [context for context in contexts if context.text not in hidden]
    index = BM25([context.text for context in left])
    parts: tuple[dict[str, list[QAExample]], ...] = tuple({kind: [] for kind in IMPORTANCE} for _ in range(2))
    for example in read_qa(data / "course" / "train.json", contexts=contexts):
        own = example.context
        if own.text in hidden:
            continue
        part = parts[_is_held_out(title_of[own.text])]
        order = np.argsort(-index.scores(example.question), kind="stable").tolist()
        wrong = [left[place] for place in order if left[place].text != own.text]
        same = [context for context in wrong if title_of[context.text] == title_of[own.text]]
        given = [one for one in example.contexts if one.text != own.text and one.text not in hidden]
        for kind, others in (("given", given), ("nearest", wrong[:NEAREST]), ("same article", same[:WRONG])):
            if others:
                part[kind].append(_with(example, others))
    parts[0]["CMRC 2018"] = list(_without_candidates([data / "squad" / name for name in CMRC]))
    english = data / "squad" / "squad-en-part.json"
    titles = _titles(english)
    for example in _without_candidates([english]):
        parts[_is_held_out(titles[example.context.text])]["SQuAD"].append(example)
    return parts[0], parts[1]


def _with(example: QAExample, wrong: Sequence[Context]) -> QAExample:
    return replace(example, contexts=(example.context, *wrong), relevant=0, answers=())


def _titles(path: Path) -> Mapping[str, str]:
    """The title of each paragraph's article."""
    return {
        paragraph["context"]: article["title"]
        for article in json.loads(path.read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
    }


def _is_held_out(title: str) -> bool:
    return int(hashlib.md5(title.encode()).hexdigest(), 16) % HELD_OUT == 0


def _without_candidates(paths: Sequence[Path]) -> Iterator[QAExample]:
    """Questions with one paragraph; the wrong ones are those BM25 likes best."""
    log = ReadLog(skip_faulty=True)  # a few rows are misaligned, or have no question
    examples = [example for path in paths for example in read_qa(path, log=log) if example.answers]
    paragraphs = list({example.context.text: example.context for example in examples}.values())
    index = BM25([context.text for context in paragraphs])
    for example in examples:
        order = np.argsort(-index.scores(example.question), kind="stable")[: WRONG + 1].tolist()
        wrong = [paragraphs[place] for place in order if paragraphs[place].text != example.context.text]
        yield _with(example, wrong[:WRONG])


def fit(tables: Sequence[Floats], right: Sequence[int], importance: Sequence[float], *, ridge: float = RIDGE) -> Floats:
    """Fit a conditional logit by Newton's method: float64 [features].

    Args:
        tables: For each question float64 [candidates, features].
        right: Which candidate is the right one.
        importance: How much each question counts.
        ridge: Penalty on the squared weights, features measured in units of their spread within a question.
    """
    most = max(map(len, tables))
    values = np.zeros((len(tables), most, tables[0].shape[1]))
    there = np.zeros((len(tables), most), dtype=np.bool_)
    for row, found in enumerate(tables):
        values[row, : len(found)] = found
        there[row, : len(found)] = True
    values -= values.sum(1, keepdims=True) / there.sum(1)[:, None, None]
    values[~there] = 0
    spread = np.sqrt((values**2).sum((0, 1)) / there.sum()) + 1e-9
    values /= spread
    rows, chosen, counts = np.arange(len(tables)), np.asarray(right), np.asarray(importance, dtype=np.float64)

    def look(weights: Floats) -> tuple[float, Floats]:
        logits = np.where(there, values @ weights, -np.inf)
        logits -= logits.max(1, keepdims=True)
        total = np.log(np.exp(logits).sum(1))
        loss = float(-(counts * (logits[rows, chosen] - total)).sum() + ridge * (weights @ weights) / 2)
        return loss, np.exp(logits - total[:, None])

    weights = np.zeros(values.shape[2])
    loss, odds = look(weights)
    for _ in range(STEPS):
        mean = np.einsum("ij,ijk->ik", odds, values)
        slope = counts @ (mean - values[rows, chosen]) + ridge * weights
        curve = np.einsum("ij,ijk,ijl->kl", odds * counts[:, None], values, values, optimize=True)
        curve += ridge * np.eye(len(weights)) - (mean * counts[:, None]).T @ mean
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-6 and look(weights - size * step)[0] > loss:
            size /= 2
        weights = weights - size * step
        before, (loss, odds) = loss, look(weights)
        if before - loss < 1e-10 * (1 + abs(loss)):
            break
    return np.asarray(weights / spread)


def judged(data: Path) -> dict[str, list[QAExample]]:
    """Questions of the two training sets, which the weights are not fitted on: every third and every second."""
    squad = data / "squad"
    return {
        "CMRC 2018, training": list(_without_candidates([squad / "cmrc2018-train.json"]))[::3],
        "DRCD, training": list(_without_candidates([squad / "drcd-train-part.json"]))[::2],
    }


def right(by: LexicalRanking, examples: Sequence[QAExample]) -> float:
    """The share of questions whose right paragraph is above all others; one that is level with another is wrong."""
    count = 0
    for example in examples:
        assert example.relevant is not None
        scores = by.scores(example.question, [context.text for context in example.contexts])
        count += bool(scores[example.relevant] > np.delete(scores, example.relevant).max(initial=-np.inf))
    return count / len(examples)


def main() -> None:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(prog="ranking.py", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("-o", "--output", type=Path, default=Path("src/zhaiju/starter/ranking.json"))
    parser.add_argument("--public", action="store_true", help="fit nothing, tell the figure on public.json")
    options = parser.parse_args()
    if options.public:
        course = options.data / "course"
        public = list(read_qa(course / "public.json", contexts=load_contexts(course / "context.json")))
        ui.note(f"public.json: {right(ranking(), public):.4f} of {len(public)}")
        return
    known = rarity.packaged()
    taught, held = questions(options.data)
    rows = [(kind, one) for kind, examples in taught.items() for one in examples]
    with ui.progress("weighing features", len(rows)) as advance:
        tables = []
        for _, one in rows:
            tables.append(table(one.question, [context.text for context in one.contexts], known))
            advance(1)
    weights = fit(tables, [one.relevant or 0 for _, one in rows], [IMPORTANCE[kind] for kind, _ in rows])
    fitted = FeatureWeights(tuple(weights.tolist()))
    asked = {kind: examples for kind, examples in held.items() if examples} | judged(options.data)
    figures = {
        kind: {"count": len(examples), "right": round(right(LexicalRanking(fitted, known), examples), 4)}
        for kind, examples in asked.items()
    }
    about = {
        "fitted_on": {kind: len(examples) for kind, examples in taught.items()},
        "held_out": figures,
        "rarity": files.fingerprint(rarity.path()),  # the weights belong to this table
    }
    fitted.save(options.output, about)
    ui.note(json.dumps(about, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
