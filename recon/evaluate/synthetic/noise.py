"""Seeded random fields for paint: smooth solid noise, per-cell random numbers, and edges that look hand-drawn."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates, zoom

LATTICE, FINE = 24, 4
"""Random values per side of the periodic noise cube, and samples between two of them."""


@cache
def periodic_volume(seed: int) -> Float[np.ndarray, "side side side"]:
    """A cube of smooth noise that repeats without a seam."""
    coarse = np.random.default_rng([seed, 71]).standard_normal((LATTICE,) * 3)
    wrapped = np.pad(coarse, 4, mode="wrap")  # so that the cubic spline is periodic too
    volume = zoom(wrapped, FINE, order=3, mode="grid-wrap", grid_mode=True)[4 * FINE : -4 * FINE]
    volume = volume[:, 4 * FINE : -4 * FINE, 4 * FINE : -4 * FINE]
    return ((volume - volume.mean()) / volume.std()).astype(np.float32)


class NoiseField:
    """Band-limited periodic solid noise with unit variance, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.volume = periodic_volume(seed)

    def __call__(
        self, p: Float[np.ndarray, "n 3"], grain_m: float | tuple[float, float, float], octaves: int = 1
    ) -> Float[np.ndarray, " n"]:
        """Noise whose blobs are about `grain_m` wide (one number, or one per axis for streaks); unit variance."""
        at = (p / np.asarray(grain_m, p.dtype) * FINE).T
        total, power = np.zeros(len(p), np.float32), 0.0
        for k in range(octaves):
            shift = 17.3 * (k + 1)
            total += map_coordinates(self.volume, at * 2**k + shift, order=1, mode="grid-wrap") / 1.8**k
            power += 1.8 ** (-2 * k)
        return total / np.float32(np.sqrt(power))


def cell_random(*cells: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """A fixed pseudo-random number in [0, 1) per tuple of integer cell coordinates."""
    mixed = np.zeros(cells[0].shape, np.float64)
    for cell, factor in zip(cells, (12.9898, 78.233, 37.719), strict=False):
        mixed += np.asarray(cell, np.float64) * factor
    value = np.sin(mixed) * 43758.5453
    return (value - np.floor(value)).astype(np.float32)


def step(edge: Float[np.ndarray, " n"], softness: float) -> Float[np.ndarray, " n"]:
    """1 where `edge` is well below zero, 0 well above, smooth over `softness`: coverage of a painted area."""
    t = np.clip(0.5 - edge / softness, 0, 1)
    return t * t * (3 - 2 * t)
