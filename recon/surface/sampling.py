"""Where to sample a ray: the inverse of NeuS's opacity along an SDF baked into a grid.

Along a ray the baked SDF is taken as piecewise linear between `n_coarse + 1` probes. NeuS's discrete opacity
(Wang et al. 2021, eq. 13) then has an exact inverse inside each piece, so that few samples fall where the
weights are, at any sharpness. A share of the samples goes evenly to where the ray passes nearest to the surface
and to the whole ray, so that the grid's being stale or coarse cannot hide a surface for good.
This file holds the CPU's kernels (numba); `sampling_reference.py` holds their plain twin for any device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numba import njit, prange
from torch import Tensor

from recon.surface.baked import BakedSdf
from recon.surface.hashgrid_cpu import FAST
from recon.surface.sampling_reference import EVEN_SHARE, NEAR_SHARE, WEIGHT_SHARE

# Kernels that divide have numpy's error model: asking whether each divisor is 0 would keep the compiler from vector
# instructions, and all of them are bounded away from it.


@njit(inline="always")
def _phi(x):
    # a float32's exp overflows at 89, and FAST promises that nothing is infinite; beyond 80 it is 0 or 1 all the same
    bounded = min(max(x, np.float32(-80.0)), np.float32(80.0))
    return np.float32(1.0) / (np.float32(1.0) + math.exp(-bounded))


@njit(fastmath=FAST, inline="always")
def trilinear(values, x, y, z):
    nx, ny, nz = values.shape
    x, y, z = min(max(x, 0.0), nx - 1.001), min(max(y, 0.0), ny - 1.001), min(max(z, 0.0), nz - 1.001)
    i, j, k = int(x), int(y), int(z)
    fx, fy, fz = x - i, y - j, z - k
    c00 = values[i, j, k] * (1 - fx) + values[i + 1, j, k] * fx
    c10 = values[i, j + 1, k] * (1 - fx) + values[i + 1, j + 1, k] * fx
    c01 = values[i, j, k + 1] * (1 - fx) + values[i + 1, j, k + 1] * fx
    c11 = values[i, j + 1, k + 1] * (1 - fx) + values[i + 1, j + 1, k + 1] * fx
    return (c00 * (1 - fy) + c10 * fy) * (1 - fz) + (c01 * (1 - fy) + c11 * fy) * fz


@njit(fastmath=FAST, error_model="numpy", cache=True)
def clip_to_planes(origin, direction, planes):
    """The ray's part inside all half-spaces n . x + d <= 0 (Cyrus and Beck 1978); empty if t0 >= t1."""
    t0, t1 = 0.0, 1e9
    for p in range(planes.shape[0]):
        speed = planes[p, 0] * direction[0] + planes[p, 1] * direction[1] + planes[p, 2] * direction[2]
        height = planes[p, 0] * origin[0] + planes[p, 1] * origin[1] + planes[p, 2] * origin[2] + planes[p, 3]
        if abs(speed) < 1e-12:
            if height > 0:
                return 1.0, 0.0
        elif speed < 0:
            t0 = max(t0, -height / speed)
        else:
            t1 = min(t1, -height / speed)
    return t0, t1


@njit(fastmath=FAST, error_model="numpy", cache=True)
def _coarse_pdf(values, origin, cell, ray_o, ray_d, t0, dt, inv_s, n_coarse, f, near, pdf):
    """Probe the baked SDF into f (n_coarse + 1) and write the proposal's share per piece into pdf (n_coarse)."""
    for i in range(n_coarse + 1):
        t = t0 + dt * i
        f[i] = trilinear(
            values,
            (ray_o[0] + t * ray_d[0] - origin[0]) / cell,
            (ray_o[1] + t * ray_d[1] - origin[1]) / cell,
            (ray_o[2] + t * ray_d[2] - origin[2]) / cell,
        )
    nearest = np.float32(1e9)
    for i in range(n_coarse):
        nearest = min(nearest, max(f[i], np.float32(0.0)))
    transmitted, near_sum = 1.0, 0.0
    before = _phi(f[0] * inv_s)
    for i in range(n_coarse):
        after = _phi(f[i + 1] * inv_s)
        alpha = min(max((before - after) / max(before, 1e-6), 0.0), 1.0)
        # near misses: a ray just beside a silhouette must be sampled where it grazes the surface
        near[i] = math.exp(-min((max(f[i], np.float32(0.0)) - nearest) * inv_s, 40.0)) * transmitted
        near_sum += near[i]
        pdf[i] = WEIGHT_SHARE * transmitted * alpha
        transmitted *= 1 - alpha
        before = after
    for i in range(n_coarse):
        pdf[i] += NEAR_SHARE * near[i] / max(near_sum, 1e-9) + EVEN_SHARE / n_coarse


@njit(fastmath=FAST, error_model="numpy", cache=True)
def _invert(f0, f1, inv_s, share):
    """Position 0..1 in a piece at which `share` of its opacity is reached, for a linear SDF from f0 to f1."""
    a, b = _phi(f0 * inv_s), _phi(f1 * inv_s)
    if a - b < 0.02:
        return share
    target = min(max(a - share * (a - b), 1e-6), 1 - 1e-6)
    value = -math.log(1 / target - 1) / inv_s
    return min(max((f0 - value) / (f0 - f1), 0.0), 1.0)


@njit(parallel=True, fastmath=FAST, error_model="numpy", cache=True)
def _sample(values, origin, cell, rays_o, rays_d, planes, inv_s, n_coarse, jitter, edges, hit):
    n_edges = edges.shape[1]
    for r in prange(rays_o.shape[0]):
        t0, t1 = clip_to_planes(rays_o[r], rays_d[r], planes)
        hit[r] = t1 - t0 > 1e-6
        if not hit[r]:
            edges[r] = 0
            continue
        f = np.empty(n_coarse + 1, np.float32)
        near = np.empty(n_coarse, np.float32)
        pdf = np.empty(n_coarse, np.float32)
        dt = (t1 - t0) / n_coarse
        _coarse_pdf(values, origin, cell, rays_o[r], rays_d[r], t0, dt, inv_s, n_coarse, f, near, pdf)
        total = 0.0
        for i in range(n_coarse):
            total += pdf[i]
        piece, below = 0, 0.0
        for k in range(n_edges):
            target = (k + jitter[r, k]) / n_edges * total
            while piece < n_coarse - 1 and below + pdf[piece] < target:
                below += pdf[piece]
                piece += 1
            share = min(max((target - below) / max(pdf[piece], 1e-9), 0.0), 1.0)
            edges[r, k] = t0 + dt * (piece + _invert(f[piece], f[piece + 1], inv_s, share))


def sample_rays(
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
    edges, hit = torch.empty(len(rays_o), n_samples + 1), torch.empty(len(rays_o), dtype=torch.bool)
    _sample(
        baked.values.numpy(), baked.origin.numpy(), np.float32(baked.cell), rays_o.numpy(), rays_d.numpy(),
        planes.numpy(), np.float32(inv_s), n_coarse, jitter.numpy(), edges.numpy(), hit.numpy(),
    )  # fmt: skip
    return edges, hit
