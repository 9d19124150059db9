"""The synthetic capture: shape, light, lens and files agree with each other by independent routes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh import Trimesh

from recon.evaluate.synthetic.camera import Shot, looking_at, walk
from recon.evaluate.synthetic.capture import Preset, Size, Subject, lens_of, make_capture
from recon.evaluate.synthetic.design import Design, Paint
from recon.evaluate.synthetic.furnish import make_room
from recon.evaluate.synthetic.light import Scene, direct, indirect, light_scene
from recon.evaluate.synthetic.noise import NoiseField
from recon.evaluate.synthetic.phone import develop
from recon.evaluate.synthetic.render import coated, photograph, true_mask
from recon.evaluate.synthetic.room import Room
from recon.evaluate.synthetic.shapes import ellipsoid, mesh_of

SMALL = Preset(
    width_px=96,
    n_photos=4,
    n_test=1,
    spp=2,
    voxel_m=0.0032,
    n_triangles=5_000,
    light_side=3,
    table_grid_m=0.02,
    table_px=320,
)
WHITE_ROOM = Room(
    atlases=(np.ones((512, 6 * 512, 3), np.float32),) * 3, table_albedo=np.full((4, 4, 3), 0.5, np.float32), emitters=()
)


def ball_sdf(p: np.ndarray) -> np.ndarray:
    return np.maximum(ellipsoid(p, (0, 0, 0.05), (0.06, 0.06, 0.06)), -p[:, 2])


def grey_paint(p: np.ndarray, noise: NoiseField) -> Paint:
    n = len(p)
    return Paint(np.full((n, 3), 0.5, np.float32), np.full(n, 0.3, np.float32), np.zeros(n, np.float32))


BALL = Design("a ball", "grey", ball_sdf, grey_paint, (-0.07, -0.07, -0.004), (0.07, 0.07, 0.12))


@pytest.fixture(scope="module")
def ball() -> Trimesh:
    return mesh_of(BALL.sdf, BALL.low, BALL.high, 0.005, 3_000)


@pytest.fixture(scope="module")
def white(ball: Trimesh) -> Scene:
    return light_scene(ball, BALL, WHITE_ROOM, seed=0, side=6, table_grid_m=0.02)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captures") / "owl"
    make_capture(root, Subject.owl, SMALL, seed=3)
    return root


@pytest.mark.parametrize("subject", list(Subject))
def test_shapes_are_closed_and_stand_on_the_table(subject: Subject) -> None:
    design = subject.value
    mesh = mesh_of(design.sdf, design.low, design.high, 0.0032, 6_000)
    assert mesh.is_watertight and mesh.volume > 0
    assert len(mesh.faces) <= 6_000
    assert abs(mesh.bounds[0, 2]) < 3e-4  # cut flat at z = 0; simplification moves it by a fraction of a voxel
    assert 0.14 < np.linalg.norm(mesh.extents) < 0.32
    on_surface = np.abs(design.sdf(mesh.vertices.astype(np.float32)))
    assert np.median(on_surface) < 2e-4  # a tenth of a voxel
    paint = design.paint(mesh.vertices.astype(np.float32), NoiseField(0))
    assert paint.albedo.shape == mesh.vertices.shape and paint.albedo.min() > 0 and paint.albedo.max() < 0.95
    assert paint.albedo.std(0).min() > 0.05  # painted, not plain


def test_mesh_has_the_volume_of_its_formula(ball: Trimesh) -> None:
    r, h = 0.06, 0.11  # a ball of radius 0.06 cut so that 0.11 of its height is left
    assert ball.volume == pytest.approx(np.pi * h * h * (3 * r - h) / 3, rel=0.02)


def test_noise_is_seeded_with_unit_variance_and_the_asked_grain() -> None:
    p = np.random.default_rng(0).random((20_000, 3)).astype(np.float32)
    a = NoiseField(1)(p, 0.05)
    assert 0.8 < a.std() < 1.1 and abs(a.mean()) < 0.1
    assert np.array_equal(a, NoiseField(1)(p, 0.05)) and not np.array_equal(a, NoiseField(2)(p, 0.05))
    near, far = NoiseField(1)(p + np.float32(0.003), 0.05), NoiseField(1)(p + np.float32(0.11), 0.05)
    assert np.corrcoef(a, near)[0, 1] > 0.9 and abs(np.corrcoef(a, far)[0, 1]) < 0.3


def test_white_furnace(white: Scene) -> None:
    """In a room that shines 1 everywhere, light is at most 1, and 1 where nothing but the room is seen."""
    top = white.normals[:, 2] > 0.98
    assert white.vertex_light[top].mean() == pytest.approx(1.0, abs=0.01)
    assert white.vertex_light.max() < 1.01
    fine, whole = white.table_light
    assert whole[0, 0].mean() == pytest.approx(1.0, abs=0.05)  # the table's corner sees little of the ball
    assert fine[len(fine) // 2, len(fine) // 2].max() < 0.05  # under the ball
    # half-way up, half of what is seen is table of albedo 0.5 (less what the ball shades)
    side = (np.abs(white.normals[:, 2]) < 0.1) & (white.vertices[:, 2] > 0.03)
    assert 0.6 < white.vertex_light[side].mean() < 0.85


def test_sampled_lights_agree_with_plain_rays(ball: Trimesh) -> None:
    """Irradiance from explicitly sampled windows plus the rest equals that of cosine-weighted rays alone."""
    room = make_room(1, 64)
    scene = light_scene(ball, BALL, room, seed=0, side=2, table_grid_m=0.03)
    p = np.random.default_rng(0).uniform(-0.4, 0.4, (300, 3)).astype(np.float32)
    p[:, 2] = 0.2
    up = np.tile(np.array([0, 0, 1], np.float32), (len(p), 1))
    rng = np.random.default_rng(1)
    split = direct(scene, p, up, rng) + indirect(scene, p, up, 8, rng)
    scene.room = replace(room, emitters=())
    plain = indirect(scene, p, up, 16, rng)
    # plain rays: 300 x 256 of them, about 1 % of which carry most of the light -> about 2 % of noise in the mean
    np.testing.assert_allclose(split.mean(0), plain.mean(0), rtol=0.06)
    assert split.std(0).mean() < plain.std(0).mean()  # what explicit sampling is for


def test_coat_reflects_no_more_than_arrives() -> None:
    n = 50
    paint = Paint(np.ones((n, 3), np.float32), np.linspace(0, 1, n, dtype=np.float32), np.ones(n, np.float32))
    for cosine in (0.0, 0.3, 1.0):
        out = coated(paint, np.ones((n, 3)), np.ones((n, 3)), np.full(n, cosine))
        np.testing.assert_allclose(out, 1.0, atol=1e-6)
    mirror_only = coated(
        replace(paint, albedo=np.zeros((n, 3), np.float32)), np.ones((n, 3)), np.ones((n, 3)), np.ones(n)
    )
    np.testing.assert_allclose(mirror_only, 0.04, atol=1e-6)  # straight on, a coat of index 1.5 reflects 4 %


def test_lens_directions_invert_the_distortion() -> None:
    lens = lens_of(Size.full.value)
    pixels = np.random.default_rng(0).uniform((0, 0), (lens.width_px, lens.height_px), (200, 2))
    x = lens.directions(pixels)[:, :2]
    r2 = (x * x).sum(1, keepdims=True)
    again = x * (1 + lens.k1 * r2 + lens.k2 * r2 * r2) * lens.focal_px + (lens.cx_px, lens.cy_px)
    np.testing.assert_allclose(again, pixels, atol=1e-3)


def test_walk_surrounds_the_object_and_looks_at_it() -> None:
    target = np.array([0.0, 0.0, 0.1])
    shots, test = walk(target, 0.4, 36, 8, seed=0)
    assert [s.name for s in shots] == [f"IMG_{i + 1:04d}" for i in range(36)] and len(test) == 8
    out = np.array([s.world_from_cam.translation for s in shots]) - target
    elevation = np.degrees(np.arcsin(out[:, 2] / np.linalg.norm(out, axis=1)))
    assert elevation.min() > 8 and elevation.max() > 55
    gaps = np.diff(np.sort(np.degrees(np.arctan2(out[:, 1], out[:, 0]))))
    assert gaps.max() < 30
    for s in shots + test:
        s.world_from_cam.check()
        axis = s.world_from_cam.rotation[:, 2]
        to_target = (target - s.world_from_cam.translation) / np.linalg.norm(target - s.world_from_cam.translation)
        assert axis @ to_target > 0.99
        assert s.world_from_cam.rotation[2, 1] < 0  # the camera's y axis points down
    assert 1 <= sum(s.blur_px > 0 for s in shots) <= 3 and not any(s.blur_px for s in test)


def test_photo_of_a_grey_ball(white: Scene) -> None:
    """The mask is the ball's outline by formula, and the photo there shows albedo times light."""
    lens = lens_of(SMALL)
    pose = looking_at(np.array([0.0, -0.4, 0.30]), np.array([0, 0, 0.05]), 0.0)
    shot = Shot("a", pose, 0.4, 0.0, 0.0, 0.0)
    mask = true_mask(white, lens, shot)
    d = lens.directions(np.argwhere(np.ones(mask.shape))[:, ::-1] + 0.5)
    d = d / np.linalg.norm(d, axis=1, keepdims=True) @ pose.rotation.T
    to_middle = np.array([0, 0, 0.05]) - pose.translation
    passes = np.linalg.norm(np.cross(d, to_middle), axis=1) < 0.06
    ball = passes & ((pose.translation + d * (d @ to_middle)[:, None])[:, 2] > 0.0)
    assert (
        abs(mask.sum() - ball.sum()) < 0.04 * ball.sum()
    )  # the cut bottom is hidden behind the front but for a sliver
    photo = photograph(white, lens, shot, 2, np.random.default_rng(0))
    inside = mask == 1
    assert 0.3 < photo[inside].mean() < 0.5  # albedo 0.5 under light of 0.6 to 1
    assert photo[0].mean() == pytest.approx(1.0, abs=0.3)


def test_capture_has_the_layout_of_the_scorer(capture: Path) -> None:
    j = json.loads((capture / "gt" / "transforms.json").read_text())
    assert j["camera_model"] == "OPENCV" and (j["w"], j["h"]) == (96, 72)
    splits = [f["split"] for f in j["frames"]]
    assert (splits.count("train"), splits.count("test")) == (4, 1)
    assert j["test_filenames"] == ["test/TEST_0001.jpg"]
    scene = json.loads((capture / "gt" / "scene.json").read_text())
    mesh = trimesh.load(capture / "gt" / "mesh.ply")
    assert scene["watertight"] and scene["triangles"] == len(mesh.faces)
    for f in j["frames"]:
        assert {"exposure_ev", "motion_blur_px"} <= set(f)
        with Image.open(capture / f["file_path"]) as photo:
            assert photo.size == (96, 72)
            exif = photo.getexif()
            assert exif[0x010F] == "SynthCam" and exif.get_ifd(0x8769)[0xA405] == 26
        with Image.open(capture / f["mask_path"]) as mask:
            assert mask.size == (96, 72) and mask.mode == "L"


def test_true_cameras_project_the_mesh_onto_the_masks(capture: Path) -> None:
    """The written cameras (OpenGL axes, distortion) and the written mesh give the written masks, by projection."""
    j = json.loads((capture / "gt" / "transforms.json").read_text())
    points = trimesh.load(capture / "gt" / "mesh.ply").vertices
    for f in j["frames"]:
        c2w = np.array(f["transform_matrix"])
        q = (points - c2w[:3, 3]) @ c2w[:3, :3]
        x = q[:, :2] / -q[:, 2:] * (1, -1)
        r2 = (x * x).sum(1, keepdims=True)
        uv = x * (1 + j["k1"] * r2 + j["k2"] * r2 * r2) * (j["fl_x"], j["fl_y"]) + (j["cx"], j["cy"])
        mask = np.asarray(Image.open(capture / f["mask_path"])) > 127
        rows, columns = np.nonzero(mask)
        low, high = uv.min(0), uv.max(0)
        # a pixel is on when half covered, so its edge is within one pixel of the outline, 1.5 at pointed tufts
        np.testing.assert_allclose([columns.min(), rows.min()], low, atol=1.5)
        np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], high, atol=1.5)


def test_photos_show_the_object_against_the_table(capture: Path) -> None:
    for path in sorted((capture / "images").iterdir()):
        photo = np.asarray(Image.open(path), float) / 255
        assert 0.2 < photo.mean() < 0.8 and photo.std() > 0.1
        mask = np.asarray(Image.open(capture / "gt" / "masks" / f"{path.stem}.png")) > 127
        assert 0.03 < mask.mean() < 0.4
        assert photo[mask].std() > 0.08  # painted


def test_same_seed_gives_the_same_capture(tmp_path: Path) -> None:
    preset = replace(
        SMALL, width_px=48, n_photos=3, voxel_m=0.0045, spp=1, table_px=64, light_side=1, table_grid_m=0.05
    )
    roots = [tmp_path / str(k) / "x" for k in range(3)]
    for root, seed in zip(roots, (0, 0, 1), strict=True):
        make_capture(root, Subject.teapot, preset, seed)
    photos = [(root / "images" / "IMG_0001.jpg").read_bytes() for root in roots]
    assert photos[0] == photos[1] != photos[2]


def test_development_is_monotonic_and_keeps_white_white() -> None:
    grey = np.repeat(np.linspace(0, 3, 60)[None, :, None], 40, 0).repeat(3, 2)
    rgb = develop(grey, np.ones(3), np.random.default_rng(0)).astype(float)
    line = rgb[15:25].mean((0, 2))
    assert line[0] < 30 and line[-1] > 240
    assert np.diff(line).min() > -3  # sensor noise, a few grey levels over a hundred pixels
    assert line[np.argmin(np.abs(grey[0, :, 0] - 0.2))] == pytest.approx(124, abs=8)  # sRGB of 0.2


def test_script_lists_its_objects() -> None:
    script = Path(__file__).resolve().parent.parent / "scripts" / "make_capture.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert "owl" in done.stdout and "teapot" in done.stdout and "tiny" in done.stdout
