import json
import math
import shutil
import subprocess
import sys
import time
from importlib.resources import files as resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhaiju.corpus import rarity
from zhaiju.corpus.features import FEATURES, REACH, FeatureWeights, LexicalRanking, cut, plain_of, ranking, table
from zhaiju.corpus.joined import join_up
from zhaiju.corpus.lexical import hashes_of, terms
from zhaiju.corpus.rarity import KINDS, STEP, Rarity, keys_of
from zhaiju.data.examples import Context, QAExample
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.errors import ConfigError
from zhaiju.inference.answer import load_joint

SAMPLE = resources("zhaiju.starter") / "sample"

TEXTS = [
    "港口有一座燈塔，守塔人叫王小明，他每天點燈。",
    "港口很大，船很多，魚也很多。",
    "港口的冬天很冷，沒有人來。",
]
# A table of three units, all else being rarest.
COMMON = {"一": 1.0, "二": 2.0, "of": 0.5}


def made(common=COMMON, highest=4.0, means=2.0):
    units = {int(keys_of(hash_of(unit))[0]): level for unit, level in common.items()}
    keys = np.array(sorted(units), dtype=np.uint32)
    levels = np.array([round(units[key] / STEP) for key in keys.tolist()], dtype=np.uint8)
    none = np.zeros(1, np.uint32), np.zeros(1, np.uint8)
    return Rarity(
        {"unit": keys, "pair": none[0], "word": none[0]},
        {"unit": levels, "pair": none[1], "word": none[1]},
        dict.fromkeys(KINDS, means),
        round(highest / STEP),
    )


def hash_of(text):
    codes = np.array([ord(character) for character in text], dtype=np.uint32)
    return hashes_of(codes, np.array([0]), np.array([len(text)]))


KNOWN = made()


def rows(question, texts, known=None):
    found = table(question, texts, known or KNOWN)
    assert found.shape == (len(texts), len(FEATURES))
    assert found.dtype == np.float64
    return found


def told(question, texts, known=None):
    """By feature: what it says of each of the texts."""
    return dict(zip(FEATURES, rows(question, texts, known).T.tolist(), strict=True))


def test_every_feature_prefers_the_paragraph_that_the_question_is_about():
    found = told("「燈塔」的守塔人王小明做什麼？", TEXTS)
    for name in FEATURES:
        first, *others = found[name]
        assert first > max(others), name


def test_longest_run_is_in_characters_and_one_is_none():
    found = told("燈塔守塔人", ["守塔人，燈塔", "燈，塔", "守塔人燈塔"])
    assert found["longest run"] == [3, 0, 3]


def test_longest_run_is_not_lost_where_a_shorter_one_covers_its_beginning():
    assert told("甲乙丙丁戊", ["甲乙丙。乙丙丁戊"])["longest run"] == [4]


def test_quoted_counts_titles():
    found = told("《橋上》和《山下》是誰寫的？", ["他寫了橋上。", "他寫了橋上與山下。", "他寫了上橋。"])
    assert found["quoted"] == [1, 2, 0]


def test_nearness_falls_with_the_distance():
    near, far = told("甲，二", ["甲，二", "甲" + "，" * 15 + "二"])["units near"]
    # The better of both units at its own place, the other so much less for its distance.
    assert near == pytest.approx(4 + 2 * math.exp(-2 / REACH))
    assert far == pytest.approx(4 + 2 * math.exp(-16 / REACH))


def test_longer_words_are_found_where_the_paragraph_is_cut_otherwise():
    whole, apart = told("王小明", ["王小明來了", "王小，明來了"])["words near"]
    assert whole > apart


def test_a_clause_holds_its_terms_together():
    together = "甲，乙，丙丁戊己，庚，辛"
    apart = "丙，甲，丁，乙，戊，庚，己，辛"
    found = told("丙丁戊己", [together, apart])
    assert found["one clause"][0] > found["one clause"][1]
    assert found["units"][0] == pytest.approx(found["units"][1])  # as a heap of units they are the same


def test_english_sentences_end_and_its_neighbouring_words_are_pairs():
    question = "stone bridge builder"
    pairs, alone = told(question, ["A stone bridge. The builder", "stone the bridge builder. No"])["pairs, share"]
    assert pairs == alone == pytest.approx(0.5)
    one, two = told(question, ["stone bridge builder", "stone. bridge builder"])["one clause"]
    assert one > two


def test_pairs_in_eight_clauses_and_no_more():
    near = "甲乙" + "，山" * 7 + "丙丁"
    far = "甲乙" + "，山" * 8 + "丙丁"
    found = told("甲乙，丙丁", [near, far])["pairs in eight clauses"]
    assert found[0] == pytest.approx(2 * found[1])


def test_share_of_pairs_is_a_share():
    assert told("甲乙丙", ["甲乙丙", "甲乙", "乙甲"])["pairs, share"] == pytest.approx([1, 0.5, 0])


def test_words_that_ask_do_not_count_where_they_are_left_out():
    for question, text in (("燈塔什麼時候點燈？", "什麼時候。"), ("When was the lighthouse lit?", "Did we?")):
        found = told(question, [TEXTS[0], text])
        for name in ("units near", "words near", "units", "longest run", "one clause"):
            assert found[name][1] == 0, name


def test_units_are_bm25_by_hand():
    # The mean is 2 units.
    found = told("二", ["二山", "水", "魚魚魚", "甲二二乙"])["units"]
    assert found == pytest.approx([2 * 2.2 / (1 + 1.2), 0, 0, 2 * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 2))])


@pytest.mark.parametrize(
    ("question", "texts"),
    [
        ("「灯塔」的守塔人王小明做什么？", TEXTS),
        ("「燈塔」的守塔人王小明做什麼？", ["港口有一座灯塔，守塔人叫王小明，他每天点灯。", *TEXTS[1:]]),
    ],
)
def test_script_does_not_count(question, texts):
    assert rows(question, texts) == pytest.approx(rows("「燈塔」的守塔人王小明做什麼？", TEXTS))


@pytest.mark.parametrize("written", ["ＡＢＣ café 12", "abc CAFE\u0301 １２", "Abc Café 12"])
def test_case_width_and_accents_do_not_count(written):
    texts = ["ABC cafe 12 在山上", "山上有貓"]
    assert rows(f"{written} 在哪裡？", texts) == pytest.approx(rows("abc cafe 12 在哪裡？", texts))
    assert rows("abc cafe 12", [f"{written} 在山上", texts[1]]) == pytest.approx(rows("abc cafe 12", texts))


def test_a_paragraph_says_the_same_whatever_others_are_there():
    question = "「燈塔」的守塔人王小明做什麼？"
    together = rows(question, TEXTS, rarity.packaged())
    assert together[0].all()
    for place, text in enumerate(TEXTS):
        assert rows(question, [text], rarity.packaged())[0].tolist() == together[place].tolist()
        assert rows(question, ["燈塔" * 50, text, text], rarity.packaged())[2].tolist() == together[place].tolist()


ODD = st.text(st.characters(codec=None, exclude_categories=()), max_size=24) | st.text(
    st.sampled_from("貓狗魚猫aAé1٣Σςß 。，？「」《》.\n\0\ud800İｂ𠀀한\u0301誰什麼哪一年ﷺ"), max_size=24
)


@settings(max_examples=200, deadline=None)
@given(ODD, st.lists(ODD, max_size=5))
def test_whatever_is_written_gives_finite_numbers(question, texts):
    found = rows(question, texts, rarity.packaged())
    assert np.isfinite(found).all()
    assert (found >= 0).all()


@settings(max_examples=200, deadline=None)
@given(ODD)
def test_units_and_pairs_are_those_that_bm25_searches(text):
    found = cut(plain_of(text)).terms
    expected = terms(text)
    units = {unit for unit in expected if keys_of(hash_of(unit))[0] in keys_of(found["unit"].hashes)}
    assert len(found["unit"].hashes) + len(found["pair"].hashes) >= len(expected)
    assert len(units) >= len({*found["unit"].hashes.tolist()}) - text.count("\0")


@pytest.mark.parametrize("question", ["", " ", "？！", "什麼？", "\ud800"])
def test_a_question_without_words_says_nothing(question):
    found = told(question, TEXTS)
    assert not any(any(found[name]) for name in FEATURES if name != "pairs, share")
    assert not rows("燈塔", []).size
    assert not rows("燈塔", ["", "……"]).any()


def test_a_question_is_ranked_in_time():
    generator = np.random.default_rng(0)
    texts = ["".join(map(chr, generator.zipf(1.3, 450) % 4000 + 0x4E00)) for _ in range(200)]
    ranking()
    began = time.process_time()
    for place in range(0, 200, 5):
        ranking().scores(texts[place][:20], texts[place : place + 5])
    assert (time.process_time() - began) / 40 < 0.1  # about 0.01


# --- how rare terms are


def test_terms_of_the_table_are_as_rare_as_it_says_and_others_rarest():
    assert KNOWN.of("unit", np.concatenate([hash_of(text) for text in ("一", "of", "二", "三")])).tolist() == [
        1,
        0.5,
        2,
        4,
    ]
    assert KNOWN.of("unit", np.zeros(0, np.uint64)).tolist() == []


def test_the_packaged_table_knows_what_is_common():
    known = rarity.packaged()
    units = ["the", "的", "人", "燈", "bridge", "鱻", "zyxwvutsrq"]
    found = known.of("unit", np.concatenate([hash_of(plain_of(unit)) for unit in units])).tolist()
    assert found == sorted(found)
    assert found[0] < 0.5
    assert found[1] < 0.5
    assert found[-1] == found[-2] == known.highest * STEP == max(found)
    assert all(level.max() <= known.highest for level in known.levels.values())
    assert all((np.diff(keys.astype(np.int64)) > 0).all() for keys in known.keys.values())
    assert rarity.path().stat().st_size < 1 << 20


def test_a_table_comes_back_and_is_the_same_file_each_time(tmp_path):
    for name in ("a.npz", "b.npz"):
        KNOWN.save(tmp_path / name)
        time.sleep(0.01)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = Rarity.load(tmp_path / "a.npz")
    assert {kind: keys.tolist() for kind, keys in again.keys.items()} == {
        kind: keys.tolist() for kind, keys in KNOWN.keys.items()
    }
    assert (again.means, again.highest) == (KNOWN.means, KNOWN.highest)
    assert rows("甲二", TEXTS, again).tolist() == rows("甲二", TEXTS).tolist()


@pytest.mark.parametrize("content", [b"", b"PK", b"[]"])
def test_a_damaged_table_is_told_in_one_line(tmp_path, content):
    (tmp_path / "rarity.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"rarity\.npz cannot be read") as caught:
        Rarity.load(tmp_path / "rarity.npz")
    assert "\n" not in str(caught.value)


def test_a_table_without_a_part_is_told(tmp_path):
    np.savez(tmp_path / "rarity.npz", means=np.ones(2))
    with pytest.raises(ConfigError, match=r"rarity\.npz cannot be read"):
        Rarity.load(tmp_path / "rarity.npz")


def test_scores_are_the_same_in_every_process():
    code = (
        "from zhaiju.corpus.features import ranking\n"
        f"print(ranking().scores('燈塔的守塔人 of Rome 是誰？', {TEXTS!r}).tolist())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{ranking().scores('燈塔的守塔人 of Rome 是誰？', TEXTS).tolist()}\n"}


# --- the weights


WEIGHTS = FeatureWeights(tuple(float(place) for place in range(len(FEATURES))))


def test_weights_come_back(tmp_path):
    path = tmp_path / "ranking.json"
    WEIGHTS.save(path, {"count": 3})
    assert FeatureWeights.load(path) == WEIGHTS
    kept = json.loads(path.read_text("utf-8"))
    assert kept["about"] == {"count": 3}
    path.write_text(json.dumps(kept | {"weights": dict(reversed(kept["weights"].items()))}), "utf-8")
    assert FeatureWeights.load(path) == WEIGHTS  # by name, not by place


NAMED = dict.fromkeys(FEATURES, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "\udcff",
        '{"weights": {"units": 1}}',
        json.dumps({"weights": list(FEATURES)}),
        json.dumps({"weights": NAMED | {"more": 1.0}}),
        json.dumps({"weights": NAMED | {"units": math.nan}}),
        json.dumps({"weights": NAMED | {"units": None}}),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path, text):
    (tmp_path / "ranking.json").write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=r"ranking\.json cannot be read") as caught:
        FeatureWeights.load(tmp_path / "ranking.json")
    assert "\n" not in str(caught.value)


def test_scores_are_the_weighted_sum_and_predictions_their_probabilities():
    example = QAExample("q", "燈塔的守塔人是誰？", tuple(Context(TEXTS[place], str(place)) for place in (2, 0)))
    mine = LexicalRanking(WEIGHTS, KNOWN)
    expected = rows(example.question, [TEXTS[2], TEXTS[0]]) @ np.array(WEIGHTS.weights)
    (found,) = mine.predict(None, [example])
    assert found.scores == pytest.approx(expected.tolist())
    assert (found.index, found.source) == (1, "0")
    assert found.score == pytest.approx(1 / (1 + math.exp(expected[0] - expected[1])))


def test_the_packaged_weights_say_where_they_are_from():
    about = json.loads((resources("zhaiju.starter") / "ranking.json").read_text("utf-8"))["about"]
    assert {"fitted_on", "held_out", "rarity"} <= set(about)
    from zhaiju.files import fingerprint

    assert about["rarity"] == fingerprint(rarity.path())


@pytest.mark.slow
def test_the_packaged_ranking_finds_the_paragraphs_of_public(shared):
    contexts = load_contexts(shared / "course" / "context.json")
    public = list(read_qa(shared / "course" / "public.json", contexts=contexts))
    assert (
        np.mean(
            [found.index == one.relevant for found, one in zip(ranking().predict(None, public), public, strict=True)]
        )
        >= 0.975
    )


# --- every door


def test_every_door_ranks_alike(run, tmp_path):
    """Command line, Python, ask and HTTP choose the same paragraph, with the same probability, and quote the same."""
    import zhaiju
    from zhaiju.service.batching import Ticket
    from zhaiju.service.schemas import AnswerRequest, SelectRequest
    from zhaiju.service.work import Worker, load_models
    from zhaiju.tasks import SelectTask

    contexts = load_contexts(SAMPLE / "context.json")
    examples = list(read_qa(SAMPLE / "held_out.json", contexts=contexts))[:5]
    shutil.copy(SAMPLE / "context.json", tmp_path)
    some = json.loads((SAMPLE / "held_out.json").read_text("utf-8"))[:5]
    (tmp_path / "q.json").write_text(json.dumps(some), "utf-8")
    code, _, err = run("answer", tmp_path / "context.json", tmp_path / "q.json", "-o", tmp_path / "o.jsonl")
    assert code == 0, err
    printed = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text("utf-8").splitlines()]
    model = zhaiju.load("starter")
    worker = Worker(load_models())
    try:
        for example, row in zip(examples, printed, strict=True):
            texts = [context.text for context in example.contexts]
            answer, selected = model.answer(example.question, texts), model.select(example.question, texts)
            (served,) = worker.answer([AnswerRequest(question=example.question, contexts=texts)], Ticket(1e9))
            (chosen,) = worker.predict(
                SelectTask, [SelectRequest(question=example.question, contexts=texts)], Ticket(1e9)
            )
            assert selected.scores == tuple(chosen.scores) == tuple(ranking().scores(example.question, texts).tolist())
            expected = (
                row["index"],
                row["answer"],
                row["start"],
                pytest.approx(row["score"]),
                pytest.approx(row["selected"]),
            )
            for found in (answer, served):
                assert (found.index, found.answer, found.start, found.score, found.selected) == expected
            assert answer.selected == selected.score
    finally:
        worker.close()


def test_evaluate_starter_selects_by_words(run):
    code, out, err = run("evaluate", "starter", SAMPLE / "held_out.json", "--task", "select", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] >= 0.9


def test_the_starter_as_a_selector_is_none(one_thread):
    from zhaiju.corpus.ask import load_asker

    assert load_asker(selector="starter").answerer.selector is ranking()
    assert load_asker().answerer.lexical is None


def test_shortcuts_need_a_trained_selector():
    from zhaiju.inference.answer import Shortcuts
    from zhaiju.inference.engine import open_engine

    with pytest.raises(ConfigError, match="spare a trained selector work; there is none"):
        join_up(open_engine, "starter", shortcuts=Shortcuts(prefilter=2))


def test_k_and_weight_are_fitted_for_the_lexical_ranking_too(run, tmp_path):
    from zhaiju.modeling.checkpoint import starter

    shutil.copytree(starter("read"), tmp_path / "read")
    shutil.copy(SAMPLE / "context.json", tmp_path)
    some = json.loads((SAMPLE / "held_out.json").read_text("utf-8"))[:6]
    (tmp_path / "q.json").write_text(json.dumps(some), "utf-8")
    arguments = ["answer", tmp_path / "context.json", tmp_path / "q.json", "--reader", tmp_path / "read", "--json"]
    code, out, err = run(*arguments, "-o", tmp_path / "o.json", "--fit", tmp_path / "q.json")
    assert code == 0, err
    joint = load_joint(str(tmp_path / "read"), None)
    assert (json.loads(out)["k"], json.loads(out)["weight"], joint.lexical) == (joint.k, joint.weight, 0.0)
    code, again, _ = run(*arguments, "-o", tmp_path / "again.json")
    assert json.loads(again) == json.loads(out)
