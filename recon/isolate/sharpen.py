"""Masks at the photos' own size, each sharpened for itself and all made to fit one solid."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from recon.data import PosedCapture
from recon.isolate.carve import carve_finer, main_bodies, signed_distance_px
from recon.isolate.consensus import Body, carved
from recon.isolate.frames import Frame, in_threads
from recon.isolate.refine import refine
from recon.isolate.volume import Grid, shell_of, silhouette

LOOSE_SHARE, STRICT_SHARE = 0.055, 0.032
"""Which share of the photos may deny a voxel of the loose and of the strict solid: of 48 photos two, and one."""
SMALL_GAP_SHARE = 0.004
"""Gaps of a mask smaller than this share of it are filled where the strict solid has none."""


def sharpen(
    posed: PosedCapture,
    frames: Sequence[Frame],
    full: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    body: Body,
    smoothness: float,
    seed: int,
) -> list[Bool[np.ndarray, "_ _"]]:
    """Masks of the photos at `full` size from those at the working size of `frames`, and the body behind them."""

    def agreed(sharp: Sequence[Bool[np.ndarray, "_ _"]]) -> list[tuple[np.ndarray, np.ndarray]]:
        shares = (LOOSE_SHARE, STRICT_SHARE, max(STRICT_SHARE, 1.01 / len(full)))
        grid, solids = common_solids(frames, full, sharp, body, shares)
        shells = [shell_of(s) for s in solids]

        def one(mask: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
            return consistent(mask, *(silhouette(grid, s, frame) for s in shells))

        return in_threads(one, sharp, full)

    return refine(full, masks, posed.support_plane, agreed, smoothness, seed)


def common_solids(
    frames: Sequence[Frame],
    full: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    body: Body,
    wrong_shares: Sequence[float],
) -> tuple[Grid, list[Bool[np.ndarray, "i j k"]]]:
    """Solids of masks at full size on voxels half as large as the body's, one for each of `wrong_shares`."""
    small = [at_size(m, f.shape()) for m, f in zip(masks, frames, strict=True)]
    coarse = carved(frames, small, None, body, max(wrong_shares), 0.3, 0.4)
    grid, solids = carve_finer(coarse.grid, coarse.solid, full, masks, wrong_shares)
    return grid, [main_bodies(s, grid, body.aim.focus_world, body.aim.others_share) for s in solids]


def consistent(
    mask: Bool[np.ndarray, "h w"],
    loose: Bool[np.ndarray, "h w"],
    strict: Bool[np.ndarray, "h w"],
    spared: Bool[np.ndarray, "h w"],
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """A mask without what lies beyond the loose solid's silhouette, and what it lacks deep in the strict one's.

    Small gaps are filled at once; the larger ones, which are returned apart, may be true openings that few photos look
    through. A small hole is also filled if the solid that a single photo cannot deny (`spared`) covers it: among few
    photos, the strict one lacks whatever this photo lacks.
    """
    kept: np.ndarray = mask & (signed_distance_px(loose) > -1)
    lacking = (signed_distance_px(strict) > 3) & ~kept
    hole = ndimage.binary_fill_holes(kept) & (signed_distance_px(spared) > 3) & ~kept
    _, labels, stats, _ = cv2.connectedComponentsWithStats((lacking | hole).astype(np.uint8))
    small = stats[:, cv2.CC_STAT_AREA] < SMALL_GAP_SHARE * mask.sum()
    small[0] = False  # what is not lacking
    filled: np.ndarray = kept | small[labels]
    return filled, lacking & ~filled


def at_size(mask: Bool[np.ndarray, "h w"], shape: tuple[int, int]) -> Bool[np.ndarray, "h_small w_small"]:
    """A mask brought down to (height, width)."""
    small: np.ndarray = cv2.resize(mask.astype(np.uint8) * 255, shape[::-1], interpolation=cv2.INTER_AREA) > 127
    return small
