"""Space that no camera sees past the current surface: it is taken as solid, so that no cave grows there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from recon.surface.baked import BakedSdf
from recon.surface.pixels import UnitCameras

HIDDEN_SLACK = 0.02
"""How far the surface may move inwards freely, in edges of the unit cube."""
N_SIDE_PX = 128
"""Longer side of the traced depth images: about a pixel to a cell of the baked grid on an object that fills them."""


@dataclass(frozen=True)
class HiddenSpace:
    """Points of a grid that no camera sees past the current surface."""

    points: Float32[Tensor, "n 3"]
    depth: Float32[Tensor, " n"]
    """Distance to the nearest seen point, in unit lengths."""
    cell: float
    """Edge of the grid."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain values."""
        return {"points": self.points, "depth": self.depth, "cell": self.cell}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> HiddenSpace:
        return HiddenSpace(state["points"], state["depth"], state["cell"])

    def to(self, device: torch.device) -> HiddenSpace:
        """The same on another device."""
        return HiddenSpace(self.points.to(device), self.depth.to(device), self.cell)


def hidden_depth(
    baked: BakedSdf,
    inside: Bool[np.ndarray, " n_nodes"],
    cameras: UnitCameras,
    planes: Float32[Tensor, "n_planes 4"],
) -> Float32[np.ndarray, " n_nodes"]:
    """How far from the nearest point that a camera sees each of a grid's points lies, in unit lengths; 0 where seen.

    All but that distance is found on the grid's device.
    inside: which of the grid's points, z fastest, can belong to the object; others count as seen.
    """
    if baked.values.device.type == "cpu":
        from recon.surface.hidden_cpu import find_seen
    else:
        from recon.surface.hidden_reference import find_seen_reference as find_seen
    hidden = inside & ~find_seen(baked, cameras, planes).cpu().numpy()
    depth_cells = distance_transform_edt(hidden.reshape(tuple(baked.values.shape))).reshape(-1)
    return (depth_cells * baked.cell).astype(np.float32)


def find_hidden(
    baked: BakedSdf,
    inside: Bool[np.ndarray, " n_nodes"],
    cameras: UnitCameras,
    planes: Float32[Tensor, "n_planes 4"],
) -> HiddenSpace:
    """The points of those for `hidden_depth` that no camera sees, on the grid's device."""
    device = baked.values.device
    depth = hidden_depth(baked, inside, cameras, planes)
    chosen = np.flatnonzero(depth)
    points = baked.points()[torch.from_numpy(chosen).to(device)]
    return HiddenSpace(points, torch.from_numpy(depth[chosen]).to(device), baked.cell)
