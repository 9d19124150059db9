"""A voxel grid over the looked-at region, and its passage into the photos and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numba import njit, prange
from scipy import ndimage

from recon.isolate.frames import Frame


@dataclass(frozen=True)
class Grid:
    """Cubic voxels in a frame of its own (its third axis leaves the support plane)."""

    world_from_grid: Float64[np.ndarray, "3 3"]
    """Rotation; columns are the grid's axes in world."""
    low: Float64[np.ndarray, "3"]
    """The lowest corner, in rotated coordinates."""
    edge: float
    """Edge length of a voxel in world units."""
    shape: tuple[int, int, int]

    def points_world(self, index: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        """World positions of (fractional) voxel indices; +0.5 is a voxel's centre."""
        return (index * self.edge + self.low) @ self.world_from_grid.T

    def pixel_from_index(self, frame: Frame) -> Float64[np.ndarray, "3 4"]:
        """Homogeneous pixel from voxel index."""
        out = np.eye(4)
        out[:3, :3] = self.world_from_grid * self.edge
        out[:3, 3] = self.world_from_grid @ self.low
        return frame.matrix() @ out


def grid_over(
    low: Float64[np.ndarray, "3"], high: Float64[np.ndarray, "3"], world_from_grid: Float64[np.ndarray, "3 3"], n: int
) -> Grid:
    """A grid over a box given in rotated coordinates, about `n`^3 voxels in all."""
    size = np.maximum(high - low, 1e-9)
    edge = float(np.cbrt(np.prod(size)) / n)
    shape = tuple(int(x) for x in np.maximum(1, np.ceil(size / edge)))
    return Grid(world_from_grid, np.asarray(low, float), edge, shape)  # type: ignore[arg-type]


@njit(fastmath=True, inline="always")  # type: ignore[untyped-decorator]
def _sample(image, projection, i, j, k, outside):  # type: ignore[no-untyped-def]
    """An image (bilinear) at the centre of voxel (i, j, k); `outside` where that is not in the photo."""
    h, w = image.shape
    x, y, z = i + 0.5, j + 0.5, k + 0.5
    d = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
    if d <= 1e-9:
        return outside
    u = (projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]) / d - 0.5
    v = (projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]) / d - 0.5
    if u < 0 or v < 0 or u >= w - 1 or v >= h - 1:
        return outside
    c, r = int(u), int(v)
    a, b = np.float32(u - c), np.float32(v - r)
    upper = image[r, c] * (1 - a) + image[r, c + 1] * a
    return upper * (1 - b) + (image[r + 1, c] * (1 - a) + image[r + 1, c + 1] * a) * b


@njit(parallel=True, fastmath=True, cache=True)  # type: ignore[untyped-decorator]
def gather(image, projection, shape, outside):  # type: ignore[no-untyped-def]
    """Sample an image at every voxel centre of a grid."""
    nx, ny, nz = shape
    out = np.empty((nx, ny, nz), np.float32)
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                out[i, j, k] = _sample(image, projection, i, j, k, outside)
    return out


@njit(parallel=True, fastmath=True, cache=True)  # type: ignore[untyped-decorator]
def gather_at(image, projection, index, outside):  # type: ignore[no-untyped-def]
    """Sample an image at the centres of some voxels, given by index."""
    out = np.empty(index.shape[0], np.float32)
    for n in prange(index.shape[0]):
        out[n] = _sample(image, projection, index[n, 0], index[n, 1], index[n, 2], outside)
    return out


@njit(nogil=True, fastmath=True, cache=True)  # type: ignore[untyped-decorator]
def splat(index, projection, h, w, half):  # type: ignore[no-untyped-def]
    """Paint voxels (given by index) as squares of their projected size into a silhouette."""
    out = np.zeros((h, w), np.uint8)
    for n in range(index.shape[0]):
        x, y, z = index[n, 0] + 0.5, index[n, 1] + 0.5, index[n, 2] + 0.5
        d = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
        if d <= 1e-9:
            continue
        u = (projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]) / d
        v = (projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]) / d
        r = half / d
        for row in range(max(0, int(np.ceil(v - r - 0.5))), min(h, int(np.floor(v + r - 0.5)) + 1)):
            for col in range(max(0, int(np.ceil(u - r - 0.5))), min(w, int(np.floor(u + r - 0.5)) + 1)):
                out[row, col] = 1
    return out


def shell_of(solid: Bool[np.ndarray, "i j k"]) -> Float32[np.ndarray, "n 3"]:
    """Indices of a solid's voxels that a silhouette needs: those that have a neighbour outside it."""
    return np.argwhere(solid & ~ndimage.binary_erosion(solid)).astype(np.float32)


def silhouette(grid: Grid, shell: Float32[np.ndarray, "n 3"], frame: Frame) -> Bool[np.ndarray, "h w"]:
    """Where a photo would show a solid of voxels, given by its shell."""
    h, w = frame.shape()
    # 0.6 of an edge: a cube's silhouette is wider than its side by up to sqrt(3), 1.2 on average.
    half = 0.6 * grid.edge * frame.camera.fx_px
    return splat(shell, grid.pixel_from_index(frame), h, w, half).astype(bool)


def seen_share(grid: Grid, frames: Sequence[Frame]) -> Float32[np.ndarray, "i j k"]:
    """In which share of the photos each voxel's centre lies within the picture."""
    total = np.zeros(grid.shape, np.float32)
    for frame in frames:
        ones = np.ones(frame.shape(), np.float32)
        total += gather(ones, grid.pixel_from_index(frame), grid.shape, np.float32(0))
    return total / len(frames)
