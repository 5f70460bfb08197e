"""Whether a model behaves off its data as its answers on data suggest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_model
from captum_robust.audit.engine import unpack
from captum_robust.audit.results import ModelCheck
from captum_robust.audit.settings import Settings, generator_for
from captum_robust.metrics import query_consistency

_LEAST_ROWS, _MOST_ROWS = 50, 2_000
_EXPLAINED, _QUERIES = 20, 100


def check_model(model: nn.Module, loader: Iterable[Any], settings: Settings) -> ModelCheck:
    """Compare the answers to unusual rows with what models of other kinds make of the data.

    Scaffolds (Slack et al. 2020) and fairwashed models (Anders et al. 2020) keep their decisions on
    data and hide what they decide by where there is none:
    :func:`~captum_robust.metrics.query_consistency` on normal rows with the means and deviations of
    the columns, as LIME draws them.
    """
    parts: list[Tensor] = []
    for batch in loader:
        inputs, _ = unpack(batch)
        if inputs.dim() != 2:
            return ModelCheck(None, "the inputs are not rows of a table")
        parts.append(inputs)
        if sum(map(len, parts)) >= _MOST_ROWS:
            break
    rows = torch.cat(parts)[:_MOST_ROWS]
    if len(rows) < _LEAST_ROWS:
        return ModelCheck(None, f"{len(rows)} rows, and {_LEAST_ROWS} are needed")
    if find_spec("sklearn") is None:
        return ModelCheck(None, 'it needs pip install "captum_robust[tables]"')
    device = next((p.device for p in model.parameters()), rows.device)
    with preserve_model(model):
        model.eval()
        p_value = _p_value(model, rows.to(device), settings)
    return ModelCheck(p_value, n_rows=len(rows))


def _p_value(model: nn.Module, rows: Tensor, settings: Settings) -> float:
    mean, deviation = rows.mean(0), rows.std(0)
    draws = generator_for(settings.seed, "model check", "queries")
    explained = rows[:: len(rows) // _EXPLAINED][:_EXPLAINED]
    with torch.no_grad():
        chosen = _flat(model(rows)).std(0).argmax()  # of several outputs, the one that says most

    def query(asked: Callable[[Tensor], Tensor], row: Tensor) -> object:
        noise = torch.randn(_QUERIES, row.shape[1], generator=draws).to(row)
        return asked(mean + deviation * noise)

    return query_consistency(
        lambda x: _flat(model(x))[:, chosen], query, rows, explained, n_queries=_QUERIES,
        generator=generator_for(settings.seed, "model check"),
    ).p_value  # fmt: skip


def _flat(output: Any) -> Tensor:
    values = logits_of(output)
    return values.reshape(len(values), -1)
