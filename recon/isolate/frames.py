"""The photos of a capture at working size, with cameras to match."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from recon.camera import Pinhole
from recon.data import PosedCapture
from recon.transforms import Rigid

Result = TypeVar("Result")


@dataclass(frozen=True)
class Frame:
    """One photo at working size."""

    name: str
    rgb: Float32[np.ndarray, "h w 3"]
    """0..1, as encoded in the photo (not linear)."""
    camera: Pinhole
    cam_from_world: Rigid

    def shape(self) -> tuple[int, int]:
        return self.rgb.shape[0], self.rgb.shape[1]

    def matrix(self) -> Float64[np.ndarray, "3 4"]:
        """K [R t]: homogeneous pixel from world."""
        return self.camera.matrix() @ self.cam_from_world.matrix()[:3]

    def centre_world(self) -> Float64[np.ndarray, "3"]:
        return -self.cam_from_world.rotation.T @ self.cam_from_world.translation


def in_threads(function: Callable[..., Result], *sequences: Iterable[Any]) -> list[Result]:
    """`function` over the sequences' items in step, in as many threads as there are cores.

    For work that spends its time outside the interpreter (OpenCV, NumPy, compiled kernels that let go of its lock).
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(function, *sequences))


def load_frames(posed: PosedCapture, side_px: int) -> list[Frame]:
    """Every view's photo, its longer side brought down to `side_px` (never enlarged)."""

    def one(index: int) -> Frame:
        view, image = posed.views[index], posed.image(index)
        scale = min(1.0, side_px / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        if scale < 1:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return Frame(view.name, image.astype(np.float32) / 255, view.camera.resized(*size), view.cam_from_world)

    return in_threads(one, range(len(posed.views)))


def plane_homography(
    target: Frame, source: Frame, normal_world: Float64[np.ndarray, "3"], offset: float
) -> Float64[np.ndarray, "3 3"]:
    """`source_from_target` on pixels for the plane normal . x = offset (Hartley & Zisserman 2004, eq. 13.2)."""
    source_from_target = source.cam_from_world @ target.cam_from_world.inverse()
    normal = target.cam_from_world.rotation @ normal_world
    distance = offset + float(normal @ target.cam_from_world.translation)
    h = source_from_target.rotation + np.outer(source_from_target.translation, normal) / distance
    return source.camera.matrix() @ h @ np.linalg.inv(target.camera.matrix())


def warp(
    source: Float32[np.ndarray, "h w c"], source_from_target: Float64[np.ndarray, "3 3"], shape: tuple[int, int]
) -> Float32[np.ndarray, "h_target w_target c"]:
    """Sample an image through a pixel homography; NaN where the target looks outside it."""
    # OpenCV puts pixel centres at whole numbers, this code at +0.5.
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    h = np.linalg.inv(shift) @ source_from_target @ shift
    nan = (float("nan"),) * 4
    return cv2.warpPerspective(
        source,
        h,
        (shape[1], shape[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=nan,
    )
