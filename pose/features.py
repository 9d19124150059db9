"""SIFT keypoints and descriptors of every photo."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from PIL import Image

from recon.data import Capture

KEPT_CELL_PX = 2.0
"""Features in the same square of this size stay or go together."""


@dataclass(frozen=True)
class FeaturesConfig:
    """How much is looked for in each photo."""

    max_side_px: int = 1600
    """Photos are made this small before features are sought, in pixels; raising it finds finer detail, slower."""
    max_features: int = 4000
    """Strongest features kept per photo; matching time grows with its square."""
    contrast_threshold: float = 0.013
    """Weakest contrast of a feature (OpenCV's unit; its own default is 0.04). Lowering it finds more features on plain
    surfaces, and more noise."""
    keep_share: float = 1.0
    """Share of the features that is kept, by a hash of their places; below 1 only to try how robust the rest is."""


@dataclass(frozen=True)
class PhotoFeatures:
    """The features of one photo, strongest first."""

    keypoints: Float32[np.ndarray, "n 4"]
    """x_px, y_px (pixel centres at +0.5, at the photo's working size), scale_px, orientation_rad."""
    descriptors: UInt8[np.ndarray, "n 128"]


def detect(grey: UInt8[np.ndarray, "h w"], cfg: FeaturesConfig) -> PhotoFeatures:
    """SIFT (Lowe 2004) with RootSIFT descriptors (Arandjelovic and Zisserman 2012, eq. 1)."""
    h, w = grey.shape
    scale = min(1.0, cfg.max_side_px / max(h, w))
    if scale < 1:
        grey = cv2.resize(grey, (round(w * scale), round(h * scale)), interpolation=cv2.INTER_AREA)
    # precise upscale: without it OpenCV's keypoints are shifted by a quarter of a pixel
    sift = cv2.SIFT.create(cfg.max_features, 3, cfg.contrast_threshold, enable_precise_upscale=True)
    found, raw = sift.detectAndCompute(grey, None)
    if raw is None or not len(found):
        return PhotoFeatures(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    order = np.argsort([-k.response for k in found], kind="stable")[: cfg.max_features]
    keypoints = np.array([(*k.pt, k.size / 2, np.deg2rad(k.angle)) for k in found], np.float64)[order]
    keypoints[:, :2] = (keypoints[:, :2] + 0.5) * (w / grey.shape[1], h / grey.shape[0])
    keypoints[:, 2] /= scale
    keep = kept(keypoints[:, :2], cfg.keep_share)
    return PhotoFeatures(keypoints[keep].astype(np.float32), root_sift(raw[order][keep]))


def kept(positions_px: Float64[np.ndarray, "n 2"], share: float) -> Bool[np.ndarray, " n"]:
    """Which features stay where only a share of them may.

    Chance by a hash of the place, so that a feature that was taken out does not come back in another detection.
    """
    if share >= 1:
        return np.ones(len(positions_px), bool)
    cell = np.floor(positions_px / KEPT_CELL_PX).astype(np.uint64)
    mixed = (cell[:, 0] * np.uint64(0x9E3779B97F4A7C15)) ^ (cell[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(40)).astype(np.float64) / 2**24 < share


def root_sift(raw: Float[np.ndarray, "n 128"]) -> UInt8[np.ndarray, "n 128"]:
    """L1-normalised square roots, as bytes of 512 times the value (what COLMAP stores)."""
    roots = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-9))
    return np.clip(np.rint(roots * 512), 0, 255).astype(np.uint8)


def detect_all(
    capture: Capture, cfg: FeaturesConfig, progress: Callable[[float, float, str], None]
) -> list[PhotoFeatures]:
    """The features of every photo of a capture, in its order, found in threads."""

    def one(name: str) -> PhotoFeatures:
        with Image.open(capture.image_path(name)) as image:
            return detect(np.asarray(image.convert("L")), cfg)

    out = []
    n = len(capture.photos)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for done, features in enumerate(pool.map(one, [p.name for p in capture.photos]), 1):
            out.append(features)
            progress(done, n, "finding features")
    return out
