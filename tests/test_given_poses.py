"""Camera poses that the user has already: used as they are, refined, refused or not looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_box import CAMERA, draw, pattern, ring
from given_cameras import CLOUD, frame, read, write_transforms
from PIL import Image
from test_pose import model_of

from pose.estimate import PosesConfig, estimate_poses
from pose.features import FeaturesConfig
from pose.given import GivenUse, with_given_points
from pose.model import Lens
from pose.scale import GivenUnit, ScaleConfig
from recon.data import Capture, GivenCamera, GivenPoses, PosedCapture
from recon.errors import UserError
from recon.stage import Job
from recon.transforms import Rigid

N = 12
TRUTH = ring(N)
TABLE_LENS = Lens(480, 360, 430.0, 430.0, 243.0, 178.0)
CONFIG = PosesConfig(
    features=FeaturesConfig(max_features=1200), scale=ScaleConfig(given_unit=GivenUnit.metre), given=GivenUse.use
)


def turned(pose: Rigid, angle_deg: float, seed: int) -> Rigid:
    """The camera turned about its own centre."""
    axis = np.random.default_rng(seed).normal(size=3)
    turn = cv2.Rodrigues(axis / np.linalg.norm(axis) * np.radians(angle_deg))[0]
    return Rigid(turn @ pose.rotation, turn @ pose.translation)


def shifted(pose: Rigid, by: float, seed: int) -> Rigid:
    offset = np.random.default_rng(seed).normal(size=3) * by
    return Rigid(pose.rotation, pose.translation - pose.rotation @ offset)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of the box, without cameras."""
    root = tmp_path_factory.mktemp("box") / "photos"
    (root / "images").mkdir(parents=True)
    textures = [pattern(i) for i in range(6)]
    for i, pose in enumerate(TRUTH):
        Image.fromarray(draw(pose, textures, CAMERA)).save(root / "images" / f"p{i:02d}.png")
    return root


def posed_with(
    photos: Path, folder: Path, given: dict[int, Rigid], cfg: PosesConfig, **extra: object
) -> tuple[PosedCapture, Job]:
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "images").symlink_to(photos / "images")
    frames = [frame(f"images/p{i:02d}.png", pose) for i, pose in given.items()]
    write_transforms(source, frames, TABLE_LENS, **extra)  # type: ignore[arg-type]
    capture, _ = read(source)
    (folder / "posed").mkdir()
    job = Job("estimate_poses", folder / "posed")
    posed = estimate_poses(capture, cfg, job)
    posed.check()
    return posed, job


def errors(posed: PosedCapture, metric: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (degrees) and centre errors of each view after the one rotation (and shift) that brings the table home.

    No scale is fitted where the world is metric.
    """
    from recon.transforms import umeyama

    found = np.array([v.centre_world() for v in posed.views])
    truth = [TRUTH[int(v.name[1:])] for v in posed.views]
    wanted = np.array([p.inverse().translation for p in truth])
    home = umeyama(found, wanted)
    if metric:
        home = replace(home, scale=1.0, translation=wanted.mean(0) - home.rotation @ found.mean(0))
    turns = [home.rotation @ v.cam_from_world.rotation.T @ p.rotation for v, p in zip(posed.views, truth, strict=True)]
    angles = np.degrees(np.arccos(np.clip([(np.trace(t) - 1) / 2 for t in turns], -1, 1)))
    return angles, np.linalg.norm(home.apply(found) - wanted, axis=1)


def test_given_points_are_added_where_the_photos_confirm_them(tmp_path: Path) -> None:
    poses = ring(3)
    model = replace(model_of(poses, CLOUD[:5]), names=("a", "b", "c"), lenses=(TABLE_LENS,) * 3)
    cameras = tuple(
        GivenCamera(n, 430.0, 430.0, 243.0, 178.0, 0.0, 0.0, 0.0, 0.0, p) for n, p in zip("abz", poses, strict=True)
    )
    pixels = np.concatenate([TABLE_LENS.project(p.apply(CLOUD)) for p in poses])
    pixels[3] += 9  # in "a": its point keeps "b" alone
    point_idx, camera_idx = np.tile(np.arange(40), 3), np.repeat(np.arange(3), 40)
    given = GivenPoses("sparse", cameras, False, CLOUD, point_idx, camera_idx, pixels)
    full = with_given_points(model, Capture(tmp_path, "x", (), given=given), max_error_px=4.0)
    added = full.points[5:]
    assert len(added) == 39 and np.allclose(added, np.delete(CLOUD, 3, 0))
    assert len(full.obs_px) == 78 and set(full.obs_view_idx) == {0, 1} and full.obs_point_idx.min() == 5
    assert full.point_error_px[5:].max() < 1e-9


def test_given_poses_are_used_as_they_are_but_for_a_wrong_and_a_missing_one(photos: Path, tmp_path: Path) -> None:
    given = {i: turned(p, 5.0, 1) if i == 4 else p for i, p in enumerate(TRUTH) if i != 7}
    posed, job = posed_with(photos, tmp_path, given, CONFIG)
    assert len(posed.views) == N and posed.left_out == ()
    assert [w for w in job.warnings if "p04.png" in w and "do not fit" in w] and not any(
        "p05" in w for w in job.warnings
    )
    assert posed.scale_source == "given poses (AR)"
    angles, off = errors(posed)
    kept = np.array([int(v.name[1:]) not in (4, 7) for v in posed.views])
    # The two others pull a little at the comparison's turn, by the same angle for all that are as they were given.
    assert np.ptp(angles[kept]) < 1e-5 and angles[kept].max() < 0.05 and off[kept].max() < 1e-3
    assert angles.max() < 0.3 and off.max() < 0.01
    distance = np.linalg.norm(posed.views[0].centre_world() - posed.focus_world)
    assert distance == pytest.approx(np.linalg.norm(TRUTH[0].inverse().translation - [0, 0, 0.1]), abs=0.02)  # metres


def test_rough_given_poses_are_refined_in_their_own_frame(photos: Path, tmp_path: Path) -> None:
    rough = {i: shifted(turned(p, 0.7, i), 0.004, 50 + i) for i, p in enumerate(TRUTH)}
    start = np.array(
        [np.degrees(np.arccos((np.trace(TRUTH[i].rotation @ p.rotation.T) - 1) / 2)) for i, p in rough.items()]
    )
    posed, job = posed_with(photos, tmp_path, rough, replace(CONFIG, given=GivenUse.refine))
    assert len(posed.views) == N and not any("do not fit" in w for w in job.warnings)
    assert job.notes["given_poses_error_px"] > 0.5 > posed.stats["mean_reprojection_error_px"]
    angles, off = errors(posed)
    assert np.median(start) > 0.6 and np.median(angles) < 0.2 and np.median(off) < 0.006


def test_poses_of_something_else_are_refused(photos: Path, tmp_path: Path) -> None:
    wrong = {i: TRUTH[(5 * i + 3) % N] for i in range(N)}
    with pytest.raises(UserError, match=r"The poses in transforms\.json do not fit the photos"):
        posed_with(photos, tmp_path, wrong, CONFIG)


def test_ignored_poses_change_nothing(photos: Path, tmp_path: Path) -> None:
    wrong = {i: TRUTH[(5 * i + 3) % N] for i in range(N)}
    cfg = replace(CONFIG, given=GivenUse.ignore)
    posed, _ = posed_with(photos, tmp_path, wrong, cfg)
    angles, _ = errors(posed, metric=False)
    assert posed.scale_source == "unknown" and len(posed.views) == N and np.median(angles) < 0.4
