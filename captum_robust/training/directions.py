"""The direction of an explanation: SmoothGrad of a model, computed no oftener than it changes."""

from __future__ import annotations

import weakref
from hashlib import blake2b

import numpy as np
import torch
from captum.attr import Saliency
from torch import Tensor, nn

from captum_robust._utils.checks import check_count, check_positive
from captum_robust._utils.model_state import preserve_model
from captum_robust.attr import KernelSmoothing
from captum_robust.outputs import Outputs
from captum_robust.training.batch import Batch
from captum_robust.training.predicted import PredictedScore
from captum_robust.training.randomness import derived_seed

# Noisy copies of a batch in one pass: no more memory than a training step on a few samples takes.
_COPIES_AT_ONCE = 4


class SmoothGradDirections:
    r"""SmoothGrad of what is predicted, :math:`\phi(f, x)`, kept for inputs that come again.

    The noise of an example follows from its input, bit for bit, so the direction is a function of
    the input alone: the same in every step, epoch and process. It is computed once and kept.
    Augmented inputs never come again; for them it is kept for the steps on the same batch. Those of
    another model are forgotten. Of a model that learns none may be kept for longer than that:
    ``kept_bytes=0``.

    Args:
        n_samples: Noisy copies of each example.
        stdev: Standard deviation of the noise, in units of the inputs.
        kept_bytes: Memory for directions kept from batch to batch; what does not fit is computed
            anew. They travel with checkpoints.
        seed: Of the noise.
        output: What the model's outputs mean; None: logits of two or more classes.

    Raises:
        ValueError, TypeError: A count below one, a ``stdev`` that is not positive and finite, or
            negative ``kept_bytes``; when called, the model gives one number per example and
            ``output`` is None.

    Example:
        >>> import torch
        >>> from captum_robust.training.batch import Batch, Draws
        >>> from captum_robust.outputs import Regression
        >>> model = torch.nn.Linear(3, 1)
        >>> batch = Batch(torch.rand(2, 3), None, Draws(seed=0))
        >>> find = SmoothGradDirections(n_samples=4, output=Regression(tolerance=0.1))
        >>> torch.allclose(find(model, batch), model.weight.expand(2, 3))  # of a linear model
        True
    """

    def __init__(
        self,
        n_samples: int = 10,
        stdev: float = 0.2,
        kept_bytes: int = 2**28,
        seed: int = 0,
        output: Outputs | None = None,
    ) -> None:
        check_count(n_samples=n_samples)
        check_positive(stdev=stdev)
        if kept_bytes < 0:
            raise ValueError(f"kept_bytes must be 0 or more, got {kept_bytes}.")
        self.n_samples, self.stdev = n_samples, stdev
        self.kept_bytes, self.seed, self.output = kept_bytes, seed, output
        self._kept: dict[bytes, Tensor] = {}
        self._size = 0
        self._current: tuple[Batch, Tensor] | None = None
        self._resumed: dict[bytes, Tensor] = {}
        self._model: weakref.ref[nn.Module] | None = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_samples={self.n_samples}, stdev={self.stdev}, "
            f"seed={self.seed})"
        )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Directions of the inputs' shape, without a graph."""
        if self._model is not None and self._model() is not model:
            self._kept, self._size, self._current = {}, 0, None
        self._model = weakref.ref(model)
        again = batch.repeat > 0
        if self._current is None or self._current[0].inputs is not batch.inputs or not again:
            # In the midst of a batch, a resumed run goes on with what the batch began with.
            known = self._resumed if again and self._resumed else self._kept
            self._current = batch, self._of(model, batch, known)
            self._resumed = {}
        return self._current[1]

    def _of(self, model: nn.Module, batch: Batch, known: dict[bytes, Tensor]) -> Tensor:
        keys = _keys(batch)
        directions = torch.empty_like(batch.inputs)
        unknown = [i for i, key in enumerate(keys) if key not in known]
        for i in set(range(len(keys))).difference(unknown):
            directions[i] = known[keys[i]]
        if unknown:
            new = [keys[i] for i in unknown]
            directions[unknown] = self._compute(model, batch.rows(unknown), new)
            for i in unknown:
                self._keep(keys[i], directions[i])
        return directions

    def _keep(self, key: bytes, direction: Tensor) -> None:
        size = direction.numel() * direction.element_size()
        if key not in self._kept and self._size + size <= self.kept_bytes:
            self._kept[key] = direction.cpu().clone()
            self._size += size

    def _compute(self, model: nn.Module, batch: Batch, keys: list[bytes]) -> Tensor:
        inputs, device = batch.inputs, batch.inputs.device
        sources = [
            torch.Generator(device).manual_seed(derived_seed(self.seed, key.hex())) for key in keys
        ]

        def noise(like: Tensor, _: torch.Generator) -> Tensor:
            drawn = [
                torch.randn(x.shape, generator=source, device=device, dtype=x.dtype)
                for x, source in zip(like, sources, strict=True)
            ]
            return torch.stack(drawn)

        with torch.autocast(device.type, enabled=False), preserve_model(model):
            more = batch.additional_forward_args
            score = PredictedScore(model.eval(), inputs, more, self.output)
            return KernelSmoothing(Saliency(score)).attribute(
                inputs, kernel=noise, radius=self.stdev, n_samples=self.n_samples,
                internal_batch_size=_COPIES_AT_ONCE * len(inputs), abs=False,
                additional_forward_args=score.arguments,
            )  # fmt: skip

    def state_dict(self) -> dict:
        """What a resumed run needs to go on in the same way."""
        kept = self._kept
        if self.kept_bytes == 0 and self._current is not None:
            kept = dict(zip(_keys(self._current[0]), self._current[1].cpu(), strict=True))
        return {"keys": [key.hex() for key in kept], "directions": list(kept.values())}

    def load_state_dict(self, state: dict) -> None:
        """Take over what :meth:`state_dict` gave."""
        keys = [bytes.fromhex(key) for key in state["keys"]]
        known = dict(zip(keys, state["directions"], strict=True))
        self._kept, self._resumed = ({}, known) if self.kept_bytes == 0 else (known, {})
        self._size = sum(d.numel() * d.element_size() for d in self._kept.values())
        self._current = self._model = None


def _keys(batch: Batch) -> list[bytes]:
    """A digest of the bits of each example, and of what the model takes beside it."""
    more = (a for a in batch.additional_forward_args if isinstance(a, Tensor) and a.dim() > 0)
    parts = [_bytes_of(rows) for rows in (batch.inputs, *more)]
    return [
        blake2b(b"".join(row.tobytes() for row in example), digest_size=16).digest()
        for example in zip(*parts, strict=True)
    ]


def _bytes_of(rows: Tensor) -> np.ndarray:
    flat = rows.detach().reshape(len(rows), -1).contiguous()
    return flat.view(torch.uint8).cpu().numpy()
