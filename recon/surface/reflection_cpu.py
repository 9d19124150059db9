"""The directions' fast CPU kernels (numba), twins of `reflection.mirrored_inputs`.

In torch they are hundreds of small operations on 10,000 points a step, which is all that they cost.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.surface.hashgrid_cpu import FAST
from recon.surface.reflection import N_DIFFUSE, N_HARMONICS


@njit(fastmath=FAST, inline="always")
def _harmonics(x, y, z, out):
    """`reflection.harmonics` of one direction."""
    xx, yy, zz = x * x, y * y, z * z
    out[0], out[1], out[2] = x, y, z
    out[3], out[4], out[5], out[6], out[7] = 2 * x * y, 2 * y * z, 1.5 * zz - 0.5, 2 * x * z, xx - yy
    out[8], out[9], out[10] = y * (3 * xx - yy), 5 * x * y * z, 1.4 * y * (5 * zz - 1)
    out[11], out[12], out[13] = 0.5 * z * (5 * zz - 3), 1.4 * x * (5 * zz - 1), 2.5 * z * (xx - yy)
    out[14], out[15], out[16] = x * (xx - 3 * yy), 4 * x * y * (xx - yy), 3 * y * z * (3 * xx - yy)
    out[17], out[18] = 2 * x * y * (7 * zz - 1), 1.4 * y * z * (7 * zz - 3)
    out[19], out[20] = (35 * zz * zz - 30 * zz + 3) / 8, 1.4 * x * z * (7 * zz - 3)
    out[21], out[22] = (xx - yy) * (7 * zz - 1), 3 * x * z * (xx - 3 * yy)
    out[23] = xx * xx - 6 * xx * yy + yy * yy


@njit(fastmath=FAST, inline="always")
def _low_slope(x, y, z, g):
    """Gradient with respect to the direction of the harmonics of bands 1 and 2, weighted by g and summed."""
    return (
        g[0] + 2 * (y * g[3] + z * g[6] + x * g[7]),
        g[1] + 2 * (x * g[3] + z * g[4] - y * g[7]),
        g[2] + 2 * (y * g[4] + x * g[6]) + 3 * z * g[5],
    )


@njit(fastmath=FAST, inline="always")
def _slope(x, y, z, g):
    """The same of all bands."""
    dx, dy, dz = _low_slope(x, y, z, g)
    xx, yy, zz = x * x, y * y, z * z
    d, p, q = xx - yy, 3 * xx - yy, xx - 3 * yy
    five, seven, flat, steep = 5 * zz - 1, 7 * zz - 1, 7 * zz - 3, 21 * zz - 3
    dx += 6 * x * y * g[8] + 5 * y * z * g[9] + 1.4 * five * g[12] + 5 * x * z * g[13] + 3 * d * g[14]
    dy += 3 * d * g[8] + 5 * x * z * g[9] + 1.4 * five * g[10] - 5 * y * z * g[13] - 6 * x * y * g[14]
    dz += 5 * x * y * g[9] + 14 * z * (y * g[10] + x * g[12]) + (7.5 * zz - 1.5) * g[11] + 2.5 * d * g[13]
    dx += 4 * y * p * g[15] + 18 * x * y * z * g[16] + 2 * y * seven * g[17] + 1.4 * z * flat * g[20]
    dx += 2 * x * seven * g[21] + 9 * z * d * g[22] + 4 * x * q * g[23]
    dy += 4 * x * q * g[15] + 9 * z * d * g[16] + 2 * x * seven * g[17] + 1.4 * z * flat * g[18]
    dy += -2 * y * seven * g[21] - 18 * x * y * z * g[22] - 4 * y * p * g[23]
    dz += 3 * y * p * g[16] + 28 * x * y * z * g[17] + 1.4 * steep * (y * g[18] + x * g[20])
    dz += (17.5 * zz - 7.5) * z * g[19] + 14 * z * d * g[21] + 3 * x * q * g[22]
    return dx, dy, dz


@njit(fastmath=FAST, inline="always")
def _damping(roughness):
    """exp(-l (l + 1) / 2 roughness) of bands 1..4."""
    e = math.exp(-roughness)
    cube = e * e * e
    return e, cube, cube * cube, cube * cube * cube * e


@njit(parallel=True, fastmath=FAST, cache=True)
def _forward(direction, normal, roughness, diffuse, mirrored):
    for i in prange(len(direction)):
        vx, vy, vz = direction[i, 0], direction[i, 1], direction[i, 2]
        nx, ny, nz = normal[i, 0], normal[i, 1], normal[i, 2]
        cosine = vx * nx + vy * ny + vz * nz
        mirrored[i, 0] = cosine
        _harmonics(nx, ny, nz, mirrored[i, 1:])  # a place to keep them for a moment
        for k in range(diffuse.shape[1]):
            diffuse[i, k] = mirrored[i, 1 + k]
        _harmonics(vx - 2 * cosine * nx, vy - 2 * cosine * ny, vz - 2 * cosine * nz, mirrored[i, 1:])
        damping = _damping(roughness[i])
        for band in range(1, 5):
            for k in range(band * band, band * band + 2 * band + 1):
                mirrored[i, k] *= damping[band - 1]


@njit(parallel=True, fastmath=FAST, cache=True)
def _backward(direction, normal, roughness, mirrored, d_diffuse, d_mirrored, d_normal, d_roughness, scratch):
    for i in prange(len(direction)):
        vx, vy, vz = direction[i, 0], direction[i, 1], direction[i, 2]
        nx, ny, nz = normal[i, 0], normal[i, 1], normal[i, 2]
        cosine, rough, g = mirrored[i, 0], 0.0, scratch[i]
        damping = _damping(roughness[i])
        for band in range(1, 5):
            for k in range(band * band, band * band + 2 * band + 1):
                g[k - 1] = damping[band - 1] * d_mirrored[i, k]
                rough -= 0.5 * band * (band + 1) * d_mirrored[i, k] * mirrored[i, k]
        d_roughness[i] = rough
        rx, ry, rz = _slope(vx - 2 * cosine * nx, vy - 2 * cosine * ny, vz - 2 * cosine * nz, g)
        lx, ly, lz = _low_slope(nx, ny, nz, d_diffuse[i])
        # the mirrored direction is v - 2 (v . n) n
        of_cosine = d_mirrored[i, 0] - 2 * (rx * nx + ry * ny + rz * nz)
        d_normal[i, 0] = lx - 2 * cosine * rx + of_cosine * vx
        d_normal[i, 1] = ly - 2 * cosine * ry + of_cosine * vy
        d_normal[i, 2] = lz - 2 * cosine * rz + of_cosine * vz


class _MirroredInputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, direction: Tensor, normal: Tensor, roughness: Tensor) -> tuple[Tensor, Tensor]:
        n = len(direction)
        diffuse, mirrored = torch.empty(n, N_DIFFUSE), torch.empty(n, 1 + N_HARMONICS)
        direction, normal = direction.contiguous(), normal.contiguous()
        _forward(
            direction.numpy(), normal.numpy(), roughness.contiguous().numpy()[:, 0], diffuse.numpy(), mirrored.numpy()
        )
        ctx.save_for_backward(direction, normal, roughness, mirrored)
        return diffuse, mirrored

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        direction, normal, roughness, mirrored = (x.detach() for x in ctx.saved_tensors)
        d_normal, d_roughness = torch.empty_like(normal), torch.empty_like(roughness)
        _backward(
            direction.numpy(), normal.numpy(), roughness.contiguous().numpy()[:, 0], mirrored.numpy(),
            *(g.contiguous().numpy() for g in grads), d_normal.numpy(), d_roughness.numpy()[:, 0],
            torch.empty(len(normal), N_HARMONICS).numpy(),
        )  # fmt: skip
        return None, d_normal, d_roughness


def mirrored_inputs_cpu(direction: Tensor, normal: Tensor, roughness: Tensor) -> tuple[Tensor, Tensor]:
    """`reflection.mirrored_inputs`; no gradient flows to the directions."""
    diffuse, mirrored = _MirroredInputs.apply(direction.detach(), normal, roughness)
    return diffuse, mirrored
