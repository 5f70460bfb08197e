"""LIME and KernelSHAP of a table's rows, by column, as three packages compute them.

Each is a function ``explain(model, rows)`` from logits (N, 2) and rows to attributions (N, columns)
of the unfavourable class. A model is asked for rows with one-hot categories; the packages ``lime``
and ``shap`` work on codes of the categories, which are decoded for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from _tables import Table
from captum.attr import KernelShap
from torch import Tensor

Explain = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def lime_package(table: Table, n_samples: int, seed: int) -> Explain:
    """``lime.lime_tabular`` with categories as categories, numbers as they are."""
    from lime.lime_tabular import LimeTabularExplainer

    explainer = LimeTabularExplainer(
        table.coded(table.rows).numpy(),
        categorical_features=table.categories,
        discretize_continuous=False,
        random_state=seed,
    )
    n_columns = len(table.columns)

    def explain(model: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        def probabilities(codes: np.ndarray) -> np.ndarray:
            return _unfavourable(model, table, codes, both=True)

        weights = torch.zeros(len(rows), n_columns, dtype=torch.float64)
        for i, codes in enumerate(table.coded(rows).numpy()):
            found = explainer.explain_instance(
                codes, probabilities, labels=(1,), num_features=n_columns, num_samples=n_samples
            )
            for column, weight in found.local_exp[1]:
                weights[i, column] = weight
        return weights

    return explain


def shap_package(table: Table, n_samples: int, seed: int) -> Explain:
    """``shap.KernelExplainer`` against ten rows, those nearest to the centres of k-means.

    Rounded centres have the most frequent value of nearly every category: against a background of
    men alone, the gender of a man explains nothing.
    """
    codes, scaled, centers = _centers(table, seed)
    nearest = torch.cdist(centers, scaled).argmin(1)
    return _kernel_explainer(table, codes[nearest], n_samples, seed)


def shap_centers(table: Table, n_samples: int, seed: int) -> Explain:
    """``shap.KernelExplainer`` against ten rounded centres of k-means, as in Slack et al.

    Each number of a centre becomes the nearest that is in the data (``shap.kmeans``), so that a
    centre is a person of whom there may be none.
    """
    codes, scaled, centers = _centers(table, seed)
    nearest = (centers.unsqueeze(1) - scaled).abs().argmin(1)  # of each number, in its column
    return _kernel_explainer(table, codes.gather(0, nearest), n_samples, seed)


def _centers(table: Table, seed: int, n: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """The codes of a table's rows, these standardised, and centres of k-means of the latter."""
    from sklearn.cluster import KMeans

    codes = table.coded(table.rows)
    scaled = (codes - codes.mean(0)) / codes.std(0).clamp(min=1e-6)
    found = KMeans(n, n_init=3, random_state=seed).fit(scaled.numpy()).cluster_centers_
    return codes, scaled, torch.as_tensor(found, dtype=scaled.dtype)


def _kernel_explainer(table: Table, background: Tensor, n_samples: int, seed: int) -> Explain:
    import shap

    def explain(model: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        explainer = shap.KernelExplainer(
            lambda codes: _unfavourable(model, table, codes, both=False), background.numpy()
        )
        codes = table.coded(rows).numpy()
        before = np.random.get_state()  # noqa: NPY002 (shap draws from the global state)
        np.random.seed(seed)  # noqa: NPY002
        try:
            values = explainer.shap_values(codes, nsamples=n_samples, silent=True)
        finally:
            np.random.set_state(before)  # noqa: NPY002
        return torch.as_tensor(values, dtype=torch.float64)

    return explain


def captum_kernel_shap(table: Table, n_samples: int, seed: int) -> Explain:
    """Captum's ``KernelShap`` by column, against the row of medians and most frequent values."""
    codes = table.coded(table.rows)
    reference = codes.median(0).values
    for column in table.categories:
        reference[column] = codes[:, column].mode().values
    baseline = table.decoded(reference.unsqueeze(0))
    first = torch.stack([(table.groups[0] == i).nonzero()[0, 0] for i in range(len(table.columns))])

    def explain(model: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        shap = KernelShap(lambda x: model(x).softmax(1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = [
                shap.attribute(
                    row, baselines=baseline, target=1, feature_mask=table.groups,
                    n_samples=n_samples, perturbations_per_eval=n_samples,
                )
                for row in rows.split(1)
            ]  # fmt: skip
        return torch.cat(found)[:, first].double()  # each feature has its column's attribution

    return explain


def _unfavourable(
    model: Callable[[Tensor], Tensor], table: Table, codes: np.ndarray, both: bool
) -> np.ndarray:
    rows = table.decoded(torch.as_tensor(np.asarray(codes), dtype=table.rows.dtype))
    with torch.no_grad():
        probabilities = model(rows).softmax(1)
    return (probabilities if both else probabilities[:, 1]).numpy()


EXPLAINERS = {
    "LIME": lime_package,
    "KernelSHAP": shap_package,
    "KernelSHAP (centres)": shap_centers,
    "KernelSHAP (Captum)": captum_kernel_shap,
}
