"""Photos pulled into register: small shifts that undo what poses and shape get wrong by a pixel or three.

Each photo is compared with the picture that the agreed texture gives from its place; the smoothed optical flow between
the two says where in the photo a surface point really shows (the non-rigid correction of Zhou and Koltun 2014, by
dense flow instead of a joint optimisation).
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numba import njit

from texturing.compose import Surface, texel_point
from texturing.photos import SHIFT_GRID_PX, PhotoStack, project_seen
from texturing.rasterize import Texels, blocks_of, run_blocks
from texturing.visibility import edge_safety


def align_photos(
    texels: Texels, surface: Surface, stack: PhotoStack, agreed: Float32[np.ndarray, "n 3"], max_shift_px: float
) -> PhotoStack:
    """The same photos with shift grids that lead to where the agreed texture shows, `max_shift_px` away at most."""
    shift = stack.shift_px.copy()

    def align(v: int, _: int) -> None:
        count = int(stack.shift_size[v].prod())
        if min(stack.window_px[v, 2:]) >= 32:  # the flow's own pyramid needs some pixels
            nodes = slice(stack.shift_start[v], stack.shift_start[v] + count)
            shift[nodes] = _align_one(v, texels, surface, stack, agreed, max_shift_px)

    run_blocks(align, blocks_of(len(stack.start), 1))
    return stack._replace(shift_px=shift)


def _align_one(
    v: int, texels: Texels, surface: Surface, stack: PhotoStack, agreed: np.ndarray, max_shift_px: float
) -> np.ndarray:
    w, h = (int(n) for n in stack.window_px[v, 2:])
    splats = np.zeros((h, w, 2), np.float32)
    _render(v, texels, surface, stack, agreed, splats)
    sums = np.asarray(cv2.GaussianBlur(splats, (0, 0), 1.0))
    rgb = stack.rgb[stack.start[v] : stack.start[v] + w * h].reshape(h, w, 3)
    photo = np.mean([stack.lut[v, c][rgb[:, :, c]] for c in range(3)], axis=0)
    photo = cv2.GaussianBlur(photo, (0, 0), 1.0)
    sure = (sums[:, :, 1] > 0.02).astype(np.float32)
    rendered = np.where(sure > 0, sums[:, :, 0] / np.maximum(sums[:, :, 1], 1e-6), photo)
    shown, expected = _even_contrast(photo, sure), _even_contrast(rendered, sure)
    still = np.zeros((h, w, 2), np.float32)
    flow = np.asarray(cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(expected, shown, still))
    trust = sure * _trust(expected, shown, flow, max_shift_px)
    # Shifts are believed where the picture has structure, and carried from there to where it has none.
    sigma = 1.5 * SHIFT_GRID_PX
    smooth = _blur(flow * trust[:, :, None], sigma) / (_blur(trust, sigma)[:, :, None] + 0.01)
    columns, rows = (int(n) for n in stack.shift_size[v])
    node_x, node_y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    x, y = node_x * SHIFT_GRID_PX - 0.5, node_y * SHIFT_GRID_PX - 0.5
    return np.asarray(cv2.remap(smooth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)).reshape(-1, 2)


def _blur(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """A wide Gaussian, computed at a fraction of the size: its result varies too slowly to need more."""
    h, w = image.shape[:2]
    step = max(1, int(sigma_px / 2))
    small = cv2.resize(image, (-(-w // step), -(-h // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / step)
    return np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR))


def _even_contrast(grey: Float32[np.ndarray, "h w"], sure: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """8-bit detail with tones and contrast evened out over some 20 px, so that a highlight is not followed."""
    total = np.maximum(_blur(sure, 8.0), 1e-3)
    detail = (grey - _blur(grey * sure, 8.0) / total) * sure
    contrast = np.sqrt(_blur(detail**2, 8.0) / total)
    return np.clip(128 + 40 * detail / (contrast + 0.02), 0, 255).astype(np.uint8)


def _trust(
    expected: UInt8[np.ndarray, "h w"], shown: UInt8[np.ndarray, "h w"], flow: np.ndarray, max_shift_px: float
) -> Float32[np.ndarray, "h w"]:
    """0..1 per pixel: there is structure, the photo matches it after the shift, and the shift is possible."""
    h, w = expected.shape
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    matched = cv2.remap(shown, x + flow[:, :, 0], y + flow[:, :, 1], cv2.INTER_LINEAR)
    a, b = expected.astype(np.float32) - 128, matched.astype(np.float32) - 128
    energy = 0.5 * _blur(a * a + b * b, 4.0)
    correlation = _blur(a * b, 4.0) / (energy + 1.0)
    structure = energy / (energy + 15.0**2)
    possible = np.linalg.norm(flow, axis=2) <= max_shift_px
    trust: np.ndarray = possible * structure * np.maximum(2 * correlation - 1, 0)
    return trust.astype(np.float32)


@njit(cache=True, nogil=True)
def _render(v, texels, surface, stack, agreed, sums):  # type: ignore[no-untyped-def]
    """Splat brightness and weight of the agreed texels bilinearly to where the camera, unshifted, has them."""
    for t in range(len(texels.face)):
        if not surface.allowed[texels.face[t], v]:
            continue
        x, y, z = texel_point(texels, surface, t)
        column, row, edge_px = project_seen(stack, v, x, y, z)
        if edge_safety(edge_px, surface.margin_px) <= 0:
            continue
        c, r = int(column - 0.5), int(row - 0.5)
        fx, fy = column - 0.5 - c, row - 0.5 - r
        grey = (agreed[t, 0] + agreed[t, 1] + agreed[t, 2]) / 3
        for i in range(2):
            for j in range(2):
                w = (fy if i else 1 - fy) * (fx if j else 1 - fx)
                sums[r + i, c + j, 0] += w * grey
                sums[r + i, c + j, 1] += w
