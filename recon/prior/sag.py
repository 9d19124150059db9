"""What windows that match by planes leave out: that the surface is curved.

A window on a convex surface shows what lies under the tangent plane of its middle, so the plane that matches best lies
under the surface by the mean sag, H / 2 times the mean squared distance of the window's pixels from its middle (H: mean
curvature). On small round objects that is more than the noise of the depth, and always to the same side.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy.spatial import cKDTree

N_NEIGHBOURS = 32
LEAST_ALIKE = 0.5
"""Cosine of two normals below which points lie on different sheets."""
SHARPEST = 0.5
"""Largest curvature that is believed, in turns of the normal (radians) over a window's root mean squared radius."""


def window_spread_px(radius_px: int, stride_px: int) -> float:
    """Mean squared distance of a window's pixels from its middle, with the fall-off of `refine.gather_window`."""
    steps = np.arange(-radius_px, radius_px + 1, stride_px, dtype=float)
    square = steps[:, None] ** 2 + steps**2
    weight = np.exp(-0.5 * square / radius_px**2)
    return float((weight * square).sum() / weight.sum())


def mean_curvature(points: Float64[np.ndarray, "n 3"], normals: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n"]:
    """Mean curvature (1 / length, positive where convex) at oriented points: how their neighbours' normals turn."""
    out = np.zeros(len(points))
    if len(points) <= N_NEIGHBOURS:
        return out
    near = cKDTree(points).query(points, N_NEIGHBOURS + 1, workers=-1)[1][:, 1:]
    for some in np.array_split(np.arange(len(near)), max(1, len(near) // 20_000)):  # bounds the memory
        offset = points[near[some]] - points[some, None]
        turn = normals[near[some]] - normals[some, None]
        alike = np.einsum("nkj,nj->nk", normals[near[some]], normals[some]) > LEAST_ALIKE
        turned = (alike * np.einsum("nkj,nkj->nk", turn, offset)).sum(1)
        out[some] = turned / np.maximum((alike * (offset**2).sum(2)).sum(1), 1e-30)
    return out


def lifted(
    points: Float64[np.ndarray, "n 3"], normals: Float64[np.ndarray, "n 3"], spread: Float64[np.ndarray, "n"]
) -> Float64[np.ndarray, "n 3"]:
    """Points moved along their normals from the planes that matched to the surface.

    spread: mean squared distance of a window's pixels from its middle, on the surface; 0 for what no window found.
    """
    most = SHARPEST / np.sqrt(np.maximum(spread, 1e-30))
    curvature = np.clip(mean_curvature(points, normals), -most, most)
    return points + (curvature * spread / 2)[:, None] * normals
