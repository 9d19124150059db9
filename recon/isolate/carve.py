"""The solid that all masks agree on, with room for a few wrong masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from recon.isolate.frames import Frame
from recon.isolate.volume import Grid, gather, gather_at

OUT_OF_PHOTO = np.float32(1e4)


def signed_distance_px(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Distance to the mask's outline in pixels, positive inside."""
    m = mask.astype(np.uint8)
    inside = cv2.distanceTransform(m, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - m, cv2.DIST_L2, 5)
    return np.where(mask, inside - 0.5, 0.5 - outside).astype(np.float32)


def carve(
    grid: Grid,
    frames: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    allowed: Bool[np.ndarray, "i j k"],
    wrong_share: float,
    trust: Sequence[Float32[np.ndarray, "_ _"]] | None = None,
    tolerance_px: float = 0.5,
    tolerance_voxels: float = 0.5,
) -> Bool[np.ndarray, "i j k"]:
    """Voxels that lie inside the masks in all but `wrong_share` of the photos that see them.

    trust: 0..1 per pixel, how sure a mask is there; all of it where left out.
    Being outside counts from `tolerance_px` plus `tolerance_voxels` beyond the outline.
    """
    seen, missed = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    middle = grid.points_world(np.array([grid.shape]) / 2.0)
    for i, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        depth_z = max(float(frame.cam_from_world.apply(middle)[0, 2]), grid.edge)
        slack = tolerance_px + tolerance_voxels * grid.edge * frame.camera.fx_px / depth_z
        distance = gather(signed_distance_px(mask), grid.pixel_from_index(frame), grid.shape, OUT_OF_PHOTO)
        inside_photo = distance < OUT_OF_PHOTO / 2
        seen += inside_photo
        missing = (inside_photo & (distance < -slack)).astype(np.float32)
        if trust is not None:
            missing *= gather(trust[i], grid.pixel_from_index(frame), grid.shape, np.float32(0))
        missed += missing
    solid: np.ndarray = allowed & (seen > 0) & (missed <= wrong_share * seen)
    return solid


def carve_finer(
    grid: Grid,
    solid: Bool[np.ndarray, "i j k"],
    frames: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    wrong_shares: Sequence[float],
    factor: int = 2,
) -> tuple[Grid, list[Bool[np.ndarray, "i2 j2 k2"]]]:
    """A carved solid again on voxels `factor` times finer, one for each of `wrong_shares`.

    Only voxels near the solid's surface are looked at: what lies deeper stays, what lies farther off does not come
    back.
    """
    fine = Grid(grid.world_from_grid, grid.low, grid.edge / factor, tuple(factor * n for n in grid.shape))  # type: ignore[arg-type]
    reach = ndimage.generate_binary_structure(3, 1)
    core = ndimage.binary_erosion(solid, reach, 3, border_value=1)
    near = ndimage.binary_dilation(solid, reach, 2) & ~core

    def finer(coarse: Bool[np.ndarray, "i j k"]) -> Bool[np.ndarray, "i2 j2 k2"]:
        for axis in range(3):
            coarse = np.repeat(coarse, factor, axis)
        return coarse

    index = np.argwhere(finer(near)).astype(np.int32)
    seen, missed = np.zeros(len(index), np.float32), np.zeros(len(index), np.float32)
    middle = fine.points_world(np.array([fine.shape]) / 2.0)
    for frame, mask in zip(frames, masks, strict=True):
        depth_z = max(float(frame.cam_from_world.apply(middle)[0, 2]), fine.edge)
        slack = 0.5 + 0.5 * fine.edge * frame.camera.fx_px / depth_z
        distance = gather_at(signed_distance_px(mask), fine.pixel_from_index(frame), index, OUT_OF_PHOTO)
        inside_photo = distance < OUT_OF_PHOTO / 2
        seen += inside_photo
        missed += inside_photo & (distance < -slack)
    solids = []
    for share in wrong_shares:
        out = finer(core)
        out[tuple(index.T)] = (seen > 0) & (missed <= share * seen)
        solids.append(out)
    return fine, solids


def main_bodies(
    solid: Bool[np.ndarray, "i j k"], grid: Grid, focus_world: Float64[np.ndarray, "3"], others_share: float = 0.1
) -> Bool[np.ndarray, "i j k"]:
    """The connected body that is largest near the looked-at point, with others of at least a share of its weight."""
    labels, n = ndimage.label(solid, np.ones((3, 3, 3)))
    if n <= 1:
        return solid
    index = np.argwhere(solid)
    distance = np.linalg.norm(grid.points_world(index + 0.5) - focus_world, axis=1)
    spread = float(np.linalg.norm(np.array(grid.shape) * grid.edge)) / 6
    weight = np.bincount(labels[solid], np.exp(-((distance / spread) ** 2)), n + 1)
    keep = weight >= others_share * weight.max()
    keep[0] = False
    kept: np.ndarray = keep[labels]
    return kept
