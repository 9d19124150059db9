"""Lost photos won back, wrong ones taken back, lenses kept sensible, and hopeless captures refused with a remedy."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from drawn_box import CAMERA, draw, look_at, pattern, ring
from PIL import Image

from pose.colmap_io import silenced, write_database
from pose.diagnose import Trouble, diagnose, only_turned, sentence
from pose.enrich import Evidence, enrich, joined, one_to_one
from pose.features import FeaturesConfig, PhotoFeatures, detect, kept
from pose.fold import FoldConfig, folded_away
from pose.intrinsics import IntrinsicsConfig
from pose.mapping import MappingConfig, map_on, map_photos, refine
from pose.matching import match_pairs, read_matches
from pose.merge import merged
from pose.verify import VerifyConfig, doubtful_views, take_back_wrong
from recon.data import Capture, Photo
from recon.evaluate.variants import judge_cameras
from recon.transforms import Rigid

N = 16
POSES = ring(N, heights=(0.45, 0.55))
TRUTH = {f"{i:02d}": pose for i, pose in enumerate(POSES)}
SILENT = lambda *_: None  # noqa: E731
FEATURES = FeaturesConfig(max_features=1500)


def capture_of(folder: Path, pictures: list[np.ndarray]) -> Capture:
    (folder / "images").mkdir(parents=True)
    photos = []
    for i, picture in enumerate(pictures):
        Image.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"{i:02d}.jpg", quality=95)
        h, w = picture.shape[:2]
        photos.append(Photo(f"{i:02d}", f"{i:02d}.jpg", w, h, 440.0, f"phone|{w}x{h}", 1.0, 0.0))
    return Capture(folder, "box", tuple(photos))


def evidence_of(capture: Capture, folder: Path, pairs: list[tuple[int, int]] | None = None) -> Evidence:
    features = []
    for photo in capture.photos:
        with Image.open(capture.image_path(photo.name)) as image:
            features.append(detect(np.asarray(image.convert("L")), FEATURES))
    n = len(features)
    folder.mkdir(exist_ok=True)
    evidence = Evidence(capture, features, folder / "database.db")
    write_database(evidence.database, capture, features)
    match_pairs(evidence.database, pairs or [(i, j) for i in range(n) for j in range(i + 1, n)], 0, SILENT)
    return evidence


def poses_of(model: Any) -> dict[str, Rigid]:
    out = {}
    for image in model.images.values():
        if image.has_pose:
            matrix = np.array(image.cam_from_world().matrix())
            out[f"{image.image_id - 1:02d}"] = Rigid(matrix[:, :3].copy(), matrix[:, 3].copy())
    return out


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """All photos of the box, matched exhaustively."""
    root = tmp_path_factory.mktemp("box")
    textures = [pattern(i) for i in range(6)]
    return evidence_of(capture_of(root / "capture", [draw(p, textures) for p in POSES]), root / "sfm")


@pytest.fixture(scope="module")
def mapped(box: Evidence) -> Any:
    return map_photos(box.database, N, MappingConfig(), SILENT)[0]


@pytest.fixture
def model(mapped: Any) -> Any:
    return silenced().Reconstruction(mapped)


def copied(evidence: Evidence, folder: Path) -> Evidence:
    shutil.copyfile(evidence.database, folder / "database.db")
    return dataclasses.replace(evidence, features=list(evidence.features), database=folder / "database.db")


# ------------------------------------------------------------------------------------------------ the check
def test_right_views_stand(box: Evidence, model: Any) -> None:
    assert model.num_reg_images() == N
    assert take_back_wrong(model, box.database, VerifyConfig(), 0) == {}
    assert judge_cameras(poses_of(model), TRUTH).rotation_deg.max() < 1


@pytest.mark.parametrize("turn_deg", [3.0, 25.0])
def test_a_wrong_view_is_taken_back_and_no_other(box: Evidence, model: Any, turn_deg: float) -> None:
    pycolmap = silenced()
    image = model.images[5]
    axis = np.array([0.3, 1.0, 0.5]) / np.linalg.norm([0.3, 1.0, 0.5])
    turn = cv2.Rodrigues(axis * np.radians(turn_deg))[0]
    matrix = image.cam_from_world().matrix()
    wrong = pycolmap.Rigid3d(np.concatenate([turn @ matrix[:, :3], turn @ matrix[:, 3:]], 1))
    image.frame.set_cam_from_world(image.camera_id, wrong)
    doubts = doubtful_views(model, box.database, VerifyConfig(max_error_ratio=np.inf), 0)
    assert max(doubts, key=lambda k: doubts[k][0]) == 4 and "degrees" in doubts[4][1]  # by two-view matches alone
    assert list(take_back_wrong(model, box.database, VerifyConfig(), 0)) == [4]
    assert model.num_reg_images() == N - 1


@pytest.mark.parametrize("folded", [False, True])
def test_a_folded_model_loses_its_smaller_side(folded: bool) -> None:
    """24 views around an object; folded, the far 10 stand between the near 14, and a few false points tie them."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    place = np.where(np.arange(24) < 14, turn, turn - np.pi if folded else turn)
    points = {k: SimpleNamespace(xyz=np.zeros(3)) for k in range(720)}
    images = {}
    for i in range(24):
        seen = {(30 * i + k) % 720 for k in range(-60, 60)}
        if folded:  # nothing true ties the sides, but one false point in each photo does
            seen = {k for k in seen if (k < 420) == (i < 14)} | {30 * ((i + 12) % 24)}
        features = [SimpleNamespace(point3D_id=k, has_point3D=lambda: True) for k in sorted(seen)]
        centre = np.array([np.cos(place[i]), np.sin(place[i]), 0.4])
        images[i + 1] = SimpleNamespace(
            image_id=i + 1, has_pose=True, points2D=features, projection_center=lambda c=centre: c
        )
    model = SimpleNamespace(images=images, points3D=points)
    assert folded_away(model, FoldConfig()) == ([*range(15, 25)] if folded else [])


# ------------------------------------------------------------------------------------------------ means
def test_new_features_win_back_a_photo_whose_matches_were_missing(box: Evidence, tmp_path: Path) -> None:
    lost = 3
    pairs = [(i, j) for i in range(N) for j in range(i + 1, N) if lost not in (i, j)]
    evidence = evidence_of(box.capture, tmp_path / "sfm", pairs)
    model = map_photos(evidence.database, N, MappingConfig(), SILENT)[0]
    assert f"{lost:02d}" not in poses_of(model)
    before = [f.keypoints.copy() for f in evidence.features]
    near = [(lost - 1, lost), (lost, lost + 1), (lost, lost + 2), (lost - 2, lost)]
    rich = FeaturesConfig(max_features=3000, contrast_threshold=0.005)  # stands in for any detector
    assert enrich(evidence, near, lambda grey: detect(grey, rich), 14, SILENT) >= 3
    for old, now in zip(before, evidence.features, strict=True):
        assert (now.keypoints[: len(old)] == old).all()  # old indices stay true
    grown = map_on(model, evidence.database, MappingConfig(), 14)
    assert take_back_wrong(grown, evidence.database, VerifyConfig(), 0) == {}
    assert judge_cameras(poses_of(grown), TRUTH).rotation_deg.max() < 1 and f"{lost:02d}" in poses_of(grown)


def test_groups_are_joined_by_common_points(box: Evidence) -> None:
    first = map_photos(box.database, N, MappingConfig(), SILENT, range(9))[0]
    second = map_photos(box.database, N, MappingConfig(), SILENT, range(7, N))[0]
    assert len(poses_of(first)) == 9 and len(poses_of(second)) == 9
    joint = merged(first, second, box.database, 0)
    assert len(poses_of(joint)) == N and len(poses_of(first)) == 9
    grown = map_on(joint, box.database, MappingConfig(), 14)
    assert judge_cameras(poses_of(grown), TRUTH).rotation_deg.max() < 1


def test_joined_features_keep_the_old_and_find_the_same() -> None:
    rng = np.random.default_rng(0)
    old = PhotoFeatures(
        np.concatenate([rng.uniform(0, 100, (50, 2)), np.ones((50, 1)), np.zeros((50, 1))], 1).astype(np.float32),
        rng.integers(0, 255, (50, 128)).astype(np.uint8),
    )
    far = dataclasses.replace(old, keypoints=old.keypoints + np.float32([200, 0, 0, 0]))
    new = PhotoFeatures(
        np.concatenate([far.keypoints[:20], old.keypoints[10:30]]), np.concatenate([far.descriptors[:20]] * 2)
    )
    both, index = joined(old, new)
    assert len(both.keypoints) == 70 and (both.keypoints[:50] == old.keypoints).all()
    assert index.tolist() == [*range(50, 70), *range(10, 30)]
    assert one_to_one(np.array([[1, 2], [3, 2], [1, 4], [5, 6]])).tolist() == [[1, 2], [5, 6]]


def test_kept_features_are_the_same_in_every_detection() -> None:
    xy = np.random.default_rng(0).uniform(0, 1000, (20000, 2))
    keep = kept(xy, 0.5)
    assert 0.48 < keep.mean() < 0.52 and kept(xy, 1.0).all()
    assert (kept(xy[::-1], 0.5)[::-1] == keep).all()


# ------------------------------------------------------------------------------------------------ lenses, sameness
def test_a_lens_of_few_photos_stays_sensible(box: Evidence, tmp_path: Path) -> None:
    """Three of the photos were taken with a tele lens: a crop of the middle, at another scale and size."""
    capture = box.capture
    photos = list(capture.photos)
    shutil.copytree(capture.folder / "images", tmp_path / "images")
    for i in (2, 6, 10):
        with Image.open(capture.image_path(photos[i].name)) as image:
            crop = image.crop((60, 45, 420, 315)).resize((480, 360), Image.Resampling.LANCZOS)
        crop.save(tmp_path / "images" / f"{photos[i].name}.jpg", quality=95)
        photos[i] = dataclasses.replace(photos[i], lens_key="tele", focal_px=440 * 4 / 3)
    mixed = Capture(tmp_path, "mixed", tuple(photos))
    evidence = evidence_of(mixed, tmp_path / "sfm")
    model = map_photos(evidence.database, N, MappingConfig(), SILENT)[0]
    refine(model, evidence.database, MappingConfig())
    assert model.num_reg_images() == N and model.num_cameras() == 2
    wide, tele = (model.images[k].camera.params for k in (1, 3))
    prior = IntrinsicsConfig()
    assert wide[0] == pytest.approx(CAMERA.fx_px, rel=0.01)
    assert tele[0] == pytest.approx(CAMERA.fx_px * 4 / 3, rel=0.02)
    assert np.abs(tele[1:3] - [240, 180]).max() < 2 * prior.principal_point * 480 and np.abs(tele[3:]).max() < 0.1
    assert judge_cameras(poses_of(model), TRUTH).rotation_deg.max() < 1


def test_the_same_photos_give_the_same_poses(box: Evidence, tmp_path: Path) -> None:
    found = []
    for k in range(2):
        (tmp_path / f"{k}").mkdir()
        evidence = copied(box, tmp_path / f"{k}")
        model = map_photos(evidence.database, N, MappingConfig(), SILENT)[0]
        refine(model, evidence.database, MappingConfig())
        found.append(poses_of(model))
    assert found[0].keys() == found[1].keys()
    errors = judge_cameras(found[0], found[1])  # threads sum in any order, so bits may differ
    assert errors.rotation_deg.max() < 0.01 and errors.centre_share.max() < 1e-4


# ------------------------------------------------------------------------------------------------ sentences
def trouble_of(folder: Path, pictures: list[np.ndarray]) -> Trouble:
    return diagnose(evidence_of(capture_of(folder / "capture", pictures), folder / "sfm"))


def test_a_camera_that_turned_on_the_spot(tmp_path: Path) -> None:
    centre = np.array([0.9, 0.0, 0.5])
    textures = [pattern(i) for i in range(6)]
    turns = [look_at(centre, np.array([0.0, 0.06 * k, 0.1])) for k in (-2, -1, 0, 1, 2)]
    assert trouble_of(tmp_path, [draw(p, textures) for p in turns]) is Trouble.turned


def test_a_camera_that_walked_did_not_only_turn(box: Evidence) -> None:
    assert not only_turned(box)


def test_blurred_plain_few_and_apart(tmp_path: Path) -> None:
    textures = [pattern(i) for i in range(6)]
    sharp = [draw(p, textures) for p in POSES[:5]]
    rng = np.random.default_rng(1)
    cases = {
        Trouble.blurred: [cv2.GaussianBlur(p, (0, 0), 6) for p in sharp],
        Trouble.plain: [np.full((360, 480, 3), 128) + rng.normal(0, 1.5, (360, 480, 3)) for _ in range(4)],
        Trouble.few: sharp[:2],
        Trouble.apart: [rng.integers(0, 256, (90, 120, 3)).repeat(4, 0).repeat(4, 1) for _ in range(9)],
    }
    for trouble, pictures in cases.items():
        folder = tmp_path / trouble.name
        assert trouble_of(folder, [np.clip(p, 0, 255) for p in pictures]) is trouble, trouble


def test_what_matches_but_fits_nowhere_has_moved(box: Evidence) -> None:
    assert diagnose(box, folded=True) is Trouble.alike
    assert diagnose(box) is Trouble.moving  # well joined photos can only fail together if something moved
    text = sentence(box.capture, 2, Trouble.moving)
    assert text.startswith("Only 2 of 16 photos could be placed") and "may move between the photos" in text
    assert read_matches(box.database)
