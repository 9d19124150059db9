"""Pairs of small pictures with known correspondences, spoilt as phones spoil photos: what one training step sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from pose.learned.blobs import find_blobs
from pose.learned.network import normalised
from pose.learned.training.scenes import Views

SIDE_PX = 192
"""Side of the training pictures."""
N_POINTS = 256
"""Keypoints taken from each."""
SAME_PX = 1.5
"""A blob found so near to where another picture's blob really is counts as found again."""

Project = Callable[[Float64[np.ndarray, "n 2"]], tuple[Float64[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]]
"""From pixels of one picture to those of another, and which are truly seen there."""


@dataclass(frozen=True)
class Pair:
    """Two normalised pictures; row i of both lists of keypoints is the same point of the scene where `seen`."""

    images: Float32[np.ndarray, "2 side side"]
    xy_px: Float32[np.ndarray, "2 n 2"]
    log_strength: Float32[np.ndarray, "2 n"]
    seen: Bool[np.ndarray, " n"]
    """The descriptors of row i must agree."""
    judged: Bool[np.ndarray, " n"]
    """Whether this row may teach what is reliable: not where the point lies outside the other picture."""
    found_again: Bool[np.ndarray, " n"]
    """The other picture's own blob lies at the true place."""


def spoil(grey: UInt8[np.ndarray, "h w"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w"]:
    """Highlights, shading, exposure, defocus or shake, noise and JPEG, each in random strength."""
    h, w = grey.shape
    linear = (grey.astype(np.float32) / 255) ** 2.2
    if rng.random() < 0.4:
        knots = rng.uniform(0.35, 1.5, (4, 4)).astype(np.float32)
        linear *= cv2.resize(knots, (w, h), interpolation=cv2.INTER_CUBIC).clip(0.2, 2)
    if rng.random() < 0.25:
        glare = np.zeros((h, w), np.float32)
        for _ in range(int(rng.integers(1, 5))):
            centre, axes = rng.uniform(0, w, 2).astype(int).tolist(), rng.integers(2, 22, 2).tolist()
            cv2.ellipse(glare, centre, axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.3, 1.5), -1)
        linear += cv2.GaussianBlur(glare, (0, 0), rng.uniform(1, 6))
    out = np.clip(linear * 2.0 ** rng.uniform(-1.0, 0.6), 0, 1) ** (rng.uniform(0.7, 1.3) / 2.2)
    out = (out - 0.5) * rng.uniform(0.5, 1.1) + rng.uniform(0.4, 0.6)
    if rng.random() < 0.55:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 2.4))
    if rng.random() < 0.15:
        length = int(rng.integers(3, 8))
        kernel = np.zeros((length, length), np.float32)
        along = np.array([np.cos(angle := rng.uniform(0, np.pi)), np.sin(angle)]) * (length - 1) / 2
        middle = (length - 1) / 2
        ends = np.round(np.stack([middle - along, middle + along])).astype(int).tolist()
        cv2.line(kernel, ends[0], ends[1], 1.0)
        out = cv2.filter2D(out, -1, kernel / kernel.sum())
    noise = rng.normal(0, 0.001 + 0.014 * rng.random() ** 2, (h, w))
    out = out + (cv2.GaussianBlur(noise, (0, 0), 0.7) if rng.random() < 0.5 else noise)
    out = (np.clip(out, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.5:
        ok, code = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96))])
        out = cv2.imdecode(code, cv2.IMREAD_GRAYSCALE) if ok else out
    return out


def warped_pair(grey: UInt8[np.ndarray, "h w"], rng: np.random.Generator) -> Pair:
    """Two random perspective views of a flat picture."""
    maps, images = [], []
    side = np.array(grey.shape[::-1])
    middle = rng.uniform(side * 0.2, side * 0.8)
    for _ in range(2):
        maps.append(_random_homography(middle + rng.normal(0, 12, 2), rng))
        # cv2 counts from the first pixel's centre, we from its corner
        shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        to_cv = np.linalg.inv(shift) @ maps[-1] @ shift
        images.append(
            cv2.warpPerspective(grey, to_cv, (SIDE_PX, SIDE_PX), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
        )
    b_from_a = maps[1] @ np.linalg.inv(maps[0])

    def through(matrix: np.ndarray) -> Project:
        def project(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            moved = np.column_stack([xy, np.ones(len(xy))]) @ matrix.T
            return moved[:, :2] / moved[:, 2:], moved[:, 2] > 0

        return project

    return _pair(images, through(b_from_a), rng)


def view_pair(views: Views, rng: np.random.Generator) -> Pair:
    """Cut-outs of two views of a scene around one point that both see."""
    a, b = rng.choice(len(views.grey), 2, replace=False)
    h, w = views.grey.shape[1:]
    around = rng.uniform((w * 0.25, h * 0.25), (w * 0.75, h * 0.75), (32, 2))
    to, seen = _reproject(views, a, b, around)
    pick = int(np.flatnonzero(seen)[0]) if seen.any() else 0
    corners = [np.clip(p - SIDE_PX / 2, 0, (w - SIDE_PX, h - SIDE_PX)).astype(int) for p in (around[pick], to[pick])]
    images = [views.grey[i, y : y + SIDE_PX, x : x + SIDE_PX] for i, (x, y) in zip((a, b), corners, strict=True)]

    def project(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved, seen = _reproject(views, a, b, xy + corners[0])
        return moved - corners[1], seen

    return _pair(images, project, rng)


def _random_homography(centre: Float64[np.ndarray, "2"], rng: np.random.Generator) -> Float64[np.ndarray, "3 3"]:
    """Picture to cut-out: turned within 40 degrees, scaled 0.75 to 1.5, slanted up to 60 degrees, in perspective."""
    turn, slant_way = np.radians(rng.uniform(-40, 40)), rng.uniform(0, np.pi)
    squeeze = np.cos(np.radians(60 * rng.random() ** 1.5))

    def rotation(angle: float) -> np.ndarray:
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    linear = rotation(slant_way) @ np.diag([1, squeeze]) @ rotation(-slant_way) @ rotation(turn)
    linear *= np.exp(rng.uniform(np.log(0.75), np.log(1.5)))
    out = np.eye(3)
    out[:2, :2], out[2, :2] = linear, rng.normal(0, 0.0006, 2)
    to_origin, to_middle = np.eye(3), np.eye(3)
    to_origin[:2, 2], to_middle[:2, 2] = -centre, SIDE_PX / 2
    return to_middle @ out @ to_origin


def _reproject(views: Views, a: int, b: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels of view a are in view b, and whether both see the same smooth piece of surface there."""
    depth, smooth = _depth_at(views.depth_z[a], xy)
    rays = np.column_stack([xy, np.ones(len(xy))]) @ np.linalg.inv(views.intrinsics[a]).T
    pose_a, pose_b = views.cam_from_world[a], views.cam_from_world[b]
    world = (rays * depth[:, None] - pose_a[:, 3]) @ pose_a[:, :3]
    cam = world @ pose_b[:, :3].T + pose_b[:, 3]
    image = cam @ views.intrinsics[b].T
    moved = image[:, :2] / np.maximum(image[:, 2:], 1e-6)
    depth_b, smooth_b = _depth_at(views.depth_z[b], moved)
    return moved, smooth & smooth_b & (cam[:, 2] > 0) & (np.abs(depth_b - cam[:, 2]) < 0.01 * cam[:, 2])


def _depth_at(depth_z: Float32[np.ndarray, "h w"], xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear depth, and whether the four pixels around lie on one surface (inside the picture)."""
    h, w = depth_z.shape
    at = np.clip(xy - 0.5, 0, (w - 1.001, h - 1.001))
    x, y = at.astype(int).T
    u, v = (at - np.floor(at)).T
    four = np.stack([depth_z[y, x], depth_z[y, x + 1], depth_z[y + 1, x], depth_z[y + 1, x + 1]])
    inside = (xy > 0.5).all(1) & (xy < (w - 0.5, h - 0.5)).all(1)
    mean = (four * np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])).sum(0)
    return mean, inside & (np.ptp(four, axis=0) < 0.04 * mean)


def _pair(images: Sequence[np.ndarray], project: Project, rng: np.random.Generator) -> Pair:
    """Spoil both, find blobs in both and tell which of the first's are where in the second."""
    pictures = [normalised(spoil(np.ascontiguousarray(g), rng).astype(np.float32)) for g in images]
    (xy_a, strength_a), (xy_b, strength_b) = (find_blobs(p, 2 * N_POINTS) for p in pictures)
    if len(xy_a) < 8 or len(xy_b) < 8:  # plain pictures teach with random places
        xy_a, xy_b = rng.uniform(8, SIDE_PX - 8, (2, N_POINTS, 2)).astype(np.float32)
        strength_a = strength_b = np.full(N_POINTS, -4, np.float32)
    rows = rng.permutation(np.resize(np.arange(len(xy_a)), N_POINTS))[:N_POINTS]
    if len(xy_a) > N_POINTS:
        rows = rng.choice(len(xy_a), N_POINTS, replace=False)
    xy_a, strength_a = xy_a[rows], strength_a[rows]
    true, seen = project(xy_a.astype(np.float64))
    inside = np.all((true > 8) & (true < SIDE_PX - 8), axis=1)
    gap = np.linalg.norm(true[:, None] - xy_b[None], axis=-1)
    nearest = gap.argmin(1)
    again = gap[np.arange(len(gap)), nearest] < SAME_PX
    jittered = true + rng.normal(0, 0.7, true.shape)
    other = np.where(again[:, None], xy_b[nearest], jittered)
    stray = ~(seen & inside)
    other[stray] = xy_b[rng.integers(0, len(xy_b), int(stray.sum()))]
    return Pair(
        images=np.stack(pictures),
        xy_px=np.stack([xy_a, other]).astype(np.float32),
        log_strength=np.stack([strength_a, np.where(again, strength_b[nearest], strength_a)]).astype(np.float32),
        seen=seen & inside,
        judged=inside,
        found_again=again & seen & inside,
    )
