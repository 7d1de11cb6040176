"""Tokenizers made from texts, for training from scratch: characters for Chinese, word pieces for the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zhaiju import files
from zhaiju.data.script import AS_IS, convert
from zhaiju.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

TOKENIZER_FILE = "tokenizer.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Kind = Literal["wordpiece", "characters"]
KINDS: tuple[Kind, ...] = ("wordpiece", "characters")


class PlainTokenizer:
    """A `tokenizer.json` read by tokenizers alone: as much of a fast tokenizer as `Encoding` needs.

    It takes a tenth of a second, where importing transformers takes several.

    Args:
        backend: The tokenizer.
        names: Its special tokens: `pad_token`, `unk_token`, `mask_token`; BERT's where they are not named.
    """

    is_fast = True

    def __init__(self, backend: Tokenizer, names: Mapping[str, Any] | None = None) -> None:
        self.backend_tokenizer = backend
        given = names or {}
        ids = []
        for name, usual in (("pad_token", "[PAD]"), ("unk_token", "[UNK]"), ("mask_token", "[MASK]")):
            token = given.get(name) or usual
            ids.append(backend.token_to_id(str(token["content"] if isinstance(token, Mapping) else token)))
        self.pad_token_id, self.unk_token_id, self.mask_token_id = ids

    @classmethod
    def load(cls, directory: Path) -> PlainTokenizer:
        """Read a checkpoint directory's tokenizer.

        Raises:
            CheckpointError: it cannot be read.
        """
        from tokenizers import Tokenizer

        try:
            about = directory / "tokenizer_config.json"
            names = files.read_json(about) if about.is_file() else {}
            return cls(Tokenizer.from_str(files.read_small(directory / TOKENIZER_FILE)), names)
        except OSError as error:
            raise CheckpointError(f"{directory / TOKENIZER_FILE} cannot be read: {error}") from None
        except Exception as error:  # tokenizers raises bare exceptions
            raise CheckpointError(f"{directory / TOKENIZER_FILE}: {error}") from None

    def __call__(self, text: str, pair: str | None = None, **_: Any) -> _Encoded:
        """Encode a text or a pair, special tokens included."""
        return _Encoded(self.backend_tokenizer.encode(text, pair))

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """The tokens of ids."""
        return [str(self.backend_tokenizer.id_to_token(index)) for index in ids]


class _Encoded(dict[str, list[int]]):
    def __init__(self, encoding: Any) -> None:
        super().__init__(input_ids=encoding.ids, token_type_ids=encoding.type_ids)
        self._sides = encoding.sequence_ids

    def sequence_ids(self, _: int) -> list[int | None]:
        """For each token: 0 for the first text, 1 for the second, None for special ones."""
        return list(self._sides)


def build_tokenizer(
    texts: Iterable[str], *, kind: Kind = "wordpiece", size: int = 21_128, script: str = AS_IS
) -> PreTrainedTokenizerFast:
    """A BERT tokenizer whose vocabulary comes from `texts`.

    Args:
        texts: Training text.
        kind: "wordpiece": BERT's own rules, every Chinese character a token and word pieces for the rest;
            "characters": every character a token, spaces and accents included.
        size: Most entries of the vocabulary, the five special tokens included.
        script: Conversion that the encoder's texts go through.

    Raises:
        DataError: there is no text.
        ConfigError: `kind` is unknown or `size` leaves no room.
    """
    if size <= len(SPECIAL):
        raise ConfigError(f"vocabulary size is {size}, expected more than {len(SPECIAL)}")
    if kind == "wordpiece":
        return _word_pieces(texts, size, script)
    if kind == "characters":
        return _characters(texts, size, script)
    raise ConfigError(f"vocabulary kind {kind!r} is not one of {', '.join(KINDS)}")


def _characters(texts: Iterable[str], size: int, script: str) -> PreTrainedTokenizerFast:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(convert(text, script).lower())
    if not counts:
        raise DataError("no text to make a vocabulary from")
    # By frequency, then by code point, so that equal texts give equal vocabularies.
    kept = sorted(counts, key=lambda character: (-counts[character], character))[: size - len(SPECIAL)]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *kept])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **_names(),
    )


def _word_pieces(texts: Iterable[str], size: int, script: str) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertTokenizer

    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer()
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    converted = [convert(text, script) for text in texts]
    # The trainer numbers pieces that continue a word in the order of a hash table, other in every process, and breaks
    # ties by these numbers. Naming them first makes equal texts give equal vocabularies.
    inner = {
        character
        for text in converted
        for word, _ in trained.pre_tokenizer.pre_tokenize_str(trained.normalizer.normalize_str(text))
        for character in word[1:]
    }
    named = [*SPECIAL, *(f"##{character}" for character in sorted(inner))]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=named, show_progress=False)
    trained.train_from_iterator(converted, trainer)
    vocabulary = trained.get_vocab()
    if len(vocabulary) <= len(named):
        raise DataError("no text to make a vocabulary from")
    return BertTokenizer(vocab=dict(sorted(vocabulary.items(), key=lambda entry: entry[1])))


def _names() -> dict[str, str]:
    return {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
