import pytest

from zhaiju.data.examples import Context, QAExample, Span, check_text
from zhaiju.errors import DataError

RIVER = Context("小溪流過三座木橋。", "0")
HILL = Context("山頂有一座白色燈塔。", "1")


def example(**changes):
    return QAExample(**{"id": "a", "question": "橋有幾座？", "contexts": (RIVER, HILL)} | changes)


def test_span_ends_after_its_text_counted_in_code_points():
    assert Span("👩🏽‍🚀", 2).end == 6


@pytest.mark.parametrize(("start", "fits"), [(4, True), (3, False), (-5, False), (10**30, False)])
def test_span_fits_only_where_its_text_stands(start, fits):
    assert Span("三座木橋", start).fits(RIVER.text) is fits


def test_aligned_answers_become_gold():
    assert example(relevant=0, answers=(Span("三座", 4), Span("三座木橋", 4))).gold == ("三座", "三座木橋")


def test_gold_beyond_the_answers_is_kept():
    assert example(relevant=0, answers=(Span("三座", 4),), gold=("三座", "3座")).gold == ("三座", "3座")


@pytest.mark.parametrize(
    ("changes", "field", "parts"),
    [
        ({"question": " \t"}, "question", ["empty text", "at least one visible character"]),
        ({"question": None}, "question", ["wrong type", "found nothing", "expected a text"]),
        ({"contexts": ()}, "paragraphs", ["no candidate", "at least one"]),
        ({"relevant": 2}, "relevant", ["found 2", "expected 0..1"]),
        ({"relevant": -1}, "relevant", ["found -1", "expected 0..1"]),
        ({"answers": (Span("三座", 4),)}, "relevant", ["without their paragraph"]),
        ({"relevant": 1, "answers": (Span("三座", 4),)}, "answers", ["'三座' does not stand at 4", "found '座白'"]),
        ({"relevant": 0, "answers": (Span("三座", -5),)}, "answers", ["does not stand at -5"]),
    ],
)
def test_impossible_example_is_refused_with_its_field(changes, field, parts):
    with pytest.raises(DataError) as caught:
        example(**changes)
    assert caught.value.field == field
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(("text", "source"), [("", "0"), ("　\n", "0"), (5, "0"), ("a\ud83d", "0"), ("a", "\udc00")])
def test_unusable_context_is_refused(text, source):
    with pytest.raises(DataError):
        Context(text, source)


def test_half_a_surrogate_pair_is_refused_by_its_place():
    with pytest.raises(DataError, match=r"answer: half of a surrogate pair at character 2, found '\\ud83d'"):
        check_text("ab\ud83d", "answer")


def test_context_to_read_is_the_relevant_or_the_only_one():
    assert example(relevant=1).context is HILL
    assert example(contexts=(HILL,)).context is HILL


def test_context_to_read_is_unknown_among_several_unmarked_ones():
    with pytest.raises(DataError, match="row a: relevant: several paragraphs and none marked"):
        _ = example().context


def test_located_error_keeps_what_it_knows_and_gains_the_rest():
    error = DataError("wrong type", row="7", field="id", found=1, expected="a text").located(file="f.json", row="8")
    assert str(error) == "f.json: row 7: id: wrong type, found 1, expected a text"
    assert (error.file, error.row, error.found) == ("f.json", "7", 1)
