"""Judging cameras, masks, box and hull against the ground truth of a synthetic capture, before any surface is fitted.

World and truth are brought together by the camera centres alone (Umeyama).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import trimesh
from jaxtyping import Bool, Float64
from scipy.spatial import ConvexHull

from recon.camera import View
from recon.data import ObjectRegion, PosedCapture, read_mask
from recon.evaluate.score import TrueView, read_views, visible_samples
from recon.evaluate.variants import judge_cameras
from recon.isolate.box import upright_box
from recon.transforms import Similarity, umeyama


@dataclass(frozen=True)
class PreprocessScore:
    """How near preprocessing came to the truth of one capture."""

    photos: int
    registered: int
    rotation_median_deg: float
    rotation_max_deg: float
    centre_median_pct: float
    """Per cent of the orbit's radius, as is the largest."""
    centre_max_pct: float
    mask_iou: dict[str, float]
    """By photo, in the undistorted photo."""
    side_error_pct: tuple[float, float, float]
    """Of the box's shorter and longer horizontal side and its height: estimate over truth, less 100 %."""
    box_volume_ratio: float
    hull_contains: float
    """Share of the true surface that two photos see and the hull holds."""
    hull_volume_ratio: float
    """Against the convex hull of the true object."""

    def table_row(self) -> tuple[str, ...]:
        """The figures under `COLUMNS`."""
        iou = np.array(list(self.mask_iou.values()))
        return (
            f"{self.registered} / {self.photos}",
            f"{self.rotation_median_deg:.3f} / {self.rotation_max_deg:.3f}",
            f"{self.centre_median_pct:.3f} / {self.centre_max_pct:.3f}",
            f"{iou.mean():.3f} / {iou.min():.3f}",
            " ".join(f"{e:+.1f}" for e in self.side_error_pct),
            f"{self.box_volume_ratio:.3f}",
            f"{100 * self.hull_contains:.2f}",
            f"{self.hull_volume_ratio:.3f}",
        )


COLUMNS = (
    "photos", "rotation deg, median / max", "centre %, median / max", "mask IoU, mean / least",
    "box sides %", "box volume", "hull holds %", "hull volume",
)  # fmt: skip


def score_preprocess(posed: PosedCapture, region: ObjectRegion, n_photos: int, scene: Path) -> PreprocessScore:
    """Compare with a capture that has gt/; `n_photos` is how many were given.

    Raises ValueError where fewer than three of its photos have a pose.
    """
    true_views = {t.view.name: t for t in read_views(scene / "gt" / "transforms.json", "train")}
    pairs = [(v, true_views[v.name]) for v in posed.views if v.name in true_views]
    if len(pairs) < 3:
        raise ValueError(f"{len(pairs)} photos of {scene} have a pose, which is too few to compare with the truth")
    truth: Any = trimesh.load(scene / "gt" / "mesh.ply", process=False)
    world_from_truth = umeyama(
        np.array([t.view.centre_world() for _, t in pairs]), np.array([v.centre_world() for v, _ in pairs])
    )
    errors = judge_cameras(
        {v.name: v.cam_from_world for v, _ in pairs}, {t.view.name: t.view.cam_from_world for _, t in pairs}
    )
    centre_pct = 100 * errors.centre_share
    vertices = world_from_truth.apply(np.asarray(truth.vertices, float))
    seen = world_from_truth.apply(visible_samples(truth, list(true_views.values()), 40_000))
    sides, true_sides = sorted_sides(region.box_size), sorted_sides(upright_box(vertices)[1])
    return PreprocessScore(
        photos=n_photos,
        registered=len(posed.views),
        rotation_median_deg=float(np.median(errors.rotation_deg)),
        rotation_max_deg=float(errors.rotation_deg.max()),
        centre_median_pct=float(np.median(centre_pct)),
        centre_max_pct=float(centre_pct.max()),
        mask_iou={v.name: mask_iou(region.mask(v.name) >= 128, v, t, world_from_truth) for v, t in pairs if t.mask},
        side_error_pct=tuple(100 * (sides / true_sides - 1)),
        box_volume_ratio=float(np.prod(sides / true_sides)),
        hull_contains=float(region.inside_hull(seen).mean()),
        hull_volume_ratio=ConvexHull(region.hull_vertices_world).volume / ConvexHull(vertices).volume,
    )


def sorted_sides(size: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3"]:
    """The shorter and the longer horizontal side, and the height."""
    return np.array([min(size[:2]), max(size[:2]), size[2]])


def mask_iou(mask: Bool[np.ndarray, "h w"], view: View, true: TrueView, world_from_truth: Similarity) -> float:
    """Intersection over union with the true mask, warped into the undistorted photo of the estimated camera."""
    warped = true_mask_in(view, true, world_from_truth)
    return float((mask & warped).sum() / max((mask | warped).sum(), 1))


def true_mask_in(view: View, true: TrueView, world_from_truth: Similarity) -> Bool[np.ndarray, "h w"]:
    """The true mask as the estimated camera would see it: both stand in the same place, so rays correspond."""
    if true.mask is None:
        raise ValueError(f"{true.view.name} has no true mask")
    h, w = view.camera.height_px, view.camera.width_px
    rows, columns = np.mgrid[:h, :w] + 0.5
    rays_world = view.rays(np.stack([columns.ravel(), rows.ravel()], -1))
    true_pose = world_from_truth.apply_to_camera(true.view.cam_from_world)
    x, y, z = (rays_world @ true_pose.rotation.T).T
    x, y = x / z, y / z
    r2 = x * x + y * y
    bend = 1 + true.k1 * r2 + true.k2 * r2 * r2
    c = true.view.camera
    # OpenCV's remap counts pixel centres as whole numbers.
    u, v = c.fx_px * x * bend + c.cx_px - 0.5, c.fy_px * y * bend + c.cy_px - 0.5
    maps = (u.reshape(h, w).astype(np.float32), v.reshape(h, w).astype(np.float32))
    return np.asarray(cv2.remap(read_mask(true.mask), *maps, cv2.INTER_LINEAR)) >= 128
