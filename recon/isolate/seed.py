"""Where to look for the object before anything is known about its looks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64

from recon.camera import View
from recon.data import PosedCapture, SupportPlane
from recon.isolate.frames import Frame
from recon.isolate.volume import Grid, gather, grid_over, seen_share


def axes_along(normal: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """A rotation whose third column is `normal`."""
    helper = np.eye(3)[np.argmin(np.abs(normal))]
    first = np.cross(helper, normal)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first), normal], 1)


def search_grid(
    frames: Sequence[Frame],
    focus_world: Float64[np.ndarray, "3"],
    plane: SupportPlane | None,
    radius_share: float,
    n_voxels: int,
) -> tuple[Grid, Bool[np.ndarray, "i j k"]]:
    """Voxels around the looked-at point, before the plane, that most photos see; `radius_share` of their distance."""
    centres = np.array([f.centre_world() for f in frames])
    radius = radius_share * float(np.median(np.linalg.norm(centres - focus_world, axis=1)))
    axes = axes_along(np.array([0, 0, 1.0]) if plane is None else plane.normal_world)
    middle = focus_world @ axes
    low, high = middle - radius, middle + radius
    if plane is not None:
        low[2] = max(low[2], plane.offset) if middle[2] > plane.offset else plane.offset
        high[2] = max(high[2], low[2] + 0.5 * radius)
    grid = grid_over(low, high, axes, n_voxels)
    seen = seen_share(grid, frames)
    return grid, seen >= 0.5 * seen.max()


def evidence(
    agreement: Float32[np.ndarray, "h w"], on_plane: Bool[np.ndarray, "h w"], outside: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    """How unusually badly a pixel is explained by the surroundings: -1 better than all of them, 0 typical, 1 worse.

    agreement: the best cost that explains the pixel without an object, NaN where unknown (evidence 0). Costs become
    ranks among the photo's own pixels `outside` the search region, on and off the plane apart, so that no scale of
    brightness, noise or texture enters.
    """
    out = np.zeros(agreement.shape, np.float32)
    for where in (on_plane, ~on_plane):
        known = where & np.isfinite(agreement)
        reference = agreement[known & outside]
        if len(reference) < 500:
            reference = agreement[known]
        if len(reference):
            out[known] = 2 * np.searchsorted(np.sort(reference), agreement[known]) / len(reference) - 1
    return out


def evidence_of_turning(
    plane_cost: Float32[np.ndarray, "h w"], swept: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    """Evidence (-1..1) where the camera stood still: against all that never changes, and against what turns flatly.

    plane_cost: how badly a pixel fits the turntable's plane, NaN off it. What changes and does not lie on that plane is
    object, or background that it hid for a while; the photos together tell which.
    """
    out = np.where(swept, np.float32(0.5), np.float32(-1))
    known = swept & np.isfinite(plane_cost)
    if known.any():
        cost = plane_cost[known]
        out[known] = 2 * np.searchsorted(np.sort(cost), cost) / len(cost) - 1
    return out.astype(np.float32)


def mean_evidence(
    grid: Grid, frames: Sequence[Frame], maps: Sequence[Float32[np.ndarray, "_ _"]]
) -> Float32[np.ndarray, "i j k"]:
    """Each voxel's evidence averaged over the photos that see it."""
    total, seen = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    for frame, values in zip(frames, maps, strict=True):
        sampled = gather(values, grid.pixel_from_index(frame), grid.shape, np.float32(9))
        inside = sampled < 8
        total += np.where(inside, sampled, 0)
        seen += inside
    mean: np.ndarray = total / np.maximum(seen, 1)
    return mean


def point_spots(
    posed: PosedCapture,
    frames: Sequence[Frame],
    grid: Grid,
    body: Bool[np.ndarray, "i j k"],
    least_height: float,
    radius_px: int,
) -> list[Bool[np.ndarray, "_ _"]]:
    """Small discs around the observations of sparse points within `body` and above the support by `least_height`."""
    index = np.floor((posed.points_world @ grid.world_from_grid - grid.low) / grid.edge).astype(int)
    chosen = ((index >= 0) & (index < grid.shape)).all(1)
    if posed.support_plane is not None:
        height = posed.points_world @ posed.support_plane.normal_world - posed.support_plane.offset
        chosen &= height > least_height
    chosen[chosen] = body[tuple(index[chosen].T)]
    spots = []
    for i, frame in enumerate(frames):
        disc = np.zeros(frame.shape(), np.uint8)
        seen = posed.obs_point_idx[posed.obs_view_idx == i]
        pixels, _ = View(frame.name, frame.camera, frame.cam_from_world).project(posed.points_world[seen[chosen[seen]]])
        for u, v in pixels:
            if abs(u) < 1e5 and abs(v) < 1e5:
                cv2.circle(disc, (int(u), int(v)), radius_px, 1, -1)
        spots.append(disc > 0)
    return spots
