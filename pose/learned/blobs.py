"""Blobs of a locally normalised photo with sub-pixel positions: where descriptors are taken.

Tops of the determinant of the Hessian (Beaudet 1978; Mikolajczyk et al. 2005 on its repeatability). On wide pairs of
photos they come back within half a pixel twice as often as corners by the structure tensor's smaller eigenvalue.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32

SIGMA_PX = 1.5
"""Width of the Gaussian that derivatives are taken with."""
APART_PX = 2
"""A blob is the strongest within a square of this half side."""
BORDER_PX = 6
WEAKEST = 1e-4
"""Determinants below this are rounding on plain surfaces."""


def find_blobs(
    normalised: Float32[np.ndarray, "h w"], n_most: int
) -> tuple[Float32[np.ndarray, "n 2"], Float32[np.ndarray, " n"]]:
    """Positions (x, y in px, centres at +0.5) of the `n_most` strongest blobs, and log strengths, strongest first.

    The strength is sigma^4 times the determinant of the Hessian of the smoothed picture, dark and bright blobs alike.
    """
    strength = _hessian_determinant(normalised)
    around = cv2.dilate(strength, np.ones((2 * APART_PX + 1,) * 2, np.uint8))
    peak = (strength == around) & (strength > WEAKEST)
    inner = np.zeros_like(peak)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    y, x = np.nonzero(peak & inner)
    order = np.argsort(-strength[y, x], kind="stable")[:n_most]
    y, x = y[order], x[order]
    position = np.stack([x, y], -1) + 0.5 + _to_peak(strength, x, y)
    return position.astype(np.float32), np.log(strength[y, x])


def _hessian_determinant(picture: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    smooth = cv2.GaussianBlur(picture, (0, 0), SIGMA_PX)
    second, first = np.array([[1, -2, 1]], np.float32), np.array([[-0.5, 0, 0.5]], np.float32)
    xx, yy = cv2.filter2D(smooth, -1, second), cv2.filter2D(smooth, -1, second.T)
    xy = cv2.filter2D(cv2.filter2D(smooth, -1, first), -1, first.T)
    return (xx * yy - xy * xy) * np.float32(SIGMA_PX**4)


def _to_peak(f: Float32[np.ndarray, "h w"], x: np.ndarray, y: np.ndarray) -> Float32[np.ndarray, "n 2"]:
    """From each maximum's pixel to the top of the quadratic through its neighbours, at most 0.7 px along each axis."""
    fx, fy = (f[y, x + 1] - f[y, x - 1]) / 2, (f[y + 1, x] - f[y - 1, x]) / 2
    fxx, fyy = f[y, x + 1] - 2 * f[y, x] + f[y, x - 1], f[y + 1, x] - 2 * f[y, x] + f[y - 1, x]
    fxy = (f[y + 1, x + 1] - f[y + 1, x - 1] - f[y - 1, x + 1] + f[y - 1, x - 1]) / 4
    det = fxx * fyy - fxy * fxy
    det = np.where(det > 1e-12, det, np.inf)
    step = np.stack([fxy * fy - fyy * fx, fxy * fx - fxx * fy], -1) / det[:, None]
    return np.clip(step, -0.7, 0.7)
