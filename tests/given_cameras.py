"""Captures that come with cameras: photos and a transforms.json, written and read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from drawn_box import pattern
from PIL import Image

from pose.model import Lens
from recon.capture.read import CaptureConfig, read_capture
from recon.data import Capture
from recon.stage import Job
from recon.transforms import Rigid

GL = np.diag([1.0, -1, -1, 1])
LENS = Lens(400, 300, 350.0, 355.0, 207.0, 143.0, -0.1, 0.02, 0.004, -0.003)
CLOUD = np.random.default_rng(5).uniform((-0.3, -0.3, -0.15), (0.3, 0.3, 0.45), (40, 3))


def frame(name: str, pose: Rigid, **extra: object) -> dict:
    """A frame of transforms.json."""
    return {"file_path": name, "transform_matrix": (pose.inverse().matrix() @ GL).tolist(), **extra}


def intrinsics(lens: Lens) -> dict:
    keys = {"w": lens.width_px, "h": lens.height_px, "fl_x": lens.fx_px, "fl_y": lens.fy_px}
    return (
        keys
        | {k: getattr(lens, f"{k}_px") for k in ("cx", "cy")}
        | {k: getattr(lens, k) for k in ("k1", "k2", "p1", "p2")}
    )


def write_capture(folder: Path, names: list[str], size: tuple[int, int] = (400, 300), orientation: int = 1) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i, name in enumerate(names):
        picture = Image.fromarray(pattern(i)[: size[1], : size[0]].astype(np.uint8))
        picture.save(folder / "images" / name, exif=exif)


def write_transforms(folder: Path, frames: list[dict], lens: Lens = LENS, **extra: object) -> None:
    (folder / "transforms.json").write_text(json.dumps(intrinsics(lens) | {"frames": frames} | extra))


def read(folder: Path, max_side_px: int = 1600) -> tuple[Capture, list[str]]:
    out = folder.with_name(folder.name + "_read")
    out.mkdir()
    job = Job("read_capture", out)
    capture = read_capture(folder, CaptureConfig(max_side_px=max_side_px), job)
    capture.check()
    capture.save(out)
    return Capture.load(out), [w for w in job.warnings if "photos are" not in w]
