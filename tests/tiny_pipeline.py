"""A pipeline of the real shape whose stages take no time, and whose photos decide what goes wrong.

A capture that holds `user.jpg`, `defect.jpg`, `full.jpg`, `denied.jpg` or `stop.jpg` fails in that way.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import Asset, Capture, LeftOut, Photo, PosedCapture, UvMesh
from recon.errors import UserError
from recon.stage import Job, Workspace, stage
from recon.transforms import Rigid, Similarity

TROUBLES: dict[str, BaseException] = {
    "user": UserError("The photos show nothing: take at least twelve sharp ones."),
    "defect": ValueError("an index is negative"),
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "denied": PermissionError(errno.EACCES, "Permission denied", "/somewhere/closed"),
    "stop": KeyboardInterrupt(),
}


@dataclass(frozen=True)
class TinyExport:
    folder: Path
    asset_from_world: Similarity = field(default_factory=Similarity.identity)

    def save(self, folder: Path) -> None:
        (folder / "exported.json").write_text("{}")

    @staticmethod
    def load(folder: Path) -> TinyExport:
        return TinyExport(folder)

    def check(self) -> None:
        assert (self.folder / "asset.glb").exists()


@stage(result=Capture, version=1)
def read_capture(source: Path, cfg: Any, job: Job) -> Capture:
    (job.folder / "images").mkdir()
    photos = []
    for path in sorted(source.rglob("*.jpg")):
        Image.new("RGB", (4, 3)).save(job.folder / "images" / path.name)
        photos.append(Photo(path.stem, path.name, 4, 3, None, "lens", 1.0, 0.0))
    if not photos:
        raise UserError(f"There is no photo in {source}: put the photos of one object there.")
    job.progress(1, 1, "read")
    job.notes["n_files"] = len(photos)
    return Capture(job.folder, "tiny", tuple(photos), (LeftOut("blurred", "far too blurred"),))


@stage(result=PosedCapture, version=1)
def estimate_poses(capture: Capture, cfg: Any, job: Job) -> PosedCapture:
    for photo in capture.photos:
        if photo.name in TROUBLES:
            raise TROUBLES[photo.name]
    views = tuple(
        View(p.name, Pinhole(4, 3, 4.0, 4.0, 2.0, 1.5), Rigid(np.eye(3), np.array([i * 0.1, 0, 2.0])))
        for i, p in enumerate(capture.photos)
    )
    job.warn("Few photos: the back of the object may be coarse.")
    return PosedCapture(
        folder=job.folder,
        views=views,
        points_world=np.zeros((1, 3)),
        point_rgb=np.zeros((1, 3), np.uint8),
        point_error_px=np.zeros(1),
        obs_point_idx=np.zeros(1, int),
        obs_view_idx=np.zeros(1, int),
        focus_world=np.zeros(3),
        up_source="camera orientation",
        scale_source="unknown",
        support_plane=None,
        sharpness=np.ones(len(views)),
    )


@stage(result=Asset, version=1)
def bake_texture(posed: PosedCapture, cfg: Any, job: Job) -> Asset:
    vertices, faces = np.eye(3), np.array([[0, 1, 2]])
    mesh = UvMesh(vertices, faces, np.eye(3)[:, :2], np.arange(3), 8)
    return Asset(mesh, np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 255, np.uint8))


@stage(result=TinyExport, version=1)
def export(asset: Asset, posed: PosedCapture, cfg: Any, job: Job) -> TinyExport:
    (job.folder / "asset.glb").write_bytes(b"glTF" + bytes(len(posed.views)))
    (job.folder / "cameras.json").write_text("{}")
    Image.new("RGB", (2, 2)).save(job.folder / "preview.png")
    (job.folder / "photos").mkdir()
    Image.new("RGB", (2, 2)).save(job.folder / "photos" / "a.jpg")
    return TinyExport(job.folder)


def reconstruct(source: Path, cfg: Any, workspace: Workspace) -> Any:
    """Stands in for recon.pipeline.reconstruct."""
    capture = workspace.run(read_capture, source, cfg=cfg.read)
    posed = workspace.run(estimate_poses, capture, cfg=cfg.poses)
    asset = workspace.run(bake_texture, posed, cfg=cfg.texture)
    exported = workspace.run(export, asset, posed, cfg=cfg.export)
    missing = dict.fromkeys(("region", "prior", "field", "mesh", "uv_mesh"))
    return SimpleNamespace(capture=capture, posed=posed, asset=asset, exported=exported, **missing)


def write_page(path: Path, made: Any, report: Any) -> None:
    """Stands in for recon.report.page.write_page."""
    path.write_text(made.capture.name)


def take_the_place_of_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line run this pipeline, and draw this page."""
    monkeypatch.setattr("recon.pipeline.reconstruct", reconstruct)
    monkeypatch.setattr("recon.run.write_page", write_page)


def make_capture(folder: Path, *names: str) -> Path:
    """A folder of photos that differ from those of any other folder."""
    folder.mkdir(parents=True)
    for name in names or ("one", "two", "three"):
        (folder / f"{name}.jpg").write_bytes(f"{folder.name} {name}".encode())
    return folder


def report_in(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))
