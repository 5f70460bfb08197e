"""Whether a model behaves on an explanation's queries as it behaves on data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.checks import check_count
from captum_robust._utils.forward import explained_output
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.queries import (
    Explainer,
    check_explainer,
    check_table,
    recorded_queries,
)
from captum_robust._utils.randomness import fresh_generator


class Student(Protocol):
    """A regressor with scikit-learn's interface."""

    def fit(self, X: Any, y: Any) -> Student:
        """Learn from rows and values, arrays."""

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Values (n,)."""


class QueryConsistency(NamedTuple):
    """What :func:`query_consistency` found.

    Attributes:
        p_value: Of the hypothesis that the model strays no further from its behaviour on data than
            honest continuations of it stray from one another. Small: it treats queries otherwise.
        excess: (N,) how far the model's answers to the queries about each row lie outside of what
            the students answer, on average.
        spread: (N,) the same of the student that strays furthest from the others, or of the model
            on queries near the data where it strays further.
    """

    p_value: float
    excess: Tensor
    spread: Tensor


def query_consistency(
    forward_func: Callable[..., Any],
    explainer: Explainer,
    data: Tensor,
    rows: Tensor,
    target: Any = None,
    *,
    n_queries: int = 100,
    n_neighbours: int = 5,
    students: Sequence[Student] | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
) -> QueryConsistency:
    r"""Test whether a model treats the queries of an explanation otherwise than data.

    A scaffold (:class:`captum_robust.attacks.ScaffoldedModel`) answers the queries of LIME or
    KernelSHAP with another model. Who has data can notice: regressors of different kinds, the
    *students*, learn the model's answers on the data, and are asked the explanation's queries q.
    Where honest continuations of what the model does on data agree, it should agree too:

    .. math:: e_i = \operatorname{mean}_q\,
              \operatorname{dist}\left(f(q), [\min_s g_s(q), \max_s g_s(q)]\right)

    over the queries about row i. It is compared with the same for queries near the data, rows of
    which some features are those of a near neighbour, and with how far each student strays from
    the others. The p-value is that of the sign test over rows: that :math:`e_i` is the largest for
    no more than half of them. A small one is a reason to look, not a proof: where queries are far
    from the data, an honest model of another kind than the students may stray further than they
    do. Give students of the kind that you expect, and baselines that are like data.

    Args:
        forward_func: The model, or any function that calls it.
        explainer: ``explainer(model, rows)``, a function that explains ``rows`` (1, F) by querying
            ``model``.
        data: (N, F), rows as the model meets them in use.
        rows: (n, F), rows that are explained; at least 5, or nothing can be significant at 5 %.
        target: The output that is explained, as in Captum: one for all rows.
        n_queries: Queries about each row that are used, at most.
        n_neighbours: Of how many neighbours the queries near the data take features.
        students: Regressors with ``fit`` and ``predict``, at least two. None: scikit-learn's random
            forest, boosted trees, a single tree, nearest neighbours, ridge regression and a
            network (``pip install "captum_robust[tables]"``).
        generator: Where random numbers come from, but for those of ``explainer``; None draws from
            a fresh, unpredictable one.
        show_progress: Whether to show a bar.

    Returns:
        The p-value and, for each row, the distances that it compares, in units of the output.

    Raises:
        TypeError: ``explainer`` is not a function.
        ValueError: ``data`` or ``rows`` is not a table of finite numbers; a count is below one;
            fewer than two students; or the explainer asks nothing but the rows themselves.

    Example:
        >>> import torch
        >>> from captum.attr import FeatureAblation
        >>> from captum_robust.metrics import query_consistency
        >>> data = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) + 1
        >>> ablate = lambda model, rows: FeatureAblation(model).attribute(rows)
        >>> liar = lambda x: torch.where((x > 0).all(1), x[:, 0], x[:, 1] - 9)
        >>> seeded = torch.Generator().manual_seed(1)
        >>> query_consistency(liar, ablate, data, data[:20], generator=seeded).p_value < 0.05
        True
    """
    check_explainer(explainer)
    check_table("data", data)
    check_table("rows", rows, data.shape[1])
    check_count(n_queries=n_queries, n_neighbours=n_neighbours)
    source = fresh_generator(generator)
    learners = _students(source) if students is None else list(students)
    if len(learners) < 2:
        raise ValueError(f"students has {len(learners)} regressors; give at least two.")

    def answers(x: Tensor) -> Tensor:
        with torch.no_grad():
            return explained_output(forward_func, (x,), target).reshape(len(x)).double().cpu()

    excess, spread, n_asked = [], [], 0
    with preserve_buffers(forward_func):
        learners = [s.fit(_array(data), answers(data).numpy()) for s in learners]
        for row in tqdm(rows.split(1), disable=not show_progress, desc="rows"):
            queries = recorded_queries(explainer, forward_func, row)
            queries = queries[~(queries == row).all(1)]  # a query that is the row itself is data
            n_asked += len(queries)
            order = torch.randperm(len(queries), generator=source, device=source.device)
            order = order[:n_queries].to(rows.device)
            near = _near(row, data, n_queries, n_neighbours, source)
            asked = torch.cat([queries[order], near])
            said = torch.stack(
                [torch.as_tensor(s.predict(_array(asked))).flatten() for s in learners]
            )
            answered = answers(asked)
            # NaN or Inf to a query is as far outside as can be.
            outside = torch.where(answered.isfinite(), _outside(answered, said), torch.inf)
            n = len(order)
            others = [_outside(s, _without(said, i)) for i, s in enumerate(said)]
            excess.append(_mean(outside[:n]))
            spread.append(torch.stack([outside[n:].mean(), *(_mean(o[:n]) for o in others)]).max())
    if n_asked == 0:
        raise ValueError(
            "explainer asked for the rows themselves and nothing else, so that there is nothing to "
            "compare. Take one that perturbs the rows, such as KernelSHAP; gradients do not."
        )
    e, s = torch.stack(excess), torch.stack(spread)
    n_larger = int((e > s).sum())
    p_value = binomtest(n_larger, len(rows), 0.5, alternative="greater").pvalue
    return QueryConsistency(float(p_value), e.to(rows), s.to(rows))


def _outside(values: Tensor, said: Tensor) -> Tensor:
    """How far each value lies outside of what the others (s, n) say, 0 within."""
    low, high = said.min(0).values, said.max(0).values
    return torch.maximum(low - values, values - high).clamp(min=0)


def _mean(values: Tensor) -> Tensor:
    """The mean, 0 of none."""
    return values.mean() if len(values) else values.new_zeros(())


def _without(said: Tensor, i: int) -> Tensor:
    return torch.cat([said[:i], said[i + 1 :]])


def _near(
    row: Tensor, data: Tensor, n: int, n_neighbours: int, generator: torch.Generator
) -> Tensor:
    """Copies of a row of which each feature is, by chance, that of a near neighbour, (n, F)."""
    scale = data.std(0)
    distances = ((data - row) / torch.where(scale > 0, scale, 1.0)).norm(dim=1)
    distances[distances == 0] = torch.inf  # the row itself
    nearest = distances.argsort()[:n_neighbours]
    device = generator.device
    chosen = torch.randint(len(nearest), (n,), generator=generator, device=device).to(row.device)
    kept = torch.rand(n, row.shape[1], generator=generator, device=device).to(row.device) < 0.5
    return torch.where(kept, row, data[nearest[chosen]])


def _array(rows: Tensor) -> npt.NDArray[np.float64]:
    return rows.detach().double().cpu().numpy()


def _students(generator: torch.Generator) -> list[Student]:
    if find_spec("sklearn") is None:
        raise ImportError(
            "query_consistency trains regressors of scikit-learn, which is not installed: "
            'pip install "captum_robust[tables]". Or give students of your own.'
        )
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeRegressor

    seeds = torch.randint(2**31, (4,), generator=generator, device=generator.device).tolist()
    return [
        RandomForestRegressor(50, random_state=seeds[0]),
        HistGradientBoostingRegressor(random_state=seeds[1]),
        make_pipeline(StandardScaler(), KNeighborsRegressor(5)),
        make_pipeline(StandardScaler(), RidgeCV()),
        DecisionTreeRegressor(min_samples_leaf=5, random_state=seeds[2]),
        # Networks go on straight outside the data, where trees stay as they are.
        make_pipeline(
            StandardScaler(),
            MLPRegressor(
                hidden_layer_sizes=(32,),
                learning_rate_init=0.01,
                early_stopping=True,
                max_iter=2000,
                random_state=seeds[3],
            ),
        ),
    ]
