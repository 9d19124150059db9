"""What one training step draws: rays through and beside the object, sections on them, and points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon.surface.config import SurfaceConfig
from recon.surface.hidden import HiddenSpace
from recon.surface.pixels import PixelPool, UnitCameras
from recon.surface.sampling import BakedSdf, Placing, sample_rays


@dataclass(frozen=True)
class Data:
    """What a training step draws from, in the unit cube."""

    pool: PixelPool
    cameras: UnitCameras
    planes: np.ndarray
    """The hull's half-spaces, (n_planes, 4)."""
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


@dataclass(frozen=True)
class Batch:
    """One step's draw."""

    pixel_idx: np.ndarray
    """(n_rays,) into the pool."""
    view_idx: Tensor
    origin: Float[Tensor, "n_rays 3"]
    direction: Float[Tensor, "n_rays 3"]
    edges: Float[Tensor, "n_rays n_edges"]
    """Of the rays' sections."""
    point_idx: Tensor
    free_idx: Tensor
    hidden: Float[Tensor, "n_hidden 3"]
    """Points that no camera sees ..."""
    hidden_depth: Float[Tensor, " n_hidden"]
    """... and how far from any seen one they lie at least."""
    step_aside: Float[Tensor, "n_aside 3"]
    """Unit vectors: where to look for the neighbours of the first rays' middle samples."""


def draw_batch(
    data: Data, cfg: SurfaceConfig, rng: np.random.Generator, baked: BakedSdf, unseen: HiddenSpace, inv_s: float
) -> Batch:
    """Draw rays through and beside the object, sections on them where the baked SDF puts the weights, and points."""
    pool, n_inner = data.pool, round(cfg.n_rays * cfg.object_share)
    pixel_idx = rng.integers(pool.n_object, size=n_inner)
    if pool.n_object < len(pool.label):
        outer = rng.integers(pool.n_object, len(pool.label), size=cfg.n_rays - n_inner)
        pixel_idx = np.concatenate([pixel_idx, outer])
    view_idx = pool.view_idx[pixel_idx].astype(np.int64)
    rays_o, rays_d = data.cameras.rays(view_idx, pool.pixel[pixel_idx] + 0.5)
    jitter = rng.random((len(pixel_idx), cfg.n_samples + 1), dtype=np.float32)
    # a baked grid cannot place samples more sharply than a few to a cell
    sharpness = min(inv_s, 5.0 / baked.cell)
    grid = baked if cfg.placing is Placing.baked else baked.flat()
    edges, hit = sample_rays(grid, rays_o, rays_d, data.planes, sharpness, cfg.n_samples, jitter)
    n_below = len(data.points) - data.n_prior
    below = rng.integers(data.n_prior, max(len(data.points), data.n_prior + 1), size=_share(n_below, cfg))
    prior = rng.integers(max(data.n_prior, 1), size=cfg.n_points if data.n_prior else 0)
    free = rng.integers(max(len(data.free_points), 1), size=cfg.n_free if len(data.free_points) else 0)
    hidden = rng.integers(max(len(unseen.points), 1), size=cfg.n_hidden if len(unseen.points) else 0)
    # between the grid's points too: a field can learn to obey at the points alone
    beside = (rng.random((len(hidden), 3), dtype=np.float32) - np.float32(0.5)) * np.float32(unseen.cell)
    aside = rng.normal(size=(min(cfg.n_curvature, int(hit.sum())), 3)).astype(np.float32)
    return Batch(
        pixel_idx[hit],
        torch.from_numpy(view_idx[hit]),
        torch.from_numpy(rays_o[hit]),
        torch.from_numpy(rays_d[hit]),
        torch.from_numpy(edges[hit]),
        torch.from_numpy(np.concatenate([prior, below])),
        torch.from_numpy(free),
        torch.from_numpy(unseen.points[hidden] + beside),
        torch.from_numpy(unseen.depth[hidden]),
        nn.functional.normalize(torch.from_numpy(aside)),
    )


def _share(n_below: int, cfg: SurfaceConfig) -> int:
    return round(cfg.support_share * cfg.n_points) if n_below else 0
