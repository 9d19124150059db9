"""The patches' fast CPU kernels (numba), twins of the plain ones in `patch_match.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from recon.surface.baked import BakedSdf
from recon.surface.hashgrid_cpu import FAST
from recon.surface.patch_match import DEEP_CELLS, FIRST_CELLS, NOT_COMPARED, STEP_CELLS, Matches, Patch, PatchPlaces
from recon.surface.patch_photos import PatchPhotos
from recon.surface.sampling import trilinear


@njit(fastmath=FAST, inline="always")
def _sample(grey, start, columns, rows, x, y):
    """Grey value at a position of a level's cut and its slopes; a negative value: not on the object."""
    px, py = x - 0.5, y - 0.5
    if not (px >= 0.0 and py >= 0.0 and px < columns - 1 and py < rows - 1):
        return -1.0, 0.0, 0.0
    i, j = int(px), int(py)
    at = start + j * columns + i
    a, b, c, d = grey[at], grey[at + 1], grey[at + columns], grey[at + columns + 1]
    if a == 0 or b == 0 or c == 0 or d == 0:
        return -1.0, 0.0, 0.0
    fx, fy = px - i, py - j
    a, b, c, d = float(a), float(b), float(c), float(d)
    top, low = a + fx * (b - a), c + fx * (d - c)
    return top + fy * (low - top), (b - a) + fy * ((d - c) - (b - a)), low - top


@njit(fastmath=FAST)
def _gather_reference(pyramid, cameras, look, at_px, view, level, patch, rays, values, weights):
    """Fill the reference patch's rays (per pixel, z_cam = 1, in the unit frame), values and weights.

    The weights sum to 1. Returns the share of the patch that lies on the object.
    """
    n = patch.pattern_px.shape[0]
    start, columns, rows = pyramid.offset[view, level], pyramid.size[view, level, 0], pyramid.size[view, level, 1]
    left, top = pyramid.corner[view, level, 0], pyramid.corner[view, level, 1]
    k, scale = cameras.intrinsics[view], float(1 << level)
    share = 0.0
    for i in range(n):
        u, v = at_px[0] / scale + patch.pattern_px[i, 0], at_px[1] / scale + patch.pattern_px[i, 1]
        value, _, _ = _sample(pyramid.grey, start, columns, rows, u - left, v - top)
        x, y = (u * scale - k[2]) / k[0], (v * scale - k[3]) / k[1]
        for d in range(3):
            rays[i, d] = look[d, 0] * x + look[d, 1] * y + look[d, 2]
        if value < 0:
            values[i], weights[i] = 0.0, 0.0
            continue
        values[i], weights[i] = value, patch.nearness[i]
        share += weights[i]
    for i in range(n):
        weights[i] /= max(share, 1e-6)
    return share


@njit(fastmath=FAST)
def _homography(cameras, view, source, plane, h, e):
    """Fill h (3, 3), from the reference's unit-frame rays to the source's pixels, and e: h = K_s R_s + e plane^T."""
    k = cameras.intrinsics[source]
    for c in range(3):
        x, y, z = cameras.rotation[source, c, 0], cameras.rotation[source, c, 1], cameras.rotation[source, c, 2]
        h[0, c], h[1, c], h[2, c] = k[0] * x + k[2] * z, k[1] * y + k[3] * z, z
    for r in range(3):
        e[r] = 0.0
        for c in range(3):
            e[r] += h[r, c] * (cameras.centre[view, c] - cameras.centre[source, c])
    for r in range(3):
        for c in range(3):
            h[r, c] += e[r] * plane[c]


@njit(fastmath=FAST)
def _source_level(h, ray, across, down, level, n_levels):
    """The level of the source on which a reference pixel of `level` covers about one pixel.

    across, down: change of the ray by a reference pixel of level 0.
    """
    z = h[2, 0] * ray[0] + h[2, 1] * ray[1] + h[2, 2] * ray[2]
    if abs(z) < 1e-9:  # beside the source: nothing is compared, and nothing may be infinite
        return 0
    u = (h[0, 0] * ray[0] + h[0, 1] * ray[1] + h[0, 2] * ray[2]) / z
    v = (h[1, 0] * ray[0] + h[1, 1] * ray[1] + h[1, 2] * ray[2]) / z
    j = np.zeros((2, 2))
    for c in range(3):
        j[0, 0] += (h[0, c] - u * h[2, c]) * across[c]
        j[1, 0] += (h[1, c] - v * h[2, c]) * across[c]
        j[0, 1] += (h[0, c] - u * h[2, c]) * down[c]
        j[1, 1] += (h[1, c] - v * h[2, c]) * down[c]
    area = abs(j[0, 0] * j[1, 1] - j[0, 1] * j[1, 0]) / (z * z)
    return min(max(math.floor(level + 0.5 * math.log2(min(max(area, 1e-9), 1e9)) + 0.5), 0), n_levels - 1)


@njit(fastmath=FAST)
def _compare(pyramid, source, level, h, e, patch, rays, values, weights, warped, slopes, out):
    """1 - NCC of the patch in one source into out[0], its slopes with respect to the plane into out[1:4], and its mean
    grey level there into out[4].

    Returns False where too little of the patch lies on the object in the source.
    """
    n = rays.shape[0]
    start, columns, rows = pyramid.offset[source, level], pyramid.size[source, level, 0], pyramid.size[source, level, 1]
    left, top, scale = pyramid.corner[source, level, 0], pyramid.corner[source, level, 1], float(1 << level)
    total, mean_r, mean_s = 0.0, 0.0, 0.0
    for i in range(n):
        warped[i] = -1.0
        if weights[i] == 0.0:
            continue
        z = h[2, 0] * rays[i, 0] + h[2, 1] * rays[i, 1] + h[2, 2] * rays[i, 2]
        if z <= 1e-9:
            return False
        u = (h[0, 0] * rays[i, 0] + h[0, 1] * rays[i, 1] + h[0, 2] * rays[i, 2]) / z
        v = (h[1, 0] * rays[i, 0] + h[1, 1] * rays[i, 1] + h[1, 2] * rays[i, 2]) / z
        warped[i], gx, gy = _sample(pyramid.grey, start, columns, rows, u / scale - left, v / scale - top)
        if warped[i] < 0:
            continue
        slopes[i] = (gx * (e[0] - u * e[2]) + gy * (e[1] - v * e[2])) / (z * scale)
        total += weights[i]
        mean_r += weights[i] * values[i]
        mean_s += weights[i] * warped[i]
    if total < patch.least_common:
        return False
    mean_r, mean_s = mean_r / total, mean_s / total
    var_r, var_s, cross = 0.0, 0.0, 0.0
    for i in range(n):
        if warped[i] >= 0:
            r, s, w = values[i] - mean_r, warped[i] - mean_s, weights[i] / total
            var_r, var_s, cross = var_r + w * r * r, var_s + w * s * s, cross + w * r * s
    var_r, var_s = var_r + patch.noise_variance, var_s + patch.noise_variance
    norm = 1.0 / math.sqrt(var_r * var_s)
    out[0], out[1], out[2], out[3] = 1.0 - cross * norm, 0.0, 0.0, 0.0
    out[4] = mean_s
    for i in range(n):
        if warped[i] >= 0:
            r, s, w = values[i] - mean_r, warped[i] - mean_s, weights[i] / total
            pull = w * (cross * norm * s / var_s - norm * r) * slopes[i]
            for d in range(3):
                out[1 + d] += pull * rays[i, d]
    return True


@njit(parallel=True, fastmath=FAST, cache=True)
def _match(pyramid, cameras, patch, view, at_px, level, sources, plane, cost, slope, texture, grey, source_grey):
    n_pixels, n_levels = patch.pattern_px.shape[0], pyramid.offset.shape[1]
    for r in prange(view.shape[0]):
        rays, h, e = np.empty((n_pixels, 3)), np.empty((3, 3)), np.empty(3)
        values, weights = np.empty(n_pixels), np.empty(n_pixels)
        warped, slopes, out = np.empty(n_pixels), np.empty(n_pixels), np.empty(5)
        look = cameras.rotation[view[r]]
        k = cameras.intrinsics[view[r]]
        x, y = (at_px[r, 0] - k[2]) / k[0], (at_px[r, 1] - k[3]) / k[1]
        ray = look[:, 0] * x + look[:, 1] * y + look[:, 2]
        across, down = look[:, 0] / k[0], look[:, 1] / k[1]
        share = _gather_reference(
            pyramid, cameras, look, at_px[r], view[r], level[r], patch, rays, values, weights
        )  # fmt: skip
        if share < patch.least_common:
            continue
        mean = 0.0
        for i in range(n_pixels):
            mean += weights[i] * values[i]
        grey[r] = mean
        for i in range(n_pixels):
            texture[r] += weights[i] * (values[i] - mean) ** 2
        for s in range(sources.shape[1]):
            source = sources[r, s]
            if source < 0:
                continue
            _homography(cameras, view[r], source, plane[r], h, e)
            its_level = _source_level(h, ray, across, down, level[r], n_levels)
            if _compare(
                pyramid, source, its_level, h, e, patch, rays, values, weights, warped, slopes, out
            ):  # fmt: skip
                cost[r, s] = out[0]
                slope[r, s] = out[1:4]
                source_grey[r, s] = out[4]


def _arrays(group: Any) -> Any:
    """The same named tuple with arrays instead of tensors."""
    return type(group)(*(x.numpy() if isinstance(x, Tensor) else x for x in group))


class _Match(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plane: Tensor, photos: PatchPhotos, patch: Patch, at: PatchPlaces) -> Matches:
        shape = tuple(at.sources.shape)
        cost, slope = np.full(shape, NOT_COMPARED, np.float32), np.zeros((*shape, 3), np.float32)
        texture, grey = np.zeros((2, shape[0]), np.float32)
        source_grey = np.zeros(shape, np.float32)
        groups = [_arrays(group) for group in (photos.pyramid, photos.cameras, patch)]
        _match(
            *groups, at.view_idx.numpy(), at.at_px.numpy(), at.level.numpy(), at.sources.numpy(),
            plane.detach().numpy(), cost, slope, texture, grey, source_grey,
        )  # fmt: skip
        ctx.save_for_backward(torch.from_numpy(slope))
        out = Matches(*(torch.from_numpy(x) for x in (cost, texture, grey, source_grey)))
        ctx.mark_non_differentiable(*out[1:])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (grads[0][..., None] * slope).sum(1), None, None, None


def match_cpu(plane: Float[Tensor, "n 3"], photos: PatchPhotos, patch: Patch, at: PatchPlaces) -> Matches:
    """`match_reference` by a numba kernel: on the CPU, the slope with respect to the plane written out."""
    return Matches(*_Match.apply(plane, photos, patch, at))


@njit(parallel=True, fastmath=FAST, cache=True)
def _see(values, origin, cell, points, normals, sources, centre, least_cosine, out):
    limit = np.array(values.shape) - 1
    for r in prange(points.shape[0]):
        for s in range(sources.shape[1]):
            source = sources[r, s]
            out[r, s] = -1
            if source < 0:
                continue
            d = centre[source] - points[r]
            d /= math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
            if d[0] * normals[r, 0] + d[1] * normals[r, 1] + d[2] * normals[r, 2] < least_cosine:
                continue
            out[r, s] = source
            x, d = (points[r] - origin) / cell + FIRST_CELLS * d, d * STEP_CELLS
            while x.min() >= 0 and (limit - x).min() >= 0:
                if trilinear(values, x[0], x[1], x[2]) < -DEEP_CELLS * cell:
                    out[r, s] = -1
                    break
                x += d


def visible_sources(
    baked: BakedSdf,
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    sources: Int[Tensor, "n n_sources"],
    centre: Float[Tensor, "n_views 3"],
    least_cosine: float,
) -> Int[Tensor, "n n_sources"]:
    """`visible_sources_reference` by a numba kernel."""
    out = torch.empty_like(sources)
    _see(
        baked.values.numpy(), baked.origin.numpy(), baked.cell, points.numpy(), normals.numpy(), sources.numpy(),
        centre.numpy(), least_cosine, out.numpy(),
    )  # fmt: skip
    return out
