"""The pool of photo pixels that rays are drawn from, with blurred copies of their colours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int16, Int64, UInt8
from torch import Tensor

from recon.data import ObjectRegion, PosedCapture
from recon.surface.importance import TILES_PER_ERROR, Tiles, edge_nearness, gradient_size, tile_size_px
from recon.surface.pyramid import coarse_colours
from recon.transforms import Similarity

OUTSIDE, OBJECT, UNSURE = 0, 1, 2
"""What a pixel's mask says."""


@dataclass(frozen=True)
class PixelPool:
    """Pixels on the object or near it, of all views, flat: those of a tile lie one behind the other."""

    view_idx: Int16[Tensor, " n"]
    pixel: Int16[Tensor, "n 2"]
    """Column and row."""
    rgb: UInt8[Tensor, "n 3"]
    coarse: UInt8[Tensor, "n n_coarse 3"]
    """The same pixels of the photo at coarser scales (see `coarse_colours`)."""
    label: UInt8[Tensor, " n"]
    n_object: int
    """The first n_object entries are OBJECT or UNSURE, the others OUTSIDE."""
    tiles: Tiles


@dataclass(frozen=True)
class UnitCameras:
    """The views' cameras in the unit cube, as flat arrays for gathering."""

    centre: Float32[Tensor, "n_views 3"]
    rotation: Float32[Tensor, "n_views 3 3"]
    """unit_from_cam, directions only."""
    intrinsics: Float32[Tensor, "n_views 4"]
    """fx fy cx cy in pixels."""
    size_px: Int64[Tensor, "n_views 2"]
    """Width and height."""

    def to(self, device: torch.device) -> UnitCameras:
        """The same on another device."""
        centre, rotation, intrinsics = (x.to(device) for x in (self.centre, self.rotation, self.intrinsics))
        return UnitCameras(centre, rotation, intrinsics, self.size_px.to(device))

    def rays(
        self, view_idx: Int64[Tensor, " n"], position_px: Float64[Tensor, "n 2"]
    ) -> tuple[Float32[Tensor, "n 3"], Float32[Tensor, "n 3"]]:
        """Origins and unit directions through positions in photos (a pixel's centre is at +0.5)."""
        k = self.intrinsics[view_idx].double()
        in_cam = torch.cat([(position_px - k[:, 2:]) / k[:, :2], torch.ones_like(k[:, :1])], 1)
        in_cam = in_cam / in_cam.norm(dim=1, keepdim=True)
        direction = (self.rotation[view_idx].double() * in_cam[:, None]).sum(2)
        return self.centre[view_idx], direction.float()


def unit_cameras(posed: PosedCapture, unit_from_world: Similarity) -> UnitCameras:
    """The cameras of all views, moved into the unit cube."""
    centre = unit_from_world.apply(np.array([v.centre_world() for v in posed.views]))
    rotation = np.array([unit_from_world.rotation @ v.cam_from_world.rotation.T for v in posed.views])
    k = np.array([[v.camera.fx_px, v.camera.fy_px, v.camera.cx_px, v.camera.cy_px] for v in posed.views])
    size_px = torch.tensor([(v.camera.width_px, v.camera.height_px) for v in posed.views])
    tensors = [torch.from_numpy(x.astype(np.float32)) for x in (centre, rotation, k)]
    return UnitCameras(tensors[0], tensors[1], tensors[2], size_px)


def pixel_size(posed: PosedCapture, unit_from_world: Similarity) -> float:
    """What a pixel of the median photo covers at the object, in unit lengths."""
    centre = unit_from_world.apply(np.array([v.centre_world() for v in posed.views]))
    focal = np.array([v.camera.fx_px for v in posed.views])
    return float(np.median(np.linalg.norm(centre - 0.5, axis=1) / focal))


@dataclass(frozen=True)
class Piece:
    """A view's pixels of one stratum (the object's or those beside it), sorted by tile."""

    pixel: np.ndarray
    """(n, 2) int16, column and row."""
    rgb: UInt8[np.ndarray, "n 3"]
    coarse: UInt8[np.ndarray, "n n_coarse 3"]
    label: UInt8[np.ndarray, " n"]
    n_in_tile: np.ndarray
    """(n_tiles,)"""
    detail: np.ndarray
    """(n_tiles,), as the next two, of `Tiles`; error tiles are counted from 0 in each piece."""
    edge: np.ndarray
    error_idx: np.ndarray


class Crop:
    """The part of a photo around the object, and what its pixels carry."""

    def __init__(self, image: np.ndarray, label: np.ndarray, near: np.ndarray, n_scales: int) -> None:
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        self.corner = np.array([columns[0], rows[0]])
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        self.tile_px = tile_size_px(label.shape[1], label.shape[0])
        self.rgb, self.label, self.near = image[part], label[part], near[part]
        self.on = self.label != OUTSIDE
        self.coarse = coarse_colours(self.rgb, self.label == OBJECT, n_scales)
        self.detail = gradient_size(self.rgb)
        self.edge = edge_nearness(self.on, self.tile_px)

    def take(self, chosen: Bool[np.ndarray, "h w"]) -> Piece:
        """The chosen pixels."""
        rows, columns = np.nonzero(chosen)
        across = self.label.shape[1] // self.tile_px + 1
        tile = rows // self.tile_px * across + columns // self.tile_px
        order = np.argsort(tile, kind="stable")
        rows, columns = rows[order], columns[order]
        tile, start, n_in_tile = np.unique(tile[order], return_index=True, return_counts=True)
        larger = tile // across // TILES_PER_ERROR * across + tile % across // TILES_PER_ERROR
        # reduceat wants at least one piece
        detail, edge = (
            np.add.reduceat(x[rows, columns], start) / n_in_tile if len(start) else np.zeros(0)
            for x in (self.detail, self.edge)
        )
        return Piece(
            (np.stack([columns, rows], 1) + self.corner).astype(np.int16),
            self.rgb[rows, columns],
            self.coarse[rows, columns],
            self.label[rows, columns],
            n_in_tile,
            detail,
            edge,
            np.unique(larger, return_inverse=True)[1],
        )


def label_mask(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """OBJECT, OUTSIDE or UNSURE for each pixel."""
    return np.where(mask >= 192, OBJECT, np.where(mask <= 64, OUTSIDE, UNSURE)).astype(np.uint8)


def gather_pixels(
    posed: PosedCapture, region: ObjectRegion, ring_share: float, n_scales: int, max_pixels: int, seed: int
) -> PixelPool:
    """Collect the object's pixels and those of a ring around it, at full resolution.

    ring_share: width of the ring as a share of the mask's extent. Rays just outside the silhouette must be
    trained on, or the shape swells there. max_pixels: kept of all photos together, at random, each photo at most its
    equal share; a training looks at far fewer, and large photos in large numbers would fill the memory.
    """
    rng = np.random.default_rng(seed)
    inner: list[tuple[int, Piece]] = []
    outer: list[tuple[int, Piece]] = []
    for i, view in enumerate(posed.views):
        label = label_mask(region.mask(view.name))
        on = label != OUTSIDE
        if not on.any():
            continue
        width = max(int(ring_share * np.sqrt(on.sum())), 3)
        # the box blur's reach is the ring's width: cheaper than dilating by a large disc, and as good here
        near = cv2.blur(on.astype(np.float32), (2 * width + 1, 2 * width + 1)) > 0
        crop = Crop(posed.image(i), label, near, n_scales)
        kept = crop.near
        share = max_pixels / len(posed.views) / kept.sum()
        if share < 1:
            kept = kept & (rng.random(kept.shape, np.float32) < share)
        inner.append((i, crop.take(kept & crop.on)))
        outer.append((i, crop.take(kept & ~crop.on)))
    if not inner:
        raise ValueError("every mask is empty, so there is no object to fit")
    return join(inner, outer)


def join(inner: list[tuple[int, Piece]], outer: list[tuple[int, Piece]]) -> PixelPool:
    """All views' pieces as one pool, the object's first."""
    pieces = [piece for _, piece in inner + outer]
    n_errors = [int(p.error_idx.max(initial=-1)) + 1 for p in pieces]
    first_error = np.concatenate([[0], np.cumsum(n_errors)])
    in_tile = np.concatenate([p.n_in_tile for p in pieces])
    tiles = Tiles(
        start=torch.from_numpy(np.concatenate([[0], np.cumsum(in_tile)])),
        n_object=sum(len(p.n_in_tile) for _, p in inner),
        detail=torch.from_numpy(np.concatenate([p.detail for p in pieces])).float(),
        edge=torch.from_numpy(np.concatenate([p.edge for p in pieces])).float(),
        error_idx=torch.from_numpy(
            np.concatenate([p.error_idx + k for p, k in zip(pieces, first_error[:-1], strict=True)])
        ),
    )
    return PixelPool(
        view_idx=torch.from_numpy(np.concatenate([np.full(len(p.label), i, np.int16) for i, p in inner + outer])),
        pixel=torch.from_numpy(np.concatenate([p.pixel for p in pieces])),
        rgb=torch.from_numpy(np.concatenate([p.rgb for p in pieces])),
        coarse=torch.from_numpy(np.concatenate([p.coarse for p in pieces])),
        label=torch.from_numpy(np.concatenate([p.label for p in pieces])),
        n_object=sum(len(p.label) for _, p in inner),
        tiles=tiles,
    )
