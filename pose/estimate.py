"""The second stage: where each photo was taken, with which lens, and what the cameras look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from pose.colmap_io import model_from_reconstruction, work_folder, write_database
from pose.diagnose import Trouble, diagnose, only_turned, sentence
from pose.enrich import Evidence
from pose.features import FeaturesConfig, PhotoFeatures, detect_all
from pose.given import GivenStart, GivenUse, finish_given, place_given, with_given_lenses, with_given_points
from pose.mapping import MappingConfig, map_photos, refine
from pose.matching import match_pairs
from pose.model import SparseModel
from pose.orient import OrientConfig, orient
from pose.pairs import PairsConfig, choose_pairs
from pose.recover import Means, Progress, RecoverConfig, Standing, likely_reason, recover
from pose.scale import UNKNOWN, ScaleConfig, find_scale, is_metric
from pose.turntable import TurntableConfig, moving_features, stands_still, swept_region, write_swept
from pose.undistort import undistort_all
from pose.verify import FOLDED, take_back_wrong
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
    turntable: TurntableConfig = field(default_factory=TurntableConfig)
    orient: OrientConfig = field(default_factory=OrientConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    given: GivenUse = GivenUse.refine
    """What is done with poses that lie with the photos: `refine` starts from them, keeps their frame and scale and fits
    them to the photos; `use` takes them as they are; `ignore` estimates all poses anew."""
    min_registered_share: float = 0.3
    """If a smaller share of the photos finds its place, the capture is refused."""

    def files(self) -> tuple[Path, ...]:
        """Files whose contents the result depends on."""
        checkpoint = self.recover.learned.checkpoint
        return (Path(checkpoint),) if checkpoint else ()


@stage(result=PosedCapture, version=3)
def estimate_poses(capture: Capture, cfg: PosesConfig, job: Job) -> PosedCapture:
    """Structure from motion over all photos of a capture.

    Photos that find no place are left out with a reason. Raises UserError where there are fewer than three photos, or
    where fewer than three or than `min_registered_share` of them find their place.
    """
    n = len(capture.photos)
    if n < 3:
        raise UserError(f"{n} photos show no shape: take 20 to 60 all around the object, in steps of about 10 degrees.")
    if cfg.given is GivenUse.ignore:
        capture = dataclasses.replace(capture, given=None)
    model, left_out, swept = _solve(capture, cfg, job)
    progress = _part(job, 0.92, 1.0)
    cameras, rgb = undistort_all(capture, model, job.folder, progress)
    if swept is not None:
        write_swept(swept, model.lenses[0], cameras[0], job.folder)
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
            "turntable": float(job.notes.get("turntable", False)),
            "mean_track_length": len(model.obs_point_idx) / len(model.points),
            **(scale.stats() if scale else {}),
        },
    )


def _solve(
    capture: Capture, cfg: PosesConfig, job: Job
) -> tuple[SparseModel, list[LeftOut], Bool[np.ndarray, "h w"] | None]:
    """Features, matches, mapping, further tries at lost photos, a last adjustment and a last check.

    The third result is where the photos change, if the camera stood still.
    """
    n = len(capture.photos)
    given = capture.given is not None
    capture = with_given_lenses(capture)
    features = detect_all(capture, cfg.features, _part(job, 0.0, 0.15))
    with work_folder(job.folder / "sfm") as folder:
        evidence = _gather(capture, features, folder / "database.db", cfg, _part(job, 0.15, 0.6))
        if not given and stands_still(evidence.database, features, cfg.turntable):
            evidence = _without_background(evidence, cfg, job)
        if not given and only_turned(evidence):
            raise UserError(sentence(capture, 0, Trouble.turned))
        start = place_given(evidence.database, capture, cfg.given, cfg.mapping, job) if given else None
        models = (
            [start.reconstruction] if start else map_photos(evidence.database, n, cfg.mapping, _part(job, 0.6, 0.8))
        )
        found = recover(models, evidence, cfg.recover, cfg.features, cfg.mapping, _part(job, 0.8, 0.86))
        if found.model is None:
            raise UserError(sentence(capture, 0, diagnose(evidence)))
        _adjust(found, start, cfg)
        model = model_from_reconstruction(found.model, capture)
        if start is not None:
            model = with_given_points(model, capture, cfg.mapping.max_error_px)
        if len(model.names) < max(3, cfg.min_registered_share * n):
            folded = FOLDED in found.taken_back.values()
            raise UserError(sentence(capture, len(model.names), diagnose(evidence, folded)))
        left_out = _lost_photos(found, evidence)
    if len(model.names) < 0.6 * n:
        job.warn(f"Only {len(model.names)} of {n} photos could be placed, so sides of the object may be missing.")
    for item in left_out:
        job.warn(f"{item.name} could not be placed: {item.reason}.")
    _note_means(found, capture, job)
    return model, left_out, evidence.region


def _adjust(found: Standing, start: GivenStart | None, cfg: PosesConfig) -> None:
    """The last adjustment and the last check, in place; given poses that are used as they are come back in the end."""
    adjusts = start is None or cfg.given is GivenUse.refine
    if adjusts:
        refine(found.model, found.database, cfg.mapping)
    wrong = take_back_wrong(found.model, found.database, cfg.recover.verify, cfg.mapping.seed)
    if wrong:
        found.taken_back |= wrong
        if adjusts:
            refine(found.model, found.database, cfg.mapping)
    if start is not None:
        found.model = finish_given(found.model, start, cfg.given, found.database, cfg.mapping)


def _gather(
    capture: Capture, features: Sequence[PhotoFeatures], database: Path, cfg: PosesConfig, progress: Progress
) -> Evidence:
    """A database with the features and the verified matches of the pairs worth matching."""
    write_database(database, capture, features)
    pairs = choose_pairs(features, capture.is_video, cfg.pairs, lambda d, t, note: progress(0.1 * d, t, note))
    match_pairs(database, pairs, cfg.mapping.seed, lambda d, t, note: progress(0.1 * t + 0.9 * d, t, note))
    return Evidence(capture, list(features), database, cfg.mapping.seed)


def _without_background(evidence: Evidence, cfg: PosesConfig, job: Job) -> Evidence:
    """The evidence of what turns before a standing camera. Raises UserError where nothing turns."""
    capture = evidence.capture
    region = swept_region(capture, cfg.turntable)
    if region.mean() < cfg.turntable.min_moving_area:
        raise UserError(sentence(capture, 0, Trouble.still))
    if region.mean() < cfg.turntable.max_moving_area:
        job.notes["turntable"] = True
        job.warn("The camera stood still while the object turned; the background was left out.")
    features = moving_features(evidence, region, cfg.turntable)
    gathered = _gather(capture, features, evidence.database, cfg, _part(job, 0.15, 0.6))
    return dataclasses.replace(gathered, region=region)


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


def _part(job: Job, start: float, end: float) -> Callable[[float, float, str], None]:
    """A progress line for a part of the stage, from `start` to `end` of 1."""

    def progress(done: float, total: float, note: str) -> None:
        job.progress(start + (end - start) * done / max(total, 1), 1.0, note)

    return progress
