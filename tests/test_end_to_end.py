"""The whole job on the capture in the repository, against its ground truth; minutes long, so marked slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recon.evaluate.score import score_asset

OWL = Path(__file__).parent.parent / "examples" / "owl"

STAGES = [
    "read_capture", "estimate_poses", "isolate_object", "estimate_prior", "fit_surface", "extract_mesh", "unwrap",
    "bake_texture", "bake_materials", "export",
]  # fmt: skip


def run_recon(out: Path) -> int:
    """The command as a user types it, in a process of its own."""
    recon = Path(sys.executable).with_name("recon")
    words = [f"capture={OWL}", "preset=draft", f"out={out}", f"workspace={out.parent / 'work'}"]
    return subprocess.run([recon, *words], check=False).returncode


@pytest.fixture(scope="module")
def owl(tmp_path_factory):
    out = tmp_path_factory.mktemp("owl") / "asset"
    assert run_recon(out) == 0
    return out


@pytest.mark.slow
def test_photos_become_an_asset_that_matches_the_truth(owl):
    score = score_asset(owl / "asset.glb", owl / "cameras.json", OWL)
    print(json.dumps(score))
    assert score["registered"] == score["photos"] == 36
    # Two-sided: a figure that is too good to be true is as much a sign of a broken measure as one that is too bad.
    assert 0.85 < score["fscore_1.0"] <= 1
    assert 0.02 < score["chamfer_pct"] < 0.8
    assert 0.93 < score["silhouette_iou"] < 0.9995
    assert 18 < score["psnr"] < 26


@pytest.mark.slow
def test_the_report_tells_what_every_stage_took(owl):
    report = json.loads((owl / "report.json").read_text())
    assert [name for name in STAGES if name in report["stages"]] == STAGES
    for stage in report["stages"].values():
        assert 0 < stage["seconds"] < 1800
        assert 50 < stage["peak_memory_mb"] < 8000
    print({name: report["stages"][name]["seconds"] for name in STAGES})
    assert (owl / "preview.png").stat().st_size > 10_000


@pytest.mark.slow
def test_running_it_again_reuses_every_stage(owl):
    assert run_recon(owl) == 0
    report = json.loads((owl / "report.json").read_text())
    assert all(report["stages"][name]["reused"] for name in STAGES)
