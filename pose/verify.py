"""Is each placed view where its matches say? The check that every view of a model has to stand, won back or not.

A view is judged by three things that a wrong place cannot have together: enough points that three or more photos see,
spread over the photo; a reprojection error like the other views'; and agreement with what the matches of two photos
alone say of their relative pose, with all its neighbours and not only those that it was placed by.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from pose.colmap_io import silenced


@dataclass(frozen=True)
class VerifyConfig:
    """What a placed view must show to stay."""

    min_points: int = 16
    """Fewest points that the view must share with two or more others. Lower lets wrong places in."""
    min_spread: float = 0.02
    """A view whose points fill a smaller share of its photo's area is not trusted."""
    max_error_ratio: float = 3.0
    """Largest median reprojection error, in multiples of the typical view's."""
    n_neighbours: int = 8
    """How many of the photos with most matches in common a view is compared with."""
    max_epipolar_px: float = 4.0
    """Matches nearer than this to their epipolar line agree with a relative pose."""
    min_agreement: float = 0.6
    """How many matches must agree with the model's relative poses, as a share of those that agree with the best
    relative poses of the matches alone. Raising it takes back more views."""


@dataclass(frozen=True)
class PairMatches:
    """The verified matches of two photos (positions in the capture), in undistorted unit-focal coordinates."""

    first: int
    second: int
    xy_first: Float64[np.ndarray, "n 2"]
    xy_second: Float64[np.ndarray, "n 2"]


def take_back_wrong(model: Any, database: Path, cfg: VerifyConfig, seed: int) -> dict[int, str]:
    """Deregister the views that do not stand the check, in place; why, by their position in the capture.

    The worst goes first and the rest are judged anew: a wrong view spoils the agreement of its neighbours.
    """
    taken: dict[int, str] = {}
    while True:
        doubts = doubtful_views(model, database, cfg, seed)
        if not doubts:
            return taken
        worst = max(doubts.values(), key=lambda d: d[0])[0]
        # Views far worse than their own bound go together, so that a broken model does not take a round for each.
        for position, (severity, reason) in doubts.items():
            if severity >= 0.7 * worst:
                taken[position] = reason
                model.deregister_frame(model.images[position + 1].frame_id)


def doubtful_views(model: Any, database: Path, cfg: VerifyConfig, seed: int) -> dict[int, tuple[float, str]]:
    """The placed views that fail the check, by position: how badly (1 and more), and why in words."""
    placed = [im for im in model.images.values() if im.has_pose]
    support = {im.image_id - 1: _support(model, im) for im in placed}
    typical = float(np.median([error for _, _, error in support.values()])) if support else 0.0
    doubts: dict[int, tuple[float, str]] = {}
    for position, (n, spread, error) in support.items():
        if n < cfg.min_points:
            reason = f"only {n} points that others see too speak for its place"
            doubts[position] = (2 + cfg.min_points / max(n, 1), reason)
        elif spread < cfg.min_spread:
            doubts[position] = (2.0, "the points that speak for its place lie in one small spot")
        elif error > cfg.max_error_ratio * max(typical, 0.2):
            doubts[position] = (error / typical, "its points fit far worse than those of the other photos")
    agreement = agreements(model, database, cfg, seed)
    for position, (share, against) in agreement.items():
        if share < cfg.min_agreement and position not in doubts:
            doubts[position] = (cfg.min_agreement / max(share, 0.05), against)
    return doubts


def _support(model: Any, image: Any) -> tuple[int, float, float]:
    """Points shared with two or more other views: their number, spread (share of the area), median error in px."""
    # A point seen by this photo and one other proves little: it can be triangulated for any wrong pose.
    min_track = 3 if model.num_reg_images() >= 5 else 2
    seen = [p for p in image.points2D if p.has_point3D()]
    tracks = [model.points3D[p.point3D_id] for p in seen]
    kept = [(p.xy, t) for p, t in zip(seen, tracks, strict=True) if t.track.length() >= min_track]
    if len(kept) < 4:
        return len(kept), 0.0, 0.0
    xy = np.array([p for p, _ in kept])
    projected = image.camera.img_from_cam(image.cam_from_world() * np.array([t.xyz for _, t in kept]))
    width, height = np.ptp(np.percentile(xy, (5, 95), axis=0), axis=0)
    error = float(np.median(np.linalg.norm(projected - xy, axis=1)))
    return len(kept), float(width * height / (image.camera.width * image.camera.height)), error


def agreements(model: Any, database: Path, cfg: VerifyConfig, seed: int) -> dict[int, tuple[float, str]]:
    """How far each placed view's matches agree with the model, against the best that they can agree with: 0..1, why.

    The two-view matches of a pair fix its essential matrix. It is estimated anew only where the model's own leaves
    many matches out, and counts by how many more matches it explains: a count is fair where a bound in degrees is
    not, for short baselines and flat scenes leave the direction of the translation open.
    """
    pairs = _pairs_of_neighbours(model, database, cfg.n_neighbours)
    fits: dict[int, list[tuple[int, int, str]]] = {im.image_id - 1: [] for im in model.images.values() if im.has_pose}
    for pair in pairs:
        cameras = [model.images[k + 1] for k in (pair.first, pair.second)]
        focal = float(np.mean([c.camera.mean_focal_length() for c in cameras]))
        second_from_first = cameras[1].cam_from_world() * cameras[0].cam_from_world().inverse()
        n_model = _n_fitting(pair, second_from_first, cfg.max_epipolar_px / focal)
        n_best, turned_deg = n_model, 0.0
        if n_model < 0.85 * len(pair.xy_first):
            found = _own_relative_pose(pair, cfg.max_epipolar_px / focal, seed)
            if found is not None:
                n_best = max(n_model, _n_fitting(pair, found, cfg.max_epipolar_px / focal))
                turned_deg = float(np.degrees((found.rotation * second_from_first.rotation.inverse()).angle()))
        for a, b in ((pair.first, pair.second), (pair.second, pair.first)):
            why = f"its matches with photo {b + 1} alone put it {turned_deg:.0f} degrees away" if turned_deg else ""
            fits[a].append((n_model, n_best, why))
    out = {}
    for position, rows in fits.items():
        if rows:
            share = sum(r[0] for r in rows) / max(sum(r[1] for r in rows), 1)
            out[position] = (share, max(rows, key=lambda r: r[1] - r[0])[2])
    return out


def _n_fitting(pair: PairMatches, second_from_first: Any, bound: float) -> int:
    """How many matches lie within `bound` (unit-focal) of their epipolar lines."""
    essential = silenced().essential_matrix_from_pose(second_from_first)
    squared = np.array(silenced().compute_squared_sampson_error(pair.xy_first, pair.xy_second, essential))
    return int((squared <= bound**2).sum())


def _own_relative_pose(pair: PairMatches, bound: float, seed: int) -> Any | None:
    """The relative pose that most matches of the pair agree with, from them alone."""
    pycolmap = silenced()
    unit = pycolmap.Camera(model="PINHOLE", width=2, height=2, params=[1.0, 1.0, 0.0, 0.0])
    options = pycolmap.RANSACOptions()
    options.max_error, options.random_seed = bound, seed
    found = pycolmap.estimate_relative_pose(unit, pair.xy_first, unit, pair.xy_second, options)
    return found and found["cam2_from_cam1"]


def _pairs_of_neighbours(model: Any, database: Path, n_neighbours: int) -> list[PairMatches]:
    """The verified matches of every placed view with the placed views that it has most of them with."""
    pycolmap = silenced()
    placed = {im.image_id for im in model.images.values() if im.has_pose}
    handle = pycolmap.Database.open(database)
    try:
        ids, counts = handle.read_two_view_geometry_num_inliers()
        rows = [(*pycolmap.pair_id_to_image_pair(i), int(n)) for i, n in zip(ids, counts, strict=True)]
        rows = [r for r in rows if r[0] in placed and r[1] in placed and r[2] > 0]
        chosen = set()
        for image_id in placed:
            own = sorted((r for r in rows if image_id in r[:2]), key=lambda r: (-r[2], r[0], r[1]))
            chosen |= {r[:2] for r in own[:n_neighbours]}
        unit = {i: _undistorted(model.images[i], handle.read_keypoints(i)) for i in placed}
        out = []
        for a, b in sorted(chosen):
            matches: Int[np.ndarray, "n 2"] = np.asarray(handle.read_two_view_geometry(a, b).inlier_matches, np.int64)
            out.append(PairMatches(a - 1, b - 1, unit[a][matches[:, 0]], unit[b][matches[:, 1]]))
        return out
    finally:
        handle.close()


def _undistorted(image: Any, keypoints: Any) -> Float64[np.ndarray, "n 2"]:
    if len(keypoints) == 0:
        return np.zeros((0, 2))
    return np.asarray(image.camera.cam_from_img(np.asarray(keypoints)[:, :2].astype(np.float64)), float)
