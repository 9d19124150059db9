"""Turning the fitted surface into a closed, clean triangle mesh within a budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64

from recon.data import Mesh, ObjectRegion, PosedCapture, SupportPlane, SurfaceField
from recon.errors import UserError
from recon.mesh.clean import face_areas, object_faces
from recon.mesh.faults import find_faults, smallest_angles_deg
from recon.mesh.grid import Grid, Sdf, fill_underside, make_grid, marching_cubes, sample
from recon.mesh.simplify import Triangles, is_closed, simplify, smooth
from recon.mesh.trim import planes_around_seen
from recon.mesh.visibility import seen_by
from recon.stage import Job, stage


@dataclass(frozen=True)
class MeshConfig:
    """Turning the surface into clean triangles."""

    n_triangles: int = 50_000
    """Triangle budget of the finished mesh; raising it keeps finer shape and makes the asset heavier."""
    cell_px: float = 1.0
    """Cell of the extraction grid, in photo pixels on the object; raising it extracts coarser and faster."""
    max_resolution: int = 256
    """Cells along the longest side at most; raising it keeps finer shape and takes more time and memory."""
    smoothing_steps: int = 3
    """Rounds of Taubin smoothing (which does not shrink); raising it levels ripples and rounds sharp edges. 0: none."""
    min_part_share: float = 0.01
    """Loose parts with less than this share of the largest part's area are dropped unseen; raising it drops more."""
    underside_height: float = 0.05
    """Dents in the underside of a standing object are filled up to this share of its diagonal. 0: leave them."""
    trailing_share: float = 0.1
    """Share of the surface that may lie far outside the convex hull of what photos see; if more does, as behind an
    object that was only photographed from one side, the surface is cut there. 1: never."""


@stage(result=Mesh, version=4)
def extract_mesh(posed: PosedCapture, region: ObjectRegion, field: SurfaceField, cfg: MeshConfig, job: Job) -> Mesh:
    """The zero set of the fitted surface as a clean mesh in world. Raises UserError if there is none."""
    from recon.surface.query import load_sdf

    return mesh_from_sdf(load_sdf(field), posed, region, cfg, job)


def mesh_from_sdf(sdf: Sdf, posed: PosedCapture, region: ObjectRegion, cfg: MeshConfig, job: Job) -> Mesh:
    """The zero set of any signed distance (world units, positive outside) within the hull, cleaned and simplified.

    Raises UserError if the distance is positive everywhere in the hull.
    """
    grid = make_grid(
        region.world_from_box,
        region.hull_vertices_world,
        cfg.cell_px * pixel_footprint(posed, region),
        cfg.max_resolution,
    )
    whole, n_dropped = _object_within(_outer_planes(posed, region), sdf, posed, region, grid, cfg, job)
    around_seen, share = planes_around_seen(whole, posed, _support(posed, region))
    if share > cfg.trailing_share:
        job.warn(TRIMMED)
        planes = np.concatenate([_outer_planes(posed, region), around_seen])
        whole, n_dropped = _object_within(planes, sdf, posed, region, grid, cfg, job)
    job.progress(0.75, 1, f"simplifying {len(whole[1]):,} triangles")
    dense = smooth(*whole, cfg.smoothing_steps)
    vertices, faces = simplify(*dense, cfg.n_triangles)
    faults = find_faults(vertices, faces)
    if faults:
        job.warn(f"The mesh is not clean ({faults.words()}); most viewers do not mind, 3D printing and physics do.")
    job.progress(0.95, 1, "checking what was seen")
    stats = {
        "triangles": len(faces),
        "dense_triangles": len(dense[1]),
        "watertight": is_closed(faces),
        "faults": asdict(faults),
        "smallest_angle_deg": round(float(smallest_angles_deg(vertices, faces).min()), 2),
        "dropped_triangle_share": round(n_dropped / (n_dropped + len(whole[1])), 4),
        "trailing_area_share": round(share, 4),
        "unseen_area_share": round(unseen_area_share((vertices, faces), posed), 4),
        "cell": grid.cell,
        "cells": list(grid.n_cells),
    }
    job.notes.update(stats)
    job.progress(1, 1, f"{len(faces):,} triangles")
    return Mesh(vertices, faces, stats, dense[0].astype(np.float32), dense[1].astype(np.int32))


NO_SURFACE = (
    "No surface was found where the object should be; look at the masks in the report, and if they are wrong "
    "give your own in a `masks` folder beside the photos."
)
TRIMMED = (
    "The object's back trailed off where hardly a photo sees it, and was cut off; photos from all around would show "
    "what it is like."
)


def pixel_footprint(posed: PosedCapture, region: ObjectRegion) -> float:
    """Width of a photo's pixel on the object, in world units: median over views of distance / focal length."""
    centre = region.world_from_box.translation
    return float(np.median([np.linalg.norm(v.centre_world() - centre) / v.camera.fx_px for v in posed.views]))


def unseen_area_share(mesh: Triangles, posed: PosedCapture, n_samples: int = 20_000) -> float:
    """The share of a mesh's area that no photo saw, from a sample of its faces."""
    area = face_areas(*mesh)
    chosen = np.random.default_rng(0).choice(len(area), n_samples, p=area / area.sum())
    n_seen, _ = seen_by(*mesh, chosen, posed.views)
    return float((n_seen == 0).mean())


def _outer_planes(posed: PosedCapture, region: ObjectRegion) -> Float64[np.ndarray, "m 4"]:
    """Half-spaces (n, d) that hold the object: its convex hull's, and what is above the support plane."""
    support = _support(posed, region)
    if support is None:
        return region.hull_planes
    return np.concatenate([region.hull_planes, [[*-support.normal_world, support.offset]]])


def _support(posed: PosedCapture, region: ObjectRegion) -> SupportPlane | None:
    return posed.support_plane if region.rests_on_support else None


def _object_within(
    planes: Float64[np.ndarray, "m 4"],
    sdf: Sdf,
    posed: PosedCapture,
    region: ObjectRegion,
    grid: Grid,
    cfg: MeshConfig,
    job: Job,
) -> tuple[Triangles, int]:
    """The object's part of the zero set within some half-spaces, and how many triangles were none of it."""
    height = cfg.underside_height * region.diagonal()
    vertices, faces = _zero_set(sdf, planes, _support(posed, region), height, grid, job)
    job.progress(0.7, 1, "removing loose parts")
    keep = object_faces(vertices, faces, posed, region, cfg.min_part_share)
    if not keep.any():
        raise UserError(NO_SURFACE)
    return (vertices, faces[keep]), int((~keep).sum())


def _zero_set(
    sdf: Sdf,
    planes: Float64[np.ndarray, "m 4"],
    support: SupportPlane | None,
    underside_height: float,
    grid: Grid,
    job: Job,
) -> Triangles:
    """Marching cubes within half-spaces, dents of the underside filled up to a height over the support plane."""
    values = sample(sdf, planes, grid, lambda share: job.progress(0.6 * share, 1, "sampling the surface"))
    if not (values < 0).any():
        raise UserError(NO_SURFACE)
    if support is not None:
        height = _layer_heights(support, grid, values.shape[2])
        if height is not None:
            job.notes["underside_nodes_filled"] = fill_underside(values, height, underside_height)
    job.progress(0.65, 1, "marching cubes")
    return marching_cubes(values, grid)


def _layer_heights(support: SupportPlane, grid: Grid, n_layers: int) -> Float64[np.ndarray, " z"] | None:
    """Height of each layer of grid nodes above the support plane, or None where layers are not parallel to it."""
    normal_box = grid.world_from_box.rotation.T @ support.normal_world
    # Over the footprint a tilt of two degrees lifts one side by less than the fill's own height.
    if normal_box[2] < np.cos(np.radians(2)):
        return None
    middle = np.array(grid.n_cells) // 2
    nodes = np.stack([np.full(n_layers, middle[0]), np.full(n_layers, middle[1]), np.arange(n_layers)], -1)
    return grid.points_world(nodes, 1) @ support.normal_world - support.offset
