"""A convex hull small enough for physics engines."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int
from scipy.spatial import ConvexHull

MAX_VERTICES = 128
"""Thus at most 252 faces: PhysX and Bullet take up to 255 of either."""
TOLERANCE = 1e-3
"""Points this far outside, as a share of the longest side, are not worth another vertex."""


def collision_hull(
    vertices: Float64[np.ndarray, "n 3"],
) -> tuple[Float64[np.ndarray, "k 3"], Int[np.ndarray, "m 3"]]:
    """A convex hull of few of the points, exact along the axes; faces are counter-clockwise seen from outside.

    It starts from the points that lie farthest along the axes and the cube's diagonals and takes in whichever point is
    farthest outside, until none is or MAX_VERTICES are taken.
    """
    corners = vertices[ConvexHull(vertices).vertices]
    signs = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3)
    start = np.unique(np.argmax(corners @ signs[np.abs(signs).sum(1) % 2 == 1].T, axis=0))
    hull = ConvexHull(corners[start], incremental=True)
    while len(hull.points) < MAX_VERTICES:
        outside = (corners @ hull.equations[:, :3].T + hull.equations[:, 3]).max(1)
        if outside.max() <= TOLERANCE * np.ptp(vertices, axis=0).max():
            break
        hull.add_points(corners[[outside.argmax()]])
    return hull.points, _outward(hull)


def _outward(hull: ConvexHull) -> Int[np.ndarray, "m 3"]:
    corners = hull.points[hull.simplices]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (normal * hull.equations[:, :3]).sum(1) < 0
    return np.where(inward[:, None], hull.simplices[:, ::-1], hull.simplices).astype(np.int64)
