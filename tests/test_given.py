"""Cameras, masks and depth that come with the photos: read, checked, and turned and scaled as their photos are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_box import ring
from given_cameras import CLOUD, GL, LENS, frame, read, write_capture, write_transforms
from PIL import Image

from pose.model import Lens
from recon.batch import find_captures
from recon.capture.given import UPRIGHT_FROM_STORED
from recon.capture.given_files import read_given_file
from recon.data import Capture, GivenCamera
from recon.errors import UserError


def lens_of(camera: GivenCamera) -> Lens:
    values = {k: v for k, v in vars(camera).items() if k not in ("photo", "cam_from_given")}
    return Lens(0, 0, **values)


def seen_by(camera: GivenCamera) -> np.ndarray:
    return lens_of(camera).project(camera.cam_from_given.apply(CLOUD))


@pytest.mark.parametrize("orientation", sorted(UPRIGHT_FROM_STORED))
def test_a_camera_follows_its_photo_turned_upright_and_made_smaller(tmp_path: Path, orientation: int) -> None:
    source = tmp_path / "photos"
    poses = ring(2)
    write_capture(source, ["a.jpg", "b.jpg"], orientation=orientation)
    stored = LENS.project(poses[0].apply(CLOUD))
    spot = int(np.argmin(np.abs(stored - [200, 150]).sum(1)))  # a dot where that point is seen in the stored photo
    picture = np.zeros((300, 400, 3), np.uint8)
    col, row = stored[spot].astype(int)
    picture[row - 4 : row + 5, col - 4 : col + 5] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(source / "images" / "a.jpg", exif=exif, quality=98)
    write_transforms(source, [frame("images/a.jpg", poses[0]), frame("./images/b", poses[1])])
    capture, warnings = read(source, max_side_px=200)
    assert capture.given is not None and warnings == []
    camera = capture.given.cameras[0]
    photo = np.asarray(Image.open(capture.image_path("a")).convert("L")).astype(float)
    assert max(photo.shape) == 200 and (photo.shape[0] > photo.shape[1]) == (orientation in (6, 8))
    rows, cols = np.nonzero(photo > 128)
    assert seen_by(camera)[spot] == pytest.approx([cols.mean() + 0.5, rows.mean() + 0.5], abs=0.5)
    turn = UPRIGHT_FROM_STORED[orientation]  # distortion, tangential too, turns with the rest
    size = np.array([400.0, 300])
    expected = ((stored - size / 2) @ turn.T + np.abs(turn) @ size / 2) / 2
    assert np.allclose(seen_by(camera), expected, atol=1e-6)


def test_cameras_made_from_upright_photos_stay_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    write_capture(source, ["a.jpg", "b.jpg"], orientation=6)
    lens = replace(LENS, width_px=300, height_px=400, cx_px=150.0, cy_px=200.0)
    poses = ring(2)
    write_transforms(source, [frame("a.jpg", poses[0]), frame("b.jpg", poses[1])], lens)
    capture, _ = read(source)
    assert capture.given is not None
    assert np.allclose(seen_by(capture.given.cameras[0]), lens.project(poses[0].apply(CLOUD)))


def test_a_camera_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    write_capture(source, ["a.jpg", "b.jpg"], size=(300, 300))
    write_transforms(source, [frame("a.jpg", ring(2)[0])])
    with pytest.raises(UserError, match="400x300 pixels, but the photo has the shape of 300x300"):
        read(source)


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_a_colmap_model_comes_with_its_points(tmp_path: Path, suffix: str) -> None:
    import pycolmap

    source = tmp_path / "photos"
    write_capture(source, ["a.jpg", "b.jpg", "c.jpg"])
    model = pycolmap.Reconstruction()
    params = [LENS.fx_px, LENS.fy_px, LENS.cx_px, LENS.cy_px, LENS.k1, LENS.k2, LENS.p1, LENS.p2]
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(model="OPENCV", width=400, height=300, params=params, camera_id=1)
    )
    poses = ring(2)
    for i, pose in enumerate(poses):
        image = pycolmap.Image(name=f"{'ab'[i]}.jpg", camera_id=1, image_id=i + 1)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(p) for p in LENS.project(pose.apply(CLOUD))])
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose.matrix()[:3]))
    for k, point in enumerate(CLOUD):
        track = pycolmap.Track([pycolmap.TrackElement(i + 1, k) for i in range(2)])
        model.add_point3D(point, track)
    folder = source / "sparse" / "0"
    folder.mkdir(parents=True)
    model.write_binary(folder) if suffix == ".bin" else model.write_text(folder)
    capture, warnings = read(source, max_side_px=200)
    given = capture.given
    assert given is not None and given.source == "sparse/0" and not given.is_metric
    assert [c.photo for c in given.cameras] == ["a", "b"] and "c.jpg" in warnings[0]
    for k, camera in enumerate(given.cameras):
        rows = given.obs_camera_idx == k
        projected = lens_of(camera).project(camera.cam_from_given.apply(given.points_given[given.obs_point_idx[rows]]))
        assert rows.sum() == 40 and np.allclose(projected, given.obs_px[rows], atol=1e-6)


def test_other_lens_models_are_refitted_or_refused(tmp_path: Path) -> None:
    import pycolmap

    source = tmp_path / "photos"
    write_capture(source, ["a.jpg", "b.jpg"])
    pose = ring(2)[0]
    write_transforms(
        source, [frame("a.jpg", pose)], replace(LENS, k1=0.02, k2=0.01, p1=0, p2=0), camera_model="OPENCV_FISHEYE"
    )
    found = read_given_file(source)
    assert found is not None
    fisheye = pycolmap.Camera(
        model="OPENCV_FISHEYE", width=400, height=300, params=[350, 355, 207, 143, 0.02, 0.01, 0, 0]
    )
    fx, fy, cx, cy, k1, k2, p1, p2 = found.cameras[0].intrinsics
    x_cam = pose.apply(CLOUD)
    wanted = np.asarray(fisheye.img_from_cam(x_cam))
    assert np.abs(Lens(400, 300, fx, fy, cx, cy, k1, k2, p1, p2).project(x_cam) - wanted).max() < 0.5
    wide = replace(LENS, fx_px=130.0, fy_px=130.0, k1=0.0, k2=0.0)
    write_transforms(source, [frame("a.jpg", pose)], wide, camera_model="OPENCV_FISHEYE")
    with pytest.raises(UserError, match="OPENCV_FISHEYE"):
        read(source)


def test_polycam_keyframes_with_depth(tmp_path: Path) -> None:
    source = tmp_path / "scan"
    keyframes = source / "keyframes"
    (keyframes / "depth").mkdir(parents=True)
    write_capture(keyframes, ["101.jpg", "102.jpg"])
    (keyframes / "cameras").mkdir()
    poses = ring(2)
    for name, pose in zip(("101", "102"), poses, strict=True):
        matrix = pose.inverse().matrix() @ GL
        camera = {f"t_{r}{c}": matrix[r, c] for r in range(3) for c in range(4)}
        camera |= {"fx": 350.0, "fy": 350.0, "cx": 200.0, "cy": 150.0, "width": 400, "height": 300, "blur_score": 90}
        (keyframes / "cameras" / f"{name}.json").write_text(json.dumps(camera))
        Image.fromarray(np.full((48, 64), 1234, np.uint16)).save(keyframes / "depth" / f"{name}.png")
    assert find_captures(tmp_path) == [source]
    capture, _ = read(source)
    assert capture.given is not None and capture.given.is_metric
    assert [p.name for p in capture.photos] == ["101", "102"]
    assert np.allclose(capture.given.cameras[1].cam_from_given.matrix(), poses[1].matrix(), atol=1e-9)
    depth_z_m = capture.depth_z_m("101")
    assert depth_z_m is not None and depth_z_m.shape == (48, 64) and np.allclose(depth_z_m, 1.234)


def test_masks_and_depth_that_transforms_name(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    write_capture(source, ["a.jpg", "b.jpg", "c.jpg"], orientation=6)
    (source / "extra").mkdir()
    mask = np.zeros((300, 400), np.uint8)
    mask[:, 300:] = 255
    Image.fromarray(mask).save(source / "extra" / "m.png")
    Image.fromarray(mask[:, :200]).save(source / "extra" / "cut.png")
    np.save(source / "extra" / "d.npy", np.where(mask, 2000.0, np.nan))
    poses = ring(3)
    frames = [
        frame("images/a.jpg", poses[0], mask_path="extra/m.png", depth_file_path="extra/d.npy"),
        frame("images/b.jpg", poses[1], mask_path="extra/cut.png"),
        frame("images/c.jpg", poses[2], depth_file_path="extra/none.png"),
    ]
    write_transforms(source, frames, orientation_override="none")
    capture, warnings = read(source)
    given_mask = capture.mask_path("a")
    assert given_mask is not None and capture.mask_path("b") is None
    upright = np.asarray(Image.open(given_mask))
    assert upright.shape == (400, 300) and upright[350].min() == 255 and upright[200].max() == 0  # right is now below
    depth_z_m = capture.depth_z_m("a")
    assert depth_z_m is not None and depth_z_m[350].min() == 2.0 and depth_z_m[200].max() == 0
    assert any("cut.png was not used" in w for w in warnings) and any("none.png was not used" in w for w in warnings)
    assert capture.given is not None and capture.given.is_metric


def test_photos_are_found_where_the_frames_say(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    write_capture(source, ["a.jpg", "b.jpg"])
    (source / "images").rename(source / "rgb")
    poses = ring(2)
    write_transforms(source, [frame("rgb/a", poses[0]), frame("rgb/b", poses[1])])
    capture, warnings = read(source)
    assert [p.source for p in capture.photos] == ["rgb/a.jpg", "rgb/b.jpg"] and warnings == []
    assert capture.given is not None and len(capture.given.cameras) == 2


def test_what_nerfstudio_applied_is_undone(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    write_capture(source, ["a.jpg", "b.jpg"])
    pose = ring(2)[0]
    applied = np.array([[0.0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 2]])
    moved = np.concatenate([applied, [[0, 0, 0, 1]]]) @ pose.inverse().matrix()
    moved[:3, 3] *= 0.25
    entry = {"file_path": "a.jpg", "transform_matrix": (moved @ GL).tolist()}
    write_transforms(source, [entry], applied_transform=applied.tolist(), applied_scale=0.25)
    found = read_given_file(source)
    assert found is not None
    assert np.allclose(found.cameras[0].cam_from_given.matrix(), pose.matrix())


def test_defects_are_told_in_a_sentence(tmp_path: Path) -> None:
    poses = ring(4)

    def told(name: str, frames: list[dict], **extra: object) -> tuple[Capture, list[str]]:
        source = tmp_path / name
        write_capture(source, ["a.jpg", "b.jpg", "c.jpg"])
        write_transforms(source, frames, **extra)  # type: ignore[arg-type]
        return read(source)

    good = [frame(f"images/{n}.jpg", p) for n, p in zip("abc", poses, strict=False)]
    for name, matrix in (
        ("nan", np.full((4, 4), np.nan)),
        ("scaled", 2 * np.eye(4)),
        ("mirrored", np.diag([1, 1, -1.0, 1])),
    ):
        capture, warnings = told(name, [*good[:2], {"file_path": "images/c.jpg", "transform_matrix": matrix.tolist()}])
        assert capture.given is not None and len(capture.given.cameras) == 2
        assert any("pose of images/c.jpg in transforms.json" in w for w in warnings)
    bad = [f | {"transform_matrix": [[1]]} for f in good]
    with pytest.raises(UserError, match="3 of the 3 poses"):
        told("bad", bad)
    capture, warnings = told("missing", [*good, frame("images/z.jpg", poses[3])])
    assert capture.given is not None and len(capture.given.cameras) == 3
    assert any("1 photos that are not here or were left out (images/z.jpg)" in w for w in warnings)
    with pytest.raises(UserError, match="names none of the photos"):
        told("strangers", [frame("images/z.jpg", poses[3])])
    with pytest.raises(UserError, match="intrinsics"):
        told("focal", good, fl_x=None)
    with pytest.raises(UserError, match="applied_transform"):
        told("applied", good, applied_transform=[[1, 0]])
    (tmp_path / "json").mkdir()
    write_capture(tmp_path / "json", ["a.jpg", "b.jpg"])
    (tmp_path / "json" / "transforms.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / "json")
