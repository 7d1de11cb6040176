import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data.batching import by_budget, for_epoch, padding
from zhaiju.data.chunks import pad
from zhaiju.data.encoding import Window

LENGTHS = st.lists(st.integers(0, 600), max_size=80)
BUDGETS = st.integers(1, 2000)
MOST = st.none() | st.integers(1, 20)


def realistic(count):
    generator = np.random.default_rng(7)
    return np.clip(generator.normal(300, 120, count).astype(int), 20, 512).tolist()


def check(batches, lengths, budget, most):
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
        assert most is None or len(batch) <= most


@settings(deadline=None, max_examples=examples(150))
@given(lengths=LENGTHS, budget=BUDGETS, most=MOST)
def test_each_item_is_in_one_batch_within_budget_and_number(lengths, budget, most):
    check(by_budget(lengths, budget, most=most), lengths, budget, most)


@settings(deadline=None, max_examples=examples(150))
@given(lengths=LENGTHS, budget=BUDGETS, most=MOST, seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_each_item_is_in_one_batch_of_an_epoch_within_budget_and_number(lengths, budget, most, seed, epoch):
    check(for_epoch(lengths, budget, most=most, seed=seed, epoch=epoch), lengths, budget, most)


def test_longest_items_come_first_and_equal_ones_in_order():
    assert by_budget([1, 5, 3, 5], 10) == [[1, 3], [2, 0]]


def test_item_longer_than_the_budget_gets_a_batch_of_its_own():
    assert by_budget([50, 5, 5], 10) == [[0], [1, 2]]


def test_little_is_padding_on_realistic_lengths():
    lengths = realistic(3000)
    assert padding(lengths, by_budget(lengths, 8192)) < 0.02
    assert padding(lengths, for_epoch(lengths, 8192, seed=1, epoch=0)) < 0.05


@pytest.mark.parametrize("most", [None, 8])
def test_epoch_is_the_same_for_the_same_seed_and_epoch_only(most):
    lengths = realistic(500)
    first = for_epoch(lengths, 4096, most=most, seed=1, epoch=0)
    assert for_epoch(lengths, 4096, most=most, seed=1, epoch=0) == first
    assert for_epoch(lengths, 4096, most=most, seed=1, epoch=1) != first
    assert for_epoch(lengths, 4096, most=most, seed=2, epoch=0) != first


def test_neighbours_differ_between_epochs():
    lengths = [100] * 400
    groups = [{frozenset(batch) for batch in for_epoch(lengths, 800, seed=1, epoch=epoch)} for epoch in range(2)]
    assert len(groups[0] & groups[1]) < 5


def test_epochs_batches_are_not_ordered_by_length():
    lengths = realistic(3000)
    widths = [max(lengths[index] for index in batch) for batch in for_epoch(lengths, 8192, seed=1, epoch=0)]
    assert abs(np.corrcoef(np.arange(len(widths)), widths)[0, 1]) < 0.5


@pytest.mark.parametrize(
    ("lengths", "batches", "share"),
    [([4, 2], [[0, 1]], 0.25), ([4, 4], [[0, 1]], 0.0), ([4, 2], [[0], [1]], 0.0), ([], [], 0.0), ([0], [[0]], 0.0)],
)
def test_padding_is_the_share_of_tokens_that_are_none(lengths, batches, share):
    assert padding(lengths, batches) == share


@given(st.integers(1, 600), st.integers(1, 600))
def test_a_batch_is_padded_to_one_of_few_lengths_and_never_beyond_what_the_encoder_takes(length, most):
    window = Window(*(np.arange(length, dtype=np.int32),) * 4, choice=0, start=0, end=length)
    assert pad([window], 7).input_ids.shape == (1, length)
    chunk = pad([window], 7, most=most)
    padded = chunk.input_ids.shape[1]
    assert length <= padded <= max(length, most)
    assert padded - length <= (0 if length <= 64 else 3 if length <= 256 else 7)
    assert padded == most or padded % (1 if length <= 64 else 4 if length <= 256 else 8) == 0 or length >= most
    assert (chunk.input_ids[0, length:] == 7).all()
    assert chunk.attention_mask[0].tolist() == [1] * length + [0] * (padded - length)
    assert not chunk.answerable[0, length:].any()
