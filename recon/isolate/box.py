"""The tight box and the convex hull of a carved solid."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import ndimage
from scipy.spatial import ConvexHull

from recon.data import SupportPlane
from recon.isolate.volume import Grid
from recon.transforms import Rigid


def shell_points(grid: Grid, solid: Bool[np.ndarray, "i j k"]) -> Float64[np.ndarray, "n 3"]:
    """World positions of the centres of a solid's outermost voxels."""
    shell = solid & ~ndimage.binary_erosion(solid)
    return grid.points_world(np.argwhere(shell) + 0.5)


def clip_at_plane(
    points_world: Float64[np.ndarray, "n 3"], plane: SupportPlane, lowest: float
) -> Float64[np.ndarray, "n 3"]:
    """Points below height `lowest` above the plane are lifted onto it."""
    height = points_world @ plane.normal_world - plane.offset
    return points_world + np.maximum(lowest - height, 0)[:, None] * plane.normal_world


def upright_box(points_world: Float64[np.ndarray, "n 3"]) -> tuple[Rigid, Float64[np.ndarray, "3"]]:
    """`world_from_box` and full sizes of the smallest box around points whose z axis is the world's."""
    (cx, cy), _, angle_deg = cv2.minAreaRect(points_world[:, :2].astype(np.float32))
    yaw = np.radians(angle_deg)
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    del cx, cy  # float32 in OpenCV: the box is measured again in float64
    local = points_world @ rotation
    low, high = local.min(0), local.max(0)
    return Rigid(rotation, rotation @ ((low + high) / 2)), high - low


def convex_hull(
    points_world: Float64[np.ndarray, "n 3"], margin: float
) -> tuple[Float64[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Vertices and outward counter-clockwise triangles of the convex hull grown by `margin` on all sides.

    Growing by a ball is approximated by the corners of an icosahedron whose insphere has that radius.
    """
    golden = (1 + 5**0.5) / 2
    ico = np.array([[0, a, b * golden] for a in (-1, 1) for b in (-1, 1)])
    ico = np.concatenate([np.roll(ico, k, axis=1) for k in range(3)])
    ico /= np.linalg.norm(ico[0]) * 0.7947  # insphere radius over circumradius of an icosahedron
    core = points_world[ConvexHull(points_world).vertices]
    grown = (core[:, None] + margin * ico[None]).reshape(-1, 3)
    hull = ConvexHull(grown)
    kept = np.unique(hull.simplices)
    vertices = grown[kept]
    faces = np.searchsorted(kept, hull.simplices)
    return vertices, orient_outward(vertices, faces)


def orient_outward(vertices: Float64[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "f 3"]:
    """The triangles of a convex body, each turned counter-clockwise seen from outside."""
    tri = vertices[faces]
    normal = np.cross(tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0])
    inward = ((tri.mean(1) - vertices.mean(0)) * normal).sum(1) < 0
    out = faces.copy()
    out[inward] = out[inward][:, ::-1]
    return out
