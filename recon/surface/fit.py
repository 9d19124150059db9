"""fit_surface: a neural SDF that starts on the prior cloud, trained by unbiased volume rendering within the hull."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recon.data import ObjectRegion, PosedCapture, PriorCloud, SurfaceField
from recon.stage import Job, stage
from recon.surface.baking import Baker, unit_from_region, unit_planes
from recon.surface.batch import Data
from recon.surface.checkpoint import load_checkpoint, save_checkpoint
from recon.surface.config import SurfaceConfig
from recon.surface.corrections import Corrections
from recon.surface.engine import choose, device_for
from recon.surface.find_patches import find_patches
from recon.surface.first_shape import FirstShape, first_shape
from recon.surface.hidden import find_hidden
from recon.surface.pace import steps_to_skip
from recon.surface.patches import gather_for_patches
from recon.surface.pixels import gather_pixels, pixel_size, unit_cameras
from recon.surface.trainer import Trainer
from recon.surface.trust import doubted, sentence_about
from recon.surface.viewer import Moment, Viewer, viewing
from recon.surface.watch import Watch
from recon.transforms import Similarity


@stage(result=SurfaceField, version=20, resumable=True)
def fit_surface(
    posed: PosedCapture, region: ObjectRegion, prior: PriorCloud, cfg: SurfaceConfig, job: Job
) -> SurfaceField:
    """Train the SDF and colour field; resumes from `checkpoint.pt` in the job's folder."""
    fit = open_fit(posed, region, prior, cfg, job)
    trainer, unit_from_world, corrections = fit.trainer, fit.where[1], fit.corrections
    checkpoint = job.folder / "checkpoint.pt"
    state, why_anew = load_checkpoint(checkpoint)
    if why_anew:
        job.warn(why_anew)
    if state is None:
        trainer.warm_start()
    else:
        fit.restore(state)
        job.notes["resumed_at_step"] = trainer.step
    fit.watch.keep(trainer)
    with viewing(posed, prior, unit_from_world, cfg.view, job) as viewer:
        train(fit, viewer, checkpoint, job)
    job.notes["steps_skipped"] = fit.n_skipped
    checkpoint.unlink(missing_ok=True)
    job.notes |= corrections.notes()
    report(trainer, [view.name for view in posed.views], job)
    return SurfaceField(
        unit_from_world,
        asdict(cfg.field_config()),
        trainer.field.arrays(),
        math.log(trainer.inv_s()),
        np.exp(trainer.centred_gain().detach().cpu().double().numpy()),
        corrections.views(),
        {k: round(v, 5) for k, v in trainer.averages.items()} | {"n_steps": cfg.n_steps},
    )


def open_fit(posed: PosedCapture, region: ObjectRegion, prior: PriorCloud, cfg: SurfaceConfig, job: Job) -> Fit:
    """All that a training needs, before its first step."""
    engine = choose(cfg.engine, cfg.field_config().layout(), job.warn)
    device = device_for(engine)
    unit_from_world = unit_from_region(region)
    baker = Baker(region, unit_from_world, cfg.bake_resolution, device)
    first = first_shape(posed, region, prior, baker, unit_from_world, cfg)
    data = gather(posed, region, first, unit_from_world, cfg)
    job.notes |= {
        "engine": engine.name,
        "device": str(device),
        "pool_pixels": len(data.pool.label),
        "support_points": len(data.points) - data.n_prior,
    }
    trainer = Trainer(cfg, engine, data, len(posed.views))
    trainer.first_inv_s = first.inv_s
    job.notes["first_inv_s"] = round(trainer.first_inv_s, 1)
    corrections = Corrections(cfg.cameras, posed, unit_from_world)
    return Fit(trainer, baker, Watch(cfg.watch), corrections, (region, unit_from_world))


def report(trainer: Trainer, names: list[str], job: Job) -> None:
    """Note what became of the rays, and name photos that disagree with all others."""
    found = doubted(trainer.photos, names)
    ratio = trainer.rays.ratio
    job.notes |= {
        "pixel_size": round(trainer.data.pixel_size, 6),
        "importance_weights": [round(float(w), 3) for w in (1 / ratio.max(), 1 / ratio.min())],
        "photo_error_medians": [round(float(m), 5) for m in np.nanmedian(trainer.photos.mean(), 1)],
        "doubted_photos": found,
    }
    if found:
        job.warn(sentence_about(found, len(names)))


def gather(
    posed: PosedCapture,
    region: ObjectRegion,
    first: FirstShape,
    unit_from_world: Similarity,
    cfg: SurfaceConfig,
) -> Data:
    """Bring everything that the training draws from into the unit cube."""
    cloud = first.cloud
    cameras = unit_cameras(posed, unit_from_world)
    return Data(
        gather_pixels(posed, region, cfg.ring_share, cfg.pyramid.n_scales, cfg.max_pixels, cfg.seed),
        pixel_size(posed, unit_from_world),
        cameras,
        torch.from_numpy(unit_planes(region, unit_from_world)),
        torch.from_numpy(cloud.points).float(),
        torch.from_numpy(cloud.normals).float(),
        torch.from_numpy(cloud.confidence).float(),
        cloud.n_prior,
        torch.from_numpy(first.free),
        torch.from_numpy(first.outside),
        first.start,
        gather_for_patches(
            posed, region, cameras, (cloud.points[: cloud.n_prior], cloud.normals[: cloud.n_prior]), cfg.patches
        ),
    )


@dataclass
class Fit:
    """A fit under way: the training, its baked grid and its watch."""

    trainer: Trainer
    baker: Baker
    watch: Watch
    corrections: Corrections
    where: tuple[ObjectRegion, Similarity]
    """What the baked grids lie in."""
    refreshed_at: int = -1
    """The step of the last refresh; -1 where there is none to go on from."""
    n_skipped: int = 0
    """Steps that were left out of the schedule."""

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on as if nothing had happened."""
        parts = {"trainer": self.trainer.state(), "baker": self.baker.state(), "watch": self.watch.state()}
        parts["cameras"] = self.corrections.state()
        return parts | {"refreshed_at": self.refreshed_at, "n_skipped": self.n_skipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.trainer.restore(state["trainer"])
        self.baker = Baker(*self.where, state["baker"]["resolution"], self.trainer.device)
        self.baker.restore(state["baker"])
        self.watch.restore(state["watch"])
        self.trainer.data = self.trainer.data.seen_by(self.corrections.restore(state["cameras"]))
        self.refreshed_at, self.n_skipped = state["refreshed_at"], state["n_skipped"]

    def moment(self) -> Moment:
        """What the live view shows."""
        trainer = self.trainer
        error = np.nan_to_num(trainer.photos.mean()[0])
        return Moment(trainer.step, trainer.cfg.n_steps, trainer.averages, error, self.baker.baked)

    def go_back(self, trouble: str, job: Job) -> None:
        """Take a breakdown back. Raises UserError the second time."""
        job.warn(self.watch.take_back(self.trainer, trouble))
        self.refreshed_at = -1

    def find_hidden(self) -> None:
        """Bring what no camera sees in step with the baked grid."""
        data, baker = self.trainer.data, self.baker
        self.trainer.unseen = find_hidden(baker.baked, baker.inside(), data.cameras, data.planes)

    def correct_cameras(self) -> None:
        """Bring the cameras in step with the surface and each other, if it is time."""
        trainer, corrections = self.trainer, self.corrections
        cfg, data = trainer.cfg, trainer.data
        if data.photos is None or not corrections.due(trainer.step / cfg.n_steps):
            return
        rng = np.random.default_rng([cfg.seed, corrections.n_done])
        n = cfg.cameras.n_patches
        patches = find_patches(data, trainer.field.geometry, self.baker.baked, trainer.sample_rays, cfg.patches, rng, n)
        corrections.improve(patches, data.photos, cfg.patches.patch(trainer.device))
        trainer.data = data.seen_by(corrections.cameras())

    def refresh(self, job: Job) -> None:
        """Look whether all is well, and bring the baked grid in step with the field."""
        trainer, cfg, whole = self.trainer, self.trainer.cfg, False
        trouble = self.watch.trouble(trainer)
        if not trouble:
            if trainer.step >= cfg.n_steps // 2 and self.baker.resolution != cfg.bake_resolution_late:
                self.baker, self.refreshed_at = Baker(*self.where, cfg.bake_resolution_late, trainer.device), -1
            whole = self.refreshed_at < 0 or trainer.step % (10 * cfg.bake_every) == 0
            seen = self.baker.refresh(trainer.field, None if whole else 4.0)
            trouble = self.watch.lost_surface(seen, self.baker.baked.cell)
        if trouble:
            self.go_back(trouble, job)
            return self.refresh(job)
        self.correct_cameras()
        if whole:
            self.find_hidden()
        moves = trainer.released == 1 and trainer.step / cfg.n_steps >= cfg.open_share
        skip = steps_to_skip(cfg.pace, seen, moves, cfg.bake_every)
        skip = min(skip, cfg.n_steps - 1 - trainer.step)
        trainer.step += skip
        self.n_skipped += skip
        self.refreshed_at = trainer.step
        return None


def train(fit: Fit, viewer: Viewer | None, checkpoint: Path, job: Job) -> None:
    """Run the steps that are left, baking, watching, reporting, showing and checkpointing on the way."""
    trainer, cfg, saved_at = fit.trainer, fit.trainer.cfg, time.monotonic()
    while trainer.step < cfg.n_steps:
        if trainer.step % cfg.bake_every == 0 and trainer.step != fit.refreshed_at:
            fit.refresh(job)
            if time.monotonic() - saved_at > cfg.checkpoint_s:
                save_checkpoint(checkpoint, fit.state())
                saved_at = time.monotonic()
        trainer.train_step(fit.baker)
        if trainer.step % 20 == 0:
            note = f"colour error {trainer.averages['colour']:.4f}"
            job.progress(trainer.step, cfg.n_steps, f"{note}, live at {viewer.address}" if viewer else note)
        if viewer and viewer.due():
            viewer.show(fit.moment(), job)
        if trainer.step == cfg.n_steps and (trouble := fit.watch.trouble(trainer)):
            fit.go_back(trouble, job)
