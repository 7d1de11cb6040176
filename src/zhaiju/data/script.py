"""Simplified and Traditional Chinese: what the encoder sees may be converted, what the user sees never is.

The conversion keeps every character at its place, so offsets into the converted text are offsets into the
original. OpenCC's character profiles (t2s, s2t, tw2s, …) do so by themselves; its phrase profiles (tw2sp, s2twp:
記憶體 becomes 内存) do not and are refused here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from zhaiju.errors import ConfigError

if TYPE_CHECKING:
    import opencc

AS_IS = "as-is"
PROFILES = {"simplified": "t2s", "traditional": "s2t"}
CHARACTER_PROFILES = ("t2s", "s2t", "tw2s", "s2tw", "hk2s", "s2hk", "t2tw", "tw2t", "t2hk", "hk2t")
SCRIPTS = (AS_IS, *PROFILES, *CHARACTER_PROFILES)
_SURROGATE = re.compile("[\ud800-\udfff]")


def convert(text: str, script: str) -> str:
    """`text` in another script, of the same length, character for character.

    Args:
        text: Any text; characters that OpenCC does not know or would change in number stay as they are.
        script: One of `SCRIPTS`.

    Raises:
        ConfigError: `script` is unknown, or a phrase profile, which would move characters.
    """
    if script == AS_IS:
        return text
    profile = PROFILES.get(script, script)
    if profile not in CHARACTER_PROFILES:
        raise ConfigError(f"script {script!r} is not one of {', '.join(SCRIPTS)}")
    if text.isascii():
        return text
    converter = _converter(profile)
    try:
        converted: str = converter.convert(text)
    except UnicodeEncodeError:  # half a surrogate pair
        converted = ""
    if len(converted) == len(text):
        return converted
    # A NUL ends OpenCC's text early, and a future dictionary may hold a pair of unequal length.
    return "".join(_convert_character(character, profile) for character in text)


@lru_cache(maxsize=1 << 16)
def _convert_character(character: str, profile: str) -> str:
    try:
        converted: str = _converter(profile).convert(character)
    except UnicodeEncodeError:
        return character
    return converted if len(converted) == 1 else character


@lru_cache
def _converter(profile: str) -> opencc.OpenCC:
    import opencc

    return opencc.OpenCC(profile)


def encodable(text: str) -> str:
    """`text` with a replacement character for each half of a surrogate pair, which libraries in C and Rust refuse."""
    return _SURROGATE.sub("\ufffd", text)


def fold(text: str) -> str:
    """`text` in simplified characters and lower case, of the same length: for matching, not for showing."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few capitals, such as İ, become two characters
        lowered = "".join(low if len(low := character.lower()) == 1 else character for character in text)
    return convert(lowered, "simplified")
