"""Where in depth a surface can be at all: the voxels that (nearly) all masks see as object.

Short rays near silhouettes leave little room for false matches, which is most of what helps untextured objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from numba import njit

from recon.data import ObjectRegion
from recon.prior.work_view import WorkView


@dataclass(frozen=True)
class VisualHull:
    """An axis-aligned grid over the region's hull."""

    origin_world: Float64[np.ndarray, "3"]
    """The first voxel's low corner."""
    voxel: float
    """Edge length in world units."""
    inside: Bool[np.ndarray, "x y z"]

    def contains(self, points_world: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Which points lie in a voxel of the hull."""
        cell = np.floor((points_world - self.origin_world) / self.voxel).astype(np.int64)
        on_grid = ((cell >= 0) & (cell < self.inside.shape)).all(1)
        cell = np.where(on_grid[:, None], cell, 0)
        return on_grid & self.inside[cell[:, 0], cell[:, 1], cell[:, 2]]


@njit(nogil=True, fastmath=True, cache=True)
def vote(origin, voxel, projection, mask, shown, outside):  # type: ignore[no-untyped-def]
    """Count, per voxel centre, whether a view has it in its photo and whether its mask says background.

    projection: K [R | t] of the crop for array indices. What falls outside the crop is outside the object.
    """
    height, width = mask.shape
    for i in range(shown.shape[0]):
        x = origin[0] + (i + 0.5) * voxel
        for j in range(shown.shape[1]):
            y = origin[1] + (j + 0.5) * voxel
            for k in range(shown.shape[2]):
                z = origin[2] + (k + 0.5) * voxel
                p = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
                if p <= 0:
                    continue
                u = (projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]) / p
                v = (projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]) / p
                iu, iv = int(np.floor(u + 0.5)), int(np.floor(v + 0.5))
                if 0 <= iu < width and 0 <= iv < height:
                    shown[i, j, k] += 1
                    if not mask[iv, iu]:
                        outside[i, j, k] += 1


def carve(works: list[WorkView], region: ObjectRegion, n_side: int, outside_share: float) -> VisualHull:
    """The voxels that at most `outside_share` of the views that show them see as background.

    n_side: voxels along the longest side. Masks are widened by half a voxel's diagonal, so that a voxel which holds
    a bit of the object is kept.
    """
    low, high = region.hull_vertices_world.min(0), region.hull_vertices_world.max(0)
    voxel = float((high - low).max()) / n_side
    shape = tuple(int(n) for n in np.ceil((high - low) / voxel - 1e-9))
    shown, outside = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    centre = (low + high) / 2
    for work in works:
        distance = float(np.linalg.norm(work.view.centre_world() - centre))
        reach = int(np.ceil(0.87 * voxel * work.view.camera.fx_px / distance))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        loose = cv2.dilate(work.mask.astype(np.uint8), kernel).astype(bool)
        projection = work.index_matrix() @ work.view.cam_from_world.matrix()[:3]
        vote(low, voxel, projection, loose, shown, outside)
    return VisualHull(low, voxel, (shown > 0) & (outside <= outside_share * shown))


@njit(nogil=True, fastmath=True, cache=True)
def march(inside, origin, voxel, centre, rays, mask, near, far, bounds):  # type: ignore[no-untyped-def]
    """First and last depth_z inside the hull of each masked pixel's ray; both stay 0 where the ray misses it."""
    height, width = mask.shape
    n_steps = int(np.ceil((far - near) / (0.5 * voxel)))
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                continue
            for s in range(n_steps):
                z = near + (s + 0.5) * 0.5 * voxel
                i = int(np.floor((centre[0] + z * rays[y, x, 0] - origin[0]) / voxel))
                j = int(np.floor((centre[1] + z * rays[y, x, 1] - origin[1]) / voxel))
                k = int(np.floor((centre[2] + z * rays[y, x, 2] - origin[2]) / voxel))
                if i < 0 or j < 0 or k < 0 or i >= inside.shape[0] or j >= inside.shape[1] or k >= inside.shape[2]:
                    continue
                if inside[i, j, k]:
                    if bounds[y, x, 0] == 0:
                        bounds[y, x, 0] = z
                    bounds[y, x, 1] = z


def depth_bounds(hull: VisualHull, work: WorkView) -> Float32[np.ndarray, "h w 2"]:
    """Nearest and farthest depth_z that each pixel's surface can have (0, 0 where none), with a voxel to spare."""
    height, width = work.mask.shape
    v, u = np.mgrid[0:height, 0:width]
    pixels = np.stack([u, v, np.ones_like(u)], -1).astype(float)
    rays = pixels @ np.linalg.inv(work.index_matrix()).T @ work.view.cam_from_world.rotation
    bounds = np.zeros((height, width, 2), np.float32)
    near, far = 1 / work.inv_depth_near, 1 / work.inv_depth_far
    march(hull.inside, hull.origin_world, hull.voxel, work.view.centre_world(), rays, work.mask, near, far, bounds)
    some = bounds[..., 0] > 0
    bounds[..., 0] = np.where(some, np.maximum(bounds[..., 0] - hull.voxel, near), 0)
    bounds[..., 1] = np.where(some, bounds[..., 1] + hull.voxel, 0)
    return bounds
