"""Corners and blobs of a grey image with sub-pixel positions (Shi and Tomasi 1994): where descriptors are taken."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32

GRADIENT_SIGMA_PX = 1.0
WINDOW_SIGMA_PX = 1.6
"""Gaussian window of the structure tensor."""
APART_PX = 2
"""A corner is the strongest within a square of this half side."""
BORDER_PX = 6
WEAKEST = 0.15
"""Square root of the tensor's smaller eigenvalue, in grey levels (of 255) a pixel: below lies sensor noise."""


def find_corners(
    grey: Float32[np.ndarray, "h w"], n_most: int
) -> tuple[Float32[np.ndarray, "n 2"], Float32[np.ndarray, " n"]]:
    """Positions (x, y in px, centres at +0.5) of the `n_most` strongest corners, and log strengths, strongest first.

    The strength is the smaller eigenvalue of the structure tensor of `grey` (0..255); positions are refined by a
    quadratic through its 3x3 neighbourhood.
    """
    strength = _smaller_eigenvalue(grey)
    around = cv2.dilate(strength, np.ones((2 * APART_PX + 1,) * 2, np.uint8))
    peak = (strength == around) & (strength > WEAKEST**2)
    inner = np.zeros_like(peak)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    y, x = np.nonzero(peak & inner)
    order = np.argsort(-strength[y, x], kind="stable")[:n_most]
    y, x = y[order], x[order]
    log_strength = np.log(strength[y, x])
    return (np.stack([x, y], -1) + 0.5 + _to_peak(strength, x, y)).astype(np.float32), log_strength


def _smaller_eigenvalue(grey: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    smooth = cv2.GaussianBlur(grey, (0, 0), GRADIENT_SIGMA_PX)
    gx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)
    xx, yy, xy = (cv2.GaussianBlur(g, (0, 0), WINDOW_SIGMA_PX) for g in (gx * gx, gy * gy, gx * gy))
    return 0.5 * (xx + yy - cv2.sqrt((xx - yy) ** 2 + 4 * xy * xy))


def _to_peak(f: Float32[np.ndarray, "h w"], x: np.ndarray, y: np.ndarray) -> Float32[np.ndarray, "n 2"]:
    """From each maximum's pixel to the top of the quadratic through its neighbours, at most 0.7 px along each axis."""
    fx, fy = (f[y, x + 1] - f[y, x - 1]) / 2, (f[y + 1, x] - f[y - 1, x]) / 2
    fxx, fyy = f[y, x + 1] - 2 * f[y, x] + f[y, x - 1], f[y + 1, x] - 2 * f[y, x] + f[y - 1, x]
    fxy = (f[y + 1, x + 1] - f[y + 1, x - 1] - f[y - 1, x + 1] + f[y - 1, x - 1]) / 4
    det = fxx * fyy - fxy * fxy
    det = np.where(det > 1e-12, det, np.inf)
    step = np.stack([fxy * fy - fyy * fx, fxy * fx - fxx * fy], -1) / det[:, None]
    return np.clip(step, -0.7, 0.7)
