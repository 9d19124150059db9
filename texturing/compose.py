"""The colour of every texel: what all photos agree on for the broad tones, one photo for the detail."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numba import njit

from texturing.cells import Cells
from texturing.photos import PhotoStack, look_up, sample_colour
from texturing.rasterize import Texels, blocks_of, run_blocks
from texturing.visibility import edge_safety

GRID_PX = 4
"""The correction of a photo varies slowly, so it is kept at a quarter of the photo's size."""

MISSING_FROM, MISSING_FULL = 0.1, 0.4
"""Shares of a photo's local variance that the average may lack: from here it counts as blurred, here altogether."""


class Surface(NamedTuple):
    """What the texel kernels need of the mesh and of who sees it."""

    vertices_world: Float64[np.ndarray, "n_vertices 3"]
    faces: Int64[np.ndarray, "n_faces 3"]
    joined_faces: Int64[np.ndarray, "n_faces 3"]
    allowed: Bool[np.ndarray, "n_faces n_views"]
    """Photos that see the cell and were not rejected there."""
    weight: Float32[np.ndarray, "n_joined n_views"]
    """How well each photo sees the surface around each joined vertex."""
    margin_px: float


class Corrections(NamedTuple):
    """A slowly varying colour offset per photo that moves it to what the photos agree on."""

    offset: Float32[np.ndarray, "n_nodes 3"]
    start: Int64[np.ndarray, " n_views"]
    size: Int64[np.ndarray, "n_views 2"]
    """Columns, rows of each grid."""


def spread_to_vertices(
    cells: Cells, per_face: Float32[np.ndarray, "n_faces n_views"]
) -> Float32[np.ndarray, "n_joined n_views"]:
    """The area-weighted mean of a per-face value around each joined vertex, so that it varies without steps."""
    total = np.zeros((cells.n_joined, per_face.shape[1]), np.float32)
    area = np.zeros(cells.n_joined, np.float32)
    weighted = per_face * cells.areas[:, None].astype(np.float32)
    for k in range(3):
        corner = cells.joined_faces[:, k]
        np.add.at(area, corner, cells.areas.astype(np.float32))
        np.add.at(total, corner, weighted)
    return total / np.maximum(area, 1e-30)[:, None]


def average_photos(
    texels: Texels, surface: Surface, stack: PhotoStack, noise: float
) -> tuple[Float32[np.ndarray, "n 3"], Float32[np.ndarray, " n"]]:
    """The robust weighted mean colour of each texel over the photos that see it, and the weight behind it (0: unseen).

    Starts from the sample of median brightness and reweights by Cauchy's function with a scale of `noise` (sRGB,
    0..1) or more; brighter samples are trusted less, because highlights are bright.
    """
    n = len(texels.face)
    colour, total = np.zeros((n, 3), np.float32), np.zeros(n, np.float32)
    run_blocks(lambda lo, hi: _average(lo, hi, texels, surface, stack, noise, colour, total), blocks_of(n))
    return colour, total


@njit(cache=True, nogil=True, inline="always")
def texel_point(texels, surface, t):  # type: ignore[no-untyped-def]
    """The world position of a texel."""
    f = texels.face[t]
    b, p = texels.barycentric, surface.vertices_world
    i, j, k = surface.faces[f, 0], surface.faces[f, 1], surface.faces[f, 2]
    x = b[t, 0] * p[i, 0] + b[t, 1] * p[j, 0] + b[t, 2] * p[k, 0]
    y = b[t, 0] * p[i, 1] + b[t, 1] * p[j, 1] + b[t, 2] * p[k, 1]
    z = b[t, 0] * p[i, 2] + b[t, 1] * p[j, 2] + b[t, 2] * p[k, 2]
    return x, y, z


@njit(cache=True, nogil=True, inline="always")
def _at_texel(texels, surface, per_vertex, t, v):  # type: ignore[no-untyped-def]
    f = texels.face[t]
    i, j, k = surface.joined_faces[f, 0], surface.joined_faces[f, 1], surface.joined_faces[f, 2]
    b = texels.barycentric
    return b[t, 0] * per_vertex[i, v] + b[t, 1] * per_vertex[j, v] + b[t, 2] * per_vertex[k, v]


@njit(cache=True, nogil=True)
def _average(first, last, texels, surface, stack, noise, colour, total):  # type: ignore[no-untyped-def]
    n_views = surface.allowed.shape[1]
    samples, weights, brightness = np.empty((n_views, 3)), np.empty(n_views), np.empty(n_views)
    for t in range(first, last):
        f = texels.face[t]
        x, y, z = texel_point(texels, surface, t)
        n = 0
        for v in range(n_views):
            if not surface.allowed[f, v]:
                continue
            column, row, edge_px = look_up(stack, v, x, y, z)
            w = edge_safety(edge_px, surface.margin_px)
            if w <= 0:
                continue
            w *= _at_texel(texels, surface, surface.weight, t, v)
            if w <= 0:
                continue
            samples[n, 0], samples[n, 1], samples[n, 2] = sample_colour(stack, v, column, row)
            brightness[n] = samples[n, 0] + samples[n, 1] + samples[n, 2]
            weights[n] = w
            n += 1
        if n > 0:
            total[t] = weights[:n].sum()
            _robust_mean(samples[:n], weights[:n], brightness[:n], noise, colour[t])


@njit(cache=True, nogil=True)
def _robust_mean(samples, weights, brightness, noise, out):  # type: ignore[no-untyped-def]
    n = len(weights)
    order = np.argsort(brightness)
    half, run, middle = 0.5 * weights.sum(), 0.0, order[n - 1]
    for i in order:
        run += weights[i]
        if run >= half:
            middle = i
            break
    c0, c1, c2 = samples[middle, 0], samples[middle, 1], samples[middle, 2]
    for _ in range(4):
        s, s0, s1, s2 = 0.0, 0.0, 0.0, 0.0
        for i in range(n):
            d0, d1, d2 = samples[i, 0] - c0, samples[i, 1] - c1, samples[i, 2] - c2
            d = (d0 * d0 + d1 * d1 + d2 * d2) / (noise * noise)
            if d0 + d1 + d2 > 0:
                d *= 2.0
            w = weights[i] / (1 + d)
            s, s0, s1, s2 = s + w, s0 + w * samples[i, 0], s1 + w * samples[i, 1], s2 + w * samples[i, 2]
        c0, c1, c2 = s0 / s, s1 / s, s2 / s
    out[0], out[1], out[2] = c0, c1, c2


def photo_corrections(
    texels: Texels, surface: Surface, stack: PhotoStack, agreed: Float32[np.ndarray, "n 3"], radius_px: float
) -> Corrections:
    """The offset (agreed colour - photo) of each photo, smoothed over `radius_px` of the photo (Gaussian sigma).

    Added to the photo it replaces the photo's broad tones by the agreed ones and keeps its detail (two-band blending,
    after Burt and Adelson 1983, in the photo's own domain), so that no brightness step is left where two photos meet.
    """
    size = -(-stack.window_px[:, 2:] // GRID_PX) + 1
    count = size[:, 0] * size[:, 1]
    start = np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64)
    sums = np.zeros((int(count.sum()), 4), np.float32)
    n_px = max(int((stack.window_px[:, 2] * stack.window_px[:, 3]).max()), 1)
    stride = max(1, len(texels.face) // n_px)  # texels are finer than grid nodes; a fraction of them will do
    run_blocks(
        lambda v, _: _scatter_offsets(v, stride, texels, surface, stack, agreed, start, size, sums),
        [(v, v + 1) for v in range(len(start))],
    )
    sigma = radius_px / GRID_PX

    def smooth(v: int, _: int) -> None:
        part = slice(start[v], start[v] + count[v])
        if stack.window_px[v, 2] == 0:
            return
        grid = np.ascontiguousarray(sums[part].reshape(size[v, 1], size[v, 0], 4))
        blurred = cv2.GaussianBlur(grid, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        sums[part] = blurred.reshape(-1, 4)

    run_blocks(smooth, [(v, v + 1) for v in range(len(start))])
    # The small constant draws the offset to 0 where hardly a texel stands behind it.
    return Corrections(sums[:, :3] / (sums[:, 3:] + 1e-4), start, size.astype(np.int64))


@njit(cache=True, nogil=True)
def _scatter_offsets(v, stride, texels, surface, stack, agreed, start, size, sums):  # type: ignore[no-untyped-def]
    for t in range(v % stride, len(texels.face), stride):
        if not surface.allowed[texels.face[t], v]:
            continue
        x, y, z = texel_point(texels, surface, t)
        column, row, edge_px = look_up(stack, v, x, y, z)
        w = edge_safety(edge_px, surface.margin_px)
        if w <= 0:
            continue
        r, g, b = sample_colour(stack, v, column, row)
        k = start[v] + int(row / GRID_PX) * size[v, 0] + int(column / GRID_PX)
        sums[k, 0] += w * (agreed[t, 0] - r)
        sums[k, 1] += w * (agreed[t, 1] - g)
        sums[k, 2] += w * (agreed[t, 2] - b)
        sums[k, 3] += w


def blend_patches(
    texels: Texels,
    surface: Surface,
    stack: PhotoStack,
    corrections: Corrections,
    patch_weight: Float32[np.ndarray, "n_joined n_views"],
    agreed: Float32[np.ndarray, "n 3"],
) -> tuple[Float32[np.ndarray, "n 3"], Float32[np.ndarray, " n"]]:
    """Each texel from its patch's corrected photo, faded over one cell where patches meet; and the weight behind it.

    patch_weight: share of each photo around each vertex. Where no chosen photo sees a texel the agreed colour stays.
    """
    n = len(texels.face)
    colour, total = agreed.copy(), np.zeros(n, np.float32)
    args = (texels, surface, stack, corrections, patch_weight, colour, total)
    run_blocks(lambda lo, hi: _blend(lo, hi, *args), blocks_of(n))
    return colour, total


@njit(cache=True, nogil=True)
def _blend(first, last, texels, surface, stack, corrections, patch_weight, colour, total):  # type: ignore[no-untyped-def]
    n_views = surface.allowed.shape[1]
    for t in range(first, last):
        f = texels.face[t]
        x, y, z = texel_point(texels, surface, t)
        s, s0, s1, s2 = 0.0, 0.0, 0.0, 0.0
        for v in range(n_views):
            if not surface.allowed[f, v]:
                continue
            w = _at_texel(texels, surface, patch_weight, t, v)
            if w <= 0:
                continue
            column, row, edge_px = look_up(stack, v, x, y, z)
            w *= edge_safety(edge_px, surface.margin_px)
            if w <= 0:
                continue
            r, g, b = sample_colour(stack, v, column, row)
            o0, o1, o2 = _correction(corrections, v, column, row)
            s += w
            s0, s1, s2 = s0 + w * (r + o0), s1 + w * (g + o1), s2 + w * (b + o2)
        total[t] = s
        if s > 0:
            colour[t, 0], colour[t, 1], colour[t, 2] = s0 / s, s1 / s, s2 / s


def lost_detail(
    texels: Texels,
    cells: Cells,
    patches: Float32[np.ndarray, "n 3"],
    agreed: Float32[np.ndarray, "n 3"],
    seen: Bool[np.ndarray, " n"],
    noise: float,
) -> Float32[np.ndarray, " n"]:
    """0..1: how much of one photo's detail is missing from the average of all, around each texel.

    Where photos fit, their average is as sharp as one of them and cleaner; where they do not, it is blurred, and shows
    less variance around a vertex than the single photo does, by more than the photo's own `noise`.
    """
    corner = cells.joined_faces[texels.face]
    share = np.where(seen[:, None], texels.barycentric, 0).astype(float)
    total = np.maximum(_gather(corner, share, np.ones(len(seen)), cells.n_joined), 1e-9)
    variances = []
    for colour in (patches, agreed):
        grey = colour.mean(1, dtype=float)
        mean = _gather(corner, share, grey, cells.n_joined) / total
        variances.append(_gather(corner, share, grey**2, cells.n_joined) / total - mean**2)
    single, average = variances
    missing = (single - average - noise**2) / np.maximum(single, 1e-9)
    ramp = np.clip((missing - MISSING_FROM) / (MISSING_FULL - MISSING_FROM), 0, 1)
    at_vertices = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return np.einsum("nk,nk->n", texels.barycentric, at_vertices[corner])


def _gather(corner: np.ndarray, share: np.ndarray, value: np.ndarray, n_vertices: int) -> np.ndarray:
    """The sum of the texels' values at their cell's corners, each by its share."""
    out = np.zeros(n_vertices)
    for k in range(3):
        out += np.bincount(corner[:, k], share[:, k] * value, n_vertices)
    return out


@njit(cache=True, nogil=True, inline="always")
def _correction(corrections, v, column, row):  # type: ignore[no-untyped-def]
    w, h = corrections.size[v, 0], corrections.size[v, 1]
    gx = min(max(column / GRID_PX - 0.5, 0.0), w - 1.001)
    gy = min(max(row / GRID_PX - 0.5, 0.0), h - 1.001)
    c, r = int(gx), int(gy)
    fx, fy = gx - c, gy - r
    k = corrections.start[v] + r * w + c
    o = corrections.offset
    w00, w10, w01, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    o0 = w00 * o[k, 0] + w10 * o[k + 1, 0] + w01 * o[k + w, 0] + w11 * o[k + w + 1, 0]
    o1 = w00 * o[k, 1] + w10 * o[k + 1, 1] + w01 * o[k + w, 1] + w11 * o[k + w + 1, 1]
    o2 = w00 * o[k, 2] + w10 * o[k + 1, 2] + w01 * o[k + w, 2] + w11 * o[k + w + 1, 2]
    return o0, o1, o2
