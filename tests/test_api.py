from importlib.resources import files as resources

import pytest

import zhaiju
from checkpoints import INTENTS, LABELS, SLOTTED, bert
from zhaiju.config import TrainSettings
from zhaiju.data.formats import ReadLog
from zhaiju.training.run import TrainData, load_train_data, train

SAMPLE = resources("zhaiju.starter") / "sample"
QUESTION, CONTEXTS = "誰在河邊修船？", ["林師傅在河邊修船。", "鎮上有兩家書店。", "船修好了😀，明天下水。"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    data = load_train_data("read", [SAMPLE / "train.json"], context=SAMPLE / "context.json")
    settings = TrainSettings(
        scratch=True, layers=1, hidden=16, heads=2, intermediate=32, window=256, lr=1e-3, max_steps=2, threads=1
    )
    for task in ("select", "read"):
        train(task, settings, data, folder / task)
    bert(folder / "bert")
    settings = TrainSettings(encoder=str(folder / "bert"), window=32, lr=1e-2, max_steps=2, threads=1)
    for task, examples in (("intent", INTENTS), ("slots", SLOTTED)):
        train(task, settings, TrainData(examples, examples, [], ReadLog()), folder / task)
    return folder


def test_every_answer_is_a_slice_of_its_source(runs):
    model = zhaiju.load(str(runs / "read"), selector=str(runs / "select"))
    answer = model.answer(QUESTION, CONTEXTS)
    assert CONTEXTS[int(answer.source)][answer.start : answer.end] == answer.answer
    assert 0 < answer.score <= 1
    assert answer.index == model.select(QUESTION, CONTEXTS).index


def test_a_list_gives_a_list_and_the_same_as_one_by_one(runs):
    model = zhaiju.load(str(runs / "read"))
    questions = [QUESTION, "書店有幾家？"]
    together = model.read(questions, CONTEXTS[:2])
    single = [model.read(question, context) for question, context in zip(questions, CONTEXTS[:2], strict=True)]
    assert [reading.answer for reading in together] == [reading.answer for reading in single]
    assert [len(model.answer(questions, [CONTEXTS, CONTEXTS[:1]])), len(model.answer([], []))] == [2, 0]


def test_what_a_model_cannot_do_is_said(runs):
    selector = zhaiju.load(str(runs / "select"))
    with pytest.raises(zhaiju.ConfigError, match="no checkpoint for read is loaded here"):
        selector.read(QUESTION, CONTEXTS[0])
    with pytest.raises(zhaiju.ConfigError, match="no checkpoint for select is loaded here"):
        zhaiju.load(str(runs / "intent")).select(QUESTION, CONTEXTS)
    with pytest.raises(zhaiju.CheckpointError, match="is a checkpoint for select, expected one for read"):
        zhaiju.load(str(runs / "select"), task="read")


CALLS = {
    "select": lambda model: model.select(QUESTION, CONTEXTS),
    "read": lambda model: model.read(QUESTION, CONTEXTS[0]),
    "answer": lambda model: model.answer(QUESTION, CONTEXTS),
    "intent": lambda model: model.intent("will it rain"),
    "slots": lambda model: model.slots("will it rain"),
}


@pytest.mark.parametrize("task", LABELS)
def test_a_checkpoint_does_its_own_task_and_says_what_the_others_need(runs, task):
    model = zhaiju.load(str(runs / task))
    for name, call in CALLS.items():
        if name == task or (task == "read" and name in ("answer", "select")):  # words select where no model does
            assert call(model).id == "0"
            continue
        with pytest.raises(zhaiju.ConfigError, match=r"no checkpoint for \w+ is loaded here"):
            call(model)


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_a_selector_goes_with_a_reader_only(runs, task):
    with pytest.raises(zhaiju.ConfigError, match=f"is a checkpoint for {task}; a selector goes with a reader"):
        zhaiju.load(str(runs / task), selector=str(runs / "select"))
    with pytest.raises(zhaiju.CheckpointError, match="is a checkpoint for"):
        zhaiju.load(str(runs / task), task="read")


def test_an_utterance_has_a_class_and_a_list_of_them_a_list(runs):
    model = zhaiju.load(str(runs / "intent"))
    texts = ["will it rain", "book a boat", "港口有船嗎" * 30]
    together = model.intent(texts)
    assert [found.label for found in together] == [model.intent(text).label for text in texts]
    for found in together:
        assert found.label in LABELS["intent"]
        assert found.score == pytest.approx(max(entry.score for entry in found.n_best))
    assert model.intent([]) == []


def test_spans_of_a_sentence_count_characters_and_spans_of_words_count_words(runs):
    model = zhaiju.load(str(runs / "slots"))
    sentence, words = "book  a boat to 港口!", ["book", "a", "", "boat", "to", "港", "口!"]
    found = model.slots(sentence)
    assert len(found.tags) == 7  # book, a, boat, to, 港, 口, !
    assert all(sentence[span.start : span.end] == span.text for span in found.spans)
    found = model.slots(words)
    assert len(found.tags) == len(words)
    assert all(" ".join(words[span.start : span.end]) == span.text for span in found.spans)


def test_a_list_may_hold_sentences_or_the_words_of_one_and_words_says_which(runs):
    model = zhaiju.load(str(runs / "slots"))
    sentences = ["book a boat", "rain tomorrow"]
    assert [one.tags for one in model.slots(sentences)] == [model.slots(text).tags for text in sentences]
    assert len(model.slots(["rain", "tomorrow"]).tags) == 2  # no white space in them: words
    assert [len(one.tags) for one in model.slots(["rain", "tomorrow"], words=False)] == [1, 1]
    assert len(model.slots(sentences, words=True).tags) == 2
    mixed = model.slots([["book", "a boat"], "rain tomorrow"])
    assert [len(one.tags) for one in mixed] == [2, 2]
    assert model.slots([["rain"]])[0].tags == model.slots(["rain"]).tags
    assert model.slots([], words=False) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("intent", "", "text: empty text"),
        ("intent", ["x", " "], "text: empty text"),
        ("intent", ["x", 5], "text: wrong type, found 5"),
        ("slots", " ", "text: empty text"),
        ("slots", [[]], "no word in it"),
        ("slots", [["x"], " "], "text: empty text"),
        ("slots", [["x", 5]], r"tokens\[1\]: wrong type, found 5"),
        ("slots", ["x", 5], "text: wrong type, found 5, expected a sentence or a list of words"),
        ("slots", [5], "text: wrong type, found 5, expected a sentence or a list of words"),
        ("slots", [["x"], None], "text: wrong type"),
        ("slots", [["x", "\ud800"]], r"tokens\[1\]: half of a surrogate pair"),
    ],
)
def test_bad_utterances_are_a_data_error(runs, name, value, message):
    with pytest.raises(zhaiju.DataError, match=message):
        getattr(zhaiju.load(str(runs / name)), name)(value)


@pytest.mark.parametrize(
    ("question", "contexts", "message"),
    [
        ("", CONTEXTS, "question: empty text"),
        (QUESTION, [], "no candidate paragraph"),
        (QUESTION, ["好。", ""], "context: empty text"),
        (QUESTION, "好。", "expected a list of paragraphs"),
        ([QUESTION], [CONTEXTS, CONTEXTS], "differ in number"),
        ([QUESTION], ["好。"], "expected a list of paragraphs for each"),
    ],
)
def test_bad_input_is_a_data_error(runs, question, contexts, message):
    with pytest.raises(zhaiju.DataError, match=message):
        zhaiju.load(str(runs / "read")).answer(question, contexts)


WRONG = (None, 5, 1.5, True, b"rain", {"text": "rain"}, {"rain"}, object())


@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("task", ["intent", "slots"])
def test_an_utterance_of_a_wrong_type_is_a_data_error(runs, task, value):
    model = zhaiju.load(str(runs / task))
    for wrong in (value, [value]):
        with pytest.raises(zhaiju.DataError, match=r"^(text|tokens\[0\]): wrong type, found .*, expected "):
            getattr(model, task)(wrong)


@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
def test_a_question_or_a_paragraph_of_a_wrong_type_is_a_data_error(runs, value):
    reader = zhaiju.load(str(runs / "read"), selector=str(runs / "select"))
    calls = [
        lambda: reader.read(value, CONTEXTS[0]),
        lambda: reader.read(QUESTION, value),
        lambda: reader.read([QUESTION, value], CONTEXTS[:2]),
        lambda: reader.read([QUESTION, QUESTION], [CONTEXTS[0], value]),
    ]
    for ask in (reader.select, reader.answer):
        calls += [
            lambda ask=ask: ask(value, CONTEXTS),
            lambda ask=ask: ask(QUESTION, value),
            lambda ask=ask: ask(QUESTION, [CONTEXTS[0], value]),
            lambda ask=ask: ask([QUESTION, value], [CONTEXTS, CONTEXTS]),
            lambda ask=ask: ask([QUESTION], value),
            lambda ask=ask: ask([QUESTION], [value]),
            lambda ask=ask: ask([QUESTION], [[value]]),
        ]
    for call in calls:
        with pytest.raises(zhaiju.DataError, match=r"^(question|contexts?): wrong type, found .*, expected "):
            call()


def test_anything_with_an_order_serves_as_a_list(runs):
    reader, intent = zhaiju.load(str(runs / "read")), zhaiju.load(str(runs / "intent"))
    listed = [one.answer for one in reader.answer([QUESTION], [CONTEXTS])]
    assert [one.answer for one in reader.answer((QUESTION,), (tuple(CONTEXTS),))] == listed
    assert [one.answer for one in reader.answer(iter([QUESTION]), iter([iter(CONTEXTS)]))] == listed
    assert [one.label for one in intent.intent(text for text in ("rain", "book"))] == [
        intent.intent(text).label for text in ("rain", "book")
    ]
