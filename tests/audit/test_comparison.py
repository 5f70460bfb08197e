from dataclasses import replace

import pytest

from captum_robust.audit import Estimate, Verdict, compare


def with_left(report, mean, verdict=Verdict.EASY, name="gradient"):
    found = report.explanations["gradient"]
    values = {**found.values, "attack/1.0/top_k": Estimate(mean, mean, mean, 5)}
    return replace(report, explanations={name: replace(found, values=values, verdict=verdict)})


def test_gains_and_losses(report):
    before, after = with_left(report, 0.4), with_left(report, 0.9, Verdict.HARD)
    found = compare(before, after)
    assert found.changes[0].gain == pytest.approx(0.5)
    assert found.worst_loss() == 0
    assert compare(after, before).worst_loss() == pytest.approx(0.5)
    assert "can be manipulated -> hard to manipulate" in found.lines()[1]


def test_what_is_in_one_alone_and_other_settings_are_named(report):
    other = with_left(report, 0.4)
    more = replace(
        other,
        explanations={**other.explanations, "LRP": other.explanations["gradient"]},
        settings={**other.settings, "seed": 7},
    )
    found = compare(other, more)
    assert found.only_after == ("LRP",)
    assert found.differences == ("seed",)
    assert found.lines()[-1] == "settings differ: seed"


def test_nothing_in_common(report):
    with pytest.raises(ValueError, match="no explanation in common"):
        compare(report, with_left(report, 0.4, name="LRP"))
