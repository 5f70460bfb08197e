"""The explanation of a row as bars."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg

from captum_robust.visualization import explanation_bars

NAMES = ["age", "income", "debt", "sex", "job"]
BEFORE = torch.tensor([0.7, -0.9, 0.1, 0.0, 0.05])
AFTER = torch.tensor([0.1, -0.2, 0.8, 0.01, 0.0])


def widths(figure):
    return [[round(bar.get_width(), 6) for bar in group] for group in figure.axes[0].containers]


def labels(figure):
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_two_bars_a_feature_the_most_important_before_on_top():
    figure = explanation_bars(BEFORE, AFTER[None], NAMES, n_features=3, axis_title="log-odds")
    assert labels(figure) == ["income", "age", "debt"]
    assert widths(figure) == [[-0.9, 0.7, 0.1], [-0.2, 0.1, 0.8]]
    axis = figure.axes[0]
    assert axis.yaxis_inverted()
    assert axis.get_xlabel() == "log-odds (3 of 5 features)"
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["before", "after"]


def test_bars_of_a_feature_lie_side_by_side_and_do_not_overlap():
    figure = explanation_bars(BEFORE, AFTER, NAMES)
    first, second = figure.axes[0].containers
    for one, other in zip(first, second, strict=True):
        assert one.get_y() + one.get_height() == pytest.approx(other.get_y())
        middle = other.get_y()
        assert middle == pytest.approx(round(middle), abs=1e-9)


def test_one_explanation_without_names():
    figure = explanation_bars(BEFORE)
    assert labels(figure) == ["1", "0", "2", "4", "3"]
    assert len(figure.axes[0].containers) == 1
    assert figure.axes[0].get_legend() is None
    assert figure.axes[0].get_xlabel() == "attribution"


def test_bars_of_columns_are_sums_of_their_features():
    # Two features of opposite sign are one column, which is then the least important.
    groups = torch.tensor([[0, 0, 1, 2, 2]])
    figure = explanation_bars(BEFORE, AFTER, ["a", "b", "c"], groups=groups, n_features=2)
    assert labels(figure) == ["a", "b"]
    assert widths(figure) == [[-0.2, 0.1], [-0.1, 0.8]]
    assert figure.axes[0].get_xlabel() == "attribution (2 of 3 columns)"
    with pytest.raises(ValueError, match=r"feature_names must have 3 .* the columns, got 5"):
        explanation_bars(BEFORE, AFTER, NAMES, groups=groups)
    with pytest.raises(ValueError, match=r"groups must .* each of 5 features"):
        explanation_bars(BEFORE, AFTER, groups=groups[:, :4])


def test_bars_of_columns_that_share_an_attribution_are_drawn_once():
    groups, shared = torch.tensor([0, 1, 1]), torch.tensor([0.2, 0.5, 0.5])
    assert widths(explanation_bars(shared, groups=groups, shared=True)) == [[0.5, 0.2]]
    assert widths(explanation_bars(shared, groups=groups)) == [[1.0, 0.2]]


def test_nothing_overlaps_and_it_can_be_saved(tmp_path):
    figure = explanation_bars(BEFORE, AFTER, ["a long name of a column " * 2] * 5)
    figure.savefig(tmp_path / "bars.png")
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.axes[0].get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert boxes[0].x0 >= 0


def test_draws_in_a_given_figure_and_leaves_its_arguments_alone():
    mine, before = plt.figure(), BEFORE.clone().requires_grad_()
    assert explanation_bars(before, figure=mine) is mine
    assert before.requires_grad
    plt.close(mine)


BAD = {
    "list": (([0.1],), TypeError, "before must be a floating-point tensor, got list"),
    "integers": ((BEFORE.long(),), TypeError, r"before must be .*use \.float\(\)"),
    "two rows": ((BEFORE.expand(2, -1),), ValueError, r"before must be .*one row.*before\[i\]"),
    "empty": ((BEFORE[:0],), ValueError, "before must be the explanation of one row"),
    "nan": ((BEFORE, AFTER / 0), ValueError, "after contains NaN or Inf"),
    "length": ((BEFORE, AFTER[:3]), ValueError, "after must have the 5 features of before, got 3"),
    "names": ((BEFORE, AFTER, NAMES[:2]), ValueError, "must have 5 .* of the features, got 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        explanation_bars(*arguments)


def test_bad_counts():
    with pytest.raises(ValueError, match="legend must name 2 explanations, got 1"):
        explanation_bars(BEFORE, AFTER, legend=("before",))
    with pytest.raises(ValueError, match="n_features must be at least 1"):
        explanation_bars(BEFORE, n_features=0)
