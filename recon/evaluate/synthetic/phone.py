"""From scene radiance to a phone's JPEG: exposure, vignetting, sensor noise, tone curve, sharpening, EXIF."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

MAKE, MODEL, SOFTWARE = "SynthCam", "SynthPhone 26", "make_capture.py"
F_NUMBER, FOCAL_MM, FOCAL_35MM, ISO = 1.8, 5.6, 26, 160
SHOT_NOISE, READ_NOISE = 0.0009, 0.0018
"""Variance per unit of signal, and standard deviation in the dark, of a sensor whose white is 1."""


def develop(
    scene: Float[np.ndarray, "h w 3"], gain: Float[np.ndarray, "3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """An 8-bit sRGB photo of linear radiance: `gain` maps radiance to a sensor whose white is 1."""
    h, w, _ = scene.shape
    y, x = np.mgrid[0:h, 0:w]
    r2 = ((x / w - 0.5) ** 2 + (y / h - 0.5) ** 2 * (h / w) ** 2) * 4
    raw = scene * gain * (1 - 0.09 * r2)[..., None]
    raw = raw + rng.standard_normal(raw.shape) * np.sqrt(SHOT_NOISE * np.maximum(raw, 0) + READ_NOISE**2)
    smooth = cv2.GaussianBlur(raw.astype(np.float32), (0, 0), 0.55)  # a phone's denoiser, which leaves grain
    knee = 0.62  # linear below, a soft shoulder to white above
    over = np.maximum(smooth - knee, 0)
    tone = np.minimum(smooth, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))
    tone = np.clip(tone, 0, 1)
    srgb = np.where(tone <= 0.0031308, 12.92 * tone, 1.055 * np.maximum(tone, 1e-6) ** (1 / 2.4) - 0.055)
    srgb = srgb + 0.35 * (srgb - cv2.GaussianBlur(srgb.astype(np.float32), (0, 0), 1.1))
    return (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def save_jpeg(path: Path, rgb: UInt8[np.ndarray, "h w 3"], quality: int, taken: datetime, exposure_ev: float) -> None:
    """Write a photo with the EXIF of a phone; a longer exposure is a brighter photo."""
    image = Image.fromarray(rgb)
    stamp = taken.strftime("%Y:%m:%d %H:%M:%S")
    exif = Image.Exif()
    exif.update({0x010F: MAKE, 0x0110: MODEL, 0x0131: SOFTWARE, 0x0112: 1, 0x0132: stamp})
    exif.get_ifd(0x8769).update(
        {
            0x829A: 2.0**exposure_ev / 60,
            0x829D: F_NUMBER,
            0x8827: ISO,
            0x9003: stamp,
            0x9004: stamp,
            0x920A: FOCAL_MM,
            0xA002: rgb.shape[1],
            0xA003: rgb.shape[0],
            0xA405: FOCAL_35MM,
        }
    )
    image.save(path, quality=quality, subsampling=2, optimize=True, exif=exif)
