"""Cells: the mesh's triangles, cut until none is large, so that every one can be given a photo of its own.

A simplified mesh has triangles that no single photo sees whole. The cells live in the same atlas and cover the same
surface; only the texturing stage knows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int

from recon.data import UvMesh

MAX_ROUNDS = 12
"""Halving edges this often divides a triangle into 16 million; a bound only against bad input."""


@dataclass(frozen=True)
class Cells:
    """Triangles with atlas coordinates; corners on chart borders are doubled, `mesh_vertex_idx` joins them again."""

    vertices_world: Float64[np.ndarray, "n_vertices 3"]
    uv: Float64[np.ndarray, "n_vertices 2"]
    faces: Int[np.ndarray, "n_faces 3"]
    mesh_vertex_idx: Int[np.ndarray, " n_vertices"]

    @cached_property
    def joined_faces(self) -> Int[np.ndarray, "n_faces 3"]:
        """The faces over the uncut mesh's vertices, so that charts touch."""
        return self.mesh_vertex_idx[self.faces]

    @cached_property
    def n_joined(self) -> int:
        return int(self.mesh_vertex_idx.max()) + 1

    @cached_property
    def joined_vertices_world(self) -> Float64[np.ndarray, "n_joined 3"]:
        out = np.zeros((self.n_joined, 3))
        out[self.mesh_vertex_idx] = self.vertices_world
        return out

    @cached_property
    def _cross(self) -> Float64[np.ndarray, "n_faces 3"]:
        tri = self.vertices_world[self.faces]
        return np.cross(tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0])

    @cached_property
    def areas(self) -> Float64[np.ndarray, " n_faces"]:
        """World area of each face."""
        return 0.5 * np.linalg.norm(self._cross, axis=1)

    @cached_property
    def normals(self) -> Float64[np.ndarray, "n_faces 3"]:
        """Unit normals, calmed over neighbours that do not stand at a crease, because a fitted mesh is bumpy."""
        raw = self._cross / np.maximum(2 * self.areas, 1e-300)[:, None]
        left, right, _ = self.adjacency
        out = raw
        for _ in range(2):
            likeness = np.maximum(np.einsum("ij,ij->i", out[left], out[right]) - 0.7, 0.0)[:, None]
            total = out * (0.3 * self.areas[:, None])
            np.add.at(total, left, likeness * self.areas[right, None] * out[right])
            np.add.at(total, right, likeness * self.areas[left, None] * out[left])
            length = np.linalg.norm(total, axis=1, keepdims=True)
            out = np.where(length > 1e-300, total / np.maximum(length, 1e-300), raw)
        return out

    @cached_property
    def adjacency(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of faces that share an edge of the uncut mesh (left, right), and the edge's world length."""
        edges = np.sort(self.joined_faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
        key = edges[:, 0] * self.n_joined + edges[:, 1]
        order = np.argsort(key, kind="stable")
        same = key[order[1:]] == key[order[:-1]]
        a, b = order[:-1][same], order[1:][same]
        ends = self.joined_vertices_world[edges[a]]
        length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        keep = a // 3 != b // 3  # a degenerate triangle may touch itself
        return a[keep] // 3, b[keep] // 3, length[keep]


def edge_for_count(mesh: UvMesh, n_cells: int) -> float:
    """The longest edge (world units) that leaves about `n_cells` cells of a mesh of few triangles.

    Halving leaves edges between a half of it and the whole, 0.7 of it in the mean: areas of 0.2 times its square.
    """
    tri = mesh.vertices_world[mesh.faces]
    area = 0.5 * float(np.linalg.norm(np.cross(tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0]), axis=1).sum())
    return float(np.sqrt(5 * area / n_cells))


def cut_into_cells(mesh: UvMesh, max_edge_world: float) -> Cells:
    """Cut every edge longer than `max_edge_world` in halves until there is none; both sides of an edge agree."""
    cells = Cells(
        np.asarray(mesh.vertices_world, float), np.asarray(mesh.uv, float), mesh.faces.astype(np.int64),
        mesh.mesh_vertex_idx.astype(np.int64),
    )  # fmt: skip
    for _ in range(MAX_ROUNDS):
        joined = cells.joined_vertices_world[cells.joined_faces]
        long = np.linalg.norm(joined - np.roll(joined, -1, axis=1), axis=2) > max_edge_world
        if not long.any():
            return cells
        cells = _halve_edges(cells, long)
    return cells


def _halve_edges(cells: Cells, long: np.ndarray) -> Cells:
    """Cut once; `long[f, k]` tells of the edge from corner k to corner k + 1 of face f."""
    tail, head = cells.faces, np.roll(cells.faces, -1, axis=1)
    n, n_joined = len(cells.vertices_world), cells.n_joined
    pairs, inverse = np.unique(np.sort(np.stack([tail[long], head[long]], 1), axis=1), axis=0, return_inverse=True)
    middle = np.full(cells.faces.shape, -1, np.int64)
    middle[long] = n + inverse.ravel()
    joined_pairs = np.sort(cells.mesh_vertex_idx[pairs], axis=1)
    _, joined_inverse = np.unique(joined_pairs, axis=0, return_inverse=True)
    return Cells(
        np.concatenate([cells.vertices_world, cells.vertices_world[pairs].mean(1)]),
        np.concatenate([cells.uv, cells.uv[pairs].mean(1)]),
        _cut_faces(cells.faces, middle),
        np.concatenate([cells.mesh_vertex_idx, n_joined + joined_inverse.ravel()]),
    )


def _cut_faces(faces: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The 1, 2, 3 or 4 triangles of each face, after how many of its edges have a middle."""
    n_cut = (middle >= 0).sum(1)
    out = [faces[n_cut == 0]]
    for k in range(3):
        a, b, c = (np.roll(faces, -k, axis=1)[:, i] for i in range(3))
        ab, bc, ca = (np.roll(middle, -k, axis=1)[:, i] for i in range(3))
        one = (n_cut == 1) & (ab >= 0)
        out += [np.stack(t, 1)[one] for t in ((a, ab, c), (ab, b, c))]
        two = (n_cut == 2) & (ca < 0)
        out += [np.stack(t, 1)[two] for t in ((ab, b, bc), (a, ab, bc), (a, bc, c))]
    a, b, c = faces.T
    ab, bc, ca = middle.T
    three = n_cut == 3
    out += [np.stack(t, 1)[three] for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    return np.concatenate(out)
