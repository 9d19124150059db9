"""The shape that a fit starts from: masks and prior points, brought together before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from recon.data import ObjectRegion, PosedCapture, PriorCloud
from recon.surface.baking import Baker, unit_planes
from recon.surface.config import SurfaceConfig
from recon.surface.hidden import HIDDEN_SLACK, hidden_depth
from recon.surface.hollows import under_bulges
from recon.surface.pixels import unit_cameras
from recon.surface.start import Cloud, Start, inset, make_start, start_distance, unit_cloud
from recon.surface.visual_hull import blunt_start, looked_into, outside_at_least, signed_distance, visual_hull
from recon.transforms import Similarity


@dataclass(frozen=True)
class FirstShape:
    """What is known of the shape beforehand, in the unit cube."""

    cloud: Cloud
    start: Start
    free: Float32[np.ndarray, "n 3"]
    """Points that are outside the object ..."""
    outside: Float32[np.ndarray, " n"]
    """... and how far at least."""
    inv_s: float
    """The density's first sharpness."""


def first_shape(
    posed: PosedCapture,
    region: ObjectRegion,
    prior: PriorCloud,
    baker: Baker,
    unit_from_world: Similarity,
    cfg: SurfaceConfig,
) -> FirstShape:
    """Bring masks and prior points together on the grid of the first baked SDF."""
    near_idx, cell = baker.near_hull.cpu().numpy(), baker.baked.cell
    near = baker.points[baker.near_hull].cpu().numpy()
    voxels = visual_hull(baker.baked, posed, region, unit_from_world)
    hull_grid = signed_distance(voxels, cell)
    origin, points = baker.baked.origin.cpu().numpy(), unit_from_world.apply(prior.points_world)
    prior = prior.kept(~under_bulges(hull_grid, origin, cell, points))
    cloud = unit_cloud(posed, region, prior, unit_from_world, cfg.support_confidence)
    carved_grid = signed_distance(looked_into(voxels, baker.baked, posed, prior, unit_from_world), cell)
    hull, carved = (grid.reshape(-1)[near_idx] for grid in (hull_grid, carved_grid))
    outside = outside_at_least(hull, carved, cell)
    inside = inset(carved_grid, cfg.start_inside * cell, cell).reshape(-1)[near_idx]
    distance, known = start_distance(near, carved, inside, cloud, cell)
    distance = np.maximum(distance, outside)  # a wrong point may lie out there
    solid = unseen_solid(
        make_start(baker.baked, baker.near_hull, distance, known), posed, region, baker, unit_from_world
    )
    outside = np.minimum(outside, solid)
    return FirstShape(
        cloud,
        make_start(baker.baked, baker.near_hull, np.minimum(distance, solid), known),
        near[outside > 0],
        outside[outside > 0],
        blunt_start(baker.baked, carved_grid, cloud.points[: cloud.n_prior], cfg.first_inv_s),
    )


def unseen_solid(
    start: Start, posed: PosedCapture, region: ObjectRegion, baker: Baker, unit_from_world: Similarity
) -> Float32[np.ndarray, " n"]:
    """The largest SDF at the baker's points near the hull that leaves what no camera sees solid; infinite where seen.

    The rays of a few wrong points deep inside bore tunnels that nobody looks into.
    """
    cameras, planes = unit_cameras(posed, unit_from_world), torch.from_numpy(unit_planes(region, unit_from_world))
    grid = start.grid.to(torch.device("cpu"))
    depth = hidden_depth(grid, baker.inside(), cameras, planes)[baker.near_hull.cpu().numpy()]
    return np.where(depth > 0, np.float32(HIDDEN_SLACK) - depth, np.float32(np.inf))
