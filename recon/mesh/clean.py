"""Keeping the parts of a mesh that are the object, and dropping floaters and shells that nobody can see."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recon.data import ObjectRegion, PosedCapture
from recon.mesh.visibility import seen_by

FACES_PER_PART = 2000
"""Faces of a part whose visibility is tested; the shares found are good to about two per cent."""
MIN_VIEWS = 3
"""A part is trusted if its visible faces are seen in this many photos at the median: two can agree by chance."""
MIN_SEEN_SHARE = 0.1
"""A part of which less than this share of faces is seen lies within another."""
MIN_MASK_SHARE = 0.7
"""A part must project into the object's masks this often; its rim and errors of the mask's edge take some."""


def face_areas(vertices: Float64[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> Float64[np.ndarray, " m"]:
    corners = vertices[faces]
    return 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)


def parts_of_faces(faces: Int[np.ndarray, "m 3"]) -> Int[np.ndarray, " m"]:
    """The number of the connected part that each face belongs to."""
    n = int(faces.max()) + 1
    rows, columns = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    _, labels = connected_components(coo_array((np.ones(len(rows), bool), (rows, columns)), (n, n)), directed=False)
    return labels[faces[:, 0]]


def object_faces(
    vertices: Float64[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    posed: PosedCapture,
    region: ObjectRegion,
    min_part_share: float,
) -> Bool[np.ndarray, " m"]:
    """Which faces of a closed mesh belong to the object.

    A closed part that encloses negative volume is the wall of a cavity: nobody can see it, it goes. Parts with less
    than `min_part_share` of the largest part's area go. Of several that are left, the one most seen stays, and the
    others stay if several photos see them and their masks agree.
    """
    part = parts_of_faces(faces)
    area = face_areas(vertices, faces)
    part_area = np.bincount(part, area)
    shifted = vertices - vertices.mean(0)
    a, b, c = (shifted[faces[:, k]] for k in range(3))
    volume = np.bincount(part, (a * np.cross(b, c)).sum(1) / 6)
    solid = volume > 0
    if not solid.any():
        return np.zeros(len(faces), bool)
    candidates = np.flatnonzero(solid & (part_area >= min_part_share * part_area[solid].max()))
    kept = candidates if len(candidates) == 1 else _supported(vertices, faces, part, area, candidates, posed, region)
    return np.isin(part, kept)


def _supported(
    vertices: Float64[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    part: Int[np.ndarray, " m"],
    area: Float64[np.ndarray, " m"],
    candidates: Int[np.ndarray, " p"],
    posed: PosedCapture,
    region: ObjectRegion,
) -> Int[np.ndarray, " q"]:
    """The candidate parts that photos and masks support, and always the one of which most area is seen in masks."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(part == p) for p in candidates]
    chosen = [rng.choice(g, min(FACES_PER_PART, len(g)), replace=False) for g in groups]
    n_seen, n_masked = seen_by(vertices, faces, np.concatenate(chosen), posed.views, region)
    bounds = np.cumsum([0, *(len(c) for c in chosen)])
    main, main_area, kept = candidates[0], -1.0, []
    for k, p in enumerate(candidates):
        seen, masked = n_seen[bounds[k] : bounds[k + 1]], n_masked[bounds[k] : bounds[k + 1]]
        mask_share = masked.sum() / max(seen.sum(), 1)
        seen_area = (seen > 0).mean() * area[groups[k]].sum() * mask_share
        if seen_area > main_area:
            main, main_area = p, seen_area
        views = float(np.median(seen[seen > 0])) if (seen > 0).any() else 0.0
        if views >= MIN_VIEWS and (seen > 0).mean() >= MIN_SEEN_SHARE and mask_share >= MIN_MASK_SHARE:
            kept.append(p)
    return np.union1d(kept, [main]).astype(np.int64)
