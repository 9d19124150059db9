"""Metres: printed markers, depth maps, AR poses, the longest side; which goes before which; the metric world frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_box import draw, pattern, ring
from PIL import Image
from test_pose import model_of, table_and_blob

from pose.markers import MarkerDictionary, SeenMarkers, find_markers, marker_sides, triangulate
from pose.model import Lens, SparseModel
from pose.orient import OrientConfig, orient
from pose.scale import GivenUnit, ScaleConfig, find_scale
from recon.camera import Pinhole, View
from recon.data import Capture, GivenCamera, GivenPoses, Photo
from recon.stage import Job
from recon.transforms import Rigid

SIDE = 0.06
"""Of the painted markers, in units of the scene."""
PLACES = {3: (0.24, 0.02, 0.3), 7: (-0.3, 0.1, 1.1), 11: (0.05, -0.28, 0.0)}
"""Markers on the table by id: x and y of the middle, turn in radians."""
FAMILIES = {
    MarkerDictionary.aruco_4x4_50: cv2.aruco.DICT_4X4_50,
    MarkerDictionary.aruco_5x5_100: cv2.aruco.DICT_5X5_100,
    MarkerDictionary.aruco_6x6_250: cv2.aruco.DICT_6X6_250,
    MarkerDictionary.apriltag_36h11: cv2.aruco.DICT_APRILTAG_36h11,
}
PHONE = Pinhole(960, 720, 860.0, 860.0, 486.0, 356.0)


def paint(photo: np.ndarray, view: View, family: int, marker_id: int, place: tuple[float, float, float]) -> None:
    """Paint a marker with its white border onto the table of a photo, with the table's own perspective."""
    size, border = 240, 60
    print_ = np.full((size + 2 * border,) * 2, 255, np.uint8)
    dictionary = cv2.aruco.getPredefinedDictionary(family)
    print_[border:-border, border:-border] = cv2.aruco.generateImageMarker(dictionary, marker_id, size)
    half = SIDE / 2 * (size + 2 * border) / size
    turn = np.array([[np.cos(place[2]), -np.sin(place[2])], [np.sin(place[2]), np.cos(place[2])]])
    flat = np.array([[-half, half], [half, half], [half, -half], [-half, -half]]) @ turn.T + place[:2]
    pixels, depth_z = view.project(np.concatenate([flat, np.zeros((4, 1))], 1))
    assert (depth_z > 0).all()
    n = size + 2 * border
    low = np.maximum(np.floor(pixels.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(pixels.max(0)).astype(int), photo.shape[1::-1])
    if (high <= low).any():
        return
    corners = np.array([[0, 0], [n, 0], [n, n], [0, n]], np.float32) - 0.5
    k = 4  # painted larger and made smaller, as a lens would mix what falls on a pixel
    to_crop = cv2.getPerspectiveTransform(corners, ((pixels - low) * k - 0.5).astype(np.float32))
    shape = tuple(int(x) for x in (high - low) * k)
    warped = cv2.warpPerspective(print_, to_crop, shape)
    inside = cv2.warpPerspective(np.full_like(print_, 255), to_crop, shape)
    size_px = tuple(int(x) for x in high - low)
    colour, share = (
        cv2.resize(x, size_px, interpolation=cv2.INTER_AREA).astype(float)[..., None] for x in (warped, inside)
    )
    crop = photo[low[1] : high[1], low[0] : high[0]]
    crop[:] = (crop * (1 - share / 255) + colour * (share / 255)).astype(np.uint8)


@cache
def bare(n: int) -> tuple[list[View], list[np.ndarray]]:
    """Noisy photos from above of the box without markers; the box hides no place where a marker will lie."""
    textures = [pattern(i) for i in range(6)]
    views = [View(f"{k}", PHONE, pose) for k, pose in enumerate(ring(n, heights=(0.75, 0.9)))]
    noise = np.random.default_rng(0).normal(0, 4, (PHONE.height_px, PHONE.width_px, 3))
    photos = [np.clip(draw(v.cam_from_world, textures, PHONE) + noise, 0, 255).astype(np.uint8) for v in views]
    return views, photos


def scene(family: MarkerDictionary, n: int = 6) -> tuple[list[View], list[np.ndarray]]:
    """Photos from above of the box with markers beside it."""
    views, photos = bare(n)
    photos = [photo.copy() for photo in photos]
    for view, photo in zip(views, photos, strict=True):
        for marker_id, place in PLACES.items():
            paint(photo, view, FAMILIES[family], marker_id, place)
    return views, photos


@pytest.mark.parametrize("family", list(FAMILIES))
def test_markers_of_each_family_are_found_and_measured(family: MarkerDictionary) -> None:
    views, photos = scene(family)
    seen = find_markers(photos, MarkerDictionary.auto)
    assert seen.dictionary is family and {m.marker_id for m in seen.markers} == set(PLACES)
    sides = marker_sides(views, seen)
    assert sides.n_markers == 3 and sides.n_views == len(views) and len(sides.lengths) == 12
    assert float(np.median(sides.lengths)) == pytest.approx(SIDE, rel=0.001)
    assert np.abs(sides.lengths / SIDE - 1).max() < 0.003


def test_the_same_print_twice_and_too_few_photos_give_no_scale() -> None:
    views, photos = scene(MarkerDictionary.aruco_4x4_50, n=3)
    seen = find_markers(photos[:2], MarkerDictionary.aruco_4x4_50)
    assert len(marker_sides(views, seen).lengths) == 0
    seen = find_markers(photos, MarkerDictionary.aruco_4x4_50)
    doubled = SeenMarkers(seen.dictionary, tuple(replace(m, marker_id=0) for m in seen.markers))
    assert len(marker_sides(views, doubled).lengths) == 0


def test_a_corner_outvotes_wrong_sightings() -> None:
    views = [View(f"{k}", PHONE, pose) for k, pose in enumerate(ring(7))]
    point = np.array([0.05, -0.1, 0.12])
    pixels = np.array([v.project(point[None])[0][0] for v in views])
    pixels[1] += [40, 5]
    pixels[4] -= [8, 30]
    found = triangulate(views, pixels)
    assert found is not None and np.abs(found - point).max() < 1e-9
    rng = np.random.default_rng(0)
    assert triangulate(views[:4], rng.uniform(0, 700, (4, 2))) is None


# ------------------------------------------------------------------------------------------------ choosing
UNIT_M = 0.4
"""Metres in one unit of the models below."""


def posed_scene(tmp_path: Path, ar: bool = False, depth_m: float | None = None) -> tuple[Capture, SparseModel, Path]:
    """A model of four photos with markers painted in, perhaps with depth maps that say UNIT_M is `depth_m`."""
    views, photos = scene(MarkerDictionary.aruco_5x5_100, n=4)
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(1)
    points = rng.uniform((-0.3, -0.3, 0), (0.3, 0.3, 0.3), (200, 3))
    obs_px, obs_view = [], []
    for k, (view, photo) in enumerate(zip(views, photos, strict=True)):
        Image.fromarray(photo).save(tmp_path / "images" / f"{k}.jpg", quality=97)
        pixels, depth_z = view.project(points)
        obs_px.append(pixels)
        obs_view.append(np.full(len(points), k))
        if depth_m is not None:
            depth_mm = np.zeros((180, 240), np.uint16)
            col, row = (pixels / 4).astype(int).T
            wrong = rng.random(len(points)) < 0.25  # at edges a phone's depth is that of what is behind
            inside = (col >= 0) & (row >= 0) & (col < 240) & (row < 180)
            metres = depth_z * depth_m * np.where(wrong, 1.8, 1.0)
            depth_mm[row[inside], col[inside]] = (1000 * metres[inside]).astype(np.uint16)
            (tmp_path / "depth").mkdir(exist_ok=True)
            Image.fromarray(depth_mm).save(tmp_path / "depth" / f"{k}.png")
    model = replace(
        model_of([v.cam_from_world for v in views], points),
        lenses=(Lens(960, 720, 860.0, 860.0, 486.0, 356.0),) * 4,
        obs_point_idx=np.tile(np.arange(200), 4),
        obs_view_idx=np.concatenate(obs_view),
        obs_px=np.concatenate(obs_px),
    )
    names = [Photo(f"{k}", f"{k}.jpg", 960, 720, None, "", 1.0, 0.0) for k in range(4)]
    cameras = (GivenCamera("0", 860.0, 860.0, 486.0, 356.0, 0.0, 0.0, 0.0, 0.0, Rigid.identity()),)
    return Capture(tmp_path, "x", tuple(names), given=GivenPoses("t", cameras, ar)), model, tmp_path


Found = tuple[float, str, list[str]]


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., Found | None]:
    def run(cfg: ScaleConfig, ar: bool = False, depth_m: float | None = None) -> Found | None:
        capture, model, folder = posed_scene(tmp_path, ar, depth_m)
        job = Job("estimate_poses", tmp_path)
        scale = find_scale(capture, model, [PHONE] * 4, folder, cfg, job)
        return scale and (scale.metres_per_unit, scale.source, job.warnings)

    return run


def test_nothing_known_is_nothing_said(measured: Callable[..., Found | None]) -> None:
    assert measured(ScaleConfig()) is None


def test_a_marker_goes_before_depth_and_tells_where_they_differ(measured: Callable[..., Found | None]) -> None:
    found = measured(ScaleConfig(marker_side_m=SIDE * UNIT_M), depth_m=UNIT_M * 1.19)
    assert found is not None
    assert found[0] == pytest.approx(UNIT_M, rel=0.003) and found[1] == "3 printed markers (ArUco 5x5_100)"
    assert len(found[2]) == 1 and "4 depth maps differ by 19 %" in found[2][0] and "printed markers" in found[2][0]


def test_depth_goes_before_ar_poses(measured: Callable[..., Found | None]) -> None:
    found = measured(ScaleConfig(), ar=True, depth_m=1.02)
    assert found is not None and found[0] == pytest.approx(1.02, rel=0.005)
    assert found[1] == "4 depth maps" and found[2] == []  # 2 % is no disagreement


def test_ar_poses_are_metric_where_said(measured: Callable[..., Found | None]) -> None:
    found = measured(ScaleConfig(given_unit=GivenUnit.metre))
    assert found is not None and found[:2] == (1.0, "given poses (AR)")


def test_a_missing_marker_is_said_to_be_missing(measured: Callable[..., Found | None], tmp_path: Path) -> None:
    cfg = ScaleConfig(marker_side_m=0.1, marker_dictionary=MarkerDictionary.apriltag_36h11)
    capture, model, folder = posed_scene(tmp_path)
    job = Job("estimate_poses", tmp_path)
    assert find_scale(capture, model, [PHONE] * 4, folder, cfg, job) is None
    assert len(job.warnings) == 1 and "No marker of 0.1 m" in job.warnings[0]


# ------------------------------------------------------------------------------------------------ the world
def test_the_world_is_in_metres_where_they_are_known() -> None:
    poses, points = ring(24), table_and_blob(np.random.default_rng(0))
    frame = orient(model_of(poses, points), OrientConfig(), metres_per_unit=0.25)
    assert frame.world_from_model.scale == 0.25 and frame.support_plane is not None
    centres = frame.world_from_model.apply(model_of(poses, points).centres())
    assert np.median(np.linalg.norm(centres - frame.focus_world, axis=1)) == pytest.approx(0.25, rel=0.1)
    assert abs(frame.support_plane.offset) < 1e-6 and frame.support_plane.normal_world[2] > 0.9999


@pytest.mark.parametrize("axis", [1, 2])
def test_gravity_of_ar_poses_is_up_where_no_plane_is(axis: int) -> None:
    rng = np.random.default_rng(4)
    turn = np.eye(3) if axis == 2 else np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    poses = []
    for k, pose in enumerate(ring(20, heights=(0.1, 0.4))):
        tilt = cv2.Rodrigues(np.array([0, 0, 0.12 + 0.05 * np.sin(k)]))[0]  # a photographer who holds the phone askew
        poses.append(Rigid(tilt @ pose.rotation @ turn.T, tilt @ pose.translation))
    points = (rng.normal(0, 0.15, (800, 3)) + [0, 0, 0.1]) @ turn.T  # noqa: RUF005
    frame = orient(model_of(poses, points), OrientConfig(), 1.0, has_gravity=True)
    assert frame.support_plane is None and frame.up_source == "gravity of the given poses"
    assert (frame.world_from_model.rotation @ np.eye(3)[axis])[2] == pytest.approx(1)
    plain = orient(model_of(poses, points), OrientConfig())
    assert plain.up_source == "camera orientation"


def test_a_frame_that_lies_askew_has_no_gravity() -> None:
    poses, points = ring(20, heights=(0.1, 0.4)), np.random.default_rng(4).normal(0, 0.15, (300, 3))
    turn = cv2.Rodrigues(np.array([1.0, 0, 0]))[0]
    poses = [Rigid(p.rotation @ turn.T, p.translation) for p in poses]
    frame = orient(model_of(poses, points @ turn.T), OrientConfig(), 1.0, has_gravity=True)
    assert frame.up_source == "camera orientation"
