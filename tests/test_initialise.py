"""First weights for a classifier: the first token is the mean of all, the output layer tells the classes apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from checkpoints import CHECKPOINTS, HIDDEN, INTENTS, LABELS, POSITIONS, SLOTTED, save, word_pieces
from zhaiju.config import TrainSettings
from zhaiju.data.chunks import arrays, pad
from zhaiju.data.examples import IntentExample
from zhaiju.data.formats import ReadLog
from zhaiju.errors import ConfigError
from zhaiju.inference.engine import make_engine
from zhaiju.modeling.checkpoint import load
from zhaiju.modeling.initialise import STRENGTH, discriminant_head, freeze_embeddings, mean_pooling
from zhaiju.tasks import IntentTask
from zhaiju.training.loop import Loop
from zhaiju.training.run import TrainData, train

pytestmark = pytest.mark.usefixtures("one_thread")

# Which of the encoders are built like BERT as far as it matters.
BERTS = {"bert", "ernie", "roberta-wwm", "roberta-wwm-vocab-only"}
MEAN = BERTS | {"electra", "roformer"}
DISCRIMINANT = BERTS
PLACES = ("港口", "圖書館", "實驗室", "市集")
every_encoder = pytest.mark.parametrize("name", [*CHECKPOINTS, "roberta", "convbert"])


def _roberta(directory):
    """RoBERTa's own architecture, whose output layer has the dense layer and whose positions begin after the pad."""
    config = transformers.RobertaConfig(
        vocab_size=len(word_pieces()), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * HIDDEN, max_position_embeddings=POSITIONS, pad_token_id=0,
    )  # fmt: skip
    save(transformers.RobertaModel, config, _tokenizer(), directory)


def _convbert(directory):
    config = transformers.ConvBertConfig(
        vocab_size=len(word_pieces()), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * HIDDEN, max_position_embeddings=POSITIONS, embedding_size=HIDDEN,
    )  # fmt: skip
    save(transformers.ConvBertModel, config, _tokenizer(), directory)


def _tokenizer():
    return transformers.BertTokenizer(vocab={token: index for index, token in enumerate(word_pieces())})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    for name, maker in {**CHECKPOINTS, "roberta": _roberta, "convbert": _convbert}.items():
        maker(folder / name)
    return folder


def _load(where, labels=LABELS["intent"]):
    loaded = load(where, "intent", window=64, overlap=8, labels=labels, head_required=False)
    loaded.network.eval()
    return loaded


def _tensors(loaded, texts=tuple(example.text for example in INTENTS[:6])):
    windows = [window for text in texts for window in loaded.encoding.text_windows(text)]
    return [torch.from_numpy(array) for array in arrays(pad(windows, loaded.encoding.pad_id))]


def _normed(value, epsilon):
    return (value - value.mean(-1, keepdim=True)) / torch.sqrt(value.var(-1, keepdim=True, unbiased=False) + epsilon)


def _weights(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


# The mean


@torch.inference_mode()
@pytest.mark.parametrize("name", sorted(MEAN | {"roberta"}))
def test_the_first_token_becomes_the_mean_of_all_beside_itself(made, name):
    loaded = _load(made / name)
    mean_pooling(loaded.network)
    ids, types, mask = _tensors(loaded)
    assert 0 < (mask == 0).sum() < mask.sum()  # some are padded
    states = loaded.network.model.base_model(
        **loaded.network._inputs(ids, types, mask), output_hidden_states=True
    ).hidden_states
    assert len(states) == 3
    before, epsilon = states[-2], loaded.network.model.config.layer_norm_eps
    for row in range(len(ids)):
        length = int(mask[row].sum())
        summed = before[row, :1] + STRENGTH * before[row, :length].mean(0)
        expected = _normed(_normed(summed, epsilon), epsilon)
        assert torch.allclose(states[-1][row, :1], expected, atol=1e-5)


@torch.inference_mode()
def test_padding_is_no_part_of_the_mean(made):
    loaded = _load(made / "bert")
    mean_pooling(loaded.network)
    together = loaded.network.hidden(*_tensors(loaded))[:, 0]
    for row, example in enumerate(INTENTS[:6]):
        alone = loaded.network.hidden(*_tensors(loaded, (example.text,)))[:, 0]
        assert torch.allclose(together[row : row + 1], alone, atol=1e-5)


@every_encoder
def test_every_encoder_is_pooled_or_refused_in_one_line(made, name):
    loaded = _load(made / name)
    before = _weights(loaded.network)
    if name in MEAN | {"roberta"}:
        mean_pooling(loaded.network)
        changed = {key for key, value in _weights(loaded.network).items() if not torch.equal(value, before[key])}
        assert changed
        assert all("encoder.layer.1." in key for key in changed)
        return
    with pytest.raises(ConfigError, match=r"^pooling mean needs an encoder with BERT's layers, found \w+; use .*cls$"):
        mean_pooling(loaded.network)
    after = _weights(loaded.network)
    assert all(torch.equal(value, before[key]) for key, value in after.items())


def test_the_mean_can_still_be_trained(made):
    loaded = _load(made / "bert")
    mean_pooling(loaded.network)
    logits = loaded.network.logits(*_tensors(loaded))
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 3).backward()
    last = dict(loaded.network.model.bert.encoder.layer[-1].named_parameters())
    for part in ("attention.self.value", "attention.output.dense", "output.dense"):
        assert last[f"{part}.weight"].grad.abs().sum() > 0


# The output layer


def _utterances(count):
    """What is said of a place: its class."""
    generator = np.random.default_rng(5)
    letters = np.array(list("abcdefghijklmnop"))
    return [
        IntentExample(str(number), f"{PLACES[number % 4]} {' '.join(generator.choice(letters, 3))}", PLACES[number % 4])
        for number in range(count)
    ]


def _items(loaded, examples):
    task = IntentTask(loaded.labels)
    generator = np.random.default_rng(0)
    return [item for example in examples for item in task.items(example, loaded.encoding, generator)]


def _right(loaded, examples):
    found = make_engine(loaded).predict(IntentTask(loaded.labels), examples)
    return np.mean([one.label == example.label for one, example in zip(found, examples, strict=True)])


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("name", sorted(DISCRIMINANT | {"roberta"}))
def test_the_discriminant_tells_the_training_utterances_apart(made, name, pooled):
    examples = _utterances(120)
    loaded = _load(made / name, labels=PLACES)
    if pooled:
        mean_pooling(loaded.network)
    random = _right(loaded, examples)
    discriminant_head(loaded.network, _items(loaded, examples), loaded.encoding.pad_id)
    found = _right(loaded, examples)
    assert found > 0.9
    assert found > random + 0.3
    assert _right(loaded, _utterances(200)[120:]) > 0.8  # others of the same kind


def test_the_discriminant_of_made_vectors_is_fishers(made, monkeypatch):
    """Two classes that differ along one axis, among others that vary much more."""
    generator = np.random.default_rng(1)
    labels = np.arange(400) % 2
    vectors = generator.normal(size=(400, HIDDEN)) * np.linspace(0.5, 6, HIDDEN)
    vectors[:, 0] += 3 * labels
    monkeypatch.setattr("zhaiju.modeling.initialise._vectors", lambda *arguments: vectors)
    loaded = _load(made / "bert", labels=("a", "b"))
    items = _items(loaded, [IntentExample(str(n), "rain", "ab"[label]) for n, label in enumerate(labels)])
    before = _weights(loaded.network)
    discriminant_head(loaded.network, items, 0)
    model = loaded.network.model
    with torch.inference_mode():
        logits = model.classifier(torch.tanh(model.bert.pooler.dense(torch.from_numpy(vectors).float())))
    assert (logits.argmax(1).numpy() == labels).mean() > 0.95
    nearest = np.linalg.norm(vectors[:, None] - [vectors[labels == one].mean(0) for one in (0, 1)], axis=2).argmin(1)
    assert (logits.argmax(1).numpy() == labels).mean() > (nearest == labels).mean()  # whitening helps
    changed = {name for name, value in _weights(loaded.network).items() if not torch.equal(value, before[name])}
    assert {name.removeprefix("model.") for name in changed} == {
        f"{layer}.{part}" for layer in ("bert.pooler.dense", "classifier") for part in ("weight", "bias")
    }


def test_the_discriminant_is_the_same_each_time_and_leaves_the_network_as_it_was(made):
    examples = _utterances(40)
    found = []
    for training in (False, True):
        loaded = _load(made / "bert", labels=PLACES)
        loaded.network.train(training)  # dropout has no say
        state = torch.get_rng_state()
        discriminant_head(loaded.network, _items(loaded, examples), loaded.encoding.pad_id, smoothing=0.1)
        assert loaded.network.training is training
        assert torch.equal(torch.get_rng_state(), state)
        found.append(_weights(loaded.network))
    # The output layer is set whole: nothing of its random weights is left.
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("count", [1, 4])
def test_a_single_utterance_of_a_class_is_enough(made, count):
    examples = _utterances(count)
    loaded = _load(made / "bert", labels=PLACES)
    discriminant_head(loaded.network, _items(loaded, examples), loaded.encoding.pad_id)
    assert all(torch.isfinite(value).all() for value in _weights(loaded.network).values())
    assert _right(loaded, examples) == 1.0


@every_encoder
def test_an_output_layer_that_is_not_berts_is_refused_and_left_alone(made, name):
    loaded = _load(made / name, labels=PLACES)
    items = _items(loaded, _utterances(8))
    before = _weights(loaded.network)
    if name in DISCRIMINANT | {"roberta"}:
        discriminant_head(loaded.network, items, loaded.encoding.pad_id)
        assert any(not torch.equal(value, before[key]) for key, value in _weights(loaded.network).items())
        return
    with pytest.raises(
        ConfigError, match=r"^head discriminant needs an output layer like BERT's, found \w+; .*random$"
    ):
        discriminant_head(loaded.network, items, loaded.encoding.pad_id)
    assert all(torch.equal(value, before[key]) for key, value in _weights(loaded.network).items())


# The embeddings


@every_encoder
def test_frozen_embeddings_stay_and_the_rest_moves(made, name):
    loaded = _load(made / name)
    freeze_embeddings(loaded.network)
    prefix = f"model.{loaded.network.model.base_model_prefix}.embeddings."
    before = _weights(loaded.network)
    settings = TrainSettings(encoder="x", lr=1e-2, warmup=0.0, max_steps=1, weight_decay=0.1, dropout=0.0, threads=1)
    task = IntentTask(loaded.labels)
    loop = Loop(loaded.network, task, INTENTS, loaded.encoding, settings, evaluate=lambda: {"accuracy": 0.0}, pad_id=0)
    list(loop.events())
    after = _weights(loaded.network)
    frozen = {key for key in before if key.startswith(prefix)}
    assert frozen
    assert all(torch.equal(after[key], before[key]) for key in frozen)
    # RoFormer's sines are no weights.
    matrices = {key for key, value in before.items() if key not in frozen and value.ndim > 1 and "embed_pos" not in key}
    assert not {key for key in matrices if torch.equal(after[key], before[key])}


def test_an_encoder_without_embeddings_of_that_name_is_refused():
    loaded = torch.nn.Module()
    loaded.model = torch.nn.Module()
    loaded.model.base_model = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=r"^freeze_embeddings: Module has no embeddings of that name$"):
        freeze_embeddings(loaded)


# A training


@pytest.fixture(scope="module")
def settings(made):
    return TrainSettings(
        encoder=str(made / "bert"), window=64, overlap=8, threads=1, lr=1e-2, max_steps=3, batch_tokens=256,
        pooling="mean", head="discriminant", freeze_embeddings=True,
    )  # fmt: skip


def test_such_a_training_leaves_a_plain_transformers_checkpoint(made, settings, tmp_path):
    examples = _utterances(40)
    train("intent", settings, TrainData(examples, examples[:8], [], ReadLog()), tmp_path / "run")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "best").eval()
    assert type(theirs) is transformers.BertForSequenceClassification
    assert set(theirs.config.id2label.values()) == set(PLACES)
    loaded = load(tmp_path / "run")
    loaded.network.eval()
    ids, types, mask = _tensors(loaded, tuple(example.text for example in examples))
    with torch.inference_mode():
        logits = theirs(input_ids=ids, token_type_ids=types, attention_mask=mask).logits
        assert torch.equal(logits, loaded.network.logits(ids, types, mask))
    own = transformers.BertModel.from_pretrained(made / "bert").embeddings.state_dict()
    kept = theirs.bert.embeddings.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in own.items())


def test_such_a_training_begins_better_than_a_random_one(settings, tmp_path):
    examples = _utterances(60)
    figures = {}
    for name, changes in {"plain": {"pooling": "cls", "head": "random"}, "ours": {}}.items():
        chosen = replace(settings, lr=1e-9, max_steps=1, **changes)
        data = TrainData(examples, examples, [], ReadLog())
        figures[name] = train("intent", chosen, data, tmp_path / name).metrics["accuracy"]
    assert figures["ours"] > 0.9
    assert figures["ours"] > figures["plain"] + 0.3


def test_an_encoder_that_cannot_be_so_set_up_is_refused_before_the_first_step(made, settings, tmp_path):
    examples = _utterances(8)
    data = TrainData(examples, examples, [], ReadLog())
    for changes, message in (({"head": "random"}, "use pooling cls"), ({"pooling": "cls"}, "use head random")):
        chosen = replace(settings, encoder=str(made / "modernbert"), **changes)
        with pytest.raises(ConfigError, match=message):
            train("intent", chosen, data, tmp_path / message.split()[-1])
        assert not list((tmp_path / message.split()[-1]).glob("checkpoints/*"))


def test_the_tasks_that_have_no_such_output_layer_are_left_as_they_are(settings, tmp_path):
    figures = []
    for name, changes in {"plain": {"pooling": "cls", "head": "random"}, "ours": {}}.items():
        data = TrainData(SLOTTED, SLOTTED, [], ReadLog())
        figures.append(train("slots", replace(settings, **changes), data, tmp_path / name).metrics)
    assert figures[0] == figures[1]
    assert "f1" in figures[0]
