"""What one training step draws: rays through and beside the object, sections on them, and points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon.surface.config import SurfaceConfig
from recon.surface.importance import RayDraw
from recon.surface.pixels import PixelPool, UnitCameras
from recon.surface.sampling import BakedSdf, sample_rays


@dataclass(frozen=True)
class Data:
    """What a training step draws from, in the unit cube."""

    pool: PixelPool
    pixel_size: float
    """What a pixel covers at the object, in unit lengths."""
    cameras: UnitCameras
    planes: np.ndarray
    """The hull's half-spaces, (n_planes, 4)."""
    points: Float[Tensor, "n_points 3"]
    """Prior points, then those that close the underside."""
    normals: Float[Tensor, "n_points 3"]
    confidence: Float[Tensor, " n_points"]
    n_prior: int
    """How many of the points are prior points."""
    towards: Float[Tensor, "n_prior 3"]
    """Direction from each prior point to the camera that sees it best; zero: none."""
    free_points: Float[Tensor, "n_free 3"]
    """Points outside the masks' visual hull ..."""
    free_distance: Float[Tensor, " n_free"]
    """... and how far outside at least."""


@dataclass(frozen=True)
class Batch:
    """One step's draw."""

    pixel_idx: np.ndarray
    """(n_rays,) into the pool."""
    tile_idx: Tensor
    """Into the pool's tiles."""
    weight: Float[Tensor, " n_rays"]
    """Of each ray in the loss, against its having been drawn more or less often."""
    missed_idx: np.ndarray
    """(n_missed,) pixels whose rays miss the hull; they are not rendered."""
    missed_weight: Float[Tensor, " n_missed"]
    view_idx: Tensor
    origin: Float[Tensor, "n_rays 3"]
    direction: Float[Tensor, "n_rays 3"]
    edges: Float[Tensor, "n_rays n_edges"]
    """Of the rays' sections."""
    point_idx: Tensor
    free_idx: Tensor
    looked_through: Float[Tensor, "n 3"]
    """Points between prior points and the cameras that see them."""


LOOKED_THROUGH_MARGIN, LOOKED_THROUGH_REACH = 0.02, 0.6
"""How far in front of a prior point space is taken as empty, in edges of the unit cube."""


def draw_batch(
    data: Data, rays: RayDraw, cfg: SurfaceConfig, rng: np.random.Generator, baked: BakedSdf, inv_s: float
) -> Batch:
    """Draw rays through and beside the object, sections on them where the baked SDF puts the weights, and points."""
    pool, n_inner = data.pool, round(cfg.n_rays * cfg.object_share)
    n_outer = cfg.n_rays - n_inner if pool.n_object < len(pool.label) else 0
    pixel_idx, tile_idx, weight = rays.draw(rng, n_inner, n_outer)
    view_idx = pool.view_idx[pixel_idx].astype(np.int64)
    rays_o, rays_d = data.cameras.rays(view_idx, pool.pixel[pixel_idx] + 0.5)
    jitter = rng.random((len(pixel_idx), cfg.n_samples + 1), dtype=np.float32)
    # a baked grid cannot place samples more sharply than a few to a cell
    sharpness = min(inv_s, 5.0 / baked.cell)
    edges, hit = sample_rays(baked, rays_o, rays_d, data.planes, sharpness, cfg.n_samples, jitter)
    n_below = len(data.points) - data.n_prior
    below = rng.integers(data.n_prior, max(len(data.points), data.n_prior + 1), size=_share(n_below, cfg))
    prior = rng.integers(max(data.n_prior, 1), size=cfg.n_points if data.n_prior else 0)
    free = rng.integers(max(len(data.free_points), 1), size=cfg.n_free if len(data.free_points) else 0)
    from_prior = torch.from_numpy(prior[: cfg.n_looked_through])
    # squared: most of them near the surface, where the hull and the cloud differ
    ahead = torch.from_numpy(rng.random((len(from_prior), 1), dtype=np.float32) ** 2)
    ahead = LOOKED_THROUGH_MARGIN + (LOOKED_THROUGH_REACH - LOOKED_THROUGH_MARGIN) * ahead
    return Batch(
        pixel_idx[hit],
        torch.from_numpy(tile_idx[hit]),
        torch.from_numpy(weight[hit]),
        pixel_idx[~hit],
        torch.from_numpy(weight[~hit]),
        torch.from_numpy(view_idx[hit]),
        torch.from_numpy(rays_o[hit]),
        torch.from_numpy(rays_d[hit]),
        torch.from_numpy(edges[hit]),
        torch.from_numpy(np.concatenate([prior, below])),
        torch.from_numpy(free),
        data.points[from_prior] + ahead * data.towards[from_prior],
    )


def _share(n_below: int, cfg: SurfaceConfig) -> int:
    return round(cfg.support_share * cfg.n_points) if n_below else 0
