"""A graph beside the weights says what PyTorch says, and needs no PyTorch to say it."""

import json
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data.chunks import pad
from zhaiju.data.encoding import Encoding
from zhaiju.data.examples import Context, QAExample
from zhaiju.data.vocabulary import KINDS, PlainTokenizer, build_tokenizer
from zhaiju.errors import CheckpointError, ConfigError
from zhaiju.inference.backends import GRAPH_FILE, WEIGHTS_FILE, OnnxBackend, TorchBackend
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import Meta, Shape, from_scratch, load, load_exported, load_tokenizer, save

# Written for these tests.
TEXTS = (
    "老張在港口修了三十年的船；退休以後每天清晨仍到碼頭散步。他說海風比鬧鐘準時。",
    "Rita 的貓叫書籤，it sleeps on the owner's 1,024 books.\r\n牠七歲👩🏽\u200d🚀。",
)
QUESTION = "誰在港口修船？"
every_checkpoint = pytest.mark.parametrize("name", ["read", "select"])

pytestmark = pytest.mark.usefixtures("one_thread")


def make(directory, task):
    """A tiny reader or selector with weights whose logits tell inputs apart."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(9)
        made = from_scratch(
            task, [*TEXTS, QUESTION], encoder=None,
            shape=Shape(layers=2, hidden=48, heads=2, intermediate=80, positions=96),
            window=64, overlap=8, script="simplified",
        )  # fmt: skip
        for parameter in made.network.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    directory.mkdir()
    save(directory, made.network, made.encoding, Meta(task=task))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A directory of each kind of checkpoint, its graph beside its weights."""
    from zhaiju.inference.export import export_graph

    folder = tmp_path_factory.mktemp("exported")
    for task in ("read", "select"):
        where = folder / task
        make(where, task)
        assert export_graph(load(where)) == where / GRAPH_FILE
    return folder


def chunk_of(encoding, rows):
    """A chunk of windows of several lengths."""
    windows = [
        window
        for place in range(rows)
        for window in encoding.windows(QUESTION[: 1 + place % 7], TEXTS[place % 2][: 3 + 11 * place])[:1]
    ]
    return pad(windows, encoding.pad_id)


# The same logits


@pytest.mark.slow
@every_checkpoint
def test_the_graph_gives_the_logits_of_pytorch(exported, name):
    reference = load(exported / name)
    torch_backend = TorchBackend(reference.network, pad_id=0)
    onnx_backend = OnnxBackend(exported / name, pad_id=0, threads=1)
    for rows in (1, 2, 3, 7):
        chunk = chunk_of(reference.encoding, rows)
        assert rows == 1 or (chunk.attention_mask == 0).any()  # padding
        expected, found = torch_backend.run(chunk), onnx_backend.run(chunk)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4
        assert expected.std() > 0.01 or rows == 1


@pytest.mark.slow
@every_checkpoint
@settings(deadline=None, max_examples=examples(25))
@given(rows=st.integers(1, 5), tokens=st.integers(4, 64), seed=st.integers(0, 2**32))
def test_the_graph_gives_the_logits_of_pytorch_whatever_the_input(exported, name, rows, tokens, seed):
    reference, torch_backend, onnx_backend = backends(exported / name)
    generator = np.random.default_rng(seed)
    chunk = pad(reference.encoding.windows("茶", "船"), 0)
    chunk.input_ids = generator.integers(0, len(reference.encoding.tokenizer), (rows, tokens))
    chunk.token_type_ids = generator.integers(0, 2, (rows, tokens))
    lengths = generator.integers(3, tokens + 1, rows)
    chunk.attention_mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    expected, found = torch_backend.run(chunk), onnx_backend.run(chunk)
    if expected.ndim == 3:  # what a padded token is given is nobody's
        seen = np.broadcast_to(chunk.attention_mask[:, None] == 1, expected.shape)
        expected, found = expected[seen], found[seen]
    assert np.abs(found - expected).max() < 1e-4


@cache
def backends(where):
    reference = load(where)
    return reference, TorchBackend(reference.network, pad_id=0), OnnxBackend(where, pad_id=0, threads=1)


@pytest.mark.slow
@every_checkpoint
def test_ids_types_and_mask_are_inputs_each(exported, name):
    reference, torch_backend, onnx_backend = backends(exported / name)
    chunk = chunk_of(reference.encoding, 3)
    before = onnx_backend.run(chunk)
    for field in ("input_ids", "token_type_ids", "attention_mask"):
        changed = chunk_of(reference.encoding, 3)
        getattr(changed, field)[:, 2] = field == "token_type_ids"
        found = onnx_backend.run(changed)
        assert np.abs(found - before).max() > 1e-3, field
        assert np.abs(found - torch_backend.run(changed)).max() < 1e-4, field


@pytest.mark.slow
@every_checkpoint
def test_predictions_are_those_of_pytorch(exported, name):
    asked = [
        QAExample(str(place), question, tuple(Context(text, str(at)) for at, text in enumerate(TEXTS)), relevant=place)
        for place, question in enumerate((QUESTION, "誰的貓？"))
    ]
    found = []
    for checkpoint in (load(exported / name), load_exported(exported / name)):
        settings = {"n_best": 3} if name == "read" else {}
        found.append(list(make_engine(checkpoint).predict(load(exported / name).task(name, **settings), asked)))
    for one, other in zip(*found, strict=True):
        assert other.score == pytest.approx(one.score, abs=1e-4)
        assert other.source == one.source
        if name == "read":
            assert (other.answer, other.start, other.end) == (one.answer, one.start, one.end)


# Weights are in one file


@pytest.mark.slow
@every_checkpoint
def test_weights_are_in_the_safetensors_file_alone(exported, name):
    import onnx
    from safetensors.numpy import load_file

    where = exported / name
    assert {path.name for path in where.iterdir()} == {
        "config.json", "model.onnx", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "zhaiju.json",
    }  # fmt: skip
    weights = load_file(where / WEIGHTS_FILE)
    graph = onnx.load(where / GRAPH_FILE, load_external_data=False).graph
    named = set()
    for constant in graph.initializer:
        if constant.data_location == onnx.TensorProto.EXTERNAL:
            own = constant.name[1:-1].removesuffix(".T")
            assert constant.name in (f"[{own}]", f"[{own}.T]")
            shape = weights[own].shape[::-1] if constant.name.endswith(".T]") else weights[own].shape
            assert tuple(constant.dims) == shape
            named.add(own)
        else:
            assert np.prod(constant.dims) <= 1024
    large = {name for name, value in weights.items() if value.size > 1024}
    assert named == large
    assert len(named) >= 14
    kept = [node for node in graph.node if node.op_type == "Constant" and node.ByteSize() > 5000]
    assert not kept
    assert (where / GRAPH_FILE).stat().st_size < 60_000
    assert str(where) not in (where / GRAPH_FILE).read_text("latin-1")  # nor who made it, and where
    assert ".py" not in (where / GRAPH_FILE).read_text("latin-1")


@pytest.mark.slow
def test_other_weights_of_the_same_shapes_are_used_with_the_same_graph(exported, tmp_path):
    """Transposed ones too, and in half precision."""
    from safetensors.numpy import load_file, save_file

    where = copy(exported, tmp_path)
    weights = load_file(where / WEIGHTS_FILE)
    large = {name: (value * 0.5).astype(np.float16) for name, value in weights.items() if value.size > 1024}
    save_file(weights | large, where / WEIGHTS_FILE, metadata={"format": "pt"})
    reference = load(where)
    chunk = chunk_of(reference.encoding, 3)
    found = OnnxBackend(where, pad_id=0, threads=1).run(chunk)
    assert np.abs(found - TorchBackend(reference.network, pad_id=0).run(chunk)).max() < 1e-4
    assert np.abs(found - OnnxBackend(exported / "read", pad_id=0, threads=1).run(chunk)).max() > 1e-2


@pytest.mark.slow
def test_a_constant_that_is_no_weight_is_refused(exported, tmp_path):
    from safetensors.numpy import load_file, save_file

    from zhaiju.inference.export import export_graph

    where = copy(exported, tmp_path)
    loaded = load(where)
    (where / GRAPH_FILE).unlink()
    weights = load_file(where / WEIGHTS_FILE)
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    save_file(weights | {name: weights[name] + 1}, where / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"constant .* \[48, 80\] is none of the weights$"):
        export_graph(loaded)
    assert not (where / GRAPH_FILE).exists()


# Files that do not belong together


def copy(exported, tmp_path):
    return shutil.copytree(exported / "read", tmp_path / "copy")


def _drop(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


WORDS = "bert.embeddings.word_embeddings.weight"
DENSE = "bert.encoder.layer.0.intermediate.dense.weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        _drop(WORDS),
        _drop(DENSE),
        lambda weights: weights | {WORDS: weights[WORDS][:-1].copy()},
        lambda weights: weights | {WORDS: weights[WORDS].T.copy()},
        lambda weights: weights | {DENSE: weights[DENSE][:, :-1].copy()},
        lambda weights: weights | {DENSE: weights[DENSE].reshape(-1).copy()},
    ],
    ids=["no words", "no layer", "fewer words", "words on their side", "a narrower layer", "a flat layer"],
)
@pytest.mark.parametrize("inside", [False, True])
def test_weights_that_are_not_the_graph_s_are_refused(exported, tmp_path, monkeypatch, change, inside):
    from safetensors.numpy import load_file, save_file

    where = copy(exported, tmp_path)
    save_file(change(load_file(where / WEIGHTS_FILE)), where / WEIGHTS_FILE)
    if inside:  # where onnxruntime would find the file by its name
        monkeypatch.chdir(where)
    with pytest.raises(CheckpointError) as caught:
        OnnxBackend(where, pad_id=0, threads=1)
    assert str(where) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("file", [GRAPH_FILE, WEIGHTS_FILE, "tokenizer.json", "zhaiju.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe nonsense " * 50),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    ],
    ids=["missing", "empty", "nonsense", "cut"],
)
def test_a_missing_or_damaged_file_is_named_in_one_line(exported, tmp_path, request, file, damage):
    where = copy(exported, tmp_path)
    damage(where / file)
    if file == "zhaiju.json" and "missing" in request.node.callspec.id:
        assert load_exported(where).meta == Meta()  # a foreign checkpoint
        return
    with pytest.raises(CheckpointError) as caught:
        make_engine(load_exported(where))
    assert str(where) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_settings_of_an_exported_checkpoint_are_those_saved_with_it(exported, tmp_path):
    where = copy(exported, tmp_path)
    encoding = load_exported(where).encoding
    assert (encoding.window, encoding.overlap, encoding.script) == (64, 8, "simplified")
    values = json.loads((where / "zhaiju.json").read_text("utf-8"))
    (where / "zhaiju.json").write_text(json.dumps(values | {"window": 32}), "utf-8")
    assert load_exported(where).encoding.window == 32
    encoding = load_exported(where, window=48, overlap=0).encoding
    assert (encoding.window, encoding.overlap) == (48, 0)
    with pytest.raises((CheckpointError, ConfigError), match=r"holds no onnx/model\.onnx|OpenVINO is not installed"):
        make_engine(load_exported(where), precision="bf16")


# The tokenizer


@cache
def fast_and_plain(folder, kind):
    own = build_tokenizer([*TEXTS, QUESTION], kind=kind, size=300)
    own.save_pretrained(folder / kind)
    return load_tokenizer(str(folder / kind)), PlainTokenizer.load(folder / kind)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


SCRAPS = st.one_of(
    st.sampled_from(
        ["[SEP]", "[MASK]", "##s", "e\u0301", "Ｒita", "\0", "\r\n", "  ", "👩🏽\u200d🚀", "İ", "x" * 120, "𠀀"]
    ),
    st.sampled_from(TEXTS),
    st.text(max_size=5),
)
FEW = settings(deadline=None, max_examples=examples(100))


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(text=st.lists(SCRAPS, max_size=8).map("".join), question=st.text(max_size=12))
@example(text="", question="")
@example(text="[CLS]茶[SEP]", question="[MASK]")
def test_the_plain_tokenizer_gives_what_the_fast_one_gives(saved, kind, text, question):
    fast, plain = fast_and_plain(saved, kind)
    one, other = (Encoding(each, window=40, overlap=7) for each in (fast, plain))
    for ours, theirs in ((other.tokens(text), one.tokens(text)), (other.words([text]), one.words([text]))):
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.starts.tolist() == theirs.starts.tolist()
        assert ours.ends.tolist() == theirs.ends.tolist()
    assert (other.template, other.frame) == (one.template, one.frame)
    assert (other.pad_id, other.mask_id) == (one.pad_id, one.mask_id)
    assume(len(one.tokens(question).ids) <= 40 - 3 - 8)
    for ours, theirs in zip(other.windows(question, text), one.windows(question, text), strict=True):
        assert ours.input_ids.tolist() == theirs.input_ids.tolist()
        assert ours.token_type_ids.tolist() == theirs.token_type_ids.tolist()
        assert ours.starts.tolist() == theirs.starts.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_tokenizer_names_tokens_and_frames_texts_as_the_fast_one(saved, kind):
    fast, plain = fast_and_plain(saved, kind)
    for pair in ((TEXTS[0],), (QUESTION, TEXTS[1])):
        ours, theirs = plain(*pair, return_token_type_ids=True), fast(*pair, return_token_type_ids=True)
        assert ours["input_ids"] == theirs["input_ids"]
        assert ours["token_type_ids"] == theirs["token_type_ids"]
        assert ours.sequence_ids(0) == theirs.sequence_ids(0)
    ids = list(range(len(fast)))
    assert plain.convert_ids_to_tokens(ids) == fast.convert_ids_to_tokens(ids)
    assert (plain.pad_token_id, plain.unk_token_id, plain.mask_token_id) == (
        fast.pad_token_id, fast.unk_token_id, fast.mask_token_id,
    )  # fmt: skip


# Without PyTorch


@pytest.mark.slow
@every_checkpoint
def test_an_exported_checkpoint_predicts_without_pytorch_and_transformers(exported, name):
    code = f"""
import sys
from zhaiju.data.examples import Context, QAExample
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import load_exported
from zhaiju.tasks import make_task

loaded = load_exported({str(exported / name)!r})
asked = QAExample("0", {QUESTION!r}, tuple(Context(text, text[:2]) for text in {TEXTS!r}), relevant=0)
(found,) = make_engine(loaded).predict(make_task({name!r}), [asked])
assert 0 < found.score <= 1, found
wrong = {{"torch", "transformers", "accelerate", "onnx", "onnxscript"}} & set(sys.modules)
assert not wrong, wrong
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
