"""The pool of photo pixels that rays are drawn from, sharp and blurred."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Float64, Int16, Int64, UInt8
from torch import Tensor

from recon.data import ObjectRegion, PosedCapture
from recon.transforms import Similarity

OUTSIDE, OBJECT, UNSURE = 0, 1, 2
"""What a pixel's mask says."""


@dataclass(frozen=True)
class PixelPool:
    """All pixels on the object or near it, of all views, flat."""

    view_idx: Int16[Tensor, " n"]
    pixel: Int16[Tensor, "n 2"]
    """Column and row."""
    rgb: UInt8[Tensor, "n 3"]
    blurred: UInt8[Tensor, "n 3"]
    """The same pixels of the photo at a quarter of its resolution."""
    label: UInt8[Tensor, " n"]
    n_object: int
    """The first n_object entries are OBJECT or UNSURE, the others OUTSIDE."""


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


def quarter_resolution(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo reduced to a quarter of its size and enlarged again."""
    h, w = image.shape[:2]
    small = cv2.resize(image, (max(w // 4, 1), max(h // 4, 1)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR))


def gather_pixels(posed: PosedCapture, region: ObjectRegion, ring_share: float, max_side_px: int) -> PixelPool:
    """Collect the object's pixels and those of a ring around it.

    ring_share: width of the ring as a share of the mask's extent. Rays just outside the silhouette must be
    trained on, or the shape swells there. max_side_px: larger photos are thinned to about this resolution.
    """
    inner: list[tuple[np.ndarray, ...]] = []
    outer: list[tuple[np.ndarray, ...]] = []
    for i, view in enumerate(posed.views):
        image, mask = posed.image(i), region.mask(view.name)
        label = np.where(mask >= 192, OBJECT, np.where(mask <= 64, OUTSIDE, UNSURE)).astype(np.uint8)
        on = (label != OUTSIDE).astype(np.uint8)
        if not on.any():
            continue
        width = max(int(ring_share * np.sqrt(on.sum())), 3)
        # the box blur's reach is the ring's width: cheaper than dilating by a large disc, and as good here
        ring = (cv2.blur(on.astype(np.float32), (2 * width + 1, 2 * width + 1)) > 0) & (on == 0)
        step = max(1, round(max(image.shape[:2]) / max_side_px))
        blurred = quarter_resolution(image)
        for chosen, sink in ((on > 0, inner), (ring, outer)):
            rows, columns = np.nonzero(chosen[::step, ::step])
            rows, columns = rows * step, columns * step
            pixel = np.stack([columns, rows], 1).astype(np.int16)
            index = np.full(len(rows), i, np.int16)
            sink.append((index, pixel, image[rows, columns], blurred[rows, columns], label[rows, columns]))
    if not inner:
        raise ValueError("every mask is empty, so there is no object to fit")
    fields = (torch.from_numpy(np.concatenate(x)) for x in zip(*inner, *outer, strict=True))
    view_idx, pixels, rgb, quarter, labels = fields
    return PixelPool(view_idx, pixels, rgb, quarter, labels, n_object=sum(len(x[0]) for x in inner))
