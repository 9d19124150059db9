"""A second, more patient try at the photos that the mapping could not place, and a check of weak placements."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pose.colmap_io import silenced, write_database
from pose.features import FeaturesConfig, PhotoFeatures, detect
from pose.mapping import MappingConfig, pipeline_options
from pose.matching import match_pairs
from recon.data import Capture


@dataclass(frozen=True)
class RecoverConfig:
    """How hard lost photos are tried."""

    feature_factor: float = 2.0
    """How many times more features than usual are sought in a lost photo, at as many times less contrast."""
    min_inliers: int = 16
    """Fewest points that must agree before a lost photo is placed; lower lets wrong places in."""
    min_spread: float = 0.02
    """A photo whose points fill a smaller share of its area is not trusted."""


def recover(
    reconstruction: Any,
    database: Path,
    capture: Capture,
    features: Sequence[PhotoFeatures],
    cfg: RecoverConfig,
    features_cfg: FeaturesConfig,
    mapping_cfg: MappingConfig,
    progress: Callable[[float, float, str], None],
) -> Any:
    """Match the lost photos again with more features, guided by epipolar lines, and go on mapping with lower bars.

    Returns the larger reconstruction, or the given one where no photo was won; `database` is rewritten to match.
    """
    pycolmap = silenced()
    registered = {im.image_id - 1 for im in reconstruction.images.values() if im.has_pose}
    lost = [i for i in range(len(capture.photos)) if i not in registered]
    patient = dataclasses.replace(
        features_cfg,
        max_features=round(features_cfg.max_features * cfg.feature_factor),
        contrast_threshold=features_cfg.contrast_threshold / cfg.feature_factor,
    )
    richer = list(features)
    for i in lost:
        with Image.open(capture.image_path(capture.photos[i].name)) as image:
            richer[i] = detect(np.asarray(image.convert("L")), patient)
    second = database.with_name("second.db")
    write_database(second, capture, richer)
    _copy_geometries(pycolmap, database, second, registered)
    pairs = [(min(i, j), max(i, j)) for i in lost for j in sorted(registered)]
    pairs += [(i, j) for i in lost for j in lost if i < j]
    match_pairs(second, pairs, mapping_cfg.seed, progress, guided=True, min_inliers=cfg.min_inliers)
    start = database.with_name("start")
    start.mkdir(exist_ok=True)
    reconstruction.write(start)
    options = pipeline_options(dataclasses.replace(mapping_cfg, min_inliers=cfg.min_inliers))
    options.min_num_matches = options.mapper.abs_pose_min_num_inliers
    options.multiple_models = False
    output = database.with_name("models")
    models = pycolmap.incremental_mapping(second, database.parent, output, options, input_path=start)
    second.replace(database)
    grown = max(models.values(), key=lambda m: m.num_reg_images(), default=reconstruction)
    return grown if grown.num_reg_images() > len(registered) else pycolmap.Reconstruction(start)


def _copy_geometries(pycolmap: Any, source: Path, target: Path, registered: set[int]) -> None:
    """Take over the verified matches between placed photos, whose features stay the same."""
    old, new = pycolmap.Database.open(source), pycolmap.Database.open(target)
    try:
        for pair_id, geometry in zip(*old.read_two_view_geometries(), strict=True):
            a, b = pycolmap.pair_id_to_image_pair(pair_id)
            if a - 1 in registered and b - 1 in registered:
                new.write_two_view_geometry(a, b, geometry)
    finally:
        old.close()
        new.close()


def drop_weak(reconstruction: Any, cfg: RecoverConfig) -> list[int]:
    """Take back placements that hang on few or crowded points; the positions of their photos."""
    dropped = []
    # A point seen by this photo and one other proves little: it can be triangulated for any wrong pose.
    min_track = 3 if reconstruction.num_reg_images() >= 5 else 2
    for image in list(reconstruction.images.values()):
        if not image.has_pose:
            continue
        seen = [p.xy for p in image.points2D if p.has_point3D() and _track_length(reconstruction, p) >= min_track]
        camera = reconstruction.cameras[image.camera_id]
        if len(seen) >= cfg.min_inliers:
            width, height = np.ptp(np.percentile(np.array(seen), (5, 95), axis=0), axis=0)
            if width * height >= cfg.min_spread * camera.width * camera.height:
                continue
        dropped.append(image.image_id - 1)
        reconstruction.deregister_frame(image.frame_id)
    return dropped


def _track_length(reconstruction: Any, point: Any) -> int:
    return len(reconstruction.points3D[point.point3D_id].track.elements)


def likely_reason(position: int, capture: Capture, features: Sequence[PhotoFeatures], overlaps: Sequence[int]) -> str:
    """Why a photo found no place, in words; `overlaps` are its verified matches with each placed photo."""
    photo = capture.photos[position]
    typical = float(np.median([len(f.keypoints) for f in features]))
    best = max(overlaps, default=0)
    if photo.sharpness < 0.5:
        return "it is blurred"
    if len(features[position].keypoints) < max(100, typical / 4):
        return "it shows too little texture (plain, dark or overexposed)"
    if best < 15:
        return "it shares too little with the photos that could be placed"
    return f"it does not fit the scene that the other photos show ({best} points in common with one of them at best)"


def overlaps_of(position: int, placed: set[int], database: Path) -> list[int]:
    """The number of verified matches of a photo with each of the placed ones (positions in the capture)."""
    pycolmap = silenced()
    handle = pycolmap.Database.open(database)
    try:
        pair_ids, counts = handle.read_two_view_geometry_num_inliers()
    finally:
        handle.close()
    overlaps = []
    for pair_id, n in zip(pair_ids, counts, strict=True):
        pair = {image_id - 1 for image_id in pycolmap.pair_id_to_image_pair(pair_id)}
        if position in pair and pair - {position} <= placed:
            overlaps.append(int(n))
    return overlaps
