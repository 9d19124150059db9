"""Keypoints and descriptors by our own small network, as the same noun that SIFT gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, reduce
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch.nn import functional

from pose.features import PhotoFeatures
from pose.learned.blobs import find_blobs
from pose.learned.config import LearnedConfig
from pose.learned.network import COARSEST, FeatureNet, load_weights, normalised
from recon.errors import UserError

WEIGHTS = Path(__file__).with_name("weights.npz")
LEVELS = (1.0, 0.7, 0.5, 0.35)
"""Sizes at which a photo is looked at; the network itself copes with what lies between."""
BLOB_SIGMA_PX = 2.0
"""What `scale_px` of a keypoint at full size is, so that it compares with SIFT's."""


def detect_learned(grey: UInt8[np.ndarray, "h w"], cfg: LearnedConfig) -> PhotoFeatures:
    """Blobs at several sizes with learned descriptors, the most reliable first.

    Descriptors are non-negative, of unit length, and stored as SIFT's are here: bytes of 512 times the value. Made for
    photos turned within about 30 degrees of each other. Raises UserError where `cfg.checkpoint` cannot be used.
    """
    h, w = grey.shape
    scale = min(1.0, cfg.max_side_px / max(h, w))
    size = (round(w * scale), round(h * scale))
    upright = cv2.resize(grey.astype(np.float32), size, interpolation=cv2.INTER_AREA).astype(np.float32)
    image, upright_from_turned = _turned(upright, cfg.turn_deg)
    if cfg.checkpoint.endswith(".onnx"):
        from pose.learned.checkpoints import detect_by_checkpoint

        found = detect_by_checkpoint(image, Path(cfg.checkpoint), cfg.max_features)
    else:
        found = _detect(image, network(cfg.checkpoint), cfg)
    keypoints = found.keypoints.copy()
    keypoints[:, :2] = keypoints[:, :2] @ upright_from_turned[:, :2].T + upright_from_turned[:, 2]
    inside = ((keypoints[:, :2] > 0) & (keypoints[:, :2] < size)).all(1)
    keypoints *= np.array([w / size[0], h / size[1], 1 / scale, 1], np.float32)
    return PhotoFeatures(keypoints[inside], found.descriptors[inside])


def detect_at_turns(
    grey: UInt8[np.ndarray, "h w"], cfg: LearnedConfig, turns_deg: Sequence[float] = (-60.0, 0.0, 60.0)
) -> PhotoFeatures:
    """Learned features of a photo at several turns in one list, to match it with photos taken at no turn.

    Steps of 60 degrees leave no gap, and descriptors of one place at two turns are unlike enough for the ratio test.
    Time and `max_features` count for each turn.
    """
    found = [detect_learned(grey, replace(cfg, turn_deg=cfg.turn_deg + turn)) for turn in turns_deg]
    return reduce(joined, found)


def _turned(
    image: Float32[np.ndarray, "h w"], turn_deg: float
) -> tuple[Float32[np.ndarray, "i j"], Float32[np.ndarray, "2 3"]]:
    """The picture turned counter-clockwise on a sheet that holds all of it, and the way back for pixel positions."""
    if turn_deg == 0:
        return image, np.eye(2, 3, dtype=np.float32)
    h, w = image.shape
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    turn = np.array([[c, s], [-s, c]])  # y points down
    sheet = np.ceil(np.abs(turn) @ (w, h)).astype(int)
    # cv2 counts from the first pixel's centre, we from its corner
    shift = (sheet - 1) / 2 - turn @ ((w - 1) / 2, (h - 1) / 2)
    to_cv = np.column_stack([turn, shift])
    out = cv2.warpAffine(image, to_cv, sheet.tolist(), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    back = np.column_stack([turn.T, np.array([w, h]) / 2 - turn.T @ (sheet / 2)])
    return out.astype(np.float32), back.astype(np.float32)


def joined(first: PhotoFeatures, second: PhotoFeatures) -> PhotoFeatures:
    """Two kinds of features of one photo as one list: a matcher hardly ever takes one kind for the other."""
    return PhotoFeatures(
        np.concatenate([first.keypoints, second.keypoints]), np.concatenate([first.descriptors, second.descriptors])
    )


@cache
def network(checkpoint: str) -> FeatureNet:
    """The network with its own weights, or with those of a file. Raises UserError where the file is of no use."""
    path = Path(checkpoint) if checkpoint else WEIGHTS
    if not path.is_file():
        raise UserError(f"{path} is missing; name a weights file that exists, or none to use the one of recon.")
    try:
        return load_weights(path)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{path} does not hold weights of recon's feature network; use one of its own.") from error


def to_bytes(descriptors: Float[np.ndarray, "n 128"]) -> UInt8[np.ndarray, "n 128"]:
    """Non-negative unit descriptors as bytes of 512 times the value (COLMAP's form of RootSIFT)."""
    return np.clip(np.rint(descriptors * 512), 0, 255).astype(np.uint8)


def _detect(image: Float32[np.ndarray, "h w"], net: FeatureNet, cfg: LearnedConfig) -> PhotoFeatures:
    """Features of a photo of working size, in its own pixels."""
    keypoints, descriptors, scores = [], [], []
    total = sum(level**2 for level in LEVELS)
    for level in LEVELS:
        h, w = (round(side * level) for side in image.shape)
        if min(h, w) < 2 * COARSEST:
            continue
        small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA) if level < 1 else image
        picture = normalised(small)
        xy_px, log_strength = find_blobs(picture, round(cfg.n_candidates * level**2 / total))
        if not len(xy_px):
            continue
        descriptor, score = _describe(picture, xy_px, log_strength, net)
        row = np.full((len(xy_px), 4), (0, 0, BLOB_SIGMA_PX / level, 0), np.float32)
        row[:, :2] = xy_px * (image.shape[1] / w, image.shape[0] / h)
        keypoints.append(row)
        descriptors.append(descriptor)
        scores.append(score)
    if not keypoints:
        return PhotoFeatures(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    best = np.argsort(-np.concatenate(scores), kind="stable")[: cfg.max_features]
    return PhotoFeatures(np.concatenate(keypoints)[best], to_bytes(np.concatenate(descriptors)[best]))


@torch.inference_mode()
def _describe(
    picture: Float32[np.ndarray, "h w"], xy_px: Float32[np.ndarray, "n 2"], log_strength: Float32[np.ndarray, " n"],
    net: FeatureNet,
) -> tuple[Float32[np.ndarray, "n 128"], Float32[np.ndarray, " n"]]:  # fmt: skip
    """Descriptors and reliability logits at positions of one normalised picture."""
    h, w = picture.shape
    padded = functional.pad(torch.from_numpy(picture)[None, None], (0, -w % COARSEST, 0, -h % COARSEST))
    maps = net.maps(padded.contiguous(memory_format=torch.channels_last))
    descriptor, score = net.read(maps, torch.from_numpy(xy_px)[None], torch.from_numpy(log_strength)[None])
    return descriptor[0].numpy(), score[0].numpy()
