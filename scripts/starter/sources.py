"""What the starter is made from: questions with paragraphs, running text, and what is held out of both."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zhaiju.data.formats import ReadLog, load_contexts, read_qa
from zhaiju.data.script import convert

CHINESE = ("drcd-train-part", "drcd-train-fragments", "drcd-dev", "cmrc2018-train", "cmrc2018-dev", "cmrc2018-trial")
ENGLISH = ("squad-en-part",)
HELD_OUT = {"drcd": 16, "cmrc": 16, "squad": 4}  # one article in so many, by the hash of its title
UTTERANCES = ("intent/train.json", "slot/train.json")


@dataclass(frozen=True)
class Asked:
    """A question with its paragraph.

    Attributes:
        kind: "drcd", "cmrc" or "squad".
        article: The title of the paragraph's article.
        question: The question.
        context: The paragraph, as it stands in the data.
        answers: (first character, character after the last) of each; none where the paragraph does not answer it.
        held_out: Whether it decides between trials, and is never trained on.
    """

    kind: str
    article: str
    question: str
    context: str
    answers: tuple[tuple[int, int], ...]
    held_out: bool


def questions(data: Path) -> list[Asked]:
    """All questions, public.json's and those about its paragraphs left out. Misaligned answers are left out too."""
    contexts = load_contexts(data / "course/context.json")
    public = json.loads((data / "course/public.json").read_text("utf-8"))
    hidden = {contexts[row["relevant"]].text for row in public}
    found = []
    for name in (*CHINESE, *ENGLISH):
        kind = name.split("-")[0].removesuffix("2018")
        path = data / "squad" / f"{name}.json"
        titles = {
            paragraph["context"]: str(article.get("title") or paragraph["context"])
            for article in json.loads(path.read_text("utf-8"))["data"]
            for paragraph in article["paragraphs"]
        }
        for one in read_qa(path, log=ReadLog(skip_faulty=True)):
            text = one.context.text
            if text in hidden or not (one.answers or one.impossible):
                continue
            title = titles[text]
            answers = tuple(dict.fromkeys((span.start, span.end) for span in one.answers))
            found.append(Asked(kind, title, one.question, text, answers, _is_held_out(kind, title)))
    return found


def _is_held_out(kind: str, title: str) -> bool:
    simplified = convert(title, "simplified")  # CMRC and DRCD know some articles in both scripts
    return int(hashlib.md5(simplified.encode()).hexdigest(), 16) % HELD_OUT[kind] == 0


def running_text(data: Path, kinds: tuple[str, ...] = ("taiwanmd", "twlaws", "chinaxiv")) -> Iterator[str]:
    """Documents of running text, a paragraph a line."""
    for kind in kinds:
        for path in sorted((data / "text").glob(f"{kind}_*.txt.xz")):
            with lzma.open(path, "rt", encoding="utf-8") as lines:
                document: list[str] = []
                for line in lines:
                    if line.strip():
                        document.append(line.strip())
                    elif document:
                        yield "\n".join(document)
                        document = []
                if document:
                    yield "\n".join(document)


def utterances(data: Path) -> Iterator[str]:
    """English utterances, whose words are worth a piece."""
    for name in UTTERANCES:
        for row in json.loads((data / name).read_text("utf-8")):
            yield row["text"] if "text" in row else " ".join(row["tokens"])


def write_squad(asked: list[Asked], path: Path) -> None:
    """Questions in SQuAD's layout, version 2 where some have no answer."""
    articles: dict[str, dict[str, list[dict[str, object]]]] = {}
    for number, one in enumerate(asked):
        answers = [{"text": one.context[start:end], "answer_start": start} for start, end in one.answers]
        row = {"id": f"{one.kind}-{number}", "question": one.question, "answers": answers}
        if not answers:
            row["is_impossible"] = True
        articles.setdefault(one.article, {}).setdefault(one.context, []).append(row)
    data = [
        {"title": title, "paragraphs": [{"context": text, "qas": rows} for text, rows in paragraphs.items()]}
        for title, paragraphs in articles.items()
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": data}, ensure_ascii=False), "utf-8")
