"""Printed square markers (ArUco, AprilTag) in the photos, and how long their sides are in the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from recon.camera import View

MIN_SIDE_PX = 12.0
"""Corners of a marker that looks smaller are too coarse."""
EDGE_REACH_PX = 3.0
"""How far from the detector's corners the marker's edges are looked for."""
MAX_ERROR_PX = 2.0
"""A corner farther from its point's projection was seen wrongly."""
MIN_VIEWS = 3
"""Fewer photos can agree on a wrong corner."""


class MarkerDictionary(Enum):
    """Families of markers; the value is how the report names them."""

    auto = "auto"
    aruco_4x4_50 = "ArUco 4x4_50"
    aruco_5x5_100 = "ArUco 5x5_100"
    aruco_6x6_250 = "ArUco 6x6_250"
    apriltag_36h11 = "AprilTag 36h11"


@dataclass(frozen=True)
class SeenMarker:
    """One marker in one photo."""

    view_idx: int
    marker_id: int
    corners_px: Float64[np.ndarray, "4 2"]
    """In the marker's own order; pixel centres at +0.5."""


@dataclass(frozen=True)
class SeenMarkers:
    """All markers of the family that was found most."""

    dictionary: MarkerDictionary
    markers: tuple[SeenMarker, ...]


@dataclass(frozen=True)
class Sides:
    """The sides of the markers whose corners could be triangulated, in units of the model."""

    dictionary: MarkerDictionary
    lengths: Float64[np.ndarray, " n_sides"]
    n_markers: int
    n_views: int


def find_markers(photos: Iterable[UInt8[np.ndarray, "h w 3"]], dictionary: MarkerDictionary) -> SeenMarkers:
    """Markers in every photo (view k is the k-th); `auto` tries all families and keeps the most frequent one."""
    auto = dictionary is MarkerDictionary.auto
    families = [d for d in MarkerDictionary if d is not MarkerDictionary.auto] if auto else [dictionary]
    detectors = {family: _detector(family) for family in families}
    seen: dict[MarkerDictionary, list[SeenMarker]] = {family: [] for family in families}
    for k, photo in enumerate(photos):
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        for family, detector in detectors.items():
            corners, ids, _ = detector.detectMarkers(grey)
            for quad, marker_id in zip(corners, np.ravel(ids) if ids is not None else [], strict=True):
                pixels = np.asarray(quad, np.float64).reshape(4, 2) + 0.5
                if np.linalg.norm(pixels - np.roll(pixels, 1, 0), axis=1).min() >= MIN_SIDE_PX:
                    seen[family].append(SeenMarker(k, int(marker_id), sharpened(grey, pixels)))
    best = max(families, key=lambda family: len(seen[family]))
    return SeenMarkers(best, tuple(seen[best]))


def _detector(family: MarkerDictionary) -> Any:
    names = {
        MarkerDictionary.aruco_4x4_50: cv2.aruco.DICT_4X4_50,
        MarkerDictionary.aruco_5x5_100: cv2.aruco.DICT_5X5_100,
        MarkerDictionary.aruco_6x6_250: cv2.aruco.DICT_6X6_250,
        MarkerDictionary.apriltag_36h11: cv2.aruco.DICT_APRILTAG_36h11,
    }
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    return cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(names[family]), parameters)


def sharpened(grey: UInt8[np.ndarray, "h w"], corners_px: Float64[np.ndarray, "4 2"]) -> Float64[np.ndarray, "4 2"]:
    """Corners as the crossings of straight lines through the marker's edges.

    OpenCV's own refinement looks at the corner alone, which blur rounds off: it makes the sides about 0.3 px too short.
    """
    found = [_edge_line(grey, corners_px[k], corners_px[(k + 1) % 4]) for k in range(4)]
    lines = [line for line in found if line is not None]
    if len(lines) < 4:
        return corners_px
    crossings = np.cross([lines[k - 1] for k in range(4)], lines)
    moved = crossings[:, :2] / crossings[:, 2:]
    return moved if np.linalg.norm(moved - corners_px, axis=1).max() < EDGE_REACH_PX else corners_px


def _edge_line(grey: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    """The line (a, b, c), a x + b y + c = 0, of the steepest brightness across the side from `start` to `end`."""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    reach = np.arange(-EDGE_REACH_PX, EDGE_REACH_PX + 0.25, 0.5)
    middle = start + np.linspace(0.12, 0.88, 30)[:, None] * (end - start)
    where = (middle[:, None] + reach[:, None] * across - 0.5).astype(np.float32)
    profile = cv2.remap(grey, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    slope = np.diff(profile.astype(float), axis=1)
    slope = np.maximum(slope * np.sign(slope.sum()), 0) ** 2
    weight = slope.sum(1)
    if (weight > 0).sum() < 10:
        return None
    offset = (slope @ (reach[:-1] + 0.25)) / np.maximum(weight, 1e-9)
    t = (middle - start) @ along
    use = weight > 0.2 * np.median(weight)
    for _ in range(3):
        a, b = np.polyfit(t[use], offset[use], 1)
        error = np.abs(a * t + b - offset)
        use = (weight > 0.2 * np.median(weight)) & (error <= 2.5 * np.median(error[use]) + 0.02)
    p, q = (start + d * along + (a * d + b) * across for d in (0.0, float(t[-1])))
    return np.cross([*p, 1.0], [*q, 1.0])


def marker_sides(views: Sequence[View], seen: SeenMarkers) -> Sides:
    """Triangulate the four corners of each marker; markers with a corner that too few photos agree on are left out."""
    by_id: dict[int, list[SeenMarker]] = defaultdict(list)
    for marker in seen.markers:
        by_id[marker.marker_id].append(marker)
    lengths, n_markers, used = [], 0, set()
    for group in by_id.values():
        group = [m for m in group if sum(o.view_idx == m.view_idx for o in group) == 1]  # the same print twice
        group_views = [views[m.view_idx] for m in group]
        found = [triangulate(group_views, np.array([m.corners_px[c] for m in group]).reshape(-1, 2)) for c in range(4)]
        corners = [c for c in found if c is not None]
        if len(corners) < 4:
            continue
        square = np.array(corners)
        lengths += np.linalg.norm(square - np.roll(square, 1, 0), axis=1).tolist()
        n_markers += 1
        used |= {m.view_idx for m in group}
    return Sides(seen.dictionary, np.array(lengths, float), n_markers, len(used))


def triangulate(views: Sequence[View], pixels: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "3"] | None:
    """The point most photos agree on, within `MAX_ERROR_PX`; None where fewer than `MIN_VIEWS` agree.

    Every pair of photos proposes a point; the one with most agreement is refitted by iterated linear least squares
    (Hartley and Sturm 1997, section 4.2).
    """
    if len(views) < MIN_VIEWS:
        return None
    best = np.zeros(len(views), bool)
    for pair in combinations(range(len(views)), 2):
        point = _least_squares([views[k] for k in pair], pixels[list(pair)])
        fits = _errors_px(views, pixels, point) < MAX_ERROR_PX
        if fits.sum() > best.sum():
            best = fits
    if best.sum() < MIN_VIEWS:
        return None
    chosen = np.flatnonzero(best).tolist()
    return _least_squares([views[k] for k in chosen], pixels[chosen])


def _least_squares(views: Sequence[View], pixels: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "3"]:
    """The point of least squared error in pixels, by linear equations weighted with the depths of the round before."""
    rows, offsets = [], []
    for view, pixel in zip(views, pixels, strict=True):
        k = view.camera.matrix()
        rotation, translation = k @ view.cam_from_world.rotation, k @ view.cam_from_world.translation
        rows.append(pixel[:, None] * rotation[2] - rotation[:2])
        offsets.append(translation[:2] - pixel * translation[2])
    a, b = np.array(rows), np.array(offsets)
    weight = np.ones(len(views))
    point: np.ndarray = np.zeros(3)
    for _ in range(4):
        point = np.linalg.lstsq((a * weight[:, None, None]).reshape(-1, 3), (b * weight[:, None]).ravel(), rcond=None)[
            0
        ]
        depth_z = np.array([v.cam_from_world.apply(point[None])[0, 2] for v in views])
        weight = 1 / np.maximum(np.abs(depth_z), 1e-12)
    return point


def _errors_px(
    views: Sequence[View], pixels: Float64[np.ndarray, "n 2"], point: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, " n"]:
    projected = [view.project(point[None]) for view in views]
    error = np.linalg.norm(np.array([p[0] for p, _ in projected]) - pixels, axis=1)
    return np.where(np.array([z[0] for _, z in projected]) > 0, error, np.inf)
