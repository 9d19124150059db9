"""Ambient occlusion: how much of the sky each point of the surface sees past the object itself."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Float64

from recon.data import UvMesh
from texturing.cells import Cells
from texturing.normal_map import RayTarget
from texturing.normals import vertex_normals
from texturing.rasterize import Texels, blocks_of, run_blocks

SMOOTHING_ROUNDS = 2
"""Each shares a vertex's value with its neighbours; two leave a few per cent of the rays' noise."""


def bake_occlusion(uv_mesh: UvMesh, cells: Cells, texels: Texels, n_rays: int) -> Float32[np.ndarray, " n"]:
    """0 (closed in) .. 1 (open) of each texel, between the joined vertices of `cells`, at which rays are cast.

    cells: of `uv_mesh`, as fine as occlusion may vary; texels: of the cells.
    """
    joined = vertex_occlusion(uv_mesh, cells, n_rays)
    return np.einsum("nk,nk->n", texels.barycentric, joined[cells.joined_faces[texels.face]])


def vertex_occlusion(uv_mesh: UvMesh, cells: Cells, n_rays: int) -> Float32[np.ndarray, " n_joined"]:
    """The cosine-weighted share of the half-sphere over each joined vertex of the cells that is open."""
    as_mesh = UvMesh(cells.vertices_world, cells.faces, cells.uv, cells.mesh_vertex_idx, uv_mesh.texture_size_px)
    normals = np.zeros((cells.n_joined, 3))
    normals[cells.mesh_vertex_idx] = vertex_normals(as_mesh, cells.vertices_world)
    points = cells.joined_vertices_world
    # A start just above the surface: its own bumps are the normal map's business.
    points = points + 2e-3 * float(np.linalg.norm(np.ptp(points, axis=0))) * normals
    target = RayTarget(uv_mesh.vertices_world, uv_mesh.faces, None)
    out = np.empty(len(points), np.float32)

    def look(lo: int, hi: int) -> None:
        rays = half_sphere(normals[lo:hi], n_rays, lo)
        starts = np.repeat(points[lo:hi], n_rays, axis=0)
        distance, _, _ = target.hits(starts, rays.reshape(-1, 3))
        out[lo:hi] = np.isinf(distance).reshape(-1, n_rays).mean(1)

    run_blocks(look, blocks_of(len(points), max(1, 500_000 // n_rays)))
    return _smoothed(out, cells)


def half_sphere(normals: Float64[np.ndarray, "n 3"], n_rays: int, seed: int) -> Float[np.ndarray, "n n_rays 3"]:
    """Cosine-weighted directions around each normal: Malley's method on the R2 sequence, turned at random for each."""
    rng = np.random.default_rng(seed)
    golden = 1.32471795724474602596  # the real root of x^3 = x + 1 (Roberts 2018)
    sequence = (np.arange(n_rays)[:, None] / [golden, golden**2]) % 1
    square = (sequence + rng.random((len(normals), 1, 2))) % 1
    radius, angle = np.sqrt(square[..., 0]), 2 * np.pi * square[..., 1]
    side = np.cross(normals, np.eye(3)[np.abs(normals).argmin(1)])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(normals, side)
    up = np.sqrt(1 - square[..., 0])
    parts = zip((radius * np.cos(angle), radius * np.sin(angle), up), (side, other, normals), strict=True)
    return sum(scale[..., None] * axis[:, None] for scale, axis in parts)


def _smoothed(value: Float32[np.ndarray, " n"], cells: Cells) -> Float32[np.ndarray, " n"]:
    edges = np.concatenate([cells.joined_faces[:, [k, (k + 1) % 3]] for k in range(3)])
    n_neighbours = np.bincount(edges[:, 0], minlength=len(value))
    for _ in range(SMOOTHING_ROUNDS):
        around = np.bincount(edges[:, 0], value[edges[:, 1]], len(value)) / np.maximum(n_neighbours, 1)
        value = np.where(n_neighbours > 0, 0.5 * value + 0.5 * around, value).astype(np.float32)
    return value
