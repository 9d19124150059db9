"""Differentiable homography warping, and the group-wise correlation of a view with a warped source.

Positions are as everywhere in this project: the corner of the first pixel is at (0, 0), its centre at (0.5, 0.5). A map
at stride s thus has the cameras of a photo resized by 1 / s, and `grid_sample` is right with align_corners=False.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from recon.camera import View

LEAST_Z = 1e-6


def motion_between(reference: View, source: View) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]]:
    """`a`, `b` so that pixel position p = (u, v, 1) at depth_z d is seen in the source at a @ p + b / d.

    Fronto-parallel planes of depth_z d thus induce the homography a + b (0, 0, 1 / d) (Hartley & Zisserman, 13.1).
    """
    source_from_ref = source.cam_from_world @ reference.cam_from_world.inverse()
    k_source = source.camera.matrix()
    a = k_source @ source_from_ref.rotation @ np.linalg.inv(reference.camera.matrix())
    return a, k_source @ source_from_ref.translation


def source_positions(
    a: Float[Tensor, "b 3 3"], b: Float[Tensor, "b 3"], inv_depth: Float[Tensor, "b d h w"], stride: int
) -> Float[Tensor, "b d h w 3"]:
    """Where each cell of a map at `stride` lies in the source's map of the same stride at each inverse depth_z.

    a, b: of the photos at full size (`motion_between`). The last number is the depth in the source over that in the
    reference: at most 0 behind the source, where the first two mean nothing.
    """
    height, width = inv_depth.shape[2:]
    scale = torch.tensor([1 / stride, 1 / stride, 1.0], dtype=a.dtype, device=a.device)
    a_cell, b_cell = scale[:, None] * a / scale, scale * b
    v, u = torch.meshgrid(
        torch.arange(height, dtype=a.dtype, device=a.device) + 0.5,
        torch.arange(width, dtype=a.dtype, device=a.device) + 0.5,
        indexing="ij",
    )
    rays = torch.einsum("bij,jhw->bhwi", a_cell, torch.stack([u, v, torch.ones_like(u)]))
    moved = rays[:, None] + inv_depth[..., None] * b_cell[:, None, None, None]
    z = moved[..., 2:]
    return torch.cat([moved[..., :2] / z.clamp(min=LEAST_Z), z], -1)


def warp_to_planes(
    source: Float[Tensor, "b c hs ws"],
    a: Float[Tensor, "b 3 3"],
    b: Float[Tensor, "b 3"],
    inv_depth: Float[Tensor, "b d h w"],
    stride: int,
) -> tuple[Float[Tensor, "b c d h w"], Bool[Tensor, "b d h w"]]:
    """The source's features as seen from the reference if the surface lay at each inverse depth_z.

    inv_depth: of each hypothesis and cell. Bilinear; zero outside the source. The second result
    tells what is inside.
    """
    size = torch.tensor([source.shape[3], source.shape[2]], dtype=a.dtype, device=a.device)
    at = source_positions(a, b, inv_depth, stride)
    inside = (at[..., 2] > LEAST_Z) & (at[..., :2] >= 0).all(-1) & (at[..., :2] <= size).all(-1)
    return sampled(source, at, inside), inside


def sampled(
    source: Float[Tensor, "b c hs ws"], at: Float[Tensor, "b d h w 3"], kept: Bool[Tensor, "b d h w"]
) -> Float[Tensor, "b c d h w"]:
    """A map's features at `source_positions`, bilinear; zero outside the map and where they are not kept."""
    n, depths, height, width = kept.shape
    size = torch.tensor([source.shape[3], source.shape[2]], dtype=at.dtype, device=at.device)
    # what is far out or behind is thrown out to 2, beyond the border, where its neighbours' zeros are read
    grid = torch.where(kept[..., None], at[..., :2] / size * 2 - 1, torch.full_like(at[..., :2], 2.0))
    grid = grid.reshape(n, depths * height, width, 2)
    warped = functional.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped.reshape(n, source.shape[1], depths, height, width)


def group_correlation(
    reference: Float[Tensor, "b c h w"], warped: Float[Tensor, "b c d h w"], n_groups: int
) -> Float[Tensor, "b g d h w"]:
    """Mean product of features over each group of channels (Guo et al. 2019, eq. 1)."""
    n, channels, depths, height, width = warped.shape
    share = reference / (channels // n_groups)  # dividing here is cheaper than a mean over the volume
    product = share[:, :, None] * warped
    return product.reshape(n, n_groups, channels // n_groups, depths, height, width).sum(2)


def correlator(own: Float[Tensor, "b c h w"]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`warped_correlation_reference`, or its fast twin where that will do: it is for the CPU and has no gradient."""
    if own.device.type == "cpu" and own.dtype == torch.float32 and not torch.is_grad_enabled():
        from recon.prior.network.warp_cpu import warped_correlation_cpu

        return warped_correlation_cpu
    return warped_correlation_reference


def warped_correlation_reference(
    own: Float[Tensor, "b c h w"],
    other: Float[Tensor, "b c hs ws"],
    a: Float[Tensor, "b 3 3"],
    b: Float[Tensor, "b 3"],
    inv_depth: Float[Tensor, "b d h w"],
    stride: int,
    n_groups: int,
) -> tuple[Float[Tensor, "b g d h w"], Bool[Tensor, "b d h w"]]:
    """The group-wise correlation of a view with a source at each inverse depth_z, and what is inside the source."""
    warped, inside = warp_to_planes(other, a, b, inv_depth, stride)
    return group_correlation(own, warped, n_groups), inside
