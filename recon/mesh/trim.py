"""Where to cut what trails off unseen: the masks of photos from one side leave the object's back open."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from trimesh.creation import icosphere

from recon.data import PosedCapture, SupportPlane
from recon.mesh.clean import face_areas
from recon.mesh.simplify import Triangles
from recon.mesh.visibility import seen_by

LEAST_PHOTOS = 3
"""Surface that fewer photos see is nowhere for certain."""
LEAST_COSINE = 0.3
"""Between the normal and the way to the camera; a visual hull's sides, seen along, reach smaller ones."""
SPARE, FAR = 0.02, 0.08
"""How far outside the seen surface's hull the half-spaces begin, and what is far outside, as shares of its diagonal.
The underside of a ball in the air reaches 10 % outside for photos from 15 degrees above its middle, 17 % from 30."""
N_SAMPLES = 50_000
"""Triangles that are looked at."""


def planes_around_seen(
    mesh: Triangles, posed: PosedCapture, support: SupportPlane | None
) -> tuple[Float64[np.ndarray, "m 4"], float]:
    """Half-spaces (n, d) around what photos see of a mesh, and the share of its area far outside them.

    Behind what is seen a mesh ends wherever the masks happen to end it. As far as the convex hull of the seen surface
    this closes the object; beyond it only trails off. What stands on the support plane counts as seen. The hull is that
    of fixed directions (a k-DOP, Klosowski et al. 1998): a ball's own has as many planes as points. None where nothing
    is seen.
    """
    vertices, faces = mesh
    area = face_areas(vertices, faces)
    chosen = np.random.default_rng(0).choice(len(faces), N_SAMPLES, p=area / area.sum())
    centre = vertices[faces[chosen]].mean(1)
    known = seen_by(vertices, faces, chosen, posed.views, least_cosine=LEAST_COSINE)[0] >= LEAST_PHOTOS
    if support is not None:
        known |= centre @ support.normal_world < support.offset + 0.01 * np.linalg.norm(np.ptp(centre, axis=0))
    if not known.any():
        return np.zeros((0, 4)), 0.0
    extent = float(np.linalg.norm(np.ptp(centre[known], axis=0)))
    normals = np.asarray(icosphere(subdivisions=3).vertices)
    reach = (normals @ centre[known].T).max(1)
    outside = (centre @ normals.T - reach).max(1)
    return np.column_stack([normals, -reach - SPARE * extent]), float((outside > FAR * extent).mean())
