"""Every encoder that people publish does the whole round: load, train, save, load, predict."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from checkpoints import (
    CHARACTERS,
    CHECKPOINTS,
    INTENTS,
    LABELS,
    MIXED,
    PARAGRAPHS,
    POSITIONS,
    SLOTTED,
    bert_config,
    roberta_wwm,
    save,
    word_pieces,
)
from zhaiju.config import TrainSettings
from zhaiju.data.chunks import arrays, pad
from zhaiju.data.examples import Context, QAExample, SlotExample, Span
from zhaiju.data.formats import ReadLog
from zhaiju.data.labelled import repair_bio
from zhaiju.errors import CheckpointError
from zhaiju.inference.backends import TorchBackend
from zhaiju.inference.engine import Engine, usual_batch_tokens
from zhaiju.modeling import checkpoint
from zhaiju.modeling.network import collate
from zhaiju.tasks import TASKS, make_task
from zhaiju.training.evaluate import evaluate
from zhaiju.training.loop import Loop, Stepped
from zhaiju.training.run import TrainData, train

WINDOW = 64
LONG = MIXED + PARAGRAPHS[1]  # several windows for every tokenizer
TEXTS = (*PARAGRAPHS, MIXED, LONG)
ASKED = (
    ("老張在哪裡修船？", 0, "港口"),
    ("貓叫什麼名字？", 1, "書籤"),
    ("顯微鏡多重？", 2, "七公斤"),
    ("市集有幾個攤位？", 3, "六十四個"),
    ("風扇聲像什麼 song？", 4, "鯨魚唱歌"),
    ("第一臺叫什麼？", 4, "Ｂｌｕｅ　Ｗｈａｌｅ"),
    ("第二臺叫什麼？", 5, "👩🏽\u200d🚀"),
    ("How many pages has the manual?", 5, "1,024 pages"),
)
QUESTIONS = [
    QAExample(
        f"q{number}",
        question,
        tuple(Context(text, f"p{place}") for place, text in enumerate(TEXTS)),
        right,
        (Span(answer, TEXTS[right].index(answer)),),
    )
    for number, (question, right, answer) in enumerate(ASKED)
]

EXAMPLES = {"select": QUESTIONS, "read": QUESTIONS, "intent": INTENTS, "slots": SLOTTED}

every_encoder = pytest.mark.parametrize("name", CHECKPOINTS)
every_task = pytest.mark.parametrize("task", TASKS)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    for name, maker in CHECKPOINTS.items():
        maker(folder / name)
    return folder


def _load(where, task, **settings):
    usual = {"head_required": False, "window": WINDOW, "overlap": 16, "labels": LABELS[task] or None}
    return checkpoint.load(where, task, **usual | settings)


def _loud(loaded):
    """Weights so large that logits of different inputs differ much more than rounding does."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for parameter in loaded.network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    return loaded


def _engine(loaded, **settings):
    return Engine(
        TorchBackend(loaded.network, pad_id=loaded.encoding.tokenizer.pad_token_id), loaded.encoding, **settings
    )


def _items(loaded, task):
    generator = np.random.default_rng(0)
    return [item for example in EXAMPLES[task] for item in loaded.task(task).items(example, loaded.encoding, generator)]


def _body(network):
    """The encoder's own parameters, by name."""
    prefix = f"model.{network.model.base_model_prefix}."
    return {name: value for name, value in network.named_parameters() if name.startswith(prefix)}


@every_task
@every_encoder
def test_loading_keeps_the_weights_and_says_nothing(made, name, task, capfd):
    capfd.readouterr()
    loaded = _load(made / name, task)
    assert capfd.readouterr() == ("", "")
    assert loaded.network.model.config.model_type in name or name.startswith("roberta-wwm")
    assert loaded.encoding.tokenizer.is_fast
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}
    again = _load(made / name, task)
    for one, two in zip(_body(loaded.network).items(), _body(again.network).items(), strict=True):
        assert one[0] == two[0]
        assert "pooler" in one[0] or torch.equal(one[1], two[1]), one[0]  # random weights would differ


def test_weights_lie_in_memory_as_those_that_were_never_saved(made):
    """Where they lie decides the last bits of what is computed from them, on some processors."""
    for value in _load(made / "bert", "read").network.parameters():
        assert value.data_ptr() % 64 == 0


@every_task
@every_encoder
def test_gradients_reach_every_matrix_of_the_encoder(made, name, task):
    loaded = _load(made / name, task)
    loaded.network.train()
    loss = loaded.network(collate(_items(loaded, task), TASKS[task].head, 0))
    assert torch.isfinite(loss)
    loss.backward()
    matrices = {name: value for name, value in _body(loaded.network).items() if value.ndim > 1 and value.requires_grad}
    assert len(matrices) > 8
    idle = [name for name, value in matrices.items() if value.grad is None or not value.grad.abs().sum() > 0]
    assert not idle


@every_task
@every_encoder
def test_two_steps_of_training_move_the_encoder(made, name, task):
    loaded = _load(made / name, task)
    before = {key: value.detach().clone() for key, value in _body(loaded.network).items()}
    settings = TrainSettings(
        encoder=str(made / name), window=WINDOW, threads=1, max_steps=2, batch_tokens=1024, lr=1e-2
    )
    loop = Loop(
        loaded.network,
        loaded.task(task),
        EXAMPLES[task],
        loaded.encoding,
        settings,
        evaluate=lambda: {TASKS[task].figures[0]: 0.0},
        pad_id=loaded.encoding.tokenizer.pad_token_id,
    )
    steps = [event for event in loop.events() if isinstance(event, Stepped)]
    assert [step.step for step in steps] == [1, 2]
    assert all(np.isfinite(step.loss) and step.grad_norm > 0 for step in steps)
    after = _body(loaded.network)
    assert any("layer" in key and not torch.equal(value, after[key]) for key, value in before.items())


@every_task
@every_encoder
def test_a_run_reads_back_with_the_figures_it_was_kept_for(made, tmp_path, name, task, capfd):
    capfd.readouterr()
    settings = TrainSettings(
        encoder=str(made / name),
        window=WINDOW,
        overlap=16,
        threads=1,
        max_steps=2,
        batch_tokens=2048,
        lr=1e-2,
        negatives=2,
    )
    data = TrainData(EXAMPLES[task], EXAMPLES[task], [], ReadLog())
    result = train(task, settings, data, tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    loaded = checkpoint.load(tmp_path / "run", task)
    assert (loaded.meta.task, loaded.encoding.window, loaded.encoding.overlap) == (task, WINDOW, 16)
    # The temperature is fitted after the last evaluation.
    batches = min(settings.batch_tokens, usual_batch_tokens(gpu=False))  # others differ in the last bits
    figures, _ = evaluate(_engine(loaded, batch_tokens=batches), loaded.task(task, temperature=1.0), EXAMPLES[task])
    assert figures == pytest.approx(result.metrics, abs=1e-12)


def _same(task, found, expected):
    """The same prediction, whatever the last bits of the logits are: other batches have others."""
    assert found.id == expected.id
    if task == "select":
        assert found.index == expected.index
        assert found.scores == pytest.approx(expected.scores, abs=1e-4)
    elif task == "read":
        assert (found.answer, found.start, found.end) == (expected.answer, expected.start, expected.end)
        logits = [[candidate.logit for candidate in reading.n_best] for reading in (found, expected)]
        assert logits[0] == pytest.approx(logits[1], abs=1e-4)
    elif task == "intent":
        assert [entry.label for entry in found.n_best] == [entry.label for entry in expected.n_best]
        assert [entry.score for entry in found.n_best] == pytest.approx([e.score for e in expected.n_best], abs=1e-4)
        assert found.loss == pytest.approx(expected.loss, abs=1e-4)
    else:
        assert (found.tags, found.pieces) == (expected.tags, expected.pieces)
        assert found.scores == pytest.approx(expected.scores, abs=1e-4)
        assert found.loss == pytest.approx(expected.loss, abs=1e-4)


@every_task
@every_encoder
def test_saving_and_loading_changes_no_prediction(made, tmp_path, name, task):
    loaded = _loud(_load(made / name, task))
    before = list(_engine(loaded).predict(loaded.task(task), EXAMPLES[task]))
    checkpoint.save(tmp_path, loaded.network, loaded.encoding, checkpoint.Meta(task=task))
    again = checkpoint.load(tmp_path)
    assert again.labels == loaded.labels
    assert list(_engine(again).predict(again.task(task), EXAMPLES[task])) == before
    # The tokenizer in memory is the same after it was saved.
    assert list(_engine(loaded).predict(loaded.task(task), EXAMPLES[task])) == before


@every_task
@every_encoder
def test_predicting_many_is_predicting_each(made, name, task):
    loaded = _loud(_load(made / name, task))
    many = list(_engine(loaded).predict(loaded.task(task), EXAMPLES[task]))
    single = _engine(loaded, batch_tokens=1, pool=1)
    for example, found in list(zip(EXAMPLES[task], many, strict=True))[1::2]:
        (alone,) = single.predict(loaded.task(task), [example])
        _same(task, found, alone)


@every_task
@every_encoder
def test_padding_changes_no_logit(made, name, task):
    loaded = _loud(_load(made / name, task))
    loaded.network.eval()
    windows = [
        window
        for example in (*EXAMPLES[task][1:2], EXAMPLES[task][-1])
        for window in loaded.task(task).encode(example, loaded.encoding)
    ]
    windows += loaded.encoding.text_windows("貓？")
    pad_id = loaded.encoding.tokenizer.pad_token_id
    chunk = pad(windows, pad_id)
    assert min(map(len, windows)) < chunk.input_ids.shape[1] <= WINDOW
    with torch.inference_mode():
        together = loaded.network.logits(*map(torch.from_numpy, arrays(chunk)))
        for row, window in enumerate(windows):
            alone = loaded.network.logits(*map(torch.from_numpy, arrays(pad([window], pad_id))))[0]
            here = loaded.network.head.unpadded(together[row], len(window))
            torch.testing.assert_close(here, alone, atol=1e-4, rtol=1e-4)


@every_encoder
def test_every_quote_is_a_slice_of_its_context(made, name):
    loaded = _loud(_load(made / name, "read"))
    asked = [
        QAExample(f"{question} {text[:9]}", question, (Context(text, "p"),)) for question, *_ in ASKED for text in TEXTS
    ]
    assert any(len(make_task("read").encode(example, loaded.encoding)) > 1 for example in asked)
    contexts = {example.id: example.contexts[0].text for example in asked}
    found = list(_engine(loaded).predict(make_task("read"), asked))
    assert len(found) == len(asked)
    for prediction in found:
        context = contexts[prediction.id]
        assert prediction.answer
        assert context[prediction.start : prediction.end] == prediction.answer == prediction.answer.strip()
        assert len(prediction.n_best) == 5
        for candidate in prediction.n_best:
            assert context[candidate.start : candidate.end] == candidate.text
        assert sum(candidate.score for candidate in prediction.n_best) <= 1 + 1e-9


@every_encoder
def test_a_long_paragraph_is_worth_its_best_window(made, name):
    loaded = _loud(_load(made / name, "select"))
    engine = _engine(loaded)
    (found,) = engine.predict(make_task("select"), [QUESTIONS[0]])
    windows = loaded.encoding.windows(QUESTIONS[0].question, LONG)
    assert len(windows) > 2
    scores = [float(engine.backend.run(pad([window], engine.backend.pad_id))[0, 0]) for window in windows]
    assert found.scores[TEXTS.index(LONG)] == pytest.approx(max(scores), abs=1e-4)


@every_encoder
def test_an_utterance_of_many_windows_is_the_mean_of_them(made, name):
    loaded = _loud(_load(made / name, "intent", window=24))
    engine = _engine(loaded)
    (found,) = engine.predict(loaded.task("intent"), [INTENTS[-1]])
    windows = loaded.encoding.text_windows(INTENTS[-1].text)
    assert len(windows) > 4
    mean = np.mean([engine.backend.run(pad([window], engine.backend.pad_id))[0] for window in windows], axis=0)
    shares = np.exp(mean) / np.exp(mean).sum()
    assert {entry.label: entry.score for entry in found.n_best} == pytest.approx(
        dict(zip(LABELS["intent"], shares.tolist(), strict=True)), abs=1e-4
    )


@every_encoder
def test_every_word_has_a_tag_however_many_windows_it_takes(made, name):
    loaded = _loud(_load(made / name, "slots", window=24, overlap=2))
    assert len(loaded.task("slots").encode(SLOTTED[-1], loaded.encoding)) > 4
    blanks = SlotExample("blank", ("", "船", " ", "x" * 200, "👩🏽\u200d🚀"), ("O", "B-thing", "O", "B-name", "O"))
    for example in (*SLOTTED, blanks):
        (found,) = _engine(loaded).predict(loaded.task("slots"), [example])
        assert len(found.tags) == len(found.scores) == len(found.pieces) == len(example.tokens)
        assert repair_bio(found.tags) == found.tags
        assert all(span.text == " ".join(example.tokens[span.start : span.end]) for span in found.spans)
        spanned = [place for span in found.spans for place in range(span.start, span.end)]
        assert spanned == [place for place, tag in enumerate(found.tags) if tag != "O"]


@every_task
@every_encoder
def test_its_architecture_can_be_trained_from_random_weights(made, tmp_path, name, task):
    for file in (made / name).iterdir():  # config.json and the tokenizer are enough
        if file.suffix not in (".bin", ".safetensors"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    loaded = checkpoint.from_scratch(
        task,
        (),
        encoder=str(tmp_path),
        shape=checkpoint.Shape(),
        window=WINDOW,
        overlap=16,
        script="as-is",
        labels=LABELS[task] or None,
    )
    assert torch.isfinite(loaded.network(collate(_items(loaded, task), TASKS[task].head, 0)))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("old_norms", [True, False])
@pytest.mark.parametrize("tokenizer_json", [True, False])
def test_roberta_wwm_loads_as_the_bert_that_it_is(tmp_path, task, pooler, old_norms, tokenizer_json):
    weights = roberta_wwm(tmp_path, pooler=pooler, old_norms=old_norms, tokenizer_json=tokenizer_json)
    loaded = _load(tmp_path, task)
    assert type(loaded.network.model).__name__.startswith("BertFor")
    names = {
        key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        for key in weights
    }
    kept = {key.removeprefix("model."): value for key, value in _body(loaded.network).items()}
    for key, value in kept.items():
        old = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        if "pooler" in key and not pooler:
            continue
        assert key in names
        assert torch.equal(value, weights[old if old_norms else key]), key
    assert loaded.encoding.tokenizer.convert_tokens_to_ids(list(CHARACTERS)) == list(range(5, 5 + len(CHARACTERS)))


def test_a_trained_roberta_wwm_is_written_as_safetensors_with_the_same_tokens(tmp_path):
    roberta_wwm(tmp_path / "hub", tokenizer_json=False)
    loaded = _load(tmp_path / "hub", "read")
    (tmp_path / "ours").mkdir()
    checkpoint.save(tmp_path / "ours", loaded.network, loaded.encoding, checkpoint.Meta(task="read"))
    assert "bert.embeddings.word_embeddings.weight" in load_file(tmp_path / "ours" / "model.safetensors")
    again = checkpoint.load(tmp_path / "ours")
    for text in TEXTS:
        assert again.encoding.tokens(text).ids.tolist() == loaded.encoding.tokens(text).ids.tolist()


def _three_classes(folder):
    vocabulary = word_pieces()
    tokenizer = transformers.BertTokenizer(vocab={token: index for index, token in enumerate(vocabulary)})
    config = bert_config(len(vocabulary), num_labels=3, id2label={0: "no", 1: "maybe", 2: "yes"})
    save(transformers.BertForSequenceClassification, config, tokenizer, folder)


@pytest.mark.parametrize("task", TASKS)
def test_an_encoder_that_told_three_classes_apart_can_be_trained(tmp_path, task):
    _three_classes(tmp_path / "nli")
    if task != "intent":
        with pytest.raises(CheckpointError, match=r"no trained output layer|tells 'no' apart"):
            checkpoint.load(tmp_path / "nli", task, window=WINDOW).task(task)
    settings = TrainSettings(encoder=str(tmp_path / "nli"), window=WINDOW, threads=1, max_steps=1, batch_tokens=1024)
    train(task, settings, TrainData(EXAMPLES[task], EXAMPLES[task], [], ReadLog()), tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    assert len(list(_engine(loaded).predict(loaded.task(task), EXAMPLES[task]))) == len(EXAMPLES[task])
    if LABELS[task]:
        assert loaded.labels == LABELS[task]


def test_a_classifier_that_others_trained_tells_its_own_classes_apart(tmp_path):
    _three_classes(tmp_path)
    loaded = checkpoint.load(tmp_path, "intent")
    (found,) = _engine(loaded).predict(loaded.task("intent"), INTENTS[:1])
    assert {entry.label for entry in found.n_best} == {"no", "maybe", "yes"}
    assert found.loss is None  # it does not know the utterance's own class


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["no", "maybe", "yes"], "'no'"),
        (["B-a", "I-a", "B-b"], "'no O'"),
        (["O", "I-a", "B-b"], "'I-a'"),  # it would never begin
        (["O", "B-", "I-"], "'B-'"),
    ],
)
def test_a_checkpoint_whose_classes_are_no_tags_is_refused_for_slots(tmp_path, names, wrong):
    vocabulary = word_pieces()
    tokenizer = transformers.BertTokenizer(vocab={token: index for index, token in enumerate(vocabulary)})
    config = bert_config(len(vocabulary), num_labels=3, id2label=dict(enumerate(names)))
    save(transformers.BertForTokenClassification, config, tokenizer, tmp_path)
    loaded = checkpoint.load(tmp_path, "slots")
    with pytest.raises(CheckpointError, match=rf"tells {wrong} apart, expected O, B-… and I-…"):
        loaded.task("slots")


def test_a_window_as_long_as_the_positions_is_computed(made):
    loaded = _load(made / "bert", "read", window=POSITIONS)
    lengths = [len(window) for window in loaded.encoding.windows("貓叫什麼名字？", LONG * 3)]
    assert max(lengths) > POSITIONS - 8
    found = list(_engine(loaded).predict(make_task("read"), [QAExample("q", "貓？", (Context(LONG * 3, "p"),))]))
    assert found[0].answer
