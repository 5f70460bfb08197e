"""What is measured of a student: accuracy, agreement with its teacher, and measures of the user."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from contextlib import closing

import torch
from torch import Tensor, nn

from captum_robust._utils.model_state import preserve_model
from captum_robust.outputs import Outputs, resolve
from captum_robust.training.batch import Batch, Unpack, check_call, read_batch
from captum_robust.training.engine import Engine
from captum_robust.training.measures import Measure
from captum_robust.training.randomness import epoch_batches, preserve_randomness
from captum_robust.training.state import EpochRecord, TrainingState


def evaluate(
    state: TrainingState,
    engine: Engine,
    loader: Iterable,
    measures: Mapping[str, Measure],
    output: Outputs | None,
    unpack: Unpack | None,
) -> EpochRecord:
    """Means over the examples of a loader, for the student in evaluation mode.

    Raises:
        ValueError: The loader yields nothing.
    """
    sums: dict[str, list[float]] = {}
    turns = itertools.cycle(range(engine.n_processes))
    with preserve_randomness(engine.device, loader), preserve_model(state.model) as model:
        model.eval()
        with closing(epoch_batches(loader, engine.seed, 0)) as batches:
            for (loaded, _), turn in zip(batches, turns, strict=False):
                if turn == engine.accelerator.process_index:
                    batch = read_batch(loaded, engine.draws(0), 0, unpack).to(engine.device)
                    check_call(model, batch)
                    values = _compared(model, state.teacher, batch, output)
                    values |= _measured(model, batch, measures)
                    for name, value in values.items():
                        total, n = sums.get(name, [0.0, 0.0])
                        sums[name] = [total + value.double().sum().item(), n + len(value)]
    means = {name: total / n for name, (total, n) in engine.total(sums).items()}
    if not means:
        raise ValueError("loader yields nothing to evaluate. Check its data set and drop_last.")
    return means


def _compared(
    model: nn.Module, teacher: nn.Module, batch: Batch, output: Outputs | None
) -> dict[str, Tensor]:
    """Whether the student agrees with its teacher, and with the labels where they fit."""
    with torch.no_grad():
        given = batch.output(model, batch.inputs)
        wanted = batch.output(teacher, batch.inputs)
    meaning = resolve(output, given, len(batch.inputs))
    values = {"agreement": meaning.same(wanted, given)}
    if batch.labels is not None and meaning.labels_fit(batch.labels, given):
        values["accuracy"] = meaning.correct(given, batch.labels)
    return values


def _measured(model: nn.Module, batch: Batch, measures: Mapping[str, Measure]) -> dict[str, Tensor]:
    values = {}
    more = batch.additional_forward_args
    options = {"additional_forward_args": more} if more else {}
    for name, measure in measures.items():
        value = measure(model, batch.inputs, batch.labels, **options)
        if not isinstance(value, Tensor) or value.shape != batch.inputs.shape[:1]:
            raise TypeError(
                f"measures: {name!r} must give a tensor of one value per example, shape "
                f"({len(batch.inputs)},), got {getattr(value, 'shape', type(value).__name__)}."
            )
        values[name] = value.detach()
    return values
