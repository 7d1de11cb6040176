"""What a reader is trained on: windows at random places, windows without an answer, hidden tokens."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import Context, QAExample, Span
from zhaiju.data.vocabulary import KINDS, build_tokenizer
from zhaiju.tasks.read import NO_ANSWER, ReadTask

# Written for these tests.
LONG = (
    "老周在東坡的茶園裡養了七隻鵝，最大的那隻叫阿白。渡船每天早上六點開，票價四元，老人不收錢。"
    "霧大的日子船夫吹一支銅號，號聲三短一長，對岸的人便知道還要再等。\r\n去年秋天他收了九擔新茶🍵，賣給鎮上的郵差。"
)
OTHERS = (
    "鎮上的鐘樓有六層，最高一層住著蝙蝠。" * 3,
    "The goose of the ferryman's wife is called Blanche. " * 2,
    "短。",
)
QUESTION = "最大的鵝叫什麼？"
FEW = settings(deadline=None, max_examples=examples(150))
both = pytest.mark.parametrize("kind", KINDS)


@cache
def tokenizer(kind):
    return build_tokenizer([LONG, *OTHERS, QUESTION], kind=kind, size=400)


def encoder(kind="characters", window=40):
    return Encoding(tokenizer(kind), window=window, overlap=8)


def example(*answers, context=LONG, others=OTHERS, question=QUESTION):
    """Answers are texts, at their first place, or spans."""
    spans = tuple(each if isinstance(each, Span) else Span(each, context.index(each)) for each in answers)
    contexts = [Context(text, str(place)) for place, text in enumerate((*others[:1], context, *others[1:]))]
    return QAExample("q", question, tuple(contexts), min(1, len(others)), spans)


def quote(context, window, label):
    return context[window.starts[label[0]] : window.ends[label[1]]]


def random_items(made, encoding, seed, **settings):
    """Items, each checked for what holds of all of them; (those with the answer, those without)."""
    task = ReadTask(random_windows=True, **settings)
    items = task.items(made, encoding, np.random.default_rng(seed))
    for item in items:
        (window,) = item.windows
        assert len(window) <= encoding.window
        assert item.targets == 1
        assert 0 <= item.label[0] <= item.label[1] < len(window)
    with_answer = [item for item in items if item.label != NO_ANSWER]
    return with_answer, [item for item in items if item.label == NO_ANSWER]


def is_of(window, text, encoding, question=QUESTION):
    """Whether a window is one of a text's."""
    tokens = encoding.tokens(text)
    inside = window.starts >= 0
    run = slice(window.first, window.first + int(inside.sum()))
    head = [encoding.tokenizer.cls_token_id, *encoding.tokens(question).ids.tolist(), encoding.tokenizer.sep_token_id]
    return (
        window.input_ids[inside].tolist() == tokens.ids[run].tolist()
        and window.starts[inside].tolist() == tokens.starts[run].tolist()
        and window.ends[inside].tolist() == tokens.ends[run].tolist()
        and window.input_ids[: len(head)].tolist() == head
        and window.end <= len(text)
    )


CONTEXTS = st.one_of(st.just(LONG), st.text("茶鵝船 。\n🍵e\u0301\0a", min_size=1, max_size=90))


@FEW
@given(
    context=CONTEXTS,
    others=st.lists(st.one_of(st.sampled_from(OTHERS), st.text("鵝 \n。", max_size=50)), max_size=3),
    window=st.integers(19, 60),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_the_answer_stands_where_the_label_says_and_a_window_without_one_touches_none(
    context, others, window, rate, seed, data
):
    assume(context.strip() and all(other.strip() and other != context for other in others))
    spans = []
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(context) - 1))
        spans.append(Span(context[start : data.draw(st.integers(start + 1, len(context)))], start))
    assume(all(span.text.strip() for span in spans))
    made = example(*spans, context=context, others=tuple(others))
    encoding = encoder(window=window)
    right, wrong = random_items(made, encoding, seed, no_answer_rate=rate)
    assert len(right) <= 1
    assert len(wrong) <= (rate > 0)
    for item in right:
        (held,) = item.windows
        assert is_of(held, context, encoding)
        first, last = held.starts[item.label[0]], held.ends[item.label[1]]
        assert Span(context[first:last], int(first)) in spans
    for item in wrong:
        (bare,) = item.windows
        clear = all(span.end <= bare.start or bare.end <= span.start for span in spans)
        assert (clear and is_of(bare, context, encoding)) or any(is_of(bare, other, encoding) for other in others)
    if not right:
        assert max(len(span.text) for span in spans) > encoding.capacity(QUESTION)


@both
def test_a_quote_is_the_answer_whatever_the_tokens(kind):
    encoding = encoder(kind)
    for answer in ("阿白", "六點", "四元", LONG[:2], LONG[-3:], "🍵", "。\r\n去年"):
        for seed in range(20):
            right, _ = random_items(example(answer), encoding, seed)
            (item,) = right
            assert quote(LONG, item.windows[0], item.label) == answer.strip()


def test_the_answer_is_put_at_any_place_of_the_window():
    encoding = encoder()
    room = encoding.capacity(QUESTION)
    start = LONG.index("四元")
    firsts = {random_items(example("四元"), encoding, seed)[0][0].windows[0].first for seed in range(600)}
    assert firsts == set(range(start + 2 - room, start + 1))
    edges = {random_items(example(LONG[:2]), encoding, seed)[0][0].windows[0].first for seed in range(50)}
    assert edges == {0}
    edges = {random_items(example(LONG[-3:]), encoding, seed)[0][0].windows[0].first for seed in range(50)}
    assert edges == {len(LONG) - room}


def test_every_answer_is_trained_on_now_and_then():
    quotes = {
        quote(LONG, item.windows[0], item.label)
        for seed in range(60)
        for item in random_items(example("阿白", "四元", "銅號"), encoder(), seed)[0]
    }
    assert quotes == {"阿白", "四元", "銅號"}


def test_windows_without_an_answer_are_of_the_paragraph_and_of_other_candidates():
    encoding = encoder()
    found = [random_items(example("阿白"), encoding, seed) for seed in range(300)]
    wrong = [item.windows[0] for _, without in found for item in without]
    own = [window for window in wrong if is_of(window, LONG, encoding)]
    counts = [sum(is_of(window, text, encoding) for window in wrong) for text in OTHERS]
    assert sum(counts) + len(own) == len(wrong)
    assert all(count > 20 for count in counts)
    assert 100 < len(own) < 200
    assert all(len(right) == 1 for right, _ in found)


@pytest.mark.parametrize(("rate", "low", "high"), [(0.0, 0, 0), (0.3, 60, 120), (1.0, 300, 300)])
def test_the_rate_says_how_often_there_is_a_window_without_an_answer(rate, low, high):
    made = example("老", others=(LONG.replace("鵝", "鴨"),))  # either paragraph has windows without it
    count = sum(len(random_items(made, encoder(), seed, no_answer_rate=rate)[1]) for seed in range(300))
    assert low <= count <= high


def test_of_some_windows_without_an_answer_the_one_most_like_the_question_is_trained_on():
    question = "銅號的號聲是什麼？"
    encoding = encoder()
    asked = set(encoding.tokens(question).ids.tolist())

    def shared(window):
        return sum(token in asked for token in window.input_ids[window.starts >= 0].tolist())

    made = example("老周", others=(), question=question)
    room = encoding.capacity(question)
    pair = encoding.pair(question, LONG)
    mean = np.mean([shared(pair.window(a, a + room)) for a in range(2, len(LONG) - room + 1)])
    drawn = [shared(random_items(made, encoding, seed)[1][0].windows[0]) for seed in range(100)]
    assert np.mean(drawn) > mean + 1


@pytest.mark.parametrize("others", [(), OTHERS])
def test_an_answer_longer_than_the_window_gives_no_window_with_it(others):
    answer = Span(LONG[3:80], 3)
    for seed in range(40):
        right, wrong = random_items(example(answer, others=others), encoder(), seed)
        assert not right
        assert all(item.windows[0].end <= 3 or item.windows[0].start >= 80 or others for item in wrong)
    longest = Span(LONG[3 : 3 + encoder().capacity(QUESTION)], 3)
    (item,) = random_items(example(longest), encoder(), 0)[0]
    assert quote(LONG, item.windows[0], item.label) == longest.text


def test_a_paragraph_of_one_window_is_trained_on_whole_and_has_no_window_without_its_answer():
    made = example("茶", context="老人喝茶。", others=())
    for seed in range(40):
        right, wrong = random_items(made, encoder(), seed)
        assert not wrong
        assert (right[0].windows[0].start, right[0].windows[0].end) == (0, 5)
        assert quote("老人喝茶。", right[0].windows[0], right[0].label) == "茶"


def test_the_same_paragraph_among_the_other_candidates_is_no_paragraph_without_the_answer():
    made = example("茶", context="老人喝茶。", others=("老人喝茶。", "老人喝茶。"))
    for seed in range(40):
        assert not random_items(made, encoder(), seed)[1]


def test_without_answers_there_is_nothing_unless_the_question_is_marked_as_having_none():
    bare = example("阿白")
    bare = replace(bare, answers=(), gold=())
    task = ReadTask(random_windows=True)
    assert task.items(bare, encoder(), np.random.default_rng(0)) == []
    none = replace(bare, impossible=True)
    items = task.items(none, encoder(), np.random.default_rng(0))
    assert len(items) == len(encoder().windows(QUESTION, LONG)) > 1
    assert {item.label for item in items} == {NO_ANSWER}


def told(items):
    return [
        (
            item.label,
            item.windows[0].input_ids.tolist(),
            item.windows[0].token_type_ids.tolist(),
            item.windows[0].starts.tolist(),
        )
        for item in items
    ]


@pytest.mark.parametrize("random_windows", [False, True])
def test_the_same_seed_gives_the_same_items_and_another_seed_others(random_windows):
    task = ReadTask(random_windows=random_windows, no_answer_rate=0.7, mask_rate=0.2)
    draws = [
        [told(task.items(example("阿白", "四元"), encoder(), generator)) for _ in range(5)]
        for generator in map(np.random.default_rng, (3, 3, 4))
    ]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][0] != draws[0][1]  # and every epoch others


# Hidden tokens


@both
@pytest.mark.parametrize("random_windows", [False, True])
def test_hiding_leaves_special_tokens_offsets_types_and_labels_alone(kind, random_windows):
    encoding = encoder(kind)
    special = {encoding.tokenizer.cls_token_id, encoding.tokenizer.sep_token_id}
    hidden = 0
    for seed in range(30):
        # Windows are drawn before tokens are hidden, so those of the first example are the same.
        plain, masked = (
            ReadTask(random_windows=random_windows, mask_rate=rate).items(
                example("阿白"), encoding, np.random.default_rng(seed)
            )
            for rate in (0.0, 0.3)
        )
        for one, other in zip(plain, masked, strict=True):
            before, after = one.windows[0], other.windows[0]
            assert one.label == other.label
            for name in ("token_type_ids", "starts", "ends"):
                assert getattr(before, name).tolist() == getattr(after, name).tolist()
            assert (before.start, before.end, before.first, before.choice) == (
                after.start, after.end, after.first, after.choice,
            )  # fmt: skip
            assert after.input_ids.dtype == before.input_ids.dtype
            assert after.input_ids.shape == before.input_ids.shape
            changed = before.input_ids != after.input_ids
            assert set(after.input_ids[changed].tolist()) <= {encoding.mask_id}
            assert not special & set(before.input_ids[changed].tolist())
            hidden += int(changed.sum())
    assert hidden


def test_hiding_leaves_what_is_cached_alone():
    encoding = encoder()
    before = [window.input_ids.tolist() for window in encoding.windows(QUESTION, LONG)]
    for seed in range(5):
        ReadTask(mask_rate=0.5).items(example("阿白"), encoding, np.random.default_rng(seed))
    assert [window.input_ids.tolist() for window in encoding.windows(QUESTION, LONG)] == before


def test_the_rate_is_the_share_of_tokens_hidden_on_both_sides():
    encoding = encoder(window=200)
    shares = []
    for seed in range(800):
        (item,) = ReadTask(random_windows=True, mask_rate=0.2).items(
            example("阿白", others=()), encoding, np.random.default_rng(seed)
        )
        ids = item.windows[0].input_ids == encoding.mask_id
        shares.append((ids[1 : 1 + len(QUESTION)].mean(), ids[item.windows[0].starts >= 0].mean()))
    assert np.mean(shares, axis=0) == pytest.approx([0.2, 0.2], abs=0.02)
    assert np.max(shares, axis=0)[1] < 0.6  # up to twice the rate
    assert abs(np.corrcoef(np.transpose(shares))[0, 1]) < 0.15  # each side for itself


@both
@pytest.mark.parametrize("blank", ["\0", "\ufeff\u200b", "\u202e \0"])
def test_of_a_window_without_a_token_of_the_context_no_special_token_is_hidden(kind, blank):
    """Word pieces have no token for control characters, and another candidate may be nothing else."""
    encoding = encoder(kind)
    made = replace(example("阿白"), contexts=(Context(blank, "0"), Context(LONG, "1")))
    seen = set()
    for seed in range(60):
        _, wrong = random_items(made, encoding, seed, mask_rate=0.5)
        for item in wrong:
            ids = item.windows[0].input_ids.tolist()
            assert ids.count(encoding.tokenizer.sep_token_id) == 2
            assert ids[0] == encoding.tokenizer.cls_token_id
            seen.add(len(ids))
    assert len(encoding.tokens(QUESTION).ids) + 3 + len(encoding.tokens(blank).ids) in seen
