import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data.script import CHARACTER_PROFILES, SCRIPTS, convert, fold
from zhaiju.errors import ConfigError

CHINESE = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)
EXTENSION_B = st.characters(min_codepoint=0x20000, max_codepoint=0x2A6DF)
TEXTS = st.text(max_size=30) | st.text(CHINESE | EXTENSION_B | st.sampled_from("\0 \n瞭乾後发髮𨭆"), max_size=30)


@settings(deadline=None, max_examples=examples(300))
@given(text=TEXTS, script=st.sampled_from(SCRIPTS))
@example(text="頭髮\0乾燥", script="simplified")
@example(text="\0", script="traditional")
@example(text="𠀀👩🏽‍🚀後", script="simplified")
@example(text="a\ud83d後", script="simplified")
def test_conversion_keeps_every_character_at_its_place(text, script):
    converted = convert(text, script)
    assert len(converted) == len(text)
    for before, after in zip(text, converted, strict=True):
        assert before == after or not before.isascii()


@settings(deadline=None, max_examples=examples(300))
@given(text=TEXTS)
@example(text="İSTANBUL ΑΣ ẞ ﬃ")
@example(text="\0İ後")
def test_folding_keeps_every_character_at_its_place(text):
    assert len(fold(text)) == len(text)


@pytest.mark.parametrize(
    ("text", "script", "converted"),
    [
        ("記憶體裡的資料", "simplified", "记忆体里的资料"),
        ("记忆体里的资料", "traditional", "記憶體裏的資料"),
        ("記憶體裡的資料", "as-is", "記憶體裡的資料"),
        ("頭髮\0後面", "simplified", "头发\0后面"),
        ("Ｔａｉｗａｎ 🐳 abc", "simplified", "Ｔａｉｗａｎ 🐳 abc"),
        ("", "traditional", ""),
    ],
)
def test_known_conversions(text, script, converted):
    assert convert(text, script) == converted


@pytest.mark.parametrize(("text", "folded"), [("圖書館 ABC", "图书馆 abc"), ("图书馆 abc", "图书馆 abc"), ("İ", "İ")])
def test_folding_makes_scripts_and_cases_alike(text, folded):
    assert fold(text) == folded


@pytest.mark.parametrize("script", ["tw2sp", "s2twp", "s2tw.json", "", "Simplified", "../t2s"])
@pytest.mark.parametrize("text", ["", "abc", "記憶體"])
def test_phrase_profiles_and_unknown_scripts_are_refused_for_every_text(script, text):
    with pytest.raises(ConfigError, match="is not one of as-is, simplified, traditional"):
        convert(text, script)


def test_every_character_profile_is_known_to_opencc():
    for profile in CHARACTER_PROFILES:
        assert convert("一", profile) == "一"
