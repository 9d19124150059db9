"""The dense surface as a PLY file with vertex colours: raw material for other tools."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from scipy.spatial import cKDTree

from recon.data import Asset, Mesh
from recon.transforms import Similarity

N_SAMPLES = 400_000
"""Points of the textured mesh whose colours the dense vertices take: some two texels of a 2K map apart."""


def write_dense_ply(path: Path, mesh: Mesh, asset: Asset, asset_from_world: Similarity) -> Path:
    """Write a mesh's dense surface in the asset's frame, each vertex with the texture's colour nearest to it."""
    import trimesh
    from trimesh.exchange.ply import export_ply

    dense = mesh.dense_vertices_world.astype(np.float64)
    surface = trimesh.Trimesh(
        asset_from_world.apply(dense), mesh.dense_faces, vertex_colors=nearest_colours(dense, asset), process=False
    )
    path.write_bytes(export_ply(surface, vertex_normal=False))
    return path


def nearest_colours(points_world: Float64[np.ndarray, "n 3"], asset: Asset) -> UInt8[np.ndarray, "n 3"]:
    """The texture's colour at the sample of the textured surface that is nearest to each point."""
    uv_mesh = asset.uv_mesh
    corners = uv_mesh.vertices_world[uv_mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    rng = np.random.default_rng(0)
    face = rng.choice(len(area), N_SAMPLES, p=area / area.sum())
    # Folding the unit square over its diagonal spreads points evenly over a triangle.
    a, b = rng.random((2, N_SAMPLES))
    a, b = np.where(a + b > 1, 1 - a, a), np.where(a + b > 1, 1 - b, b)
    weights = np.stack([1 - a - b, a, b], -1)
    samples = np.einsum("nk,nkc->nc", weights, corners[face])
    uv = np.einsum("nk,nkc->nc", weights, uv_mesh.uv[uv_mesh.faces[face]])
    _, nearest = cKDTree(samples).query(points_world)
    size = asset.base_colour.shape[0]
    pixel = uv[nearest] * [size, -size] + [-0.5, size - 0.5]
    x, y = np.clip(np.round(pixel).astype(int), 0, size - 1).T
    return cv2.blur(asset.base_colour, (3, 3))[y, x]
