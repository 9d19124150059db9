"""Where the visual hull may bridge a hollow, and where it is the object's own surface."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

HOLLOW, BULGING = -0.03, 0.015
"""Smaller principal curvatures of the visual hull, in 1 / cell of the first baked grid: below the one a hollow may
lie under it, above the other masks would have shown it."""
SURE_SHARE, DEEPEST_CELLS = 0.05, 1.5
"""Under places of the hull less likely to bridge a hollow, no point of the object lies deeper than so many cells."""


def least_curvature(
    sdf: Float32[np.ndarray, "nx ny nz"], at: Int64[np.ndarray, "n 3"], sigma: float = 2.0
) -> Float32[np.ndarray, " n"]:
    """Smaller principal curvature (1 / cell, positive where convex) of the level sets at some of a grid's points.

    sdf: in cells; sigma: cells over which it is smoothed first. Formulas for implicit surfaces: Goldman 2005.
    """
    smooth = gaussian_filter(sdf, sigma)
    slopes = np.gradient(smooth)
    slope = np.stack([s[tuple(at.T)] for s in slopes], -1)
    hessian = np.stack([np.stack([b[tuple(at.T)] for b in np.gradient(s)], -1) for s in slopes], -1)
    length = np.linalg.norm(slope, axis=-1)[:, None, None] + 1e-6
    normal = slope[..., None] / length
    across = np.eye(3, dtype=np.float32) - normal @ normal.transpose(0, 2, 1)
    shape = across @ hessian @ across / length
    # of its three eigenvalues the normal's is 0, so that trace and squared norm give the other two
    middle = np.trace(shape, axis1=1, axis2=2) / 2
    half_gap = np.sqrt(np.maximum((shape**2).sum((1, 2)) / 2 - middle**2, 0))
    return (middle - half_gap).astype(np.float32)


def hollow_share(hull: Float32[np.ndarray, "nx ny nz"], cell: float) -> Float32[np.ndarray, "nx ny nz"]:
    """How likely a hollow lies under the place of the visual hull nearest to each of a grid's points, 0..1.

    A hull bridges hollows by saddles, as it is straight along the rays that graze it; where it bulges in all
    directions, grazing rays touch the object itself nearly everywhere.
    """
    surface = np.abs(hull) < cell
    if not surface.any():
        return np.ones_like(hull)
    share = np.zeros_like(hull)
    curvature = least_curvature(hull / np.float32(cell), np.argwhere(surface))
    share[surface] = np.clip((BULGING - curvature) / (BULGING - HOLLOW), 0, 1)
    nearest = distance_transform_edt(~surface, return_distances=False, return_indices=True)
    return share[tuple(nearest)]


def under_bulges(
    hull: Float32[np.ndarray, "nx ny nz"], origin: Float[np.ndarray, "3"], cell: float, points: Float[np.ndarray, "n 3"]
) -> Bool[np.ndarray, " n"]:
    """Points deep under places where the visual hull bulges: what a glossy surface mirrors looks as if it lay there.

    hull: distances to it on a grid that begins at origin, in the points' unit.
    """
    at = ((points - origin) / cell).T
    depth = -map_coordinates(hull, at, order=1, mode="nearest") / cell
    share = map_coordinates(hollow_share(hull, cell), at, order=1, mode="nearest")
    sure: Bool[np.ndarray, " n"] = (depth > DEEPEST_CELLS) & (share < SURE_SHARE)
    return sure
