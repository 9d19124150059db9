"""`sampling.sample_rays` in plain torch: the reference of the CPU's kernels, and what places samples on a GPU."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional

from recon.surface.baked import BakedSdf

WEIGHT_SHARE, NEAR_SHARE, EVEN_SHARE = 0.80, 0.15, 0.05
"""Shares of the samples: by opacity, near misses, evenly over the ray."""


def clip_rays(
    rays_o: Float[Tensor, "n_rays 3"], rays_d: Float[Tensor, "n_rays 3"], planes: Float[Tensor, "n_planes 4"]
) -> tuple[Float[Tensor, " n_rays"], Float[Tensor, " n_rays"]]:
    """Each ray's part t0 .. t1 inside all half-spaces n . x + d <= 0 (Cyrus and Beck 1978); empty if t0 >= t1."""
    speed = rays_d @ planes[:, :3].T
    height = rays_o @ planes[:, :3].T + planes[:, 3]
    level = speed.abs() < 1e-12
    t = -height / torch.where(level, torch.ones_like(speed), speed)
    t0 = torch.where(level | (speed > 0), torch.zeros_like(t), t).amax(1).clamp(min=0)
    t1 = torch.where(level | (speed < 0), torch.full_like(t, 1e9), t).amin(1)
    return t0, torch.where((level & (height > 0)).any(1), t0, t1)


def trilinear(baked: BakedSdf, x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """The baked SDF between its points; the nearest border value outside."""
    steps = ((x - baked.origin) / baked.cell).unbind(-1)
    place = [2 / (n - 1) * step - 1 for n, step in zip(baked.values.shape, steps, strict=True)]
    # torch names a volume's axes from the last
    at = torch.stack(place[::-1], -1).reshape(1, 1, 1, -1, 3)
    sampled = functional.grid_sample(baked.values[None, None], at, padding_mode="border", align_corners=True)
    return sampled.reshape(x.shape[:-1])


def proposal(sdf: Float[Tensor, "n_rays n_probes"], inv_s: float) -> Float[Tensor, "n_rays n_pieces"]:
    """The proposal's share per piece of each ray, from the SDF at its probes (n_pieces + 1)."""
    phi = torch.sigmoid(sdf * inv_s)
    alpha = ((phi[:, :-1] - phi[:, 1:]) / phi[:, :-1].clamp(min=1e-6)).clamp(0, 1)
    passed = torch.cumprod(1 - alpha, 1)
    transmitted = torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], 1)
    height = sdf[:, :-1].clamp(min=0)
    # near misses: a ray just beside a silhouette must be sampled where it grazes the surface
    near = torch.exp(-((height - height.amin(1, keepdim=True)) * inv_s).clamp(max=40)) * transmitted
    near = near / near.sum(1, keepdim=True).clamp(min=1e-9)
    return WEIGHT_SHARE * transmitted * alpha + NEAR_SHARE * near + EVEN_SHARE / alpha.shape[1]


def invert_opacity(
    f0: Float[Tensor, "*batch"], f1: Float[Tensor, "*batch"], inv_s: float, share: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Position 0..1 in a piece at which `share` of its opacity is reached, for a linear SDF from f0 to f1."""
    a, b = torch.sigmoid(f0 * inv_s), torch.sigmoid(f1 * inv_s)
    target = (a - share * (a - b)).clamp(1e-6, 1 - 1e-6)
    falling = a - b >= 0.02
    crossing = (f0 - torch.logit(target) / inv_s) / torch.where(falling, f0 - f1, torch.ones_like(f0))
    return torch.where(falling, crossing.clamp(0, 1), share)


@torch.no_grad()
def sample_rays_reference(
    baked: BakedSdf,
    rays_o: Float32[Tensor, "n_rays 3"],
    rays_d: Float32[Tensor, "n_rays 3"],
    planes: Float32[Tensor, "n_planes 4"],
    inv_s: float,
    n_samples: int,
    jitter: Float32[Tensor, "n_rays n_edges"],
    n_coarse: int = 128,
) -> tuple[Float32[Tensor, "n_rays n_edges"], Bool[Tensor, " n_rays"]]:
    """Sorted edges of `n_samples` sections along each ray (n_edges = n_samples + 1), and which rays hit the hull.

    rays in the unit cube; planes: the hull's half-spaces there; inv_s: sharpness of the proposal; jitter in
    [0, 1) draws each edge within its stratum. Edges of rays that miss are 0.
    """
    n_edges, device = n_samples + 1, rays_o.device
    t0, t1 = clip_rays(rays_o, rays_d, planes)
    hit = t1 - t0 > 1e-6
    step = torch.where(hit, t1 - t0, torch.zeros_like(t0)) / n_coarse
    t = t0[:, None] + step[:, None] * torch.arange(n_coarse + 1, device=device)
    f = trilinear(baked, rays_o[:, None] + t[..., None] * rays_d[:, None])
    share = proposal(f, inv_s).double()  # sums of 128 floats would shift an edge in a piece of little weight
    reached = share.cumsum(1)
    target = (torch.arange(n_edges, device=device) + jitter.double()) / n_edges * reached[:, -1:]
    piece = torch.searchsorted(reached, target).clamp(max=n_coarse - 1)
    below = reached.gather(1, piece) - share.gather(1, piece)
    within = ((target - below) / share.gather(1, piece)).clamp(0, 1).float()
    place = piece + invert_opacity(f.gather(1, piece), f.gather(1, piece + 1), inv_s, within)
    return torch.where(hit[:, None], t0[:, None] + step[:, None] * place, torch.zeros_like(place)), hit
