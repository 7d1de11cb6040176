"""Texts to token windows, with every token's place in the original text.

A context is tokenised once, whole; windows are slices of its tokens. So a window never starts inside a word
piece, the same token is never computed twice, and no character is ever cut away.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zhaiju.data.examples import Span
from zhaiju.data.script import AS_IS, convert, encodable
from zhaiju.data.words import BOUNDARIES, PIECES, WORDS, WordPieces, has_sentence_pieces
from zhaiju.errors import CheckpointError, ConfigError, DataError, verbatim

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from zhaiju.data.vocabulary import PlainTokenizer

Ints = npt.NDArray[np.int32]

DEFAULT_WINDOW = 384  # tokens
DEFAULT_OVERLAP = 64  # characters
MIN_CONTEXT_TOKENS = 8
CACHED_TEXTS = 4096
CACHED_BYTES = 2 << 20
CACHED_ALWAYS = 8  # so many of the last texts are kept however long they are: a question and its paragraph come again


@dataclass(slots=True)
class Tokens:
    """A text's tokens without special ones; token i is the characters `starts[i]:ends[i]`.

    Attributes:
        ids: int32 [N], vocabulary indices.
        starts: int32 [N], non-decreasing.
        ends: int32 [N], non-decreasing.
    """

    ids: Ints
    starts: Ints
    ends: Ints

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self.ids.nbytes + self.starts.nbytes + self.ends.nbytes


@dataclass(slots=True, eq=False)
class Window:
    """What the encoder gets: as much of a text as fits, before it the question if there is one.

    Places are characters of the original text (of the context where there is a question), or words where the text
    came as a list of words.

    Attributes:
        input_ids: int32 [T].
        token_type_ids: int32 [T].
        starts: int32 [T], first place of each of the text's tokens, -1 for other tokens.
        ends: int32 [T], the place after it, -1 for other tokens.
        choice: Index of the context among the example's candidates.
        start: First place that the window holds.
        end: Place after the last.
        first: Which of the text's tokens its first one is.
    """

    input_ids: Ints
    token_type_ids: Ints
    starts: Ints
    ends: Ints
    choice: int
    start: int
    end: int
    first: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands before and after a window's slice of the text: ids and types of each."""

    head: tuple[int, ...]
    head_types: tuple[int, ...]
    tail: tuple[int, ...]
    tail_types: tuple[int, ...]
    text_type: int

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)


@dataclass(frozen=True, slots=True)
class Template:
    """Where a tokenizer puts its special tokens around a pair: `prefix question middle context suffix`."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]]

    @property
    def special(self) -> int:
        """Number of special tokens in a pair."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A question with a context, before it is cut into windows.

    Attributes:
        frame: What stands around the context in every window, the question among it.
        told: The context's tokens.
        capacity: Most of them that a window can hold.
        length: Characters of the context.
    """

    frame: Frame
    told: Tokens
    capacity: int
    length: int

    def window(self, a: int, b: int, choice: int = 0) -> Window:
        """The window with the context's tokens `[a, b)`."""
        return _window(self.frame, self.told, a, b, choice, self.length)


class Encoding:
    """A tokenizer with the settings of windows: the only way from text to tokens in zhaiju.

    Args:
        tokenizer: A fast tokenizer (only those know offsets).
        window: Most tokens that a window may have, special ones included.
        overlap: Characters that neighbouring windows of a context share, at least; at most half a window.
        script: "as-is", "simplified" or "traditional": what the encoder sees.
        boundaries: "words": a text is cut at its words first, see `zhaiju.data.words`; "pieces": as the tokenizer does.

    Raises:
        CheckpointError: the tokenizer is not a fast one.
        ConfigError: window or overlap is out of range, or there are no sentence pieces to end at words.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast | PlainTokenizer,
        *,
        window: int = DEFAULT_WINDOW,
        overlap: int = DEFAULT_OVERLAP,
        script: str = AS_IS,
        boundaries: str = PIECES,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise CheckpointError(
                f"{type(tokenizer).__name__} is not a fast tokenizer, and only those know character offsets"
            )
        if window < MIN_CONTEXT_TOKENS * 2:
            raise ConfigError(f"window is {window} tokens, expected at least {MIN_CONTEXT_TOKENS * 2}")
        if overlap < 0:
            raise ConfigError(f"overlap is {overlap} characters, expected 0 or more")
        if boundaries not in BOUNDARIES:
            raise ConfigError(f"boundaries is {boundaries!r}, expected one of {', '.join(BOUNDARIES)}")
        if boundaries == WORDS and not has_sentence_pieces(tokenizer.backend_tokenizer):
            raise ConfigError(
                "boundaries words needs a tokenizer with sentence pieces (XLM-R's, mDeBERTa's, the starter's)"
            )
        convert("", script)
        self.tokenizer = tokenizer
        self.window = window
        self.overlap = overlap
        self.script = script
        self.boundaries = boundaries
        self._cache: OrderedDict[str | tuple[str, ...], Tokens] = OrderedDict()
        self._cached_bytes = 0
        self._lock = Lock()  # a tokenizer serves one thread at a time

    @property
    def pad_id(self) -> int:
        """The token to pad with; the attention mask hides it, so 0 serves a tokenizer that names none."""
        return self.tokenizer.pad_token_id or 0

    @property
    def mask_id(self) -> int:
        """The token that stands for a hidden one: [MASK], else the unknown one, else the padding."""
        for token in (self.tokenizer.mask_token_id, self.tokenizer.unk_token_id):
            if token is not None:
                return int(token)
        return self.pad_id

    @cached_property
    def template(self) -> Template:
        """Learnt from the tokenizer by giving it a pair of one-letter texts."""
        probe = self.tokenizer("a", "b", return_token_type_ids=True)  # RoFormer gives none unless asked
        ids = list(probe["input_ids"])
        types = list(probe.get("token_type_ids") or [0] * len(ids))
        sides = probe.sequence_ids(0)
        first = [place for place, side in enumerate(sides) if side == 0]
        second = [place for place, side in enumerate(sides) if side == 1]
        if not first or not second:
            raise CheckpointError(f"{type(self.tokenizer).__name__} gives no tokens for a pair of letters")
        cuts = slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, None)
        prefix, middle, suffix = (tuple(ids[cut]) for cut in cuts)
        around = [tuple(types[cut]) for cut in cuts]
        return Template(prefix, middle, suffix, (around[0], types[first[0]], around[1], types[second[0]], around[2]))

    @cached_property
    def frame(self) -> Frame:
        """What a tokenizer puts around a text that stands alone, learnt in the same way."""
        probe = self.tokenizer("a", return_token_type_ids=True)
        ids = list(probe["input_ids"])
        types = list(probe.get("token_type_ids") or [0] * len(ids))
        text = [place for place, side in enumerate(probe.sequence_ids(0)) if side == 0]
        if not text:
            raise CheckpointError(f"{type(self.tokenizer).__name__} gives no token for a letter")
        head, tail = slice(0, text[0]), slice(text[-1] + 1, None)
        return Frame(tuple(ids[head]), tuple(types[head]), tuple(ids[tail]), tuple(types[tail]), types[text[0]])

    def tokens(self, text: str) -> Tokens:
        """Tokenise a text whole, however long. The last few thousand results are kept, of long texts fewer."""
        return self._remember(text)

    def forget(self) -> None:
        """Drop the results that are kept."""
        with self._lock:
            self._cache.clear()
            self._cached_bytes = 0

    def words(self, words: Sequence[str]) -> Tokens:
        """Tokenise a list of words; `starts` and `ends` then count words. A blank word has no token."""
        return self._remember(tuple(words))

    def compute(self, source: str | tuple[str, ...]) -> Tokens:
        """The tokens of a text, or of a list of words; nothing is looked up or kept."""
        return self._tokenise(source) if isinstance(source, str) else self._tokenise_words(source)

    def serialised(self) -> str | None:
        """The whole tokenizer as a text, as it is used here; None where a part of it is Python (RoFormer's is)."""
        try:
            return f"{self.boundaries} {self._before_words!r} {self._backend.to_str()}"
        except Exception:  # tokenizers raises bare exceptions
            return None

    def _remember(self, key: str | tuple[str, ...]) -> Tokens:
        with self._lock:
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
                return known
            tokens = self._cache[key] = self.compute(key)
            self._cached_bytes += _cost(key, tokens)
            while len(self._cache) > CACHED_TEXTS or (
                self._cached_bytes > CACHED_BYTES and len(self._cache) > CACHED_ALWAYS
            ):
                self._cached_bytes -= _cost(*self._cache.popitem(last=False))
            return tokens

    @property
    def _backend(self) -> Any:
        backend = self.tokenizer.backend_tokenizer
        # Set here because a call of the tokenizer resets them: whatever its files say, nothing is cut away, and a
        # "[SEP]" that stands in a text is a text.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        return backend

    def _tokenise(self, text: str) -> Tokens:
        seen = encodable(convert(text, self.script))
        if self.boundaries == WORDS:
            return Tokens(*self._word_pieces(seen))
        encoded = self._backend.encode(seen, add_special_tokens=False)
        offsets = np.asarray(encoded.offsets, dtype=np.int32).reshape(-1, 2)
        return Tokens(
            np.asarray(encoded.ids, dtype=np.int32),
            # A piece of a character that several tokens share may be given no width or a step back.
            np.maximum.accumulate(offsets[:, 0]) if len(offsets) else offsets[:, 0],
            np.maximum.accumulate(offsets[:, 1]) if len(offsets) else offsets[:, 1],
        )

    @cached_property
    def _word_pieces(self) -> WordPieces:
        return WordPieces(self.tokenizer.backend_tokenizer)

    @cached_property
    def _before_words(self) -> str:
        """A space where the tokenizer has other tokens for words after one (byte-level ones do), else nothing."""
        backend = self._backend
        alone, after, joined = (backend.encode(text, add_special_tokens=False).ids for text in ("b", " b", "a b"))
        return " " if alone != after and len(alone) == len(after) and joined[-len(after) :] == after else ""

    def _tokenise_words(self, words: Sequence[str]) -> Tokens:
        seen = (encodable(convert(word, self.script)) if word.strip() else "" for word in words)
        converted = [self._before_words + word if word else "" for word in seen]
        encoded = self._backend.encode(converted, is_pretokenized=True, add_special_tokens=False)
        places = np.asarray(encoded.word_ids, dtype=np.int32).reshape(-1)
        return Tokens(np.asarray(encoded.ids, dtype=np.int32), places, places + 1)

    def capacity(self, question: str) -> int:
        """How many context tokens fit into a window beside the question.

        Raises:
            DataError: fewer than 8; nothing is cut from a question silently.
        """
        length = len(self.tokens(question).ids)
        room = self.window - self.template.special - length
        if room < MIN_CONTEXT_TOKENS:
            most = self.window - self.template.special - MIN_CONTEXT_TOKENS
            raise DataError(
                f"the question does not fit the window of {self.window} tokens",
                field="question",
                found=verbatim(f"{length} tokens"),
                expected=f"at most {most}; use a larger window",
            )
        return room

    def windows(self, question: str, context: str, *, choice: int = 0, hold: Sequence[Span] = ()) -> list[Window]:
        """The question with every part of the context, in windows of nearly equal length.

        Args:
            question: The question.
            context: The context, of any length.
            choice: Stored in the windows.
            hold: Answers; one that is longer than the overlap may fall between two windows, and then gets a
                window of its own (for training: at prediction nobody knows where the answer is).

        Returns:
            At least one window. Together they hold every token of the context.
        """
        pair = self.pair(question, context)
        told, capacity = pair.told, pair.capacity
        cuts = cut(told, capacity, self.overlap)
        for span in hold:
            first, last = cover(told, span.start, span.end)
            length = last - first + 1
            if 0 < length <= capacity and not any(a <= first and last < b for a, b in cuts):
                start = min(max(first - (capacity - length) // 2, 0), len(told.ids) - capacity)
                cuts.append((start, start + capacity))
        return [pair.window(a, b, choice) for a, b in cuts]

    def pair(self, question: str, context: str) -> Pair:
        """The question and the context, tokenised, to cut windows from.

        Raises:
            DataError: the question leaves no room for a context.
        """
        asked, template = self.tokens(question).ids.tolist(), self.template
        before, own, between, other, after = template.types
        frame = Frame(
            (*template.prefix, *asked, *template.middle),
            (*before, *(own,) * len(asked), *between),
            template.suffix,
            after,
            other,
        )
        return Pair(frame, self.tokens(context), self.capacity(question), len(context))

    def text_windows(self, text: str) -> list[Window]:
        """A text that stands alone, in windows of nearly equal length that together hold all of it."""
        return self._alone(self.tokens(text), len(text))

    def word_windows(self, words: Sequence[str]) -> list[Window]:
        """The same for a list of words: a window's places, and the overlap, count words."""
        return self._alone(self.words(words), len(words))

    def _alone(self, told: Tokens, length: int) -> list[Window]:
        cuts = cut(told, self.window - len(self.frame), self.overlap)
        return [_window(self.frame, told, a, b, 0, length) for a, b in cuts]


def _cost(key: str | tuple[str, ...], tokens: Tokens) -> int:
    """Bytes that a text and its tokens take, those of the objects around them left out."""
    return tokens.nbytes + sum(map(sys.getsizeof, (key,) if isinstance(key, str) else key))


def _window(frame: Frame, told: Tokens, a: int, b: int, choice: int, length: int) -> Window:
    """The slice `[a, b)` of a text's tokens, framed."""
    inside = slice(len(frame.head), len(frame.head) + b - a)
    starts = np.full(len(frame) + b - a, -1, dtype=np.int32)
    ends = starts.copy()
    starts[inside] = told.starts[a:b]
    ends[inside] = told.ends[a:b]
    # Characters between two tokens that have none themselves (white space) belong to both sides of a cut.
    start = 0 if a == 0 else int(min(told.starts[a], told.ends[a - 1]))
    end = length if b == len(told.ids) else int(max(told.ends[b - 1], told.starts[b]))
    return Window(
        np.concatenate([frame.head, told.ids[a:b], frame.tail], dtype=np.int32, casting="unsafe"),
        np.concatenate(
            [frame.head_types, (frame.text_type,) * (b - a), frame.tail_types], dtype=np.int32, casting="unsafe"
        ),
        starts,
        ends,
        choice,
        start,
        end,
        a,
    )


def cut(tokens: Tokens, capacity: int, overlap: int) -> list[tuple[int, int]]:
    """Token ranges `[a, b)` of at most `capacity` tokens that cover the text.

    Neighbours share at least `overlap` characters, but at most about half a window. The number of windows is the
    least possible; their length is then the least that keeps this number, so none is much shorter than another.
    """
    total = len(tokens.ids)
    if total <= capacity:
        return [(0, total)]
    ranges = _greedy(tokens, capacity, capacity, overlap)
    low, high = capacity // 2 + 1, capacity
    while low < high:
        middle = (low + high) // 2
        if len(_greedy(tokens, middle, capacity, overlap)) <= len(ranges):
            high = middle
        else:
            low = middle + 1
    return _greedy(tokens, high, capacity, overlap)


def _greedy(tokens: Tokens, length: int, capacity: int, overlap: int) -> list[tuple[int, int]]:
    total = len(tokens.ids)
    ranges = []
    a = 0
    while True:
        b = min(a + length, total)
        if b == total:
            ranges.append((max(0, b - length), b))
            return ranges
        ranges.append((a, b))
        # The last token that starts early enough for the next window to share `overlap` characters with this one.
        shared = int(np.searchsorted(tokens.starts, tokens.ends[b - 1] - overlap, side="right")) - 1
        a = min(max(shared, a + 1, b - capacity // 2), b)


def cover(tokens: Tokens, start: int, end: int) -> tuple[int, int]:
    """First and last token (inclusive) that hold the characters `[start, end)`; last < first if none does."""
    first = int(np.searchsorted(tokens.ends, start, side="right"))
    last = int(np.searchsorted(tokens.starts, end, side="left")) - 1
    return first, last


def locate(window: Window, span: Span) -> tuple[int, int] | None:
    """First and last token of a span in a window; None if the window does not hold all of it.

    A token belongs to the span if it shares a character with it, so a span that begins inside a word piece is
    widened to the piece.
    """
    inside = np.flatnonzero(window.starts >= 0)
    if not len(inside) or span.start < window.start or span.end > window.end:
        return None
    starts, ends = window.starts[inside], window.ends[inside]
    first = int(np.searchsorted(ends, span.start, side="right"))
    last = int(np.searchsorted(starts, span.end, side="left")) - 1
    if first > last:
        return None
    return int(inside[first]), int(inside[last])


def slice_of(context: str, start: int, end: int) -> tuple[int, int]:
    """Shrink `[start, end)` past white space at both ends, which some tokenizers count to a word."""
    text = context[start:end]
    first = start + len(text) - len(text.lstrip())
    return first, max(first, start + len(text.rstrip()))
