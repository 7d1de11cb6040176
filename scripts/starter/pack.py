"""Packs what a training needs into one small folder, so that it can go to where a GPU is.

`encoder.npz`: the pruned encoder, matrices still in blocks of 4 bits. `questions.npz`: paragraphs and questions as
pieces, answers as pieces, wrong paragraphs. `text.xz`: running text as pieces. `pieces.json`: what the pieces are.
Nothing is tokenised after this, so that the training needs PyTorch and NumPy alone.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from e5 import BLOCK, Encoder
from sources import Asked, running_text

from zhaiju.corpus.lexical import BM25
from zhaiju.data.encoding import Tokens, cover
from zhaiju.data.script import convert
from zhaiju.data.words import WordPieces

WRONG = 6  # wrong paragraphs a question
TEXT_TOKENS = {"taiwanmd": 10_000_000, "twlaws": 5_000_000, "chinaxiv": 12_000_000}
LINE = 5  # tokens; shorter lines of running text are headings or dirt
KINDS = ("drcd", "cmrc", "squad")


def pack_encoder(encoder: Encoder, kept: Sequence[int], output: Path) -> None:
    """Write the encoder's tensors, rows of the word embeddings pruned."""
    arrays: dict[str, Any] = {}
    for name, held in encoder.tensors.items():
        if not isinstance(held, tuple):
            arrays[name] = held.reshape(encoder.dims(name))
            continue
        scales, halves = held
        rows, blocks = encoder.dims(name)[0], encoder.dims(name)[1] // BLOCK
        scales, halves = scales.reshape(rows, blocks), halves.reshape(rows, blocks, BLOCK // 2)
        if "word_embeddings" in name:
            scales, halves = scales[list(kept)], halves[list(kept)]
        arrays[f"{name}|scales"], arrays[f"{name}|halves"] = scales, halves
    np.savez(output / "encoder.npz", **arrays)


def pack_questions(asked: Sequence[Asked], cut: WordPieces, output: Path) -> dict[str, int]:
    """Write questions and paragraphs. An answer that no pieces hold exactly is trained on as the pieces around it."""
    texts = list(dict.fromkeys(one.context for one in asked))
    place = {text: index for index, text in enumerate(texts)}
    tokens = [Tokens(*cut(convert(text, "simplified"))) for text in texts]
    rows, spans, wrong = [], [], []
    kinds: dict[str, list[str]] = {
        kind: list(dict.fromkeys(o.context for o in asked if o.kind == kind)) for kind in KINDS
    }
    held = {one.context for one in asked if one.held_out}
    indices = {kind: BM25(found) for kind, found in kinds.items()}
    for number, one in enumerate(asked):
        context = tokens[place[one.context]]
        for start, end in one.answers:
            first, last = cover(context, start, end)
            if first <= last:
                spans.append((number, first, last))
        near = [kinds[one.kind][at] for at, _ in indices[one.kind].top(one.question, 4 * WRONG)]
        said = [one.context[start:end] for start, end in one.answers]
        good = [
            text
            for text in near
            if text != one.context and (text in held) == one.held_out and not any(answer in text for answer in said)
        ][:WRONG]
        wrong.append([place[text] for text in good] + [-1] * (WRONG - len(good)))
        rows.append((place[one.context], KINDS.index(one.kind), int(one.held_out), int(not one.answers)))
    own = [cut(convert(one.question, "simplified"))[0] for one in asked]
    np.savez_compressed(
        output / "questions.npz",
        contexts=_joined([one.ids for one in tokens]),
        context_ends=np.cumsum([len(one.ids) for one in tokens]).astype(np.int32),
        questions=_joined(own),
        question_ends=np.cumsum([len(one) for one in own]).astype(np.int32),
        rows=np.array(rows, np.int32),
        spans=np.array(spans, np.int32),
        wrong=np.array(wrong, np.int32),
    )
    return {"questions": len(asked), "paragraphs": len(texts), "spans": len(spans)}


def pack_text(data: Path, cut: WordPieces, output: Path, most: dict[str, int]) -> int:
    """Write running text as pieces, a 2 (end) between documents; of each kind at most so many."""
    found: list[np.ndarray] = []
    total = 0
    for kind, limit in most.items():
        held = 0
        for document in running_text(data, (kind,)):
            lines = [cut(convert(line, "simplified"))[0] for line in document.splitlines()]
            kept = [line for line in lines if len(line) >= LINE]
            if not kept:
                continue
            found += [*kept, np.array([2], np.int32)]
            held += sum(map(len, kept)) + 1
            if held > limit:
                break
        total += held
    raw = _joined(found)
    # Low bytes, then high bytes: an eighth smaller than pairs.
    planes = raw.view(np.uint8).reshape(-1, 2).T.tobytes()
    (output / "text.xz").write_bytes(lzma.compress(planes, preset=6))
    return total


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(parts)).astype(np.uint16)
