"""From verified matches to cameras and points: incremental mapping, then a last adjustment that frees the lens."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pose.colmap_io import database_name, silenced
from pose.intrinsics import IntrinsicsConfig, steady_lenses


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
    min_views_for_distortion: int = 10
    """While photos are placed, a lens with fewer photos keeps what EXIF says of it; the last adjustment frees it."""
    intrinsics: IntrinsicsConfig = field(default_factory=IntrinsicsConfig)
    """What is known of a lens beforehand."""


def map_photos(
    database: Path,
    n_photos: int,
    cfg: MappingConfig,
    progress: Callable[[float, float, str], None],
    only: Sequence[int] = (),
) -> list[Any]:
    """Incremental mapping (Schönberger and Frahm 2016); the models found, the one with most photos first.

    Of all photos, or of those alone whose positions `only` names.
    """
    pycolmap = silenced()
    options = pipeline_options(database, cfg)
    options.image_names = [database_name(i) for i in only]
    placed = 0

    def first_pair() -> None:
        nonlocal placed
        placed = 2

    def next_photo() -> None:
        nonlocal placed
        placed += 1
        progress(min(placed, n_photos), n_photos, "placing photos")

    pycolmap.set_random_seed(cfg.seed)
    models = pycolmap.incremental_mapping(
        database,
        database.parent,
        _fresh(database.with_name("models")),
        options,
        initial_image_pair_callback=first_pair,
        next_image_callback=next_photo,
    )
    return _by_size(models)


def map_globally(database: Path, cfg: MappingConfig) -> list[Any]:
    """Global mapping (GLOMAP; Pan et al. 2024), which has no first pair to go wrong with; models as `map_photos`."""
    pycolmap = silenced()
    options = pycolmap.GlobalPipelineOptions()
    options.random_seed = options.mapper.random_seed = cfg.seed
    options.mapper.rotation_averaging.random_seed = options.mapper.global_positioning.random_seed = cfg.seed
    options.mapper.retriangulation.random_seed = cfg.seed
    pycolmap.set_random_seed(cfg.seed)
    return _by_size(pycolmap.global_mapping(database, database.parent, _fresh(database.with_name("global")), options))


def map_on(model: Any, database: Path, cfg: MappingConfig, min_inliers: int) -> Any:
    """Go on mapping from a model's cameras, with a lower bar; the points are triangulated anew from `database`.

    The database may hold other features than those that the model was made from. `model` stays as it is.
    """
    pycolmap = silenced()
    options = pipeline_options(database, dataclasses.replace(cfg, min_inliers=min_inliers))
    options.min_num_matches = min_inliers
    options.multiple_models = False
    start = _fresh(database.with_name("start"))
    model.write(start)
    pycolmap.set_random_seed(cfg.seed)
    known = pycolmap.Reconstruction(start)
    known = pycolmap.triangulate_points(known, database, database.parent, start, True, options)
    known.write(start)
    output = _fresh(database.with_name("models"))
    models = pycolmap.incremental_mapping(database, database.parent, output, options, input_path=start)
    return max([known, *models.values()], key=lambda m: m.num_reg_images())


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _by_size(models: dict[int, Any]) -> list[Any]:
    """The models of three photos and more; the one with most photos first."""
    worthy = [m for m in models.values() if m.num_reg_images() >= 3]
    return sorted(worthy, key=lambda m: (-m.num_reg_images(), -m.num_points3D()))


def pipeline_options(database: Path, cfg: MappingConfig) -> Any:
    """pycolmap's mapping options for the photos of a database."""
    pycolmap = silenced()
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = cfg.seed
    options.load_all_images = True  # a photo without matches may still have a given pose
    options.extract_colors = False  # colours are taken from the undistorted photos
    options.min_model_size = 3
    options.max_num_models = 3
    options.mapper.abs_pose_min_num_inliers = cfg.min_inliers
    handle = pycolmap.Database.open(database)
    try:
        n_photos = Counter(image.camera_id for image in handle.read_all_images())
        known = {camera.camera_id for camera in handle.read_all_cameras() if camera.has_prior_focal_length}
    finally:
        handle.close()
    # Two or three views bend a free lens beyond reason, and every photo after them is then refused.
    few = {camera for camera, n in n_photos.items() if n < cfg.min_views_for_distortion}
    options.constant_cameras = options.mapper.constant_cameras = few & known
    if few == set(n_photos):
        options.ba_refine_extra_params = options.mapper.abs_pose_refine_extra_params = False
    return options


def cached(database: Any) -> Any:
    """What pycolmap's mapper reads of an open database: all photos, those without matches too."""
    pycolmap = silenced()
    options = pycolmap.DatabaseCacheOptions()
    options.load_all_images = True
    return pycolmap.DatabaseCache.create(database, options)


def refine(reconstruction: Any, database: Path, cfg: MappingConfig) -> None:
    """Adjust everything once more, in place, with the principal point free as far as the photos determine it.

    A principal point that is held in the middle of the photo turns the cameras by the angle it is off: a few tenths of
    a degree for a phone.
    """
    pycolmap = silenced()
    options = pipeline_options(database, cfg)
    adjust = pycolmap.BundleAdjustmentOptions()
    adjust.print_summary = False
    mapper_options = options.mapper
    mapper_options.constant_cameras = set()
    mapper_options.filter_max_reproj_error = cfg.max_error_px
    handle = pycolmap.Database.open(database)
    try:
        start = {camera.camera_id: camera for camera in handle.read_all_cameras()}
        mapper = pycolmap.IncrementalMapper(cached(handle))
        mapper.begin_reconstruction(reconstruction)
        mapper.iterative_global_refinement(3, 0.0005, mapper_options, adjust, options.triangulation, True)
        mapper.end_reconstruction(False)
    finally:
        handle.close()
    reconstruction.tear_down()  # photos without a pose are in nobody's way now
    # The errors have long tails (weak features, moved highlights): a loss that grows slowly gives better cameras.
    adjust.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    adjust.ceres.loss_function_scale = cfg.robust_scale_px
    adjust.ceres.solver_options.max_num_iterations = cfg.n_robust_iterations
    steady_lenses(reconstruction, start, adjust, cfg.intrinsics)
    pycolmap.ObservationManager(reconstruction).filter_all_points3D(
        cfg.max_error_px, mapper_options.filter_min_tri_angle
    )
    reconstruction.update_point_3d_errors()
