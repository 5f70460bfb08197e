"""The keyword arguments that all attacks share, and their checks."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_robust._utils.checks import check_count, check_positive
from captum_robust.attacks.balls import L2, Ball, Box, LInf, Radius
from captum_robust.attacks.schedules import Schedule
from captum_robust.outputs import Outputs

_RESERVED = {"target", "return_convergence_delta", "additional_forward_args"}


class RareSettings(TypedDict, total=False):
    """What is seldom changed; see :class:`ExplanationAttack`, which explains each."""

    channel_dim: int | None
    eps_output: float | None
    restarts: int
    ball: Ball | None
    levels: int | None
    explanation_kwargs: dict[str, Any] | None
    show_progress: bool


class AttackSettings(RareSettings, total=False):
    """All keyword arguments that the attacks share; see :class:`ExplanationAttack`."""

    output: Outputs | None
    input_range: Box | None
    beta: float | Schedule
    generator: torch.Generator | None


RARE_DEFAULTS: RareSettings = {
    "channel_dim": None,
    "eps_output": None,
    "restarts": 1,
    "ball": None,
    "levels": None,
    "explanation_kwargs": None,
    "show_progress": False,
}


def complete(settings: RareSettings) -> RareSettings:
    """The settings with the defaults of those that were not given.

    Raises:
        TypeError: A name is unknown, or a value of the wrong kind.
        ValueError: A value is out of range.
    """
    unknown = set(settings) - set(RARE_DEFAULTS)
    if unknown:
        known = {*AttackSettings.__annotations__, *RARE_DEFAULTS}
        raise TypeError(
            f"{min(unknown)} is not an argument of this attack. Those that all attacks share: "
            f"{', '.join(sorted(known))}."
        )
    rare: RareSettings = {**RARE_DEFAULTS, **settings}
    check_count(restarts=rare["restarts"])
    if rare["eps_output"] is not None:
        check_positive(eps_output=rare["eps_output"])
    ball, channel_dim, levels = rare["ball"], rare["channel_dim"], rare["levels"]
    if ball is not None and (isinstance(ball, type) or not isinstance(ball, Ball)):
        raise TypeError(f"ball must be LInf(), L2() or a Ball of your own, got {ball!r}.")
    if channel_dim is not None and (not isinstance(channel_dim, int) or channel_dim == 0):
        raise ValueError(
            f"channel_dim must be a dimension other than the batch (0), got {channel_dim!r}."
        )
    if levels is not None:
        check_count(levels=levels)
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}. 256 is a file of 8 bits.")
    _check_explanation_kwargs(rare["explanation_kwargs"])
    return rare


def check_arguments(
    explanation: Any,
    output: Any,
    generator: Any,
    input_range: Any,
    eps: Radius,
    rare: RareSettings,
) -> None:
    """Raise unless the other arguments are of their kinds and fit together."""
    if explanation is not None and not isinstance(explanation, Attribution):
        raise TypeError(
            f"explanation must be a captum Attribution, got {type(explanation).__name__}. Wrap the "
            "model: Saliency(model). It comes before eps, alpha and steps, which can be named."
        )
    if output is not None and not isinstance(output, Outputs):
        given = f"the class {output.__name__}" if isinstance(output, type) else repr(output)
        raise TypeError(
            f"output must be an object of captum_robust.outputs, such as Binary(), got {given}."
        )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}.")
    _check_range(input_range, eps, rare["ball"], rare["levels"])


def _check_explanation_kwargs(explanation_kwargs: Any) -> None:
    if explanation_kwargs is not None and not isinstance(explanation_kwargs, dict):
        raise TypeError(
            "explanation_kwargs must be a dictionary, such as {'n_steps': 20}, got "
            f"{type(explanation_kwargs).__name__}."
        )
    reserved = _RESERVED & set(explanation_kwargs or {})
    if reserved:
        raise ValueError(
            f"explanation_kwargs must not hold {min(reserved)!r}. The class to explain is given by "
            "labels and the model's further arguments by additional_forward_args when the attack "
            "is called; an attack needs attributions alone."
        )


def check_quantities(
    eps: Radius, alpha: float | Tensor | Schedule, steps: int, beta: float | Schedule
) -> None:
    """Raise unless radius, step size, number of steps and sharpness are positive."""
    _check_radius("eps", eps)
    check_count(steps=steps)
    if not callable(alpha):
        _check_radius("alpha", alpha)
    if not callable(beta):
        check_positive(beta=beta)


def _check_radius(name: str, value: Radius) -> None:
    if not isinstance(value, Tensor):
        check_positive(**{name: value})
        return
    if not value.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {value.dtype}.")
    fine = torch.isfinite(value).all() and (value >= 0).all() and (value > 0).any()
    if value.numel() == 0 or not bool(fine):
        raise ValueError(
            f"{name} must be finite and not negative, and positive for at least one feature. Zero "
            "keeps a feature where it is."
        )


def _check_range(input_range: Any, eps: Radius, ball: Ball | None, levels: int | None) -> None:
    """Raise unless the range of the inputs is one, and radius and levels fit it."""
    if input_range is not None:
        if not isinstance(input_range, (tuple, list)) or len(input_range) != 2:
            raise ValueError(
                "input_range must be (smallest, largest), two numbers or two tensors with a value "
                f"per feature, or None for no bound, got {input_range!r}."
            )
        low, high = (torch.as_tensor(v, dtype=torch.float64) for v in input_range)
        if bool(low.isnan().any()) or bool(high.isnan().any()) or not bool((low < high).all()):
            raise ValueError("input_range must hold a smallest value below the largest.")
    if isinstance(eps, Tensor) and not isinstance(ball, LInf | None):
        raise ValueError(
            f"eps must be one number for {ball!r}, whose radius is that of a whole example. Use "
            "LInf() for a radius per feature, or scale the inputs."
        )
    unit = input_range is not None and not any(isinstance(v, Tensor) for v in input_range)
    if unit and not isinstance(ball, L2) and not isinstance(eps, Tensor):
        _check_reach(eps, input_range[1] - input_range[0])
    if levels is not None:
        _check_levels(levels, input_range, eps, ball)


def _check_reach(eps: float, width: float) -> None:
    if eps > width:
        raise ValueError(
            f"eps must be at most {width:g}, the width of input_range, got {eps}. Divide it by "
            "255, or say which values the inputs may have: input_range=(low, high), or None for "
            "no bound."
        )


def _check_levels(levels: int, input_range: Any, eps: Radius, ball: Ball | None) -> None:
    if input_range is None or any(isinstance(v, Tensor) for v in input_range):
        raise ValueError("levels needs input_range=(0, 1): a file of images holds no other range.")
    if tuple(input_range) != (0, 1):
        raise ValueError("levels needs input_range=(0, 1): a file of images holds no other range.")
    largest = float(torch.as_tensor(eps).max())
    if largest * (levels - 1) < 1 - 1e-6 and not isinstance(ball, L2):
        raise ValueError(
            f"eps must be at least 1/{levels - 1}, one of the levels, or nothing can move; got "
            f"{largest}."
        )
