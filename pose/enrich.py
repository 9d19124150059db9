"""More features for some photos, added to those that a database already holds, with their matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from scipy.spatial import cKDTree

from pose.colmap_io import database_name, silenced, write_database
from pose.features import FeaturesConfig, PhotoFeatures, kept, root_sift
from pose.matching import match_pairs, read_matches, verification_options
from recon.data import Capture, Photo

Detector = Callable[[UInt8[np.ndarray, "h w"]], PhotoFeatures]
"""Finds the features of a grey photo."""

SAME_PLACE_PX = 0.25
"""A new feature this near to an old one is the same one: sub-pixel refinement scatters by about a tenth of a pixel."""


@dataclass
class Evidence:
    """What every mapping of a capture starts from: its photos' features, and a database with their matches."""

    capture: Capture
    features: list[PhotoFeatures]
    """Of each photo; new ones are appended, so that the indices of the old ones stay true."""
    database: Path
    seed: int = 0
    region: Bool[np.ndarray, "h w"] | None = None
    """The part of the photos, at any size, that features may come from; None is all."""


def inside(region: Bool[np.ndarray, "h w"], found: PhotoFeatures, photo: Photo) -> Bool[np.ndarray, " n"]:
    """Which features of a photo lie in a region."""
    h, w = region.shape
    col = np.clip((found.keypoints[:, 0] * w / photo.width_px).astype(int), 0, w - 1)
    row = np.clip((found.keypoints[:, 1] * h / photo.height_px).astype(int), 0, h - 1)
    return region[row, col]


def enrich(
    evidence: Evidence,
    pairs: Sequence[tuple[int, int]],
    detector: Detector,
    min_inliers: int,
    progress: Callable[[float, float, str], None],
) -> int:
    """Detect features anew in the photos of `pairs`, match them, and add both to the evidence; how many pairs gained.

    New features are matched among themselves only: detectors of different kinds have nothing to say to each other.
    """
    positions = sorted({i for pair in pairs for i in pair})
    none = PhotoFeatures(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    fresh = [none] * len(evidence.features)
    for done, i in enumerate(positions, 1):
        photo = evidence.capture.photos[i]
        with Image.open(evidence.capture.image_path(photo.name)) as image:
            fresh[i] = detector(np.asarray(image.convert("L")))
        if evidence.region is not None:
            keep = inside(evidence.region, fresh[i], photo)
            fresh[i] = PhotoFeatures(fresh[i].keypoints[keep], fresh[i].descriptors[keep])
        progress(0.3 * done, len(positions), "finding more features")
    scratch = evidence.database.with_name("scratch.db")
    write_database(scratch, evidence.capture, fresh)

    def matching(done: float, total: float, note: str) -> None:
        progress(0.3 * total + 0.7 * done, total, note)

    match_pairs(scratch, pairs, evidence.seed, matching, guided=True, min_inliers=min_inliers)
    found = read_matches(scratch)
    scratch.unlink()
    new_index = {}
    for i in positions:
        evidence.features[i], new_index[i] = joined(evidence.features[i], fresh[i])
    found = {(i, j): np.stack([new_index[i][m[:, 0]], new_index[j][m[:, 1]]], 1) for (i, j), m in found.items()}
    _rewrite(evidence, found, min_inliers)
    return len(found)


def joined(old: PhotoFeatures, new: PhotoFeatures) -> tuple[PhotoFeatures, Int[np.ndarray, " n_new"]]:
    """The old features and the new ones that are not among them, and where each new one is in the result."""
    n_old, n_new = len(old.keypoints), len(new.keypoints)
    same = np.full(n_new, -1)
    if n_old and n_new:
        distance, nearest = cKDTree(old.keypoints[:, :2]).query(new.keypoints[:, :2])
        close = distance < SAME_PLACE_PX
        turned = np.abs(np.angle(np.exp(1j * (old.keypoints[nearest, 3] - new.keypoints[:, 3]).astype(float))))
        scale = np.abs(np.log(np.maximum(old.keypoints[nearest, 2], 1e-3) / np.maximum(new.keypoints[:, 2], 1e-3)))
        same[close & (turned < 0.2) & (scale < 0.2)] = 0
        same[same == 0] = nearest[same == 0]
    added = same < 0
    index = same.copy()
    index[added] = n_old + np.arange(int(added.sum()))
    keypoints = np.concatenate([old.keypoints, new.keypoints[added]])
    return PhotoFeatures(keypoints, np.concatenate([old.descriptors, new.descriptors[added]])), index


def _rewrite(evidence: Evidence, found: dict[tuple[int, int], Int[np.ndarray, "_ 2"]], min_inliers: int) -> None:
    """A new database with the joined features: old geometries as they were, pairs with new matches verified anew."""
    pycolmap = silenced()
    target = evidence.database.with_name("richer.db")
    write_database(target, evidence.capture, evidence.features)
    old, new = pycolmap.Database.open(evidence.database), pycolmap.Database.open(target)
    try:
        for pair_id, geometry in zip(*old.read_two_view_geometries(), strict=True):
            a, b = pycolmap.pair_id_to_image_pair(pair_id)
            if (a - 1, b - 1) not in found:
                new.write_two_view_geometry(a, b, geometry)
                continue
            known = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)
            found[a - 1, b - 1] = one_to_one(np.concatenate([known, found[a - 1, b - 1]]))
        for (i, j), matches in found.items():
            new.write_matches(i + 1, j + 1, matches.astype(np.uint32))
    finally:
        old.close()
        new.close()
    listed = target.with_name("pairs.txt")
    listed.write_text("".join(f"{database_name(i)} {database_name(j)}\n" for i, j in found), encoding="utf-8")
    if found:
        pycolmap.verify_matches(target, listed, verification_options(evidence.seed, min_inliers))
    listed.unlink()
    target.replace(evidence.database)


def one_to_one(matches: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "m 2"]:
    """Matches in their order, without those that use a feature a second time."""
    used: tuple[set[int], set[int]] = (set(), set())
    keep = []
    for row, (a, b) in enumerate(matches.tolist()):
        if a not in used[0] and b not in used[1]:
            keep.append(row)
            used[0].add(a)
            used[1].add(b)
    return matches[keep]


def detect_tilted(grey: UInt8[np.ndarray, "h w"], cfg: FeaturesConfig, max_tilt: int) -> PhotoFeatures:
    """SIFT in pictures of the photo as seen from aside (ASIFT; Morel and Yu 2009), for views far apart."""
    h, w = grey.shape
    scale = min(1.0, cfg.max_side_px / max(h, w))
    if scale < 1:
        grey = cv2.resize(grey, (round(w * scale), round(h * scale)), interpolation=cv2.INTER_AREA)
    sift = cv2.SIFT.create(cfg.max_features // 5, 3, cfg.contrast_threshold, enable_precise_upscale=True)
    found, raw = cv2.AffineFeature.create(sift, max_tilt).detectAndCompute(grey, None)
    if raw is None or not len(found):
        return PhotoFeatures(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    keypoints = np.array([(*k.pt, k.size / 2, np.deg2rad(k.angle)) for k in found], np.float64)
    keypoints[:, :2] = (keypoints[:, :2] + 0.5) * (w / grey.shape[1], h / grey.shape[0])
    keypoints[:, 2] /= scale
    keep = kept(keypoints[:, :2], cfg.keep_share)
    return PhotoFeatures(keypoints[keep].astype(np.float32), root_sift(raw[keep]))
