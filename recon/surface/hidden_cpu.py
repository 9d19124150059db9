"""What the cameras see of a grid's points: the CPU's kernels (numba); `hidden_reference.py` holds their plain twin."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32
from numba import njit, prange
from torch import Tensor

from recon.surface.baked import BakedSdf
from recon.surface.hashgrid_cpu import FAST
from recon.surface.hidden import N_SIDE_PX
from recon.surface.pixels import UnitCameras
from recon.surface.sampling import clip_to_planes, trilinear


@njit(parallel=True, fastmath=FAST, cache=True)
def trace_depth(values, origin, cell, rays_o, rays_d, planes):
    """Distance along each ray to the baked SDF's zero set by sphere tracing (Hart 1996), 1e9 where it misses."""
    out = np.full(len(rays_o), np.float32(1e9))
    for r in prange(len(rays_o)):
        t, t1 = clip_to_planes(rays_o[r], rays_d[r], planes)
        for _ in range(200):
            if t >= t1:
                break
            value = trilinear(
                values,
                (rays_o[r, 0] + t * rays_d[r, 0] - origin[0]) / cell,
                (rays_o[r, 1] + t * rays_d[r, 1] - origin[1]) / cell,
                (rays_o[r, 2] + t * rays_d[r, 2] - origin[2]) / cell,
            )
            if value < 0:
                out[r] = t
                break
            # a learned distance may be too long, and a step too short never ends
            t += max(0.7 * value, 0.25 * cell)
    return out


@njit(parallel=True, fastmath=FAST, cache=True)
def _seen(points, centre, cam_from_unit, intrinsics, depth, tolerance, seen):
    """Mark the points that lie in front of a depth image (distances along rays) or less than `tolerance` behind."""
    h, w = depth.shape
    for i in prange(len(points)):
        if seen[i]:
            continue
        d = points[i] - centre
        x, y, z = cam_from_unit[0] @ d, cam_from_unit[1] @ d, cam_from_unit[2] @ d
        if z <= 0:
            continue
        column = int(np.floor(intrinsics[0] * x / z + intrinsics[2]))
        row = int(np.floor(intrinsics[1] * y / z + intrinsics[3]))
        if 0 <= column < w and 0 <= row < h:
            seen[i] = np.sqrt(x * x + y * y + z * z) < depth[row, column] + tolerance


def depth_image(
    baked: BakedSdf, cameras: UnitCameras, view: int, planes: Float32[np.ndarray, "n_planes 4"]
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "4"]]:
    """A small image of the distances along rays to the surface from one view, and its intrinsics.

    A median of 3x3 pixels closes pinholes of the surface.
    """
    size_px = cameras.size_px[view].tolist()
    scale = N_SIDE_PX / max(size_px)
    w, h = (round(side * scale) for side in size_px)
    column, row = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    centres = np.stack([column.ravel(), row.ravel()], 1) / scale
    rays_o, rays_d = cameras.rays(torch.full((len(centres),), view), torch.from_numpy(centres))
    values, origin = baked.values.numpy(), baked.origin.numpy()
    depth = trace_depth(values, origin, np.float32(baked.cell), rays_o.numpy(), rays_d.numpy(), planes)
    return cv2.medianBlur(depth.reshape(h, w), 3), (cameras.intrinsics[view].numpy() * scale).astype(np.float32)


def find_seen(baked: BakedSdf, cameras: UnitCameras, planes: Float32[Tensor, "n_planes 4"]) -> Bool[Tensor, " n_nodes"]:
    """Which of the grid's points lie in front of the surface, or less than a cell behind it, for some camera."""
    points = baked.points().numpy()
    seen = np.zeros(len(points), np.bool_)
    for view in range(len(cameras.centre)):
        depth, intrinsics = depth_image(baked, cameras, view, planes.numpy())
        cam_from_unit = np.ascontiguousarray(cameras.rotation[view].numpy().T)
        centre = cameras.centre[view].numpy()
        _seen(points, centre, cam_from_unit, intrinsics, depth, np.float32(baked.cell), seen)
    return torch.from_numpy(seen)
