"""Semi-global matching: the depth of each pixel that costs least along image paths from all sides."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, fastmath=True, cache=True)
def forbid(volume, first, last, slope):  # type: ignore[no-untyped-def]
    """Give the planes outside first..last of each pixel the worst cost, and those behind the first `slope` each."""
    height, width, n_planes = volume.shape
    for y in range(height):
        for x in range(width):
            for d in range(n_planes):
                if d < first[y, x] or d > last[y, x]:
                    volume[y, x, d] = 255
                else:
                    volume[y, x, d] = np.uint8(min(volume[y, x, d] + slope * (d - first[y, x]), 255.0))


@njit(nogil=True, fastmath=True, cache=True)
def path_step(previous, least, cost, small, large, out, total):  # type: ignore[no-untyped-def]
    """One pixel of a path: out = cost + min(same, +-1 plane + small, any + large) - least; returns out's minimum."""
    n_planes = len(cost)
    lowest = np.int32(1 << 20)
    for d in range(n_planes):
        best = min(previous[d], least + large)
        if d > 0:
            best = min(best, previous[d - 1] + small)
        if d + 1 < n_planes:
            best = min(best, previous[d + 1] + small)
        value = np.int32(cost[d]) + best - least
        out[d] = value
        total[d] += value
        lowest = min(lowest, value)
    return lowest


@njit(nogil=True, fastmath=True, cache=True)
def aggregate(volume, mask, grey, small, large, n_directions):  # type: ignore[no-untyped-def]
    """Semi-global matching (Hirschmueller 2008, eq. 13) over 4 or 8 path directions within the mask.

    The large penalty is divided by the contrast between the two pixels: depth jumps coincide with edges.
    Returns summed path costs, int32 (h, w, n_planes).
    """
    height, width, n_planes = volume.shape
    total = np.zeros((height, width, n_planes), np.int32)
    steps = np.array([[0, 1], [1, 0], [1, 1], [1, -1]])
    rows = np.zeros((2, width, n_planes), np.int32)
    least = np.zeros((2, width), np.int32)
    for direction in range(n_directions):
        dy, dx = steps[direction // 2]
        forward = direction % 2 == 0
        for j in range(height):
            y = j if forward else height - 1 - j
            for i in range(width):
                x = i if forward else width - 1 - i
                if not mask[y, x]:
                    continue
                py, px = (y - dy, x - dx) if forward else (y + dy, x + dx)
                inside = 0 <= py < height and 0 <= px < width and mask[py, px]
                now, before = y % 2, py % 2
                if not inside:
                    lowest = np.int32(1 << 20)
                    for d in range(n_planes):
                        rows[now, x, d] = volume[y, x, d]
                        total[y, x, d] += volume[y, x, d]
                        lowest = min(lowest, rows[now, x, d])
                    least[now, x] = lowest
                    continue
                jump = max(small + 1, np.int32(large / (1.0 + 10.0 * abs(grey[y, x] - grey[py, px]))))
                least[now, x] = path_step(
                    rows[before, px], least[before, px], volume[y, x], small, jump, rows[now, x], total[y, x]
                )
    return total


@njit(nogil=True, fastmath=True, cache=True)
def winners(total, mask, first, last):  # type: ignore[no-untyped-def]
    """The best plane of each pixel within first..last, as a fraction (parabola through its neighbours).

    -1 outside the mask.
    """
    height, width, n_planes = total.shape
    plane = np.full((height, width), -1.0, np.float32)
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                continue
            best = first[y, x]
            for d in range(best + 1, last[y, x] + 1):
                if total[y, x, d] < total[y, x, best]:
                    best = d
            plane[y, x] = best
            if 0 < best < n_planes - 1:
                low, mid, high = total[y, x, best - 1], total[y, x, best], total[y, x, best + 1]
                bend = low + high - 2 * mid
                if bend > 0:
                    plane[y, x] = best + 0.5 * (low - high) / bend
    return plane
