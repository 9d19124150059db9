"""One gain per photo and channel for exposure and white balance, from what several photos see together.

The object's own cells tell it where it is matt; the sparse points, most of which lie around the object, tell it where
the object is a mirror.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from PIL import Image

from recon.data import PosedCapture
from texturing.visibility import Observations

MAX_POINTS = 4000
"""The longest tracks are enough, and bound the memory of a long video's."""
REDUCTION = 4
"""Points are looked up in photos reduced this much: one look-up is a mean over the point's surroundings."""
LIKELY_LOG_GAIN = 0.2
"""What gains usually are (a phone's exposure wobble, 0.3 EV); how far weak evidence may carry one."""
NOISE_LOG = 0.1
"""Log colour differences up to this are noise between photos of the same matt surface."""
INDEPENDENT_SAMPLES = 40.0
"""Neighbouring samples err alike; a photo's samples together are worth about so many independent ones."""


class Samples(NamedTuple):
    """Colours (sRGB, 0..1) of the same places in many photos, and how much each counts (0: not seen)."""

    colour: Float32[np.ndarray, "n n_views 3"]
    weight: Float64[np.ndarray, "n n_views"]


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1's curve, 0..1 to 0..1."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: np.ndarray) -> np.ndarray:
    """The inverse of `srgb_to_linear`; values above 1 go on along the curve."""
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * np.maximum(value, 1e-9) ** (1 / 2.4) - 0.055)


def cell_samples(observations: Observations, areas: Float64[np.ndarray, " n_faces"]) -> Samples:
    """The object's cells, by the number of pixels that a photo has of them, clear of edges."""
    clear = observations.seen & (observations.safety > 0.5)
    return Samples(observations.colour, clear * areas[:, None] * observations.density**2)


def point_samples(posed: PosedCapture) -> Samples:
    """The sparse points, each in the photos in which it was found."""
    n_points, n_views = len(posed.points_world), len(posed.views)
    best = np.argsort(-np.bincount(posed.obs_point_idx, minlength=n_points), kind="stable")[:MAX_POINTS]
    place = np.full(n_points, -1)
    place[best] = np.arange(len(best))
    colour = np.zeros((len(best), n_views, 3), np.float32)
    weight = np.zeros((len(best), n_views))
    for v, view in enumerate(posed.views):
        point = posed.obs_point_idx[posed.obs_view_idx == v]
        point = point[place[point] >= 0]
        pixels, depth_z = view.project(posed.points_world[point])
        point, pixels = point[inside := view.in_image(pixels, depth_z)], pixels[inside]
        with Image.open(posed.image_path(view.name)) as image:
            small = np.asarray(image.convert("RGB").reduce(REDUCTION), np.float32) / 255
        column, row = (pixels / REDUCTION).astype(int).T
        colour[place[point], v] = small[np.minimum(row, len(small) - 1), np.minimum(column, small.shape[1] - 1)]
        weight[place[point], v] = 1.0
    return Samples(colour, weight)


def estimate_gains(sources: list[Samples]) -> Float64[np.ndarray, "n_views 3"]:
    """Gains that make the photos agree: linear_levelled = gain * linear_photo, per channel, with geometric mean 1.

    Robust least squares on log(linear colour of place f in photo v) = albedo_f - log gain_v, the albedos eliminated
    (Schur complement), reweighted by Cauchy's function. A Gaussian prior of LIKELY_LOG_GAIN holds photos whose
    evidence is weak or contradictory. Each source counts by how well its photos agree.
    """
    prepared = [s for s in map(_well_exposed, sources) if s is not None]
    n_views = sources[0].weight.shape[1]
    log_gain = np.zeros((n_views, 3))
    for channel in range(3):
        logs = [np.log(np.maximum(srgb_to_linear(s.colour[:, :, channel].astype(float)), 1e-4)) for s in prepared]
        log_gain[:, channel] = _solve(logs, [s.weight for s in prepared], n_views)
    return np.exp(log_gain)


def _well_exposed(samples: Samples) -> Samples | None:
    """Only places that two photos or more show neither black nor clipped; each source's best photo weighs 1."""
    good = (samples.weight > 0) & ((samples.colour > 0.03) & (samples.colour < 0.97)).all(2)
    good &= good.sum(1, keepdims=True) >= 2
    rows = good.any(1)
    if not rows.any():
        return None
    weight = np.where(good, samples.weight, 0.0)[rows]
    return Samples(samples.colour[rows], weight / weight.sum(0).max())


def _solve(logs: list[np.ndarray], weights: list[np.ndarray], n_views: int, n_rounds: int = 10) -> np.ndarray:
    log_gain = np.zeros(n_views)
    spreads = [NOISE_LOG] * len(logs)
    robust = list(weights)
    for _ in range(n_rounds):
        normal, right = np.eye(n_views) / LIKELY_LOG_GAIN**2, np.zeros(n_views)
        for log_colour, weight, spread in zip(logs, robust, spreads, strict=True):
            precision = INDEPENDENT_SAMPLES / spread**2
            total = np.maximum(weight.sum(1), 1e-300)
            normal += precision * (np.diag(weight.sum(0)) - weight.T @ (weight / total[:, None]))
            mean = (weight * log_colour).sum(1) / total
            right -= precision * (weight * (log_colour - mean[:, None])).sum(0)
        log_gain = np.asarray(np.linalg.solve(normal, right))
        log_gain -= log_gain.mean()
        for i, (log_colour, weight) in enumerate(zip(logs, weights, strict=True)):
            levelled = log_colour + log_gain
            albedo = (robust[i] * levelled).sum(1) / np.maximum(robust[i].sum(1), 1e-300)
            residual = np.abs(levelled - albedo[:, None])
            robust[i] = weight / (1 + (residual / NOISE_LOG) ** 2)
            # How far the photos differ all told: a mirror's photos do, and then say little about exposure.
            spreads[i] = max(NOISE_LOG, float(np.sqrt((weight * residual**2).sum() / weight.sum())))
    return np.clip(log_gain, -1.0, 1.0)
