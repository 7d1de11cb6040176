"""What a file of utterances is told by, and what the doctor says of it."""

import json
import os
import sys
from threading import Thread

import pytest

from zhaiju import cli
from zhaiju.data.check_labelled import SMALL_CLASS, check_labelled
from zhaiju.data.labelled import has_splits, kind_of
from zhaiju.errors import DataError

INTENT = {"id": "i1", "text": "wake me at six", "intent": "alarm"}
SLOTS = {"id": "s1", "tokens": ["two", "of", "us"], "tags": ["B-people", "I-people", "I-people"]}
CLINC = {"oos_val": [["who won", "oos"]], "val": [["cheaper", "bill"]], "train": [["wake me", "alarm"]]}
FLAT = {"id": "q", "question": "誰？", "context": "老王來了。", "answers": [{"text": "老王", "start": 0}]}
COURSE = {"id": "q", "question": "誰？", "paragraphs": [0, 1], "relevant": 0}
SQUAD = {"version": "1.1", "data": [{"paragraphs": [{"context": "老王來了。", "qas": []}]}]}


@pytest.fixture
def write(tmp_path):
    def save(value, name="data.json"):
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8", newline="")
        return path

    return save


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# What it is for


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        ([INTENT], "a.json", "intent"),
        ([INTENT], "a", "intent"),
        ([{"text": "wake me"}], "a.json", "intent"),
        ([{"text": "wake me", "label": "alarm"}], "a.json", "intent"),
        ([{"intent": "alarm"}], "a.json", "intent"),  # its row is a faulty one
        ([SLOTS], "a.json", "slots"),
        ([{"tokens": ["two"]}], "a.json", "slots"),
        ([{"tags": ["O"], "text": "two"}], "a.json", "slots"),
        ("\ufeff" + json.dumps([INTENT]), "a.json", "intent"),
        (lines(INTENT, SLOTS), "a.jsonl", "intent"),
        ("\n\n" + lines(SLOTS), "a.ndjson", "slots"),
        (lines(SLOTS), "a.JSONL", "slots"),
        ("text,intent,id\r\nwake me,alarm,1\r\n", "a.csv", "intent"),
        ('"id","text"\n1,wake me\n', "a.csv", "intent"),
        ("\ufeffid , tokens,tags\n1,two,O\n", "a.csv", "slots"),
        ("text\tintent\nwake me\talarm\n", "a.tsv", "intent"),
        ('"text"\t"intent"\n"wake me"\t"alarm"\n', "a.tsv", "intent"),
        ("id\ttokens\ttags\n1\ttwo\tO\n", "a.tsv", "slots"),
        ("two\tB-people\nof\tI-people\n", "a.tsv", "slots"),
        ("text\tO\n", "a.tsv", "slots"),  # a word
        ("two B-people\n", "a.conll", "slots"),
        ("two B-people\n", "a.bio", "slots"),
        ("two\n", "a.txt", "slots"),
        (CLINC, "data_full.json", "intent"),
        ({"oos_test": []}, "a.json", "intent"),
        ({"note": {"train": 5}, "count": 3, "test": []}, "a.json", "intent"),
    ],
)
def test_every_layout_is_known_by_its_name_header_or_first_row(write, content, name, kind):
    assert kind_of(write(content, name)) == kind


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ([FLAT], "a.json"),
        ([COURSE], "a.json"),
        ([COURSE | {"text": "more"}], "a.json"),
        (lines(FLAT), "a.jsonl"),
        (SQUAD, "a.json"),
        (["老王來了。"], "context.json"),
        ([], "a.json"),
        ({}, "a.json"),
        ({"note": {"train": []}}, "a.json"),
        ("5", "a.json"),
        ([["wake me", "alarm"]], "a.json"),
        (lines(["text"]), "a.jsonl"),
        ("a,b\n1,2\n", "a.csv"),
    ],
)
def test_questions_and_what_is_unknown_are_no_utterances(write, content, name):
    assert kind_of(write(content, name)) is None


@pytest.mark.parametrize(("suffix", "kind"), [("json", None), ("jsonl", None), ("csv", None), ("conll", "slots")])
def test_an_empty_file_is_told_by_its_name_alone(write, suffix, kind):
    assert kind_of(write("", f"a.{suffix}")) is kind
    assert not has_splits(write("", f"a.{suffix}"))


def test_a_directory_and_what_is_not_there_are_no_utterances(tmp_path):
    for suffix in ("", ".json", ".conll", ".csv"):
        assert kind_of(tmp_path / f"nowhere{suffix}") is None
        assert not has_splits(tmp_path / f"nowhere{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        assert kind_of(tmp_path / f"folder{suffix}") is None
        assert not has_splits(tmp_path / f"folder{suffix}")


def test_a_pipe_is_left_to_be_read_once_by_whom_it_is_for(tmp_path):
    path = tmp_path / "a.json"
    os.mkfifo(path)
    writer = Thread(target=path.write_text, args=(json.dumps([INTENT]), "utf-8"), daemon=True)
    writer.start()
    assert kind_of(path) is None
    assert not has_splits(path)
    assert path.read_text("utf-8") == json.dumps([INTENT])
    writer.join()


def test_only_a_json_object_has_splits(write):
    assert has_splits(write(CLINC))
    assert has_splits(write(f" \n{json.dumps(CLINC)}", "a.txt.bak"))
    assert not has_splits(write([INTENT]))
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.conll"):
        assert not has_splits(write("{ O\n", name))


@pytest.mark.parametrize(("content", "name"), [('[{"text": ', "a.json"), ("{oops", "a.jsonl"), ("{5: 1}", "a.json")])
def test_what_is_not_json_is_refused_by_file_and_place(write, content, name):
    path = write(content, name)
    with pytest.raises(DataError) as caught:
        kind_of(path)
    assert str(caught.value).startswith(f"{path}: ")


# What is in it


def test_intents_are_counted_by_class_the_most_frequent_first(write):
    rows = [{"text": f"wake me at {n}", "intent": "alarm"} for n in range(SMALL_CLASS)]
    rows += [{"text": f"pay {n}", "intent": "bill"} for n in range(SMALL_CLASS - 1)]
    report = check_labelled(write([*rows, {"text": "why", "intent": "a"}, {"text": "unlabelled"}]))
    assert report.healthy
    assert (report.kind, report.rows, report.labelled) == ("intent", SMALL_CLASS * 2 + 1, SMALL_CLASS * 2)
    assert list(report.classes.items()) == [("alarm", SMALL_CLASS), ("bill", SMALL_CLASS - 1), ("a", 1)]
    assert report.small_classes == ["bill", "a"]
    assert (report.repeated, report.conflicting, report.malformed_tags, report.blank_words) == (0, [], 0, 0)


def test_slots_are_counted_by_kind_and_malformed_tags_and_blank_words_too(write):
    rows = [
        SLOTS,
        {"tokens": ["at", " ", "six", ""], "tags": ["O", "O", "I-time", "I-place"]},
        {"tokens": ["at", "six"], "tags": ["B-time", "B-time"]},
        {"text": "a sentence"},
    ]
    report = check_labelled(write(rows))
    assert (report.kind, report.rows, report.labelled, report.faults) == ("slots", 4, 3, [])
    assert report.classes == {"time": 3, "people": 1, "place": 1}  # I- tags that begin a slot are read as B-
    assert (report.malformed_tags, report.blank_words, report.small_classes) == (2, 2, [])
    assert not report.healthy


def test_every_layout_says_the_same(write):
    words, tags = ["two", "", "us"], ["B-people", "I-people", "O"]
    row = {"id": "a", "tokens": words, "tags": tags}
    layouts = {
        "a.json": [row],
        "a.jsonl": lines(row),
        "a.csv": f"id,tokens,tags\na,{' '.join(words)},{' '.join(tags)}\n",
        "a.tsv": f"id\ttokens\ttags\na\t{' '.join(words)}\t{' '.join(tags)}\n",
        "a.conll": "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True)),
    }
    found = [check_labelled(write(content, name)).to_json() for name, content in layouts.items()]
    for one in found:
        one.pop("file")
    assert found == [found[0]] * len(layouts)
    assert (found[0]["classes"], found[0]["blank_words"]) == ({"people": 1}, 1)


def test_all_splits_of_a_clinc_file_are_examined_together(write):
    report = check_labelled(write(CLINC | {"test": [["wake me", "bill"]], "oos_test": [["why"], ["", "oos"]]}))
    assert (report.rows, report.labelled) == (6, 4)
    assert list(report.classes.items()) == [("bill", 2), ("alarm", 1), ("oos", 1)]
    assert report.conflicting == ["'wake me': alarm | bill"]
    assert [fault.split("data.json: ")[1].split(",")[0] for fault in report.faults] == [
        "row oos_test[0]: wrong type",
        "row oos_test[1]: text: empty text",
    ]


def test_an_utterance_that_stands_more_than_once_is_counted_and_its_ways_are_named(write):
    made = [("rain", "weather")] * 3 + [("rain", "oos"), ("sun", "weather"), ("sun", "weather"), ("fog", "oos")]
    rows = [{"text": text, "intent": intent} for text, intent in made]
    report = check_labelled(write(rows))
    assert (report.repeated, report.conflicting) == (2, ["'rain': weather | oos"])
    assert report.healthy  # a warning, nothing that stops a training
    tagged = [{"tokens": ["at", "six"], "tags": tags} for tags in (["O", "B-time"], ["O", "O"])]
    assert check_labelled(write(tagged)).conflicting == ["'at six': O B-time | O O"]


def test_an_utterance_with_and_without_its_class_is_not_labelled_in_several_ways(write):
    report = check_labelled(write([{"text": "rain", "intent": "weather"}, {"text": "rain"}]))
    assert (report.repeated, report.conflicting) == (1, [])


def test_every_faulty_row_is_listed_not_only_the_first(write):
    rows = [INTENT, {"text": " ", "intent": "x"}, INTENT, 5, {"id": "z", "text": "a", "intent": 7}]
    report = check_labelled(write(rows))
    assert (report.rows, report.labelled, len(report.faults)) == (5, 1, 4)
    assert not report.healthy
    for fault, place in zip(report.faults, ("row #2: text: ", "row i1: id: ", "row #4: ", "row z: "), strict=True):
        assert f"data.json: {place}" in fault
    assert report.to_json()["faults_total"] == 4


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ([FLAT], "a.json", "not a file of utterances"),
        ("", "a.json", "not a file of utterances"),
        ("", "a.conll", "no utterance in it"),
        ("text,intent\n", "a.csv", "no utterance in it"),
        ({"train": [], "val": []}, "a.json", "no utterance in it"),
        ({"text": ["wake me"], "intent": ["alarm"]}, "a.json", "no utterance in it"),  # columns are no layout
        ({"train": {"wake me": "alarm"}}, "a.json", "not a data file"),
        ('{"train": [["wake me", "alarm"]], "val": [["pay"', "a.json", "the file ends too early"),
    ],
)
def test_a_file_that_holds_no_utterance_stops_the_check(write, content, name, message):
    with pytest.raises(DataError, match=message):
        check_labelled(write(content, name))


# The command


@pytest.fixture
def check(capfd, monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["zhaiju", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return stopped.value.code, out, err

    return call


def test_check_tells_of_utterances_on_the_terminal_and_as_json(check, write):
    path = write([INTENT, {"text": "rain", "intent": "weather"}, {"text": "rain", "intent": "oos\x1b[31m"}])
    code, out, _ = check(path)
    assert code == 0
    assert f"{path}: labelled in several ways: 'rain': weather | oos" in out
    assert "\x1b" not in out
    for name in ("utterances", "repeated utterances", "classes"):
        assert name in out
    code, out, _ = check(path, "--json")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(check_labelled(path).to_json()))


def test_check_shows_the_most_and_the_least_frequent_of_many_classes(check, write):
    rows = [{"text": f"{n} {m}", "intent": f"class{n:02}"} for n in range(12) for m in range(12 - n)]
    code, out, _ = check(write(rows))
    assert code == 0
    shown = " ".join(out.replace("│", " ").split())
    assert "class00 12, class01 11, class02 10, class03 9, class04 8" in shown
    assert "class11 1" in shown
    assert "class05" not in shown


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([INTENT], 0),
        ([INTENT, {**INTENT, "id": "i2", "intent": "bill"}], 0),  # twice labelled
        ([INTENT, INTENT], 1),
        ([{"text": ""}], 1),
        ([SLOTS], 0),
        ([SLOTS | {"tags": ["I-people", "O", "O"]}], 1),
        ([SLOTS | {"tags": ["O"]}], 1),
    ],
)
def test_check_strict_fails_on_faulty_rows_and_malformed_tags(check, write, rows, code):
    path = write(rows)
    assert check(path, "--strict")[0] == code
    assert check(path, "--strict", "--json")[0] == code
    assert check(path)[0] == 0


def test_check_names_each_faulty_row_on_a_line(check, write):
    path = write([{"id": "a", "text": "\n"}, {"id": "b", "text": "two", "intent": " "}])
    code, out, _ = check(path)
    assert code == 0
    assert f"{path}: row a: text: empty text, found '\\n'" in out.splitlines()[0]
    assert f"{path}: row b: " in out.splitlines()[1]


def test_check_takes_utterances_and_questions_together_and_keeps_their_order(check, write):
    paths = [write([FLAT], "a.json"), write([SLOTS], "b.json"), write([FLAT], "c.json"), write(CLINC, "d.json")]
    code, out, _ = check(*paths, "--json", "--strict")
    assert code == 0
    files = json.loads(out)["files"]
    assert [report["file"] for report in files] == list(map(str, paths))
    assert [report.get("kind") for report in files] == [None, "slots", None, "intent"]
    assert files[0]["shared_contexts"] == {str(paths[2]): 1}
    code, out, _ = check(*paths)
    assert code == 0
    assert [line.strip() for line in out.splitlines() if line.strip() in map(str, paths)] == list(map(str, paths))


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.conll", "no utterance in it"),
        ("", "a.json", "not a data file"),
        ("a,b\n1,2\n", "a.csv", "not a data file"),
        ([5], "a.json", "row #1: "),
        ('[{"text"', "a.json", "the file ends too early"),
    ],
)
def test_check_refuses_what_it_does_not_know_in_one_line(check, write, content, name, message):
    code, out, err = check(write(content, name))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("zhaiju: ") == 1


def test_check_of_a_directory_or_nothing_is_refused(check, tmp_path):
    (tmp_path / "folder.json").mkdir()
    assert "cannot be read: Is a directory" in check(tmp_path / "folder.json")[2]
    assert "nowhere.json: no such file" in check(tmp_path / "nowhere.json")[2]


def test_check_reads_a_pipe_of_questions(check, tmp_path):
    path = tmp_path / "q.jsonl"
    os.mkfifo(path)
    writer = Thread(target=path.write_text, args=(lines(FLAT), "utf-8"), daemon=True)
    writer.start()
    code, out, err = check(path, "--json")
    writer.join()
    assert code == 0, err
    assert json.loads(out)["rows"] == 1
