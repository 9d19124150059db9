"""Pieces of the surface to compare photos on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recon.surface.align import SurfacePatches
from recon.surface.baked import BakedSdf
from recon.surface.batch import Data
from recon.surface.engine import SampleRays
from recon.surface.patches import (
    Geometry,
    PatchConfig,
    PatchRays,
    first_crossing,
    middle_px,
    seen_sources,
    tangent_plane,
)

N_SECTIONS = 16
SHARPNESS = 5.0
"""Of the sections' placing, per cell of the baked grid."""


@torch.no_grad()
def find_patches(
    data: Data,
    geometry: Geometry,
    baked: BakedSdf,
    sample_rays: SampleRays,
    cfg: PatchConfig,
    rng: np.random.Generator,
    n: int,
) -> SurfacePatches:
    """Where n random rays through the object meet the surface, with the photos that see it; some meet nothing."""
    pool, photos = data.pool, data.photos
    assert photos is not None
    device = data.cameras.centre.device
    pixel_idx = torch.from_numpy(rng.integers(0, pool.n_object, size=n)).to(device)
    view_idx = pool.view_idx[pixel_idx].long()
    origin, direction = data.cameras.rays(view_idx, pool.pixel[pixel_idx].double() + 0.5)
    jitter = torch.from_numpy(rng.random((n, N_SECTIONS + 1), np.float32)).to(device)
    edges, hit = sample_rays(baked, origin, direction, data.planes, SHARPNESS / baked.cell, N_SECTIONS, jitter)
    middle = (edges[:, 1:] + edges[:, :-1]) / 2
    points = origin[:, None] + middle[..., None] * direction[:, None]
    sdf = geometry(points.reshape(-1, 3))[0].view(middle.shape)
    t, meets = first_crossing(middle, sdf)
    chosen = torch.nonzero(meets & hit)[:, 0]
    t, rays = t[chosen], PatchRays(view_idx, origin, direction, middle, sdf, torch.ones_like(t)).take(chosen)
    here, gradient, _ = geometry(rays.origin + t[:, None] * rays.direction)
    _, depth = tangent_plane(t, here, gradient, rays.direction)
    sources = seen_sources(photos, rays, depth, gradient, baked, cfg)
    sources = torch.where(((depth - t).abs() < baked.cell)[:, None], sources, -1)
    look = photos.cameras.rotation[rays.view_idx]
    normal = gradient / (gradient.norm(dim=1, keepdim=True) + 1e-6)
    return SurfacePatches(
        rays.view_idx,
        middle_px(photos, rays),
        depth * _turned(look, rays.direction)[:, 2],
        _turned(look, normal),
        sources,
    )


def _turned(look: Tensor, vectors: Tensor) -> Tensor:
    """Vectors of the unit frame in their cameras' axes."""
    return (vectors[:, None] @ look)[:, 0]
