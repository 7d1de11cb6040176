import json
import os
import re

import pytest

from zhaiju.data.examples import Context, Span
from zhaiju.data.formats import ReadLog, context_file, gold_answers, gold_choices, load_contexts, nearest, read_qa, rows
from zhaiju.errors import DataError

PARAGRAPHS = ["老周養了七隻鵝，最大的叫阿白。", "渡船每天早上六點開，票價四元。", "茶園在東坡，今年收了九擔新茶。"]
CONTEXTS = [Context(text, str(index)) for index, text in enumerate(PARAGRAPHS)]
ANSWER = {"text": "六點", "start": 6}
COURSE = {"id": "c1", "question": "渡船幾點開？", "paragraphs": [2, 1], "relevant": 1}
FLAT = {"id": "f1", "question": "渡船幾點開？", "context": PARAGRAPHS[1]}
SQUAD_ANSWER = {"text": "六點", "answer_start": 6}
QA = {"id": "s1", "question": "渡船幾點開？", "answers": [SQUAD_ANSWER]}
DELETED = object()


def without(row, changes):
    return {key: value for key, value in (row | changes).items() if value is not DELETED}


def squad(*questions, context=PARAGRAPHS[1], **more):
    paragraph = without({"context": context, "qas": list(questions)}, more)
    return {"version": 1.1, "data": [{"title": "渡船", "paragraphs": [paragraph]}]}


@pytest.fixture
def write(tmp_path):
    def save(value, name="data.json"):
        path = tmp_path / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif isinstance(value, str):
            path.write_text(value, encoding="utf-8")
        else:
            path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        return path

    return save


def read(path, **options):
    return list(read_qa(path, contexts=CONTEXTS, **options))


# Layouts


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([COURSE | {"answers": [ANSWER]}], "course-2021.json"),
        ([COURSE | {"answer": ANSWER}], "course-2022.json"),
        (squad(QA), "squad-v1.json"),
        (squad(QA | {"is_impossible": False}), "squad-v2.json"),
        ([FLAT | {"answers": [ANSWER]}], "flat.json"),
        ([FLAT | {"answers": [SQUAD_ANSWER]}], "flat-squad-names.json"),
        ([FLAT | {"answers": {"text": ["六點"], "answer_start": [6]}}], "flattened.json"),
        ([without(FLAT, {"context": DELETED, "contexts": [PARAGRAPHS[1]], "answer": ANSWER})], "contexts.json"),
    ],
)
def test_every_layout_reads_to_the_same_question_and_answer(write, rows, name):
    (found,) = read(write(rows, name))
    assert found.question == "渡船幾點開？"
    assert found.context.text == PARAGRAPHS[1]
    assert found.answers == (Span("六點", 6),)
    assert found.gold == ("六點",)
    assert not found.impossible


@pytest.mark.parametrize("name", ["data.jsonl", "data.NDJSON"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_flat_rows_read_one_a_line_and_blank_lines_are_passed_over(write, name, line_end):
    lines = [json.dumps(FLAT | {"id": number}) for number in (1, 2)]
    path = write(("\ufeff" + line_end.join([lines[0], "", "  ", lines[1]])).encode(), name)
    assert [example.id for example in read(path)] == ["1", "2"]


def test_course_row_keeps_candidate_order_and_sources(write):
    (found,) = read(write([COURSE | {"answers": [ANSWER]}]))
    assert [context.source for context in found.contexts] == ["2", "1"]
    assert found.relevant == 1


def test_course_answers_may_be_several(write):
    (found,) = read(write([COURSE | {"answers": [ANSWER, {"text": "早上六點", "start": 4}]}]))
    assert found.gold == ("六點", "早上六點")


@pytest.mark.parametrize("extra", [{}, {"relevant": None}, {"answers": []}, {"answer": None}])
def test_unlabelled_course_rows_read_without_answer(write, extra):
    (found,) = read(write([without(COURSE, {"relevant": DELETED} | extra)]))
    assert (found.relevant, found.answers, found.gold) == (None, (), ())


def test_answers_that_do_not_say_their_paragraph_are_refused_not_dropped(write):
    with pytest.raises(DataError, match="row c1: relevant: answers without their paragraph"):
        read(write([without(COURSE, {"relevant": DELETED, "answers": [ANSWER]})]))


@pytest.mark.parametrize("answers", [{"plausible_answers": [SQUAD_ANSWER]}, {"answers": [SQUAD_ANSWER]}])
def test_squad_v2_question_without_answer_is_impossible_and_ignores_plausible_ones(write, answers):
    (found,) = read(write(squad(QA | {"is_impossible": True, "answers": []} | answers)))
    assert found.impossible
    assert (found.answers, found.gold) == ((), ())


def test_gold_of_an_impossible_question_is_the_empty_text(write):
    assert gold_answers(write(squad(QA | {"is_impossible": True, "answers": []}))) == {"s1": ("",)}


def test_squad_questions_of_a_paragraph_share_one_context_named_by_its_id(write):
    first, second = read(write(squad(QA, QA | {"id": "s2"}, id="渡船-1")))
    assert first.context is second.context
    assert first.context.source == "渡船-1"


def test_squad_keys_beside_data_are_passed_over_wherever_they_stand(write):
    document = {"meta": {"data": [1, {"x": []}]}} | squad(QA) | {"checksum": -1.5e3}
    assert [example.id for example in read(write(document))] == ["s1"]


def test_flat_row_may_hold_several_named_contexts(write):
    contexts = [{"text": PARAGRAPHS[0], "source": "鵝.txt"}, {"text": PARAGRAPHS[1]}, PARAGRAPHS[2]]
    row = {"id": "f", "question": "渡船幾點開？", "contexts": contexts, "relevant": 1, "answer": ANSWER}
    (found,) = read(write([row]))
    assert [context.source for context in found.contexts] == ["鵝.txt", "1", "2"]
    assert found.context.text == PARAGRAPHS[1]


@pytest.mark.parametrize("value", [squad(QA), [FLAT], [COURSE]])
def test_byte_order_mark_is_tolerated(write, value):
    path = write(b"\xef\xbb\xbf" + json.dumps(value).encode())
    assert len(read(path)) == 1


def test_context_file_may_begin_with_a_byte_order_mark(write):
    path = write(b"\xef\xbb\xbf" + json.dumps(PARAGRAPHS).encode())
    assert load_contexts(path) == CONTEXTS


def test_whole_number_ids_become_texts(write):
    assert [example.id for example in read(write([FLAT | {"id": 0}, FLAT | {"id": 10**30}]))] == ["0", str(10**30)]


# Misaligned answers


@pytest.mark.parametrize(
    ("text", "start", "found", "place"),
    [
        ("六點", 7, "點開", 6),
        ("六點", -1, "渡船", 6),
        ("六點", 10**40, "", 6),
        ("渡輪", 0, "渡船", None),
    ],
)
def test_misaligned_answer_is_logged_with_the_nearest_occurrence_and_stays_in_gold(write, text, start, found, place):
    log = ReadLog()
    (example,) = read(write(squad(QA | {"answers": [{"text": text, "answer_start": start}, SQUAD_ANSWER]})), log=log)
    assert example.answers == (Span("六點", 6),)
    assert example.gold == (text, "六點")
    (fault,) = log.misaligned
    assert (fault.row, fault.text, fault.start, fault.found, fault.nearest) == ("s1", text, start, found, place)


def test_misaligned_answer_without_a_log_stops_the_reader_and_says_where_the_text_is(write):
    path = write(squad(QA | {"answers": [SQUAD_ANSWER | {"answer_start": 7}]}))
    with pytest.raises(DataError, match=r"data\.json: row s1: answers: .*'六點' is not at 7, found '點開'.* at 6"):
        read(path)


def test_a_misaligned_answer_is_told_in_one_line_whatever_its_row_is_called(write):
    log = ReadLog()
    read(write(squad(QA | {"id": "s\u20281\r\n", "answers": [SQUAD_ANSWER | {"answer_start": 7}]})), log=log)
    assert str(log.misaligned[0]).startswith("row s 1 : answers: '六點' is not at 7")


def test_answers_without_any_paragraph_are_refused(write):
    path = write([{"id": "a", "question": "何時？", "paragraphs": [], "answers": [{"text": "六點", "start": 0}]}])
    assert refused(path) == "row a: answers: answers, and no paragraph that they could be in"


@pytest.mark.parametrize(("start", "place"), [(0, 0), (1, 0), (2, 0), (3, 4), (4, 4), (9, 4), (-3, 0)])
def test_nearest_occurrence_is_the_earlier_of_two_equally_near(start, place):
    assert nearest("鵝鴨雞豬鵝鴨", "鵝鴨", start) == place


# Faults of a row


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        list(read_qa(path, **{"contexts": CONTEXTS} | options))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


FLAT_FAULTS = [
    ({"id": DELETED}, "row #1: id: missing, expected a text or a whole number"),
    ({"id": True}, "row #1: id: wrong type, found True, expected a text or a whole number"),
    ({"id": 1.5}, "row #1: id: wrong type, found 1.5, expected"),
    ({"id": ""}, "row #1: id: wrong type, found '', expected"),
    ({"id": "\ud83d"}, r"row #1: id: half of a surrogate pair at character 0, found '\ud83d', expected valid Unicode"),
    ({"question": DELETED}, "row f1: question: missing, expected one of the row's keys ['id', 'context']"),
    ({"question": ["什麼？"]}, "row f1: question: wrong type, found ['什麼？'], expected a text"),
    ({"question": None}, "row f1: question: wrong type, found nothing, expected a text"),
    ({"question": "　"}, r"row f1: question: empty text, found '\u3000', expected at least one visible character"),
    ({"question": "\ud83d？"}, r"row f1: question: half of a surrogate pair at character 0, found '\ud83d'"),
    ({"context": DELETED}, "row f1: contexts: missing, expected one of the row's keys ['id', 'question']"),
    ({"context": ""}, "row f1: context: empty text, found '', expected at least one visible character"),
    ({"context": {"a": 1}}, "row f1: context: wrong type, found {'a': 1}, expected a text"),
    ({"context": "木\udc00"}, r"row f1: context: half of a surrogate pair at character 1, found '\udc00'"),
    ({"source": "\udc00"}, r"row f1: source: half of a surrogate pair at character 0, found '\udc00'"),
    ({"is_impossible": 1}, "row f1: is_impossible: wrong type, found 1, expected true or false"),
    ({"answers": "六點"}, "row f1: answers: wrong type, found '六點', expected a list of {text, start}"),
    ({"answers": ["六點"]}, "row f1: answers[0]: wrong type, found '六點', expected {text, start}"),
    ({"answers": [ANSWER, {"text": "六點"}]}, "row f1: answers[1].start: wrong type, found nothing, expected a whole"),
    ({"answers": [{"text": "六點", "start": True}]}, "row f1: answers[0].start: wrong type, found True, expected a"),
    ({"answers": [{"text": "六點", "start": 6.0}]}, "row f1: answers[0].start: wrong type, found 6.0, expected a"),
    ({"answers": [{"text": "六點", "start": "6"}]}, "row f1: answers[0].start: wrong type, found '6', expected a"),
    ({"answers": [{"start": 6}]}, "row f1: answers[0].text: wrong type, found nothing, expected a text"),
    ({"answers": [{"text": "", "start": 6}]}, "row f1: answers[0].text: empty text, found '', expected at least"),
    (
        {"answers": {"text": ["六點"], "answer_start": []}},
        "row f1: answers: texts and offsets differ in number, found {'text': ['六點'], 'answer_start': []}, expected",
    ),
    ({"context": DELETED, "contexts": []}, "row f1: paragraphs: no candidate paragraph, found [], expected at least"),
    ({"context": DELETED, "contexts": "x"}, "row f1: contexts: wrong type, found 'x', expected a list of texts"),
    ({"context": DELETED, "contexts": ["x", 5]}, "row f1: contexts[1]: wrong type, found 5, expected a text"),
    ({"context": DELETED, "contexts": ["x", {}]}, "row f1: contexts[1]: wrong type, found nothing, expected a text"),
    ({"context": DELETED, "contexts": ["x"], "relevant": 1}, "row f1: relevant: out of range, found 1, expected 0..0"),
    ({"context": DELETED, "contexts": ["x"], "relevant": False}, "row f1: relevant: wrong type, found False, expected"),
]


@pytest.mark.parametrize(("changes", "message"), FLAT_FAULTS)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_faulty_flat_row_is_refused_by_file_row_field_found_and_expected(write, changes, message, name):
    row = json.dumps(without(FLAT, changes))
    assert refused(write(f"[{row}]" if name == "data.json" else row, name)).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paragraphs": 1}, "row c1: paragraphs: wrong type, found 1, expected a list of whole numbers"),
        ({"paragraphs": []}, "row c1: relevant: relevant is not in paragraphs, found 1, expected one of []"),
        ({"paragraphs": [], "relevant": None}, "row c1: paragraphs: no candidate paragraph, found [], expected at"),
        ({"paragraphs": [1, 3]}, "row c1: paragraphs: out of range, found 3, expected 0..2 (rows of the context file)"),
        ({"paragraphs": [-1]}, "row c1: paragraphs: out of range, found -1, expected 0..2"),
        ({"paragraphs": [10**40]}, "row c1: paragraphs: out of range, found 1000000"),
        ({"paragraphs": [True]}, "row c1: paragraphs: wrong type, found True, expected a whole number"),
        ({"paragraphs": [1, None]}, "row c1: paragraphs: wrong type, found nothing, expected a whole number"),
        ({"paragraphs": [1, 1]}, "row c1: paragraphs: repeated paragraph, found [1, 1], expected each paragraph once"),
        ({"relevant": 0}, "row c1: relevant: relevant is not in paragraphs, found 0, expected one of [2, 1]"),
        ({"relevant": 9}, "row c1: relevant: out of range, found 9, expected 0..2"),
        ({"relevant": True}, "row c1: relevant: wrong type, found True, expected a whole number"),
        ({"relevant": "1"}, "row c1: relevant: wrong type, found '1', expected a whole number"),
        ({"answer": {"text": "六點", "start": None}}, "row c1: answers[0].start: wrong type, found nothing, expected"),
    ],
)
def test_faulty_course_row_is_refused_by_file_row_field_found_and_expected(write, changes, message):
    assert refused(write([COURSE | changes])).startswith(message)


def test_course_rows_without_their_context_file_say_what_is_missing(write):
    message = refused(write([COURSE]), contexts=None)
    assert message == "row c1: course rows need their context file, expected --context FILE, a list of texts"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"data": {}}, "wrong type of data at line 1 column 10, found '{', expected a list of articles"),
        ({"version": "1"}, "data: not of the SQuAD shape, expected a list of articles"),
        ({"data": [5]}, "row data[0]: wrong type, found 5, expected an object"),
        ({"data": [{}]}, "row data[0]: paragraphs: missing, expected a list"),
        ({"data": [{"paragraphs": "x"}]}, "row data[0]: paragraphs: wrong type, found 'x', expected a list"),
        ({"data": [{"paragraphs": [[]]}]}, "row data[0].paragraphs[0]: wrong type, found [], expected an object"),
        (squad(QA, qas=DELETED), "row data[0].paragraphs[0]: qas: missing, expected a list"),
        (squad(QA, context=" "), "row data[0].paragraphs[0]: context: empty text, found ' ', expected at least one"),
        (squad(QA, context=3), "row data[0].paragraphs[0]: context: wrong type, found 3, expected a text"),
        (squad(None), "row data[0].paragraphs[0].qas[0]: wrong type, found nothing, expected an object"),
        (squad(without(QA, {"id": DELETED})), "row data[0].paragraphs[0].qas[0]: id: missing, expected a text or"),
        (squad(QA | {"question": ""}), "row s1: question: empty text, found '', expected at least one visible"),
        (squad(QA, QA), "row s1: id: repeated id, found 's1', expected one row an id"),
        ([FLAT, FLAT], "row f1: id: repeated id, found 'f1', expected one row an id"),
        ([FLAT | {"id": "7"}, FLAT | {"id": 7}], "row 7: id: repeated id, found '7', expected one row an id"),
        ([FLAT, "x"], "row #2: wrong type, found 'x', expected an object with id and question"),
    ],
)
def test_faulty_document_is_refused_by_the_place_of_its_fault(write, document, message):
    assert refused(write(document)).startswith(message)


def test_faulty_rows_are_left_out_and_counted_where_asked_for(write):
    log = ReadLog(skip_faulty=True)
    found = read(write([FLAT, FLAT | {"id": "b", "question": ""}, FLAT, FLAT | {"id": "c"}]), log=log)
    assert [example.id for example in found] == ["f1", "c"]
    assert [error.row for error in log.skipped] == ["b", "f1"]
    assert [error.problem for error in log.skipped] == ["empty text", "repeated id"]


# Faults of a file

ROW = json.dumps(FLAT, ensure_ascii=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a data file at line 1 column 1, found 'nothing', expected a JSON list or object"),
        (" \n\t", "not a data file at line 2 column 2, found 'nothing'"),
        ("\ufeff", "not a data file at line 1 column 1, found 'nothing'"),
        ("5", "not a data file at line 1 column 1, found '5'"),
        ("id,question\n", "not a data file at line 1 column 1, found 'i'"),
        ("[]", "no question in it, expected at least one row"),
        ('{"data": []}', "no question in it, expected at least one row"),
        ("[" + ROW[:-20], "the file ends too early at line 1 column"),
        ("[" + ROW, "the file ends too early at line 1 column"),
        ("[" + ROW + ",", "the file ends too early at line 1 column"),
        (json.dumps(squad(QA))[:-1], "the file ends too early at line 1 column"),
        ("[" + ROW + "] []", "text after the end of the JSON value at line 1 column"),
        (json.dumps(squad(QA)) + "}", "text after the end of the JSON value at line 1 column"),
        ("[" + ROW + " " + ROW + "]", "not JSON at line 1 column"),
        ("[" + ROW + ",]", "not JSON (Expecting value) at line 1 column"),
        ('{"data": [],}', "not JSON at line 1 column 13, found '}', expected '\"'"),
        ("{'data': []}", "not JSON at line 1 column 2, found \"'\", expected '\"'"),
        ('[\n{"id": NaN}]', "not JSON at line 2 column 1, found 'NaN', expected a number"),
        ('[{"id": "a", "x": [-Infinity]}]', "not JSON at line 1 column 2, found '-Infinity', expected a number"),
        ('[{"id": ' + "9" * 5000 + "}]", "not JSON (Exceeds the limit"),
        ('[{"id": ' + "[" * 100_000, "nested too deeply at line 1 column 2"),
        ('[{"id": 1, "question": ' + "[" * 900 + "]" * 900 + "}]", "row 1: question: wrong type, found [[["),
        ("[" + ROW.replace("渡", "\t") + "]", "not JSON (Invalid control character at) at line 1 column"),
    ],
)
def test_file_that_is_not_the_json_it_should_be_is_refused_by_the_place(write, content, message):
    assert refused(write(content)).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no question in it, expected at least one row"),
        (ROW + "\n\n" + ROW[:-5], "row line 3: not JSON (Unterminated string starting at), found "),
        (ROW + " x", "row line 1: not JSON (Extra data), found "),
        ('{"id": NaN}', "row line 1: not JSON, found 'NaN', expected a number"),
        ("{'id': 1}", "row line 1: not JSON (Expecting property name enclosed in double quotes), found"),
        ('{"id": ' + "9" * 5000 + "}", "row line 1: not JSON (Exceeds the limit"),
        ("[" * 100_000, "row line 1: not JSON (nested too deeply), found '[[["),
        ("[1]", "row #1: wrong type, found [1], expected an object with id and question"),
    ],
)
def test_faulty_line_is_refused_by_its_number(write, content, message):
    assert refused(write(content, "data.jsonl")).startswith(message)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_other_encoding_than_utf_8_is_refused_with_the_bytes_and_a_remedy(write, name):
    content = (f"[{ROW}]" if name == "data.json" else ROW).encode("big5")
    message = refused(write(content, name))
    assert re.match(r"not UTF-8, found b'.+', expected UTF-8 text \(.*iconv -f BIG5 -t UTF-8\)", message)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_missing_file_and_directory_are_refused_by_name(tmp_path, name):
    path = tmp_path / name
    assert refused(path) == "no such file"
    path.mkdir()
    assert refused(path) == "cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a context file at line 1 column 1, found 'nothing', expected a JSON list of texts"),
        ("{}", "not a context file at line 1 column 1, found '{', expected a JSON list of texts"),
        ("[]", "no paragraph in it, expected a list of texts"),
        ('["a", ""]', "row 1: context: empty text, found '', expected at least one visible character"),
        ('["a", null]', "row 1: context: wrong type, found nothing, expected a text"),
        ('[["a"]]', "row 0: context: wrong type, found ['a'], expected a text"),
        ('["\\ud83d"]', r"row 0: context: half of a surrogate pair at character 0, found '\ud83d'"),
        ('["a"', "the file ends too early at line 1 column"),
        ('["a"]"b"', "text after the end of the JSON value at line 1 column 6"),
        ("渡船".encode("big5"), "not UTF-8, found b"),
    ],
)
def test_faulty_context_file_is_refused_by_the_paragraphs_index(write, content, message):
    path = write(content)
    with pytest.raises(DataError) as caught:
        load_contexts(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_rows_are_read_one_by_one(write):
    reader = rows(write("[" + ROW + ", oops]"))
    assert next(reader).id == "f1"
    with pytest.raises(DataError, match="not JSON"):
        next(reader)


# Gold to score against


def test_gold_answers_need_no_context_file_and_hold_each_text_once(write):
    path = write([COURSE | {"answers": [ANSWER, ANSWER, {"text": "早上六點", "start": 99}]}])
    assert gold_answers(path) == {"c1": ("六點", "早上六點")}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([COURSE], "row c1: answers: no answer to score against"),
        ([COURSE | {"answer": ANSWER}] * 2, "row c1: id: repeated id"),
        ([COURSE | {"answer": {"text": 5, "start": 0}}], "row c1: answers[0].text: wrong type, found 5"),
        ([], "no question in it"),
    ],
)
def test_gold_without_answers_is_refused(write, value, message):
    path = write(value)
    with pytest.raises(DataError) as caught:
        gold_answers(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_gold_choices_are_indices_into_the_context_file(write):
    assert gold_choices(write([COURSE])) == {"c1": 1}


@pytest.mark.parametrize(
    ("relevant", "message"),
    [(DELETED, "no relevant paragraph to score against"), (True, "wrong type, found True"), ("1", "wrong type")],
)
def test_gold_choices_that_are_no_index_are_refused(write, relevant, message):
    with pytest.raises(DataError, match=f"row c1: relevant: {message}.*expected a whole number"):
        gold_choices(write([without(COURSE, {"relevant": relevant})]))


def test_answers_of_a_question_marked_impossible_count_nowhere(tmp_path):
    row = {
        "id": "a",
        "question": "誰？",
        "context": "甲。",
        "answers": [{"text": "甲", "start": 0}],
        "is_impossible": True,
    }
    (tmp_path / "d.json").write_text(json.dumps([row]), "utf-8")
    assert gold_answers(tmp_path / "d.json") == {"a": ("",)}
    assert next(read_qa(tmp_path / "d.json")).gold == ()


def test_a_pipe_is_left_for_its_one_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert context_file(tmp_path / "pipe") is None


def test_a_squad_file_of_one_article_is_read_paragraph_by_paragraph(tmp_path, monkeypatch):
    monkeypatch.setattr("zhaiju.data.jsonstream.CHUNK_CHARS", 256)
    paragraphs = [
        {"context": f"第{n}段。", "qas": [{"id": f"q{n}", "question": "第幾段？"}]} for n in range(200)
    ]  # fmt: skip
    text = json.dumps({"data": [{"title": "書", "paragraphs": paragraphs, "note": [1]}]}, ensure_ascii=False)
    (tmp_path / "d.json").write_text(text[:-4] + "!", "utf-8")  # its end is no JSON
    examples = read_qa(tmp_path / "d.json")
    assert [next(examples).contexts[0].text for _ in range(200)] == [p["context"] for p in paragraphs]
    with pytest.raises(DataError, match="not JSON"):
        next(examples)
