"""Outlines at the photo's own resolution: a second, sharp-eyed classifier in a narrow band around the coarse ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from jaxtyping import Bool, Float16, Float32
from scipy import ndimage

from recon.data import SupportPlane
from recon.isolate.carve import signed_distance_px
from recon.isolate.classify import PixelClassifier
from recon.isolate.cues import greatest_channel, level_gain, quantile_over_first, spread_views
from recon.isolate.frames import Frame, in_threads, plane_homography, warp
from recon.isolate.segment import cut

Agree = Callable[[Sequence[Bool[np.ndarray, "_ _"]]], list[tuple[Bool[np.ndarray, "_ _"], Bool[np.ndarray, "_ _"]]]]
"""From masks that were found each for itself to masks that fit one solid, each with its doubtful gaps."""
RING_WIDTH = 9.0
"""Half width of the ring around an outline, in coarse pixels."""


@dataclass(frozen=True)
class Pass:
    """One pass over the outlines."""

    unit_share: float
    """Distances of this pass are in this share of a coarse pixel."""
    sure_units: float
    """How far off the outlines that the pass begins with may be."""


BELIEF_IN_OTHERS = 1.0
"""Log odds of being object that a pixel gets where only other photos say so."""
PASSES = (Pass(1.0, 2.2), Pass(0.8, 1.5), Pass(0.6, 1.2))


@dataclass(frozen=True)
class Ring:
    """The pixels of one photo near its coarse outline, with what the classifier sees of them."""

    crop: tuple[slice, slice]
    """The part of the photo that holds the ring; the arrays below are of this part."""
    rgb: Float32[np.ndarray, "h w 3"]
    distance_px: Float16[np.ndarray, "h w"]
    """Signed distance to the coarse outline, in the photo's own pixels, positive inside."""
    where: Bool[np.ndarray, "h w"]
    doubtful: Bool[np.ndarray, "h w"]
    """Inside the outline because of other photos' masks alone."""
    rows: Float16[np.ndarray, "n f"]
    """Features of the pixels of `where`, in order."""


def sharp_plane_difference(
    frames: Sequence[Frame], view: int, plane: SupportPlane, n_others: int, crop: tuple[slice, slice]
) -> Float16[np.ndarray, "h w 4"]:
    """Signed difference to what the plane looks like in other photos, per channel, and the tolerant difference.

    Unlike the coarse cue nothing is averaged over patches, so the difference ends where the object ends. The tolerant
    one (last channel) is to the nearest of the colours within a pixel: print hardly differs by it where cameras are off
    by half a pixel. All are 0 where no other photo sees the plane.
    """
    frame = frames[view]
    centres = np.array([f.centre_world() for f in frames])
    above = [i for i, c in enumerate(centres) if c @ plane.normal_world > plane.offset]
    photo_from_crop = np.array([[1, 0, crop[1].start], [0, 1, crop[0].start], [0, 0, 1.0]])
    rgb = frame.rgb[crop]
    stack, tolerant = [], []
    window = np.ones((3, 3), np.uint8)
    for other in spread_views(centres, view, above, n_others):
        homography = plane_homography(frame, frames[other], plane.normal_world, plane.offset) @ photo_from_crop
        warped = warp(frames[other].rgb, homography, rgb.shape[:2])
        valid = np.isfinite(warped[..., 0])
        if valid.any():
            levelled = warped * level_gain(rgb[valid], warped[valid])
            stack.append(levelled)
            off = np.maximum(cv2.erode(levelled, window) - rgb, rgb - cv2.dilate(levelled, window))
            tolerant.append(greatest_channel(np.maximum(off, 0)))
    if not stack:
        return np.zeros((*rgb.shape[:2], 4), np.float16)
    per_channel = [rgb[..., c] - quantile_over_first(np.stack([s[..., c] for s in stack]), 0.5, 1) for c in range(3)]
    per_channel.append(quantile_over_first(np.stack(tolerant), 0.4, 1))
    # OpenCV's erosion leaves the largest float where a window holds nothing.
    return np.clip(np.nan_to_num(np.dstack(per_channel)), -1, 1).astype(np.float16)


def local_distance(
    lab: Float32[np.ndarray, "h w 3"], members: Bool[np.ndarray, "h w"], side_px: int
) -> Float32[np.ndarray, "h w"]:
    """How far each pixel's colour is from the `members` nearby, in their standard deviations (log scale)."""
    weight = members.astype(np.float32)
    size = (side_px, side_px)
    n = cv2.blur(weight, size)
    known = n > 1e-4
    safe = np.where(known, n, 1)[..., None]
    mean = cv2.blur(lab * weight[..., None], size) / safe
    variance = cv2.blur((lab**2) * weight[..., None], size) / safe - mean**2
    squared = ((lab - mean) ** 2 / (np.maximum(variance, 0) + np.float32(2e-3))).mean(2)
    return np.where(known, np.log1p(squared), 2).astype(np.float32)


def crop_around(frame: Frame, mask: Bool[np.ndarray, "h w"], margin_px: int) -> tuple[slice, slice]:
    """The part of a photo that holds a coarse mask and `margin_px` photo pixels around it; empty for no mask."""
    h, w = frame.shape()
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(ys):
        return slice(0, 0), slice(0, 0)
    sy, sx = h / mask.shape[0], w / mask.shape[1]
    return (
        slice(max(0, int(ys[0] * sy) - margin_px), min(h, int((ys[-1] + 1) * sy) + margin_px)),
        slice(max(0, int(xs[0] * sx) - margin_px), min(w, int((xs[-1] + 1) * sx) + margin_px)),
    )


def ring_of(
    frame: Frame,
    known: tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]],
    crop: tuple[slice, slice],
    difference: Float16[np.ndarray, "h_crop w_crop 4"],
    unit_px: float,
    sure_px: float,
) -> Ring:
    """Features around one outline.

    known: the mask and its doubtful gaps. unit_px: the pass's unit; sure_px: how far off the outline may be.
    """
    mask, doubtful = known
    full = cv2.resize((mask | doubtful).astype(np.float32), frame.shape()[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    distance = signed_distance_px(full)[crop]
    unsure = cv2.resize(doubtful.astype(np.uint8), frame.shape()[::-1], interpolation=cv2.INTER_NEAREST)[crop] > 0
    where = (np.abs(distance) < RING_WIDTH * unit_px) | unsure
    rgb = frame.rgb[crop]
    if not where.any():
        return Ring(crop, rgb, distance.astype(np.float16), where, unsure, np.zeros((0, 0), np.float16))
    lab = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2LAB) / np.float32(50)
    side = int(12 * unit_px) * 2 + 1
    outside = local_distance(lab, distance < -sure_px, side)
    inside = local_distance(lab, (distance > min(sure_px, 0.5 * float(distance.max()))) & ~unsure, side)
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    signed = difference[..., :3].astype(np.float32)
    tolerant = np.log(difference[..., 3].astype(np.float32) + np.float32(0.01)) + 3
    size = np.log(greatest_channel(np.abs(signed)) + np.float32(0.01)) + 3
    plane = [signed * 5, size, cv2.blur(size, (3, 3)), tolerant, cv2.blur(tolerant, (5, 5))]
    parts = [lab, smooth, *plane, outside, inside, outside - inside]
    stack = np.dstack([np.asarray(p, np.float32) for p in parts])
    # Half precision: the rings of a large capture fill gigabytes, and no feature needs a thousandth of its range.
    return Ring(crop, rgb, distance.astype(np.float16), where, unsure, stack[where].astype(np.float16))


def refine(
    frames: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    plane: SupportPlane | None,
    agreed: Agree,
    smoothness: float,
    seed: int,
) -> list[Bool[np.ndarray, "_ _"]]:
    """Masks at the photos' own size from coarse ones.

    Outlines are found anew in every pass, nearer to those of the pass before; between passes `agreed` overrules what
    single photos got wrong.
    """
    unit_px = max(frames[0].shape()) / max(masks[0].shape)
    crops = [crop_around(f, m, int(10 * unit_px)) for f, m in zip(frames, masks, strict=True)]

    def difference_of(i: int, crop: tuple[slice, slice]) -> np.ndarray:
        if plane is None or crop[0].stop <= crop[0].start:
            return np.zeros((*frames[i].rgb[crop].shape[:2], 4), np.float16)
        return sharp_plane_difference(frames, i, plane, 5, crop)

    differences = in_threads(difference_of, range(len(frames)), crops)
    known = [(m, np.zeros_like(m)) for m in masks]
    for plan in PASSES:
        px = plan.unit_share * unit_px
        sure_px = plan.sure_units * px
        rings = in_threads(partial(ring_of, unit_px=px, sure_px=sure_px), frames, known, crops, differences)
        classifier = train(rings, sure_px, seed)
        sharp = in_threads(partial(apply, classifier=classifier, unit_px=px, smoothness=smoothness), frames, rings)
        known = agreed(sharp)
    return [mask for mask, _ in known]


def without_specks(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """A mask without parts smaller than half a per cent of its largest part."""
    labels, n = ndimage.label(mask)
    if n <= 1:
        return mask
    area = np.bincount(labels.ravel())
    area[0] = 0
    kept: np.ndarray = (area >= 0.005 * area.max())[labels] & mask
    return kept


def train(rings: Sequence[Ring], sure_px: float, seed: int) -> PixelClassifier:
    """Learn from the ring's two rims, leaving out what lies within `sure_px` of the coarse outline."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for ring in rings:
        distance = np.where(ring.doubtful, 0, ring.distance_px)[ring.where]
        for chosen, label in ((distance > sure_px, 1.0), (distance < -sure_px, 0.0)):
            index = np.flatnonzero(chosen)
            if len(index):
                index = rng.choice(index, min(1500, len(index)), replace=False)
                rows.append(ring.rows[index])
                labels.append(np.full(len(index), label, np.float32))
    return PixelClassifier(np.concatenate(rows).astype(np.float32), np.concatenate(labels), 600, seed)


def apply(
    frame: Frame, ring: Ring, classifier: PixelClassifier, unit_px: float, smoothness: float
) -> Bool[np.ndarray, "h_photo w_photo"]:
    """One photo's mask from its ring."""
    out = np.zeros(frame.shape(), bool)
    inside = (ring.distance_px > 0).astype(np.float32)
    if len(ring.rows):
        log_odds = np.zeros(inside.shape, np.float32)
        log_odds[ring.where] = np.clip(classifier.log_odds(ring.rows.astype(np.float32)), -4, 4)
        # The coarse outline is right within a few coarse pixels: further off it weighs more than any colour.
        distance = ring.distance_px.astype(np.float32)
        belief = np.sign(distance) * np.maximum(np.abs(distance) / unit_px - 1.5, 0)
        log_odds += np.where(ring.doubtful, BELIEF_IN_OTHERS, belief)
        band = (np.abs(distance) < 6 * unit_px) | ring.doubtful
        start = np.where(band, log_odds > 0, inside > 0.5).astype(np.float32)
        inside = cut(ring.rgb, log_odds, start, band, smoothness, 150)
    out[ring.crop] = without_specks(inside > 0.5)
    return out
