"""Colour where no photo looked: over the surface from what surrounds it, and around the charts for filtering."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from scipy import sparse
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree

from texturing.cells import Cells
from texturing.rasterize import Texels


def fill_unseen(
    colour: Float32[np.ndarray, "n 3"], seen: Bool[np.ndarray, " n"], texels: Texels, cells: Cells
) -> Float32[np.ndarray, "n 3"]:
    """Give unseen texels the colour that is harmonic over the mesh with the seen ones around as its border.

    Parts of the mesh without any seen texel take the nearest seen vertex's colour in space.
    """
    if seen.all():
        return colour
    if not seen.any():
        return np.full_like(colour, 0.5)
    vertex_colour = _diffuse(*_vertex_colours(colour, seen, texels, cells), cells)
    hidden = np.flatnonzero(~seen)
    corners = cells.joined_faces[texels.face[hidden]]
    out = colour.copy()
    out[hidden] = np.einsum("nk,nkc->nc", texels.barycentric[hidden], vertex_colour[corners])
    return out


def _vertex_colours(
    colour: np.ndarray, seen: np.ndarray, texels: Texels, cells: Cells
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the seen texels around each joined vertex, and whether there is any."""
    total, weight = np.zeros((cells.n_joined, 3)), np.zeros(cells.n_joined)
    shown = np.flatnonzero(seen)
    for k in range(3):
        corner = cells.joined_faces[texels.face[shown], k]
        share = texels.barycentric[shown, k].astype(float) ** 2
        weight += np.bincount(corner, share, cells.n_joined)
        for c in range(3):
            total[:, c] += np.bincount(corner, share * colour[shown, c], cells.n_joined)
    known = weight > 0.05  # less than this is a texel's far corner and no evidence
    return total / np.maximum(weight, 1e-12)[:, None], known


def _diffuse(vertex_colour: np.ndarray, known: np.ndarray, cells: Cells) -> np.ndarray:
    """Solve Laplace's equation (weights 1 / edge length) for the unknown vertices, the known ones held."""
    edges = np.unique(np.sort(cells.joined_faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    known = known | ~np.isin(np.arange(cells.n_joined), edges)
    known = _hold_islands(vertex_colour, known, edges, cells)
    if known.all():
        return vertex_colour
    points = cells.joined_vertices_world
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    weight = 1 / np.maximum(length, 1e-3 * max(float(length.mean()), 1e-300))
    ends = np.concatenate([edges, edges[:, ::-1]])
    matrix = sparse.csr_matrix((np.tile(weight, 2), (ends[:, 0], ends[:, 1])), shape=(len(points),) * 2)
    free = np.flatnonzero(~known)
    degree = np.asarray(matrix.sum(1)).ravel()[free]
    system = sparse.diags(degree) - matrix[free][:, free]
    right = matrix[free][:, np.flatnonzero(known)] @ vertex_colour[known]
    preconditioner = sparse.diags(1 / degree)
    out = vertex_colour.copy()
    for c in range(3):
        # 1e-4 of the right side is far below one 8-bit step
        out[free, c] = cg(system, right[:, c], rtol=1e-4, maxiter=2000, M=preconditioner)[0]
    return np.clip(out, 0, 1)


def _hold_islands(vertex_colour: np.ndarray, known: np.ndarray, edges: np.ndarray, cells: Cells) -> np.ndarray:
    """Colour whole components without a known vertex from the nearest known one (in place); returns who is known."""
    n = cells.n_joined
    links = sparse.coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, component = sparse.csgraph.connected_components(links, directed=False)
    island = ~np.isin(component, component[known])
    if island.any():
        points = cells.joined_vertices_world
        _, nearest = cKDTree(points[known]).query(points[island])
        vertex_colour[island] = vertex_colour[known][nearest]
    return known | island


def dilate_gutters(
    image: Float32[np.ndarray, "t t 3"], used: Bool[np.ndarray, "t t"], gutter_px: int = 8
) -> Float32[np.ndarray, "t t 3"]:
    """Colour the texels outside all charts, so that no filter or mipmap brings in a foreign colour.

    The nearest used texel's colour within `gutter_px`, beyond that a push-pull pyramid (Gortler et al. 1996).
    """
    if used.all() or not used.any():
        return image
    distance, labels = cv2.distanceTransformWithLabels(
        (~used).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place = np.zeros(int(labels.max()) + 1, np.int64)
    place[labels[used]] = np.flatnonzero(used.ravel())
    near = ~used & (distance <= gutter_px)
    out = np.where(used[:, :, None], image, 0).astype(np.float32)
    out[near] = image.reshape(-1, 3)[place[labels[near]]]
    filled = used | near
    return np.where(filled[:, :, None], out, _push_pull(out, filled.astype(np.float32)))


def _push_pull(image: Float32[np.ndarray, "h w 3"], weight: Float32[np.ndarray, "h w"]) -> np.ndarray:
    h, w = weight.shape
    if min(h, w) <= 2:
        mean = (image * weight[:, :, None]).sum((0, 1)) / max(float(weight.sum()), 1e-12)
        return np.broadcast_to(mean, image.shape).astype(np.float32)
    half = ((w + 1) // 2, (h + 1) // 2)
    small_weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    small = cv2.resize(image * weight[:, :, None], half, interpolation=cv2.INTER_AREA)
    small /= np.maximum(small_weight, 1e-6)[:, :, None]
    coarse = cv2.resize(_push_pull(small, (small_weight > 0).astype(np.float32)), (w, h))
    return image * weight[:, :, None] + coarse * (1 - weight[:, :, None])
