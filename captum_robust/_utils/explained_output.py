"""The explained output of a model at many perturbed copies of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.batching import expand_per_example_arguments, widest
from captum_robust._utils.forward import check_rows, explained_output, logits_of, signature_of
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.types import Tensors


class ExplainedOutput:
    """f, the output that is explained, as a function of copies of the examples.

    Args:
        forward_func: The model, or any function that calls it.
        inputs: The examples, (N, ...) each.
        target: As in Captum.
        additional_forward_args: As in Captum.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensors,
        target: Any,
        additional_forward_args: Any,
    ) -> None:
        self.inputs = inputs
        self.forward_func = forward_func
        self.arguments = {
            "target": target,
            "additional_forward_args": additional_forward_args,
        }
        self._at_inputs: Tensor | None = None

    def at_inputs(self) -> Tensor:
        """f(x), (N,), in the widest dtype of the device; the model is run once for it."""
        if self._at_inputs is None:
            with torch.no_grad(), preserve_buffers(self.forward_func):
                copies = tuple(x.unsqueeze(1).clone() for x in self.inputs)
                self._at_inputs = self.at(copies).squeeze(1)
        return self._at_inputs

    def output_differences(
        self, perturbed: Iterable[Tensors], n_samples: int, show_progress: bool = False
    ) -> Tensor:
        """d(I) = f(x) - f(x - I).

        Args:
            perturbed: Chunks of x - I, (N, c, ...) per input.
            n_samples: Copies in all chunks together, for the progress bar.
            show_progress: Whether to show one on standard error.

        Returns:
            (N, n_samples) in the widest dtype of the device.
        """
        with torch.no_grad(), preserve_buffers(self.forward_func):
            parts = []
            with tqdm(total=n_samples, disable=not show_progress, desc="perturbations") as bar:
                for chunk in perturbed:
                    parts.append(self.at(chunk))
                    bar.update(chunk[0].shape[1])
            return self.at_inputs().unsqueeze(1) - torch.cat(parts, dim=1)

    def at(self, copies: Tensors) -> Tensor:
        """F at copies (N, c, ...), with a graph where gradients are enabled: (N, c).

        The model may write into the copies: they must not share memory with what is used again,
        and where they need a gradient they are copied here.

        Raises:
            ValueError: The model returned NaN or Inf, or several values per example.
        """
        n_examples, n_copies = copies[0].shape[:2]
        arguments = expand_per_example_arguments(n_copies, self.inputs, self.arguments)
        rows = tuple((c.clone() if c.requires_grad else c).flatten(0, 1) for c in copies)

        def forward(*args: Any) -> Tensor:
            output = logits_of(self.forward_func(*args))
            check_rows(output, len(rows[0]))  # before the targets of the examples are looked up
            return output

        forward.__signature__ = signature_of(self.forward_func)  # type: ignore[attr-defined]
        output = explained_output(
            forward, rows, arguments["target"], arguments["additional_forward_args"]
        )
        if not bool(torch.isfinite(output).all()):
            raise ValueError(
                "forward_func returned NaN or Inf for perturbed inputs. Check that the model can "
                "take the baselines, and explain logits instead of logarithms of probabilities."
            )
        return output.view(n_examples, n_copies).to(widest(output.device))
