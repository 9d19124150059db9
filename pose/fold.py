"""Models folded onto themselves: two sides of an object that look alike, laid one over the other.

Every pair of photos within a side agrees, and so do the few false matches between the sides; no check of pairs finds
the fault. What gives it away are photos that the model puts in nearly the same place and that have next to nothing in
common (the missing correspondences of Zach et al. 2008, and of Heinly et al. 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.linalg import eigh


@dataclass(frozen=True)
class FoldConfig:
    """When a model counts as folded."""

    near_deg: float = 20.0
    """Photos whose directions towards the scene differ by less must see much the same."""
    min_common: float = 0.05
    """Two such photos conflict where they share a smaller share of the points of the one with fewer."""
    min_conflicts: float = 0.15
    """So large a share of such pairs in conflict, and the model is folded."""


def folded_away(model: Any, cfg: FoldConfig) -> list[int]:
    """The image ids of the smaller side of a folded model; none where it is sound."""
    images = [im for im in model.images.values() if im.has_pose]
    if len(images) < 6:
        return []
    common = _common_share(model, images)
    near = _near(model, images, cfg.near_deg)
    conflict = near & (common < cfg.min_common)
    if conflict.sum() < max(6, cfg.min_conflicts * near.sum()):  # each pair counts twice
        return []
    # The cut through the fewest common points (Shi and Malik 2000): the sign of the second eigenvector.
    degree = np.maximum(common.sum(1), 1e-6)
    _, vectors = eigh(np.diag(degree) - common, np.diag(degree))
    side = vectors[:, 1] > 0
    across = side[:, None] != side[None]
    if (conflict & across).sum() < 0.8 * conflict.sum():
        return []  # the conflicts are not those of two sides
    smaller = side if side.sum() <= (~side).sum() else ~side
    return [im.image_id for im, away in zip(images, smaller, strict=True) if away]


def _common_share(model: Any, images: list[Any]) -> Float64[np.ndarray, "n n"]:
    """Points that two photos share, as a share of the points of the one with fewer."""
    column = {point_id: k for k, point_id in enumerate(model.points3D)}
    sees = np.zeros((len(images), len(column)), np.float32)
    for row, image in enumerate(images):
        sees[row, [column[p.point3D_id] for p in image.points2D if p.has_point3D()]] = 1
    n = sees.sum(1)
    common = (sees @ sees.T).astype(float) / np.maximum(np.minimum(n[:, None], n[None]), 1)
    np.fill_diagonal(common, 0)
    return common


def _near(model: Any, images: list[Any], near_deg: float) -> Bool[np.ndarray, "n n"]:
    """Which photos look at the scene from nearly the same direction."""
    middle = np.median([p.xyz for p in model.points3D.values()], axis=0)
    direction = middle - np.array([im.projection_center() for im in images])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    near: Bool[np.ndarray, "n n"] = direction @ direction.T > np.cos(np.radians(near_deg))
    np.fill_diagonal(near, False)
    return near
