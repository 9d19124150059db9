"""The hash grid's GPU kernels (Triton), twins of `hashgrid.encode_reference`.

A program takes one level and a block of points, so that the programs that run at a time share few levels and those stay
in the GPU's cache; a lane takes one feature of one point. Results lie feature by feature in memory, points next to each
other, so that a warp writes whole lines; callers get transposed views. A level of weight 0 reads and adds nothing.
The table is read as float32: its rows are 8 bytes wherever a level's two features are, a read moves 32, and half of the
8 would save nothing but the Jacobian's digits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon.surface.hashgrid import GridLayout, Pull, pull_by

BLOCK = 256
"""Points a program takes. Not tuned on a device."""


@triton.jit
def _row(cx, cy, cz, resolution, rows):
    """Row within a level of integer corners, `hashgrid.row_index`; the primes are of Instant-NGP eq. 4."""
    # in floats: a fine level's cube overflows 32 bits
    if resolution.to(tl.float32) * resolution * resolution <= rows:
        index = (cx + cy * resolution + cz * resolution * resolution) % rows
        row = tl.where(index < 0, index + rows, index)  # % cuts towards 0; corners beside the unit cube are negative
    else:
        hashed = cx.to(tl.uint32) ^ (cy.to(tl.uint32) * 2654435761) ^ (cz.to(tl.uint32) * 805459861)
        row = (hashed & (rows - 1).to(tl.uint32)).to(tl.int32)  # a hashed level's row count is a power of two
    return row


@triton.jit
def _cell(x, i, inside, scale):
    """Integer cell and place within it of the points i, by axis."""
    px = tl.load(x + i * 3, mask=inside, other=0.0) * scale + 0.5
    py = tl.load(x + i * 3 + 1, mask=inside, other=0.0) * scale + 0.5
    pz = tl.load(x + i * 3 + 2, mask=inside, other=0.0) * scale + 0.5
    cx, cy, cz = tl.floor(px), tl.floor(py), tl.floor(pz)
    return cx.to(tl.int32), cy.to(tl.int32), cz.to(tl.int32), px - cx, py - cy, pz - cz


@triton.jit
def _corner(CORNER: tl.constexpr, cx, cy, cz, fx, fy, fz, resolution, rows):
    """A corner's row within the level, its weight, and the weight's slope along each axis (per cell)."""
    BX: tl.constexpr = CORNER & 1
    BY: tl.constexpr = CORNER >> 1 & 1
    BZ: tl.constexpr = CORNER >> 2
    row = _row(cx + BX, cy + BY, cz + BZ, resolution, rows)
    wx = fx if BX else 1.0 - fx
    wy = fy if BY else 1.0 - fy
    wz = fz if BZ else 1.0 - fz
    return row, wx * wy * wz, wy * wz * (2 * BX - 1), wx * wz * (2 * BY - 1), wx * wy * (2 * BZ - 1)


@triton.jit
def _encode_kernel(
    table, x, scales, resolutions, offsets, weights, features, jacobian, n,
    N_FEATURES: tl.constexpr, SLOPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    lane = tl.arange(0, BLOCK * N_FEATURES)
    i, k = tl.program_id(0) * BLOCK + lane // N_FEATURES, lane % N_FEATURES
    scale, weight = tl.load(scales + level), tl.load(weights + level)
    resolution, offset = tl.load(resolutions + level), tl.load(offsets + level)
    rows = tl.load(offsets + level + 1) - offset
    inside, read = i < n, i < tl.where(weight > 0, n, 0)
    cx, cy, cz, fx, fy, fz = _cell(x, i, inside, scale)
    value = tl.zeros((BLOCK * N_FEATURES,), tl.float32)
    slope_x, slope_y, slope_z = value, value, value
    for corner in tl.static_range(8):
        row, w, side_x, side_y, side_z = _corner(corner, cx, cy, cz, fx, fy, fz, resolution, rows)
        a = tl.load(table + (offset + row) * N_FEATURES + k, mask=read, other=0.0)
        value += w * a
        if SLOPES:
            slope_x += side_x * a
            slope_y += side_y * a
            slope_z += side_z * a
    j = level * N_FEATURES + k
    tl.store(features + j * n + i, weight * value, mask=inside)
    if SLOPES:
        place = jacobian + j * 3 * n + i
        tl.store(place, weight * scale * slope_x, mask=inside)
        tl.store(place + n, weight * scale * slope_y, mask=inside)
        tl.store(place + 2 * n, weight * scale * slope_z, mask=inside)


@triton.jit
def _scatter_kernel(
    grad_table, x, scales, resolutions, offsets, weights, d_features, d_jacobian, n,
    f_point, f_feature, j_point, j_feature, j_axis,
    N_FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    lane = tl.arange(0, BLOCK * N_FEATURES)
    i, k = tl.program_id(0) * BLOCK + lane // N_FEATURES, lane % N_FEATURES
    scale, weight = tl.load(scales + level), tl.load(weights + level)
    resolution, offset = tl.load(resolutions + level), tl.load(offsets + level)
    rows = tl.load(offsets + level + 1) - offset
    add = i < tl.where(weight > 0, n, 0)
    cx, cy, cz, fx, fy, fz = _cell(x, i, add, scale)
    j = level * N_FEATURES + k
    # by strides: what autograd hands over may be transposed or expanded
    d_value = tl.load(d_features + i * f_point + j * f_feature, mask=add, other=0.0) * weight
    place = d_jacobian + i * j_point + j * j_feature
    d_x = tl.load(place, mask=add, other=0.0) * (weight * scale)
    d_y = tl.load(place + j_axis, mask=add, other=0.0) * (weight * scale)
    d_z = tl.load(place + 2 * j_axis, mask=add, other=0.0) * (weight * scale)
    for corner in tl.static_range(8):
        row, w, side_x, side_y, side_z = _corner(corner, cx, cy, cz, fx, fy, fz, resolution, rows)
        grad = w * d_value + side_x * d_x + side_y * d_y + side_z * d_z
        tl.atomic_add(grad_table + (offset + row) * N_FEATURES + k, grad, mask=add, sem="relaxed")


@lru_cache(maxsize=8)
def _geometry(layout: GridLayout, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Scales, resolutions and offsets of the levels, on the device."""
    scales = torch.from_numpy(layout.scales())
    resolutions, offsets = (torch.from_numpy(a).int() for a in (layout.resolutions(), layout.offsets()))
    return scales.to(device), resolutions.to(device), offsets.to(device)


def _blocks(layout: GridLayout, n: int) -> tuple[int, int]:
    return (triton.cdiv(n, BLOCK), layout.n_levels)


def _encode(layout: GridLayout, table: Tensor, x: Tensor, level_weight: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
    n, width = len(x), layout.n_levels * layout.n_features
    features = torch.empty(width, n, device=x.device)
    jacobian = torch.empty(width, 3, n if slopes else 0, device=x.device)
    if n:
        _encode_kernel[_blocks(layout, n)](
            table, x, *_geometry(layout, x.device), level_weight, features, jacobian, n,
            N_FEATURES=layout.n_features, SLOPES=slopes, BLOCK=BLOCK,
        )  # fmt: skip
    return features.T, jacobian.permute(2, 0, 1)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor, level_weight: Tensor, layout: GridLayout) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, level_weight)
        ctx.layout, ctx.shape = layout, table.shape
        return _encode(layout, table, x, level_weight, True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x, level_weight), layout, (d_features, d_jacobian) = ctx.saved_tensors, ctx.layout, grads
        grad_table = torch.zeros(ctx.shape, device=x.device)
        if len(x):
            _scatter_kernel[_blocks(layout, len(x))](
                grad_table, x, *_geometry(layout, x.device), level_weight, d_features, d_jacobian, len(x),
                *d_features.stride(), *d_jacobian.stride(),
                N_FEATURES=layout.n_features, BLOCK=BLOCK,
            )  # fmt: skip
        return grad_table, None, None, None


class TritonGrid:
    """These kernels behind the engines' interface (`recon.surface.engine.Grid`).

    Gradients of a row are added by atomics, in an order that differs from run to run, so that two runs differ in the
    last bits.
    """

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout

    def encode(self, table: Tensor, x: Tensor, level_weight: Tensor) -> tuple[Tensor, Pull]:
        features, jacobian = _Encode.apply(table, x.detach().contiguous(), level_weight, self.layout)
        return features, pull_by(jacobian)

    @torch.no_grad()
    def features(self, table: Tensor, x: Tensor, level_weight: Tensor) -> Tensor:
        return _encode(self.layout, table, x.contiguous(), level_weight, False)[0]
