"""The multi-view stereo prior: kernels against their plain twins, and the whole stage on a ball of known size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from PIL import Image
from textured_ball import CENTRE, RADIUS, SIZE, make_scene, true_depth

from recon.data import ObjectRegion, PosedCapture, PriorCloud
from recon.prior import reference, refine, semi_global, sweep
from recon.prior.estimate import PriorConfig, estimate_prior, spread_subset
from recon.prior.filter import FilterConfig, agreeing, neighbours, support_needed
from recon.prior.fuse import FuseConfig, Samples, thinned, without_outliers
from recon.prior.view_pairs import choose_sources
from recon.prior.visual_hull import carve, depth_bounds
from recon.prior.work_view import DepthMap, WorkView, cut_out, halved, relative_motion, world_points
from recon.stage import Job


@pytest.fixture(scope="module")
def textured(tmp_path_factory: pytest.TempPathFactory) -> tuple[PosedCapture, ObjectRegion]:
    return make_scene(tmp_path_factory.mktemp("ball"), contrast=0.35)


@pytest.fixture(scope="module")
def works(textured: tuple[PosedCapture, ObjectRegion]) -> list[WorkView]:
    cut = [cut_out(*textured, i, 1.0) for i in range(len(textured[0].views))]
    return [w for w in cut if w is not None]


def run_stage(scene: tuple[PosedCapture, ObjectRegion], folder: Path) -> tuple[PriorCloud, Job]:
    job = Job("prior", folder)
    cloud = estimate_prior(*scene, PriorConfig(), job)
    cloud.check()
    return cloud, job


def test_crop_projects_like_the_photo(works: list[WorkView], textured: tuple[PosedCapture, ObjectRegion]) -> None:
    work = works[3]
    small = halved(work)
    point = CENTRE[None] + 0.05
    full, depth = textured[0].views[3].project(point)
    crop, depth_crop = work.view.project(point)
    shift = np.array([full[0] - crop[0]])
    assert np.allclose(shift, np.round(shift), atol=1e-9) and np.allclose(depth, depth_crop)
    x, y = np.round(shift[0]).astype(int)
    photo = textured[0].image(3)
    assert np.array_equal(work.rgb, photo[y : y + work.mask.shape[0], x : x + work.mask.shape[1]])
    assert np.allclose(small.view.project(point)[0], crop / 2)


def test_relative_motion_and_world_points_agree(works: list[WorkView]) -> None:
    a, b = relative_motion(works[0], works[1])
    index, depth_z = np.array([[20.0, 31.0]]), np.array([0.5])
    there = works[1].view.project(world_points(works[0].view, index, depth_z))[0][0] - 0.5
    moved = a @ np.array([20.0, 31.0, 1.0]) + b / 0.5
    assert np.allclose(moved[:2] / moved[2], there)


def test_sources_are_neighbours_on_different_sides(works: list[WorkView]) -> None:
    n = len(works)
    chosen = choose_sources(works, CENTRE, np.zeros((n, n)), 4)
    assert all(len(c) == 4 and i not in c for i, c in enumerate(chosen))
    for i, sources in enumerate(chosen):
        steps = [(k - i + n // 2) % n - n // 2 for k in sources]
        assert max(map(abs, steps)) <= 3 and min(steps) < 0 < max(steps)


def test_visual_hull_bounds_hold_the_true_surface(
    works: list[WorkView], textured: tuple[PosedCapture, ObjectRegion]
) -> None:
    hull = carve(works, textured[1], 48, 0.1)
    bounds, depth = depth_bounds(hull, works[0]), true_depth(works[0])
    on = works[0].mask & (depth > 0)
    assert ((bounds[on][:, 0] <= depth[on]) & (depth[on] <= bounds[on][:, 1])).mean() > 0.995
    # the near bound is worth having: within 15 % of the diameter for most pixels
    assert np.median((depth - bounds[..., 0])[on]) < 0.15 * 2 * RADIUS


def test_sweep_costs_match_the_plain_twin(works: list[WorkView], textured: tuple[PosedCapture, ObjectRegion]) -> None:
    hull = carve(works, textured[1], 48, 0.1)
    main, sources = halved(works[0]), [halved(works[k]) for k in (1, 11, 2)]
    swept = sweep.sheets(main, sources, depth_bounds(hull, main), sweep.SweepConfig(max_planes=12))
    volume = sweep.cost_volume(main, sources, swept, 5)
    middle = np.array(main.mask.shape)[::-1] // 2
    compared = []
    for offset in [(0, 0), (-8, 3), (6, -9)]:
        u, v = middle + offset
        for i in range(2, 8):
            plain = reference.sheet_cost(main, sources, swept, i, (int(u), int(v)), 5)
            compared.append((volume[v, u, i] / 255, plain))
    fast, plain_costs = np.array(compared).T
    # cv2.remap interpolates on a grid of 1/32 pixel: up to about 0.03 of a step between pixels of strong texture
    assert np.abs(fast - plain_costs).max() < 0.06 and np.ptp(plain_costs) > 0.5


def test_path_aggregation_matches_the_plain_twin() -> None:
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 256, (9, 11, 7)).astype(np.uint8)
    mask = rng.random((9, 11)) > 0.15
    grey = rng.random((9, 11)).astype(np.float32)
    fast = semi_global.aggregate(volume, mask, grey, np.int32(10), np.int32(90), 8)
    assert np.array_equal(fast, reference.aggregate(volume, mask, grey, 10, 90))


def test_slanted_cost_matches_the_plain_twin(works: list[WorkView]) -> None:
    main, sources = works[0], [works[k] for k in (1, 11)]
    v, u = np.array(main.mask.shape) // 2
    window = np.empty((25, 4))
    n = refine.gather_window(main.grey, main.mask, v, u, 4, 2, window)
    packed = refine.packed(main, sources)
    true = 1 / true_depth(main)[v, u]
    costs = []
    for w, su, sv in [(true, 0.0, 0.0), (true * 1.01, 0.002, -0.001), (true * 0.99, -0.001, 0.002)]:
        fast = refine.plane_cost(window, n, v, u, w, su, sv, packed, np.empty(2))
        # both in float64 from float32 images; fastmath reorders sums
        assert fast == pytest.approx(reference.slanted_cost(main, sources, window[:n], (u, v), (w, su, sv)), abs=1e-5)
        costs.append(fast)
    assert costs[0] < 0.3 < min(costs[1:])


def test_normals_of_planes_face_the_camera(works: list[WorkView]) -> None:
    normal_cam = np.array([0.3, -0.2, -0.93])
    normal_cam /= np.linalg.norm(normal_cam)
    m = np.linalg.inv(works[0].index_matrix()).T @ normal_cam / (normal_cam @ [0, 0, 0.5])
    height, width = works[0].mask.shape
    v, u = np.mgrid[0:height, 0:width]
    planes = np.stack([m[0] * u + m[1] * v + m[2], np.full_like(u, m[0], float), np.full_like(u, m[1], float)], -1)
    assert np.allclose(refine.normals_of_planes(planes, works[0]), normal_cam, atol=1e-9)


def test_filter_keeps_the_true_depth_and_drops_a_wrong_one(works: list[WorkView]) -> None:
    maps = []
    for work in works[:4]:
        depth = np.where(work.mask, true_depth(work), 0).astype(np.float32)
        maps.append(DepthMap(work, depth, np.zeros((*depth.shape, 3), np.float32), np.ones_like(depth)))
    v, u = np.array(maps[0].depth_z.shape) // 2
    maps[0].depth_z[v, u] *= 1.02
    agreed = agreeing(maps[0], maps[1:], FilterConfig(min_support=2))
    averaged = agreed.depth_z
    assert averaged[v, u] == 0 and agreed.n_support[v, u] == 1 and agreed.confidence[v, u] == 0
    assert agreed.n_support[v + 2, u] >= 3 and agreed.n_support.max() == 4 and 0 < agreed.confidence[v + 2, u] < 1
    kept = averaged > 0
    assert kept[v - 10 : v + 10, u - 10 : u + 10].mean() > 0.95
    # a pixel is 1.4 mm wide here; interpolating between pixels of true depth errs by a small part of that
    error = (averaged - true_depth(works[0]))[kept]
    assert abs(np.median(error)) < 5e-5 and np.percentile(np.abs(error), 90) < 5e-4


def test_fewer_near_views_need_less_support() -> None:
    cfg = FilterConfig(min_support=4, n_compared=10)
    assert [support_needed(n, cfg) for n in (0, 1, 2, 5, 8, 10)] == [0, 1, 2, 2, 3, 4]
    angles = np.radians([0, 10, 20, 30, 120, 240])
    directions = np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1)
    assert neighbours(directions, 10)[0] == [1, 2, 3]
    assert len(neighbours(directions, 10)[4]) == 2


def test_second_sweep_comes_closer(works: list[WorkView], textured: tuple[PosedCapture, ObjectRegion]) -> None:
    main, sources = works[0], [works[k] for k in (1, 11, 2)]
    bounds, depth = depth_bounds(carve(works, textured[1], 48, 0.1), main), true_depth(main)
    on = cv2.erode((main.mask & (depth > 0)).astype(np.uint8), np.ones((9, 9))).astype(bool)
    step = 0.02 / 0.5
    coarse = np.where(main.mask, np.floor(1 / np.maximum(depth, 0.1) / step) * step, 0).astype(np.float32)
    fine, fine_step = sweep.sweep_again(main, sources, bounds, coarse, step, sweep.SweepConfig())
    before, after = (np.median(np.abs(1 / x[on] - depth[on])) for x in (coarse, fine))
    assert fine_step < step and after < 0.5 * before


def test_thinning_keeps_to_the_bound_and_outliers_go() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(20_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    ones = np.ones(len(points))
    samples = Samples(points, points, ones, np.full((len(points), 3), 90.0), ones, 0 * ones)
    thin = thinned(samples, 3_000, 0.01)
    assert 1_500 < len(thin.points) <= 3_000
    assert np.abs(np.linalg.norm(thin.points, axis=1) - 1).max() < 0.02
    stray = Samples(*(np.concatenate([x, x[:1]]) for x in vars(thin).values()))
    stray.points[-1] = [3.0, 0, 0]
    left = without_outliers(stray, FuseConfig().outlier_sigma)
    assert np.linalg.norm(left.points, axis=1).max() < 1.5 and len(left.points) > 0.97 * len(thin.points)


def test_spread_subset_covers_the_circle() -> None:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1)
    chosen = spread_subset(directions, 6)
    assert len(set(chosen)) == 6 and max(np.diff([*chosen, chosen[0] + 24])) <= 6
    assert spread_subset(directions, 30) == list(range(24))


def test_ball_is_recovered(textured: tuple[PosedCapture, ObjectRegion], tmp_path: Path) -> None:
    cloud, job = run_stage(textured, tmp_path)
    offset = cloud.points_world - CENTRE
    radius = np.linalg.norm(offset, axis=1)
    error = (radius - RADIUS) / (2 * RADIUS)
    assert len(cloud.points_world) > 2_000 and not job.warnings
    assert (np.abs(error) < 0.01).mean() > 0.97
    assert abs(np.median(error)) < 0.001
    # half a pixel of misplaced convention would move the ball by about 0.5 % of its diameter
    fit = np.linalg.lstsq(np.c_[2 * offset, np.ones(len(offset))], (offset**2).sum(1), rcond=None)[0]
    assert np.linalg.norm(fit[:3]) < 0.002 * 2 * RADIUS
    cosine = (cloud.normals_world * offset).sum(1) / radius
    assert np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))) < 8
    seen_side = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS).vertices
    seen_side = seen_side[seen_side[:, 2] > -0.3 * RADIUS] + CENTRE
    gap = np.linalg.norm(seen_side[:, None] - cloud.points_world[None, ::4], axis=2).min(1)
    assert (gap < 0.04 * 2 * RADIUS).mean() > 0.95
    cloud.save(tmp_path)
    assert np.array_equal(PriorCloud.load(tmp_path).points_world, cloud.points_world)


def test_plain_ball_gives_few_points_and_a_warning(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, contrast=0.0, n_views=8)
    cloud, job = run_stage(scene, tmp_path)
    assert len(cloud.points_world) < 1_000
    assert len(job.warnings) == 1


def test_empty_masks_give_an_empty_cloud_and_a_warning(
    textured: tuple[PosedCapture, ObjectRegion], tmp_path: Path
) -> None:
    posed, region = textured
    (tmp_path / "masks").mkdir()
    for view in posed.views:
        Image.new("L", SIZE).save(tmp_path / "masks" / f"{view.name}.png")
    cloud, job = run_stage((posed, replace(region, folder=tmp_path)), tmp_path)
    assert len(cloud.points_world) == 0 and len(job.warnings) == 1
    cloud.save(tmp_path)
    assert len(PriorCloud.load(tmp_path).points_world) == 0
