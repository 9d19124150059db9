"""A drawn scene with known cameras: a box with a texture on each side, on a table with one."""

from __future__ import annotations

import cv2
import numpy as np

from recon.camera import Pinhole, View
from recon.transforms import Rigid

CAMERA = Pinhole(480, 360, 430.0, 430.0, 243.0, 178.0)
"""Its principal point is 3 and 2 pixels off the middle, as a phone's is."""


def look_at(centre: np.ndarray, target: np.ndarray) -> Rigid:
    """A level camera (world +Z up) at `centre` that looks at `target`."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Rigid(rotation, -rotation @ centre)


def ring(n: int, radius: float = 1.0, heights: tuple[float, ...] = (0.35, 0.75)) -> list[Rigid]:
    """Cameras all around the origin, in turns at the heights, looking at a point a little above it."""
    poses = []
    for i in range(n):
        angle, height = 2 * np.pi * i / n, heights[i % len(heights)]
        flat = np.sqrt(max(radius**2 - height**2, 0.01))
        centre = np.array([flat * np.cos(angle), flat * np.sin(angle), height])
        poses.append(look_at(centre, np.array([0.0, 0.0, 0.1])))
    return poses


def pattern(seed: int) -> np.ndarray:
    """A texture with blobs of many sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((512, 512, 3))
    for step in (8, 16, 32, 64):
        small = rng.integers(0, 256, (512 // step, 512 // step, 3)).astype(np.float32)
        total += cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC) / 4
    return np.clip(total * 1.6 - 70, 0, 255)


def quads() -> list[np.ndarray]:
    """The table and the four sides and top of a box on it, corners counter-clockwise from outside."""
    a, b, h = 0.14, 0.1, 0.28
    low = np.array([[-a, -b, 0], [a, -b, 0], [a, b, 0], [-a, b, 0]])
    high = low + np.array([0, 0, h])
    sides = [np.array([low[i], low[(i + 1) % 4], high[(i + 1) % 4], high[i]]) for i in range(4)]
    table = np.array([[-0.45, -0.45, 0], [0.45, -0.45, 0], [0.45, 0.45, 0], [-0.45, 0.45, 0]])
    return [table, *sides, high]


def draw(
    pose: Rigid, textures: list[np.ndarray], camera: Pinhole = CAMERA, background: np.ndarray | None = None
) -> np.ndarray:
    """A photo of the scene: every quad that faces the camera, the table first (the box is convex)."""
    view = View("x", camera, pose)
    out = np.full((camera.height_px, camera.width_px, 3), 90.0) if background is None else background.astype(float)
    corners = np.array([[0, 512], [512, 512], [512, 0], [0, 0]], np.float32) - 0.5
    for quad, texture in zip(quads(), textures, strict=True):
        normal = np.cross(quad[1] - quad[0], quad[2] - quad[1])
        if normal @ (view.centre_world() - quad[0]) <= 0:
            continue
        pixels, depth_z = view.project(quad)
        assert (depth_z > 0).all()
        to_photo = cv2.getPerspectiveTransform(corners, (pixels - 0.5).astype(np.float32))
        size = (camera.width_px, camera.height_px)
        picture = cv2.warpPerspective(texture, to_photo, size, flags=cv2.INTER_AREA)
        inside = cv2.warpPerspective(np.ones((512, 512), np.float32), to_photo, size)[..., None]
        out = out * (1 - inside) + picture * inside
    return np.clip(out, 0, 255).astype(np.uint8)
