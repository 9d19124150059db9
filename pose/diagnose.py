"""Why a capture cannot be solved, read off its photos' features and matches, with what to do when capturing again."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from jaxtyping import Float64
from scipy.sparse.csgraph import connected_components
from skimage.measure import blur_effect

from pose.colmap_io import DEFAULT_FOCAL_FACTOR
from pose.enrich import Evidence
from pose.matching import read_matches
from recon.data import Capture, read_rgb

FEW_FEATURES = 300
"""A photo with fewer features is plain: an ordinary one has thousands."""
BLURRED = 0.62
"""Perceptual blur (Crete et al. 2007; 0 sharp, 1 nothing left) above which a photo is blurred; sharp ones reach 0.5."""
MIN_PAIR_MATCHES = 30
"""Pairs of photos with fewer matches say too little about how the camera moved."""
MAX_PARALLAX = 0.004
"""Matches that a turn of the camera leaves this far apart, as a share of the long side, show no parallax."""


class Trouble(Enum):
    """What is wrong with a capture, and the remedy."""

    few = "there are too few photos: take 20 to 60 all around the object, a step of about 10 degrees each"
    blurred = "nearly all of them are blurred: hold the phone still, tap on the object to focus, and use more light"
    plain = (
        "they show too little texture: put the object on something with a busy pattern, such as a newspaper, "
        "and use more light"
    )
    still = (
        "they were all taken from the same place and nothing in them turns: walk around the object, or turn it on a "
        "turntable before the standing camera"
    )
    turned = (
        "the camera only turned on the spot, which shows no depth: walk around the object, moving sideways between "
        "the photos"
    )
    apart = (
        "they overlap too little: take more photos, a step of about 10 degrees each, so that neighbours show mostly "
        "the same"
    )
    alike = (
        "its sides look alike and nothing around it tells them apart: put the object on something with a busy pattern, "
        "such as a newspaper, and keep that in the picture"
    )
    moving = (
        "they match each other but show no common rigid scene: neither the object nor what it stands on may move "
        "between the photos"
    )


def sentence(capture: Capture, n_placed: int, trouble: Trouble) -> str:
    """The refusal for the user."""
    n = len(capture.photos)
    found = f"Only {n_placed}" if n_placed else "None"
    return f"{found} of {n} photos could be placed in one common scene; {trouble.value}."


def diagnose(evidence: Evidence, folded: bool = False) -> Trouble:
    """The likeliest reason why the photos of a capture could not be placed; `folded` where a model was cut in two."""
    n = len(evidence.features)
    if n < 3:
        return Trouble.few
    if folded:
        return Trouble.alike
    if np.median([_blur(evidence.capture, i) for i in _sample(n, 12)]) > BLURRED:
        return Trouble.blurred
    if np.median([len(f.keypoints) for f in evidence.features]) < FEW_FEATURES:
        return Trouble.plain
    if only_turned(evidence):
        return Trouble.turned
    joined = np.zeros((n, n), bool)
    for (i, j), rows in read_matches(evidence.database).items():
        joined[i, j] = len(rows) >= MIN_PAIR_MATCHES
    _, group = connected_components(joined, directed=False)
    if np.bincount(group).max() < max(3, 0.6 * n):
        return Trouble.few if n < 8 else Trouble.apart
    return Trouble.moving


def _sample(n: int, n_most: int) -> Sequence[int]:
    return np.unique(np.linspace(0, n - 1, min(n, n_most)).round().astype(int)).tolist()


def _blur(capture: Capture, position: int) -> float:
    grey = read_rgb(capture.image_path(capture.photos[position].name)).mean(2) / 255
    return float(blur_effect(grey))


def only_turned(evidence: Evidence) -> bool:
    """Whether a turn of the camera alone explains the matches of nearly all pairs of photos, whatever the focal length.

    A flat scene is explained by homographies too, but not by those of a turn, K R K^-1.
    """
    verdicts = []
    matches = {pair: rows for pair, rows in read_matches(evidence.database).items() if len(rows) >= MIN_PAIR_MATCHES}
    for i, j in [list(matches)[k] for k in _sample(len(matches), 60)] if matches else []:
        rows = matches[i, j]
        first, second = evidence.capture.photos[i], evidence.capture.photos[j]
        long_side = max(first.width_px, first.height_px)
        xy = [
            evidence.features[k].keypoints[rows[:, c], :2].astype(np.float64) - [p.width_px / 2, p.height_px / 2]
            for c, (k, p) in enumerate(((i, first), (j, second)))
        ]
        guesses = [first.focal_px] if first.focal_px else [s * DEFAULT_FOCAL_FACTOR * long_side for s in (0.7, 1, 1.5)]
        left = min(_left_by_turn(xy[0], xy[1], focal) for focal in guesses if focal)
        verdicts.append(left < MAX_PARALLAX * long_side)
    return len(verdicts) >= 2 and float(np.mean(verdicts)) > 0.9


def _left_by_turn(a: Float64[np.ndarray, "n 2"], b: Float64[np.ndarray, "n 2"], focal: float) -> float:
    """What the best rotation leaves between matched directions, in px: the 80th percentile (Kabsch 1976, trimmed)."""
    rays = [np.concatenate([xy / focal, np.ones((len(xy), 1))], 1) for xy in (a, b)]
    rays = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in rays]
    keep = np.ones(len(a), bool)
    error = np.zeros(len(a))
    for _ in range(5):
        u, _, vt = np.linalg.svd(rays[1][keep].T @ rays[0][keep])
        rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
        error = focal * np.linalg.norm(rays[0] @ rotation.T - rays[1], axis=1)
        keep = error <= np.percentile(error, 80)
    return float(np.percentile(error, 80))
