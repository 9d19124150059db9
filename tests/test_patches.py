"""Multi-view patches: kernels against their plain twins, the warp, the surface point's derivative, who sees what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from striped_sphere import RADIUS, sphere_bake, sphere_cloud, sphere_scene

from recon.surface import patches
from recon.surface.baking import unit_from_region
from recon.surface.patch_match import (
    NOT_COMPARED,
    Matches,
    PatchPlaces,
    homographies,
    match_reference,
    sample_level,
    visible_sources_reference,
)
from recon.surface.patch_match_cpu import match_cpu, visible_sources
from recon.surface.patch_photos import N_LEVELS, Pyramid, build_pyramid, choose_neighbours, halve
from recon.surface.patches import (
    PatchConfig,
    PatchRays,
    first_crossing,
    gather_for_patches,
    middle_px,
    patch_loss,
    robust_mean,
    seen_sources,
    tangent_plane,
    trust,
)
from recon.surface.pixels import unit_cameras

CFG = PatchConfig(radius_px=3, max_side_px=1000)


def photographed_sphere(folder: Path):
    """A striped sphere's photos, the frame of its unit cube, and the cameras there."""
    posed, region = sphere_scene(folder, n_views=16, size=144)
    unit_from_world = unit_from_region(region)
    cameras, cloud = unit_cameras(posed, unit_from_world), sphere_cloud(2000)
    surface = unit_from_world.apply(cloud.points_world), cloud.normals_world
    photos = gather_for_patches(posed, region, cameras, surface, CFG)
    assert photos is not None
    return posed, region, unit_from_world, cameras, photos


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return photographed_sphere(tmp_path_factory.mktemp("scene"))


def middle_rays(scene, n: int = 60):
    """Rays to points near the middle of the visible sphere, for all views: views, pixels, origins, directions, and
    their true distances to the sphere."""
    posed, _, unit_from_world, cameras, _ = scene
    rng = np.random.default_rng(0)
    view_idx = np.tile(np.arange(len(posed.views)), n)[:n]
    at_px = (posed.views[0].camera.width_px / 2 + rng.uniform(-18, 18, (n, 2))).astype(np.float32)
    rays = cameras.rays(torch.from_numpy(view_idx), torch.from_numpy(at_px).double())
    origin, direction = (x.numpy() for x in rays)
    centre, radius = unit_from_world.apply(np.zeros((1, 3)))[0], RADIUS * unit_from_world.scale
    b = (direction * (origin - centre)).sum(1)
    t = -b - np.sqrt(b**2 - ((origin - centre) ** 2).sum(1) + radius**2)
    tensors = (torch.from_numpy(np.asarray(x)) for x in (view_idx, at_px, origin, direction, t.astype(np.float32)))
    return (*tensors, torch.from_numpy(centre).float(), radius)


def places(scene, view_idx, at_px, level: int = 0) -> PatchPlaces:
    return PatchPlaces(view_idx, at_px, torch.full_like(view_idx, level), scene[4].neighbours[view_idx])


def planes(origin, direction, depth, centre):
    """Of concentric spheres at given depths along rays."""
    normal = origin + depth[:, None] * direction - centre
    return normal / (normal * direction * depth[:, None]).sum(1, keepdim=True)


@pytest.mark.parametrize("level", [0, 1])
def test_the_kernel_matches_the_plain_twin_in_values_and_gradients(scene, level):
    view_idx, at_px, origin, direction, t, centre, _ = middle_rays(scene)
    plane = planes(origin, direction, t * 1.01, centre)
    at, found = places(scene, view_idx, at_px, level), []
    for match in (match_reference, match_cpu):
        p = plane.clone().requires_grad_()
        cost, *rest = match(p, scene[4], CFG.patch(), at)
        (cost * torch.linspace(0.5, 1.5, cost.numel()).view(cost.shape)).sum().backward()
        found.append((cost.detach(), rest, p.grad))
    (cost_a, rest_a, grad_a), (cost_b, rest_b, grad_b) = found
    assert (cost_a < 2).any(1).float().mean() > 0.9
    # float32 positions of some hundred pixels are right to 3e-5 px, grey levels to 1e-3 of 255
    torch.testing.assert_close(cost_a, cost_b, atol=2e-4, rtol=0)
    torch.testing.assert_close(rest_a, rest_b, rtol=1e-3, atol=1e-2)
    # a position that rounds into the next pixel has that pixel's slope: few patches, and not all of it
    off = (grad_a - grad_b).norm(dim=1) / grad_a.norm(dim=1).median()
    assert off.median() < 1e-3
    assert (off < 0.05).float().mean() > 0.95


def test_the_kernel_s_gradient_is_the_cost_s_slope(scene):
    view_idx, at_px, origin, direction, t, centre, _ = middle_rays(scene)
    at, h = places(scene, view_idx, at_px), 1e-3
    plane = planes(origin, direction, t * 1.01, centre).requires_grad_()
    match_cpu(plane, scene[4], CFG.patch(), at).cost.sum().backward()
    for axis in range(3):
        step = h * torch.nn.functional.one_hot(torch.tensor(axis), 3)
        up, down = (match_cpu(plane.detach() + s, scene[4], CFG.patch(), at)[0].sum(1) for s in (step, -step))
        slope = (up - down) / (2 * h)
        # bilinear images bend at pixel borders, so that a step sees a mean of slopes
        assert np.corrcoef(slope, plane.grad[:, axis])[0, 1] > 0.98


def test_the_homography_maps_points_of_the_plane_as_the_cameras_do(scene):
    posed, _, unit_from_world, cameras, photos = scene
    rng = np.random.default_rng(1)
    normal, x = np.array([0.2, -0.3, 1.0]), np.array([0.5, 0.45, 0.55])
    centre = cameras.centre[0].double().numpy()
    plane = torch.from_numpy(normal / (normal @ (x - centre))).float()[None]
    h = homographies(plane, photos, torch.tensor([0]), torch.tensor([[3]]))[0, 0].double().numpy()
    across = np.cross(normal, [1, 0, 0]), np.cross(normal, [0, 1, 0])
    points = x + rng.uniform(-0.1, 0.1, (20, 1)) * across[0] + rng.uniform(-0.1, 0.1, (20, 1)) * across[1]
    seen = (points - centre) @ h.T
    expected, _ = posed.views[3].project(unit_from_world.inverse().apply(points))
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], expected, atol=1e-3)


def test_patches_agree_best_at_the_true_depth(scene):
    view_idx, at_px, origin, direction, t, centre, radius = middle_rays(scene)
    at, offsets = places(scene, view_idx, at_px), np.linspace(-0.2, 0.2, 41) * radius
    evenly = replace(CFG, gloss=1e3)  # what a patch counts depends on where it is matched
    costs = []
    for offset in offsets:
        found = match_cpu(planes(origin, direction, t + offset, centre), scene[4], CFG.patch(), at)
        alone = (Matches(*(x[[i]] for x in found)) for i in range(len(t)))
        costs.append([float(robust_mean(one, torch.zeros_like(one.cost), torch.ones(1), 1.0, evenly)) for one in alone])
    best = offsets[np.argmin(costs, 0)]
    # a pixel is 2 % of the radius, and depth is measured three times as coarsely at these angles
    assert np.abs(np.median(best)) < 0.01 * radius
    assert np.mean(np.abs(best) < 0.06 * radius) > 0.8


def test_gain_and_offset_of_a_photo_change_nothing(scene):
    view_idx, at_px, origin, direction, t, centre, _ = middle_rays(scene)
    photos, chosen = scene[4], view_idx == 0
    pyramid, at = photos.pyramid, places(scene, view_idx[chosen], at_px[chosen])
    plane, patch = planes(origin, direction, t, centre)[chosen], CFG.patch()._replace(noise_variance=0.0)
    darker = torch.where(pyramid.grey > 0, (pyramid.grey.float() * 0.5 + 20).round().byte(), pyramid.grey)
    # not the patches' own photo
    darker[: pyramid.offset[1, 0]] = pyramid.grey[: pyramid.offset[1, 0]]
    same = match_cpu(plane, photos, patch, at).cost
    other = match_cpu(plane, replace(photos, pyramid=pyramid._replace(grey=darker)), patch, at).cost
    assert same.min() < 0.05
    # whole grey levels at half the contrast
    torch.testing.assert_close(other, same, atol=0.03, rtol=0)


def alike(cost: torch.Tensor, contrast: list[float]) -> Matches:
    """Patches that are as bright as their sources."""
    grey = torch.full((len(cost),), 100.0)
    return Matches(cost, torch.tensor(contrast), grey, torch.where(cost < NOT_COMPARED, grey[:, None], 0.0))


def test_plain_patches_do_not_pull():
    cost, cfg = torch.tensor([[0.5, 0.3], [0.5, 0.3]]), PatchConfig(n_best=2, least_contrast=4.0)
    textured = robust_mean(alike(cost, [1e6, 0.0]), torch.zeros(2, 2), torch.ones(2), 1.0, cfg)
    assert float(textured) == pytest.approx(0.4 / 2, rel=1e-3)
    cost = torch.tensor([[0.2, 1.2, NOT_COMPARED]], requires_grad=True)
    robust_mean(alike(cost, [100.0]), torch.zeros(1, 3), torch.ones(1), 1.0, cfg).backward()
    # beyond the worst cost a source no longer pulls, and one that sees nothing does not count
    assert cost.grad[0, 0] > 0
    assert cost.grad[0, 1:].tolist() == [0, 0]


def test_patches_whose_brightness_changes_from_photo_to_photo_count_less():
    cfg = PatchConfig(least_contrast=0.0, gloss=0.05)
    cost, no_gain = torch.full((1, 3), 0.1), torch.zeros(1, 3)
    steady = alike(cost, [100.0])
    assert float(trust(steady, no_gain, cfg)) == 1
    # with the patch's own 100, of standard deviation 5 and 20
    for change, expected in ((10.0, 1 / 2), (40.0, 1 / 257)):
        glossy = steady._replace(source_grey=torch.tensor([[100 + change, 100.0, 100 + change]]))
        assert float(trust(glossy, no_gain, cfg)) == pytest.approx(expected)
    # another exposure is no gloss
    exposed = steady._replace(source_grey=torch.tensor([[100.0, 120.0, 80.0]]))
    assert float(trust(exposed, torch.tensor([[1.0, 1.2, 0.8]]).log(), cfg)) == pytest.approx(1)
    # and a source that was not compared says nothing
    hidden = steady._replace(cost=torch.tensor([[0.1, NOT_COMPARED, 0.1]]))
    assert float(trust(hidden, no_gain, cfg)) == pytest.approx(1)


def test_a_crossing_is_the_first_entry_from_outside():
    middle = torch.arange(5.0).repeat(4, 1)
    sdf = torch.tensor([[2.0, 1, -1, 1, -1], [-1, 1, -1, -2, -3], [3, 2, 1, 2, 3], [1, -3, -4, 2, 1]])
    t, meets = first_crossing(middle, sdf)
    assert meets.tolist() == [True, False, False, True]
    assert t[0] == 1.5
    assert t[3] == 0.25


def test_the_surface_point_moves_as_the_implicit_surface_does():
    radius = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    origin = torch.tensor([[0.1, -0.05, -1.0]], dtype=torch.float64)
    direction = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)

    def intersection(r: torch.Tensor) -> torch.Tensor:
        return 1 - (r**2 - 0.1**2 - 0.05**2).sqrt()

    start = intersection(radius.detach()) + 1e-3  # which one Newton step takes away
    x = origin + start * direction
    plane, depth = tangent_plane(start[None], x.norm(dim=1) - radius, x / x.norm(dim=1, keepdim=True), direction)
    assert float(depth.detach()) == pytest.approx(float(intersection(radius.detach())), abs=1e-5)
    (slope,) = torch.autograd.grad(depth.sum(), radius, retain_graph=True)
    (expected,) = torch.autograd.grad(intersection(radius), radius)
    assert float(slope) == pytest.approx(float(expected), rel=0.01)
    # the plane goes through the point: p . (x - c) = 1
    assert float((plane.detach() * depth.detach()[:, None] * direction).sum()) == pytest.approx(1, abs=1e-9)


def rays_to_a_ball(scene, wrong: float, n: int = 60):
    """`patch_loss`'s first arguments for rays to a ball that is a share `wrong` too large, and its radius."""
    view_idx, _, origin, direction, t, centre, true = middle_rays(scene, n)
    radius = torch.tensor(true * (1 + wrong), dtype=torch.float32, requires_grad=True)

    def geometry(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        distance = (x - centre).norm(dim=1)
        return distance - radius, (x - centre) / distance[:, None], x

    middle = t[:, None] + torch.linspace(-0.12, 0.12, 12) * true
    points = (origin[:, None] + middle[..., None] * direction[:, None]).reshape(-1, 3)
    sdf = geometry(points)[0].view(middle.shape).detach()
    baked = sphere_bake(radius=true)
    baked.values[:] = ((baked.points() - centre).norm(dim=1) - true).reshape(baked.values.shape)
    rays = PatchRays(view_idx, origin, direction, middle, sdf, torch.ones_like(t))
    return geometry, scene[4], torch.zeros(len(scene[0].views)), rays, baked, radius


@pytest.mark.parametrize("wrong", [-0.06, 0.06])
def test_the_loss_pulls_a_wrong_radius_to_the_true_one(scene, wrong):
    *args, radius = rays_to_a_ball(scene, wrong)
    patch_loss(*args, 1.0, CFG).backward()
    assert float(radius.grad) * wrong > 0


@torch.no_grad()
def test_patches_come_from_all_photos_and_count_as_their_rays_do(scene, monkeypatch):
    *others, rays, baked, _ = rays_to_a_ball(scene, 0.03, n=64)
    rays, taken = rays.take(rays.view_idx.sort(stable=True).indices), []  # as in a batch, photo by photo

    def noted(photos, rays, *rest):
        taken.append(rays.view_idx)
        return seen_sources(photos, rays, *rest)

    monkeypatch.setattr(patches, "seen_sources", noted)
    everywhere = patch_loss(*others, rays, baked, 1.0, replace(CFG, n_rays=32))
    assert taken[0].bincount().tolist() == [2] * len(scene[0].views)
    # photos that do not count leave what the others say
    half = rays.view_idx < len(scene[0].views) // 2
    weighed = patch_loss(*others, replace(rays, counts=half.float()), baked, 1.0, replace(CFG, n_rays=32))
    alone = patch_loss(*others, rays.take(half.nonzero()[:, 0]), baked, 1.0, replace(CFG, n_rays=16))
    assert float(weighed) == pytest.approx(float(alone), rel=1e-5)
    assert float(weighed) != pytest.approx(float(everywhere), rel=1e-3)


def test_sources_behind_the_object_are_left_out_by_kernel_and_twin():
    baked, rng = sphere_bake(), np.random.default_rng(0)
    normal = rng.normal(size=(200, 3))
    normals = torch.from_numpy(normal / np.linalg.norm(normal, axis=1, keepdims=True)).float()
    points, centre = 0.5 + 0.3 * normals, torch.tensor([[0.5, 0.5, -2.0], [0.5, 0.5, 3.0], [3.0, 0.5, 0.5]])
    sources = torch.tensor([0, 1, 2, -1]).repeat(200, 1)
    # the second object: a wall between x = 0.9 and the third camera
    baked.values[43:45] = -0.05
    args = (baked, points, normals, sources, centre, 0.2)
    plain, fast = visible_sources_reference(*args), visible_sources(*args)
    # a station that rounds into the next cell; the wall is one cell thick
    assert (plain == fast).float().mean() > 0.99
    cosine = ((centre - points[:, None]) * normals[:, None]).sum(-1) / (centre - points[:, None]).norm(dim=-1)
    assert torch.equal(plain[:, :2] >= 0, cosine[:, :2] >= 0.2)
    assert (plain[:, 2:] == -1).all()


def test_flat_patches_and_borders_of_masks():
    grey = np.full((64, 64), 100, np.uint8)
    grey[:, 40:] = 0
    pyramid = Pyramid(
        torch.from_numpy(grey.reshape(-1)), torch.zeros(1, 1, dtype=torch.long), torch.tensor([[[64, 64]]]),
        torch.tensor([[[8, 16]]]),
    )  # fmt: skip
    first = torch.zeros(4, dtype=torch.long)
    at = torch.tensor([[8 + 10.25, 16 + 10.75], [8 + 39.4, 30], [8 + 39.6, 30], [3.0, 3.0]])
    value, on = sample_level(pyramid, first, first, at)
    assert on.tolist() == [True, True, False, False]
    assert value[:2].tolist() == [100, 100]
    half = halve(grey)
    assert half.shape == (32, 32)
    assert (half[:, :20] == 100).all() and (half[:, 20:] == 0).all()


def test_a_plane_through_the_source_s_camera_is_not_compared(scene):
    """There the warp divides by nothing at all."""
    view_idx, at_px, origin, direction, _, _, _ = middle_rays(scene)
    at, source_centre = places(scene, view_idx, at_px), scene[4].cameras.centre[scene[4].neighbours[view_idx][:, 0]]
    towards = source_centre - origin
    # the plane in which the ray's point is the source's own place, as near as floats can tell
    plane = towards / (towards**2).sum(1, keepdim=True)
    for p in (plane, torch.zeros_like(plane), 1e9 * direction):
        found = match_cpu(p, scene[4], CFG.patch(), at)
        assert all(x.isfinite().all() for x in found)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20), (20, 1)])
def test_positions_beside_the_last_photo_s_coarsest_level_are_outside(tmp_path, height, width):
    """Its cut is one pixel, a row or a column: there is no neighbour to the right or below."""
    posed, region = sphere_scene(tmp_path, n_views=2)
    mask = np.zeros((72, 72), np.uint8)
    mask[40 : 40 + height, 40 : 40 + width] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "v1.png")
    pyramid, _ = build_pyramid(posed, region, 1000)
    last, level = torch.ones(3, dtype=torch.long), torch.full((3,), N_LEVELS - 1)
    assert 1 in pyramid.size[1, -1].tolist()
    at = pyramid.corner[1, -1] + torch.tensor([[-5.0, -5.0], [0.5, 0.5], [90.0, 90.0]])
    _, on = sample_level(pyramid, last, level, at)
    assert not on.any()


def test_partners_look_from_useful_angles(scene):
    _, _, _, cameras, photos = scene
    towards = cameras.centre.numpy() - 0.5
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    for i, row in enumerate(photos.neighbours.numpy()):
        assert i not in row
        angle = np.degrees(np.arccos(np.clip(towards[row[row >= 0]] @ towards[i], -1, 1)))
        assert len(angle) >= 2
        assert angle.max() < 50
    points = np.random.default_rng(0).normal(size=(500, 3)) * 0.1
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    angles = np.radians([0, 2, 15, 30, 90])
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    assert choose_neighbours(ring, points, normals, 3)[0].tolist() == [2, 3, -1]


def test_the_schedule_and_switching_off(scene):
    cfg = PatchConfig(weight=0.5, start_share=0.4, ramp_share=0.2)
    assert [cfg.weight_at(x) for x in (0.0, 0.4, 0.5, 0.6, 1.0)] == pytest.approx([0, 0, 0.25, 0.5, 0.5])
    posed, region, _, cameras, _ = scene
    nothing = np.zeros((0, 3)), np.zeros((0, 3))
    assert gather_for_patches(posed, region, cameras, nothing, replace(cfg, weight=0.0)) is None
    without_prior = gather_for_patches(posed, region, cameras, nothing, cfg)
    assert without_prior is not None
    assert (without_prior.neighbours[:, 0] >= 0).all()


def test_a_ray_s_photo_position_comes_back(scene):
    view_idx, at_px, origin, direction, _, _, _ = middle_rays(scene)
    empty = torch.zeros(len(view_idx), 1)
    rays = PatchRays(view_idx, origin, direction, empty, empty, empty[:, 0])
    torch.testing.assert_close(middle_px(scene[4], rays), at_px, atol=1e-3, rtol=0)
