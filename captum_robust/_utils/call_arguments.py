"""The arguments of a call of a torch function, whose signature Python does not know."""

from __future__ import annotations

from typing import Any


def by_name(
    names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments that were given, by name.

    Args:
        names: All names, in the order of the function.
        args: What was given by position.
        kwargs: What was given by name.

    Raises:
        TypeError: One is unknown, given twice, or there are too many.

    Example:
        >>> by_name(("input", "dim", "keepdim"), (3.0, 1), {"keepdim": True})
        {'input': 3.0, 'dim': 1, 'keepdim': True}
    """
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(given) != len(args) + len(kwargs) or not given.keys() <= set(names):
        raise TypeError(f"the arguments are {', '.join(names)}, got {', '.join(given)}.")
    return given
