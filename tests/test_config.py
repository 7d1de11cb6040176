from dataclasses import fields, replace
from pathlib import Path

import pytest

from zhaiju.config import TrainSettings, differences, load_settings
from zhaiju.errors import ConfigError
from zhaiju.training.recipe import load_recipe

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


def test_every_shipped_config_loads():
    assert len(CONFIGS) == 8
    for path in CONFIGS:
        assert load_settings(path, {"encoder": "named/by-flag"} if "minilm" in path.name else {}).lr > 0


def test_every_setting_has_a_doc():
    assert all(entry.metadata["doc"].endswith(".") for entry in fields(TrainSettings))


def test_settings_survive_their_own_file(tmp_path):
    settings = TrainSettings(scratch=True, max_answer_chars=0, dropout=0.0, patience=2)
    (tmp_path / "config.toml").write_text(settings.to_toml(), "utf-8")
    assert load_settings(tmp_path / "config.toml", {}) == settings


def test_flags_override_the_file_and_an_explicit_zero_is_a_value(tmp_path):
    (tmp_path / "c.toml").write_text("scratch = true\nwarmup = 0.5\nclip = 2\n", "utf-8")
    settings = load_settings(tmp_path / "c.toml", {"warmup": 0.0, "clip": None})
    assert settings.warmup == 0.0
    assert settings.clip == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scratch = true\nlearning_rate = 1e-5", "unknown setting 'learning_rate'"),
        ("scratch = true\nwindwo = 128", "did you mean window?"),
        ('scratch = true\nlr = "fast"', "setting lr is 'fast', expected float"),
        ("scratch = true\nepochs = true", "setting epochs is True, expected int"),
        ("scratch = true\nlr = nan", "setting lr is not a number"),
        (f"scratch = true\nlr = {'9' * 400}", "setting lr has 400 digits"),
        ("scratch = true\nlr = 0", "nothing would be learnt"),
        ("scratch = true\ndropout = 1.5", "expected 0 to 0.9"),
        ('scratch = true\nprecision = "fp8"', "one of fp32, bf16"),
        ("lr = 1e-5", "no encoder"),
        ("scratch = ", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(tmp_path, text, message):
    path = tmp_path / "c.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(path, {})
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load_settings(tmp_path / "nowhere.toml", {})


def test_differences_name_old_and_new():
    settings = TrainSettings(scratch=True)
    assert differences(settings, replace(settings, seed=7)) == ["seed: 0 -> 7"]


def test_what_decides_nothing_is_no_difference():
    settings = TrainSettings(scratch=True)
    assert differences(settings, replace(settings, activation_checkpointing=True)) == []


@pytest.mark.parametrize("name", ["seed", "threads", "max_answer_chars"])
def test_numbers_that_torch_or_numpy_cannot_hold_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is {1 << 70}, expected 0 to"):
        TrainSettings(scratch=True, **{name: 1 << 70})


@pytest.mark.parametrize(
    ("part", "encoder"), [("select", "first"), ("read", "first"), ("intent", "english"), ("slots", "english")]
)
def test_the_recipe_of_the_course_report_is_that_of_its_configs(part, encoder):
    path = Path(__file__).parents[1] / "configs" / f"{part}-report.toml"
    assert load_recipe("report").settings(part, encoder) == load_settings(path, {})


@pytest.mark.parametrize("part", ["intent", "slots"])
def test_the_recipe_for_two_cores_is_that_of_its_configs(part):
    path = Path(__file__).parents[1] / "configs" / f"{part}-minilm.toml"
    chosen = load_recipe("cpu").with_encoders(english="minilm").settings(part, "english")
    assert replace(chosen, eval_train=0) == load_settings(path, {"encoder": "minilm"})


def test_random_embeddings_are_not_frozen():
    with pytest.raises(ConfigError, match="random embeddings would stay random"):
        TrainSettings(scratch=True, freeze_embeddings=True)
