"""The CPU's kernel (numba) of a source's correlation with the reference, twin of `warp.warped_correlation_reference`.

It never writes out the warped features, which fill a hundred megabytes a source, and has no gradient.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Bool, Float
from numba import njit
from torch import Tensor

from recon.prior.network import warp

LEAST_Z = np.float32(warp.LEAST_Z)
_HALF, _ONE = np.float32(0.5), np.float32(1)


@njit(nogil=True, fastmath={"contract", "arcp", "nsz"}, error_model="numpy", cache=True)
def _correlate(own, other, a, b, inv_depth, per_group, first, last, out, inside):
    """Rows first..last. own, other: channels last; per_group: a tuple as long as a group has channels, so that the
    compiler can unroll loops over them."""
    rows, columns = np.float32(other.shape[0]), np.float32(other.shape[1])
    bottom, right = other.shape[0] - 1, other.shape[1] - 1
    n_groups, n_depths = out.shape[0], inv_depth.shape[0]
    for y in range(first, last):
        for x in range(own.shape[1]):
            px, py = np.float32(x) + _HALF, np.float32(y) + _HALF
            ray_u = a[0, 0] * px + a[0, 1] * py + a[0, 2]
            ray_v = a[1, 0] * px + a[1, 1] * py + a[1, 2]
            ray_z = a[2, 0] * px + a[2, 1] * py + a[2, 2]
            for d in range(n_depths):
                near = inv_depth[d, y, x]
                z = ray_z + near * b[2]
                u, v = (ray_u + near * b[0]) / max(z, LEAST_Z), (ray_v + near * b[1]) / max(z, LEAST_Z)
                inside[d, y, x] = z > LEAST_Z and u >= 0 and v >= 0 and u <= columns and v <= rows
                if not inside[d, y, x]:
                    for g in range(n_groups):
                        out[g, d, y, x] = 0
                    continue
                i, j = int(np.floor(u - _HALF)), int(np.floor(v - _HALF))
                fu, fv = u - _HALF - np.float32(i), v - _HALF - np.float32(j)
                # beyond the map's border there are zeros
                w_left, w_right = (_ONE - fu) * np.float32(i >= 0), fu * np.float32(i < right)
                w_up, w_low = (_ONE - fv) * np.float32(j >= 0), fv * np.float32(j < bottom)
                # unsigned, or every access would first ask whether the index counts from the end
                i0, i1 = np.uint32(max(i, 0)), np.uint32(min(i + 1, right))
                j0, j1 = np.uint32(max(j, 0)), np.uint32(min(j + 1, bottom))
                w00, w01, w10, w11 = w_up * w_left, w_up * w_right, w_low * w_left, w_low * w_right
                for g in range(n_groups):
                    total = np.float32(0)
                    for k in range(len(per_group)):
                        c = np.uint32(g * len(per_group) + k)
                        warped = (
                            w00 * other[j0, i0, c] + w01 * other[j0, i1, c]
                            + w10 * other[j1, i0, c] + w11 * other[j1, i1, c]
                        )  # fmt: skip
                        total += own[y, x, c] * warped
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
    """`warped_correlation_reference` of maps on the CPU, by as many threads as torch has, without gradients."""
    n, channels, height = own.shape[:3]
    out = torch.empty(n, n_groups, *inv_depth.shape[1:])
    inside = torch.empty(inv_depth.shape, dtype=torch.bool)
    scale = torch.tensor([1 / stride, 1 / stride, 1.0], dtype=a.dtype)
    a_cell, b_cell = scale[:, None] * a / scale, scale * b
    share, source = (own / (channels // n_groups)).permute(0, 2, 3, 1), other.permute(0, 2, 3, 1)
    per_group = (0,) * (channels // n_groups)
    n_bands = torch.get_num_threads()
    with ThreadPoolExecutor(n_bands) as pool:
        for i in range(n):
            arrays = [x[i].contiguous().numpy() for x in (share, source, a_cell, b_cell, inv_depth)]
            found = out[i].numpy(), inside[i].numpy()

            def one(band: int, arrays: list[np.ndarray] = arrays, found: tuple[np.ndarray, ...] = found) -> None:
                rows = height * band // n_bands, height * (band + 1) // n_bands
                _correlate(*arrays, per_group, *rows, *found)

            list(pool.map(one, range(n_bands)))
    return out, inside
