"""What may happen after an epoch."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

from torch import Tensor

from captum_robust._utils.checks import check_count
from captum_robust.training.state import EpochRecord, TrainingState

Callback = Callable[[TrainingState, EpochRecord], "bool | None"]
"""Called after each epoch; a true value ends the training.

Where it has a method ``start(state, record)``, that is called before the first step, with what the
validation gives for the student as it begins; a run that goes on from a checkpoint has begun.
"""


class EarlyStopping:
    """End the training when a measure gets no better, and go back to the best weights.

    The weights before the training count, where ``monitor`` is a measure of the validation: a
    training that makes all worse gives them back. If the epochs run out first, the last weights
    stay. A training that it ended goes on when ``fit`` is called again. The agreement with the
    teacher is perfect at the beginning and can only fall: watch it, and monitor something else.

    Args:
        monitor: Name in the record of an epoch, such as ``"val_stability"``.
        patience: Epochs in a row without progress before the end.
        minimize: Whether smaller is better.
        min_delta: Progress is what exceeds this.

    Raises:
        ValueError, TypeError: ``patience`` is not a count from 1 on, ``min_delta`` is negative;
            when called, the record has no ``monitor``.

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
        if not isinstance(monitor, str):
            raise TypeError(
                f"monitor must be a name in the record of an epoch, got {type(monitor).__name__}. "
                'Write EarlyStopping("val_stability").'
            )
        check_count(patience=patience)
        if not min_delta >= 0:
            raise ValueError(f"min_delta must be 0 or more, got {min_delta}.")
        self.monitor, self.patience = monitor, patience
        self.minimize, self.min_delta = minimize, min_delta
        self._state: weakref.ref[TrainingState] | None = None
        self._begin()

    def _begin(self) -> None:
        self._best, self._waited = math.inf, 0
        self._weights: dict[str, Tensor] | None = None

    def __repr__(self) -> str:
        return f"EarlyStopping({self.monitor!r}, patience={self.patience})"

    def start(self, state: TrainingState, record: EpochRecord) -> None:
        """Take the weights before the training for the best so far, if they were measured."""
        if self._state is not None and self._state() is state:
            return  # it goes on
        self._begin()
        self._state = weakref.ref(state)
        if self.monitor in record:
            self._best, self._weights = self._signed(record), state.weights()

    def __call__(self, state: TrainingState, record: EpochRecord) -> bool:
        """Compare an epoch with the best; say whether to stop."""
        if self.monitor not in record:
            raise ValueError(
                f"monitor: the record of an epoch has no {self.monitor!r}, only {sorted(record)}. "
                "What starts with val_ needs validation=."
            )
        if self._state is not None and self._state() is not state:
            self._begin()
        self._state = weakref.ref(state)
        value = self._signed(record)
        if value < self._best - self.min_delta:
            self._best, self._waited, self._weights = value, 0, state.weights()
            return False
        self._waited += 1
        if self._waited < self.patience:
            return False
        if self._weights is not None:
            state.load_weights(self._weights)
        return True

    def _signed(self, record: EpochRecord) -> float:
        return record[self.monitor] if self.minimize else -record[self.monitor]

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {"best": self._best, "waited": self._waited, "weights": self._weights}

    def load_state_dict(self, saved: dict) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._best, self._waited = saved["best"], saved["waited"]
        self._weights, self._state = saved["weights"], None
