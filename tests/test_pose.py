"""Camera poses: on a drawn box on a table with known cameras, and each part alone against its formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_box import draw, look_at, pattern, ring
from PIL import Image

from pose.estimate import PosesConfig, estimate_poses
from pose.features import FeaturesConfig, PhotoFeatures, detect, root_sift
from pose.model import Lens, SparseModel
from pose.orient import OrientConfig, focus_point, orient
from pose.pairs import PairsConfig, choose_pairs, likeness
from pose.undistort import pinhole_inside, sampling_maps
from recon.capture.read import CaptureConfig, read_capture
from recon.data import Capture, Photo, PosedCapture
from recon.errors import UserError
from recon.stage import Job
from recon.transforms import Rigid, umeyama


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> tuple[PosedCapture, dict[str, Rigid], list[str]]:
    """Poses of 16 photos of the box and one photo of something else, in folders with Chinese names and spaces."""
    root = tmp_path_factory.mktemp("拍 摄")
    source, first, second = root / "照片", root / "一 capture", root / "二 poses"
    for folder in (source, first, second):
        folder.mkdir()
    (source / "masks").mkdir()
    textures = [pattern(i) for i in range(6)]
    truth = {}
    for i, pose in enumerate(ring(16)):
        truth[f"照 {i}"] = pose
        Image.fromarray(draw(pose, textures)).save(source / f"照 {i}.png")
        Image.new("L", (480, 360), 255).save(source / "masks" / f"照 {i}.png")
    Image.fromarray(pattern(77).astype(np.uint8)[:360, :480]).save(source / "stranger.png")
    capture = read_capture(source, CaptureConfig(), Job("read_capture", first))
    job = Job("estimate_poses", second)
    posed = estimate_poses(capture, PosesConfig(), job)
    posed.check()
    posed.save(second)
    return PosedCapture.load(second), truth, job.warnings


def test_cameras_are_found(solved: tuple[PosedCapture, dict[str, Rigid], list[str]]) -> None:
    posed, truth, warnings = solved
    assert [v.name for v in posed.views] == [f"照 {i}" for i in range(16)]
    assert [x.name for x in posed.left_out] == ["stranger.png"]
    assert any("stranger.png" in w for w in warnings)
    found = np.array([v.centre_world() for v in posed.views])
    wanted = np.array([-truth[v.name].rotation.T @ truth[v.name].translation for v in posed.views])
    truth_from_world = umeyama(found, wanted)
    off = np.linalg.norm(truth_from_world.apply(found) - wanted, axis=1)
    assert np.median(off) < 0.003 and off.max() < 0.01  # cameras stand 1 away
    turns = []
    for view in posed.views:
        turn = truth_from_world.rotation @ view.cam_from_world.rotation.T @ truth[view.name].rotation
        turns.append(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    assert np.median(turns) < 0.15 and max(turns) < 0.4
    assert posed.views[0].camera.fx_px == pytest.approx(430, rel=0.01)
    assert (truth_from_world.rotation @ [0, 0, 1.0])[2] > np.cos(np.radians(0.5))
    assert truth_from_world.apply(np.array([[0, 0, 0.0]]))[0][2] == pytest.approx(0, abs=0.004)  # origin on the table


def test_world_frame_and_points(solved: tuple[PosedCapture, dict[str, Rigid], list[str]]) -> None:
    posed, _, _ = solved
    assert posed.up_source == "support plane" and posed.scale_source == "unknown"
    plane = posed.support_plane
    assert plane is not None and plane.normal_world[2] > 0.9999 and abs(plane.offset) < 1e-6
    distance = [np.linalg.norm(v.centre_world() - posed.focus_world) for v in posed.views]
    assert np.median(distance) == pytest.approx(1, abs=1e-6)
    assert 0.02 < posed.focus_world[2] < 0.25 and np.linalg.norm(posed.focus_world[:2]) < 1e-6
    assert len(posed.points_world) > 300 and posed.points_world[:, 2].min() > -0.3
    assert 0.05 < posed.stats["mean_reprojection_error_px"] < 1
    for i in range(0, len(posed.obs_point_idx), 97):  # observations name the right points and views
        view = posed.views[posed.obs_view_idx[i]]
        pixel, depth_z = view.project(posed.points_world[posed.obs_point_idx[i]][None])
        assert depth_z[0] > 0 and (np.abs(pixel[0] - [243, 178]) < [270, 210]).all()


def test_point_colours_are_those_of_the_photos(solved: tuple[PosedCapture, dict[str, Rigid], list[str]]) -> None:
    posed, _, _ = solved
    errors = []
    for k, view in enumerate(posed.views[:4]):
        image = posed.image(k).astype(int)
        assert image.shape[:2] == (view.camera.height_px, view.camera.width_px)
        with Image.open(posed.mask_path(view.name)) as mask:
            assert mask.size == (view.camera.width_px, view.camera.height_px)
        points = posed.obs_point_idx[posed.obs_view_idx == k]
        pixels, _ = view.project(posed.points_world[points])
        col, row = pixels.astype(int).T
        inside = (col >= 0) & (row >= 0) & (col < image.shape[1]) & (row < image.shape[0])
        errors.append(np.abs(image[row[inside], col[inside]] - posed.point_rgb[points[inside]].astype(int)))
    assert np.median(np.concatenate(errors)) < 12


def test_photos_of_nothing_in_common(tmp_path: Path) -> None:
    source, first, second = (tmp_path / n for n in ("photos", "capture", "poses"))
    for folder in (source, first, second):
        folder.mkdir()
    for i in range(4):
        Image.fromarray(pattern(50 + i)[:200, :300].astype(np.uint8)).save(source / f"{i}.png")
    capture = read_capture(source, CaptureConfig(), Job("read_capture", first))
    with pytest.raises(UserError, match="of 4 photos could be placed"):
        estimate_poses(capture, PosesConfig(), Job("estimate_poses", second))


def test_two_photos_are_refused_unseen(tmp_path: Path) -> None:
    photos = tuple(Photo(n, n, 4, 3, None, "lens", 1.0, 0.0) for n in ("a", "b"))
    with pytest.raises(UserError, match="2 photos show no shape"):
        estimate_poses(Capture(tmp_path, "pair", photos, ()), PosesConfig(), Job("estimate_poses", tmp_path))


# ------------------------------------------------------------------------------------------------ world frame
def model_of(poses: list[Rigid], points: np.ndarray) -> SparseModel:
    n = len(poses)
    return SparseModel(
        names=tuple(f"{i}" for i in range(n)),
        lenses=(Lens(480, 360, 430, 430, 240, 180),) * n,
        cam_from_world=tuple(poses),
        points=points,
        point_error_px=np.ones(len(points)),
        obs_point_idx=np.zeros(0, np.int64),
        obs_view_idx=np.zeros(0, np.int64),
        obs_px=np.zeros((0, 2)),
    )


def moved(poses: list[Rigid], points: np.ndarray, seed: int) -> tuple[list[Rigid], np.ndarray, np.ndarray]:
    """The same scene in a random frame of another scale, and where its +Z went."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    q *= np.sign(np.linalg.det(q))
    shift, scale = rng.normal(size=3) * 5, 3.7
    out = []
    for pose in poses:
        rotation = pose.rotation @ q.T
        centre = scale * q @ (-pose.rotation.T @ pose.translation) + shift
        out.append(Rigid(rotation, -rotation @ centre))
    return out, scale * points @ q.T + shift, q[:, 2]


def table_and_blob(rng: np.random.Generator) -> np.ndarray:
    table = np.concatenate([rng.uniform(-0.5, 0.5, (600, 2)), rng.normal(0, 0.002, (600, 1))], 1)
    blob = rng.normal(0, 1, (400, 3))
    blob = blob / np.linalg.norm(blob, axis=1, keepdims=True) * 0.12 + [0, 0, 0.12]
    room = rng.uniform(-3, 3, (200, 3)) + np.array([0, 0, 3])
    return np.concatenate([table, blob, room])


@pytest.mark.parametrize("heights", [(0.1, 0.4), (0.35, 0.75), (0.93,)])  # the last looks down from 70 degrees
def test_table_gives_up_and_origin(heights: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    poses, points, up = moved(ring(24, heights=heights), table_and_blob(rng), 1)
    frame = orient(model_of(poses, points), OrientConfig())
    assert frame.up_source == "support plane" and frame.support_plane is not None
    assert (frame.world_from_model.rotation @ up)[2] > np.cos(np.radians(1.0))
    assert frame.support_plane.inlier_share > 0.4 and abs(frame.support_plane.offset) < 1e-6
    assert 0.05 < frame.focus_world[2] < 0.2
    moved_centres = frame.world_from_model.apply(model_of(poses, points).centres())
    assert np.median(np.linalg.norm(moved_centres - frame.focus_world, axis=1)) == pytest.approx(1, abs=1e-6)


def test_wall_is_support_but_not_up() -> None:
    rng = np.random.default_rng(2)
    wall = np.stack([rng.normal(0, 0.002, 800), rng.uniform(-0.6, 0.6, 800), rng.uniform(-0.6, 0.6, 800)], 1)
    head = rng.normal(0, 0.05, (200, 3)) + np.array([0.2, 0, 0])
    poses = []
    for angle in np.linspace(-0.9, 0.9, 21):
        centre = np.array([np.cos(angle), np.sin(angle), 0.2 * np.sin(5 * angle)])
        poses.append(look_at(centre, np.array([0.1, 0, 0])))
    poses, points, up = moved(poses, np.concatenate([wall, head]), 3)
    frame = orient(model_of(poses, points), OrientConfig())
    assert frame.up_source == "camera orientation" and frame.support_plane is not None
    assert (frame.world_from_model.rotation @ up)[2] > np.cos(np.radians(3.0))
    assert abs(frame.support_plane.normal_world[2]) < 0.06  # upright
    centres = frame.world_from_model.apply(model_of(poses, points).centres())
    assert (centres @ frame.support_plane.normal_world > frame.support_plane.offset).all()


def test_no_plane_where_there_is_none() -> None:
    rng = np.random.default_rng(4)
    poses, points, up = moved(ring(20, heights=(0.0, 0.3)), rng.normal(0, 0.15, (800, 3)) + np.array([0, 0, 0.1]), 5)
    frame = orient(model_of(poses, points), OrientConfig())
    assert frame.support_plane is None and np.allclose(frame.focus_world, 0, atol=1e-9)
    assert (frame.world_from_model.rotation @ up)[2] > np.cos(np.radians(3.0))


def test_focus_ignores_a_camera_that_looks_away() -> None:
    poses = ring(15)
    poses[3] = look_at(np.array([1.0, 0, 0.3]), np.array([3.0, 2.0, 1.0]))
    centres = np.array([-p.rotation.T @ p.translation for p in poses])
    focus = focus_point(centres, np.array([p.rotation[2] for p in poses]))
    assert np.linalg.norm(focus - [0, 0, 0.1]) < 0.01


# ------------------------------------------------------------------------------------------------ lens
@pytest.mark.parametrize(("k1", "k2"), [(-0.12, 0.03), (0.08, -0.01), (0.0, 0.0)])
def test_undistortion_follows_the_lens_formula(k1: float, k2: float) -> None:
    lens = Lens(400, 300, 350.0, 350.0, 205.0, 146.0, k1, k2)
    camera = pinhole_inside(lens)
    x_map, y_map = sampling_maps(lens, camera)
    assert x_map.shape == (camera.height_px, camera.width_px)
    row, col = np.mgrid[0 : camera.height_px : 37, 0 : camera.width_px : 41].reshape(2, -1)
    x, y = (col + 0.5 - camera.cx_px) / camera.fx_px, (row + 0.5 - camera.cy_px) / camera.fy_px
    radial = 1 + k1 * (x * x + y * y) + k2 * (x * x + y * y) ** 2
    assert np.allclose(x_map[row, col] + 0.5, 350 * x * radial + 205, atol=2e-3)
    assert np.allclose(y_map[row, col] + 0.5, 350 * y * radial + 146, atol=2e-3)
    # nothing beyond the photo's edges is seen, and little of the photo is lost
    assert x_map.min() > -0.51 and x_map.max() < 399.51 and y_map.min() > -0.51 and y_map.max() < 299.51
    assert x_map[:, 0].min() < 30 and x_map[:, -1].max() > 370
    if k1 == 0:
        assert (camera.width_px, camera.height_px) == (400, 300) and camera.cx_px == pytest.approx(205)


# ------------------------------------------------------------------------------------------------ features, pairs
def test_features_sit_at_pixel_centres_and_scale_back() -> None:
    grey = np.zeros((200, 300), np.float32)
    rows, cols = np.mgrid[0:200, 0:300]
    spots = [(60.0, 50.0), (150.5, 120.25), (240.0, 70.0)]  # x, y with centres at +0.5
    for x, y in spots:
        grey += 200 * np.exp(-((cols + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2) / (2 * 4.0**2))
    for side in (300, 150):
        found = detect(grey.astype(np.uint8), FeaturesConfig(max_side_px=side))
        for spot in spots:
            distance = np.linalg.norm(found.keypoints[:, :2] - spot, axis=1)
            assert distance.min() < 0.2
    assert len(detect(np.zeros((100, 100), np.uint8), FeaturesConfig()).keypoints) == 0


def test_root_sift_has_the_length_colmap_stores() -> None:
    raw = np.random.default_rng(0).uniform(0, 100, (5, 128)).astype(np.float32)
    assert np.allclose(np.linalg.norm(root_sift(raw).astype(float), axis=1), 512, atol=4)


def test_pairs_follow_likeness() -> None:
    rng = np.random.default_rng(0)
    n, per = 40, 30
    words = rng.integers(0, 120, (n * per // 2, 128)).astype(np.uint8)

    def photo(i: int) -> PhotoFeatures:  # shares half its features with the next photo around a circle
        idx = np.arange(i * per // 2, i * per // 2 + per) % len(words)
        keypoints = np.zeros((per, 4), np.float32)
        keypoints[:, 2] = 1
        return PhotoFeatures(keypoints, words[idx])

    features = [photo(i) for i in range(n)]
    alike = likeness(features, 100, lambda *_: None)
    assert (alike == alike.T).all()
    for i in range(n):
        assert set(np.argsort(-alike[i])[:2]) == {(i - 1) % n, (i + 1) % n}
    cfg = PairsConfig(max_exhaustive=10, n_partners=2)
    pairs = choose_pairs(features, False, cfg, lambda *_: None)
    assert {(min(i, (i + 1) % n), max(i, (i + 1) % n)) for i in range(n)} <= set(pairs)
    assert all(i < j for i, j in pairs) and len(pairs) <= 2 * n
    ordered = choose_pairs(features, True, PairsConfig(10, 2, 3), lambda *_: None)
    assert {(i, i + 3) for i in range(n - 3)} <= set(ordered)
    assert len(choose_pairs(features[:10], False, cfg, lambda *_: None)) == 45
