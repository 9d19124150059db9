"""Reconstruct synthetic captures and score them against their truth: a Markdown row each.

python scripts/benchmark.py examples/owl PATH/TO/mustard preset=standard
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from recon.cli import main as recon
from recon.evaluate.score import score_asset

COLUMNS = ("photos", "Chamfer %", "F 0.5 %", "F 1 %", "IoU", "PSNR", "minutes", "peak MB")


def row(scene: Path, options: list[str]) -> str:
    """Run one capture and format its figures; a capture without gt/ gets only its time and memory."""
    out = Path("assets_out") / scene.name
    code = recon([f"capture={scene}", f"out={out}", *options])
    if code != 0:
        return f"| {scene.name} | failed with exit code {code} |"
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    stages = report["stages"].values()
    minutes, peak = sum(s["seconds"] for s in stages) / 60, max(s["peak_memory_mb"] for s in stages)
    if not (scene / "gt").exists():
        return f"| {scene.name} | | | | | | | {minutes:.1f} | {peak} |"
    s = score_asset(out / "asset.glb", out / "cameras.json", scene)
    return (
        f"| {scene.name} | {s['registered']} / {s['photos']} | {s['chamfer_pct']:.3f} | {s['fscore_0.5']:.3f} "
        f"| {s['fscore_1.0']:.3f} | {s['silhouette_iou']:.3f} | {s['psnr']:.1f} | {minutes:.1f} | {peak} |"
    )


if __name__ == "__main__":
    scenes = [Path(word) for word in sys.argv[1:] if "=" not in word]
    rows = [row(scene, [word for word in sys.argv[1:] if "=" in word]) for scene in scenes]
    print("| capture | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    print("\n".join(rows))
