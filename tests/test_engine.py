"""The one path from examples to predictions: lazy, in order, with little padding and flat memory."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from checkpoints import INTENTS, LABELS, MIXED, PARAGRAPHS, QUESTIONS, SLOTTED, bert
from zhaiju.data import encoding as encoding_module
from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import Context, IntentExample, QAExample, SlotExample
from zhaiju.data.vocabulary import build_tokenizer
from zhaiju.errors import CheckpointError, ConfigError, DataError
from zhaiju.inference.backends import TorchBackend
from zhaiju.inference.engine import Engine
from zhaiju.modeling.checkpoint import load
from zhaiju.tasks import TASKS, ReadTask, SelectTask, make_task

CHARACTERS = "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘成歲律呂調陽雲騰致雨露結為霜，。？"


class Fake:
    """A backend that gives every window the logits of `value`."""

    pad_id = 0

    def __init__(self, task, value=0.0):
        self.task = task
        self.value = value
        self.shapes = []

    def run(self, chunk):
        self.shapes.append(chunk.input_ids.shape)
        rows, length = chunk.input_ids.shape
        classes = len(LABELS[self.task])
        shapes = {"select": (1,), "read": (2, length), "intent": (classes,), "slots": (length, classes)}
        return np.full((rows, *shapes[self.task]), self.value, dtype=np.float32)


def _text(generator, length):
    return "".join(generator.choice(list(CHARACTERS), length))


def _task(name):
    return make_task(name, labels=LABELS[name])


def _examples(count, *, task="read", longest=120, contexts=1, seed=0):
    """Questions over random texts, or such texts, made one at a time."""
    generator = np.random.default_rng(seed)
    for number in range(count) if count is not None else itertools.count():
        if task in ("intent", "slots"):
            text = _text(generator, int(generator.integers(8, longest)))
            row = f"row-{number}"
            yield IntentExample(row, text, "oos") if task == "intent" else SlotExample(row, tuple(text), None)
            continue
        yield QAExample(
            f"row-{number}",
            _text(generator, int(generator.integers(5, 16))),
            tuple(Context(_text(generator, int(generator.integers(8, longest))), str(i)) for i in range(contexts)),
            0,
        )


@pytest.fixture
def encoding():
    return Encoding(build_tokenizer([CHARACTERS], kind="characters"), window=64, overlap=16)


every_task = pytest.mark.parametrize("task", TASKS)
_ASKED = QAExample("q", QUESTIONS[1], (Context(PARAGRAPHS[1], "p"), Context(MIXED, "m")), 1)
ONE = {"select": _ASKED, "read": _ASKED, "intent": INTENTS[-1], "slots": SLOTTED[-1]}


@every_task
def test_an_endless_stream_of_examples_is_read_only_as_far_as_needed(encoding, task):
    taken = []

    def endless():
        for example in _examples(None, task=task, contexts=2):
            taken.append(example.id)
            yield example

    predictions = Engine(Fake(task), encoding, pool=8).predict(_task(task), endless())
    assert not taken
    found = [prediction.id for prediction in itertools.islice(predictions, 10)]
    assert found == [f"row-{number}" for number in range(10)]
    predictions.close()
    assert len(taken) <= 4 * 8  # the second pool, the one computed after it, and the one tokenised beside that


@every_task
@pytest.mark.parametrize("pool", [1, 7, 256])
@pytest.mark.parametrize("batch_tokens", [1, 300, 8192])
def test_predictions_come_in_the_order_of_the_examples(encoding, task, pool, batch_tokens):
    examples = list(_examples(30, task=task, longest=300, contexts=3))
    progress = []
    engine = Engine(Fake(task), encoding, pool=pool, batch_tokens=batch_tokens)
    found = list(engine.predict(_task(task), examples, progress=progress.append))
    assert [prediction.id for prediction in found] == [example.id for example in examples]
    assert sum(progress) == len(examples)
    assert len(progress) == -(-len(examples) // pool)
    assert all(rows * length <= max(batch_tokens, 64) for rows, length in engine.backend.shapes)


@every_task
def test_no_examples_give_no_predictions(encoding, task):
    engine = Engine(Fake(task), encoding)
    assert list(engine.predict(_task(task), [])) == []
    assert engine.usage.padding == 0


class Alphabet(Fake):
    """Takes each token for the class that its number says, and every window for that of its second token."""

    def run(self, chunk):
        hot = np.eye(len(ALPHABET), dtype=np.float32)[chunk.input_ids % len(ALPHABET)] * 9
        return hot if self.task == "slots" else hot[:, 1]


ALPHABET = ("O", *(f"B-{letter}" for letter in "abcdef"))


@pytest.mark.parametrize("task", ["intent", "slots"])
@pytest.mark.parametrize("batch_tokens", [1, 300, 8192])
def test_each_word_and_utterance_gets_its_own_logits_whatever_batch_it_was_in(encoding, task, batch_tokens):
    examples = list(_examples(40, task=task, longest=150 if task == "slots" else 60))
    engine = Engine(Alphabet(task), encoding, pool=16, batch_tokens=batch_tokens)
    found = list(engine.predict(make_task(task, labels=ALPHABET), examples))
    for example, prediction in zip(examples, found, strict=True):
        if task == "slots":
            numbers = encoding.words(example.tokens).ids % len(ALPHABET)
            assert prediction.tags == tuple(ALPHABET[number] for number in numbers)
        else:
            assert prediction.label == ALPHABET[encoding.tokens(example.text).ids[0] % len(ALPHABET)]


def test_each_window_gets_its_own_logits_whatever_batch_it_was_in(encoding):
    class Echo(Fake):
        """Scores a window by its tokens, those of the padding left out."""

        def run(self, chunk):
            scores = (chunk.input_ids * chunk.attention_mask).sum(axis=1)
            return (scores % 101 - 50).astype(np.float32)[:, None]

    examples = list(_examples(50, longest=200, contexts=4))
    found = list(Engine(Echo("select"), encoding, pool=16, batch_tokens=600).predict(SelectTask(), examples))
    for example, prediction in zip(examples, found, strict=True):
        for place, context in enumerate(example.contexts):
            windows = encoding.windows(example.question, context.text)
            assert prediction.scores[place] == max(int(window.input_ids.sum()) % 101 - 50 for window in windows)


@pytest.mark.parametrize("task", ["read", "slots"])
def test_a_task_never_sees_padding(encoding, task):
    classes = len(LABELS["slots"])

    class Spy(TASKS[task]):
        def decode(self, example, windows, logits):
            expected = [(2, len(window)) if task == "read" else (len(window), classes) for window in windows]
            assert [value.shape for value in logits] == expected
            return super().decode(example, windows, logits)

    engine = Engine(Fake(task), encoding, batch_tokens=2048)
    spy = Spy(**({"labels": LABELS["slots"]} if task == "slots" else {}))
    assert len(list(engine.predict(spy, _examples(40, task=task, longest=200)))) == 40
    assert engine.usage.padding > 0


def test_little_is_padding_at_the_lengths_of_real_paragraphs():
    generator = np.random.default_rng(5)
    encoding = Encoding(build_tokenizer([CHARACTERS], kind="characters"), window=384, overlap=64)
    lengths = np.clip(generator.lognormal(5.6, 0.6, 600), 30, 2500).astype(int)  # median 270 characters
    examples = (
        QAExample(str(number), _text(generator, int(generator.integers(8, 30))), (Context(_text(generator, n), "c"),))
        for number, n in enumerate(lengths)
    )
    engine = Engine(Fake("read"), encoding)
    assert sum(1 for _ in engine.predict(ReadTask(), examples)) == 600
    assert engine.usage.windows > 600
    assert 0 < engine.usage.padding < 0.05


@every_task
def test_usage_counts_windows_and_tokens(encoding, task):
    examples = list(_examples(40, task=task, longest=200, contexts=2))
    windows = [window for example in examples for window in _task(task).encode(example, encoding)]
    engine = Engine(Fake(task), encoding, pool=16, batch_tokens=500)
    for times in (1, 2):
        list(engine.predict(_task(task), examples))
        assert engine.usage.windows == times * len(windows)
        assert engine.usage.tokens == times * sum(map(len, windows))
        assert engine.usage.padded == sum(rows * length for rows, length in engine.backend.shapes)
        assert engine.usage.padding == pytest.approx(1 - engine.usage.tokens / engine.usage.padded)


@every_task
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(encoding, task, value):
    with pytest.raises(CheckpointError, match="not finite numbers"):
        list(Engine(Fake(task, value), encoding).predict(_task(task), _examples(3, task=task)))


@every_task
def test_weights_that_are_no_numbers_are_refused(tmp_path, task):
    bert(tmp_path)
    loaded = load(tmp_path, task, head_required=False, window=64, labels=LABELS[task] or None)
    with torch.no_grad():
        loaded.network.model.bert.encoder.layer[0].output.dense.weight[0, 0] = torch.nan
    engine = Engine(TorchBackend(loaded.network, pad_id=0), loaded.encoding)
    with pytest.raises(CheckpointError, match="not finite numbers"):
        list(engine.predict(_task(task), [ONE[task]]))


@pytest.mark.parametrize("task", ["select", "read"])
@pytest.mark.parametrize("place", [0, 5, 17])
def test_a_question_too_long_for_the_window_is_refused_by_name(encoding, task, place):
    examples = list(_examples(20))
    examples[place] = QAExample("the-long-one", CHARACTERS * 3, (Context("天地", "c"),))
    with pytest.raises(DataError) as raised:
        list(Engine(Fake(task), encoding, pool=4).predict(_task(task), examples))
    assert raised.value.row == "the-long-one"
    assert raised.value.field == "question"
    assert "the-long-one" in str(raised.value)
    assert f"{len(CHARACTERS) * 3} tokens" in str(raised.value)


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_no_utterance_is_too_long_for_the_window(encoding, task):
    text = CHARACTERS * 30
    example = IntentExample("long", text, None) if task == "intent" else SlotExample("long", tuple(text), None)
    engine = Engine(Fake(task), encoding)
    (found,) = engine.predict(_task(task), [example])
    assert engine.usage.windows > 20
    assert found.id == "long"
    assert task == "intent" or found.tags == ("O",) * len(text)


def test_predictions_before_a_faulty_example_have_come_by_then(encoding):
    examples = list(_examples(20))
    examples[17] = QAExample("the-long-one", CHARACTERS * 3, (Context("天地", "c"),))
    predictions = Engine(Fake("read"), encoding, pool=4).predict(ReadTask(), examples)
    assert [next(predictions).id for _ in range(16)] == [example.id for example in examples[:16]]
    with pytest.raises(DataError):
        next(predictions)


def test_an_error_of_the_source_reaches_the_caller(encoding):
    def source():
        yield from _examples(10)
        raise DataError("the file ends in the middle of a row", file="rows.json")

    with pytest.raises(DataError, match=r"rows\.json"):
        list(Engine(Fake("read"), encoding, pool=4).predict(ReadTask(), source()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@every_task
def test_the_torch_backend_predicts_without_dropout_and_puts_the_mode_back(tmp_path, task, precision):
    bert(tmp_path)
    loaded = load(tmp_path, task, head_required=False, window=64, labels=LABELS[task] or None)
    engine = Engine(TorchBackend(loaded.network, pad_id=0, precision=precision), loaded.encoding)
    example = ONE[task]
    for training in (True, False):
        loaded.network.train(training)
        (first,) = engine.predict(_task(task), [example])
        (second,) = engine.predict(_task(task), [example])
        assert first == second
        assert loaded.network.training is training


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match=r"fp8.*fp32, bf16"):
        TorchBackend(torch.nn.Linear(1, 1), pad_id=0, precision="fp8")


def test_memory_does_not_grow_with_the_number_of_examples(encoding, monkeypatch):
    monkeypatch.setattr(encoding_module, "CACHED_TEXTS", 50)
    engine = Engine(Fake("read"), encoding, pool=32, batch_tokens=1024)
    task = ReadTask(max_answer_chars=5)

    def peak(count):
        tracemalloc.start()
        for _ in engine.predict(task, _examples(count, longest=60)):
            pass
        engine.backend.shapes.clear()
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(100)  # fills the caches
    assert peak(2400) < 1.6 * peak(300)  # how many pools are there at once depends on the threads
