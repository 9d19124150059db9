"""Pinhole cameras of undistorted photos: OpenCV axes (x right, y down, z forward), pixel (0, 0) is a corner.

The centre of the first pixel is at (0.5, 0.5). Lens distortion exists only inside `pose/`, which hands on
undistorted photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from recon.transforms import Rigid


@dataclass(frozen=True)
class Pinhole:
    """Intrinsics in pixels."""

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float

    def matrix(self) -> Float64[np.ndarray, "3 3"]:
        """K, so that depth_z * (u, v, 1) = K @ x_cam."""
        return np.array([[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1.0]])

    def resized(self, width_px: int, height_px: int) -> Pinhole:
        """The camera of the same photo resampled to another size."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        return Pinhole(width_px, height_px, self.fx_px * sx, self.fy_px * sy, self.cx_px * sx, self.cy_px * sy)


@dataclass(frozen=True)
class View:
    """One registered, undistorted photo and where it was taken from."""

    name: str
    """The photo's name in the capture (unique, no extension); its image is `images/<name>.jpg` of the stage."""
    camera: Pinhole
    cam_from_world: Rigid

    def centre_world(self) -> Float64[np.ndarray, "3"]:
        """The optical centre in world coordinates."""
        return -self.cam_from_world.rotation.T @ self.cam_from_world.translation

    def forward_world(self) -> Float64[np.ndarray, "3"]:
        """The unit viewing direction in world coordinates."""
        return self.cam_from_world.rotation[2]

    def project(
        self, points_world: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
        """Pixel positions and depth_z; pixels are meaningless (but finite) where depth_z <= 0."""
        x_cam = self.cam_from_world.apply(points_world)
        depth_z = x_cam[:, 2]
        safe = np.where(depth_z > 1e-12, depth_z, 1e-12)
        c = self.camera
        u = c.fx_px * x_cam[:, 0] / safe + c.cx_px
        v = c.fy_px * x_cam[:, 1] / safe + c.cy_px
        return np.stack([u, v], -1), depth_z

    def rays(self, pixels: Float[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 3"]:
        """Unit directions in world coordinates through pixel positions (a pixel's centre is at +0.5)."""
        c = self.camera
        x_cam = np.stack(
            [(pixels[:, 0] - c.cx_px) / c.fx_px, (pixels[:, 1] - c.cy_px) / c.fy_px, np.ones(len(pixels))], -1
        )
        x_cam /= np.linalg.norm(x_cam, axis=1, keepdims=True)
        return x_cam @ self.cam_from_world.rotation

    def in_image(self, pixels: Float[np.ndarray, "n 2"], depth_z: Float[np.ndarray, " n"]) -> np.ndarray:
        """Which projected points fall inside the photo and in front of it."""
        u, v = pixels[:, 0], pixels[:, 1]
        return (depth_z > 0) & (u >= 0) & (u < self.camera.width_px) & (v >= 0) & (v < self.camera.height_px)
