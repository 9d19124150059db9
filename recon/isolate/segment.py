"""A binary cut of one photo: the globally best outline between per-pixel evidence and image edges."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32
from numba import njit


def edge_weights(rgb: Float32[np.ndarray, "h w 3"], floor: float) -> Float32[np.ndarray, "h w"]:
    """How dear an outline is between a pixel and its right and lower neighbours: 1 on flat colour, `floor` on edges.

    exp(-beta |difference|^2) with beta from the photo's own mean contrast (Boykov & Jolly 2001; Rother et al. 2004).
    """
    contrast = np.zeros(rgb.shape[:2], np.float32)
    contrast[:, :-1] += ((rgb[:, 1:] - rgb[:, :-1]) ** 2).sum(2)
    contrast[:-1] += ((rgb[1:] - rgb[:-1]) ** 2).sum(2)
    beta = 1 / max(2 * float(contrast.mean()), 1e-8)
    weight: np.ndarray = floor + (1 - floor) * np.exp(-beta * contrast)
    return weight.astype(np.float32)


@njit(nogil=True, fastmath=True, cache=True)  # type: ignore[untyped-decorator]
def relax(cost, weight, active, u, n_iterations):  # type: ignore[no-untyped-def]
    """Primal-dual steps for min over u in [0,1] of sum(cost u) + sum(weight |gradient u|), where `active`.

    Chambolle & Pock 2011, algorithm 1; step sizes 0.35 satisfy tau sigma 8 <= 1.
    """
    h, w = cost.shape
    step = np.float32(0.35)
    px, py = np.zeros((h, w), np.float32), np.zeros((h, w), np.float32)
    bar = u.copy()
    for _ in range(n_iterations):
        for y in range(h):
            for x in range(w):
                if not active[y, x]:
                    continue
                gx = bar[y, x + 1] - bar[y, x] if x + 1 < w else np.float32(0)
                gy = bar[y + 1, x] - bar[y, x] if y + 1 < h else np.float32(0)
                # Isotropic length: the dual vector stays in a disc, so slanted outlines cost no more than straight.
                qx, qy = px[y, x] + step * gx, py[y, x] + step * gy
                norm = np.sqrt(qx * qx + qy * qy)
                shrink = weight[y, x] / max(norm, weight[y, x])
                px[y, x], py[y, x] = qx * shrink, qy * shrink
        for y in range(h):
            for x in range(w):
                if not active[y, x]:
                    continue
                divergence = px[y, x] + py[y, x]
                if x > 0:
                    divergence -= px[y, x - 1]
                if y > 0:
                    divergence -= py[y - 1, x]
                old = u[y, x]
                new = min(max(old + step * (divergence - cost[y, x]), np.float32(0)), np.float32(1))
                u[y, x] = new
                bar[y, x] = 2 * new - old
    return u


def cut(
    rgb: Float32[np.ndarray, "h w 3"],
    log_odds: Float32[np.ndarray, "h w"],
    start: Float32[np.ndarray, "h w"],
    active: Bool[np.ndarray, "h w"],
    smoothness: float,
    n_iterations: int,
) -> Float32[np.ndarray, "h w"]:
    """Object share per pixel (nearly binary) from log odds; pixels that are not `active` keep `start`.

    smoothness: what an outline of one pixel's length costs on flat colour, in log odds.
    The convex relaxation of the binary cut is exact (Chan, Esedoglu & Nikolova 2006).
    """
    weight = edge_weights(rgb, 0.05)
    scale = np.float32(smoothness)
    # Everything divided by the smoothness: steps then fit one-pixel gradients of weight one.
    cost = np.clip(-log_odds / scale, -1e3, 1e3).astype(np.float32)
    return relax(cost, weight, active, start.astype(np.float32).copy(), n_iterations)
