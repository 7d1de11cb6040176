import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data import jsonstream
from zhaiju.data.jsonstream import JSONStream, open_text
from zhaiju.errors import DataError

FILE = Path("data.json")
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@pytest.fixture(autouse=True)
def tiny_chunks(monkeypatch):
    monkeypatch.setattr(jsonstream, "CHUNK_CHARS", 1)


def whole(text):
    cursor = JSONStream(io.StringIO(text, newline=""), FILE)
    value = cursor.value()
    cursor.end()
    return value


def items(text):
    cursor = JSONStream(io.StringIO(text, newline=""), FILE)
    found = list(cursor.items())
    cursor.end()
    return found


def same(first, second):
    """Equal, and 1 is not 1.0 nor True."""
    return repr(first) == repr(second)


@settings(deadline=None, max_examples=examples(150))
@given(values=st.lists(VALUES, max_size=5), ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 3]))
@example(values=[1.5, -2e-7, 1e300, 0, -0.0, 12], ascii_only=True, indent=None)
@example(values=['😀\\"\n', {"\0": "é😀"}, [], {}, [[]]], ascii_only=True, indent=3)
def test_streamed_values_are_those_of_json_load_wherever_the_chunks_are_cut(values, ascii_only, indent):
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    assert same(items(text), values)
    assert same(whole(text), values)


@pytest.mark.parametrize("size", range(1, 14))
def test_every_cut_of_numbers_escapes_and_words_reads_the_same(monkeypatch, size):
    monkeypatch.setattr(jsonstream, "CHUNK_CHARS", size)
    text = ' [ -1.25E+10 ,2e-3,3.5,10 , true,null,false,"\\ud83d\\ude00\\u00e9\\\\", {"a" : [ 1.5e1 ] } ]\r\n'
    assert same(items(text), json.loads(text))


@settings(deadline=None, max_examples=examples(200))
@given(text=st.text(alphabet='[]{},:"\\ud83e1.-+0truenl \n', max_size=25))
@example(text="[1.]")
@example(text="[1e+]")
@example(text="[01]")
@example(text="[1,]")
@example(text='{"a":1,}')
@example(text='"\\ud83d\\u00')
def test_stream_accepts_and_refuses_what_json_load_does(text):
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises(DataError, match=r"data\.json: .* at line \d+ column \d+"):
            whole(text)
    else:
        assert same(whole(text), value)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("line", [1, 3])
def test_error_after_many_chunks_names_its_line_and_column(monkeypatch, size, line):
    monkeypatch.setattr(jsonstream, "CHUNK_CHARS", size)
    text = "[" + "\n" * (line - 1) + "12345," * 500 + "oops, 1]" + " " * 30
    column = 500 * 6 + (2 if line == 1 else 1)
    with pytest.raises(DataError, match=rf"not JSON \(Expecting value\) at line {line} column {column}$"):
        items(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file ends too early at line 1 column 1"),
        ("[1, 2", "the file ends too early at line 1 column 6"),
        ("[1, 2,\n ", "the file ends too early at line 2 column 2"),
        ('["abc', "the file ends too early at line 1 column 2"),
        ("[1 2]", "not JSON at line 1 column 4, found '2', expected ',' or ']'"),
        ("[x]", r"not JSON (Expecting value) at line 1 column 2"),
        ("[1] x", "text after the end of the JSON value at line 1 column 5, found 'x'"),
        ("[NaN]", "not JSON at line 1 column 2, found 'NaN', expected a number"),
        ("[-Infinity]", "not JSON at line 1 column 2, found '-Infinity', expected a number"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused_by_its_place(monkeypatch, text, problem):
    monkeypatch.setattr(jsonstream, "CHUNK_CHARS", 1 << 20)
    with pytest.raises(DataError) as caught:
        items(text)
    assert str(caught.value).startswith("data.json: ")
    assert problem in str(caught.value)


def test_key_of_an_object_must_be_a_text():
    cursor = JSONStream(io.StringIO("{1: 2}"), FILE)
    cursor.expect("{")
    with pytest.raises(DataError, match=r"not JSON at line 1 column 2, found '1', expected '\"'"):
        cursor.key()


def test_memory_does_not_grow_with_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr(jsonstream, "CHUNK_CHARS", 1 << 16)
    path = tmp_path / "large.json"
    row = json.dumps({"id": "x", "text": "木" * 1000}, ensure_ascii=False)
    count = 10_000  # of 3 kB
    with path.open("w", encoding="utf-8") as stream:
        stream.write("[" + f"{row},\n" * (count - 1) + row + "]")
    assert path.stat().st_size > 30_000_000
    with open_text(path) as stream:
        tracemalloc.start()
        found = sum(1 for _ in JSONStream(stream, path).items())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert found == count
    assert peak < 4_000_000


def test_value_larger_than_many_chunks_is_read_whole(monkeypatch):
    monkeypatch.setattr(jsonstream, "CHUNK_CHARS", 16)
    value = {"text": "木橋" * 100_000, "more": list(range(1000))}
    assert whole(json.dumps(value, ensure_ascii=False)) == value
