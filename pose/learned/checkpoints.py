"""The border to public checkpoints in ONNX: files that the user has, run by onnxruntime.

Understood are ALIKED's files in COLMAP's form (colmap/feature/aliked.cc): inputs image (1 3 h w, 0..1, sides multiples
of 32), max_keypoints and min_score; outputs keypoints (-1..1 between the centres of the corner pixels), descriptors
(unit length, up to 128 numbers) and scores. PyPI's pycolmap is built without ONNX, so it cannot run them itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from pose.features import PhotoFeatures
from recon.errors import UserError

SIDE_MULTIPLE = 32
MIN_SCORE = 0.1
SCALE_PX = 2.0
ONE = 360
"""A descriptor's unit as bytes: COLMAP's largest distance between matches, 0.7 of 512, becomes 1.0."""


def detect_by_checkpoint(grey: Float32[np.ndarray, "h w"], checkpoint: Path, max_features: int) -> PhotoFeatures:
    """The features that an ONNX file finds in a photo (0..255), best first.

    Raises UserError where the file or onnxruntime is missing, or the file is not ALIKED in COLMAP's form.
    """
    session = _session(checkpoint)
    h, w = grey.shape
    padded = np.pad(grey, ((0, -h % SIDE_MULTIPLE), (0, -w % SIDE_MULTIPLE)), mode="edge") / np.float32(255)
    inputs = {
        "image": np.repeat(padded[None, None], 3, axis=1).astype(np.float32),
        "max_keypoints": np.array(max_features, np.int64),
        "min_score": np.array(MIN_SCORE, np.float32),
    }
    keypoints, descriptors, scores = (out[0] for out in session.run(["keypoints", "descriptors", "scores"], inputs))
    xy_px = (keypoints + 1) / 2 * (np.array(padded.shape[::-1]) - 1) + 0.5
    inside = np.flatnonzero((xy_px >= 0).all(1) & (xy_px < (w, h)).all(1))
    best = inside[np.argsort(-scores[inside], kind="stable")[:max_features]]
    rows = np.zeros((len(best), 4), np.float32)
    rows[:, :2], rows[:, 2] = xy_px[best], SCALE_PX
    return PhotoFeatures(rows, shifted_bytes(descriptors[best]))


def shifted_bytes(descriptors: Float[np.ndarray, "n d"]) -> UInt8[np.ndarray, "n 128"]:
    """Signed unit descriptors as bytes around 128: a matcher by Euclidean distance sees the same neighbours."""
    out = np.full((len(descriptors), 128), 128, np.uint8)
    out[:, : descriptors.shape[1]] = np.clip(np.rint(128 + ONE * descriptors), 0, 255)
    return out


@cache
def _session(checkpoint: Path) -> Any:
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} is missing; name an ONNX file that exists.")
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{checkpoint} needs onnxruntime: pip install onnxruntime.") from error
    try:
        session = onnxruntime.InferenceSession(checkpoint, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base class
        raise UserError(f"{checkpoint} cannot be read as an ONNX file; download it again.") from error
    names = {i.name for i in session.get_inputs()}, {o.name for o in session.get_outputs()}
    if names != ({"image", "max_keypoints", "min_score"}, {"keypoints", "descriptors", "scores"}):
        raise UserError(f"{checkpoint} is no ALIKED file in COLMAP's form; use one that COLMAP itself reads.")
    return session
