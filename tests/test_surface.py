"""The surface: kernels against their plain twins, the field's gradient, rendering, sampling, and a small fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from striped_sphere import BOX, RADIUS, SMALL, radius_error, sphere_bake, sphere_cloud, sphere_scene

from recon.data import SurfaceField
from recon.stage import Job
from recon.surface.config import SurfaceConfig
from recon.surface.engine import Engine
from recon.surface.field import Field, FieldConfig
from recon.surface.fit import fit_surface
from recon.surface.free_space import carve_looked_through, towards_best_views
from recon.surface.hashgrid import GridLayout, ReferenceGrid, encode_reference
from recon.surface.hashgrid_cpu import CpuGrid, features_cpu
from recon.surface.losses import LossConfig, Losses, opacity_loss
from recon.surface.render import annealed_cosine, ray_weights, section_opacity
from recon.surface.sampling import clip_to_planes, sample_rays
from recon.surface.sampling_reference import clip_rays, proposal, sample_rays_reference
from recon.surface.visual_hull import support_points

pytestmark = pytest.mark.usefixtures("no_gpu")  # values of the CPU are compared, and x lies there
LAYOUT = GridLayout(n_levels=6, n_features=2, log2_rows=10, base_resolution=4, finest_resolution=64)


def test_layout_follows_tiny_cuda_nn():
    # growth 64/4 over 5 steps; the first levels fit densely (rounded up to 8), the others have 2^10 rows
    assert LAYOUT.growth() == pytest.approx(16 ** (1 / 5))
    rows = np.diff(LAYOUT.offsets())
    assert rows[0] == (int(LAYOUT.resolutions()[0]) ** 3 + 7) // 8 * 8
    assert rows[-1] == 1024
    assert LAYOUT.scales()[0] == pytest.approx(3)


@pytest.mark.parametrize("n_features", [1, 2, 4])
def test_kernels_match_the_reference_in_values_and_gradients(n_features):
    torch.manual_seed(0)
    layout = replace(LAYOUT, n_features=n_features)
    table, x = torch.randn(layout.n_rows(), n_features), torch.rand(500, 3)
    x[:4] = torch.tensor([[1.4, 0.5, 1.2], [-0.3, 0.2, 0.9], [0, 0, 0], [1, 1, 1]])  # patches may look beyond the cube
    level_weight = torch.tensor([1, 1, 1, 1, 0.3, 0.0])
    towards, of_features, of_pull = (torch.randn(500, n) for n in (6 * n_features, 6 * n_features, 3))
    found = []
    for grid in ReferenceGrid(layout), CpuGrid(layout):
        rows, g = table.clone().requires_grad_(), towards.clone().requires_grad_()
        features, pull = grid.encode(rows, x, level_weight)
        pulled = pull(g)
        ((features * of_features).sum() + (pulled * of_pull).sum()).backward()
        assert rows.grad.abs().max() > 0 and g.grad.abs().max() > 0
        found.append((features.detach(), pulled.detach(), rows.grad, g.grad))
    for a, b in zip(*found, strict=True):
        # float32 sums in another order, with fused multiply-adds: 1e-5 of the largest value
        assert (a - b).abs().max() < 1e-5 * a.abs().max()
    alone = features_cpu(layout, table.numpy(), x.numpy(), level_weight.numpy())
    np.testing.assert_allclose(alone, found[1][0].numpy(), rtol=1e-5, atol=1e-6)


def test_masks_pull_only_at_rays_that_are_on_the_wrong_side():
    opacity = torch.tensor([0.0, 0.3, 0.59, 0.61, 1.0, 1.0 + 1e-6, 0.0, 0.39, 0.41, 1.0, 0.7], requires_grad=True)
    on = torch.arange(11) < 6
    outside = (torch.arange(11) >= 6) & (torch.arange(11) < 10)  # the last is unsure
    loss = opacity_loss(opacity, on, outside, 0.6)
    loss.sum().backward()
    assert opacity.grad is not None
    assert (opacity.grad[:3] < 0).all() and opacity.grad[0] == opacity.grad.min(), "what should be opaque becomes so"
    assert (opacity.grad[8:10] > 0).all() and opacity.grad[9] == opacity.grad.max()
    assert (opacity.grad[[3, 4, 5, 6, 7, 10]] == 0).all() and loss[10] == 0
    assert loss[:10].min() == loss[3] and loss.max() < 5, "one wrong mask pulls with bounded force"


def test_jacobian_is_the_slope_of_the_features():
    torch.manual_seed(1)
    table = torch.randn(LAYOUT.n_rows(), 2, dtype=torch.float64)
    x, h = torch.rand(200, 3, dtype=torch.float64), 1e-6
    _, jacobian = encode_reference(LAYOUT, table, x, torch.ones(6))
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = h
        a, _ = encode_reference(LAYOUT, table, x - step, torch.ones(6))
        b, _ = encode_reference(LAYOUT, table, x + step, torch.ones(6))
        difference = ((b - a) / (2 * h) - jacobian[:, :, axis]).abs()
        # the interpolation is linear inside a cell; a point within h of a border is the only exception
        assert (difference < 1e-4).double().mean() > 0.999


@pytest.mark.parametrize("engine", [Engine.reference, Engine.cpu])
def test_field_gradient_is_the_sdf_s_slope(engine):
    torch.manual_seed(2)
    field = Field(FieldConfig(n_levels=4, log2_rows=12, base_resolution=4, finest_resolution=16), engine)
    with torch.no_grad():
        field.table.uniform_(-0.1, 0.1)
    x, h = torch.rand(300, 3) * 0.9 + 0.05, 1e-3
    _, gradient, geometry = field.geometry(x)
    assert geometry.shape == (300, 15)
    for axis in range(3):
        step = torch.zeros(3)
        step[axis] = h
        slope = (field.geometry(x + step)[0] - field.geometry(x - step)[0]) / (2 * h)
        # median: a step of 1e-3 crosses a cell border or a softplus bend for some points
        assert (slope - gradient[:, axis]).abs().median() < 2e-3 * gradient.abs().max()
    np.testing.assert_allclose(field.sdf(x.numpy()), field.geometry(x)[0].detach().numpy(), atol=1e-5)


def test_weights_peak_where_the_sdf_is_zero():
    t = torch.linspace(0, 1, 401)
    middle, length = (t[1:] + t[:-1]) / 2, t[1:] - t[:-1]
    slope = 0.5  # the ray meets the surface at 60 degrees from its normal
    sdf = (0.4 - middle) * slope
    opacity = section_opacity(sdf[None], torch.full((1, 400), -slope), length[None], torch.tensor(200.0))
    weights = ray_weights(opacity)[0]
    assert weights.sum() == pytest.approx(1, abs=0.02)
    # NeuS is unbiased to first order: the peak is at the zero crossing within one section
    assert middle[weights.argmax()] == pytest.approx(0.4, abs=2.5e-3 * 2)


def test_leaving_rays_are_transparent_once_annealed():
    cosine = torch.tensor([0.7, -0.7])
    assert annealed_cosine(cosine, 1.0).tolist() == pytest.approx([0.0, -0.7])
    assert annealed_cosine(cosine, 0.0).tolist() == pytest.approx([-0.15, -0.85])


SAMPLERS = [sample_rays, sample_rays_reference]


def parallel_rays(n: int, height: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[0.5, height, -1.0]]).repeat(n, 1), torch.tensor([[0.0, 0.0, 1.0]]).repeat(n, 1)


@pytest.mark.parametrize("sample", SAMPLERS)
def test_samples_gather_at_the_surface_and_follow_the_proposal(sample):
    n = 256
    jitter = torch.rand(n, 65, generator=torch.Generator().manual_seed(0))
    edges, hit = sample(sphere_bake(), *parallel_rays(n, 0.5), BOX, 100.0, 64, jitter)
    assert hit.all()
    assert (edges.diff(dim=1) >= 0).all()
    assert edges.min() >= 1.0 - 1e-5
    assert edges.max() <= 2.0 + 1e-5
    t = torch.linspace(1, 2, 129)
    share = proposal(((t - 1.5).abs() - 0.3)[None], 100.0)[0]
    expected, _ = np.histogram(t[:-1].numpy(), bins=16, range=(1, 2), weights=(share / share.sum()).numpy())
    found, _ = np.histogram(edges.numpy(), bins=16, range=(1, 2))
    # 16,640 stratified edges: sampling noise is below 0.01 a bin, a wrong inverse is far above
    np.testing.assert_allclose(found / edges.numel(), expected, atol=0.015)
    near_surface = (edges - 1.2).abs() < 0.05
    assert 0.7 < near_surface.float().mean() < 0.98


@pytest.mark.parametrize("sample", SAMPLERS)
def test_grazing_rays_are_sampled_where_they_pass_nearest(sample):
    jitter = torch.rand(64, 17, generator=torch.Generator().manual_seed(1))
    # passes the sphere at a distance of 0.03
    edges, _ = sample(sphere_bake(), *parallel_rays(64, 0.83), BOX, 100.0, 16, jitter)
    assert ((edges - 1.5).abs() < 0.15).float().mean() > 0.6


def test_rays_beside_the_hull_miss():
    beside, through = np.array([2.0, 2, -1]), np.array([0.5, 0.5, -1])
    t0, t1 = clip_to_planes(beside, np.array([0.0, 0, 1]), BOX.double().numpy())
    assert t0 >= t1
    t0, t1 = clip_to_planes(through, np.array([0.0, 0, 1]), BOX.double().numpy())
    assert (t0, t1) == pytest.approx((1, 2))
    rays_o, rays_d = torch.from_numpy(np.stack([beside, through])), torch.tensor([[0.0, 0, 1]] * 2).double()
    t0, t1 = clip_rays(rays_o, rays_d, BOX.double())
    assert (t0 >= t1).tolist() == [True, False]
    assert (t0[1], t1[1]) == pytest.approx((1, 2))


def test_fit_finds_a_sphere_from_its_photos_alone(tmp_path):
    posed, region = sphere_scene(tmp_path / "scene")
    (tmp_path / "job").mkdir()
    field = fit_surface(
        posed, region, sphere_cloud(0), SurfaceConfig(n_steps=250, **SMALL), Job("fit", tmp_path / "job")
    )
    field.check()
    error = radius_error(field)
    # 4 % of the radius is one pixel of these photos
    assert np.abs(np.median(error)) < 0.04
    assert np.percentile(np.abs(error), 90) < 0.12
    assert 0.8 < float(field.photo_gain.mean()) < 1.25
    field.save(tmp_path)
    again = SurfaceField.load(tmp_path)
    np.testing.assert_array_equal(radius_error(again), error)


def test_prior_points_pull_the_surface(tmp_path):
    posed, region = sphere_scene(tmp_path / "scene")
    errors = {}
    for n in (0, 3000):
        folder = tmp_path / str(n)
        folder.mkdir()
        field = fit_surface(posed, region, sphere_cloud(n), SurfaceConfig(n_steps=60, **SMALL), Job("fit", folder))
        errors[n] = np.abs(radius_error(field)).mean()
    assert errors[3000] < 0.8 * errors[0]


def test_underside_is_closed_where_the_object_stands(tmp_path):
    posed, region = sphere_scene(tmp_path / "scene")
    points, normals = support_points(posed, region, RADIUS / 40)
    assert len(points) > 0
    np.testing.assert_allclose(points[:, 2], -RADIUS, atol=1e-9)
    np.testing.assert_allclose(normals, np.tile([0, 0, -1.0], (len(points), 1)))
    # the visual hull of a ring of cameras is wider than the sphere's point of contact, but not than the sphere
    assert np.linalg.norm(points[:, :2], axis=1).max() < RADIUS


def test_what_prior_points_are_seen_through_is_carved_away():
    n, cell = 40, 1 / 40
    solid = np.ones((n, n, n), bool)
    across = (np.mgrid[:n, :n].reshape(2, -1).T + 0.5) * cell
    wall = np.column_stack([across, np.full(len(across), 0.5)])  # a dense wall of points at z = 0.5 ...
    towards = np.tile([0, 0, 1.0], (len(wall), 1, 1))  # ... seen from above
    kept = carve_looked_through(solid, np.full(3, cell / 2), cell, wall, towards, n_rays=1)
    assert kept[:, :, :20].all()
    assert not kept[:, :, 24:].any()
    # a single stray point bores no hole where several rays are asked for, and unseen points carve nothing
    assert carve_looked_through(solid, np.full(3, cell / 2), cell, wall[:1], towards[:1], n_rays=4).all()
    assert carve_looked_through(solid, np.full(3, cell / 2), cell, wall, 0 * towards, n_rays=1).all()


@pytest.mark.parametrize(("width", "bottom"), [(1, 35), (3, 23)])
def test_a_few_points_bore_no_tunnel(width, bottom):
    """Rays of points at a depth of 20 voxels: one beside another, or as many as a ball needs."""
    n, cell = 40, 1 / 40
    solid = np.ones((n, n, n), bool)
    side = np.arange(20, 20 + width)
    points = np.stack([*np.meshgrid(side, side), np.full((width, width), 20)], -1).reshape(-1, 3) + 0.7
    towards = np.tile([0, 0, 1.0], (len(points), 1, 1))
    kept = carve_looked_through(solid, np.full(3, cell / 2), cell, points * cell, towards, n_rays=1)
    middle = 20 + width // 2
    assert kept[middle, middle, :bottom].all() and not kept[middle, middle, bottom:].any()


def test_each_prior_point_looks_to_the_cameras_that_see_it_best(tmp_path):
    posed, _ = sphere_scene(tmp_path / "scene")
    cloud = sphere_cloud(4000)
    towards = towards_best_views(posed, cloud, tolerance=0.02 * RADIUS)
    length = np.linalg.norm(towards, axis=2)
    assert (np.diff(length, axis=1) <= 1e-9).all()
    towards, length = towards[:, 0], length[:, 0]
    assert set(np.round(length, 6)) <= {0.0, 1.0}
    cosine = (towards * cloud.normals_world).sum(1)
    assert cosine[length > 0].min() >= 0.3
    # all cameras look slightly downward, so the equator is seen and the south pole is not
    assert length[np.abs(cloud.normals_world[:, 2]) < 0.3].mean() > 0.95
    assert length[cloud.normals_world[:, 2] < -0.9].mean() < 0.05


def test_a_hull_far_outside_the_prior_points_starts_blunt(tmp_path):
    posed, region = sphere_scene(tmp_path / "scene", n_views=2)
    notes = {}
    for name, cloud in (("near", sphere_cloud(3000)), ("none", sphere_cloud(0))):
        (tmp_path / name).mkdir()
        job = Job("fit", tmp_path / name)
        fit_surface(posed, region, cloud, SurfaceConfig(n_steps=2, **SMALL), job)
        notes[name] = job.notes["first_inv_s"]
    assert notes["none"] == SurfaceConfig().first_inv_s
    assert 30 <= notes["near"] < notes["none"]


def test_smoothness_fades_as_the_levels_open():
    nothing = dict.fromkeys(Losses.__dataclass_fields__, torch.zeros(()))
    losses = Losses(**nothing | {"eikonal": torch.ones(()), "curvature": torch.ones(())})
    cfg = LossConfig(eikonal=0.3, curvature=0.1, smoothness_left=0.25)
    weights = [float(losses.total(cfg, open_share, released=1.0, patch_weight=1.0)) for open_share in (0.0, 0.5, 1.0)]
    assert weights == pytest.approx([0.4, 0.4 * 0.625, 0.1])
