"""Where a training step's time goes, by the surface's engine: the table `profile` of benchmark.py.

The fit is trained for a few steps of a schedule of its own, `surface.n_steps` of them (400 unless told), so that all of
the hash grid's levels are open and patches are in. Then every part of a step is run by itself, forward and backward,
and medians are taken. The shares are of a whole step; the rest is rendering, losses and launching. `encode` is the hash
grid, `MLP` the SDF and colour networks; `patches` counts what patches evaluate of both. `memory` is what a large copy
reads and writes a second on that device, and `encode of it` the least bytes that encoding must move a second over that:
where caches serve it, above 100 %.

    python scripts/benchmark.py profile PATH/TO/mustard surface.engine=triton surface.precision=single

Cameras, masks and prior are kept in assets_out/.benchmark, as for the surface's tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import benchmark_surface

from pose.estimate import estimate_poses
from recon.capture.read import read_capture
from recon.isolate.isolate import isolate_object
from recon.prior.estimate import estimate_prior
from recon.stage import Job, Workspace
from recon.surface.fit import Fit, open_fit, train
from recon.surface.profile import PARTS, StepProfile, step_profile

PROFILE = (
    "engine", "device", "colour", "ms a step", *("MLP" if part == "networks" else part for part in PARTS), "rest",
    "memory GB/s", "encode of it",
)  # fmt: skip
N_STEPS = 400
"""What is trained before it is measured, where the options do not say."""


def profile_row(engine: str, fit: Fit, profile: StepProfile) -> tuple[str, ...]:
    """One engine's row."""
    field = fit.trainer.field
    precision = ("fused half" if field.fused else "half") if field.in_half else "single"
    return (
        engine, str(fit.trainer.device), precision, f"{1e3 * profile.step:.1f}",
        *(f"{100 * share:.0f} %" for share in profile.shares().values()),
        f"{profile.copy_bytes_per_s / 1e9:.1f}", f"{100 * profile.encode_limit_share():.0f} %",
    )  # fmt: skip


def profile_rows(scene: Path, words: list[str]) -> Iterator[tuple[str, ...]]:
    """The shares of a step's time on one capture of which nothing is given but the photos."""
    told = any(word.startswith("surface.n_steps=") for word in words)
    cfg = benchmark_surface.options([*words, *([] if told else [f"surface.n_steps={N_STEPS}"])])
    workspace = Workspace(benchmark_surface.KEPT / scene.name)
    capture = workspace.run(read_capture, scene, cfg=cfg.read)
    posed = workspace.run(estimate_poses, capture, cfg=cfg.poses)
    region = workspace.run(isolate_object, posed, cfg=cfg.isolate)
    prior = workspace.run(estimate_prior, posed, region, cfg=cfg.prior)
    with tempfile.TemporaryDirectory() as folder:
        job = Job("profile", Path(folder))
        fit = open_fit(posed, region, prior, cfg.surface, job)
        fit.trainer.warm_start()
        fit.watch.keep(fit.trainer)
        train(fit, None, job.folder / "checkpoint.pt", job)
    yield profile_row(job.notes["engine"], fit, step_profile(fit.trainer, fit.baker))
