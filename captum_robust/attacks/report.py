"""What an attack tells about itself after a call: how far it came, and whether to believe it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Indicator:
    """A sign that an attack was weaker than it could have been.

    Args:
        name: Short name of the sign.
        share: Share of the examples that show it, in [0, 1].
        message: What was seen, and what to do.
    """

    name: str
    share: float
    message: str


@dataclass(frozen=True, eq=False)
class AttackReport:
    r"""What happened in the last call of an attack, (N,) tensors, one value per example.

    An example that came back untouched was not attacked with success. It never counts as robust.

    Args:
        kept_prediction: Whether the returned example keeps the clean prediction.
        measure_before: What the attack minimised, at the clean example.
        measure: The same at the returned example.
        untouched: Whether the clean example came back.
        gradient_zero: Whether no step had a gradient to follow.
        not_finite: Whether the measure became NaN on the way.
        without_valid: How many iterates did not keep the prediction.
        improved_at: The iteration that found the returned example, from 1 on; 0 for untouched.
        iterations: How many iterates were scored.
        draws_noise: Whether the explanation draws random numbers.
        measure_redrawn: Of an explanation that does, the measure with fresh draws, mean over
            several of them: the expectation that counts, since nobody gets the draw of the search.
            Of the attacks that take a ``measure``, beyond their budget; else None.
        deterministic: Whether the model gave the same output twice.
        agreement: Correlation of the surrogate's maps with the true model's, mean over the run.
        loss_improved: Whether the surrogate's loss fell.
        members: What each member of an ensemble took off the measure, mean over the examples.
        evaluations: Mean number of gradients of an example that an ensemble computed.
        extra: Further signs, by attacks that see more.

    References:
        Pintor et al. 2022, "Indicators of attack failure".

    Example:
        >>> from captum_robust.attacks import GhorbaniTopK
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> attack = GhorbaniTopK(fashion_mnist_cnn(), eps=0.02, alpha=0.002, steps=10)
        >>> manipulated = attack(*fashion_mnist_sample(4))
        >>> bool((attack.report.measure < attack.report.measure_before).all())
        True
    """

    kept_prediction: Tensor
    measure_before: Tensor
    measure: Tensor
    untouched: Tensor
    gradient_zero: Tensor
    not_finite: Tensor
    without_valid: Tensor
    improved_at: Tensor
    iterations: Tensor
    draws_noise: bool = False
    measure_redrawn: Tensor | None = None
    deterministic: bool = True
    agreement: Tensor | None = None
    loss_improved: Tensor | None = None
    members: dict[str, float] = field(default_factory=dict)
    evaluations: float | None = None
    extra: tuple[Indicator, ...] = field(default=())

    def __repr__(self) -> str:
        before, after = self.measure_before.mean().item(), self.measure.mean().item()
        return (
            f"AttackReport({len(self.measure)} examples, measure {before:.4g} -> {after:.4g}, "
            f"{int(self.untouched.sum())} untouched, indicators: "
            f"{', '.join(sign.name for sign in self.indicators) or 'none'})"
        )

    @property
    def trustworthy(self) -> bool:
        """Whether no sign of a weak attack was seen."""
        return not self.indicators

    @property
    def indicators(self) -> tuple[Indicator, ...]:
        """The signs of a weak attack that were seen, each with what to do."""
        found = [
            _sign("zero gradient", self.gradient_zero, _ZERO),
            _sign("not finite", self.not_finite, _NOT_FINITE),
            _sign(
                "no valid candidate",
                self.without_valid == self.iterations.clamp(min=1),
                _NEVER_VALID,
            ),
            _sign("still improving", self._late(), _LATE),
            _flag("noise", self.draws_noise, _NOISE),
            _flag("non-deterministic model", not self.deterministic, _RANDOM),
        ]
        if self.agreement is not None:
            found.append(_sign("surrogate disagrees", self.agreement < _AGREE, _DISAGREES))
        if self.loss_improved is not None:
            stuck = self.loss_improved & (self.measure >= self.measure_before)
            found.append(_sign("loss without measure", stuck & ~self.gradient_zero, _LOSS_ALONE))
        return (*(sign for sign in found if sign is not None), *self.extra)

    def _late(self) -> Tensor:
        """Whether the best iterate came in the last twentieth of a run of twenty or more."""
        enough = self.iterations >= _ENOUGH_ITERATIONS
        return enough & (self.improved_at > _LATE_FROM * self.iterations)


_ENOUGH_ITERATIONS, _LATE_FROM = 20, 0.95
_AGREE = 0.3
_TOO_MANY = {"still improving": 0.5}

_ZERO = (
    "no step had a gradient to follow: smooth the surrogate more (a smaller beta), or attack "
    "without gradients (BlackBoxExplanationAttack)"
)
_NOT_FINITE = "NaN or Inf met: look for roots, divisions and logarithms at 0; try float64"
_NEVER_VALID = "no candidate kept the prediction: take smaller steps (alpha) or a smaller eps"
_LATE = "the best iterate came at the very end: give more steps or a larger budget"
_NOISE = (
    "the explanation draws noise; the candidates were compared by one draw: judge the result with "
    "fresh draws, as measure_redrawn does"
)
_RANDOM = "the model gives other outputs when asked again: put it in evaluation mode, fix its seed"
_DISAGREES = (
    "the surrogate's maps are not the model's: take a larger beta, a growing one, or "
    "BlackBoxExplanationAttack"
)
_LOSS_ALONE = "the loss fell and the measure did not: descend another loss (AutoExplanationAttack)"


def _sign(name: str, seen: Tensor, advice: str) -> Indicator | None:
    share = seen.double().mean().item()
    if share <= _TOO_MANY.get(name, 0.0):
        return None
    return Indicator(name, share, f"{share:.0%} of the examples: {advice}.")


def _flag(name: str, seen: bool, advice: str) -> Indicator | None:
    return Indicator(name, 1.0, advice[0].upper() + advice[1:] + ".") if seen else None
