"""Turns the package's encoder into a checkpoint: fewer pieces, the layout of transformers.

All single characters stay, and of the longer pieces those that the data here uses most. A word whose piece is gone
breaks into smaller ones, so nothing becomes unknown that was known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from e5 import Encoder
from sources import questions, running_text, utterances
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from zhaiju.data.script import convert
from zhaiju.data.words import WordPieces

PIECES = 36_000
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # as XLM-R numbers them
MASK = "<mask>"
WEIGHT = {"drcd": 20, "cmrc": 20, "squad": 60, "utterance": 20}  # of a count beside one in running text
SPACE = "▁"


def tokenizer(pieces: Sequence[str], scores: Sequence[float]) -> Tokenizer:
    """XLM-R's way of cutting, with these pieces; `SPECIAL` come first and `MASK` last."""
    made = Tokenizer(models.Unigram(list(zip(pieces, map(float, scores), strict=True)), unk_id=3))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    made.add_special_tokens([AddedToken(token, special=True) for token in (*SPECIAL, MASK)])
    return made


def count(encoder: Encoder, data: Path) -> Counter[int]:
    """How often the data uses each piece, weighed."""
    cut = WordPieces(tokenizer(encoder.pieces, encoder.scores.tolist()))
    counts: Counter[int] = Counter()

    def add(texts: Iterable[str], weight: int) -> None:
        for text in texts:
            for index in cut(convert(text, "simplified"))[0].tolist():
                counts[index] += weight

    asked = questions(data)
    for kind in ("drcd", "cmrc", "squad"):
        texts = {one.context for one in asked if one.kind == kind} | {one.question for one in asked if one.kind == kind}
        add(sorted(texts), WEIGHT[kind])
    add(utterances(data), WEIGHT["utterance"])
    add(running_text(data), 1)
    return counts


def choose(encoder: Encoder, counts: Counter[int], most: int = PIECES) -> list[int]:
    """The pieces to keep, in their order: special ones, single characters, then the most used."""
    single = [index for index, piece in enumerate(encoder.pieces[4:-1], 4) if len(piece.removeprefix(SPACE)) <= 1]
    kept = {*range(4), len(encoder.pieces) - 1, *single}
    for index, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if len(kept) == most:
            break
        kept.add(index)
    return sorted(kept)


def pruned(encoder: Encoder, kept: Sequence[int]) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of the pieces that are kept, and their names."""
    names = [encoder.pieces[index] for index in kept]
    return tokenizer(names, encoder.scores[list(kept)].tolist()), names


def config(encoder: Encoder, kept: Sequence[int]) -> dict[str, object]:
    """A `BertConfig`'s values."""
    shape = encoder.shape
    return {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": len(kept),
        "max_position_embeddings": shape.max_position_embeddings,
        "type_vocab_size": shape.type_vocab_size,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def weights(encoder: Encoder, kept: Sequence[int]) -> dict[str, np.ndarray]:
    """The encoder's weights as float32, by a `BertModel`'s names."""
    found = {}
    for name in encoder.tensors:
        value = encoder.weight(name)
        found[name] = value[list(kept)] if "word_embeddings" in name else value
    return found
