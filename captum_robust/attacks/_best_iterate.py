"""What an attack returns: for each example the best allowed iterate, and a record of the search."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_robust._utils.user_warnings import warn_user
from captum_robust.attacks._explained import Explained
from captum_robust.attacks.report import AttackReport
from captum_robust.outputs import Outputs


class BestIterate:
    """For each example the best allowed iterate so far. No value leaves the device on the way.

    Args:
        images: The clean examples.
        clean: What the attack sees of them.
        score: What is minimised, at the clean examples, (N,).
        outputs: What the model's outputs mean.
        target: What is explained.
        eps_output: Largest change of the explained output; None: no bound.
    """

    def __init__(
        self,
        images: Tensor,
        clean: Explained,
        score: Tensor,
        outputs: Outputs,
        target: Tensor | None,
        eps_output: float | None,
    ) -> None:
        self.images = images
        self.score = self._clean_score = score.detach()
        self._outputs, self._target, self._eps_output = outputs, target, eps_output
        self._output = self._clean_output = clean.output.detach()
        self._explained = outputs.score(self._clean_output, target)
        none = torch.zeros_like(self.score, dtype=torch.long)
        self.iterations = self._allowed = self._improved_at = none
        self._met_nan = none.bool()
        self._followed: Tensor | None = None
        # Where there is nothing to manipulate, as was said already, there is nothing to follow.
        self._blank = clean.relevance.flatten(1).sum(1) == 0

    def allowed(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        """Whether outputs for the examples ``rows`` keep the prediction and ``eps_output``."""
        kept = self._outputs.same(_rows(self._clean_output, rows), output)
        if self._eps_output is not None:
            target = None if self._target is None else _rows(self._target, rows)
            change = self._outputs.score(output, target) - _rows(self._explained, rows)
            kept = kept & (change.abs() <= self._eps_output)
        return kept

    def update(
        self, x: Tensor, score: Tensor, seen: Explained, rows: Tensor | None = None
    ) -> Tensor:
        """Keep what is better and allowed.

        Args:
            x: Candidates.
            score: What is minimised, at each.
            seen: What the attack sees of them on the true model.
            rows: Which examples they are versions of, none twice; None: each of its own.

        Returns:
            (n,) which candidates count: allowed, with a finite score and a map that is not zero.
        """
        output, score = seen.output.detach(), score.detach()
        allowed, before = self.allowed(output, rows), _rows(self.score, rows)
        # An explanation that is zero everywhere shows nothing; that is not to show another.
        shows = seen.relevance.flatten(1).sum(1) > 0
        better = (score < before) & allowed & shows
        iterations = _rows(self.iterations, rows) + 1

        def keep(old: Tensor, new: Tensor) -> Tensor:
            return _replaced(
                old, torch.where(per_example(better, new), new, _rows(old, rows)), rows
            )

        self.iterations = _replaced(self.iterations, iterations, rows)
        self._allowed = _replaced(self._allowed, _rows(self._allowed, rows) + allowed, rows)
        nan = _rows(self._met_nan, rows) | score.isnan()
        self._met_nan = _replaced(self._met_nan, nan, rows)
        self._improved_at = keep(self._improved_at, iterations)
        self.score = keep(self.score, score)
        self._output = keep(self._output, output)
        self.images = keep(self.images, x)
        return allowed & shows & score.isfinite()

    def note_gradient(self, gradient: Tensor, rows: Tensor | None = None) -> None:
        """Remember which examples had something to follow."""
        followed = (gradient.flatten(1) != 0).any(1)
        if self._followed is None:
            self._followed = torch.zeros_like(self._met_nan)
        self._followed = _replaced(self._followed, _rows(self._followed, rows) | followed, rows)

    def without_gradient(self) -> Tensor:
        """Which examples had nothing to follow so far."""
        nothing = torch.zeros_like(self._met_nan)
        return nothing if self._followed is None else ~self._followed

    def report(self, *, draws: bool, again: Tensor) -> AttackReport:
        """What happened, for the user.

        Args:
            draws: Whether the explanation draws random numbers.
            again: The model's output at the clean examples, computed another time.
        """
        untouched = self._improved_at == 0
        return AttackReport(
            kept_prediction=self.allowed(self._output),
            measure_before=self._clean_score,
            measure=self.score,
            untouched=untouched,
            gradient_zero=self.without_gradient(),
            not_finite=self._met_nan,
            without_valid=self.iterations - self._allowed,
            improved_at=self._improved_at,
            iterations=self.iterations,
            draws_noise=draws,
            deterministic=torch.allclose(again, self._clean_output, rtol=1e-3, atol=1e-5),
        )

    def warn(self, report: AttackReport) -> None:
        """Say where the search met NaN, had no gradient to follow, or came back with nothing."""
        stuck = report.gradient_zero & report.untouched & ~self._blank
        failed = report.untouched & ~stuck & ~self._blank & ~report.not_finite
        never = failed & (report.without_valid == report.iterations)
        counts = torch.stack([stuck, report.not_finite, failed, never]).sum(1).tolist()
        n_stuck, n_nan, n_failed, n_never = counts
        if n_stuck:
            warn_user(
                f"The gradient of the surrogate's objective was zero for {n_stuck} of the images, "
                "so the attack could not search; this does not show robustness. Either nothing can "
                "change the explanation (a linear model), or the model spells its rectifiers in a "
                "way that cannot be smoothed (see softplus_activations)."
            )
        if n_nan:
            warn_user(
                f"The explanation, or its gradient, became NaN for {n_nan} of the images. What is "
                "returned for them is the best iterate before that. Look for square roots, "
                "divisions and logarithms at 0 in the model and the explanation."
            )
        if n_failed:
            warn_user(
                f"The attack failed for {n_failed} of {len(self.images)} images and returns them "
                f"as they were: for {n_never} of them no iterate kept the prediction, for the "
                "others none was better. This does not show that the explanations are robust. Try "
                "smaller steps (alpha), more of them, or AutoExplanationAttack; "
                "attack.report.untouched says which images these are."
            )


def _rows(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows]


def _replaced(old: Tensor, new: Tensor, rows: Tensor | None) -> Tensor:
    return new if rows is None else old.index_copy(0, rows, new)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """One value for each example, to broadcast against ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))
