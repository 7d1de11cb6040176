"""Tokenised texts on disk: the same tokens, whatever happens to the file."""

import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data import cache as module
from zhaiju.data.cache import SUFFIX, TokenStore, identity, keep
from zhaiju.data.encoding import Encoding
from zhaiju.data.vocabulary import build_tokenizer

TEXTS = ["老張在港口修船。", "Who built 3 ships?", "", " ", "誰在港口修船？", ("修", "", "船 廠"), (), "修船" * 90]
KINDS = {"plain": {}, "simplified": {"script": "simplified"}}


@cache
def _tokenizer():
    return build_tokenizer([text for text in TEXTS if isinstance(text, str)])


def _encoding(kind="plain", **settings):
    return Encoding(_tokenizer(), window=40, **KINDS[kind] | settings)


def _assert_same(found, wanted):
    for name in ("ids", "starts", "ends"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def _file(folder):
    (path,) = folder.glob(f"*{SUFFIX}")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_from_disk_are_those_computed(tmp_path, kind):
    for _ in range(2):  # made, then found
        encoding = _encoding(kind)
        store = keep(encoding, TEXTS, tmp_path)
        for source in TEXTS:
            found = encoding.tokens(source) if isinstance(source, str) else encoding.words(source)
            _assert_same(found, _encoding(kind).compute(source))
        assert store.hits == len(TEXTS)
    assert store.get("elsewhere") is None
    assert {path.suffix for path in tmp_path.iterdir()} == {SUFFIX}


@settings(deadline=None, max_examples=examples(25))
@given(texts=st.lists(st.text(max_size=30), max_size=5), kind=st.sampled_from(list(KINDS)))
def test_any_text_comes_back_as_it_was(tmp_path_factory, texts, kind):
    folder = tmp_path_factory.mktemp("any")
    encoding = _encoding(kind)
    store = keep(encoding, texts, folder)
    for text in texts:
        _assert_same(store.get(text), encoding.compute(text))


def test_windows_are_the_same_with_and_without(tmp_path):
    stored = _encoding("simplified")
    keep(stored, TEXTS, tmp_path)
    for one, other in zip(
        *(encoding.windows(TEXTS[4], TEXTS[7]) for encoding in (stored, _encoding("simplified"))), strict=True
    ):
        for name in ("input_ids", "token_type_ids", "starts", "ends"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_what_decides_the_tokens_decides_the_file():
    plain = identity(_encoding())
    assert plain == identity(_encoding()) == identity(_encoding(overlap=3))
    others = [_encoding("simplified"), Encoding(build_tokenizer(["其他的字"]), window=40)]
    assert len({plain, *map(identity, others)}) == 3


def test_other_texts_get_another_file(tmp_path):
    keep(_encoding(), TEXTS, tmp_path)
    keep(_encoding(), [*reversed(TEXTS), TEXTS[0]], tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    keep(_encoding(), TEXTS[:-1], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_is_made_anew(tmp_path, share):
    keep(_encoding("simplified"), TEXTS, tmp_path)
    path = _file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"cut|damaged|empty"):
        TokenStore(path)
    keep(_encoding("simplified"), TEXTS, tmp_path)
    assert path.read_bytes() == whole


def test_no_damaged_byte_is_trusted(tmp_path):
    """Each byte in turn: either the file is refused, or what it gives is right or nothing."""
    few = TEXTS[1:4]
    keep(_encoding(), few, tmp_path)
    path = _file(tmp_path)
    whole = path.read_bytes()
    wanted = {text: _encoding().compute(text) for text in few}
    noticed = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        try:
            store = TokenStore(path)
        except ValueError:
            noticed += 1
            continue
        found = {text: store.get(text) for text in few}
        noticed += None in found.values()
        for text, tokens in found.items():
            if tokens is not None:
                _assert_same(tokens, wanted[text])
    assert noticed > len(whole) * 0.8  # what is left fills up to a multiple of eight


def test_damage_is_computed_anew_and_the_file_removed(tmp_path):
    keep(_encoding(), TEXTS, tmp_path)
    path = _file(tmp_path)
    damaged = bytearray(path.read_bytes())
    place = damaged.index(_encoding().compute(TEXTS[0]).ids.tobytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    encoding = _encoding()
    keep(encoding, TEXTS, tmp_path)
    _assert_same(encoding.tokens(TEXTS[0]), _encoding().compute(TEXTS[0]))
    assert not path.exists()


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Encoding, "compute", lambda self, source: os._exit(9))
        child = os.fork()
        if not child:
            keep(_encoding(), TEXTS, tmp_path)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".tmp"
    assert keep(_encoding(), TEXTS, tmp_path) is not None
    assert [path.suffix for path in tmp_path.iterdir()] == [SUFFIX]


@pytest.mark.slow
def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_cache as t\n"
        "from zhaiju.data.cache import keep\n"
        "texts = [f'{number} 修船' for number in range(2000)]\n"
        "assert keep(t._encoding('simplified'), texts, Path(sys.argv[1])).get(texts[7])"
    )
    here = os.path.dirname(__file__)
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), here]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert [path.suffix for path in tmp_path.iterdir()] == [SUFFIX]


def test_the_files_not_used_for_longest_go_first(tmp_path, monkeypatch):
    sets = [[f"{number}號倉庫"] for number in range(4)]
    paths = [keep(_encoding(), texts, tmp_path).path for texts in sets[:3]]
    for age, path in enumerate(paths):
        os.utime(path, (1000 + age, 1000 + age))
    keep(_encoding(), sets[0], tmp_path)  # used again
    monkeypatch.setattr(module, "LIMIT", 2 * paths[0].stat().st_size + 10)
    new = keep(_encoding(), sets[3], tmp_path).path
    assert set(tmp_path.iterdir()) == {new, paths[0]}


def test_what_a_clock_set_back_says_was_used_in_the_future_does_not_stay_for_ever(tmp_path, monkeypatch):
    sets = [[f"{number}號倉庫"] for number in range(4)]
    paths = [keep(_encoding(), texts, tmp_path).path for texts in sets[:3]]
    os.utime(paths[0], (1 << 33, 1 << 33))
    for age, path in enumerate(paths[1:]):
        os.utime(path, (1000 + age, 1000 + age))
    monkeypatch.setattr(module, "LIMIT", 3 * paths[0].stat().st_size + 10)
    new = keep(_encoding(), sets[3], tmp_path).path
    assert set(tmp_path.iterdir()) == {new, *paths[1:]}


def test_more_than_the_limit_is_not_kept(tmp_path):
    with (tmp_path / "file").open("w+b") as stream:
        assert not module.write(stream, _encoding(), TEXTS, limit=200)


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path):
    (tmp_path / "file").write_text("")
    encoding = _encoding()
    assert keep(encoding, TEXTS, tmp_path / "file" / "below") is None
    assert len(encoding.tokens(TEXTS[0]).ids)
