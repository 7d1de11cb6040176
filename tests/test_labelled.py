import csv
import json
import os
import re
from itertools import pairwise
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data.examples import IntentExample, SlotExample
from zhaiju.data.formats import ReadLog
from zhaiju.data.labelled import gold_labels, gold_tags, read_intents, read_slots, repair_bio, split_words
from zhaiju.errors import DataError

INTENT = {"text": "wake me at six", "intent": "alarm", "id": "i1"}
SLOTS = {"tokens": ["two", "of", "us"], "tags": ["B-people", "I-people", "I-people"], "id": "s1"}
CLINC = {
    "oos_val": [["who won", "oos"]],
    "val": [["cheaper please", "discount"]],
    "oos_train": [["how tall is it", "oos"]],
    "train": [["wake me", "alarm"], ["pay it", "bill"]],
    "test": [["ring at six", "alarm"]],
    "oos_test": [["why", "oos"]],
}


def without(row, *names):
    return {key: value for key, value in row.items() if key not in names}


@pytest.fixture
def write(tmp_path):
    def save(value, name="data.json"):
        path = tmp_path / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            path.write_text(text, encoding="utf-8", newline="")
        return path

    return save


def refused(read, path, **options):
    with pytest.raises(DataError) as caught:
        list(read(path, **options))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# Words

KINDS = st.sampled_from("ab,.!' \t\n\u3000\xa0漢々あー한ㄱ，。「！Ａ１“…—\u0301\u3099\ufe0f\U000e0100😀👩‍🚀𠮷ｱﾞ")


@settings(deadline=None, max_examples=examples(300))
@given(st.text(KINDS) | st.text())
def test_words_are_everything_but_the_white_space(text):
    words = split_words(text)
    held = {place for start, end in words for place in range(start, end)}
    assert held == {place for place, character in enumerate(text) if not character.isspace()}
    assert all(start < end for start, end in words)
    assert all(before[1] <= after[0] for before, after in pairwise(words))


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(st.text("abz09'!.,-éß", min_size=1)))
def test_words_without_chinese_are_cut_at_white_space_only(words):
    text = " ".join(words)
    assert [text[start:end] for start, end in split_words(text)] == text.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bye! it's 10:30am", ["bye!", "it's", "10:30am"]),
        ("訂兩位，七點。", ["訂", "兩", "位", "，", "七", "點", "。"]),
        ("我要iPhone15嗎", ["我", "要", "iPhone15", "嗎"]),
        ("ＡＢ１２，３", ["ＡＢ１２", "，", "３"]),
        ("カップ、두 명", ["カ", "ッ", "プ", "、", "두", "명"]),
        ("か\u3099葛\U000e0100城", ["か\u3099", "葛\U000e0100", "城"]),  # a mark stays with what it marks
        ("𠮷野家👩‍🚀好", ["𠮷", "野", "家", "👩‍🚀", "好"]),
        ("\u0301a", ["\u0301a"]),
        ("他說“好”……", ["他", "說", "“", "好", "”……"]),
        (" \t\n\u3000", []),
        ("", []),
    ],
)
def test_words_of_hand_worked_cases(text, words):
    assert [text[start:end] for start, end in split_words(text)] == words


# Examples


def test_intent_example_wants_a_text_and_a_class_or_none():
    assert IntentExample("a", "hi", None).label is None
    with pytest.raises(DataError, match="text: empty text, found ' '"):
        IntentExample("a", " ", "b")
    with pytest.raises(DataError, match="intent: empty text, found ''"):
        IntentExample("a", "hi", "")
    with pytest.raises(DataError, match="intent: wrong type, found 3, expected a text"):
        IntentExample("a", "hi", 3)


def test_slot_example_may_hold_empty_words_and_a_sentence():
    example = SlotExample("a", ("two", "", "pm"), ("B-x", "O", "I-x"), "two  pm", ((0, 3), (4, 4), (5, 7)))
    assert example.tokens[1] == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ()}, "row a: tokens: no word in it, found [], expected at least one"),
        ({"tokens": ("x", 3)}, "tokens[1]: wrong type, found 3, expected a text"),
        ({"tags": ("O",)}, "row a: tags: not as many tags as words, found 1 tags, expected 2, one for each word"),
        ({"tags": ("O", None)}, "tags[1]: wrong type, found nothing, expected a text"),
        ({"text": "two pm"}, "row a: offsets: a sentence and offsets go together"),
        ({"offsets": ((0, 3), (4, 6))}, "row a: offsets: a sentence and offsets go together"),
        ({"text": "two pm", "offsets": ((0, 3),)}, "row a: offsets: not as many offsets as words, found 1 offsets"),
        ({"text": "two pm", "offsets": ((0, 3), (3, 6))}, "row a: offsets[1]: word 'pm' does not stand at 3..6, found"),
        ({"text": "two pm", "offsets": ((-6, -3), (4, 6))}, "row a: offsets[0]: word 'two' does not stand at -6..-3"),
        ({"text": "pm two pm", "offsets": ((3, 6), (0, 2))}, "row a: offsets[1]: word 'pm' does not stand at 0..2"),
        ({"text": " ", "tokens": ("", ""), "offsets": ((0, 0), (1, 1))}, "text: empty text"),
    ],
)
def test_slot_example_checks_itself(changes, message):
    with pytest.raises(DataError) as caught:
        SlotExample(**{"id": "a", "tokens": ("two", "pm"), "tags": None} | changes)
    assert str(caught.value).startswith(message)


TAG_FORMS = ["X-foo", "B-", "I-", "B", "b-date", "", " ", "o", "B-a\n", "B- a", "B_date", "date", "0"]


@pytest.mark.parametrize("tag", TAG_FORMS)
def test_unknown_forms_of_tag_are_refused(tag):
    with pytest.raises(DataError) as caught:
        SlotExample("a", ("two", "pm"), ("O", tag))
    assert str(caught.value) == (
        f"row a: tags[1]: unknown form of tag, found {tag!r}, expected O, B- and a label, or I- and a label"
    )


# Layouts


def intent_layouts():
    row = json.dumps(INTENT)
    other = json.dumps({"text": INTENT["text"], "label": "alarm", "id": "i1"})
    return {
        "course.json": f"[{row}]",
        "label.json": f"[{other}]",
        "rows.jsonl": f"\n{row}\n",
        "rows.ndjson": other,
        "table.csv": "id,text,intent\ni1,wake me at six,alarm\n",
        "label.CSV": "text,label,id\r\n\r\nwake me at six,alarm,i1\r\n",
        "table.tsv": "id\ttext\tother\tintent\ni1\twake me at six\tx\talarm",
    }


@pytest.mark.parametrize("name", intent_layouts())
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_layout_reads_to_the_same_intent(write, name, mark):
    path = write(mark + intent_layouts()[name], name)
    assert list(read_intents(path)) == [IntentExample("i1", "wake me at six", "alarm")]
    assert gold_labels(path) == {"i1": "alarm"}


def slot_layouts():
    lines = ["two B-people", "of I-people", "us I-people"]
    return {
        "course.json": json.dumps([SLOTS]),
        "rows.jsonl": json.dumps(SLOTS),
        "table.csv": "id,tokens,tags\ns1,two of us,B-people I-people I-people\n",
        "table.tsv": "tags\ttokens\tid\r\nB-people I-people I-people\ttwo of us\ts1\r\n",
        "spaces.conll": "# id = s1\n" + "\n".join(lines),
        "more.bio": "\n\n-DOCSTART- -X- O\n\n# sent_id=s1\n# text = two\n" + "\n".join(lines).replace(" ", " NN x  "),
        "tabs.txt": "# id = s1\r\n" + "\r\n".join(lines).replace(" ", "\t") + "\r\n\r\n\r\n",
        "bare.tsv": "# id = s1\n" + "\n".join(lines).replace(" ", "\t") + "\n \t\n",
    }


@pytest.mark.parametrize("name", slot_layouts())
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_layout_reads_to_the_same_slots(write, name, mark):
    path = write(mark + slot_layouts()[name], name)
    assert list(read_slots(path)) == [SlotExample("s1", tuple(SLOTS["tokens"]), tuple(SLOTS["tags"]))]
    assert gold_tags(path) == {"s1": tuple(SLOTS["tags"])}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ([{"text": "wake me"}, {"text": "pay it", "intent": None, "id": 7}], "a.json"),
        ('{"text": "wake me"}\n{"text": "pay it", "id": 7}', "a.jsonl"),
        ("text,intent,id\nwake me,,\npay it,,7\n", "a.csv"),
        ("text\tid\nwake me\t\npay it\t7\n", "a.tsv"),
    ],
)
def test_utterances_without_intent_read_at_prediction_time(write, content, name):
    path = write(content, name)
    assert list(read_intents(path)) == [IntentExample("#1", "wake me", None), IntentExample("7", "pay it", None)]
    with pytest.raises(DataError, match=r"row #1: intent: no intent to score against$"):
        gold_labels(path)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ([{"tokens": ["two", "pm"]}, {"tokens": ["yes"], "tags": None, "id": 7}], "a.json"),
        ("tokens,tags,id\ntwo pm,,\nyes,,7\n", "a.csv"),
        ("two\npm\n\n# id = 7\nyes\n", "a.conll"),
        ("two\npm\n\n# id = 7\nyes\n", "a.tsv"),
    ],
)
def test_words_without_tags_read_at_prediction_time(write, content, name):
    path = write(content, name)
    assert list(read_slots(path)) == [SlotExample("#1", ("two", "pm"), None), SlotExample("7", ("yes",), None)]
    with pytest.raises(DataError, match=r"row #1: tags: no tags to score against$"):
        gold_tags(path)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ([{"text": "訂 2 位", "id": "a"}], "a.json"),
        ("id,text\na,訂 2 位\n", "a.csv"),
        ("id\ttext\tlang\na\t訂 2 位\tzh\n", "a.tsv"),
    ],
)
def test_a_sentence_may_stand_instead_of_words_where_there_are_no_tags(write, content, name):
    offsets = ((0, 1), (2, 3), (4, 5))
    assert list(read_slots(write(content, name))) == [SlotExample("a", ("訂", "2", "位"), None, "訂 2 位", offsets)]


def test_words_count_where_a_row_has_a_sentence_too(write):
    (found,) = read_slots(write([SLOTS | {"text": "two of us"}]))
    assert found.tokens == ("two", "of", "us")
    assert found.text is None


def test_empty_words_are_kept_where_a_layout_can_write_them(write):
    expected = SlotExample("#1", ("two", "", "pm"), ("O", "O", "B-time"))
    for content, name in (
        ([{"tokens": ["two", "", "pm"], "tags": ["O", "O", "B-time"]}], "a.json"),
        ("tokens,tags\ntwo  pm,O O B-time\n", "a.csv"),
        ("two\tO\n\tO\npm\tB-time\n", "a.conll"),
    ):
        assert list(read_slots(write(content, name))) == [expected]


def test_only_tabs_and_spaces_separate_columns(write):
    content = "10\xa030\u3000am B-time\n\u3000 O\n#  O\n# O\n"
    (found,) = read_slots(write(content, "a.conll"))
    assert found.tokens == ("10\xa030\u3000am", "\u3000", "#", "#")


def test_sentences_are_numbered_by_their_place_and_comments_go_with_the_next(write):
    content = "a O\n\n\n# newdoc id = d\n# id = second\nb O\n\n# source = x\nc O\n-DOCSTART- O\nd O"
    assert [example.id for example in read_slots(write(content, "a.txt"))] == ["#1", "second", "#3", "#4"]


def test_a_tsv_whose_first_word_is_called_like_a_column_is_no_table(write):
    (found,) = read_slots(write("text\tO\nme\tB-who\n", "a.tsv"))
    assert found.tokens == ("text", "me")


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r "), max_size=6)
ROWS = st.lists(
    st.lists(st.tuples(WORDS, st.sampled_from(["O", "B-a", "B-b-c"])), min_size=1, max_size=5), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=examples(60))
@given(ROWS)
def test_whatever_the_words_every_layout_holds_them(tmp_path_factory, sentences):
    folder = tmp_path_factory.mktemp("slots")
    rows = [{"tokens": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]} for pairs in sentences]
    expected = [
        SlotExample(f"#{number}", tuple(row["tokens"]), tuple(row["tags"])) for number, row in enumerate(rows, 1)
    ]
    (folder / "a.json").write_text(json.dumps(rows), "utf-8")
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (folder / "a.conll").write_text(
        "\n".join("".join(f"{word}\t{tag}\n" for word, tag in pairs) for pairs in sentences), "utf-8-sig", newline=""
    )
    with (folder / "a.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, ["tokens", "tags"])
        writer.writeheader()
        writer.writerows({name: " ".join(values) for name, values in row.items()} for row in rows)
    names = ["a.json", "a.jsonl"]
    if all(any(row["tokens"]) for row in rows):  # a cell cannot hold nothing but one empty word
        names.append("a.csv")
    if not any("-DOCSTART-" in row["tokens"] for row in rows):
        names.append("a.conll")
    for name in names:
        assert list(read_slots(folder / name)) == expected, name


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1, max_size=4))
def test_whatever_the_texts_every_layout_holds_them(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("intents")
    rows = [{"text": text, "intent": "x"} for text in texts]
    (folder / "a.json").write_text(json.dumps(rows), "utf-8")
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (folder / "clinc.json").write_text(json.dumps({"train": [[text, "x"] for text in texts]}), "utf-8")
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (folder / name).open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, ["text", "intent"], delimiter=delimiter, quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    for path in folder.iterdir():
        assert [example.text for example in read_intents(path, split="train")] == texts, path.name


# CLINC150


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", {"#1": "oos", "#2": "alarm", "#3": "bill"}),
        ("val", {"#1": "oos", "#2": "discount"}),
        ("test", {"#1": "alarm", "#2": "oos"}),
    ],
)
def test_a_split_of_clinc_has_its_out_of_scope_rows(write, split, expected):
    assert gold_labels(write(CLINC), split=split) == expected


def test_out_of_scope_rows_are_so_whatever_their_class_is_called(write):
    assert gold_labels(write({"oos_test": [["why", "none"]]}), split="test") == {"#1": "oos"}


def test_other_layouts_have_one_split(write):
    assert len(list(read_intents(write([INTENT]), split="val"))) == 1


@pytest.mark.parametrize(
    ("value", "split", "message"),
    [
        (CLINC, None, "the file has several splits and none is chosen, expected one of val, train, test"),
        (CLINC, "dev", "no such split, found 'dev', expected one of val, train, test"),
        ({"train": "x", "test": []}, "train", "no such split, found 'train', expected one of test"),
        ({"train": []}, "train", "no utterance in it, expected at least one row"),
        (INTENT, None, "not a data file, expected a JSON list of rows, or the splits of CLINC150"),
        ({}, "train", "not a data file, found 'train', expected a JSON list of rows, or the splits"),
        ({"train": [["a", "b"], "c"]}, "train", "row train[1]: wrong type, found 'c', expected [text, intent]"),
        ({"train": [["a"]]}, "train", "row train[0]: wrong type, found ['a'], expected [text, intent]"),
        ({"oos_val": [["", "oos"]]}, "val", "row oos_val[0]: text: empty text, found ''"),
        ({"val": [["a", 3]]}, "val", "row val[0]: intent: wrong type, found 3, expected a text"),
    ],
)
def test_faulty_clinc_file_is_refused_by_split_and_place(write, value, split, message):
    assert refused(read_intents, write(value), split=split).startswith(message)


def test_what_is_no_split_of_clinc_is_passed_over(write):
    assert gold_labels(write({"version": 1, **CLINC, "note": {"train": "x"}}), split="test") == {
        "#1": "alarm",
        "#2": "oos",
    }


# Faults of a row


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["x"], "row #1: wrong type, found 'x', expected an object with text and intent"),
        ([INTENT, None], "row #2: wrong type, found nothing, expected an object with text and intent"),
        ([without(INTENT, "text")], "row i1: text: wrong type, found nothing, expected a text"),
        ([INTENT | {"text": "\n"}], r"row i1: text: empty text, found '\n', expected at least one visible character"),
        ([INTENT | {"text": ["a"]}], "row i1: text: wrong type, found ['a'], expected a text"),
        ([INTENT | {"text": "a\ud83d"}], r"row i1: text: half of a surrogate pair at character 1, found '\ud83d'"),
        ([INTENT | {"intent": ""}], "row i1: intent: empty text, found ''"),
        ([INTENT | {"intent": 3}], "row i1: intent: wrong type, found 3, expected a text"),
        ([INTENT | {"intent": "\udc00"}], r"row i1: intent: half of a surrogate pair at character 0"),
        ([INTENT | {"id": True}], "row #1: id: wrong type, found True, expected a text or a whole number"),
        ([INTENT | {"id": ""}], "row #1: id: wrong type, found '', expected a text or a whole number"),
        ([INTENT | {"id": 1.5}], "row #1: id: wrong type, found 1.5, expected a text or a whole number"),
        ([INTENT | {"id": "\ud83d"}], "row #1: id: half of a surrogate pair"),
        ([INTENT, INTENT], "row i1: id: repeated id, found 'i1', expected one row an id"),
        ([INTENT | {"id": 7}, INTENT | {"id": "7"}], "row 7: id: repeated id, found '7', expected one row an id"),
        ([INTENT | {"id": "#2"}, without(INTENT, "id")], "row #2: id: repeated id, found '#2'"),
    ],
)
def test_faulty_intent_is_refused_by_file_row_field_found_and_expected(write, rows, message):
    assert refused(read_intents, write(rows)).startswith(message)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (5, "row #1: wrong type, found 5, expected an object with tokens and tags"),
        (without(SLOTS, "tokens"), "row s1: tokens: missing, expected a list of words, or text, a sentence"),
        (without(SLOTS, "tokens") | {"text": "two of us"}, "row s1: tokens: tags without their words, expected a list"),
        ({"text": " "}, "row #1: text: empty text, found ' '"),
        ({"text": 3}, "row #1: text: wrong type, found 3, expected a text"),
        ({"tokens": []}, "row #1: tokens: no word in it, found [], expected at least one"),
        (SLOTS | {"tokens": "two of us"}, "row s1: tokens: wrong type, found 'two of us', expected a list of words"),
        (SLOTS | {"tags": "O O O"}, "row s1: tags: wrong type, found 'O O O', expected a list of tags"),
        (SLOTS | {"tokens": ["a", None, "b"]}, "row s1: tokens[1]: wrong type, found nothing, expected a text"),
        (
            SLOTS | {"tokens": ["a", "\ud83d", "b"]},
            r"row s1: tokens[1]: half of a surrogate pair at character 0, found",
        ),
        (SLOTS | {"tags": ["O", 0, "O"]}, "row s1: tags[1]: wrong type, found 0, expected a text"),
        (SLOTS | {"tags": ["O", "O"]}, "row s1: tags: not as many tags as words, found 2 tags, expected 3, one for"),
        (SLOTS | {"tags": ["O", "X-foo", "O"]}, "row s1: tags[1]: unknown form of tag, found 'X-foo', expected O, B-"),
        (SLOTS | {"tags": ["O", "B-\udc00", "O"]}, "row s1: tags[1]: half of a surrogate pair at character 2"),
    ],
)
def test_faulty_slots_are_refused_by_file_row_field_found_and_expected(write, row, message):
    assert refused(read_slots, write([row])).startswith(message)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("tokens,tags\na b,O\n", "a.csv", "row #1: tags: not as many tags as words, found 1 tags, expected 2"),
        ("tokens,tags\na  b,O O\n", "a.csv", "row #1: tags: not as many tags as words, found 2 tags, expected 3"),
        ("tokens,tags\n,O\n", "a.csv", "row #1: tokens: missing, expected a list of words"),
        ("tokens,tags\na,O,x\n", "a.csv", "row line 2: unequal number of cells, found 3 cells, expected 2, as in"),
        ("tokens,tags\na,date\n", "a.csv", "row #1: tags[0]: unknown form of tag, found 'date', expected O, B- and"),
        ("words,tags\na,O\n", "a.csv", "row line 1: no such column, found ['words', 'tags'], expected tokens or text"),
        ("a O\nb B-\n", "a.conll", "row line 1: tags[1]: unknown form of tag, found 'B-', expected O, B- and a label"),
        ("\n# id = x\na O\nb b-date\n", "a.conll", "row x: tags[1]: unknown form of tag, found 'b-date'"),
        (
            "a O\n\n# no comment\nb O\n",
            "a.conll",
            "row line 3: unequal number of columns, found 2 at line 4, expected 3",
        ),
        ("# id = x\na O\nb\n", "a.bio", "row x: unequal number of columns, found 1 at line 3, expected 2 as at line 2"),
        ("# id = x\na O\n\n# id = x\nb O\n", "a.txt", "row x: id: repeated id, found 'x', expected one row an id"),
        ("# id =\na O\n", "a.txt", "row line 2: id: wrong type, found '', expected a text or a whole number"),
    ],
)
def test_faulty_slots_of_a_table_or_conll_are_refused_by_their_place(write, content, name, message):
    assert refused(read_slots, write(content, name)).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "row line 1: no such column, found [], expected text"),
        ("text,intent\n", "no utterance in it, expected at least one row"),
        ("a b,alarm\n", "row line 1: no such column, found ['a b', 'alarm'], expected text"),
        ("text,text\na,b\n", "row line 1: repeated column, found ['text', 'text'], expected each name once"),
        ("text,intent\na\n", "row line 2: unequal number of cells, found 1 cells, expected 2, as in the header"),
        ("text,intent\n,b\n", "row #1: text: empty text, found ''"),
        ('text,intent\n"a,b\n', "row line 2: not a table (unexpected end of data)"),
        ('text,intent\n"a"b,c\n', "row line 2: not a table (',' expected after '\"')"),
    ],
)
def test_faulty_table_is_refused_by_its_line(write, content, message):
    assert refused(read_intents, write(content, "a.csv")).startswith(message)


@pytest.mark.parametrize(
    ("read", "row", "fault"), [(read_intents, INTENT, {"text": " "}), (read_slots, SLOTS, {"tags": ["O"]})]
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_faulty_rows_are_left_out_and_counted_where_asked_for(write, read, row, fault, name):
    rows = [row, row | fault | {"id": "b"}, None, row, row | {"id": ""}, without(row, "id")]
    log = ReadLog(skip_faulty=True)
    found = list(read(write(rows if name == "a.json" else "\n".join(map(json.dumps, rows)), name), log=log))
    assert [example.id for example in found] == [row["id"], "#6"]
    assert [error.row for error in log.skipped] == ["b", "#3", row["id"], "#5"]
    assert [error.problem for error in log.skipped][1:] == ["wrong type", "repeated id", "wrong type"]
    assert all(error.file for error in log.skipped)


@pytest.mark.parametrize("mark", [",", "\t"])
def test_faulty_rows_of_a_table_are_left_out_and_counted_where_asked_for(write, mark):
    log = ReadLog(skip_faulty=True)
    content = "id;text\na;wake me\nb; \nc\na;pay it\n;ring\n".replace(";", mark)
    found = read_intents(write(content, "a.csv" if mark == "," else "a.tsv"), log=log)
    assert [example.id for example in found] == ["a", "#5"]
    assert [error.row for error in log.skipped] == ["b", "line 4", "a"]


def test_faulty_sentences_of_conll_are_left_out_and_counted_where_asked_for(write):
    log = ReadLog(skip_faulty=True)
    content = "a O\nb\n\nc O\n\n# id = x\nd o\n\ne O\n\n"
    assert [example.id for example in read_slots(write(content, "a.conll"), log=log)] == ["#2", "#4"]
    assert [error.row for error in log.skipped] == ["line 1", "x"]


# Tags that are not well-formed

MALFORMED = {"id": "m", "tokens": list("abcdef"), "tags": ["I-x", "I-x", "I-y", "O", "I-y", "B-y"]}


def test_an_i_tag_without_its_beginning_is_read_as_one_and_counted(write):
    log = ReadLog()
    (found,) = read_slots(write([MALFORMED]), log=log)
    assert found.tags == ("B-x", "I-x", "B-y", "O", "B-y", "B-y")
    assert log.repaired == 3
    assert gold_tags(write([MALFORMED])) == {"m": found.tags}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("I-x O", "row #1: tags[0]: does not go on with the word before it, found 'I-x', expected B-x, or a word of"),
        ("O I-x", "row #1: tags[1]: does not go on with the word before it, found 'I-x', expected B-x"),
        ("B-y I-x", "row #1: tags[1]: does not go on with the word before it, found 'I-x', expected B-x"),
    ],
)
def test_an_i_tag_without_its_beginning_is_refused_where_asked_for(write, tags, message):
    path = write([{"tokens": ["a", "b"], "tags": tags.split()}])
    assert refused(read_slots, path, bio="strict").startswith(message)
    assert refused(gold_tags, path, bio="strict").startswith(message)
    log = ReadLog(skip_faulty=True)
    assert not list(read_slots(path, bio="strict", log=log))
    assert len(log.skipped) == 1
    assert log.repaired == 0


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])))
def test_repair_changes_beginnings_only_and_once(tags):
    repaired = repair_bio(tags)
    assert repair_bio(repaired) == repaired
    assert [tag[1:] for tag in repaired] == [tag[1:] for tag in tags]
    for place, (tag, other) in enumerate(zip(tags, repaired, strict=True)):
        goes_on = tag[0] == "I" and place > 0 and tags[place - 1][2:] == tag[2:]
        assert other[0] == (tag[0] if goes_on or tag[0] != "I" else "B")


# Faults of a file


@pytest.mark.parametrize("read", [read_intents, read_slots])
@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.json", "not a data file at line 1 column 1, found 'nothing', expected a JSON list of rows"),
        ("5", "a.json", "not a data file at line 1 column 1, found '5', expected a JSON list of rows"),
        ("a,b\n", "a.unknown", "not a data file at line 1 column 1, found 'a', expected a JSON list of rows"),
        ("[]", "a.json", "no utterance in it, expected at least one row"),
        ("[] []", "a.json", "text after the end of the JSON value at line 1 column 4"),
        ('[{"id": 1', "a.json", "the file ends too early at line 1"),
        ('[{"id": NaN}]', "a.json", "not JSON at line 1 column 2, found 'NaN'"),
        ("\n", "a.jsonl", "no utterance in it, expected at least one row"),
        ("\n{", "a.jsonl", "row line 2: not JSON ("),
    ],
)
def test_file_that_is_not_the_json_it_should_be_is_refused_by_the_place(write, read, content, name, message):
    assert refused(read, write(content, name)).startswith(message)


def test_slots_are_no_object(write):
    message = "not a data file at line 1 column 1, found '{', expected a JSON list of rows"
    assert refused(read_slots, write(SLOTS)) == message


@pytest.mark.parametrize("content", ["", "\n \n", "# id = x\n", "-DOCSTART- O\n"])
def test_conll_without_a_sentence_is_refused(write, content):
    assert refused(read_slots, write(content, "a.conll")) == "no utterance in it, expected at least one row"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.conll"])
def test_other_encoding_than_utf_8_is_refused_with_the_bytes_and_a_remedy(write, name):
    content = '[{"text": "渡船"}]'.encode("big5")
    for read in [read_slots] if name == "a.conll" else [read_intents, read_slots]:
        message = refused(read, write(content, name))
        assert re.match(r"not UTF-8, found b'.+', expected UTF-8 text \(.*iconv -f BIG5 -t UTF-8\)", message)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.conll"])
@pytest.mark.parametrize("read", [read_intents, read_slots])
def test_missing_file_and_directory_are_refused_by_name(tmp_path, read, name):
    path = tmp_path / name
    assert refused(read, path) == "no such file"
    path.mkdir()
    assert refused(read, path) == "cannot be read: Is a directory"


@pytest.mark.parametrize(("read", "row"), [(read_intents, INTENT), (read_slots, SLOTS)])
def test_rows_are_read_one_by_one(write, read, row):
    reader = read(write("[" + json.dumps(row) + ", oops]"))
    assert next(reader).id == row["id"]
    with pytest.raises(DataError, match="not JSON"):
        next(reader)


def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "a.json"
    os.mkfifo(path)
    writer = Thread(target=path.write_text, args=(json.dumps([INTENT]), "utf-8"), daemon=True)
    writer.start()
    assert gold_labels(path) == {"i1": "alarm"}
    writer.join()


# Real data


@pytest.mark.parametrize(("name", "count"), [("train", 15_000), ("eval", 3_000)])
def test_real_intents_read_whole(shared, name, count):
    gold = gold_labels(shared / "intent" / f"{name}.json")
    assert len(gold) == count
    assert len(set(gold.values())) == 150


def test_real_intents_without_labels_read(shared):
    found = list(read_intents(shared / "intent" / "test.json"))
    assert len(found) == 4_500
    assert {example.label for example in found} == {None}


def test_real_slots_read_whole_and_are_well_formed(shared):
    log = ReadLog()
    found = list(read_slots(shared / "slot" / "train.json", bio="strict", log=log))
    assert (len(found), log.repaired) == (7_244, 0)
    assert sum("" in example.tokens for example in found) == 26
    labels = {tag[2:] for example in found for tag in example.tags} - {""}
    assert labels == {"people", "date", "time", "first_name", "last_name"}


def test_real_slots_without_labels_read_and_english_words_are_those_of_their_sentence(shared):
    found = list(read_slots(shared / "slot" / "test.json"))
    assert len(found) == 3_731
    assert {example.tags for example in found} == {None}
    for text in (" ".join(example.tokens) for example in found):
        assert [text[start:end] for start, end in split_words(text)] == text.split() or not text.isascii()


def test_a_fault_is_one_line_whatever_the_row_is_called(tmp_path):
    path = tmp_path / "u.jsonl"
    path.write_text('{"id": "\\nu\\u20281", "text": "  ", "intent": "a"}', "utf-8")
    with pytest.raises(DataError) as raised:
        list(read_intents(path))
    assert str(raised.value).endswith("row  u 1: text: empty text, found '  ', expected at least one visible character")
    assert raised.value.row == "\nu\u20281"
