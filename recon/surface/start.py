"""Where the fit starts: on the prior cloud where there is one, elsewhere inside what is left of the visual hull."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree
from torch import Tensor

from recon.data import ObjectRegion, PosedCapture, PriorCloud
from recon.surface.baked import BakedSdf
from recon.surface.hollows import hollow_share
from recon.surface.sampling_reference import trilinear
from recon.surface.visual_hull import support_points
from recon.transforms import Similarity

N_NEAREST = 8
"""Points whose planes' heights, by confidence and nearness, make a place's distance to the cloud."""
TRUSTED_CELLS, LOST_CELLS, ASIDE_CELLS = 2.0, 4.0, 2.0
"""How far from the cloud its distance counts fully, how far not at all, and how far beside its edge not at all; in
cells of the first baked grid."""
HELD_BAND = 0.1
"""How far to either side of the surface the start is held, in edges of the unit cube."""


@dataclass(frozen=True)
class Cloud:
    """Points on the surface as far as it is known beforehand, in the unit cube."""

    points: Float[np.ndarray, "n 3"]
    """Prior points, then those on the support plane that close the underside."""
    normals: Float[np.ndarray, "n 3"]
    confidence: Float[np.ndarray, " n"]
    n_prior: int
    """How many are prior points."""


@dataclass(frozen=True)
class Start:
    """The SDF that the fit starts from, on a grid."""

    grid: BakedSdf
    points: Float[Tensor, "n 3"]
    """The grid's points in and about the hull, those near the surface first, and of these those that no point of the
    cloud is near."""
    n_near: int
    """How many are near the surface ..."""
    n_unknown: int
    """... and of them without a point of the cloud."""

    def around(
        self, idx: Int64[Tensor, " n"], jitter: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """Places in the cells around some of the points, and the SDF there. jitter: 0..1, of each within its cell.

        At the points themselves a field with finer levels could obey and do as it likes in between.
        """
        at = self.points[idx] + (jitter - 0.5) * self.grid.cell
        return at, trilinear(self.grid, at)


def unit_cloud(
    posed: PosedCapture,
    region: ObjectRegion,
    prior: PriorCloud,
    unit_from_world: Similarity,
    support_confidence: float,
) -> Cloud:
    """The prior cloud and the underside's points, of a confidence of their own, in the unit cube."""
    below, below_normals = support_points(posed, region, region.diagonal() / 150)
    normals = np.concatenate([prior.normals_world, below_normals])
    return Cloud(
        unit_from_world.apply(np.concatenate([prior.points_world, below])),
        normals @ unit_from_world.rotation.T,
        np.concatenate([prior.confidence, np.full(len(below), support_confidence)]),
        len(prior.points_world),
    )


def room(hull: Float32[np.ndarray, "nx ny nz"], wanted: float, cell: float) -> Float32[np.ndarray, "nx ny nz"]:
    """How far inside the visual hull one may go around each of a grid's points: as far as wanted, but so that a cell
    of the thickest part about there is left. hull: distances to it."""
    reach = 2 * int(np.ceil(wanted / cell) + 1) + 1
    deepest: Float32[np.ndarray, "nx ny nz"] = maximum_filter(-hull, size=reach)
    return np.clip(deepest - np.float32(cell), np.float32(0), np.float32(wanted))


def inset(hull: Float32[np.ndarray, "nx ny nz"], wanted: float, cell: float) -> Float32[np.ndarray, "nx ny nz"]:
    """How far inside the visual hull to start around each of a grid's points: as far as there is room for where a
    hollow may lie under it, not at all where none can."""
    return room(hull, wanted, cell) * hollow_share(hull, cell)


def start_distance(
    at: Float32[np.ndarray, "n 3"],
    hull: Float32[np.ndarray, " n"],
    inside: Float32[np.ndarray, " n"],
    cloud: Cloud,
    cell: float,
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Signed distances (unit lengths) at places to the surface to start from, and what share of each the cloud tells.

    They are those to the planes of the nearest points of the cloud, and where it has none those to the visual hull,
    moved inwards: a surface grows out to the masks more readily than it digs in. Where the surface is known there is
    nothing to grow, and what moves there drags its surroundings along.

    hull: distances to the visual hull at the places; inside: how far to move that inwards there; cell: of the grid
    that the places are on.
    """
    start, known = hull + inside, np.zeros(len(at), np.float32)
    used = np.flatnonzero(cloud.confidence > 0)
    if len(used) == 0:
        return start, known
    reach = cell * max(LOST_CELLS, float(inside.max()) / cell + TRUSTED_CELLS)
    near, distance, plane = plane_heights(at, cloud, used, reach, cell)
    # beside the cloud's edge its planes say nothing
    aside = np.sqrt(np.maximum(distance**2 - plane**2, 0)) / cell
    trust = np.clip((LOST_CELLS - distance / cell) / (LOST_CELLS - TRUSTED_CELLS), 0, 1)
    trust *= np.clip(ASIDE_CELLS - aside, 0, 1)
    start[near] += (trust * (plane - start[near])).astype(np.float32)
    known[near] = trust
    # below what is known, where the hull is that surface and not another, moving it far inwards would leave a cave
    solid = (plane < 0) & (aside < ASIDE_CELLS) & (hull[near] < plane + cell / 2)
    ceiling = np.where(solid, np.maximum(plane, -cell), np.inf)
    start[near] = np.minimum(start[near], ceiling.astype(np.float32))
    return start, known


def plane_heights(
    at: Float32[np.ndarray, "n 3"], cloud: Cloud, used: Int64[np.ndarray, " m"], reach: float, cell: float
) -> tuple[Int64[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Which places have a point of the cloud within reach, how far the nearest is, and how high above the planes of
    the nearest few each of them lies."""
    points, normals, confidence = cloud.points[used], cloud.normals[used], cloud.confidence[used]
    distance, nearest = cKDTree(points).query(at, N_NEAREST, workers=-1, distance_upper_bound=reach)
    near = np.flatnonzero(np.isfinite(distance[:, 0]))
    distance, found = distance[near], np.isfinite(distance[near])
    which = np.where(found, nearest[near], 0)
    height = ((at[near, None] - points[which]) * normals[which]).sum(-1)
    # the other side of a sheet is not this surface
    same_side = (normals[which] * normals[which[:, :1]]).sum(-1) > 0
    nearness = np.exp(-(((np.where(found, distance, 0) - distance[:, :1]) / cell) ** 2))
    weight = np.where(found & same_side, confidence[which] * nearness, 0)
    return near, distance[:, 0], (weight * height).sum(1) / weight.sum(1)


def make_start(
    grid: BakedSdf, node_idx: Int64[Tensor, " n"], distance: Float32[np.ndarray, " n"], known: Float32[np.ndarray, " n"]
) -> Start:
    """A start of distances at some of a grid's points, elsewhere what the grid has; its own values stay as they are.

    node_idx: of the points; known: share of each distance that a cloud tells.
    """
    near = np.abs(distance) < HELD_BAND
    unknown = near & (known < 0.5)
    order = np.concatenate([np.flatnonzero(part) for part in (unknown, near & ~unknown, ~near)])
    device = grid.values.device
    values = grid.values.clone()
    values.reshape(-1)[node_idx] = torch.from_numpy(distance).to(device)
    points = grid.points()[node_idx[torch.from_numpy(order).to(device)]]
    return Start(BakedSdf(grid.origin, grid.cell, values), points, int(near.sum()), int(unknown.sum()))
