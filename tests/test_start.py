"""Where a fit starts, and how it is held there while its colours are learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from striped_sphere import SMALL, sphere_cloud, sphere_scene

from recon.data import SupportPlane
from recon.errors import UserError
from recon.stage import Job
from recon.surface import first_shape
from recon.surface import start as starting
from recon.surface.baked import BakedSdf
from recon.surface.config import SurfaceConfig
from recon.surface.engine import Engine
from recon.surface.fit import Fit, open_fit
from recon.surface.losses import HOLD_REACH, LossConfig, Losses, hold_loss
from recon.surface.start import (
    HELD_BAND,
    LOST_CELLS,
    Cloud,
    Start,
    make_start,
    room,
    start_distance,
    unit_cloud,
)
from recon.transforms import Similarity

CELL, HULL_RADIUS, TRUE_RADIUS = 0.01, 0.3, 0.25


def inside(places: np.ndarray, cells: float = 3) -> np.ndarray:
    """The same depth inside the hull at all places."""
    return np.full(len(places), cells * CELL, np.float32)


def places(n: int = 4000) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, (n, 3)).astype(np.float32)


def cloud_of(points: np.ndarray, normals: np.ndarray, confidence: float = 0.8) -> Cloud:
    return Cloud(points, normals, np.full(len(points), confidence), len(points))


def half_a_sphere(n: int = 20_000) -> Cloud:
    """Points with their normals on the upper half of a sphere that the visual hull is too large for."""
    normals = np.random.default_rng(1).normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals[:, 2] = np.abs(normals[:, 2])
    return cloud_of(0.5 + TRUE_RADIUS * normals, normals)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fit, SurfaceConfig]:
    folder = tmp_path_factory.mktemp("start")
    posed, region = sphere_scene(folder / "scene", n_views=4)
    cfg = SurfaceConfig(n_steps=100, engine=Engine.cpu, **SMALL)
    fit = open_fit(posed, region, sphere_cloud(300), cfg, Job("fit", folder))
    fit.trainer.warm_start(n_steps=50, n_points=512)
    fit.baker.refresh(fit.trainer.field, None)
    return fit, cfg


def test_it_starts_on_the_cloud_and_inside_the_hull_where_there_is_none():
    at = places()
    radius = np.linalg.norm(at - 0.5, axis=1)
    hull = radius - np.float32(HULL_RADIUS)
    start, known = start_distance(at, hull, inside(at), half_a_sphere(), CELL)
    near = (np.abs(radius - TRUE_RADIUS) < 1.5 * CELL) & (at[:, 2] > 0.55)
    assert near.sum() > 50
    # a twentieth of a cell: planes of eight points around stand for the sphere
    np.testing.assert_allclose(start[near], radius[near] - TRUE_RADIUS, atol=0.05 * CELL)
    far = (np.abs(radius - TRUE_RADIUS) > LOST_CELLS * CELL) | (at[:, 2] < 0.5 - LOST_CELLS * CELL)
    np.testing.assert_array_equal(start[far], (hull + inside(at))[far])
    assert start.dtype == np.float32
    assert (known[near] == 1).all() and (known[far] == 0).all()


def test_the_planes_of_a_cloud_end_with_it():
    """A flat piece of cloud says nothing of what lies beside it at the same height."""
    cloud = flat_cloud(0.5, 0.2 / 59)
    at = np.array([[0.5, 0.5, 0.5], [0.6 + 2.1 * CELL, 0.5, 0.5]], np.float32)
    hull = np.full(2, -0.1, np.float32)
    start, _ = start_distance(at, hull, inside(at), cloud, CELL)
    assert start == pytest.approx([0.0, -0.1 + 3 * CELL], abs=1e-6)


def flat_cloud(height: float, spacing: float, up: float = 1.0) -> Cloud:
    """A square of points with normals along z."""
    x, y = (a.ravel() for a in np.mgrid[0.4:0.6:spacing, 0.4:0.6:spacing])
    return cloud_of(np.stack([x, y, np.full_like(x, height)], 1), np.tile([0.0, 0.0, up], (len(x), 1)))


@pytest.mark.parametrize("cells", [3, 5, 8])
def test_no_cave_is_left_below_a_known_surface(cells):
    """There the hull, which that surface is, has been moved inwards past it."""
    depth = np.linspace(0, 10, 41).astype(np.float32) * CELL
    at = np.stack([np.full(41, 0.5), np.full(41, 0.5), 0.5 - depth], 1).astype(np.float32)
    start, _ = start_distance(at, -depth, inside(at, cells), flat_cloud(0.5, CELL / 2), CELL)
    np.testing.assert_allclose(start[depth <= 2 * CELL], -depth[depth <= 2 * CELL], atol=1e-6)
    assert (start[depth > 2 * CELL] <= -CELL + 1e-6).all()


def test_the_two_sides_of_a_sheet_are_not_averaged():
    half = CELL / 4
    top, bottom = flat_cloud(0.5 + half, 0.9 * CELL), flat_cloud(0.5 - half, 0.9 * CELL, -1)
    sheet = cloud_of(*(np.concatenate([getattr(top, k), getattr(bottom, k)]) for k in ("points", "normals")))
    at = np.random.default_rng(0).uniform(0.45, 0.55, (500, 3)).astype(np.float32)
    at[:, 2] = 0.5 + 2 * half
    start, _ = start_distance(at, inside(at, -2), inside(at), sheet, CELL)
    np.testing.assert_allclose(start, half, atol=1e-6)


@pytest.mark.parametrize(
    "cloud", [cloud_of(np.zeros((0, 3)), np.zeros((0, 3))), replace(half_a_sphere(), confidence=np.zeros(20_000))]
)
def test_without_a_cloud_it_starts_inside_the_hull(cloud):
    at = places(50)
    hull = np.linspace(-0.1, 0.1, 50, dtype=np.float32)
    np.testing.assert_array_equal(start_distance(at, hull, inside(at), cloud, CELL)[0], hull + inside(at))


@pytest.mark.parametrize(("radius", "expected"), [(9, 3.0), (4, 3.0), (2.5, 1.5), (0.5, 0.0)])
def test_something_of_a_thin_part_is_left_to_start_from(radius, expected):
    """A rod beside a block that is thick enough for any depth."""
    x, y = np.mgrid[:60, :30].astype(np.float32) * CELL
    rod = np.hypot(x - 0.15, y - 0.15) - np.float32(radius * CELL)
    hull = np.repeat(np.minimum(rod, 0.45 - x)[..., None], 5, axis=2)
    deep = room(hull, 3 * CELL, CELL)
    assert deep[15, 15, 2] == pytest.approx(expected * CELL, abs=1e-6)
    assert deep[50, 15, 2] == pytest.approx(3 * CELL, abs=1e-6)


def test_a_hole_that_nobody_looks_into_is_solid_from_the_start(tmp_path, monkeypatch):
    """As wrong points deep inside bore them, whose rays to cameras are few and far between."""

    def with_a_hole(at, hull, *_):
        hole = np.float32(0.1) - np.linalg.norm(at - 0.5, axis=1)
        return np.maximum(hull, hole), np.zeros(len(at), np.float32)

    monkeypatch.setattr(first_shape, "start_distance", with_a_hole)
    posed, region = sphere_scene(tmp_path, n_views=16)
    fit = open_fit(posed, region, sphere_cloud(0), SurfaceConfig(engine=Engine.cpu, **SMALL), Job("fit", tmp_path))
    grid = fit.trainer.data.start.grid
    radius = (grid.points() - 0.5).norm(dim=1)
    assert grid.values.reshape(-1)[radius < 0.1].max() < 0 < grid.values.reshape(-1)[radius > 0.48].min()


def test_a_single_point_is_a_cloud():
    at = np.array([[0.5, 0.5, 0.5 + 0.5 * CELL]], np.float32)
    one = cloud_of(np.full((1, 3), 0.5), np.array([[0.0, 0.0, 1.0]]))
    start, _ = start_distance(at, np.full(1, -0.1, np.float32), inside(at), one, CELL)
    assert start == pytest.approx([0.5 * CELL], abs=1e-6)


def test_prior_and_underside_are_brought_into_the_unit_cube(tmp_path):
    posed, region = sphere_scene(tmp_path / "scene", n_views=4)
    level = SupportPlane(np.array([0.0, 0.0, 1.0]), 0.0, 1.0)  # through the middle
    posed, region = replace(posed, support_plane=level), replace(region, rests_on_support=True)
    quarter_turn = Similarity(2.0, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([0.5, 0, 0]))
    prior = sphere_cloud(50)
    cloud = unit_cloud(posed, region, prior, quarter_turn, support_confidence=0.3)
    x, y, z = prior.points_world.T
    np.testing.assert_allclose(cloud.points[:50], np.stack([0.5 - 2 * y, 2 * x, 2 * z], 1), atol=1e-12)
    x, y, z = prior.normals_world.T
    np.testing.assert_allclose(cloud.normals[:50], np.stack([-y, x, z], 1), atol=1e-12)
    assert cloud.n_prior == 50 and len(cloud.points) > 50
    np.testing.assert_allclose(cloud.normals[50:], [[0, 0, -1]] * (len(cloud.points) - 50), atol=1e-12)
    assert set(cloud.confidence[50:]) == {0.3} and set(cloud.confidence[:50]) == set(prior.confidence)


def small_start() -> tuple[BakedSdf, Start]:
    """Five of the 27 points of a grid, of which two are near the surface and one of these is unknown."""
    grid = BakedSdf(torch.zeros(3), 0.1, torch.full((3, 3, 3), 0.7))
    distance = np.array([0.5, -0.01, 2 * HELD_BAND, 0.05, -3 * HELD_BAND], np.float32)
    known = np.array([0, 1, 1, 0.2, 0], np.float32)
    return grid, make_start(grid, torch.tensor([0, 1, 2, 3, 4]), distance, known)


def test_unknown_places_near_the_surface_come_first():
    grid, start = small_start()
    assert (start.n_near, start.n_unknown) == (2, 1)
    # z fastest: the fourth of the five is the first of the next row
    np.testing.assert_allclose(start.points[:, 1], [0.1, 0, 0, 0, 0.1])
    np.testing.assert_allclose(start.points[:, 2], [0, 0.1, 0, 0.2, 0.1], atol=1e-6)
    _, there = start.around(torch.arange(5), torch.full((5, 3), 0.5))
    # the grid's last plane is read a thousandth of a cell inside
    assert there.tolist() == pytest.approx([0.05, -0.01, 0.5, 2 * HELD_BAND, -3 * HELD_BAND], abs=2e-3)
    assert (grid.values == 0.7).all(), "the baked grid keeps its own"


def test_the_start_is_told_between_its_points_too():
    _, start = small_start()
    at, there = start.around(torch.tensor([1]), torch.tensor([[0.5, 0.5, 1.0]]))
    np.testing.assert_allclose(at, [[0, 0, 0.15]], atol=1e-6)
    assert there.tolist() == pytest.approx([(-0.01 + 2 * HELD_BAND) / 2], abs=1e-6)


def test_the_start_pulls_less_at_what_has_moved_far():
    start = torch.zeros(1)
    slopes = []
    for moved in (0.01 * HOLD_REACH, HOLD_REACH):
        sdf = torch.full((1,), moved, requires_grad=True)
        hold_loss(sdf, start).backward()
        slopes.append(float(sdf.grad))
    assert slopes == pytest.approx([1.0, 0.5], rel=1e-3)
    assert float(hold_loss(torch.zeros(0), torch.zeros(0))) == 0.0


@pytest.mark.parametrize(("step", "released"), [(0, 0.0), (39, 0.0), (45, 0.5), (51, 1.0), (60, 1.0)])
def test_photos_move_the_shape_only_when_colours_are_learnt(trained, step, released):
    fit, _ = trained
    trainer = fit.trainer
    trainer.step = step
    trainer.schedule()
    batch = trainer.draw(fit.baker)
    losses = trainer.losses(batch, fit.baker.baked)
    sdf_bias, sdf_weight = trainer.field.sdf_out.bias, trainer.field.sdf_out.weight
    slopes = torch.autograd.grad(losses.colour + losses.mask + losses.patches, [sdf_bias, sdf_weight])
    pull = float(slopes[0][0].abs())
    assert trainer.released == pytest.approx(released)
    assert (pull > 0) == (released > 0)
    # its first row turns normals, the others make the features that colours are made of
    assert float(slopes[1][0].abs().sum()) > 0 and float(slopes[1][1:].abs().sum()) > 0
    start = trainer.data.start
    assert 0 < start.n_unknown < start.n_near and len(batch.held) == trainer.cfg.n_held
    assert trainer.n_holding() == (start.n_unknown if released == 1 else start.n_near)


def test_all_levels_open_at_once_where_none_is_to_open_later(trained, monkeypatch):
    fit, cfg = trained
    monkeypatch.setattr(fit.trainer, "cfg", replace(cfg, open_share=0.0))
    fit.trainer.step = 1
    fit.trainer.schedule()
    assert fit.trainer.field.n_open == cfg.n_levels
    assert fit.trainer.point_reach() == pytest.approx(cfg.last_point_reach)


def test_a_held_shape_stays_where_it_started_and_then_moves(no_gpu, tmp_path, monkeypatch):
    """Masks ask for a larger ball than the one it starts as."""
    monkeypatch.setattr(starting, "hollow_share", lambda hull, cell: np.ones_like(hull))
    posed, region = sphere_scene(tmp_path / "scene", n_views=6)
    cfg = SurfaceConfig(n_steps=150, **SMALL | {"start_inside": 1.5})
    fit = open_fit(posed, region, sphere_cloud(0), cfg, Job("fit", tmp_path))
    trainer = fit.trainer
    trainer.warm_start(n_steps=100, n_points=1024)
    fit.watch.keep(trainer)
    near = trainer.data.start.n_near
    at, wanted = trainer.data.start.around(torch.arange(near), torch.full((near, 3), 0.5))
    on = wanted.abs() < 0.02
    moved = {}
    while trainer.step < cfg.n_steps:
        if trainer.step % 10 == 0:
            fit.baker.refresh(trainer.field, None)
        trainer.train_step(fit.baker)
        moved[trainer.step] = float((trainer.field.distance(at[on]) - wanted[on]).mean())
    assert abs(moved[60]) < 0.005, "held for two fifths of the steps"
    assert moved[150] < moved[60] - 0.005, "then it grows"


def test_a_share_of_the_hold_is_left_when_the_shape_is_released():
    nothing = dict.fromkeys(Losses.__dataclass_fields__, torch.zeros(()))
    losses, cfg = Losses(**nothing | {"hold": torch.ones(())}), LossConfig(hold=10.0, hold_left=0.1)
    weights = [float(losses.total(cfg, open_share=1.0, released=r, patch_weight=1.0)) for r in (0.0, 0.5, 1.0)]
    assert weights == pytest.approx([10.0, 5.5, 1.0])


def test_nothing_is_drawn_to_hold_what_is_free(no_gpu, tmp_path):
    posed, region = sphere_scene(tmp_path / "scene", n_views=4)
    cfg = SurfaceConfig(n_steps=100, hold_share=0.0, loss=LossConfig(hold_left=0.0), **SMALL)
    fit = open_fit(posed, region, sphere_cloud(0), cfg, Job("fit", tmp_path))
    fit.trainer.schedule()
    assert fit.trainer.released == 1.0 and len(fit.trainer.draw(fit.baker).held) == 0


def test_patches_have_partners_without_prior_points_too(no_gpu, tmp_path):
    """The underside's points face no camera, and say nothing of which photos see the same."""
    posed, region = sphere_scene(tmp_path / "scene", n_views=20)
    posed = replace(posed, support_plane=SupportPlane(np.array([0.0, 0.0, 1.0]), -0.09, 1.0))
    region = replace(region, rests_on_support=True)
    fit = open_fit(posed, region, sphere_cloud(0), SurfaceConfig(**SMALL), Job("fit", tmp_path))
    data = fit.trainer.data
    assert data.n_prior == 0 and len(data.points) > 0
    assert data.photos is not None and (data.photos.neighbours >= 0).any(1).all()


def test_a_shape_that_would_never_be_free_is_refused():
    with pytest.raises(UserError, match="they may add up to 1 at most"):
        SurfaceConfig(hold_share=0.95, release_share=0.1).check()
