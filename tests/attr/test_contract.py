"""What holds for every explanation of the room, from one table."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from captum.attr import (
    Attribution,
    DeepLift,
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import nn

import captum_robust.attr as room
from captum_robust import perturbations
from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    GuidedBackprop,
    InfidelityOptimal,
    KernelSmoothing,
    NoisyBaseline,
    PatternAttribution,
    Patterns,
    RelevancePropagation,
    SparsifiedSmoothing,
    differentiable,
)

# These small networks have neurons without a positive contribution, which z+ loses.
pytestmark = pytest.mark.filterwarnings("ignore:relevance propagation. only")
SEED = 5


def seeded():
    """Arguments of KernelSmoothing; a fresh generator for each call."""
    return {"generator": torch.Generator().manual_seed(SEED), "n_samples": 3, "radius": 0.2}


@dataclass
class Case:
    make: object  # from a forward function to an attribution
    arguments: object = dict  # further arguments, made for each call
    graph: bool = True  # whether differentiable() accepts it
    draws: bool = False  # whether it draws through captum from the global random state
    homogeneous: bool = True  # whether it is twice as large for twice the output


def propagation(forward):
    return RelevancePropagation(forward, -9.0, 9.0)


def pattern_attribution(forward):
    """With patterns that are drawn, for the network that ``forward`` is or calls."""
    cells = [cell.cell_contents for cell in getattr(forward, "__closure__", None) or ()]
    network = next((f for f in (forward, *cells) if isinstance(f, nn.Module)), None) or Network()
    generator = torch.Generator().manual_seed(3)
    patterns = Patterns({
        name: fitting(torch.randn(weight.shape, generator=generator), weight.detach())
        for name, weight in network.named_parameters()
        if weight.dim() > 1
    })  # fmt: skip
    return PatternAttribution(forward, patterns, network)


def fitting(pattern, weight):
    """The nearest pattern whose product with the weight sums to 1, as a learned one's does."""
    answer, size = ((weight * t).flatten(1).sum(1) for t in (pattern, weight))
    return pattern + ((1 - answer) / size).view(-1, *[1] * (weight.dim() - 1)) * weight


OCCLUDE = partial(dict, sliding_window_shapes=(2,))
CASES = {
    "BetaSmoothedGradient": Case(BetaSmoothedGradient),
    "BetaSmoothing(Saliency)": Case(lambda f: BetaSmoothing(Saliency(f))),
    "BetaSmoothing(InputXGradient)": Case(lambda f: BetaSmoothing(InputXGradient(f), 3.0)),
    "BetaSmoothing(IntegratedGradients)": Case(
        lambda f: BetaSmoothing(IntegratedGradients(f)), partial(dict, n_steps=3)
    ),
    "BetaSmoothing(IntegratedGradients), batched": Case(
        lambda f: BetaSmoothing(IntegratedGradients(f)),
        partial(dict, n_steps=3, internal_batch_size=6),
    ),
    "BetaSmoothing(FeatureAblation)": Case(
        lambda f: BetaSmoothing(FeatureAblation(f)), graph=False
    ),
    "BetaSmoothing(NoiseTunnel)": Case(
        lambda f: BetaSmoothing(NoiseTunnel(Saliency(f))),
        partial(dict, stdevs=0.1, nt_samples=2),
        graph=False,
        draws=True,
    ),
    "BetaSmoothing(BetaSmoothing)": Case(lambda f: BetaSmoothing(BetaSmoothedGradient(f, 2.0))),
    "BetaSmoothing(KernelSmoothing)": Case(
        lambda f: BetaSmoothing(KernelSmoothing(Saliency(f))), seeded
    ),
    "KernelSmoothing(Saliency)": Case(lambda f: KernelSmoothing(Saliency(f)), seeded),
    "KernelSmoothing(Saliency), batched": Case(
        lambda f: KernelSmoothing(Saliency(f)), lambda: {**seeded(), "internal_batch_size": 2}
    ),
    "KernelSmoothing(IntegratedGradients)": Case(
        lambda f: KernelSmoothing(IntegratedGradients(f)), lambda: {**seeded(), "n_steps": 3}
    ),
    "KernelSmoothing(BetaSmoothing)": Case(
        lambda f: KernelSmoothing(BetaSmoothedGradient(f)), seeded
    ),
    "KernelSmoothing(FeatureAblation)": Case(
        lambda f: KernelSmoothing(FeatureAblation(f)), seeded, graph=False
    ),
    "KernelSmoothing(NoiseTunnel)": Case(
        lambda f: KernelSmoothing(NoiseTunnel(InputXGradient(f))),
        lambda: {**seeded(), "stdevs": 0.1, "nt_samples": 2},
        graph=False,
        draws=True,
    ),
    "GuidedBackprop": Case(GuidedBackprop),
    "RelevancePropagation": Case(propagation, homogeneous=False),
    "PatternAttribution": Case(pattern_attribution),
    "BetaSmoothing(GuidedBackprop)": Case(
        lambda f: BetaSmoothing(GuidedBackprop(f), 3.0), homogeneous=False
    ),
    "BetaSmoothing(RelevancePropagation)": Case(
        lambda f: BetaSmoothing(propagation(f), 3.0), homogeneous=False
    ),
    "BetaSmoothing(PatternAttribution)": Case(lambda f: BetaSmoothing(pattern_attribution(f), 3.0)),
    "KernelSmoothing(GuidedBackprop)": Case(lambda f: KernelSmoothing(GuidedBackprop(f)), seeded),
    "KernelSmoothing(RelevancePropagation)": Case(
        lambda f: KernelSmoothing(propagation(f)), seeded, homogeneous=False
    ),
    "KernelSmoothing(PatternAttribution)": Case(
        lambda f: KernelSmoothing(pattern_attribution(f)), seeded
    ),
    "KernelSmoothing's relative SparsifiedSmoothing": Case(
        lambda f: SparsifiedSmoothing(Saliency(f), kept=0.5, stdev=0.2),
        lambda: {k: v for k, v in seeded().items() if k != "radius"},
        graph=False,
        homogeneous=False,
    ),
    "NoisyBaseline": Case(NoisyBaseline, lambda: {"generator": seeded()["generator"]}, graph=False),
    "InfidelityOptimal(FeatureRemoval)": Case(
        lambda f: InfidelityOptimal(f, perturbations.FeatureRemoval()), graph=False
    ),
    "InfidelityOptimal(ShapleyRemoval)": Case(
        lambda f: InfidelityOptimal(f, perturbations.ShapleyRemoval()), graph=False
    ),
    "InfidelityOptimal(CoordinateStep)": Case(
        lambda f: InfidelityOptimal(f, perturbations.CoordinateStep(0.1)), graph=False
    ),
    "InfidelityOptimal(BaselineShift)": Case(
        lambda f: InfidelityOptimal(f, perturbations.BaselineShift()), graph=False
    ),
}
WITH_GRAPH = [name for name, case in CASES.items() if case.graph]


def test_every_class_of_the_room_is_in_the_table():
    classes = {
        name
        for name in room.__all__
        if inspect.isclass(getattr(room, name)) and issubclass(getattr(room, name), Attribution)
    }
    # Square takes images only: test_infidelity_optimal holds it to the same.
    assert classes == {name for name in classes if any(name in case for case in CASES)} | {"Square"}
    assert classes


class Network(nn.Module):
    """Rectifiers, a BatchNorm that may be frozen, a buffer and a second input."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("shift", torch.zeros(6))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.5, generator=generator)
            self.norm.running_mean.normal_(generator=generator)
        self.to(dtype).eval()

    def forward(self, x, y=None, scale=1.0):
        x = x if y is None else x + y.flatten(1).sum(1, keepdim=True) ** 2
        z = torch.relu(self.norm(self.first(x)) + self.shift)
        return self.second(self.dropout(z)) * scale


def points(n=3, dtype=torch.float64, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator, dtype=torch.float64).to(dtype)


def explain(name, forward, inputs, graph=False, **kwargs):
    case = CASES[name]
    attribution = case.make(forward)
    run = differentiable(attribution) if graph else attribution.attribute
    torch.manual_seed(0)
    return run(inputs, **{**case.arguments(), **kwargs})


def each_way(names=CASES):
    """Every case, and once more with a graph where it has one."""
    return pytest.mark.parametrize(
        ("name", "graph"),
        [
            pytest.param(name, graph, id=f"{name}{', graph' if graph else ''}")
            for name in names
            for graph in (False, True)
            if not graph or CASES[name].graph
        ],
    )


DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


# --- Form.


@each_way()
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_for_a_tensor_of_the_same_shape_dtype_and_device(name, graph, device, dtype):
    x = points(dtype=dtype).to(device)
    result = explain(name, Network(dtype).to(device), x, graph, target=1)
    assert isinstance(result, torch.Tensor)
    assert (result.shape, result.dtype, result.device) == (x.shape, x.dtype, x.device)
    assert result.isfinite().all()
    assert result.abs().sum() > 0
    assert result.requires_grad == graph


@pytest.mark.parametrize("name", [n for n in CASES if "Integrated" not in n and "NoiseT" not in n])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    """Captum's integrated gradients give single precision, and its noise is single."""
    result = explain(name, Network(dtype), points(dtype=dtype), target=1)
    assert result.dtype == dtype
    want = explain(name, Network(), points(), target=1)
    # Noise moves some units across their kinks, and half precision has no small differences.
    if "Kernel" not in name and "Step" not in name:
        torch.testing.assert_close(result.double(), want, rtol=0.1, atol=0.1)
    assert result.isfinite().all()


@each_way()
def test_a_tuple_for_a_tuple(name, graph):
    x, y = points(), points(seed=3).view(3, 2, 2)
    network = Network()
    result = explain(name, network, (x, y), graph, target=1)
    assert isinstance(result, tuple)
    assert [r.shape for r in result] == [x.shape, y.shape]
    single = explain(name, network, (x,), graph, target=1)
    assert isinstance(single, tuple)
    torch.testing.assert_close(single[0], explain(name, network, x, graph, target=1))


@each_way()
def test_targets_in_every_form(name, graph):
    network, x = Network(), points(3)
    run = partial(explain, name, network, x, graph)
    by_class = [run(target=c) for c in range(3)]
    torch.testing.assert_close(run(target=torch.tensor(2)), by_class[2])
    torch.testing.assert_close(run(target=torch.tensor([2])), by_class[2])
    for mixed in ([2, 0, 1], torch.tensor([2, 0, 1])):
        want = torch.stack([by_class[c][i] for i, c in enumerate([2, 0, 1])])
        torch.testing.assert_close(run(target=mixed), want)

    factor = 2 if CASES[name].homogeneous else 1

    def image(x):  # (N, 3, 2)
        output = network(x)
        return torch.stack([output, factor * output], 2)

    torch.testing.assert_close(explain(name, image, x, graph, target=(1, 0)), by_class[1])
    want = torch.stack([by_class[0][0], factor * by_class[1][1], factor * by_class[2][2]])
    got = explain(name, image, x, graph, target=[(0, 0), (1, 1), (2, 1)])
    torch.testing.assert_close(got, want)
    got = explain(name, lambda x: network(x)[:, 1], x, graph)
    torch.testing.assert_close(got, by_class[1])


@each_way()
def test_further_arguments(name, graph):
    network, x, y = Network(), points(), points(seed=3)
    got = explain(name, network, x, graph, target=1, additional_forward_args=(y, 3.0))
    if not CASES[name].homogeneous:
        if "Kernel" not in name:
            want = explain(name, lambda x: network(x, y, 3.0), x, graph, target=1)
            torch.testing.assert_close(got, want)
        return
    want = 3 * explain(name, lambda x, y: network(x, y), (x, y), graph, target=1)[0]
    # There the second input is noisy, too, or has a path of its own.
    if not any(
        word in name for word in ("Kernel", "Nois", "Integrated", "Shapley", "BaselineShift")
    ):
        torch.testing.assert_close(got, want)
    double = explain(name, network, x, graph, target=1, additional_forward_args=(y, 6.0))
    torch.testing.assert_close(double, 2 * got)
    alone = explain(name, lambda x, y: network(x, y), x, graph, target=1, additional_forward_args=y)
    torch.testing.assert_close(alone, got / 3)
    # What belongs to an example stays with it.
    order = torch.tensor([2, 0, 1])
    if "Kernel" not in name and "Nois" not in name:  # the noise does not move along
        permuted = explain(
            name, network, x[order], graph, target=1, additional_forward_args=(y[order], 3.0)
        )
        torch.testing.assert_close(permuted, got[order])


@each_way()
def test_models_that_return_an_object_with_logits(name, graph):
    @dataclass
    class Output:
        logits: torch.Tensor

    network, x = Network(), points()
    want = explain(name, network, x, graph, target=1)
    got = explain(name, lambda x: Output(network(x)), x, graph, target=1)
    torch.testing.assert_close(got, want)


@each_way()
def test_inputs_that_are_not_contiguous(name, graph):
    network, x = Network(), points(4)
    strided = x.repeat_interleave(2, 1)[:, ::2]
    transposed = x.T.contiguous().T
    expanded = x[:1].expand(4, 4)
    want = explain(name, network, x, graph, target=1)
    for same in (strided, transposed):
        assert not same.is_contiguous()
        torch.testing.assert_close(explain(name, network, same, graph, target=1), want)
    torch.testing.assert_close(
        explain(name, network, expanded, graph, target=1),
        explain(name, network, expanded.clone(), graph, target=1),
    )


@pytest.mark.parametrize("name", [n for n in CASES if "Kernel" not in n and "Nois" not in n])
def test_examples_do_not_see_each_other(name):
    network, x = Network(), points(4)
    whole = explain(name, network, x, target=1)
    for i in range(4):
        torch.testing.assert_close(explain(name, network, x[i : i + 1], target=1)[0], whole[i])


@pytest.mark.parametrize("name", CASES)
def test_the_values_of_graph_and_attribute_agree_and_repeat(name):
    network, x = Network(), points()
    want = explain(name, network, x, target=1)
    assert torch.equal(explain(name, network, x, target=1), want)
    if CASES[name].graph:
        got = explain(name, network, x, graph=True, target=1)
        torch.testing.assert_close(got.detach(), want, rtol=1e-6, atol=1e-9)


# --- Beside Captum.


@pytest.mark.parametrize("name", [name for name in CASES if "Nois" not in name])
def test_inside_noise_tunnel(name):
    case, network, x = CASES[name], Network(), points()
    arguments = {"nt_samples": 2, "stdevs": 1e-9, "target": 1} | case.arguments()
    got = NoiseTunnel(case.make(network)).attribute(x, **arguments)
    want = explain(name, network, x, target=1)
    if "Kernel" in name:  # it has other noise for each copy
        assert got.shape == want.shape
    else:
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert not got.requires_grad


def test_deep_lift_and_occlusion_in_both_smoothings():
    network, x = Network(), points()
    network = nn.Sequential(network.first, nn.ReLU(), network.second)
    for smooth in (BetaSmoothing(DeepLift(network)), KernelSmoothing(DeepLift(network))):
        arguments = seeded() if isinstance(smooth, KernelSmoothing) else {}
        with pytest.warns(UserWarning, match="Setting forward, backward hooks"):  # Captum's
            result = smooth.attribute(x, target=1, baselines=points(seed=9), **arguments)
        assert result.shape == x.shape
    for smooth in (BetaSmoothing(Occlusion(network)), KernelSmoothing(Occlusion(network))):
        arguments = seeded() if isinstance(smooth, KernelSmoothing) else {}
        assert smooth.attribute(x, target=1, **OCCLUDE(), **arguments).shape == x.shape


@pytest.mark.parametrize("name", CASES)
def test_logging_as_captum_does(name):
    attribution = CASES[name].make(Network())
    # Captum's log around the check of the inputs, which NoiseTunnel reaches as __wrapped__.
    assert not hasattr(attribution.attribute.__wrapped__, "__self__")
    assert attribution.attribute.__wrapped__.__wrapped__ is attribution.attribute.unchecked
    parameters = inspect.signature(attribution.attribute).parameters
    assert next(iter(parameters)) == "inputs"
    assert attribution.attribute.__doc__.startswith("Explain ``inputs``")
    assert isinstance(attribution, Attribution)
    assert isinstance(attribution.get_name(), str)


@pytest.mark.parametrize("name", CASES)
def test_inputs_by_name(name):
    case, network = CASES[name], Network()
    torch.manual_seed(0)
    got = case.make(network).attribute(inputs=points(), target=1, **case.arguments())
    torch.testing.assert_close(got, explain(name, network, points(), target=1))


@pytest.mark.parametrize("name", CASES)
def test_attributions_can_be_pickled(name):
    attribution, x = CASES[name].make(Network()), points()
    torch.manual_seed(0)
    want = attribution.attribute(x, target=1, **CASES[name].arguments())
    copied = pickle.loads(pickle.dumps(attribution))  # noqa: S301
    torch.manual_seed(0)
    assert torch.equal(copied.attribute(x, target=1, **CASES[name].arguments()), want)


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
