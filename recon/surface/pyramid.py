"""Photos from coarse to fine: blurred copies of the object's pixels, and which of them a step trains on."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from recon.surface.hashgrid import GridLayout


@dataclass(frozen=True)
class PyramidConfig:
    """Which scales of the photos are trained on."""

    n_scales: int = 4
    """Scales, each half as fine as the one before; the training goes from the coarsest to the full photos while the
    hash levels open. 1 trains on the full photos from the start, more start blurrier."""
    pixels_per_cell: float = 1.0
    """Pixels of the blurred photo to a cell of the finest open hash level; raising it turns to finer photos earlier."""


def coarse_colours(
    image: UInt8[np.ndarray, "h w 3"], on: Bool[np.ndarray, "h w"], n_scales: int
) -> UInt8[np.ndarray, "h w n_coarse 3"]:
    """The object's colours at each scale but the first (n_coarse = n_scales - 1), at the photo's own size.

    Scale k is the mean over squares of 2^k px of the object's pixels alone, interpolated between the squares: what
    stands behind the object never bleeds into it, so that each pixel's label holds at every scale, thin legs included.
    """
    h, w = on.shape
    levels = np.repeat(image[:, :, None], n_scales - 1, axis=2)
    share = on.astype(np.float32)
    masked = image * share[..., None]
    for k in range(1, n_scales):
        size = max(w >> k, 1), max(h >> k, 1)
        shrunk = [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (masked, share)]
        colour, weight = (cv2.resize(x, (w, h), interpolation=cv2.INTER_LINEAR) for x in shrunk)
        kept = on & (weight > 1e-3)
        levels[kept, k - 1] = np.rint(colour[kept] / weight[kept, None]).clip(0, 255).astype(np.uint8)
    return levels


def scale_at(n_open: float, layout: GridLayout, pixel_size: float, cfg: PyramidConfig) -> float:
    """The scale to train on (0: the full photos; 1.5: half way between the first and second copy) with n_open levels.

    pixel_size: what a pixel of the full photos covers at the object, in unit lengths. A square of 2^scale px covers
    1 / pixels_per_cell cells of the finest open level, a cell of level l being 1 / (base * growth^l); the full photos
    are reached at the latest when all levels are open, however fine the photos are.
    """
    growth = np.log2(layout.growth())
    cell = -np.log2(layout.base_resolution) - growth * (n_open - 1)
    finest = -np.log2(layout.base_resolution) - growth * (layout.n_levels - 1)
    target = max(np.log2(pixel_size * cfg.pixels_per_cell), finest)
    return float(np.clip(cell - target, 0, cfg.n_scales - 1))


def blend_scales(
    rgb: UInt8[Tensor, "n 3"], coarse: UInt8[Tensor, "n n_coarse 3"], scale: float
) -> Float32[Tensor, "n 3"]:
    """Colours 0..1 at a scale, blended linearly between the two nearest copies."""
    below, share = int(scale), scale - int(scale)
    blended = (rgb if below == 0 else coarse[:, below - 1]).float()
    if share > 0:
        blended = torch.lerp(blended, coarse[:, below].float(), share)
    return blended / 255
