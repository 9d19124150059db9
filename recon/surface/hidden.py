"""Space that no camera sees past the current surface: it is taken as solid, so that no cave grows there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32
from numba import njit, prange
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from recon.surface.baked import BakedSdf
from recon.surface.pixels import UnitCameras
from recon.surface.sampling import clip_to_planes, trilinear

N_SIDE_PX = 128
"""Longer side of the traced depth images: about a pixel to a cell of the baked grid on an object that fills them."""


@njit(parallel=True, fastmath=True, cache=True)
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


@njit(parallel=True, fastmath=True, cache=True)
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


@dataclass(frozen=True)
class HiddenSpace:
    """Points of a grid that no camera sees past the current surface."""

    points: Float32[Tensor, "n 3"]
    depth: Float32[Tensor, " n"]
    """Distance to the nearest seen point, in unit lengths."""
    cell: float
    """Edge of the grid."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain values."""
        return {"points": self.points, "depth": self.depth, "cell": self.cell}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> HiddenSpace:
        return HiddenSpace(state["points"], state["depth"], state["cell"])

    def to(self, device: torch.device) -> HiddenSpace:
        """The same on another device."""
        return HiddenSpace(self.points.to(device), self.depth.to(device), self.cell)


def find_hidden(
    baked: BakedSdf,
    inside: Bool[np.ndarray, " n_nodes"],
    cameras: UnitCameras,
    planes: Float32[Tensor, "n_planes 4"],
) -> HiddenSpace:
    """The grid's points that no camera sees, and how deep they lie.

    inside: which of the grid's points, z fastest, can belong to the object.
    """
    device, host = baked.values.device, torch.device("cpu")
    baked, cameras = baked.to(host), cameras.to(host)
    points, seen, planes_host = baked.points().numpy(), ~inside, planes.cpu().numpy()
    for view in range(len(cameras.centre)):
        depth, intrinsics = depth_image(baked, cameras, view, planes_host)
        cam_from_unit = np.ascontiguousarray(cameras.rotation[view].numpy().T)
        centre = cameras.centre[view].numpy()
        _seen(points, centre, cam_from_unit, intrinsics, depth, np.float32(baked.cell), seen)
    depth_cells = distance_transform_edt(~seen.reshape(baked.values.shape)).reshape(-1)
    hidden_depth = (depth_cells[~seen] * baked.cell).astype(np.float32)
    return HiddenSpace(torch.from_numpy(points[~seen]), torch.from_numpy(hidden_depth), baked.cell).to(device)
