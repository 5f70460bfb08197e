"""Warnings that point at the user's line, however deep in the library their cause was found."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

_LIBRARIES = {"captum", "captum_robust", "contextlib", "torch", "torchattacks", "tqdm"}


def warn_user(message: str) -> None:
    """A ``UserWarning`` at the innermost line that is of none of the libraries at work.

    Example:
        >>> import warnings
        >>> from captum_robust._utils.user_warnings import warn_user
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     warn_user("take care")
        >>> seen[0].category.__name__, str(seen[0].message)
        ('UserWarning', 'take care')
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_library(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARIES
