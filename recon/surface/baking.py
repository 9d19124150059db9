"""Keeping the baked SDF in step with the field that is being trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from recon.data import ObjectRegion
from recon.surface.baked import BakedSdf
from recon.surface.field import Field
from recon.transforms import Similarity


def unit_from_region(region: ObjectRegion, margin: float = 0.02) -> Similarity:
    """The normaliser: the hull's world box scaled to the unit cube, its longest edge leaving `margin` at each side."""
    low, high = region.hull_vertices_world.min(0), region.hull_vertices_world.max(0)
    scale = (1 - 2 * margin) / float((high - low).max())
    return Similarity(scale, np.eye(3), 0.5 - scale * (low + high) / 2)


def sphere_directions(n: int) -> np.ndarray:
    """n unit vectors spread evenly over the sphere (Fibonacci lattice), (n, 3)."""
    k = np.arange(n) + 0.5
    z, turn = 1 - 2 * k / n, np.pi * (1 + 5**0.5) * k
    return np.stack([np.cos(turn) * np.sqrt(1 - z * z), np.sin(turn) * np.sqrt(1 - z * z), z], 1)


def unit_planes(region: ObjectRegion, unit_from_world: Similarity, n_directions: int = 120) -> np.ndarray:
    """A polytope of few half-spaces n . x + d <= 0 around the hull in the unit cube, (n_planes, 4) float32.

    A hull of thousands of faces would cost every ray thousands of tests; its supporting planes in evenly spread
    directions and along the axes bound it within a few per cent.
    """
    vertices = unit_from_world.apply(region.hull_vertices_world)
    normal = np.concatenate([sphere_directions(n_directions), np.eye(3), -np.eye(3)])
    offset = -(vertices @ normal.T).max(0)
    return np.concatenate([normal, offset[:, None]], 1).astype(np.float32)


def empty_bake(region: ObjectRegion, unit_from_world: Similarity, resolution: int) -> BakedSdf:
    """A grid of `resolution` cells along the unit cube's edge over the hull's box, one cell larger at each side."""
    vertices = unit_from_world.apply(region.hull_vertices_world)
    cell = 1.0 / resolution
    origin = vertices.min(0) - cell
    shape = np.ceil((vertices.max(0) + cell - origin) / cell).astype(int) + 1
    return BakedSdf(torch.from_numpy(origin.astype(np.float32)), cell, torch.ones(tuple(shape)))


@dataclass(frozen=True)
class Refresh:
    """What a refresh of the baked grid found, in edges of the unit cube."""

    lowest: float
    """The least fresh value ..."""
    highest: float
    """... and the largest."""
    moved: float
    """Median change of the SDF where it was within a cell of the surface; infinite where it was nowhere."""


class Baker:
    """Refreshes a baked grid from the field: all of the hull now and then, the band near the surface each time."""

    def __init__(
        self, region: ObjectRegion, unit_from_world: Similarity, resolution: int, device: torch.device
    ) -> None:
        self.resolution = resolution
        baked = empty_bake(region, unit_from_world, resolution)
        points = baked.points()
        outside = np.full(len(points), -1e9, np.float32)
        for plane in unit_planes(region, unit_from_world):
            np.maximum(outside, points.numpy() @ plane[:3] + plane[3], out=outside)
        self.outside = outside
        baked.values.reshape(-1)[:] = torch.from_numpy(outside).clamp(min=baked.cell)
        self.baked, self.points = baked.to(device), points.to(device)
        self.near_hull = torch.from_numpy(np.flatnonzero(outside < 1.8 * baked.cell)).to(device)

    def inside(self) -> Bool[np.ndarray, " n_nodes"]:
        """Which of the grid's points lie in the hull."""
        return self.outside < 0

    def refresh(self, field: Field, band_cells: float | None) -> Refresh:
        """Evaluate the field at all points of the hull, or only where the last bake lay within `band_cells`."""
        values = self.baked.values.reshape(-1)
        chosen = self.near_hull
        if band_cells is not None:
            chosen = chosen[values[chosen].abs() < band_cells * self.baked.cell]
        if len(chosen) == 0:  # the surface has left the band that was looked at
            return self.refresh(field, None)
        before, fresh = values[chosen], field.distance(self.points[chosen])
        values[chosen] = fresh
        change = (fresh - before).abs()[before.abs() < self.baked.cell]
        moved = float(change.median()) if len(change) else np.inf
        seen = Refresh(float(fresh.min()), float(fresh.max()), moved)
        one_sided = seen.lowest > 0 or seen.highest < 0
        return self.refresh(field, None) if one_sided and band_cells is not None else seen

    def state(self) -> dict[str, Any]:
        """What a resumed fit needs: between refreshes of the whole hull the grid remembers earlier fields."""
        return {"resolution": self.resolution, "values": self.baked.values}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.baked.values[:] = state["values"].to(self.baked.values.device)
