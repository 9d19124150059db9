"""Corrections of the cameras: their equations, what they win back, what they leave alone, and where they go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from striped_sphere import RADIUS, SMALL, interrupt_at, sphere_cloud, sphere_scene

from recon.camera import View
from recon.data import ObjectRegion, PosedCapture, SurfaceField
from recon.stage import Job, Workspace
from recon.surface.align import SurfacePatches, own_move, pixel_slopes, point_in_cam
from recon.surface.baking import empty_bake, unit_from_region, unit_planes
from recon.surface.batch import Data
from recon.surface.config import SurfaceConfig
from recon.surface.corrections import CameraConfig, Corrections
from recon.surface.find_patches import find_patches
from recon.surface.fit import fit_surface
from recon.surface.patch_photos import PatchPhotos
from recon.surface.patches import PatchConfig, gather_for_patches
from recon.surface.pixels import gather_pixels, unit_cameras
from recon.surface.sampling import sample_rays
from recon.surface.start import Start
from recon.surface.trainer import Trainer
from recon.transforms import Rigid, umeyama

PATCHES = PatchConfig(radius_px=4, n_sources=4)
CAMERAS = CameraConfig(likely_px=1.0, first_level=0, n_patches=400, n_times=2)
"""The sphere's photos are small."""
CPU = torch.device("cpu")
Scene = tuple[PosedCapture, ObjectRegion]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    posed, region = sphere_scene(tmp_path_factory.mktemp("cameras") / "scene", n_views=12, size=160)
    paint(posed)
    return posed, region


def paint(posed: PosedCapture) -> None:
    """Give the sphere finer stripes: a few pixels wide in its photos."""
    for v in posed.views:
        rows, columns = np.mgrid[: v.camera.height_px, : v.camera.width_px]
        ray, eye = v.rays(np.stack([columns, rows], -1).reshape(-1, 2) + 0.5), v.centre_world()
        b = ray @ eye
        root = b**2 - eye @ eye + RADIUS**2
        x = eye + (-b - np.sqrt(np.maximum(root, 0)))[:, None] * ray
        colour = np.where(root[:, None] > 0, 0.5 + 0.2 * np.sin(x * 170) + 0.2 * np.sin(x[:, [1, 2, 0]] * 230), 0.2)
        photo = (255 * colour).astype(np.uint8).reshape(*rows.shape, 3)
        cv2.imwrite(str(posed.folder / "images" / f"{v.name}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 97])


@pytest.fixture(autouse=True)
def short_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here comes after the warm start."""
    monkeypatch.setattr(Trainer.warm_start, "__defaults__", (50, 1024))


def off_by(posed: PosedCapture, turned_deg: float, focal: float = 0.0, only: tuple[int, ...] = ()) -> PosedCapture:
    """Cameras turned at random (all, or only some), moved by half as much at the object, and focal lengths wrong."""
    rng, views = np.random.default_rng(0), []
    for i, v in enumerate(posed.views):
        turn, move = np.radians(turned_deg) * rng.normal(size=(2, 3)) / np.sqrt(3) * (not only or i in only)
        rotation = cv2.Rodrigues(turn)[0] @ v.cam_from_world.rotation
        centre = v.centre_world() + 0.5 * np.linalg.norm(v.centre_world()) * move
        lens = replace(v.camera, fx_px=v.camera.fx_px * (1 + focal), fy_px=v.camera.fy_px * (1 + focal))
        views.append(View(v.name, lens, Rigid(rotation, -rotation @ centre)))
    return replace(posed, views=tuple(views))


def centres(views: tuple[View, ...]) -> np.ndarray:
    return np.array([v.centre_world() for v in views])


def object_px(views: tuple[View, ...], truth: tuple[View, ...]) -> np.ndarray:
    """How far points of the sphere show from where they should, per view, in pixels; the world's frame is left free."""
    points = sphere_cloud(300).points_world
    moved = umeyama(centres(truth), centres(views)).apply(points)
    off = [v.project(moved)[0] - t.project(points)[0] for v, t in zip(views, truth, strict=True)]
    return np.sqrt((np.array(off) ** 2).sum(2).mean(1))


def sphere_geometry(x: torch.Tensor, centre: torch.Tensor, radius: float) -> tuple[torch.Tensor, ...]:
    away = x - centre
    distance = away.norm(dim=1)
    return distance - radius, away / distance[:, None], x


def corrected(posed: PosedCapture, region: ObjectRegion, cfg: CameraConfig = CAMERAS) -> Corrections:
    """The cameras as the true sphere's surface corrects them."""
    unit = unit_from_region(region)
    corrections, cameras = Corrections(cfg, posed, unit), unit_cameras(posed, unit)
    cloud = sphere_cloud(2000)
    photos = gather_for_patches(posed, region, cameras, (unit.apply(cloud.points_world), cloud.normals_world), PATCHES)
    none = torch.zeros(0, 3)
    planes = torch.from_numpy(unit_planes(region, unit))
    pool = gather_pixels(posed, region, 0.06, 1, 10**6, 0)
    baked = empty_bake(region, unit, 64)
    start = Start(baked, none, 0, 0)
    data = Data(pool, 0.0, cameras, planes, none, none, none[:, 0], 0, none, none[:, 0], start, photos)
    centre, radius = torch.from_numpy(unit.apply(np.zeros((1, 3)))[0]).float(), RADIUS * unit.scale
    baked.values.reshape(-1)[:] = sphere_geometry(baked.points(), centre, radius)[0]
    while corrections.due(1.0):
        found = find_patches(
            data, lambda x: sphere_geometry(x, centre, radius), baked, sample_rays, PATCHES,
            np.random.default_rng(corrections.n_done), cfg.n_patches,
        )  # fmt: skip
        assert isinstance(data.photos, PatchPhotos)
        corrections.improve(found, data.photos, PATCHES.patch(CPU))
        data = data.seen_by(corrections.cameras())
    return corrections


def test_pixels_move_as_the_equations_say(scene):
    posed, region = scene
    unit = unit_from_region(region)
    cameras = unit_cameras(posed, unit)
    cloud = sphere_cloud(500)
    photos = gather_for_patches(posed, region, cameras, (unit.apply(cloud.points_world), cloud.normals_world), PATCHES)
    assert photos is not None
    i, j = 2, int(photos.neighbours[2, 0])
    patches = SurfacePatches(
        torch.tensor([i]), torch.tensor([[75.0, 90.0]]), torch.tensor([0.42 * unit.scale]),
        torch.tensor([[0.0, 0.0, -1.0]]), torch.tensor([[j]]),
    )  # fmt: skip

    def pixel_after(correction: np.ndarray) -> np.ndarray:
        """Where the source shows the patch: its middle stays on its pixel of the reference, at its depth there."""
        cfg = Corrections(CAMERAS, posed, unit)
        cfg.lens_idx = np.arange(len(posed.views))
        cfg.log_focal = np.zeros(len(posed.views))
        for view, part in ((i, correction[:7]), (j, correction[7:14])):
            cfg.pose[view], cfg.log_focal[view] = part[:6], part[6]
        views = cfg.views()
        lens = views[i].camera
        ray = np.array([(75.0 - lens.cx_px) / lens.fx_px, (90.0 - lens.cy_px) / lens.fy_px, 1.0])
        in_cam = ray * 0.42 * (1 + correction[14])
        return views[j].project(views[i].cam_from_world.inverse().apply(in_cam[None]))[0][0]

    slopes, by_depth = pixel_slopes(point_in_cam(patches, photos), patches, photos)
    expected = torch.cat([slopes[0, 0], by_depth[0, 0, :, None]], 1).numpy()
    step = 1e-5
    measured = np.stack([(pixel_after(step * e) - pixel_after(-step * e)) / (2 * step) for e in np.eye(15)], 1)
    np.testing.assert_allclose(expected, measured, rtol=2e-3, atol=0.05)
    assert own_move(torch.ones(2, 3)).shape == (2, 3, 7)


def test_turned_cameras_and_a_wrong_focal_length_are_won_back(scene):
    truth, region = scene
    posed = off_by(truth, 0.2, focal=0.003)
    views = corrected(posed, region, replace(CAMERAS, likely_focal=0.005)).views()
    before, after = object_px(posed.views, truth.views), object_px(views, truth.views)
    assert np.median(before) > 0.4
    assert np.median(after) < 0.25 * np.median(before)
    assert after.max() < 0.25 * before.max()
    assert abs(views[0].camera.fx_px / truth.views[0].camera.fx_px - 1) < 0.0015
    # the world is where it was
    assert np.abs(umeyama(centres(posed.views), centres(views)).translation).max() < 3e-3 * RADIUS


def test_exact_cameras_are_left_alone(scene):
    truth, region = scene
    corrections = corrected(truth, region)
    assert corrections.n_done == CAMERAS.n_times
    assert object_px(corrections.views(), truth.views).max() < 0.05


def test_a_single_camera_that_is_off_is_corrected_alone(scene):
    truth, region = scene
    posed = off_by(truth, 0.6, only=(4,))
    corrections = corrected(posed, region)
    before, after = object_px(posed.views, truth.views), object_px(corrections.views(), truth.views)
    assert after[4] < 0.5 * before[4]
    assert (corrections.log_focal == 0).all()


def test_photos_that_do_not_agree_say_nothing(scene, tmp_path):
    truth, region = scene
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for v in truth.views:
        grain = cv2.GaussianBlur(rng.normal(0, 255, (160, 160, 3)), (0, 0), 2) + 128
        cv2.imwrite(str(tmp_path / "images" / f"{v.name}.jpg"), grain.clip(0, 255).astype(np.uint8))
    posed = replace(off_by(truth, 0.2), folder=tmp_path)
    assert not corrected(posed, region).pose.any()


def test_only_what_is_set_free_moves(scene):
    truth, region = scene
    posed = off_by(truth, 0.2, focal=0.003)
    held = corrected(posed, region, replace(CAMERAS, likely_focal=0.0))
    assert held.pose.any() and not held.log_focal.any()
    assert not Corrections(replace(CAMERAS, likely_px=0.0), posed, unit_from_region(region)).due(1.0)


def fit(posed: PosedCapture, region: ObjectRegion, cfg: SurfaceConfig, folder: Path) -> SurfaceField:
    folder.mkdir(exist_ok=True)
    return fit_surface(posed, region, sphere_cloud(500), cfg, Job("fit", folder))


def test_a_fit_mends_its_cameras(scene, tmp_path):
    truth, region = scene
    posed = off_by(truth, 0.2)
    cfg = SurfaceConfig(n_steps=100, bake_every=20, patches=PATCHES, cameras=replace(CAMERAS, first_share=0.6), **SMALL)
    field = fit(posed, region, cfg, tmp_path / "fit")
    before, after = object_px(posed.views, truth.views), object_px(field.views, truth.views)
    assert np.median(after) < 0.5 * np.median(before)


def test_an_interrupted_fit_keeps_its_corrections(scene, tmp_path, monkeypatch):
    posed, region = off_by(scene[0], 0.2), scene[1]
    cameras = replace(CAMERAS, n_patches=100, least_gain=-1.0, most_cost=3.0)
    cfg = SurfaceConfig(n_steps=20, bake_every=5, checkpoint_s=0.0, patches=PATCHES, cameras=cameras, **SMALL)
    whole = fit(posed, region, cfg, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_at(12, patched)
        fit(posed, region, cfg, tmp_path / "two")
    resumed = fit(posed, region, cfg, tmp_path / "two")
    assert not np.array_equal(centres(whole.views), centres(posed.views))
    np.testing.assert_array_equal(centres(whole.views), centres(resumed.views))
    for name, values in whole.parameters.items():
        np.testing.assert_array_equal(values, resumed.parameters[name])


def test_corrected_cameras_travel_with_the_surface(scene, tmp_path):
    posed, region = scene
    moved = off_by(posed, 0.2, focal=0.003)
    off = SurfaceConfig(n_steps=1, cameras=CameraConfig(likely_px=0.0), **SMALL)
    field = fit(posed, region, off, tmp_path / "fit")
    assert [v.camera for v in field.views] == [v.camera for v in posed.views]
    np.testing.assert_array_equal(centres(field.views), centres(posed.views))
    replace(field, views=moved.views).save(tmp_path)
    refined = SurfaceField.load(tmp_path).refined(posed)
    refined.check()
    np.testing.assert_allclose(centres(refined.views), centres(moved.views), atol=1e-12)
    assert refined.views[0].camera == moved.views[0].camera and refined.folder == posed.folder
    with pytest.raises(ValueError, match="other photos"):
        field.refined(replace(posed, views=posed.views[1:]))


def test_what_is_derived_is_keyed_by_its_sources(tmp_path):
    workspace = Workspace(tmp_path)
    first, second, made = object(), object(), [object() for _ in range(3)]
    workspace._keys |= {id(first): ("a", first), id(second): ("b", second)}
    for noun, sources in zip(made, ((first,), (second,), (first,)), strict=True):
        assert workspace.derive(noun, *sources) is noun
    keys = [workspace._key_of(noun) for noun in made]
    assert keys[0] == keys[2] != keys[1]
    with pytest.raises(TypeError, match="not made by this workspace"):
        workspace.derive(made[0], object())
