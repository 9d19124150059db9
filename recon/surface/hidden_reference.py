"""`hidden_cpu.find_seen` in plain torch: the reference of the CPU's kernels, and what a GPU uses."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from recon.surface.baked import BakedSdf
from recon.surface.hidden import N_SIDE_PX
from recon.surface.pixels import UnitCameras
from recon.surface.sampling_reference import clip_rays, trilinear

LOOK_EVERY = 20
"""Steps of a trace between looks whether any ray is still under way, each of which waits for the device."""


def trace_depth_reference(
    baked: BakedSdf,
    rays_o: Float32[Tensor, "n 3"],
    rays_d: Float32[Tensor, "n 3"],
    planes: Float32[Tensor, "n_planes 4"],
) -> Float32[Tensor, " n"]:
    """Distance along each ray to the baked SDF's zero set by sphere tracing (Hart 1996), 1e9 where it misses."""
    t, t1 = clip_rays(rays_o, rays_d, planes)
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


def depth_image_reference(
    baked: BakedSdf, cameras: UnitCameras, view: int, planes: Float32[Tensor, "n_planes 4"]
) -> tuple[Float32[Tensor, "h w"], float]:
    """A small image of the distances along rays to the surface from one view, and its pixels over the photo's.

    A median of 3x3 pixels closes pinholes of the surface.
    """
    size_px, device = cameras.size_px[view].tolist(), baked.values.device
    scale = N_SIDE_PX / max(size_px)
    w, h = (round(side * scale) for side in size_px)
    row, column = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    centres = (torch.stack([column.reshape(-1), row.reshape(-1)], 1).double() + 0.5) / scale
    rays = cameras.rays(torch.full((h * w,), view, device=device), centres)
    depth = trace_depth_reference(baked, *rays, planes).view(1, 1, h, w)
    around = torch.nn.functional.pad(depth, (1, 1, 1, 1), mode="replicate")[0, 0].unfold(0, 3, 1).unfold(1, 3, 1)
    return around.reshape(h, w, 9).median(2).values, scale


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
    for view in range(len(cameras.centre)):
        depth, scale = depth_image_reference(baked, cameras, view, planes)
        seen |= is_in_front(points, cameras, view, depth, scale, baked.cell)
    return seen
