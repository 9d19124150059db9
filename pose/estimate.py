"""The second stage: where each photo was taken, with which lens, and what the cameras look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pose.colmap_io import model_from_reconstruction, work_folder, write_database
from pose.features import FeaturesConfig, PhotoFeatures, detect_all
from pose.given import GivenUse, finish_given, place_given, with_given_lenses, with_given_points
from pose.mapping import MappingConfig, map_photos, refine
from pose.matching import match_pairs
from pose.model import SparseModel
from pose.orient import OrientConfig, orient
from pose.pairs import PairsConfig, choose_pairs
from pose.recover import RecoverConfig, drop_weak, likely_reason, overlaps_of, recover
from pose.scale import UNKNOWN, ScaleConfig, find_scale, is_metric
from pose.undistort import undistort_all
from recon.camera import View
from recon.data import Capture, LeftOut, PosedCapture
from recon.errors import UserError
from recon.stage import Job, stage


@dataclass(frozen=True)
class PosesConfig:
    """How camera poses are found."""

    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    mapping: MappingConfig = field(default_factory=MappingConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    orient: OrientConfig = field(default_factory=OrientConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    given: GivenUse = GivenUse.refine
    """What is done with poses that lie with the photos: `refine` starts from them, keeps their frame and scale and fits
    them to the photos; `use` takes them as they are; `ignore` estimates all poses anew."""
    min_registered_share: float = 0.5
    """If a smaller share of the photos finds its place, the capture is refused."""


@stage(result=PosedCapture, version=2)
def estimate_poses(capture: Capture, cfg: PosesConfig, job: Job) -> PosedCapture:
    """Structure from motion over all photos of a capture.

    Photos that find no place are left out with a reason. Raises UserError where fewer than three photos or than
    `min_registered_share` of them find their place.
    """
    if cfg.given is GivenUse.ignore:
        capture = dataclasses.replace(capture, given=None)
    model, left_out = _solve(capture, cfg, job)
    progress = _part(job, 0.92, 1.0)
    cameras, rgb = undistort_all(capture, model, job.folder, progress)
    scale = find_scale(capture, model, cameras, job.folder, cfg.scale, job)
    frame = orient(model, cfg.orient, scale.metres_per_unit if scale else None, is_metric(capture, cfg.scale))
    views = tuple(
        View(name, camera, frame.world_from_model.apply_to_camera(pose))
        for name, camera, pose in zip(model.names, cameras, model.cam_from_world, strict=True)
    )
    sharpness = {p.name: p.sharpness for p in capture.photos}
    job.notes |= {"up_source": frame.up_source, "scale_source": scale.source if scale else UNKNOWN}
    return PosedCapture(
        folder=job.folder,
        views=views,
        points_world=frame.world_from_model.apply(model.points),
        point_rgb=rgb,
        point_error_px=model.point_error_px,
        obs_point_idx=model.obs_point_idx,
        obs_view_idx=model.obs_view_idx,
        focus_world=frame.focus_world,
        up_source=frame.up_source,
        scale_source=scale.source if scale else UNKNOWN,
        support_plane=frame.support_plane,
        sharpness=np.array([sharpness[v.name] for v in views]),
        left_out=tuple(left_out),
        stats={
            "n_photos": float(len(capture.photos)),
            "n_registered": float(len(views)),
            "mean_reprojection_error_px": float(model.point_error_px.mean()),
            "n_points": float(len(model.points)),
            "mean_track_length": len(model.obs_point_idx) / len(model.points),
            **(scale.stats() if scale else {}),
        },
    )


def _solve(capture: Capture, cfg: PosesConfig, job: Job) -> tuple[SparseModel, list[LeftOut]]:
    """Features, matches, mapping, a second try at lost photos, and a last adjustment."""
    n = len(capture.photos)
    given = capture.given is not None
    capture = with_given_lenses(capture)
    features = detect_all(capture, cfg.features, _part(job, 0.0, 0.15))
    with work_folder(job.folder / "sfm") as folder:
        database = folder / "database.db"
        write_database(database, capture, features)
        pairs = choose_pairs(features, capture.is_video, cfg.pairs, _part(job, 0.15, 0.2))
        match_pairs(database, pairs, cfg.mapping.seed, _part(job, 0.2, 0.6))
        start = place_given(database, capture, cfg.given, cfg.mapping, job) if given else None
        models = [start.reconstruction] if start else map_photos(database, n, cfg.mapping, _part(job, 0.6, 0.8))
        if not models:
            raise UserError(_refusal(0, capture, features))
        best = models[0]
        if best.num_reg_images() < n:
            trying = _part(job, 0.8, 0.86)
            best = recover(best, database, capture, features, cfg.recover, cfg.features, cfg.mapping, trying)
        if not given or cfg.given is GivenUse.refine:
            refine(best, database, cfg.mapping, lenses_known=given)
        if drop_weak(best, cfg.recover) and (not given or cfg.given is GivenUse.refine):
            refine(best, database, cfg.mapping, lenses_known=given)
        if start is not None:
            best = finish_given(best, start, cfg.given, database, cfg.mapping)
        model = model_from_reconstruction(best, capture)
        if start is not None:
            model = with_given_points(model, capture, cfg.mapping.max_error_px)
        left_out = _lost_photos(model, capture, features, database)
    if len(model.names) < max(3, cfg.min_registered_share * n):
        raise UserError(_refusal(len(model.names), capture, features))
    if len(models) > 1:
        others = ", ".join(str(m.num_reg_images()) for m in models[1:])
        job.warn(
            f"The photos fell into groups that do not connect; the largest was used (the others had {others} photos)."
        )
    for item in left_out:
        job.warn(f"{item.name} could not be placed: {item.reason}.")
    return model, left_out


def _lost_photos(
    model: SparseModel, capture: Capture, features: Sequence[PhotoFeatures], database: Path
) -> list[LeftOut]:
    placed = {i for i, p in enumerate(capture.photos) if p.name in set(model.names)}
    return [
        LeftOut(p.source, likely_reason(i, capture, features, overlaps_of(i, placed, database)))
        for i, p in enumerate(capture.photos)
        if i not in placed
    ]


def _refusal(n_placed: int, capture: Capture, features: Sequence[PhotoFeatures]) -> str:
    """What to tell the user where too few photos found their place, with the likeliest remedy."""
    n = len(capture.photos)
    blurred = sum(p.sharpness < 0.5 for p in capture.photos)
    if np.median([len(f.keypoints) for f in features]) < 300:
        remedy = "put the object on something with a busy pattern, such as a newspaper, and use more light"
    elif blurred > n / 4:
        remedy = f"hold the phone still ({blurred} photos are blurred) and use more light"
    else:
        remedy = "take more photos with large overlap, a step of about 10 degrees each, of an object that stands still"
    found = f"only {n_placed} of" if n_placed else "none of"
    return f"For {capture.name}, {found} {n} photos could be placed in one common scene; {remedy}."


def _part(job: Job, start: float, end: float) -> Callable[[float, float, str], None]:
    """A progress line for a part of the stage, from `start` to `end` of 1."""

    def progress(done: float, total: float, note: str) -> None:
        job.progress(start + (end - start) * done / max(total, 1), 1.0, note)

    return progress
