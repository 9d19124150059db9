"""A normal map that gives the light mesh the dense surface's shading: tangent space, as glTF has it.

glTF: green is up in the texture, tangents are MikkTSpace's where the file holds none, the bitangent is
sign * cross(normal, tangent). What the viewer does with the light mesh is undone here texel by texel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8

from recon.data import UvMesh
from texturing.fill import dilate_gutters
from texturing.normals import vertex_normals
from texturing.rasterize import Texels, blocks_of, run_blocks

FLAT = np.array([0.0, 0.0, 1.0])
LEAST_COSINE = 0.3
"""A hit whose face looks further away from the light mesh's normal belongs to another side of a thin part."""


def bake_normal_map(
    uv_mesh: UvMesh,
    texels: Texels,
    dense_vertices_world: Float[np.ndarray, "n 3"],
    dense_faces: Int[np.ndarray, "m 3"],
    reach_world: float,
) -> tuple[UInt8[np.ndarray, "t t 3"], float]:
    """The map, and the share of texels whose point of the dense surface was found within `reach_world`.

    texels: of `uv_mesh`'s own faces. From each texel a ray goes out along the shading normal and one in against it,
    and the nearer hit tells the normal; where there is none the map stays flat.
    """
    normals = vertex_normals(uv_mesh, uv_mesh.vertices_world)
    tangents = mikk_tangents(uv_mesh, normals)
    n_dense, vertices = len(dense_vertices_world), dense_vertices_world.astype(np.float64)
    dense = UvMesh(vertices, dense_faces, np.zeros((n_dense, 2)), np.arange(n_dense), 0)
    target = RayTarget(vertices, dense_faces, vertex_normals(dense, vertices))
    encoded = np.empty((len(texels.face), 3), np.float32)
    found = np.zeros(len(texels.face), bool)

    def bake(lo: int, hi: int) -> None:
        corners = uv_mesh.faces[texels.face[lo:hi]]
        weights = texels.barycentric[lo:hi]
        point = np.einsum("nk,nkc->nc", weights, uv_mesh.vertices_world[corners])
        frame = tangent_frames(normals[corners], tangents[corners], weights)
        normal, found[lo:hi] = target.normal_at(point, frame[:, 2], reach_world)
        local = np.where(found[lo:hi, None], np.einsum("nij,nj->ni", frame, normal), FLAT)
        local[:, 2] = np.maximum(local[:, 2], 0.05)  # a tangent-space normal never looks into the surface
        encoded[lo:hi] = local / np.linalg.norm(local, axis=1, keepdims=True)

    run_blocks(bake, blocks_of(len(texels.face), 200_000))
    size = uv_mesh.texture_size_px
    image, used = np.zeros((size, size, 3), np.float32), np.zeros((size, size), bool)
    image[texels.row, texels.column], used[texels.row, texels.column] = 0.5 + 0.5 * encoded, True
    image = dilate_gutters(image, used)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), float(found.mean())


def mikk_tangents(uv_mesh: UvMesh, normals: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 4"]:
    """Unit tangents and the bitangent's sign of each vertex, as MikkTSpace has them (Mikkelsen 2008, ch. 4).

    Each face's direction of growing u is laid into the vertex's normal plane and weighted by the face's angle there.
    Vertices are those of the cut mesh, so that no chart's tangents reach into another.
    """
    corners, uv = uv_mesh.vertices_world[uv_mesh.faces], uv_mesh.uv[uv_mesh.faces]
    (e1, e2), (d1, d2) = ((x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]) for x in (corners, uv))
    turn = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]
    along_u = (d2[:, 1:] * e1 - d1[:, 1:] * e2) * np.sign(turn)[:, None]
    sums, signs = np.zeros((len(normals), 3)), np.zeros(len(normals))
    for k in range(3):
        vertex = uv_mesh.faces[:, k]
        n = normals[vertex]
        ahead = _unit(_in_plane(corners[:, (k + 1) % 3] - corners[:, k], n))
        behind = _unit(_in_plane(corners[:, (k + 2) % 3] - corners[:, k], n))
        angle = np.arccos(np.clip((ahead * behind).sum(1), -1, 1))
        np.add.at(sums, vertex, angle[:, None] * _unit(_in_plane(along_u, n)))
        np.add.at(signs, vertex, angle * np.sign(turn))
    sums = _in_plane(sums, normals)
    # Where all faces around a vertex are degenerate in the texture any direction in the surface will do.
    least = np.eye(3)[np.abs(normals).argmin(1)]
    lost = np.linalg.norm(sums, axis=1) < 1e-9
    sums[lost] = np.cross(least, normals)[lost]
    return np.concatenate([_unit(sums), np.where(signs < 0, -1.0, 1.0)[:, None]], axis=1)


def tangent_frames(
    normals: Float[np.ndarray, "n 3 3"], tangents: Float[np.ndarray, "n 3 4"], weights: Float[np.ndarray, "n 3"]
) -> Float64[np.ndarray, "n 3 3"]:
    """Rows tangent, bitangent, normal at points within triangles, from their corners' vectors and barycentrics."""
    normal = _unit(np.einsum("nk,nkc->nc", weights, normals))
    tangent = _unit(_in_plane(np.einsum("nk,nkc->nc", weights, tangents[:, :, :3]), normal))
    sign = np.where(np.einsum("nk,nk->n", weights, tangents[:, :, 3]) < 0, -1.0, 1.0)
    return np.stack([tangent, sign[:, None] * np.cross(normal, tangent), normal], axis=1).astype(np.float64)


class RayTarget:
    """A mesh that rays are cast at, and its smooth normals where they hit."""

    def __init__(self, vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], normals: Any) -> None:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh

        self.origin = vertices.mean(0)  # Embree works in float32
        self.faces, self.normals = faces, normals
        self.scene = rtcore_scene.EmbreeScene()
        TriangleMesh(self.scene, (vertices - self.origin).astype(np.float32), faces.astype(np.int32))
        # The first call builds Embree's tree, which several threads must not do at once.
        self.scene.run(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))

    def hits(
        self, points: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]
    ) -> tuple[Float32[np.ndarray, " n"], Int[np.ndarray, " n"], Float32[np.ndarray, "n 3"]]:
        """Distance (inf: none), face and barycentrics of the first hit along each unit direction."""
        start = np.ascontiguousarray(points - self.origin, np.float32)
        hit = self.scene.run(start, np.ascontiguousarray(directions, np.float32), output=1)
        distance = np.where(hit["primID"] >= 0, hit["tfar"], np.inf).astype(np.float32)
        u, v = hit["u"], hit["v"]
        return distance, np.maximum(hit["primID"], 0), np.stack([1 - u - v, u, v], -1).astype(np.float32)

    def normal_at(
        self, points: Float[np.ndarray, "n 3"], outward: Float[np.ndarray, "n 3"], reach: float
    ) -> tuple[Float64[np.ndarray, "n 3"], Bool[np.ndarray, " n"]]:
        """Unit normals where the nearer of the rays out and in hits within `reach`, and whether one does."""
        best, normal = np.full(len(points), np.float32(reach)), np.zeros((len(points), 3))
        found = np.zeros(len(points), bool)
        for sign in (1.0, -1.0):
            # A start a little on the other side keeps a surface that touches the point from being missed.
            distance, face, weights = self.hits(points - sign * 0.01 * reach * outward, sign * outward)
            candidate = _unit(np.einsum("nk,nkc->nc", weights, self.normals[self.faces[face]]))
            good = (distance < best) & ((candidate * outward).sum(1) > LEAST_COSINE)
            best[good], normal[good], found[good] = distance[good], candidate[good], True
        return normal, found


def _in_plane(vector: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The part of each vector at right angles to a unit normal."""
    return vector - (vector * normal).sum(-1, keepdims=True) * normal


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-30)
