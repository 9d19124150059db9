"""Outlines at the photo's own resolution: a second, sharp-eyed classifier in a narrow band around the coarse ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from recon.data import SupportPlane
from recon.isolate.carve import signed_distance_px
from recon.isolate.classify import PixelClassifier
from recon.isolate.cues import level_gain, quantile_over_first, spread_views
from recon.isolate.frames import Frame, plane_homography, warp
from recon.isolate.segment import cut


@dataclass(frozen=True)
class Ring:
    """The pixels of one photo near its coarse outline, with what the classifier sees of them."""

    distance_px: Float32[np.ndarray, "h w"]
    """Signed distance to the coarse outline, in the photo's own pixels, positive inside."""
    crop: tuple[slice, slice]
    rows: Float32[np.ndarray, "n f"]
    """Features of the pixels of `where`, in order."""
    where: Bool[np.ndarray, "h w"]


def sharp_plane_difference(
    frames: Sequence[Frame], view: int, plane: SupportPlane, n_others: int
) -> Float32[np.ndarray, "h w 3"]:
    """Signed difference to what the plane looks like in other photos, per channel; 0 where they do not see it.

    Unlike the coarse cue nothing is averaged over patches, so the difference ends where the object ends.
    """
    frame = frames[view]
    centres = np.array([f.centre_world() for f in frames])
    above = [i for i, c in enumerate(centres) if c @ plane.normal_world > plane.offset]
    stack = []
    for other in spread_views(centres, view, above, n_others):
        homography = plane_homography(frame, frames[other], plane.normal_world, plane.offset)
        warped = warp(frames[other].rgb, homography, frame.shape())
        valid = np.isfinite(warped[..., 0])
        if valid.any():
            stack.append(warped * level_gain(frame.rgb[valid], warped[valid]))
    if not stack:
        return np.zeros_like(frame.rgb)
    per_channel = [
        frame.rgb[..., c] - quantile_over_first(np.stack([s[..., c] for s in stack]), 0.5, 1) for c in range(3)
    ]
    return np.nan_to_num(np.dstack(per_channel)).astype(np.float32)


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


def ring_of(
    frame: Frame,
    mask: Bool[np.ndarray, "h w"],
    difference: Float32[np.ndarray, "h w 3"],
    band_px: float,
    unit_px: float,
) -> Ring:
    """Features around one outline. band_px: how wide the ring is; unit_px: photo pixels per coarse pixel."""
    full = cv2.resize(mask.astype(np.float32), frame.shape()[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    distance = signed_distance_px(full)
    where = np.abs(distance) < band_px
    if not where.any():
        return Ring(distance, (slice(0, 0), slice(0, 0)), np.zeros((0, 15), np.float32), where)
    ys, xs = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    crop = (slice(int(ys[0]), int(ys[-1]) + 1), slice(int(xs[0]), int(xs[-1]) + 1))
    lab = cv2.cvtColor(frame.rgb[crop], cv2.COLOR_RGB2LAB) / np.float32(50)
    sure = 2.5 * unit_px
    side = int(12 * unit_px) * 2 + 1
    outside = local_distance(lab, distance[crop] < -sure, side)
    inside = local_distance(lab, distance[crop] > min(sure, 0.5 * float(distance.max())), side)
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    diff = difference[crop]
    size = np.log(np.abs(diff).max(2) + np.float32(0.01)) + 3
    parts = [lab, smooth, diff * 5, size, cv2.blur(size, (3, 3)), outside, inside, outside - inside]
    stack = np.dstack([np.asarray(p, np.float32) for p in parts])
    return Ring(distance, crop, stack[where[crop]], where)


def refine(
    frames: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "h w"]],
    plane: SupportPlane | None,
    smoothness: float,
    seed: int,
) -> list[UInt8[np.ndarray, "h w"]]:
    """Masks at the photos' own size (255 object, soft at the edge) from coarse ones."""
    unit_px = max(frames[0].shape()) / max(masks[0].shape)
    band_px = 9 * unit_px
    rings = []
    for i, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        difference = np.zeros_like(frame.rgb) if plane is None else sharp_plane_difference(frames, i, plane, 5)
        rings.append(ring_of(frame, mask, difference, band_px, unit_px))
    classifier = train(rings, 2.0 * unit_px, seed)
    return [apply(frame, ring, classifier, unit_px, smoothness) for frame, ring in zip(frames, rings, strict=True)]


def train(rings: Sequence[Ring], sure_px: float, seed: int) -> PixelClassifier:
    """Learn from the ring's two rims, leaving out what lies within `sure_px` of the coarse outline."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for ring in rings:
        distance = ring.distance_px[ring.where]
        for chosen, label in ((distance > sure_px, 1.0), (distance < -sure_px, 0.0)):
            index = np.flatnonzero(chosen)
            index = rng.choice(index, min(1500, len(index)), replace=False)
            rows.append(ring.rows[index])
            labels.append(np.full(len(index), label, np.float32))
    return PixelClassifier(np.concatenate(rows), np.concatenate(labels), 600, seed)


def apply(
    frame: Frame, ring: Ring, classifier: PixelClassifier, unit_px: float, smoothness: float
) -> UInt8[np.ndarray, "h w"]:
    """One photo's mask from its ring."""
    out = (ring.distance_px > 0).astype(np.float32)
    if not len(ring.rows):
        return (out * 255).astype(np.uint8)
    log_odds = np.zeros(frame.shape(), np.float32)
    log_odds[ring.where] = np.clip(classifier.log_odds(ring.rows), -4, 4)
    # The coarse outline is right within a few coarse pixels: further off it weighs more than any colour.
    beyond = np.sign(ring.distance_px) * np.maximum(np.abs(ring.distance_px) / unit_px - 1.5, 0)
    log_odds += beyond
    crop = ring.crop
    band = (np.abs(ring.distance_px) < 6 * unit_px)[crop]
    start = np.where(band, log_odds[crop] > 0, out[crop] > 0.5).astype(np.float32)
    out[crop] = cut(frame.rgb[crop], log_odds[crop], start, band, smoothness, 150)
    return np.rint(cv2.GaussianBlur((out > 0.5).astype(np.float32), (0, 0), 0.6) * 255).astype(np.uint8)
