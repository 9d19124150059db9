"""Space that the photos look through: between a prior point and the cameras that see it, nothing is solid."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64
from numba import njit
from scipy.ndimage import binary_opening, distance_transform_edt, generate_binary_structure

from recon.camera import View
from recon.data import PosedCapture, PriorCloud

SHALLOW_CELLS = 5.0
"""Down to so deep in the hull, in voxels, few rays tell of a hollow; deeper, of a few wrong points."""


def nearest_depth(view: View, prior: PriorCloud, side_px: int) -> tuple[Float64[np.ndarray, "h w"], View]:
    """The nearest prior point's depth_z in each pixel of a small image of the view (inf: none), and that small view.

    A pixel next to one with a point takes its depth, so that a cloud of about a point per pixel leaves no pinholes.
    """
    c = view.camera
    scale = side_px / max(c.width_px, c.height_px)
    small = View(view.name, c.resized(round(c.width_px * scale), round(c.height_px * scale)), view.cam_from_world)
    pixel, depth_z = small.project(prior.points_world)
    kept = small.in_image(pixel, depth_z)
    depth = np.full((small.camera.height_px, small.camera.width_px), np.inf)
    columns, rows = pixel[kept].astype(np.int64).T
    np.minimum.at(depth, (rows, columns), depth_z[kept])
    distance, nearest = distance_transform_edt(np.isinf(depth), return_indices=True)
    return np.where(distance <= 1.5, depth[tuple(nearest)], np.inf), small


def towards_best_views(
    posed: PosedCapture, prior: PriorCloud, tolerance: float, n_best: int = 1, side_px: int = 160
) -> Float64[np.ndarray, "n n_best 3"]:
    """Unit directions from each prior point to the cameras that see it most frontally; zero where fewer do.

    A camera sees a point if no other point of the cloud lies in front of it by more than `tolerance` (world units).
    """
    n = len(prior.points_world)
    cosine, direction = np.zeros((n, n_best)), np.zeros((n, n_best, 3))
    for view in posed.views if n else ():
        depth, small = nearest_depth(view, prior, side_px)
        towards = view.centre_world() - prior.points_world
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        facing = (towards * prior.normals_world).sum(1)
        pixel, depth_z = small.project(prior.points_world)
        # flatter views are too uncertain about what is in front
        chosen = np.flatnonzero((facing > np.maximum(cosine[:, -1], 0.3)) & small.in_image(pixel, depth_z))
        columns, rows = pixel[chosen].astype(np.int64).T
        chosen = chosen[depth_z[chosen] <= depth[rows, columns] + tolerance]
        cosine[chosen, -1], direction[chosen, -1] = facing[chosen], towards[chosen]
        order = np.argsort(-cosine[chosen], axis=1)
        cosine[chosen] = np.take_along_axis(cosine[chosen], order, 1)
        direction[chosen] = np.take_along_axis(direction[chosen], order[..., None], 1)
    return direction


@njit(cache=True)
def _count_passing(origin, cell, points, towards, passed):
    """Count in `passed` the rays from points towards cameras through each voxel, from 2.5 voxels off the points on."""
    for i in range(len(points)):
        for b in range(towards.shape[1]):
            direction = towards[i, b]
            if direction[0] == 0 and direction[1] == 0 and direction[2] == 0:
                continue
            position = (points[i] - origin) / cell + 2.5 * direction
            while True:
                x, y, z = round(position[0]), round(position[1]), round(position[2])
                if not (0 <= x < passed.shape[0] and 0 <= y < passed.shape[1] and 0 <= z < passed.shape[2]):
                    break
                passed[x, y, z] += 1
                position += direction


def carve_looked_through(
    solid: Bool[np.ndarray, "i j k"],
    origin: Float[np.ndarray, "3"],
    cell: float,
    points: Float[np.ndarray, "n 3"],
    towards: Float[np.ndarray, "n n_best 3"],
    n_rays: int = 4,
) -> Bool[np.ndarray, "i j k"]:
    """The voxels of `solid` that stay when what prior points are seen through is taken out.

    origin, cell: of the voxels' centres; points, towards: prior points and their rays to cameras, in the same frame.
    A voxel goes if at least `n_rays` rays pass it and no prior point lies within two voxels: a few wrong points must
    not bore holes, and a ray along a surface must not shave it. Deep inside, only what is wide enough for a ball goes.
    """
    shape = np.array(solid.shape)
    index = ((points - origin) / cell).round().astype(np.int64)
    index = index[((index >= 0) & (index < shape)).all(1)]
    passed = np.zeros(solid.shape, np.int32)
    _count_passing(origin.astype(np.float64), float(cell), points.astype(np.float64), towards, passed)
    near_point = np.zeros(solid.shape, bool)
    near_point[tuple(index.T)] = True
    if near_point.any():
        near_point = distance_transform_edt(~near_point) <= 2
    free = solid & (passed >= n_rays) & ~near_point
    inner = (slice(1, -1),) * 3  # beyond the grid all is free
    wide = binary_opening(np.pad(free | ~solid, 1, constant_values=True), generate_binary_structure(3, 1))[inner]
    free &= wide | (distance_transform_edt(np.pad(solid, 1))[inner] <= SHALLOW_CELLS)
    kept: np.ndarray = solid & ~free
    return kept
