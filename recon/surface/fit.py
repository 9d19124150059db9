"""fit_surface: a neural SDF trained by unbiased volume rendering, pulled by the prior cloud, bounded by the hull."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from recon.data import ObjectRegion, PosedCapture, PriorCloud, SurfaceField
from recon.stage import Job, stage
from recon.surface.baking import Baker, unit_from_region, unit_planes
from recon.surface.batch import Data
from recon.surface.config import SurfaceConfig
from recon.surface.field import Engine
from recon.surface.free_space import towards_best_view
from recon.surface.pixels import gather_pixels, pixel_size, unit_cameras
from recon.surface.trainer import Trainer
from recon.surface.trust import doubted, sentence_about
from recon.surface.visual_hull import hull_sdf, support_points
from recon.transforms import Similarity


@stage(result=SurfaceField, version=2, resumable=True)
def fit_surface(
    posed: PosedCapture, region: ObjectRegion, prior: PriorCloud, cfg: SurfaceConfig, job: Job
) -> SurfaceField:
    """Train the SDF and colour field; resumes from `checkpoint.pt` in the job's folder."""
    engine = Engine.cpu if cfg.engine is Engine.auto else cfg.engine
    unit_from_world = unit_from_region(region)
    baker = Baker(region, unit_from_world, cfg.bake_resolution)
    near, cell = baker.points[baker.near_hull], np.float32(baker.baked.cell)
    distances = hull_sdf(baker.baked, posed, region, prior, unit_from_world)
    hull, carved = (d.reshape(-1)[baker.near_hull] for d in distances)
    data = gather(posed, region, prior, unit_from_world, (near, hull, cell), cfg)
    job.notes |= {
        "engine": engine.name,
        "pool_pixels": len(data.pool.label),
        "support_points": len(data.points) - data.n_prior,
    }
    trainer = Trainer(cfg, engine, data, len(posed.views))
    trainer.first_inv_s = blunt_start(baker, carved, data, cfg)
    job.notes["first_inv_s"] = round(trainer.first_inv_s, 1)
    checkpoint = job.folder / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
        job.notes["resumed_at_step"] = trainer.step
    else:
        trainer.warm_start(near, carved)
    train(trainer, baker, (region, unit_from_world), checkpoint, job)
    checkpoint.unlink(missing_ok=True)
    report(trainer, [view.name for view in posed.views], job)
    return SurfaceField(
        unit_from_world,
        asdict(cfg.field_config()),
        trainer.field.arrays(),
        math.log(trainer.inv_s()),
        np.exp(trainer.centred_gain().detach().double().numpy()),
        {k: round(v, 5) for k, v in trainer.averages.items()} | {"n_steps": cfg.n_steps},
    )


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
    job.notes["dbg_z"] = np.round(trainer.photos.spreads_above(), 2).tolist()
    if found:
        job.warn(sentence_about(found, len(names)))


def blunt_start(baker: Baker, hull: np.ndarray, data: Data, cfg: SurfaceConfig) -> float:
    """The sharpness to start with: blunt enough to reach from the visual hull to the prior points.

    hull: distances at the baker's points. Few photos, or photos from one side, leave a hull far outside the object. A
    density that is sharp from the start sees only the hull, and stays there.
    """
    if data.n_prior == 0:
        return cfg.first_inv_s
    values = baker.baked.values.copy()
    values.reshape(-1)[baker.near_hull] = hull
    index = ((data.points[: data.n_prior].numpy() - baker.baked.origin) / baker.baked.cell).round().astype(int)
    depth = -values[tuple(np.clip(index, 0, np.array(values.shape) - 1).T)]
    reach = float(np.percentile(depth, 75))
    # 4: at a depth of 4 / (1/s) the logistic density has fallen to 2 % of its peak
    return float(np.clip(4.0 / max(reach, 1e-6), 30.0, cfg.first_inv_s))


def gather(
    posed: PosedCapture,
    region: ObjectRegion,
    prior: PriorCloud,
    unit_from_world: Similarity,
    hull: tuple[np.ndarray, np.ndarray, np.float32],
    cfg: SurfaceConfig,
) -> Data:
    """Bring everything that the training draws from into the unit cube.

    hull: points (n, 3) in the unit cube, their distances (n,) to the visual hull, and the grid's cell.
    """
    near, distance, cell = hull
    # one cell of slack: masks are right to a few pixels, the carving to half a cell
    free = distance > cell
    below, below_normals = support_points(posed, region, region.diagonal() / 150)
    towards = towards_best_view(posed, prior, 2 * float(cell) / unit_from_world.scale)
    points = np.concatenate([prior.points_world, below])
    normals = np.concatenate([prior.normals_world, below_normals])
    confidence = np.concatenate([prior.confidence, np.full(len(below), cfg.support_confidence)])
    return Data(
        gather_pixels(posed, region, cfg.ring_share, cfg.pyramid.n_scales, cfg.max_pixels, cfg.seed),
        pixel_size(posed, unit_from_world),
        unit_cameras(posed, unit_from_world),
        unit_planes(region, unit_from_world),
        torch.from_numpy(unit_from_world.apply(points)).float(),
        torch.from_numpy(normals @ unit_from_world.rotation.T).float(),
        torch.from_numpy(confidence).float(),
        len(prior.points_world),
        torch.from_numpy(towards @ unit_from_world.rotation.T).float(),
        torch.from_numpy(near[free]),
        torch.from_numpy(distance[free] - cell),
    )


def train(trainer: Trainer, baker: Baker, where: tuple[ObjectRegion, Similarity], checkpoint: Path, job: Job) -> None:
    """Run the steps that are left, baking, reporting and checkpointing on the way."""
    cfg, saved_at, fresh = trainer.cfg, time.monotonic(), True
    while trainer.step < cfg.n_steps:
        if trainer.step >= cfg.n_steps // 2 and baker.resolution != cfg.bake_resolution_late:
            baker, fresh = Baker(*where, cfg.bake_resolution_late), True
        if fresh or trainer.step % cfg.bake_every == 0:
            whole = fresh or trainer.step % (10 * cfg.bake_every) == 0
            baker.refresh(trainer.field, None if whole else 4.0)
            fresh = False
        trainer.train_step(baker)
        if trainer.step % max(cfg.n_steps // 8, 1) == 0:
            z = trainer.photos.spreads_above()
            print(
                "STEP",
                trainer.step,
                "scale",
                trainer.scale,
                "z",
                np.round(np.sort(z, 1)[:, -4:], 1).tolist(),
                z.argsort(1)[:, -4:].tolist(),
                flush=True,
            )
        if trainer.step % 20 == 0:
            note = f"colour error {trainer.averages['colour']:.4f}"
            job.progress(trainer.step, cfg.n_steps, note)
        if time.monotonic() - saved_at > cfg.checkpoint_s:
            trainer.save(checkpoint)
            saved_at = time.monotonic()
