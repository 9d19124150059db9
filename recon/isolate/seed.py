"""Where to look for the object before anything is known about its looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64

from recon.data import PosedCapture, SupportPlane
from recon.isolate.frames import Frame
from recon.isolate.volume import Grid, gather, grid_over, seen_share


def backdrop_plane(posed: PosedCapture, min_share: float, seed: int) -> SupportPlane | None:
    """The dominant plane of the sparse points with every camera on one side of it, or None (RANSAC).

    It serves as a cue only where the capture has no support plane: a wall, a far table top.
    """
    points = posed.points_world
    centres = np.array([v.centre_world() for v in posed.views])
    if len(points) < 50:
        return None
    tolerance = 0.01 * float(np.median(np.linalg.norm(centres - posed.focus_world, axis=1)))
    rng = np.random.default_rng(seed)
    best: tuple[int, np.ndarray, float] = (0, np.zeros(3), 0.0)
    for a, b, c in points[rng.integers(0, len(points), (600, 3))]:
        normal = np.cross(b - a, c - a)
        length = float(np.linalg.norm(normal))
        if length < 1e-12:
            continue
        normal = normal / length
        side = np.sign((centres - a) @ normal)
        if abs(side.sum()) < len(side):
            continue
        n_inliers = int((np.abs((points - a) @ normal) < tolerance).sum())
        if n_inliers > best[0]:
            best = (n_inliers, normal * side[0], float(a @ normal * side[0]))
    n_inliers, normal, offset = best
    if n_inliers < min_share * len(points):
        return None
    on = points[np.abs(points @ normal - offset) < tolerance]
    fitted = np.linalg.svd(on - on.mean(0), full_matrices=False)[2][2]
    fitted *= np.sign(fitted @ normal)
    return SupportPlane(fitted, float(on.mean(0) @ fitted), n_inliers / len(points))


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


def evidence(agreement: Float32[np.ndarray, "h w"], outside: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """-1 where a pixel agrees with the surroundings as well as those do on average, 1 where it does far worse.

    agreement: the best cost that explains the pixel without an object. The scale is the photo's own: the median
    over pixels that no ray through the search region passes. 0 where nothing is known.
    """
    known = np.isfinite(agreement)
    reference = agreement[known & outside] if (known & outside).sum() > 0.02 * known.size else agreement[known]
    typical = float(np.median(reference)) if len(reference) else 0.0
    # 4: costs scatter by a factor of a few; 0.02 and 0.005 (of full brightness) are noise and rounding.
    out = np.clip(np.log((agreement + 0.005) / (4 * typical + 0.02)), -1, 1)
    return np.where(known, out, 0).astype(np.float32)


def mean_evidence(
    grid: Grid, frames: Sequence[Frame], maps: Sequence[Float32[np.ndarray, "h w"]]
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
