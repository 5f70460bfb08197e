"""Figures of explanations, on :mod:`captum.attr.visualization` and matplotlib.

=========================  ===================================================================
function                   what it draws
=========================  ===================================================================
:func:`explanation_grid`   images and their explanations side by side, and what was changed
:func:`explanation_bars`   the explanation of a table's row as bars, before and after an attack
:func:`mean_curves`        means of curves, such as pixel flipping's, with confidence bands
=========================  ===================================================================

Each returns a matplotlib figure: ``.savefig("name.png", dpi=200)`` writes it, a notebook shows it.
None is known to pyplot unless it was drawn in one of pyplot's own (``figure=plt.figure()``).
"""

from __future__ import annotations

from captum_robust.visualization.bars import explanation_bars
from captum_robust.visualization.curves import mean_curves
from captum_robust.visualization.grid import explanation_grid

__all__ = ["explanation_bars", "explanation_grid", "mean_curves"]
