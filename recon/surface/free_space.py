"""Space that the photos look through: between a prior point and the camera that sees it best, nothing is solid."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.ndimage import distance_transform_edt

from recon.camera import View
from recon.data import PosedCapture, PriorCloud


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


def towards_best_view(
    posed: PosedCapture, prior: PriorCloud, tolerance: float, side_px: int = 160
) -> Float64[np.ndarray, "n 3"]:
    """Unit direction from each prior point to the camera that sees it most frontally; zero where none does.

    A camera sees a point if no other point of the cloud lies in front of it by more than `tolerance` (world units).
    """
    best = np.full(len(prior.points_world), 0.3)  # cosine: flatter views are too uncertain about what is in front
    direction = np.zeros((len(prior.points_world), 3))
    if len(prior.points_world) == 0:
        return direction
    for view in posed.views:
        depth, small = nearest_depth(view, prior, side_px)
        towards = view.centre_world() - prior.points_world
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        cosine = (towards * prior.normals_world).sum(1)
        pixel, depth_z = small.project(prior.points_world)
        chosen = np.flatnonzero((cosine > best) & small.in_image(pixel, depth_z))
        columns, rows = pixel[chosen].astype(np.int64).T
        chosen = chosen[depth_z[chosen] <= depth[rows, columns] + tolerance]
        best[chosen], direction[chosen] = cosine[chosen], towards[chosen]
    return direction


def carve_looked_through(
    solid: Bool[np.ndarray, "i j k"],
    origin: Float[np.ndarray, "3"],
    cell: float,
    points: Float[np.ndarray, "n 3"],
    towards: Float[np.ndarray, "n 3"],
    n_rays: int = 4,
) -> Bool[np.ndarray, "i j k"]:
    """The voxels of `solid` that stay when what prior points are seen through is taken out.

    origin, cell: of the voxels' centres; points, towards: prior points and their ray to a camera, in the same frame.
    A voxel goes if at least `n_rays` rays pass it and no prior point lies within two voxels: a few wrong points must
    not bore holes, and a ray along a surface must not shave it.
    """
    shape = np.array(solid.shape)

    def voxel(x: Float[np.ndarray, "m 3"]) -> np.ndarray:
        return ((x - origin) / cell).round().astype(np.int64)

    passed = np.zeros(solid.size, np.int64)
    points, towards = points[np.abs(towards).sum(1) > 0], towards[np.abs(towards).sum(1) > 0]
    for step in range(int(np.linalg.norm(shape))):
        index = voxel(points + (2.5 + step) * cell * towards)
        inside = ((index >= 0) & (index < shape)).all(1)
        if not inside.any():
            break
        passed += np.bincount(np.ravel_multi_index(tuple(index[inside].T), solid.shape), minlength=solid.size)
    near_point = np.zeros(solid.shape, bool)
    index = voxel(points)
    index = index[((index >= 0) & (index < shape)).all(1)]
    near_point[tuple(index.T)] = True
    if near_point.any():
        near_point = distance_transform_edt(~near_point) <= 2
    kept: np.ndarray = solid & ((passed.reshape(solid.shape) < n_rays) | near_point)
    return kept
