"""One way to an answer: the same question over the same paragraphs, asked through every door.

The command line, its batch jobs, Python, HTTP with paragraphs, `ask` over documents, in Python and from the shell, and
HTTP over an index give one answer with one confidence.
"""

import json

import pytest
from starlette.testclient import TestClient

import zhaiju
from zhaiju.corpus.ask import Paragraphs, load_asker
from zhaiju.corpus.documents import Paragraph
from zhaiju.service.app import make_app
from zhaiju.service.documents import Documents
from zhaiju.service.limits import Settings
from zhaiju.service.work import load_models

PARAGRAPHS = [  # each shares a character with each question: what shares none is never found among documents
    "這座燈塔在一八九五年由英國工程師設計，用鑄鐵建成，高三十六公尺，誰都可以上去看海。",
    "老燈塔的看守人陳阿水每天傍晚點燈。誰也不知道他在這座島上住了多少年，只知道他從不離開。",
    "島上的燈會在一月十五日舉行。誰做的花燈最大，誰就得到一座銀杯；去年是漁會的十二公尺長龍。",
]
QUESTIONS = ["這座燈塔由誰設計？", "誰每天傍晚點燈？", "燈會在哪一天舉行？", "誰得到這座島上的燈塔？"]


@pytest.fixture(scope="module")
def wanted():
    """What Python says: for each question the answer, its place and how sure it is."""
    found = zhaiju.load("starter").answer(QUESTIONS, [PARAGRAPHS] * len(QUESTIONS))
    assert len({one.answer for one in found}) > 2
    return [(PARAGRAPHS[one.index], one.start, one.end, one.confidence) for one in found]


@pytest.fixture
def files(tmp_path):
    """The paragraphs and the questions in the course's layout, and the paragraphs as documents."""
    (tmp_path / "context.json").write_text(json.dumps(PARAGRAPHS, ensure_ascii=False), "utf-8")
    rows = [{"id": str(n), "question": text, "paragraphs": [0, 1, 2]} for n, text in enumerate(QUESTIONS)]
    (tmp_path / "questions.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    (tmp_path / "notes").mkdir()
    for number, text in enumerate(PARAGRAPHS):
        (tmp_path / "notes" / f"{number}.txt").write_text(text, "utf-8")
    return tmp_path


def near(found, wanted):
    assert [one[:3] for one in found] == [one[:3] for one in wanted]
    assert [one[3] for one in found] == pytest.approx([one[3] for one in wanted], abs=1e-4)


def from_row(row):
    return PARAGRAPHS[row["index"]], row["start"], row["end"], row["confidence"]


def from_quote(told):
    quote = told["quotes"][0]
    return quote["paragraph"], quote["start"], quote["end"], told["confidence"]


@pytest.mark.parametrize("parts", [False, True])
def test_the_command_line_and_its_batch_jobs(run, files, wanted, parts):
    flags = ["-o", f"{files}/out/", "--format", "jsonl"] if parts else ["-o", files / "out.jsonl"]
    code, _, err = run("answer", files / "context.json", files / "questions.json", *flags)
    assert code == 0, err
    path = files / "out" / "part-00000.jsonl" if parts else files / "out.jsonl"
    near([from_row(json.loads(line)) for line in path.read_text("utf-8").splitlines()], wanted)


def test_http_over_paragraphs(wanted):
    with TestClient(make_app(Settings(), load_models()), base_url="http://127.0.0.1") as client:
        bodies = [{"question": text, "contexts": PARAGRAPHS} for text in QUESTIONS]
        near([from_row(client.post("/v1/answer", json=body).json()) for body in bodies], wanted)
        batch = client.post("/v1/answer/batch", json={"items": bodies}).json()["results"]
        near([from_row(row) for row in batch], wanted)


def test_ask_over_documents(run, files, wanted):
    told = [json.loads(run("ask", text, files / "notes", "--json")[1]) for text in QUESTIONS]
    near([from_quote(one) for one in told], wanted)
    source = Paragraphs([Paragraph(text, "notes") for text in PARAGRAPHS])
    near([from_quote(load_asker().ask(text, source).as_dict(1)) for text in QUESTIONS], wanted)


def test_http_over_an_index(run, files, wanted):
    assert run("index", files / "notes", "-o", files / "notes.index")[0] == 0
    app = make_app(Settings(), load_models(), Documents(str(files / "notes.index")))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        told = [client.post("/v1/answer", json={"question": text}).json() for text in QUESTIONS]
    near([from_quote(one) for one in told], wanted)


def test_integrations(wanted):
    haystack = pytest.importorskip("haystack")
    from zhaiju.integrations.haystack import ZhaijuReader
    from zhaiju.integrations.langchain import make_tool

    documents = [haystack.Document(content=text) for text in PARAGRAPHS]
    for text, (paragraph, start, end, _) in zip(QUESTIONS, wanted, strict=True):
        best = next(one for one in ZhaijuReader().run(text, documents)["answers"] if one.data is not None)
        assert (best.document.content, best.document_offset.start, best.document_offset.end) == (paragraph, start, end)
    tool = make_tool(Paragraphs([Paragraph(text, "notes") for text in PARAGRAPHS]))
    told = [tool.func(text)[1] for text in QUESTIONS]
    near([from_quote(one) for one in told], wanted)
