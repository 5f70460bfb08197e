"""Attributions of columns: sums over the features of each, with a graph."""

from __future__ import annotations

import pytest
import torch

from captum_robust.metrics import column_attributions
from tests.helpers import rng

GROUPS = torch.tensor([2, 0, 1, 0, 2, 2])


def test_sum_over_the_features_of_each_column():
    a = torch.randn(5, 6, generator=rng(0), dtype=torch.float64)
    want = torch.stack([a[:, [1, 3]].sum(1), a[:, 2], a[:, [0, 4, 5]].sum(1)], dim=1)
    torch.testing.assert_close(column_attributions(a, GROUPS), want)
    # Captum's feature masks are (1, F), and may be of any whole numbers.
    torch.testing.assert_close(column_attributions(a, GROUPS.int()[None]), want)
    assert column_attributions(a.half(), GROUPS).dtype == torch.float16


def test_what_the_features_of_a_column_share_is_taken_once():
    columns = torch.randn(5, 3, generator=rng(0), dtype=torch.float64)
    found = column_attributions(columns[:, GROUPS], GROUPS, shared=True)
    assert torch.equal(found, columns)
    with pytest.raises(ValueError, match="features of a column have different attributions"):
        column_attributions(torch.arange(6.0)[None], GROUPS, shared=True)


def test_it_has_a_derivative():
    a = torch.randn(2, 6, generator=rng(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: column_attributions(x, GROUPS), a)


BAD = {
    "integers": ((torch.ones(2, 6).long(), GROUPS), TypeError, "attributions must be a floating"),
    "images": ((torch.ones(2, 1, 2, 3), GROUPS), ValueError, "attributions must be .* table"),
    "list": ((torch.ones(2, 6), [0] * 6), TypeError, "groups must be .* got list"),
    "mask": ((torch.ones(2, 6), GROUPS > 0), TypeError, r"groups must be .* got torch\.bool"),
    "length": ((torch.ones(2, 6), GROUPS[:5]), ValueError, "groups must say .* 6 features"),
    "gap": ((torch.ones(2, 6), GROUPS + 1), ValueError, r"groups must use each .* \[1, 2, 3\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        column_attributions(*arguments)


def test_the_remedy_of_a_gap():
    anew = (GROUPS * 3 + 1).unique(return_inverse=True)[1]
    assert torch.equal(anew, GROUPS)
