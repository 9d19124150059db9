"""What depth maps of different views agree on: a depth that others do not see at the same place is dropped."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int32
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
    min_support: int = 3
    """Other views that must agree, where there are at least `n_compared` near ones; in proportion, but at least 2,
    where there are fewer. Raising it drops more, wrong points first."""
    full_support: int = 8
    """With so many views in agreement a point has full confidence; fewer have less, in proportion."""
    n_compared: int = 10
    """Views compared with: those of the nearest directions, within 45 degrees."""

    def for_two_kinds(self) -> FilterConfig:
        """The same where each view has two depth maps. They err alike in part, but not as one: of twice as many, one
        less than twice as many must agree."""
        return replace(
            self,
            min_support=2 * self.min_support - 1,
            full_support=2 * self.full_support - 2,
            n_compared=2 * self.n_compared,
        )


@njit(nogil=True, fastmath=True, cache=True)
def depth_between(depth, u, v, relative_jump):  # type: ignore[no-untyped-def]
    """depth_z at an array position: inverse depth is linear on a plane, so that is what is interpolated.

    Where one of the four pixels is empty or lies across a jump (4 relative steps), the nearest pixel's; 0 if empty.
    """
    iu, iv = int(u), int(v)
    nearest = depth[int(v + 0.5), int(u + 0.5)]
    if nearest <= 0:
        return 0.0
    fu, fv = u - iu, v - iv
    total = 0.0
    for dv in range(2):
        for du in range(2):
            z = depth[iv + dv, iu + du]
            if z <= 0 or abs(z - nearest) > 4 * relative_jump * nearest:
                return nearest
            total += (fu if du else 1 - fu) * (fv if dv else 1 - fv) / z
    return 1.0 / total


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
            zo = depth_between(other_depth, u, v, limit_depth / focal)
            if zo <= 0:
                continue
            bz = zo * (back_a[2, 0] * u + back_a[2, 1] * v + back_a[2, 2]) + back_b[2]
            if bz <= 0:
                continue
            bu = (zo * (back_a[0, 0] * u + back_a[0, 1] * v + back_a[0, 2]) + back_b[0]) / bz
            bv = (zo * (back_a[1, 0] * u + back_a[1, 1] * v + back_a[1, 2]) + back_b[1]) / bz
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


@dataclass(frozen=True)
class Agreed:
    """What is left of a depth map after comparing it."""

    depth_map: DepthMap
    depth_z: Float32[np.ndarray, "h w"]
    """Mean over the views that agree; 0 where too few do."""
    confidence: Float32[np.ndarray, "h w"]
    n_support: Int32[np.ndarray, "h w"]
    """Views that agree, itself included."""


def agreeing(depth_map: DepthMap, others: list[DepthMap], cfg: FilterConfig) -> Agreed:
    """Keep the depths that enough of the other views confirm.

    Confidence is mostly their number: measured on captures with known truth, it tells right from wrong points, which
    the matching cost of what passed does not.
    """
    depth = depth_map.depth_z
    support, moved = np.zeros(depth.shape, np.int32), np.zeros(depth.shape, np.float32)
    focal = depth_map.work_view.view.camera.fx_px
    for other in others:
        a, b = relative_motion(depth_map.work_view, other.work_view)
        back_a, back_b = relative_motion(other.work_view, depth_map.work_view)
        count_agreement(
            depth, focal, other.depth_z, a, b, back_a, back_b, cfg.reprojection_px, cfg.depth_px, support, moved
        )
    enough = (support >= max(1, support_needed(len(others), cfg))) & (depth > 0)
    averaged = np.where(enough, (depth + moved) / (1 + support), 0).astype(np.float32)
    share = np.minimum(1.0, support / cfg.full_support)
    confidence = np.where(enough, share * (0.5 + 0.5 * depth_map.confidence), 0).astype(np.float32)
    return Agreed(depth_map, averaged, confidence, support + np.int32(1))
