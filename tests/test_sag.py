"""Windows matched by planes: how far under a curved surface they find it, and that this is given back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from striped_sphere import sphere_bake
from test_patches import CFG, middle_rays, places, planes, scene  # noqa: F401  (a fixture)

from recon.prior.sag import lifted, mean_curvature, window_spread_px
from recon.surface.patch_match_cpu import match_cpu
from recon.surface.patches import STEEPEST_COSINE, PatchConfig, PatchRays, mean_sag, spread_of, tangent_plane


def ball(n: int = 4000, radius: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    normals = np.random.default_rng(0).normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return radius * normals, normals


def test_curvature_of_balls_tubes_planes_and_sheets():
    points, normals = ball()
    assert np.median(mean_curvature(points, normals)) == pytest.approx(2.0, rel=0.01)
    assert np.median(mean_curvature(points, -normals)) == pytest.approx(-2.0, rel=0.01)
    rng = np.random.default_rng(1)
    angle, along = rng.uniform(0, 2 * np.pi, 4000), rng.uniform(0, 2, 4000)
    across = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    tube = 0.5 * across + along[:, None] * [0, 0, 1]
    assert np.median(mean_curvature(tube, across)) == pytest.approx(1.0, rel=0.05)
    flat = np.column_stack([rng.uniform(0, 1, (4000, 2)), np.zeros(4000)])
    up = np.tile([0.0, 0.0, 1.0], (4000, 1))
    assert not mean_curvature(flat, up).any()
    # the other side of a thin sheet is not around the bend
    sheet = np.concatenate([flat, flat - [0, 0, 0.002]]), np.concatenate([up, -up])
    assert not mean_curvature(*sheet).any()


def test_points_of_sagging_windows_are_lifted_onto_the_ball():
    radius, spread = 0.5, 0.01**2
    points, normals = ball(radius=radius)
    # the mean height of the ball under its tangent plane over a window of that spread
    found = points - normals * spread / (2 * radius)
    off = np.linalg.norm(lifted(found, normals, np.full(len(points), spread)), axis=1) - radius
    assert abs(np.median(off)) < 0.01 * spread / (2 * radius)
    assert np.array_equal(lifted(found, normals, np.zeros(len(points))), found)
    # noise is not taken for curvature without bounds
    wild = np.random.default_rng(2).normal(size=normals.shape)
    wild /= np.linalg.norm(wild, axis=1, keepdims=True)
    assert np.linalg.norm(lifted(points, wild, np.full(len(points), 0.1**2)) - points, axis=1).max() <= 0.0251


def test_a_window_s_spread():
    assert window_spread_px(1, 1) == pytest.approx(
        4 * (np.exp(-0.5) + 2 * np.exp(-1)) / (1 + 4 * np.exp(-0.5) + 4 * np.exp(-1))
    )


def test_the_sag_of_a_ball_s_patches_is_that_of_the_ball():
    baked = sphere_bake(64)
    _, directions = ball(200)
    points = (0.5 + 0.3 * torch.from_numpy(directions)).float()
    spread = torch.full((200,), 0.03**2)
    sag = mean_sag(baked, points, torch.ones(200), spread)
    assert float(sag.median()) == pytest.approx(0.03**2 / (2 * 0.3), rel=0.05)
    hollow = mean_sag(type(baked)(baked.origin, baked.cell, -baked.values), points, torch.ones(200), spread)
    torch.testing.assert_close(hollow, -sag)
    assert mean_sag(baked.flat(), points, torch.ones(200), spread).abs().max() < 1e-6


def test_patches_agree_best_at_the_true_depth_once_their_sag_is_known(scene):  # noqa: F811
    """Large patches on a small ball: by its tangent planes it would be found too small."""
    view_idx, at_px, origin, direction, t, centre, radius = middle_rays(scene)
    cfg, at = PatchConfig(radius_px=12, stride_px=3), places(scene, view_idx, at_px)
    off = np.linspace(-0.1, 0.1, 81) * radius
    normal = (origin + t[:, None] * direction - centre) / radius
    rays = PatchRays(view_idx, origin, direction, t[:, None], t[:, None], torch.ones_like(t))
    spread = spread_of(scene[4], rays, t, normal, at.level, cfg)
    assert ((normal * direction).sum(1).abs() > STEEPEST_COSINE).all()
    best = []
    for sag in (torch.zeros_like(t), spread / (2 * radius)):
        costs = []
        for distance in off:
            x = origin + (t + distance)[:, None] * direction - centre
            unit = x / x.norm(dim=1, keepdim=True)
            plane = tangent_plane(t + distance, torch.zeros_like(t), unit, direction, sag)[0]
            costs.append(match_cpu(plane, scene[4], cfg.patch(), at).cost.sort(1).values[:, :4].mean(1).numpy())
        best.append(np.median(off[np.argmin(costs, 0)]) / radius)
    assert best[0] > 0.01  # behind the surface
    assert abs(best[1]) < 0.3 * abs(best[0])
