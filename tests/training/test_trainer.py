"""The loop: what it trains, records and stops at, and what it leaves behind."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_robust.training import (
    ATEX,
    ATEXTrainer,
    Batch,
    CosineStability,
    CrossEntropy,
    Distillation,
    Draws,
    EarlyStopping,
    GradientPenalty,
    Trainer,
)

DELTAS = {"delta1": 0.2, "delta2": 0.2}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


# --- what is trained


def test_the_step_is_that_of_plain_torch(model, loader):
    model.eval()
    trainer = Trainer(model, CrossEntropy(), sgd)
    trainer.model[2].p = 0.0
    trainer.fit(loader(24), 1, show_progress=False)
    ((x, y),) = loader(24, shuffle=False)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    for trained, start in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(trained, start - 0.1 * start.grad)


def test_the_model_itself_stays_as_it_is(model, loader):
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 2, validation=loader(), show_progress=False)
    assert same(model.state_dict(), before)
    assert same(trainer.teacher.state_dict(), before)
    assert not same(trainer.model.state_dict(), before)
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_optimizer_over_the_models_parameters_moves_to_the_copy(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = Trainer(model, CrossEntropy(), optimizer)
    made = Trainer(model, CrossEntropy(), sgd)
    for trainer in (given, made):
        trainer.fit(loader(), 2, show_progress=False)
    assert same(given.weights(), made.weights())
    assert optimizer.param_groups[0]["params"][0] is next(model.parameters())


def test_an_optimizer_over_other_parameters_is_refused(model):
    with pytest.raises(ValueError, match="optimizer: it holds parameters that are not those"):
        Trainer(model, CrossEntropy(), torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    with pytest.raises(TypeError, match="optimizer must be"):
        Trainer(model, CrossEntropy(), 0.1)


def test_the_scheduler_steps_once_an_update(model, loader):
    trainer = Trainer(
        model, CrossEntropy(), sgd, steps_per_batch=2,
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=4, gamma=0.5),
    )  # fmt: skip
    trainer.fit(loader(), 1, show_progress=False)  # 3 batches, 6 updates
    assert trainer.optimizer.param_groups[0]["lr"] == 0.05


def test_parameters_that_are_frozen_stay(model, loader):
    model[0].requires_grad_(False)
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 2, show_progress=False)
    assert torch.equal(trainer.model[0].weight, model[0].weight)
    assert not torch.equal(trainer.model[3].weight, model[3].weight)


def normalized() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("how", ["frozen weights", "evaluation mode"])
def test_a_frozen_normalization_keeps_its_statistics(how, loader):
    model = normalized().train()
    if how == "frozen weights":
        model[1].requires_grad_(False)
    else:
        model[1].eval()
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 2, show_progress=False)
    assert torch.equal(trainer.model[1].running_mean, torch.zeros(8))
    assert [m.training for m in trainer.model.modules()] == [m.training for m in model.modules()]


def test_a_normalization_that_is_not_frozen_learns_its_statistics(loader):
    model = normalized().eval()
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 2, show_progress=False)
    assert not torch.equal(trainer.model[1].running_mean, torch.zeros(8))
    assert torch.equal(trainer.teacher[1].running_mean, torch.zeros(8))
    assert not trainer.model[1].training


def test_a_batch_is_used_for_several_steps_with_the_same_direction(model, loader):
    seen = []

    class Recorded(ATEX):
        def _points(self, phi, batch):
            along, across = super()._points(phi, batch)
            seen.append((batch.inputs, along, phi))
            return along, across

    Trainer(model, Recorded(**DELTAS), steps_per_batch=3).fit(loader(), 1, show_progress=False)
    assert len(seen) == 9
    for first, second in ((0, 1), (1, 2)):
        assert torch.equal(seen[first][0], seen[second][0])
        assert torch.equal(seen[first][2], seen[second][2])
        assert not torch.equal(seen[first][1], seen[second][1])
    assert not torch.equal(seen[2][0], seen[3][0])


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(("accumulated", "updates"), [(3, [1, 2]), (2, [2, 4])])
def test_gradients_are_accumulated(accumulated, updates, as_list, model, loader):
    model.eval()
    model[2].p = 0.0
    accelerator = Accelerator(gradient_accumulation_steps=accumulated)
    batches = list(loader(8, shuffle=False)) if as_list else loader(8, shuffle=False)
    apart = Trainer(model, CrossEntropy(), sgd, accelerator=accelerator)
    apart.fit(batches, 2, show_progress=False)
    assert [row["updates"] for row in apart.history] == updates
    assert all(p.grad is None for p in apart.model.parameters())
    # By hand: windows end with the epoch, and each step counts the same.
    expected = copy.deepcopy(model).eval()
    optimizer = sgd(expected.parameters())
    for _ in range(2):
        for i, (x, y) in enumerate(loader(8, shuffle=False)):
            (torch.nn.functional.cross_entropy(expected(x), y) / accumulated).backward()
            if i == 2 or (i + 1) % accumulated == 0:
                optimizer.step()
                optimizer.zero_grad()
    for a, b in zip(apart.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_accumulated_over_the_steps_on_a_batch(model, loader):
    accelerator = Accelerator(gradient_accumulation_steps=4)
    trainer = Trainer(model, CrossEntropy(), sgd, accelerator=accelerator, steps_per_batch=4)
    trainer.fit(loader(8), 1, show_progress=False)
    assert trainer.history[0]["updates"] == 3


def test_an_accelerator_of_the_user_keeps_its_accumulation(model, loader):
    accelerator = Accelerator(gradient_accumulation_steps=3)
    Trainer(model, CrossEntropy(), sgd).fit(loader(), 1, show_progress=False)
    assert accelerator.gradient_accumulation_steps == 3


def test_the_loader_of_the_user_is_as_before(model, loader):
    batches = loader()
    sampler = batches.batch_sampler.sampler
    ATEXTrainer(model, **DELTAS).fit(batches, 1, validation=batches, show_progress=False)
    assert batches.batch_sampler.sampler is sampler


@pytest.mark.parametrize("kind", ["list", "inputs alone", "iterable data set"])
def test_loaders_of_many_kinds(kind, model, loader):
    inputs = torch.rand(12, 6)
    if kind == "list":
        batches = [inputs, (inputs, torch.zeros(12, dtype=torch.long)), [inputs]]
    elif kind == "inputs alone":
        batches = DataLoader(inputs, batch_size=4)
    else:

        class Stream(IterableDataset):
            def __iter__(self):
                return iter(inputs)

        batches = DataLoader(Stream(), batch_size=4)
    trainer = ATEXTrainer(model, **DELTAS)
    (row,) = trainer.fit(batches, 1, show_progress=False)
    assert row["updates"] == 3


# --- what is recorded


def test_the_record_of_an_epoch(model, loader):
    trainer = ATEXTrainer(model, **DELTAS, measures={"size": lambda m, x, y: x.abs().sum(1)})
    history = trainer.fit(loader(), 2, validation=loader(), show_progress=False)
    assert history is trainer.history
    assert [row["epoch"] for row in history] == [0, 1]
    assert [row["updates"] for row in history] == [3, 6]
    row = history[-1]
    names = {"distillation", "neighbourhood", "val_agreement", "val_accuracy", "val_size"}
    assert names < row.keys()
    x, y = next(iter(loader(24, shuffle=False)))
    student, teacher = trainer.model.eval()(x).argmax(1), trainer.teacher(x).argmax(1)
    assert row["val_accuracy"] == pytest.approx((student == y).double().mean().item())
    assert row["val_agreement"] == pytest.approx((student == teacher).double().mean().item())
    assert row["val_size"] == pytest.approx(x.double().sum(1).mean().item())
    assert trainer.evaluate(loader(7)) == pytest.approx(
        {name[4:]: value for name, value in row.items() if name.startswith("val_")}
    )


def test_the_loss_of_the_record_is_the_mean_over_the_steps(model, loader):
    model.eval()
    trainer = Trainer(model, Distillation(temperature=2.0), lambda p: torch.optim.SGD(p, lr=0.0))
    trainer.model[2].p = 0.0
    (row,) = trainer.fit(loader(), 1, show_progress=False)
    ((x, _),) = loader(24, shuffle=False)
    parts = Distillation(temperature=2.0)(model, model, Batch(x, None, Draws(seed=0)))
    assert row["distillation"] == pytest.approx(parts["distillation"].item(), rel=1e-5)


def test_evaluation_without_labels_has_no_accuracy(model):
    found = ATEXTrainer(model, **DELTAS).evaluate([torch.rand(5, 6)])
    assert found.keys() == {"agreement", "stability"}
    assert found["agreement"] == 1.0


def test_cosine_stability_is_the_smallest_cosine():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Softplus(5.0), nn.Linear(16, 3)).double()
    x = torch.rand(5, 4, dtype=torch.float64)
    found = CosineStability(radius=0.5, n_samples=3, seed=1)(model, x, None)
    generator = torch.Generator().manual_seed(1)
    classes = model(x).argmax(1)
    smallest = torch.ones(5, dtype=torch.float64)
    for _ in range(3):
        moved = x + 0.5 * (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1)
        for n in range(5):
            a, b = (
                torch.autograd.functional.jacobian(lambda p: model(p)[classes[n]], point[n])  # noqa: B023
                for point in (x, moved)
            )
            smallest[n] = min(smallest[n], (a @ b) / a.norm() / b.norm())
    torch.testing.assert_close(found, smallest)
    assert found.min() < 0.999


# --- callbacks


def test_a_callback_sees_each_epoch_and_may_end_the_training(model, loader):
    rows = []

    def callback(trainer, row):
        rows.append(row["epoch"])
        return row["epoch"] == 1

    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 5, callbacks=[callback], show_progress=False)
    assert rows == [0, 1]
    assert len(trainer.history) == 2


def test_early_stopping_goes_back_to_the_best_weights(model, loader):
    values, weights = iter([0.3, 0.7, 0.6, 0.5]), []
    trainer = ATEXTrainer(model, **DELTAS, measures={"m": lambda m, x, y: 0 * x[:, 0] + value})
    stop = EarlyStopping("val_m", patience=2)

    def before(trainer, row):
        nonlocal value
        weights.append(trainer.weights())
        value = next(values, 0.0)

    value = next(values)
    trainer.fit(loader(), 9, validation=loader(), callbacks=[before, stop], show_progress=False)
    assert [row["val_m"] for row in trainer.history] == pytest.approx([0.3, 0.7, 0.6, 0.5])
    assert same(trainer.weights(), weights[1])


def test_early_stopping_names_what_it_lacks(model, loader):
    with pytest.raises(ValueError, match="monitor: the record of an epoch has no 'val_stability'"):
        ATEXTrainer(model, **DELTAS).fit(
            loader(), 1, callbacks=[EarlyStopping("val_stability")], show_progress=False
        )


def test_epochs_count_those_of_earlier_calls(model, loader):
    twice, once = ATEXTrainer(model, **DELTAS), ATEXTrainer(model, **DELTAS)
    twice.fit(loader(), 1, show_progress=False)
    twice.fit(loader(), 3, show_progress=False)
    once.fit(loader(), 3, show_progress=False)
    assert same(twice.weights(), once.weights())
    assert len(twice.history) == 3


# --- randomness


def global_states() -> list:
    numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), numpy]


def test_global_random_states_are_as_before(model, loader):
    generator = torch.Generator().manual_seed(11)
    before = global_states(), generator.get_state()
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(generator=generator), 1, validation=loader(), show_progress=False)
    trainer.evaluate(loader())
    with pytest.raises(ZeroDivisionError):
        trainer.fit(loader(), 2, callbacks=[lambda *_: 1 / 0], show_progress=False)
    assert global_states() == before[0]
    assert torch.equal(generator.get_state(), before[1])


def test_a_seed_decides_everything(model, loader):
    weights = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        trainer = ATEXTrainer(model, **DELTAS, seed=seed)
        trainer.fit(loader(), 2, show_progress=False)
        weights.append(trainer.weights())
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


def test_the_order_changes_from_epoch_to_epoch(model, loader):
    orders = []

    def objective(student, teacher, batch):
        orders.append(batch.inputs[:, 0].tolist())
        return {"loss": student(batch.inputs).square().mean()}

    Trainer(model, objective).fit(loader(24), 3, show_progress=False)
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


# --- bad input


def test_a_loader_that_yields_nothing(model):
    trainer = ATEXTrainer(model, **DELTAS)
    with pytest.raises(ValueError, match="loader yields nothing in epoch 0"):
        trainer.fit([], 1, show_progress=False)
    with pytest.raises(ValueError, match="loader yields nothing to evaluate"):
        trainer.evaluate([])
    with pytest.raises(ValueError, match="loader yields nothing in epoch 1"):
        trainer.fit(iter([torch.rand(4, 6)]), 2, show_progress=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refused(model, dtype):
    with pytest.raises(ValueError, match=r"model is in half precision \(0.weight\)"):
        ATEXTrainer(model.to(dtype), **DELTAS)


def test_a_model_without_anything_to_train_is_refused(model):
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        ATEXTrainer(model.requires_grad_(False), **DELTAS)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        ATEXTrainer(lambda x: x, **DELTAS)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights_before_it(bad, model, loader):
    weights, calls = [], []

    def objective(student, teacher, batch):
        weights.append({n: w.clone() for n, w in student.state_dict().items()})
        calls.append(1)
        return {"part": student(batch.inputs).square().mean() * (bad if len(calls) == 3 else 1)}

    trainer = Trainer(model, objective)
    with pytest.raises(ValueError, match=r"the loss is not finite at step 2 \(part (nan|inf)\)"):
        trainer.fit(loader(), 1, show_progress=False)
    assert same(trainer.weights(), weights[2])
    assert all(p.grad is None for p in trainer.model.parameters())


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"x": torch.rand(2, 6)}, TypeError, "loader must yield inputs or"),
        (torch.zeros(2, 6, dtype=torch.long), ValueError, "must yield floating-point inputs"),
        (torch.zeros(0, 6), ValueError, "must yield floating-point inputs"),
    ],
)
def test_batches_of_the_wrong_kind(batch, error, message, model):
    with pytest.raises(error, match=message):
        ATEXTrainer(model, **DELTAS).fit([batch], 1, show_progress=False)


@pytest.mark.parametrize("options", [{"steps_per_batch": 0}, {"epochs": 0}])
def test_counts_from_one_on(options, model, loader):
    epochs = options.pop("epochs", 1)
    with pytest.raises(ValueError, match="must be at least 1"):
        ATEXTrainer(model, **DELTAS, **options).fit(loader(), epochs)


def test_an_objective_error_leaves_the_flags_of_the_student(model, loader):
    trainer = Trainer(model.eval(), GradientPenalty(0.1))
    with pytest.raises(ValueError, match="loader must yield"):
        trainer.fit(DataLoader(torch.rand(8, 6), batch_size=4), 1, show_progress=False)
    assert not any(m.training for m in trainer.model.modules())


def test_the_objective_runs_under_the_precision_of_the_accelerator(loader, model):
    seen = []

    def objective(student, teacher, batch):
        seen.append(student(batch.inputs).dtype)
        return {"loss": student(batch.inputs).float().square().mean()}

    accelerator = Accelerator()
    accelerator.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    trainer = Trainer(model, objective, accelerator=accelerator)
    trainer.fit(loader(), 1, show_progress=False)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert type(trainer.model) is nn.Sequential


def test_a_data_set_of_one_tensor_gives_lists_of_one(model):
    trainer = ATEXTrainer(model, **DELTAS)
    (row,) = trainer.fit(
        DataLoader(TensorDataset(torch.rand(8, 6)), batch_size=4), 1, show_progress=False
    )
    assert row["updates"] == 2


@pytest.mark.parametrize("labels", [torch.rand(8, 3), ["a"] * 8, torch.rand(8)])
def test_labels_of_any_kind_are_passed_over_where_none_are_needed(labels, model):
    batch = [torch.rand(8, 6), labels]
    (row,) = ATEXTrainer(model, **DELTAS).fit([batch], 1, show_progress=False)
    assert row["updates"] == 1
    with pytest.raises(ValueError, match="labels of integer classes"):
        Trainer(model, CrossEntropy()).fit([batch], 1, show_progress=False)


def test_evaluation_counts_each_example_once(model, loader):
    data = loader().dataset
    sampler = torch.utils.data.SubsetRandomSampler(range(10))
    trainer = ATEXTrainer(model, **DELTAS, measures={"first": lambda m, x, y: x[:, 0]})
    found = trainer.evaluate(DataLoader(data, batch_size=4, sampler=sampler))["first"]
    assert found == pytest.approx(data.tensors[0][:10, 0].double().mean().item())


def test_a_measure_may_attack(model):
    def attacked(network, x, y):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(x).sum(), x)
        return gradient.norm(dim=1)

    trainer = ATEXTrainer(model, **DELTAS, measures={"slope": attacked})
    assert trainer.evaluate([torch.rand(5, 6)])["slope"] > 0


@pytest.mark.parametrize("bad", [0.5, torch.tensor(0.5)])
def test_a_measure_that_is_no_value_per_example_is_named(bad, model):
    trainer = ATEXTrainer(model, **DELTAS, measures={"mine": lambda m, x, y: bad})
    with pytest.raises(TypeError, match="measures: 'mine' must give a tensor of one value per"):
        trainer.evaluate([torch.rand(5, 6)])


def test_an_objective_that_returns_no_parts_is_refused(model, loader):
    trainer = Trainer(model, lambda student, teacher, batch: student(batch.inputs).mean())
    with pytest.raises(TypeError, match="objective must return a dictionary"):
        trainer.fit(loader(), 1, show_progress=False)


def test_a_gradient_that_is_not_finite_leaves_the_weights_before_it(model, loader):
    def objective(student, teacher, batch):
        return {"loss": (0 * student(batch.inputs)).abs().sum().sqrt()}

    trainer = Trainer(model, objective)
    before = trainer.weights()
    with pytest.raises(ValueError, match=r"the gradient of 0.weight is not finite at step 0"):
        trainer.fit(loader(), 1, show_progress=False)
    assert same(trainer.weights(), before)


def test_directions_are_those_of_the_model_and_the_inputs(model):
    objective = ATEX(**DELTAS)
    x = torch.rand(8, 6)
    others = [nn.Linear(6, 3), nn.Linear(6, 3)]
    for network in others:
        for part in (x[:4], x[4:]):
            found = objective.directions(network, Batch(part, None, Draws(seed=0)))
            expected = network.weight[network(part).argmax(1)]
            torch.testing.assert_close(found, expected.detach())


def test_directions_of_another_shape_are_refused(model, loader):
    trainer = ATEXTrainer(model, **DELTAS, directions=lambda m, batch: batch.inputs[:1])
    with pytest.raises(ValueError, match="directions must give the shape of the inputs"):
        trainer.fit(loader(), 1, show_progress=False)
    with pytest.raises(TypeError, match="directions must be a function"):
        ATEXTrainer(model, **DELTAS, directions=3)


def test_a_training_that_was_stopped_goes_on_when_asked(model, loader):
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 5, callbacks=[lambda t, row: row["epoch"] == 1], show_progress=False)
    assert len(trainer.history) == 2
    trainer.fit(loader(), 5, show_progress=False)
    assert len(trainer.history) == 5


def test_early_stopping_begins_anew_with_another_trainer(model, loader):
    stop = EarlyStopping("distillation", patience=1, minimize=True)
    for seed in (0, 1):
        trainer = ATEXTrainer(model, **DELTAS, seed=seed)
        trainer.fit(loader(), 4, callbacks=[stop], show_progress=False)
    other = nn.Linear(6, 3)
    trainer = ATEXTrainer(other, **DELTAS)
    trainer.fit(loader(), 3, callbacks=[stop], show_progress=False)
    assert trainer.weights().keys() == other.state_dict().keys()


def test_a_tensor_is_no_loader_and_a_file_no_folder(model, loader, tmp_path):
    trainer = ATEXTrainer(model, **DELTAS)
    with pytest.raises(TypeError, match="loader is a tensor"):
        trainer.fit(torch.rand(8, 6), 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoints must be a folder"):
        trainer.fit(loader, 1, checkpoints=tmp_path / "file")
    with pytest.raises(ValueError, match="delta1 must be 0 or more"):
        ATEXTrainer(model, delta1=-1.0, delta2=1.0)
