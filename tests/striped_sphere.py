"""A striped sphere in closed form: its photos from a ring of cameras, points, distances, and a quick fit's config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_box import look_at
from PIL import Image
from scipy.spatial import ConvexHull

from recon.camera import Pinhole, View
from recon.data import ObjectRegion, PosedCapture, PriorCloud, SupportPlane, SurfaceField
from recon.surface.baked import BakedSdf
from recon.surface.baking import Baker
from recon.surface.query import load_sdf
from recon.surface.trainer import Trainer
from recon.transforms import Rigid

RADIUS = 0.1
BOX = torch.cat([torch.cat([torch.eye(3), -torch.ones(3, 1)], 1), torch.cat([-torch.eye(3), torch.zeros(3, 1)], 1)])
"""The unit cube as planes: normals and offsets."""
SMALL = {"n_rays": 256, "n_levels": 6, "log2_rows": 14, "finest_resolution": 128, "bake_resolution": 32,
         "bake_resolution_late": 48, "n_points": 256, "n_free": 256, "start_inside": 0.0}  # fmt: skip


def sphere_scene(folder: Path, n_views: int = 10, size: int = 72) -> tuple[PosedCapture, ObjectRegion]:
    """A striped sphere of radius 0.1 seen from a ring of cameras, rendered in closed form."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    views = []
    for k in range(n_views):
        angle, height = 2 * np.pi * k / n_views, (0.15, 0.5)[k % 2]
        centre = 0.5 * np.array([np.cos(angle) * np.cos(height), np.sin(angle) * np.cos(height), np.sin(height)])
        camera = Pinhole(size, size, size * 1.6, size * 1.6, size / 2, size / 2)
        view = View(f"v{k}", camera, look_at(centre, np.zeros(3)))
        rows, columns = np.mgrid[:size, :size]
        d = view.rays(np.stack([columns, rows], -1).reshape(-1, 2) + 0.5)
        b = d @ centre
        root = b**2 - centre @ centre + RADIUS**2
        hit = root > 0
        x = centre + (-b - np.sqrt(np.maximum(root, 0)))[:, None] * d
        colour = 0.5 + 0.4 * np.sin(x * [60, 70, 80])
        image = np.where(hit[:, None], colour, 0.2).reshape(size, size, 3)
        Image.fromarray((image * 255).astype(np.uint8)).save(folder / "images" / f"v{k}.jpg", quality=97)
        Image.fromarray((hit * 255).astype(np.uint8).reshape(size, size)).save(folder / "masks" / f"v{k}.png")
        views.append(view)
    empty = np.zeros(0)
    posed = PosedCapture(
        folder, tuple(views), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), empty, empty.astype(int),
        empty.astype(int), np.zeros(3), "truth", "truth", SupportPlane(np.array([0, 0, 1.0]), -RADIUS, 0.5),
        np.ones(n_views),
    )  # fmt: skip
    corner = 1.15 * RADIUS * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    faces = ConvexHull(corner).simplices
    normal = np.cross(corner[faces[:, 1]] - corner[faces[:, 0]], corner[faces[:, 2]] - corner[faces[:, 0]])
    inward = (normal * corner[faces[:, 0]]).sum(1) < 0
    faces[inward] = faces[inward][:, ::-1]
    region = ObjectRegion(folder, Rigid.identity(), np.full(3, 2.3 * RADIUS), corner, faces, "given", True)
    return posed, region


def sphere_cloud(n: int) -> PriorCloud:
    normal = np.random.default_rng(0).normal(size=(n, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    ones = np.ones(n)
    return PriorCloud(normal * RADIUS, normal, ones, np.zeros((n, 3), np.uint8), ones.astype(int))


def sphere_bake(n: int = 48, radius: float = 0.3) -> BakedSdf:
    baked = BakedSdf(torch.zeros(3), 1 / (n - 1), torch.zeros(n, n, n))
    baked.values[:] = ((baked.points() - 0.5).norm(dim=1) - radius).reshape(n, n, n)
    return baked


def radius_error(field: SurfaceField) -> np.ndarray:
    points = sphere_cloud(500).points_world
    return load_sdf(field)(points[points[:, 2] > -0.5 * RADIUS]) / RADIUS


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a training stopped as by the user before that step."""
    train_step = Trainer.train_step

    def interrupted(self: Trainer, baker: Baker) -> None:
        if self.step == step:
            raise KeyboardInterrupt
        train_step(self, baker)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
