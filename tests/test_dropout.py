import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from budget import examples
from zhaiju.modeling.dropout import QuickDropout, quick_dropout

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_dropout_does_nothing_outside_training(p):
    values = torch.randn(3, 70)
    assert QuickDropout(p).eval()(values) is values


def test_dropout_of_nothing_does_nothing():
    values = torch.randn(3, 70)
    assert QuickDropout(0.0).train()(values) is values


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
    found = QuickDropout(p).train()(values)
    assert torch.equal(values, before)
    assert found.shape == values.shape
    assert found.dtype == values.dtype
    kept = found != 0
    assert torch.allclose(found[kept], (values / (1 - p))[kept], rtol=1e-2 if kind == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_drops_its_share(p):
    torch.manual_seed(3)
    found = QuickDropout(p).train()(torch.ones(1000, 1000))
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.005)
    assert float(found.mean()) == pytest.approx(1, abs=0.01)
    each = torch.stack([QuickDropout(p).train()(torch.ones(50)) for _ in range(4000)])
    assert (each.mean(0) - 1).abs().max() < 0.1  # at every place


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_neighbours_are_dropped_independently(p):
    torch.manual_seed(4)
    kept = (QuickDropout(p).train()(torch.ones(500, 501)) != 0).float()
    for one, other in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1])):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.01


def test_the_gradient_goes_through_what_is_kept():
    torch.manual_seed(5)
    values = torch.randn(30, 30, requires_grad=True)
    found = QuickDropout(0.5).train()(values)
    found.sum().backward()
    kept = found.detach() != 0
    assert torch.equal(values.grad, kept * 2.0)


def test_the_seed_of_torch_decides_what_is_dropped():
    def draw(seed, module):
        torch.manual_seed(seed)
        return torch.stack([module.train()(torch.ones(200)) for _ in range(3)])

    first = draw(7, QuickDropout(0.5))
    assert torch.equal(first, draw(7, QuickDropout(0.5)))
    assert not torch.equal(first, draw(8, QuickDropout(0.5)))
    assert not torch.equal(first[0], first[1])


def test_every_dropout_of_a_network_is_replaced_with_its_own_probability_and_mode():
    module = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5).eval()))
    state = set(module.state_dict())
    quick_dropout(module)
    assert [type(module[0]), type(module[1][1])] == [QuickDropout, QuickDropout]
    assert (module[0].p, module[1][1].p) == (0.1, 0.5)
    assert (module[0].training, module[1][1].training) == (True, False)
    assert set(module.state_dict()) == state
