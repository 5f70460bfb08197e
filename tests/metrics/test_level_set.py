"""The surface of equal output against Hessians written out."""

from __future__ import annotations

import pytest
import torch

from captum_robust._utils.explained_output import ExplainedOutput
from captum_robust.metrics._level_set import LevelSet, project_on_tangent_space
from tests.metrics.helpers import rng


def function(x, y=None):
    z = x if y is None else torch.cat([x, y.flatten(1)], dim=1)
    return (z.sin() * z.roll(1, 1)).sum(1) + z.prod(1)


def rows_of(n=3, d=4):
    return torch.randn(n, d, generator=rng(), dtype=torch.float64)


@pytest.mark.parametrize("is_tuple", [False, True])
def test_the_weingarten_map(is_tuple):
    x = rows_of()
    inputs = (x[:, :2], x[:, 2:].unsqueeze(2)) if is_tuple else (x,)
    surface = LevelSet(ExplainedOutput(function, inputs, None, None), beta=None)
    rows = surface.rows(inputs)
    assert torch.equal(rows, x)
    product, normals = surface.weingarten(rows)
    v = torch.randn(3, 4, generator=rng(5), dtype=torch.float64)
    got = product(v)
    for i in range(3):
        one = x[i]
        gradient = torch.autograd.functional.jacobian(lambda z: function(z[None])[0], one)
        hessian = torch.autograd.functional.hessian(lambda z: function(z[None])[0], one)
        normal = gradient / gradient.norm()
        tangent = torch.eye(4, dtype=torch.float64) - torch.outer(normal, normal)
        torch.testing.assert_close(normals[i], normal)
        torch.testing.assert_close(got[i], tangent @ hessian @ tangent @ v[i] / gradient.norm())


def test_rows_come_back_to_the_surface():
    x = rows_of()
    surface = LevelSet(ExplainedOutput(function, (x,), None, None), beta=None)
    level, _ = surface.value_and_gradient(x)
    moved, distance = surface.project(x + 0.05, level)
    torch.testing.assert_close(function(moved), level)
    assert (distance < 1e-8).all()


def test_a_projection_is_perpendicular_and_done_once():
    x = rows_of()
    normals = torch.nn.functional.normalize(rows_of(3), dim=1).roll(1, 0)
    flat = project_on_tangent_space(x, normals)
    assert (flat * normals).sum(1).abs().max() < 1e-12
    torch.testing.assert_close(project_on_tangent_space(flat, normals), flat)


def test_a_flat_output_has_no_surface():
    x = torch.ones(2, 3)
    surface = LevelSet(ExplainedOutput(lambda x: 0 * x.sum(1), (x,), None, None), beta=None)
    with pytest.raises(ValueError, match="no surface of equal output"):
        surface.weingarten(x)
