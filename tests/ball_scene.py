"""A small rendered scene: a coloured ball on a textured table before textured walls, seen by two rings of cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawn_box import look_at
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import PosedCapture, SupportPlane

CENTRE, RADIUS, ROOM = np.array([0.03, -0.02, 0.2]), 0.2, 6.0
CAMERA = Pinhole(200, 150, 190.0, 190.0, 101.0, 74.0)
PLANE = SupportPlane(np.array([0, 0, 1.0]), 0.0, 0.5)


def noise(seed: int, n: int, coarse: int) -> np.ndarray:
    """A smooth random texture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (coarse, coarse, 3), dtype=np.uint8))
    return np.asarray(small.resize((n, n), Image.Resampling.BICUBIC)) / 255.0


TABLE, WALL = noise(0, 512, 128), noise(1, 512, 48)


def render(view: View) -> tuple[np.ndarray, np.ndarray]:
    """A photo and the ball's true mask, by casting one ray per pixel."""
    c = view.camera
    xs, ys = np.meshgrid(np.arange(c.width_px) + 0.5, np.arange(c.height_px) + 0.5)
    ray, eye = view.rays(np.stack([xs.ravel(), ys.ravel()], 1)), view.centre_world()
    t_table = np.where(ray[:, 2] < -1e-6, -eye[2] / np.minimum(ray[:, 2], -1e-6), np.inf)
    on_table = eye + np.where(np.isfinite(t_table), t_table, 0)[:, None] * ray
    is_table = np.isfinite(t_table) & (np.abs(on_table[:, :2]) < 1.6).all(1)
    texel = lambda p, scale, n: np.clip(((p / scale + 1) / 2 * n).astype(int), 0, n - 1)  # noqa: E731
    a = texel(on_table[:, :2], 1.6, 512)
    far = eye + ROOM * ray
    b = texel(np.stack([np.arctan2(far[:, 1], far[:, 0]), far[:, 2] / 2], 1), np.pi, 512)
    rgb = np.where(is_table[:, None], 0.25 + 0.4 * TABLE[a[:, 1], a[:, 0]], 0.2 + 0.8 * WALL[b[:, 1], b[:, 0]])
    to_eye = eye - CENTRE
    half_b = ray @ to_eye
    discriminant = half_b**2 - (to_eye @ to_eye - RADIUS**2)
    hit = discriminant > 0
    t = -half_b - np.sqrt(np.maximum(discriminant, 0))
    normal = (eye + t[:, None] * ray - CENTRE) / RADIUS
    ball = np.array([0.9, 0.75, 0.15]) * (0.65 + 0.35 * normal[:, 2:])
    rgb = np.where(hit[:, None], ball, rgb)
    shape = (c.height_px, c.width_px)
    return (rgb.clip(0, 1) * 255).astype(np.uint8).reshape(*shape, 3), hit.reshape(shape)


def ball_capture(folder: Path) -> tuple[PosedCapture, list[np.ndarray]]:
    """The capture, written to a folder, and the ball's true masks."""
    (folder / "images").mkdir()
    views, truth = [], []
    target = np.array([0, 0, 0.18])
    for n in range(16):
        azimuth, height = 2 * np.pi * n / 8 + (0.4 if n >= 8 else 0), 0.45 if n < 8 else 0.9
        eye = np.array([np.cos(azimuth), np.sin(azimuth), height])
        view = View(f"v{n:02d}", CAMERA, look_at(eye, target))
        rgb, mask = render(view)
        Image.fromarray(rgb).save(folder / "images" / f"{view.name}.jpg", quality=95)
        views.append(view)
        truth.append(mask)
    posed = PosedCapture(
        folder, tuple(views), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), np.zeros(0, int),
        np.zeros(0, int), target, "test", "test", PLANE, np.ones(16),
    )  # fmt: skip
    posed.check()
    return posed, truth


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())
