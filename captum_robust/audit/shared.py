"""What all explanations of a batch ask of the model alike, and it answers once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from torch import Tensor

from captum_robust._utils.forward import logits_of

Forward = Callable[[Tensor], Tensor]


class Shared:
    """The answers of a model to inputs that do not depend on what is explained.

    Infidelity removes the same features whatever the explanation says of them, and a random order
    of pixels has nothing to do with it: both take many runs of the model, the same for each.

    Args:
        model: What is asked.

    Example:
        >>> import torch
        >>> from captum_robust.audit.shared import Shared
        >>> shared = Shared(lambda x: print("asked") or 2 * x)
        >>> for _ in range(2):
        ...     with shared.answers("some inputs") as model:
        ...         print(model(torch.ones(1)))
        asked
        tensor([2.])
        tensor([2.])
    """

    def __init__(self, model: Callable[[Tensor], object]) -> None:
        self._model = model
        self._answers: dict[Hashable, list[tuple[Tensor, Tensor]]] = {}
        self._values: dict[Hashable, Tensor] = {}

    @contextmanager
    def answers(self, key: Hashable) -> Iterator[Forward]:
        """The model the first time; whoever names the key later gets its answers again, in order.

        Raises:
            ValueError: The inputs are not those of the first time.
        """
        known = self._answers.get(key)
        if known is not None:
            yield _Replay(known)
            return
        recorded: list[tuple[Tensor, Tensor]] = []

        def record(x: Tensor) -> Tensor:
            digest = _digest(x)  # before the model, which may write into its inputs
            output = logits_of(self._model(x))
            recorded.append((digest, output.detach()))
            return output

        yield record
        self._answers[key] = recorded  # only where nothing failed

    def once(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """What ``compute`` gave the first time that the key was named."""
        if key not in self._values:
            self._values[key] = compute()
        return self._values[key]


class _Replay:
    def __init__(self, answers: list[tuple[Tensor, Tensor]]) -> None:
        self._answers = iter(answers)

    def __call__(self, x: Tensor) -> Tensor:
        digest, output = next(self._answers, (None, None))
        if digest is None or output is None or not digest.equal(_digest(x)):
            raise ValueError("the inputs are not those that were shared: the draws differ.")
        return output.clone()


def _digest(x: Tensor) -> Tensor:
    """A number for each row."""
    return x.detach().flatten(1).double().sum(1) if x.dim() > 1 else x.detach().clone()
