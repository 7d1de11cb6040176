"""Zhaiju inside Haystack and LangChain, with the libraries themselves."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # looked at when it is imported
from haystack import Document, ExtractedAnswer, Pipeline
from haystack.components.joiners import AnswerJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from langchain_core.tools import BaseTool

import zhaiju
from zhaiju.corpus.ask import Paragraphs, load_asker
from zhaiju.corpus.documents import Paragraph, read_document
from zhaiju.corpus.index import Entry, Index
from zhaiju.integrations.haystack import ZhaijuRanker, ZhaijuReader
from zhaiju.integrations.langchain import NOTHING, make_tool

QUESTION, ANSWER, ELSEWHERE = "誰在河邊修船？", "林師傅", "火箭什麼時候發射？"
TEXTS = [
    "鎮上有兩家書店，一家在橋頭，一家在學校旁邊。",
    "林師傅在河邊修船，修了三十年。",
    "😀船修好了，明天下水。",
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever looks up a name or connects to another machine fails the test."""
    called = []

    def refuse(*arguments, **options):
        called.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not called


@pytest.fixture
def documents():
    return [Document(content=text, meta={"place": place}) for place, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def reader():
    return ZhaijuReader()


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notes")
    (folder / "town.md").write_text("# 鎮上\n\n" + "\n\n".join(TEXTS) + "\n", "utf-8")
    (folder / "damaged.pdf").write_bytes(b"%PDF-1.4 and no more")
    return folder


@pytest.fixture(scope="module")
def tool(notes):
    return make_tool(notes)


def quoted(answers):
    """The answers that quote, each checked to stand where it says."""
    found = [answer for answer in answers if answer.data is not None]
    for answer in found:
        span = answer.document_offset
        assert answer.document.content[span.start : span.end] == answer.data
        assert (answer.context, answer.context_offset) == (None, None)
    return found


# --- Haystack


def test_the_reader_gives_what_an_extractive_reader_gives(reader, documents):
    result = reader.run(query=QUESTION, documents=documents)
    assert list(result) == ["answers"]
    answers = result["answers"]
    assert all(isinstance(answer, ExtractedAnswer) and answer.query == QUESTION for answer in answers)
    assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)
    assert all(0 <= answer.score <= 1 for answer in answers)
    found = quoted(answers)
    assert (answers[0], found[0].data, found[0].document) == (found[0], ANSWER, documents[1])
    (nothing,) = [answer for answer in answers if answer.data is None]
    assert (nothing.document, nothing.document_offset) == (None, None)
    assert nothing.score == pytest.approx(1 - found[0].score)
    places = sorted((answer.document_offset.start, answer.document_offset.end) for answer in found)
    assert all(end <= start for (_, end), (start, _) in pairwise(places))  # one document's
    assert ExtractedAnswer.from_dict(json.loads(json.dumps(found[0].to_dict()))) == found[0]


def test_no_answer_comes_first_exactly_where_ask_finds_none(reader, documents):
    asker, source = load_asker(), Paragraphs([Paragraph(text, "notes") for text in TEXTS])
    seen = set()
    for question in (QUESTION, ELSEWHERE, "鎮上有幾家書店？", "書店在哪裡？", "船什麼時候下水？", "學校有多少學生？"):
        found = asker.ask(question, source).found
        assert (reader.run(question, documents)["answers"][0].data is not None) == found
        seen.add(found)
    assert seen == {True, False}


def test_settings_hold_unless_a_run_says_otherwise(documents):
    reader = ZhaijuReader(top_k=2, no_answer=False)
    assert len(reader.run(QUESTION, documents)["answers"]) == 2
    assert all(answer.data is not None for answer in reader.run(QUESTION, documents)["answers"])
    assert len(reader.run(QUESTION, documents, top_k=1)["answers"]) == 1
    assert len(reader.run(QUESTION, documents, top_k=1, no_answer=True)["answers"]) == 2
    (sure,) = reader.run(QUESTION, documents, score_threshold=0.5)["answers"]
    assert sure.data == ANSWER
    for wrong in (lambda: ZhaijuReader(top_k=0), lambda: reader.run(QUESTION, documents, top_k=0)):
        with pytest.raises(zhaiju.ConfigError, match="top_k is 0, expected at least 1"):
            wrong()
    with pytest.raises(zhaiju.DataError, match="question: empty text"):
        reader.run(" ", documents)


def test_documents_without_text_are_passed_over_and_said(reader, documents, caplog):
    bare = [Document(content=None), Document(content=" \n")]
    assert reader.run(QUESTION, [*bare, *documents])["answers"] == reader.run(QUESTION, documents)["answers"]
    assert "2 of 5 documents hold no text" in caplog.text
    assert reader.run(QUESTION, bare) == reader.run(QUESTION, []) == {"answers": []}


def test_an_answer_tells_its_page_where_the_document_tells_its_first(reader):
    text = f"鎮上有兩家書店。\f{TEXTS[2]}\f{TEXTS[1]}"
    (best, *_) = reader.run(QUESTION, [Document(content=text, meta={"page_number": 7})])["answers"]
    assert (best.data, best.meta) == (ANSWER, {"answer_page_number": 9})
    (best, *_) = reader.run(QUESTION, [Document(content=text, meta={"page_number": "vii"})])["answers"]
    assert (best.data, best.meta) == (ANSWER, {})


def test_another_reader_says_nothing_where_its_own_no_answer_is_likelier(documents, monkeypatch):
    """Without a calibrated confidence the score is the span's probability, the no-answer's that of its logit."""
    from zhaiju.corpus import joined

    monkeypatch.setattr(joined, "confidence_model", lambda reader, selector: None)
    reader, plain = ZhaijuReader(), zhaiju.load("starter")
    for question in (QUESTION, ELSEWHERE):
        wanted = plain.answer(question, TEXTS)
        answers = reader.run(question, documents)["answers"]
        assert quoted(answers)[0].data == wanted.answer
        assert (answers[0].data is None) == (wanted.null_score > 0)
        assert sum(answer.score for answer in answers) <= 1 + 1e-6


def test_both_components_run_in_a_pipeline_that_is_saved_and_loaded(documents):
    store = InMemoryDocumentStore(bm25_tokenization_regex=r"(?u)\w")
    store.write_documents(documents)
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store))
    pipeline.add_component("ranker", ZhaijuRanker(top_k=2))
    pipeline.add_component("reader", ZhaijuReader(top_k=3, score_threshold=0.1))
    pipeline.add_component("joiner", AnswerJoiner())  # takes readers' answers
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("ranker.documents", "reader.documents")
    pipeline.connect("reader.answers", "joiner.answers")
    asked = {name: {"query": QUESTION} for name in ("retriever", "ranker", "reader")}
    pipeline.warm_up()
    (answer,) = quoted(pipeline.run(asked)["joiner"]["answers"])
    assert (answer.data, answer.document.content) == (ANSWER, TEXTS[1])
    text = pipeline.dumps()
    assert {"ZhaijuReader", "ZhaijuRanker"} <= set(re.findall(r"Zhaiju\w+", text))
    again = Pipeline.loads(text, allowed_modules=["zhaiju"])
    saved, loaded = pipeline.to_dict(), again.to_dict()
    for found in (saved, loaded):  # it may order them as it likes
        found["connections"].sort(key=lambda connection: connection["sender"])
    assert loaded == saved
    for name, settings in (
        ("reader", {"model": "starter", "selector": None, "top_k": 3, "score_threshold": 0.1, "no_answer": True}),
        ("ranker", {"model": "starter", "top_k": 2}),
    ):
        assert again.get_component(name).to_dict()["init_parameters"] == settings


def test_the_ranker_puts_what_holds_the_answer_first(documents):
    ranker = ZhaijuRanker()
    ranked = ranker.run(QUESTION, [*documents, Document(content=None)])["documents"]
    assert ranked[0].content == TEXTS[1]
    assert {one.id for one in ranked} == {one.id for one in documents}
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    assert sum(one.score for one in ranked) == pytest.approx(1)
    assert all(one.score is None for one in documents)  # they are not changed
    chosen = zhaiju.load("starter").select(QUESTION, TEXTS)
    assert ranked[0].score == pytest.approx(chosen.score, abs=1e-5)
    assert len(ranker.run(QUESTION, documents, top_k=1)["documents"]) == 1
    assert ranker.run(QUESTION, [Document(content=None)]) == {"documents": []}
    with pytest.raises(zhaiju.CheckpointError, match="no such directory"):
        ZhaijuRanker(model="/no/such/selector").warm_up()


def test_threads_share_a_reader(reader, documents):
    questions = [QUESTION, "鎮上有幾家書店？", ELSEWHERE, "船什麼時候下水？"] * 3
    alone = [reader.run(question, documents)["answers"] for question in questions]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda question: reader.run(question, documents)["answers"], questions))
    assert [[answer.data for answer in answers] for answers in together] == [
        [answer.data for answer in answers] for answers in alone
    ]


# --- LangChain


def call(question):
    return {"type": "tool_call", "name": "quote", "id": "1", "args": {"question": question}}


def test_the_tool_quotes_with_its_source_and_gives_the_rest_as_artifact(tool, notes):
    assert isinstance(tool, BaseTool)
    assert (tool.name, list(tool.args), tool.args["question"]["type"]) == ("quote", ["question"], "string")
    message = tool.invoke(call(QUESTION))
    assert (message.status, message.tool_call_id) == ("success", "1")
    source = f"{notes / 'town.md'}:5"
    assert message.content.splitlines()[0] == f"“{ANSWER}” ({source}): {TEXTS[1]}"
    found = message.artifact
    assert found == load_asker().ask(QUESTION, Paragraphs(read_document(notes / "town.md"))).as_dict(3)
    best = found["quotes"][0]
    assert (found["found"], found["answer"], best["source"]) == (True, ANSWER, source)
    assert best["paragraph"][best["start"] : best["end"]] == ANSWER
    assert json.loads(json.dumps(found)) == found
    assert tool.invoke({"question": QUESTION}) == message.content


def test_async_code_may_ask_several_at_once(tool):
    questions = [QUESTION, ELSEWHERE, "鎮上有幾家書店？"]

    async def ask():
        return await asyncio.gather(*(tool.ainvoke(call(question)) for question in questions))

    found = asyncio.run(ask())
    assert [one.artifact for one in found] == [tool.invoke(call(question)).artifact for question in questions]


def test_what_the_documents_do_not_hold_is_not_quoted_to_the_model(tool):
    message = tool.invoke(call("學校有多少學生？"))
    assert (message.content, message.artifact["found"], message.artifact["answer"]) == (NOTHING, False, "")
    assert message.artifact["quotes"]  # for people who want to look


@pytest.mark.parametrize("question", ["", " ", "船" * 2000, "\ud800"])
def test_a_question_that_cannot_be_asked_is_told_to_the_model(tool, question):
    message = tool.invoke(call(question))
    assert message.status == "error"
    assert message.content.startswith("question: ")


def test_the_tool_asks_an_index_by_its_place_or_opened(tmp_path, notes):
    place = tmp_path / "notes.index"
    paragraphs = read_document(notes / "town.md")
    Index.open(str(place), create=True).commit([Entry("town.md", "1", paragraphs)])
    for source in (place, str(place), Index.open(str(place))):
        message = make_tool(source, quotes=1, name="town", description="About the town.").invoke(call(QUESTION))
        assert (message.artifact["answer"], len(message.artifact["quotes"])) == (ANSWER, 1)


def test_a_tool_without_anything_to_ask_is_refused_at_once(tmp_path):
    (tmp_path / "empty.txt").write_text("\n", "utf-8")
    with pytest.raises(zhaiju.DataError, match="no text in the documents"):
        make_tool([tmp_path / "empty.txt"])
    with pytest.raises(zhaiju.DataError, match=r"missing\.md"):
        make_tool(tmp_path / "missing.md")
    with pytest.raises(zhaiju.ConfigError, match="quotes is 0, expected at least 1"):
        make_tool(tmp_path, quotes=0)


# --- both


@pytest.mark.parametrize(("name", "library"), [("haystack", "haystack"), ("langchain", "langchain_core.tools")])
def test_a_missing_library_is_said_with_what_installs_it(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"zhaiju.integrations.{name}")
    with pytest.raises(zhaiju.ConfigError, match=r'is not installed; pip install "zhaiju\[integrations\]"'):
        __import__(f"zhaiju.integrations.{name}")


def test_nothing_else_of_zhaiju_imports_them():
    code = (
        "import sys, zhaiju, zhaiju.api, zhaiju.cli, zhaiju.corpus.ask, zhaiju.corpus.index\n"
        "assert not {'haystack', 'langchain_core', 'langsmith', 'posthog'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
