"""The context manager: threads, exceptions, nesting, and what it cannot see."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Saliency
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_robust.attr import BetaSmoothedGradient, BetaSmoothing, softplus_activations

Z = torch.linspace(-2, 2, 9)


def smooth(beta, z=Z):
    return torch.logaddexp(beta * z, torch.zeros_like(z)) / beta


def is_bare():
    """Whether this thread computes rectifiers and may save tensors through hooks."""
    with torch.autograd.graph.save_on_cpu():
        (torch.ones(1, requires_grad=True) ** 2).sum().backward()
    return torch.equal(torch.relu(Z), Z.clamp(0, 9))


# --- Threads.


def test_threads_do_not_see_each_other():
    meet = threading.Barrier(3, timeout=20)
    seen = {}

    def work(name, beta):
        def compute():
            meet.wait()  # all are inside their blocks, or about to compute without one
            values = [torch.relu(Z), nn.ReLU()(Z), Z.clone().relu_()]
            meet.wait()  # none has left its block before all have computed
            return values

        if beta is None:
            seen[name] = compute()
        else:
            with softplus_activations(beta):
                seen[name] = compute()

    cases = {"one": 1.0, "five": 5.0, "none": None}
    threads = [threading.Thread(target=work, args=case) for case in cases.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for name, beta in cases.items():
        want = Z.clamp(0, 9) if beta is None else smooth(beta)
        for got in seen[name]:
            torch.testing.assert_close(got, want)
    assert is_bare()


def test_a_thread_started_inside_the_block_is_not_smoothed():
    seen = []
    with softplus_activations(1.0):
        thread = threading.Thread(target=lambda: seen.append((torch.relu(Z), is_bare())))
        thread.start()
        thread.join(30)
    assert seen[0][1]
    assert torch.equal(seen[0][0], Z.clamp(0, 9))


def test_gradients_of_two_threads_with_one_model():
    """Many rounds of two explanations at once, of one shared model, with different beta."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = {b: BetaSmoothedGradient(model, b).attribute(x, target=0) for b in (0.5, 8.0)}
    wrong = []

    def work(beta):
        for _ in range(30):
            got = BetaSmoothedGradient(model, beta).attribute(x, target=0)
            if not torch.allclose(got, want[beta], atol=1e-12):
                wrong.append(beta)

    threads = [threading.Thread(target=work, args=(beta,)) for beta in want]
    for thread in threads:
        thread.start()
    bare = [torch.relu(Z) for _ in range(30)]
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert all(torch.equal(values, Z.clamp(0, 9)) for values in bare)


# --- Exceptions and nesting.


def test_an_exception_ends_the_block():
    with pytest.raises(ZeroDivisionError), softplus_activations(1.0):
        raise ZeroDivisionError
    assert is_bare()


def test_an_exception_in_a_rectifier_ends_the_block():
    with pytest.raises(RuntimeError), softplus_activations(1.0):
        F.prelu(torch.ones(2, 3), torch.ones(7))
    assert is_bare()


def test_an_exception_inside_the_model_ends_the_smoothing():
    def fails(x):
        torch.relu(x)
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        BetaSmoothedGradient(fails).attribute(Z[:, None])
    assert is_bare()


def test_the_innermost_block_counts():
    with softplus_activations(1.0) as outer:
        with softplus_activations(7.0) as inner:
            torch.testing.assert_close(torch.relu(Z), smooth(7.0))
            with pytest.raises(ValueError, match="deep"), softplus_activations(3.0):
                raise ValueError("deep")
            torch.testing.assert_close(torch.relu(Z), smooth(7.0))
        torch.testing.assert_close(torch.relu(Z), smooth(1.0))
        assert (outer.replaced, inner.replaced) == (1, 2)
    assert is_bare()


def test_one_block_can_be_entered_again_and_again():
    block = softplus_activations(2.0)
    with block:
        with block:
            torch.testing.assert_close(torch.relu(Z), smooth(2.0))
        torch.testing.assert_close(torch.relu(Z), smooth(2.0))
    assert is_bare()
    with block:
        torch.testing.assert_close(torch.relu(Z), smooth(2.0))
    assert is_bare()


def test_beta_smoothing_inside_a_block_wins_over_it():
    x = Z[:, None].double()
    with softplus_activations(1.0):
        got = BetaSmoothedGradient(torch.nn.ReLU(), 6.0).attribute(x)
    torch.testing.assert_close(got, torch.sigmoid(6 * x))


# --- What it cannot see is refused or named.


@pytest.mark.parametrize("beta", [0, 0.0, -1.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "make",
    [
        softplus_activations,
        lambda beta: BetaSmoothedGradient(nn.ReLU(), beta),
        lambda beta: BetaSmoothing(Saliency(nn.ReLU()), beta),
    ],
)
def test_beta_must_be_positive_and_finite(make, beta):
    with pytest.raises(ValueError, match="beta must be positive and finite"):
        make(beta)


@pytest.mark.parametrize("beta", ["1", None, 1j, [1.0]])
def test_beta_must_be_a_number(beta):
    with pytest.raises(TypeError, match="beta"):
        softplus_activations(beta)


def test_recomputed_activations_are_refused():
    x = Z.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="gradient checkpointing"), softplus_activations(1.0):
        checkpoint(lambda z: (2 * z).relu(), x, use_reentrant=False)
    assert is_bare()


def test_hooks_on_saved_tensors_around_the_block_are_refused():
    with (
        torch.autograd.graph.save_on_cpu(),
        pytest.raises(RuntimeError, match="saved-tensor hooks"),
        softplus_activations(1.0),
    ):
        pass  # pragma: no cover
    assert is_bare()


def test_recurrent_layers_of_rectifiers_are_smoothed_step_by_step():
    """torch runs a layer as one call; here each step is h = softplus(W x + U h + b)."""
    torch.manual_seed(0)
    x = torch.randn(5, 2, 4)
    for layer in (nn.RNN(4, 3, nonlinearity="relu"), nn.RNNCell(4, 3, nonlinearity="relu")):
        suffix = "_l0" if isinstance(layer, nn.RNN) else ""
        w, u, b, c = (
            getattr(layer, name + suffix)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        steps = x if isinstance(layer, nn.RNN) else x[:1]
        hidden, states = torch.zeros(2, 3), []
        for step in steps:
            hidden = smooth(1.5, step @ w.T + b + hidden @ u.T + c)
            states.append(hidden)
        with softplus_activations(1.5) as smoothing:
            got = layer(x)[0] if isinstance(layer, nn.RNN) else layer(x[0], torch.zeros(2, 3))[None]
        torch.testing.assert_close(got, torch.stack(states))
        assert smoothing.replaced == len(steps)
    with softplus_activations(1.5) as smoothing:
        nn.RNN(4, 3)(x)  # hyperbolic tangents
    assert smoothing.replaced == 0


class PositionBiases(nn.Module):
    """As in Swin V2: rectifiers of a table alone; and, if asked for, one of the image."""

    def __init__(self, of_the_input):
        super().__init__()
        self.register_buffer("table", torch.randn(4, 2))
        self.mlp = nn.Sequential(nn.Linear(2, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
        self.of_the_input = of_the_input

    def forward(self, x):
        z = x @ (16 * self.mlp(self.table).sigmoid())
        return z.relu() if self.of_the_input else z.tanh()


def test_rectifiers_of_weights_alone_stay():
    torch.manual_seed(0)
    model, x = PositionBiases(of_the_input=True), torch.randn(3, 4)
    by_hand = x @ (16 * model.mlp(model.table).sigmoid())
    for grad in (torch.enable_grad, torch.no_grad):
        with grad(), softplus_activations(1.5, model) as smoothing:
            got = model(x)
        torch.testing.assert_close(got, smooth(1.5, by_hand))
        assert smoothing.replaced == 1
    with softplus_activations(1.5) as smoothing:  # nobody says what the weights are
        model(x)
    assert smoothing.replaced == 2


@pytest.mark.parametrize("form", [lambda m: m, lambda m: lambda x: m(x)], ids=["model", "lambda"])
def test_the_user_learns_that_only_weights_have_rectifiers(form):
    torch.manual_seed(0)
    model, x = PositionBiases(of_the_input=False), torch.randn(3, 4, requires_grad=True)
    (want,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    with pytest.warns(UserWarning, match="no rectifier of the inputs"):
        got = BetaSmoothedGradient(form(model), 0.1).attribute(x, target=0)
    torch.testing.assert_close(got, want)
    BetaSmoothedGradient(form(PositionBiases(True))).attribute(x, target=0)  # no warning


def test_the_fast_path_of_a_transformer_is_not_taken():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, activation="relu", batch_first=True).eval()
    by_hand = nn.TransformerEncoderLayer(
        4, 2, 8, activation=lambda z: smooth(1.5, z), batch_first=True
    ).eval()
    by_hand.load_state_dict(layer.state_dict())
    for frozen in (False, True):
        layer.requires_grad_(not frozen)
        for grad in (torch.enable_grad, torch.no_grad):
            x = torch.randn(2, 3, 4)
            with grad(), softplus_activations(1.5) as smoothing:
                got = layer(x)
            assert smoothing.replaced == 1
            torch.testing.assert_close(got, by_hand(x), rtol=1e-5, atol=1e-5)


def test_a_stack_of_transformer_layers():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, activation="relu", batch_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors
        encoder = nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)
    with torch.no_grad(), softplus_activations(1.5) as smoothing:
        encoder(torch.randn(2, 3, 4))
    assert smoothing.replaced == 2


def test_autocast():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

    def autocast(z):
        with torch.autocast("cpu", torch.bfloat16):
            return model(z)

    got = BetaSmoothedGradient(autocast).attribute(x, target=0)
    want = BetaSmoothedGradient(model).attribute(x, target=0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.02)
