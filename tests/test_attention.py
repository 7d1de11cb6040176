"""Attention with dropout, and layers computed twice, against the plain ways."""

import pytest
import torch
import transformers
from torch import nn

from zhaiju.modeling import attention as module
from zhaiju.modeling.attention import NAME, _Dropped, attention, quick_attention
from zhaiju.modeling.dropout import QuickDropout, quick_dropout
from zhaiju.modeling.memory import recompute_activations
from zhaiju.modeling.network import Network
from zhaiju.tasks import TASKS

pytestmark = pytest.mark.usefixtures("one_thread")


def made(architecture):
    """A tiny encoder of two layers with dropout."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.AutoConfig.for_model(architecture, vocab_size=20, embedding_size=16, pad_token_id=0, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = transformers.AutoModelForQuestionAnswering.from_config(config)
        for parameter in model.parameters():  # the usual 0.02 makes every logit of so small a model alike
            if parameter.requires_grad and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return Network(model, TASKS["read"].head)


def _inputs(dtype=torch.float64, count=5, length=23):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 2, length, 8, generator=generator, dtype=dtype, requires_grad=True) for _ in range(3)]


def _plain(query, key, value, hidden, kept, p, scaling):
    scores = query @ key.transpose(-1, -2) * scaling
    if hidden is not None:
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    return (torch.softmax(scores, -1) * kept / (1 - p)) @ value


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("limit", [1 << 22, 2 * 23 * 23 * 2])
def test_attention_and_its_gradients_are_the_formula(monkeypatch, kind, limit):
    inputs, dropout = _inputs(), QuickDropout(0.3)
    hidden = torch.zeros(5, 1, 23, 23, dtype=torch.bool)
    hidden[1, ..., 20:] = hidden[4, ..., 3:] = True
    mask = {"none": None, "bool": ~hidden, "float": torch.zeros(5, 1, 23, 23).masked_fill(hidden, -torch.inf)}[kind]
    monkeypatch.setattr(module, "SLICE", limit)
    torch.manual_seed(1)
    found = _Dropped.apply(*inputs, mask, dropout, 0.3)
    torch.manual_seed(1)
    sizes = [5] if limit > 10_000 else [2, 2, 1]
    kept = torch.cat([dropout.kept((size, 2, 23, 23), torch.float64) for size in sizes])
    wanted = _plain(*inputs, None if kind == "none" else hidden, kept, 0.3, 0.3)
    assert torch.allclose(found, wanted, atol=1e-12)
    weight = torch.randn(found.shape, dtype=torch.float64)
    for ours, theirs in zip(*(torch.autograd.grad(value, inputs, weight) for value in (found, wanted)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_bf16_stays_near_fp32():
    inputs, dropout = _inputs(torch.float32), QuickDropout(0.25)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            results.append(_Dropped.apply(*(value.to(dtype) for value in inputs), None, dropout, 8**-0.5))
    assert results[1].dtype == torch.bfloat16
    assert torch.allclose(results[0], results[1].float(), atol=0.03)


def test_without_dropout_it_is_pytorchs_own():
    query, key, value = _inputs(torch.float32)
    layer = nn.Module()
    found, _ = attention(layer, query, key, value, None, dropout=0.0, scaling=0.3, is_causal=False)
    wanted = nn.functional.scaled_dot_product_attention(query, key, value, scale=0.3)
    assert torch.equal(found, wanted.transpose(1, 2))


def test_the_mean_over_many_masks_is_attention_without():
    inputs, dropout = _inputs(torch.float32, count=2), QuickDropout(0.1)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([_Dropped.apply(*inputs, None, dropout, 0.3) for _ in range(400)])
    wanted = _plain(*inputs, None, torch.ones(()), 0.0, 0.3)
    assert draws.std(0).min() > 0
    assert ((draws.mean(0) - wanted).abs() < 5 * draws.std(0) / 400**0.5).all()


def test_a_probability_is_met_exactly_though_bytes_are_compared():
    torch.manual_seed(0)
    drawn = [float(QuickDropout(0.1).kept((1000, 100), torch.float32).mean()) for _ in range(40)]
    assert sum(drawn) / 40 == pytest.approx(0.9, abs=0.0007)  # 26/256 or 25/256 alone would be 0.0016 or 0.0023 off


@pytest.mark.parametrize("architecture", ["bert", "electra", "modernbert"])
def test_a_network_scores_as_before_and_seeds_decide_what_it_drops(architecture):
    network = made(architecture)
    ids = torch.randint(1, 20, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    before = network.eval().logits(ids, ids * 0, mask)
    quick_attention(network.model)
    quick_dropout(network)
    assert network.model.config._attn_implementation == NAME
    assert torch.equal(network.logits(ids, ids * 0, mask), before)
    network.train()
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(network.logits(ids, ids * 0, mask))
    assert torch.equal(draws[0], draws[1])
    if architecture != "modernbert":  # it has no dropout unless asked
        assert not torch.equal(draws[0], draws[2])


def test_what_is_saved_says_nothing_of_it(tmp_path):
    network = made("bert")
    quick_attention(network.model)
    network.model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text("utf-8")


@pytest.mark.parametrize("architecture", ["bert", "electra", "roformer"])
@pytest.mark.parametrize("replace", [quick_dropout, None])
def test_layers_computed_twice_give_the_same_loss_and_gradients(architecture, replace):
    ids = torch.randint(1, 20, (3, 14), generator=torch.Generator().manual_seed(0))
    results = []
    for twice in (False, True):
        network = made(architecture)
        quick_attention(network.model)
        if replace:
            replace(network)
        if twice:
            recompute_activations(network.model)
        network.train()
        torch.manual_seed(3)
        loss = network.logits(ids, ids * 0, torch.ones_like(ids)).float().softmax(-1)[..., 0].sum()
        loss.backward()
        gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
        results.append((loss, gradients, torch.rand(3)))  # and the same random state is left behind
    (loss, gradients, state), (other_loss, other_gradients, other_state) = results
    assert torch.equal(loss, other_loss)
    assert torch.equal(state, other_state)
    assert len(gradients) > 10
    assert gradients.keys() == other_gradients.keys()
    assert all(torch.equal(value, other_gradients[name]) for name, value in gradients.items())
