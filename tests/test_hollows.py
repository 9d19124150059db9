"""Where a visual hull may bridge a hollow, and points that lie where there can be none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from recon.surface.hollows import hollow_share, least_curvature, under_bulges
from recon.surface.start import inset

CELL = 0.01


def grid_distance(sdf: Callable[[np.ndarray], np.ndarray], n: int = 60) -> np.ndarray:
    """Signed distances, in cells, at the points of a grid whose middle is the origin."""
    return sdf(np.indices((n, n, n)).astype(np.float32) - np.float32(n / 2)).astype(np.float32)


def torus(at: np.ndarray) -> np.ndarray:
    return np.hypot(np.hypot(at[0], at[1]) - 16, at[2]) - 8


@pytest.mark.parametrize(
    ("sdf", "place", "expected"),
    [
        (lambda at: np.sqrt((at**2).sum(0)) - 20, (20, 0, 0), 1 / 20),
        (lambda at: np.hypot(at[0], at[1]) - 20, (20, 0, 0), 0),
        (lambda at: 20 - np.sqrt((at**2).sum(0)), (20, 0, 0), -1 / 20),
        (torus, (24, 0, 0), 1 / 24),
        (torus, (8, 0, 0), -1 / 8),
    ],
)
def test_least_curvature(sdf, place, expected):
    found = least_curvature(grid_distance(sdf), np.array([place]) + 30, sigma=1.0)
    assert found == pytest.approx([expected], abs=0.008)


def test_only_where_the_hull_is_hollow_it_starts_inside():
    hull = grid_distance(torus) * CELL
    share, deep = hollow_share(hull, CELL), inset(hull, 3 * CELL, CELL)
    bulging, hollow = (54, 30, 30), (38, 30, 30)
    assert share[bulging] < 0.05 and share[hollow] == 1
    assert share[57, 30, 30] == share[bulging], "places beside the hull go with the nearest of it"
    assert deep[bulging] < 0.15 * CELL and deep[hollow] == pytest.approx(3 * CELL)


@pytest.mark.parametrize(("depth", "expected"), [(-2.0, False), (1.0, False), (2.5, True), (12.0, True)])
def test_points_deep_under_a_bulge_are_no_surface(depth, expected):
    hull = grid_distance(lambda at: np.sqrt((at**2).sum(0)) - 20) * CELL
    origin = np.array([0.1, 0.2, 0.3])
    points = origin + CELL * (30 + np.array([[20 - depth, 0, 0]]))
    assert under_bulges(hull, origin, CELL, points) == expected


def test_points_deep_in_a_hollow_stay():
    hull = grid_distance(torus) * CELL
    at = np.array([[8 + 4.0, 0, 0]])
    assert not under_bulges(hull, np.zeros(3), CELL, CELL * (30 + at)).any()
