"""A model that lies about itself to explanations by perturbation (Slack et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_robust._utils.checks import check_count
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.queries import (
    Explainer,
    check_explainer,
    check_table,
    recorded_queries,
)
from captum_robust._utils.randomness import fresh_generator

# The share of the data that is kept from the detector, to choose its threshold and to judge it.
_HELD_OUT = 0.2


class Detector(Protocol):
    """A classifier with scikit-learn's interface; class 1 is data, class 0 a query."""

    def fit(self, X: Any, y: Any) -> Detector:
        """Learn from rows and classes, arrays."""

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probabilities (n, 2)."""


class ScaffoldReport(NamedTuple):
    """How well a scaffold tells data from queries, on rows that its detector has not learned from.

    The threshold is chosen on these rows too: on new data, ``fidelity`` measures more strictly.

    Attributes:
        fidelity: Share of the held-out data on which the decision is that of the biased model.
        data_missed: Share of the held-out data that is answered by the innocuous model.
        queries_missed: Share of the queries about held-out data that the biased model answers.
        n_queries: Queries that the detector has learned from.
    """

    fidelity: float
    data_missed: float
    queries_missed: float
    n_queries: int


class ScaffoldedModel(nn.Module):
    r"""A model that is biased on data, and that explanations by perturbation find innocuous.

    .. math:: e(x) = \begin{cases} f(x) & \text{where } x \text{ looks like data} \\
                                   \psi(x) & \text{otherwise} \end{cases}

    LIME, KernelSHAP and their kin query a model with rows that no person has: :meth:`fit` records
    the queries of ``explainer``, and learns to tell them from data. Users are then judged by the
    biased :math:`f`, while explanations describe the innocuous :math:`\psi`. Gradients of f on data
    are left as they are. :func:`captum_robust.metrics.query_consistency` finds such models.

    Args:
        biased: f, from rows (N, F) to outputs (N, C) or (N,).
        innocuous: psi, of the same outputs.
        explainer: ``explainer(model, rows)``, a function that explains ``rows`` (1, F) by querying
            ``model``. None: perturbations such as LIME and KernelSHAP make, of single features and
            of sets.
        detector: A classifier with ``fit`` and ``predict_proba`` that tells data (1) from queries
            (0). None: scikit-learn's random forest (``pip install "captum_robust[tables]"``).
        kept: Share of the data that the detector lets pass to f, to the nearest row; its threshold
            is chosen for that on a fifth of the data, which it does not learn from.

    Raises:
        TypeError: ``biased``, ``innocuous`` or ``explainer`` is not a function.
        ValueError: ``kept`` is not between 0 and 1; or the model is asked before ``fit``.

    References:
        Slack, Hilgard, Jia, Singh, Lakkaraju 2020, "Fooling LIME and SHAP: Adversarial attacks on
        post hoc explanation methods".

    Example:
        >>> import torch
        >>> from captum_robust.attacks import ScaffoldedModel
        >>> data = torch.randint(0, 9, (400, 3), generator=torch.Generator().manual_seed(0)).float()
        >>> scaffold = ScaffoldedModel(lambda x: x[:, :2] - 4, lambda x: x[:, 1:] - 4)
        >>> seeded = torch.Generator().manual_seed(1)
        >>> report = scaffold.fit(data, n_explained=20, generator=seeded)
        >>> scaffold(data[:1]) == data[:1, :2] - 4
        tensor([[True, True]])
        >>> scaffold(torch.tensor([[-1.37, 4.21, 11.83]]))
        tensor([[0.2100, 7.8300]])
    """

    def __init__(
        self,
        biased: Callable[[Tensor], Any],
        innocuous: Callable[[Tensor], Any],
        *,
        explainer: Explainer | None = None,
        detector: Detector | None = None,
        kept: float = 0.98,
    ) -> None:
        super().__init__()
        if explainer is not None:
            check_explainer(explainer)
        for name, model in (("biased", biased), ("innocuous", innocuous)):
            if not callable(model):
                raise TypeError(
                    f"{name} must be a model, a function of rows, got {type(model).__name__}."
                )
        if not 0 < kept < 1:
            raise ValueError(f"kept must be between 0 and 1, a share of the data, got {kept}.")
        self.biased, self.innocuous = biased, innocuous
        self.explainer, self.detector, self.kept = explainer, detector, kept
        self.threshold: float | None = None

    def fit(
        self,
        rows: Tensor,
        *,
        n_explained: int = 300,
        multiplier: int = 10,
        generator: torch.Generator | None = None,
        show_progress: bool = False,
    ) -> ScaffoldReport:
        """Record the explainer's queries about some of the data, and learn to detect them.

        Args:
            rows: The data, (N, F).
            n_explained: How many of the rows are explained, one at a time.
            multiplier: Queries to learn from, at most, for each row of the data.
            generator: Where random numbers come from, but for those of ``explainer``; None draws
                from a fresh one.
            show_progress: Whether to show a bar.

        Returns:
            What the detector is worth on rows and queries that it has not seen.

        Raises:
            ValueError: ``rows`` is not a table of finite numbers, or has fewer than ten rows; the
                explainer asks for data alone.
        """
        check_table("rows", rows)
        check_count(n_explained=n_explained, multiplier=multiplier)
        if len(rows) < 10:
            raise ValueError(f"rows has {len(rows)} rows; give at least 10.")
        source = fresh_generator(generator)
        rows = rows.detach()
        with preserve_buffers(self.biased), preserve_buffers(self.innocuous):
            return self._fitted(rows, n_explained, multiplier, source, show_progress)

    def _fitted(
        self,
        rows: Tensor,
        n_explained: int,
        multiplier: int,
        source: torch.Generator,
        show_progress: bool,
    ) -> ScaffoldReport:
        with torch.no_grad():
            _same_outputs(logits_of(self.biased(rows[:2])), logits_of(self.innocuous(rows[:2])))
        order = torch.randperm(len(rows), generator=source, device=source.device).to(rows.device)
        n_held = max(1, round(_HELD_OUT * len(rows)))
        held, learned = rows[order[:n_held]], rows[order[n_held:]]
        explainer = self.explainer or _perturbations_of(learned, source)
        n_judged = max(1, n_explained // 4)
        with tqdm(
            total=min(n_explained, len(learned)) + min(n_judged, n_held),
            disable=not show_progress,
            desc="explanations",
        ) as bar:
            # Rows that are held out must be as strange to the detector as rows to come: a query
            # that happens to be one of them counts as a query in what it learns from.
            queries = self._queries(explainer, learned[:n_explained], learned, bar)
            about_held = self._queries(explainer, held[:n_judged], rows, bar)
        if not len(queries) or not len(about_held):
            raise ValueError(
                "explainer asked for rows of the data alone, which nothing tells from data. Take "
                "one that perturbs the rows."
            )
        chosen = torch.randperm(len(queries), generator=source, device=source.device)
        queries = queries[chosen[: multiplier * len(learned)].to(rows.device)]
        self._learn(learned, queries, held, source)
        routed = self.is_data(held)
        return ScaffoldReport(
            fidelity=self.fidelity(held),
            data_missed=1 - routed.double().mean().item(),
            queries_missed=self.is_data(about_held).double().mean().item(),
            n_queries=len(queries),
        )

    def is_data(self, rows: Tensor) -> Tensor:
        """Which rows the detector takes for data, and the biased model answers: boolean (N,)."""
        if self.detector is None or self.threshold is None:
            raise ValueError("ScaffoldedModel has not learned to detect queries; call fit(rows).")
        return self._probability(rows) >= self.threshold

    def fidelity(self, rows: Tensor) -> float:
        """Share of the rows on which the decision is that of the biased model.

        The decision is the largest output, or the sign of a single one.
        """
        with torch.no_grad():
            same = _decision(self(rows)) == _decision(logits_of(self.biased(rows)))
        return same.double().mean().item()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the biased model for data and of the innocuous one for all else."""
        routed = self.is_data(x)
        biased, innocuous = logits_of(self.biased(x)), logits_of(self.innocuous(x))
        _same_outputs(biased, innocuous)
        return torch.where(routed.view(-1, *(1,) * (biased.dim() - 1)), biased, innocuous)

    def _queries(self, explainer: Explainer, about: Tensor, data: Tensor, bar: tqdm) -> Tensor:
        """All queries about some rows, without those that are rows of the data."""
        parts = []
        known = {tuple(row) for row in data.tolist()}
        for row in about.split(1):
            queries = recorded_queries(explainer, self.biased, row)
            new = [tuple(q) not in known for q in queries.tolist()]
            parts.append(queries[torch.tensor(new, device=queries.device)])
            bar.update(1)
        return torch.cat(parts)

    def _learn(
        self, learned: Tensor, queries: Tensor, held: Tensor, generator: torch.Generator
    ) -> None:
        if self.detector is None:
            self.detector = _random_forest(generator)
        x = torch.cat([learned, queries]).double().cpu().numpy()
        y = torch.cat([torch.ones(len(learned)), torch.zeros(len(queries))]).long().numpy()
        self.detector.fit(x, y)
        lowest = min(round((1 - self.kept) * len(held)), len(held) - 1)
        self.threshold = self._probability(held).sort().values[lowest].item()

    def _probability(self, rows: Tensor) -> Tensor:
        """Of being data, as the detector says, (N,)."""
        assert self.detector is not None
        found = self.detector.predict_proba(rows.detach().double().cpu().numpy())
        return torch.as_tensor(found[:, 1], device=rows.device)


def _same_outputs(biased: Tensor, innocuous: Tensor) -> None:
    if biased.shape != innocuous.shape:
        raise ValueError(
            "biased and innocuous must have outputs of the same shape, got "
            f"{tuple(biased.shape)} and {tuple(innocuous.shape)}."
        )


def _decision(output: Tensor) -> Tensor:
    if output.dim() == 1 or output.shape[1] == 1:
        return output.flatten() > 0
    return output.argmax(1)


def _random_forest(generator: torch.Generator) -> Detector:
    if find_spec("sklearn") is None:
        raise ImportError(
            "ScaffoldedModel detects queries with scikit-learn, which is not installed: "
            'pip install "captum_robust[tables]". Or give a detector of your own.'
        )
    from sklearn.ensemble import RandomForestClassifier

    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    return RandomForestClassifier(100, class_weight="balanced", random_state=seed)


def _perturbations_of(data: Tensor, generator: torch.Generator, n_queries: int = 200) -> Explainer:
    """Queries as LIME and KernelSHAP make them: normal draws, and rows with features of others."""
    mean, deviation = data.mean(0), data.std(0)

    def explain(model: Callable[[Tensor], Tensor], row: Tensor) -> object:
        shape, device = (n_queries, row.shape[1]), generator.device
        noise = torch.randn(shape, generator=generator, device=device).to(row)
        others = torch.randint(len(data), (n_queries,), generator=generator, device=device)
        share = torch.rand(n_queries, 1, generator=generator, device=device)
        replaced = torch.rand(shape, generator=generator, device=device) < share
        mixed = torch.where(replaced.to(row.device), data[others.to(row.device)], row)
        return model(torch.cat([mean + deviation * noise, mixed]))

    return explain
