"""The meaning of an output, where none was given, too."""

from __future__ import annotations

from torch import Tensor

from captum_robust.outputs.base import Outputs
from captum_robust.outputs.categorical import Categorical


def resolve(outputs: Outputs | None, output: Tensor, n_examples: int) -> Outputs:
    """The given object, or ``Categorical`` for two or more outputs; the output's shape is checked.

    Args:
        outputs: What the user said, or None.
        output: The model's output for ``n_examples`` examples.
        n_examples: How many examples there are.

    Raises:
        TypeError: ``outputs`` is not an :class:`Outputs`.
        ValueError: ``output`` has another shape, or one number per example whose meaning was not
            said.
    """
    if outputs is None:
        if output.shape in ((n_examples,), (n_examples, 1)):
            raise ValueError(
                "output: the model gives one number per example, which can mean several things. "
                "Say which: output=outputs.Binary() for the logit of class 1, "
                "outputs.Regression(tolerance=...) for a value (from captum_robust import outputs)."
            )
        outputs = Categorical()
    elif not isinstance(outputs, Outputs):
        given = outputs.__name__ + " itself" if isinstance(outputs, type) else repr(outputs)
        raise TypeError(
            f"output must be an object of captum_robust.outputs, such as Binary(), got {given}."
        )
    outputs.check(output, n_examples)
    return outputs
