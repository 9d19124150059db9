"""What may be wrong with a triangle mesh: holes, non-manifold places, slivers, folds, turned and inner faces."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recon.mesh.clean import parts_of_faces

SLIVER_DEG = 5.0
"""A triangle with a smaller angle is a sliver: shading and physics suffer, and its aspect ratio is above eleven."""
FOLD_DEG = 170.0
"""Two faces that turn by more than this at their edge lie back to back."""


@dataclass(frozen=True)
class Faults:
    """Counts of what should not be in a closed surface; all are 0 for a clean one."""

    open_edges: int
    """Edges of one face only."""
    non_manifold_edges: int
    """Edges of more than two faces."""
    turned_edges: int
    """Edges that two faces run along in the same direction, so that one of them looks inward."""
    non_manifold_vertices: int
    """How many more fans of faces there are than vertices: surfaces that touch in a point."""
    slivers: int
    """Triangles with an angle below SLIVER_DEG."""
    folds: int
    """Edges at which the surface turns by more than FOLD_DEG."""
    inner_faces: int
    """Faces of parts that enclose negative volume: walls of cavities, or a surface turned inside out."""

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def words(self) -> str:
        """`2 folds, 1 slivers`: what there is."""
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in asdict(self).items() if count)


def find_faults(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> Faults:
    """Count the faults of a mesh."""
    starts, ends = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    face = np.repeat(np.arange(len(faces)), 3)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    _, edge, n_faces = np.unique(low * len(vertices) + high, return_inverse=True, return_counts=True)
    pairs = np.argsort(edge, kind="stable")
    pairs = pairs[n_faces[edge[pairs]] == 2].reshape(-1, 2)
    same_way = starts[pairs[:, 0]] == starts[pairs[:, 1]]
    n_turned, pairs = int(same_way.sum()), pairs[~same_way]
    normal = _unit_normals(vertices, faces)
    turn = (normal[face[pairs[:, 0]]] * normal[face[pairs[:, 1]]]).sum(1)
    part = parts_of_faces(faces)
    corners = vertices[faces] - vertices.mean(0)
    volume = np.bincount(part, (corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])).sum(1))
    return Faults(
        open_edges=int((n_faces == 1).sum()),
        non_manifold_edges=int((n_faces > 2).sum()),
        turned_edges=n_turned,
        non_manifold_vertices=_n_fans(faces, pairs) - len(np.unique(faces)),
        slivers=int((smallest_angles_deg(vertices, faces) < SLIVER_DEG).sum()),
        folds=int((turn < np.cos(np.radians(FOLD_DEG))).sum()),
        inner_faces=int((volume[part] < 0).sum()),
    )


def smallest_angles_deg(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> Float64[np.ndarray, " m"]:
    """Each triangle's smallest angle; 0 where it has no area."""
    corners = vertices[faces].astype(np.float64)
    ahead, behind = np.roll(corners, -1, axis=1) - corners, np.roll(corners, 1, axis=1) - corners
    sine = np.linalg.norm(np.cross(ahead, behind), axis=2)
    return np.degrees(np.arctan2(sine, (ahead * behind).sum(2)).min(1))


def _unit_normals(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> Float64[np.ndarray, "m 3"]:
    corners = vertices[faces].astype(np.float64)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)


def _n_fans(faces: Int[np.ndarray, "m 3"], pairs: Int[np.ndarray, "k 2"]) -> int:
    """Groups of corners that share a vertex and hang together by edges.

    pairs: the two half-edges (3 * face + corner) of each edge, which run in opposite directions.
    """
    there, back = pairs.T
    ahead_there, ahead_back = there // 3 * 3 + (there + 1) % 3, back // 3 * 3 + (back + 1) % 3
    rows, columns = np.concatenate([there, ahead_there]), np.concatenate([ahead_back, back])
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), (faces.size, faces.size))
    return int(connected_components(links, directed=False)[0])
