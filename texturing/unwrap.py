"""Cutting a mesh into charts and packing them into one texture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from recon.data import Mesh, UvMesh
from recon.stage import Job, stage


@dataclass(frozen=True)
class UnwrapConfig:
    """Cutting the mesh flat for its texture."""

    texture_size_px: int = 2048
    """Width and height of the texture; raising it keeps finer photo detail and makes the asset heavier."""
    gutter_px: int = 4
    """Texels kept free around each chart, so that colours do not bleed when viewers shrink the texture."""
    max_chart_cost: float = 2.0
    """How bent a chart may be before it is cut (xatlas' max_cost); raising it gives fewer, more stretched charts."""


PACK_SIZE = 440
"""Charts are packed on a grid of about this size and then scaled up, so that the exhaustive search for each chart's
place, which wastes least, takes a second at any texture size."""
PACK_EXCESS = 1.15
"""The packed grid comes out up to this much larger than asked for."""


@stage(result=UvMesh, version=1)
def unwrap(mesh: Mesh, cfg: UnwrapConfig, job: Job) -> UvMesh:
    """Give every triangle its place in one square texture (xatlas: greedy charts, LSCM by Levy et al. 2002)."""
    job.progress(0, 1, f"cutting {len(mesh.faces):,} triangles into charts")
    atlas = _packed(mesh, cfg)
    mesh_vertex_idx, faces, uv = atlas[0]
    mesh_vertex_idx, faces = mesh_vertex_idx.astype(np.int64), faces.astype(np.int64)
    if not np.array_equal(mesh_vertex_idx[faces], mesh.faces):
        raise ValueError("xatlas changed the order of the faces")
    # The packed grid is not square: scale both axes alike, or texels would be oblong.
    side = max(atlas.width, atlas.height)
    uv = np.clip(uv.astype(np.float64) * [atlas.width / side, atlas.height / side], 0, 1)
    stats = {
        "charts": int(atlas.chart_count),
        "texture_used": round(uv_area(uv, faces), 4),
        "vertices": len(mesh_vertex_idx),
    }
    job.notes.update(stats)
    job.progress(1, 1, f"{stats['charts']} charts, {stats['texture_used']:.0%} of the texture used")
    return UvMesh(mesh.vertices_world[mesh_vertex_idx], faces, uv, mesh_vertex_idx, cfg.texture_size_px, stats)


def _packed(mesh: Mesh, cfg: UnwrapConfig) -> Any:
    """xatlas' Atlas of a mesh."""
    import xatlas

    charts, pack, atlas = xatlas.ChartOptions(), xatlas.PackOptions(), xatlas.Atlas()
    charts.max_cost = cfg.max_chart_cost
    pack.resolution = PACK_SIZE
    pack.padding = max(1, math.ceil(cfg.gutter_px * PACK_SIZE * PACK_EXCESS / cfg.texture_size_px))
    pack.bruteForce = pack.rotate_charts = True
    pack.bilinear = False  # it would add a grid cell, several texels wide, to what the padding already keeps free
    # xatlas works in float32 and compares areas with fixed thresholds: give it a unit-sized mesh.
    centred = mesh.vertices_world - mesh.vertices_world.mean(0)
    atlas.add_mesh((centred / np.ptp(centred, axis=0).max()).astype(np.float32), mesh.faces.astype(np.uint32))
    atlas.generate(charts, pack)
    return atlas


def uv_area(uv: Float64[np.ndarray, "n 2"], faces: Int[np.ndarray, "m 3"]) -> float:
    """The share of the texture that triangles cover."""
    a, b, c = (uv[faces[:, k]] for k in range(3))
    cross = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return float(np.abs(cross).sum() / 2)
