r"""What the outputs of a model mean: what an attack must keep, and what a student must imitate.

Attacks, trainers and metrics ask one object what a model says about its inputs. ``None`` stands for
:class:`Categorical` where a model has two or more outputs; a model with one output needs the
object, since one number may be the logit of a class or a value that is predicted.

===========================  ================================  ==================================
object                       model's output                    the prediction, which is kept
===========================  ================================  ==================================
:class:`Categorical`         (N, classes) logits               the class of the largest logit
:class:`Binary`              (N, 1) or (N,), one logit         class 1 above the threshold
:class:`MultiLabel`          (N, labels) logits                the set of labels above it
:class:`Regression`          (N,), (N, 1) or (N, values)       the values, within a tolerance
===========================  ================================  ==================================

For outputs of another kind subclass :class:`Outputs`.
"""

from __future__ import annotations

from captum_robust.outputs.base import Outputs
from captum_robust.outputs.binary import Binary
from captum_robust.outputs.categorical import Categorical
from captum_robust.outputs.multi_label import MultiLabel
from captum_robust.outputs.regression import Regression
from captum_robust.outputs.resolve import resolve

__all__ = ["Binary", "Categorical", "MultiLabel", "Outputs", "Regression", "resolve"]
