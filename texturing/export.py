"""Placing the finished asset in its own frame and writing it: every file of the out folder but the report.

This is the glTF border. The asset's frame is glTF's: right-handed, +Y up, the front towards +Z, the origin at the
centre of the base. Lengths are metres where the scale is known; else the longest side is 1.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from recon import __version__
from recon.data import Asset, Mesh, ObjectRegion, PosedCapture, read_json, require, write_json
from recon.stage import Job, content_key, stage
from recon.transforms import Similarity
from texturing.cameras import write_cameras
from texturing.collision import collision_hull
from texturing.dense import write_dense_ply
from texturing.gltf import write_bare_glb, write_glb
from texturing.images import ImageFormat
from texturing.lods import lighter
from texturing.obj import write_obj
from texturing.placed import Placed, placed_asset
from texturing.preview import write_preview
from texturing.usdz import MAX_TEXTURE_PX, MAX_TRIANGLES, write_usdz


@dataclass(frozen=True)
class ExportConfig:
    """Placing and writing the asset."""

    image_format: ImageFormat = ImageFormat.jpeg
    """How the texture is embedded: jpeg (small) or png (lossless, several times larger)."""
    jpeg_quality: int = 92
    """1..95; raising it keeps finer texture and makes the asset larger."""
    lod1_triangles: int = 15_000
    """Triangles of asset_lod1.glb at most, for objects seen from some way off; 0: no such file."""
    lod1_texture_px: int = 1024
    """Width of asset_lod1.glb's maps at most; raising it keeps finer texture and makes the file larger."""
    lod2_triangles: int = 5_000
    """Triangles of asset_lod2.glb at most, for objects far away; 0: no such file."""
    lod2_texture_px: int = 512
    """Width of asset_lod2.glb's maps at most; raising it keeps finer texture and makes the file larger."""
    with_collision: bool = True
    """Write asset_collision.glb, a convex hull for physics engines."""
    with_usdz: bool = True
    """Write asset.usdz, for AR on iPhones and for tools that read USD."""
    with_obj: bool = True
    """Write asset.obj with its .mtl and its image, for older tools."""
    with_dense_ply: bool = True
    """Write asset_dense.ply, the surface before it was simplified, with vertex colours."""
    with_photos: bool = True
    """Copy the undistorted photos beside cameras.json, so that the folder can be trained on or viewed elsewhere."""
    longest_side_m: float = 0.0
    """The object's longest side as you measured it, in metres; 0 where you did not. It sets the asset's scale."""
    licence: str = ""
    """What others may do with the asset, as its files shall say (`CC-BY-4.0`); nothing is assumed where it is empty."""
    preview_width_px: int = 1600
    """Width of preview.png; its height is 9/16 of it."""


@dataclass(frozen=True)
class Exported:
    """The files of a finished asset, and how they lie to the world of the reconstruction."""

    folder: Path
    """Holds asset.glb, cameras.json, preview.png and, where asked for, the other formats and photos/."""
    asset_from_world: Similarity
    unit: str
    """`metre`, or `longest side` where the capture did not tell its scale."""
    stats: dict[str, Any] = field(default_factory=dict)
    """`files` holds the models that were written by name, with their size in MB."""

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
        models = [self.folder / name for name in self.stats.get("files", {})]
        for path in (self.glb_path, self.cameras_path, self.preview_path, *models):
            require(path.exists() and path.stat().st_size > 0, f"{path.name} was not written")
        for path in (self.glb_path, *(m for m in models if m.suffix == ".glb")):
            with path.open("rb") as handle:
                require(handle.read(4) == b"glTF", f"{path.name} is not a binary glTF file")
        require(self.asset_from_world.scale > 0, "the asset's scale is not positive")


@stage(result=Exported, version=5)
def export(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, cfg: ExportConfig, job: Job
) -> Exported:
    """Write the asset in every format asked for, cameras.json, photos/ and preview.png into the stage's folder.

    mesh: holds the dense surface; source: the capture, of which only its contents' hash is written.
    """
    asset_from_world, unit = place(asset.uv_mesh.vertices_world, posed, region, cfg.longest_side_m)
    _warn_about_scale(asset_from_world, unit, posed, cfg, job)
    provenance = {
        "generator_version": __version__,
        "capture_sha256": content_key(source),
        "date": datetime.now(UTC).date().isoformat(),
        "photos": len(posed.views),
        "scale": "longest side as given" if cfg.longest_side_m > 0 else posed.scale_source,
        "unit": unit,
        "up": posed.up_source,
        "licence": cfg.licence or "unspecified",
    }
    files = {}
    for path in write_models(job.folder, asset, mesh, asset_from_world, cfg, provenance):
        files[path.name] = round(path.stat().st_size / 1e6, 3)
        job.progress(len(files), 9, path.name)
    job.progress(7, 9, "cameras.json and photos")
    write_cameras(job.folder / "cameras.json", posed, asset_from_world, unit)
    if cfg.with_photos:
        (job.folder / "photos").mkdir(exist_ok=True)
        for view in posed.views:
            # Copied, not linked: the user may edit what lies beside the asset, and the workspace must not change.
            shutil.copyfile(posed.image_path(view.name), job.folder / "photos" / f"{view.name}.jpg")
    job.progress(8, 9, "preview.png")
    vertices = asset_from_world.apply(asset.uv_mesh.vertices_world)
    write_preview(job.folder / "preview.png", asset, vertices, cfg.preview_width_px)
    stats = {
        "triangles": len(asset.uv_mesh.faces),
        "glb_mb": round(files["asset.glb"], 2),
        "files": files,
        "width_height_depth": [round(float(x), 4) for x in np.ptp(vertices, axis=0)],
        "unit": unit,
    }
    job.notes.update(stats)
    job.progress(9, 9, f"asset.glb, {stats['glb_mb']} MB")
    return Exported(job.folder, asset_from_world, unit, stats)


def write_models(
    folder: Path,
    asset: Asset,
    mesh: Mesh,
    asset_from_world: Similarity,
    cfg: ExportConfig,
    provenance: dict[str, Any],
) -> Iterator[Path]:
    """Write every model asked for, yielding each one's path as soon as it is there."""

    def ready(lod: Asset) -> Placed:
        return placed_asset(lod, asset_from_world, cfg.image_format, cfg.jpeg_quality)

    full = ready(asset)
    yield write_glb(folder / "asset.glb", full, provenance)
    lods = ((cfg.lod1_triangles, cfg.lod1_texture_px), (cfg.lod2_triangles, cfg.lod2_texture_px))
    for level, (n_triangles, texture_px) in enumerate(lods, start=1):
        if n_triangles:
            light = ready(lighter(asset, n_triangles, texture_px))
            yield write_glb(folder / f"asset_lod{level}.glb", light, provenance | {"level_of_detail": level})
    if cfg.with_collision:
        hull = collision_hull(full.vertices)
        yield write_bare_glb(folder / "asset_collision.glb", "object_collision", *hull, provenance)
    if cfg.with_usdz:
        light_asset = lighter(asset, MAX_TRIANGLES, MAX_TEXTURE_PX)
        yield write_usdz(folder / "asset.usdz", full if light_asset is asset else ready(light_asset), provenance)
    if cfg.with_obj:
        yield write_obj(folder / "asset.obj", full, cfg.jpeg_quality, provenance)
    if cfg.with_dense_ply and len(mesh.dense_faces):
        yield write_dense_ply(folder / "asset_dense.ply", mesh, asset, asset_from_world)


def _warn_about_scale(
    asset_from_world: Similarity, unit: str, posed: PosedCapture, cfg: ExportConfig, job: Job
) -> None:
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
