"""A convex hull small enough for physics engines."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int
from scipy.spatial import ConvexHull

N_DIRECTIONS = 128
"""A hull has at most this many vertices, thus at most 252 faces: PhysX and Bullet take up to 255 of either."""


def collision_hull(
    vertices: Float64[np.ndarray, "n 3"],
) -> tuple[Float64[np.ndarray, "k 3"], Int[np.ndarray, "m 3"]]:
    """The convex hull of the points that lie farthest in evenly spread directions; faces counter-clockwise outside.

    The six axis directions are among them, so that the hull is as wide, tall and deep as the points.
    """
    k = np.arange(N_DIRECTIONS - 6) + 0.5
    height = 1 - 2 * k / len(k)
    azimuth = np.pi * (1 + np.sqrt(5)) * k  # a Fibonacci spiral
    wide = np.sqrt(1 - height**2)
    spiral = np.stack([wide * np.cos(azimuth), height, wide * np.sin(azimuth)], -1)
    directions = np.concatenate([np.eye(3), -np.eye(3), spiral])
    points = vertices[np.unique(np.argmax(vertices @ directions.T, axis=0))]
    hull = ConvexHull(points)
    corners = points[hull.simplices]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (normal * hull.equations[:, :3]).sum(1) < 0
    faces = np.where(inward[:, None], hull.simplices[:, ::-1], hull.simplices)
    used, faces = np.unique(faces, return_inverse=True)
    return points[used], faces.reshape(-1, 3).astype(np.int64)
