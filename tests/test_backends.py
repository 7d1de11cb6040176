"""Every backend says what PyTorch says; an export that would not is refused; nothing is written then."""

import importlib.util
import json

import numpy as np
import pytest

from checkpoints import CHECKPOINTS, INTENTS, LABELS, MIXED, PARAGRAPHS, QUESTIONS, SLOTTED, bert, roberta_wwm
from zhaiju.data.chunks import pad
from zhaiju.data.examples import Context, QAExample, Span
from zhaiju.errors import CheckpointError, ConfigError
from zhaiju.inference import export as exporting
from zhaiju.inference.backends import BACKENDS, OnnxBackend, OpenVinoBackend, TorchBackend, choose
from zhaiju.inference.engine import make_engine, usual_batch_tokens
from zhaiju.inference.export import Quantisation, export, quantise
from zhaiju.modeling.checkpoint import GRAPHS, Meta, load, load_exported, save

pytestmark = pytest.mark.usefixtures("one_thread")
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
every_kind = pytest.mark.parametrize(
    ("name", "task"),
    [("bert", task) for task in LABELS] + [(name, "read") for name in CHECKPOINTS if name != "bert"],
)
every_task = pytest.mark.parametrize("task", ["select", "read", "intent", "slots"])
ANSWERS = ("港口", "書籤", "七公斤", "六十四個")
ASKED = [
    QAExample(
        f"q{place}",
        question,
        tuple(Context(text, f"p{at}") for at, text in enumerate(PARAGRAPHS)),
        place,
        (Span(answer, PARAGRAPHS[place].index(answer)),),
        (answer,),
    )
    for place, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=False))
]
EXAMPLES = {"select": ASKED, "read": ASKED, "intent": INTENTS, "slots": SLOTTED}


def loaded(directory, task, make=bert):
    """A checkpoint for a task whose logits tell inputs apart, saved as ours are."""
    import torch

    made = directory / "made"
    make(made)
    found = load(made, task, head_required=False, window=64, overlap=8, labels=LABELS[task] or None)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in found.network.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    ours = directory / "ours"
    ours.mkdir()
    save(ours, found.network, found.encoding, Meta(task=task))
    return load(ours, task)


def chunk_of(checkpoint, task):
    chosen = checkpoint.task(task)
    windows = [window for example in EXAMPLES[task][:3] for window in chosen.encode(example, checkpoint.encoding)]
    return pad(windows, checkpoint.encoding.pad_id)


def seen(chunk, logits):
    """The logits of tokens that are there; what a padded one is given is nobody's."""
    mask = chunk.attention_mask == 1
    if logits.ndim == 3:
        return logits[mask] if logits.shape[1] == mask.shape[1] else logits.transpose(0, 2, 1)[mask]
    return logits


# The same logits


@needs_openvino
@pytest.mark.slow
@every_kind
def test_openvino_gives_the_logits_of_pytorch(tmp_path, name, task):
    checkpoint = loaded(tmp_path, task, CHECKPOINTS[name])
    chunk = chunk_of(checkpoint, task)
    expected = TorchBackend(checkpoint.network, pad_id=checkpoint.encoding.pad_id).run(chunk)
    backend = OpenVinoBackend(checkpoint.network, pad_id=checkpoint.encoding.pad_id, threads=1)
    found = backend.run(chunk)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(seen(chunk, found) - seen(chunk, expected)).max() < 1e-4
    assert expected.std() > 0.01
    kept = found.copy()
    backend.run(pad(checkpoint.task(task).encode(EXAMPLES[task][1], checkpoint.encoding), 0))
    assert np.array_equal(found, kept, equal_nan=True)  # the next run writes into memory of its own


@pytest.mark.slow
@every_kind
def test_every_encoder_is_exported_for_every_task_and_predicts_the_same(tmp_path, name, task):
    checkpoint = loaded(tmp_path, task, CHECKPOINTS[name])
    if name == "roformer":  # its tokenizer asks jieba, by Python
        with pytest.raises(CheckpointError, match="cannot be exported: its tokenizer is in part Python"):
            export(checkpoint, task, tmp_path / "exported")
        assert not (tmp_path / "exported").exists()
        return
    (verified,) = export(checkpoint, task, tmp_path / "exported")
    assert verified.precision == "fp32"
    assert verified.difference <= 1e-4
    exported = load(tmp_path / "exported")
    assert exported.network is None
    if LABELS[task]:
        assert exported.labels == checkpoint.labels
    ours = list(make_engine(checkpoint).predict(checkpoint.task(task), EXAMPLES[task]))
    theirs = list(make_engine(exported).predict(exported.task(task), EXAMPLES[task]))
    for one, other in zip(ours, theirs, strict=True):
        if task == "read":  # of random weights, two spans may be worth the same
            assert [c.logit for c in other.n_best] == pytest.approx([c.logit for c in one.n_best], abs=1e-3)
        else:
            said = {"select": "index", "intent": "label", "slots": "tags"}[task]
            assert getattr(other, said) == getattr(one, said)


def test_batches_are_of_512_tokens_a_cpu_thread_where_nothing_else_is_said(tmp_path, monkeypatch):
    assert [usual_batch_tokens(gpu=False, threads=threads) for threads in (1, 2, 8, 64)] == [512, 1024, 4096, 8192]
    assert usual_batch_tokens(gpu=True, threads=1) == 8192
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    checkpoint = loaded(tmp_path, "read")
    assert make_engine(checkpoint).batch_tokens == 3 * 512
    assert make_engine(checkpoint, batch_tokens=8192).batch_tokens == 8192
    export(checkpoint, "read", tmp_path / "exported")
    exported = load(tmp_path / "exported")
    assert make_engine(exported, backend="onnx").batch_tokens == 3 * 512
    assert make_engine(exported, backend="onnx", threads=1).batch_tokens == 512


@every_task
def test_bf16_weights_that_are_rounded_once_give_what_autocast_gives(tmp_path, task):
    checkpoint = loaded(tmp_path, task)
    chunk = chunk_of(checkpoint, task)
    rounding = TorchBackend(checkpoint.network, pad_id=0, precision="bf16").run(chunk)
    rounded = TorchBackend(checkpoint.network, pad_id=0, precision="bf16", fixed=True).run(chunk)
    assert (rounding == rounded).all()
    exact = TorchBackend(checkpoint.network, pad_id=0).run(chunk)
    assert 0 < np.abs(rounded - exact).max() < 1
    assert all(str(parameter.dtype) == "torch.float32" for parameter in checkpoint.network.parameters())


@needs_openvino
@pytest.mark.slow
def test_openvino_rounds_to_bf16_where_it_is_asked_to(tmp_path):
    checkpoint = loaded(tmp_path, "read")
    chunk = chunk_of(checkpoint, "read")
    try:
        backend = OpenVinoBackend(checkpoint.network, pad_id=0, precision="bf16", threads=1)
    except ConfigError as error:
        pytest.skip(str(error))
    exact = seen(chunk, TorchBackend(checkpoint.network, pad_id=0).run(chunk))
    found = seen(chunk, backend.run(chunk))
    assert 1e-4 < np.abs(found - exact).max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("embeddings", [True, False])
def test_a_quantised_graph_is_smaller_and_nearly_says_the_same(tmp_path, static, embeddings):
    checkpoint = loaded(tmp_path, "read")
    export(checkpoint, "read", tmp_path / "exported")
    windows = [window for example in ASKED for window in checkpoint.task("read").encode(example, checkpoint.encoding)]
    graph, output = (tmp_path / "exported" / GRAPHS[precision] for precision in ("fp32", "int8"))
    quantise(graph, output, windows, 0, Quantisation(static=static, embeddings=embeddings))
    assert sorted(path.name for path in graph.parent.iterdir()) == ["model.onnx", "model_quantized.onnx"]
    chunk = chunk_of(checkpoint, "read")
    exact = seen(chunk, OnnxBackend(tmp_path / "exported", pad_id=0, threads=1).run(chunk))
    found = seen(chunk, OnnxBackend(tmp_path / "exported", pad_id=0, precision="int8", threads=1).run(chunk))
    assert np.abs(found - exact).max() > 0
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.98


# Export


@pytest.fixture
def reader(tmp_path):
    return loaded(tmp_path, "read")


@pytest.mark.slow
def test_an_exported_directory_holds_no_weights_twice_and_runs_in_plain_onnxruntime(tmp_path, reader):
    import onnxruntime

    export(reader, "read", tmp_path / "exported")
    names = {str(path.relative_to(tmp_path / "exported")) for path in (tmp_path / "exported").rglob("*")}
    assert names == {
        "config.json", "onnx", "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json", "zhaiju.json",
    }  # fmt: skip
    session = onnxruntime.InferenceSession(str(tmp_path / "exported" / "onnx" / "model.onnx"))
    assert [entry.name for entry in session.get_outputs()] == ["start_logits", "end_logits"]
    chunk = chunk_of(reader, "read")
    given = {
        "input_ids": chunk.input_ids, "token_type_ids": chunk.token_type_ids, "attention_mask": chunk.attention_mask,
    }  # fmt: skip
    start, end = session.run(None, given)
    expected = TorchBackend(reader.network, pad_id=0).run(chunk)
    mask = chunk.attention_mask == 1
    assert np.abs(start - expected[:, 0])[mask].max() < 1e-4
    assert np.abs(end - expected[:, 1])[mask].max() < 1e-4


@pytest.mark.slow
def test_a_graph_whose_logits_differ_is_refused_and_nothing_is_left(tmp_path, reader, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-12)
    with pytest.raises(CheckpointError, match=r"the graph's logits differ from PyTorch's by .*at most 1e-12 may be"):
        export(reader, "read", tmp_path / "exported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "ours"]


@pytest.mark.slow
@pytest.mark.parametrize("most", [-0.1, 1.0])
def test_int8_is_judged_on_examples_that_it_was_not_calibrated_on(tmp_path, reader, monkeypatch, most):
    """A fall of no figure is more than one may lose of -0.1, and none of 1.0."""
    monkeypatch.setattr(exporting, "MOST_LOST", most)
    examples = [one for _ in range(3) for one in ASKED]
    where = tmp_path / "exported"
    if most < 0:
        with pytest.raises(CheckpointError, match=r"int8 answers worse: em \S+ to \S+, f1 \S+ to \S+ on 6 examples"):
            export(reader, "read", where, precisions=["fp32", "int8"], examples=examples)
        assert not where.exists()
        return
    fp32, int8 = export(reader, "read", where, precisions=["fp32", "int8"], examples=examples)
    assert (fp32.precision, int8.precision, int8.count) == ("fp32", "int8", 6)
    assert set(int8.before) == set(int8.after) == {"em", "f1"}
    assert (where / GRAPHS["int8"]).stat().st_size < (where / GRAPHS["fp32"]).stat().st_size
    engine = make_engine(load(where), backend="onnx", precision="int8")
    report = reader.task("read").score(ASKED, list(engine.predict(reader.task("read"), ASKED)))
    assert 0 <= report["f1"] <= 1


def test_int8_without_labelled_examples_is_refused(tmp_path, reader):
    with pytest.raises(ConfigError, match="int8 needs labelled examples"):
        export(reader, "read", tmp_path / "exported", precisions=["int8"])


@pytest.mark.slow
def test_the_command_exports_and_evaluates_what_it_exported(tmp_path, reader, run):
    data = tmp_path / "data.json"
    row = {
        "title": "t",
        "paragraphs": [
            {
                "context": one.context.text,
                "qas": [
                    {
                        "id": one.id,
                        "question": one.question,
                        "answers": [{"text": one.gold[0], "answer_start": one.answers[0].start}],
                    }
                ],
            }
            for one in ASKED
        ],
    }
    data.write_text(json.dumps({"data": [row]}), "utf-8")
    code, out, err = run("export", tmp_path / "ours", "-o", tmp_path / "exported", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["verified"][0]["logits_differ_by"] <= 1e-4
    reports = []
    for where in ("ours", "exported"):
        code, out, err = run("evaluate", tmp_path / where, data, "--json")
        assert code == 0, err
        reports.append(json.loads(out))
    assert reports[0] == pytest.approx(reports[1], abs=1e-4)
    for arguments, message in (
        (("evaluate", tmp_path / "exported", data, "--window", "500"), "window is 500 tokens, expected at most 96"),
        (("evaluate", tmp_path / "exported", data, "--backend", "torch"), "runs in onnx or openvino, not in torch"),
        (("evaluate", tmp_path / "exported", data, "--precision", "int8"), "holds no onnx/model_quantized.onnx"),
        (("evaluate", tmp_path / "ours", data, "--backend", "onnx"), "holds no graph for onnx; see zhaiju export"),
        (("export", tmp_path / "ours", "-o", tmp_path / "exported"), "exists; name another -o"),
        (("export", tmp_path / "exported", "-o", tmp_path / "again"), "holds exported graphs, no weights to load"),
        (("export", tmp_path / "ours", "-o", tmp_path / "x", "--precision", "int8"), "int8 must be judged on labelled"),
        (("export", tmp_path / "ours", "-o", tmp_path / "x", "--precision", "fp8"), "'fp8' is not one of fp32, bf16"),
    ):
        code, out, err = run(*arguments)
        assert code == 2, arguments
        assert message in " ".join(err.split())
        assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_what_an_exported_directory_lacks_is_named(tmp_path):
    roberta_wwm(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no onnx/model\.onnx; see zhaiju export"):
        OnnxBackend(tmp_path, pad_id=0)
    with pytest.raises(CheckpointError, match=r"holds no onnx/model_quantized\.onnx; see zhaiju export"):
        OnnxBackend(tmp_path, pad_id=0, precision="int8")
    if choose("auto", "bf16", exported=True) == "openvino":
        with pytest.raises((CheckpointError, ConfigError)):
            OpenVinoBackend(tmp_path, pad_id=0)


# Which one


@pytest.mark.parametrize(
    ("backend", "precision", "exported", "expected"),
    [
        ("auto", "fp32", False, "torch"),
        ("auto", "bf16", False, "torch"),
        ("auto", "int8", False, "openvino"),
        ("auto", "fp32", True, "onnx"),
        ("auto", "bf16", True, "openvino"),
        ("onnx", "fp32", True, "onnx"),
        ("openvino", "bf16", False, "openvino"),
    ],
)
def test_the_backend_that_is_meant(backend, precision, exported, expected):
    assert choose(backend, precision, exported=exported, whole=False) == expected


def test_a_graph_with_its_weights_runs_in_openvino_where_that_is_installed():
    installed = importlib.util.find_spec("openvino") is not None
    assert choose("auto", "fp32", exported=True) == ("openvino" if installed else "onnx")


@pytest.mark.parametrize("name", list(BACKENDS))
@pytest.mark.parametrize("precision", ["fp8", "bf16", "int8"])
def test_a_precision_that_a_backend_does_not_have_is_refused(name, precision):
    if precision in BACKENDS[name]:
        assert choose(name, precision, exported=name != "torch") == name
        return
    with pytest.raises(ConfigError, match=f"precision '{precision}' is not one of"):
        choose(name, precision, exported=name != "torch")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="backend 'tpu' is not one of auto, torch, onnx, openvino"):
        choose("tpu", "fp32", exported=False)
    with pytest.raises(ConfigError, match="runs in onnx or openvino, not in torch"):
        choose("torch", "fp32", exported=True)


@pytest.mark.slow
def test_an_exported_pair_keeps_what_was_fitted_for_it(tmp_path):
    from zhaiju.inference.answer import Joint, load_joint, save_joint

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    reader, selector = loaded(tmp_path / "a", "read"), loaded(tmp_path / "b", "select")
    save_joint(reader.where, selector.where, Joint(2, 1.5), {})
    export(reader, "read", tmp_path / "reader")
    export(selector, "select", tmp_path / "selector")
    assert load_joint(str(tmp_path / "reader"), str(tmp_path / "selector")) == Joint(2, 1.5)
    assert load_exported(tmp_path / "reader").encoding.window == 64


def test_mixed_scripts_are_quoted_alike(tmp_path):
    """A text of several scripts, through bf16 too: every answer is a slice of it."""
    checkpoint = loaded(tmp_path, "read")
    asked = QAExample("m", QUESTIONS[4], (Context(MIXED, "m"),), 0)
    for precision in ("fp32", "bf16"):
        (found,) = make_engine(checkpoint, precision=precision).predict(checkpoint.task("read"), [asked])
        assert MIXED[found.start : found.end] == found.answer
