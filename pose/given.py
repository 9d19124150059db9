"""Poses that the user has already: checked against the photos, completed, refined, and kept in their own frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from pose.colmap_io import opencv_params, silenced
from pose.given_check import Matches
from pose.mapping import MappingConfig, cached, pipeline_options
from pose.model import SparseModel
from recon.data import Capture, GivenCamera
from recon.errors import UserError
from recon.stage import Job
from recon.transforms import Similarity

FITS_SHARE = 0.02
"""A match fits a given pose if it lies within this share of the photo's long side (2 degrees for a phone): tracking in
a phone is off by half as much, a wrong pose by more."""
ALIKE_PX = 0.5
"""Given cameras of one lens whose intrinsics differ by less share them."""
IMPRECISE_PX = 2.0
"""Poses used as they are, with a larger median error, make a blurred asset."""


class GivenUse(Enum):
    """What is done with poses that lie with the photos."""

    use = "use"
    refine = "refine"
    ignore = "ignore"


@dataclass(frozen=True)
class GivenStart:
    """The mapping's state after the given poses were checked."""

    reconstruction: Any
    trusted: dict[int, GivenCamera]
    """The given cameras that the photos agree with, by position of their photo."""


def with_given_lenses(capture: Capture) -> Capture:
    """The capture with photos of one lens told apart where their given intrinsics differ (a phone refocuses)."""
    given = _given_by_name(capture)
    kinds: dict[str, list[np.ndarray]] = {}
    photos = []
    for photo in capture.photos:
        if photo.name in given:
            values = np.array(opencv_params(given[photo.name]))
            values[4:] *= values[0]  # what distortion moves in the outer parts of the photo
            known = kinds.setdefault(photo.lens_key, [])
            kind = next((k for k, v in enumerate(known) if np.abs(v - values).max() < ALIKE_PX), len(known))
            known.extend([values] if kind == len(known) else [])
            photo = dataclasses.replace(photo, lens_key=f"{photo.lens_key}|given {kind}" if kind else photo.lens_key)
        photos.append(photo)
    return dataclasses.replace(capture, photos=tuple(photos))


def place_given(database: Path, capture: Capture, use: GivenUse, cfg: MappingConfig, job: Job) -> GivenStart:
    """Triangulate from the given poses, drop those that the photos contradict, and place the other photos.

    Raises UserError where most given poses do not fit the photos.
    """
    given = _given_by_name(capture)
    poses = {i: given[p.name] for i, p in enumerate(capture.photos) if p.name in given}
    fits_px = FITS_SHARE * max(max(p.width_px, p.height_px) for p in capture.photos)
    reconstruction = _triangulated(database, poses, fits_px, cfg)
    verdict = Matches(reconstruction, database, fits_px).wrong_poses(set(poses))
    trusted = {i: c for i, c in poses.items() if i not in verdict.wrong}
    if len(verdict.wrong) > len(verdict.confirmed):
        raise UserError(
            f"The poses in {capture.given.source if capture.given else ''} do not fit the photos: "
            f"{len(verdict.wrong)} of {len(poses)} disagree with what the photos show in common; "
            "check that they belong together and follow the format's axes, or set poses.given=ignore."
        )
    if verdict.wrong:
        names = ", ".join(capture.photos[i].source for i in sorted(verdict.wrong))
        job.warn(f"The given poses of {names} do not fit the photos, so these were placed anew.")
        reconstruction = _triangulated(database, trusted, fits_px, cfg)
    reconstruction.update_point_3d_errors()
    error_px = float(np.median([p.error for p in reconstruction.points3D.values()] or [np.inf]))
    if use is GivenUse.use and error_px > IMPRECISE_PX:
        job.warn(f"The given poses fit the photos to {error_px:.1f} px only; poses.given=refine makes them sharper.")
    if use is GivenUse.refine:
        _loosely_adjusted(reconstruction, database, fits_px, cfg)
    if len(trusted) < len(capture.photos):
        reconstruction = _others_placed(reconstruction, database, trusted, use, cfg)
    job.notes |= {
        "given_poses": len(poses),
        "given_poses_wrong": len(verdict.wrong),
        "given_poses_fitting_share": round(verdict.fitting_share, 3),
        "given_poses_error_px": round(error_px, 3),
    }
    return GivenStart(reconstruction, trusted)


def finish_given(reconstruction: Any, start: GivenStart, use: GivenUse, database: Path, cfg: MappingConfig) -> Any:
    """A finished model, brought back into the given frame.

    With `use` the given cameras are put back as they were. Trusted photos that the matches could not place stand where
    the given poses say, with either. Where a pose was put back, the points are triangulated anew.
    """
    pycolmap = silenced()
    posed = {image.image_id - 1 for image in reconstruction.images.values() if image.has_pose}
    placed = posed & set(start.trusted)
    given_from_model = _given_from_model(reconstruction, {i: start.trusted[i] for i in sorted(placed)})
    reconstruction.transform(pycolmap.Sim3d(given_from_model.matrix()[:3]))
    restored = {i: c for i, c in start.trusted.items() if use is GivenUse.use or i not in placed}
    if restored:
        fixed = set(restored) if use is GivenUse.use else posed | set(restored)
        reconstruction = _put_back(reconstruction, restored, fixed, use, database, cfg)
    reconstruction.update_point_3d_errors()
    return reconstruction


def _put_back(
    reconstruction: Any,
    restored: Mapping[int, GivenCamera],
    fixed: set[int],
    use: GivenUse,
    database: Path,
    cfg: MappingConfig,
) -> Any:
    """The same photos with some poses as they were given (and, with `use`, their lenses), and points to match.

    fixed: photos that the adjustment of the points leaves where they are.
    """
    whole = _loaded(database)
    for camera_id, camera in reconstruction.cameras.items():
        whole.cameras[camera_id].model, whole.cameras[camera_id].params = camera.model, camera.params
    if use is GivenUse.use:
        for i, given in restored.items():
            whole.cameras[whole.images[i + 1].camera_id].params = opencv_params(given)
    poses = {im.image_id - 1: im.cam_from_world() for im in reconstruction.images.values() if im.has_pose}
    _place(whole, poses | {i: _pycolmap_pose(c) for i, c in restored.items()})
    options = pipeline_options(database, cfg)
    options.mapper.filter_max_reproj_error = cfg.max_error_px
    with _mapper(whole, database) as mapper:
        _triangulate_all(mapper, options.triangulation)
        mapper.filter_points(options.mapper)
    _adjust_around(whole, fixed, cfg)
    with _mapper(whole, database) as mapper:
        mapper.filter_points(options.mapper)
    return whole


def with_given_points(model: SparseModel, capture: Capture, max_error_px: float) -> SparseModel:
    """The model with those given points added that at least two of its photos see where they should (given frame)."""
    given = capture.given
    if given is None or not len(given.obs_point_idx):
        return model
    view_of = {name: k for k, name in enumerate(model.names)}
    views = np.array([view_of.get(c.photo, -1) for c in given.cameras])[given.obs_camera_idx]
    error = np.full(len(views), np.inf)
    for k, (lens, pose) in enumerate(zip(model.lenses, model.cam_from_world, strict=True)):
        rows = np.flatnonzero(views == k)
        x_cam = pose.apply(given.points_given[given.obs_point_idx[rows]])
        error[rows] = np.linalg.norm(lens.project(x_cam) - given.obs_px[rows], axis=1)
    good = error < max_error_px
    n_views = np.bincount(given.obs_point_idx[good], minlength=len(given.points_given))
    good &= n_views[given.obs_point_idx] >= 2
    kept, point_idx = np.unique(given.obs_point_idx[good], return_inverse=True)
    mean_error = np.bincount(point_idx, error[good]) / np.maximum(np.bincount(point_idx), 1)
    return dataclasses.replace(
        model,
        points=np.concatenate([model.points, given.points_given[kept]]),
        point_error_px=np.concatenate([model.point_error_px, mean_error]),
        obs_point_idx=np.concatenate([model.obs_point_idx, point_idx + len(model.points)]),
        obs_view_idx=np.concatenate([model.obs_view_idx, views[good]]),
        obs_px=np.concatenate([model.obs_px, given.obs_px[good]]),
    )


def _given_by_name(capture: Capture) -> dict[str, GivenCamera]:
    return {c.photo: c for c in capture.given.cameras} if capture.given else {}


@contextmanager
def _mapper(reconstruction: Any, database: Path) -> Iterator[Any]:
    """pycolmap's mapper on a reconstruction."""
    pycolmap = silenced()
    handle = pycolmap.Database.open(database)
    try:
        mapper = pycolmap.IncrementalMapper(cached(handle))
        mapper.begin_reconstruction(reconstruction)
        yield mapper
        mapper.end_reconstruction(False)
    finally:
        handle.close()


def _loaded(database: Path) -> Any:
    """A reconstruction with all photos of a database, none of them placed."""
    pycolmap = silenced()
    handle = pycolmap.Database.open(database)
    try:
        reconstruction = pycolmap.Reconstruction()
        reconstruction.load(cached(handle))
    finally:
        handle.close()
    return reconstruction


def _triangulated(database: Path, poses: Mapping[int, GivenCamera], fits_px: float, cfg: MappingConfig) -> Any:
    """A reconstruction of the posed photos and of points that lie within `fits_px` of their features."""
    reconstruction = _loaded(database)
    _place(reconstruction, {i: _pycolmap_pose(c) for i, c in poses.items()})
    options = pipeline_options(database, cfg).triangulation
    options.complete_max_reproj_error = options.merge_max_reproj_error = fits_px
    options.min_angle = 0.5  # close neighbours judge a pose, though they place no point well
    with _mapper(reconstruction, database) as mapper:
        _triangulate_all(mapper, options)
    return reconstruction


def _triangulate_all(mapper: Any, options: Any) -> None:
    for image_id in sorted(mapper.reconstruction.reg_image_ids()):
        mapper.triangulate_image(options, image_id)
    mapper.complete_and_merge_tracks(options)


def _pycolmap_pose(camera: GivenCamera) -> Any:
    return silenced().Rigid3d(camera.cam_from_given.matrix()[:3])


def _place(reconstruction: Any, poses: Mapping[int, Any]) -> None:
    """Register photos (positions in the capture) with poses of pycolmap's."""
    for i, pose in poses.items():
        frame = reconstruction.frames[reconstruction.images[i + 1].frame_id]
        frame.rig_from_world = pose
        reconstruction.register_frame(frame.frame_id)


def _loosely_adjusted(reconstruction: Any, database: Path, fits_px: float, cfg: MappingConfig) -> None:
    """Bundle adjustment with known lenses that keeps observations as far off as a tracked pose may be."""
    pycolmap = silenced()
    options = pipeline_options(database, cfg)
    adjust = pycolmap.BundleAdjustmentOptions()
    adjust.print_summary = False
    adjust.refine_focal_length = adjust.refine_extra_params = False
    options.mapper.filter_max_reproj_error = fits_px
    with _mapper(reconstruction, database) as mapper:
        mapper.iterative_global_refinement(2, 0.001, options.mapper, adjust, options.triangulation, False)


def _others_placed(
    reconstruction: Any, database: Path, given: Mapping[int, GivenCamera], use: GivenUse, cfg: MappingConfig
) -> Any:
    """The ordinary mapping, begun with the given photos, their lenses held."""
    pycolmap = silenced()
    start = database.with_name("given")
    start.mkdir(exist_ok=True)
    reconstruction.write(start)
    options = pipeline_options(database, cfg)
    options.multiple_models = False
    options.fix_existing_frames = use is GivenUse.use
    options.constant_cameras = {reconstruction.images[i + 1].camera_id for i in given}
    models = pycolmap.incremental_mapping(database, database.parent, start, options, input_path=start)
    return max(models.values(), key=lambda m: m.num_reg_images(), default=reconstruction)


def _given_from_model(reconstruction: Any, given: Mapping[int, GivenCamera]) -> Similarity:
    """The similarity between two sets of the same cameras: mean rotation, then least squares over the centres.

    Unlike one from the centres alone it is well posed for cameras in a line.
    """
    if len(given) < 2:
        raise UserError(
            "Fewer than two photos with a given pose share anything with the others; set poses.given=ignore."
        )
    model = {i: np.asarray(reconstruction.images[i + 1].cam_from_world().matrix(), float) for i in given}
    turns = sum(c.cam_from_given.rotation.T @ model[i][:, :3] for i, c in given.items())
    u, _, vt = np.linalg.svd(turns)
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    here = np.array([-m[:, :3].T @ m[:, 3] for m in model.values()]) @ rotation.T
    there = np.array([c.cam_from_given.inverse().translation for c in given.values()])
    a, b = here - here.mean(0), there - there.mean(0)
    scale = float((a * b).sum() / (a * a).sum())
    return Similarity(scale, rotation, there.mean(0) - scale * here.mean(0))


def _adjust_around(reconstruction: Any, fixed: set[int], cfg: MappingConfig) -> None:
    """Bundle adjustment of the points and of all photos but the fixed ones."""
    pycolmap = silenced()
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.reg_image_ids():
        config.add_image(image_id)
    for i in fixed:
        image = reconstruction.images[i + 1]
        config.set_constant_rig_from_world_pose(image.frame_id)
        config.set_constant_cam_intrinsics(image.camera_id)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = cfg.robust_scale_px
    pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
