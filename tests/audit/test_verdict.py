import pytest

from captum_robust.audit import Estimate, Rules, Verdict


@pytest.mark.parametrize(
    ("left", "failed", "flagged", "wanted", "reason"),
    [
        (Estimate(0.9, 0.85, 0.95, 50), 0.0, 0.0, Verdict.HARD, "at least 85%"),
        (Estimate(0.3, 0.2, 0.4, 50), 0.0, 0.0, Verdict.EASY, "leaves 30%"),
        # A success is a fact, however the rest went.
        (Estimate(0.3, 0.2, 0.4, 50), 0.9, 0.9, Verdict.EASY, "leaves 30%"),
        (Estimate(0.75, 0.6, 0.9, 50), 0.0, 0.0, Verdict.EASY, "too close"),
        (Estimate(0.9, 0.85, 0.95, 3), 0.0, 0.0, Verdict.UNRELIABLE, "3 examples"),
        (Estimate(0.9, 0.85, 0.95, 50), 0.2, 0.0, Verdict.UNRELIABLE, "20% of the examples"),
        (Estimate(0.9, 0.85, 0.95, 50), 0.0, 0.2, Verdict.UNRELIABLE, "indicator"),
        (None, 1.0, 0.0, Verdict.UNRELIABLE, "no example"),
    ],
)
def test_a_verdict_follows_from_the_rules(left, failed, flagged, wanted, reason):
    verdict, why = Rules().judge(left, failed, flagged)
    assert verdict is wanted
    assert reason in why


def test_the_caller_changes_the_rules_and_the_report_prints_them():
    strict, mild = Rules(kept=0.95), Rules(kept=0.5)
    left = Estimate(0.9, 0.85, 0.94, 50)
    assert strict.judge(left, 0.0, 0.0)[0] is Verdict.EASY
    assert mild.judge(left, 0.0, 0.0)[0] is Verdict.HARD
    assert "95%" in strict.sentences()[0]
    with pytest.raises(ValueError, match="kept must be finite"):
        Rules(kept=float("nan"))
