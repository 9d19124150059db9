"""How much the view changes between two photos, from thumbnails, and a choice of photos that spreads over it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8
from PIL import Image

from recon.capture.decode import grey_thumbnail

THUMBNAIL_SIDE_PX = 480
"""Views are compared at this size: a step of one degree around an object moves its corners by pixels."""
N_CORNERS = 300
MIN_CORNERS = 12
"""With fewer corners found again nothing is known about the motion."""
MIN_FOLLOWED = 0.15
"""A motion is known where at least this share of the corners is found again."""
MIN_TRACKED = 0.5
"""Two photos of one view have at least this share of their corners in common."""
MAX_SHIFT = 0.05
"""Two photos of one view are shifted by at most this share of the long side; farther, they show different parts."""
MIN_LIKENESS = 0.9
"""Two photos of one view look alike in at least this share of their blocks."""
N_BLOCKS = 12
"""Blocks along the long side whose likeness is looked at one by one."""
MIN_CONTRAST = 4.0
"""Standard deviation (of 45 for the whole thumbnail) from which a block shows anything but noise."""


def thumbnail(rgb: Image.Image, long_side_px: int = THUMBNAIL_SIDE_PX) -> UInt8[np.ndarray, "h w"]:
    """A small grey copy of equal mean and contrast for every photo: following corners presumes equal brightness."""
    return levelled(np.asarray(grey_thumbnail(rgb, long_side_px)))


def thumbnail_of(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The thumbnail of a photo on disk."""
    with Image.open(path) as image:
        image.draft("L", (THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
        return thumbnail(image)


def levelled(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Brightness brought to mean 128 and standard deviation 45."""
    values = grey.astype(np.float32)
    return np.clip((values - values.mean()) * (45 / max(float(values.std()), 1.0)) + 128, 0, 255).astype(np.uint8)


def view_shift(a: UInt8[np.ndarray, "h w"], b: UInt8[np.ndarray, "h2 w2"]) -> float | None:
    """The median way of the corners from one thumbnail to another, as a share of the long side; None where unknown."""
    if a.shape != b.shape:
        return None
    start, end, tracked = _follow(a, b)
    if tracked < MIN_FOLLOWED:
        return None
    return float(np.median(np.linalg.norm(end - start, axis=1))) / max(a.shape)


def is_same_view(a: UInt8[np.ndarray, "h w"], b: UInt8[np.ndarray, "h2 w2"], max_parallax: float) -> bool:
    """Whether two thumbnails show the same scene from the same place, the camera turned a little at most.

    A homography explains where the corners went (its 90th percentile error is below `max_parallax`, a share of the
    long side), and once it is undone nearly every part looks the same.
    """
    if a.shape != b.shape:
        return False
    start, end, tracked = _follow(a, b)
    if tracked < MIN_TRACKED or np.median(np.linalg.norm(end - start, axis=1)) > MAX_SHIFT * max(a.shape):
        return False
    homography, _ = cv2.findHomography(start, end, cv2.RANSAC, 1.0)
    if homography is None:
        return False
    predicted = cv2.perspectiveTransform(start[:, None], homography)[:, 0]
    if np.percentile(np.linalg.norm(predicted - end, axis=1), 90) > max_parallax * max(a.shape):
        return False
    return _likeness(a, b, homography) >= MIN_LIKENESS


def _follow(
    a: UInt8[np.ndarray, "h w"], b: UInt8[np.ndarray, "h w"]
) -> tuple[Float32[np.ndarray, "n 2"], Float32[np.ndarray, "n 2"], float]:
    """Corners of one picture, where they are in the other, and which share was found again.

    By Lucas and Kanade 1981, confirmed on the way back; a share of 0 where too few corners say anything.
    """
    none = np.zeros((0, 2), np.float32)
    corners = cv2.goodFeaturesToTrack(a, N_CORNERS, 0.01, 7)
    if corners is None:
        return none, none, 0.0
    there, found, _ = cv2.calcOpticalFlowPyrLK(a, b, corners, None, winSize=(21, 21), maxLevel=4)  # type: ignore
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(b, a, there, None, winSize=(21, 21), maxLevel=4)  # type: ignore
    good = (found & found_back).ravel().astype(bool) & (np.linalg.norm(back - corners, axis=2).ravel() < 0.5)
    tracked = float(good.mean()) if good.sum() >= MIN_CORNERS else 0.0
    return corners[good, 0], there[good, 0], tracked


def _likeness(
    a: UInt8[np.ndarray, "h w"], b: UInt8[np.ndarray, "h w"], homography: Float64[np.ndarray, "3 3"]
) -> float:
    """Share of the blocks with contrast that correlate well once `b` is brought onto `a`, 0..1.

    A thing that turned before a still background changes only its own blocks, which corners alone may miss.
    """
    h, w = a.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(b, homography, (w, h), flags=flags)
    seen = cv2.warpPerspective(np.full_like(b, 255), homography, (w, h), flags=flags)
    step = max(8, max(h, w) // N_BLOCKS)
    # Blur as strong as a shaken photo's makes a sharp and a blurred photo of one view look alike.
    x, y = (cv2.GaussianBlur(v.astype(np.float32), (0, 0), 3.0) for v in (a, warped))
    alike = []
    for top in range(0, h - step + 1, step):
        for left in range(0, w - step + 1, step):
            block = np.s_[top : top + step, left : left + step]
            if seen[block].min() == 255 and max(x[block].std(), y[block].std()) >= MIN_CONTRAST:
                alike.append(_correlation(x[block], y[block]) > 0.9)
    return float(np.mean(alike)) if alike else 0.0


def _correlation(a: Float[np.ndarray, "h w"], b: Float[np.ndarray, "h w"]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(float(np.sqrt((a * a).sum() * (b * b).sum())), 1e-9))


def spread_choice(
    path: Float64[np.ndarray, " n"], quality: Float64[np.ndarray, " n"], n_wanted: int, min_step: float
) -> Int[np.ndarray, " n_chosen"]:
    """Which photos of a row to keep so that they are sharp and evenly spread over the view's way; indices in order.

    path: how far the view has moved up to each photo, rising; quality: any positive figure. The photo that is missed
    least (the gap it fills times its quality) goes, one after another, until `n_wanted` are left; then, of two
    neighbours closer than `min_step`, the poorer. At least two are kept.
    """
    left = list(range(len(path)))
    while len(left) > max(2, n_wanted):
        at = path[left]
        padded = np.concatenate([[2 * at[0] - at[1]], at, [2 * at[-1] - at[-2]]])
        # The small constant lets quality decide among photos of a view that did not move at all.
        cost = (padded[2:] - padded[:-2] + 1e-9) * quality[left]
        left.pop(int(cost.argmin()))
    while len(left) > 2:
        steps = np.diff(path[left])
        k = int(steps.argmin())
        if steps[k] >= min_step:
            break
        left.pop(k if quality[left[k]] < quality[left[k + 1]] else k + 1)
    return np.array(left, int)
