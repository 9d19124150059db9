"""Multiresolution hash grid encoding (Mueller et al. 2022, Instant-NGP, sec. 3) with its spatial Jacobian.

Conventions are tiny-cuda-nn's, so that one table serves every backend: level l has scale
`base_resolution * growth^l - 1`, its resolution is `ceil(scale) + 1`, a point x in [0, 1]^3 lies at
`x * scale + 0.5` in it, a level that fits is indexed densely (x fastest) and others by the spatial hash.
This file holds the layout and the plain reference; `hashgrid_cpu.py`, `hashgrid_triton.py` and `tiny_cuda_nn.py` hold
the fast ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

HASH_PRIMES = (1, 2654435761, 805459861)
"""Instant-NGP eq. 4."""


@dataclass(frozen=True)
class GridLayout:
    """Where each level's rows lie in the table."""

    n_levels: int
    n_features: int
    """Features per level and row."""
    log2_rows: int
    """At most 2^log2_rows rows per level."""
    base_resolution: int
    finest_resolution: int

    def growth(self) -> float:
        """Instant-NGP eq. 3."""
        if self.n_levels == 1:
            return 1.0
        return math.exp(math.log(self.finest_resolution / self.base_resolution) / (self.n_levels - 1))

    def scales(self) -> Float[np.ndarray, " n_levels"]:
        """Cells along an edge of the unit cube, per level."""
        return np.array([self.base_resolution * self.growth() ** k - 1 for k in range(self.n_levels)], np.float32)

    def resolutions(self) -> np.ndarray:
        """Grid points along an edge, per level (int64)."""
        return np.ceil(self.scales()).astype(np.int64) + 1

    def offsets(self) -> np.ndarray:
        """First row of each level, and the number of rows in all at the end (int64, n_levels + 1)."""
        rows = [min((int(r) ** 3 + 7) // 8 * 8, 2**self.log2_rows) for r in self.resolutions()]
        return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)

    def n_rows(self) -> int:
        return int(self.offsets()[-1])


def row_index(layout: GridLayout, level: int, corner: list[Int64[Tensor, " n"]]) -> Int64[Tensor, " n"]:
    """Table rows of integer grid corners (x, y, z), tiny-cuda-nn's `grid_index`."""
    offsets, resolution = layout.offsets(), int(layout.resolutions()[level])
    rows = int(offsets[level + 1] - offsets[level])
    if resolution**3 <= rows:
        index = corner[0] + corner[1] * resolution + corner[2] * resolution**2
    else:
        hashed = [(corner[d] * HASH_PRIMES[d]) & 0xFFFFFFFF for d in range(3)]
        index = hashed[0] ^ hashed[1] ^ hashed[2]
    return index % rows + int(offsets[level])


def encode_reference(
    layout: GridLayout,
    table: Float[Tensor, "n_rows n_features"],
    x: Float[Tensor, "n 3"],
    level_weight: Float[Tensor, " n_levels"],
) -> tuple[Float[Tensor, "n n_encoded"], Float[Tensor, "n n_encoded 3"]]:
    """Features and their Jacobian d features / d x, plain and differentiable in `table`.

    Levels are concatenated coarse to fine and multiplied by `level_weight` (coarse-to-fine annealing). The
    Jacobian is of the trilinear interpolation, so it jumps at cell borders.
    """
    features, jacobians = [], []
    for level, scale in enumerate(layout.scales().tolist()):
        position = x * scale + 0.5
        cell = torch.floor(position)
        frac = position - cell
        value = torch.zeros(len(x), layout.n_features, dtype=table.dtype, device=x.device)
        slope = torch.zeros(len(x), layout.n_features, 3, dtype=table.dtype, device=x.device)
        for corner in itertools.product((0, 1), repeat=3):
            row = table[row_index(layout, level, [cell[:, d].long() + corner[d] for d in range(3)])]
            wx, wy, wz = (frac[:, d] if corner[d] else 1 - frac[:, d] for d in range(3))
            sx, sy, sz = (scale if side else -scale for side in corner)
            value = value + (wx * wy * wz)[:, None] * row
            side = torch.stack([sx * wy * wz, sy * wx * wz, sz * wx * wy], 1)
            slope = slope + row[:, :, None] * side[:, None, :]
        features.append(value * level_weight[level])
        jacobians.append(slope * level_weight[level])
    return torch.cat(features, 1), torch.cat(jacobians, 1)


Pull = Callable[[Float[Tensor, "n n_encoded"]], Float[Tensor, "n 3"]]
"""g -> J^T g."""


def pull_by(jacobian: Float[Tensor, "n n_encoded 3"]) -> Pull:
    """The function g -> J^T g of a Jacobian that is written out."""
    return lambda g: (jacobian * g[:, :, None]).sum(1)


class ReferenceGrid:
    """The plain reference behind the engines' interface (`recon.surface.engine.Grid`)."""

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout

    def encode(
        self,
        table: Float[Tensor, "n_rows n_features"],
        x: Float[Tensor, "n 3"],
        level_weight: Float[Tensor, " n_levels"],
    ) -> tuple[Float[Tensor, "n n_encoded"], Pull]:
        features, jacobian = encode_reference(self.layout, table, x.detach(), level_weight)
        return features, pull_by(jacobian)

    @torch.no_grad()
    def features(
        self,
        table: Float[Tensor, "n_rows n_features"],
        x: Float[Tensor, "n 3"],
        level_weight: Float[Tensor, " n_levels"],
    ) -> Float[Tensor, "n n_encoded"]:
        return encode_reference(self.layout, table, x, level_weight)[0]
