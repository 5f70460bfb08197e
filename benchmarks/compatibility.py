"""Which network works with what: every cell is checked against plain PyTorch.

    python benchmarks/compatibility.py [--out docs/compatibility.rst] [--only NAME ...]

Needs timm and transformers beside the package; takes some minutes on two cores. A cell is "yes"
where the result passes its check to 1e-5, else the first words of the error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from _architectures import ARCHITECTURES, Case
from captum.attr import Saliency
from torch import Tensor

from captum_robust import attacks, attr, metrics, perturbations, training
from captum_robust._utils.forward import logits_of

TOLERANCE = 1e-5
_STEP = 1e-4


def double(case: Case) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """The model and its inputs in double precision, and the predicted classes."""
    model, inputs = case.model.double(), case.inputs.double()
    with torch.no_grad():
        target = logits_of(model(inputs)).argmax(1)
    return model, inputs, target


def explained(model: torch.nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """The output that is explained, summed over the examples, by plain PyTorch."""
    return logits_of(model(inputs)).gather(1, target[:, None]).sum()


def direction(inputs: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    found = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    return found / found.norm()


def slope(function: Callable[[Tensor], Tensor], inputs: Tensor, along: Tensor) -> Tensor:
    """Derivative by central differences of fourth order."""
    far, near = 2 * _STEP * along, _STEP * along
    outer = function(inputs + far) - function(inputs - far)
    return (8 * (function(inputs + near) - function(inputs - near)) - outer) / (12 * _STEP)


def close(got: Tensor, wanted: Tensor, what: str) -> None:
    scale = max(wanted.abs().max().item(), 1e-6)
    error = (got - wanted).abs().max().item() / scale
    if not error < TOLERANCE:
        raise AssertionError(f"{what} is off by {error:.1e}")


def beta_smoothing(case: Case) -> None:
    """The smoothed gradient is the derivative of the smoothed output."""
    model, inputs, target = double(case)
    smooth = attr.BetaSmoothing(Saliency(model), beta=2.0)
    found = smooth.attribute(inputs, target=target, abs=False)
    along = direction(inputs)
    with torch.no_grad(), attr.softplus_activations(2.0):
        wanted = slope(lambda x: explained(model, x, target), inputs, along)
    close((found * along).sum(), wanted, "the gradient")


def differentiable(case: Case) -> None:
    """The derivative of the explanation is that of its values."""
    model, inputs, target = double(case)
    explain = attr.differentiable(attr.BetaSmoothedGradient(model, beta=2.0))
    weights, along = direction(inputs).flip(0), direction(inputs)

    def value(x: Tensor) -> Tensor:
        return (explain(x, target=target) * weights).sum()

    x = inputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(x), x)
    close((found * along).sum(), slope(lambda x: value(x).detach(), inputs, along), "the slope")


def relevance_propagation(case: Case) -> None:
    """Relevance is finite, of the inputs' shape, and its derivative is that of its values."""
    model, inputs, target = double(case)
    low, high = case.input_range or (None, None)
    explanation = attr.RelevancePropagation(model, low, high)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the share that arrives: see the guide
        found = explanation.attribute(inputs, target=target)
    if found.shape != inputs.shape or not bool(torch.isfinite(found).all()):
        raise AssertionError("not finite")
    with torch.no_grad():
        plain = logits_of(model(inputs))
    close(logits_of(model(inputs)), plain, "the model")


def guided_backprop(case: Case) -> None:
    """Where no rectifier is left to guide, it is the gradient; else it is finite."""
    model, inputs, target = double(case)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = attr.GuidedBackprop(model).attribute(inputs, target=target)
    x = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(explained(model, x, target), x)
    if any("rectifier" in str(w.message) for w in seen):
        close(found, gradient, "the gradient")
    elif not bool(torch.isfinite(found).all()) or found.shape != inputs.shape:
        raise AssertionError("not finite")


def top_k_attack(case: Case) -> None:
    """The prediction and the bound are kept, by the model itself."""
    model, inputs = case.model.float(), case.inputs.float()
    attack = attacks.GhorbaniTopK(
        model, eps=0.05, alpha=0.01, steps=3, k=3, input_range=case.input_range,
        channel_dim=case.channel_dim,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three steps may find nothing
        moved = attack(inputs)
    with torch.no_grad():
        before, after = (logits_of(model(x)).argmax(1) for x in (inputs, moved))
    if not torch.equal(before, after):
        raise AssertionError("the prediction changed")
    if (moved - inputs).abs().max() > 0.05:
        raise AssertionError("the bound is not kept")


def square(case: Case) -> None:
    """No small change of the attributions lowers the mean square that they minimise."""
    model, inputs, target = double(case)
    side = max(1, min(inputs.shape[2:]) // 4) if inputs.dim() > 2 else 1
    is_spatial = inputs.dim() > 2 and case.channel_dim == 1
    removal = perturbations.SquareRemoval([side]) if is_spatial else perturbations.FeatureRemoval()
    if is_spatial:
        explanation = attr.Square(model, sizes=[side])
    else:
        explanation = attr.InfidelityOptimal(model, removal)
    found = explanation.attribute(inputs, target=target)
    measure = lambda a: metrics.infidelity(  # noqa: E731
        model, removal, inputs, a, target=target, n_perturb_samples=64,
        generator=torch.Generator().manual_seed(0),
    ).sum()  # fmt: skip
    if not bool(torch.isfinite(found).all()) or measure(found) > measure(torch.zeros_like(found)):
        raise AssertionError("worse than no explanation")


def infidelity(case: Case) -> None:
    """The number of the literal formula on the same draws."""
    model, inputs, target = double(case)
    removal = perturbations.GaussianBaseline(0.2)
    attributions = direction(inputs)
    found = metrics.infidelity(
        model, removal, inputs, attributions, target=target, n_perturb_samples=8,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    points = perturbations.Points.of(inputs)
    multipliers, moved = removal.stream(
        points, torch.Generator().manual_seed(0)
    ).take(8) if hasattr(removal, "stream") else _draws(removal, points)  # fmt: skip
    with torch.no_grad():
        clean = logits_of(model(inputs)).gather(1, target[:, None])
        rows = logits_of(model(moved[0].flatten(0, 1)))
        after = rows.gather(1, target.repeat_interleave(8)[:, None]).view(2, 8)
    products = (multipliers[0] * attributions.unsqueeze(1)).flatten(2).sum(2)
    close(found, (products - (clean - after)).square().mean(1), "infidelity")


def _draws(removal: perturbations.Perturbation, points: perturbations.Points) -> tuple:
    from captum_robust.perturbations.stream import Stream

    return Stream(removal, points, torch.Generator().manual_seed(0), None).take(8)


def atex(case: Case) -> None:
    """One step lowers nothing silently: the loss is finite and the weights of a copy move."""
    model, inputs = case.model.float(), case.inputs.float()
    weights = [p.clone() for p in model.parameters()]
    trainer = training.ATEXTrainer(model, delta1=0.05, delta2=0.05)
    history = trainer.fit([inputs], epochs=1, show_progress=False)
    if not all(torch.isfinite(torch.tensor(v)) for v in history[-1].values()):
        raise AssertionError("not finite")
    if not all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True)):
        raise AssertionError("the model changed")
    pairs = zip(weights, trainer.model.parameters(), strict=True)
    if all(torch.equal(a, b) for a, b in pairs):
        raise AssertionError("nothing was trained")


COLUMNS: dict[str, Callable[[Case], None]] = {
    "BetaSmoothing": beta_smoothing,
    "differentiable": differentiable,
    "LRP": relevance_propagation,
    "GuidedBackprop": guided_backprop,
    "GhorbaniTopK": top_k_attack,
    "Square": square,
    "infidelity": infidelity,
    "ATEX": atex,
}


def cell(check: Callable[[Case], None], build: Callable[[], Case]) -> str:
    torch.manual_seed(0)
    try:
        check(build())
    except Exception as error:  # every error is a cell of the table
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "yes"


def page(rows: dict[str, dict[str, str]]) -> str:
    cells = [text for row in rows.values() for text in row.values()]
    share = sum(text == "yes" for text in cells) / len(cells)
    lines = [
        "Compatibility", "=============", "",
        "See whether your kind of network works with what you want to use. Every \"yes\" was",
        "checked against plain PyTorch to 1e-5 by ``python benchmarks/compatibility.py``, on small",
        f"networks with random weights: {len(rows)} networks, {share:.0%} of the cells.", "",
        ".. list-table::", "   :header-rows: 1", "   :class: compatibility", "",
        "   * - Network",
        *(f"     - {column}" for column in COLUMNS),
    ]  # fmt: skip
    notes: list[str] = []
    for name, row in rows.items():
        lines.append(f"   * - {name}")
        for text in row.values():
            if text == "yes":
                lines.append("     - yes")
                continue
            if text not in notes:
                notes.append(text)
            lines.append(f"     - no [#n{notes.index(text)}]_")
    lines += ["", *(f".. [#n{i}] ``{text[:300]}``" for i, text in enumerate(notes)), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--cells", type=Path, help="JSON of finished rows, to go on from")
    options = parser.parse_args()
    known = options.cells is not None and options.cells.is_file()
    rows = json.loads(options.cells.read_text()) if known else {}
    for name in options.only:
        if name in rows:
            continue
        started = time.monotonic()
        rows[name] = {column: cell(check, ARCHITECTURES[name]) for column, check in COLUMNS.items()}
        wrong = {column: text[:160] for column, text in rows[name].items() if text != "yes"}
        print(f"{name} ({time.monotonic() - started:.0f} s): {wrong or 'all yes'}", flush=True)
        if options.cells is not None:
            options.cells.write_text(json.dumps(rows))
    if options.out is not None:
        options.out.write_text(page(rows))
    sys.exit(any("AssertionError" in text for row in rows.values() for text in row.values()))


if __name__ == "__main__":
    main()
