"""What a checkpoint's directory may hold, and what happens when it does not."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zhaiju
from checkpoints import CHECKPOINTS, LABELS, POSITIONS, bert, bert_config, roberta_wwm, save, word_pieces
from zhaiju.config import TrainSettings
from zhaiju.data.examples import Context, QAExample, Span
from zhaiju.data.formats import ReadLog
from zhaiju.errors import CheckpointError, ConfigError
from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, load, read_meta, resolve, save_calibration
from zhaiju.modeling.checkpoint import save as save_checkpoint
from zhaiju.tasks import TASKS
from zhaiju.training.run import TrainData, train

WINDOW = 64


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An encoder without an output layer."""
    folder = tmp_path_factory.mktemp("bare")
    bert(folder)
    return folder


@pytest.fixture(scope="module")
def trained(bare, tmp_path_factory):
    """A checkpoint of ours for each task."""
    folder = tmp_path_factory.mktemp("trained")
    for task in TASKS:
        labels = LABELS[task] or None
        loaded = load(bare, task, head_required=False, window=WINDOW, overlap=12, script="simplified", labels=labels)
        (folder / task).mkdir()
        save_checkpoint(folder / task, loaded.network, loaded.encoding, Meta(task=task, search={"max_answer_chars": 9}))
    return folder


@pytest.fixture
def copy(bare, tmp_path):
    """A copy of `bare` that may be broken."""
    shutil.copytree(bare, tmp_path / "copy")
    return tmp_path / "copy"


def _start(where, task="read", **settings):
    """Load as a training does."""
    return load(where, task, **{"head_required": False, "window": WINDOW} | settings)


def _refused(where, *words, task="read", error=CheckpointError, **settings):
    with pytest.raises(error) as raised:
        _start(where, task, **settings)
    message = str(raised.value)
    assert "\n" not in message
    assert "\x1b" not in message
    for word in words:
        assert word in message
    return message


def _change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")


def _rewrite(where, change):
    """Replace the weights by `change(weights)`."""
    file = where / "model.safetensors"
    save_file({name: value.contiguous() for name, value in change(load_file(file)).items()}, file, {"format": "pt"})


# What is written.


@pytest.mark.parametrize("task", TASKS)
def test_weights_are_written_as_safetensors_and_nothing_as_a_pickle(trained, task):
    names = {file.name for file in (trained / task).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "zhaiju.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".h5", ".py"))]


@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_remembers_its_task_and_settings(trained, task):
    loaded = load(trained / task)
    assert loaded.meta == Meta(task, WINDOW, 12, "simplified", "pieces", {"max_answer_chars": 9})
    assert (loaded.encoding.window, loaded.encoding.overlap, loaded.encoding.script) == (WINDOW, 12, "simplified")


def test_what_is_asked_for_goes_before_what_was_saved(trained):
    loaded = load(trained / "read", window=32, overlap=0, script="as-is")
    assert (loaded.encoding.window, loaded.encoding.overlap, loaded.encoding.script) == (32, 0, "as-is")
    assert loaded.task("read").max_answer_chars == 9
    assert loaded.task("read", max_answer_chars=0).max_answer_chars == 0


def test_a_checkpoint_of_ours_loads_without_us(trained):
    import transformers

    kinds = {
        "select": "BertForMultipleChoice",
        "read": "BertForQuestionAnswering",
        "intent": "BertForSequenceClassification",
        "slots": "BertForTokenClassification",
    }
    assert kinds.keys() == TASKS.keys()
    for task, kind in kinds.items():
        assert json.loads((trained / task / "config.json").read_text("utf-8"))["architectures"] == [kind]
        model, report = getattr(transformers, kind).from_pretrained(trained / task, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        ours = load(trained / task).network.model.state_dict()
        assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("task", ["intent", "slots"])
def test_classes_keep_their_names_and_their_order_with_us_and_without_us(trained, task):
    import transformers

    names = transformers.AutoConfig.from_pretrained(trained / task).id2label
    assert tuple(names[index] for index in range(len(names))) == LABELS[task]
    loaded = load(trained / task)
    assert loaded.labels == LABELS[task]
    assert loaded.task(task).labels == LABELS[task]


def test_more_than_ten_classes_and_strange_names_keep_their_order(bare, tmp_path):
    labels = [f"class {number} 類\n" for number in range(25, 0, -1)]
    loaded = load(bare, "intent", head_required=False, window=WINDOW, labels=labels)
    save_checkpoint(tmp_path, loaded.network, loaded.encoding, Meta(task="intent"))
    assert load(tmp_path).labels == tuple(labels)


def test_a_calibration_is_kept_used_and_replaced_and_nothing_else_changes(trained, tmp_path):
    shutil.copytree(trained / "read", tmp_path / "read")
    for temperature in (2.5, 0.5):
        file = save_calibration(tmp_path / "read", {"temperature": temperature, "threshold": 0.75})
        assert file == tmp_path / "read" / "zhaiju.json"
        loaded = load(tmp_path / "read")
        assert (loaded.meta.temperature, loaded.task("read").temperature) == (temperature, temperature)
        assert loaded.task("read", temperature=1.0).temperature == 1.0
        assert loaded.task("read").max_answer_chars == 9
        assert loaded.meta.calibration["threshold"] == 0.75
    assert load(trained / "read").task("read").temperature == 1.0
    save_checkpoint(tmp_path / "read", loaded.network, loaded.encoding, loaded.meta)
    assert load(tmp_path / "read").meta == loaded.meta


def test_a_foreign_checkpoint_directory_can_be_calibrated_and_a_hub_id_cannot(copy, monkeypatch, tmp_path):
    assert not (copy / "zhaiju.json").exists()
    save_calibration(copy, {"temperature": 1.5})
    assert read_meta(str(copy)).temperature == 1.5
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="we/ours is not a directory"):
        save_calibration("we/ours", {"temperature": 1.5})


def test_loading_leaves_the_settings_of_transformers_alone(bare):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    _start(bare)
    _refused(bare, window=POSITIONS + 1, error=ConfigError)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# Code in a checkpoint is never run.


class _Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["torch", "torch before 1.6", "pickle", "pickle protocol 2"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, how):
    roberta_wwm(tmp_path / "hub")
    marker = tmp_path / "marker"
    file = tmp_path / "hub" / "pytorch_model.bin"
    weights = torch.load(file, weights_only=True) | {"bert.pooler.dense.bias": _Trap(marker)}
    if how.startswith("torch"):
        torch.save(weights, file, _use_new_zipfile_serialization=how == "torch")
    else:
        file.write_bytes(pickle.dumps(weights, protocol=2 if how.endswith("2") else 4))
    _refused(tmp_path / "hub", "hub", "pytorch_model.bin", "more than tensors")
    assert not marker.exists()
    assert file.exists()
    pickle.loads(pickle.dumps(_Trap(marker)))
    assert marker.exists()  # so it was a trap


@pytest.mark.parametrize("content", [b"", b"no pickle at all" * 20, b"\x80\x02}q\x00."], ids=["empty", "text", "dict"])
def test_a_damaged_pickle_is_refused(tmp_path, content):
    roberta_wwm(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    _refused(tmp_path, str(tmp_path))


def test_a_cut_pickle_is_refused(tmp_path):
    roberta_wwm(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-2000])
    _refused(tmp_path, str(tmp_path))


def test_code_of_an_unknown_architecture_is_refused_and_not_run(copy, tmp_path):
    marker = tmp_path / "marker"
    (copy / "modeling_trap.py").write_text(f"open({str(marker)!r}, 'w')\n", "utf-8")
    classes = {"AutoConfig": "modeling_trap.Config"}
    classes |= {task.head.auto_class: "modeling_trap.Model" for task in TASKS.values()}
    _change(copy / "config.json", model_type="trap", auto_map=classes)
    for task in TASKS:
        _refused(copy, "custom code", task=task)
    assert not marker.exists()


def test_code_beside_a_known_architecture_is_not_run(copy, tmp_path):
    marker = tmp_path / "marker"
    (copy / "modeling_trap.py").write_text(f"open({str(marker)!r}, 'w')\n", "utf-8")
    _change(copy / "config.json", auto_map={"AutoModelForQuestionAnswering": "modeling_trap.Model"})
    _change(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_trap.Slow", "modeling_trap.Fast"]})
    assert type(_start(copy).network.model).__module__.startswith("transformers.")
    assert not marker.exists()


# Something is missing or damaged.


def test_a_directory_without_a_checkpoint_is_refused(tmp_path):
    _refused(tmp_path, str(tmp_path), "no checkpoint", "config.json")


def test_a_file_in_place_of_a_directory_is_refused(bare):
    _refused(bare / "config.json", "is a file")


def test_missing_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    _refused(copy, "model.safetensors", str(copy))


def _cut(whole):
    return whole[: len(whole) // 2]


def _lie(length):
    return lambda whole: length.to_bytes(8, "little") + whole[8:]


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda whole: whole[:100],
        lambda whole: b"",
        lambda whole: b"These are no tensors, only words. " * 30,
        lambda whole: whole[::-1],
        _lie(5),
        _lie(2**40),
        _lie(2**63),
        lambda whole: whole + b"more",
    ],
    ids=[
        "cut",
        "cut early",
        "empty",
        "text",
        "reversed",
        "header short",
        "header long",
        "header vast",
        "longer",
    ],
)
def test_damaged_safetensors_are_refused(copy, damage):
    file = copy / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    _refused(copy, str(copy))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"model_type": "sonnet"}', '{"model_type": null}'])
def test_a_broken_config_is_refused(copy, text):
    (copy / "config.json").write_text(text, "utf-8")
    _refused(copy, str(copy))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_missing_tokenizer_is_refused(tmp_path, name):
    CHECKPOINTS[name](tmp_path)
    for file in ("tokenizer.json", "vocab.txt", "spm.model"):
        (tmp_path / file).unlink(missing_ok=True)
    _refused(tmp_path, str(tmp_path), "tokenizer")


def test_a_damaged_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").write_text('{"version": "1.0", "model": {}}', "utf-8")
    _refused(copy, str(copy))


def test_a_slow_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").write_text("\n".join(word_pieces()), "utf-8")
    _change(copy / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="basic")
    _refused(copy, "BertJapaneseTokenizer is not a fast tokenizer")


def test_a_tokenizer_with_more_tokens_than_the_encoder_knows_is_refused(copy):
    _change(copy / "config.json", vocab_size=50)
    _rewrite(copy, lambda weights: {key: value[:50] if "word_emb" in key else value for key, value in weights.items()})
    _refused(copy, f"{len(word_pieces())} tokens", "50")


@pytest.mark.parametrize("prefix", ["", "model.", "student.encoder."])
def test_weights_under_strange_names_are_refused_rather_than_drawn_at_random(copy, prefix):
    _rewrite(copy, lambda weights: {f"{prefix}x.{name}": value for name, value in weights.items()})
    for task in TASKS:
        _refused(copy, "lacks weights", "embeddings", task=task)


def test_a_single_missing_matrix_is_refused_and_named(copy):
    key = "encoder.layer.1.attention.self.query.weight"
    _rewrite(copy, lambda weights: {name: value for name, value in weights.items() if name != key})
    _refused(copy, "lacks weights", key, "1 in all")


@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (16,), (16, 16, 1)])
def test_weights_of_other_shapes_are_refused_and_named(copy, shape):
    key = "encoder.layer.0.attention.self.query.weight"
    _rewrite(copy, lambda weights: weights | {key: torch.zeros(shape)})
    _refused(copy, key, str(list(shape)), "[16, 16]")


def test_a_config_of_another_size_is_refused(copy):
    _change(copy / "config.json", hidden_size=32)
    _refused(copy, "other shapes", "16", "32")


# Not for this.


@pytest.mark.parametrize("task", TASKS)
def test_an_encoder_without_an_output_layer_must_be_trained_first(bare, task):
    with pytest.raises(CheckpointError, match=r"no trained output layer.*zhaiju train"):
        load(bare, task, window=WINDOW)


@pytest.mark.parametrize(("saved", "wanted"), list(permutations(TASKS, 2)))
def test_a_checkpoint_for_another_task_is_refused_but_may_be_trained_on(trained, saved, wanted):
    with pytest.raises(CheckpointError, match=f"checkpoint for {saved}, expected one for {wanted}"):
        load(trained / saved, wanted)
    loaded = load(trained / saved, wanted, head_required=False, labels=LABELS[wanted] or None)
    assert loaded.labels == (LABELS[wanted] or loaded.labels)
    assert loaded.network.head == TASKS[wanted].head


def test_a_foreign_checkpoint_with_its_output_layer_loads(tmp_path):
    import transformers

    vocabulary = word_pieces()
    tokenizer = transformers.BertTokenizer(vocab={token: index for index, token in enumerate(vocabulary)})
    save(transformers.BertForQuestionAnswering, bert_config(len(vocabulary)), tokenizer, tmp_path)
    assert load(tmp_path, "read").encoding.window == POSITIONS  # less than the usual 384
    prediction = zhaiju.load(str(tmp_path)).read("貓叫什麼名字？", "館員養了一隻橘貓，名字叫書籤。")
    assert prediction.answer in "館員養了一隻橘貓，名字叫書籤。"
    with pytest.raises(CheckpointError, match="no trained output layer"):
        load(tmp_path, "select")


def test_a_checkpoint_that_names_no_task_must_be_given_one(bare):
    with pytest.raises(CheckpointError, match="does not say which task"):
        load(bare)


def test_an_unknown_task_is_refused(bare):
    with pytest.raises(ConfigError, match="'sing' is not one of select, read"):
        load(bare, "sing")
    with pytest.raises(ConfigError, match="'sing'"):
        zhaiju.load(str(bare), task="sing")


@pytest.mark.parametrize("window", [POSITIONS + 1, 384])
def test_a_window_longer_than_the_positions_is_refused_with_both_numbers(bare, window):
    _refused(bare, str(window), str(POSITIONS), window=window, error=ConfigError)


def test_a_window_as_long_as_the_positions_is_taken(bare):
    assert _start(bare, window=POSITIONS).encoding.window == POSITIONS


def test_from_scratch_refuses_a_shape_that_cannot_be():
    shape = Shape(hidden=16, heads=3, positions=64)
    with pytest.raises(ConfigError, match=r"16.*multiple of heads \(3\)"):
        from_scratch("read", ["字"], encoder=None, shape=shape, window=32, overlap=8, script="as-is")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"read"',
        "\udcff",
        '{"task": 5}',
        '{"task": ["read"]}',
        '{"task": "read", "window": "64"}',
        '{"task": "read", "window": 64.5}',
        '{"task": "read", "window": true}',
        '{"task": "read", "overlap": null}',
        '{"task": "read", "script": 1}',
        '{"task": "read", "search": 3}',
        '{"task": "read", "search": {"max_answer_chars": "fifty"}}',
        '{"task": "read", "search": {"max_answer_chars": -1}}',
        '{"task": "read", "calibration": 3}',
        '{"task": "read", "calibration": {"temperature": "warm"}}',
        '{"task": "read", "calibration": {"temperature": null}}',
        '{"task": "read", "calibration": {"temperature": 0}}',
        '{"task": "read", "calibration": {"temperature": NaN}}',
        '{"task": "read", "calibration": {"temperature": Infinity}}',
        '{"task": "read", "calibration": {"temperature": 1' + "0" * 400 + "}}",
        '{"task": "read", "calibration": {"threshold": 1' + "0" * 400 + "}}",
    ],
)
def test_a_zhaiju_json_that_we_did_not_write_is_refused(copy, text):
    (copy / "zhaiju.json").write_text(text, "utf-8", errors="surrogateescape")
    _refused(copy, "zhaiju.json", task=None)
    with pytest.raises(CheckpointError, match=r"zhaiju\.json"):
        zhaiju.load(str(copy))


@pytest.mark.parametrize("values", [{"task": "sing"}, {"window": -3}, {"script": "klingon"}, {"overlap": -1}])
def test_a_zhaiju_json_with_settings_out_of_range_is_refused(copy, values):
    (copy / "zhaiju.json").write_text(json.dumps({"task": "read"} | values), "utf-8")
    with pytest.raises(ConfigError):
        load(copy, head_required=False)


def test_settings_of_later_versions_are_passed_over(copy):
    (copy / "zhaiju.json").write_text('{"task": "read", "window": 48, "mood": "calm"}', "utf-8")
    assert load(copy, head_required=False).encoding.window == 48


# Which checkpoint is meant.


def _checkpoint_at(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", "utf-8")
    return str(folder)


def test_a_run_means_its_best_checkpoint_then_its_last(tmp_path):
    last = _checkpoint_at(tmp_path / "run" / "last")
    assert resolve(tmp_path / "run") == last
    best = _checkpoint_at(tmp_path / "run" / "best")
    assert resolve(tmp_path / "run") == best
    assert resolve(str(tmp_path / "run")) == best
    shutil.rmtree(best)
    Path(best).symlink_to(tmp_path / "nowhere")  # a link whose target is gone
    assert resolve(tmp_path / "run") == last


def test_a_training_leaves_a_run_that_resolves(bare, tmp_path):
    context = "館員養了一隻橘貓，名字叫書籤。"
    contexts = (Context(context, "0"), Context("顯微鏡重七公斤。", "1"))
    examples = [QAExample("q", "貓叫什麼名字？", contexts, 0, (Span("書籤", context.index("書籤")),))]
    settings = TrainSettings(encoder=str(bare), window=WINDOW, max_steps=1, threads=1)
    train("read", settings, TrainData(examples, examples, [], ReadLog()), tmp_path / "run")
    assert Path(resolve(tmp_path / "run")) == tmp_path / "run" / "best"
    assert read_meta(resolve(tmp_path / "run")).task == "read"


@pytest.mark.parametrize("name", ["hfl/chinese-roberta-wwm-ext", "bert-base-chinese", "a/b.c-d_1"])
def test_a_hub_id_is_left_alone(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert resolve(name) == name


def test_a_directory_goes_before_a_hub_id_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _checkpoint_at(tmp_path / "hfl" / "tiny")
    assert Path(resolve("hfl/tiny")) == Path("hfl/tiny")


@pytest.mark.parametrize("name", ["./x", "../x/y", "/no/such", "~/x", "a/b/c", "runs\\x", "", " "])
def test_what_looks_like_a_path_and_is_none_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    _checkpoint_at(tmp_path / "best")  # not to be found by an empty name
    with pytest.raises(CheckpointError):
        resolve(name)


@pytest.mark.parametrize("name", ["x" * 5000, "x\0y", "-x-", "two words"])
def test_what_can_be_neither_path_nor_hub_id_is_refused(name):
    _refused(name)


_HUB = """
import sys, time
sys.path.insert(0, {tests!r})
import pytest
from zhaiju.errors import CheckpointError
from zhaiju.modeling.checkpoint import load

assert load("we/ours").encoding.window == 48  # its zhaiju.json is found too
assert load("we/foreign", "read", head_required=False).meta.task is None
for name in ("we/nothing", "nothing"):
    began = time.perf_counter()
    with pytest.raises(CheckpointError) as raised:
        load(name, "read")
    assert name in str(raised.value) and "\\n" not in str(raised.value)
    assert time.perf_counter() - began < 2
"""


def test_hub_ids_work_offline_where_they_were_downloaded_and_fail_at_once_elsewhere(trained, bare, tmp_path):
    for name, source in (("ours", trained / "read"), ("foreign", bare)):
        folder = tmp_path / "hub" / f"models--we--{name}"
        shutil.copytree(source, folder / "snapshots" / ("0" * 40))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0" * 40, "utf-8")
    _change(tmp_path / "hub" / "models--we--ours" / "snapshots" / ("0" * 40) / "zhaiju.json", window=48)
    done = subprocess.run(
        [sys.executable, "-c", _HUB.format(tests=str(Path(__file__).parent))],
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
