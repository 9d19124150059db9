"""Signed distance primitives (negative inside, metres) and the triangle mesh of their zero set.

Every primitive takes points `(n, 3)` and returns `(n,)`; the formulas are Inigo Quilez's well-known ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import trimesh
from jaxtyping import Float

Points = Float[np.ndarray, "n 3"]
Distances = Float[np.ndarray, " n"]
Sdf = Callable[[Points], Distances]


def turned(p: Points, centre: Sequence[float], axis: str, degrees: float) -> Points:
    """Points in the frame of a part that stands at `centre` and is turned about one coordinate axis."""
    q = p - np.asarray(centre, p.dtype)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    out = q.copy()
    out[:, i], out[:, j] = c * q[:, i] + s * q[:, j], -s * q[:, i] + c * q[:, j]
    return out


def ellipsoid(p: Points, centre: Sequence[float], radii: Sequence[float]) -> Distances:
    """First-order distance to an ellipsoid: exact on its surface, good near it."""
    q = p - np.asarray(centre, p.dtype)
    r = np.asarray(radii, p.dtype)
    k0 = np.linalg.norm(q / r, axis=1)
    k1 = np.linalg.norm(q / (r * r), axis=1)
    return k0 * (k0 - 1) / np.maximum(k1, 1e-9)


def cone_capsule(p: Points, a: Sequence[float], b: Sequence[float], radius_a: float, radius_b: float) -> Distances:
    """A stick from `a` to `b` with round ends whose radius runs from `radius_a` to `radius_b`."""
    start, along = np.asarray(a, p.dtype), np.asarray(b, p.dtype) - np.asarray(a, p.dtype)
    q = p - start
    t = np.clip(q @ along / (along @ along), 0, 1)
    return np.linalg.norm(q - t[:, None] * along, axis=1) - (radius_a + t * (radius_b - radius_a))


def torus(p: Points, centre: Sequence[float], axis: int, major: float, minor: float) -> Distances:
    """A ring about coordinate axis `axis`."""
    q = p - np.asarray(centre, p.dtype)
    i, j = [k for k in range(3) if k != axis]
    return np.hypot(np.hypot(q[:, i], q[:, j]) - major, q[:, axis]) - minor


def cylinder(p: Points, z_low: float, z_high: float, radius: float, rounding: float) -> Distances:
    """An upright cylinder about the z axis with rounded edges."""
    dr = np.hypot(p[:, 0], p[:, 1]) - (radius - rounding)
    dz = np.abs(p[:, 2] - (z_low + z_high) / 2) - ((z_high - z_low) / 2 - rounding)
    return np.hypot(np.maximum(dr, 0), np.maximum(dz, 0)) + np.minimum(np.maximum(dr, dz), 0) - rounding


def box(p: Points, half: Sequence[float], rounding: float) -> Distances:
    """A box about the origin with rounded edges; `half` are its half edge lengths."""
    q = np.abs(p) - (np.asarray(half, p.dtype) - rounding)
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0) - rounding


def blend(a: Distances, b: Distances, width: float) -> Distances:
    """Union with a fillet of about `width` (polynomial smooth minimum)."""
    h = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - h * h * width / 4


def carve(a: Distances, b: Distances, width: float) -> Distances:
    """`a` without `b`, with the edge rounded by about `width`."""
    return -blend(-a, b, width)


def gradient(sdf: Sdf, p: Points, step: float = 4e-4) -> Points:
    """Unit gradient of a distance field by central differences: the outward normal on its zero set."""
    out = np.empty_like(p)
    for axis in range(3):
        shift = np.zeros(3, p.dtype)
        shift[axis] = step
        out[:, axis] = sdf(p + shift) - sdf(p - shift)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def mesh_of(sdf: Sdf, low: Sequence[float], high: Sequence[float], voxel_m: float, n_triangles: int) -> trimesh.Trimesh:
    """The closed zero set inside a box, by marching cubes at `voxel_m`, simplified to about `n_triangles`.

    Raises ValueError if the result is not watertight (then the voxel is too coarse for the shape).
    """
    import pymeshlab
    from skimage.measure import marching_cubes

    lo, hi = np.asarray(low, float), np.asarray(high, float)
    n = np.ceil((hi - lo) / voxel_m).astype(int) + 1
    axes = [lo[k] + voxel_m * np.arange(n[k]) for k in range(3)]
    field = np.empty(tuple(n), np.float32)
    for i, x in enumerate(axes[0]):  # slab by slab: the field's temporaries are many times its own size
        y, z = np.meshgrid(axes[1], axes[2], indexing="ij")
        slab = np.stack([np.full_like(y, x), y, z], -1).reshape(-1, 3)
        field[i] = sdf(slab.astype(np.float32)).reshape(n[1], n[2])
    vertices, faces, _, _ = marching_cubes(field, 0.0, spacing=(voxel_m,) * 3, gradient_direction="descent")
    whole = trimesh.Trimesh(vertices + lo, faces)
    body = max(whole.split(only_watertight=True), key=lambda m: m.volume)
    if len(body.faces) > n_triangles:
        lab = pymeshlab.MeshSet()
        lab.add_mesh(pymeshlab.Mesh(body.vertices, body.faces))
        lab.meshing_decimation_quadric_edge_collapse(
            targetfacenum=n_triangles, preservetopology=True, preservenormal=True, optimalplacement=True
        )
        small = lab.current_mesh()
        body = trimesh.Trimesh(small.vertex_matrix(), small.face_matrix())
    if not body.is_watertight:
        raise ValueError(f"the designed shape is not watertight at a voxel of {voxel_m} m")
    return body
