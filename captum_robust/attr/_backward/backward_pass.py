"""What an explanation does instead of the backward pass: one class for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from captum_robust.attr._backward.call import Bounds, Call, Shares


class BackwardPass(ABC):
    """What an explanation does instead of the backward pass. Made anew for each explanation."""

    expansions: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    """Functions, by name, that the tape runs in another spelling and records call by call."""

    def check(self, call: Call) -> None:
        """Look at a call of the forward pass while it is made; raise ``unsupported(...)``."""
        return

    @abstractmethod
    def distribute(self, call: Call, relevance: list[Tensor | None], create_graph: bool) -> Shares:
        """Share out the relevance of a call's outputs among its inputs.

        Args:
            call: The call.
            relevance: That of each of ``call.outputs``; None where none arrived, never all.
            create_graph: Whether the shares must keep their graph.
        """

    def bounds(self, inputs: tuple[Tensor, ...]) -> tuple[Bounds | None, ...]:
        """The box that each input lies in, where the pass needs it."""
        return (None,) * len(inputs)

    def finish(self) -> None:
        """Warn, once relevance is at the inputs, of what the explanation does not show."""
        return


class GradientPass(BackwardPass):
    """The true backward pass."""

    def distribute(self, call: Call, relevance: list[Tensor | None], create_graph: bool) -> Shares:
        """The gradients of the inputs."""
        return call.gradient_shares(relevance, create_graph)
