"""A phone's lens: pinhole with radial distortion, a finite aperture, and the frames of a walk around the object."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from recon.transforms import Rigid


@dataclass(frozen=True)
class Lens:
    """OPENCV camera model without tangential terms; pixel centres at +0.5."""

    width_px: int
    height_px: int
    focal_px: float
    cx_px: float
    cy_px: float
    k1: float = -0.035
    k2: float = 0.018
    aperture_m: float = 0.0011
    """Radius of the entrance pupil: what is out of focus is blurred a little."""

    def directions(self, pixels: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """Ray directions in the camera (OpenCV axes) with z = 1, distortion undone by fixed-point steps."""
        xd = (pixels - (self.cx_px, self.cy_px)) / self.focal_px
        x = xd.copy()
        for _ in range(8):
            r2 = (x * x).sum(1, keepdims=True)
            x = xd / (1 + self.k1 * r2 + self.k2 * r2 * r2)
        return np.concatenate([x, np.ones((len(x), 1))], 1)


@dataclass(frozen=True)
class Shot:
    """One photo to take."""

    name: str
    world_from_cam: Rigid
    focus_m: float
    """Distance at which the photo is sharp."""
    exposure_ev: float
    """How much brighter than the others, log2."""
    blur_px: float
    """How far a shaky hand smears the photo."""
    blur_direction_deg: float


def looking_at(centre: np.ndarray, target: np.ndarray, roll_deg: float) -> Rigid:
    """`world_from_cam` of a camera at `centre` that looks at `target`, nearly upright (OpenCV axes)."""
    z = (target - centre) / np.linalg.norm(target - centre)
    x = np.cross(z, (0.0, 0.0, 1.0))
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    c, s = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    return Rigid(np.stack([c * x + s * y, -s * x + c * y, z], 1), centre)


def place(
    name: str, azimuth_deg: float, elevation_deg: float, target: np.ndarray, reach_m: float, rng: np.random.Generator
) -> Shot:
    """A hand-held shot: everything wobbles a little around its nominal place."""
    azimuth = np.radians(azimuth_deg + rng.normal(0, 2.5))
    elevation = np.radians(elevation_deg + rng.normal(0, 1.5))
    reach = reach_m * (1 + rng.normal(0, 0.035))
    out = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    aim = target + rng.normal(0, 0.006, 3)
    pose = looking_at(target + reach * out, aim, rng.normal(0, 2.0))
    return Shot(name, pose, reach * 0.96, rng.normal(0.0, 0.09), 0.0, rng.uniform(0, 360))


RINGS = ((0.39, 14.0), (0.36, 36.0), (0.25, 60.0))
"""Share of the photos, and elevation in degrees, of each ring of the walk."""


def walk(target: np.ndarray, reach_m: float, n_photos: int, n_test: int, seed: int) -> tuple[list[Shot], list[Shot]]:
    """The capture's shots in the order of taking, and held-out ones between the rings."""
    rng = np.random.default_rng([seed, 23])
    shots: list[Shot] = []
    start, left = rng.uniform(0, 360), n_photos
    for k, (share, elevation) in enumerate(RINGS):
        n = left if k == len(RINGS) - 1 else round(share * n_photos)
        left -= n
        for i in range(n):
            name = f"IMG_{len(shots) + 1:04d}"
            shots.append(place(name, start + 360 * i / n, elevation, target, reach_m * (1, 1.04, 1.1)[k], rng))
        start += 360 / n * 0.37
    for i in rng.choice(n_photos, max(1, n_photos // 18), replace=False):  # a shaky hand now and then
        shots[i] = replace(shots[i], blur_px=float(rng.uniform(1.5, 2.8)))
    test = []
    for i in range(n_test):
        shot = place(f"TEST_{i + 1:04d}", start + 360 * i / n_test, rng.uniform(17, 56), target, reach_m * 1.03, rng)
        test.append(replace(shot, exposure_ev=0.0))  # judged by colour: no photo's own exposure in the way
    return shots, test
