"""Placing the finished asset in its own frame and writing it: glTF, cameras, photos and a preview.

This is the glTF border. The asset's frame is glTF's: right-handed, +Y up, the front towards +Z, the origin at the
centre of the base. Lengths are metres where the scale is known; else the longest side is 1.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from recon.data import Asset, ObjectRegion, PosedCapture, read_json, require, write_json
from recon.stage import Job, stage
from recon.transforms import Similarity
from texturing.cameras import write_cameras
from texturing.gltf import ImageFormat, write_glb
from texturing.preview import write_preview


@dataclass(frozen=True)
class ExportConfig:
    """Placing and writing the asset."""

    image_format: ImageFormat = ImageFormat.jpeg
    """How the texture is embedded: jpeg (small) or png (lossless, several times larger)."""
    jpeg_quality: int = 92
    """1..95; raising it keeps finer texture and makes the asset larger."""
    roughness: float = 0.6
    """The material's roughness, 0 a mirror, 1 chalk; photos do not tell it, so it is a choice."""
    with_photos: bool = True
    """Copy the undistorted photos beside cameras.json, so that the folder can be trained on or viewed elsewhere."""
    longest_side_m: float = 0.0
    """The object's longest side as you measured it, in metres; 0 where you did not. It sets the asset's scale."""
    preview_width_px: int = 1600
    """Width of preview.png; its height is 9/16 of it."""


@dataclass(frozen=True)
class Exported:
    """The files of a finished asset, and how they lie to the world of the reconstruction."""

    folder: Path
    """Holds asset.glb, cameras.json, preview.png and, where asked for, photos/."""
    asset_from_world: Similarity
    unit: str
    """`metre`, or `longest side` where the capture did not tell its scale."""
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def glb_path(self) -> Path:
        return self.folder / "asset.glb"

    @property
    def cameras_path(self) -> Path:
        return self.folder / "cameras.json"

    @property
    def preview_path(self) -> Path:
        return self.folder / "preview.png"

    def save(self, folder: Path) -> None:
        t = self.asset_from_world
        placed = {"scale": t.scale, "rotation": t.rotation.tolist(), "translation": t.translation.tolist()}
        write_json(folder / "exported.json", {"asset_from_world": placed, "unit": self.unit, "stats": self.stats})

    @staticmethod
    def load(folder: Path) -> Exported:
        j = read_json(folder / "exported.json")
        t = j["asset_from_world"]
        placed = Similarity(t["scale"], np.array(t["rotation"]), np.array(t["translation"]))
        return Exported(folder, placed, j["unit"], j["stats"])

    def check(self) -> None:
        for path in (self.glb_path, self.cameras_path, self.preview_path):
            require(path.exists() and path.stat().st_size > 0, f"{path.name} was not written")
        with self.glb_path.open("rb") as handle:
            require(handle.read(4) == b"glTF", "asset.glb is not a binary glTF file")
        require(self.asset_from_world.scale > 0, "the asset's scale is not positive")


@stage(result=Exported, version=2)
def export(asset: Asset, posed: PosedCapture, region: ObjectRegion, cfg: ExportConfig, job: Job) -> Exported:
    """Write asset.glb, cameras.json, photos/ and preview.png into the stage's folder."""
    asset_from_world, unit = place(asset.uv_mesh.vertices_world, posed, region, cfg.longest_side_m)
    if posed.scale_source != "unknown" and abs(np.log(asset_from_world.scale)) > np.log(1.05):
        otherwise = cfg.longest_side_m / asset_from_world.scale
        job.warn(
            f"The scale from {posed.scale_source} makes the longest side {otherwise:.3g} m instead of "
            f"export.longest_side_m={cfg.longest_side_m:g}; the latter was used."
        )
    if unit != "metre":
        job.warn(
            "The photos do not tell the object's size, so its longest side was made 1 unit long; measure that side and "
            "give it as export.longest_side_m, or lay a printed marker beside the object (poses.scale.marker_side_m)."
        )
    vertices = asset_from_world.apply(asset.uv_mesh.vertices_world)
    job.progress(0, 4, "asset.glb")
    scale_source = "longest side as given" if cfg.longest_side_m > 0 else posed.scale_source
    provenance = {"scale": scale_source, "up": posed.up_source, "unit": unit, "photos": len(posed.views)}
    write_glb(job.folder / "asset.glb", asset, vertices, cfg.image_format, cfg.jpeg_quality, cfg.roughness, provenance)
    job.progress(1, 4, "cameras.json and photos")
    write_cameras(job.folder / "cameras.json", posed, asset_from_world, unit)
    if cfg.with_photos:
        (job.folder / "photos").mkdir(exist_ok=True)
        for view in posed.views:
            # Copied, not linked: the user may edit what lies beside the asset, and the workspace must not change.
            shutil.copyfile(posed.image_path(view.name), job.folder / "photos" / f"{view.name}.jpg")
    job.progress(2, 4, "preview.png")
    write_preview(job.folder / "preview.png", asset, vertices, cfg.preview_width_px)
    size = np.ptp(vertices, axis=0)
    stats = {
        "triangles": len(asset.uv_mesh.faces),
        "glb_mb": round((job.folder / "asset.glb").stat().st_size / 1e6, 2),
        "width_height_depth": [round(float(x), 4) for x in size],
        "unit": unit,
    }
    job.notes.update(stats)
    job.progress(4, 4, f"asset.glb, {stats['glb_mb']} MB")
    return Exported(job.folder, asset_from_world, unit, stats)


def place(
    vertices_world: Float64[np.ndarray, "n 3"],
    posed: PosedCapture,
    region: ObjectRegion,
    longest_side_m: float = 0.0,
) -> tuple[Similarity, str]:
    """`asset_from_world` and the asset's unit.

    World's +Z becomes +Y. Of the four upright sides of the object's box, the one that the first photo's camera faces
    most becomes the front, +Z: people begin a walk around an object at its front.
    """
    to_camera = posed.views[0].centre_world() - region.world_from_box.translation
    box_x, box_y = region.world_from_box.rotation[:, 0], region.world_from_box.rotation[:, 1]
    front = max((box_x, -box_x, box_y, -box_y), key=lambda side: float(side[:2] @ to_camera[:2]))
    front = np.array([front[0], front[1], 0.0]) / np.hypot(front[0], front[1])
    up = np.array([0.0, 0.0, 1.0])
    rotation = np.stack([np.cross(up, front), up, front])
    turned = vertices_world @ rotation.T
    low, high = turned.min(0), turned.max(0)
    longest = float((high - low).max())
    known = posed.scale_source != "unknown" or longest_side_m > 0
    # What was measured on the object itself goes before what was measured beside it.
    scale = longest_side_m / longest if longest_side_m > 0 else 1.0 if known else 1.0 / longest
    origin = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    # + 0.0 turns the negative zeros of the cross product and of an origin at 0 into plain ones.
    return Similarity(scale, rotation + 0.0, -scale * origin + 0.0), "metre" if known else "longest side"
