"""Tags: which piece of a word has them, which window decides, and that they are always well-formed."""

import json
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import SlotExample
from zhaiju.data.formats import ReadLog
from zhaiju.data.labelled import repair_bio, sentence_example
from zhaiju.data.vocabulary import KINDS, build_tokenizer
from zhaiju.errors import DataError
from zhaiju.tasks import TASKS, SlotsTask
from zhaiju.tasks.base import IGNORED
from zhaiju.tasks.slots import best_tags
from zhaiju.training.run import load_train_data

LABELS = ("O", "B-a", "I-a", "B-b", "I-b")
TASK = SlotsTask(LABELS)
TEXTS = ["fly the ferryman's goose to the harbour", "請問明天港口有船嗎？", "0123456789 QX-42"]
WORDS = st.lists(
    st.one_of(
        st.sampled_from(["", " ", "\u3000", "\0", "\u200b", "[SEP]", "the goose", "x" * 70, "港口", "e\u0301"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    ),
    min_size=1,
    max_size=20,
)  # fmt: skip
FEW = settings(deadline=None, max_examples=examples(100))
both = pytest.mark.parametrize("kind", KINDS)


@cache
def tokenizer(kind):
    return build_tokenizer(TEXTS, kind=kind, size=300)


def encoding(kind="characters", **sizes):
    return Encoding(tokenizer(kind), **{"window": 20, "overlap": 3} | sizes)


def inside(window):
    return np.flatnonzero(window.starts >= 0)


def by_piece(windows, values):
    """Logits [T, L] of each window from those of the utterance's pieces [N, L]."""
    logits = []
    for window in windows:
        own = np.full((len(window), values.shape[1]), 99.0, dtype=np.float32)  # special tokens say nothing
        own[inside(window)] = values[window.first : window.first + len(inside(window))]
        logits.append(own)
    return logits


def tagged(words, seed=0):
    drawn = np.random.default_rng(seed).integers(0, len(LABELS), len(words))
    return SlotExample("u", tuple(words), repair_bio(LABELS[index] for index in drawn))


# Pieces and windows


@both
@FEW
@given(words=WORDS, overlap=st.integers(0, 12))
@example(words=["a", "x" * 70, "b"], overlap=0)
def test_windows_of_words_hold_every_piece_and_say_which(kind, words, overlap):
    encoder = encoding(kind, overlap=overlap)
    tokens = encoder.words(words)
    assert (np.diff(tokens.starts) >= 0).all()
    assert ((tokens.starts >= 0) & (tokens.ends == tokens.starts + 1) & (tokens.ends <= len(words))).all()
    held = set()
    for window in encoder.word_windows(words):
        assert len(window) <= 20
        run = slice(window.first, window.first + len(inside(window)))
        assert window.input_ids[inside(window)].tolist() == tokens.ids[run].tolist()
        assert window.starts[inside(window)].tolist() == tokens.starts[run].tolist()
        held.update(range(*run.indices(len(tokens.ids))))
    assert held == set(range(len(tokens.ids)))


@both
@FEW
@given(words=WORDS)
def test_a_word_is_cut_into_the_pieces_that_it_has_alone(kind, words):
    encoder = encoding(kind)
    tokens = encoder.words(words)
    for place, word in enumerate(words):
        assert tokens.ids[tokens.starts == place].tolist() == encoder.words([word]).ids.tolist()


@both
@FEW
@given(words=WORDS, overlap=st.integers(0, 12))
@example(words=["a", "x" * 70, "b"], overlap=3)
@example(words=["ab"] * 9, overlap=0)
def test_the_first_piece_of_each_word_has_its_tag_and_no_other_piece_has_any(kind, words, overlap):
    encoder, gold = encoding(kind, overlap=overlap), tagged(words)
    tokens = encoder.words(words)
    first = {int(word): int(np.flatnonzero(tokens.starts == word)[0]) for word in tokens.starts}
    learnt = set()
    for item in TASK.items(gold, encoder, np.random.default_rng(0)):
        (window,) = item.windows
        assert len(item.label) == len(window)
        assert item.targets == sum(label != IGNORED for label in item.label) > 0
        for place, label in enumerate(item.label):
            piece = window.first + place - int(inside(window)[0])
            word = int(window.starts[place])
            if word >= 0 and first[word] == piece:
                assert LABELS[label] == gold.tags[word]
                learnt.add(word)
            else:
                assert label == IGNORED
    assert learnt == set(first)


@both
@FEW
@given(words=WORDS)
def test_all_pieces_of_a_word_have_its_tag_where_that_is_asked_for(kind, words):
    gold, encoder = tagged(words), encoding(kind)
    for item in SlotsTask(LABELS, pieces="all").items(gold, encoder, np.random.default_rng(0)):
        (window,) = item.windows
        wished = [LABELS.index(gold.tags[word]) if word >= 0 else IGNORED for word in window.starts]
        assert list(item.label) == wished
        assert item.targets == len(inside(window))


@FEW
@given(words=WORDS, seed=st.integers(0, 9))
def test_the_mean_of_its_pieces_tells_a_words_tag_where_that_is_asked_for(words, seed):
    gold, encoder = tagged(words), encoding(window=4000)
    starts = encoder.words(words).starts
    values = np.random.default_rng(seed).integers(-8, 8, (len(starts), len(LABELS))).astype(np.float32)
    windows = TASK.encode(gold, encoder)
    found = SlotsTask(LABELS, pieces="all").decode(gold, windows, by_piece(windows, values))
    for word in set(starts.tolist()):
        values[starts == word] = values[starts == word].mean(axis=0)
    expected = TASK.decode(gold, windows, by_piece(windows, values))
    assert found.tags == expected.tags
    assert found.scores == pytest.approx(expected.scores)


def test_words_that_leave_no_piece_teach_nothing():
    assert TASK.items(SlotExample("u", ("", "\0"), ("O", "B-a")), encoding("wordpiece"), np.random.default_rng(0)) == []


@both
@FEW
@given(words=WORDS, overlap=st.integers(0, 12), seed=st.integers(0, 9))
@example(words=["a", "x" * 70, "b"], overlap=0, seed=0)
def test_many_windows_give_the_tags_that_one_would_give(kind, words, overlap, seed):
    gold = tagged(words, seed)
    wide = encoding(kind, window=4000)
    values = np.random.default_rng(seed).normal(size=(len(wide.words(words).ids), len(LABELS))).astype(np.float32)
    found = []
    for encoder in (wide, encoding(kind, overlap=overlap)):
        windows = TASK.encode(gold, encoder)
        found.append(TASK.decode(gold, windows, by_piece(windows, values)))
    assert found[0] == found[1]
    one = found[0]
    assert len(one.tags) == len(one.scores) == len(one.pieces) == len(words)
    assert repair_bio(one.tags) == one.tags
    assert all(0 <= score <= 1 for score in one.scores)
    assert list(one.pieces) == np.bincount(wide.words(words).starts, minlength=len(words)).tolist()
    assert all(tag == "O" for tag, count in zip(one.tags, one.pieces, strict=True) if not count)
    for span in one.spans:
        assert span.text == " ".join(words[span.start : span.end])
        assert span.score == min(one.scores[span.start : span.end])


def test_an_utterance_longer_than_its_window_is_scored_whole():
    words = tuple("請問明天港口有船嗎" * 40)
    gold = SlotExample("u", words, ("B-a", *["I-a"] * (len(words) - 1)))
    windows = TASK.encode(gold, encoding())
    assert len(windows) > 20
    values = np.tile(np.array([0, 9, 0, 0, 0], np.float32), (len(words), 1))
    prediction = TASK.decode(gold, windows, by_piece(windows, values))
    report = TASK.score([gold], [prediction])
    assert report["token_accuracy"] == 1 / len(words)  # every word counts
    assert report["recall"] == 0


def test_where_windows_overlap_the_one_with_more_around_the_word_decides():
    words = tuple("0123456789" * 5)
    kinds = ("O", *(f"B-{number}" for number in range(9)))
    task, encoder = SlotsTask(kinds), encoding(overlap=9)
    gold = SlotExample("u", words, None)
    windows = task.encode(gold, encoder)
    assert len(windows) > 3
    logits = [
        np.tile(np.eye(len(kinds), dtype=np.float32)[number] * 9, (len(w), 1)) for number, w in enumerate(windows)
    ]
    expected = []
    for place in range(len(words)):
        depths = []
        for window in windows:
            where = np.flatnonzero(window.starts == place)
            depths.append(min(where[0], len(window) - 1 - where[0]) if len(where) else -1)
        expected.append(kinds[int(np.argmax(depths))])  # of equal ones the earlier
    assert task.decode(gold, windows, logits).tags == tuple(expected)
    assert len(set(expected)) == len(windows)


# The best tags


def brute_force(logs, labels):
    """The highest sum over all well-formed sequences."""
    sequences = product(range(len(labels)), repeat=len(logs))
    allowed = [one for one in sequences if repair_bio(labels[i] for i in one) == tuple(labels[i] for i in one)]
    return max(sum(logs[place, index] for place, index in enumerate(one)) for one in allowed)


@settings(deadline=None, max_examples=examples(200))
@given(
    rows=st.lists(st.lists(st.integers(-40, 0), min_size=5, max_size=5), max_size=4),
    labels=st.permutations(LABELS),
)
def test_no_well_formed_sequence_of_tags_is_likelier(rows, labels):
    logs = np.array(rows, dtype=np.float64).reshape(-1, 5) / 8
    best = best_tags(logs, labels)
    tags = tuple(labels[index] for index in best)
    assert repair_bio(tags) == tags
    if rows:
        assert logs[np.arange(len(rows)), best].sum() == pytest.approx(brute_force(logs, labels))
    else:
        assert not len(best)


@settings(deadline=None, max_examples=examples(100))
@given(
    sure=st.lists(st.sampled_from(range(-1, len(LABELS))), min_size=1, max_size=30),
    strength=st.sampled_from([0.1, 10.0, 1e4]),
)
def test_tags_are_well_formed_however_sure_the_network_is_of_others(sure, strength):
    logs = np.full((len(sure), len(LABELS)), -strength)
    for place, index in enumerate(sure):
        if index < 0:  # a blank word, which can only be O
            logs[place] = -np.inf
        logs[place, max(index, 0)] = 0.0
    tags = tuple(LABELS[index] for index in best_tags(logs, LABELS))
    assert repair_bio(tags) == tags
    assert all(tags[place] == "O" for place, index in enumerate(sure) if index < 0)


def test_tags_that_are_well_formed_already_are_left_alone():
    logs = np.log(np.full((4, 5), 0.1))
    for place, index in enumerate((1, 2, 0, 3)):
        logs[place, index] = np.log(0.6)
    assert best_tags(logs, LABELS).tolist() == [1, 2, 0, 3]


# Spans


@FEW
@given(text=st.text("ab 港口\u3000\n,é", min_size=1).filter(str.strip), seed=st.integers(0, 99))
def test_spans_of_a_sentence_are_slices_of_it(text, seed):
    asked = sentence_example("u", text)
    encoder = encoding()
    windows = TASK.encode(asked, encoder)
    values = np.random.default_rng(seed).normal(size=(len(encoder.words(asked.tokens).ids), 5)).astype(np.float32) * 3
    found = TASK.decode(asked, windows, by_piece(windows, values))
    assert len(found.tags) == len(asked.tokens)
    for span in found.spans:
        assert text[span.start : span.end] == span.text == span.text.strip()
    starts = {start for start, _ in asked.offsets}
    assert {span.start for span in found.spans} <= starts


def decided(example, *classes, task=TASK):
    """The prediction of a network that is sure of these classes."""
    windows = task.encode(example, encoding(window=200))
    values = np.zeros((len(encoding(window=200).words(example.tokens).ids), len(task.labels)), np.float32)
    for place, name in enumerate(classes):
        values[encoding(window=200).words(example.tokens).starts == place, task.labels.index(name)] = 5
    return task.decode(example, windows, by_piece(windows, values))


def test_spans_of_a_sentence_count_characters_and_spans_of_words_count_words():
    tags = ("O", "B-a", "I-a", "B-b")
    found = decided(sentence_example("u", "fly  to\u3000Port 港"), *tags)
    assert [(span.label, span.text, span.start, span.end) for span in found.spans] == [
        ("a", "to\u3000Port", 5, 12),
        ("b", "港", 13, 14),
    ]
    found = decided(SlotExample("u", ("fly", "to", "Port", "港"), None), *tags)
    assert [(span.label, span.text, span.start, span.end) for span in found.spans] == [
        ("a", "to Port", 1, 3),
        ("b", "港", 3, 4),
    ]


# Figures


def test_figures_of_a_hand_worked_case():
    gold = [
        SlotExample("1", ("a", "b", "c"), ("B-a", "I-a", "O")),
        SlotExample("2", ("d", "", "e"), ("O", "O", "B-b")),
    ]
    found = [decided(gold[0], "B-a", "O", "O"), decided(gold[1], "O", "O", "B-b")]
    report = TASK.score(gold, found)
    assert (report["count"], report["f1"], report["f1_strict"]) == (2, 0.5, 0.5)
    assert (report["token_accuracy"], report["sentence_accuracy"]) == (5 / 6, 0.5)
    judgement = TASK.judge(gold, found)
    assert judgement.correct.tolist() == [True, False, True, True, True]  # the blank word is no guess
    share = np.exp(5) / (np.exp(5) + 4)
    assert judgement.confidence.tolist() == pytest.approx([share] * 5)
    assert judgement.ratios["f1"].tolist() == [[0, 2], [2, 2]]
    assert judgement.ratios["token_accuracy"].tolist() == [[2, 3], [3, 3]]
    assert judgement.ratios["sentence_accuracy"].tolist() == [[0, 1], [1, 1]]
    for name, table in judgement.ratios.items():
        assert table[:, 0].sum() / table[:, 1].sum() == pytest.approx(report[name])
    assert found[0].loss == pytest.approx(-(2 * np.log(share) + np.log((1 - share) / 4)) / 3)
    assert report["loss"] == pytest.approx(np.mean([one.loss for one in found]))


def test_a_tag_that_training_did_not_know_is_wrong_and_leaves_no_loss():
    gold = [SlotExample("1", ("a", "b"), ("B-new", "O"))]
    report = TASK.score(gold, [decided(gold[0], "B-a", "O")])
    assert (report["f1"], report["token_accuracy"]) == (0, 0.5)
    assert "loss" not in report


def test_words_without_tags_cannot_be_scored_or_trained_on():
    bare = SlotExample("u7", ("a",), None)
    for call in (TASK.score, TASK.judge):
        with pytest.raises(DataError, match="row u7: tags: no tags to score against"):
            call([bare], [decided(bare, "O")])
    with pytest.raises(DataError, match="row u7: tags: no tags to train on"):
        TASK.items(bare, encoding(), np.random.default_rng(0))
    with pytest.raises(DataError, match="row u7: tags: an unknown tag, found 'B-c'"):
        TASK.items(SlotExample("u7", ("a",), ("B-c",)), encoding(), np.random.default_rng(0))


# From the file to the training


@pytest.mark.parametrize("bio", ["repair", "strict"])
def test_an_i_tag_without_its_beginning_is_repaired_or_refused_on_the_way_to_training(tmp_path, bio):
    rows = [
        {"id": "one", "tokens": ["a", "b"], "tags": ["I-x", "I-x"]},
        {"id": "two", "tokens": ["a", "b"], "tags": ["B-x", "I-y"]},
    ]
    (tmp_path / "t.json").write_text(json.dumps(rows), "utf-8")
    paths = [tmp_path / "t.json"], [tmp_path / "t.json"]
    if bio == "strict":
        with pytest.raises(DataError, match=r"t\.json: row one: tags\[0\]: does not go on"):
            load_train_data("slots", *paths, bio=bio)
        data = load_train_data("slots", *paths, bio=bio, skip_faulty=True)
        assert (data.train, len(data.log.skipped)) == ([], 4)
        return
    data = load_train_data("slots", *paths, bio=bio)
    assert [example.tags for example in data.train] == [("B-x", "I-x"), ("B-x", "B-y")]
    assert data.dev == data.train
    assert isinstance(data.log, ReadLog)
    assert data.log.repaired == 4  # two in each role


def test_the_tags_of_a_training_are_those_of_its_kinds_whether_or_not_both_occur():
    made = [SlotExample("1", ("a", "b"), ("O", "B-b")), SlotExample("2", ("a",), ("I-a",))]
    assert TASKS["slots"].classes(made) == LABELS
    assert TASKS["slots"].classes(made[:1]) == ("O", "B-b", "I-b")
    with pytest.raises(DataError, match="row 3: tags: no tags to train on"):
        TASKS["slots"].classes([SlotExample("3", ("a",), None)])
