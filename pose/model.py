"""The sparse model between pycolmap and the rest of this package, in plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from recon.transforms import Rigid


@dataclass(frozen=True)
class Lens:
    """A pinhole camera with OpenCV's radial and tangential distortion; pixel centres at +0.5."""

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    def project(self, x_cam: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 2"]:
        """Pixels of points in camera axes; infinite for points behind the camera."""
        z = np.where(x_cam[:, 2] > 0, x_cam[:, 2], np.nan)
        x, y = x_cam[:, 0] / z, x_cam[:, 1] / z
        r2 = x * x + y * y
        radial = 1 + self.k1 * r2 + self.k2 * r2 * r2
        u = x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x)
        v = y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y
        pixels = np.stack([self.fx_px * u + self.cx_px, self.fy_px * v + self.cy_px], -1)
        return np.where(np.isnan(pixels), np.inf, pixels)


@dataclass(frozen=True)
class SparseModel:
    """Registered photos, their lenses, and the points triangulated from them, in an arbitrary frame."""

    names: tuple[str, ...]
    """Names of the registered photos, in the capture's order."""
    lenses: tuple[Lens, ...]
    """Of each registered photo."""
    cam_from_world: tuple[Rigid, ...]
    points: Float64[np.ndarray, "n_points 3"]
    point_error_px: Float64[np.ndarray, " n_points"]
    obs_point_idx: Int[np.ndarray, " n_obs"]
    obs_view_idx: Int[np.ndarray, " n_obs"]
    obs_px: Float64[np.ndarray, "n_obs 2"]
    """Where each observation was measured, in the distorted photo."""

    def centres(self) -> Float64[np.ndarray, "n_views 3"]:
        """The optical centres."""
        return np.array([-p.rotation.T @ p.translation for p in self.cam_from_world])

    def rotations(self) -> Float64[np.ndarray, "n_views 3 3"]:
        """Rows are the cameras' right, down and forward axes in world coordinates."""
        return np.array([p.rotation for p in self.cam_from_world])
