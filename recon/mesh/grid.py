"""Sampling a signed distance on a regular grid, finely only where the surface is, and its marching cubes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from numba import njit, prange

from recon.transforms import Rigid

Sdf = Callable[[Float64[np.ndarray, "n 3"]], Float[np.ndarray, " n"]]
"""Signed distances at points_world, in world units, positive outside."""
Progress = Callable[[float], None]
"""Called with the share done, 0..1."""

CHUNK = 200_000
"""Points per call of the SDF: keeps a network's intermediate arrays at some hundred MB."""
COARSE_CELLS = 40
"""Cells on the longest side at the coarsest level, at least; fewer could step over a thin leg."""
SLACK = 1.5
"""How far a learned distance may exceed the true one before a cell with surface in it is missed."""
FAST = {"contract", "nnan", "ninf", "nsz"}
"""Fast math without reordered sums, with which code just compiled and code from the cache differ in bits."""


@dataclass(frozen=True)
class Grid:
    """Nodes of a regular grid along a box's axes."""

    world_from_box: Rigid
    lowest_box: Float64[np.ndarray, "3"]
    """The first node, in the box's frame."""
    cell: float
    """Edge length of a cell, in world units."""
    n_cells: tuple[int, int, int]
    n_halvings: int
    """The coarsest level has cells of cell * 2**n_halvings."""

    def points_world(self, node: Int[np.ndarray, "n 3"], step: int) -> Float64[np.ndarray, "n 3"]:
        """World positions of nodes of the level whose cells are `step` cells wide."""
        return self.world_from_box.apply(self.lowest_box + node * (self.cell * step))


def make_grid(
    world_from_box: Rigid, corners_world: Float64[np.ndarray, "n 3"], cell: float, max_resolution: int
) -> Grid:
    """The grid around some points with two cells to spare, its cells enlarged where it would exceed a resolution."""
    corners = world_from_box.inverse().apply(corners_world)
    low, high = corners.min(0), corners.max(0)
    cell = max(cell, float((high - low).max()) / max_resolution)
    n_longest = float((high - low).max()) / cell
    n_halvings = max(0, int(np.floor(np.log2(max(n_longest / COARSE_CELLS, 1)))))
    coarse = 2**n_halvings
    n_cells = np.ceil(((high - low) / cell + 4) / coarse).astype(int) * coarse
    lowest = (low + high) / 2 - n_cells * cell / 2
    return Grid(world_from_box, lowest, cell, (int(n_cells[0]), int(n_cells[1]), int(n_cells[2])), n_halvings)


@njit(fastmath=FAST, inline="always")
def _height(plane: np.ndarray, point: np.ndarray) -> float:
    return plane[0] * point[0] + plane[1] * point[1] + plane[2] * point[2] + plane[3]


@njit(parallel=True, fastmath=FAST, cache=True)
def distance_to_planes(
    points: Float64[np.ndarray, "n 3"], planes: Float64[np.ndarray, "m 4"]
) -> Float32[np.ndarray, " n"]:
    """max over half-spaces (n, d) of n . x + d: negative inside all of them, a lower bound of the distance outside.

    There must be at least one half-space.
    """
    out = np.empty(len(points), np.float32)
    for i in prange(len(points)):
        best = _height(planes[0], points[i])
        for j in range(1, len(planes)):
            best = max(best, _height(planes[j], points[i]))
        out[i] = best
    return out


def sample(
    sdf: Sdf, planes: Float64[np.ndarray, "m 4"], grid: Grid, progress: Progress
) -> Float32[np.ndarray, "x y z"]:
    """Signed distances at all nodes, cut by half-spaces: exact near the surface, interpolated elsewhere.

    Level by level the cells are halved, and only nodes of cells that may hold surface are evaluated: a cell may where
    a corner is nearer to the surface than half the cell's diagonal (times SLACK) or where its corners' signs differ.
    planes: (n, d) with unit n; outside any of them everything counts as outside, so the surface closes there.
    Raises ValueError if the SDF is not finite.
    """
    step = 2**grid.n_halvings
    shape = tuple(n // step + 1 for n in grid.n_cells)
    wanted = np.ones(shape, bool)
    values = np.full(shape, np.inf, np.float32)
    # Each level has about four times the nodes of the one before.
    shares = np.cumsum(4.0 ** np.arange(grid.n_halvings + 1))
    shares = np.concatenate([[0], shares / shares[-1]])
    for level in range(grid.n_halvings + 1):
        done, share = float(shares[level]), float(shares[level + 1] - shares[level])
        _evaluate(values, wanted, sdf, planes, grid, step, partial(_report, progress, done, share))
        if step > 1:
            cells = _may_hold_surface(values, 0.5 * np.sqrt(3) * grid.cell * step * SLACK)
            values, wanted, step = _doubled(values), _nodes_of(cells), step // 2
    return values


def _report(progress: Progress, done: float, share: float, of_level: float) -> None:
    progress(done + share * of_level)


def _evaluate(
    values: Float32[np.ndarray, "x y z"],
    wanted: Bool[np.ndarray, "x y z"],
    sdf: Sdf,
    planes: Float64[np.ndarray, "m 4"],
    grid: Grid,
    step: int,
    progress: Progress,
) -> None:
    """Replace the wanted nodes of one level by exact values, in place."""
    nodes = np.flatnonzero(wanted)
    flat = values.reshape(-1)
    for start in range(0, len(nodes), CHUNK):
        idx = nodes[start : start + CHUNK]
        points = grid.points_world(np.stack(np.unravel_index(idx, values.shape), -1), step)
        cut = distance_to_planes(points, planes)
        # Far outside the half-spaces the SDF was never trained and cannot matter.
        near = cut < 2 * grid.cell * step
        if near.any():
            cut[near] = np.maximum(cut[near], sdf(points[near]))
        if not np.isfinite(cut).all():
            raise ValueError("the signed distance is not finite")
        flat[idx] = cut
        progress((start + len(idx)) / len(nodes))


def _corners(values: np.ndarray) -> list[np.ndarray]:
    """Views of the eight corners of every cell."""
    ends = (slice(None, -1), slice(1, None))
    return [values[i, j, k] for i in ends for j in ends for k in ends]


def _may_hold_surface(values: Float32[np.ndarray, "x y z"], reach: float) -> Bool[np.ndarray, "cx cy cz"]:
    lowest = np.minimum.reduce(_corners(values))
    highest = np.maximum.reduce(_corners(values))
    return (lowest < reach) & (highest > -reach)


def _doubled(values: Float32[np.ndarray, "x y z"]) -> Float32[np.ndarray, "x2 y2 z2"]:
    """The next finer level by linear interpolation."""
    for axis in range(3):
        coarse = np.moveaxis(values, axis, 0)
        fine = np.empty((2 * len(coarse) - 1, *coarse.shape[1:]), np.float32)
        fine[::2] = coarse
        fine[1::2] = 0.5 * (coarse[:-1] + coarse[1:])
        values = np.moveaxis(fine, 0, axis)
    return np.ascontiguousarray(values)


def _nodes_of(cells: Bool[np.ndarray, "cx cy cz"]) -> Bool[np.ndarray, "x y z"]:
    """The nodes, at the next finer level, of some cells."""
    nodes = np.zeros([2 * n + 1 for n in cells.shape], bool)
    for i in range(3):
        for j in range(3):
            for k in range(3):
                part = tuple(slice(o, o + 2 * n - 1, 2) for o, n in zip((i, j, k), cells.shape, strict=True))
                nodes[part] |= cells
    return nodes


def fill_underside(values: Float32[np.ndarray, "x y z"], height: Float64[np.ndarray, " z"], max_height: float) -> int:
    """Fill dents in the underside of a standing object that no camera can look into, in place.

    height: of each layer of nodes above the support plane (world units). A node is filled where, in its layer, the
    object closes a ring around it, and where the object also covers it from above: light cannot get there. Fills up
    to max_height above the plane. Returns how many nodes were filled.
    """
    from scipy.ndimage import binary_fill_holes

    inside = values < 0
    covered = np.logical_or.accumulate(inside[:, :, ::-1], axis=2)[:, :, ::-1]
    n_filled = 0
    for k in np.flatnonzero((height > 0) & (height <= max_height)):
        hole = binary_fill_holes(inside[:, :, k]) & ~inside[:, :, k] & covered[:, :, k]
        # The height itself as distance puts the flat cap exactly onto the plane.
        values[:, :, k][hole] = -height[k]
        n_filled += int(hole.sum())
    return n_filled


def marching_cubes(
    values: Float32[np.ndarray, "x y z"], grid: Grid
) -> tuple[Float64[np.ndarray, "n 3"], Int[np.ndarray, "m 3"]]:
    """The zero set as a closed triangle mesh in world, outward oriented (Lewiner et al. 2003)."""
    from skimage.measure import marching_cubes as lewiner

    closed = values
    for axis in range(3):  # positive on all six sides, so that no surface runs out of the grid
        side = np.moveaxis(closed, axis, 0)
        side[0], side[-1] = np.maximum(side[0], grid.cell), np.maximum(side[-1], grid.cell)
    vertices, faces, _, _ = lewiner(closed, 0.0, gradient_direction="descent")
    vertices_world = grid.world_from_box.apply(grid.lowest_box + vertices.astype(np.float64) * grid.cell)
    return vertices_world, faces.astype(np.int64)
