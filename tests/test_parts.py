from functools import cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from budget import examples
from zhaiju.data.chunks import arrays, pad
from zhaiju.data.hints import HINT_TYPES, SPECIAL, fields
from zhaiju.modeling import parts
from zhaiju.modeling.checkpoint import Shape, from_scratch
from zhaiju.modeling.network import collate
from zhaiju.modeling.parts import PooledDropout, is_parametrised, plain_state, pool_dropout, sum_token_types
from zhaiju.tasks import TASKS
from zhaiju.tasks.base import Item

# Written for these tests.
CONTEXT = "老張在港口修了三十年的船；退休以後每天清晨仍到碼頭散步。"
QUESTION = "誰在港口修船？"
ARCHITECTURES = ("bert", "roformer")
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)

pytestmark = pytest.mark.usefixtures("one_thread")


def made(architecture="bert", task="read", dropout=0.1):
    """A tiny encoder whose token types are hints."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        checkpoint = from_scratch(
            task, [CONTEXT, QUESTION], encoder=None,
            shape=Shape(architecture, layers=1, hidden=16, heads=2, intermediate=32, positions=64, dropout=dropout),
            window=48, overlap=8, script="simplified", match_types=False, hints=True,
        )  # fmt: skip
        for parameter in checkpoint.network.parameters():  # the usual 0.02 makes every logit of so small a model alike
            if parameter.requires_grad and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return checkpoint


def types_of(network):
    return network.model.base_model.embeddings.token_type_embeddings


def logits(network, checkpoint):
    windows = checkpoint.encoding.windows(QUESTION, CONTEXT) + checkpoint.encoding.windows("船？", CONTEXT[:9])
    tensors = [torch.from_numpy(array) for array in arrays(pad(windows, 0))]
    training = network.training
    network.eval()
    with torch.inference_mode():
        found = network.logits(*tensors)
    network.train(training)
    return found


# Token types as sums


@every_architecture
def test_the_table_of_types_is_the_sum_of_its_parts(architecture):
    network = made(architecture).network
    before = types_of(network).weight.detach().clone()
    torch.manual_seed(0)
    sum_token_types(network)
    embedding = types_of(network)
    own = embedding.parametrizations.weight.original.detach()
    found = fields(np.arange(HINT_TYPES))
    sizes = {name: int(values.max()) + 1 for name, values in found.items()}
    assert own.shape == (sum(sizes.values()), 16)
    starts = dict(zip(sizes, np.cumsum([0, *list(sizes.values())[:-1]]).tolist(), strict=True))
    assert embedding.weight.shape == before.shape == (HINT_TYPES, 16)
    for number in range(1, HINT_TYPES):
        expected = sum(own[starts[name] + found[name][number]] for name in sizes)
        assert torch.allclose(embedding.weight[number], expected, atol=1e-6)
    assert torch.equal(embedding.weight[SPECIAL], own[starts["side"]])  # and of nothing else
    assert 0.7 < float(own.std() / before.std()) < 1.4


def test_each_part_is_learnt_from_every_type_that_has_it():
    network = made().network
    sum_token_types(network)
    embedding = types_of(network)
    embedding.weight[[SPECIAL, 1]].sum().backward()
    touched = embedding.parametrizations.weight.original.grad.abs().sum(1) > 0
    found = fields(np.arange(HINT_TYPES))
    assert int(touched.sum()) == 1 + len(found)  # the special tokens' side, and the parts of type 1
    embedding.weight.sum().backward()
    assert (embedding.parametrizations.weight.original.grad.abs().sum(1) > 0).all()  # no part is left unused


@every_architecture
def test_only_a_network_with_sums_is_parametrised(architecture):
    network = made(architecture).network
    assert not is_parametrised(network)
    pool_dropout(network)
    assert not is_parametrised(network)
    sum_token_types(network)
    assert is_parametrised(network)
    assert is_parametrised(network.model)


@every_architecture
@pytest.mark.parametrize("task", ["read", "select"])
def test_the_plain_state_is_that_of_a_plain_model_and_scores_the_same(tmp_path, architecture, task):
    checkpoint = made(architecture, task)
    network = checkpoint.network
    names = set(network.model.state_dict())
    sum_token_types(network)
    pool_dropout(network)
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(3):  # so that it is no state that anybody begins with
        ids = torch.randint(1, 20, (2, 12))
        network.train().logits(ids, ids, torch.ones_like(ids)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = plain_state(network.model)
    assert set(state) == names
    assert not any("parametri" in name for name in state)
    assert not any(value.requires_grad for value in state.values())
    network.model.save_pretrained(tmp_path, state_dict=dict(state))
    model, report = getattr(transformers, TASKS[task].head.auto_class).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for parameter in model.parameters():  # where a mapped file has them is not where memory has; see `load`
        parameter.data = parameter.data.clone()
    plain = type(network)(model, TASKS[task].head)
    assert len(logits(plain, checkpoint).unique()) > 1
    assert torch.equal(logits(plain, checkpoint), logits(network, checkpoint))
    assert is_parametrised(network)  # the training goes on with it


def test_the_plain_state_of_a_plain_model_is_its_state():
    model = made().network.model
    state = model.state_dict()
    plain = plain_state(model)
    assert plain.keys() == state.keys()
    assert all(torch.equal(plain[name], state[name]) for name in state)


def test_a_network_of_sums_and_pools_learns():
    checkpoint = made(dropout=0.0)
    network = checkpoint.network
    torch.manual_seed(2)
    sum_token_types(network)
    pool_dropout(network)
    (window,) = checkpoint.encoding.windows(QUESTION, CONTEXT)
    batch = collate([Item([window], (len(QUESTION) + 2, len(QUESTION) + 3))], TASKS["read"].head, 0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = network.train()(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4


# Dropout


@cache
def pooled(p):
    return PooledDropout(p)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_dropout_does_nothing_outside_training(p):
    values = torch.randn(3, 70)
    assert pooled(p).eval()(values) is values


def test_dropout_of_nothing_does_nothing():
    values = torch.randn(3, 70)
    assert pooled(0.0).train()(values) is values


@settings(deadline=None, max_examples=examples(30))
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    p=st.sampled_from([0.1, 0.5]),
    kind=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**62),
)
def test_values_are_dropped_or_rescaled_and_nothing_else(shape, p, kind, seed):
    torch.manual_seed(seed)
    values = torch.randn(shape).abs().add(0.1).to(kind)
    before = values.clone()
    found = pooled(p).train()(values)
    assert torch.equal(values, before)
    assert found.shape == values.shape
    assert found.dtype == values.dtype
    kept = found != 0
    assert torch.allclose(found[kept], (values / (1 - p))[kept], rtol=1e-2 if kind == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_drops_its_share(p):
    torch.manual_seed(3)
    found = pooled(p).train()(torch.ones(1000, 1000))
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.005)
    assert float(found.mean()) == pytest.approx(1, abs=0.01)
    each = torch.stack([pooled(p).train()(torch.ones(50)) for _ in range(4000)])
    assert (each.mean(0) - 1).abs().max() < 0.1  # at every place


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_neighbours_are_dropped_independently(p):
    torch.manual_seed(4)
    kept = (pooled(p).train()(torch.ones(500, 501)) != 0).float()
    for one, other in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1])):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.01


def test_the_gradient_goes_through_what_is_kept():
    torch.manual_seed(5)
    values = torch.randn(30, 30, requires_grad=True)
    found = pooled(0.5).train()(values)
    found.sum().backward()
    kept = found.detach() != 0
    assert torch.equal(values.grad, kept * 2.0)


def test_the_seed_of_torch_decides_what_is_dropped():
    def draw(seed, module):
        torch.manual_seed(seed)
        return torch.stack([module.train()(torch.ones(200)) for _ in range(3)])

    first = draw(7, pooled(0.5))
    assert torch.equal(first, draw(7, PooledDropout(0.5)))  # and not who made the pool, or when
    assert not torch.equal(first, draw(8, pooled(0.5)))
    assert not torch.equal(first[0], first[1])


def test_more_values_than_the_pool_holds_are_dropped_as_ever(monkeypatch):
    monkeypatch.setattr(parts, "POOL", 100)
    small = PooledDropout(0.5).train()
    torch.manual_seed(6)
    for count in (99, 100, 101, 2000):
        found = small(torch.ones(count))
        assert set(found.unique().tolist()) <= {0.0, 2.0}
        assert 0 < float((found == 0).float().mean()) < 1


@every_architecture
def test_every_dropout_takes_its_masks_from_one_pool(architecture):
    network = made(architecture).network
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Dropout)]
    state = set(network.state_dict())
    pool_dropout(network)
    assert not any(isinstance(module, nn.Dropout) for module in network.modules())
    assert len({id(network.get_submodule(name)) for name in names}) == 1
    assert len(names) > 3
    assert all(isinstance(network.get_submodule(name), PooledDropout) for name in names)
    assert set(network.state_dict()) == state  # the pool is not kept


def test_dropouts_of_different_probabilities_have_pools_of_their_own():
    module = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), nn.Dropout(0.1))
    pool_dropout(module)
    assert (module[0].p, module[1][1].p) == (0.1, 0.5)
    assert module[0] is module[2]


@every_architecture
def test_a_network_with_pools_scores_as_before_and_drops_in_training(architecture):
    checkpoint = made(architecture)
    network = checkpoint.network
    before = logits(network, checkpoint)
    pool_dropout(network)
    assert torch.equal(logits(network, checkpoint), before)
    ids = torch.randint(1, 20, (2, 12))
    network.train()
    torch.manual_seed(0)
    one, two = (network.logits(ids, ids, torch.ones_like(ids)) for _ in range(2))
    torch.manual_seed(0)
    again = network.logits(ids, ids, torch.ones_like(ids))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
