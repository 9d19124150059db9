"""Isolation on a small rendered scene: a coloured ball on a textured table before textured walls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ball_scene import CAMERA, CENTRE, PLANE, RADIUS, ball_capture, iou
from PIL import Image

from recon.data import ObjectRegion, PosedCapture
from recon.errors import UserError
from recon.isolate.aim import aim_at, point_seen
from recon.isolate.box import convex_hull, orient_outward, upright_box
from recon.isolate.carve import carve, carve_finer, signed_distance_px
from recon.isolate.cues import patch_mean_of_valid, plane_cue, quantile_over_first
from recon.isolate.frames import Frame, load_frames, plane_homography
from recon.isolate.isolate import IsolateConfig, isolate_object
from recon.isolate.seed import evidence_of_turning
from recon.isolate.segment import cut, relax, relax_reference, runs_of
from recon.isolate.sharpen import consistent
from recon.isolate.volume import gather, grid_over, shell_of, silhouette
from recon.stage import Job
from recon.transforms import Rigid

QUICK = IsolateConfig(work_side_px=200, refine_side_px=200, n_plane_photos=6, n_voxels=48)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[PosedCapture, list[np.ndarray]]:
    return ball_capture(tmp_path_factory.mktemp("posed"))


def isolate(posed: PosedCapture, folder: Path, cfg: IsolateConfig = QUICK) -> tuple[ObjectRegion, Job]:
    job = Job("isolate_object", folder)
    region = isolate_object(posed, cfg, job)
    region.check()
    region.save(folder)
    return ObjectRegion.load(folder), job


@pytest.fixture(scope="module")
def found(scene: tuple[PosedCapture, list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> ObjectRegion:
    return isolate(scene[0], tmp_path_factory.mktemp("region"))[0]


def test_masks_match_the_truth(scene: tuple[PosedCapture, list[np.ndarray]], found: ObjectRegion) -> None:
    posed, truth = scene
    scores = [iou(found.mask(v.name) > 127, t) for v, t in zip(posed.views, truth, strict=True)]
    # A ball of about 75 px across: half a pixel of outline is 0.97.
    assert np.mean(scores) > 0.95
    assert min(scores) > 0.9
    assert found.mask_source == "estimated"
    assert (found.folder / "debug" / "isolate.jpg").exists()


def test_box_and_hull_are_tight_and_hold_the_object(found: ObjectRegion) -> None:
    assert np.abs(found.world_from_box.translation - CENTRE).max() < 0.03
    assert (found.box_size > 0.95 * 2 * RADIUS).all()
    assert (found.box_size < 1.1 * 2 * RADIUS).all()  # flatter than any photo looks, the top and sides bulge
    assert np.allclose(found.world_from_box.rotation[2], [0, 0, 1])
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(500, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    assert found.inside_hull(CENTRE + 0.98 * RADIUS * direction).mean() > 0.99
    assert found.inside_hull(CENTRE + 1.25 * RADIUS * direction).mean() < 0.1
    assert found.rests_on_support
    assert found.hull_vertices_world[:, 2].min() > -0.02


def test_given_masks_are_used(scene: tuple[PosedCapture, list[np.ndarray]], tmp_path: Path) -> None:
    posed, truth = scene
    folder = tmp_path / "posed"
    (folder / "masks").mkdir(parents=True)
    (folder / "images").symlink_to(posed.folder / "images")
    for view, mask in list(zip(posed.views, truth, strict=True))[1:]:
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{view.name}.png")
    with_masks = PosedCapture(**{**vars(posed), "folder": folder})
    (tmp_path / "region").mkdir()
    region, job = isolate(with_masks, tmp_path / "region")
    assert region.mask_source == "given"
    assert job.notes["masks_given"] == 15
    assert np.array_equal(region.mask(posed.views[3].name) > 127, truth[3])
    assert iou(region.mask(posed.views[0].name) > 127, truth[0]) > 0.9  # made from the others
    assert np.abs(region.box_size[:2] / (2 * RADIUS) - 1).max() < 0.1


def test_the_base_is_kept_where_the_user_asks(
    scene: tuple[PosedCapture, list[np.ndarray]], found: ObjectRegion, tmp_path: Path
) -> None:
    region, _ = isolate(scene[0], tmp_path, replace(QUICK, keep_base=True, base_share=0.25))
    # A slab a quarter of the foot's width wide on every side: what the ball covers from above is its foot.
    assert np.abs(region.box_size[:2] / found.box_size[:2] - 1.5).max() < 0.1
    assert abs(region.box_size[2] / found.box_size[2] - 1) < 0.05
    view = scene[0].views[0]
    base = view.project(np.array([[CENTRE[0] + 1.3 * RADIUS, CENTRE[1], 0.0]]))[0][0].astype(int)
    assert region.mask(view.name)[base[1], base[0]] > 127 > found.mask(view.name)[base[1], base[0]]


def test_hints_lead_to_the_object_and_wrong_ones_are_sentences(
    scene: tuple[PosedCapture, list[np.ndarray]], tmp_path: Path
) -> None:
    posed, truth = scene
    frames = load_frames(posed, 200)
    ys, xs = np.nonzero(truth[4])
    box = f"v04.jpg:{xs.min() / 200 - 0.02},{ys.min() / 150 - 0.02},{xs.max() / 200 + 0.02},{ys.max() / 150 + 0.02}"
    region, _ = isolate(posed, tmp_path, replace(QUICK, box=box))
    assert iou(region.mask("v04") > 127, truth[4]) > 0.9
    aim = aim_at(posed, frames, "v04:0.5,0.5", "")
    assert aim.others_share == 1.0
    away = posed.views[4].project(aim.focus_world[None])[0][0] - (100, 75)
    assert np.abs(away).max() < 1e-6
    with pytest.raises(
        UserError, match=r"isolate.point=v99:0.5,0.5 names no photo that was used; name one such as v00"
    ):
        aim_at(posed, frames, "v99:0.5,0.5", "")
    with pytest.raises(UserError, match="needs 2 numbers from 0 to 1"):
        aim_at(posed, frames, "v04:412,300", "")
    with pytest.raises(UserError, match="is empty"):
        aim_at(posed, frames, "", "v04:0.6,0.1,0.4,0.9")


def test_a_click_lies_as_deep_as_the_nearest_points_around_it(scene: tuple[PosedCapture, list[np.ndarray]]) -> None:
    posed, _ = scene
    view = posed.views[2]
    toward = view.centre_world() - CENTRE
    front = CENTRE + RADIUS * toward / np.linalg.norm(toward)
    points = np.array([front, front + 1e-3, front - 1e-3, *([CENTRE - 3 * toward] * 2)])
    around = replace(
        posed, points_world=points, point_rgb=np.zeros((5, 3), np.uint8), point_error_px=np.zeros(5),
        obs_point_idx=np.arange(5), obs_view_idx=np.full(5, 2),
    )  # fmt: skip
    x, y = view.project(front[None])[0][0] / (CAMERA.width_px, CAMERA.height_px)
    assert np.linalg.norm(point_seen(around, 2, x, y) - front) < 5e-3


def test_masks_are_made_to_fit_the_common_solids() -> None:
    disc = np.hypot(*np.mgrid[-50:50, -50:50]) < 40
    mask = disc.copy()
    mask[48:52, 85:99] = True  # a spur that no other photo shows
    mask[20:23, 50:53] = False  # a speck
    mask[60:80, 40:60] = False  # an opening that only few photos look through
    kept, doubtful = consistent(mask, disc, disc, disc)
    assert not kept[50, 95]
    assert kept[21, 51]
    assert not kept[70, 50] and doubtful[70, 50]
    assert not (kept & doubtful).any()
    few, doubtful = consistent(mask, mask, mask, disc)  # among few photos each can deny all it does not show
    assert few[21, 51] and few[50, 95] and not few[70, 50] and not doubtful.any()


def test_finer_carving_halves_the_voxels_and_sharpens_the_ball(scene: tuple[PosedCapture, list[np.ndarray]]) -> None:
    posed, truth = scene
    frames = load_frames(posed, 200)
    grid = grid_over(np.array([-0.3, -0.3, 0.0]), np.array([0.3, 0.3, 0.5]), np.eye(3), 24)
    coarse = carve(grid, frames, truth, np.ones(grid.shape, bool), 0.0)
    fine, (solid, looser) = carve_finer(grid, coarse, frames, truth, (0.0, 0.2))
    assert fine.edge == grid.edge / 2 and solid.shape == tuple(2 * n for n in grid.shape)
    assert looser[solid].all() and looser.sum() > solid.sum()
    ball = np.linalg.norm(fine.points_world(np.argwhere(np.ones(fine.shape)) + 0.5) - CENTRE, axis=1) < RADIUS
    blocks = np.repeat(np.repeat(np.repeat(coarse, 2, 0), 2, 1), 2, 2)
    assert iou(solid.ravel(), ball) > iou(blocks.ravel(), ball)


def test_what_never_changes_before_a_turntable_is_no_object() -> None:
    swept = np.zeros((30, 40), bool)
    swept[5:25, 5:35] = True
    cost = np.full((30, 40), np.nan, np.float32)
    cost[15:] = 0.01  # the turntable
    cost[15:20, 15:25] = 0.3  # the object before it
    found = evidence_of_turning(cost, swept)
    assert (found[~swept] == -1).all()
    assert (found[15:20, 15:25] > 0.5).all() and (found[20:25, 5:35] < 0).all()
    assert (found[5:15, 5:35] == 0.5).all()


def test_what_a_photo_does_not_show_says_nothing_about_its_neighbours() -> None:
    image = np.full((20, 30), 0.2, np.float32)
    valid = np.ones((20, 30), bool)
    valid[:, :5] = False
    mean = patch_mean_of_valid(np.where(valid, image, np.nan), valid, 3)
    assert np.isnan(mean[:, :5]).all()
    assert np.allclose(mean[:, 5:], 0.2)


def test_masks_without_common_volume_are_the_users_error(
    scene: tuple[PosedCapture, list[np.ndarray]], tmp_path: Path
) -> None:
    posed, _ = scene
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").symlink_to(posed.folder / "images")
    for view in posed.views:
        Image.fromarray(np.zeros((150, 200), np.uint8)).save(tmp_path / "masks" / f"{view.name}.png")
    with pytest.raises(UserError, match="no volume in common"):
        isolate_object(PosedCapture(**{**vars(posed), "folder": tmp_path}), QUICK, Job("isolate_object", tmp_path))


def test_plane_homography_maps_table_points(scene: tuple[PosedCapture, list[np.ndarray]]) -> None:
    posed, _ = scene
    a, b = load_frames(posed, 200)[:2]
    points = np.array([[0.1, 0.2, 0.0], [-0.3, 0.1, 0.0], [0.0, -0.2, 0.0]])
    pixels = [posed.views[i].project(points)[0] for i in (0, 1)]
    homography = plane_homography(a, b, PLANE.normal_world, PLANE.offset)
    mapped = np.c_[pixels[0], np.ones(3)] @ homography.T
    assert np.allclose(mapped[:, :2] / mapped[:, 2:], pixels[1], atol=1e-6)


def test_plane_cue_is_low_on_the_table_and_high_on_the_object(
    scene: tuple[PosedCapture, list[np.ndarray]],
) -> None:
    posed, truth = scene
    cost = plane_cue(load_frames(posed, 200), 9, PLANE, 8)[..., 0]
    known = np.isfinite(cost)
    assert np.median(cost[known & truth[9]]) > 3 * np.median(cost[known & ~truth[9]])


def test_quantile_ignores_nan() -> None:
    values = np.array([3.0, np.nan, 1.0, 2.0], np.float32)[:, None, None] * np.ones((4, 1, 2), np.float32)
    assert quantile_over_first(values, 0.5, 3)[0, 0] == 2.0
    assert np.isnan(quantile_over_first(values, 0.5, 4)[0, 0])


def test_cut_drops_specks_and_follows_edges() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((60, 60), bool)
    truth[15:45, 20:40] = True
    rgb = np.where(truth[..., None], 0.8, 0.2).astype(np.float32) * np.ones(3, np.float32)
    log_odds = (np.where(truth, 0.7, -0.7) + rng.normal(0, 1.2, truth.shape)).astype(np.float32)
    share = cut(rgb, log_odds, (log_odds > 0).astype(np.float32), np.ones_like(truth), 3.0, 300)
    assert iou(log_odds > 0, truth) < 0.7
    assert iou(share > 0.5, truth) > 0.97


@pytest.mark.parametrize("shape", [(9, 11), (1, 7), (7, 1), (1, 1)])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_cut_by_runs_is_the_plain_one(shape: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(3)
    cost, weight = rng.normal(size=shape).astype(np.float32), rng.uniform(0.05, 1, shape).astype(np.float32)
    start, active = rng.random(shape).astype(np.float32), rng.random(shape) < share
    found = relax(cost, weight, runs_of(active), start.copy(), 40)
    np.testing.assert_allclose(found, relax_reference(cost, weight, active, start, 40), atol=1e-5)
    assert (found[~active] == start[~active]).all()


def test_carving_true_masks_gives_the_ball(scene: tuple[PosedCapture, list[np.ndarray]]) -> None:
    posed, truth = scene
    frames = load_frames(posed, 200)
    grid = grid_over(CENTRE - 0.3, CENTRE + 0.3, np.eye(3), 48)
    solid = carve(grid, frames, truth, np.ones(grid.shape, bool), 0.0, None, 0.0, 0.0)
    volume = solid.sum() * grid.edge**3 / (4 / 3 * np.pi * RADIUS**3)
    assert 0.95 < volume < 1.4  # a visual hull is never smaller than its object
    assert iou(silhouette(grid, shell_of(solid), frames[4]), truth[4]) > 0.88
    wrong = [np.zeros_like(truth[0]), *truth[1:]]
    assert not carve(grid, frames, wrong, np.ones(grid.shape, bool), 0.0).any()
    assert carve(grid, frames, wrong, np.ones(grid.shape, bool), 0.1).sum() > 0.95 * solid.sum()


def test_gather_samples_where_project_says(scene: tuple[PosedCapture, list[np.ndarray]]) -> None:
    frame = Frame("x", np.zeros((150, 200, 3), np.float32), CAMERA, scene[0].views[2].cam_from_world)
    ramp = np.tile(np.arange(200, dtype=np.float32) + 0.5, (150, 1))
    grid = grid_over(CENTRE - 0.1, CENTRE + 0.1, np.eye(3), 5)
    columns = gather(ramp, grid.pixel_from_index(frame), grid.shape, np.float32(-1))
    pixels, _ = scene[0].views[2].project(grid.points_world(np.array([[2.5, 1.5, 3.5]])))
    assert abs(columns[2, 1, 3] - pixels[0, 0]) < 1e-3


def test_signed_distance_has_its_zero_on_the_outline() -> None:
    mask = np.zeros((11, 11), bool)
    mask[:, 5:] = True
    distance = signed_distance_px(mask)
    assert np.allclose(distance[5, 4:6], [-0.5, 0.5], atol=0.06)


def test_upright_box_turns_with_the_object() -> None:
    yaw = np.radians(25)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    corners = np.array([[x, y, z] for x in (-2, 2) for y in (-0.5, 0.5) for z in (0, 3)]) @ turn.T
    world_from_box, size = upright_box(corners)
    assert np.allclose(np.sort(size), [1, 3, 4], atol=1e-5)
    assert np.allclose(world_from_box.translation, [0, 0, 1.5], atol=1e-5)


def test_convex_hull_faces_outward_and_holds_the_margin() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (200, 3))
    vertices, faces = convex_hull(points, 0.1)
    region = ObjectRegion(Path(), Rigid.identity(), np.ones(3), vertices, faces, "given", False)
    direction = rng.normal(size=(200, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    assert region.inside_hull(points + 0.0999 * direction).all()
    assert not region.inside_hull(np.array([[1.4, 0, 0]])).any()
    flipped = faces[:, ::-1]
    assert np.array_equal(np.sort(orient_outward(vertices, flipped)), np.sort(faces))
