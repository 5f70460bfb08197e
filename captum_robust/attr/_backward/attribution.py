"""Explanations that walk the network backwards by rules of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import GradientAttribution
from captum.log import log_usage
from torch import Tensor

from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import check_floating_inputs, checked
from captum_robust._utils.eager import require_eager
from captum_robust._utils.forward import explained_output
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.sound_gradients import sound_gradients
from captum_robust.attr._backward.tape import Bounds, Rule, Step, Tape
from captum_robust.attr._backward.unsupported import Refusal


class BackwardRules:
    """What an explanation does instead of the backward pass.

    Args:
        rule: The relevance of what a call was given, from that of its result.
        check: Called with every call of the forward pass; may raise.
        boxes: The bounds of the inputs, where the rules need them.
    """

    def __init__(
        self,
        rule: Rule,
        check: Callable[[Step], None] = lambda step: None,
        boxes: Callable[[tuple[Tensor, ...]], tuple[Bounds | None, ...] | None] = lambda x: None,
    ) -> None:
        self._rule, self._check, self._boxes = rule, check, boxes

    def with_graph(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensor | tuple[Tensor, ...],
        target: Any,
        additional_forward_args: Any,
        create_graph: bool = True,
    ) -> Any:
        """The explanation of inputs that require gradients."""
        is_tuple, tensors = format_inputs(inputs)
        check_floating_inputs(tensors)
        try:
            with torch.enable_grad():
                tape = Tape(tensors, self._check, self._boxes(tensors))
                with sound_gradients(2 if create_graph else 1), tape:
                    output = explained_output(
                        forward_func, tape.inputs, target, additional_forward_args
                    )
                relevance = tape.propagate(output, self._rule, create_graph)
        except Refusal as refused:
            raise TypeError(str(refused)) from None
        return format_output(is_tuple, relevance)

    def detached(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensor | tuple[Tensor, ...],
        target: Any,
        additional_forward_args: Any,
    ) -> Any:
        """The explanation alone, that leaves nothing behind."""
        is_tuple, tensors = format_inputs(inputs)
        with torch.inference_mode(False), preserve_buffers(forward_func):
            # Copies, since tensors made in inference mode would never have a graph.
            own = tuple(x.detach().clone() if x.is_inference() else x.detach() for x in tensors)
            ready = format_output(
                is_tuple, tuple(x.requires_grad_(x.is_floating_point()) for x in own)
            )
            return self.with_graph(
                forward_func, ready, target, additional_forward_args, create_graph=False
            )


class BackwardAttribution(GradientAttribution, ABC):
    """Base of these explanations: a subclass says by which rules, :meth:`_rules`."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        require_eager(forward_func, why="the calls in it cannot be seen from outside")
        super().__init__(forward_func)

    @abstractmethod
    def _rules(self) -> BackwardRules:
        """Made anew for each call."""

    @log_usage()
    @checked
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Any:
        """Explain ``inputs``.

        Args:
            inputs: Tensor or tuple of tensors, examples along dimension 0.
            target: The class to explain, as in Captum.
            additional_forward_args: Further arguments of ``forward_func``, as in Captum.

        Returns:
            Attributions of the shapes, dtypes and devices of ``inputs``.

        Raises:
            ValueError: ``inputs`` is empty, integer, NaN, Inf, of unequal length or out of the
                bounds that the explanation was given.
            TypeError: A layer cannot be explained, or cannot be seen; the message names it.
        """
        return self._rules().detached(self.forward_func, inputs, target, additional_forward_args)

    def attribute_with_graph(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Any:
        """Like :meth:`attribute`, with a graph; the protocol of :func:`differentiable`."""
        return self._rules().with_graph(self.forward_func, inputs, target, additional_forward_args)
