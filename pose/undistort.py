"""Photos and masks without lens distortion, as seen by pinhole cameras."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from pose.model import Lens, SparseModel
from recon.camera import Pinhole
from recon.data import Capture, read_mask, read_rgb


def pinhole_inside(lens: Lens) -> Pinhole:
    """The largest pinhole camera of the same focal length that sees nothing beyond the photo's edges."""
    w, h, n = lens.width_px, lens.height_px, 65
    xs, ys = np.linspace(0, w, n), np.linspace(0, h, n)
    sides = {
        "left": np.stack([np.zeros(n), ys], -1),
        "right": np.stack([np.full(n, float(w)), ys], -1),
        "top": np.stack([xs, np.zeros(n)], -1),
        "bottom": np.stack([xs, np.full(n, float(h))], -1),
    }
    free = {k: _undistorted(lens, v) for k, v in sides.items()}
    focal = (lens.fx_px + lens.fy_px) / 2
    x0, x1 = free["left"][:, 0].max() * focal, free["right"][:, 0].min() * focal
    y0, y1 = free["top"][:, 1].max() * focal, free["bottom"][:, 1].min() * focal
    return Pinhole(max(1, int(x1 - x0)), max(1, int(y1 - y0)), focal, focal, float(-x0), float(-y0))


def _undistorted(lens: Lens, pixels: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Distorted pixels as undistorted directions (x / z, y / z), by fixed-point iteration."""
    distorted = (pixels - [lens.cx_px, lens.cy_px]) / [lens.fx_px, lens.fy_px]
    free = distorted.copy()
    for _ in range(50):
        x, y = free.T
        r2 = x * x + y * y
        radial = np.maximum(1 + lens.k1 * r2 + lens.k2 * r2 * r2, 0.1)
        tangential = np.stack(
            [2 * lens.p1 * x * y + lens.p2 * (r2 + 2 * x * x), lens.p1 * (r2 + 2 * y * y) + 2 * lens.p2 * x * y], -1
        )
        free = (distorted - tangential) / radial[:, None]
    return free


def _matrix(lens: Lens) -> Float64[np.ndarray, "3 3"]:
    return np.array([[lens.fx_px, 0, lens.cx_px], [0, lens.fy_px, lens.cy_px], [0, 0, 1.0]])


def _coefficients(lens: Lens) -> Float64[np.ndarray, "4"]:
    return np.array([lens.k1, lens.k2, lens.p1, lens.p2])


def sampling_maps(lens: Lens, camera: Pinhole) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Where each pixel of the pinhole camera lies in the photo, as cv2.remap counts (centres at whole numbers)."""
    # OpenCV counts pixel centres as whole numbers here, so both principal points move by half a pixel.
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    size = (camera.width_px, camera.height_px)
    maps = cv2.initUndistortRectifyMap(
        _matrix(lens) - shift, _coefficients(lens), None, camera.matrix() - shift, size, cv2.CV_32FC1
    )
    return maps[0], maps[1]


def undistort_all(
    capture: Capture, model: SparseModel, folder: Path, progress: Callable[[float, float, str], None]
) -> tuple[list[Pinhole], UInt8[np.ndarray, "n_points 3"]]:
    """Write the undistorted photos (and given masks) of a model; its pinhole cameras and the colours of its points."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lenses = list(dict.fromkeys(model.lenses))
    cameras = {lens: pinhole_inside(lens) for lens in lenses}
    maps = {lens: sampling_maps(lens, cameras[lens]) for lens in lenses}
    colour_sum, colour_n = np.zeros((len(model.points), 3)), np.zeros(len(model.points))

    def one(view: int) -> tuple[np.ndarray, np.ndarray]:
        name, lens = model.names[view], model.lenses[view]
        photo = read_rgb(capture.image_path(name))
        out = cv2.remap(photo, *maps[lens], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
        Image.fromarray(out).save(folder / "images" / f"{name}.jpg", "JPEG", quality=97, subsampling=0)
        mask_path = capture.mask_path(name)
        if mask_path is not None:
            (folder / "masks").mkdir(exist_ok=True)
            mask = cv2.remap(read_mask(mask_path), *maps[lens], cv2.INTER_LINEAR)
            Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
        rows = np.flatnonzero(model.obs_view_idx == view)
        at = np.clip(model.obs_px[rows].astype(int), 0, (lens.width_px - 1, lens.height_px - 1))
        return model.obs_point_idx[rows], photo[at[:, 1], at[:, 0]]

    n = len(model.names)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for done, (idx, rgb) in enumerate(pool.map(one, range(n)), 1):
            np.add.at(colour_sum, idx, rgb)
            np.add.at(colour_n, idx, 1)
            progress(done, n, "undistorting photos")
    colours = colour_sum / np.maximum(colour_n, 1)[:, None]
    return [cameras[lens] for lens in model.lenses], np.rint(colours).astype(np.uint8)
