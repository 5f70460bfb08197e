from dataclasses import replace

import pytest
import torch
from captum.attr import Saliency

from captum_robust import zoo
from captum_robust.audit import ModelCheck
from captum_robust.audit.learned import Answers, entropies
from captum_robust.outputs import Binary, Categorical, MultiLabel, Regression


def test_entropy_of_logits_and_of_probabilities():
    logits = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    p = logits.softmax(1).double()
    wanted = (-(p * p.log()).sum(1) / torch.tensor(3.0).log()).tolist()
    assert entropies(logits, Categorical()) == pytest.approx(wanted, abs=1e-5)
    # A model that ends in a softmax: taken once more, all would look undecided.
    assert entropies(p, Categorical()) == pytest.approx(wanted, abs=1e-5)
    assert entropies(torch.tensor([[0.0], [40.0]]), Binary()) == [1.0, 0.0]
    assert entropies(torch.tensor([[0.2], [0.9]]), Binary(threshold=0.5)) is None
    assert entropies(logits, MultiLabel()) is None
    assert entropies(logits, Regression(tolerance=0.1)) is None


def checked(labels, predicted):
    answers = Answers()
    for label, said in zip(labels, predicted, strict=True):
        row = {"entropy": 0.2, "label": label, "predicted": said, "correct": label == said}
        answers.add(row)
    return answers.added_to(ModelCheck(None, "not a table"))


def test_accuracy_is_held_against_guesses():
    labels = [0] * 14 + [1] * 6
    one_class = checked(labels, [0] * 20)  # right on 70 %, and always would be
    assert one_class.guessing == pytest.approx(0.7)
    assert one_class.by_chance > 0.5
    right = checked(labels, labels)
    assert right.guessing == pytest.approx(0.7**2 + 0.3**2)
    assert right.by_chance == pytest.approx(right.guessing**20)
    assert right.reason == "not a table"
    # Of unbalanced classes: hardly better than naming the frequent one, and yet no guesses.
    some = checked([0] * 140 + [1] * 60, [0] * 125 + [1] * 15 + [0] * 35 + [1] * 25)
    assert some.by_chance < 0.01
    assert checked([0] * 30, [0] * 30).by_chance is None  # one class says nothing
    assert checked([0, 1], [1, 0]).by_chance is None


def test_a_network_without_training_is_found_and_a_trained_one_is_not(run):
    images, labels = zoo.fashion_mnist_sample(20)
    for model, found in ((zoo.fashion_mnist_cnn(), 0), (zoo.fashion_mnist_cnn(False), 2)):
        for given, wanted in (([images, labels], found), (images, min(found, 1))):
            report = run(model, {"gradient": Saliency(model)}, [given], certify=False)
            assert len(report.untrained()) == wanted
            assert ("not seem to have learned" in report.summary()[0]) is (wanted > 0)


def test_the_caller_says_what_counts(report):
    odd = replace(report, model_check=ModelCheck(None, "", 0, 0.5, 0.2, 0.95))
    assert len(odd.untrained()) == 2
    mild = replace(odd, rules=replace(odd.rules, chance=0.3, undecided=0.97))
    assert not mild.untrained()
