"""Values that are predicted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from captum_robust._utils.checks import check_positive
from captum_robust.outputs._columns import check_columns, column, remedy
from captum_robust.outputs.base import Outputs


@dataclass(frozen=True)
class Regression(Outputs):
    r"""Values, which count as the same prediction while they stay within a tolerance.

    :meth:`imitation_loss` is the divergence of two normal distributions whose variance is the
    squared tolerance s times the temperature,

    .. math:: \mathrm{KL}(N(f, T s^2) \,\|\, N(g, T s^2)) = (g - f)^2 / (2 T s^2).

    Args:
        tolerance: Largest change of a value that leaves the prediction as it is, in its units.

    Raises:
        ValueError: ``tolerance`` is not positive and finite.

    Example:
        >>> import torch
        >>> from captum_robust.outputs import Regression
        >>> clean, new = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.04], [2.2]])
        >>> Regression(tolerance=0.1).same(clean, new)
        tensor([ True, False])
    """

    tolerance: float
    wanted_labels = "labels that are the values, in the shape of the outputs"

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)

    def check(self, output: Tensor, n_examples: int) -> None:
        """Raise ValueError unless ``output`` is (N,) or (N, values)."""
        super().check(output, n_examples)
        if output.dim() > 2:
            raise ValueError(
                f"model must return values of shape ({n_examples},) or ({n_examples}, values), got "
                f"{tuple(output.shape)}. {remedy(output)}"
            )

    def prediction(self, output: Tensor) -> Tensor:
        """The values themselves, (N,) or (N, values)."""
        return output.flatten() if output[0].numel() == 1 else output

    def same(self, clean: Tensor, new: Tensor) -> Tensor:
        """Whether no value moved by more than the tolerance."""
        return ((new - clean).abs() <= self.tolerance).reshape(len(clean), -1).all(1)

    def score(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The value of index ``target``, (N,); None: the only one, or the sum of several."""
        if target is None or output.dim() == 1:
            return output.reshape(len(output), -1).sum(1)
        return column(output, target)

    def imitation_loss(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """Squared distance in units of the tolerance, (N,)."""
        apart = (student - teacher.view_as(student)).reshape(len(student), -1).square().sum(1)
        return apart / (2 * temperature * self.tolerance**2)

    def target(self, output: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """None for one value, else the index in ``labels``, (N,)."""
        if output[0].numel() == 1:
            return None
        if labels is None:
            raise ValueError(
                f"labels: the model predicts {output.shape[1]} values per example, so say which "
                "one is explained: labels=torch.full((N,), index)."
            )
        return check_columns(labels, output)

    def comparable(self, output: Tensor) -> Tensor:
        """The values in units of the tolerance, (N, values)."""
        return output.reshape(len(output), -1) / self.tolerance

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """Whether all values are within the tolerance of ``labels``, (N,)."""
        return self.same(labels.to(output).view_as(output), output)

    def keeps(self, new: Tensor, clean: Tensor, target: Tensor | None = None) -> Tensor:
        """Whether the value that is watched stays within the tolerance, (N,)."""
        return (self.score(new, target) - self.score(clean, target)).abs() <= self.tolerance

    def predicted_target(self, output: Tensor) -> Tensor | None:
        """None: of several values, all are explained, in sum."""
        return None

    def labels_fit(self, labels: Tensor, output: Tensor) -> bool:
        """Whether there is a label for each value."""
        return labels.numel() == output.numel()

    def label_loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The squared distance in units of the tolerance, halved."""
        return self.imitation_loss(output, labels.to(output).view_as(output))
