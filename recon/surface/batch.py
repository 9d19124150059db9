"""What one training step draws: rays through and beside the object, sections on them, and points."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from recon.surface.baked import BakedSdf, Placing
from recon.surface.config import SurfaceConfig
from recon.surface.engine import SampleRays
from recon.surface.hidden import HiddenSpace
from recon.surface.importance import RayDraw, spread_evenly
from recon.surface.patch_photos import PatchPhotos
from recon.surface.pixels import PixelPool, UnitCameras
from recon.surface.random_numbers import RandomNumbers
from recon.surface.start import Start


@dataclass(frozen=True)
class Data:
    """What a training step draws from, in the unit cube."""

    pool: PixelPool
    pixel_size: float
    """What a pixel of the median photo covers at the object, in unit lengths."""
    cameras: UnitCameras
    planes: Float[Tensor, "n_planes 4"]
    """The hull's half-spaces."""
    points: Float[Tensor, "n_points 3"]
    """Prior points, then those that close the underside."""
    normals: Float[Tensor, "n_points 3"]
    confidence: Float[Tensor, " n_points"]
    n_prior: int
    """How many of the points are prior points."""
    free_points: Float[Tensor, "n_free 3"]
    """Points outside the visual hull, or in what prior points are seen through ..."""
    free_distance: Float[Tensor, " n_free"]
    """... and how far outside at least."""
    start: Start
    """Where the fit starts."""
    photos: PatchPhotos | None
    """What patches are compared on; None: they are not."""

    def seen_by(self, cameras: UnitCameras) -> Data:
        """The same with other cameras."""
        cameras = cameras.to(self.cameras.centre.device)
        return replace(self, cameras=cameras, photos=self.photos and self.photos.seen_by(cameras))

    def to(self, device: torch.device) -> Data:
        """The same on another device."""
        moved: Data = on_device(self, device)
        return moved


def on_device(value: Any, device: torch.device) -> Any:
    """A tensor, or a dataclass or named tuple of tensors, on another device."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: on_device(getattr(value, f.name), device) for f in fields(value)})
    if isinstance(value, tuple):  # named
        return type(value)(*(on_device(x, device) for x in value))
    return value.to(device) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Batch:
    """One step's draw."""

    pixel_idx: Int64[Tensor, " n_rays"]
    """Into the pool."""
    tile_idx: Int64[Tensor, " n_rays"]
    """Into the pool's tiles."""
    weight: Float[Tensor, " n_rays"]
    """Of each ray in the loss, as it was drawn more or less often than others."""
    kept: Int64[Tensor, " n_rays"]
    """Which of the drawn pixels these are: the rays of the others miss the hull, and are not rendered."""
    drawn_idx: Int64[Tensor, " n_drawn"]
    """All pixels drawn."""
    drawn_weight: Float[Tensor, " n_drawn"]
    view_idx: Int64[Tensor, " n_rays"]
    origin: Float[Tensor, "n_rays 3"]
    direction: Float[Tensor, "n_rays 3"]
    edges: Float[Tensor, "n_rays n_edges"]
    """Of the rays' sections."""
    point_idx: Tensor
    free_idx: Tensor
    held: Float[Tensor, "n_held 3"]
    """Where the start holds the shape ..."""
    held_distance: Float[Tensor, " n_held"]
    """... and the SDF that it started with there."""
    hidden: Float[Tensor, "n_hidden 3"]
    """Points that no camera sees ..."""
    hidden_depth: Float[Tensor, " n_hidden"]
    """... and how far from any seen one they lie at least."""
    aside_idx: Int64[Tensor, " n_aside"]
    """Rays whose middle samples are compared with a neighbour ..."""
    step_aside: Float[Tensor, "n_aside 3"]
    """... and where to look for it: unit vectors."""


def draw_batch(
    data: Data,
    rays: RayDraw,
    cfg: SurfaceConfig,
    rng: RandomNumbers,
    baked: BakedSdf,
    unseen: HiddenSpace,
    inv_s: float,
    sample_rays: SampleRays,
    n_holding: int,
) -> Batch:
    """Draw rays through and beside the object, sections on them where the baked SDF puts the weights, and points.

    n_holding: how many of the start's places, from the first on, hold the shape.
    """
    pool, n_inner = data.pool, round(cfg.n_rays * cfg.object_share)
    n_outer = cfg.n_rays - n_inner if pool.n_object < len(pool.label) else 0
    drawn_idx, tile_idx, drawn_weight = rays.draw(rng, n_inner, n_outer)
    view_idx = pool.view_idx[drawn_idx].long()
    rays_o, rays_d = data.cameras.rays(view_idx, pool.pixel[drawn_idx].double() + 0.5)
    jitter = rng.random((len(drawn_idx), cfg.n_samples + 1))
    # a baked grid cannot place samples more sharply than a few to a cell
    sharpness = min(inv_s, 5.0 / baked.cell)
    grid = baked if cfg.placing is Placing.baked else baked.flat()
    edges, hit = sample_rays(grid, rays_o, rays_d, data.planes, sharpness, cfg.n_samples, jitter)
    n_below = len(data.points) - data.n_prior
    below = rng.integers(data.n_prior, max(len(data.points), data.n_prior + 1), size=_share(n_below, cfg))
    prior = rng.integers(0, max(data.n_prior, 1), size=cfg.n_points if data.n_prior else 0)
    free = rng.integers(0, max(len(data.free_points), 1), size=cfg.n_free if len(data.free_points) else 0)
    start_idx = rng.integers(0, max(n_holding, 1), size=cfg.n_held if n_holding else 0)
    held, held_distance = data.start.around(start_idx, rng.random((len(start_idx), 3)))
    hidden = rng.integers(0, max(len(unseen.points), 1), size=cfg.n_hidden if len(unseen.points) else 0)
    # between the grid's points too: a field can learn to obey at the points alone
    beside = (rng.random((len(hidden), 3)) - 0.5) * unseen.cell
    kept = torch.nonzero(hit)[:, 0]  # once: it waits for the device
    n_aside = min(cfg.n_curvature, len(kept)) if cfg.loss.curvature else 0
    aside = rng.random((n_aside, 3)) - 0.5
    return Batch(
        drawn_idx[kept],
        tile_idx[kept],
        drawn_weight[kept],
        kept,
        drawn_idx,
        drawn_weight,
        view_idx[kept],
        rays_o[kept],
        rays_d[kept],
        edges[kept],
        torch.cat([prior, below]),
        free,
        held,
        held_distance,
        unseen.points[hidden] + beside,
        unseen.depth[hidden],
        spread_evenly(len(kept), n_aside, kept.device),
        nn.functional.normalize(aside),
    )


def _share(n_below: int, cfg: SurfaceConfig) -> int:
    return round(cfg.support_share * cfg.n_points) if n_below else 0
