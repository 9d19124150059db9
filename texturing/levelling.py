"""Photos read through their gains, and a test for colours that do not belong."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numba import njit

from texturing.gains import linear_to_srgb, srgb_to_linear
from texturing.photos import PhotoStack
from texturing.rasterize import blocks_of, run_blocks
from texturing.visibility import Observations


def with_gains(stack: PhotoStack, gains: Float64[np.ndarray, "n_views 3"]) -> PhotoStack:
    """The same photos, read through their gains."""
    linear = srgb_to_linear(np.arange(256) / 255)
    return stack._replace(lut=linear_to_srgb(gains[:, :, None] * linear).astype(np.float32))


def level_observations(
    observations: Observations, gains: Float64[np.ndarray, "n_views 3"]
) -> Float32[np.ndarray, "n_faces n_views 3"]:
    """The observed colours as they are after the gains."""
    return linear_to_srgb(srgb_to_linear(observations.colour) * gains).astype(np.float32)


def disagreement(
    colour: Float32[np.ndarray, "n_faces n_views 3"], weight: Float32[np.ndarray, "n_faces n_views"], noise: float
) -> Float32[np.ndarray, "n_faces n_views"]:
    """How many robust deviations each photo's colour of a cell lies from what the photos agree on.

    The centre starts at the weighted median and moves by mean-shift; the spread is the median absolute deviation,
    at least `noise` (sRGB units, 0..1). A colour brighter than the centre counts half more: highlights are bright.
    With fewer than three photos nobody can be outvoted and it is 0.
    """
    out = np.zeros(weight.shape, np.float32)
    run_blocks(lambda lo, hi: _disagreement(lo, hi, colour, weight, noise, out), blocks_of(len(out), 4096))
    return out


@njit(cache=True, nogil=True)
def weighted_median(value, weight):  # type: ignore[no-untyped-def]
    """The smallest value (n,) at which half of the weight (n,) is reached."""
    order = np.argsort(value)
    half, run = 0.5 * weight.sum(), 0.0
    for i in order:
        run += weight[i]
        if run >= half:
            return value[i]
    return value[order[-1]]


@njit(cache=True, nogil=True)
def _disagreement(first, last, colour, weight, noise, out):  # type: ignore[no-untyped-def]
    for f in range(first, last):
        views = np.flatnonzero(weight[f] > 0)
        n = len(views)
        if n < 3:
            continue
        w, c, distance = weight[f][views].astype(np.float64), np.empty((n, 3)), np.empty(n)
        for i in range(n):
            for k in range(3):
                c[i, k] = colour[f, views[i], k]
        centre = np.array([weighted_median(c[:, 0], w), weighted_median(c[:, 1], w), weighted_median(c[:, 2], w)])
        spread = noise
        for _ in range(4):
            for i in range(n):
                distance[i] = np.sqrt(((c[i] - centre) ** 2).sum())
            spread = max(1.4826 * weighted_median(distance, w), noise)
            near = w * np.exp(-0.5 * (distance / spread) ** 2)
            if near.sum() < 1e-12:
                break
            for k in range(3):
                centre[k] = (near * c[:, k]).sum() / near.sum()
        for i in range(n):
            brighter = (c[i] - centre).mean() > 0.5 * noise
            out[f, views[i]] = np.sqrt(((c[i] - centre) ** 2).sum()) / spread * (1.5 if brighter else 1.0)


def reject(
    score: Float32[np.ndarray, "n_faces n_views"], seen: Bool[np.ndarray, "n_faces n_views"], limit: float
) -> Bool[np.ndarray, "n_faces n_views"]:
    """The photos to leave out for a cell: beyond `limit` deviations, but never all of those that see it."""
    out = seen & (score > limit)
    out[(out.sum(1) == seen.sum(1))] = False
    return out
