"""Measure this program on captures: a Markdown row each.

    python scripts/benchmark.py asset examples/owl PATH/TO/mustard preset=standard    # the whole job
    python scripts/benchmark.py preprocess examples/owl PATH/TO/mustard               # cameras, masks, box and hull
    python scripts/benchmark.py poses examples/owl PATH/TO/fox                        # harder variants, and pycolmap
    python scripts/benchmark.py prior PATH/TO/mustard [prior.method=sweep]            # the cloud of each method
    python scripts/benchmark.py surface PATH/TO/mustard preset=draft                  # the fit; cameras estimated
    python scripts/benchmark.py ablation PATH/TO/mustard surface.n_steps=1500         # each technique taken away
    python scripts/benchmark.py profile PATH/TO/mustard surface.engine=triton         # where a step's time goes
    python scripts/benchmark.py texture PATH/TO/mustard noise=0,1,2                   # texture on the true shape
    python scripts/benchmark.py growth PATH/TO/many photos=24,96 megapixels=0.5,2     # more and larger photos, a plot

A capture with gt/ (see scripts/make_capture.py) is compared with its truth; one without gets counts, time and memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import benchmark_prior as prior
import benchmark_profile as profile
import benchmark_surface as surface
import benchmark_texture as texture
import numpy as np

from pose.estimate import PosesConfig, estimate_poses
from recon.capture.read import CaptureConfig, read_capture
from recon.cli import main as recon
from recon.errors import UserError
from recon.evaluate import preprocess, variants
from recon.evaluate.score import read_views, score_asset
from recon.isolate.isolate import IsolateConfig, isolate_object
from recon.stage import Workspace
from recon.transforms import Rigid

ASSET = ("photos", "Chamfer %", "F 0.5 %", "F 1 %", "IoU", "PSNR", "minutes", "peak MB")
PREPROCESS = (*preprocess.COLUMNS, "seconds: read + poses + isolate", "peak MB")
POSES = ("variant", "photos", "pycolmap", "wrong", "ours", "wrong", "rotation deg", "centre %", "won back by")


def asset_rows(scene: Path, options: list[str]) -> Iterator[tuple[str, ...]]:
    """The whole job on one capture, judged against the truth."""
    out = Path("assets_out") / scene.name
    code = recon([f"capture={scene}", f"out={out}", *options])
    if code != 0:
        yield (f"failed with exit code {code}",)
        return
    stages = json.loads((out / "report.json").read_text(encoding="utf-8"))["stages"].values()
    minutes, peak = sum(s["seconds"] for s in stages) / 60, max(s["peak_memory_mb"] for s in stages)
    judged = [""] * 6
    if (scene / "gt").exists():
        s = score_asset(out / "asset.glb", out / "cameras.json", scene)
        figures = (s["chamfer_pct"], s["fscore_0.5"], s["fscore_1.0"], s["silhouette_iou"])
        judged = [f"{s['registered']} / {s['photos']}", *(f"{x:.3f}" for x in figures), f"{s['psnr']:.1f}"]
    yield (*judged, f"{minutes:.1f}", str(peak))


def preprocess_rows(scene: Path, options: list[str]) -> Iterator[tuple[str, ...]]:
    """Cameras, masks, box and hull of one capture with default options."""
    refuse(options, "preprocess")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        capture = workspace.run(read_capture, scene, cfg=CaptureConfig())
        posed = workspace.run(estimate_poses, capture, cfg=PosesConfig())
        region = workspace.run(isolate_object, posed, cfg=IsolateConfig())
        judged: tuple[str, ...] = (f"{len(posed.views)} / {len(capture.photos)}", *[""] * (len(PREPROCESS) - 3))
        if (scene / "gt").exists():
            judged = preprocess.score_preprocess(posed, region, len(capture.photos), scene).table_row()
    records = workspace.records.values()
    yield (*judged, " + ".join(f"{r['seconds']:.0f}" for r in records), str(max(r["peak_memory_mb"] for r in records)))


def poses_rows(scene: Path, options: list[str]) -> Iterator[tuple[str, ...]]:
    """Ours and plain pycolmap on harder variants of one capture; without truth, against our own full set."""
    refuse(options, "poses")
    has_truth = (scene / "gt").exists()
    truth = (
        {t.view.name: t.view.cam_from_world for t in read_views(scene / "gt" / "transforms.json")} if has_truth else {}
    )
    for variant in variants.Variant:
        if variant is variants.Variant.no_table and not has_truth:
            continue
        with tempfile.TemporaryDirectory() as folder:
            photos = variants.make_variant(scene, variant, Path(folder) / scene.name)
            plain = variants.plain_pycolmap(photos, Path(folder) / "plain", variant.keep_share)
            workspace = Workspace(Path(folder) / "work")
            capture = workspace.run(read_capture, photos, cfg=CaptureConfig())
            features = replace(PosesConfig().features, keep_share=variant.keep_share)
            posed = workspace.run(estimate_poses, capture, cfg=replace(PosesConfig(), features=features))
        ours = {v.name: v.cam_from_world for v in posed.views}
        truth = truth or ours
        theirs = variants.poses_of(plain) if plain is not None else {}
        won = workspace.records["estimate_poses"]["notes"].get("recovered", {})
        yield (
            variant.value,
            str(len(capture.photos)),
            *counted(theirs, truth)[:2],
            *counted(ours, truth),
            ", ".join(f"{list(won.values()).count(m)} {m}" for m in dict.fromkeys(won.values())),
        )


def counted(poses: dict[str, Rigid], truth: dict[str, Rigid]) -> tuple[str, str, str, str]:
    """How many cameras there are, how many are wrong, and the median errors."""
    if len(poses) < 3:
        return str(len(poses)), "", "", ""
    errors = variants.judge_cameras(poses, truth)
    rotation, centre = float(np.median(errors.rotation_deg)), 100 * float(np.median(errors.centre_share))
    return str(len(poses)), str(len(errors.wrong())), f"{rotation:.3f}", f"{centre:.3f}"


def refuse(options: list[str], what: str) -> None:
    """These tables are of the default options, so that they compare."""
    if options:
        raise SystemExit(f"benchmark.py {what} takes no options ({options[0]}): its rows are of the defaults.")


TABLES = {
    "asset": (asset_rows, ASSET),
    "preprocess": (preprocess_rows, PREPROCESS),
    "poses": (poses_rows, POSES),
    "prior": (prior.prior_rows, prior.PRIOR),
    "surface": (surface.surface_rows, surface.SURFACE),
    "ablation": (surface.ablation_rows, surface.SURFACE),
    "profile": (profile.profile_rows, profile.PROFILE),
    "texture": (texture.texture_rows, texture.TEXTURE),
    "growth": (surface.growth_rows, surface.GROWTH),
}


def main(words: list[str]) -> None:
    if not words or words[0] not in TABLES:
        raise SystemExit(__doc__)
    rows, columns = TABLES[words[0]]
    scenes = [Path(word) for word in words[1:] if "=" not in word]
    missing = next((scene for scene in scenes if not scene.exists()), None)
    if missing is not None:
        raise SystemExit(f"There is no capture {missing}.")
    print("| capture | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for scene in scenes:
        try:
            for row in rows(scene, [word for word in words[1:] if "=" in word]):
                print(f"| {scene.name} | " + " | ".join(row) + " |", flush=True)
        except UserError as error:
            raise SystemExit(f"{scene}: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
