"""Slanted-plane refinement of a swept depth map (PatchMatch stereo, Bleyer et al. 2011).

Each pixel holds a plane as inverse depth, which is linear in pixel coordinates, with its two slopes. Scans in
alternating order try the neighbours' planes and shrinking random changes, and keep what matches better. The window is
weighted by likeness to its middle, so that it does not reach over edges, and follows the surface's slant, which
matters at the 15 to 25 degrees between photos of a ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numba import njit

from recon.prior.sag import window_spread_px
from recon.prior.sweep import NOISE_VARIANCE
from recon.prior.work_view import DepthMap, WorkView, relative_motion

COLOUR_SIGMA = 0.08
"""Grey difference (of 1) at which a window pixel's weight has fallen to 60 %."""
STEEPEST = 4.0
"""Largest slope as tangent against the image plane (76 degrees): flatter views see too little to match."""

MOST_TETHER_PLANES = 3.0
"""Farther away than this costs no more: a wrong start must not hold on for ever."""


@dataclass(frozen=True)
class RefineConfig:
    rounds: int = 2
    """Scans over the image, where the plane sweep came first (after the network: `prior.network.refine_rounds`).
    Raising it costs time in proportion and gains little after the second."""
    radius_px: int = 4
    """Half the matching window's side at working size. Raising it helps weak texture and blurs detail."""
    stride_px: int = 2
    """Every which pixel of the window is looked at."""
    search_planes: float = 1.5
    """How far from the depth before it the first random change may lead, in plane steps of the sweep."""
    tether: float = 0.05
    """Cost of each plane step of the sweep away from that depth (counted up to three). Raising it keeps weak
    texture smooth; where texture is strong it has no say."""
    worst_cost: float = 0.6
    """1 - NCC at which confidence reaches 0 and the pixel is dropped, unless the network found it. Lowering it drops
    weak texture sooner."""


class Sources(NamedTuple):
    """What the kernels need of the source views."""

    a: Float64[np.ndarray, "n_sources 3 3"]
    b: Float64[np.ndarray, "n_sources 3"]
    """`relative_motion` from the reference to each."""
    images: Float32[np.ndarray, "n_sources h w"]
    """Grey, padded to one size."""
    sizes: Int64[np.ndarray, "n_sources 2"]
    """True heights and widths."""


class Search(NamedTuple):
    """How the kernel searches."""

    rounds: int
    radius: int
    stride: int
    step: float
    """First random change of inverse depth; changes halve from round to round."""
    tilt: float
    """Slope per tangent and inverse depth: 1 / f."""
    tether: float
    """Cost per inverse depth away from where the search began."""
    most_tether: float
    """Upper bound on that cost."""
    seed: int


def fitted_slopes(
    inv_depth: Float32[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], radius_px: int
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Least-squares plane in a window of each masked pixel: its value and its slopes along u and v."""
    size = (2 * radius_px + 1, 2 * radius_px + 1)

    def sums(image: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(image, cv2.CV_64F, size, normalize=False, borderType=cv2.BORDER_CONSTANT)

    height, width = mask.shape
    v, u = np.mgrid[0:height, 0:width].astype(float)
    m, w = mask.astype(float), inv_depth.astype(float)
    n = np.maximum(sums(m), 1.0)
    mu, mv, mw = sums(m * u) / n, sums(m * v) / n, sums(m * w) / n
    uu = sums(m * u * u) / n - mu * mu + 1e-3
    vv = sums(m * v * v) / n - mv * mv + 1e-3
    uv = sums(m * u * v) / n - mu * mv
    uw, vw = sums(m * u * w) / n - mu * mw, sums(m * v * w) / n - mv * mw
    det = uu * vv - uv * uv
    slope_u, slope_v = (uw * vv - vw * uv) / det, (vw * uu - uw * uv) / det
    value = mw + slope_u * (u - mu) + slope_v * (v - mv)
    return tuple(np.where(mask, x, 0.0).astype(np.float32) for x in (value, slope_u, slope_v))  # type: ignore[return-value]


@njit(nogil=True, fastmath=True, cache=True)
def gather_window(grey, mask, y, x, radius, stride, window):  # type: ignore[no-untyped-def]
    """Fill `window` rows (du, dv, value, weight) with the mask's pixels; returns their number.

    The weights sum to 1.
    """
    height, width = grey.shape
    n, total = 0, 0.0
    for dv in range(-radius, radius + 1, stride):
        for du in range(-radius, radius + 1, stride):
            yy, xx = y + dv, x + du
            if yy < 0 or xx < 0 or yy >= height or xx >= width or not mask[yy, xx]:
                continue
            unlike = (grey[yy, xx] - grey[y, x]) / COLOUR_SIGMA
            far = (du * du + dv * dv) / (radius * radius)
            weight = np.exp(-0.5 * (unlike * unlike + far))
            window[n, 0], window[n, 1], window[n, 2], window[n, 3] = du, dv, grey[yy, xx], weight
            total += weight
            n += 1
    for i in range(n):
        window[i, 3] /= total
    return n


@njit(nogil=True, fastmath=True, cache=True)
def plane_cost(window, n, y, x, w, slope_u, slope_v, sources, costs):  # type: ignore[no-untyped-def]
    """1 - weighted NCC (0..1) of a plane at pixel (x, y), mean over the better half of the sources.

    window: n rows of `gather_window`. costs: scratch, one per source. A window that leaves a source's image costs 1
    there.
    """
    a, b, images, sizes = sources
    n_sources = len(images)
    mean_ref, square_ref = 0.0, 0.0
    for i in range(n):
        mean_ref += window[i, 3] * window[i, 2]
        square_ref += window[i, 3] * window[i, 2] * window[i, 2]
    var_ref = max(square_ref - mean_ref * mean_ref, 0.0) + NOISE_VARIANCE
    for k in range(n_sources):
        costs[k] = 1.0
        last_y, last_x = sizes[k, 0] - 1, sizes[k, 1] - 1
        h00, h10, h20 = a[k, 0, 0] + b[k, 0] * slope_u, a[k, 1, 0] + b[k, 1] * slope_u, a[k, 2, 0] + b[k, 2] * slope_u
        h01, h11, h21 = a[k, 0, 1] + b[k, 0] * slope_v, a[k, 1, 1] + b[k, 1] * slope_v, a[k, 2, 1] + b[k, 2] * slope_v
        px = a[k, 0, 0] * x + a[k, 0, 1] * y + a[k, 0, 2] + b[k, 0] * w
        py = a[k, 1, 0] * x + a[k, 1, 1] * y + a[k, 1, 2] + b[k, 1] * w
        pz = a[k, 2, 0] * x + a[k, 2, 1] * y + a[k, 2, 2] + b[k, 2] * w
        mean, square, cross = 0.0, 0.0, 0.0
        inside = True
        for i in range(n):
            du, dv, weight = window[i, 0], window[i, 1], window[i, 3]
            z = pz + h20 * du + h21 * dv
            if z <= 1e-9:
                inside = False
                break
            sx, sy = (px + h00 * du + h01 * dv) / z, (py + h10 * du + h11 * dv) / z
            if not (0.0 <= sx < last_x and 0.0 <= sy < last_y):
                inside = False
                break
            ix, iy = int(sx), int(sy)
            fx, fy = sx - ix, sy - iy
            top = images[k, iy, ix] * (1 - fx) + images[k, iy, ix + 1] * fx
            low = images[k, iy + 1, ix] * (1 - fx) + images[k, iy + 1, ix + 1] * fx
            value = top * (1 - fy) + low * fy
            mean += weight * value
            square += weight * value * value
            cross += weight * value * window[i, 2]
        if inside:
            var = max(square - mean * mean, 0.0) + NOISE_VARIANCE
            ncc = (cross - mean * mean_ref) / np.sqrt(var * var_ref)
            costs[k] = min(max(1.0 - ncc, 0.0), 1.0)
    n_best = (n_sources + 1) // 2
    total = 0.0
    for _ in range(n_best):
        best = 0
        for k in range(1, n_sources):
            if costs[k] < costs[best]:
                best = k
        total += costs[best]
        costs[best] = 9.0
    return total / n_best


@njit(nogil=True, cache=True)
def uniform(state):  # type: ignore[no-untyped-def]
    """The next number in [0, 1) of a generator of our own (xorshift64*), so that threads do not disturb each other."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return np.float64((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@njit(nogil=True, fastmath=True, cache=True)
def propose(planes, mask, y, x, t, back, shrink, search, state):  # type: ignore[no-untyped-def]
    """The t-th candidate at a pixel: the planes of two neighbours (0, 1), then changed depth, slopes, both (2, 3, 4).

    Returns inverse depth and slopes; inverse depth 0 where there is no such neighbour.
    """
    height, width = mask.shape
    w, su, sv = planes[y, x, 0], planes[y, x, 1], planes[y, x, 2]
    if t < 2:
        yy, xx = (y, x + back) if t == 0 else (y + back, x)
        if yy < 0 or xx < 0 or yy >= height or xx >= width or not mask[yy, xx]:
            return np.float32(0.0), su, sv
        su, sv = planes[yy, xx, 1], planes[yy, xx, 2]
        return planes[yy, xx, 0] + su * np.float32(x - xx) + sv * np.float32(y - yy), su, sv
    if t != 3:
        w += np.float32(search.step * shrink * (2 * uniform(state) - 1))
    if t != 2:
        reach = search.tilt * w * shrink
        su += np.float32(reach * (2 * uniform(state) - 1))
        sv += np.float32(reach * (2 * uniform(state) - 1))
    return w, su, sv


@njit(nogil=True, fastmath=True, cache=True)
def refine_planes(grey, mask, planes, cost, bounds, sources, search):  # type: ignore[no-untyped-def]
    """Improve `planes` (h, w, 3: inverse depth and slopes) in place and write their photometric `cost` (h, w).

    bounds: nearest and farthest depth of each pixel (h, w, 2).
    """
    state = np.array([2 * search.seed + 1], np.uint64)
    height, width = grey.shape
    anchor = planes[:, :, 0].copy()
    window = np.empty(((2 * search.radius // search.stride + 1) ** 2, 4))
    scratch = np.empty(len(sources.images))
    for it in range(search.rounds):
        back = -1 if it % 2 == 0 else 1
        for j in range(height):
            y = j if back < 0 else height - 1 - j
            for i in range(width):
                x = i if back < 0 else width - 1 - i
                if not mask[y, x]:
                    continue
                n = gather_window(grey, mask, y, x, search.radius, search.stride, window)
                if it == 0:
                    w, su, sv = planes[y, x]
                    cost[y, x] = plane_cost(window, n, y, x, w, su, sv, sources, scratch)
                off = abs(planes[y, x, 0] - anchor[y, x])
                best = cost[y, x] + min(search.tether * off, search.most_tether)
                for t in range(5):
                    w, su, sv = propose(planes, mask, y, x, t, back, 0.5**it, search, state)
                    if w * bounds[y, x, 1] < 1 or w * bounds[y, x, 0] > 1:
                        continue
                    if su * su + sv * sv > (STEEPEST * search.tilt * w) ** 2:
                        continue
                    c = plane_cost(window, n, y, x, w, su, sv, sources, scratch)
                    whole = c + min(search.tether * abs(w - anchor[y, x]), search.most_tether)
                    if whole < best:
                        best = whole
                        cost[y, x] = c
                        planes[y, x, 0], planes[y, x, 1], planes[y, x, 2] = w, su, sv


def packed(reference: WorkView, sources: list[WorkView]) -> Sources:
    """The sources as the kernels take them."""
    motions = [relative_motion(reference, s) for s in sources]
    sizes = np.array([s.grey.shape for s in sources], np.int64)
    images = np.zeros((len(sources), *sizes.max(0)), np.float32)
    for image, source in zip(images, sources, strict=True):
        image[: source.grey.shape[0], : source.grey.shape[1]] = source.grey
    return Sources(np.array([m[0] for m in motions]), np.array([m[1] for m in motions]), images, sizes)


def normals_of_planes(planes: Float32[np.ndarray, "h w 3"], work: WorkView) -> Float64[np.ndarray, "h w 3"]:
    """Unit normals in camera axes, towards the camera.

    With inverse depth m . (u, v, 1), points x of the plane obey m^T K x = 1: the normal is -K^T m, normalised.
    """
    height, width = planes.shape[:2]
    v, u = np.mgrid[0:height, 0:width]
    m = np.stack([planes[..., 1], planes[..., 2], planes[..., 0] - planes[..., 1] * u - planes[..., 2] * v], -1)
    normal = -(m.astype(float) @ work.index_matrix())
    return normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)


def refine_depth(
    reference: WorkView,
    sources: list[WorkView],
    swept: Float32[np.ndarray, "h w"],
    step: float,
    bounds: Float32[np.ndarray, "h w 2"],
    cfg: RefineConfig,
) -> DepthMap:
    """The depth map of `reference`, from swept inverse depth at working size (0 outside the mask).

    step: inverse depth between two planes of the sweep; bounds: each pixel's nearest and farthest depth_z.
    """
    mask = reference.mask & (swept > 0) & (bounds[..., 0] > 0)
    planes = np.stack(fitted_slopes(swept, mask, cfg.radius_px), -1)
    cost = np.ones(mask.shape, np.float32)
    search = Search(
        cfg.rounds,
        cfg.radius_px,
        cfg.stride_px,
        step * cfg.search_planes,
        1.0 / reference.view.camera.fx_px,
        cfg.tether / step,
        cfg.tether * MOST_TETHER_PLANES,
        reference.view_idx,
    )
    refine_planes(reference.grey, mask, planes, cost, bounds, packed(reference, sources), search)
    confidence = np.where(mask, np.clip(1 - cost / cfg.worst_cost, 0, 1), 0).astype(np.float32)
    good = confidence > 0
    depth_z = np.where(good, 1 / np.maximum(planes[..., 0], 1e-12), 0).astype(np.float32)
    normals = normals_of_planes(planes, reference).astype(np.float32)
    return DepthMap(reference, depth_z, normals, confidence, window_spread_px(cfg.radius_px, cfg.stride_px))
