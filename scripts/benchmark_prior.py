"""The prior's table of benchmark.py: each method's cloud on the same estimated cameras and masks, against the truth.

Cameras and masks are kept in assets_out/.benchmark, as for the surface's tables; delete that folder to measure anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import benchmark_surface

from pose.estimate import estimate_poses
from recon.capture.read import read_capture
from recon.errors import UserError
from recon.evaluate.cloud import score_cloud
from recon.isolate.isolate import isolate_object
from recon.prior.estimate import Method, estimate_prior
from recon.stage import Workspace

PRIOR = (
    "method", "points", "depth maps", "accuracy 1 %", "completeness 1 %", "median error %", "seconds", "s a view",
    "peak MB",
)  # fmt: skip


def prior_rows(scene: Path, words: list[str]) -> Iterator[tuple[str, ...]]:
    """Every method on one capture of which nothing is given but the photos; `prior.method=NAME` asks for that one."""
    named = [word for word in words if word.startswith("prior.method=")]
    for choice in named or [f"prior.method={m.name}" for m in Method if m is not Method.none]:
        cfg = benchmark_surface.options([*(w for w in words if w not in named), choice])
        name = cfg.prior.method.name
        try:
            cfg.prior.files()
        except UserError as error:  # the other methods are worth measuring without it
            yield (name, str(error))
            continue
        workspace = Workspace(benchmark_surface.KEPT / scene.name)
        capture = workspace.run(read_capture, scene, cfg=cfg.read)
        posed = workspace.run(estimate_poses, capture, cfg=cfg.poses)
        region = workspace.run(isolate_object, posed, cfg=cfg.isolate)
        cloud = workspace.run(estimate_prior, posed, region, cfg=cfg.prior)
        record = workspace.records["estimate_prior"]
        judged = [""] * 3
        if (scene / "gt").exists():
            centres = {v.name: v.centre_world() for v in posed.views}
            score = score_cloud(cloud.points_world, centres, scene)
            judged = [f"{score.accuracy:.3f}", f"{score.completeness:.3f}", f"{score.median_error_pct:.3f}"]
        maps, seconds = int(record["notes"].get("n_depth_maps", 0)), float(record["seconds"])
        yield (
            name, str(len(cloud.points_world)), str(maps), *judged, f"{seconds:.0f}",
            f"{seconds / max(maps, 1):.2f}", str(record["peak_memory_mb"]),
        )  # fmt: skip
