"""The door to TorchAttacks: its interface, with a model that is left as it was."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack

from captum_robust._utils.forward import output_of
from captum_robust._utils.model_state import preserve_model
from captum_robust.attacks import _inputs
from captum_robust.outputs import Outputs

_BYTES = 256


class TorchAttack(Attack):
    """TorchAttacks' base class, mended: nothing is left behind, what is saved keeps its promises.

    Args:
        model: The attacked model.
        output: What its outputs mean.
        levels: How many values a stored feature can have; None: any.
    """

    output: Outputs | None
    levels: int | None

    def __init__(self, model: nn.Module, output: Outputs | None, levels: int | None) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that a model has no parameters
            super().__init__(type(self).__name__, model)
        self.output, self.levels = output, levels

    @contextmanager
    def _prepared(self, images: Any, arguments: tuple[Any, ...]) -> Iterator[Tensor]:
        """For the length of a block: pixels to attack, and a model that may be run on them."""
        _inputs.check_kind(images)
        images = images.to(next((p.device for p in self.model.parameters()), images.device))
        if self._normalization_applied:
            used = self.normalization_used
            _inputs.warn_of_pixels(images, used["mean"], used["std"])
        if not self._model_training:
            _inputs.warn_of_training_mode(self.model)
        with torch.inference_mode(False), torch.enable_grad(), preserve_model(self.model):
            self._change_model_mode(self.model.training)
            with self._unnormalised(images) as pixels:
                _inputs.check_arguments(self.model, pixels, arguments)
                yield pixels

    def get_logits(self, inputs: Tensor, labels: Tensor | None = None, *args: Any) -> Tensor:
        """The model's output for inputs that are not normalised, and its further arguments."""
        if self._normalization_applied is False:
            inputs = self.normalize(inputs)
        return output_of(self.model, inputs, *args)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Normalised images, in the dtype of ``inputs``, also where that of the mean is another."""
        return super().normalize(inputs).to(inputs.dtype)

    def inverse_normalize(self, inputs: Tensor) -> Tensor:
        """The inverse of :meth:`normalize`."""
        return super().inverse_normalize(inputs).to(inputs.dtype)

    @contextmanager
    def _unnormalised(self, inputs: Tensor) -> Iterator[Tensor]:
        """Images in [0, 1], and get_logits that normalises them, for the length of a block."""
        if not self._normalization_applied:
            yield inputs.detach().clone()
            return
        if inputs.dim() != 4:  # else the mean and std of the channels would be spread over more
            raise ValueError(
                "images must have shape (N, C, H, W) where set_normalization_used was called, got "
                f"{tuple(inputs.shape)}. For other inputs put the normalisation into the model, or "
                "make the attack without it and say input_range=(low, high), or None."
            )
        # Undoing a normalisation is rounded, which may put a black pixel just below 0.
        pixels = self.inverse_normalize(inputs.detach())
        slack = max(1e-4, 2 * torch.finfo(inputs.dtype).eps)
        near = pixels.clamp(0.0, 1.0)
        if self.levels is not None:
            near = _inputs.on_grid(near, self.levels)
        pixels = torch.where((pixels - near).abs() < slack, near, pixels)
        self._set_normalization_applied(False)
        try:
            yield pixels
        finally:
            self._set_normalization_applied(True)

    def save(
        self,
        data_loader: Any,
        save_path: str | Path | None = None,
        verbose: bool = True,
        return_verbose: bool = False,
        save_predictions: bool = False,
        save_clean_inputs: bool = False,
        save_type: str = "float",
    ) -> tuple[float, float, float] | None:
        """Attack all images of a loader and save them, as TorchAttacks does; see its manual.

        With ``save_type="int"`` every candidate is scored as 8 bits will store it, so that what is
        loaded again keeps the bound and the prediction; the clean images must be of 8 bits.

        Raises:
            ValueError: An unknown ``save_type``, images that 8 bits cannot hold, or statistics
                asked for a model without classes.
        """
        if save_type not in ("float", "int"):
            raise ValueError(f'save_type must be "float" or "int", got {save_type!r}.')
        # The predictions are computed for the statistics only, so these are always asked for.
        wanted = return_verbose or save_predictions
        if (verbose or wanted) and self.output is not None and not self.output.has_classes:
            raise ValueError(
                "verbose, return_verbose and save_predictions count classes, and "
                f"{type(self.output).__name__} outputs are none. Call save(..., verbose=False)."
            )
        attack = self if save_type == "float" else self.with_levels(_BYTES)
        with preserve_model(self.model):
            statistics = super(TorchAttack, attack).save(
                data_loader, save_path, verbose, wanted, save_predictions, save_clean_inputs,
                save_type,
            )  # fmt: skip
        return statistics if return_verbose else None

    def with_levels(self, levels: int | None) -> TorchAttack:
        """A copy of this attack that scores every candidate as ``levels`` values can store it."""
        attack = copy.copy(self)
        attack.levels = levels
        return attack

    @staticmethod
    def to_type(inputs: Tensor, type: str) -> Tensor:
        """Images as bytes, rounded to the nearest, or bytes as images in [0, 1]."""
        if type == "int" and inputs.is_floating_point():
            return (inputs.double() * (_BYTES - 1)).round().to(torch.uint8)
        if type == "float" and inputs.dtype == torch.uint8:
            return inputs.float() / (_BYTES - 1)
        return inputs

    def get_output_with_eval_nograd(self, inputs: Tensor) -> Tensor:
        """The output of the model in evaluation mode, the largest at the predicted class."""
        with preserve_model(self.model):
            output = super().get_output_with_eval_nograd(inputs)
        return output if self.output is None else self.output.class_scores(output)

    def __setattr__(self, name: str, value: Any) -> None:
        # TorchAttacks searches every value for nested attacks by ==, remembers each for ever, and
        # fails on tensors. There are no nested attacks here.
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        hidden = {"model", "attack", "supported_mode", "normalization_used"}
        shown = {k: v for k, v in vars(self).items() if k not in hidden and not k.startswith("_")}
        shown["normalization_used"] = self.normalization_used is not None
        return f"{self.attack}({', '.join(f'{k}={_short(v)}' for k, v in shown.items())})"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return f"<{tuple(value.shape)}>" if isinstance(value, Tensor) else str(value)
