"""Sweep: the photometric cost of surfaces at stepped depths, then semi-global matching along image paths.

Instead of fronto-parallel planes it sweeps shifted copies of the visual hull's (smoothed) front: windows then have
about the surface's slant, which matters at the 15 to 25 degrees between photos of a ring, and "same step as my
neighbour" means parallel to the hull. Robust where texture is weak, because paths carry depth over from where there is
some; its steps are coarse, which `refine.py` puts right. `reference.py` holds plain twins of the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8
from numba import njit

from recon.prior.semi_global import aggregate, forbid, winners
from recon.prior.work_view import WorkView, relative_motion

NOISE_VARIANCE = (0.5 / 255) ** 2
"""Added to a window's variance: contrast below half a grey level is rounding and noise, and must not
match."""

FRONT_SMOOTHING = 0.03
"""Blur of the hull's front before it is swept, as a share of the object's size in the picture: evens out voxels."""


@dataclass(frozen=True)
class SweepConfig:
    plane_step_px: float = 1.0
    """Distance of neighbouring planes as seen in the source with the widest baseline. Raising it is faster and
    coarser."""
    max_planes: int = 128
    """Upper bound on planes; raising it costs time and memory in proportion."""
    band_planes: int = 16
    """The second sweep, at working size, looks at so many planes around the first's depth; 0 leaves it out. Raising it
    costs time in proportion."""
    window_px: int = 5
    """Side of the matching window at half the working size (odd). Raising it helps weak texture and blurs edges."""
    penalty_small: float = 0.04
    """Smoothness: cost of a step by one plane between neighbours, in units of 1 - NCC."""
    depth_penalty: float = 0.2
    """Cost of lying as far behind the visual hull's front as the sweep reaches: where texture decides nothing, the
    front does. Raising it pulls shallow hollows out to the hull."""
    penalty_large: float = 1.0
    """Smoothness: cost of a jump between neighbours. Raising it bridges weak texture and flattens thin parts."""


@dataclass(frozen=True)
class Sheets:
    """The swept surfaces: sheet i has inverse depth `front - i * step` at each pixel."""

    front: Float32[np.ndarray, "h w"]
    step: float
    first: Int32[np.ndarray, "h w"]
    last: Int32[np.ndarray, "h w"]
    """First and last sheet within each pixel's depth bounds."""

    def count(self) -> int:
        return int(self.last.max()) + 1


def sheets(
    reference: WorkView, sources: list[WorkView], bounds: Float32[np.ndarray, "h w 2"], cfg: SweepConfig
) -> Sheets:
    """Copies of the smoothed near bound, about `plane_step_px` apart in the source with the widest baseline.

    bounds: nearest and farthest depth_z of each pixel, 0 where it has none.
    """
    mask = (bounds[..., 0] > 0).astype(np.float32)
    near, far = mask / np.maximum(bounds[..., 0], 1e-12), mask / np.maximum(bounds[..., 1], 1e-12)
    sigma = max(1.0, FRONT_SMOOTHING * float(np.sqrt(mask.sum())))
    blurred = cv2.GaussianBlur(near, (0, 0), sigma) / np.maximum(cv2.GaussianBlur(mask, (0, 0), sigma), 1e-6)
    inside = mask > 0
    front = blurred + float((near - blurred)[inside].max())
    reach = max(float((front - far)[inside].max()), 1e-12)
    step = max(reach / (cfg.max_planes - 1), cfg.plane_step_px / pixels_per_inverse_depth(reference, sources))
    first = np.where(inside, np.floor((front - near) / step), 0).astype(np.int32)
    last = np.maximum(np.where(inside, np.ceil((front - far) / step), 0).astype(np.int32), first)
    return Sheets(front.astype(np.float32), step, first, last)


def pixels_per_inverse_depth(reference: WorkView, sources: list[WorkView]) -> float:
    """How fast the middle pixel moves in the source with the widest baseline when its inverse depth changes."""
    height, width = reference.grey.shape
    centre = np.array([width / 2, height / 2, 1.0])
    near, far = reference.inv_depth_near, reference.inv_depth_far
    fastest = 1e-12
    for source in sources:
        a, b = relative_motion(reference, source)
        ends = [a @ centre + b * w for w in (near, far)]
        moved = np.linalg.norm(ends[0][:2] / ends[0][2] - ends[1][:2] / ends[1][2])
        fastest = max(fastest, float(moved) / max(near - far, 1e-12))
    return fastest


def cost_volume(
    reference: WorkView, sources: list[WorkView], swept: Sheets, window_px: int
) -> UInt8[np.ndarray, "h w n_sheets"]:
    """Cost 0..255 of every pixel and sheet: 1 - NCC (0..1, anticorrelated counts as 1), mean of the better half.

    Windows count only pixels of the reference's mask, so that background at a silhouette has no say.
    """
    height, width = reference.grey.shape
    weight = reference.mask.astype(np.float32)
    sums = window_sums(weight, window_px), window_sums(weight * reference.grey, window_px)
    square = window_sums(weight * reference.grey**2, window_px)
    volume = np.empty((height, width, swept.count()), np.uint8)
    v, u = np.mgrid[0:height, 0:width]
    pixels = np.stack([u, v, np.ones_like(u)]).astype(np.float32)
    motions = [relative_motion(reference, s) for s in sources]
    rays = [np.einsum("ij,jhw->ihw", a, pixels).astype(np.float32) for a, _ in motions]
    loose = [cv2.dilate(s.mask.astype(np.float32), np.ones((3, 3), np.uint8)) for s in sources]
    both = [np.stack([s.grey, m], -1) for s, m in zip(sources, loose, strict=True)]
    each = np.empty((len(sources), 4, height, width), np.float32)
    for i in range(volume.shape[2]):
        inv_depth = swept.front - np.float32(i * swept.step)
        for k, (_, b) in enumerate(motions):
            z = rays[k][2] + np.float32(b[2]) * inv_depth
            z = np.where(z > 1e-6, z, np.float32(1e-6))  # behind the source: thrown far out of its picture
            map_u = (rays[k][0] + np.float32(b[0]) * inv_depth) / z
            map_v = (rays[k][1] + np.float32(b[1]) * inv_depth) / z
            sampled = cv2.remap(both[k], map_u, map_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            warped = np.ascontiguousarray(sampled[..., 0])
            each[k, 3] = sampled[..., 1]
            masked = warped * weight
            each[k, 0] = window_sums(masked, window_px)
            each[k, 1] = window_sums(masked * warped, window_px)
            each[k, 2] = window_sums(masked * reference.grey, window_px)
        combine_costs(reference.mask, sums[0], sums[1], square, each, NOISE_VARIANCE, i, volume)
    return volume


def window_sums(image: Float32[np.ndarray, "h w"], window_px: int) -> Float32[np.ndarray, "h w"]:
    """Sums over square windows; nothing lies beyond the border."""
    size = (window_px, window_px)
    return cv2.boxFilter(image, cv2.CV_32F, size, normalize=False, borderType=cv2.BORDER_CONSTANT)  # type: ignore[return-value]


@njit(nogil=True, fastmath=True, cache=True)
def combine_costs(mask, n, ref_sum, ref_square, each, noise, plane_idx, volume):  # type: ignore[no-untyped-def]
    """1 - NCC of every source from its window sums, then the mean of the better half, into volume[:, :, plane_idx]."""
    n_sources, _, height, width = each.shape
    n_best = (n_sources + 1) // 2
    costs = np.empty(n_sources, np.float32)
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                volume[y, x, plane_idx] = 0
                continue
            m = ref_sum[y, x] / n[y, x]
            var_ref = max(ref_square[y, x] / n[y, x] - m * m, 0.0) + noise
            for k in range(n_sources):
                costs[k] = 1.0
                if each[k, 3, y, x] > 0.5:
                    s = each[k, 0, y, x] / n[y, x]
                    var = max(each[k, 1, y, x] / n[y, x] - s * s, 0.0) + noise
                    ncc = (each[k, 2, y, x] / n[y, x] - s * m) / np.sqrt(var * var_ref)
                    costs[k] = min(max(1.0 - ncc, 0.0), 1.0)
            total = np.float32(0.0)
            for _ in range(n_best):
                best = 0
                for k in range(1, n_sources):
                    if costs[k] < costs[best]:
                        best = k
                total += costs[best]
                costs[best] = np.float32(9.0)
            volume[y, x, plane_idx] = np.uint8(255.0 * total / n_best + 0.5)


def choose_sheets(
    reference: WorkView, sources: list[WorkView], swept: Sheets, depth_penalty: float, cfg: SweepConfig
) -> Float32[np.ndarray, "h w"]:
    """Inverse depth of every pixel by semi-global matching over the sheets; meaningful within the mask."""
    volume = cost_volume(reference, sources, swept, cfg.window_px)
    forbid(volume, swept.first, swept.last, 255 * depth_penalty / volume.shape[2])
    penalties = np.int32(round(255 * cfg.penalty_small)), np.int32(round(255 * cfg.penalty_large))
    total = aggregate(volume, reference.mask, reference.grey, *penalties, 8)
    plane = winners(total, reference.mask, swept.first, swept.last)
    return swept.front - plane * np.float32(swept.step)


def sweep_inverse_depth(
    reference: WorkView, sources: list[WorkView], bounds: Float32[np.ndarray, "h w 2"], cfg: SweepConfig
) -> tuple[Float32[np.ndarray, "h w"], float]:
    """Inverse depth of every masked pixel that has bounds (0 elsewhere), and the step between two sheets."""
    mask = reference.mask & (bounds[..., 0] > 0)
    if not mask.any():
        return np.zeros(mask.shape, np.float32), 1.0
    work = replace(reference, mask=mask)
    swept = sheets(work, sources, np.where(mask[..., None], bounds, 0), cfg)
    inv_depth = choose_sheets(work, sources, swept, cfg.depth_penalty, cfg)
    return np.where(mask, inv_depth, 0).astype(np.float32), swept.step


def sweep_again(
    reference: WorkView,
    sources: list[WorkView],
    bounds: Float32[np.ndarray, "h w 2"],
    coarse: Float32[np.ndarray, "h w"],
    coarse_step: float,
    cfg: SweepConfig,
) -> tuple[Float32[np.ndarray, "h w"], float]:
    """The same in a narrow band around inverse depths that are nearly right, whose slants the windows now follow.

    coarse: inverse depth, 0 where there is none; coarse_step: what its sheets were apart.
    """
    mask = reference.mask & (bounds[..., 0] > 0) & (coarse > 0)
    if cfg.band_planes == 0 or not mask.any():
        return np.where(mask, coarse, 0).astype(np.float32), coarse_step
    # bilateral: evens out the coarse steps, not the jumps between parts at different depths
    smooth = cv2.bilateralFilter(coarse, 9, 3 * coarse_step, 3.0)
    step = max(cfg.plane_step_px / pixels_per_inverse_depth(reference, sources), coarse_step / 4)
    half_band = step * cfg.band_planes / 2
    front = smooth + half_band
    near, far = 1 / np.maximum(bounds[..., 0], 1e-12), 1 / np.maximum(bounds[..., 1], 1e-12)
    first = np.clip(np.floor((front - near) / step), 0, cfg.band_planes).astype(np.int32)
    last = np.clip(np.ceil((front - far) / step), first, cfg.band_planes).astype(np.int32)
    work = replace(reference, mask=mask)
    swept = Sheets(front.astype(np.float32), step, first, last)
    return np.where(mask, choose_sheets(work, sources, swept, 0.0, cfg), 0).astype(np.float32), step
