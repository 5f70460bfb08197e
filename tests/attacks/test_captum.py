"""The attacks inside captum.metrics and captum.robust, as Captum's own perturbations."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from captum.metrics import sensitivity_max
from captum.robust import AttackComparator, MinParamPerturbation

from captum_robust import attacks
from captum_robust.metrics import relevance_map, top_k_intersection
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")

RADIUS = 0.04
MAPS = torch.rand(4, 28, 28, generator=torch.Generator().manual_seed(0)) ** 8
REGIONS = MAPS > 0.5


@pytest.fixture(scope="module")
def model():
    return fashion_mnist_cnn()


@pytest.fixture(scope="module")
def images():
    return fashion_mnist_sample(4)[0]


@pytest.fixture(scope="module")
def labels(model, images):
    return model(images).argmax(1)


def build_all(model):
    settings = {"eps": 0.02, "alpha": 0.004, "steps": 4}
    return {
        "RandomSign": (attacks.RandomSign(model), ()),
        "GhorbaniTopK": (attacks.GhorbaniTopK(model, **settings, k=50), ()),
        "GhorbaniMassCenter": (attacks.GhorbaniMassCenter(model, **settings), ()),
        "GhorbaniTarget": (attacks.GhorbaniTarget(model, **settings, region=REGIONS), ()),
        "Dombrowski": (attacks.Dombrowski(model, **settings), (MAPS,)),
    }


def gradient(model):
    saliency = Saliency(model)

    def explain(images, target):
        """Like ``saliency.attribute``, without its warning about ``requires_grad``."""
        (x,) = images if isinstance(images, tuple) else (images,)
        found = saliency.attribute(x.detach().clone().requires_grad_(), target=target)
        return (found,) if isinstance(images, tuple) else found

    return explain


def literal_sensitivity(explain, images, perturbed, labels):
    """Yeh et al. 2019, Eq. 5 for one perturbation, over the norm of the explanation."""
    values = []
    for i in range(len(images)):
        clean, moved = (
            explain(x[i : i + 1], target=labels[i : i + 1]) for x in (images, perturbed)
        )
        values.append(((clean - moved).square().sum().sqrt() / clean.square().sum().sqrt()).item())
    return torch.tensor(values)


class TestSensitivity:
    @pytest.mark.parametrize("name", build_all(fashion_mnist_cnn(pretrained=False)))
    def test_every_attack_as_perturb_func(self, name, model, images, labels):
        attack, further = build_all(model)[name]
        calls = []
        perturb = attack.perturb_func(labels, *further)

        def spied(x, radius):
            calls.append((x, perturb(x, radius)))
            return calls[-1][1]

        explain = gradient(model)
        for n_samples, batch in ((1, None), (3, None), (3, 4)):
            calls.clear()
            found = sensitivity_max(
                explain, images, spied, perturb_radius=RADIUS,
                n_perturb_samples=n_samples, max_examples_per_batch=batch, target=labels,
            )  # fmt: skip
            assert found.shape == (4,)
            assert len(calls) == (1 if batch is None else n_samples)
            assert all((moved - x).abs().max() <= RADIUS for x, moved in calls)
            if name != "RandomSign":
                expected = literal_sensitivity(
                    explain, images, attack(images, labels, *further, eps=RADIUS), labels
                )
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
            for x, moved in calls:
                repeated = labels.repeat_interleave(len(x) // 4)
                assert torch.equal(model(moved).argmax(1), repeated)

    def test_an_attack_finds_more_than_chance(self, model, images, labels):
        explain = gradient(model)
        attack = attacks.GhorbaniTopK(model, eps=RADIUS, alpha=RADIUS / 10, steps=30, k=50)
        found = {
            name: sensitivity_max(
                explain, images, perturb_radius=RADIUS, n_perturb_samples=samples, target=labels,
                **({} if perturb is None else {"perturb_func": perturb}),
            )
            for name, perturb, samples in (
                ("Captum's default", None, 30),
                ("attack", attack.perturb_func(labels), 1),
            )
        }  # fmt: skip
        assert found["attack"].mean() > 1.3 * found["Captum's default"].mean()

    def test_predicted_labels_and_other_explanations(self, model, images, labels):
        integrated = IntegratedGradients(model)
        attack = attacks.GhorbaniTopK(
            model, integrated, RADIUS, RADIUS / 4, 3, k=50, explanation_kwargs={"n_steps": 5}
        )
        with_labels, without = (
            sensitivity_max(
                integrated.attribute, images, attack.perturb_func(given), perturb_radius=RADIUS,
                n_perturb_samples=2, target=labels, n_steps=5,
            )
            for given in (labels, None)
        )  # fmt: skip
        torch.testing.assert_close(with_labels, without, rtol=0.05, atol=0)
        assert (with_labels > 0).all()

    def test_labels_of_other_images_are_refused(self, model, images):
        perturb = attacks.GhorbaniTopK(model, steps=1).perturb_func(torch.tensor([1, 2, 3]))
        with pytest.raises(ValueError, match=r"^labels"):
            perturb(images, 0.1)


def relevance_of(model, label):
    """The relevance map as a ``forward_func``: what is watched is the explanation itself."""
    saliency = Saliency(model)

    def forward(x):
        ready = x.detach().clone().requires_grad_()
        return relevance_map(saliency.attribute(ready, target=label))

    return forward


def still_the_same(relevance, clean):
    """Whether at least half of the 50 most relevant pixels are still among them."""
    return bool((top_k_intersection(relevance, clean, 50) >= 0.5).all())


class TestMinParamPerturbation:
    @pytest.mark.parametrize("per_eval", [pytest.param(1, marks=pytest.mark.slow), 3])
    def test_smallest_eps_that_forges_the_explanation(self, per_eval, model, images, labels):
        attack = attacks.GhorbaniTopK(model, eps=0.02, alpha=0.002, steps=12, k=50)
        forged = 0
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            forward = relevance_of(model, label)
            clean = forward(image)
            search = MinParamPerturbation(
                forward, attack, "eps", arg_min=0.01, arg_max=0.09, arg_step=0.02,
                correct_fn=still_the_same,
            )  # fmt: skip
            found, eps = search.evaluate(
                image,
                perturbations_per_eval=per_eval,
                attack_kwargs={"labels": label},
                correct_fn_kwargs={"clean": clean},
            )
            literal = [
                candidate
                for candidate in (0.01, 0.03, 0.05, 0.07)
                if not still_the_same(forward(attack(image, label, eps=candidate)), clean)
            ]
            if not literal:
                assert (found, eps) == (None, None)
                continue
            forged += 1
            assert eps == pytest.approx(literal[0])
            assert (found - image).abs().max() <= eps
            assert model(found).argmax(1) == label
            assert not still_the_same(forward(found), clean)
        assert forged >= 3

    def test_binary_search(self, model, images, labels):
        attack = attacks.GhorbaniTopK(model, eps=0.02, alpha=0.002, steps=12, k=50)
        image, label = images[:1], labels[:1]
        forward = relevance_of(model, label)
        search = MinParamPerturbation(
            forward, attack, "eps", arg_min=0.005, arg_max=0.2, arg_step=0.005, mode="binary",
            correct_fn=still_the_same,
        )  # fmt: skip
        found, eps = search.evaluate(
            image, attack_kwargs={"labels": label}, correct_fn_kwargs={"clean": forward(image)}
        )
        assert 0.005 <= eps < 0.2
        assert not still_the_same(forward(found), forward(image))


class TestAttackComparator:
    def test_attacks_side_by_side(self, model, images, labels):
        clean = relevance_map(gradient(model)(images, labels))

        def forward(x):
            return relevance_map(gradient(model)(x, labels))

        def intersection(relevance, labels):
            return top_k_intersection(relevance, clean, 50)

        comparator = AttackComparator(forward, intersection)
        everything = build_all(model)
        for name, (attack, further) in everything.items():
            extra = {"target_maps": further[0]} if further else {}
            comparator.add_attack(
                attack, name, attack_kwargs={"eps": RADIUS, **extra},
                additional_attack_arg_names=["labels"],
            )  # fmt: skip
        comparator.add_attack(
            attacks.GhorbaniTopK(model, steps=4, k=50, restarts=2), "restarted", num_attempts=2,
            attack_kwargs={"eps": RADIUS}, additional_attack_arg_names=["labels"],
        )  # fmt: skip
        found = comparator.evaluate(images, labels=labels)
        torch.testing.assert_close(found["Original"], torch.ones(4))
        attack, _ = everything["GhorbaniTopK"]
        expected = intersection(forward(attack(images, labels, eps=RADIUS)), labels)
        torch.testing.assert_close(found["GhorbaniTopK"]["mean"], expected)
        assert (found["GhorbaniTopK"]["mean"] < 0.9).all()
        assert {"mean", "min", "max"} <= set(found["restarted"])
        summary = comparator.summary()
        assert set(everything) < set(summary)
