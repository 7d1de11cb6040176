"""The fit of the lexical features' weights: scripts/starter/ranking.py."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts" / "starter"


def script(name):
    spec = importlib.util.spec_from_file_location(f"starter_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ranking, rarity = script("ranking"), script("rarity")
fit = ranking.fit


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


def test_fit_stays_finite_where_one_feature_tells_all_and_another_nothing():
    tables = [np.array([[1000.0, 5.0], [0.0, 5.0], [0.0, 5.0]])] * 40
    found = fit(tables, [0] * 40, [1.0] * 40)
    assert np.isfinite(found).all()
    assert found[0] > 0 == pytest.approx(found[1])


# --- what is counted and fitted on


def test_paragraphs_are_cut_to_a_length_and_nothing_is_lost():
    lines = ["甲" * 200, "乙" * 200, "丙" * 200, "\n", "丁" * 30, "\n", "戊" * 2000]
    found = list(rarity.paragraphs(lines))
    assert "".join(found).replace("\n", "") == "".join(lines).replace("\n", "")
    assert all(len(one) <= 1.5 * rarity.LENGTH for one in found)
    assert "丁" * 30 in [one.strip() for one in found]


def test_a_term_is_as_common_as_in_the_language_where_it_is_commoner():
    chinese, english = ["橋在山上。", "橋與河。", "the 橋", "山"], ["the bridge", "the river"]
    counted = {
        "a": (*rarity.count(chinese), 4),
        "b": (*rarity.count(chinese[:2]), 2),
        rarity.ENGLISH: (*rarity.count(english), 2),
    }
    made = rarity.make(counted)
    found = {unit: made.of("unit", rarity.cut(unit).terms["unit"].hashes)[0] for unit in ("桥", "the", "bridge", "鱼")}
    assert found["the"] == 0
    assert found["桥"] == pytest.approx(-np.log((0.75 + 1) / 2), abs=rarity.STEP / 2)
    assert found["bridge"] == pytest.approx(-np.log(0.5), abs=rarity.STEP / 2)
    assert found["鱼"] == rarity.HIGHEST


@pytest.mark.slow
def test_no_public_paragraph_is_counted_or_fitted_on(shared):
    contexts = json.loads((shared / "course" / "context.json").read_text("utf-8"))
    public = json.loads((shared / "course" / "public.json").read_text("utf-8"))
    hidden = {contexts[row["relevant"]] for row in public}
    taught, held = ranking.questions(shared)
    for examples in (*taught.values(), *held.values()):
        assert not any(context.text in hidden for one in examples for context in one.contexts)
        assert not {one.question for one in examples} & {row["question"] for row in public}
    assert not {one.question for one in held["nearest"]} & {one.question for one in taught["nearest"]}
    about = json.loads((SCRIPTS.parents[1] / "src/zhaiju/starter/ranking.json").read_text("utf-8"))["about"]
    assert about["fitted_on"] == {kind: len(examples) for kind, examples in taught.items()}
    counted = "".join(rarity.texts(shared)["asked about"])
    assert not any(text in counted for text in hidden)
