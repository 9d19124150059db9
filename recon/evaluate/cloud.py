"""Judging a prior cloud against the ground truth of a synthetic capture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float
from scipy.spatial import cKDTree

from recon.evaluate.score import read_views, truth_from_cameras, visible_samples

WITHIN = 0.01
"""Of the true bounding box's diagonal: what counts as on the surface."""


@dataclass(frozen=True)
class CloudScore:
    """How right and how whole a cloud is."""

    accuracy: float
    """Share of its points within 1 % of the true surface."""
    completeness: float
    """Share of the true surface that at least two photos see within 1 % of one of its points."""
    median_error_pct: float
    """Median distance of its points to the true surface, per cent of the diagonal."""


def score_cloud(
    points: Float[np.ndarray, "n 3"], centres: Mapping[str, np.ndarray], scene: Path, n_samples: int = 60_000
) -> CloudScore:
    """A cloud against a synthetic capture (folder with gt/).

    points, centres: of the cloud and of the cameras by photo, in one frame, which is brought into the truth's by the
    cameras alone. Distances are to dense samples of the true surface. An empty cloud scores 0 on both.
    """
    if len(points) == 0:
        return CloudScore(0.0, 0.0, float("inf"))
    train = read_views(scene / "gt" / "transforms.json", "train")
    truth_from_cloud, _ = truth_from_cameras(centres, train)
    truth: Any = trimesh.load(scene / "gt" / "mesh.ply", process=False)
    diagonal = float(np.linalg.norm(truth.extents))
    placed = truth_from_cloud.apply(points)
    dense, _ = trimesh.sample.sample_surface(truth, 10 * n_samples, seed=2)
    off = cKDTree(dense).query(placed, workers=-1)[0] / diagonal
    gap = cKDTree(placed).query(visible_samples(truth, train, n_samples), workers=-1)[0] / diagonal
    return CloudScore(float((off < WITHIN).mean()), float((gap < WITHIN).mean()), 100 * float(np.median(off)))
