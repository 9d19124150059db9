"""What tells object from surroundings without knowing either: agreement of photos on the plane and far behind.

A pixel that shows the support plane looks the same in other photos once these are warped through the plane; a
pixel that shows the far surroundings agrees through some plane far behind the object. The object does neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from numba import njit

from recon.data import SupportPlane
from recon.isolate.frames import Frame, in_threads, plane_homography, warp

PATCH_PX = 3
"""Side of the window that colour differences are averaged over."""
TEXTURE_PX = 9
"""Side of the window of the correlation; wider than the colour patch because correlation needs texture."""
NOISE_VARIANCE = 2e-5
"""Added to patch variances (0..1 units): the variance of sensor noise and JPEG, below which texture means nothing."""
UNKNOWN = np.float32(np.nan)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def quantile_over_first(
    values: Float32[np.ndarray, "k h w"], share: float, at_least: int
) -> Float32[np.ndarray, "h w"]:
    """The `share` quantile over axis 0, NaN left out; NaN where fewer than `at_least` values remain."""
    k, h, w = values.shape
    out = np.empty((h, w), np.float32)
    for y in range(h):
        row = np.empty(k, np.float32)
        for x in range(w):
            n = 0
            for i in range(k):
                value = values[i, y, x]
                if not np.isnan(value):
                    j = n
                    while j > 0 and row[j - 1] > value:
                        row[j] = row[j - 1]
                        j -= 1
                    row[j] = value
                    n += 1
            out[y, x] = row[int(share * (n - 1) + 0.5)] if n >= at_least else np.nan
    return out


def spread_views(
    centres: Float64[np.ndarray, "n 3"], start: int, allowed: Sequence[int], count: int
) -> Int[np.ndarray, " k"]:
    """`count` of the `allowed` views, each the farthest from those chosen before, beginning at `start`."""
    pool = np.array([i for i in allowed if i != start], int)
    distance = np.linalg.norm(centres[pool] - centres[start], axis=1)
    chosen: list[int] = []
    while len(chosen) < min(count, len(pool)):
        best = int(np.argmax(distance))
        chosen.append(int(pool[best]))
        distance = np.minimum(distance, np.linalg.norm(centres[pool] - centres[pool[best]], axis=1))
    return np.array(chosen, int)


def unknown(frame: Frame) -> Float32[np.ndarray, "h w"]:
    """A cue that says nothing."""
    return np.full(frame.shape(), UNKNOWN, np.float32)


def greatest_channel(image: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    """The largest of each pixel's three values; NumPy's own maximum over so short an axis is twenty times slower."""
    greatest: Float32[np.ndarray, "h w"] = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])
    return greatest


def patch_mean(image: Float32[np.ndarray, "h w"], side_px: int) -> Float32[np.ndarray, "h w"]:
    return cv2.blur(image, (side_px, side_px), borderType=cv2.BORDER_REFLECT)


def patch_mean_of_valid(
    image: Float32[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], side_px: int
) -> Float32[np.ndarray, "h w"]:
    """The mean over the valid pixels of each patch; NaN where the middle is not valid.

    A NaN must not reach OpenCV's box filter: its running sums would carry it to the end of the row.
    """
    share = patch_mean(valid.astype(np.float32), side_px)
    mean = patch_mean(np.where(valid, image, np.float32(0)), side_px) / np.maximum(share, np.float32(1e-6))
    return np.where(valid, mean, UNKNOWN)


def level_gain(a: Float32[np.ndarray, "n 3"], b: Float32[np.ndarray, "n 3"]) -> Float32[np.ndarray, "3"]:
    """The per-channel gain that brings `b` to `a`: the median ratio, deaf to what does not correspond."""
    step = max(1, len(a) // 4000)
    return np.median((a[::step] + 0.02) / (b[::step] + 0.02), axis=0).astype(np.float32)


def compare(
    target: Float32[np.ndarray, "h w 3"], warped: Float32[np.ndarray, "h w 3"], valid: np.ndarray
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Colour difference (exposure levelled) and 1 - correlation of luminance per patch; NaN where not `valid`."""
    weight = valid.astype(np.float32)
    warped = np.where(valid[..., None], warped, 0)
    gain = level_gain(target[valid], warped[valid])
    off = greatest_channel(np.abs(target - warped * gain)) * weight
    n = np.maximum(patch_mean(weight, PATCH_PX), 1e-6)
    colour = patch_mean(off, PATCH_PX) / n
    a, b = target.mean(2) * weight, warped.mean(2)
    n = np.maximum(patch_mean(weight, TEXTURE_PX), 1e-6)
    mean_a, mean_b = patch_mean(a, TEXTURE_PX) / n, patch_mean(b, TEXTURE_PX) / n
    var_a = patch_mean(a * a, TEXTURE_PX) / n - mean_a**2
    var_b = patch_mean(b * b, TEXTURE_PX) / n - mean_b**2
    both = patch_mean(a * b, TEXTURE_PX) / n - mean_a * mean_b
    texture = 1 - both / np.sqrt((np.maximum(var_a, 0) + NOISE_VARIANCE) * (np.maximum(var_b, 0) + NOISE_VARIANCE))
    colour[~valid], texture[~valid] = UNKNOWN, UNKNOWN
    return colour, texture


def plane_cue(frames: Sequence[Frame], view: int, plane: SupportPlane, n_others: int) -> Float32[np.ndarray, "h w 3"]:
    """How badly a photo agrees with others through the plane: colour at two quantiles, texture; NaN off the plane.

    A low quantile over many well-spread photos is used because the object hides the same spot of the plane in some.
    """
    frame = frames[view]
    centres = np.array([f.centre_world() for f in frames])
    above = [i for i, c in enumerate(centres) if c @ plane.normal_world > plane.offset]
    h, w = frame.shape()
    yy, xx = np.mgrid[:h, :w].astype(np.float32) + np.float32(0.5)
    colours: list[np.ndarray] = []
    textures: list[np.ndarray] = []
    for other in spread_views(centres, view, above, n_others):
        homography = plane_homography(frame, frames[other], plane.normal_world, plane.offset)
        # The sign of the third coordinate tells plane points before the other camera from those behind it.
        before = homography[2, 0] * xx + homography[2, 1] * yy + homography[2, 2] > 0
        warped = warp(frames[other].rgb, homography, (h, w))
        valid = before & on_plane(frame, plane) & np.isfinite(warped[..., 0])
        if valid.sum() < 0.01 * h * w:
            continue
        colour, texture = compare(frame.rgb, warped, valid)
        colours.append(colour)
        textures.append(texture)
    if len(colours) < 2:
        return np.full((h, w, 3), UNKNOWN, np.float32)
    stacked = np.stack(colours)
    return np.dstack(
        [
            quantile_over_first(stacked, 0.3, 2),
            quantile_over_first(stacked, 0.6, 2),
            quantile_over_first(np.stack(textures), 0.35, 2),
        ]
    )


def on_plane(frame: Frame, plane: SupportPlane) -> np.ndarray:
    """Which pixels look at the plane (below its horizon), seen from above it."""
    h, w = frame.shape()
    height = float(plane.normal_world @ frame.centre_world()) - plane.offset
    normal = np.linalg.inv(frame.camera.matrix()).T @ (frame.cam_from_world.rotation @ plane.normal_world)
    yy, xx = np.mgrid[:h, :w] + 0.5
    downward = normal[0] * xx + normal[1] * yy + normal[2]
    # 0.02: at a flatter angle than about one degree a pixel spans the whole plane.
    return (downward < -0.02) & (height > 0)


def far_cues(
    frames: Sequence[Frame], focus_world: Float64[np.ndarray, "3"], n_others: int
) -> list[Float32[np.ndarray, "_ _"]]:
    """For each photo how badly it is explained by planes well behind the looked-at point, up to infinity.

    Worked out at half size: surroundings need no sharp edge here.
    """
    small = [halved(f) for f in frames]
    centres = np.array([f.centre_world() for f in frames])
    # Evenly spaced disparities from 1.8 times the focus's depth to (nearly) infinity.
    disparities = np.maximum(np.linspace(1 / 1.8, 0, 9), 1e-3)

    def one(i: int) -> np.ndarray:
        nearest = np.argsort(np.linalg.norm(centres - centres[i], axis=1))[1 : n_others + 1]
        focus_depth_z = float(frames[i].cam_from_world.apply(focus_world[None])[0, 2])
        if focus_depth_z <= 0:
            return unknown(frames[i])
        cost = sweep_cost(small, i, [int(k) for k in nearest], [focus_depth_z / d for d in disparities])
        return cv2.resize(cost, frames[i].shape()[::-1], interpolation=cv2.INTER_LINEAR)

    return in_threads(one, range(len(frames)))


def halved(frame: Frame) -> Frame:
    """The same photo at half its working size."""
    h, w = frame.shape()
    size = (max(1, w // 2), max(1, h // 2))
    rgb = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
    return Frame(frame.name, rgb, frame.camera.resized(*size), frame.cam_from_world)


def sweep_cost(
    frames: Sequence[Frame], view: int, others: Sequence[int], depths_z: Sequence[float]
) -> Float32[np.ndarray, "h w"]:
    """The best agreement over fronto-parallel planes: min over depths of the second-best colour difference."""
    frame = frames[view]
    forward = frame.cam_from_world.rotation[2]
    start = float(forward @ frame.centre_world())
    best = np.full(frame.shape(), np.inf, np.float32)
    for depth_z in depths_z:
        costs = []
        for other in others:
            homography = plane_homography(frame, frames[other], forward, start + depth_z)
            warped = warp(frames[other].rgb, homography, frame.shape())
            valid = np.isfinite(warped[..., 0])
            costs.append(patch_mean_of_valid(greatest_channel(np.abs(frame.rgb - warped)), valid, PATCH_PX))
        agreed = quantile_over_first(np.stack(costs), 0.34, 1)
        best = np.fmin(best, agreed)
    best[~np.isfinite(best)] = UNKNOWN
    return best
