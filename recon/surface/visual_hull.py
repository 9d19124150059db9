"""The masks' visual hull as a signed distance, inside which the fit starts where nothing else is known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import distance_transform_edt, gaussian_filter

from recon.data import ObjectRegion, PosedCapture, PriorCloud
from recon.surface.baked import BakedSdf
from recon.surface.free_space import carve_looked_through, towards_best_views
from recon.transforms import Similarity


def carve(
    posed: PosedCapture, region: ObjectRegion, points_world: np.ndarray, tolerated_share: float = 0.04
) -> np.ndarray:
    """Which points lie in the object's mask in all views that see them, but for a tolerated share of bad masks.

    The share forgives one photo of 25 to 49: none costs thin parts that single masks miss, two leave metal's hull fat.
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


def visual_hull(
    baked: BakedSdf, posed: PosedCapture, region: ObjectRegion, unit_from_world: Similarity
) -> Bool[np.ndarray, "nx ny nz"]:
    """Which of the baked grid's points lie in the visual hull."""
    shape = tuple(baked.values.shape)
    points_world = unit_from_world.inverse().apply(baked.points().cpu().numpy().astype(np.float64))
    solid: np.ndarray = carve(posed, region, points_world) & region.inside_hull(points_world)
    if not solid.any():  # masks that contradict each other everywhere: the convex hull is all that is known
        solid = region.inside_hull(points_world)
    return solid.reshape(shape)


def looked_into(
    solid: Bool[np.ndarray, "nx ny nz"],
    baked: BakedSdf,
    posed: PosedCapture,
    prior: PriorCloud,
    unit_from_world: Similarity,
) -> Bool[np.ndarray, "nx ny nz"]:
    """What is left of the visual hull when the space that prior points are seen through is taken out.

    Few photos, or photos from one side, leave a hull far outside the object, and a fit that starts there stays there.
    """
    towards = towards_best_views(posed, prior, 2 * baked.cell / unit_from_world.scale)
    points = unit_from_world.apply(prior.points_world)
    towards_unit = towards @ unit_from_world.rotation.T
    left = carve_looked_through(solid, baked.origin.cpu().numpy(), baked.cell, points, towards_unit)
    return left if left.any() else solid


def outside_at_least(
    hull: Float32[np.ndarray, " n"], carved: Float32[np.ndarray, " n"], cell: float
) -> Float32[np.ndarray, " n"]:
    """How far outside the object places are at least; where that is negative, they may be in it that deep.

    hull, carved: their distances to the visual hull and to what prior points leave of it. Masks are right to a few
    pixels and their carving to half a cell: one cell of slack; what prior points are seen through is less sure: two.
    """
    return np.maximum(hull - cell, carved - 2 * cell).astype(np.float32)


def signed_distance(solid: np.ndarray, cell: float) -> np.ndarray:
    """Distance to the border of a voxel solid, positive outside, smoothed by one voxel; float32.

    Smoothed, since a field cannot and need not learn the staircase of a voxel carving.
    """
    distance = distance_transform_edt(~solid) - distance_transform_edt(solid)
    return gaussian_filter(distance, 1.0).astype(np.float32) * np.float32(cell)


def support_points(posed: PosedCapture, region: ObjectRegion, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Points on the support plane under the object, and their outward (downward) normals, each (n, 3) in world.

    No photo sees the underside. The object stands on the plane where the masks' visual hull comes down to it, so
    that is where it is closed; without this the surface there is whatever noise the field holds. Empty where the
    object does not rest on a known plane.
    """
    plane = posed.support_plane
    if plane is None or not region.rests_on_support:
        return np.zeros((0, 3)), np.zeros((0, 3))
    normal = plane.normal_world / np.linalg.norm(plane.normal_world)
    side = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    side /= np.linalg.norm(side)
    across = np.cross(normal, side)
    centre = region.hull_vertices_world.mean(0)
    centre = centre - (centre @ normal - plane.offset) * normal
    steps = np.arange(-region.diagonal() / 2, region.diagonal() / 2, spacing)
    a, b = np.meshgrid(steps, steps)
    points = centre + a.reshape(-1, 1) * side + b.reshape(-1, 1) * across
    # masks are tested just above the plane: at the very contact line they are at their most uncertain
    above = points + 1.5 * spacing * normal
    standing = region.inside_hull(above) & carve(posed, region, above)
    points = points[standing]
    return points, np.broadcast_to(-normal, points.shape).copy()


def blunt_start(
    baked: BakedSdf,
    carved: Float32[np.ndarray, "nx ny nz"],
    points: Float[np.ndarray, "m 3"],
    sharpest: float,
) -> float:
    """The sharpness 1/s to start with: blunt enough to reach from the visual hull to the prior points.

    carved: distances at the baked grid's points to what is left of the hull. Few photos, or photos from one side, leave
    a hull far outside the object, where a density that is sharp from the start sees nothing else.
    """
    if len(points) == 0:
        return sharpest
    index = ((points - baked.origin.cpu().numpy()) / baked.cell).round().astype(int)
    depth = -carved[tuple(np.clip(index, 0, np.array(carved.shape) - 1).T)]
    reach = float(np.percentile(depth, 75))
    # 4: at a depth of 4 / (1/s) the logistic density has fallen to 2 % of its peak
    return float(np.clip(4.0 / max(reach, 1e-6), 30.0, sharpest))
