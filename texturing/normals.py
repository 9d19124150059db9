"""Vertex normals of a mesh that was cut into charts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int

from recon.data import UvMesh


def vertex_normals(uv_mesh: UvMesh, vertices: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Unit normals of the uncut mesh, so that chart borders do not show; angle-weighted (Thuermer & Wuethrich 1998)."""
    corners = vertices[uv_mesh.faces]
    ahead, behind = np.roll(corners, -1, axis=1) - corners, np.roll(corners, 1, axis=1) - corners
    face_normal = np.cross(ahead[:, 0], behind[:, 0])
    face_normal /= np.maximum(np.linalg.norm(face_normal, axis=1, keepdims=True), 1e-30)
    lengths = np.linalg.norm(ahead, axis=2) * np.linalg.norm(behind, axis=2)
    angle = np.arccos(np.clip((ahead * behind).sum(2) / np.maximum(lengths, 1e-30), -1, 1))
    sums = _sum_at(uv_mesh.mesh_vertex_idx[uv_mesh.faces], face_normal[:, None] * angle[..., None])
    normals = sums[uv_mesh.mesh_vertex_idx]
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    # A vertex whose faces cancel out or are all degenerate has no normal of its own; up is a valid one.
    return np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 1.0, 0.0])


def _sum_at(idx: Int[np.ndarray, "m 3"], values: Float64[np.ndarray, "m 3 3"]) -> Float64[np.ndarray, "k 3"]:
    columns = [np.bincount(idx.ravel(), values[..., k].ravel()) for k in range(3)]
    return np.stack(columns, -1)
