"""A picture for people: mask outlines, box and hull over some of the photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8
from PIL import Image

from recon.camera import View
from recon.data import ObjectRegion
from recon.isolate.frames import Frame

MASK_RGB, BOX_RGB, HULL_RGB = (255, 30, 30), (40, 120, 255), (40, 220, 90)
BOX_EDGES = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]


def box_corners(region: ObjectRegion) -> Float64[np.ndarray, "8 3"]:
    """World corners of the box; bit k of a corner's number says which side of axis k it is on."""
    signs = np.array([[(i >> k & 1) - 0.5 for k in range(3)] for i in range(8)])
    return region.world_from_box.apply(signs * region.box_size)


def draw(frame: Frame, mask: Bool[np.ndarray, "h w"], region: ObjectRegion) -> UInt8[np.ndarray, "h w 3"]:
    """One photo with the mask's outline (red), the box (blue) and the hull's outline (green)."""
    image = np.ascontiguousarray((frame.rgb * 255).astype(np.uint8))
    view = View(frame.name, frame.camera, frame.cam_from_world)
    pixels, depth_z = view.project(region.hull_vertices_world)
    if (depth_z > 0).all() and np.abs(pixels).max() < 1e5:
        outline = cv2.convexHull(pixels.astype(np.float32)).astype(np.int32)
        cv2.polylines(image, [outline], True, HULL_RGB, 1, cv2.LINE_AA)
    pixels, depth_z = view.project(box_corners(region))
    for a, b in BOX_EDGES:
        if min(depth_z[a], depth_z[b]) > 0 and np.abs(pixels[[a, b]]).max() < 1e5:
            ends = [tuple(int(x) for x in pixels[i]) for i in (a, b)]
            cv2.line(image, ends[0], ends[1], BOX_RGB, 1, cv2.LINE_AA)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, MASK_RGB, 1)
    return image


def write_contact_sheet(
    path: Path,
    frames: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    region: ObjectRegion,
    n_photos: int = 12,
) -> None:
    """Write up to `n_photos` evenly chosen photos with what was found in them as one JPEG."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(n_photos, len(frames))).round().astype(int))
    tiles = [draw(frames[i], masks[i], region) for i in chosen]
    height, width = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
    n_columns = 4 if width >= height else 6
    rows = -(-len(tiles) // n_columns)
    sheet = np.zeros((rows * height, n_columns * width, 3), np.uint8)
    for n, tile in enumerate(tiles):
        y, x = divmod(n, n_columns)
        sheet[y * height : y * height + tile.shape[0], x * width : x * width + tile.shape[1]] = tile
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path, quality=88)
