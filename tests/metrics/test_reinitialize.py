"""New parameters for a borrowed model, and the old ones back."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.metrics import parameter_randomization
from tests.metrics.helpers import rng
from tests.metrics.randomized import Network, batch, changed, parameters_of, watched


@pytest.mark.filterwarnings("ignore:the model is in training mode")
@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("fails", [0, 1, 4])
def test_the_model_is_as_before(cumulative, fails):
    network = Network().train()
    network.attention.eval()
    network.embed.weight.grad = torch.full_like(network.embed.weight, 2.0)
    network.token.requires_grad_(False)
    with torch.no_grad():
        network.head.bias[0] = float("nan")
        network.head.bias[0] = 1e-40  # not a normal number
    state = {k: v.clone() for k, v in network.state_dict().items()}
    tensors = list(network.parameters()) + list(network.buffers())
    flags = [(m.training, len(m._forward_hooks)) for m in network.modules()]
    gradients = [(p.requires_grad, p.grad) for p in network.parameters()]
    x, target = batch()
    calls = []

    def explain(x, target):
        calls.append(1)
        network(x)  # moves the statistics of the BatchNorm
        network.norm.eval()
        if len(calls) == fails:
            raise RuntimeError("from the model")
        return Saliency(network).attribute(x.detach().requires_grad_(), target=target)

    if fails == 1:  # nothing was preserved yet: what the function did itself is its own
        network.norm.register_forward_pre_hook(lambda m, a: (_ for _ in ()).throw(RuntimeError()))
        with pytest.raises(RuntimeError):
            parameter_randomization(Saliency(network), x, target=target, cumulative=cumulative)
        network.norm._forward_pre_hooks.clear()
    elif fails:
        with pytest.raises(RuntimeError, match="from the model"):
            parameter_randomization(explain, x, network, target=target, cumulative=cumulative)
        assert len(calls) == fails
    else:
        parameter_randomization(Saliency(network), x, target=target, cumulative=cumulative)
    if fails != 4:
        assert flags == [(m.training, len(m._forward_hooks)) for m in network.modules()]
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name])
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, state[name])
    assert all(
        a is b for a, b in zip(tensors, [*network.parameters(), *network.buffers()], strict=True)
    )
    for (flag, gradient), p in zip(gradients, network.parameters(), strict=True):
        assert p.requires_grad == flag
        assert p.grad is gradient
    assert (network.embed.weight.grad == 2).all()


def test_a_reset_that_puts_new_parameters_in_place():
    class Replacing(nn.Linear):
        def reset_parameters(self):
            super().reset_parameters()
            if hasattr(self, "ready"):
                self.weight = nn.Parameter(torch.rand(3, 4))

    network = Replacing(4, 3)
    network.ready, weight = True, network.weight
    steps = []
    parameter_randomization(watched(network, steps), torch.rand(2, 4), network, target=1)
    assert changed(*steps) == {"weight", "bias"}
    assert network.weight is weight
    assert not changed(steps[0], parameters_of(network))


def test_the_global_random_state_stays():
    network = Network()
    x, target = batch()
    state = torch.get_rng_state()
    parameter_randomization(Saliency(network), x, target=target)
    assert torch.equal(torch.get_rng_state(), state)
    seen = []

    def explain(x):
        seen.append(torch.rand(1).item())  # an explanation's own draws are the same each time
        return x

    state = torch.get_rng_state()
    parameter_randomization(explain, x, network)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(seen) > 2
    assert len(set(seen)) == 1
    assert not x.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_random_state_of_the_gpu_stays():
    network = Network().cuda()
    x, target = (t.cuda() for t in batch())
    state, steps = torch.cuda.get_rng_state(), []
    run = partial(parameter_randomization, watched(network, steps), x, network, target=target)
    run(generator=rng())
    run(generator=rng())
    assert torch.equal(torch.cuda.get_rng_state(), state)
    half = len(steps) // 2
    for first, second in zip(steps[:half], steps[half:], strict=True):
        assert not changed(first, second)
