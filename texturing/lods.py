"""Lighter versions of an asset: fewer triangles on the same charts, smaller maps."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import UInt8

from recon.data import Asset, UvMesh
from texturing.cells import cut_into_cells
from texturing.normal_map import bake_normal_map
from texturing.rasterize import rasterize_atlas

REACH_SHARE = 0.03
"""How far a lighter mesh may lie from the full one, as a share of the diagonal."""
SEAM_WEIGHT = 10.0
"""How much texture coordinates count beside positions; seams fray below it, silhouettes suffer far above it. It must be
given always: the filter remembers the last value."""


def lighter(asset: Asset, n_triangles: int, texture_size_px: int) -> Asset:
    """An asset with at most so many triangles and maps of at most so many pixels a side; itself where it fits."""
    full, size = asset.uv_mesh, min(texture_size_px, asset.base_colour.shape[0])
    if len(full.faces) <= n_triangles and size == asset.base_colour.shape[0]:
        return asset
    light = decimated(full, n_triangles) if len(full.faces) > n_triangles else full
    light = replace(light, texture_size_px=size)
    normal_map, packed = asset.normal_map, asset.occlusion_roughness_metallic
    if normal_map is not None:
        normal_map = _sized_normals(normal_map, size) if light.faces is full.faces else full_normals(full, light)
    return replace(
        asset,
        uv_mesh=light,
        base_colour=_shrunk(asset.base_colour, size),
        seen=cv2.resize(asset.seen, (size, size), interpolation=cv2.INTER_NEAREST),
        normal_map=normal_map,
        occlusion_roughness_metallic=None if packed is None else _shrunk(packed, size),
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


def full_normals(full: UvMesh, light: UvMesh) -> UInt8[np.ndarray, "t t 3"]:
    """A normal map that shades a lighter mesh as the full one is shaded; the full one's own map holds for it alone."""
    sewn = cut_into_cells(full, np.inf)
    texels = rasterize_atlas(cut_into_cells(light, np.inf), light.texture_size_px)
    reach = REACH_SHARE * float(np.linalg.norm(np.ptp(full.vertices_world, axis=0)))
    normal_map, _ = bake_normal_map(light, texels, sewn.joined_vertices_world, sewn.joined_faces, reach)
    return normal_map


def _sized_normals(normal_map: UInt8[np.ndarray, "h w 3"], size_px: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Averaged normals are too short: make them unit again."""
    normal = _shrunk(normal_map, size_px).astype(np.float32) / 127.5 - 1
    normal /= np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-6)
    return np.round((normal + 1) * 127.5).astype(np.uint8)
