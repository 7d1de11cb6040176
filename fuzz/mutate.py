"""New inputs from old ones: bytes with the marks of a format, and JSON values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

Make = Callable[[Random, Sequence[bytes]], bytes]
T = TypeVar("T")

MOST = 8_000  # bytes of an input; longer ones are cut
BETWEEN = b"\xff"  # between the parts of an input: in no UTF-8
# Halves of surrogate pairs, marks that combine, joiners, directions, what is no text, widths, cases that change length.
CHARACTERS = (
    "\ud83d", "\udc00", "\u0301", "\u200d", "👩🏽\u200d🚀", "\u202e", "\u2066", "\0", "\x1b[31m", "\x1c", "\x85",
    "\ufeff", "\ufffe", "\U0010ffff", "\ue000", "豈", "\U0002f800", "Ａ", "１",
    "　", "İ", "ß", "ſ", "ﬁ", "Σ", "\u2028", "\u00a0",
    "𠀀", "各", "後", "后", "乾", "ᄀ", "각", "\ufe0f", "\U000e0100", "\u3099", "か", "ｶﾞ", "\u0e33", "क्ष", "\u05d0",
    "\u0627", "😀", "🇹", "\n", "\r", "\r\n", "\t", " ", "  ", "。", "！", "a", "Z", "9", "-", "[SEP]", "[UNK]", "##",
)  # fmt: skip
TEXTS = tuple(character.encode("utf-8", "surrogatepass") for character in CHARACTERS)
NUMBERS = (b"0", b"-1", b"1", b"2147483648", b"9223372036854775808", b"1e400", b"-0", b"0.5", b"9" * 400, b"NaN")


def pick(random: Random, values: Sequence[T]) -> T:
    """One of them; `random.choice` takes thrice the time."""
    return values[int(random.random() * len(values))]


def _place(random: Random, data: bytearray) -> int:
    return int(random.random() * (len(data) + 1))


def _piece(random: Random, data: bytearray, most: int = 40) -> slice:
    start = _place(random, data)
    return slice(start, start + 1 + int(random.random() ** 2 * most))


def _flip(random: Random, data: bytearray, *_: Sequence[bytes]) -> None:
    if data:
        data[int(random.random() * len(data))] ^= 1 << int(random.random() * 8)


def _byte(random: Random, data: bytearray, *_: Sequence[bytes]) -> None:
    if data:
        data[int(random.random() * len(data))] = int(random.random() * 256)


def _insert(random: Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    place = _place(random, data)
    data[place:place] = pick(random, tokens)


def _replace(random: Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    data[_piece(random, data, 8)] = pick(random, tokens)


def _repeat(random: Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    place = _place(random, data)
    data[place:place] = pick(random, tokens) * int(2 + random.random() ** 3 * 60)


def _text(random: Random, data: bytearray, *_: Sequence[bytes]) -> None:
    place = _place(random, data)
    data[place:place] = pick(random, TEXTS)


def _delete(random: Random, data: bytearray, *_: Sequence[bytes]) -> None:
    del data[_piece(random, data)]


def _duplicate(random: Random, data: bytearray, *_: Sequence[bytes]) -> None:
    piece = data[_piece(random, data, 80)]
    place = _place(random, data)
    data[place:place] = piece


def _cut(random: Random, data: bytearray, *_: Sequence[bytes]) -> None:
    del data[_place(random, data) :]


def _splice(random: Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    other = pick(random, seeds)
    data[_place(random, data) :] = other[int(random.random() * (len(other) + 1)) :]


def _number(random: Random, data: bytearray, *_: Sequence[bytes]) -> None:
    """Another number in place of the first one after a random place."""
    start = _place(random, data)
    while start < len(data) and not 48 <= data[start] <= 57:
        start += 1
    end = start
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    if end > start:
        data[start:end] = pick(random, NUMBERS)


_CHANGES = (
    _flip, _byte, _insert, _insert, _replace, _repeat, _text, _text, _delete, _delete, _duplicate, _cut, _splice,
    _number,
)  # fmt: skip


def change(random: Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Some bytes with one to a dozen changes."""
    for _ in range(1 + min(11, int(random.expovariate(0.6)))):
        pick(random, _CHANGES)(random, data, seeds, tokens)
    return bytes(data[:MOST])


def of_bytes(*tokens: str | bytes) -> Make:
    """Mutations of a format in which these words mean something."""
    words = tuple(token.encode() if isinstance(token, str) else token for token in tokens) or TEXTS

    def make(random: Random, seeds: Sequence[bytes]) -> bytes:
        return change(random, bytearray(pick(random, seeds)), seeds, words)

    return make


def of_random(least: int, most: int) -> Make:
    """Random bytes, for targets that build their input from them; few of their values in every third."""

    def make(random: Random, seeds: Sequence[bytes]) -> bytes:
        data = random.randbytes(least + int(random.random() * (most - least + 1)))
        if random.random() < 0.3:
            return data.translate(_FEW)
        return data

    return make


_FEW = bytes(value % 4 for value in range(256))


def of_json(*names: str) -> Make:
    """Mutations of JSON (or JSONL) values that have fields of these names, and of their bytes."""
    words = (*(json.dumps(name).encode() for name in names), *_SYNTAX)

    def make(random: Random, seeds: Sequence[bytes]) -> bytes:
        data = pick(random, seeds)
        chance = random.random()
        if chance < 0.75 and (values := _parsed(data)) is not None:
            data = _dumped(random, *values, names) or data
            if chance < 0.6:
                return data[:MOST]
        return change(random, bytearray(data), seeds, words)

    return make


_SYNTAX = (b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"{}", b"[]", b'""', b"\\ud83d", b"[" * 9)
_ascii = json.JSONEncoder().encode
_unicode = json.JSONEncoder(ensure_ascii=False).encode
_DEEP: Any = []
for _ in range(200):
    _DEEP = [_DEEP]
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 1 << 31, 1 << 63, -(1 << 63), 10**30, 10**400, 0.5, -0.0, 1e308, float("inf"),
    float("nan"), "", " ", "a", "0", "\ud83d", "\0", "山" * 50, [], {}, [[]], [None], [0], ["a"],
    {"text": "a", "start": 0}, {"": None}, _DEEP,
)  # fmt: skip


def _dumped(random: Random, lines: bool, value: Any, names: Sequence[str]) -> bytes:
    """A value, or values a line each, with a few changes; nothing where they are nested too deeply."""
    dump = _ascii if random.random() < 0.5 else _unicode
    try:
        for _ in range(1 + min(5, int(random.expovariate(0.7)))):
            value = _changed(random, value, names)
        parts = [dump(one) for one in value] if lines and isinstance(value, list) else [dump(value)]
    except RecursionError:
        return b""
    return "\n".join(parts).encode("utf-8", "surrogatepass")


def _parsed(data: bytes) -> tuple[bool, Any] | None:
    """(Whether it is a value a line, the value or values); None where it is not JSON."""
    try:
        return False, json.loads(data)
    except (ValueError, RecursionError):
        pass
    try:
        return True, [json.loads(line) for line in data.split(b"\n") if line.strip()]
    except (ValueError, RecursionError):
        return None


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) in a value, 100 deep."""
    waiting = [value]
    for _ in range(100):
        inside = []
        for holder in waiting:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
            for key in keys:
                found.append((holder, key))
                if isinstance(holder[key], dict | list):
                    inside.append(holder[key])
        if not inside:
            break
        waiting = inside
    return found


def _changed(random: Random, value: Any, names: Sequence[str]) -> Any:
    """The value with one change; it may be changed in place."""
    places = _places(value, [])
    if not places or random.random() < 0.01:
        return pick(random, (*_VALUES[:-1], [value], {"data": value}))
    holder, key = pick(random, places)
    kind = int(random.random() * 8)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other, place = pick(random, places)
        holder[key] = _copy(other[place])
    elif kind == 2 and isinstance(holder, list):
        holder.insert(int(random.random() * (len(holder) + 1)), _copy(holder[key]))
    elif kind == 3 and isinstance(holder, dict) and names:
        holder[pick(random, names)] = holder.pop(key)
    elif kind == 4 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
        holder[key] += pick(random, (-2, -1, 1, 2, 100))
    elif kind <= 5 and isinstance(holder[key], str):
        text = holder[key]
        place = int(random.random() * (len(text) + 1))
        holder[key] = text[:place] + pick(random, CHARACTERS) + text[place + int(random.random() * 3) :]
    else:
        holder[key] = _copy(pick(random, _VALUES))
    return value


def _copy(value: Any) -> Any:
    return json.loads(_ascii(value)) if isinstance(value, dict | list) else value
