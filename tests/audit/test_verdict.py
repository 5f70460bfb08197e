import pytest

from captum_robust.audit import Estimate, Rules, Verdict

HIGH, LOW = Estimate(0.9, 0.85, 0.95, 50), Estimate(0.3, 0.2, 0.4, 50)
CLEAR, NONE = Estimate(0.08, 0.05, 0.1, 50), Estimate(0.01, -0.02, 0.04, 50)
NOISE, SHAKEN = Estimate(0.95, 0.9, 0.99, 50), Estimate(0.31, 0.2, 0.4, 50)


@pytest.mark.parametrize(
    ("left", "noise", "advantage", "failed", "flagged", "wanted", "reason"),
    [
        (HIGH, NOISE, CLEAR, 0.0, 0.0, Verdict.HARD, "at least 85%"),
        (LOW, NOISE, CLEAR, 0.0, 0.0, Verdict.EASY, "leaves 30%"),
        # A success is a fact, however the rest went.
        (LOW, NOISE, CLEAR, 0.9, 0.9, Verdict.EASY, "leaves 30%"),
        # What noise does alone needs no attacker; what it does nearly alone says little of one.
        (LOW, SHAKEN, NONE, 0.0, 0.0, Verdict.EASY, "it takes no attacker"),
        (LOW, SHAKEN, CLEAR, 0.0, 0.0, Verdict.EASY, "random noise of the same size leaves 31%"),
        (Estimate(0.66, 0.64, 0.69, 50), Estimate(0.67, 0.63, 0.71, 50), NONE, 0.0, 0.0,
         Verdict.UNRELIABLE, "not clearly do more than chance"),
        (HIGH, NOISE, NONE, 0.0, 0.0, Verdict.UNRELIABLE, "not clearly do more than chance"),
        (Estimate(0.74, 0.66, 0.8, 6), Estimate(0.74, 0.68, 0.81, 6), NONE, 0.0, 0.0,
         Verdict.UNRELIABLE, "random noise of the same size leaves 74%"),
        (Estimate(0.75, 0.6, 0.9, 50), NOISE, CLEAR, 0.0, 0.0, Verdict.UNRELIABLE, "too close"),
        (Estimate(0.9, 0.85, 0.95, 3), NOISE, CLEAR, 0.0, 0.0, Verdict.UNRELIABLE, "3 examples"),
        (HIGH, NOISE, CLEAR, 0.2, 0.0, Verdict.UNRELIABLE, "20% of the examples"),
        (HIGH, NOISE, CLEAR, 0.0, 0.2, Verdict.UNRELIABLE, "indicator"),
        (None, None, None, 1.0, 0.0, Verdict.UNRELIABLE, "no example"),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_the_rules(left, noise, advantage, failed, flagged, wanted, reason):
    verdict, why = Rules().judge(left, noise, advantage, failed, flagged)
    assert verdict is wanted
    assert reason in why


def test_the_caller_changes_the_rules_and_the_report_prints_them():
    strict, mild, larger = Rules(kept=0.95), Rules(kept=0.5), Rules(advantage=0.06)
    left = Estimate(0.9, 0.85, 0.94, 50)
    assert strict.judge(left, NOISE, CLEAR, 0.0, 0.0)[0] is Verdict.EASY
    assert mild.judge(left, NOISE, CLEAR, 0.0, 0.0)[0] is Verdict.HARD
    assert larger.judge(left, NOISE, CLEAR, 0.0, 0.0)[0] is Verdict.UNRELIABLE
    assert "95%" in strict.sentences()[0]
    assert "by more than 6%" in larger.sentences()[0]
    with pytest.raises(ValueError, match="kept must be finite"):
        Rules(kept=float("nan"))


def test_every_number_of_the_rules_is_printed():
    rules = Rules(
        kept=0.61, advantage=0.07, failed=0.13, flagged=0.17, examples=23, suspicious=0.019,
        chance=0.029, undecided=0.83,
    )  # fmt: skip
    text = " ".join(rules.sentences())
    for shown in ("61%", "7%", "13%", "17%", "23", "0.019", "0.029", "83%"):
        assert shown in text
