"""From marching cubes' many triangles to a closed, manifold mesh within a triangle budget, by MeshLab's filters."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

Triangles = tuple[Float64[np.ndarray, "n_vertices 3"], Int[np.ndarray, "n_faces 3"]]

MAX_REPAIRS = 4
"""Closing a hole can meet another surface; each round leaves fewer faults, and four were never all needed."""

MAX_ASPECT = 10.0
"""Slivers are triangles whose longest side is more than so many times their height on it."""


def is_closed(faces: Int[np.ndarray, "m 3"]) -> bool:
    """Whether every edge joins exactly two triangles, which run along it in opposite directions."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    n = int(edges.max()) + 1
    there, back = edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0]
    unique = np.unique(there)
    return len(unique) == len(there) and np.array_equal(unique, np.unique(back))


def signed_volume(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> float:
    """Volume of a closed mesh, positive where its faces are counter-clockwise seen from outside."""
    a, b, c = (vertices[faces[:, k]] - vertices.mean(0) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def smooth(vertices: Float64[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], n_steps: int) -> Triangles:
    """Repair, then smooth by Taubin's filter; the detail that was extracted stays, its ripples go."""
    meshes, centre, size = _unit_frame(vertices, faces)
    _repair(meshes)
    if n_steps:
        # mu slightly stronger than lambda undoes the shrinking (Taubin 1995, eq. 10).
        meshes.apply_coord_taubin_smoothing(lambda_=0.5, mu=-0.53, stepsmoothnum=n_steps)
    return _outward(meshes, centre, size)


def simplify(vertices: Float64[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], n_triangles: int) -> Triangles:
    """Collapse edges to a triangle budget (Garland & Heckbert 1997), take slivers away, repair."""
    meshes, centre, size = _unit_frame(vertices, faces)
    if meshes.current_mesh().face_number() > n_triangles:
        meshes.meshing_decimation_quadric_edge_collapse(
            targetfacenum=n_triangles,
            qualitythr=0.3,
            preservenormal=True,
            preservetopology=True,
            optimalplacement=True,
            planarquadric=True,
            autoclean=True,
        )
    for method in ("Edge Flip", "Edge Collapse"):  # a collapse only where no flip helps: it moves the surface
        meshes.meshing_remove_t_vertices(method=method, threshold=MAX_ASPECT, repeat=True)
    _repair(meshes)
    return _outward(meshes, centre, size)


def _unit_frame(
    vertices: Float64[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]
) -> tuple[Any, Float64[np.ndarray, "3"], float]:
    """A MeshLab document in which the mesh has unit size, so that absolute thresholds mean the same at every scale."""
    import pymeshlab

    centre, size = vertices.mean(0), float(np.ptp(vertices, axis=0).max())
    meshes = pymeshlab.MeshSet(verbose=False)
    meshes.add_mesh(pymeshlab.Mesh((vertices - centre) / size, faces.astype(np.int32)))
    return meshes, centre, size


def _outward(meshes: Any, centre: Float64[np.ndarray, "3"], size: float) -> Triangles:
    """The document's mesh back in its own frame, its faces counter-clockwise seen from outside."""
    mesh = meshes.current_mesh()
    vertices, faces = mesh.vertex_matrix() * size + centre, mesh.face_matrix().astype(np.int64)
    return (vertices, faces if signed_volume(vertices, faces) > 0 else faces[:, ::-1].copy())


def _repair(meshes: Any) -> None:
    """Remove double, flat and dangling faces and close what that opens."""
    import pymeshlab

    for _ in range(MAX_REPAIRS):
        meshes.meshing_merge_close_vertices(threshold=pymeshlab.PureValue(1e-7))
        meshes.meshing_remove_duplicate_faces()
        meshes.meshing_remove_null_faces()
        meshes.meshing_remove_unreferenced_vertices()
        if _is_manifold(meshes):
            return
        meshes.meshing_repair_non_manifold_edges(method="Remove Faces")
        meshes.meshing_repair_non_manifold_vertices()
        meshes.meshing_close_holes(maxholesize=200, selfintersection=False)
        meshes.meshing_re_orient_faces_coherently()


def _is_manifold(meshes: Any) -> bool:
    facts = meshes.get_topological_measures()
    return bool(facts["is_mesh_two_manifold"]) and facts["boundary_edges"] == 0
