"""The masks' visual hull as a signed distance, from which the fit starts."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from recon.data import ObjectRegion, PosedCapture
from recon.surface.sampling import BakedSdf
from recon.transforms import Similarity


def carve(
    posed: PosedCapture, region: ObjectRegion, points_world: np.ndarray, tolerated_share: float = 0.06
) -> np.ndarray:
    """Which points lie in the object's mask in all views that see them, but for a tolerated share of bad masks.

    points_world: (n, 3). Returns (n,) bool. A point that no view sees is not carved away.
    """
    seen = np.zeros(len(points_world), np.int32)
    outside = np.zeros(len(points_world), np.int32)
    for view in posed.views:
        mask = region.mask(view.name) > 96
        pixel, depth_z = view.project(points_world)
        inside = view.in_image(pixel, depth_z)
        columns, rows = pixel[inside].astype(np.int64).T
        seen[inside] += 1
        outside[inside] += ~mask[rows, columns]
    return outside <= tolerated_share * seen


def hull_sdf(baked: BakedSdf, posed: PosedCapture, region: ObjectRegion, unit_from_world: Similarity) -> np.ndarray:
    """Signed distance (unit lengths, positive outside) to the visual hull at the baked grid's points.

    Smoothed by one cell, since a field cannot and need not learn the staircase of a voxel carving.
    """
    points_world = unit_from_world.inverse().apply(baked.points().astype(np.float64))
    solid = carve(posed, region, points_world) & region.inside_hull(points_world)
    solid = solid.reshape(baked.values.shape)
    if not solid.any():  # masks that contradict each other everywhere: the hull itself is all that is known
        solid = region.inside_hull(points_world).reshape(baked.values.shape)
    distance = distance_transform_edt(~solid) - distance_transform_edt(solid)
    return gaussian_filter(distance, 1.0).astype(np.float32) * np.float32(baked.cell)
