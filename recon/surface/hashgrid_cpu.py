"""The hash grid's fast CPU kernels (numba), twins of `hashgrid.encode_reference`.

Levels are the outer loop: one level's rows (1 MB at 2^17) stay in a core's cache while all points pass, and the
backward pass scatters one level per thread, so that no two threads ever write the same row.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from recon.surface.hashgrid import GridLayout, Pull, pull_by

FAST = {"contract", "nnan", "ninf", "nsz", "arcp", "afn"}
"""All of fast math but reordering sums: with that, code just compiled and code from the cache differ in bits."""

_P1, _P2 = np.uint32(2654435761), np.uint32(805459861)


@njit(inline="always")
def _row(cx: int, cy: int, cz: int, resolution: int, rows: int, dense: bool) -> int:
    if dense:
        return (cx + cy * resolution + cz * resolution * resolution) % rows
    hashed = np.uint32(cx) ^ (np.uint32(cy) * _P1) ^ (np.uint32(cz) * _P2)
    return np.int64(hashed & np.uint32(rows - 1))  # a hashed level's row count is a power of two


@njit(fastmath=FAST, cache=True, nogil=True)
def _encode_block(table, x, first, last, scale, resolution, offset, rows, weight, level, features, jacobian, slopes):
    dense = resolution * resolution * resolution <= rows
    n_f = table.shape[1]
    one = np.float32(1.0)
    for i in range(first, last):
        px, py, pz = (
            x[i, 0] * scale + np.float32(0.5),
            x[i, 1] * scale + np.float32(0.5),
            x[i, 2] * scale + np.float32(0.5),
        )
        cx, cy, cz = int(np.floor(px)), int(np.floor(py)), int(np.floor(pz))
        fx, fy, fz = px - np.float32(cx), py - np.float32(cy), pz - np.float32(cz)
        r0 = offset + _row(cx, cy, cz, resolution, rows, dense)
        r1 = offset + _row(cx + 1, cy, cz, resolution, rows, dense)
        r2 = offset + _row(cx, cy + 1, cz, resolution, rows, dense)
        r3 = offset + _row(cx + 1, cy + 1, cz, resolution, rows, dense)
        r4 = offset + _row(cx, cy, cz + 1, resolution, rows, dense)
        r5 = offset + _row(cx + 1, cy, cz + 1, resolution, rows, dense)
        r6 = offset + _row(cx, cy + 1, cz + 1, resolution, rows, dense)
        r7 = offset + _row(cx + 1, cy + 1, cz + 1, resolution, rows, dense)
        gx, gy, gz = one - fx, one - fy, one - fz
        for k in range(n_f):
            a0, a1, a2, a3 = table[r0, k], table[r1, k], table[r2, k], table[r3, k]
            a4, a5, a6, a7 = table[r4, k], table[r5, k], table[r6, k], table[r7, k]
            x00, x10 = gx * a0 + fx * a1, gx * a2 + fx * a3
            x01, x11 = gx * a4 + fx * a5, gx * a6 + fx * a7
            y0, y1 = gy * x00 + fy * x10, gy * x01 + fy * x11
            j = level * n_f + k
            features[i, j] = weight * (gz * y0 + fz * y1)
            if slopes:
                d0 = gy * (a1 - a0) + fy * (a3 - a2)
                d1 = gy * (a5 - a4) + fy * (a7 - a6)
                s = weight * scale
                jacobian[i, j, 0] = s * (gz * d0 + fz * d1)
                jacobian[i, j, 1] = s * (gz * (x10 - x00) + fz * (x11 - x01))
                jacobian[i, j, 2] = s * (y1 - y0)


@njit(parallel=True, fastmath=FAST, cache=True)
def _encode(table, x, scales, resolutions, offsets, weights, n_blocks, features, jacobian, slopes):
    n, n_levels = x.shape[0], scales.shape[0]
    for block in prange(n_blocks):
        first, last = n * block // n_blocks, n * (block + 1) // n_blocks
        for level in range(n_levels):
            if weights[level] > 0:
                rows = offsets[level + 1] - offsets[level]
                _encode_block(
                    table, x, first, last, scales[level], resolutions[level], offsets[level], rows,
                    weights[level], level, features, jacobian, slopes,
                )  # fmt: skip


@njit(fastmath=FAST, cache=True, nogil=True)
def _scatter_level(grad_table, x, scale, resolution, offset, rows, weight, level, d_features, d_jacobian):
    dense = resolution * resolution * resolution <= rows
    n_f = grad_table.shape[1]
    one = np.float32(1.0)
    for i in range(x.shape[0]):
        px, py, pz = (
            x[i, 0] * scale + np.float32(0.5),
            x[i, 1] * scale + np.float32(0.5),
            x[i, 2] * scale + np.float32(0.5),
        )
        cx, cy, cz = int(np.floor(px)), int(np.floor(py)), int(np.floor(pz))
        fx, fy, fz = px - np.float32(cx), py - np.float32(cy), pz - np.float32(cz)
        gx, gy, gz = one - fx, one - fy, one - fz
        for bits in range(8):
            bx, by, bz = bits & 1, (bits >> 1) & 1, (bits >> 2) & 1
            wx, wy, wz = (fx if bx else gx), (fy if by else gy), (fz if bz else gz)
            sx, sy, sz = (one if bx else -one), (one if by else -one), (one if bz else -one)
            r = offset + _row(cx + bx, cy + by, cz + bz, resolution, rows, dense)
            w = weight * wx * wy * wz
            s = weight * scale
            wjx, wjy, wjz = s * sx * wy * wz, s * sy * wx * wz, s * sz * wx * wy
            for k in range(n_f):
                j = level * n_f + k
                grad_table[r, k] += (
                    w * d_features[i, j]
                    + wjx * d_jacobian[i, j, 0]
                    + wjy * d_jacobian[i, j, 1]
                    + wjz * d_jacobian[i, j, 2]
                )


@njit(parallel=True, fastmath=FAST, cache=True)
def _scatter(grad_table, x, scales, resolutions, offsets, weights, d_features, d_jacobian):
    n_levels = scales.shape[0]
    for level in prange(n_levels):
        if weights[level] > 0:
            rows = offsets[level + 1] - offsets[level]
            _scatter_level(
                grad_table, x, scales[level], resolutions[level], offsets[level], rows,
                weights[level], level, d_features, d_jacobian,
            )  # fmt: skip


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor, level_weight: Tensor, layout: GridLayout) -> tuple[Tensor, Tensor]:
        n, width = len(x), layout.n_levels * layout.n_features
        features, jacobian = torch.zeros(n, width), torch.zeros(n, width, 3)
        geometry = (layout.scales(), layout.resolutions(), layout.offsets(), level_weight.numpy())
        _encode(
            table.detach().numpy(),
            x.numpy(),
            *geometry,
            numba.get_num_threads(),
            features.numpy(),
            jacobian.numpy(),
            True,
        )
        ctx.save_for_backward(x)
        ctx.geometry, ctx.shape = geometry, table.shape
        return features, jacobian

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        d_features, d_jacobian = grads
        grad_table = torch.zeros(ctx.shape)
        _scatter(
            grad_table.numpy(),
            x.numpy(),
            *ctx.geometry,
            d_features.contiguous().numpy(),
            d_jacobian.contiguous().numpy(),
        )
        return grad_table, None, None, None


def encode_cpu(
    layout: GridLayout,
    table: Float[Tensor, "n_rows n_features"],
    x: Float[Tensor, "n 3"],
    level_weight: Float[Tensor, " n_levels"],
) -> tuple[Float[Tensor, "n n_encoded"], Float[Tensor, "n n_encoded 3"]]:
    """`encode_reference` by numba kernels: float32 on the CPU, differentiable in `table` only."""
    return _Encode.apply(table, x.detach().contiguous(), level_weight.float(), layout)  # type: ignore[no-any-return]


def features_cpu(
    layout: GridLayout,
    table: Float[np.ndarray, "n_rows n_features"],
    x: Float[np.ndarray, "n 3"],
    level_weight: np.ndarray,
) -> Float[np.ndarray, "n n_encoded"]:
    """Features alone, without gradients: for baking and meshing."""
    features = np.zeros((len(x), layout.n_levels * layout.n_features), np.float32)
    _encode(
        table, np.ascontiguousarray(x, np.float32), layout.scales(), layout.resolutions(), layout.offsets(),
        level_weight.astype(np.float32), numba.get_num_threads(), features, np.zeros((1, 1, 3), np.float32), False,
    )  # fmt: skip
    return features


class CpuGrid:
    """These kernels behind the engines' interface (`recon.surface.engine.Grid`)."""

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout

    def encode(self, table: Tensor, x: Tensor, level_weight: Tensor) -> tuple[Tensor, Pull]:
        features, jacobian = encode_cpu(self.layout, table, x, level_weight)
        return features, pull_by(jacobian)

    def features(self, table: Tensor, x: Tensor, level_weight: Tensor) -> Tensor:
        arrays = (table.detach().numpy(), x.numpy(), level_weight.numpy())
        return torch.from_numpy(features_cpu(self.layout, *arrays))
