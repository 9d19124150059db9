"""A textured ball before a plain background, seen by a ring of cameras: its photos, masks and true depths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from drawn_box import look_at
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import ObjectRegion, PosedCapture
from recon.prior.work_view import WorkView
from recon.transforms import Rigid

RADIUS = 0.1
CENTRE = np.array([0.3, -0.2, 0.15])
SIZE = (200, 150)


def ring_views(n_views: int) -> list[View]:
    # off-centre principal point and an aim beside the ball: mistakes in the pixel convention must show
    camera = Pinhole(*SIZE, 216.7, 215.0, 97.8, 77.6)
    views = []
    for i in range(n_views):
        angle = 2 * np.pi * i / n_views
        height = 0.15 if i % 2 else 0.32
        eye = CENTRE + np.array([0.45 * np.cos(angle), 0.45 * np.sin(angle), height])
        views.append(View(f"v{i:02d}", camera, look_at(eye, CENTRE + np.array([0.01, 0.0, -0.008]))))
    return views


def pattern(points: np.ndarray, contrast: float) -> np.ndarray:
    """Grey of a solid texture: sines in fixed random directions, wavelengths of about 3 to 8 pixels."""
    rng = np.random.default_rng(3)
    value = np.zeros(len(points))
    for _ in range(24):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        value += np.sin(points @ direction * rng.uniform(300, 750) + rng.uniform(0, 6.28))
    return 0.5 + contrast * np.clip(value / 10, -1, 1)


def photograph(view: View, contrast: float, exposure: float) -> tuple[np.ndarray, np.ndarray]:
    """8-bit grey photo of the ball (2 x 2 rays per pixel) and its mask."""
    width, height = SIZE
    grey, share = np.zeros((height, width)), np.zeros((height, width))
    for du, dv in [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]:
        v, u = np.mgrid[0:height, 0:width]
        rays = view.rays(np.stack([u.ravel() + du, v.ravel() + dv], -1))
        to_centre = view.centre_world() - CENTRE
        half_b = rays @ to_centre
        inside = half_b**2 - (to_centre @ to_centre - RADIUS**2)
        hit = inside > 0
        distance = -half_b - np.sqrt(np.maximum(inside, 0))
        value = np.where(hit, pattern(view.centre_world() + rays * distance[:, None] - CENTRE, contrast), 0.2)
        grey += value.reshape(height, width) / 4
        share += hit.reshape(height, width) / 4
    noise = np.random.default_rng(int(1e3 * exposure)).normal(0, 0.004, grey.shape)
    return np.clip(np.round(255 * (grey * exposure + noise)), 0, 255).astype(np.uint8), share > 0.5


def make_scene(folder: Path, contrast: float, n_views: int = 12) -> tuple[PosedCapture, ObjectRegion]:
    views = ring_views(n_views)
    for sub in ("posed/images", "region/masks"):
        (folder / sub).mkdir(parents=True)
    for i, view in enumerate(views):
        grey, mask = photograph(view, contrast, 0.9 + 0.02 * (i % 5))
        Image.fromarray(np.stack([grey] * 3, -1)).save(folder / "posed/images" / f"{view.name}.jpg", quality=97)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "region/masks" / f"{view.name}.png")
    none = np.zeros(0, int)
    posed = PosedCapture(
        folder / "posed", tuple(views), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), none, none,
        CENTRE, "truth", "truth", None, np.ones(n_views),
    )  # fmt: skip
    hull = trimesh.creation.icosphere(subdivisions=2, radius=1.1 * RADIUS)
    region = ObjectRegion(
        folder / "region",
        Rigid(np.eye(3), CENTRE),
        np.full(3, 2.2 * RADIUS),
        np.asarray(hull.vertices) + CENTRE,
        np.asarray(hull.faces),
        "given",
        False,
    )
    return posed, region


def true_depth(work: WorkView) -> np.ndarray:
    """depth_z of the ball at each pixel's middle; 0 beside it."""
    height, width = work.mask.shape
    v, u = np.mgrid[0:height, 0:width]
    rays = work.view.rays(np.stack([u.ravel() + 0.5, v.ravel() + 0.5], -1))
    to_centre = work.view.centre_world() - CENTRE
    half_b = rays @ to_centre
    inside = half_b**2 - (to_centre @ to_centre - RADIUS**2)
    distance = np.where(inside > 0, -half_b - np.sqrt(np.maximum(inside, 0)), 0)
    return (distance * (rays @ work.view.forward_world())).reshape(height, width)
