"""What depth maps of different views agree on: a depth that others do not see at the same place is dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from numba import njit

from recon.prior.work_view import DepthMap, relative_motion

FARTHEST_COSINE = 0.707
"""Views whose directions differ more see too little of the same to be asked."""


@dataclass(frozen=True)
class FilterConfig:
    reprojection_px: float = 1.0
    """A pixel sent into another view by its depth and back by that view's depth may land this far off, in working
    pixels. Raising it keeps more and worse points."""
    depth_px: float = 2.5
    """Allowed difference of the two depths, in widths of a working pixel at the object."""
    min_support: int = 4
    """Other views that must agree, where there are at least `n_compared` near ones; in proportion, but at least 2,
    where there are fewer. Raising it drops more, wrong points first."""
    n_compared: int = 10
    """Views compared with: those of the nearest directions, within 45 degrees."""


@njit(nogil=True, fastmath=True, cache=True)
def count_agreement(depth, focal, other_depth, a, b, back_a, back_b, limit_px, limit_depth, support, moved):  # type: ignore[no-untyped-def]
    """Add 1 to `support` where another view's depth map agrees, and to `moved` the depth that it gives.

    a, b and back_a, back_b: `relative_motion` there and back. Occlusion is no disagreement; it just gives no support.
    """
    height, width = depth.shape
    other_height, other_width = other_depth.shape
    for y in range(height):
        for x in range(width):
            z = depth[y, x]
            if z <= 0:
                continue
            pz = z * (a[2, 0] * x + a[2, 1] * y + a[2, 2]) + b[2]
            if pz <= 0:
                continue
            u = (z * (a[0, 0] * x + a[0, 1] * y + a[0, 2]) + b[0]) / pz
            v = (z * (a[1, 0] * x + a[1, 1] * y + a[1, 2]) + b[1]) / pz
            if not (0 <= u < other_width - 1 and 0 <= v < other_height - 1):
                continue
            iu, iv = int(u + 0.5), int(v + 0.5)
            zo = other_depth[iv, iu]
            if zo <= 0:
                continue
            bz = zo * (back_a[2, 0] * iu + back_a[2, 1] * iv + back_a[2, 2]) + back_b[2]
            if bz <= 0:
                continue
            # the depth is read at the nearest pixel, so the way back starts at that pixel's middle: the error of up to
            # half a pixel that this leaves is taken out by comparing with the shift
            bu = (zo * (back_a[0, 0] * iu + back_a[0, 1] * iv + back_a[0, 2]) + back_b[0]) / bz
            bv = (zo * (back_a[1, 0] * iu + back_a[1, 1] * iv + back_a[1, 2]) + back_b[1]) / bz
            du, dv = bu - x, bv - y
            if du * du + dv * dv <= limit_px * limit_px and abs(bz - z) <= limit_depth * z / focal:
                support[y, x] += 1
                moved[y, x] += bz


def neighbours(directions: Float64[np.ndarray, "n 3"], n: int) -> list[list[int]]:
    """The at most `n` views of the nearest directions to each view; only the two nearest may be farther than 45 deg."""
    cosine = directions @ directions.T
    np.fill_diagonal(cosine, -2)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : len(directions) - 1]
    return [
        [int(j) for rank, j in enumerate(row[:n]) if rank < 2 or cosine[i, j] > FARTHEST_COSINE]
        for i, row in enumerate(order)
    ]


def support_needed(n_others: int, cfg: FilterConfig) -> int:
    """How many of `n_others` views must agree."""
    return min(n_others, max(2, round(cfg.min_support * min(1.0, n_others / cfg.n_compared))))


def agreeing(
    depth_map: DepthMap, others: list[DepthMap], cfg: FilterConfig
) -> tuple[Float32[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Depth averaged over the views that agree (0 where too few do), and how many do."""
    depth = depth_map.depth_z
    support, moved = np.zeros(depth.shape, np.int32), np.zeros(depth.shape, np.float32)
    focal = depth_map.work_view.view.camera.fx_px
    for other in others:
        a, b = relative_motion(depth_map.work_view, other.work_view)
        back_a, back_b = relative_motion(other.work_view, depth_map.work_view)
        count_agreement(
            depth, focal, other.depth_z, a, b, back_a, back_b, cfg.reprojection_px, cfg.depth_px, support, moved
        )
    enough: Bool[np.ndarray, "h w"] = support >= max(1, support_needed(len(others), cfg))
    averaged = np.where(enough & (depth > 0), (depth + moved) / (1 + support), 0)
    return averaged.astype(np.float32), support
