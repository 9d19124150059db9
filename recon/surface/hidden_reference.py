"""`hidden_cpu.find_seen` in plain torch: the reference of the CPU's kernels, and what a GPU uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from recon.surface.baked import BakedSdf
from recon.surface.hidden import N_SIDE_PX
from recon.surface.pixels import UnitCameras
from recon.surface.sampling_reference import clip_rays, trilinear

LOOK_EVERY = 20
"""Steps of a trace between looks whether any ray is still under way, each of which waits for the device."""
N_VIEWS_TOGETHER = 64
"""Views whose rays are traced together, at most N_SIDE_PX^2 each: a million rays, of some 100 bytes a step."""
N_CLIPPED = 1 << 17
"""Rays that are clipped at a time: each against every plane, of which there are more than a hundred."""


def trace_depth_reference(
    baked: BakedSdf,
    rays_o: Float32[Tensor, "n 3"],
    rays_d: Float32[Tensor, "n 3"],
    planes: Float32[Tensor, "n_planes 4"],
) -> Float32[Tensor, " n"]:
    """Distance along each ray to the baked SDF's zero set by sphere tracing (Hart 1996), 1e9 where it misses."""
    pieces = zip(rays_o.split(N_CLIPPED), rays_d.split(N_CLIPPED), strict=True)
    t, t1 = (torch.cat(ends) for ends in zip(*(clip_rays(o, d, planes) for o, d in pieces), strict=True))
    out, going = torch.full_like(t, 1e9), t < t1
    for step in range(200):
        if step % LOOK_EVERY == 0 and not going.any():
            break
        value = trilinear(baked, rays_o + t[:, None] * rays_d)
        out = torch.where(going & (value < 0), t, out)
        going = going & (value >= 0)
        # a learned distance may be too long, and a step too short never ends
        t = t + (0.7 * value).clamp(min=0.25 * baked.cell) * going
        going = going & (t < t1)
    return out


def depth_images_reference(
    baked: BakedSdf, cameras: UnitCameras, views: Sequence[int], planes: Float32[Tensor, "n_planes 4"]
) -> list[tuple[Float32[Tensor, "h w"], float]]:
    """Of each view a small image of the distances along rays to the surface, and its pixels over the photo's.

    All rays are traced together: a step of the trace costs as many launches for one view as for all. A median of 3x3
    pixels closes pinholes of the surface.
    """
    device = baked.values.device
    sizes, scales, rays = cameras.size_px.tolist(), [], []
    shapes: list[tuple[int, int]] = []
    for view in views:
        scale = N_SIDE_PX / max(sizes[view])
        w, h = (round(side * scale) for side in sizes[view])
        row, column = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
        centres = (torch.stack([column.reshape(-1), row.reshape(-1)], 1).double() + 0.5) / scale
        rays.append(cameras.rays(torch.full((h * w,), view, device=device), centres))
        scales.append(scale)
        shapes.append((h, w))
    origin, direction = (torch.cat(part) for part in zip(*rays, strict=True))
    depth = trace_depth_reference(baked, origin, direction, planes)
    parts = depth.split([h * w for h, w in shapes])
    images = [without_pinholes(part.view(shape)) for part, shape in zip(parts, shapes, strict=True)]
    return list(zip(images, scales, strict=True))


def without_pinholes(depth: Float32[Tensor, "h w"]) -> Float32[Tensor, "h w"]:
    """The median of 3x3 pixels; border pixels count again beyond it."""
    padded = torch.nn.functional.pad(depth[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    return padded.unfold(0, 3, 1).unfold(1, 3, 1).reshape(*depth.shape, 9).median(2).values


def is_in_front(
    points: Float[Tensor, "n 3"],
    cameras: UnitCameras,
    view: int,
    depth: Float32[Tensor, "h w"],
    scale: float,
    tolerance: float,
) -> Bool[Tensor, " n"]:
    """Which points lie in front of a depth image (distances along rays) or less than `tolerance` behind."""
    in_cam = (points - cameras.centre[view]) @ cameras.rotation[view]
    z = in_cam[:, 2:]
    k, (h, w) = cameras.intrinsics[view] * scale, depth.shape
    column, row = (k[:2] * in_cam[:, :2] / torch.where(z > 0, z, 1.0) + k[2:]).floor().long().unbind(1)
    inside = (z[:, 0] > 0) & (column >= 0) & (column < w) & (row >= 0) & (row < h)
    behind = depth[row.clamp(0, h - 1), column.clamp(0, w - 1)] + tolerance
    return inside & (in_cam.norm(dim=1) < behind)


def find_seen_reference(
    baked: BakedSdf, cameras: UnitCameras, planes: Float32[Tensor, "n_planes 4"]
) -> Bool[Tensor, " n_nodes"]:
    """Which of the grid's points lie in front of the surface, or less than a cell behind it, for some camera."""
    points = baked.points()
    seen = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for views in torch.arange(len(cameras.centre)).split(N_VIEWS_TOGETHER):
        images = depth_images_reference(baked, cameras, views.tolist(), planes)
        for view, (depth, scale) in zip(views.tolist(), images, strict=True):
            seen |= is_in_front(points, cameras, view, depth, scale, baked.cell)
    return seen
