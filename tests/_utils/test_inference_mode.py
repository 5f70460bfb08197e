"""Functions that differentiate, called from inference mode."""

from __future__ import annotations

import torch

from captum_robust._utils.inference_mode import outside_inference_mode


@outside_inference_mode
def gradient(x, scales=(), *, options=None):
    """Docs."""
    assert not torch.is_inference_mode_enabled()
    factor = sum(scales) + sum((options or {}).values())
    x = x.requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad((x * factor).square().sum(), x)[0]


def test_tensors_of_inference_mode_are_handed_over_as_copies():
    with torch.inference_mode():
        x, one = torch.tensor([3.0]), torch.tensor(1.0)
        got = gradient(x, (one, one), options={"a": one})
        assert torch.is_inference_mode_enabled()
    assert got.item() == 2 * 3 * 9
    assert not got.is_inference()
    assert not x.requires_grad


def test_outside_nothing_is_copied():
    x = torch.tensor([3.0])
    gradient(x, [torch.tensor(1.0)])
    assert x.requires_grad
    assert gradient.__doc__ == "Docs."
