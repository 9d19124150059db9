"""The photos as the kernels read them: cropped to the object, with the mesh's depth and the distance to any edge.

All crops lie one after another in flat arrays, so that one kernel can walk through all the photos.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from numba import njit

from recon.camera import View
from recon.data import ObjectRegion, PosedCapture
from recon.stage import Job
from texturing.cells import Cells
from texturing.rasterize import raster_depth, run_blocks

MASK_INSIDE = 128
"""A mask value from here on is object."""
EDGE_UNIT = 8.0
"""Edge distances are kept in eighths of a pixel, in a byte: up to 31 px."""
SHIFT_GRID_PX = 8
"""The shifts of alignment vary slowly: one node of their grid every so many pixels."""


class PhotoStack(NamedTuple):
    """The crops of all photos, and where each one starts."""

    rgb: UInt8[np.ndarray, "n_px 3"]
    depth_z: Float32[np.ndarray, " n_px"]
    """Of the mesh at the pixel's centre; inf beside it."""
    edge: UInt8[np.ndarray, " n_px"]
    """Distance to the nearest mask border, silhouette or depth discontinuity, in px * EDGE_UNIT."""
    start: Int64[np.ndarray, " n_views"]
    window_px: Int64[np.ndarray, "n_views 4"]
    """x, y, width, height of each crop in its photo; width 0 where the photo shows nothing of the object."""
    pixel_from_world: Float64[np.ndarray, "n_views 3 4"]
    """K [R | t], so that depth_z * (u, v, 1) = pixel_from_world @ (x, y, z, 1)."""
    lut: Float32[np.ndarray, "n_views 3 256"]
    """The levelled value (0..1, sRGB's curve) of each 8-bit value; the photos' gains live here."""
    shift_px: Float32[np.ndarray, "n_nodes 2"]
    """Where a point really shows, less where the camera has it; node (0, 0) lies on the crop's corner."""
    shift_start: Int64[np.ndarray, " n_views"]
    shift_size: Int64[np.ndarray, "n_views 2"]
    """Columns, rows of each photo's grid of shifts."""
    depth_tolerance_world: float
    """A point this much behind the depth map still counts as seen."""


def load_photos(
    posed: PosedCapture, region: ObjectRegion, cells: Cells, depth_tolerance_world: float, job: Job
) -> PhotoStack:
    """Read, crop and stack the photos, with a z-buffer of `cells` and an edge-distance map for each.

    depth_tolerance_world: depths that differ by more than this between neighbouring pixels, beyond what a plane
    explains, are an edge.
    """
    parts: list[Any] = [None] * len(posed.views)

    def read(first: int, last: int) -> None:
        for i in range(first, last):
            parts[i] = _read_crop(posed, region, i, cells, depth_tolerance_world)

    n_views = len(posed.views)
    step = 8
    for lo in range(0, n_views, step):  # in small batches so that progress is told from the main thread
        run_blocks(read, [(i, i + 1) for i in range(lo, min(lo + step, n_views))])
        job.progress(0.25 * min(lo + step, n_views) / n_views, 1, "reading the photos")
    windows = np.array([p[0] for p in parts], np.int64)
    start = np.concatenate([[0], np.cumsum(windows[:, 2] * windows[:, 3])[:-1]]).astype(np.int64)
    matrices = np.stack([v.camera.matrix() @ v.cam_from_world.matrix()[:3] for v in posed.views])
    lut = np.broadcast_to(np.arange(256, dtype=np.float32) / 255, (n_views, 3, 256)).copy()
    rgb, depth, edge = (np.concatenate([p[k] for p in parts]) for k in (1, 2, 3))
    shift_size = windows[:, 2:] // SHIFT_GRID_PX + 2
    nodes = shift_size.prod(1)
    shift_start = np.cumsum(nodes) - nodes
    shift = np.zeros((int(nodes.sum()), 2), np.float32)
    return PhotoStack(
        rgb, depth, edge, start, windows, matrices, lut, shift, shift_start, shift_size, depth_tolerance_world
    )


def _read_crop(posed: PosedCapture, region: ObjectRegion, view_idx: int, cells: Cells, tolerance: float) -> tuple:
    view = posed.views[view_idx]
    pixels, depth_z = view.project(cells.joined_vertices_world)
    mask = (region.mask(view.name) >= MASK_INSIDE).astype(np.uint8)
    x, y, w, h = _window(view, pixels[depth_z > 1e-9], mask)
    if w == 0:
        return (0, 0, 0, 0), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32), np.zeros(0, np.uint8)
    depth_map = np.full((h, w), np.inf, np.float32)
    raster_depth(pixels - [x, y], depth_z, cells.joined_faces, depth_map)
    edge = edge_distance_px(depth_map, mask[y : y + h, x : x + w], tolerance)
    rgb = posed.image(view_idx)[y : y + h, x : x + w]
    quantised = np.minimum(edge * EDGE_UNIT, 255).astype(np.uint8)
    return (x, y, w, h), np.ascontiguousarray(rgb).reshape(-1, 3), depth_map.ravel(), quantised.ravel()


def _window(view: View, pixels: np.ndarray, mask: np.ndarray) -> tuple[int, int, int, int]:
    """The rectangle that holds both the mesh and the mask, with a border of 2 px; width 0 if there is none."""
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0 or len(pixels) == 0:
        return 0, 0, 0, 0
    lo = np.maximum(np.floor(pixels.min(0)).astype(int), [x, y]) - 2
    hi = np.minimum(np.ceil(pixels.max(0)).astype(int), [x + w, y + h]) + 2
    lo = np.maximum(lo, 0)
    hi = np.minimum(hi, [view.camera.width_px, view.camera.height_px])
    if (hi - lo < 4).any():
        return 0, 0, 0, 0
    return int(lo[0]), int(lo[1]), int(hi[0] - lo[0]), int(hi[1] - lo[1])


def edge_distance_px(
    depth_map: Float32[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], tolerance: float
) -> Float32[np.ndarray, "h w"]:
    """Distance of each pixel to the nearest pixel where the colour may belong to something else.

    Such pixels: off the mask, off the mesh, and on either side of a jump in depth. 1 / depth_z of a plane is linear
    in the image, so its second difference tells a jump from a steep surface.
    """
    safe = (mask > 0) & np.isfinite(depth_map)
    inverse = np.where(np.isfinite(depth_map), 1 / depth_map, 0).astype(np.float32)
    depth = np.where(safe, depth_map, 0)
    for axis in (0, 1):
        before, after = np.roll(inverse, 1, axis), np.roll(inverse, -1, axis)
        # d(1/z) = dz / z^2
        safe &= np.abs(before - 2 * inverse + after) * depth * depth < tolerance
    safe[[0, -1], :] = False
    safe[:, [0, -1]] = False
    distance: Float32[np.ndarray, "h w"] = cv2.distanceTransform(safe.astype(np.uint8), cv2.DIST_L2, 5)
    return distance


@njit(cache=True, nogil=True, inline="always")
def project_seen(stack, v, x, y, z):  # type: ignore[no-untyped-def]
    """Where camera v has world point (x, y, z) in its crop: column, row (pixel centres at 0.5), edge distance in px.

    The distance is -1 where the photo does not see the point.
    """
    m = stack.pixel_from_world
    depth = m[v, 2, 0] * x + m[v, 2, 1] * y + m[v, 2, 2] * z + m[v, 2, 3]
    if depth <= 1e-9:
        return 0.0, 0.0, -1.0
    column = (m[v, 0, 0] * x + m[v, 0, 1] * y + m[v, 0, 2] * z + m[v, 0, 3]) / depth - stack.window_px[v, 0]
    row = (m[v, 1, 0] * x + m[v, 1, 1] * y + m[v, 1, 2] * z + m[v, 1, 3]) / depth - stack.window_px[v, 1]
    w, h = stack.window_px[v, 2], stack.window_px[v, 3]
    if not (column >= 1.5 and row >= 1.5 and column < w - 1.5 and row < h - 1.5):
        return 0.0, 0.0, -1.0
    c, r = int(column - 0.5), int(row - 0.5)
    first = stack.start[v] + r * w + c
    # The farthest of the four neighbours, because the depth map steps at pixel centres on a steep surface.
    farthest = 0.0
    for k in (first, first + 1, first + w, first + w + 1):
        d = stack.depth_z[k]
        if d < np.inf and d > farthest:
            farthest = d
    if depth > farthest + stack.depth_tolerance_world:
        return column, row, -1.0
    fx, fy = column - 0.5 - c, row - 0.5 - r
    e = stack.edge
    upper = (1 - fx) * e[first] + fx * e[first + 1]
    lower = (1 - fx) * e[first + w] + fx * e[first + w + 1]
    return column, row, ((1 - fy) * upper + fy * lower) / EDGE_UNIT


@njit(cache=True, nogil=True, inline="always")
def look_up(stack, v, x, y, z):  # type: ignore[no-untyped-def]
    """Where world point (x, y, z) really shows in crop v, after alignment: else as `project_seen`."""
    column, row, edge_px = project_seen(stack, v, x, y, z)
    if edge_px <= 0:
        return column, row, edge_px
    gx, gy = column / SHIFT_GRID_PX, row / SHIFT_GRID_PX
    c, r = int(gx), int(gy)
    fx, fy = gx - c, gy - r
    n = stack.shift_size[v, 0]
    k = stack.shift_start[v] + r * n + c
    s = stack.shift_px
    w00, w10, w01, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    column += w00 * s[k, 0] + w10 * s[k + 1, 0] + w01 * s[k + n, 0] + w11 * s[k + n + 1, 0]
    row += w00 * s[k, 1] + w10 * s[k + 1, 1] + w01 * s[k + n, 1] + w11 * s[k + n + 1, 1]
    column = min(max(column, 1.5), stack.window_px[v, 2] - 1.5)
    row = min(max(row, 1.5), stack.window_px[v, 3] - 1.5)
    return column, row, edge_px


@njit(cache=True, nogil=True, inline="always")
def sample_colour(stack, v, column, row):  # type: ignore[no-untyped-def]
    """Bilinear levelled colour (r, g, b) of crop v at a place that `look_up` found."""
    c, r = int(column - 0.5), int(row - 0.5)
    fx, fy = column - 0.5 - c, row - 0.5 - r
    w = stack.window_px[v, 2]
    k = stack.start[v] + r * w + c
    w00, w10, w01, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    p, t = stack.rgb, stack.lut
    red = w00 * t[v, 0, p[k, 0]] + w10 * t[v, 0, p[k + 1, 0]]
    red += w01 * t[v, 0, p[k + w, 0]] + w11 * t[v, 0, p[k + w + 1, 0]]
    green = w00 * t[v, 1, p[k, 1]] + w10 * t[v, 1, p[k + 1, 1]]
    green += w01 * t[v, 1, p[k + w, 1]] + w11 * t[v, 1, p[k + w + 1, 1]]
    blue = w00 * t[v, 2, p[k, 2]] + w10 * t[v, 2, p[k + 1, 2]]
    blue += w01 * t[v, 2, p[k + w, 2]] + w11 * t[v, 2, p[k + w + 1, 2]]
    return red, green, blue
