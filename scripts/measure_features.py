#!/usr/bin/env python3
"""Count the true matches of SIFT and of the learned features on captures with known cameras.

    python scripts/measure_features.py CAPTURE... [--checkpoint weights.npz] [--anchors 4]

For pairs of photos 20, 40 and 60 degrees apart: how many matches by COLMAP's rules (mutual, ratio 0.8, distance 0.7)
lie within 2 px of the true epipolar line, their share of all, and how far those on the object or its table lie from the
true place. As photographed, with everything but the object blurred, and with the whole photo blurred by 3 px.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import trimesh
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a checkout too

from pose.features import FeaturesConfig, PhotoFeatures, detect
from pose.learned.config import LearnedConfig
from pose.learned.detect import detect_learned, joined
from recon.evaluate.score import TrueView, read_views

ANGLES_DEG = (20, 40, 60)
VARIANTS = ("plain", "table blurred", "photo blurred")
EPIPOLAR_PX = 2.0
N_FEATURES = 4000


@dataclass
class Tally:
    """What was seen in the pairs of one kind."""

    n_matches: list[int]
    n_true: list[int]
    errors_px: list[float]


def spoilt(true: TrueView, variant: str) -> np.ndarray:
    """The grey photo of a variant."""
    grey = cv2.imread(str(true.photo), cv2.IMREAD_GRAYSCALE)
    if variant == "photo blurred":
        return cv2.GaussianBlur(grey, (0, 0), 3.0)
    if variant == "table blurred":
        assert true.mask is not None
        share = cv2.imread(str(true.mask), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
        return np.round(grey * share + cv2.GaussianBlur(grey, (0, 0), 15.0) * (1 - share)).astype(np.uint8)
    return grey


def matches(a: PhotoFeatures, b: PhotoFeatures) -> np.ndarray:
    """Pairs of rows by COLMAP's rules for SIFT: mutual, ratio of distances 0.8, largest distance 0.7."""
    if len(a.descriptors) < 2 or len(b.descriptors) < 2:
        return np.zeros((0, 2), int)
    x, y = (f.descriptors.astype(np.float32) / 512 for f in (a, b))
    square = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    ab, ba = _clearly_nearest(square), _clearly_nearest(square.T)
    rows = np.flatnonzero(ab >= 0)
    rows = rows[ba[ab[rows]] == rows]
    return np.stack([rows, ab[rows]], -1)


def _clearly_nearest(square: np.ndarray) -> np.ndarray:
    """Per row the nearest column by squared distance, or -1 where it is too far or another is nearly as near."""
    rows = np.arange(len(square))
    nearest = square.argmin(1)
    first = np.maximum(square[rows, nearest], 0)
    square[rows, nearest] = np.inf
    second = square.min(1)
    square[rows, nearest] = first
    return np.where((first < 0.8**2 * second) & (first < 0.7**2), nearest, -1)


def ideal(true: TrueView, xy_px: np.ndarray) -> np.ndarray:
    """Pixels with the lens's distortion undone, as directions with z = 1."""
    k = true.view.camera.matrix()
    flat = cv2.undistortPoints(xy_px.astype(float)[:, None], k, np.array([true.k1, true.k2, 0, 0]))
    return np.column_stack([flat[:, 0], np.ones(len(flat))])


def epipolar_px(a: TrueView, b: TrueView, xy_a: np.ndarray, xy_b: np.ndarray) -> np.ndarray:
    """Larger of the two distances to the true epipolar lines."""
    b_from_a = b.view.cam_from_world.rotation @ a.view.cam_from_world.rotation.T
    t = b.view.cam_from_world.translation - b_from_a @ a.view.cam_from_world.translation
    essential = np.cross(np.eye(3), t) @ b_from_a * -1
    x, y = ideal(a, xy_a), ideal(b, xy_b)
    in_b, in_a = x @ essential.T, y @ essential
    value = np.abs((in_b * y).sum(1))
    gap_b = value / np.linalg.norm(in_b[:, :2], axis=1) * b.view.camera.fx_px
    gap_a = value / np.linalg.norm(in_a[:, :2], axis=1) * a.view.camera.fx_px
    return np.maximum(gap_a, gap_b)


class Ground:
    """The true object and its table, to look up where a pixel is in another photo."""

    def __init__(self, mesh: trimesh.Trimesh) -> None:
        side = 4 * float(np.abs(mesh.bounds).max())
        table = np.array([[-side, -side, 0], [side, -side, 0], [side, side, 0], [-side, side, 0]])[
            [[0, 1, 2], [0, 2, 3]]
        ]
        self.scene = rtcore_scene.EmbreeScene()
        TriangleMesh(self.scene, np.concatenate([mesh.triangles, table]).astype(np.float32))

    def transfer_px(self, a: TrueView, b: TrueView, xy_a: np.ndarray) -> np.ndarray:
        """True places in photo b of pixels of photo a (NaN where a pixel shows neither object nor table)."""
        start = np.broadcast_to(a.view.centre_world(), (len(xy_a), 3))
        rays = ideal(a, xy_a) @ a.view.cam_from_world.rotation
        hit = self.scene.run(start.astype(np.float32), rays.astype(np.float32), output=True)
        world = start + rays * np.where(hit["primID"] >= 0, hit["tfar"], np.nan)[:, None]
        cam = b.view.cam_from_world.apply(world)
        moved, _ = cv2.projectPoints(
            cam[:, None], np.zeros(3), np.zeros(3), b.view.camera.matrix(), np.array([b.k1, b.k2, 0, 0])
        )
        return moved[:, 0]


def chosen_pairs(views: list[TrueView], middle: np.ndarray, n_anchors: int) -> list[tuple[int, int, int]]:
    """(photo, photo, angle): for evenly spread photos, the one that looks nearest to each angle from another side."""
    ways = np.array([v.view.centre_world() - middle for v in views])
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    out = []
    for i in np.linspace(0, len(views) - 1, n_anchors).astype(int):
        apart = np.degrees(np.arccos(np.clip(ways @ ways[i], -1, 1)))
        out += [(int(i), int(np.abs(apart - angle).argmin()), angle) for angle in ANGLES_DEG]
    return out


def features_of(
    views: list[TrueView], used: list[int], variant: str, checkpoint: str
) -> tuple[dict[str, dict[int, PhotoFeatures]], dict[str, float]]:
    """The features of some photos by each means, and CPU seconds a photo."""
    sift = FeaturesConfig(max_features=N_FEATURES)
    learned = LearnedConfig(max_features=N_FEATURES, checkpoint=checkpoint)
    found: dict[str, dict[int, PhotoFeatures]] = {"SIFT": {}, "learned": {}, "half each": {}}
    seconds = dict.fromkeys(found, 0.0)
    for i in used:
        grey = spoilt(views[i], variant)
        started = time.process_time()
        found["SIFT"][i] = detect(grey, sift)
        between = time.process_time()
        found["learned"][i] = detect_learned(grey, learned)
        seconds["SIFT"] += (between - started) / len(used)
        seconds["learned"] += (time.process_time() - between) / len(used)
        halves = [
            PhotoFeatures(f.keypoints[: N_FEATURES // 2], f.descriptors[: N_FEATURES // 2])
            for f in (found["SIFT"][i], found["learned"][i])
        ]
        found["half each"][i] = joined(*halves)
    seconds["half each"] = seconds["SIFT"] + seconds["learned"]
    return found, seconds


def measure(capture: Path, checkpoint: str, n_anchors: int) -> None:
    """Print one capture's table."""
    views = read_views(capture / "gt" / "transforms.json", "train")
    mesh = trimesh.load(capture / "gt" / "mesh.ply")
    ground, pairs = Ground(mesh), chosen_pairs(views, mesh.bounds.mean(0), n_anchors)
    used = sorted({i for pair in pairs for i in pair[:2]})
    for variant in VARIANTS:
        by_means, seconds = features_of(views, used, variant, checkpoint)
        for name, found in by_means.items():
            tallies = {angle: Tally([], [], []) for angle in ANGLES_DEG}
            for i, j, angle in pairs:
                rows = matches(found[i], found[j])
                xy_a, xy_b = found[i].keypoints[rows[:, 0], :2], found[j].keypoints[rows[:, 1], :2]
                good = epipolar_px(views[i], views[j], xy_a, xy_b) < EPIPOLAR_PX if len(rows) else np.zeros(0, bool)
                tallies[angle].n_matches.append(len(rows))
                tallies[angle].n_true.append(int(good.sum()))
                if good.any():
                    error = np.linalg.norm(ground.transfer_px(views[i], views[j], xy_a[good]) - xy_b[good], axis=1)
                    tallies[angle].errors_px += error[error < 5].tolist()
            n = np.mean([len(f.keypoints) for f in found.values()])
            line = f"{capture.name:8s} {variant:14s} {name:9s} {n:5.0f} features {seconds[name]:5.2f} s |"
            for angle, tally in tallies.items():
                share = sum(tally.n_true) / max(sum(tally.n_matches), 1)
                error_px = np.median(tally.errors_px) if tally.errors_px else np.nan
                line += f" {angle}°: {np.mean(tally.n_true):6.1f} ({share:4.0%}, {error_px:4.2f} px) |"
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path, nargs="+", help="captures with gt/transforms.json and gt/mesh.ply")
    parser.add_argument("--checkpoint", default="", help="weights to judge instead of those of the repository")
    parser.add_argument("--anchors", type=int, default=4, help="photos of each capture that pairs start from")
    args = parser.parse_args()
    for capture in args.captures:
        measure(capture, args.checkpoint, args.anchors)


if __name__ == "__main__":
    main()
