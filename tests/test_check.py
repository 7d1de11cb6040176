import json

import pytest

from zhaiju.data.check import check_files, survival
from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import Span
from zhaiju.data.vocabulary import build_tokenizer
from zhaiju.errors import DataError

FERRY = "渡船每天早上六點開，票價四元；回程也是四元。"
GEESE = "老周養了七隻鵝，最大的叫阿白。"
LONG = "茶園在東坡，" * 20 + "今年收了九擔新茶。"


TEXTS = [FERRY, GEESE, LONG, "the ferry when", "".join(map(chr, range(32, 127)))]


def encodings(kind="characters", window=64, texts=TEXTS, **options):
    return Encoding(build_tokenizer(texts, kind=kind, size=5000), window=window, overlap=8, **options)


def row(identity, question, context, *answers):
    answers = [{"text": text, "start": start} for text, start in answers]
    return {"id": identity, "question": question, "context": context, "answers": answers}


@pytest.fixture
def check(tmp_path):
    def run(*files, make=None, context=None, **options):
        paths = []
        for number, content in enumerate(files):
            paths.append(tmp_path / f"{number}.json")
            paths[-1].write_text(json.dumps(content), encoding="utf-8")
        if context is not None:
            context_path = tmp_path / "context.json"
            context_path.write_text(json.dumps(context), encoding="utf-8")
            context = context_path
        make = make or encodings()
        return check_files(paths, context=context, encoding=make, **options)

    return run


def test_sound_file_is_healthy(check):
    (report,) = check([row("a", "幾點開？", FERRY, ("六點", 6)), row("b", "誰最大？", GEESE, ("阿白", 12))])
    assert report.healthy
    assert (report.rows, report.contexts, report.answers_total) == (2, 2, 2)
    assert (report.answers_misaligned, report.answers_too_long, report.answers_lost) == (0, 0, 0)
    assert (report.answers_inside_tokens, report.answers_repeated, report.answers_over_limit) == (0, 0, 0)
    assert (report.unknown_tokens, report.shared_contexts) == (0, {})


def test_every_fault_is_listed_not_only_the_first(check):
    good = row("a", "幾點開？", FERRY, ("六點", 6))
    (report,) = check(
        [good, row("b", "", FERRY), row("c", "票價？", " "), good, row("d", "票價？", FERRY, ("四元", 12))]
    )
    assert not report.healthy
    assert report.rows == 5
    assert [fault.split("0.json: ")[1].split(",")[0] for fault in report.faults] == [
        "row b: question: empty text",
        "row c: context: empty text",
        "row a: id: repeated id",
    ]
    assert report.to_json()["faults_total"] == 3


def test_misaligned_answers_are_listed_with_the_place_where_their_text_is(check):
    (report,) = check([row("a", "票價？", FERRY, ("四元", 11), ("五元", 12), ("六點", 6))])
    assert not report.healthy
    assert (report.answers_total, report.answers_misaligned, report.answers_lost) == (3, 2, 0)
    assert report.to_json()["misaligned"] == [
        {"row": "a", "text": "四元", "start": 11, "found": "價四", "nearest": 12},
        {"row": "a", "text": "五元", "start": 12, "found": "四元", "nearest": None},
    ]


def test_answer_whose_text_stands_more_than_once_is_counted(check):
    (report,) = check([row("a", "票價？", FERRY, ("四元", 12), ("六點", 6))])
    assert report.answers_repeated == 1
    assert report.healthy


def test_answer_longer_than_the_readers_limit_is_counted(check):
    questions = [row("a", "在哪？", LONG, (LONG[:51], 0), (LONG[:50], 0))]
    assert check(questions)[0].answers_over_limit == 1
    assert check(questions, limit=49)[0].answers_over_limit == 2


@pytest.mark.parametrize(("length", "too_long"), [(58, 0), (59, 1)])
def test_answer_longer_than_a_window_has_room_for_is_counted_and_not_called_lost(check, length, too_long):
    (report,) = check([row("a", "在哪", LONG, (LONG[30 : 30 + length], 30))])  # 64 - 3 special - 2 of the question = 59
    expected = int(length > 59)
    assert (report.answers_too_long, report.answers_lost) == (expected, 0)
    (report,) = check([row("a", "在哪？", LONG, (LONG[30 : 30 + length], 30))])  # room for 58
    assert (report.answers_too_long, report.answers_lost) == (too_long, 0)


def test_question_too_long_for_the_window_is_a_fault_of_its_row(check):
    (report,) = check([row("a", "茶" * 60, FERRY, ("六點", 6))])
    assert not report.healthy
    assert "row a: question: the question does not fit the window of 64 tokens, found 60 tokens" in report.faults[0]


def test_answer_inside_a_word_piece_is_counted_apart_from_lost_ones(check):
    text = "the ferryman sells tickets. ferryman ferryman"
    (report,) = check([row("a", "who?", text, ("man", 9), ("sells", 13))], make=encodings("wordpiece"))
    assert (report.answers_inside_tokens, report.answers_lost) == (1, 0)
    assert report.healthy


@pytest.mark.parametrize("place", range(0, 110, 7))
def test_answer_at_any_place_survives_the_windows(check, place):
    (report,) = check([row("a", "在哪？", LONG, (LONG[place : place + 15], place))])
    assert (report.answers_lost, report.answers_too_long, report.answers_inside_tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "start", "verdict"),
    [
        (" six ", 18, "kept"),
        ("six \0", 19, "kept"),
        ("ferry", 4, "kept"),
        ("erry", 5, "inside a token"),
        ("\0", 23, "lost"),  # nothing that an encoder could point at
    ],
)
def test_survival_of_spans_at_the_edges_of_words(text, start, verdict):
    context = "the ferry goes at  six \0o'clock"
    assert Span(text, start).fits(context)
    encoding = encodings("wordpiece", texts=[context] * 3)
    assert survival("when?", context, Span(text, start), encoding, encoding.capacity("when?")) == verdict


def test_lost_answer_is_named_and_makes_a_file_unhealthy(check):
    (report,) = check([row("a", "when?", "the \u200b ferry ferry", ("\u200b", 4))], make=encodings("wordpiece"))
    assert not report.healthy
    assert report.answers_lost == 1
    assert report.lost == ["row a: '\\u200b' at 4"]


def test_unknown_tokens_are_counted_and_the_commonest_shown(check):
    small = encodings(texts=["渡船每天"])
    (report,) = check([row("a", "船？", "渡船渡鵝鵝貓", ("船", 1))], make=small)
    assert report.unknown_tokens == pytest.approx(3 / 6)
    assert report.unknown_examples == ["鵝", "貓"]


def test_paragraphs_that_files_share_are_counted_by_file(check):
    first = [row("a", "幾點開？", FERRY), row("b", "誰最大？", GEESE), row("c", "票價？", FERRY)]
    second = [row("a", "票價？", FERRY)]
    reports = check(first, second, [row("a", "在哪？", LONG)])
    paths = [report.file for report in reports]
    assert [report.shared_contexts for report in reports] == [{paths[1]: 1}, {paths[0]: 1}, {}]


def test_shared_candidates_that_answer_nothing_do_not_count_as_shared(check):
    first = {"id": "a", "question": "幾點開？", "paragraphs": [0, 1], "relevant": 0}
    reports = check([first], [first | {"relevant": 1}], context=[FERRY, GEESE])
    assert [report.shared_contexts for report in reports] == [{}, {}]
    assert reports[0].contexts == 2


def test_unlabelled_course_rows_are_examined_without_answers(check):
    (report,) = check([{"id": "a", "question": "幾點開？", "paragraphs": [0, 1]}], context=[FERRY, GEESE])
    assert report.healthy
    assert (report.rows, report.contexts, report.answers_total) == (1, 2, 0)


def test_answer_is_looked_for_in_the_relevant_candidate(check):
    course = {"id": "a", "question": "幾點開？", "paragraphs": [1, 0], "answers": [{"text": "六點", "start": 6}]}
    assert check([course | {"relevant": 0}], context=[FERRY, GEESE])[0].healthy
    assert check([course | {"relevant": 1}], context=[FERRY, GEESE])[0].answers_misaligned == 1


def test_progress_is_told_of_every_row(check):
    told = []
    check([row(str(number), "幾點開？", FERRY) for number in range(5)], progress=told.append)
    assert sum(told) == 5


def test_report_is_plain_json_with_the_promised_whole_numbers(check):
    (report,) = check([row("a", "票價？", FERRY, ("四元", 11))])
    values = json.loads(json.dumps(report.to_json()))
    for name in ("answers_total", "answers_misaligned", "answers_too_long", "answers_lost"):
        assert type(values[name]) is int


@pytest.mark.parametrize(
    ("content", "message"), [([], "no question in it"), ("x", "not a data file"), (5, "not a data")]
)
def test_file_that_holds_no_rows_stops_the_check(check, content, message):
    with pytest.raises(DataError, match=message):
        check(content)


def test_each_file_finds_the_paragraphs_beside_itself(tmp_path):
    paths = []
    for name, text in (("a", "甲在河邊。"), ("b", "乙在山上。")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "context.json").write_text(json.dumps([text]), "utf-8")
        rows = [{"id": "q", "question": "誰？", "paragraphs": [0], "relevant": 0}]
        rows[0]["answers"] = [{"text": text[0], "start": 0}]
        paths.append(tmp_path / name / "q.json")
        paths[-1].write_text(json.dumps(rows), "utf-8")
    assert all(report.healthy for report in check_files(paths, encoding=encodings()))
