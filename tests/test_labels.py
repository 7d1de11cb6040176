"""Labelling: what was accepted is in the file, and the file is one to train on."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kills
from budget import examples
from zhaiju.corpus.documents import Paragraph
from zhaiju.data.formats import ReadLog, context_file, load_contexts, read_qa
from zhaiju.errors import DataError, OutputError
from zhaiju.service import labels as module
from zhaiju.service.app import make_app
from zhaiju.service.batching import LateError, StoppedError, Ticket
from zhaiju.service.labelling import _attached
from zhaiju.service.labels import Labels, Question, Sources, read_questions, read_sources
from zhaiju.service.limits import LOOPBACK, RequestError, Settings
from zhaiju.service.work import load_models

KILLS = kills.count(3)
BOAT, SHOPS, EMOJI = "林師傅在河邊修船。", "鎮上有兩家書店。", "😀船修好了🐳，林師傅明天下水。"
NOTES = f"# 河邊\n\n{BOAT}\n\n{SHOPS}\n"
WHO = {"paragraph": 0, "question": "誰在修船？", "answers": [{"start": 0, "end": 3}]}


def sources(*texts):
    return Sources([Paragraph(text, "a.md", line=line) for line, text in enumerate(texts, 1)])


def put(labels, name, paragraph=0, question="誰？", spans=((0, 3),)):
    return labels.put(name, paragraph, question, list(spans), Ticket())


def squad(*paragraphs, **head):
    """(context, qas) each."""
    told = [{"context": context, "qas": list(qas)} for context, qas in paragraphs]
    return {"data": [{"title": "書", "paragraphs": told}]} | head


def qa(name, *answers, **more):
    told = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "問？", "answers": told} | more


@pytest.fixture
def write(tmp_path):
    def call(name, value):
        path = tmp_path / name
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        path.write_text(text, "utf-8")
        return path

    return call


@pytest.fixture
def output(tmp_path):
    return tmp_path / "labels.json"


@pytest.fixture(scope="module")
def models():
    return load_models(selector=None)


@contextmanager
def labelling(models, labels, **chosen):
    """A function that sends a request and gives the response."""
    app = make_app(Settings(**chosen), models, labels=labels)

    def call(method, path, **options):
        async def send():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
                return await client.request(method, f"/v1/labels{path}", **options)

        return asyncio.run(send())

    try:
        yield call
    finally:
        app.state.worker.close(drain=False)


# --- the contract


def test_a_question_is_put_shown_changed_and_deleted(models, write, output):
    write("a.md", NOTES)
    with Labels(output, read_sources([output.with_name("a.md")])) as labels, labelling(models, labels) as call:
        assert call("GET", "").json() == {
            "file": "labels.json",
            "paragraphs": [
                {"id": 0, "document": "a.md", "heading": "河邊", "line": 3, "page": None, "text": BOAT},
                {"id": 1, "document": "a.md", "heading": "河邊", "line": 5, "page": None, "text": SHOPS},
            ],
            "examples": [],
        }
        assert not output.exists()
        expected = {
            "id": "q1",
            "paragraph": 0,
            "question": "誰在修船？",
            "answers": [{"text": "林師傅", "start": 0, "end": 3}],
            "is_impossible": False,
        }
        response = call("PUT", "/q1", json=WHO)
        assert (response.status_code, response.json()) == (200, expected)
        assert call("GET", "").json()["examples"] == [expected]
        moved = call("PUT", "/q1", json={"paragraph": 1, "question": "幾家？", "answers": []}).json()
        assert moved == {"id": "q1", "paragraph": 1, "question": "幾家？", "answers": [], "is_impossible": True}
        assert json.loads(output.read_text("utf-8")) == {
            "version": "v2.0",
            "data": [
                {
                    "title": "a.md",
                    "paragraphs": [
                        {
                            "context": SHOPS,
                            "qas": [{"id": "q1", "question": "幾家？", "answers": [], "is_impossible": True}],
                        }
                    ],
                }
            ],
        }
        download = call("GET", "/file")
        assert download.content == output.read_bytes()
        assert download.headers["Content-Disposition"].startswith('attachment; filename="labels.json"')
        assert call("DELETE", "/q1").json() == moved
        assert call("DELETE", "/q1").status_code == 404
        assert call("GET", "/file").json()["data"] == []
        read = {"question": WHO["question"], "context": BOAT}
        assert call("POST", "/../read", json=read).json()["answer"] == "林師傅"


def test_offsets_count_code_points(models, output):
    with Labels(output, sources(EMOJI)) as labels, labelling(models, labels) as call:
        start = EMOJI.index("林師傅")
        body = {"paragraph": 0, "question": "誰？🐳", "answers": [{"start": start, "end": start + 3}]}
        assert call("PUT", "/q", json=body).json()["answers"] == [{"text": "林師傅", "start": start, "end": start + 3}]
    (found,) = read_qa(output)
    assert (found.question, found.answers[0].text, found.answers[0].start) == ("誰？🐳", "林師傅", start)


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("q", {"answers": [{"start": 0, "end": 10}]}, "answers[0].end"),
        ("q", {"answers": [{"start": -1, "end": 2}]}, "answers[0].start"),
        ("q", {"answers": [{"start": 0, "end": 1}, {"start": 99, "end": 100}]}, "answers[1].start"),
        ("q", {"answers": [{"start": 3, "end": 3}]}, "answers[0]"),
        ("q", {"answers": [{"start": 4, "end": 3}]}, "answers[0]"),
        ("q", {"answers": [{"start": 0, "end": 3}, {"start": 0, "end": 3}]}, "answers[1]"),
        ("q", {"answers": [{"start": 0, "end": end} for end in range(1, 10)] * 10}, "answers"),
        ("q", {"answers": [{"start": 0.0, "end": 3}]}, "answers[0].start"),
        ("q", {"answers": [{"start": 0}]}, "answers[0].end"),
        ("q", {"answers": [{"start": 0, "end": 3, "text": "林師傅"}]}, "answers[0].text"),
        ("q", {"paragraph": 1}, "paragraph"),
        ("q", {"paragraph": -1}, "paragraph"),
        ("q", {"paragraph": True}, "paragraph"),
        ("q", {"question": ""}, "question"),
        ("q", {"question": " \u3000"}, "question"),
        ("q", {"question": "問" * 11}, "question"),
        ("問", {}, "id"),
        ("a.b", {}, "id"),
        ("a" * 65, {}, "id"),
        ("q%0A", {}, "id"),
    ],
)
def test_what_is_wrong_is_422_and_named_and_nothing_is_written(models, output, name, change, field):
    with Labels(output, sources(BOAT)) as labels, labelling(models, labels, max_question=10) as call:
        response = call("PUT", f"/{name}", json=WHO | change)
        assert response.status_code == 422, response.text
        assert response.json()["error"]["field"] == field
        assert not output.exists()
        assert labels.examples() == []


def test_overlapping_answers_that_differ_are_both_kept(output):
    with Labels(output, sources(BOAT)) as labels:
        put(labels, "q", spans=[(0, 3), (1, 3)])
    (found,) = read_qa(output)
    assert [span.text for span in found.answers] == ["林師傅", "師傅"]


def test_white_space_is_no_answer(output):
    with Labels(output, sources("船 \u3000修")) as labels, pytest.raises(RequestError, match="no visible"):
        put(labels, "q", spans=[(1, 3)])


def test_where_nothing_is_labelled_it_is_404(models):
    with labelling(models, None) as call:
        for method, path, options in (
            ("GET", "", {}),
            ("GET", "/file", {}),
            ("PUT", "/q", {"json": WHO}),
            ("DELETE", "/q", {}),
        ):
            response = call(method, path, **options)
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "no_labels"


def test_the_routes_are_guarded_and_described(models, output):
    with Labels(output, sources(BOAT)) as labels:
        with labelling(models, labels, hosts=LOOPBACK) as call:
            assert call("PUT", "/q", json=WHO, headers={"Host": "evil.example"}).status_code == 421
            description = call("GET", "/../../openapi.json").json()
            assert set(description["paths"]["/v1/labels/{id}"]) == {"put", "delete"}
            assert "409" in description["paths"]["/v1/labels/{id}"]["put"]["responses"]
            for body in description["components"]["schemas"]["LabelRequest"]["examples"]:
                assert call("PUT", "/q", json=body).status_code == 200
        with labelling(models, labels, tokens=("secret",)) as call:
            assert call("GET", "").status_code == 401
            assert call("GET", "", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_download_is_named_after_the_file_whatever_its_name():
    for name in ("labels.json", '題 "目";.json', "a\r\nb.json", "😀.json"):
        header = _attached(name)
        assert header.isascii()
        assert header.isprintable()
        plain, encoded = re.fullmatch(r"attachment; filename=\"([\w.-]+)\"; filename\*=UTF-8''(\S+)", header).groups()
        assert unquote(encoded) == name
        assert len(plain) == len(name)


def test_the_number_of_examples_is_limited(output, monkeypatch):
    monkeypatch.setattr(module, "MOST_EXAMPLES", 2)
    with Labels(output, sources(BOAT)) as labels:
        put(labels, "a")
        put(labels, "b")
        with pytest.raises(RequestError) as refused:
            put(labels, "c")
        assert (refused.value.status, refused.value.code) == (422, "too_many")
        put(labels, "b", question="何人？")
    monkeypatch.setattr(module, "MOST_EXAMPLES", 1)
    with pytest.raises(DataError, match="2 questions, expected at most 1"):
        Labels(output, sources(BOAT))
    monkeypatch.setattr(module, "MOST_CHARACTERS", 10)
    with pytest.raises(DataError, match="expected at most 10"):
        Labels(output, sources(BOAT, SHOPS))


# --- the file


def test_labelling_goes_on_from_the_file(output):
    with Labels(output, sources(BOAT, SHOPS)) as labels:
        first = put(labels, "a")
        second = put(labels, "b", 1, "幾家？", [(3, 5)])
        none = put(labels, "c", 1, "誰修船？", [])
    with Labels(output, sources("新的一段。", SHOPS, BOAT)) as labels:
        found = {example.id: example for example in labels.examples()}
        assert [labels.paragraphs[found[name].paragraph].text for name in "abc"] == [BOAT, SHOPS, SHOPS]
        assert found["a"].answers == first.answers
        assert found["b"].answers == second.answers
        assert found["c"].is_impossible
        assert none.is_impossible
        assert labels.count == 3


def test_what_is_about_other_documents_is_kept_and_can_be_changed(output):
    with Labels(output, sources(BOAT)) as labels:
        put(labels, "a")
    with Labels(output, Sources([Paragraph(SHOPS, "b.md")])) as labels:
        put(labels, "b", 0, "幾家？", [(3, 5)])
        assert [(one.document, one.text) for one in labels.paragraphs] == [("b.md", SHOPS), ("a.md", BOAT)]
        assert {example.id: example.paragraph for example in labels.examples()} == {"a": 1, "b": 0}
        put(labels, "a", 1, "誰在河邊？")
    assert {example.id: example.question for example in read_qa(output)} == {"a": "誰在河邊？", "b": "幾家？"}
    assert [article["title"] for article in json.loads(output.read_text("utf-8"))["data"]] == ["a.md", "b.md"]


def test_what_else_the_file_holds_stays(write):
    path = write(
        "labels.json",
        squad((BOAT, [qa("a", ("林師傅", 0), source="甲"), qa("長.id", ("船", 7))]), (SHOPS, []), version="9", by="乙"),
    )
    value = json.loads(path.read_text("utf-8"))
    value["data"].append({"title": ["no text"], "paragraphs": []})
    write("labels.json", value)
    with Labels(path, sources("新的。")) as labels:
        odd = next(example.id for example in labels.examples() if example.question and example.id != "a")
        put(labels, "a", 1, "在修船的是？")
        put(labels, odd, 1, "修什麼？", [(7, 8)])
        put(labels, "new", 0, "新的？", [(0, 1)])
    value = json.loads(path.read_text("utf-8"))
    assert (value["version"], value["by"]) == ("9", "乙")
    first, second = value["data"][0]["paragraphs"]
    assert first["qas"][0]["source"] == "甲"
    assert [row["id"] for row in first["qas"]] == ["a", "長.id"]
    assert first["qas"][1]["question"] == "修什麼？"
    assert second == {"context": SHOPS, "qas": []}
    assert [article["title"] for article in value["data"]] == ["書", ["no text"], "a.md"]


@pytest.mark.parametrize("act", [lambda labels: put(labels, "b"), lambda labels: labels.delete("a", Ticket())])
@pytest.mark.parametrize("content", [None, "{}", "same length"])
def test_a_change_from_outside_is_not_overwritten(models, output, act, content):
    with Labels(output, sources(BOAT)) as labels, labelling(models, labels) as call:
        put(labels, "a")
        own = output.read_text("utf-8")
        if content is None:
            output.unlink()
        else:
            output.write_text(own.replace("誰", "何") if content == "same length" else content, "utf-8")
        before = content is not None and output.read_bytes()
        with pytest.raises(RequestError) as refused:
            act(labels)
        assert (refused.value.status, refused.value.code) == (409, "changed")
        assert (output.exists() and output.read_bytes()) == before
        assert call("PUT", "/c", json=WHO).status_code == 409
        assert call("GET", "/file").status_code == 409
        assert [example.id for example in labels.examples()] == ["a"]
        output.write_text(own, "utf-8")  # as it was
        act(labels)


def test_a_file_made_meanwhile_is_not_overwritten(output):
    with Labels(output, sources(BOAT)) as labels:
        output.write_text("notes", "utf-8")
        with pytest.raises(RequestError, match="another program"):
            put(labels, "a")
    assert output.read_text("utf-8") == "notes"


def test_what_cannot_be_written_is_not_accepted(output, monkeypatch):
    def full(path, text):
        raise OutputError("disk full")

    with Labels(output, sources(BOAT)) as labels:
        put(labels, "a")
        before = output.read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(module.files, "write_text", full)
            for act in (lambda: put(labels, "b"), lambda: labels.delete("a", Ticket())):
                with pytest.raises(RequestError) as refused:
                    act()
                assert (refused.value.status, refused.value.code) == (503, "unwritable")
        assert [example.id for example in labels.examples()] == ["a"]
        assert output.read_bytes() == before
        put(labels, "b")
    assert len(list(read_qa(output))) == 2


def test_a_late_or_closed_change_is_not_made(output):
    labels = Labels(output, sources(BOAT))
    with pytest.raises(LateError):
        labels.put("a", 0, "誰？", [], Ticket(0))
    labels.close()
    with pytest.raises(StoppedError):
        put(labels, "a")
    assert not output.exists()


def test_changes_at_a_time_are_all_made(output):
    with Labels(output, sources(BOAT)) as labels:
        making = [
            threading.Thread(target=lambda own=own: [put(labels, f"{own}-{number}") for number in range(10)])
            for own in range(5)
        ]
        for thread in making:
            thread.start()
        for thread in making:
            thread.join()
    assert {example.id for example in read_qa(output)} == {
        f"{own}-{number}" for own in range(5) for number in range(10)
    }


def test_one_process_at_a_time(output, tmp_path):
    with Labels(output, sources(BOAT)) as labels:
        (tmp_path / "link.json").symlink_to(output)
        for path in (output, tmp_path / "link.json"):
            with pytest.raises(OutputError, match="another zhaiju label works on it"):
                Labels(path, sources(BOAT))
        put(labels, "a")
        Labels(tmp_path / "other.json", sources(BOAT)).close()
    with Labels(output, sources(BOAT)) as labels:
        assert labels.count == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["labels.json", "link.json"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("[]", ["holds no labels"]),
        ("{", ["ends too early"]),
        ('{"data": {}}', ["a list of articles"]),
        (squad((BOAT, [qa("a", ("書店", 0))])), ["row a", "is not at 0"]),
        (squad((BOAT, [qa("a"), qa("a")])), ["row a", "repeated id"]),
        (squad((BOAT, []), deleted_ids=3), ["deleted_ids"]),
    ],
)
def test_another_file_is_not_taken_for_labels(write, content, parts):
    path = write("labels.json", content)
    before = path.read_bytes()
    with pytest.raises(DataError) as refused:
        Labels(path, sources(BOAT))
    assert all(part in str(refused.value) for part in ["labels.json", *parts])
    assert path.read_bytes() == before
    write("labels.json", squad((BOAT, [])))
    Labels(path, sources(BOAT)).close()  # and the lock is free


# Any text that documents can hold; JSON escapes and line breaks of all kinds among it.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    str.strip
)


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4, unique=True),
    steps=st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.booleans(),
            st.integers(0, 3),
            TEXTS,
            st.lists(st.tuples(st.integers(-1, 13), st.integers(-1, 13)), max_size=3),
        ),
        max_size=12,
    ),
    again=st.integers(0, 12),
)
@settings(max_examples=examples(40), deadline=None)
def test_any_sequence_of_changes_gives_a_file_that_reads_back_the_same(texts, steps, again):
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "labels.json"
        expected = {}
        labels = Labels(output, sources(*texts))
        for number, (name, gone, paragraph, question, spans) in enumerate(steps):
            if number == again:
                labels.close()
                labels = Labels(output, sources(*reversed(texts)))
            places = [one.text for one in labels.paragraphs]
            text = places[paragraph] if paragraph < len(places) else ""
            visible = all(0 <= start <= len(text) and 0 <= end <= len(text) and text[start:end].strip()
                          for start, end in spans)  # fmt: skip
            accepted = name in expected if gone else bool(text) and visible and len(set(spans)) == len(spans)
            with nullcontext() if accepted else pytest.raises(RequestError):
                if gone:
                    labels.delete(name, Ticket())
                    del expected[name]
                else:
                    made = labels.put(name, paragraph, question, spans, Ticket())
                    assert [(span.text, span.start) for span in made.answers] == [
                        (text[start:end], start) for start, end in spans
                    ]
                    expected[name] = (question, text, made.answers, not spans)
        labels.close()
        rows = list(read_qa(output)) if expected else []
        found = {row.id: (row.question, row.context.text, row.answers, row.impossible) for row in rows}
        assert found == expected
        assert len(rows) == len(expected)
        with Labels(output, sources(*texts)) as labels:
            assert {one.id for one in labels.examples()} == set(expected)
            assert labels.count == len(expected)


# --- sources


def test_documents_are_read_and_a_repeated_paragraph_is_shown_once(write, tmp_path, output):
    (tmp_path / "notes").mkdir()
    write("notes/a.md", NOTES)
    write("notes/b.html", f"<p>{SHOPS}</p><p>{EMOJI}</p>")
    write("notes/c.json", ["第一段。", "第二段。"])
    write("notes/data.json", squad((BOAT, [])))  # a folder's data files are not taken
    with Labels(output, read_sources([tmp_path / "notes"])) as labels:
        assert [one.text for one in labels.paragraphs] == [BOAT, SHOPS, EMOJI, "第一段。", "第二段。"]
        assert {one.document for one in labels.paragraphs} == {"a.md", "b.html", "c.json"}  # no path of the server


def test_a_data_file_brings_its_questions_to_correct(write, output):
    path = write(
        "data.json",
        squad(
            (
                BOAT,
                [qa("a", ("林師傅", 0), ("林師傅", 0)), qa("moved", ("船", 0)), qa("lost", ("飛機", 0)), qa("open")],
            ),
            (SHOPS, [qa("none", is_impossible=True), qa("faulty", ("書店", "2"))]),
        ),
    )
    told = []
    with Labels(output, read_sources([path], warn=told.append)) as labels:
        found = {example.id: example for example in labels.examples()}
        assert [(span.text, span.start) for span in found["a"].answers] == [("林師傅", 0)]
        assert [(span.text, span.start) for span in found["moved"].answers] == [("船", 7)]
        assert found["none"].is_impossible
        assert found["lost"].is_open
        assert found["open"].is_open
        assert labels.count == 3
        assert [example.id for example in read_qa(output)] == ["a", "moved", "none"]  # what is open teaches nothing
        put(labels, "open", 0)
        labels.delete("a", Ticket())
        labels.delete("lost", Ticket())
        put(labels, "moved", 0, "換了？", [(6, 8)])
    assert [re.sub(r"^.*data.json: ", "", line) for line in told] == [
        "row faulty: answers[0].start: wrong type, found '2', expected a whole number",
        "1 answers did not stand at their offset; they moved to the nearest place that has them",
        "1 answers do not stand in their paragraph and were left out",
    ]
    with Labels(output, read_sources([path])) as labels:  # what was deleted stays so, what was corrected too
        found = {example.id: example for example in labels.examples()}
        assert set(found) == {"moved", "none", "open"}
        assert found["moved"].question == "換了？"
        assert not found["open"].is_open
    assert len(list(read_qa(output))) == 3


def test_course_files_and_rows_can_be_corrected(write, output):
    write("context.json", [BOAT, SHOPS, EMOJI])
    rows = [
        {"id": "1.x", "question": "誰？", "paragraphs": [1, 0], "relevant": 0, "answers": [{"text": "船", "start": 7}]},
        {"id": 2, "question": "有幾家書店？", "paragraphs": [0, 1]},
    ]
    course = write("train.json", rows)
    flat = write("rows.jsonl", json.dumps({"id": "3", "question": "問？", "context": "一段。", "answers": []}))
    with Labels(output, read_sources([course, flat])) as labels:
        assert [one.text for one in labels.paragraphs] == [SHOPS, BOAT, "一段。"]
        labelled, nearest, last = labels.examples()
        assert labels.paragraphs[labelled.paragraph].text == BOAT
        assert labels.paragraphs[nearest.paragraph].text == SHOPS
        assert nearest.is_open
        assert last.is_open
        put(labels, labelled.id, 1, "修什麼？", [(7, 8)])
        assert [example.id for example in read_qa(output)] == ["1.x"]
        put(labels, nearest.id, 0, "有幾家書店？", [(3, 4)])
    assert [example.id for example in read_qa(output)] == ["1.x", "2"]


def test_questions_of_one_id_in_two_files_are_refused(write, output):
    paths = [write(name, squad((name, [qa("a", (name[0], 0))]))) for name in ("x.json", "y.json")]
    with pytest.raises(DataError, match="repeated id"):
        Labels(output, read_sources(paths))


def test_a_file_can_be_corrected_in_its_place(write):
    path = write("data.json", squad((BOAT, [qa("a", ("林師傅", 0)), qa("b", ("船", 7))])))
    for _ in range(2):
        with Labels(path, read_sources([path])) as labels:
            with pytest.raises(RequestError) if "b" not in {one.id for one in labels.examples()} else nullcontext():
                labels.delete("b", Ticket())
            put(labels, "a", 0, "誰？", [(1, 3)])
    (found,) = read_qa(path)
    assert found.answers[0].text == "師傅"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squad/drcd-dev.json", "squad/cmrc2018-trial.json", "course/public.json"])
def test_real_data_passes_through_unchanged(shared, output, name):
    path = shared / name
    beside = context_file(path)
    contexts = load_contexts(beside) if beside else None
    with Labels(output, read_sources([path])):
        pass
    log = ReadLog(skip_faulty=True)
    original = list(read_qa(path, contexts=contexts, log=log))
    moved = {fault.row for fault in log.misaligned}
    found = {row.id: row for row in read_qa(output)}
    assert set(found) == {row.id for row in original}
    for row in original:
        same = found[row.id]
        assert (same.question, same.context.text) == (row.question, row.context.text)
        if row.id not in moved:
            assert same.answers == tuple(dict.fromkeys(row.answers))


def test_questions_from_a_text_file_are_offered_at_their_likely_paragraph(write, output):
    path = write("questions.txt", "鎮上有幾家書店？\n\n  誰在河邊修船？\n鎮上有幾家書店？\n")
    given = sources(BOAT, SHOPS)
    given.questions += read_questions(path, given.paragraphs)
    with Labels(output, given) as labels:
        shops, boat = labels.examples()
        assert (shops.question, shops.paragraph, shops.is_open) == ("鎮上有幾家書店？", 1, True)
        assert (boat.question, boat.paragraph) == ("誰在河邊修船？", 0)
        assert labels.count == 0
        assert not output.exists()
        put(labels, shops.id, 1, shops.question, [(3, 5)])
        labels.delete(boat.id, Ticket())
    with Labels(output, given) as labels:
        (left,) = labels.examples()
        assert left.answers[0].text == "兩家"
    with pytest.raises(DataError, match="no such file"):
        read_questions(output.with_name("nothing.txt"), given.paragraphs)


def test_an_offered_question_has_an_id_that_can_be_addressed(output):
    given = sources(BOAT)
    given.questions.append(Question("問 1/2", "誰？", BOAT))
    with Labels(output, given) as labels:
        put(labels, labels.examples()[0].id)
    assert [example.id for example in read_qa(output)] == ["問 1/2"]
    with Labels(output, given) as labels:
        assert labels.count == 1
        assert len(labels.examples()) == 1


# --- the command


@contextmanager
def command(*arguments, **environment):
    """`zhaiju label` at a free port: its process, its address, and a function that waits and gives its last lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zhaiju.cli", "label", "--port", "0", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    lines = []
    reading = threading.Thread(target=lambda: lines.extend(process.stderr))

    def ended():
        code = process.wait(30)
        reading.join()
        return code, "".join(lines)

    try:
        for line in process.stderr:
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/#label", line):
                break
        else:
            pytest.fail("it did not start")
        reading.start()
        yield process, found[1], ended
    finally:
        process.kill()
        process.wait()
        if reading.ident:
            reading.join()
        process.stderr.close()


@pytest.mark.slow
def test_the_command_labels_and_says_what_comes_next(write, output, run):
    notes = write("a.md", NOTES)
    browser = write("browser", f'#!/bin/sh\necho "$1" > {output}.address\n')
    browser.chmod(0o700)
    with command(notes, "-o", output, "--open", BROWSER=f"{browser} %s") as (process, address, ended):
        assert httpx.put(f"{address}/v1/labels/q1", json=WHO, timeout=30).status_code == 200
        none = {"paragraph": 1, "question": "誰在修船？", "answers": []}
        assert httpx.put(f"{address}/v1/labels/q2", json=none, timeout=30).status_code == 200
        code, out, err = run("label", notes, "-o", output, "--port", "0")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "another zhaiju label works on it" in err
        process.send_signal(signal.SIGINT)
        code, told = ended()
        assert code == 0
        assert Path(f"{output}.address").read_text() == f"{address}/#label\n"
        assert f"2 questions in {output}" in told
        assert f"zhaiju train read --train {output}" in told
    code, out, _ = run("check", output, "--json", "--strict")
    report = json.loads(out)
    assert code == 0
    assert (report["rows"], report["answers_total"], report["answers_lost"]) == (2, 1, 0)
    small = ["--scratch", "--max-steps", "1", "--layers", "1", "--hidden", "16", "--heads", "2", "--threads", "1"]
    code, _, err = run("train", "read", "--train", output, "-o", output.with_name("run"), *small)
    assert code == 0, err
    code, out, err = run("evaluate", "starter", output, "--json")
    assert code == 0, err
    assert json.loads(out)["count"] == 2


def test_a_bad_start_is_one_line_and_exit_code_2(run, write, tmp_path, output):
    notes = write("a.md", NOTES)
    cases = [
        ([tmp_path / "nothing"], "no such file or folder"),
        ([write("empty.txt", "\n")], "no text in it"),
        ([write("broken.json", "{")], "ends too early"),
        ([write("rows.jsonl", '{"id": 1}')], "question: missing"),
        ([notes, "-o", write("other.json", "[1]")], "holds no labels"),
        ([notes, "-o", tmp_path], "is a directory"),
        ([notes, "-o", notes / "labels.json"], "cannot write"),
        ([notes, "--suggest", tmp_path / "nothing"], "no such file"),
        ([notes, "--reader", tmp_path / "nothing"], "no such directory"),
    ]
    for arguments, message in cases:
        code, out, err = run("label", "-o", output, "--port", "0", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err
    assert not output.exists()


@pytest.mark.slow
def test_killed_at_any_moment_nothing_accepted_is_lost_and_nothing_is_half_there(write, output):
    notes = write("a.md", NOTES)
    generator = random.Random(7)
    accepted, unsure = {}, {}
    for round_ in range(KILLS):
        with command(notes, "-o", output) as (process, address, _), httpx.Client(timeout=10) as client:
            began = time.monotonic()
            killer = threading.Timer(generator.uniform(0.05, 1.0), process.kill)
            killer.start()
            for number in range(100_000):
                name = f"{round_}-{number % 40}"
                unsure = {name: accepted.get(name)}
                try:
                    if number % 3 == 2 and name in accepted:
                        status = client.delete(f"{address}/v1/labels/{name}").status_code
                        wanted = None
                    else:
                        wanted = f"第{number}問？"
                        status = client.put(f"{address}/v1/labels/{name}", json=WHO | {"question": wanted}).status_code
                except httpx.HTTPError:
                    break
                assert status == 200
                accepted.pop(name, None)
                if wanted is not None:
                    accepted[name] = wanted
            killer.join()
        with kills.killed(process, "label", began=began, seed=7):
            found = {example.id: example.question for example in read_qa(output)} if output.exists() else {}
            different = {name for name in found.keys() | accepted.keys() if found.get(name) != accepted.get(name)}
            assert different <= set(unsure)
        accepted = found
    assert accepted
    with Labels(output, read_sources([notes])) as labels:  # the dead hold no lock
        assert labels.count == len(accepted)
    assert sorted(path.name for path in output.parent.iterdir() if path.suffix != ".lock") == ["a.md", "labels.json"]
