"""Every rectifier, in every spelling, against a smooth network written out by hand."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from torch import Tensor, nn

from captum_robust.attr import BetaSmoothedGradient, BetaSmoothing, softplus_activations

BETAS = (0.05, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
WIDTH = 5


def soft(z: Tensor, b: float) -> Tensor:
    """log(1 + exp(b z)) / b, as the logarithm of a sum so that exp cannot overflow."""
    return torch.logaddexp(b * z, torch.zeros_like(z)) / b


SLOPES = [0.3, -0.2, 0.0, 1.5, 0.25]


def per_channel(z: Tensor) -> Tensor:
    return torch.tensor(SLOPES, dtype=z.dtype).view(1, -1, *[1] * (z.dim() - 2))


@dataclass
class Rectifier:
    """A rectifier, its smooth form by hand, and where torch offers it."""

    id: str
    smooth: Callable[[Tensor, float], Tensor]
    name: str  # in torch.nn.functional, torch and torch.Tensor
    arguments: dict[str, Any] = field(default_factory=dict)
    module: Callable[..., nn.Module] | None = None
    function_arguments: dict[str, Any] | None = None  # where they differ from the module's


def ramp(z: Tensor, low: float, high: float, b: float) -> Tensor:
    return low + soft(z - low, b) - soft(z - high, b)


def leaky(z: Tensor, slope: float | Tensor, b: float) -> Tensor:
    # relu(z) - slope * relu(-z), and relu(-z) = relu(z) - z
    return soft(z, b) - slope * (soft(z, b) - z)


def prelu(slopes: list[float]) -> nn.PReLU:
    module = nn.PReLU(len(slopes)).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor(slopes, dtype=torch.float64))
    return module


RECTIFIERS = [
    Rectifier("relu", soft, "relu", {}, nn.ReLU),
    Rectifier("relu6", lambda z, b: ramp(z, 0, 6, b), "relu6", {}, nn.ReLU6),
    Rectifier(
        "leaky_relu", lambda z, b: leaky(z, 0.1, b), "leaky_relu", {"negative_slope": 0.1},
        nn.LeakyReLU,
    ),
    Rectifier("leaky_relu-default", lambda z, b: leaky(z, 0.01, b), "leaky_relu", {}, nn.LeakyReLU),
    Rectifier(
        "prelu", lambda z, b: leaky(z, 0.3, b), "prelu", {}, lambda: prelu([0.3]),
        {"weight": torch.tensor([0.3], dtype=torch.float64)},
    ),
    Rectifier(
        "prelu-per-channel", lambda z, b: leaky(z, per_channel(z), b), "prelu", {},
        lambda: prelu(SLOPES), {"weight": torch.tensor(SLOPES, dtype=torch.float64)},
    ),
    Rectifier(
        "rrelu", lambda z, b: leaky(z, 0.3, b), "rrelu", {"lower": 0.2, "upper": 0.4},
        lambda **kw: nn.RReLU(**kw).eval(),
    ),
    Rectifier(
        "rrelu-default", lambda z, b: leaky(z, 11 / 48, b), "rrelu", {},
        lambda **kw: nn.RReLU(**kw).eval(),
    ),
    Rectifier("hardtanh", lambda z, b: ramp(z, -1, 1, b), "hardtanh", {}, nn.Hardtanh),
    Rectifier(
        "hardtanh-own-bounds", lambda z, b: ramp(z, -0.5, 2.5, b), "hardtanh",
        {"min_val": -0.5, "max_val": 2.5}, nn.Hardtanh,
    ),
    Rectifier(
        "hardtanh-only-below", lambda z, b: 0.5 + soft(z - 0.5, b), "hardtanh",
        {"min_val": 0.5, "max_val": math.inf}, nn.Hardtanh,
    ),
    Rectifier(
        "hardtanh-only-above", lambda z, b: z - soft(z - 0.5, b), "hardtanh",
        {"min_val": -math.inf, "max_val": 0.5}, nn.Hardtanh,
    ),
    Rectifier(
        "hardsigmoid", lambda z, b: (soft(z + 3, b) - soft(z - 3, b)) / 6, "hardsigmoid", {},
        nn.Hardsigmoid,
    ),
    Rectifier(
        "hardswish", lambda z, b: z * (soft(z + 3, b) - soft(z - 3, b)) / 6, "hardswish", {},
        nn.Hardswish,
    ),
    Rectifier(
        "softshrink", lambda z, b: soft(z - 0.5, b) - soft(-z - 0.5, b), "softshrink", {},
        nn.Softshrink,
    ),
    Rectifier(
        "softshrink-own-bound", lambda z, b: soft(z - 1.5, b) - soft(-z - 1.5, b), "softshrink",
        {"lambd": 1.5}, nn.Softshrink,
    ),
    Rectifier(
        "threshold", soft, "threshold", {"threshold": 0.0, "value": 0.0}, nn.Threshold
    ),
    Rectifier(
        "threshold-at-its-value", lambda z, b: -1.5 + soft(z + 1.5, b), "threshold",
        {"threshold": -1.5, "value": -1.5}, nn.Threshold,
    ),
    Rectifier("clamp-below", soft, "clamp", {"min": 0}),
    Rectifier("clamp-below-float", soft, "clamp", {"min": 0.0, "max": None}),
    Rectifier("clamp-0-6", lambda z, b: ramp(z, 0, 6, b), "clamp", {"min": 0.0, "max": 6}),
    Rectifier("clip-below", soft, "clip", {"min": 0.0}),
    Rectifier("clip-0-6", lambda z, b: ramp(z, 0, 6, b), "clip", {"min": 0, "max": 6.0}),
    Rectifier("clamp_min", soft, "clamp_min", {"min": 0}),
]  # fmt: skip

Call = Callable[[Tensor], Tensor]


def spellings(of: Rectifier) -> Iterator[tuple[str, bool, Call]]:
    """All ways to write it in torch: (spelling, whether it works in place, the call)."""
    if of.module is not None:
        yield "module", False, of.module(**of.arguments)
        if "inplace" in inspect.signature(type(of.module(**of.arguments))).parameters:
            yield "module-in-place", True, of.module(**of.arguments, inplace=True)
    arguments = of.arguments if of.function_arguments is None else of.function_arguments
    for home, where in ((F, "F"), (torch, "torch"), (Tensor, "method")):
        for name, in_place in ((of.name, False), (f"{of.name}_", True)):
            if not hasattr(home, name):
                continue
            function = getattr(home, name)
            # Functions of C take their arguments by position and by name alike, but softshrink.
            if of.name not in ("softshrink", "prelu"):
                yield f"{where}.{name}", in_place, partial(function, **arguments)
            if arguments:
                positional = tuple(arguments.values())
                yield (
                    f"{where}.{name}-by-position",
                    in_place,
                    lambda z, call=function, rest=positional: call(z, *rest),
                )
        function = getattr(home, of.name, None)
        if home is F and function is not None and _takes_inplace(function):
            yield f"{where}.{of.name}-inplace", True, partial(function, **arguments, inplace=True)
    if of.name in ("softshrink", "prelu"):
        yield "F-alone", False, lambda z: getattr(F, of.name)(z, *arguments.values())


def _takes_inplace(function: Callable[..., Any]) -> bool:
    try:
        return "inplace" in inspect.signature(function).parameters
    except ValueError:  # a function of C
        return False


SPELLED = [
    pytest.param(of, in_place, call, id=f"{of.id}:{spelling}")
    for of in RECTIFIERS
    for spelling, in_place, call in spellings(of)
]
IN_PLACE = [spelled for spelled in SPELLED if spelled.values[1]]


class Network(nn.Module):
    """Two rounds of one activation, with pre-activations on both sides of every kink."""

    def __init__(self, activate: Call, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)

        def draw(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator, dtype=torch.float64)

        self.first, self.shift = 3 * draw(4, WIDTH), 2 * draw(WIDTH)
        self.second, self.third = 2 * draw(WIDTH, WIDTH), draw(WIDTH, 3)
        self.activate, self.shape = activate, shape

    def forward(self, x: Tensor) -> Tensor:
        z = self.activate((x @ self.first + self.shift).view(-1, WIDTH, *self.shape))
        z = self.activate((z.view(-1, WIDTH) @ self.second).view(-1, WIDTH, *self.shape))
        return z.view(-1, WIDTH) @ self.third


def points(n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 4, generator=generator, dtype=torch.float64)


def gradient_by_hand(of: Rectifier, beta: float, x: Tensor, **kwargs: Any) -> Tensor:
    x = x.clone().requires_grad_()
    output = Network(lambda z: of.smooth(z, beta), **kwargs)(x)
    return torch.autograd.grad(output[:, 1].sum(), x)[0]


def assert_smooth(
    of: Rectifier, activate: Call, betas: tuple[float, ...] = (0.5, 20.0), **kwargs: Any
) -> None:
    x = points()
    for beta in betas:
        got = BetaSmoothedGradient(Network(activate, **kwargs), beta).attribute(x, target=1)
        want = gradient_by_hand(of, beta, x, **kwargs)
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, msg=f"{beta=}, {got=}, {want=}")


@pytest.mark.parametrize(("of", "in_place", "call"), SPELLED)
def test_the_gradient_is_that_of_the_hand_written_smooth_network(of, in_place, call):
    assert_smooth(of, call)


@pytest.mark.parametrize("of", RECTIFIERS, ids=lambda of: of.id)
def test_many_betas(of):
    assert_smooth(of, next(call for _, _, call in spellings(of)), BETAS)


@pytest.mark.parametrize(("of", "in_place", "call"), IN_PLACE)
def test_in_place_with_the_return_value_dropped(of, in_place, call):
    def activate(z: Tensor) -> Tensor:
        call(z)
        return z

    assert_smooth(of, activate)


@pytest.mark.parametrize(("of", "in_place", "call"), IN_PLACE)
def test_in_place_on_views(of, in_place, call):
    def activate(z: Tensor) -> Tensor:
        call(z[:, :2])
        rest = z.narrow(1, 2, WIDTH - 2)
        call(rest.T)
        return z

    assert_smooth(of, activate)


@pytest.mark.parametrize(
    "of", [r for r in RECTIFIERS if r.id.startswith("prelu")], ids=lambda of: of.id
)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1)])
def test_prelu_knows_its_channels_in_every_dimension(of, shape):
    assert_smooth(of, of.module(), shape=shape)


@pytest.mark.parametrize(("of", "in_place", "call"), SPELLED)
def test_the_table_itself_is_right(of, in_place, call):
    """Sharp softplus is the rectifier, and outside the block the rectifier is untouched."""
    z = torch.linspace(-9, 9, 5 * 401, dtype=torch.float64).view(-1, 5)
    torch.testing.assert_close(of.smooth(z, 1e7), call(z.clone()).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("of", "in_place", "call"), SPELLED)
def test_values_and_count_inside_the_block(of, in_place, call):
    z = torch.linspace(-9, 9, 50, dtype=torch.float64).view(-1, 5)
    given = z.clone()
    with softplus_activations(2.0) as smoothing:
        result = call(given)
    torch.testing.assert_close(result.detach(), of.smooth(z, 2.0), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(given, of.smooth(z, 2.0) if in_place else z, rtol=1e-8, atol=1e-8)
    assert smoothing.replaced == 1
    assert (result is given) == in_place


def test_softplus_digit_by_digit():
    for beta in (0.05, 1.0, 10.0, 100.0):
        for z in (-3.0, -0.1, 0.0, 0.02, 1.7):
            with softplus_activations(beta):
                got = torch.tensor(z, dtype=torch.float64).relu().item()
            assert got == pytest.approx(math.log(1 + math.exp(beta * z)) / beta, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of", RECTIFIERS, ids=lambda of: of.id)
def test_single_and_half_precision(of, dtype):
    if of.name == "prelu":
        call = lambda z: F.prelu(z, of.function_arguments["weight"].to(dtype))  # noqa: E731
    else:
        call = next(c for _, in_place, c in spellings(of) if not in_place)
    z = torch.linspace(-8, 8, 40, dtype=dtype).view(-1, 5).requires_grad_()
    with softplus_activations(1.0):
        result = call(z)
    assert result.dtype == dtype
    (gradient,) = torch.autograd.grad(result.sum(), z)
    assert gradient.dtype == dtype
    exact = z.detach().double().requires_grad_()
    want = of.smooth(exact, 1.0)
    (slope,) = torch.autograd.grad(want.sum(), exact)
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-2, torch.bfloat16: 8e-2}[dtype]
    torch.testing.assert_close(result.detach().double(), want.detach(), rtol=0.01, atol=tolerance)
    torch.testing.assert_close(gradient.double(), slope, rtol=0.01, atol=tolerance)


# --- What must stay as it is.

KEPT: dict[str, Call] = {
    "clamp(0, 1)": lambda z: z.clamp(0, 1),
    "clamp(-1, 1)": lambda z: z.clamp(-1, 1),
    "clamp(min=1e-8)": lambda z: z.clamp(min=1e-8),
    "torch.clamp(min=1e-8)": lambda z: torch.clamp(z, min=1e-8),
    "clamp_(min=1e-8)": lambda z: z.clamp_(min=1e-8),
    "clamp_min(1e-8)": lambda z: z.clamp_min(1e-8),
    "clip(1e-3, 6)": lambda z: z.clip(1e-3, 6),
    "clamp(0, 7)": lambda z: z.clamp(0, 7),
    "clamp(max=0)": lambda z: z.clamp(max=0),
    "clamp_max(0)": lambda z: z.clamp_max(0),
    "clamp(None, 6)": lambda z: z.clamp(None, 6),
    "normalize": F.normalize,
    "cosine_similarity": lambda z: F.cosine_similarity(z, z.flip(0)),
    "hardshrink": F.hardshrink,
    "threshold that jumps": lambda z: F.threshold(z, 0.5, 0.0),
    "Threshold that jumps": nn.Threshold(0.0, 2.0),
    "threshold_ that jumps": lambda z: F.threshold_(z, 1.0, -1.0),
    "abs": torch.abs,
    "maximum": lambda z: torch.maximum(z, torch.zeros_like(z)),
    "max_pool": lambda z: F.max_pool1d(z, 3),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "layer_norm": lambda z: F.layer_norm(z, (5,)),
    "softmax": lambda z: z.softmax(1),
    "relu of integers": lambda z: z.long().relu(),
    "clamp of indices": lambda z: z.long().clamp(min=0),
    "clamp_ of indices": lambda z: z.long().clamp_(0, 6),
    "clamp of a boolean's integers": lambda z: (z > 0).int().clamp(min=0),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_rectifier_is_left_alone(name):
    z = torch.linspace(-9, 9, 50, dtype=torch.float64).view(-1, 5)
    with softplus_activations(0.7) as smoothing:
        inside = KEPT[name](z.clone())
    torch.testing.assert_close(inside, KEPT[name](z.clone()), rtol=0, atol=0)
    assert smoothing.replaced == 0


def test_rrelu_that_draws_is_left_alone():
    z = torch.linspace(-9, 9, 50).view(-1, 5)
    for call in (nn.RReLU().train(), partial(F.rrelu, training=True)):
        torch.manual_seed(0)
        want = call(z)
        torch.manual_seed(0)
        with softplus_activations(0.7) as smoothing:
            assert torch.equal(call(z), want)
        assert smoothing.replaced == 0


def test_rrelu_with_a_generator():
    z = torch.linspace(-2, 2, 10)
    with softplus_activations(1.0):
        got = torch.rrelu(z, 0.2, 0.4, False, generator=None)
    torch.testing.assert_close(got, leaky(z, 0.3, 1.0))


def test_out_receives_the_smooth_values():
    z, out = torch.linspace(-2, 2, 10), torch.empty(10)
    with softplus_activations(1.0) as smoothing:
        assert torch.clamp(z, min=0, out=out) is out
    torch.testing.assert_close(out, soft(z, 1.0))
    assert smoothing.replaced == 1


@pytest.mark.parametrize("beta", [1e-12, 1e-3, 1e12, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_beta_and_values_give_no_nan(beta, dtype):
    z = torch.tensor([-1e30, -1.0, 0.0, 1.0, 1e30], dtype=dtype, requires_grad=True)
    with softplus_activations(beta):
        results = [F.relu(z), F.relu6(z), F.leaky_relu(z), F.hardtanh(z), F.hardsigmoid(z)]
    for result in results:
        (gradient,) = torch.autograd.grad(result.sum(), z)
        assert not result.isnan().any()
        assert gradient.isfinite().all()


def test_no_rectifier_of_a_method_that_never_differentiates_is_missed():
    """Occlusion runs under no_grad; hand-written copy as the oracle."""
    for of in RECTIFIERS:
        call = next(c for _, in_place, c in spellings(of) if not in_place)
        got = BetaSmoothing(Occlusion(Network(call)), 2.0).attribute(
            points(), target=1, sliding_window_shapes=(1,)
        )
        want = Occlusion(Network(lambda z, of=of: of.smooth(z, 2.0))).attribute(
            points(), target=1, sliding_window_shapes=(1,)
        )
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
