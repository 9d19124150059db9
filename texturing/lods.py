"""Lighter versions of an asset: fewer triangles on the same charts, smaller maps."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import UInt8

from recon.data import Asset, UvMesh

SEAM_WEIGHT = 10.0
"""How much texture coordinates count beside positions; seams fray below it, silhouettes suffer far above it. It must be
given always: the filter remembers the last value."""


def lighter(asset: Asset, n_triangles: int, texture_size_px: int) -> Asset:
    """An asset with at most so many triangles and maps of at most so many pixels a side; itself where it fits."""
    size = min(texture_size_px, asset.base_colour.shape[0])
    uv_mesh = asset.uv_mesh
    if len(uv_mesh.faces) <= n_triangles and size == asset.base_colour.shape[0]:
        return asset
    if len(uv_mesh.faces) > n_triangles:
        uv_mesh = decimated(uv_mesh, n_triangles)
    if size == asset.base_colour.shape[0]:
        return replace(asset, uv_mesh=uv_mesh)
    return replace(
        asset,
        uv_mesh=replace(uv_mesh, texture_size_px=size),
        base_colour=_shrunk(asset.base_colour, size),
        seen=cv2.resize(asset.seen, (size, size), interpolation=cv2.INTER_NEAREST),
        normal_map=None if asset.normal_map is None else _unit_normals(_shrunk(asset.normal_map, size)),
        occlusion_roughness_metallic=None
        if asset.occlusion_roughness_metallic is None
        else _shrunk(asset.occlusion_roughness_metallic, size),
    )


def decimated(uv_mesh: UvMesh, n_triangles: int) -> UvMesh:
    """Collapse edges to a triangle budget; charts and seams stay where they are in the texture.

    MeshLab's quadrics over position and texture coordinate together (Garland & Heckbert 1998).
    """
    import pymeshlab

    vertices = uv_mesh.vertices_world
    # A unit frame: MeshLab weighs texture coordinates against lengths.
    centre, size = vertices.mean(0), float(np.ptp(vertices, axis=0).max())
    meshes = pymeshlab.MeshSet(verbose=False)
    cut = pymeshlab.Mesh((vertices - centre) / size, uv_mesh.faces.astype(np.int32), v_tex_coords_matrix=uv_mesh.uv)
    meshes.add_mesh(cut)
    meshes.compute_texcoord_transfer_vertex_to_wedge()
    meshes.meshing_remove_duplicate_vertices()  # sews the charts together again
    meshes.meshing_decimation_quadric_edge_collapse_with_texture(
        targetfacenum=n_triangles,
        qualitythr=0.3,
        extratcoordw=SEAM_WEIGHT,
        optimalplacement=True,
        preservenormal=True,
    )
    meshes.meshing_remove_unreferenced_vertices()
    mesh = meshes.current_mesh()
    faces, uv = mesh.face_matrix().astype(np.int64), mesh.wedge_tex_coord_matrix()
    corners = np.concatenate([faces.reshape(-1, 1), uv], axis=1)
    split, corner_idx = np.unique(corners, axis=0, return_inverse=True)
    mesh_vertex_idx = split[:, 0].astype(np.int64)
    return UvMesh(
        mesh.vertex_matrix()[mesh_vertex_idx] * size + centre,
        corner_idx.reshape(-1, 3),
        np.clip(split[:, 1:], 0, 1),
        mesh_vertex_idx,
        uv_mesh.texture_size_px,
    )


def _shrunk(image: UInt8[np.ndarray, "h w 3"], size_px: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    return cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _unit_normals(normal_map: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Averaged normals are too short: make them unit again."""
    normal = normal_map.astype(np.float32) / 127.5 - 1
    normal /= np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-6)
    return np.round((normal + 1) * 127.5).astype(np.uint8)
