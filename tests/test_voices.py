import json
import math
import shutil
import time
from importlib.resources import files as resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhaiju.corpus import voices
from zhaiju.corpus.ask import make_asker
from zhaiju.corpus.voices import REACH, VOICES, Voices, Weights, fit, voices_of
from zhaiju.data.examples import Context, QAExample
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.errors import ConfigError
from zhaiju.inference.answer import load_joint
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import load_exported, starter

SAMPLE = resources("zhaiju.starter") / "sample"

# Three times the harbour, so that its words are common; the lighthouse and its keeper once.
TEXTS = [
    "港口有一座燈塔，守塔人叫王小明，他每天點燈。",
    "港口很大，船很多，魚也很多。",
    "港口的冬天很冷，沒有人來。",
]


def rows(question, texts, among=None):
    found = Voices(among or texts).table(question, texts)
    assert found.shape == (len(texts), len(VOICES))
    assert found.dtype == np.float64
    return found


def table(question, texts, among=None):
    """By voice: what it says of each of the texts."""
    return dict(zip(VOICES, rows(question, texts, among).T.tolist(), strict=True))


def test_every_voice_prefers_the_paragraph_that_the_question_is_about():
    found = table("「燈塔」的守塔人王小明做什麼？", TEXTS)
    for name in VOICES:
        first, *others = found[name]
        assert first > max(others), name
    assert {len(set(found[name][1:])) for name in ("names", "quoted")} == {1}  # none of it in either


def test_longest_run_is_in_characters_and_one_is_none():
    found = table("燈塔守塔人", ["守塔人，燈塔", "燈，塔", "守塔人燈塔"])
    assert found["longest run"] == [3, 0, 3]


def test_longest_run_is_not_lost_where_a_shorter_one_covers_its_beginning():
    assert table("甲乙丙丁戊", ["甲乙丙。乙丙丁戊"])["longest run"] == [4]


def test_quoted_counts_titles():
    found = table("《橋上》和《山下》是誰寫的？", ["他寫了橋上。", "他寫了橋上與山下。", "他寫了上橋。"])
    assert found["quoted"] == [1, 2, 0]


def test_nearness_falls_with_the_distance():
    near, far = table("燈塔與銀行", ["燈塔銀行。", "燈塔" + "，" * 14 + "銀行。"], among=TEXTS)["nearness"]
    alone = table("燈塔與銀行", ["燈塔。", "銀行。"], among=TEXTS)["nearness"]
    # The better of both words at its own place, the other so much less for its distance.
    assert near == pytest.approx(max(alone) + min(alone) * math.exp(-2 / REACH))
    assert far == pytest.approx(max(alone) + min(alone) * math.exp(-16 / REACH))


def test_clauses_hold_their_words_together():
    together = "甲，乙，丙丁戊己，庚，辛"
    apart = "丙，甲，丁，乙，戊，庚，己，辛"
    found = table("丙丁戊己", [together, apart])
    assert found["one clause"][0] > found["one clause"][1]
    assert found["units in four clauses"][0] > found["units in four clauses"][1]
    assert found["units"][0] == pytest.approx(found["units"][1])  # as a heap of units they are the same


def test_a_run_of_clauses_counts_each_unit_once():
    once, twice = table("甲乙", ["甲，乙，丙，丁", "甲，乙，甲，乙"])["units in four clauses"]
    assert once == pytest.approx(twice)


def test_pairs_in_eight_clauses_and_no_more():
    near = "甲乙" + "，山" * 7 + "丙丁"
    far = "甲乙" + "，山" * 8 + "丙丁"
    found = table("甲乙，丙丁", [near, far])["pairs in eight clauses"]
    assert found[0] == pytest.approx(2 * found[1])


def test_share_of_pairs_is_a_share():
    assert table("甲乙丙", ["甲乙丙", "甲乙", "乙甲"], among=["山"])["pairs, share"] == pytest.approx([1, 0.5, 0])


def test_only_here_compares_the_candidates():
    found = table("甲乙", ["甲山", "乙山", "乙水"])["only here"]
    assert found[0] > found[1] == pytest.approx(found[2])


def test_words_that_ask_do_not_count_where_they_are_left_out():
    among = [*TEXTS, "什麼時候。"]
    found = table("燈塔什麼時候點燈？", [TEXTS[0], "什麼時候。"], among=among)
    for name in ("nearness", "units", "units in four clauses", "longest run", "only here", "one clause"):
        assert found[name][1] == 0, name


def test_units_are_bm25_by_hand():
    # 燈 is in one of three paragraphs; lengths 2, 1, 3 units, the mean is 2.
    found = table("燈", ["燈山", "水", "魚魚魚"])["units"]
    rarity = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    assert found == pytest.approx([rarity * 2.2 / (1 + 1.2), 0, 0])


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


@settings(deadline=None)  # other programs may be busy
@given(st.permutations(range(3)))
def test_the_order_of_candidates_orders_the_rows(order):
    made = Voices(TEXTS)
    question = "「燈塔」的守塔人王小明做什麼？"
    moved = made.table(question, [TEXTS[place] for place in order])
    assert moved == pytest.approx(made.table(question, TEXTS)[order])


def test_a_candidate_that_is_no_paragraph_of_the_corpus_is_weighed_too():
    assert table("燈塔", ["新的燈塔。"], among=TEXTS)["units"][0] > 0


def test_many_paragraphs_count_as_few_do_and_are_not_all_kept(monkeypatch):
    texts = [f"港口{place % 7}，船{place % 3}" for place in range(50)] + TEXTS
    expected = Voices(texts).table("港口3的船和燈塔", texts)
    monkeypatch.setattr(voices, "BLOCK", 8)
    monkeypatch.setattr(voices, "KEPT", 5)
    made = Voices(texts)
    assert len(made._texts) == 5
    assert made.table("港口3的船和燈塔", texts) == pytest.approx(expected)


ODD = st.text(st.characters(codec=None, exclude_categories=()), max_size=24) | st.text(
    st.sampled_from("貓狗魚猫aAé1٣Σςß 。，？「」《》\n\0\ud800İｂ𠀀한\u0301誰什麼哪一年ﷺ"), max_size=24
)


@settings(max_examples=200, deadline=None)
@given(ODD, st.lists(ODD, max_size=5), st.lists(ODD, max_size=3))
def test_whatever_is_written_gives_finite_numbers(question, texts, among):
    found = Voices(among).table(question, texts)
    assert found.shape == (len(texts), len(VOICES))
    assert np.isfinite(found).all()
    assert (found >= 0).all()


@pytest.mark.parametrize("question", ["", " ", "？！", "什麼？", "\ud800"])
def test_a_question_without_words_says_nothing(question):
    found = table(question, TEXTS)
    assert not any(any(found[name]) for name in VOICES if name != "pairs, share")
    assert not Voices([]).table("燈塔", []).size
    assert not Voices(TEXTS).table("燈塔", ["", "……"]).any()


def test_a_thousand_paragraphs_are_cut_in_time():
    generator = np.random.default_rng(0)
    texts = ["".join(map(chr, generator.zipf(1.3, 450) % 4000 + 0x4E00)) for _ in range(1000)]
    done = []
    began = time.process_time()
    made = Voices(texts, progress=done.append)
    built = time.process_time()
    for text in texts[:50]:
        made.table(text[:20], texts[:4])
    assert built - began < 5  # about 1
    assert (time.process_time() - built) / 50 < 0.03  # about 0.002
    assert sum(done) == 1000


# --- the fit


def synthetic(weights, count, seed=0):
    """Tables whose right candidates are drawn with the odds that the weights give them."""
    generator = np.random.default_rng(seed)
    tables = [generator.normal(size=(int(generator.integers(2, 7)), len(weights))) for _ in range(count)]
    right = []
    for rows in tables:
        odds = np.exp(rows @ weights)
        right.append(int(generator.choice(len(rows), p=odds / odds.sum())))
    return tables, right


def test_fit_finds_the_weights_that_the_choices_were_made_with():
    weights = np.array([1.5, -0.7, 0.0, 3.0])
    tables, right = synthetic(weights, 6000)
    assert fit(tables, right, [1.0] * len(tables), ridge=1e-6) == pytest.approx(weights, abs=0.15)


def test_fit_is_where_the_slope_of_its_loss_is_nothing():
    tables, right = synthetic(np.array([1.0, 2.0]), 50)
    importance = np.linspace(0.5, 2, 50)
    centred = np.concatenate([rows - rows.mean(0) for rows in tables])
    spread = np.sqrt((centred**2).mean(0))

    def loss(weights):
        total = 3.0 * ((weights * spread) ** 2).sum() / 2
        for rows, place, often in zip(tables, right, importance, strict=True):
            logits = rows @ weights
            total -= often * (logits[place] - np.log(np.exp(logits).sum()))
        return total

    found = fit(tables, right, importance)
    for direction in np.eye(2):
        slope = (loss(found + 1e-5 * direction) - loss(found - 1e-5 * direction)) / 2e-5
        assert slope == pytest.approx(0, abs=1e-4)


def test_fit_weighs_rows_by_their_importance():
    tables, right = synthetic(np.array([1.0, 2.0]), 60)
    doubled = fit(tables + tables, right + right, [1.0] * 120)
    assert fit(tables, right, [2.0] * 60) == pytest.approx(doubled)


def test_fit_stays_finite_where_one_voice_tells_all_and_another_nothing():
    tables = [np.array([[1000.0, 5.0], [0.0, 5.0], [0.0, 5.0]])] * 40
    found = fit(tables, [0] * 40, [1.0] * 40)
    assert np.isfinite(found).all()
    assert found[0] > 0 == pytest.approx(found[1])


# --- the file


WEIGHTS = Weights(tuple(float(place) for place in range(len(VOICES))), 0.5)


def test_weights_come_back(tmp_path):
    assert Weights.load(tmp_path) is None
    WEIGHTS.save(tmp_path, {"count": 3})
    assert Weights.load(tmp_path) == WEIGHTS
    kept = json.loads((tmp_path / "voices.json").read_text("utf-8"))
    assert kept["about"] == {"count": 3}
    (tmp_path / "voices.json").write_text(
        json.dumps(kept | {"voices": dict(reversed(kept["voices"].items()))}), "utf-8"
    )
    assert Weights.load(tmp_path) == WEIGHTS  # by name, not by place


NAMED = dict.fromkeys(VOICES, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '{"voices": {"units": 1}, "selector": 1}',
        json.dumps({"voices": NAMED}),
        json.dumps({"voices": list(VOICES), "selector": 1}),
        json.dumps({"voices": NAMED | {"more": 1.0}, "selector": 1}),
        json.dumps({"voices": NAMED | {"units": math.nan}, "selector": 1}),
        json.dumps({"voices": NAMED | {"units": None}, "selector": 1}),
        json.dumps({"voices": NAMED, "selector": math.inf}),
        json.dumps({"voices": NAMED, "selector": -1}),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path, text):
    (tmp_path / "voices.json").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"voices\.json cannot be read") as caught:
        Weights.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "voices.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"voices\.json cannot be read"):
        Weights.load(tmp_path)


def test_scores_are_the_weighted_sum_for_the_candidates_in_their_order():
    contexts = [Context(text, str(place)) for place, text in enumerate(TEXTS)]
    example = QAExample("q", "燈塔的守塔人是誰？", (contexts[2], contexts[0]))
    expected = Voices(TEXTS).table(example.question, [TEXTS[2], TEXTS[0]]) @ np.array(WEIGHTS.voices)
    assert voices_of(contexts, WEIGHTS)(example) == pytest.approx(expected.tolist())


# --- those of the package


def test_the_packaged_weights_are_there_and_say_where_they_are_from():
    weights = Weights.load(starter("select"))
    assert weights is not None
    about = json.loads((starter("select") / voices.VOICES_FILE).read_text("utf-8"))["about"]
    assert {"fitted_on", "date", "zhaiju", "folds", "selector_fitted_on"} <= set(about)


@pytest.mark.slow
def test_the_packaged_weights_reach_the_recorded_figure(shared):
    contexts = load_contexts(shared / "course" / "context.json")
    public = list(read_qa(shared / "course" / "public.json", contexts=contexts))
    scores = voices_of(contexts, Weights.load(starter("select")))
    right = [int(np.argmax(scores(example))) == example.relevant for example in public]
    figures = json.loads((starter("select").parent / "figures.json").read_text("utf-8"))
    assert np.mean(right) == pytest.approx(figures["voices"]["accuracy"], abs=1.5 / len(public))


# --- the command: answer


@pytest.fixture
def copied(tmp_path):
    """The starter's two directories, copied, and a few questions beside the sample's paragraphs."""
    for task in ("read", "select"):
        shutil.copytree(starter(task), tmp_path / task)
    shutil.copy(SAMPLE / "context.json", tmp_path / "context.json")
    rows = json.loads((SAMPLE / "held_out.json").read_text("utf-8"))[:6]
    (tmp_path / "q.json").write_text(json.dumps(rows), "utf-8")
    return tmp_path


def answered(run, folder, *more):
    code, out, err = run(
        "answer", folder / "context.json", folder / "q.json", "--selector", folder / "select",
        "--reader", folder / "read", "-o", folder / "o.jsonl", "--json", *more,
    )  # fmt: skip
    assert code == 0, err
    rows = [json.loads(line) for line in (folder / "o.jsonl").read_text("utf-8").splitlines()]
    return json.loads(out), rows


def examples(folder):
    contexts = load_contexts(folder / "context.json")
    return contexts, list(read_qa(folder / "q.json", contexts=contexts))


def test_answer_weighs_the_voices_as_they_were_fitted(run, copied):
    report, rows = answered(run, copied)
    contexts, questions = examples(copied)
    joint = load_joint(str(starter("read")), str(starter("select")), voices=True)
    made = make_asker(load_exported(starter("read")), load_exported(starter("select")), joint, None).answerer
    made.lexical = voices_of(contexts, Weights.load(starter("select")))
    expected = list(made.predict(questions))
    assert (report["k"], report["weight"]) == (joint.k, joint.weight)
    assert [(row["answer"], row["source"]) for row in rows] == [(one.answer, one.source) for one in expected]
    assert (joint.lexical, joint.selector) == (1.0, Weights.load(starter("select")).selector)


def test_answer_with_a_fit_from_before_voices_weighs_bm25(run, copied, monkeypatch):
    entries = json.loads((copied / "read" / "answer.json").read_text("utf-8"))
    before = {pair: {name: entry[name] for name in ("weight", "lexical")} | {"k": 2} for pair, entry in entries.items()}
    (copied / "read" / "answer.json").write_text(json.dumps(before), "utf-8")
    monkeypatch.setattr(voices, "voices_of", None)
    assert answered(run, copied)[0]["k"] == 2


def test_the_selector_alone_decides_in_the_pipeline(run, copied, monkeypatch):
    monkeypatch.setattr(voices, "voices_of", None)
    _, questions = examples(copied)
    checkpoint = load_exported(copied / "select")
    chosen = list(make_engine(checkpoint).predict(checkpoint.task("select"), questions))
    assert [row["source"] for row in answered(run, copied, "--pipeline")[1]] == [one.source for one in chosen]


def test_a_prefilter_goes_by_the_voices(run, copied):
    contexts, questions = examples(copied)
    scores = voices_of(contexts, Weights.load(starter("select")))
    best = [str(one.contexts[int(np.argmax(scores(one)))].source) for one in questions]
    report, rows = answered(run, copied, "--prefilter", 1)
    assert [row["source"] for row in rows] == best
    assert report["selector_scored"] < 0.5


def test_a_fit_keeps_the_selectors_weight_and_both_kinds(run, copied):
    before = load_joint(str(copied / "read"), str(copied / "select"))
    answered(run, copied, "--fit", copied / "q.json")
    assert load_joint(str(copied / "read"), str(copied / "select")) == before
    fitted = load_joint(str(copied / "read"), str(copied / "select"), voices=True)
    assert (fitted.lexical, fitted.selector) == (1.0, Weights.load(starter("select")).selector)


def test_damaged_weights_are_one_line_of_the_command(run, copied):
    (copied / "select" / "voices.json").write_text("{", "utf-8")
    code, _, err = run(
        "answer", copied / "context.json", copied / "q.json", "--selector", copied / "select",
        "--reader", copied / "read", "-o", copied / "o.json",
    )  # fmt: skip
    assert code == 2
    assert "voices.json cannot be read" in err.strip().splitlines()[-1]
    assert "Traceback" not in err
