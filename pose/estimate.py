"""The second stage: where each photo was taken, with which lens, and what the cameras look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pose.colmap_io import model_from_reconstruction, work_folder, write_database
from pose.enrich import Evidence
from pose.features import FeaturesConfig, PhotoFeatures, detect_all
from pose.mapping import MappingConfig, map_photos, refine
from pose.matching import match_pairs
from pose.model import SparseModel
from pose.orient import OrientConfig, orient
from pose.pairs import PairsConfig, choose_pairs
from pose.recover import Means, RecoverConfig, Standing, likely_reason, recover
from pose.undistort import undistort_all
from pose.verify import take_back_wrong
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
    min_registered_share: float = 0.5
    """If a smaller share of the photos finds its place, the capture is refused."""


@stage(result=PosedCapture, version=2)
def estimate_poses(capture: Capture, cfg: PosesConfig, job: Job) -> PosedCapture:
    """Structure from motion over all photos of a capture.

    Photos that find no place are left out with a reason. Raises UserError where fewer than three photos or than
    `min_registered_share` of them find their place.
    """
    model, left_out = _solve(capture, cfg, job)
    progress = _part(job, 0.92, 1.0)
    cameras, rgb = undistort_all(capture, model, job.folder, progress)
    frame = orient(model, cfg.orient)
    views = tuple(
        View(name, camera, frame.world_from_model.apply_to_camera(pose))
        for name, camera, pose in zip(model.names, cameras, model.cam_from_world, strict=True)
    )
    sharpness = {p.name: p.sharpness for p in capture.photos}
    job.notes["up_source"] = frame.up_source
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
        scale_source="unknown",
        support_plane=frame.support_plane,
        sharpness=np.array([sharpness[v.name] for v in views]),
        left_out=tuple(left_out),
        stats={
            "n_photos": float(len(capture.photos)),
            "n_registered": float(len(views)),
            "mean_reprojection_error_px": float(model.point_error_px.mean()),
            "n_points": float(len(model.points)),
            "mean_track_length": len(model.obs_point_idx) / len(model.points),
        },
    )


def _solve(capture: Capture, cfg: PosesConfig, job: Job) -> tuple[SparseModel, list[LeftOut]]:
    """Features, matches, mapping, further tries at lost photos, a last adjustment and a last check."""
    n = len(capture.photos)
    features = detect_all(capture, cfg.features, _part(job, 0.0, 0.15))
    with work_folder(job.folder / "sfm") as folder:
        evidence = Evidence(capture, features, folder / "database.db", cfg.mapping.seed)
        write_database(evidence.database, capture, features)
        pairs = choose_pairs(features, capture.is_video, cfg.pairs, _part(job, 0.15, 0.2))
        match_pairs(evidence.database, pairs, cfg.mapping.seed, _part(job, 0.2, 0.6))
        models = map_photos(evidence.database, n, cfg.mapping, _part(job, 0.6, 0.8))
        found = recover(models, evidence, cfg.recover, cfg.features, cfg.mapping, _part(job, 0.8, 0.86))
        if found.model is None:
            raise UserError(_refusal(0, capture, features))
        refine(found.model, found.database, cfg.mapping)
        wrong = take_back_wrong(found.model, found.database, cfg.recover.verify, cfg.mapping.seed)
        if wrong:
            found.taken_back |= wrong
            refine(found.model, found.database, cfg.mapping)
        model = model_from_reconstruction(found.model, capture)
        left_out = _lost_photos(found, evidence)
    if len(model.names) < max(3, cfg.min_registered_share * n):
        raise UserError(_refusal(len(model.names), capture, features))
    for item in left_out:
        job.warn(f"{item.name} could not be placed: {item.reason}.")
    _note_means(found, capture, job)
    return model, left_out


def _note_means(found: Standing, capture: Capture, job: Job) -> None:
    """Say which photo was won back by which means."""
    placed = found.placed()
    job.notes["recovered"] = {capture.photos[i].name: m.value for i, m in sorted(found.won.items()) if i in placed}
    for means in Means:
        names = [capture.photos[i].source for i, m in sorted(found.won.items()) if m is means and i in placed]
        if names:
            job.warn(f"{', '.join(names)} could be placed only by {means.value}.")


def _lost_photos(found: Standing, evidence: Evidence) -> list[LeftOut]:
    placed = found.placed()
    return [
        LeftOut(photo.source, likely_reason(i, evidence, found))
        for i, photo in enumerate(evidence.capture.photos)
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
