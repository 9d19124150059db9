"""How sharp and how bright each photo is, compared with the others of its capture."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Float64
from PIL import Image

from recon.capture.decode import grey_thumbnail

ALL_BLURRED = 0.13
"""Mean detail_profile below which a photo has no fine detail."""
MEASURE_SIDE_PX = 1200
"""Sharpness is measured at this size: large enough that a motion of 2 px in a usual photo still shows."""


def detail_profile(rgb: Image.Image, long_side_px: int = MEASURE_SIDE_PX) -> Float64[np.ndarray, "4"]:
    """The mean squared spatial frequency of a photo along four directions (0, 45, 90 and 135 degrees).

    The energy of the second difference over that of the first: unlike a plain gradient energy it hardly depends on how
    much contrast the photo shows, and a motion of the camera lowers it along its own direction.
    """
    raw = np.asarray(grey_thumbnail(rgb, long_side_px), np.float32)
    grey = np.asarray(cv2.GaussianBlur(raw, (0, 0), 0.8))  # damps sensor noise, which would pass for detail
    profile = []
    for dy, dx in ((0, 1), (1, 1), (1, 0), (1, -1)):
        first = _difference(grey, dy, dx)
        second = _difference(first, dy, dx)
        # The floor (a quarter of a grey level) keeps a photo without any contrast, say a black one, at zero.
        profile.append(float((second**2).mean()) / (float((first**2).mean()) + 0.06))
    return np.array(profile)


def relative_sharpness(profiles: Float64[np.ndarray, "n_photos 4"]) -> Float64[np.ndarray, " n_photos"]:
    """Sharpness of each photo within a set: 1 is the median photo, below about 0.5 is visibly blurred.

    A photo is as sharp as in its worst direction, each direction compared with the same one of the other photos.
    """
    worst = (profiles / np.maximum(np.median(profiles, axis=0), 1e-9)).min(axis=1) ** 2
    return worst / max(float(np.median(worst)), 1e-9)


def are_all_blurred(profiles: Float64[np.ndarray, "n_photos 4"]) -> bool:
    """Whether even the sharper half of the photos lacks fine detail, as after a blur of about 2 of 1200 pixels.

    Sharp photos of all kinds measured 0.4 to 0.9, the same ones blurred by a Gaussian of 2 px 0.10 to 0.15.
    """
    detail = np.exp(np.log(np.maximum(profiles, 1e-9)).mean(axis=1))
    return bool(np.percentile(detail, 75) < ALL_BLURRED)


def mean_linear_brightness(rgb: Image.Image) -> float:
    """The mean over pixels and channels of linear light (sRGB's curve undone), 0..1."""
    small = np.asarray(rgb.reduce(4) if min(rgb.size) >= 64 else rgb, np.float64) / 255
    linear = np.where(small <= 0.04045, small / 12.92, ((small + 0.055) / 1.055) ** 2.4)
    return float(linear.mean())


def relative_exposure_ev(brightness: Float64[np.ndarray, " n_photos"]) -> Float64[np.ndarray, " n_photos"]:
    """Log2 of each photo's mean linear brightness against the median photo."""
    ev = np.log2(np.maximum(brightness, 1e-6))
    return ev - np.median(ev)


def _difference(values: Float[np.ndarray, "h w"], dy: int, dx: int) -> Float[np.ndarray, "h2 w2"]:
    """Forward difference along (dy, dx) where both pixels exist."""
    h, w = values.shape
    if dx >= 0:
        return values[dy:, dx:] - values[: h - dy, : w - dx]
    return values[dy:, : w + dx] - values[: h - dy, -dx:]
