"""Which photos are compared with which: those that look alike by their coarsest features."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from pose.features import PhotoFeatures


@dataclass(frozen=True)
class PairsConfig:
    """How pairs are chosen."""

    max_exhaustive: int = 24
    """Up to so many photos, each is matched with every other; 0: never."""
    n_partners: int = 18
    """Beyond that, how many of the photos that look most alike each is matched with. Raising it closes more loops and
    costs matching time in proportion."""
    n_neighbours: int = 4
    """In a video, each frame is also matched with so many that follow it; 0: none."""
    n_coarse: int = 600
    """Largest features of each photo that the likeness is counted with."""


def choose_pairs(
    features: Sequence[PhotoFeatures], ordered: bool, cfg: PairsConfig, progress: Callable[[float, float, str], None]
) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of positions in the capture that are worth a full match."""
    n = len(features)
    if n <= cfg.max_exhaustive:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    alike = likeness(features, cfg.n_coarse, progress)
    pairs = set()
    for i in range(n):
        others = np.argsort(-alike[i], kind="stable")
        pairs |= {(min(i, int(j)), max(i, int(j))) for j in others[: cfg.n_partners] if j != i and alike[i, j] > 0}
    if ordered:
        pairs |= {(i, i + s) for s in range(1, cfg.n_neighbours + 1) for i in range(n - s)}
    return sorted(pairs)


def partners_of(
    positions: Sequence[int], features: Sequence[PhotoFeatures], n_partners: int, n_coarse: int
) -> dict[int, list[int]]:
    """For some photos, the `n_partners` others that look most like each, most alike first."""
    coarse = [_coarsest(f, n_coarse) for f in features]

    def row(i: int) -> list[int]:
        counts = np.array([_count_mutual(coarse[i], c) for c in coarse])
        return [int(j) for j in np.argsort(-counts, kind="stable") if j != i][:n_partners]

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return dict(zip(positions, pool.map(row, positions), strict=True))


def likeness(
    features: Sequence[PhotoFeatures], n_coarse: int, progress: Callable[[float, float, str], None]
) -> Int[np.ndarray, "n_photos n_photos"]:
    """How many of the coarsest features of two photos are each other's clear nearest neighbours."""
    n = len(features)
    coarse = [_coarsest(f, n_coarse) for f in features]
    alike = np.zeros((n, n), int)

    def row(i: int) -> list[int]:
        return [_count_mutual(coarse[i], coarse[j]) for j in range(i + 1, n)]

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for i, counts in enumerate(pool.map(row, range(n))):
            alike[i, i + 1 :] = counts
            progress(i + 1, n, "comparing photos")
    return alike + alike.T


def _coarsest(features: PhotoFeatures, n_coarse: int) -> Float32[np.ndarray, "n 128"]:
    order = np.argsort(-features.keypoints[:, 2], kind="stable")[:n_coarse]
    descriptors = features.descriptors[order].astype(np.float32)
    return descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)


def _count_mutual(a: Float32[np.ndarray, "n 128"], b: Float32[np.ndarray, "m 128"]) -> int:
    """Mutual nearest neighbours whose angle is at most 0.85 of that to the second nearest (Lowe's ratio test)."""
    if len(a) < 2 or len(b) < 2:
        return 0
    cosine = a @ b.T
    rows = np.arange(len(a))
    nearest = cosine.argmax(1)
    mutual = cosine.argmax(0)[nearest] == rows
    first = cosine[rows, nearest].copy()
    cosine[rows, nearest] = -1
    angles = np.arccos(np.clip(np.stack([first, cosine.max(1)]), -1, 1))
    return int((mutual & (angles[0] < 0.85 * angles[1])).sum())
