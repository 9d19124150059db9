"""The program: photos in, asset out, one stage after another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pose.estimate import estimate_poses
from recon.capture.read import read_capture
from recon.config import Config
from recon.data import Asset, Capture, Mesh, ObjectRegion, PosedCapture, PriorCloud, SurfaceField, UvMesh
from recon.isolate.isolate import isolate_object
from recon.mesh.extract import extract_mesh
from recon.prior.estimate import estimate_prior
from recon.stage import Workspace
from recon.surface.fit import fit_surface
from texturing.bake import bake_texture
from texturing.export import Exported, export
from texturing.materials import bake_materials
from texturing.unwrap import unwrap


@dataclass(frozen=True)
class Results:
    """What every stage made."""

    capture: Capture
    posed: PosedCapture
    """With the cameras as the fit of the surface corrected them."""
    region: ObjectRegion
    prior: PriorCloud
    field: SurfaceField
    mesh: Mesh
    uv_mesh: UvMesh
    asset: Asset
    exported: Exported


def reconstruct(source: Path, cfg: Config, workspace: Workspace) -> Results:
    """Turn a folder of photos (or a video file) into a textured asset, reusing what the workspace already holds."""
    run = workspace.run
    capture = run(read_capture, source, cfg=cfg.read)
    posed = run(estimate_poses, capture, cfg=cfg.poses)
    region = run(isolate_object, posed, cfg=cfg.isolate)
    prior = run(estimate_prior, posed, region, cfg=cfg.prior)
    field = run(fit_surface, posed, region, prior, cfg=cfg.surface)
    refined = workspace.derive(field.refined(posed), posed, field)
    mesh = run(extract_mesh, refined, region, field, cfg=cfg.mesh)
    uv_mesh = run(unwrap, mesh, cfg=cfg.unwrap)
    painted = run(bake_texture, refined, region, uv_mesh, cfg=cfg.texture)
    asset = run(bake_materials, mesh, painted, cfg=cfg.materials)
    exported = run(export, asset, mesh, refined, region, source, cfg=cfg.export)
    return Results(capture, refined, region, prior, field, mesh, uv_mesh, asset, exported)
