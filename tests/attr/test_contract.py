"""What holds for every explanation of the package, from one table."""

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
    NoiseTunnel,
    Occlusion,
)
from torch import nn

import captum_robust.attr as public
from captum_robust.attr import (
    BetaSmoothing,
    KernelSmoothing,
)
from tests.attr.cases import (
    CASES,
    OCCLUDE,
    Network,
    each_way,
    explain,
    points,
    seeded,
)

# These small networks have neurons without a positive contribution, which z+ loses.
pytestmark = pytest.mark.filterwarnings("ignore:relevance propagation. only")


def test_every_class_of_the_room_is_in_the_table():
    classes = {
        name
        for name in public.__all__
        if inspect.isclass(getattr(public, name)) and issubclass(getattr(public, name), Attribution)
    }
    # Square takes images, TangentProjection a tensor of the kind of its data: their own tests.
    apart = {"Square", "TangentProjection"}
    assert classes == {name for name in classes if any(name in case for case in CASES)} | apart
    assert classes


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


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.single])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    """Captum's integrated gradients give single precision, and its noise is single."""
    result = explain(name, Network(dtype), points(dtype=dtype), target=1)
    assert result.dtype == dtype
    want = explain(name, Network(), points(), target=1)
    # Noise moves some units across their kinks, and half precision has no small differences.
    if not (CASES[name].noise or CASES[name].differences):
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
        if not CASES[name].noise:
            want = explain(name, lambda x: network(x, y, 3.0), x, graph, target=1)
            torch.testing.assert_close(got, want)
        return
    want = 3 * explain(name, lambda x, y: network(x, y), (x, y), graph, target=1)[0]
    # There the second input is noisy, too, or has a path of its own.
    if not CASES[name].mixes:
        torch.testing.assert_close(got, want)
    double = explain(name, network, x, graph, target=1, additional_forward_args=(y, 6.0))
    torch.testing.assert_close(double, 2 * got)
    alone = explain(name, lambda x, y: network(x, y), x, graph, target=1, additional_forward_args=y)
    torch.testing.assert_close(alone, got / 3)
    # What belongs to an example stays with it.
    order = torch.tensor([2, 0, 1])
    if not CASES[name].noise:  # the noise does not move along
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


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.noise])
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


@pytest.mark.parametrize("name", [n for n in CASES if "Nois" not in n])
def test_inside_noise_tunnel(name):
    case, network, x = CASES[name], Network(), points()
    arguments = {"nt_samples": 2, "stdevs": 1e-9, "target": 1} | case.arguments()
    got = NoiseTunnel(case.make(network)).attribute(x, **arguments)
    want = explain(name, network, x, target=1)
    if CASES[name].noise:  # it has other noise for each copy
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
