"""An SDF baked into a grid, that places the samples on rays."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float32
from torch import Tensor


class Placing(Enum):
    """How a ray's samples are placed."""

    baked = "baked"
    even = "even"


@dataclass
class BakedSdf:
    """SDF values at the points of a regular grid over a box of the unit cube."""

    origin: Float32[Tensor, "3"]
    cell: float
    values: Float32[Tensor, "nx ny nz"]

    def points(self) -> Float32[Tensor, "n 3"]:
        """The grid points' unit coordinates, z fastest."""
        steps = [torch.arange(n, dtype=torch.float32, device=self.values.device) for n in self.values.shape]
        axes = [self.origin[d] + self.cell * steps[d] for d in range(3)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)

    def flat(self) -> BakedSdf:
        """The same grid with no surface in it: samples placed by it are spread evenly over each ray."""
        return BakedSdf(self.origin, self.cell, torch.ones_like(self.values))

    def to(self, device: torch.device) -> BakedSdf:
        """The same on another device."""
        return BakedSdf(self.origin.to(device), self.cell, self.values.to(device))
