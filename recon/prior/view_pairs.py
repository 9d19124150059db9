"""Which views help to find a view's depth: seen from a useful angle, in different directions, sharing points."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64

from recon.data import PosedCapture
from recon.prior.work_view import WorkView

BEST_ANGLE_DEG = 15.0
"""Wide enough for depth to be well measured, narrow enough for windows to look alike."""
NARROW_DEG, WIDE_DEG = 6.0, 12.0
"""Standard deviations of the preference below and above the best angle."""
LIKELY_COMMON_POINTS = 30
"""With this many common sparse points two views surely see the same side."""


def angle_preference(angle_deg: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """0..1: a piecewise Gaussian over the triangulation angle (the form of MVSNet's pair score, sec. 4.1)."""
    sigma = np.where(angle_deg < BEST_ANGLE_DEG, NARROW_DEG, WIDE_DEG)
    return np.exp(-((angle_deg - BEST_ANGLE_DEG) ** 2) / (2 * sigma**2))


def viewing_directions(works: list[WorkView], centre_world: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "n 3"]:
    """Unit directions from the object's centre to each camera."""
    rays = np.array([w.view.centre_world() for w in works]) - centre_world
    return rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)


def common_points(
    posed: PosedCapture, works: list[WorkView], of_object: Bool[np.ndarray, " n_points"]
) -> Float[np.ndarray, "n_works n_works"]:
    """How many of the object's sparse points each two crops' photos have in common."""
    seen = np.zeros((len(posed.views), len(posed.points_world)), bool)
    seen[posed.obs_view_idx, posed.obs_point_idx] = True
    seen = seen[[w.view_idx for w in works]][:, of_object]
    shared = seen.astype(np.float32)
    return shared @ shared.T


def choose_sources(
    works: list[WorkView],
    centre_world: Float64[np.ndarray, "3"],
    n_common: Float[np.ndarray, "n_works n_works"],
    n_sources: int,
) -> list[list[int]]:
    """For each crop the (at most `n_sources`) others to match it with, best first; indices into `works`.

    Score: the angle's preference, lifted up to twofold by common sparse points (an untextured object may have none),
    lowered for a view whose side is already taken: what one source cannot see for occlusion, another side can.
    """
    direction = viewing_directions(works, centre_world)
    distance = np.array([np.linalg.norm(w.view.centre_world() - centre_world) / w.view.camera.fx_px for w in works])
    angle = np.degrees(np.arccos(np.clip(direction @ direction.T, -1, 1)))
    likeness = np.minimum(distance[:, None] / distance, distance / distance[:, None])
    score = angle_preference(angle) * (1 + np.minimum(n_common / LIKELY_COMMON_POINTS, 1)) * likeness
    usable = (angle > 1.0) & (angle < 60.0)
    np.fill_diagonal(usable, False)
    chosen: list[list[int]] = []
    for i in range(len(works)):
        side = direction - (direction @ direction[i])[:, None] * direction[i]
        side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12)
        left = np.where(usable[i], score[i], 0.0)
        picked: list[int] = []
        while len(picked) < n_sources and left.max() > 0:
            best = int(left.argmax())
            picked.append(best)
            left[best] = 0.0
            left *= 1 - 0.5 * np.clip(side @ side[best], 0, 1)
        chosen.append(picked)
    return chosen
