"""A binary cut of one photo: the globally best outline between per-pixel evidence and image edges."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Int
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


def runs_of(active: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "n 3"]:
    """Row, first column and end column of each run of active pixels."""
    edges = np.diff(active.astype(np.int8), axis=1, prepend=np.int8(0), append=np.int8(0))
    rows, firsts = np.nonzero(edges == 1)
    return np.stack([rows, firsts, np.nonzero(edges == -1)[1]], 1)


STEP = np.float32(0.35)


@njit(nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _dual_step(bar, right, below, weight, px, py):  # type: ignore[no-untyped-def]
    """Of one run. A loop of its own without branches, so that the compiler makes vector instructions of it; by numpy's
    error model it does not ask whether a weight is 0, which none is."""
    for x in range(len(bar)):
        qx, qy = px[x] + STEP * (right[x] - bar[x]), py[x] + STEP * (below[x] - bar[x])
        # Isotropic length: the dual vector stays in a disc, so slanted outlines cost no more than straight.
        shrink = weight[x] / max(np.sqrt(qx * qx + qy * qy), weight[x])
        px[x], py[x] = qx * shrink, qy * shrink


@njit(nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _primal_step(px, py_above, py, cost, u, bar):  # type: ignore[no-untyped-def]
    """Of one run; `px` begins one pixel before it."""
    for x in range(len(u)):
        old = u[x]
        new = old + STEP * (px[x + 1] - px[x] + py[x] - py_above[x] - cost[x])
        u[x] = min(max(new, np.float32(0)), np.float32(1))
        bar[x] = np.float32(2) * u[x] - old


@njit(nogil=True, fastmath=True, cache=True)  # type: ignore[untyped-decorator]
def relax(cost, weight, runs, u, n_iterations):  # type: ignore[no-untyped-def]
    """Primal-dual steps for min over u in [0,1] of sum(cost u) + sum(weight |gradient u|), on runs of pixels.

    Chambolle & Pock 2011, algorithm 1; step sizes 0.35 satisfy tau sigma 8 <= 1.
    """
    h, w = cost.shape
    # dual of pixel (y, x): px[y, x + 1], py[y + 1, x]; the first column and row stay 0, as does what crosses the border
    px, py = np.zeros((h, w + 1), np.float32), np.zeros((h + 1, w), np.float32)
    bar = np.zeros((h, w + 1), np.float32)
    bar[:, :w] = u
    for _ in range(n_iterations):
        for n in range(len(runs)):
            y, first, end = runs[n]
            if end == w:
                bar[y, w] = bar[y, w - 1]
            _dual_step(
                bar[y, first:end], bar[y, first + 1 : end + 1], bar[min(y + 1, h - 1), first:end], weight[y, first:end],
                px[y, first + 1 : end + 1], py[y + 1, first:end],
            )  # fmt: skip
        for n in range(len(runs)):
            y, first, end = runs[n]
            _primal_step(
                px[y, first : end + 1], py[y, first:end], py[y + 1, first:end], cost[y, first:end], u[y, first:end],
                bar[y, first:end],
            )  # fmt: skip
    return u


def relax_reference(
    cost: Float32[np.ndarray, "h w"],
    weight: Float32[np.ndarray, "h w"],
    active: Bool[np.ndarray, "h w"],
    start: Float32[np.ndarray, "h w"],
    n_iterations: int,
) -> Float32[np.ndarray, "h w"]:
    """`relax` plainly, on whole arrays."""
    u, bar = start.copy(), start.copy()
    px, py = np.zeros_like(u), np.zeros_like(u)
    for _ in range(n_iterations):
        qx, qy = px + STEP * np.diff(bar, axis=1, append=bar[:, -1:]), py + STEP * np.diff(bar, axis=0, append=bar[-1:])
        shrink = active * weight / np.maximum(np.hypot(qx, qy), weight)
        px, py = qx * shrink, qy * shrink
        divergence = np.diff(px, axis=1, prepend=np.float32(0)) + np.diff(py, axis=0, prepend=np.float32(0))
        new = np.where(active, np.clip(u + STEP * (divergence - cost), 0, 1), u).astype(np.float32)
        bar, u = np.where(active, 2 * new - u, u), new
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
    return relax(cost, weight, runs_of(active), start.astype(np.float32).copy(), n_iterations)
