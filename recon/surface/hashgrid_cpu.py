"""The hash grid's fast CPU kernels (numba), twins of `hashgrid.ReferenceGrid`.

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
from torch.autograd.function import once_differentiable

from recon.surface.hashgrid import GridLayout, Pull

FAST = {"contract", "nnan", "ninf", "nsz", "arcp", "afn"}
"""All of fast math but reordering sums: with that, code just compiled and code from the cache differ in bits."""

_P1, _P2 = np.uint32(2654435761), np.uint32(805459861)
_ONE, _HALF = np.float32(1), np.float32(0.5)
# Rows are unsigned: with signed ones every access to the table would first ask whether the index counts from its end.
# `slots` holds nothing: its length, a row's number of features, is part of its type, and loops over it are unrolled.


@njit(inline="always")
def _rows_about(cx, cy, cz, resolution, n_rows, dense, out):
    """The rows, within their level, of a cell's eight corners, x fastest."""
    if dense:
        first = cx + cy * resolution + cz * resolution * resolution
        for corner in range(8):
            row = first + (corner & 1) + ((corner >> 1) & 1) * resolution + (corner >> 2) * resolution * resolution
            if row < 0 or row >= n_rows:  # outside the cube, or in its last half cell; always asking % would be slow
                row %= n_rows
            out[corner] = np.uint32(row)
        return
    last = np.uint32(n_rows - 1)  # a hashed level's row count is a power of two
    x0, x1 = np.uint32(cx), np.uint32(cx + 1)
    y0, y1 = np.uint32(np.uint32(cy) * _P1), np.uint32(np.uint32(cy + 1) * _P1)
    z0, z1 = np.uint32(np.uint32(cz) * _P2), np.uint32(np.uint32(cz + 1) * _P2)
    out[0], out[1], out[2], out[3] = (
        (x0 ^ y0 ^ z0) & last, (x1 ^ y0 ^ z0) & last, (x0 ^ y1 ^ z0) & last, (x1 ^ y1 ^ z0) & last,
    )  # fmt: skip
    out[4], out[5], out[6], out[7] = (
        (x0 ^ y0 ^ z1) & last, (x1 ^ y0 ^ z1) & last, (x0 ^ y1 ^ z1) & last, (x1 ^ y1 ^ z1) & last,
    )  # fmt: skip


@njit(fastmath=FAST, inline="always")
def _cell(x, i, scale):
    """A point's cell in a level, and where in it the point lies."""
    px, py, pz = x[i, 0] * scale + _HALF, x[i, 1] * scale + _HALF, x[i, 2] * scale + _HALF
    cx, cy, cz = int(np.floor(px)), int(np.floor(py)), int(np.floor(pz))
    return cx, cy, cz, px - np.float32(cx), py - np.float32(cy), pz - np.float32(cz)


@njit(fastmath=FAST, cache=True, nogil=True)
def _encode_block(table, x, first, last, scale, resolution, weight, level, slots, features, jacobian, slopes):
    """Features of a level, whose rows `table` holds, at points first..last; slots: a tuple as long as a row."""
    n_rows = len(table)
    dense = resolution * resolution * resolution <= n_rows
    rows = np.empty(8, np.uint32)
    s = weight * scale
    for i in range(first, last):
        cx, cy, cz, fx, fy, fz = _cell(x, i, scale)
        _rows_about(cx, cy, cz, resolution, n_rows, dense, rows)
        r0, r1, r2, r3, r4, r5, r6, r7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
        gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
        for k in range(len(slots)):
            a0, a1, a2, a3 = table[r0, k], table[r1, k], table[r2, k], table[r3, k]
            a4, a5, a6, a7 = table[r4, k], table[r5, k], table[r6, k], table[r7, k]
            x00, x10 = gx * a0 + fx * a1, gx * a2 + fx * a3
            x01, x11 = gx * a4 + fx * a5, gx * a6 + fx * a7
            y0, y1 = gy * x00 + fy * x10, gy * x01 + fy * x11
            j = level * len(slots) + k
            features[i, j] = weight * (gz * y0 + fz * y1)
            if slopes:
                d0 = gy * (a1 - a0) + fy * (a3 - a2)
                d1 = gy * (a5 - a4) + fy * (a7 - a6)
                jacobian[i, j, 0] = s * (gz * d0 + fz * d1)
                jacobian[i, j, 1] = s * (gz * (x10 - x00) + fz * (x11 - x01))
                jacobian[i, j, 2] = s * (y1 - y0)


@njit(parallel=True, fastmath=FAST, cache=True)
def _encode(table, x, scales, resolutions, offsets, weights, slots, n_blocks, features, jacobian, slopes):
    n, n_levels = x.shape[0], scales.shape[0]
    for block in prange(n_blocks):
        first, last = n * block // n_blocks, n * (block + 1) // n_blocks
        for level in range(n_levels):
            columns = slice(level * len(slots), (level + 1) * len(slots))
            if weights[level] == 0:
                features[first:last, columns] = 0
                if slopes:
                    jacobian[first:last, columns] = 0
            else:
                _encode_block(
                    table[offsets[level] : offsets[level + 1]], x, first, last, scales[level], resolutions[level],
                    weights[level], level, slots, features, jacobian, slopes,
                )  # fmt: skip


@njit(fastmath=FAST, cache=True, nogil=True)
def _scatter_level(grad_table, x, scale, resolution, weight, level, slots, d_features, d_jacobian):
    """Add to a level's gradient, whose rows `grad_table` holds."""
    n_rows = len(grad_table)
    dense = resolution * resolution * resolution <= n_rows
    rows = np.empty(8, np.uint32)
    s = weight * scale
    for i in range(x.shape[0]):
        cx, cy, cz, fx, fy, fz = _cell(x, i, scale)
        _rows_about(cx, cy, cz, resolution, n_rows, dense, rows)
        r0, r1, r2, r3, r4, r5, r6, r7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
        gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
        w0, w1, w2, w3 = gx * gy, fx * gy, gx * fy, fx * fy
        for k in range(len(slots)):
            j = level * len(slots) + k
            d = weight * d_features[i, j]
            dx, dy, dz = s * d_jacobian[i, j, 0], s * d_jacobian[i, j, 1], s * d_jacobian[i, j, 2]
            # of the four edges along z, all but what depends on z
            u0, u1 = d * w0 - dx * gy - dy * gx, d * w1 + dx * gy - dy * fx
            u2, u3 = d * w2 - dx * fy + dy * gx, d * w3 + dx * fy + dy * fx
            grad_table[r0, k] += gz * u0 - dz * w0
            grad_table[r1, k] += gz * u1 - dz * w1
            grad_table[r2, k] += gz * u2 - dz * w2
            grad_table[r3, k] += gz * u3 - dz * w3
            grad_table[r4, k] += fz * u0 + dz * w0
            grad_table[r5, k] += fz * u1 + dz * w1
            grad_table[r6, k] += fz * u2 + dz * w2
            grad_table[r7, k] += fz * u3 + dz * w3


@njit(parallel=True, fastmath=FAST, cache=True)
def _scatter(grad_table, x, scales, resolutions, offsets, weights, slots, n_threads, d_features, d_jacobian):
    n_levels = scales.shape[0]
    for thread in prange(n_threads):
        # every n-th level: a thread of neighbouring ones would get all of the fine levels, which take the longest
        for level in range(thread, n_levels, n_threads):
            if weights[level] != 0:
                _scatter_level(
                    grad_table[offsets[level] : offsets[level + 1]], x, scales[level], resolutions[level],
                    weights[level], level, slots, d_features, d_jacobian,
                )  # fmt: skip


def _geometry(layout: GridLayout, level_weight: np.ndarray) -> tuple[Any, ...]:
    """What the kernels need to know of a grid."""
    return layout.scales(), layout.resolutions(), layout.offsets(), level_weight, (0,) * layout.n_features


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor, level_weight: Tensor, layout: GridLayout) -> tuple[Tensor, Tensor]:
        n, width = len(x), layout.n_levels * layout.n_features
        features, jacobian = torch.empty(n, width), torch.empty(n, width, 3)
        geometry = _geometry(layout, level_weight.numpy())
        _encode(
            table.detach().numpy(), x.numpy(), *geometry, numba.get_num_threads(), features.numpy(), jacobian.numpy(),
            True,
        )  # fmt: skip
        ctx.save_for_backward(x)
        ctx.geometry, ctx.shape = geometry, table.shape
        return features, jacobian

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        d_features, d_jacobian = grads
        grad_table = torch.zeros(ctx.shape)
        _scatter(
            grad_table.numpy(), x.numpy(), *ctx.geometry, numba.get_num_threads(), d_features.contiguous().numpy(),
            d_jacobian.contiguous().numpy(),
        )  # fmt: skip
        return grad_table, None, None, None


@njit(parallel=True, fastmath=FAST, cache=True)
def _pull(jacobian, g, out):
    for i in prange(len(g)):
        a, b, c = np.float32(0), np.float32(0), np.float32(0)
        for j in range(g.shape[1]):
            a += jacobian[i, j, 0] * g[i, j]
            b += jacobian[i, j, 1] * g[i, j]
            c += jacobian[i, j, 2] * g[i, j]
        out[i, 0], out[i, 1], out[i, 2] = a, b, c


@njit(parallel=True, fastmath=FAST, cache=True)
def _pull_back(jacobian, g, d_out, d_jacobian, d_g):
    for i in prange(len(g)):
        a, b, c = d_out[i, 0], d_out[i, 1], d_out[i, 2]
        for j in range(g.shape[1]):
            d_g[i, j] = jacobian[i, j, 0] * a + jacobian[i, j, 1] * b + jacobian[i, j, 2] * c
            d_jacobian[i, j, 0], d_jacobian[i, j, 1], d_jacobian[i, j, 2] = g[i, j] * a, g[i, j] * b, g[i, j] * c


class _Pull(torch.autograd.Function):
    """`pull_by` of a Jacobian, without the products in between, which fill megabytes."""

    @staticmethod
    def forward(ctx: Any, jacobian: Tensor, g: Tensor) -> Tensor:
        out = torch.empty(len(g), 3)
        _pull(jacobian.detach().numpy(), g.detach().numpy(), out.numpy())
        ctx.save_for_backward(jacobian, g)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        jacobian, g = ctx.saved_tensors
        d_jacobian, d_g = torch.empty_like(jacobian), torch.empty_like(g)
        _pull_back(
            jacobian.detach().numpy(), g.detach().numpy(), grads[0].contiguous().numpy(), d_jacobian.numpy(),
            d_g.numpy(),
        )  # fmt: skip
        return d_jacobian, d_g


def features_cpu(
    layout: GridLayout,
    table: Float[np.ndarray, "n_rows n_features"],
    x: Float[np.ndarray, "n 3"],
    level_weight: np.ndarray,
) -> Float[np.ndarray, "n n_encoded"]:
    """Features alone, without gradients: for baking and meshing."""
    features = np.empty((len(x), layout.n_levels * layout.n_features), np.float32)
    _encode(
        table, np.ascontiguousarray(x, np.float32), *_geometry(layout, level_weight.astype(np.float32)),
        numba.get_num_threads(), features, np.empty((1, 1, 3), np.float32), False,
    )  # fmt: skip
    return features


class CpuGrid:
    """These kernels behind the engines' interface (`recon.surface.engine.Grid`)."""

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout

    def encode(self, table: Tensor, x: Tensor, level_weight: Tensor) -> tuple[Tensor, Pull]:
        features, jacobian = _Encode.apply(table, x.detach().contiguous(), level_weight.float(), self.layout)
        return features, lambda g: _Pull.apply(jacobian, g.contiguous())

    def features(self, table: Tensor, x: Tensor, level_weight: Tensor) -> Tensor:
        arrays = (table.detach().numpy(), x.numpy(), level_weight.numpy())
        return torch.from_numpy(features_cpu(self.layout, *arrays))
