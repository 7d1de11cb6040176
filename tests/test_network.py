"""Batches and losses against the plainest way to compute them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import MIXED, PARAGRAPHS, QUESTIONS, bert
from zhaiju.data.batching import SMALL_BATCH
from zhaiju.data.chunks import PADDING_TOLERATED, arrays, pad
from zhaiju.data.encoding import Window
from zhaiju.data.examples import Context, QAExample, Span
from zhaiju.modeling.checkpoint import load
from zhaiju.modeling.network import Network, collate, masked_cross_entropy
from zhaiju.tasks import TASKS
from zhaiju.tasks.base import IGNORED, Head, Item

CHOICES = TASKS["select"].head
TOKENS = TASKS["read"].head
PAD = 0


def _window(length, *, choice=0, first=1, special=3):
    """A window of `length` tokens, the last of which is special and the first few the question's."""
    ids = np.arange(first, first + length, dtype=np.int32)
    starts = np.full(length, -1, dtype=np.int32)
    starts[special : length - 1] = np.arange(max(length - 1 - special, 0))
    return Window(ids, np.zeros(length, np.int32), starts, np.where(starts >= 0, starts + 1, -1), choice, 0, length)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """An encoder for each task, its weights large enough to tell windows apart."""
    folder = tmp_path_factory.mktemp("bert")
    bert(folder)
    checkpoints = {task: load(folder, task, head_required=False, window=40, overlap=8) for task in TASKS}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for checkpoint in checkpoints.values():
            checkpoint.network.eval()
            for parameter in checkpoint.network.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.5)
    return checkpoints


# The loss.


def test_masked_cross_entropy_is_what_a_hand_computes():
    logits = torch.tensor([[0.0, np.log(2.0), np.log(5.0)], [np.log(3.0), 0.0, 0.0]])
    labels = torch.tensor([1, 0])
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert float(masked_cross_entropy(logits, labels, everything)) == pytest.approx(np.log(8 / 2) + np.log(5 / 3))
    some = torch.tensor([[True, True, False], [True, False, True]])
    assert float(masked_cross_entropy(logits, labels, some)) == pytest.approx(np.log(3 / 2) + np.log(4 / 3))
    only = torch.tensor([[False, True, False], [True, False, False]])
    assert float(masked_cross_entropy(logits, labels, only)) == pytest.approx(0.0, abs=1e-7)


def test_masked_classes_get_no_gradient_and_cannot_spoil_the_loss():
    logits = torch.tensor([[1.0, torch.inf, 2.0, -torch.inf]], requires_grad=True)
    loss = masked_cross_entropy(logits, torch.tensor([0]), torch.tensor([[True, False, True, False]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log(1 + np.e))
    assert logits.grad[0, [1, 3]].tolist() == [0.0, 0.0]
    assert float(logits.grad[0, [0, 2]].sum()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)])
def test_masked_cross_entropy_takes_the_class_axis_last_and_broadcasts_the_mask(shape):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.zeros(shape[:-1], dtype=torch.int64)
    mask = torch.tensor([True, False, True])
    expected = 0.0
    for row in logits.reshape(-1, 3).tolist():
        expected += np.log(np.exp(row[0]) + np.exp(row[2])) - row[0]
    assert float(masked_cross_entropy(logits, labels, mask)) == pytest.approx(expected)


# Batches.

_items = st.lists(
    st.lists(st.integers(5, 300), min_size=1, max_size=6).map(
        lambda lengths: Item([_window(length, choice=place // 2) for place, length in enumerate(lengths)], (0,))
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(_items, st.sampled_from([CHOICES, TOKENS]))
def test_a_batch_holds_every_window_once_and_untouched(items, head):
    if head is TOKENS:
        items = [Item([window], (0, 0)) for item in items for window in item.windows]
    batch = collate(items, head, PAD)
    windows = [window for item in items for window in item.windows]
    assert sorted(row for chunk in batch.chunks for row in chunk.rows) == list(range(len(windows)))
    for chunk in batch.chunks:
        for place, row in enumerate(chunk.rows):
            length = len(windows[row])
            assert chunk.input_ids[place, :length].tolist() == windows[row].input_ids.tolist()
            assert not chunk.input_ids[place, length:].any()
            assert chunk.attention_mask[place].tolist() == [1] * length + [0] * (chunk.input_ids.shape[1] - length)
            answerable = np.flatnonzero(chunk.answerable[place])
            assert answerable.tolist() == [0, *np.flatnonzero(windows[row].starts >= 0).tolist()]
    assert batch.tokens[0] == sum(map(len, windows))


@settings(deadline=None)
@given(_items)
def test_a_batch_of_questions_knows_which_choice_each_window_is_of(items):
    batch = collate(items, CHOICES, PAD)
    rows, choices = batch.shape
    assert rows == len(items)
    assert choices == 1 + max(window.choice for item in items for window in item.windows)
    expected = [(row, window.choice) for row, item in enumerate(items) for window in item.windows]
    assert [divmod(int(slot), choices) for slot in batch.places] == expected
    assert batch.labels.tolist() == [0] * len(items)


@settings(deadline=None)
@given(_items)
def test_little_of_a_chunk_is_padding(items):
    for chunk in collate(items, CHOICES, PAD).chunks:
        if len(chunk.rows) > SMALL_BATCH:  # smaller ones would cost more than their padding
            assert chunk.attention_mask.mean() >= 1 - PADDING_TOLERATED


def test_little_of_a_batch_is_padding():
    lengths = np.random.default_rng(0).integers(40, 384, 60)
    real, padded = collate([Item([_window(length)], (0, 0)) for length in lengths], TOKENS, PAD).tokens
    assert 1 - real / padded < 0.08  # the tolerance, and the few chunks too small to be cut


# The network.


def _questions():
    """Questions with one to five paragraphs of one to several windows."""
    texts = (MIXED + PARAGRAPHS[0], "短句。", *PARAGRAPHS[1:])
    return [
        QAExample(
            f"q{count}", question, tuple(Context(text, str(place)) for place, text in enumerate(texts[:count])), 0
        )
        for count, question in enumerate(QUESTIONS, start=1)
    ]


def _alone(network, window):
    with torch.no_grad():
        return network.logits(*map(torch.from_numpy, arrays(pad([window], PAD))))[0].double()


def _loss(network, items, head):
    with torch.no_grad():
        return float(network(collate(items, head, PAD)))


def test_the_loss_of_select_is_one_softmax_a_question_over_the_best_windows(loaded):
    network, encoding = loaded["select"].network, loaded["select"].encoding
    items = [Item(TASKS["select"]().encode(example, encoding), (0,)) for example in _questions()]
    items.append(Item(items[-1].windows, (3,)))  # and another right choice
    assert {len({window.choice for window in item.windows}) for item in items} == {1, 2, 3, 4, 5}
    assert len(items[0].windows) > 3
    expected = 0.0
    for item in items:
        best = {}
        for window in item.windows:
            score = float(_alone(network, window)[0])
            best[window.choice] = max(score, best.get(window.choice, -np.inf))
        expected += np.log(np.exp(list(best.values())).sum()) - best[item.label[0]]
    assert _loss(network, items, CHOICES) == pytest.approx(expected, rel=1e-5)
    single = sum(_loss(network, [item], CHOICES) for item in items)
    assert single == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_read_is_the_mean_of_start_and_end_over_tokens_that_may_answer(loaded):
    network, encoding = loaded["read"].network, loaded["read"].encoding
    short = QAExample("short", "貓？", (Context("橘貓一隻。", "0"),), 0, (Span("貓", 1),))
    items = TASKS["read"]().items(short, encoding, np.random.default_rng(0)) * 6  # first, and in the last chunk
    text = MIXED + PARAGRAPHS[0]
    for answer in ("鯨魚唱歌", "港口", "１", "年"):
        spans = (Span(answer, text.index(answer)),) if answer in text else ()
        example = QAExample(answer, "哪裡？", (Context(text, "0"),), 0, spans, impossible=not spans)
        items += TASKS["read"]().items(example, encoding, np.random.default_rng(0))
    labels = {item.label for item in items}
    assert (0, 0) in labels
    assert len(labels) > 3
    assert len(collate(items, TOKENS, PAD).chunks) > 1
    expected = 0.0
    for item in items:
        (window,) = item.windows
        logits = _alone(network, window)
        allowed = [0, *np.flatnonzero(window.starts >= 0).tolist()]
        for side in (0, 1):
            values = logits[side][allowed]
            expected += float(torch.logsumexp(values, 0) - logits[side, item.label[side]]) / 2
    assert _loss(network, items, TOKENS) == pytest.approx(expected, rel=1e-5)


class _Table(torch.nn.Module):
    """A model that looks the score of a window up under its first token."""

    def __init__(self, values):
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(values))
        self.config = SimpleNamespace()

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.table[input_ids[:, 0, 0]].unsqueeze(1))


def test_the_best_window_of_each_choice_learns_and_the_others_do_not():
    model = _Table([0.0, 1.0, 3.0, 2.0, 0.5])
    windows = [_window(9, first=1), _window(6, first=2), _window(7, first=3, choice=1), _window(8, first=4, choice=1)]
    loss = Network(model, CHOICES)(collate([Item(windows, (1,))], CHOICES, PAD))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log(1 + np.e))  # 3 against 2
    wrong = np.e / (1 + np.e)
    assert model.table.grad.tolist() == pytest.approx([0.0, 0.0, wrong, -wrong, 0.0])


@pytest.mark.parametrize("task", TASKS)
def test_more_padding_changes_no_logit(loaded, task):
    network, encoding = loaded[task].network, loaded[task].encoding
    windows = encoding.windows(QUESTIONS[0], PARAGRAPHS[0])
    tight = pad(windows, PAD)
    wide = pad([*windows, _window(80)], PAD)
    with torch.no_grad():
        one, two = (network.logits(*map(torch.from_numpy, arrays(chunk))) for chunk in (tight, wide))
    head = TASKS[task].head
    for row, window in enumerate(windows):
        both = (head.unpadded(logits[row].numpy(), len(window)) for logits in (one, two))
        np.testing.assert_allclose(*both, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", TASKS)
def test_another_padding_token_changes_no_logit(loaded, task):
    network, encoding = loaded[task].network, loaded[task].encoding
    windows = [encoding.windows(QUESTIONS[0], PARAGRAPHS[0])[0], encoding.windows("貓？", "橘貓一隻。")[0]]
    with torch.no_grad():
        one, two = (network.logits(*map(torch.from_numpy, arrays(pad(windows, token)))) for token in (0, 7))
    both = (TASKS[task].head.unpadded(logits[1].numpy(), len(windows[1])) for logits in (one, two))
    np.testing.assert_allclose(*both, atol=1e-5, rtol=0)


def test_token_types_that_an_encoder_does_not_know_are_held_below_its_number(loaded):
    network = loaded["read"].network
    ids = torch.arange(1, 9).unsqueeze(0)
    types = torch.tensor([[0, 0, 1, 2, 3, 4, 1, 0]])
    with torch.no_grad():
        many, few = (network.logits(ids, kinds, torch.ones_like(ids)) for kinds in (types, types.clamp(max=1)))
    assert network.types == 2
    assert torch.equal(many, few)


def test_logits_have_the_class_axis_last(loaded):
    ids = torch.arange(1, 13).reshape(2, 6)
    inputs = ids, torch.zeros_like(ids), torch.ones_like(ids)
    assert loaded["select"].network.logits(*inputs).shape == (2, 1)
    assert loaded["read"].network.logits(*inputs).shape == (2, 2, 6)
    assert Head("AutoModelForMultipleChoice", "choices") == CHOICES


# Labels: intent and slots.

INTENT, SLOTS = TASKS["intent"].head, TASKS["slots"].head


def test_the_windows_of_an_utterance_are_judged_by_the_mean_of_their_logits(loaded):
    network = loaded["intent"].network
    items = [Item([_window(9), _window(20)], (1,)), Item([_window(12)], (0,)), Item([_window(40)], (1,))]
    expected = 0.0
    for item in items:
        values = torch.stack([_alone(network, window) for window in item.windows]).mean(0)
        expected += float(torch.logsumexp(values, 0) - values[item.label[0]])
    assert _loss(network, items, INTENT) == pytest.approx(expected, rel=1e-5)


def test_a_token_without_a_tag_teaches_nothing(loaded):
    network = loaded["slots"].network
    windows = [_window(length) for length in (9, 20, 7, 9, 30, 8)]
    items = []
    for place, window in enumerate(windows):
        label = np.full(len(window), IGNORED)
        label[1 + place % 3] = 1
        label[4] = 0
        items.append(Item([window], tuple(label.tolist()), 2))
    expected = 0.0
    for item in items:
        logits = _alone(network, item.windows[0])
        for place, label in enumerate(item.label):
            if label != IGNORED:
                expected += float(torch.logsumexp(logits[place], 0) - logits[place, label])
    assert len(collate(items, SLOTS, PAD).chunks) > 1
    assert _loss(network, items, SLOTS) == pytest.approx(expected, rel=1e-5)


def test_smoothing_reaches_the_loss_of_every_task(loaded):
    windows = [_window(9), _window(20)]
    items = {
        CHOICES: [Item([windows[0], _window(12, choice=1)], (0,))],
        TOKENS: [Item([windows[1]], (4, 6))],
        INTENT: [Item(windows, (1,))],
        SLOTS: [Item([windows[0]], (IGNORED, 1, *[IGNORED] * 7))],
    }
    for task, head in zip(("select", "read", "intent", "slots"), (CHOICES, TOKENS, INTENT, SLOTS), strict=True):
        batch = collate(items[head], head, PAD)
        with torch.no_grad():
            plain, half, most = (float(loaded[task].network(batch, smoothing)) for smoothing in (0.0, 0.4, 0.8))
        assert half != pytest.approx(plain)
        assert most - half == pytest.approx(half - plain, rel=1e-4)  # a mixture of the two losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_spreads_over_the_classes_that_are_allowed(smoothing):
    logits = torch.tensor([[1.0, 2.0, -1.0, 7.0], [0.5, 0.0, 3.0, -2.0], [9.0, 9.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, True, True], [True, True, True, True]])
    labels = torch.tensor([1, 2, IGNORED])
    expected = 0.0
    for row, allowed in ((0, [0, 1, 2]), (1, [0, 1, 2, 3])):
        logs = torch.log_softmax(logits[row, allowed], 0)
        target = torch.full((len(allowed),), smoothing / len(allowed))
        target[labels[row]] += 1 - smoothing
        expected -= float((target * logs).sum())
    assert float(masked_cross_entropy(logits, labels, mask, smoothing=smoothing)) == pytest.approx(expected, rel=1e-5)
