"""Two models of one scene into one frame, by the points that they have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pose.colmap_io import silenced
from pose.matching import read_matches

MIN_COMMON_POINTS = 12
"""A similarity has 7 unknowns and each point gives 3 equations; twelve that agree are no chance."""
MAX_DISTANCE_SHARE = 0.03
"""Common points may lie this far apart, as a share of their distance from the cameras: weak triangulations scatter."""


def merged(base: Any, other: Any, database: Path, seed: int) -> Any | None:
    """`base` with the cameras of `other` that it lacks, without points; None where too little is common.

    The similarity is estimated robustly from points that both models have triangulated: in a photo of both, or in a
    photo of each where matches join them.
    """
    pycolmap = silenced()
    base_from_other = _similarity(base, other, database, seed)
    if base_from_other is None:
        return None
    moved = pycolmap.Reconstruction(other)
    moved.transform(base_from_other)
    known = {im.image_id for im in base.images.values() if im.has_pose}
    poses = {im.image_id: im.cam_from_world() for im in moved.images.values() if im.has_pose}
    return with_cameras(base, database, {i: pose for i, pose in poses.items() if i not in known})


def with_cameras(base: Any, database: Path, cam_from_world: dict[int, Any]) -> Any:
    """A copy of a model with more cameras (by image id) and no points."""
    pycolmap = silenced()
    model = pycolmap.Reconstruction(base)
    model.delete_all_points2D_and_points3D()
    handle = pycolmap.Database.open(database)
    try:
        options = pycolmap.DatabaseCacheOptions()
        options.load_all_images = True
        mapper = pycolmap.IncrementalMapper(pycolmap.DatabaseCache.create(handle, options))
        mapper.begin_reconstruction(model)
        for image_id, pose in cam_from_world.items():
            image = model.images[image_id]
            image.frame.set_cam_from_world(image.camera_id, pose)
            model.register_frame(image.frame_id)
        mapper.end_reconstruction(False)
    finally:
        handle.close()
    return model


def _similarity(base: Any, other: Any, database: Path, seed: int) -> Any | None:
    """`base_from_other` by common points, or None."""
    pycolmap = silenced()
    pairs = _common_points(base, other, database)
    if len(pairs) < MIN_COMMON_POINTS:
        return None
    source = np.array([other.points3D[b].xyz for _, b in pairs])
    target = np.array([base.points3D[a].xyz for a, _ in pairs])
    centres = np.array([im.projection_center() for im in base.images.values() if im.has_pose])
    depth = float(np.median(np.linalg.norm(centres - np.median(target, axis=0), axis=1)))
    options = pycolmap.RANSACOptions()
    options.max_error, options.random_seed = MAX_DISTANCE_SHARE * depth, seed
    found = pycolmap.estimate_sim3d_robust(source, target, options)
    return found["tgt_from_src"] if found and found["num_inliers"] >= MIN_COMMON_POINTS else None


def _common_points(base: Any, other: Any, database: Path) -> list[tuple[int, int]]:
    """Ids of points of `base` and of `other` that are the same place of the scene."""
    point_of = [{im.image_id: _points_of(im) for im in model.images.values() if im.has_pose} for model in (base, other)]
    common = set()
    for image_id in set(point_of[0]) & set(point_of[1]):
        both = set(point_of[0][image_id]) & set(point_of[1][image_id])
        common |= {(point_of[0][image_id][k], point_of[1][image_id][k]) for k in both}
    for (i, j), matches in read_matches(database).items():
        for a, b, flip in ((i + 1, j + 1, False), (j + 1, i + 1, True)):
            if a not in point_of[0] or b not in point_of[1]:
                continue
            for k, m in matches[:, ::-1] if flip else matches:
                if int(k) in point_of[0][a] and int(m) in point_of[1][b]:
                    common.add((point_of[0][a][int(k)], point_of[1][b][int(m)]))
    return sorted(common)


def _points_of(image: Any) -> dict[int, int]:
    """Which point each triangulated feature of a photo belongs to."""
    return {k: p.point3D_id for k, p in enumerate(image.points2D) if p.has_point3D()}
