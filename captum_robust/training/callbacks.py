"""What may happen after an epoch."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from captum_robust._utils.checks import check_count

if TYPE_CHECKING:
    from captum_robust.training.trainer import Trainer

Row = dict[str, float]
"""The record of an epoch: what was measured, by name."""

Callback = Callable[["Trainer", Row], "bool | None"]
"""Called after each epoch; a true value ends the training."""


class EarlyStopping:
    """End the training when a measure gets no better, and go back to the best weights.

    If the epochs run out first, the last weights stay. A training that it ended goes on when
    ``fit`` is called again. The agreement with the teacher is perfect at the beginning and can
    only fall: it is a measure to watch, not to monitor.

    Args:
        monitor: Name in the record of an epoch, such as ``"val_stability"``.
        patience: Epochs in a row without progress before the end.
        minimize: Whether smaller is better.
        min_delta: Progress is what exceeds this.

    Raises:
        ValueError, TypeError: ``patience`` is no count from 1 on, ``min_delta`` is negative; when
            called, the record has no ``monitor``.

    Example:
        >>> class Still:
        ...     def weights(self): return {}
        ...     def load_weights(self, weights): print("the best weights are back")
        >>> stop, still = EarlyStopping("loss", patience=2, minimize=True), Still()
        >>> [bool(stop(still, {"epoch": i, "loss": loss})) for i, loss in enumerate([2, 1, 3, 3])]
        the best weights are back
        [False, False, False, True]
    """

    def __init__(
        self, monitor: str, patience: int = 3, minimize: bool = False, min_delta: float = 0.0
    ) -> None:
        check_count(patience=patience)
        if not min_delta >= 0:
            raise ValueError(f"min_delta must be 0 or more, got {min_delta}.")
        self.monitor, self.patience = monitor, patience
        self.minimize, self.min_delta = minimize, min_delta
        self._trainer: weakref.ref[Trainer] | None = None
        self._begin()

    def _begin(self) -> None:
        self._best, self._waited = math.inf, 0
        self._weights: dict[str, Tensor] | None = None

    def __repr__(self) -> str:
        return f"EarlyStopping({self.monitor!r}, patience={self.patience})"

    def __call__(self, trainer: Trainer, row: Row) -> bool:
        """Compare an epoch with the best; say whether to stop."""
        if self.monitor not in row:
            raise ValueError(
                f"monitor: the record of an epoch has no {self.monitor!r}, only {sorted(row)}. "
                "What starts with val_ needs validation=."
            )
        if self._trainer is not None and self._trainer() is not trainer:
            self._begin()
        self._trainer = weakref.ref(trainer)
        value = row[self.monitor] if self.minimize else -row[self.monitor]
        if value < self._best - self.min_delta:
            self._best, self._waited, self._weights = value, 0, trainer.weights()
            return False
        self._waited += 1
        if self._waited < self.patience:
            return False
        if self._weights is not None:
            trainer.load_weights(self._weights)
        return True

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {"best": self._best, "waited": self._waited, "weights": self._weights}

    def load_state_dict(self, state: dict) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._best, self._waited = state["best"], state["waited"]
        self._weights, self._trainer = state["weights"], None
