"""The HTTP service: it answers as the library does, computes together what comes together, and refuses the rest."""

import asyncio
import base64
import json
import logging
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import uvicorn

import kills
import zhaiju
from checkpoints import INTENTS, SLOTTED, bert
from zhaiju.api import Model
from zhaiju.config import TrainSettings
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.features import ranking
from zhaiju.corpus.index import Entry, Index
from zhaiju.data.examples import Context, QAExample
from zhaiju.data.formats import ReadLog
from zhaiju.errors import ConfigError
from zhaiju.inference.engine import Engine
from zhaiju.service.app import make_app
from zhaiju.service.batching import Batcher, LateError, StoppedError, Ticket
from zhaiju.service.documents import Documents, identity, shown
from zhaiju.service.limits import Rate, RequestError, Settings, check_host, client_token
from zhaiju.service.runs import Runs
from zhaiju.service.server import bind, configured
from zhaiju.service.turns import Baton, Crew, Turns
from zhaiju.service.work import Models, load_models
from zhaiju.tasks import ReadTask
from zhaiju.training.run import TrainData, train

KILLS = kills.count(5)
SAMPLE = resources("zhaiju.starter") / "sample"
CONTEXTS = json.loads((SAMPLE / "context.json").read_text("utf-8"))
HELD_OUT = json.loads((SAMPLE / "held_out.json").read_text("utf-8"))
QUESTION, PARAGRAPHS = "誰在河邊修船？", ["林師傅在河邊修船。", "鎮上有兩家書店。", "😀船修好了🐳，林師傅明天下水。"]
QUESTIONS = [
    {"question": row["question"], "contexts": [CONTEXTS[at] for at in row["paragraphs"]]} for row in HELD_OUT[:6]
]
UTTERANCES = [example.text for example in INTENTS]
ROUTES = ("answer", "select", "read", "intent", "slots")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def dialogue(tmp_path_factory):
    """Tiny checkpoints for intent and slots."""
    folder = tmp_path_factory.mktemp("dialogue")
    bert(folder / "bert")
    settings = TrainSettings(encoder=str(folder / "bert"), window=32, lr=1e-2, max_steps=2, threads=1)
    for task, examples in (("intent", INTENTS), ("slots", SLOTTED)):
        train(task, settings, TrainData(examples, examples, [], ReadLog()), folder / task)
    return {task: str(folder / task) for task in ("intent", "slots")}


@pytest.fixture(scope="module")
def models(dialogue):
    return load_models(others=[dialogue["intent"], dialogue["slots"]])


@pytest.fixture(scope="module")
def encoding():
    return zhaiju.load("starter").parts["read"][0].encoding


@contextmanager
def serving(models, documents=None, runs=None, **settings):
    """A function that sends requests to an app, one or several at a time, and gives the responses."""
    app = make_app(Settings(**settings), models, documents, runs=runs)
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()

    def wait_for(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(90)

    async def send(requests):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            return await asyncio.gather(*(client.request(*request[:2], **request[2]) for request in requests))

    def post(*requests, **options):
        """(route, body) each."""
        found = wait_for(send([("POST", f"/v1/{route}", {"json": body} | options) for route, body in requests]))
        return found if len(requests) > 1 else found[0]

    def call(method, path, **options):
        return wait_for(send([(method, path, options)]))[0]

    def is_left():
        """Whether the last request has left within a second."""
        until = time.monotonic() + 1
        while app.state.gate.inside and time.monotonic() < until:
            time.sleep(0.01)
        return not app.state.gate.inside

    post.call = call
    post.wait_for = wait_for
    post.is_left = is_left
    post.app = app
    try:
        yield post
    finally:
        app.state.worker.close(drain=False)
        loop.call_soon_threadsafe(loop.stop)
        running.join()
        loop.close()


class Slow:
    """A backend that computes nothing, once it is let: `begun` is set while it is at it."""

    pad_id = 0

    def __init__(self, *, free=True, fails=None, seconds=0.0):
        self.free = threading.Event()
        self.begun = threading.Event()
        self.shapes = []
        self.fails = fails
        self.seconds = seconds
        if free:
            self.free.set()

    def run(self, chunk):
        self.begun.set()
        assert self.free.wait(30)
        time.sleep(self.seconds)
        self.shapes.append(chunk.input_ids.shape)
        if self.fails is not None:
            raise self.fails
        rows, tokens = chunk.input_ids.shape
        return np.zeros((rows, 2, tokens), np.float32)

    @property
    def windows(self):
        return sum(rows for rows, _ in self.shapes)


def slow_models(backend, encoding):
    return Models(Model({"read": (Engine(backend, encoding), ReadTask())}))


READ = ("read", {"question": QUESTION, "context": PARAGRAPHS[0]})


def body_of(task, place):
    if task in ("answer", "select"):
        return QUESTIONS[place]
    if task == "read":
        return {"question": QUESTIONS[place]["question"], "context": QUESTIONS[place]["contexts"][0]}
    return {"text": UTTERANCES[place]}


def near(found, wanted):
    """Equal but for the rounding of floats, which depends on what is computed together."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            near(found[name], wanted[name])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            near(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    else:
        assert found == wanted


# --- answers


def test_answers_are_those_of_the_library(models, dialogue):
    library = zhaiju.load("starter")
    with serving(models) as post:
        responses = post(*[(task, body_of(task, place)) for place in range(6) for task in ("answer", "select", "read")])
        for place in range(6):
            answer, select, read = (response.json() for response in responses[3 * place : 3 * place + 3])
            body = QUESTIONS[place]
            wanted = library.answer(body["question"], body["contexts"])
            names = ("answer", "start", "end", "score", "source", "index", "selected")
            near([answer[name] for name in names], [getattr(wanted, name) for name in names])
            assert body["contexts"][answer["index"]][answer["start"] : answer["end"]] == answer["answer"]
            near([quote["score"] for quote in answer["quotes"]], [one.score for one in wanted.n_best])
            chosen = library.select(body["question"], body["contexts"])
            near(select, {"index": chosen.index, "score": chosen.score, "scores": list(chosen.scores)})
            wanted = library.read(body["question"], body["contexts"][0])
            near([read[name] for name in ("answer", "start", "end", "score", "null_score")],
                 [wanted.answer, wanted.start, wanted.end, wanted.score, wanted.null_score])  # fmt: skip
        intent, slots = zhaiju.load(dialogue["intent"]), zhaiju.load(dialogue["slots"])
        for text, found in zip(UTTERANCES, post(*[("intent", {"text": text}) for text in UTTERANCES]), strict=True):
            near([found.json()["label"], found.json()["score"]], [intent.intent(text).label, intent.intent(text).score])
        for text, found in zip(UTTERANCES, post(*[("slots", {"text": text}) for text in UTTERANCES]), strict=True):
            wanted = slots.slots(text)
            near(found.json()["spans"], [asdict(span) for span in wanted.spans])
            assert found.json()["tags"] == list(wanted.tags)
        words = UTTERANCES[0].split()
        assert post(("slots", {"tokens": words})).json()["tags"] == list(slots.slots(words, words=True).tags)


@pytest.mark.parametrize("task", ROUTES)
def test_a_batch_gives_what_its_items_give_one_by_one(models, task):
    with serving(models) as post:
        singles = [post((task, body_of(task, place))).json() for place in range(5)]
        together = post((f"{task}/batch", {"items": [body_of(task, place) for place in range(5)]}))
        assert together.status_code == 200
        near(together.json()["results"], singles)


def test_offsets_count_code_points(models):
    with serving(models) as post:
        found = post(("read", {"question": QUESTION, "context": PARAGRAPHS[2]})).json()
        assert found["answer"] == PARAGRAPHS[2][found["start"] : found["end"]]
        assert all(one["text"] == PARAGRAPHS[2][one["start"] : one["end"]] for one in found["n_best"])
        assert "code point" in json.dumps(post.call("GET", "/openapi.json").json()["components"])


def test_candidates_are_ranked_as_the_selector_ranks_them(models, documents):
    with serving(models, documents, uploads=True) as post:
        body = QUESTIONS[1]
        answered, selected = (response.json() for response in post(("answer", body), ("select", body)))
        odds = np.exp(np.asarray(selected["scores"]) - max(selected["scores"]))
        wanted = sorted(enumerate(odds / odds.sum()), key=lambda one: -one[1])
        found = answered["candidates"]
        assert [one["index"] for one in found] == [index for index, _ in wanted]
        near([one["score"] for one in found], [float(score) for _, score in wanted])
        assert found[0]["selected"]
        assert answered["index"] in [one["index"] for one in found if one["selected"]]
        together = post(("answer/batch", {"items": [body, QUESTIONS[0]]})).json()["results"]
        near(together[0]["candidates"], found)
        post(("documents", {"documents": [NOTES]}))
        answered = post(("answer", {"question": "鎮上誰在河邊修船？"})).json()
        assert {one["paragraph"] for one in answered["candidates"]} == {PARAGRAPHS[0], PARAGRAPHS[1]}
        assert answered["candidates"][0]["source"] == answered["source"]
        assert sum(one["score"] for one in answered["candidates"]) == pytest.approx(1)


def test_without_a_selector_the_lexical_ranking_selects(encoding):
    with serving(slow_models(Slow(), encoding)) as post:
        body = {"question": QUESTION, "contexts": PARAGRAPHS}
        answered, selected = (response.json() for response in post(("answer", body), ("select", body)))
        assert selected["scores"] == ranking().scores(QUESTION, PARAGRAPHS).tolist()
        assert [one["selected"] for one in answered["candidates"]] == [True, False, False]
        assert answered["candidates"][0] == answered["candidates"][0] | {
            "index": selected["index"], "score": selected["score"],
        }  # fmt: skip
        response = post(("tokens", {"text": "船", "task": "select"}))
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_loaded")


def test_tokens_are_those_of_the_encoder(models, dialogue):
    with serving(models, max_text=100) as post:
        for task, name in (("read", "starter"), ("intent", dialogue["intent"])):
            wanted = zhaiju.load(name).parts[task][0].encoding.tokens(PARAGRAPHS[2])
            found = post(("tokens", {"text": PARAGRAPHS[2], "task": task})).json()["tokens"]
            assert [one["id"] for one in found] == wanted.ids.tolist()
            assert [(one["start"], one["end"]) for one in found] == list(zip(wanted.starts, wanted.ends, strict=True))
        assert (
            post(("tokens", {"text": PARAGRAPHS[2]})).json()
            == post(("tokens", {"text": PARAGRAPHS[2], "task": "read"})).json()
        )
        for body, field in (
            ({"text": "船" * 101}, "text"),
            ({"text": " "}, "text"),
            ({"text": "船", "task": "x"}, "task"),
        ):
            response = post(("tokens", body))
            assert (response.status_code, response.json()["error"]["field"]) == (422, field)


def test_capabilities_say_what_can_be_asked(models, encoding, documents, dialogue):
    def capable(*given, runs=None, **settings):
        with serving(*given, runs=runs, **settings) as post:
            headers = {"Authorization": "Bearer s3cret"}
            assert post.call("GET", "/v1/runs", headers=headers).status_code == (200 if runs else 404)
            return post.call("GET", "/v1/capabilities", headers=headers).json()

    found = capable(slow_models(Slow(), encoding), max_question=77)
    assert found.pop("limits") | {"max_question": 77, "max_context": 100_000} == {
        "max_question": 77, "max_context": 100_000, "max_contexts": 100, "max_text": 10_000, "max_batch": 64,
        "max_body": 1 << 20, "max_upload": 32 << 20,
    }  # fmt: skip
    assert found == {
        "tasks": ["read", "select"], "index": False, "uploads": False, "labels": False, "curves": False, "token": False,
    }  # fmt: skip
    runs = Runs([Path(dialogue["intent"])])
    found = capable(models, documents, runs=runs, uploads=True, tokens=("s3cret",))
    assert all(found[name] for name in ("index", "uploads", "curves", "token"))
    assert found["tasks"] == ["read", "select", "intent", "slots"]


def test_runs_tell_their_metrics_and_no_path(dialogue, tmp_path, encoding):
    twin = tmp_path / "intent"
    shutil.copytree(dialogue["intent"], twin)
    with (twin / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        for step in range(3, 2003):
            stream.write(json.dumps({"event": "step", "step": step, "loss": 2.0, "lr": 0.1, "seconds": 0}) + "\n")
        stream.write('{"event": "step", "st')  # it is being written
    runs = Runs([Path(dialogue["intent"]), twin, Path(dialogue["slots"])])
    with serving(slow_models(Slow(), encoding), runs=runs) as post:
        response = post.call("GET", "/v1/runs")
        first, second, third = response.json()["runs"]
        assert [first["name"], second["name"], third["name"]] == ["intent", "intent (2)", "slots"]
        assert (first["task"], third["task"]) == ("intent", "slots")
        entries = [json.loads(line) for line in (twin / "metrics.jsonl").read_text("utf-8").splitlines()[:-1]]
        scored = [entry for entry in entries if entry["event"] == "evaluate"]
        assert first["evaluations"] == [
            {"step": entry["step"], "figures": {"accuracy": entry["accuracy"]}} for entry in scored
        ]
        assert first["best_step"] == max(scored, key=lambda entry: entry["accuracy"])["step"]
        assert [one["step"] for one in first["steps"]] == [1, 2]
        assert len(second["steps"]) <= 600
        assert second["steps"][-1] == {"step": 2002, "loss": 2.0, "low": 2.0, "high": 2.0, "lr": 0.1}
        assert set(third["evaluations"][0]["figures"]) == {"f1", "token_accuracy", "sentence_accuracy"}
        assert str(tmp_path) not in response.text
        shutil.rmtree(twin)
        gone = post.call("GET", "/v1/runs")
        assert gone.status_code == 503
        assert str(tmp_path) not in gone.text


def test_the_page_is_given_without_a_token_and_holds_nothing(encoding):
    with serving(slow_models(Slow(), encoding), tokens=("s3cret",)) as post:
        page = post.call("GET", "/")
        assert page.status_code == 200
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert post.call("GET", "/static/main.js").status_code == 200
        assert post.call("GET", "/v1/capabilities").status_code == 401
        assert post.call("GET", "/openapi.json").status_code == 401
    with serving(slow_models(Slow(), encoding), hosts=("127.0.0.1",)) as post:
        assert post.call("GET", "/", headers={"Host": "evil.example"}).status_code == 421


def test_what_is_not_loaded_is_said(encoding):
    with serving(slow_models(Slow(), encoding)) as post:
        for route in ("intent", "intent/batch", "slots"):
            task = route.partition("/")[0]
            item = body_of(task, 0)
            response = post((route, {"items": [item]} if "/" in route else item))
            assert response.status_code == 404
            assert response.json()["error"] == {
                "code": "not_loaded",
                "message": f"no model for {task} is loaded here, only for read, select",
            }
        assert post(("answer", {"question": QUESTION})).json()["error"]["code"] == "no_index"
        assert post.call("GET", "/v1/documents").status_code == 404


def test_health_metrics_and_description(models):
    with serving(models) as post:
        assert post.call("GET", "/healthz").json() == {"status": "ok", "tasks": ["read", "select", "intent", "slots"]}
        assert post.call("GET", "/readyz").json()["status"] == "ready"
        post(*[("answer", QUESTIONS[0])] * 3)
        metrics = post.call("GET", "/metrics").text
        assert 'zhaiju_requests_total{route="/v1/answer",status="200"} 3.0' in metrics
        post.call("POST", "/v1/answer", content="船")
        post.call("POST", "/v1/secret", content="船")
        metrics = post.call("GET", "/metrics").text
        assert 'zhaiju_requests_total{route="/v1/answer",status="415"} 1.0' in metrics
        assert 'zhaiju_requests_total{route="other",status="404"} 1.0' in metrics
        assert re.search(r'zhaiju_tokens_total\{engine="read"\} [1-9]', metrics)
        assert "zhaiju_queue 0.0" in metrics
        assert re.search(r'zhaiju_batch_requests_count\{engine="read"\} [1-9]', metrics)
        description = post.call("GET", "/openapi.json").json()
        for task in ROUTES:
            schema = description["components"]["schemas"][f"{task.capitalize()}Request"]
            for example in schema["examples"] if task != "answer" else schema["examples"][:1]:
                assert post((task, example)).status_code == 200
        for example in description["components"]["schemas"]["TokensRequest"]["examples"]:
            assert post(("tokens", example)).status_code == 200
        assert "/v1/answer/batch" in description["paths"]


# --- batches


def test_what_arrives_while_the_engine_works_is_computed_together(encoding):
    backend = Slow(free=False)
    with serving(slow_models(backend, encoding), window_ms=0) as post:
        first = threading.Thread(target=post, args=[READ])
        first.start()
        assert backend.begun.wait(10)
        freed = threading.Timer(0.5, backend.free.set)
        freed.start()
        assert all(response.status_code == 200 for response in post(*[READ] * 8))
        first.join()
    assert [rows for rows, _ in backend.shapes] == [1, 8]


def test_an_idle_engine_waits_a_moment_for_company(encoding):
    backend = Slow()
    with serving(slow_models(backend, encoding), window_ms=300) as post:
        assert all(response.status_code == 200 for response in post(*[READ] * 6))
    assert [rows for rows, _ in backend.shapes] == [6]


def _example(text):
    return QAExample("0", QUESTION, (Context(text, "0"),), relevant=0)


def test_a_short_request_passes_a_long_one(encoding):
    backend = Slow(free=False, seconds=0.03)
    engine = Engine(backend, encoding, batch_tokens=512)
    batcher = Batcher(engine, window=0)
    done = []

    def ask(name, *texts):
        batcher.predict(ReadTask(), [_example(text) for text in texts], Ticket())
        done.append((name, len(backend.shapes)))

    asking = [threading.Thread(target=ask, args=["first", PARAGRAPHS[0]])]
    asking[0].start()
    assert backend.begun.wait(10)
    for name, texts in (("long", ["船" * 300] * 40), ("short", PARAGRAPHS[:1])):
        asking.append(threading.Thread(target=ask, args=[name, *texts]))
        asking[-1].start()
        time.sleep(0.2)
    backend.free.set()
    for thread in asking:
        thread.join(30)
    batcher.close()
    assert [name for name, _ in done] == ["first", "short", "long"]
    assert done[1][1] <= 6  # after one batch, and not after all of the long one's
    assert done[2][1] > 20


def test_a_batch_never_holds_more_tokens_than_it_may(encoding):
    backend = Slow()
    batcher = Batcher(Engine(backend, encoding, batch_tokens=600), window=0.05)
    generator = random.Random(0)
    examples = [[_example("船" * generator.randint(1, 900)) for _ in range(5)] for _ in range(12)]
    asking = [threading.Thread(target=batcher.predict, args=[ReadTask(), some, Ticket()]) for some in examples]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(60)
    batcher.close()
    assert all(rows * tokens <= 600 for rows, tokens in backend.shapes)
    expected = sum(len(encoding.windows(QUESTION, one.context.text)) for some in examples for one in some)
    assert backend.windows == expected


def test_streams_compute_side_by_side_and_each_request_gets_its_own_logits(encoding):
    came = [threading.Event(), threading.Event()]

    class Meeting(Slow):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def run(self, chunk):
            came[self.at].set()
            assert came[1 - self.at].wait(30)  # alone it would wait in vain
            return super().run(chunk)

    engines = [Engine(Meeting(at), encoding, batch_tokens=256) for at in range(2)]
    batcher = Batcher(engines[0], more=engines[1:], window=0.05)
    found = {}

    def ask(at):
        found[at] = batcher.predict(ReadTask(), [_example("船" * (9 + 31 * at)) for _ in range(3)], Ticket())

    asking = [threading.Thread(target=ask, args=[at]) for at in range(12)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(60)
    batcher.close()
    assert sorted(found) == list(range(12))
    assert all(engine.backend.windows for engine in engines)
    expected = sum(3 * len(encoding.windows(QUESTION, "船" * (9 + 31 * at))) for at in range(12))
    assert sum(engine.backend.windows for engine in engines) == expected


def test_two_streams_answer_as_the_library_does():
    with serving(load_models(streams=2)) as post:
        responses = post(*[("answer", question) for question in QUESTIONS * 4])
    model = zhaiju.load("starter")
    for response, asked in zip(responses, QUESTIONS * 4, strict=True):
        found = model.answer(asked["question"], asked["contexts"])
        assert (response.json()["answer"], response.json()["start"]) == (found.answer, found.start)


def test_one_request_at_fault_does_not_harm_its_neighbours(encoding):
    long = "船" * 900
    with serving(slow_models(Slow(), encoding), window_ms=200) as post:
        good, bad = post(READ, ("read", {"question": long, "context": "船"}))
    assert good.status_code == 200
    assert bad.status_code == 422
    assert bad.json()["error"]["field"] == "question"
    assert "does not fit the window" in bad.json()["error"]["message"]


def test_a_closed_batcher_has_done_what_it_took_and_takes_no_more(encoding):
    backend = Slow(free=False)
    batcher = Batcher(Engine(backend, encoding), window=0)
    found = []
    asking = [
        threading.Thread(target=lambda: found.append(batcher.predict(ReadTask(), [_example("船")], Ticket())))
        for _ in range(4)
    ]
    for thread in asking:
        thread.start()
    assert backend.begun.wait(10)
    time.sleep(0.2)
    threading.Timer(0.2, backend.free.set).start()
    batcher.close()
    for thread in asking:
        thread.join(10)
    assert len(found) == 4
    assert not batcher.is_alive
    with pytest.raises(StoppedError):
        batcher.predict(ReadTask(), [_example("船")], Ticket())


def test_work_that_nobody_waits_for_is_dropped(encoding):
    backend = Slow(free=False)
    batcher = Batcher(Engine(backend, encoding), window=0)
    first = threading.Thread(target=batcher.predict, args=[ReadTask(), [_example("船")], Ticket()])
    first.start()
    assert backend.begun.wait(10)
    with pytest.raises(LateError):
        batcher.predict(ReadTask(), [_example("船")] * 20, Ticket(0.2))
    dropped = Ticket()

    def wait():
        with pytest.raises(LateError):
            batcher.predict(ReadTask(), [_example("船")], dropped)
        noticed.set()

    noticed = threading.Event()
    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    dropped.drop()
    backend.free.set()
    waiting.join(10)
    first.join(10)
    batcher.close()
    assert noticed.is_set()
    assert backend.windows == 1


# --- what is refused


def test_past_its_deadline_a_request_is_504_and_its_work_is_not_done(encoding):
    backend = Slow(free=False)
    with serving(slow_models(backend, encoding), window_ms=0, deadline=0.4) as post:
        responses = post(READ, READ, READ)
        assert [response.status_code for response in responses] == [504] * 3
        assert responses[0].json()["error"]["code"] == "deadline"
        backend.free.set()
        assert post(READ).status_code == 200
        assert post.is_left()
    assert backend.windows <= 4  # the first batch, which had begun, and the last


def test_past_a_full_queue_a_request_is_503_at_once(encoding):
    backend = Slow(free=False)
    with serving(slow_models(backend, encoding), queue=2, window_ms=0) as post:
        held = threading.Thread(target=post, args=[READ, READ])
        held.start()
        assert backend.begun.wait(10)
        time.sleep(0.2)
        began = time.monotonic()
        refused = post(*[READ] * 20)
        assert time.monotonic() - began < 5  # and not as long as the engine takes
        assert {response.status_code for response in refused} == {503}
        assert refused[0].headers["Retry-After"] == "1"
        assert refused[0].json()["error"]["code"] == "overloaded"
        assert post.call("GET", "/healthz").status_code == 200
        backend.free.set()
        held.join(10)
        assert post(READ).status_code == 200
        assert post.is_left()


LIMITS = {"max_question": 10, "max_context": 20, "max_contexts": 2, "max_text": 12, "max_batch": 2}


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("answer", {"question": "問" * 11, "contexts": ["船"]}, "question"),
        ("answer", {"question": "問", "contexts": ["船"] * 3}, "contexts"),
        ("select", {"question": "問", "contexts": ["船", "船" * 21]}, "contexts[1]"),
        ("read", {"question": "問", "context": "船" * 21}, "context"),
        ("intent", {"text": "船" * 13}, "text"),
        ("slots", {"tokens": ["船"] * 13}, "tokens"),
        ("slots", {"tokens": ["船" * 13]}, "tokens"),
        ("intent/batch", {"items": [{"text": "船"}] * 3}, "items"),
        ("read/batch", {"items": [{"question": "問", "context": "船"}, {"question": "問" * 11, "context": "船"}]},
         "items[1].question"),
        ("read/batch", {"items": [{"question": "問", "context": "船"}, {"question": "問"}]}, "items[1].context"),
        ("read/batch", {"items": []}, "items"),
        ("answer", {"question": "", "contexts": ["船"]}, "question"),
        ("answer", {"question": " \u3000", "contexts": ["船"]}, "question"),
        ("answer", {"question": "問", "contexts": []}, "contexts"),
        ("answer", {"question": "問", "contexts": ["船", ""]}, "contexts[1]"),
        ("answer", {"question": 5, "contexts": ["船"]}, "question"),
        ("answer", {"question": "問", "contexts": "船"}, "contexts"),
        ("answer", {"question": "問", "contexts": ["船"], "extra": 1}, "extra"),
        ("slots", {}, None),
        ("slots", {"text": "船", "tokens": ["船"]}, None),
        ("slots", {"tokens": []}, "tokens"),
        ("intent", ["船"], None),
    ],
)  # fmt: skip
def test_what_is_wrong_or_too_long_is_422_and_named(models, route, body, field):
    with serving(models, **LIMITS) as post:
        response = post((route, body))
        assert response.status_code == 422, response.text
        error = response.json()["error"]
        assert error.get("field") == field
        assert set(error) == {"code", "message"} | ({"field"} if field else set())


def test_half_of_a_surrogate_pair_is_no_text(models):
    with serving(models) as post:
        for body in ('{"question": "\\ud800", "contexts": ["a"]}', '{"question": "a", "contexts": ["\\udc00"]}'):
            response = post.call("POST", "/v1/answer", content=body, headers=JSON)
            assert response.status_code == 422
            assert "surrogate" in response.json()["error"]["message"]


def test_a_body_is_refused_before_it_is_read(models):
    with serving(models, max_body=1000) as post:
        assert post(("intent", {"text": "船" * 2000})).status_code == 413
        sent = 0

        async def endless():
            nonlocal sent
            while True:
                sent += 1
                yield b" " * 100

        response = post.call("POST", "/v1/intent", content=endless(), headers=JSON)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "too_large"
        assert sent < 20
        assert post.is_left()


def test_a_body_that_does_not_come_is_not_waited_for(models):
    async def slow():
        yield b"{"
        await asyncio.sleep(30)

    with serving(models, deadline=0.3) as post:
        response = post.call("POST", "/v1/intent", content=slow(), headers=JSON)
        assert (response.status_code, response.json()["error"]["code"]) == (408, "slow_body")
        assert post.is_left()


def test_what_is_no_json_or_no_route_is_refused_in_the_same_shape(models):
    with serving(models) as post:
        cases = [
            (post.call("POST", "/v1/intent", content="{", headers=JSON), 400),
            (post.call("POST", "/v1/intent", content=b"\xff", headers=JSON), 400),
            (post.call("POST", "/v1/intent", content="[" * 100_000, headers=JSON), 400),
            (post.call("POST", "/v1/intent", content="", headers=JSON), 422),
            (post.call("POST", "/v1/intent", content='{"text": "a"}', headers={"Content-Type": "text/plain"}), 415),
            (post.call("POST", "/v1/intent", content='{"text": "a"}'), 415),
            (post.call("GET", "/v1/intent"), 405),
            (post.call("GET", "/nothing"), 404),
            (post.call("POST", "/v1/nothing", json={}), 404),
        ]
        for response, status in cases:
            assert response.status_code == status
            assert set(response.json()["error"]) >= {"code", "message"}


def test_a_token_is_asked_for_where_there_is_one(encoding):
    with serving(slow_models(Slow(), encoding), tokens=("s3cret", "other")) as post:
        for header in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic s3cret"},
            {"Authorization": "é"},
        ):
            headers = {name: value.encode() for name, value in header.items()}
            response = post(READ, headers=headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
        for token in ("s3cret", "other"):
            assert post(READ, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert post.call("GET", "/metrics").status_code == 401
        assert post.call("GET", "/healthz").status_code == 200
    assert client_token(("a", "b"), b"bearer b") == "b"
    assert "s3cret" not in repr(Settings(tokens=("s3cret",)))


def test_a_client_has_its_rate(encoding):
    with serving(slow_models(Slow(), encoding), rate=0.001, burst=2, tokens=("a", "b")) as post:
        headers = {"Authorization": "Bearer a"}
        assert [post(READ, headers=headers).status_code for _ in range(3)] == [200, 200, 429]
        response = post(READ, headers=headers)
        assert int(response.headers["Retry-After"]) > 100
        assert post(READ, headers={"Authorization": "Bearer b"}).status_code == 200
        assert post.call("GET", "/metrics", headers=headers).status_code == 200
    now = 0.0
    rate = Rate(2.0, 4, clock=lambda: now)
    for _ in range(4):
        rate.take("one")
    with pytest.raises(RequestError):
        rate.take("one")
    now = 0.5
    rate.take("one")
    for name in range(20_000):
        rate.take(str(name))
    assert len(rate._buckets) <= 10_000


def test_a_foreign_name_or_page_is_kept_out(encoding):
    with serving(slow_models(Slow(), encoding), hosts=("127.0.0.1", "localhost", "::1")) as post:
        assert post(READ).status_code == 200
        assert post(READ, headers={"Host": "evil.example:8000"}).status_code == 421
        preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        response = post.call("OPTIONS", "/v1/read", headers=preflight)
        assert "access-control-allow-origin" not in response.headers
    with serving(slow_models(Slow(), encoding), cors=("http://app.example",)) as post:
        response = post(READ, headers={"Origin": "http://app.example"})
        assert response.headers["access-control-allow-origin"] == "http://app.example"
        assert "access-control-allow-origin" not in post(READ, headers={"Origin": "http://evil.example"}).headers
    for host in (b"[::1]:8000", b"LOCALHOST:1"):
        check_host(("localhost", "::1"), host)


@pytest.mark.parametrize("wrong", [{"queue": 0}, {"deadline": float("nan")}, {"tokens": ("a b",)}, {"max_body": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        Settings(**wrong)


def test_a_client_that_goes_away_is_not_worked_for(encoding):
    backend = Slow(free=False)
    with serving(slow_models(backend, encoding), window_ms=0) as post:
        held = threading.Thread(target=post, args=[READ])
        held.start()
        assert backend.begun.wait(10)
        body = json.dumps(READ[1]).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/v1/read",
            "raw_path": b"/v1/read", "query_string": b"", "root_path": "", "scheme": "http", "server": None,
            "client": ("127.0.0.1", 1), "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")],
        }  # fmt: skip
        sent = []

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        async def going():
            threading.Timer(0.5, backend.free.set).start()
            await post.app(scope, receive, send)

        post.wait_for(going())
        held.join(10)
        assert sent[0]["status"] == 504
    assert backend.windows == 1


# --- connections


@contextmanager
def listening(models, documents=None, **settings):
    """An app behind a socket, in a thread: its port, its app and the server."""
    chosen = Settings(**settings)
    app = make_app(chosen, models, documents)
    server = uvicorn.Server(configured(app, grace=1, patience=chosen.patience, connections=chosen.connections))
    bound = bind("127.0.0.1", 0)
    running = threading.Thread(target=server.run, args=[[bound]])
    port = bound.getsockname()[1]
    running.start()
    try:
        _until(lambda: server.started)
        yield SimpleNamespace(port=port, app=app, server=server, address=f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        running.join(30)
        assert not running.is_alive()


def _until(is_so, seconds=20):
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def _head(length, route="/v1/read"):
    return (
        f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def _response(connection):
    """Status, headers and body of the next answer on a socket; status 0: it was closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(1 << 16)
        if not data:
            return 0, b"", b""
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(body) < length:
        body += connection.recv(1 << 16)
    return int(head[9:12]), head.lower(), body


def _connect(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(20)
    return connection


@pytest.mark.usefixtures("parser")
def test_a_full_service_refuses_before_the_body_comes_and_the_connection_stays_good(encoding):
    backend = Slow(free=False)
    body = json.dumps(READ[1]).encode()
    with (
        listening(slow_models(backend, encoding), queue=1, window_ms=0) as service,
        _connect(service.port) as first,
        _connect(service.port) as second,
    ):
        first.sendall(_head(len(body)) + body)
        assert backend.begun.wait(10)
        for _ in range(3):
            second.sendall(_head(len(body)))
            status, head, told = _response(second)
            assert (status, json.loads(told)["error"]["code"]) == (503, "overloaded")
            assert b"retry-after: 1" in head
            second.sendall(body)
        assert httpx.get(f"{service.address}/healthz").status_code == 200
        assert httpx.get(f"{service.address}/v1/documents").status_code == 503
        origin = httpx.post(f"{service.address}/v1/read", json=READ[1], headers={"Origin": "http://a.example"})
        assert origin.status_code == 503
        metrics = httpx.get(f"{service.address}/metrics").text
        assert 'zhaiju_requests_total{route="/v1/read",status="503"} 4.0' in metrics
        assert re.search(r"zhaiju_loop_lag_seconds_count [1-9]", metrics)
        backend.free.set()
        assert _response(first)[0] == 200
        _until(lambda: not service.app.state.gate.inside)
        second.sendall(_head(len(body)) + body)
        assert _response(second)[0] == 200
    assert backend.windows == 2


def test_a_refused_request_whose_body_never_comes_is_closed_without_another_answer(encoding):
    backend = Slow(free=False)
    body = json.dumps(READ[1]).encode()
    with (
        listening(slow_models(backend, encoding), queue=1, window_ms=0, patience=0.5) as service,
        _connect(service.port) as first,
        _connect(service.port) as slow,
        _connect(service.port) as idle,
    ):
        first.sendall(_head(len(body)) + body)
        assert backend.begun.wait(10)
        slow.sendall(_head(len(body)) + body[:1])
        idle.sendall(_head(len(body)) + body)
        assert _response(slow)[0] == _response(idle)[0] == 503
        assert _response(slow)[0] == 0
        time.sleep(0.5)
        backend.free.set()
        assert _response(first)[0] == 200
        _until(lambda: not service.app.state.gate.inside)
        idle.sendall(_head(len(body)) + body)  # nothing was owed on this one
        assert _response(idle)[0] == 200


def test_refusals_are_one_line_a_second_in_the_log(encoding, caplog, monkeypatch):
    monkeypatch.setattr("zhaiju.service.guard.QUIET_SECONDS", 0.2)
    caplog.set_level(logging.INFO)
    backend = Slow(free=False)
    with serving(slow_models(backend, encoding), queue=1, window_ms=0) as post:
        held = threading.Thread(target=post, args=[READ])
        held.start()
        assert backend.begun.wait(10)
        assert {response.status_code for response in post(*[READ] * 30)} == {503}
        _until(lambda: "30 refused" in caplog.text)
        backend.free.set()
        held.join(10)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("zhaiju")]
    assert sum("503" in line for line in told) == 1


@pytest.fixture(params=["httptools", "h11"])
def parser(request, monkeypatch):
    """What parses HTTP."""
    if request.param == "h11":
        monkeypatch.setattr("zhaiju.service.protocol.find_spec", lambda name: None)


@pytest.mark.usefixtures("parser")
def test_a_slow_head_is_408_and_closed(models):
    with listening(models, patience=0.5) as service:
        for sent in (b"", b"POST /v1/intent HTTP/1.1\r\nHost: "):
            with _connect(service.port) as connection:
                connection.sendall(sent)
                began = time.monotonic()
                while not select.select([connection], [], [], 0.1)[0]:
                    if sent:
                        connection.sendall(b"a")  # a byte now and then is no excuse
                    assert time.monotonic() - began < 15
                status, _, told = _response(connection)
                assert (status, json.loads(told)["error"]["code"]) == (408, "slow_head")
                assert _response(connection)[0] == 0
        with _connect(service.port) as connection:  # nor is an earlier request
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert _response(connection)[0] == 200
            connection.sendall(b"GET ")
            assert _response(connection)[0] == 408
        with _connect(service.port) as connection:
            connection.sendall(_head(100, "/v1/intent") + b"{")
            status, _, told = _response(connection)
            assert (status, json.loads(told)["error"]["code"]) == (408, "slow_body")


@pytest.mark.usefixtures("parser")
def test_there_are_no_web_sockets(models):
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n"
    with listening(models) as service, _connect(service.port) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n")
        assert _response(connection)[0] == 200


@pytest.mark.usefixtures("parser")
def test_a_slow_answer_is_no_slow_head(encoding):
    backend = Slow(free=False)
    body = json.dumps(READ[1]).encode()
    with (
        listening(slow_models(backend, encoding), patience=0.3, window_ms=0) as service,
        _connect(service.port) as connection,
    ):
        connection.sendall(_head(len(body)) + body)
        assert backend.begun.wait(10)
        time.sleep(1)
        backend.free.set()
        assert _response(connection)[0] == 200


@pytest.mark.usefixtures("parser")
def test_whoever_takes_nothing_of_its_answers_is_cut_off(models):
    with listening(models, patience=0.5) as service, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        connection.settimeout(20)
        connections = service.server.server_state.connections
        with suppress(OSError):
            for _ in range(2000):
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        _until(lambda: not connections)


@pytest.mark.usefixtures("parser")
def test_past_so_many_connections_the_next_is_refused(models):
    with listening(models, connections=3) as service:
        kept = [_connect(service.port) for _ in range(3)]
        try:
            _until(lambda: len(service.server.server_state.connections) == 3)
            with _connect(service.port) as one_more:
                status, head, told = _response(one_more)
                assert (status, json.loads(told)["error"]["code"]) == (503, "too_many_connections")
                assert b"retry-after: 1" in head
                one_more.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                assert _response(one_more)[0] == 0
            kept.pop().close()
            _until(lambda: len(service.server.server_state.connections) == 2)
            assert httpx.get(f"{service.address}/healthz").status_code == 200
        finally:
            for connection in kept:
                connection.close()


def test_a_client_that_hangs_up_is_not_worked_for(encoding):
    backend = Slow(free=False)
    body = json.dumps(READ[1]).encode()
    with listening(slow_models(backend, encoding), window_ms=0) as service, _connect(service.port) as first:
        first.sendall(_head(len(body)) + body)
        assert backend.begun.wait(10)
        gate = service.app.state.gate
        gone = [_connect(service.port) for _ in range(5)]
        for connection in gone:
            connection.sendall(_head(len(body)) + body)
        _until(lambda: gate.inside == 6)
        for connection in gone:
            connection.close()
        _until(lambda: len(service.server.server_state.connections) == 1)
        backend.free.set()
        assert _response(first)[0] == 200
        _until(lambda: not gate.inside)
    assert backend.windows == 1


def test_a_large_body_is_parsed_beside_the_event_loop(models, documents, monkeypatch):
    parsing, free = threading.Event(), threading.Event()

    def loads(text):
        parsing.set()
        assert free.wait(30)
        return json.loads(text)

    monkeypatch.setattr("zhaiju.service.app.json", SimpleNamespace(loads=loads))
    text = "河邊有船。\n\n" * 10_000
    found = []

    def upload():
        body = {"documents": [{"name": "a.txt", "text": text}]}
        found.append(httpx.post(f"{service.address}/v1/documents", json=body, timeout=60))

    with listening(models, documents, uploads=True, max_upload=64 << 20, deadline=60) as service:
        uploading = threading.Thread(target=upload)
        uploading.start()
        assert parsing.wait(30)
        assert httpx.get(f"{service.address}/healthz").status_code == 200
        assert httpx.post(f"{service.address}/v1/intent", json={"text": "a"}).status_code == 200
        free.set()
        uploading.join(60)
    assert found[0].status_code == 201
    assert found[0].json()["documents"][0]["paragraphs"] == 10_000


def test_what_is_wrong_in_a_large_body_is_named_too(models):
    long = "船" * 100_000
    cases = [
        ({"question": "問", "contexts": [long, ""]}, 422, "contexts[1]"),
        ({"question": "問", "contexts": [0] * 300_000}, 422, "contexts[0]"),
        ({"question": "問", "contexts": [long], "extra": 1}, 422, "extra"),
        ("[" * 200_000, 400, None),
        ("船" * 100_000, 400, None),
        ('{"question": "\\ud800", "contexts": ["' + long + '"]}', 422, "question"),
    ]
    with serving(models) as post:
        for body, status, field in cases:
            content = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
            response = post.call("POST", "/v1/answer", content=content.encode(), headers=JSON)
            assert (response.status_code, response.json()["error"].get("field")) == (status, field)
        long_batch = {"items": [{"text": "a " * 2000}] * 20}
        assert post(("intent/batch", long_batch)).status_code == 200


# --- turns


def test_no_more_threads_run_at_a_time_than_there_are_turns():
    turns = Turns(2)
    crew = Crew(12, turns)
    counting = threading.Lock()
    running, most = 0, 0
    batons = [Baton() for _ in range(12)]

    def work(baton):
        nonlocal running, most
        for _ in range(2):
            with counting:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with counting:
                running -= 1
            if baton is not None:
                assert turns.wait(baton)
                baton = None
        return True

    done = [crew.run(partial(work, baton)) for baton in batons]
    for baton in batons:
        turns.ask(baton)
    assert all(one.result(10) for one in done)
    crew.close()
    assert most == 2


def test_a_turn_is_not_lost_on_who_waited_too_long():
    turns = Turns(1)
    late = Baton()
    with turns.taken():
        assert not turns.wait(late, time.monotonic() + 0.05)
        assert turns.is_held
        with turns.taken():  # the same
            turns.let_pass()
    turns.ask(late)
    with turns.taken(), turns.aside():
        assert not turns.is_held
        other = threading.Thread(target=lambda: turns.taken().__enter__())
        other.start()
        other.join(10)
        assert not other.is_alive()


def test_a_closed_crew_cancels_what_has_not_begun():
    turns = Turns(1)
    crew = Crew(1, turns)
    free = threading.Event()
    first, second = crew.run(lambda: free.wait(10)), crew.run(lambda: True)
    closing = threading.Thread(target=crew.close)
    closing.start()
    time.sleep(0.1)
    free.set()
    closing.join(10)
    assert first.result(1)
    assert second.cancelled()


# --- what is not told


def test_nothing_of_the_user_is_logged_unless_asked(encoding, models, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "秘密的船"
    with serving(models) as post:
        post(("answer", {"question": secret, "contexts": [secret]}), ("intent", {"text": secret}))
        post(("read", {"question": secret * 200, "context": secret}))
        post.call("GET", f"/v1/documents/{secret}?q={secret}")
        post.call("GET", f"/{secret}")
    failing = slow_models(Slow(fails=RuntimeError(secret)), encoding)
    with serving(failing) as post:
        response = post(("read", {"question": secret, "context": secret}))
        assert response.status_code == 500
        assert response.json() == {
            "error": {"code": "internal", "message": "an error of the service; its log says more"}
        }
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("zhaiju"))
    assert "POST /v1/answer 200" in ours
    assert "RuntimeError in /v1/read" in ours
    assert "秘" not in ours
    assert "%E7%A7%98" not in ours
    with serving(models, log_texts=True) as post:
        post(("intent", {"text": secret}))
    assert secret in caplog.text


# --- documents


@pytest.fixture
def documents(tmp_path):
    made = Documents(str(tmp_path / "index"), create=True)
    yield made
    made.close()


NOTES = {"name": "筆記/notes.md", "text": "# 河邊\n\n林師傅在河邊修船。\n\n鎮上有兩家書店。"}


def test_documents_are_added_asked_listed_and_deleted(models, documents):
    with serving(models, documents, uploads=True) as post:
        page = base64.b64encode(b"<p>The tea house opens at seven.</p>").decode()
        response = post(("documents", {"documents": [NOTES, {"name": "tea.html", "base64": page}]}))
        assert response.status_code == 201
        assert [one["paragraphs"] for one in response.json()["documents"]] == [2, 1]
        listed = post.call("GET", "/v1/documents").json()["documents"]
        assert sorted(one["name"] for one in listed) == ["tea.html", NOTES["name"]]
        found = post(("answer", {"question": QUESTION})).json()
        assert (found["answer"], found["source"], found["found"]) == ("林師傅", "筆記/notes.md:3", True)
        quote = found["quotes"][0]
        assert quote["paragraph"][quote["start"] : quote["end"]] == quote["text"]
        assert quote["heading"] == "河邊"
        together = post(
            ("answer/batch", {"items": [{"question": QUESTION}, QUESTIONS[0], {"question": "書店有幾家？"}]})
        )
        near(together.json()["results"][0], found)
        assert together.json()["results"][1]["index"] is not None
        long = {"items": [{"question": QUESTION}, {"question": "河邊" * 450}]}
        assert post(("answer/batch", long)).json()["error"]["field"] == "items[1].question"
        assert post(("answer", {"question": "書店" * 450})).json()["error"]["field"] == "question"
        changed = post(("documents", {"documents": [{"name": NOTES["name"], "text": "山羊在屋頂上睡覺。"}]})).json()
        assert changed["documents"][0]["id"] == quote["document_id"]
        assert post(("answer", {"question": QUESTION})).json()["answer"] != "林師傅"
        gone = post.call("DELETE", f"/v1/documents/{quote['document_id']}")
        assert gone.json() == {"id": quote["document_id"], "name": NOTES["name"], "paragraphs": 1}
        assert post.call("DELETE", f"/v1/documents/{quote['document_id']}").status_code == 404
        assert [one["name"] for one in post.call("GET", "/v1/documents").json()["documents"]] == ["tea.html"]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"name": "/etc/passwd", "text": "船"}, "documents[1].name"),
        ({"name": "C:\\a.txt", "text": "船"}, "documents[1].name"),
        ({"name": "a/../b", "text": "船"}, "documents[1].name"),
        ({"name": "a\nb", "text": "船"}, "documents[1].name"),
        ({"name": " ", "text": "船"}, "documents[1].name"),
        ({"name": "\ud800", "text": "船"}, "documents[1].name"),
        ({"name": "長" * 300, "text": "船"}, "documents[1].name"),
        ({"name": NOTES["name"], "text": "船"}, "documents[1].name"),
        ({"name": "a.txt", "text": " \n"}, "documents[1]"),
        ({"name": "a.txt", "text": "\ud800"}, "documents[1].text"),
        ({"name": "a.pdf", "text": "no pdf"}, "documents[1]"),
        ({"name": "a.docx", "base64": "AAAA"}, "documents[1]"),
        ({"name": "a.txt", "base64": "?"}, "documents[1].base64"),
        ({"name": "a.jsonl", "text": "{}"}, "documents[1]"),
        ({"name": "a.txt"}, "documents[1]"),
    ],
)
def test_a_faulty_document_refuses_all_of_them(models, documents, document, field):
    with serving(models, documents, uploads=True) as post:
        content = json.dumps({"documents": [NOTES, document]})
        response = post.call("POST", "/v1/documents", content=content, headers=JSON)
        assert response.status_code == 422, response.text
        assert response.json()["error"]["field"] == field
        assert documents.list() == []


def test_only_a_few_uploads_are_inside_at_a_time(models, documents, monkeypatch):
    free = threading.Event()
    add = documents.add

    def slow(given, ticket):
        assert free.wait(30)
        return add(given, ticket)

    monkeypatch.setattr(documents, "add", slow)
    given = [("documents", {"documents": [{"name": f"{number}.txt", "text": "船"}]}) for number in range(6)]
    with serving(models, documents, uploads=True, deadline=0.5) as post:
        assert sorted(response.status_code for response in post(*given)) == [503, 503, 504, 504, 504, 504]
        assert post(given[0]).status_code == 503  # the four are late, but not done
        free.set()
        assert post.is_left()
        assert documents.list() == []
        assert post(given[0]).status_code == 201


def test_documents_stay_as_they_are_without_uploads(models, documents):
    with serving(models, documents) as post:
        assert post(("documents", {"documents": [NOTES]})).status_code == 403
        assert post.call("DELETE", f"/v1/documents/{identity('a')}").status_code == 403
        assert post.call("GET", "/v1/documents").json() == {"documents": []}


def test_no_path_of_the_server_is_told(models, tmp_path):
    index = Index.open(str(tmp_path / "index"), create=True)
    secret = str(tmp_path / "secret" / "notes.txt")
    index.commit([Entry(secret, "1", [Paragraph(PARAGRAPHS[0], secret, line=1)])])
    documents = Documents(str(tmp_path / "index"))
    with serving(models, documents, uploads=True) as post:
        answered = post(("answer", {"question": QUESTION}))
        assert answered.json()["source"] == "notes.txt:1"
        listed = post.call("GET", "/v1/documents")
        assert listed.json()["documents"] == [{"id": identity(secret), "name": "notes.txt", "paragraphs": 1}]
        with Index.open(index.uri).writing():
            busy = post(("documents", {"documents": [NOTES]}))
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
        gone = post.call("DELETE", f"/v1/documents/{identity(secret)}")
        (tmp_path / "index").rename(tmp_path / "elsewhere")
        broken = post(("answer", {"question": QUESTION}))
        assert broken.status_code == 503
        assert post.call("GET", "/readyz").status_code == 503
        for response in (answered, listed, busy, gone, broken):
            assert str(tmp_path) not in response.text
            assert "secret" not in response.text
    documents.close()
    assert shown("C:\\Users\\me\\a.txt") == "a.txt"
    assert shown("notes/a.txt") == "notes/a.txt"


# --- the command


@contextmanager
def command(*arguments, environment=None):
    """`zhaiju serve` at a free port: its process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zhaiju.cli", "serve", "--port", "0", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    reading = threading.Thread(target=process.stderr.read)
    try:
        for line in process.stderr:
            if found := re.search(r"http://\S+:\d+", line):
                break
        else:
            pytest.fail("it did not start")
        reading.start()
        yield process, found.group()
    finally:
        process.kill()
        process.wait()
        if reading.ident:
            reading.join()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_was_accepted(number):
    body = {"items": [{"question": QUESTION, "contexts": ["船" * 900] * 30}] * 4}
    with command("--queue", "100") as (process, address), httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/readyz").status_code == 200
        statuses = []
        asking = [
            threading.Thread(
                target=lambda: statuses.append(
                    httpx.post(f"{address}/v1/answer/batch", json=body, timeout=60).status_code
                )
            )
            for _ in range(2)
        ]
        for thread in asking:
            thread.start()
        while "zhaiju_queue 2.0" not in client.get("/metrics").text:
            assert not statuses
            time.sleep(0.02)
        client.close()
        process.send_signal(number)
        for thread in asking:
            thread.join(60)
        assert statuses == [200, 200]
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_stop_does_not_wait_beyond_its_grace():
    body = {"items": [{"question": QUESTION, "contexts": ["船" * 900] * 30}] * 12}
    with command("--grace", "1") as (process, address):
        ended = []

        def ask():
            try:
                ended.append(httpx.post(f"{address}/v1/answer/batch", json=body, timeout=60).status_code)
            except httpx.HTTPError as error:
                ended.append(type(error))

        asking = threading.Thread(target=ask)
        asking.start()
        while "zhaiju_queue 1.0" not in httpx.get(f"{address}/metrics").text:
            assert not ended
        process.send_signal(signal.SIGTERM)
        assert process.wait(8) == 0
        asking.join(10)
        assert ended != [200]


@pytest.mark.slow
def test_the_command_listens_with_a_token(tmp_path, dialogue):
    (tmp_path / "tokens").write_text("one\ntwo\n")
    arguments = ["--token-file", tmp_path / "tokens", "--index", tmp_path / "index", "--uploads"]
    with command(*arguments, "--run", dialogue["intent"], "--run", dialogue["slots"]) as (_, address):
        assert address.startswith("http://127.0.0.1:")
        assert httpx.get(address).text.startswith("<!doctype html>")
        runs = httpx.get(f"{address}/v1/runs", headers={"Authorization": "Bearer one"}).json()["runs"]
        assert [one["name"] for one in runs] == ["intent", "slots"]
        assert httpx.post(f"{address}/v1/read", json=READ[1]).status_code == 401
        response = httpx.post(f"{address}/v1/read", json=READ[1], headers={"Authorization": "Bearer two"})
        assert response.json()["answer"] == "林師傅"
        assert httpx.get(f"{address}/healthz").json()["tasks"] == ["read", "select"]


def test_a_bad_start_is_one_line_and_exit_code_2(run, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases = [
            (["--port", taken.getsockname()[1]], "cannot listen at 127.0.0.1 port"),
            (["--port", "0", "--reader", tmp_path / "nothing"], "no such directory"),
            (["--port", "0", "--reader", "none"], "no model named"),
            (["--port", "0", "--precision", "int4"], "precision 'int4' is not one of"),
            (["--port", "0", "--index", tmp_path / "nothing"], "holds no index"),
            (["--port", "0", "--uploads"], "--uploads needs an index"),
            (["--port", "0", "--token-file", tmp_path / "nothing"], "cannot be read"),
            (["--port", "0", "--queue", "0"], "queue is 0, expected"),
            (["--port", "0", "--run", tmp_path], "is not a run"),
        ]
        for arguments, message in cases:
            code, out, err = run("serve", *arguments)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert message in err


@pytest.mark.slow
def test_killed_while_documents_come_in_nothing_accepted_is_lost_and_nothing_is_half_there(tmp_path):
    uri = str(tmp_path / "index")
    accepted = set()
    offered = set()
    generator = random.Random(1)
    for round_ in range(KILLS):
        with command("--index", uri, "--uploads") as (process, address):
            began = time.monotonic()
            killer = threading.Timer(generator.uniform(0.05, 1.5), process.kill)
            killer.start()
            for number in range(10_000):
                pair = [f"{round_}-{number}-{half}.txt" for half in "ab"]
                texts = [{"name": name, "text": f"{name}\n\n船\n\n橋"} for name in pair]
                offered.add(tuple(pair))
                try:
                    response = httpx.post(f"{address}/v1/documents", json={"documents": texts}, timeout=10)
                except httpx.HTTPError:
                    break
                assert response.status_code == 201
                accepted.add(tuple(pair))
            killer.join()
        with (
            kills.killed(process, "serve", began=began, seed=1),
            command("--index", uri) as (_, address),
        ):
            listed = httpx.get(f"{address}/v1/documents", timeout=30).json()["documents"]
            assert all(one["paragraphs"] == 3 for one in listed)
            names = {one["name"] for one in listed}
            assert {name for pair in accepted for name in pair} <= names
            assert all(len(names & set(pair)) in (0, 2) for pair in offered)
            assert names <= {name for pair in offered for name in pair}
            assert httpx.post(f"{address}/v1/answer", json={"question": "有船嗎？"}, timeout=30).status_code == 200
    assert accepted
