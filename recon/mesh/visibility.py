"""Which triangles the cameras saw, by ray casting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int

from recon.camera import View
from recon.data import ObjectRegion


def seen_by(
    vertices: Float64[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    face_idx: Int[np.ndarray, " k"],
    views: Sequence[View],
    region: ObjectRegion | None = None,
    least_cosine: float = 0.0,
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """In how many photos each of some triangles is seen, and in how many of these its centre lies in the mask.

    Seen: its centre is in the photo, it is turned towards the camera (the cosine between its normal and the way there
    is above `least_cosine`), and no other triangle hides it. Without a region the second answer is zeros.
    """
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    origin = vertices.mean(0)  # Embree works in float32: keep coordinates small
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, (vertices - origin).astype(np.float32), faces.astype(np.int32))
    corners = vertices[faces[face_idx]]
    centre = corners.mean(1)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    tolerance = 1e-3 * float(np.linalg.norm(np.ptp(vertices, axis=0)))
    n_seen, n_masked = np.zeros(len(face_idx), np.int64), np.zeros(len(face_idx), np.int64)
    for view in views:
        eye = view.centre_world()
        pixels, depth_z = view.project(centre)
        ray = centre - eye
        length = np.linalg.norm(ray, axis=1)
        facing = -(ray * normal).sum(1) > least_cosine * length
        idx = np.flatnonzero(view.in_image(pixels, depth_z) & facing)
        if not len(idx):
            continue
        ray, length = ray[idx], length[idx]
        start = np.broadcast_to((eye - origin).astype(np.float32), ray.shape)
        hit = scene.run(np.ascontiguousarray(start), (ray / length[:, None]).astype(np.float32), output=1)
        idx = idx[(hit["primID"] == face_idx[idx]) | (hit["tfar"] > length - tolerance)]
        n_seen[idx] += 1
        if region is not None:
            x, y = np.floor(pixels[idx]).astype(int).T
            n_masked[idx] += region.mask(view.name)[y, x] > 127
    return n_seen, n_masked
