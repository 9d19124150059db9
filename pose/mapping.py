"""From verified matches to cameras and points: incremental mapping, then a last adjustment that frees the lens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pose.colmap_io import silenced


@dataclass(frozen=True)
class MappingConfig:
    """How cameras are found from matches."""

    seed: int = 0
    """Seed of every random sample; the same seed gives the same cameras."""
    min_inliers: int = 30
    """Fewest points that must agree before a photo is placed."""
    max_error_px: float = 4.0
    """Observations farther from their point's projection are dropped; lowering it keeps only the sharpest points."""
    robust_scale_px: float = 0.5
    """Errors beyond this count less and less in the last adjustment."""
    n_robust_iterations: int = 25
    """Steps of the last adjustment, at most; raising it costs time for large captures."""
    min_views_for_principal_point: int = 12
    """With fewer photos of one lens its principal point stays in the middle: too few to tell it from a rotation."""


def map_photos(
    database: Path, n_photos: int, cfg: MappingConfig, progress: Callable[[float, float, str], None]
) -> list[Any]:
    """Incremental mapping (Schönberger and Frahm 2016); the models found, the one with most photos first."""
    pycolmap = silenced()
    options = pipeline_options(cfg)
    placed = 0

    def first_pair() -> None:
        nonlocal placed
        placed = 2

    def next_photo() -> None:
        nonlocal placed
        placed += 1
        progress(min(placed, n_photos), n_photos, "placing photos")

    pycolmap.set_random_seed(cfg.seed)
    output = database.with_name("models")
    output.mkdir(exist_ok=True)
    models = pycolmap.incremental_mapping(
        database,
        database.parent,
        output,
        options,
        initial_image_pair_callback=first_pair,
        next_image_callback=next_photo,
    )
    return sorted(models.values(), key=lambda m: (-m.num_reg_images(), -m.num_points3D()))


def pipeline_options(cfg: MappingConfig) -> Any:
    """pycolmap's mapping options."""
    options = silenced().IncrementalPipelineOptions()
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = cfg.seed
    options.load_all_images = True  # a photo without matches may still have a given pose
    options.extract_colors = False  # colours are taken from the undistorted photos
    options.min_model_size = 3
    options.max_num_models = 3
    options.mapper.abs_pose_min_num_inliers = cfg.min_inliers
    return options


def cached(database: Any) -> Any:
    """What pycolmap's mapper reads of an open database: all photos, those without matches too."""
    pycolmap = silenced()
    options = pycolmap.DatabaseCacheOptions()
    options.load_all_images = True
    return pycolmap.DatabaseCache.create(database, options)


def refine(reconstruction: Any, database: Path, cfg: MappingConfig, lenses_known: bool = False) -> None:
    """Adjust everything once more, in place, with the principal point free where enough photos share a lens.

    lenses_known: a lens of fewer photos stays as it is, even where no lens has enough.

    A principal point that is held in the middle of the photo turns the cameras by the angle it is off: a few tenths of
    a degree for a phone.
    """
    pycolmap = silenced()
    options = pipeline_options(cfg)
    n_views = Counter(image.camera_id for image in reconstruction.images.values() if image.has_pose)
    well_known = {camera for camera, n in n_views.items() if n >= cfg.min_views_for_principal_point}
    adjust = pycolmap.BundleAdjustmentOptions()
    adjust.print_summary = False
    adjust.refine_principal_point = bool(well_known)
    mapper_options = options.mapper
    if well_known or lenses_known:  # lenses of few photos keep what the mapping found for them
        mapper_options.constant_cameras = set(n_views) - well_known
    mapper_options.filter_max_reproj_error = cfg.max_error_px
    handle = pycolmap.Database.open(database)
    try:
        mapper = pycolmap.IncrementalMapper(cached(handle))
        mapper.begin_reconstruction(reconstruction)
        mapper.iterative_global_refinement(3, 0.0005, mapper_options, adjust, options.triangulation, True)
        # The errors have long tails (weak features, moved highlights): a loss that grows slowly gives better cameras.
        adjust.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
        adjust.ceres.loss_function_scale = cfg.robust_scale_px
        adjust.ceres.solver_options.max_num_iterations = cfg.n_robust_iterations
        mapper.adjust_global_bundle(mapper_options, adjust)
        mapper.filter_points(mapper_options)
        mapper.end_reconstruction(False)
    finally:
        handle.close()
    reconstruction.update_point_3d_errors()
