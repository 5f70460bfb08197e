import copy

import pytest
import torch
from captum.attr import NoiseTunnel, Occlusion, Saliency
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust import audit, outputs
from captum_robust.attr import KernelSmoothing
from captum_robust.audit.settings import Budget


def plain(report):
    """The report without what a repetition may do differently."""
    return {key: value for key, value in report.as_json().items() if key != "circumstances"}


def test_a_report_has_a_row_for_each_example(report):
    assert report.n_examples == 5
    assert [row["index"] for row in report.rows] == list(range(5))
    found = report.explanations["gradient"]
    for measure in ("top_k", "rank", "ssim"):
        for kind in ("attack", "noise"):
            assert f"{kind}/1.0/{measure}" in found.values
    for name in ("infidelity", "flipping", "flipping_random", "sensitivity", "certified/0.1"):
        assert found.values[name].n == 5
    assert found.left()[-1][1].mean < found.left("noise")[-1][1].mean


def test_equal_seeds_give_equal_reports_and_others_do_not(report, run):
    assert plain(run()) == plain(report)
    assert plain(run(seed=1)) != plain(report)


def test_a_killed_audit_goes_on_where_it_was(report, run, tiny_batches, tmp_path):
    class Killed(Exception):
        pass

    class Loader:
        """Gives its batches, and is killed after the first one of the loop."""

        reads = 0

        def __iter__(self):
            self.reads += 1
            for number, batch in enumerate(tiny_batches()):
                if self.reads == 2 and number == 1:
                    raise Killed
                yield batch

    loader = Loader()
    with pytest.raises(Killed):
        run(batches=loader, folder=tmp_path)
    assert len(list(tmp_path.glob("batch-*"))) == 1
    resumed = run(batches=loader, folder=tmp_path)
    assert plain(resumed) == plain(report)
    assert resumed.circumstances["batches of earlier runs"] == 1
    assert report.circumstances["batches of earlier runs"] == 0


def test_the_model_the_inputs_and_the_global_state_are_as_before(run, tiny_model, tiny_batches):
    model, batches = tiny_model().train(), tiny_batches()
    model[0].eval()
    weights = copy.deepcopy(model.state_dict())
    inputs = [batch[0].clone() for batch in batches]
    before = torch.get_rng_state()
    run(model, {"noise": (NoiseTunnel(Saliency(model)), {"nt_samples": 2})}, batches, certify=False)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())
    assert [m.training for m in model] == [False, True, True, True, True, True]
    assert all(torch.equal(a, b[0]) for a, b in zip(inputs, batches, strict=True))


def test_an_explanation_that_fails_on_one_example_is_reported_for_it(run, tiny_model):
    model = tiny_model()

    def fragile(x):
        if bool((x > 0.9999).any()):
            raise ValueError("too bright")
        return model(x)

    images = torch.full((3, 1, 8, 8), 0.5)
    images += 0.01 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    images[1, 0, 0, 0] = 1.0
    found = run(
        model, {"gradient": Saliency(model), "fragile": Saliency(fragile)}, [images], certify=False,
        eps=0.001,
    ).explanations  # fmt: skip
    assert dict(found["fragile"].errors) == {"ValueError: too bright": 1}
    assert found["gradient"].values["sensitivity"].n == 3


def test_work_on_the_other_examples_is_not_repeated(run, tiny_model):
    """One example of eight fails: at once, and under the first attack, on its largest step."""
    model = tiny_model()
    images = 0.5 + 0.01 * torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[5, 0, 0, 0] = 0.9

    def explained(limit):
        """How many examples the explanation sees in an audit, and its errors."""
        seen = []

        def forward(x):
            if bool((x[:, 0, 0, 0] > limit).any()):
                raise ValueError("too bright")
            seen.append(len(x))
            return model(x)

        found = run(
            model, {"e": Saliency(forward)}, [images], certify=False, eps=0.05,
            budget=Budget(evaluations=40, copies=20, perturbations=5, neighbours=2, flips=3),
        ).explanations["e"]  # fmt: skip
        return sum(seen), dict(found.errors)

    without, errors = explained(1.0)
    assert not errors
    at_once, errors = explained(0.85)
    assert errors == {"ValueError: too bright": 1}
    assert at_once < without  # seven eighths, and a few explanations to find the one
    later, errors = explained(0.91)
    assert errors == {"ValueError: too bright": 1}
    assert later < 1.5 * without  # of seven steps under attack one is repeated


def test_the_other_examples_of_a_failing_batch_are_compared(run, tiny_model, tiny_batches):
    model = tiny_model()
    [(images, _), _] = tiny_batches()
    images[1] = 1.0

    def fragile(x):
        if bool((x == 1.0).flatten(1).all(1).any()):
            raise ValueError("too bright")
        return model(x)

    report = run(
        model, {"gradient": Saliency(model), "fragile": Saliency(fragile)}, [images], certify=False
    )
    assert ["agreement" in row for row in report.rows] == [True, False, True]
    assert report.agreement["gradient / fragile"].mean == pytest.approx(1.0)


class OneOfTwo:
    """A process that accelerate has launched, and given a device."""

    rank, count, device = 0, 2, torch.device("meta")

    def wait(self):
        pass


def test_a_model_on_the_device_of_a_process_comes_back(run, tiny_model, monkeypatch, tmp_path):
    model = tiny_model()
    before = {name: (t, t.clone()) for name, t in model.named_parameters()}
    monkeypatch.setattr("captum_robust.audit.engine.Processes", OneOfTwo)
    with pytest.raises(ValueError, match="admits none"):  # nothing can be computed on meta
        run(model, {"gradient": Saliency(model)}, folder=tmp_path)
    for name, parameter in model.named_parameters():
        same, values = before[name]
        assert parameter is same
        assert torch.equal(parameter, values)


def test_processes_need_a_folder_that_they_share(run, monkeypatch):
    monkeypatch.setattr("captum_robust.audit.engine.Processes", OneOfTwo)
    with pytest.raises(ValueError, match="folder: 2 processes"):
        run()


def test_tables_one_logit_and_a_column_that_must_not_move(run):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    rows = 2 * torch.randn(6, 6)
    eps = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.3, 0.0])
    names = [f"column {i}" for i in range(6)]
    report = run(
        model, {"gradient": Saliency(model)}, [rows], eps=eps, k=2, input_range=None,
        output=outputs.Binary(), feature_names=names, certify=False,
    )  # fmt: skip
    for example in report.explanations["gradient"].examples:
        assert example.moved[5] == example.input[5]
    assert "column 3" in report.settings["feature_names"]


def test_two_examples_are_shown_even_where_all_are_equal(run):
    found = run(k=64, certify=False).explanations["gradient"]  # all of the 64 features are left
    assert found.values["attack/1.0/top_k"].low == 1
    worst, median = found.examples
    assert worst.index != median.index


def test_an_explanation_without_a_graph_is_attacked_by_queries(run, tiny_model):
    model = tiny_model()
    windows = {"sliding_window_shapes": (1, 4, 4), "strides": (1, 4, 4)}
    report = run(model, {"occlusion": (Occlusion(model), windows)}, certify=False)
    found = report.explanations["occlusion"]
    assert found.values["attack/1.0/top_k"].n == 5
    assert not found.errors


def test_arguments_of_an_explanation_reach_every_measurement(run, tiny_model):
    model = tiny_model()
    smooth = {"SmoothGrad": (KernelSmoothing(Saliency(model)), {"n_samples": 2, "radius": 0.1})}
    first, again = run(model, smooth), run(model, smooth)
    found = first.explanations["SmoothGrad"]
    assert not found.errors
    assert found.values["certified/0.1"].n == 5
    assert plain(first) == plain(again)


def test_labels_give_accuracy_and_can_be_explained(run, tiny_model, tiny_batches):
    model = tiny_model()
    right = torch.cat([(model(x).argmax(1) == y) for x, y in tiny_batches()]).float().mean()
    assert run(certify=False).accuracy.mean == pytest.approx(right.item())
    predicted, labelled = run(certify=False), run(certify=False, labels=True)
    assert predicted.rows != labelled.rows


class Generator:
    """An iterator, which can be read once."""

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": torch.relu}, TypeError, "model must be a torch.nn.Module"),
        ({"loader": torch.zeros(2)}, TypeError, "loader is a tensor"),
        ({"loader": Generator()}, TypeError, "loader must be read more than once"),
        ({"loader": []}, ValueError, "loader yields nothing"),
        ({"loader": [{"pixels": 1}]}, TypeError, "loader must yield tensors"),
        ({"loader": [torch.zeros(2, 1, 8, 8).long()]}, ValueError, "floating-point"),
        ({"eps": -1.0}, ValueError, "eps must be positive"),
        ({"budget": "huge"}, ValueError, "budget must be one of"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"explanations": {}}, ValueError, "explanations is empty"),
        ({"output": outputs.Binary}, TypeError, "output must be an object"),
        ({"output": outputs.Binary()}, ValueError, "one logit"),
    ],
)
def test_bad_input(tiny_model, tiny_batches, changes, error, message):
    model = tiny_model()
    arguments = {
        "model": model, "explanations": {"gradient": Saliency(model)}, "loader": tiny_batches(),
        "eps": 0.1, "show_progress": False, **changes,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        audit.audit(**arguments)


def test_a_loader_that_shuffles_is_refused(tiny_model):
    data = TensorDataset(torch.zeros(4, 1, 8, 8))
    with pytest.raises(ValueError, match="shuffle=False"):
        audit.audit(tiny_model(), None, DataLoader(data, shuffle=True), eps=0.1)


def test_one_output_without_its_meaning_names_the_choices(tiny_model, tiny_batches):
    with pytest.raises(ValueError, match=r"outputs\.Binary\(\)"):
        audit.audit(tiny_model(1), None, tiny_batches(), eps=0.1)
