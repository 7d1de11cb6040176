"""The page of the service, in a real browser: it shows what the service said, whatever the text and the width."""

import json
import os
import re
import shutil
import threading
import time
from contextlib import contextmanager
from importlib.resources import files as resources

import httpx
import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from checkpoints import INTENTS, SLOTTED, bert
from zhaiju.config import TrainSettings
from zhaiju.corpus.documents import Paragraph
from zhaiju.data.formats import ReadLog, read_qa
from zhaiju.service.app import make_app
from zhaiju.service.documents import Documents
from zhaiju.service.labels import Labels, Question, Sources
from zhaiju.service.limits import Settings
from zhaiju.service.page import POLICY, page_files
from zhaiju.service.runs import Runs
from zhaiju.service.server import address_of, bind
from zhaiju.service.work import load_models
from zhaiju.training.run import TrainData, train

pytestmark = pytest.mark.slow

STATIC = resources("zhaiju.service") / "static"
SAMPLES = json.loads(page_files()["/static/samples.json"].content)
QUESTION, PARAGRAPH = "誰在河邊修船？", "林師傅在河邊修船。"
MIXED = "😀船修好了👨‍👩‍👧‍👦，林師傅e\u0301明天<b>下水</b>。"
PATIENCE = 60_000  # milliseconds, on a machine that does other things
expect.set_options(timeout=PATIENCE)
HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)>林師傅在河邊修船。</blockquote><h1>",
    "right to left": "\u202e林師傅\u202c在河邊\u2067修船\u2069。שלום עולם",
    "combining": "林\u0301\u0302\u0303\u0304師傅e\u0301在河邊修船" + "\u0336" * 40 + "。",
    "emoji": "👨‍👩‍👧‍👦林師傅🏳️‍🌈在河邊修船👩🏽\u200d🚀。𠮷野家",
    "controls": "林師\u0000傅在\u0007河邊\u001b[31m修船\u007f。",
    "newlines": "林師傅\r在河邊\n修船\u2028。\u2029",
}


# --- a browser, and a service for it


def chromium():
    """Where the browser is. Without one the tests are skipped, but where they must run they fail."""
    found = os.environ.get("ZHAIJU_CHROMIUM") or shutil.which("chromium")
    if found is None:
        reason = "needs chromium; scripts/browser installs it, or name it in ZHAIJU_CHROMIUM"
        if os.environ.get("CI") or os.environ.get("ZHAIJU_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def dialogue(tmp_path_factory):
    """Tiny runs for intent and slots."""
    folder = tmp_path_factory.mktemp("dialogue")
    bert(folder / "bert")
    settings = TrainSettings(encoder=str(folder / "bert"), window=32, lr=1e-2, max_steps=8, threads=1)
    for task, examples in (("intent", INTENTS), ("slots", SLOTTED)):
        train(task, settings, TrainData(examples, examples, [], ReadLog()), folder / task)
    return folder


@pytest.fixture(scope="module")
def models(browser, dialogue):  # the browser first: without one nothing need be loaded
    return load_models(others=[str(dialogue / "intent"), str(dialogue / "slots")])


@contextmanager
def listening(app):
    """The address of a running service."""
    with bind("127.0.0.1", 0) as bound:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
        running = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        running.start()
        try:
            until = time.monotonic() + 60
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            assert server.started
            yield address_of(bound)
        finally:
            server.should_exit = True
            running.join(60)


@pytest.fixture(scope="module")
def service(models, dialogue, tmp_path_factory):
    """A service with everything."""
    documents = Documents(str(tmp_path_factory.mktemp("index") / "index"), create=True)
    texts = (SAMPLES["zh-Hant"][0]["contexts"][3], MIXED, PARAGRAPH)
    paragraphs = [Paragraph(text, "a.md", line=3 + at, heading="河邊") for at, text in enumerate(texts)]
    sources = Sources(paragraphs, [Question("open", QUESTION, PARAGRAPH)])
    with Labels(tmp_path_factory.mktemp("labels") / "labels.json", sources) as labels:
        app = make_app(
            Settings(uploads=True),
            models,
            documents,
            labels=labels,
            runs=Runs([dialogue / "intent", dialogue / "slots"]),
        )
        with listening(app) as address:
            yield address


@pytest.fixture(scope="module")
def bare(models):
    """A service with models only."""
    app = make_app(Settings(max_context=20_000), models)
    with listening(app) as address:
        yield address


@pytest.fixture
def visit(browser):
    """Open the page at an address. A test fails on errors in the console and on requests to anywhere else.

    `page.allowed` is for answers of the service that the browser reports as errors: statuses that the test provokes.
    """
    contexts, wrong = [], []

    def opening(address, tab="", *, locale="zh-TW", width=1200, init=None, allowed=(), **options):
        context = browser.new_context(locale=locale, viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        if init:
            context.add_init_script(init)
        page = context.new_page()
        page.allowed = allowed

        def heard(message):
            text = message.text
            if message.type in ("error", "warning") and not any(str(status) in text for status in page.allowed):
                wrong.append(text)

        page.on("console", heard)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        context.on(
            "request",
            lambda request: (
                None if request.url.startswith((f"{address}/", f"blob:{address}/")) else wrong.append(request.url)
            ),
        )
        page.goto(f"{address}/#{tab}")
        page.wait_for_selector("[role=tab], .token-form")
        return page

    yield opening
    for context in contexts:
        context.close()
    assert not wrong


def ask(page, question, contexts=None):
    """Ask, and give what the service answered once it is shown."""
    if contexts is not None:
        if page.locator("#mode-paragraphs").count():
            page.locator("label[for=mode-paragraphs]").click()
        page.evaluate("text => { document.getElementById('contexts').value = text }", "\n\n".join(contexts))
    page.fill("#question", question)
    with page.expect_response("**/v1/answer") as answered:
        page.press("#question", "Control+Enter")
    expect(page.locator(".result[aria-busy=false] .verdict")).to_be_visible()
    return answered.value.json()


def percent(share):
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.{int(0 < share < 0.1)}f} %"


# Code points before the mark, those in it, and the whole text, as they stand on the page.
MARKED = """root => {
  const mark = root.querySelector('mark'), before = document.createRange();
  before.selectNodeContents(root);
  before.setEndBefore(mark);
  const start = [...before.toString()].length;
  return {start, end: start + [...mark.textContent].length, text: mark.textContent, whole: root.textContent};
}"""
# As the page makes control characters visible.
SHOWN = {number: 0x2400 + number for number in range(32) if chr(number) not in "\t\n\r"} | {0x7F: 0x2421}


def test_without_a_browser_the_tests_are_skipped_but_not_where_they_must_run(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for name in ("ZHAIJU_CHROMIUM", "CI", "ZHAIJU_BROWSER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(pytest.skip.Exception, match="scripts/browser"):
        chromium()
    for name in ("CI", "ZHAIJU_BROWSER"):
        with monkeypatch.context() as patched:
            patched.setenv(name, "1")
            with pytest.raises(pytest.fail.Exception, match="scripts/browser"):
                chromium()


# --- what is served


def test_the_page_comes_under_a_strict_policy_and_is_not_sent_twice(bare):
    with httpx.Client(base_url=bare) as client:
        for path, file in page_files().items():
            response = client.get(path)
            assert response.content == file.content
            assert response.headers["content-security-policy"] == POLICY
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["cache-control"] == "no-cache"
            again = client.get(path, headers={"If-None-Match": response.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert client.get("/static/nothing.js").status_code == 404
        assert client.get("/static/../app.py").status_code == 404
        assert not {"/", "/static/main.js"} & set(client.get("/openapi.json").json()["paths"])
    assert "'unsafe" not in POLICY
    html = (STATIC / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", html)
    for source in STATIC.iterdir():
        if source.name.endswith(".js"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", source.read_text("utf-8")
            )


def test_three_languages_say_the_same_things(visit, bare):
    page = visit(bare)
    words = page.evaluate("import('/static/words.js').then(module => module.WORDS)")
    assert list(words) == ["zh-Hant", "zh-Hans", "en"]
    keys = set(words["en"])
    for language in words.values():
        assert set(language) == keys
        for key, value in language.items():
            same = words["en"][key]
            assert isinstance(value, list) == isinstance(same, list), key
            assert all(value)
            assert value
            slots = [set(re.findall(r"\{(\w+)\}", json.dumps(one))) for one in (value, same)]
            assert slots[0] == slots[1], key
    sources = [file for file in STATIC.iterdir() if file.name.endswith(".js") and file.name != "words.js"]
    code = "".join(file.read_text("utf-8") for file in sources)
    made = re.compile(r"(tab|error|curve)_\w+|mark_(start|end)_(left|right)")  # their names are put together
    assert [key for key in keys if not made.fullmatch(key) and not re.search(rf"['`]{key}['`]", code)] == []
    said = set(re.findall(r"\b(?:say|label|hint|help): \[?'(\w+)'", code))
    said |= set(re.findall(r"\b(?:say\(\w+, |announce\(|complain\(|refuse\(|button\(|careful\()'(\w+)'", code))
    assert len(said) > 50
    assert said <= keys
    for locale, language in (
        ("zh-TW", "zh-Hant"),
        ("zh-HK", "zh-Hant"),
        ("zh-CN", "zh-Hans"),
        ("en-GB", "en"),
        ("de", "en"),
    ):
        page = visit(bare, locale=locale)
        assert page.locator("html").get_attribute("lang") == language
        expect(page.locator("#tab-ask")).to_have_text(words[language]["tab_ask"])
    ask(page, QUESTION, [PARAGRAPH])
    page.select_option("#language", "zh-Hans")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator(".verdict")).to_have_text(words["zh-Hans"]["answer"])
    expect(page.locator("#question")).to_have_attribute("placeholder", words["zh-Hans"]["question_hint"])
    page.reload()
    expect(page.locator("#tab-ask")).to_have_text(words["zh-Hans"]["tab_ask"])


def test_it_works_where_the_browser_keeps_nothing(visit, bare):
    forbid = "for (const name of ['localStorage', 'sessionStorage'])"
    forbid += " Object.defineProperty(window, name, {get() { throw new DOMException('no', 'SecurityError'); }});"
    page = visit(bare, init=forbid)
    page.select_option("#language", "en")
    expect(page.locator("#tab-ask")).to_have_text("Ask")
    assert ask(page, QUESTION, [PARAGRAPH])["answer"] == "林師傅"


# --- ask


def test_an_answer_is_highlighted_at_the_very_offsets_of_the_service(visit, bare):
    page = visit(bare)
    with page.expect_response("**/v1/answer") as answered:
        page.get_by_role("button", name="試一個例子").click()
    found = answered.value.json()
    body = answered.value.request.post_data_json
    assert body == SAMPLES["zh-Hant"][0]
    expect(page.locator(".hero")).to_have_text(found["answer"])
    shown = page.locator(".paragraph .prose").evaluate(MARKED)
    assert shown == {
        "start": found["start"],
        "end": found["end"],
        "text": found["answer"],
        "whole": body["contexts"][found["index"]],
    }
    assert percent(found["confidence"]) in page.locator(".sure-of-it").inner_text()
    expect(page.locator("#live")).to_contain_text(found["answer"])
    # the runner-up spans, and each in its paragraph
    spans = page.locator(".spans .span")
    assert spans.locator(".text").all_text_contents() == [quote["text"] for quote in found["quotes"][:8]]
    for place in (1, 2):
        spans.nth(place).click()
        quote = found["quotes"][place]
        shown = page.locator(".paragraph .prose").evaluate(MARKED)
        assert (shown["start"], shown["end"], shown["text"]) == (quote["start"], quote["end"], quote["text"])
        expect(spans.nth(place)).to_have_attribute("aria-pressed", "true")
    # the candidates, ranked
    scores = [one["score"] for one in found["candidates"]]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    rows = page.locator(".candidates li")
    for row, one in zip(rows.all(), found["candidates"], strict=True):
        expect(row.locator(".place")).to_have_text(f"第 {one['index'] + 1} 段")
        assert row.locator(".read").count() == one["selected"]
        expect(row.locator(".figure")).to_have_text(percent(one["score"]))
    rows.first.locator("summary").click()
    expect(rows.first.locator(".prose")).to_have_text(body["contexts"][found["candidates"][0]["index"]])


def test_tokens_tell_their_places_on_hover_and_by_keyboard(visit, bare):
    page = visit(bare)
    ask(page, QUESTION, [MIXED])
    with page.expect_response("**/v1/tokens") as answered:
        page.locator(".token-switch button").click()
    tokens = answered.value.json()["tokens"]
    expect(page.locator(".token")).to_have_count(len(tokens))
    assert page.locator(".tokens").text_content() == MIXED
    told = page.locator(".told")
    page.locator(".token").nth(2).hover()
    expect(told).to_have_text(
        f"{tokens[2]['token']} · 編號 {tokens[2]['id']} · 字元 {tokens[2]['start']} 到 {tokens[2]['end']}"
    )
    page.locator(".token").first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(told).to_contain_text(f"字元 {tokens[4]['start']} 到 {tokens[4]['end']}")
    page.keyboard.press("End")
    expect(told).to_contain_text(f"字元 {tokens[-1]['start']} 到 {tokens[-1]['end']}")
    page.locator(".token-switch button").click()
    expect(page.locator(".token")).to_have_count(0)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text(visit, bare, kind):
    page = visit(bare)
    page.evaluate("text => { document.getElementById('contexts').value = text }", HOSTILE[kind])
    text = page.evaluate("document.getElementById('contexts').value").strip("\n")  # a box has its own line breaks
    found = ask(page, QUESTION + HOSTILE[kind].replace("\n", " ").replace("\r", " "), [text])
    shown = page.locator(".paragraph .prose").evaluate(MARKED)
    quote = found["quotes"][0]
    assert shown["whole"] == text.translate(SHOWN)
    assert (shown["start"], shown["end"]) == (quote["start"], quote["end"])
    assert shown["text"] == text[quote["start"] : quote["end"]].translate(SHOWN)
    page.locator(".token-switch button").click()
    expect(page.locator(".token").first).to_be_visible()
    assert page.locator(".tokens").text_content() == text.translate(SHOWN)
    assert page.locator("script").count() == 1
    assert page.locator("main img, main h1").count() == 0


def test_a_megabyte_is_refused_at_once_and_named(visit, bare):
    page = visit(bare)
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.fill("#question", QUESTION)
    page.evaluate("document.getElementById('contexts').value = '船在河邊。\\n\\n' + '船'.repeat(1000000)")
    seconds = page.evaluate("""() => {
      const began = performance.now();
      document.querySelector('form.asking').requestSubmit();
      return (performance.now() - began) / 1000;
    }""")
    assert seconds < 3
    expect(page.locator("#contexts-wrong")).to_have_text("第 2 段有 1,000,000 字；最多 20,000 字。")
    expect(page.locator("#contexts")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#contexts")).to_be_focused()
    assert not sent
    assert ask(page, QUESTION, [PARAGRAPH])["answer"] == "林師傅"
    expect(page.locator("#contexts-wrong")).to_be_empty()


def test_what_the_service_refuses_is_said_beside_its_field(visit, bare):
    page = visit(bare, locale="en")
    page.allowed = (422, 503)
    page.fill("#contexts", PARAGRAPH)
    page.fill("#question", "船" * 900)  # short enough for the service, too long for the reader's window
    page.press("#question", "Control+Enter")
    expect(page.locator("#question-wrong")).to_contain_text("does not fit the window")
    expect(page.locator("#question")).to_have_attribute("aria-invalid", "true")
    page.fill("#question", "")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#question-wrong")).to_have_text("Write a question first.")
    page.route(
        "**/v1/answer",
        lambda route: route.fulfill(
            status=503,
            headers={"Retry-After": "7"},
            json={"error": {"code": "overloaded", "message": "too many requests at a time; try again"}},
        ),
        times=1,
    )
    page.fill("#question", QUESTION)
    page.press("#question", "Enter")
    expect(page.locator(".asking > .wrong")).to_have_text("The service is busy. Try again in 7 seconds.")
    assert ask(page, QUESTION)["answer"] == "林師傅"
    expect(page.locator(".asking > .wrong")).to_be_empty()


def test_a_newer_question_drops_the_older(visit, bare):
    page = visit(bare)
    held, failed = [], []
    page.on("requestfailed", lambda request: failed.append(request.failure))
    page.route("**/v1/answer", lambda route: held.append(route) if not held else route.continue_())
    page.fill("#contexts", PARAGRAPH)
    page.fill("#question", "鎮上有幾家書店？")
    page.press("#question", "Enter")
    found = ask(page, QUESTION)
    assert failed == ["net::ERR_ABORTED"]
    expect(page.locator(".hero")).to_have_text(found["answer"])


def test_a_token_is_asked_for_and_kept_for_the_session_only(visit, models):
    with listening(make_app(Settings(tokens=("s3cret",)), models)) as address:
        page = visit(address, allowed=(401,))
        page.fill("#token", "wrong")
        page.press("#token", "Enter")
        expect(page.locator("#token-wrong")).to_have_text("這個權杖不被接受。")
        page.fill("#token", "s3cret")
        page.press("#token", "Enter")
        expect(page.locator("#tab-ask")).to_be_visible()
        with page.expect_request("**/v1/answer") as asked:
            ask(page, QUESTION, [PARAGRAPH])
        assert asked.value.headers["authorization"] == "Bearer s3cret"
        page.reload()
        expect(page.locator("#tab-ask")).to_be_visible()
        assert "s3cret" not in page.evaluate("JSON.stringify({...localStorage})")


# --- documents


def drop(page, *given):
    """Drop files (name, text) on the page."""
    transfer = page.evaluate_handle(
        """given => {
          const data = new DataTransfer();
          for (const [name, text] of given) data.items.add(new File([text], name));
          return data;
        }""",
        [list(one) for one in given],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("main", event, {"dataTransfer": transfer})


def test_documents_are_dropped_asked_and_deleted(visit, service):
    page = visit(service)
    page.allowed = (422,)
    hostile = "<img src=x onerror=alert(1)>.md"
    drop(
        page,
        ("notes.md", f"# 河邊\n\n{PARAGRAPH}\n\n鎮上有兩家書店。"),
        (hostile, "山羊在屋頂上睡覺。"),
        ("a.pdf", "no pdf"),
    )
    expect(page.locator("#panel-of-documents")).to_be_visible()
    expect(page.locator(".documents .name")).to_have_text([hostile, "notes.md"])
    expect(page.locator("#panel-of-documents .wrong").first).to_contain_text("a.pdf")
    page.locator("#tab-ask").click()
    found = ask(page, QUESTION)
    shown = page.locator(".paragraph .prose").evaluate(MARKED)
    quote = found["quotes"][0]
    assert found["answer"] == "林師傅"
    assert (shown["start"], shown["end"], shown["whole"]) == (quote["start"], quote["end"], quote["paragraph"])
    expect(page.locator("figcaption")).to_have_text("notes.md第 3 行河邊")
    assert [one["document"] for one in found["candidates"]] == page.locator(
        ".candidates bdi:first-child"
    ).all_text_contents()
    page.locator("#tab-documents").click()
    page.set_input_files("#files", {"name": "更多.txt", "mimeType": "text/plain", "buffer": "船".encode()})
    expect(page.locator(".documents .name")).to_have_text([hostile, "notes.md", "更多.txt"])
    for name in (hostile, "notes.md", "更多.txt"):
        gone = page.locator("li", has_text=name).get_by_role("button")
        gone.click()
        expect(gone).to_have_text("確定刪除？")
        gone.click()
        expect(page.locator("#live")).to_contain_text(name)
        expect(page.locator(".documents .name", has_text=name)).to_have_count(0)
    expect(page.locator(".documents .name")).to_have_count(0)
    page.locator("#tab-ask").click()
    assert ask(page, QUESTION)["quotes"] == []
    expect(page.locator(".verdict")).to_have_text("這裡似乎沒有答案。")


def test_without_an_index_dropped_texts_become_paragraphs(visit, bare):
    page = visit(bare)
    page.fill("#contexts", "鎮上有兩家書店。")
    drop(page, ("a.txt", PARAGRAPH), ("b.pdf", "%PDF"))
    expect(page.locator("#contexts")).to_have_value(f"鎮上有兩家書店。\n\n{PARAGRAPH}")
    expect(page.locator(".asking > .wrong")).to_contain_text("b.pdf")
    assert ask(page, QUESTION)["index"] == 1


# --- intent, slots, curves


def test_intent_and_slots_are_those_of_the_service(visit, service):
    page = visit(service, "utterance")
    text = "book a boat to Port Mira <b>tomorrow</b> 🐳"
    page.fill("#utterance", text)
    with page.expect_response("**/v1/intent") as intent, page.expect_response("**/v1/slots") as slots:
        page.press("#utterance", "Enter")
    intent, slots = intent.value.json(), slots.value.json()
    expect(page.locator(".utterance-result .hero")).to_have_text(intent["label"])
    spans = page.locator(".slotted .slot")
    expect(spans).to_have_count(len(slots["spans"]))
    for shown, span in zip(spans.all(), slots["spans"], strict=True):
        assert shown.evaluate("node => node.firstChild.data") == text[span["start"] : span["end"]]
        expect(shown.locator(".slot-label")).to_have_text(span["label"])
    words = page.locator(".slotted").evaluate(
        """node => {
          const copy = node.cloneNode(true);
          copy.querySelectorAll('.slot-label').forEach(one => one.remove());
          return copy.textContent;
        }"""
    )
    assert words == text


def test_curves_show_the_metrics_and_what_was_added_since(visit, service, dialogue):
    page = visit(service, "curves")
    entries = [json.loads(line) for line in (dialogue / "intent" / "metrics.jsonl").read_text("utf-8").splitlines()]
    scored = [entry for entry in entries if entry["event"] == "evaluate"]
    expect(page.locator(".legend bdi")).to_have_text(["intent", "slots"])
    accuracy = page.locator(".panel").first
    expect(accuracy.locator("svg[role=img]")).to_be_visible()
    best = max(scored, key=lambda entry: entry["accuracy"])
    expect(accuracy.locator(".best-label")).to_have_text([f"{best['accuracy']:.4f} @ {best['step']}"])
    accuracy.locator("summary").click()
    cells = accuracy.locator("tbody tr")
    expect(cells).to_have_count(len(scored))
    expect(cells.filter(has_text="★").locator("th")).to_have_text([str(best["step"])])
    loss = page.locator(".panel", has_text="訓練損失")
    loss.locator("summary").click()
    steps = [entry["step"] for entry in entries if entry["event"] == "step"]
    expect(loss.locator("tbody tr th").last).to_have_text(str(steps[-1]))
    before = loss.locator("tbody tr").count()
    with (dialogue / "intent" / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"event": "step", "step": 99, "loss": 0.5, "lr": 1e-3, "seconds": 0.1}) + "\n")
    page.locator("#panel-of-curves .actions button").click()
    expect(loss.locator("tbody tr")).to_have_count(before + 1)
    expect(loss.locator("tbody tr th").last).to_have_text("99")
    assert str(dialogue) not in httpx.get(f"{service}/v1/runs").text


# --- labels


def labelled(address):
    """The examples that are answered, in the file's order."""
    examples = httpx.get(f"{address}/v1/labels").json()["examples"]
    return [one for one in examples if one["answers"] or one["is_impossible"]]


def unlabel(address):
    for one in labelled(address):
        httpx.delete(f"{address}/v1/labels/{one['id']}").raise_for_status()


def select_with_mouse(page, start, end):
    """Drag over the code points [start, end) of the paragraph."""
    box = page.locator(".markable").evaluate(
        """(root, [start, end]) => {
          const text = root.textContent, units = place => [...text].slice(0, place).join('').length;
          const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), at = [units(start), units(end)];
          const found = [];
          let done = 0;
          for (let node = walk.nextNode(); node; node = walk.nextNode()) {
            for (const place of [0, 1]) if (at[place] <= done + node.length) found[place] ??= [node, at[place] - done];
            done += node.length;
          }
          const range = document.createRange();
          range.setStart(...found[0]);
          range.setEnd(...found[1]);
          root.scrollIntoView();
          const rects = range.getClientRects(), first = rects[0], last = rects[rects.length - 1];
          return [first.left + 1, first.top + first.height / 2, last.right - 1, last.top + last.height / 2];
        }""",
        [start, end],
    )
    page.mouse.move(*box[:2])
    page.mouse.down()
    page.mouse.move(*box[2:], steps=5)
    page.mouse.up()


def test_answers_are_marked_and_saved(visit, service):
    unlabel(service)
    page = visit(service, "label", accept_downloads=True)
    text = SAMPLES["zh-Hant"][0]["contexts"][3]
    expect(page.locator(".markable")).to_have_text(text)
    # the model's answer is there before anything is marked
    with page.expect_response("**/v1/read") as read:
        page.fill("#label-question", SAMPLES["zh-Hant"][0]["question"])
    expect(page.locator(".markable mark.proposed")).to_have_text(read.value.json()["answer"])
    # it is corrected with the mouse
    start = text.index("三十多名")
    select_with_mouse(page, start, start + 6)
    expect(page.locator(".markable mark")).to_have_text(text[start : start + 6])
    expect(page.locator("#panel-of-label .state")).to_have_text("尚未儲存")
    with page.expect_request(lambda request: request.method == "PUT") as put:
        page.locator("#label-save").click()
    body = {
        "paragraph": 0,
        "question": SAMPLES["zh-Hant"][0]["question"],
        "answers": [{"start": start, "end": start + 6}],
    }
    assert put.value.post_data_json == body
    expect(page.locator("#panel-of-label .state")).to_have_text("已儲存")
    expect(page.locator(".examples .answer-text")).to_have_text([text[start : start + 6]])
    # saved anew under the same id, an end nudged by one
    page.locator("#end-right").click()
    page.locator("#label-save").click()
    expect(page.locator(".examples .answer-text")).to_have_text([text[start : start + 7]])
    assert len(labelled(service)) == 1
    # another question of the same paragraph, which does not hold its answer
    page.locator("#label-new").click()
    page.fill("#label-question", "誰養了山羊？")
    page.locator("#label-none").click()
    expect(page.locator("#panel-of-label .state")).to_have_text("已儲存：這裡沒有答案")
    assert [one["answers"] for one in labelled(service)][1] == []
    # what is not saved is still there after another paragraph
    page.locator("#label-new").click()
    page.fill("#label-question", "橋有多長？")
    page.get_by_role("button", name="下一段 →").click()
    expect(page.locator("#label-question")).to_have_value("")
    page.get_by_role("button", name="← 上一段").click()
    expect(page.locator("#label-question")).to_have_value("橋有多長？")
    with page.expect_download() as downloaded:
        page.locator("#label-download").click()
    assert downloaded.value.suggested_filename == "labels.json"
    saved = list(read_qa(downloaded.value.path()))
    assert [(one.question, [span.text for span in one.answers]) for one in saved] == [
        (SAMPLES["zh-Hant"][0]["question"], [text[start : start + 7]]), ("誰養了山羊？", [])
    ]  # fmt: skip
    gone = page.locator(".examples li").first.locator("button").last
    gone.click()
    gone.click()
    expect(page.locator(".examples li")).to_have_count(1)
    assert len(labelled(service)) == 1


def test_answers_are_marked_by_keyboard_whole_characters_at_a_time(visit, service):
    unlabel(service)
    page = visit(service, "label", init="delete Crypto.prototype.randomUUID")
    page.get_by_role("button", name="下一段 →").click()
    page.route("**/v1/read", lambda route: route.abort())  # no proposal
    page.fill("#label-question", QUESTION)
    page.locator(".markable").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    page.unroute("**/v1/read")
    family = MIXED.index("👨")
    assert page.locator(".markable mark").text_content() == "👨‍👩‍👧‍👦，"
    expect(page.locator(".told:visible")).to_contain_text(f"字元 {family} 到 {family + 8}")
    with page.expect_request(lambda request: request.method == "PUT") as put:
        page.keyboard.press("Enter")
    assert put.value.post_data_json["answers"] == [{"start": family, "end": family + 8}]
    assert re.search(r"/v1/labels/[0-9a-f]{32}$", put.value.url)
    expect(page.locator(".examples .answer-text")).to_have_text(["👨‍👩‍👧‍👦，"])
    page.keyboard.press("Escape")
    expect(page.locator(".markable mark")).to_have_count(0)


def test_questions_that_wait_are_turned_to_and_further_answers_are_kept(visit, service):
    unlabel(service)
    two = [{"text": text, "start": at, "end": at + 3} for text, at in (("林師傅", 0), ("在河邊", 3))]
    given = {"paragraph": 2, "question": "誰？", "answers": [{"start": one["start"], "end": one["end"]} for one in two]}
    httpx.put(f"{service}/v1/labels/two", json=given).raise_for_status()
    page = visit(service, "label")
    expect(page.locator("#label-open")).to_have_text("下一個待答的問題（1）")
    page.locator("#label-open").click()
    expect(page.locator(".markable")).to_have_text(PARAGRAPH)
    expect(page.locator(".markable")).to_be_focused()
    expect(page.locator(".examples .help")).to_have_text("還沒有回答")
    expect(page.locator(".markable mark.proposed")).to_have_text("林師傅")
    page.keyboard.press("Enter")
    expect(page.locator(".examples .answer-text")).to_have_text(["林師傅 · 在河邊", "林師傅"])
    assert {one["id"]: one["answers"] for one in labelled(service)} == {"two": two, "open": two[:1]}
    expect(page.locator("#label-open")).to_be_hidden()
    page.locator(".examples .span").first.click()
    expect(page.locator(".markable .other")).to_have_text("在河邊")
    page.locator("#start-right").click()
    page.locator("#label-save").click()
    expect(page.locator(".examples .answer-text").filter(has_text="師傅 · 在河邊")).to_have_count(1)
    answers = next(one["answers"] for one in labelled(service) if one["id"] == "two")
    assert [(one["start"], one["end"]) for one in answers] == [(1, 3), (3, 6)]


def test_a_wrong_answer_is_corrected_from_where_it_is_shown(visit, service):
    unlabel(service)
    page = visit(service)
    drop(page, ("a.md", PARAGRAPH))
    expect(page.locator(".documents .name")).to_have_text(["a.md"])
    page.locator("#tab-ask").click()
    ask(page, QUESTION)
    page.get_by_role("button", name="更正這個答案").click()
    expect(page.locator(".markable")).to_have_text(PARAGRAPH)
    expect(page.locator("#label-question")).to_have_value(QUESTION)
    expect(page.locator("#label-question")).to_be_focused()
    expect(page.locator(".markable mark.proposed")).to_have_text("林師傅")
    page.locator("#tab-documents").click()
    gone = page.locator("#panel-of-documents .documents button")
    gone.click()
    gone.click()
    expect(page.locator("#panel-of-documents .documents li")).to_have_count(0)


def test_where_nothing_is_labelled_nothing_offers_it(visit, bare):
    page = visit(bare)
    expect(page.locator("[role=tab]")).to_have_text(["提問", "意圖與槽位"])
    ask(page, QUESTION, [PARAGRAPH])
    assert page.get_by_role("button", name="更正這個答案").count() == 0


# --- for everyone


# Texts whose contrast with what is behind them is too low.
FAINT = """() => {
  const number = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [.2126, .7152, .0722][at], 0);
  const ground = node => {
    for (let one = node; one; one = one.parentElement) {
      const colour = number(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const node = text.parentElement, style = getComputedStyle(node);
    if (!text.data.trim() || !node.checkVisibility()) continue;
    if (node.closest('noscript, [aria-hidden], .unseen, .skip, option')) continue;
    const colour = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(number(colour)), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05), large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) faint.push([text.data.slice(0, 20), node.className, ratio]);
  }
  return faint;
}"""


def fill_every_tab(page):
    """Each tab in turn, with something in it."""
    ask(page, SAMPLES["zh-Hant"][0]["question"], SAMPLES["zh-Hant"][0]["contexts"])
    page.locator(".token-switch button").click()
    page.wait_for_selector(".token")
    page.locator(".candidates summary").first.click()
    yield "ask"
    page.locator("#tab-documents").click()
    yield "documents"
    page.locator("#tab-utterance").click()
    page.fill("#utterance", "book a boat to Port Mira tomorrow " + "長" * 60)
    page.press("#utterance", "Enter")
    page.wait_for_selector(".slotted")
    yield "utterance"
    page.locator("#tab-curves").click()
    page.wait_for_selector("svg.curve")
    yield "curves"
    page.locator("#tab-label").click()
    page.fill("#label-question", QUESTION)
    page.wait_for_selector(".markable mark")
    yield "label"


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 360)])
def test_a_narrow_screen_does_not_scroll_sideways_and_every_text_has_contrast(visit, service, scheme, width):
    page = visit(service, width=width, color_scheme=scheme, reduced_motion="reduce")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 21, 18)"
    assert dark == (scheme == "dark")
    for tab in fill_every_tab(page):
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        assert page.evaluate(FAINT) == [], tab


def test_controls_have_names_and_parts_have_landmarks(visit, service):
    page = visit(service, locale="en")
    assert page.locator("main").count() == page.locator("header").count() == 1
    nameless = """() => [...document.querySelectorAll(
        'button, input, select, textarea, [role=group], [role=tabpanel], svg[role=img]')]
      .filter(node => node.checkVisibility() && node.type !== 'radio')
      .filter(node => !node.textContent.trim() && !node.labels?.length)
      .filter(node => !node.getAttribute('aria-label') && !node.getAttribute('aria-labelledby'))
      .map(node => node.outerHTML)"""
    for tab in fill_every_tab(page):
        assert page.evaluate(nameless) == [], tab
        expect(page.locator("[role=tab][aria-selected=true]")).to_have_id(f"tab-{tab}")
        expect(page.locator(f"#panel-of-{tab}")).to_have_attribute("aria-labelledby", f"tab-{tab}")
        assert (
            page.evaluate("new Set([...document.querySelectorAll('[id]')].map(n => n.id)).size")
            == page.locator("[id]").count()
        )


def test_all_of_it_is_done_by_keyboard(visit, service):
    page = visit(service, locale="en")
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#tab-ask")).to_be_focused()
    for name in ("documents", "utterance", "curves", "label", "ask"):
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"#tab-{name}")).to_be_focused()
        expect(page.locator(f"#panel-of-{name}")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#tab-label")).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    expect(page.locator("#language")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type(QUESTION)
    page.keyboard.press("Tab")
    expect(page.locator("#mode-documents")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    expect(page.locator("#contexts")).to_be_focused()
    page.keyboard.type(PARAGRAPH)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".hero")).to_have_text("林師傅")
    outlined = "node => node.matches(':focus-visible') && getComputedStyle(node).outlineStyle !== 'none'"
    for _ in range(10):
        page.keyboard.press("Tab")
        focused = page.evaluate_handle("document.activeElement").as_element()
        assert focused.evaluate(outlined)
        if "span" in (focused.get_attribute("class") or "").split():
            break
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".spans .span").nth(1)).to_have_attribute("aria-pressed", "true")
