import json
import math
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import bert
from test_documents import pdf
from zhaiju import files, ui
from zhaiju.corpus.ask import Answer, Asker, Hit, Paragraphs, load_asker
from zhaiju.corpus.confidence import FEATURES, ConfidenceModel, features_of, sentence_around
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.features import ranking
from zhaiju.data.examples import Candidate, ReadPrediction, asked_of
from zhaiju.errors import CheckpointError, ConfigError, DataError
from zhaiju.inference.answer import Answerer

BRIDGE = "長安橋位於青河鎮北側，由工程師王明遠設計，次年完工。橋長一百二十公尺，寬九公尺。"
TEA = "橋頭的茶館由李家經營，每天早上六點開門。「招牌是桂花糕！」老闆說。後山的桂花九月開。"
LIBRARY = "青河镇图书馆建于1987年，由一间粮仓改建而成。馆长林小姐养了一只橘猫，名字叫书签。"
MUSEUM = "The museum was founded in 1954 by Dr. Helen Parker. It holds 3,200 clocks. Is it open? Only on Sundays."
TEXTS = (BRIDGE, TEA, LIBRARY, MUSEUM)
STEERING = "\x1b[31m紅色的鍋爐\x1b[0m在三樓\a，\u009b2J鑰匙\u202e在門後。"


def paragraphs(*texts):
    return Paragraphs([Paragraph(text, "a.txt", line=place) for place, text in enumerate(texts or TEXTS, 1)])


@pytest.fixture(scope="module")
def starter():
    return load_asker()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A reader and a selector of our own layout that nobody calibrated, hardly made."""
    from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, save

    folder = tmp_path_factory.mktemp("foreign")
    shape = Shape(layers=1, hidden=16, heads=2, intermediate=32, positions=96, vocabulary="characters")
    for task in ("read", "select"):
        made = from_scratch(task, TEXTS, encoder=None, shape=shape, window=96, overlap=16, script="as-is")
        files.atomic_directory(
            folder / task, lambda into, m=made, name=task: save(into, m.network, m.encoding, Meta(task=name))
        )
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    bert(folder)
    return folder


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "notes"
    (folder / "inner").mkdir(parents=True)
    (folder / "bridge.txt").write_text(f"{BRIDGE}\n\n{TEA}\n", "utf-8")
    (folder / "inner" / "library.md").write_text(f"# 图书馆\n\n{LIBRARY}\n", "utf-8")
    (folder / "museum.html").write_text(f"<h1>Museum</h1><p>{MUSEUM}</p>", "utf-8")
    return folder


def refused(result):
    """The one line of a refusal: exit code 2, nothing on stdout, no traceback."""
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert err.startswith("zhaiju: ")
    assert len(err.splitlines()) == 1
    return err


def asked(run, *arguments, **more):
    code, out, err = run(*arguments, "--json", **more)
    assert code == 0, err
    return json.loads(out)


# --- quotes


def check_quotes(answer):
    for place, quote in enumerate(answer.quotes):
        assert quote.text == quote.paragraph.text[quote.start : quote.end] != ""
        assert 0 <= quote.score <= 1
        for other in answer.quotes[:place]:
            assert other.score >= quote.score
            assert other.paragraph is not quote.paragraph or other.end <= quote.start or quote.end <= other.start
    assert 0 <= answer.confidence <= 1
    assert answer.found == (bool(answer.quotes) and answer.confidence >= (answer.threshold or 0))


@pytest.mark.parametrize("question", ["長安橋是誰設計的？", "图书馆的猫叫什么？", "Who founded the museum?", "桂花糕"])
def test_quotes_are_slices_that_do_not_overlap(starter, question):
    answer = starter.ask(question, paragraphs())
    assert len(answer.quotes) > 1
    check_quotes(answer)


@cache
def asker():
    return load_asker()


words = st.text(st.sampled_from("橋茶的是。！\n　 a1.é🐐\u200b「」\x1b"), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(words.filter(str.strip), st.lists(words.filter(str.strip), min_size=1, max_size=4))
def test_whatever_the_documents_hold_quotes_are_slices_of_them(question, texts):
    check_quotes(asker().ask(question, paragraphs(*texts)))


def test_the_question_may_be_in_another_script_than_the_document(starter):
    for question in ("圖書館的館長是誰？", "图书馆的馆长是谁？"):
        assert starter.ask(question, paragraphs()).quotes[0].paragraph.text == LIBRARY


def test_nothing_shared_with_the_question_is_not_found(starter):
    answer = starter.ask("zebra xylophone", paragraphs())
    assert answer == Answer("zebra xylophone", (), 0.0, starter.answerer.threshold)
    assert not answer.found
    assert starter.ask("？！", paragraphs()).quotes == ()


def test_a_question_longer_than_the_window_is_told_without_a_row(starter):
    with pytest.raises(DataError, match=r"^question: ") as told:
        starter.ask("橋" * 3_000, paragraphs())
    assert told.value.row is None


@pytest.mark.parametrize("question", ["", "  "])
def test_an_empty_question_is_an_error_where_anything_is_found(starter, question):
    class Everything:
        def search(self, question, k):
            return [Hit(Paragraph(BRIDGE, "a.txt"), 1.0)]

    with pytest.raises(DataError, match="empty text"):
        starter.ask(question, Everything())


def test_no_more_candidates_are_searched_than_asked_for():
    class Source:
        def search(self, question, k):
            asked_for.append(k)
            return paragraphs().search(question, k)

    asked_for = []
    load_asker(candidates=2).ask("橋", Source())
    assert asked_for == [2]


# --- sentences


def test_the_sentence_around_a_quote():
    for text, quote, sentence in (
        (BRIDGE, "一百二十公尺", "橋長一百二十公尺，寬九公尺。"),
        (BRIDGE, "次年完工。橋長", BRIDGE),
        (TEA, "桂花糕", "「招牌是桂花糕！」"),
        (TEA, "老闆", "老闆說。"),
        (MUSEUM, "Helen Parker", "The museum was founded in 1954 by Dr. Helen Parker."),
        (MUSEUM, "3,200", "It holds 3,200 clocks."),
        (MUSEUM, "Sundays", "Only on Sundays."),
        ("一\n二 三\n", "三", "二 三"),
    ):
        start = text.index(quote)
        first, last = sentence_around(text, start, start + len(quote))
        assert text[first:last] == sentence


@given(st.text(st.sampled_from("橋a1 .。！?\n　」\"'\t"), min_size=1, max_size=40), st.data())
def test_the_sentence_holds_the_quote_and_no_white_space_around_it(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    first, last = sentence_around(text, start, end)
    assert 0 <= first <= start < end <= last <= len(text)
    assert first == start or not text[first].isspace()
    assert last == end or not text[last - 1].isspace()


# --- confidence


def toy(count=400, noise=0.0, seed=0):
    """Signals of which the first says which answers are right."""
    chance = np.random.default_rng(seed)
    right = chance.random(count) < 0.4
    signals = chance.normal(size=(count, len(FEATURES)))
    signals[:, 0] = np.where(right, 2.0, -2.0) + noise * signals[:, 0]
    return signals, right


def test_trust_tells_right_from_wrong_where_a_signal_does():
    signals, right = toy(noise=0.3)
    trust = ConfidenceModel.fit(signals, right, keep=0.95)
    confidences = np.array([trust.confidence(row) for row in signals])
    assert confidences[right].min() > 0.5 > confidences[~right].max()


def test_more_of_a_good_sign_never_lowers_the_confidence():
    trust = ConfidenceModel.fit(*toy(noise=3.0), keep=0.95)
    rows = np.zeros((50, len(FEATURES)))
    rows[:, 0] = np.linspace(-1e6, 1e6, 50)
    confidences = [trust.confidence(row) for row in rows]
    assert confidences == sorted(confidences)
    assert 0 <= confidences[0] < 0.5 < confidences[-1] <= 1


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_trust_can_be_fitted_whatever_the_scale_and_the_share_of_right_answers(scale, share):
    chance = np.random.default_rng(1)
    right = chance.random(500) < share
    signals = scale * (chance.normal(size=(500, len(FEATURES))) + right[:, None])
    signals[:, 1] = 3.0  # one that never changes
    trust = ConfidenceModel.fit(signals, right, keep=0.9)
    confidences = [trust.confidence(row) for row in signals]
    assert np.mean(confidences) == pytest.approx(np.mean(right), abs=0.02)


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.94, 1.0])
def test_the_threshold_lets_the_share_of_right_answers_through_that_was_asked_for(keep):
    signals, right = toy(noise=3.0)
    trust = ConfidenceModel.fit(signals, right, keep=keep)
    passed = np.array([trust.confidence(row) >= trust.threshold for row in signals])
    assert keep <= passed[right].mean() <= keep + 2 / right.sum()


@pytest.mark.parametrize("right", [True, False])
def test_trust_needs_right_and_wrong_answers(right):
    with pytest.raises(ConfigError, match="right and wrong"):
        ConfidenceModel.fit(np.zeros((3, len(FEATURES))), np.full(3, right), keep=0.9)


def test_trust_comes_back_as_it_was(tmp_path):
    trust = ConfidenceModel.fit(*toy(noise=1.0), keep=0.9)
    assert ConfidenceModel.load(tmp_path) is None
    trust.save(tmp_path, {"questions": 400})
    assert ConfidenceModel.load(tmp_path) == trust
    assert json.loads((tmp_path / "confidence.json").read_text("utf-8"))["about"] == {"questions": 400}


@pytest.mark.parametrize(
    "change",
    [
        "{",
        "[]",
        b"\xff",
        {"features": ["coverage"]},
        {"mean": [0.0]},
        {"spread": [1.0, 1.0, 0.0, 1.0, 1.0]},
        {"weights": [1.0, 1.0, math.nan, 1.0, 1.0]},
        {"weights": "12345678"},
        {"bias": None},
        {"bias": 10**400},
        {"threshold": math.inf},
        {"mean": None},
    ],
)
def test_a_damaged_confidence_model_is_told(tmp_path, change):
    ConfidenceModel.fit(*toy(noise=1.0), keep=0.9).save(tmp_path, {})
    path = tmp_path / "confidence.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(path.read_text("utf-8")) | change)
    path.write_bytes(change if isinstance(change, bytes) else change.encode())
    with pytest.raises(ConfigError, match=r"confidence\.json cannot be read"):
        ConfidenceModel.load(tmp_path)


# --- what is weighed


class Engine:
    """Quotes the first character of what it is given."""

    def predict(self, task, examples):
        for example in examples:
            context = example.contexts[0]
            candidate = Candidate(context.text[0], 0, 1, 0.5, 0.0, context.source)
            yield ReadPrediction(example.id, context.text[0], 0, 1, 0.5, context.source, (candidate,), null_score=99.0)


class Fused:
    """A search that ranks by something else than words."""

    def __init__(self, *found):
        self.found = found

    def search(self, question, k):
        return list(self.found[:k])


class Found:
    def __init__(self, text, score):
        self.paragraph, self.score = Paragraph(text, "a.txt"), score


@pytest.mark.parametrize("others", [6, 60])
def test_what_confidence_looks_at_does_not_depend_on_what_else_was_found(others):
    text = "橋在岸上。河在橋下。"
    example = asked_of("1", "河橋", [text, *["甲"] * others])  # two characters and their pair, which is not there
    (found,) = Answerer(Engine(), ranking()).answers([example])
    features = features_of("河橋", text, found.selected.scores[0], found.prediction)
    assert dict(zip(FEATURES, features, strict=True)) == {
        "coverage": pytest.approx(2 / 3),
        "sentence": pytest.approx(1 / 3),
        "lexical": ranking().scores("河橋", [text])[0],
        "null": 30.0,
        "span": pytest.approx(math.log(found.prediction.n_best[0].score)),
    }


def test_the_lexical_ranking_decides_and_not_what_found_the_paragraphs():
    answer = Asker(Answerer(Engine(), ranking())).ask("河橋", Fused(Found("甲", 0.03), Found("橋在河上", 0.02)))
    assert answer.quotes[0].paragraph.text == "橋在河上"


def test_without_trust_the_confidence_is_the_score_and_nothing_is_held_back():
    answer = Asker(Answerer(Engine(), ranking())).ask("河橋", Fused(Found("橋在河上", 0.03)))
    assert answer.threshold is None
    assert answer.confidence == answer.quotes[0].score
    assert answer.found


# --- other readers


@pytest.mark.parametrize(("reader", "selector"), [(1, 1), (1, None), (0, 1)])
def test_a_pair_that_was_not_calibrated_holds_nothing_back(foreign, one_thread, reader, selector):
    names = {0: ("starter", None), 1: (str(foreign / "read"), str(foreign / "select"))}
    made = load_asker(names[reader][0], None if selector is None else names[selector][1])
    answer = made.ask("長安橋是誰設計的？", paragraphs())
    assert made.answerer.confidence is None
    assert answer.threshold is None
    assert answer.found
    check_quotes(answer)


def test_trust_beside_a_foreign_reader_is_not_believed(foreign, tmp_path, one_thread):
    import shutil

    shutil.copytree(foreign / "read", tmp_path / "read")
    ConfidenceModel.fit(*toy(noise=1.0), keep=0.9).save(tmp_path / "read", {})
    assert load_asker(str(tmp_path / "read")).answerer.confidence is None


def test_an_encoder_without_an_output_layer_is_no_reader(encoder, run, documents):
    with pytest.raises(CheckpointError, match="no trained output layer"):
        load_asker(str(encoder))
    assert "no trained output layer" in refused(run("ask", "橋", documents, "--reader", encoder))


# --- the command: ask


@pytest.mark.parametrize("command", ["ask", "index"])
def test_help_has_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: zhaiju {command} " in out


def test_ask_quotes_documents_of_every_format(run, tmp_path):
    import docx

    document = docx.Document()
    document.add_paragraph(BRIDGE)
    document.save(tmp_path / "a.docx")
    (tmp_path / "a.pdf").write_bytes(pdf([[BRIDGE[:26], BRIDGE[26:]]]))
    (tmp_path / "a.txt").write_text(BRIDGE, "utf-8")
    (tmp_path / "a.md").write_text(f"# 橋\n\n{BRIDGE}", "utf-8")
    (tmp_path / "a.html").write_text(f"<p>{BRIDGE}</p>", "utf-8")
    (tmp_path / "a.json").write_text(json.dumps([TEA, BRIDGE]), "utf-8")
    places = {"docx": " ¶1", "pdf": " p. 1", "txt": ":1", "md": ":3", "html": " ¶1", "json": "[1]"}
    for suffix, place in places.items():
        told = asked(run, "ask", "長安橋是誰設計的？", tmp_path / f"a.{suffix}")["quotes"][0]
        assert told["paragraph"] == BRIDGE
        assert told["source"] == f"{tmp_path}/a.{suffix}{place}"
        assert told["heading"] == ("橋" if suffix == "md" else None)


def test_json_tells_all(run, documents):
    told = asked(run, "ask", "長安橋是誰設計的？", documents, "-n", 3)
    assert list(told) == ["question", "found", "answer", "confidence", "threshold", "quotes"]
    assert told["question"] == "長安橋是誰設計的？"
    assert told["found"] == (told["confidence"] >= told["threshold"])
    assert told["answer"] == (told["quotes"][0]["answer"] if told["found"] else "")
    assert 1 <= len(told["quotes"]) <= 3
    for quote in told["quotes"]:
        assert {name: type(value) for name, value in quote.items() if value is not None} == {
            "answer": str, "start": int, "end": int, "score": float, "source": str, "document": str, "line": int,
            "sentence": str, "paragraph": str,
        } | ({"heading": str} if quote["heading"] else {})  # fmt: skip
        assert {"line", "page", "number", "heading"} < set(quote)
        assert quote["paragraph"][quote["start"] : quote["end"]] == quote["answer"]
        assert quote["answer"] in quote["sentence"]
        assert quote["sentence"] in quote["paragraph"]


def test_a_terminal_sees_the_sentence_the_place_and_the_confidence(run, documents):
    told = asked(run, "ask", "长安桥由哪个工程师设计？", documents / "bridge.txt")
    code, out, err = run("ask", "长安桥由哪个工程师设计？", documents / "bridge.txt")
    assert (code, err) == (0, "")
    quote = told["quotes"][0]
    *_, sentence, place = out.splitlines()
    assert sentence.replace("⟦", "").replace("⟧", "") == quote["sentence"]
    assert sentence[sentence.index("⟦") + 1 : sentence.index("⟧")] == quote["answer"]
    assert place.strip() == f"{quote['source']}, confidence {told['confidence']:.0%}"


def test_n_shows_the_runners_up(run, documents):
    lines = {}
    for number in (1, 3):
        _, out, _ = run("ask", "橋頭的茶館由誰經營？", documents, "-n", number)
        lines[number] = [line for line in out.splitlines() if "⟦" in line]
    assert len(lines[1]) == 1
    assert len(lines[3]) == 3
    assert lines[3][0] == lines[1][0]


def test_not_found_is_said_in_plain_words_and_is_no_failure(run, documents):
    code, out, err = run("ask", "zebra xylophone", documents)
    assert (code, err) == (0, "")
    assert out == "文件裡找不到答案。The documents do not seem to hold the answer.\n"
    told = asked(run, "ask", "zebra xylophone", documents)
    assert (told["found"], told["answer"], told["quotes"], told["confidence"]) == (False, "", [], 0.0)


def test_below_the_threshold_the_nearest_is_shown_and_not_called_an_answer(run, documents, monkeypatch):
    monkeypatch.setattr(ConfidenceModel, "confidence", lambda self, signals: 0.0)
    code, out, _ = run("ask", "長安橋是誰設計的？", documents)
    assert code == 0
    assert "do not seem to hold the answer (confidence 0%, below" in out
    assert "The nearest:\n" in out
    assert "⟦" in out
    told = asked(run, "ask", "長安橋是誰設計的？", documents)
    assert (told["found"], told["answer"], len(told["quotes"])) == (False, "", 1)


def test_documents_may_come_through_a_pipe(run):
    for arguments in (["長安橋是誰設計的？"], ["長安橋是誰設計的？", "-"]):
        told = asked(run, "ask", *arguments, stdin=f"{TEA}\n\n{BRIDGE}\n")
        assert told["quotes"][0]["source"] == "<stdin>:3"


def test_without_a_question_each_line_is_one(run, documents):
    questions = "長安橋是誰設計的？\n\n  茶館幾點開門？  \n"
    code, out, err = run("ask", documents, "--json", stdin=questions)
    told = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [one["question"] for one in told] == ["長安橋是誰設計的？", "茶館幾點開門？"]
    assert told[0] == asked(run, "ask", "長安橋是誰設計的？", documents)
    two = [documents / "bridge.txt", documents / "museum.html"]
    assert run("ask", *two, "--json", stdin="茶館幾點開門？")[0] == 0
    assert run("ask", documents, stdin="")[:2] == (0, "")


def test_a_question_that_cannot_be_asked_does_not_end_the_others(run, documents):
    code, out, err = run("ask", documents, "--json", stdin="橋" * 3_000 + "\nbad \udcff\n茶館幾點開門？\n")
    assert code == 0
    assert [json.loads(line)["question"] for line in out.splitlines()] == ["茶館幾點開門？"]
    first, second = err.splitlines()
    assert first.startswith("zhaiju: question: ")
    assert "fit the window" in first
    assert "surrogate" in second


def test_an_unreadable_document_is_refused_if_named_and_passed_over_in_a_folder(run, documents, monkeypatch):
    (documents / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    code, out, err = run("ask", "長安橋是誰設計的？", documents, "--json")
    assert code == 0
    assert json.loads(out)["quotes"]
    assert "broken.pdf: cannot be read as PDF" in err
    monkeypatch.chdir(documents)
    for name in ("broken.pdf", "./broken.pdf", documents / "broken.pdf"):
        assert "cannot be read as PDF" in refused(run("ask", "長安橋是誰設計的？", name, "bridge.txt"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["q", "nothing.txt"], "nothing.txt: no such file or folder"),
        (["q", "empty"], "no document found"),
        (["empty"], "no document found"),
        (["q", "blank.txt"], "blank.txt: no text in the documents"),
        (["", "bridge.txt"], "question: empty text"),
        (["  ", "bridge.txt"], "question: empty text"),
        (["a\ud800", "bridge.txt"], "question: half of a surrogate pair"),
        (["橋" * 3_000, "bridge.txt"], "question: the question does not fit the window"),
        ([], "no documents named"),
        (["q"], "no documents named"),
        (["-"], "stdin cannot hold both documents and questions"),
        (["bridge.txt", "-"], "stdin cannot hold both documents and questions"),
        (["bridge.txt", "誰設計的？"], "the question comes first"),
        (["q", "bridge.txt", "--index", "nothing"], "give one or the other"),
        (["q", "--index", "nothing"], "nothing: holds no index"),
        (["q", "--index", "bridge.txt"], "bridge.txt: holds no index"),
        (["q", "--index", "empty"], "empty: holds no index"),
        (["q", "bridge.txt", "--embedder", "x"], "name the index with --index"),
        (["q", "bridge.txt", "--reader", "/nothing"], "no such directory: '/nothing'"),
        (["q", "bridge.txt", "--selector", "bridge.txt"], "bridge.txt is a file"),
        (["q", "bridge.txt", "-n", "0"], "'-n'"),
        (["q", "bridge.txt", "--candidates", "0"], "'--candidates'"),
        (["q", "bridge.txt", "-n", "two"], "'-n'"),
        (["q", "bridge.txt", "--nothing"], "No such option"),
    ],
)
def test_what_cannot_be_asked_is_one_line(run, documents, monkeypatch, arguments, told):
    monkeypatch.chdir(documents)
    (documents / "empty").mkdir()
    (documents / "blank.txt").write_text(" \n\u3000\n", "utf-8")
    assert told in refused(run("ask", *arguments))


def test_control_characters_in_documents_never_reach_the_terminal(run, tmp_path):
    steering = tmp_path / "a\x1b[2J.md"
    steering.write_text(f"# 標\u009b題\x1b\n\n{STEERING}\n", "utf-8")
    code, out, err = run("ask", "鍋爐和鑰匙在哪裡？", steering, "-n", 9)
    assert code == 0
    assert "⟦" in out
    assert "\\x1b" in out
    shown = asked(run, "ask", "鍋爐和鑰匙在哪裡？", steering)
    assert shown["quotes"][0]["paragraph"] == STEERING
    _, machine, _ = run("ask", "鍋爐和鑰匙在哪裡？", steering, "--json")
    refusal = refused(run("ask", "q\x1b[2J", tmp_path / "no\x1bthing"))
    assert not any((ord(c) < 32 and c != "\n") or c in "\x7f\u009b\u202e" for c in out + err + machine + refusal)


def test_spaces_and_joined_emoji_are_shown_as_they_are():
    text = "一　二\u00a0三 👩🏽\u200d🚀 é\t四\n五"
    assert ui.visible(text) == text
    assert ui.marked(text, 0, 1, 0, len(text)).plain == "⟦一⟧" + text[1:].replace("\t", " ").replace("\n", " ")
    assert ui.visible("\x00\u202e\u2028") == "\\x00\\x202e\\x2028"


@given(st.text())
def test_json_for_the_terminal_reads_back_the_same(text):
    shown = ui.json_text({"text": text})
    assert json.loads(shown) == {"text": text}
    assert not any(c in shown for c in "\x1b\x7f\x85\u009b\u202e\u2028\ud800")


ALONE = """
import socket, sys
def refuse(*arguments):
    raise AssertionError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from zhaiju import cli
sys.argv = ["zhaiju", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as stopped:
    assert stopped.code == 0
print({"torch", "transformers", "lancedb", "pyarrow", "matplotlib", "huggingface_hub"} & set(sys.modules))
"""


@pytest.mark.parametrize("offline", ["0", "1"])
def test_ask_needs_no_network_and_no_heavy_library(documents, offline, tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", ALONE, "ask", "長安橋是誰設計的？", str(documents), "--json"],
        env={**os.environ, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path / "hub")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (told.returncode, told.stderr) == (0, "")
    answer, loaded = told.stdout.splitlines()
    assert json.loads(answer)["quotes"][0]["paragraph"] == BRIDGE
    assert loaded == "set()"


def test_a_closed_stdin_is_no_crash(documents):
    for arguments, code in ((["橋"], 2), ([documents], 0), (["橋", documents], 0)):
        command = "exec 0<&-; exec " + '"$@"'
        told = subprocess.run(
            ["bash", "-c", command, "bash", sys.executable, "-m", "zhaiju.cli", "ask", *map(str, arguments)],
            capture_output=True,
            text=True,
        )
        assert told.returncode == code
        assert "Traceback" not in told.stderr


# --- the command: index

needs_lancedb = pytest.mark.usefixtures("lancedb")


@pytest.fixture
def lancedb():
    pytest.importorskip("lancedb")


def listed(run, index):
    return {row["document"].rpartition("/")[2]: row["paragraphs"] for row in asked(run, "index", "-o", index, "--list")}


@needs_lancedb
def test_an_index_follows_its_folder(run, documents, tmp_path):
    index = tmp_path / "index"
    counts = {"added": 0, "changed": 0, "unchanged": 0, "removed": 0, "failed": 0}
    assert asked(run, "index", documents, "-o", index) == counts | {"added": 3, "documents": 3, "paragraphs": 4}
    assert asked(run, "index", documents, "-o", index) == counts | {"unchanged": 3, "documents": 3, "paragraphs": 4}
    (documents / "bridge.txt").write_text(BRIDGE, "utf-8")
    (documents / "museum.html").rename(documents / "clocks.html")
    (documents / "inner" / "library.md").unlink()
    (documents / "new.txt").write_text("山羊在屋頂上睡覺。", "utf-8")
    assert asked(run, "index", documents, "-o", index) == counts | {
        "added": 2, "changed": 1, "removed": 2, "documents": 3, "paragraphs": 3,
    }  # fmt: skip
    assert listed(run, index) == {"bridge.txt": 1, "clocks.html": 1, "new.txt": 1}
    code, out, _ = run("index", "-o", index, "--list")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["1", str(documents / name)] for name in ("bridge.txt", "clocks.html", "new.txt")
    ]


@needs_lancedb
def test_an_index_of_some_folders_leaves_the_others_alone(run, documents, tmp_path):
    asked(run, "index", documents, "-o", tmp_path / "index")
    (documents / "inner" / "library.md").unlink()
    (documents / "bridge.txt").unlink()
    report = asked(run, "index", documents / "inner", "-o", tmp_path / "index")  # its last document is gone
    assert (report["removed"], report["documents"]) == (1, 2)


@needs_lancedb
def test_documents_and_folders_can_be_removed(run, documents, tmp_path, monkeypatch):
    index = tmp_path / "index"
    asked(run, "index", documents, "-o", index)
    monkeypatch.chdir(documents)
    assert asked(run, "index", "-o", index, "--remove", "inner/library.md")["removed"] == 1
    assert "is not in the index" in refused(run("index", "-o", index, "--remove", "inner/library.md"))
    assert "is not in the index" in refused(run("index", "-o", index, "--remove", "bridge.txt", "--remove", "b"))
    assert listed(run, index) == {"bridge.txt": 2, "museum.html": 1}
    report = asked(run, "index", "inner", "-o", index, "--remove", ".", "--remove", "bridge.txt")
    assert report == {
        "removed": 2, "added": 1, "changed": 0, "unchanged": 0, "failed": 0, "documents": 1, "paragraphs": 1,
    }  # fmt: skip


@needs_lancedb
def test_a_document_that_cannot_be_read_does_not_stop_the_others(run, documents, tmp_path, monkeypatch):
    index = tmp_path / "index"
    (documents / "a.pdf").write_bytes(b"%PDF-1.4 nothing")
    code, out, err = run("index", documents, "-o", index, "--json")
    report = json.loads(out)
    assert (code, report["added"], report["failed"]) == (0, 3, 1)
    assert "a.pdf: cannot be read as PDF" in err
    code, out, err = run("index", documents / "a.pdf", documents / "bridge.txt", "-o", index, "--json")
    assert (code, json.loads(out)["unchanged"], json.loads(out)["failed"]) == (1, 1, 1)
    fingerprint = files.fingerprint

    def denied(path):
        if str(path).endswith("bridge.txt"):
            (documents / "bridge.txt").unlink(missing_ok=True)  # between the listing and the reading
        return fingerprint(path)

    monkeypatch.setattr(files, "fingerprint", denied)
    code, out, err = run("index", documents, "-o", index, "--json")
    assert (code, json.loads(out)["unchanged"], json.loads(out)["failed"]) == (0, 2, 2)
    assert "bridge.txt: cannot be read" in err


@needs_lancedb
def test_asking_an_index_is_asking_its_documents(run, documents, tmp_path, monkeypatch):
    asked(run, "index", documents, "-o", tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    for question in ("長安橋是誰設計的？", "图书馆的猫叫什么名字？", "Who founded the museum?", "zebra"):
        ours = asked(run, "ask", question, documents)
        theirs = asked(run, "ask", question, "--index", "index")
        assert theirs["confidence"] == pytest.approx(ours["confidence"], abs=0.1)
        for told in (ours, theirs):
            told.pop("confidence")
            for quote in told["quotes"]:
                quote.pop("score")
        assert theirs["quotes"] == ours["quotes"]
    assert "is an index; ask it with --index" in refused(run("ask", "橋", "index"))


@needs_lancedb
def test_an_index_with_vectors_is_asked_with_its_encoder(encoder, run, documents, tmp_path, one_thread):
    index = tmp_path / "index"
    assert asked(run, "index", documents, "-o", index, "--embedder", encoder)["added"] == 3
    told = asked(run, "ask", "長安橋是誰設計的？", "--index", index, "--embedder", encoder)
    assert told["quotes"][0]["paragraph"] == BRIDGE
    assert told["confidence"] == pytest.approx(
        asked(run, "ask", "長安橋是誰設計的？", documents)["confidence"], abs=0.1
    )
    refusal = refused(run("ask", "橋", "--index", index))
    assert f"open it with --embedder {encoder}" in refusal
    assert refused(run("index", documents, "-o", index)) == refusal


@needs_lancedb
def test_a_second_writer_is_told(run, documents, tmp_path):
    from zhaiju.corpus.index import Index

    asked(run, "index", documents, "-o", tmp_path / "index")
    with Index.open(str(tmp_path / "index")).writing():
        assert "another process is writing" in refused(run("index", documents, "-o", tmp_path / "index"))
        assert asked(run, "ask", "長安橋是誰設計的？", "--index", tmp_path / "index")["quotes"]


@needs_lancedb
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no documents named"),
        (["nothing.txt"], "nothing.txt: no such file or folder"),
        (["empty"], "no document found"),
        (["-"], "stdin (-) is neither"),
        (["--list"], "holds no index"),
        (["--remove", "x"], "holds no index"),
        (["bridge.txt", "--embedder", "/nothing"], "no such directory"),
    ],
)
def test_what_cannot_be_indexed_is_one_line_and_leaves_no_index(run, documents, monkeypatch, arguments, told):
    monkeypatch.chdir(documents)
    (documents / "empty").mkdir()
    assert told in refused(run("index", *arguments, "-o", "made"))
    assert not (documents / "made").exists()


@needs_lancedb
def test_an_index_is_not_made_where_a_file_is(run, documents):
    assert "cannot write" in refused(run("index", documents, "-o", documents / "bridge.txt"))
    assert (documents / "bridge.txt").read_text("utf-8").startswith(BRIDGE)


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", "starter", "public.json"],
        ["answer", "context.json", "public.json", "--fit", "public.json", "-o", "out.json"],
    ],
)
def test_nothing_is_fitted_into_the_package(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "belongs to the package" in err
