"""The CPU's kernel (numba) of a source's correlation with the reference, twin of `warp.warped_correlation_reference`.

It never writes out the warped features, which fill a hundred megabytes a source, and has no gradient.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from numba import njit
from torch import Tensor

from recon.prior.network import warp

_HALF, _ONE = np.float32(0.5), np.float32(1)


@njit(inline="always")
def _corners(u, size):
    """Lower and upper cell about a position along one axis of a map, and their weights: 0 beyond the border.

    Cells are unsigned, or every access to the map would first ask whether the index counts from its end.
    """
    i = int(np.floor(u - _HALF))
    over = u - _HALF - np.float32(i)
    lower, upper = (_ONE - over) * np.float32(i >= 0), over * np.float32(i < size - 1)
    return np.uint32(max(i, 0)), np.uint32(min(i + 1, size - 1)), lower, upper


# numpy's error model: whether a divisor is 0 would be asked at every one, and `least_z` bounds them
@njit(nogil=True, fastmath={"contract", "arcp", "nsz"}, error_model="numpy", cache=True)
def _correlate(own, other, a, b, inv_depth, least_z, slots, out, inside, first, last):
    """Rows first..last. own, other: channels last; slots: a tuple as long as a group has channels, so that the compiler
    can unroll loops over them."""
    rows, columns = other.shape[:2]
    for y in range(first, last):
        for x in range(own.shape[1]):
            px, py = np.float32(x) + _HALF, np.float32(y) + _HALF
            ray_u = a[0, 0] * px + a[0, 1] * py + a[0, 2]
            ray_v = a[1, 0] * px + a[1, 1] * py + a[1, 2]
            ray_z = a[2, 0] * px + a[2, 1] * py + a[2, 2]
            for d in range(inv_depth.shape[0]):
                near = inv_depth[d, y, x]
                z = ray_z + near * b[2]
                u, v = (ray_u + near * b[0]) / max(z, least_z), (ray_v + near * b[1]) / max(z, least_z)
                inside[d, y, x] = z > least_z and u >= 0 and v >= 0 and u <= columns and v <= rows
                if not inside[d, y, x]:
                    for g in range(out.shape[0]):
                        out[g, d, y, x] = 0
                    continue
                i0, i1, left, right = _corners(u, columns)
                j0, j1, top, low = _corners(v, rows)
                w00, w01, w10, w11 = top * left, top * right, low * left, low * right
                for g in range(out.shape[0]):
                    total = np.float32(0)
                    for k in range(len(slots)):
                        c = np.uint32(g * len(slots) + k)
                        upper = w00 * other[j0, i0, c] + w01 * other[j0, i1, c]
                        total += own[y, x, c] * (upper + w10 * other[j1, i0, c] + w11 * other[j1, i1, c])
                    out[g, d, y, x] = total


def warped_correlation_cpu(
    own: Float[Tensor, "b c h w"],
    other: Float[Tensor, "b c hs ws"],
    a: Float[Tensor, "b 3 3"],
    b: Float[Tensor, "b 3"],
    inv_depth: Float[Tensor, "b d h w"],
    stride: int,
    n_groups: int,
) -> tuple[Float[Tensor, "b g d h w"], Bool[Tensor, "b d h w"]]:
    """`warped_correlation_reference` of float32 maps on the CPU, without gradients, by as many threads as torch has.

    Threads of our own, as numba's do not bear being called from several threads, and depth maps are made ahead in one.
    """
    n, channels, height, width = own.shape
    if channels % n_groups or other.shape[1] != channels or inv_depth.shape[2:] != (height, width):
        raise ValueError(f"maps of {tuple(own.shape)}, {tuple(other.shape)} and {tuple(inv_depth.shape)} do not fit")
    out, inside = torch.empty(n, n_groups, *inv_depth.shape[1:]), torch.empty(inv_depth.shape, dtype=torch.bool)
    scale = torch.tensor([1 / stride, 1 / stride, 1.0])
    a_cell, b_cell = scale[:, None] * a / scale, scale * b
    n_channels = channels // n_groups
    maps = [x.permute(0, 2, 3, 1) for x in (own / n_channels, other)]
    n_bands = torch.get_num_threads()
    border = [height * k // n_bands for k in range(n_bands + 1)]
    with ThreadPoolExecutor(n_bands) as pool:
        for i in range(n):
            given = [x[i].contiguous().numpy() for x in (*maps, a_cell, b_cell, inv_depth)]
            found = out[i].numpy(), inside[i].numpy()
            band = partial(_correlate, *given, np.float32(warp.LEAST_Z), (0,) * n_channels, *found)
            list(pool.map(band, border[:-1], border[1:]))
    return out, inside
