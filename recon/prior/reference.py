"""Plain twins of the fast kernels, written for reading and for tests: slow, no tricks, float64."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt8

from recon.prior.sweep import NOISE_VARIANCE, Sheets
from recon.prior.work_view import WorkView, relative_motion


def bilinear(image: Float[np.ndarray, "h w"], u: float, v: float) -> float:
    """The image at array position (u, v); 0 beyond its border."""
    height, width = image.shape
    iu, iv = int(np.floor(u)), int(np.floor(v))
    value = 0.0
    for dv in (0, 1):
        for du in (0, 1):
            weight = (1 - abs(u - iu - du)) * (1 - abs(v - iv - dv))
            if 0 <= iu + du < width and 0 <= iv + dv < height:
                value += weight * float(image[iv + dv, iu + du])
    return value


def weighted_ncc(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], weight: Float[np.ndarray, " n"]) -> float:
    """Normalised cross-correlation with the noise floor in both variances."""
    weight = weight / weight.sum()
    mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
    var_x = (weight * (x - mean_x) ** 2).sum() + NOISE_VARIANCE
    var_y = (weight * (y - mean_y) ** 2).sum() + NOISE_VARIANCE
    return float((weight * (x - mean_x) * (y - mean_y)).sum() / np.sqrt(var_x * var_y))


def better_half(costs: list[float]) -> float:
    """Mean of the lower half of the sources' costs: a view that is occluded does not count."""
    return float(np.mean(sorted(costs)[: (len(costs) + 1) // 2]))


def sheet_cost(
    reference: WorkView, sources: list[WorkView], swept: Sheets, sheet: int, pixel: tuple[int, int], window_px: int
) -> float:
    """One entry of `sweep.cost_volume`, 0..1, at array index (u, v), for sources whose masks hold the pixel."""
    u, v = pixel
    r = window_px // 2
    height, width = reference.grey.shape
    costs = []
    for source in sources:
        a, b = relative_motion(reference, source)
        mine, theirs = [], []
        for y in range(max(v - r, 0), min(v + r + 1, height)):
            for x in range(max(u - r, 0), min(u + r + 1, width)):
                if not reference.mask[y, x]:
                    continue
                p = a @ np.array([x, y, 1.0]) + b * (swept.front[y, x] - sheet * swept.step)
                mine.append(float(reference.grey[y, x]))
                theirs.append(bilinear(source.grey, p[0] / p[2], p[1] / p[2]))
        ncc = weighted_ncc(np.array(mine), np.array(theirs), np.ones(len(mine)))
        costs.append(min(max(1 - ncc, 0.0), 1.0))
    return better_half(costs)


def slanted_cost(
    reference: WorkView,
    sources: list[WorkView],
    window: Float64[np.ndarray, "n 4"],
    pixel: tuple[int, int],
    plane: tuple[float, float, float],
) -> float:
    """The twin of `refine.plane_cost` for a window (du, dv, value, weight) that stays inside all sources."""
    u, v = pixel
    inv_depth, slope_u, slope_v = plane
    costs = []
    for source in sources:
        a, b = relative_motion(reference, source)
        theirs = []
        for du, dv in window[:, :2]:
            p = a @ np.array([u + du, v + dv, 1.0]) + b * (inv_depth + slope_u * du + slope_v * dv)
            theirs.append(bilinear(source.grey, p[0] / p[2], p[1] / p[2]))
        ncc = weighted_ncc(window[:, 2], np.array(theirs), window[:, 3])
        costs.append(min(max(1 - ncc, 0.0), 1.0))
    return better_half(costs)


def aggregate(
    volume: UInt8[np.ndarray, "h w d"],
    mask: Bool[np.ndarray, "h w"],
    grey: Float[np.ndarray, "h w"],
    small: int,
    large: int,
) -> Int[np.ndarray, "h w d"]:
    """Semi-global matching over 8 directions, each path walked by recursion on its own."""
    height, width, n_sheets = volume.shape
    total = np.zeros(volume.shape, int)
    index = np.arange(n_sheets)
    apart = np.abs(index[:, None] - index)
    for dy, dx in [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)]:
        path = np.zeros(volume.shape, int)
        rows = range(height) if dy >= 0 else range(height - 1, -1, -1)
        for y in rows:
            for x in range(width) if dx >= 0 else range(width - 1, -1, -1):
                if not mask[y, x]:
                    continue
                py, px = y - dy, x - dx
                path[y, x] = volume[y, x]
                if 0 <= py < height and 0 <= px < width and mask[py, px]:
                    jump = max(small + 1, int(large / (1 + 10 * abs(float(grey[y, x]) - float(grey[py, px])))))
                    before = path[py, px]
                    step = np.where(apart == 0, 0, np.where(apart == 1, small, jump))
                    path[y, x] += (before[None, :] + step).min(1) - before.min()
        total += path
    return total
