"""Explanations that walk the network backwards by rules of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import GradientAttribution
from captum.log import log_usage

from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import check_floating_inputs, checked
from captum_robust._utils.eager import require_eager
from captum_robust._utils.forward import explained_output
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.sound_gradients import sound_gradients
from captum_robust._utils.types import TensorOrTensors
from captum_robust.attr._backward.backward_pass import BackwardPass
from captum_robust.attr._backward.tape import Tape
from captum_robust.attr._backward.unsupported import Unsupported


class BackwardAttribution(GradientAttribution, ABC):
    """Base of these explanations: a subclass says how, :meth:`_backward_pass`."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        require_eager(forward_func, why="the calls in it cannot be seen from outside")
        super().__init__(forward_func)

    @abstractmethod
    def _backward_pass(self) -> BackwardPass:
        """Made anew for each explanation."""

    @log_usage()
    @checked
    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> TensorOrTensors:
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
            TypeError: A layer cannot be explained, or cannot be recorded; the message names it.
        """
        return self._detached(inputs, target, additional_forward_args)

    def attribute_with_graph(
        self, inputs: TensorOrTensors, *args: Any, **kwargs: Any
    ) -> TensorOrTensors:
        """Like :meth:`attribute`, with a graph; the protocol of :func:`differentiable`."""
        return self._walk(inputs, *args, create_graph=True, **kwargs)

    def _detached(
        self, inputs: TensorOrTensors, target: Any, additional_forward_args: Any
    ) -> TensorOrTensors:
        """The explanation alone, that leaves nothing behind."""
        is_tuple, tensors = format_inputs(inputs)
        with torch.inference_mode(False), preserve_buffers(self.forward_func):
            # Copies, since tensors made in inference mode would never have a graph.
            own = tuple(x.detach().clone() if x.is_inference() else x.detach() for x in tensors)
            ready = format_output(
                is_tuple, tuple(x.requires_grad_(x.is_floating_point()) for x in own)
            )
            return self._walk(ready, target, additional_forward_args, create_graph=False)

    def _walk(
        self,
        inputs: TensorOrTensors,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        create_graph: bool,
    ) -> TensorOrTensors:
        """The explanation of inputs that require gradients."""
        backward = self._backward_pass()
        is_tuple, tensors = format_inputs(inputs)
        check_floating_inputs(tensors)
        try:
            with torch.enable_grad():
                tape = Tape(tensors, backward)
                try:
                    with sound_gradients(2 if create_graph else 1), tape:
                        output = explained_output(
                            self.forward_func, tape.inputs, target, additional_forward_args
                        )
                    relevance = tape.propagate(output, create_graph)
                finally:
                    tape.forget()
        except Unsupported as error:
            raise TypeError(str(error)) from None
        backward.finish()
        return format_output(is_tuple, relevance)
