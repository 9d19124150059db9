"""Which triangle lies under each texel of the atlas, and under each pixel of a photo (a z-buffer)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from numba import njit

from texturing.cells import Cells


class Texels(NamedTuple):
    """The atlas's used texels, row by row from the texture's top."""

    row: Int32[np.ndarray, " n"]
    column: Int32[np.ndarray, " n"]
    face: Int32[np.ndarray, " n"]
    """The cell under the texel's centre, or the nearest one that the texel's square touches."""
    barycentric: Float32[np.ndarray, "n 3"]
    """Of the cell's point nearest to the texel's centre; sums to 1."""


def every(texels: Texels, step: int) -> Texels:
    """One texel in `step`, spread evenly."""
    return Texels(*(values[::step] for values in texels))


def rasterize_atlas(cells: Cells, size_px: int) -> Texels:
    """Find the cell of every texel whose square touches a triangle (conservative by half a texel's diagonal).

    A bilinear lookup at a chart's border mixes texels whose centres lie just outside it; those are covered too.
    """
    corners = np.stack([cells.uv[:, 0] * size_px, (1 - cells.uv[:, 1]) * size_px], 1)[cells.faces]
    bands = _bands(size_px)
    face = np.full((size_px, size_px), -1, np.int32)
    barycentric = np.zeros((size_px, size_px, 3), np.float32)
    run_blocks(lambda lo, hi: _raster_rows(corners, lo, hi, face, barycentric), bands)
    row, column = np.nonzero(face >= 0)
    return Texels(row.astype(np.int32), column.astype(np.int32), face[row, column], barycentric[row, column])


def run_blocks(work, blocks) -> None:  # type: ignore[no-untyped-def]
    """Call `work(*block)` for all blocks on all threads that numba may use; kernels release the lock."""
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        for future in [pool.submit(work, *block) for block in blocks]:
            future.result()


def blocks_of(n: int, size: int = 65536) -> list[tuple[int, int]]:
    """Consecutive ranges (first, last + 1) that cover 0..n."""
    return [(lo, min(lo + size, n)) for lo in range(0, n, size)]


def _bands(size_px: int) -> list[tuple[int, int]]:
    n = 4 * numba.get_num_threads()
    return blocks_of(size_px, -(-size_px // n))


@njit(cache=True, nogil=True, inline="always")
def _nearest_on_edge(px, py, ax, ay, bx, by):  # type: ignore[no-untyped-def]
    dx, dy = bx - ax, by - ay
    length2 = dx * dx + dy * dy
    s = 0.0
    if length2 > 0:
        s = min(max(((px - ax) * dx + (py - ay) * dy) / length2, 0.0), 1.0)
    ex, ey = px - ax - s * dx, py - ay - s * dy
    return s, ex * ex + ey * ey


@njit(cache=True, nogil=True)
def _raster_rows(corners, first_row, last_row, face, barycentric):  # type: ignore[no-untyped-def]
    reach = 0.7072  # half a texel's diagonal: its square may touch the triangle
    gap2 = np.full((last_row - first_row, face.shape[1]), np.inf)
    for f in range(corners.shape[0]):
        ax, ay, bx, by = corners[f, 0, 0], corners[f, 0, 1], corners[f, 1, 0], corners[f, 1, 1]
        cx, cy = corners[f, 2, 0], corners[f, 2, 1]
        r0 = max(first_row, int(np.floor(min(ay, by, cy) - 0.5 - reach)))
        r1 = min(last_row - 1, int(np.ceil(max(ay, by, cy) - 0.5 + reach)))
        if r0 > r1:
            continue
        c0 = max(0, int(np.floor(min(ax, bx, cx) - 0.5 - reach)))
        c1 = min(face.shape[1] - 1, int(np.ceil(max(ax, bx, cx) - 0.5 + reach)))
        det = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        for r in range(r0, r1 + 1):
            for c in range(c0, c1 + 1):
                px, py = c + 0.5, r + 0.5
                w0, w1, w2, d2 = 1.0, 0.0, 0.0, np.inf
                if abs(det) > 1e-12:
                    w1 = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) / det
                    w2 = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) / det
                    w0 = 1 - w1 - w2
                    if w0 >= 0 and w1 >= 0 and w2 >= 0:
                        d2 = 0.0
                if d2 > 0:
                    s, d2 = _nearest_on_edge(px, py, ax, ay, bx, by)
                    w0, w1, w2 = 1 - s, s, 0.0
                    s, e2 = _nearest_on_edge(px, py, bx, by, cx, cy)
                    if e2 < d2:
                        w0, w1, w2, d2 = 0.0, 1 - s, s, e2
                    s, e2 = _nearest_on_edge(px, py, cx, cy, ax, ay)
                    if e2 < d2:
                        w0, w1, w2, d2 = s, 0.0, 1 - s, e2
                if d2 <= reach * reach and d2 < gap2[r - first_row, c]:
                    gap2[r - first_row, c] = d2
                    face[r, c] = f
                    barycentric[r, c, 0], barycentric[r, c, 1], barycentric[r, c, 2] = w0, w1, w2


@njit(cache=True, nogil=True)
def raster_depth(
    pixels: Float64[np.ndarray, "n_vertices 2"],
    depth_z: Float64[np.ndarray, " n_vertices"],
    faces: Int64[np.ndarray, "n_faces 3"],
    depth_map: Float32[np.ndarray, "h w"],
) -> None:
    """Lower `depth_map` (start: inf) to the nearest face at each pixel centre; 1/z is linear in the image.

    Faces with a corner behind the camera are left out: no camera stands inside its object.
    """
    h, w = depth_map.shape
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        if depth_z[i] <= 1e-9 or depth_z[j] <= 1e-9 or depth_z[k] <= 1e-9:
            continue
        ax, ay, bx, by, cx, cy = pixels[i, 0], pixels[i, 1], pixels[j, 0], pixels[j, 1], pixels[k, 0], pixels[k, 1]
        c0, c1 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5))), min(w - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        r0, r1 = max(0, int(np.ceil(min(ay, by, cy) - 0.5))), min(h - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        det = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if det == 0:
            continue
        za, zb, zc = 1 / depth_z[i], 1 / depth_z[j], 1 / depth_z[k]
        for r in range(r0, r1 + 1):
            for c in range(c0, c1 + 1):
                px, py = c + 0.5, r + 0.5
                w1 = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) / det
                w2 = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) / det
                if w1 >= -1e-9 and w2 >= -1e-9 and w1 + w2 <= 1 + 1e-9:
                    z = 1 / (za + w1 * (zb - za) + w2 * (zc - za))
                    if z < depth_map[r, c]:
                        depth_map[r, c] = z
