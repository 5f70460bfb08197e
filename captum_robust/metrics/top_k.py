"""The share of the most relevant features that two explanations have in common, per example."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from captum_robust._utils.relevance import is_top_k
from captum_robust.metrics._pairs import compare_pairs, is_constant, warn_of_constants, whole_number


def top_k_intersection(a: Tensor, b: Tensor, k: int) -> Tensor:
    r"""Share of the k largest features that each pair of explanations has in common.

    .. math:: |T_k(a) \cap T_k(b)| / k

    :math:`T_k` holds the positions of the k largest numbers of the flattened example. Ties are
    broken by position, the lower index first, on every device; so explanations with fewer
    than k non-zero features share the features that fill the set. Ghorbani et al., "Interpretation
    of neural networks is fragile" (2019), take k = 1000 of 224 x 224 pixels; Tang et al., "Defense
    against explanation manipulation" (2021), k = 50 of 28 x 28, of relevance maps.

    Args:
        a: Explanations or relevance maps, (N, ...).
        b: As ``a``.
        k: Size of the sets, from 1 to the number of features of one example.

    Returns:
        (N,), from 0 (disjoint) to 1 (the same set).

    Raises:
        TypeError: ``k`` is not a whole number; or see :mod:`captum_robust.metrics`.
        ValueError: ``k`` is out of range; or see :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: An example of ``a`` or ``b`` is constant: its set is the first k features.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import top_k_intersection
        >>> a = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
        >>> b = torch.tensor([[0.4, 0.0, 0.3, 0.3]])
        >>> top_k_intersection(a, b, k=2)
        tensor([0.5000])
    """
    k = whole_number("k", k)
    shares = compare_pairs(partial(top_k_share, k=k), a, b)
    constant = is_constant(a) | is_constant(b)
    warn_of_constants(constant, f"its {k} largest features are taken to be the first {k}")
    return shares


def top_k_share(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Size of the intersection of the top-k sets of (n, ...) and (n, ...), over k: (n,)."""
    check_k(x, k)
    shared = is_top_k(x.flatten(1), k) & is_top_k(y.flatten(1), k)
    return shared.sum(1).to(x.dtype) / k


def check_k(x: Tensor, k: int) -> None:
    """Raise ValueError unless an example of (n, ...) has k features."""
    n_features = x[0].numel()
    if not 1 <= k <= n_features:
        raise ValueError(
            f"k must be from 1 to the number of features of one example, {n_features}, got {k}."
        )
