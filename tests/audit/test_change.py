import torch

from captum_robust.audit.change import allowed, enclosed, largest


def test_one_limit_for_all():
    settings = {"eps": 0.05, "input_range": [0.0, 1.0], "feature_names": None, "n_inputs": 100}
    assert largest(settings) == 0.05
    assert "at most 0.05, in the units of the data, which go from 0 to 1" in allowed(settings)
    table = {"eps": 0.1, "input_range": None, "feature_names": ["age", "sum"]}
    assert "each of the 2 columns may change by at most 0.1" in allowed(table)


def test_the_columns_that_may_move_are_named():
    names = ["age", "sex", "sum"]
    text = allowed({"eps": [0.3, 0.0, 0.5], "input_range": None, "feature_names": names})
    assert "age (0.3), sum (0.5); the other 1 columns stay" in text
    many = [f"c{i}" for i in range(30)]
    text = allowed({"eps": [0.1] * 30, "input_range": None, "feature_names": many})
    assert "c19 (0.1) and 10 more" in text
    assert "stay" not in text


def test_a_ball_is_told_by_what_it_encloses():
    n, moving = 50, 18
    eps = [0.2] * moving + [0.0] * (n - moving)
    size = enclosed({"eps": eps, "n_inputs": n}, 0.6)
    corner = torch.zeros(n)
    corner[:moving] = size  # the longest change of at most `size` in the columns that may move
    torch.testing.assert_close(corner.norm().item(), 0.6)
    assert enclosed({"eps": 0.2}, 0.6) is None  # of a report that does not tell how many
