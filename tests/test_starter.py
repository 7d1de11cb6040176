"""How the packaged models are made: what a fold's selector may know, and the weight that is fitted on what it says."""

import json
import os
import shutil
from dataclasses import replace
from importlib.resources import files as resources

import numpy as np
import pytest

from zhaiju.corpus.ask import make_asker
from zhaiju.corpus.voices import voices_of
from zhaiju.data.formats import load_contexts, read_qa
from zhaiju.errors import ConfigError
from zhaiju.inference.answer import load_joint
from zhaiju.modeling.checkpoint import load_exported
from zhaiju.starter import make
from zhaiju.starter.data import FOLDS, is_of_fold, prepare, prepare_fold, variants
from zhaiju.starter.make import SELECTOR, Row, fold_questions, gap, likeliest, taught_voices, train_fold
from zhaiju.tasks.metrics import course
from zhaiju.training import run as training

STARTER = resources("zhaiju.starter")
ARTICLES = 40
PARAGRAPHS = 3  # of an article; the third answers nothing


def course_row(name, question, paragraphs, relevant, answer):
    return {
        "id": name,
        "question": question,
        "paragraphs": paragraphs,
        "relevant": relevant,
        "answers": [{"text": answer, "start": 0}],
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What `prepare` might write: paragraphs of articles, two questions each, wrong candidates of any article."""
    folder = tmp_path_factory.mktemp("prepared")
    generator = np.random.default_rng(0)
    texts, titles = [], []
    for article in range(ARTICLES):
        for place in range(PARAGRAPHS):
            texts.append(f"{chr(0x4E00 + len(texts))}是第{article}條河的第{place}座橋。")  # a character of its own
            titles.append(f"河{article}")
    texts += [f"{chr(0x6E00 + place)}是山。" for place in range(20)]
    titles += [None] * 20
    rows = {"train": [], "dev": []}
    for article in range(ARTICLES):
        for place in range(2):
            right = article * PARAGRAPHS + place
            wrong = generator.choice([one for one in range(ARTICLES * PARAGRAPHS) if one != right], 4, replace=False)
            row = course_row(
                f"d{right}", f"第{article}條河的第{place}座橋是？", [right, *wrong.tolist()], right, texts[right][:2]
            )
            rows["dev" if article < 4 else "train"].append(row)
    for place in range(20):
        right = ARTICLES * PARAGRAPHS + place
        other = ARTICLES * PARAGRAPHS + (place + 1) % 20
        rows["train"].append(course_row(f"c{place}", f"{texts[right][0]}是？", [right, other], right, texts[right][0]))
    for name, values in ({"context": texts, "articles": titles} | rows).items():
        (folder / f"{name}.json").write_text(json.dumps(values), "utf-8")
    return folder


def kept(folder):
    """A prepared folder as texts: paragraphs, and for train and dev each row's id, question, candidates, right one."""
    texts = json.loads((folder / "context.json").read_text("utf-8"))
    rows = {
        name: {
            row["id"]: (row["question"], [texts[place] for place in row["paragraphs"]], texts[row["relevant"]])
            for row in json.loads((folder / f"{name}.json").read_text("utf-8"))
        }
        for name in ("train", "dev")
    }
    return texts, rows


def check_folds(prepared, folder):
    """That the folds part the training questions of DRCD, and that a fold is nowhere in what is left of the data."""
    texts, rows = kept(prepared)
    titles = dict(zip(texts, json.loads((prepared / "articles.json").read_text("utf-8")), strict=True))
    seen = {}
    for fold in range(FOLDS):
        counts = prepare_fold(prepared, folder / str(fold), fold)
        left, taught = kept(folder / str(fold))
        asked = fold_questions(prepared, fold)
        ids = {one.id for one in asked["nearest"]}
        hidden = {rows["train"][name][2] for name in ids}
        assert ids
        assert counts == {
            "paragraphs": len(left),
            "train": len(rows["train"]) - len(ids),
            "dev": len(rows["dev"]),
            "kept_out": len(hidden),
        }
        # Nothing of the fold is there …
        everything = (folder / str(fold) / "train.json").read_text("utf-8") + "".join(left)
        assert not hidden & set(left)
        assert not any(text in everything for text in hidden)
        assert not ids & set(taught["train"])
        assert taught["dev"].keys() == rows["dev"].keys()
        # … and all else is, as it was.
        for name in ("train", "dev"):
            for row, (question, candidates, right) in taught[name].items():
                before = rows[name][row]
                assert (question, right) == (before[0], before[2])
                assert candidates == [text for text in before[1] if text not in hidden]
        assert json.loads((folder / str(fold) / "articles.json").read_text("utf-8")) == [titles[text] for text in left]
        for kind, examples in asked.items():
            assert {one.id for one in examples} <= ids, kind
            assert all(titles[one.context.text] is not None for one in examples)
        for article in {titles[text] for text in hidden}:
            assert seen.setdefault(article, fold) == fold
        assert {titles[rows["train"][name][2]] for name in ids}.isdisjoint(
            titles[right] for _, _, right in taught["train"].values()
        )
    drcd = {titles[right] for _, _, right in rows["train"].values()} - {None}
    assert set(seen) == drcd


def test_a_fold_is_nowhere_in_the_data_that_its_selector_has(prepared, tmp_path):
    check_folds(prepared, tmp_path)


@pytest.mark.slow
def test_a_fold_of_the_real_data_is_nowhere_in_what_is_left(shared, tmp_path):
    counts = prepare(shared, tmp_path / "data")
    fitted = json.loads((STARTER / "fitted.json").read_text("utf-8"))
    assert {name: fitted[name] for name in counts} == counts
    for name, about in fitted["prepared"].items():
        assert len(json.loads((tmp_path / "data" / f"{name}.json").read_text("utf-8"))) == about["rows"]
    check_folds(tmp_path / "data", tmp_path / "folds")
    asked = [fold_questions(tmp_path / "data", fold) for fold in fitted["voices"]["folds"]]
    assert fitted["voices"]["selector_fitted_on"] == {
        kind: sum(len(one[kind]) for one in asked) for kind in ("given", "nearest", "same article")
    }


def test_folds_are_of_all_articles_but_those_held_out():
    titles = [f"篇{number}" for number in range(2000)]
    folds = [[title for title in titles if is_of_fold(title, fold)] for fold in range(FOLDS)]
    assert sorted(title for fold in folds for title in fold) == sorted(titles)
    assert all(300 < len(fold) < 500 for fold in folds)
    assert not any(is_of_fold(None, fold) for fold in range(FOLDS))


def test_voices_are_taught_without_the_fold(prepared, tmp_path):
    prepare_fold(prepared, tmp_path, 1)
    weights, counts = taught_voices(tmp_path)
    assert counts == {kind: len(examples) for kind, examples in variants(tmp_path, "train").items()}
    assert np.isfinite(weights).all()
    assert not np.allclose(weights, taught_voices(prepared)[0])


# --- the weight


def drawn(weight, count, kind="given", seed=0):
    """Questions whose right candidate is drawn with the odds of the voices and so much of the selector."""
    generator = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        voices, selector = generator.normal(size=(2, 5)) * 2
        odds = np.exp(voices + weight * selector)
        rows.append(Row(kind, f"{place // 4}", voices, selector, int(generator.choice(5, p=odds / odds.sum()))))
    return rows


@pytest.mark.parametrize("weight", [0.0, 0.15, 0.4, 0.75, 1.5])
def test_the_weight_that_the_choices_were_made_with_is_found(weight):
    found, losses = likeliest(drawn(weight, 6000))
    assert found == pytest.approx(weight, abs=0.051)
    assert losses.shape == (len(SELECTOR), 6000)
    assert losses.sum(1).argmin() == SELECTOR.index(found)


def test_a_selector_that_knows_the_right_one_by_heart_gets_the_most_and_a_random_one_nothing():
    rows = drawn(0.0, 2000)
    assert likeliest(rows)[0] == 0
    cheat = [replace(row, selector=np.eye(5)[row.right] * 5) for row in rows]
    assert likeliest(cheat)[0] == SELECTOR[-1]


def test_kinds_count_by_their_importance():
    rows = drawn(0.3, 50) + drawn(0.3, 50, "CMRC 2018", seed=1)
    _, losses = likeliest(rows)
    _, alone = likeliest([replace(row, kind="given") for row in rows])
    assert losses[:, :50] == pytest.approx(alone[:, :50])
    assert losses[:, 50:] == pytest.approx(make.IMPORTANCE["CMRC 2018"] * alone[:, 50:])


def test_the_error_of_a_gap_takes_an_article_as_one_observation():
    generator = np.random.default_rng(0)
    own, shared = generator.normal(size=4000), generator.normal(size=1000).repeat(4)
    articles = [f"{place // 4}" for place in range(4000)]
    assert gap(own + 0.5, np.zeros(4000), articles)["gap"] == pytest.approx(own.mean() + 0.5)
    assert gap(own, np.zeros(4000), articles)["error"] == pytest.approx(1 / np.sqrt(4000), rel=0.1)
    assert gap(shared, np.zeros(4000), articles)["error"] == pytest.approx(1 / np.sqrt(1000), rel=0.1)
    assert gap(own, own, articles) == {"gap": 0, "error": 0}


# --- the part of the recipe

CONFIG = """
scratch = true
architecture = "roformer"
layers = 1
hidden = 16
heads = 2
intermediate = 32
vocabulary = "characters"
vocabulary_size = 300
lr = 1e-2
batch_tokens = 256
eval_every = 2
save_every = 2
average = 0.5
threads = 1
"""


@pytest.fixture
def recipe(prepared, tmp_path):
    """The packaged models' record with a short schedule, a configuration, and a work folder."""
    output, work = tmp_path / "output", tmp_path / "work"
    output.mkdir()
    work.mkdir()
    os.symlink(prepared, work / "data")
    config = tmp_path / "select.toml"
    config.write_text(CONFIG, "utf-8")
    schedule(output, 40, 3)
    return output, config, work


def schedule(output, steps, step):
    fitted = {"runs": {"select": {"steps": steps, "best_step": step}}}
    (output / "fitted.json").write_text(json.dumps(fitted), "utf-8")


@pytest.mark.slow
def test_a_folds_selector_takes_the_schedule_of_the_packaged_one_and_stops_at_its_best_step(
    recipe, prepared, capsys, monkeypatch
):
    train_fold(2, *recipe)
    output, _, work = recipe
    folder = work / "folds" / "2"
    events = list(training.read_metrics(folder / "select"))
    assert [entry["step"] for entry in events] == [1, 2, 3]  # and no evaluation: nothing is chosen by one
    warm = 0.1 * 40  # steps of the whole schedule over which the rate rises
    assert [entry["lr"] for entry in events] == pytest.approx([1e-2 * step / warm for step in (1, 2, 3)])
    made = json.loads((folder / "logits.json").read_text("utf-8"))
    asked = fold_questions(prepared, 2)
    assert {kind: list(rows) for kind, rows in made["logits"].items()} == {
        kind: [one.id for one in examples] for kind, examples in asked.items()
    }
    for kind, examples in asked.items():
        assert [len(made["logits"][kind][one.id]) for one in examples] == [len(one.contexts) for one in examples]
    packaged = load_exported(folder / "packaged")
    assert (packaged.encoding.window, packaged.encoding.overlap) == make.WINDOWS["select"]
    vocabulary = json.loads((folder / "packaged" / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    assert not {one.context.text[0] for one in asked["given"]} & set(vocabulary)
    assert len({text[0] for text in kept(folder / "data")[0]} & set(vocabulary)) > ARTICLES

    # Done once, it is not done again; one that was made otherwise is refused.
    with monkeypatch.context() as patched:
        patched.setattr(make, "train", None)
        train_fold(2, *recipe)
        assert "fold 2: done already" in capsys.readouterr().err
        schedule(output, 40, 4)
        with pytest.raises(ConfigError, match=r"folds/2 holds a selector made as .*'step': 3.*'step': 4.*remove"):
            train_fold(2, *recipe)
    # Cut short after the training, it goes on from there and says the same.
    schedule(output, 40, 3)
    (folder / "logits.json").unlink()
    train_fold(2, *recipe)
    again = json.loads((folder / "logits.json").read_text("utf-8"))
    assert again["logits"] == made["logits"]
    assert [entry["step"] for entry in training.read_metrics(folder / "select")] == [1, 2, 3]


def test_weighing_without_the_folds_says_what_is_missing(recipe):
    output, _, work = recipe
    for task in ("read", "select"):
        os.symlink(STARTER / task, output / task)
    for fold in make.TRAINED:
        prepare_fold(work / "data", work / "folds" / str(fold) / "data", fold)
    with pytest.raises(ConfigError, match=r"folds/0/logits\.json is not there; `train_starter folds` makes it"):
        make.fit_voices(output, work)


# --- the record


@pytest.mark.slow
def test_the_report_tells_what_answer_would_choose(tmp_path):
    shutil.copy(STARTER / "sample" / "context.json", tmp_path)
    rows = json.loads((STARTER / "sample" / "held_out.json").read_text("utf-8"))[:12]
    (tmp_path / "public.json").write_text(json.dumps(rows), "utf-8")
    figures = make.report(STARTER, tmp_path)
    contexts = load_contexts(tmp_path / "context.json")
    public = list(read_qa(tmp_path / "public.json", contexts=contexts))
    joint = load_joint(str(STARTER / "read"), str(STARTER / "select"), voices=True)
    answerer = make_asker(load_exported(STARTER / "read"), load_exported(STARTER / "select"), joint, None).answerer
    answerer.lexical = voices_of(contexts, make.Weights.load(STARTER / "select"))
    chosen = [one.index for one in answerer.select(public, joint)]
    assert figures["questions"] == 12
    assert figures["mix"]["accuracy"] == np.mean(np.equal(chosen, [one.relevant for one in public]))
    scores = [course(one.answer, asked.gold) for one, asked in zip(answerer.predict(public), public, strict=True)]
    assert [figures["answer"]["em"], figures["answer"]["f1"]] == pytest.approx(np.mean(scores, 0))


def test_the_card_is_what_the_record_makes_of_it():
    assert (STARTER / "README.md").read_text("utf-8") == make.card(STARTER)


def test_the_package_holds_the_weight_that_the_record_tells_of():
    fitted = json.loads((STARTER / "fitted.json").read_text("utf-8"))["voices"]
    weights = make.Weights.load(STARTER / "select")
    best = min(fitted["losses"], key=fitted["losses"].get)
    assert weights.selector == float(best) == fitted["joint"]["selector"]
    assert fitted["folds"] == list(make.TRAINED)
    assert [float(weight) for weight in fitted["losses"]] == pytest.approx(SELECTOR)
