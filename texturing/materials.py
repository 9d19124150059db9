"""bake_materials: the maps besides base colour that viewers shade with.

1. The dense surface's normals in the light mesh's tangent space (normal_map).
2. Ambient occlusion (occlusion).
3. Roughness and metal: as `bake_texture` told them from how colours differ between photos, or plain values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, UInt8

from recon.data import Asset, Mesh
from recon.stage import Job, stage
from texturing.cells import cut_into_cells, edge_for_count
from texturing.fill import dilate_gutters
from texturing.normal_map import bake_normal_map
from texturing.occlusion import bake_occlusion
from texturing.rasterize import rasterize_atlas


@dataclass(frozen=True)
class MaterialsConfig:
    """The maps besides base colour."""

    normal_map: bool = True
    """Bake the dense surface's normals; without it the asset is shaded as its triangles are."""
    reach_share: float = 0.01
    """How far the dense surface may lie from the light mesh, as a share of the diagonal; raising it risks hits on
    other parts of the object."""
    occlusion_rays: int = 64
    """Rays cast at each point for ambient occlusion; raising it costs time in proportion and lowers the grain. 0: none,
    all is open."""
    occlusion_cells: int = 40_000
    """Occlusion is known at the corners of about so many pieces of surface; raising it shows finer creases."""
    estimate: bool = True
    """Tell roughness and metal from how much the photos differ; without it, or where they do not tell, the next two
    hold."""
    roughness: float = 0.6
    """0 a mirror, 1 chalk."""
    metallic: float = 0.0
    """0 for paint, wood, plaster and plastic, 1 for bare metal."""


@stage(result=Asset, version=3)
def bake_materials(mesh: Mesh, asset: Asset, cfg: MaterialsConfig, job: Job) -> Asset:
    """The asset with its normal map and its occlusion, roughness and metal; its base colour stays as it is."""
    uv_mesh = asset.uv_mesh
    diagonal = float(np.linalg.norm(np.ptp(uv_mesh.vertices_world, axis=0)))
    normal_map = None
    if cfg.normal_map and len(mesh.dense_faces):
        job.progress(0, 1, "normals")
        whole = cut_into_cells(uv_mesh, np.inf)
        texels = rasterize_atlas(whole, uv_mesh.texture_size_px)
        reach = cfg.reach_share * diagonal
        normal_map, found = bake_normal_map(uv_mesh, texels, mesh.dense_vertices_world, mesh.dense_faces, reach)
        job.notes["normal_map_found_share"] = round(found, 4)
    job.progress(0.5, 1, "ambient occlusion")
    finish = _finish_of(asset, cfg, job)
    packed = _packed(asset, cfg, finish)
    job.notes["mean_occlusion"] = round(float(packed[:, :, 0][asset.seen > 0].mean()) / 255, 3)
    return replace(asset, normal_map=normal_map, occlusion_roughness_metallic=packed)


def _finish_of(asset: Asset, cfg: MaterialsConfig, job: Job) -> Float32[np.ndarray, "t t 3"]:
    """Roughness and metal in glTF's packing, without occlusion yet, and a note of where they come from."""
    told = asset.occlusion_roughness_metallic if cfg.estimate else None
    if told is not None:
        job.notes.update(finishes=asset.stats["finishes"], roughness_and_metallic="from the photos")
        return told.astype(np.float32) / 255
    plain = {"area_share": 1.0, "roughness": cfg.roughness, "metallic": cfg.metallic}
    job.notes.update(finishes=[plain], roughness_and_metallic="a plain default")
    size = asset.uv_mesh.texture_size_px
    return np.full((size, size, 3), (1, cfg.roughness, cfg.metallic), np.float32)


def _packed(asset: Asset, cfg: MaterialsConfig, image: Float32[np.ndarray, "t t 3"]) -> UInt8[np.ndarray, "t t 3"]:
    """glTF's packing of occlusion, roughness and metal. image: without occlusion; it is changed."""
    uv_mesh, size = asset.uv_mesh, asset.uv_mesh.texture_size_px
    if cfg.occlusion_rays > 0:
        cells = cut_into_cells(uv_mesh, edge_for_count(uv_mesh, cfg.occlusion_cells))
        texels = rasterize_atlas(cells, size)
        used = np.zeros((size, size), bool)
        used[texels.row, texels.column] = True
        image[texels.row, texels.column, 0] = bake_occlusion(uv_mesh, cells, texels, cfg.occlusion_rays)
        image = dilate_gutters(image, used)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
