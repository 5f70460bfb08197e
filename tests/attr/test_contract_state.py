"""What every explanation leaves as it was, and what it says of bad inputs."""

from __future__ import annotations

import gc

import pytest
import torch

from captum_robust.attr import (
    differentiable,
)
from tests.attr.cases import (
    CASES,
    Network,
    each_way,
    explain,
    points,
)

# These small networks have neurons without a positive contribution, which z+ loses.
pytestmark = pytest.mark.filterwarnings("ignore:relevance propagation. only")
# --- Nothing is left behind.


def frozen_in_training(network):
    """Training mode, with the BatchNorm frozen and one parameter that is not learned."""
    network.train()
    network.norm.eval()
    network.dropout.eval()
    network.first.bias.requires_grad_(False)
    for i, parameter in enumerate(network.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, float(i))
    network.second.register_forward_hook(lambda *args: None)
    return network


def state(network):
    return {
        "tensors": {key: value.clone() for key, value in network.state_dict().items()},
        "identity": [id(t) for t in (*network.parameters(), *network.buffers())],
        "grads": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "learned": [p.requires_grad for p in network.parameters()],
        "training": [module.training for module in network.modules()],
        "hooks": [
            [len(hooks) for key, hooks in sorted(vars(module).items()) if key.endswith("_hooks")]
            for module in network.modules()
        ],
        "attributes": [sorted(vars(module)) for module in network.modules()],
        "grad mode": torch.is_grad_enabled(),
        "softplus": torch.relu(torch.tensor([-1.0])).item(),
    }


def assert_same(before, after):
    for key, value in before.items():
        if key == "tensors":
            assert value.keys() == after[key].keys()
            assert all(torch.equal(tensor, after[key][name]) for name, tensor in value.items())
        elif key == "grads":
            for old, new in zip(value, after[key], strict=True):
                assert old is new is None or torch.equal(old, new)
        else:
            assert value == after[key], key


@each_way()
def test_no_circle_of_references_keeps_memory(name, graph):
    """Python frees circles late, and with them the activations of a whole pass."""

    network, inputs = Network().eval(), points()

    def run():
        explain(name, network, inputs, graph, target=1)

    run()  # what is made once, such as caches, is made
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        run()
        gc.collect()
        kept = [type(thing) for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not kept


class Fails(Exception):
    pass


def failing(network, at):
    """The network, which raises in its ``at``-th call, after its rectifiers."""
    calls = []

    def forward(*args):
        output = network(*args)
        calls.append(1)
        if len(calls) == at:
            raise Fails
        return output

    return forward


@each_way()
@pytest.mark.parametrize("fails_at", [None, 1, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_nothing_is_left_behind(name, graph, fails_at, grad):
    network = frozen_in_training(Network())
    plain, learned = points(), points(seed=3).requires_grad_()
    derived = learned * 2
    kept = plain.clone()
    before, numbers = state(network), torch.get_rng_state()
    case = CASES[name]
    for inputs in (plain, learned, derived, (plain, learned.view(3, 2, 2))):
        torch.set_rng_state(numbers)
        attribution = case.make(failing(network, fails_at) if fails_at else network)
        run = differentiable(attribution) if graph else attribution.attribute
        with torch.set_grad_enabled(grad):
            try:
                result = run(inputs, target=1, **case.arguments())
            except Fails:
                assert fails_at
            else:
                first = result[0] if isinstance(result, tuple) else result
                assert first.requires_grad == graph
            assert torch.is_grad_enabled() == grad
        assert_same(before, state(network))
        if not case.draws:
            assert torch.equal(numbers, torch.get_rng_state())
    assert torch.equal(plain, kept)
    assert not plain.requires_grad
    assert learned.requires_grad
    assert learned.is_leaf
    assert learned.grad is None
    assert derived.requires_grad
    assert derived.grad_fn is not None


# --- Bad input.


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.full((2, 4), float("nan")), ValueError, "inputs has NaN or Inf"),
        (torch.tensor([[0.0, 1, 2, float("inf")]]), ValueError, "inputs has NaN or Inf"),
        ((points(2), points(2) / 0), ValueError, "inputs has NaN or Inf"),
        (torch.zeros(0, 4), ValueError, "inputs is empty"),
        (torch.tensor(1.0), ValueError, "inputs must have a batch dimension"),
        ((points(2), points(3)), ValueError, "inputs must hold the same examples"),
        ([points(2)], TypeError, "inputs must be a tensor or a tuple of tensors, got list"),
        ((points(2), None), TypeError, "got NoneType"),
        ((), TypeError, "inputs must be a tensor"),
        (points(2).numpy(), TypeError, "got ndarray"),
        (None, TypeError, "got NoneType"),
    ],
    ids=str,
)
def test_bad_inputs_are_named(name, inputs, error, message):
    called = []
    with pytest.raises(error, match=message):
        explain(name, called.append, inputs, target=0)
    assert not called
