"""The photos as patches are cut from them: grey, cut to the object, in a pyramid; and which photos to compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recon.data import ObjectRegion, PosedCapture
from recon.surface.pixels import UnitCameras

N_LEVELS = 4
NOT_OBJECT = 0
"""Grey value of pixels that the mask leaves out; the object's own are at least 1."""
BEST_ANGLE_DEG, NARROW_DEG, WIDE_DEG = 15.0, 6.0, 12.0
"""Angle between two photos at which depth is well measured and patches still look alike, and its standard deviations
below and above."""
LEAST_ANGLE_DEG, MOST_ANGLE_DEG = 4.0, 45.0
"""Below, depth is hardly measured; above, patches no longer look alike."""


class Pyramid(NamedTuple):
    """All photos' grey levels in one flat array, cut to the object's box; a level's pixel is two of the one below.

    Positions in level k are those in the photo over 2^k, pixel centres at +0.5 in each. Arrays or tensors.
    """

    grey: UInt8[Tensor, " n_pixels"]
    """1..255 on the object, 0 elsewhere; row by row. Two zeros end it: what samples reads a pixel's neighbours to the
    right and below before it asks whether they are there."""
    offset: Int[Tensor, "n_views n_levels"]
    """Where a view's level begins in `grey`."""
    size: Int[Tensor, "n_views n_levels 2"]
    """Columns and rows."""
    corner: Int[Tensor, "n_views n_levels 2"]
    """Column and row of the cut's first pixel in the whole photo of that level."""


class PatchCameras(NamedTuple):
    """The photos' cameras in the unit cube, of the photos as the pyramid holds them. Arrays or tensors."""

    centre: Float[Tensor, "n_views 3"]
    rotation: Float[Tensor, "n_views 3 3"]
    """unit_from_cam, directions only."""
    intrinsics: Float[Tensor, "n_views 4"]
    """fx fy cx cy in pixels of level 0."""


@dataclass(frozen=True)
class PatchPhotos:
    """What patches are compared on."""

    pyramid: Pyramid
    cameras: PatchCameras
    neighbours: Int[Tensor, "n_views n_sources"]
    """Each view's partners, best first, -1 where there are no more."""
    factor: Float[Tensor, "n_views 4"]
    """Of the pyramid's intrinsics against the photos' own."""

    def seen_by(self, cameras: UnitCameras) -> PatchPhotos:
        """The same photos with other cameras."""
        return replace(self, cameras=patch_cameras(cameras, self.factor))


def patch_cameras(cameras: UnitCameras, factor: Float[Tensor, "n_views 4"]) -> PatchCameras:
    """Cameras of photos that were reduced by a factor."""
    centre, rotation, intrinsics = (x.to(factor.device) for x in (cameras.centre, cameras.rotation, cameras.intrinsics))
    return PatchCameras(centre, rotation, intrinsics * factor)


def halve(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h2 w2"]:
    """Mean of each two by two pixels; not object where any of them is not. h and w must be even."""
    four = grey.reshape(grey.shape[0] // 2, 2, grey.shape[1] // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    mean = (four.astype(np.uint16).sum(1) + 2) // 4
    mean[(four == NOT_OBJECT).any(1)] = NOT_OBJECT
    return mean.reshape(grey.shape[0] // 2, grey.shape[1] // 2).astype(np.uint8)


def cut_object(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"]
) -> tuple[UInt8[np.ndarray, "rows columns"], tuple[int, int]]:
    """The photo in grey, cut to the mask's box, 0 outside the mask; and the cut's column and row in the photo.

    Corner and size are multiples of the coarsest level's pixel, so that levels lie exactly on each other.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = np.where(mask >= 128, np.maximum(grey, 1), NOT_OBJECT).astype(np.uint8)
    rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
    coarse = 1 << (N_LEVELS - 1)
    top, left = (int(x[0]) // coarse * coarse if len(x) else 0 for x in (rows, columns))
    bottom, right = (int(x[-1]) // coarse * coarse + coarse if len(x) else coarse for x in (rows, columns))
    cut = np.zeros((bottom - top, right - left), np.uint8)
    part = grey[top:bottom, left:right]
    cut[: part.shape[0], : part.shape[1]] = part
    return cut, (left, top)


def build_pyramid(posed: PosedCapture, region: ObjectRegion, max_side_px: int) -> tuple[Pyramid, np.ndarray]:
    """The pyramid of all photos, those larger than max_side_px reduced to it first; and those factors (n_views, 2)."""
    flat: list[np.ndarray] = []
    shape = (len(posed.views), N_LEVELS)
    offset, size, corner = np.zeros(shape, np.int64), np.zeros((*shape, 2), np.int64), np.zeros((*shape, 2), np.int64)
    factor, n = np.ones((len(posed.views), 2)), 0
    for i, view in enumerate(posed.views):
        image, mask = posed.image(i), region.mask(view.name)
        h, w = image.shape[:2]
        if max(h, w) > max_side_px:
            smaller = (round(w * max_side_px / max(h, w)), round(h * max_side_px / max(h, w)))
            factor[i] = smaller[0] / w, smaller[1] / h
            image, mask = (cv2.resize(x, smaller, interpolation=cv2.INTER_AREA) for x in (image, mask))
        level, at = cut_object(image, mask)
        for k in range(N_LEVELS):
            offset[i, k], size[i, k], corner[i, k] = n, level.shape[::-1], np.array(at) >> k
            flat.append(level.reshape(-1))
            n += level.size
            if k + 1 < N_LEVELS:
                level = halve(level)
    grey = np.concatenate([*flat, np.zeros(2, np.uint8)])
    return Pyramid(*(torch.from_numpy(x) for x in (grey, offset, size, corner))), factor


def choose_neighbours(
    centre: Float[np.ndarray, "n_views 3"],
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    n_sources: int,
) -> Int[np.ndarray, "n_views n_sources"]:
    """The n_sources best partners of each view: those that see most of its surface from a useful angle; -1: no more.

    centre: of the cameras; points, normals: of the surface, roughly. A pair's score is the sum over the points that
    face both cameras of a piecewise Gaussian over the angle between the two rays (MVSNet, Yao et al. 2018, sec. 4.1),
    shares of what the view itself faces.
    """
    towards = centre[:, None] - points
    towards /= np.linalg.norm(towards, axis=2, keepdims=True)
    facing = np.maximum((towards * normals).sum(2), 0.0)  # flat views count for less
    score = np.zeros((len(centre), len(centre)))
    for i in range(len(centre)):
        angle = np.degrees(np.arccos(np.clip((towards * towards[i]).sum(2), -1, 1)))
        sigma = np.where(angle < BEST_ANGLE_DEG, NARROW_DEG, WIDE_DEG)
        worth = np.exp(-((angle - BEST_ANGLE_DEG) ** 2) / (2 * sigma**2))
        worth[(angle < LEAST_ANGLE_DEG) | (angle > MOST_ANGLE_DEG)] = 0
        score[i] = (worth * np.minimum(facing, facing[i])).sum(1) / max(facing[i].sum(), 1e-9)
    np.fill_diagonal(score, 0)
    best = np.argsort(-score, axis=1)[:, :n_sources]
    chosen = np.full((len(centre), n_sources), -1)
    chosen[:, : best.shape[1]] = np.where(np.take_along_axis(score, best, 1) > 0.01, best, -1)
    return chosen


def gather_photos(
    posed: PosedCapture,
    region: ObjectRegion,
    cameras: UnitCameras,
    surface: tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]],
    n_sources: int,
    max_side_px: int,
) -> PatchPhotos:
    """Read the photos into a pyramid and choose each one's partners.

    surface: points and normals of roughly the surface in the unit cube, at least some hundreds.
    """
    pyramid, factor = build_pyramid(posed, region, max_side_px)
    of_intrinsics = torch.from_numpy(np.tile(factor, (1, 2))).float()
    neighbours = choose_neighbours(cameras.centre.numpy(), *surface, n_sources)
    return PatchPhotos(pyramid, patch_cameras(cameras, of_intrinsics), torch.from_numpy(neighbours), of_intrinsics)
