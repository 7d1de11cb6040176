from importlib.resources import files as resources

import pytest

import zhaiju
from zhaiju.config import TrainSettings
from zhaiju.training.run import load_train_data, train

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
    with pytest.raises(zhaiju.ConfigError, match="this is a selector"):
        selector.read(QUESTION, CONTEXTS[0])
    with pytest.raises(zhaiju.ConfigError, match="there is no selector"):
        zhaiju.load(str(runs / "read")).select(QUESTION, CONTEXTS)
    with pytest.raises(zhaiju.CheckpointError, match="is a checkpoint for select, expected one for read"):
        zhaiju.load(str(runs / "select"), task="read")


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
