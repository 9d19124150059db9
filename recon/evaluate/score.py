"""Judging an asset against the ground truth of a synthetic capture: geometry, silhouettes, colours.

The asset is brought into the truth's frame by its cameras alone (Umeyama over camera centres), so that an error of
the cameras counts against it. Lengths are per cent of the true bounding box's diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from recon.camera import Pinhole, View
from recon.data import read_json, read_mask, read_rgb
from recon.transforms import Rigid, Similarity, umeyama

CV_FROM_GL = np.diag([1.0, -1.0, -1.0])
"""nerfstudio's cameras look along -z with y up; ours along +z with y down."""


@dataclass(frozen=True)
class TrueView:
    """One frame of a transforms.json: its pinhole part, its radial distortion, its files."""

    view: View
    k1: float
    k2: float
    photo: Path
    mask: Path | None


def read_views(path: Path, split: str | None = None) -> list[TrueView]:
    """The frames of a transforms.json (of one split, or all)."""
    j = read_json(path)
    out = []
    for frame in j["frames"]:
        if split is not None and frame.get("split") != split:
            continue
        get = {**j, **frame}.__getitem__
        world_from_gl = np.array(frame["transform_matrix"], float)
        world_from_cam = Rigid(world_from_gl[:3, :3] @ CV_FROM_GL, world_from_gl[:3, 3])
        camera = Pinhole(int(get("w")), int(get("h")), get("fl_x"), get("fl_y"), get("cx"), get("cy"))
        root = path.parent.parent if path.parent.name == "gt" else path.parent
        mask = root / frame["mask_path"] if "mask_path" in frame else None
        name = Path(frame["file_path"])
        view = View(name.stem, camera, world_from_cam.inverse())
        out.append(TrueView(view, j.get("k1", 0.0), j.get("k2", 0.0), root / name, mask))
    return out


def pixel_rays(true: TrueView) -> Float[np.ndarray, "n 3"]:
    """Unit directions in world through all pixel centres, row by row, with the lens's distortion undone."""
    c = true.view.camera
    rows, columns = np.mgrid[: c.height_px, : c.width_px]
    xd, yd = (columns.ravel() + 0.5 - c.cx_px) / c.fx_px, (rows.ravel() + 0.5 - c.cy_px) / c.fy_px
    x, y = xd.copy(), yd.copy()
    for _ in range(10):  # fixed point; phone lenses converge within a few rounds
        r2 = x * x + y * y
        s = 1 + true.k1 * r2 + true.k2 * r2 * r2
        x, y = xd / s, yd / s
    d = np.stack([x, y, np.ones_like(x)], 1)
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    return d @ true.view.cam_from_world.rotation


class Rendered:
    """A textured mesh that rays are cast at."""

    def __init__(self, mesh: Any, vertices: Float[np.ndarray, "n 3"]) -> None:
        self.faces, self.uv = np.asarray(mesh.faces), np.asarray(mesh.visual.uv)
        self.texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), float) / 255
        self.origin = vertices.mean(0)  # Embree works in float32
        self.scene = rtcore_scene.EmbreeScene()
        TriangleMesh(self.scene, (vertices - self.origin).astype(np.float32), self.faces.astype(np.int32))

    def cast(self, true: TrueView) -> tuple[Float[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        """Colour and coverage in the pixels of a view."""
        c, d = true.view.camera, pixel_rays(true).astype(np.float32)
        o = np.broadcast_to((true.view.centre_world() - self.origin).astype(np.float32), d.shape)
        hit = self.scene.run(np.ascontiguousarray(o), d, output=1)
        on = hit["primID"] >= 0
        corners = self.uv[self.faces[hit["primID"][on]]]
        u, v = hit["u"][on, None].astype(float), hit["v"][on, None].astype(float)
        uv = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        h, w = self.texture.shape[:2]
        column = np.clip((uv[:, 0] * w).astype(int), 0, w - 1)
        row = np.clip(((1 - uv[:, 1]) * h).astype(int), 0, h - 1)
        colour = np.zeros((len(d), 3))
        colour[on] = self.texture[row, column]
        return colour.reshape(c.height_px, c.width_px, 3), on.reshape(c.height_px, c.width_px)


def visible_samples(truth: Any, views: list[TrueView], n: int) -> Float[np.ndarray, "m 3"]:
    """Points on the true surface that at least two of the views see."""
    points, _ = trimesh.sample.sample_surface(truth, n, seed=0)
    origin, diagonal = truth.vertices.mean(0), float(np.linalg.norm(truth.extents))
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, (truth.vertices - origin).astype(np.float32), truth.faces.astype(np.int32))
    seen = np.zeros(len(points), int)
    for true in views:
        pixel, depth_z = true.view.project(points)
        inside = np.flatnonzero(true.view.in_image(pixel, depth_z))
        d = points[inside] - true.view.centre_world()
        distance = np.linalg.norm(d, axis=1)
        o = np.broadcast_to(true.view.centre_world() - origin, d.shape).astype(np.float32)
        hit = scene.run(np.ascontiguousarray(o), (d / distance[:, None]).astype(np.float32), output=1)
        seen[inside] += (hit["primID"] < 0) | (hit["tfar"] > distance - 2e-3 * diagonal)
    kept: np.ndarray = points[seen >= 2]
    return kept


def truth_from_cameras(centres: Mapping[str, np.ndarray], train: list[TrueView]) -> tuple[Similarity, int]:
    """The similarity that takes camera centres, by photo, to the true ones, and of how many photos it was made."""
    true = {t.view.name: t.view.centre_world() for t in train}
    names = [n for n in true if n in centres]
    return umeyama(np.array([centres[n] for n in names]), np.array([true[n] for n in names])), len(names)


def score_geometry(
    vertices: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    centres: Mapping[str, np.ndarray],
    scene: Path,
    n_samples: int = 60_000,
) -> dict[str, float]:
    """Chamfer distance, F-scores and normals of a mesh against a synthetic capture (folder with gt/).

    vertices, centres: of the mesh and of the cameras by photo, in one frame. Chamfer in per cent of the true box's
    diagonal; F at 0.5 and 1 %, 0..1; normals: mean |cosine| between the mesh's and the nearest true surface's.
    Completeness is over what two photos see.
    """
    train = read_views(scene / "gt" / "transforms.json", "train")
    truth_from_mesh, n_registered = truth_from_cameras(centres, train)
    truth: Any = trimesh.load(scene / "gt" / "mesh.ply", process=False)
    diagonal = float(np.linalg.norm(truth.extents))
    mesh = trimesh.Trimesh(truth_from_mesh.apply(vertices), faces, process=False)
    samples, sample_faces = trimesh.sample.sample_surface(mesh, n_samples, seed=1)
    dense, dense_faces = trimesh.sample.sample_surface(truth, 10 * n_samples, seed=2)
    dense_mesh, _ = trimesh.sample.sample_surface(mesh, 10 * n_samples, seed=3)
    distance, nearest = cKDTree(dense).query(samples, workers=-1)
    accuracy = distance / diagonal * 100
    completeness = cKDTree(dense_mesh).query(visible_samples(truth, train, n_samples), workers=-1)[0] / diagonal * 100
    turn = (mesh.face_normals[sample_faces] * truth.face_normals[dense_faces[nearest]]).sum(1)
    result: dict[str, float] = {"registered": n_registered, "photos": len(train)}
    result["chamfer_pct"] = float(accuracy.mean() + completeness.mean()) / 2
    for tau in (0.5, 1.0):
        p, r = float((accuracy < tau).mean()), float((completeness < tau).mean())
        result[f"fscore_{tau}"] = 2 * p * r / max(p + r, 1e-9)
    return result | {"normals": float(np.abs(turn).mean())}


def score_asset(asset_glb: Path, cameras_json: Path, scene: Path, n_samples: int = 60_000) -> dict[str, Any]:
    """Geometry and colour of an asset against a synthetic capture (folder with gt/, images/, test/)."""
    train = read_views(scene / "gt" / "transforms.json", "train")
    test = read_views(scene / "gt" / "transforms.json", "test")
    centres = {t.view.name: t.view.centre_world() for t in read_views(cameras_json)}
    mesh: Any = trimesh.load(asset_glb, process=False, force="mesh")
    vertices = np.asarray(mesh.vertices, float)
    result: dict[str, Any] = score_geometry(vertices, np.asarray(mesh.faces), centres, scene, n_samples)
    truth_from_asset, _ = truth_from_cameras(centres, train)
    return result | compare_views(Rendered(mesh, truth_from_asset.apply(vertices)), test)


def compare_views(rendered: Rendered, test: list[TrueView]) -> dict[str, float]:
    """Mean silhouette IoU and PSNR inside the common silhouette over held-out photos, with one fitted gain."""
    iou, pairs = [], []
    for true in test:
        colour, on = rendered.cast(true)
        mask = read_mask(true.mask) >= 128 if true.mask else on
        iou.append((mask & on).sum() / max((mask | on).sum(), 1))
        both = mask & on
        pairs.append((read_rgb(true.photo)[both] / 255, colour[both]))
    numerator = sum((p * c).sum(0) for p, c in pairs)
    gain = numerator / np.maximum(sum((c * c).sum(0) for _, c in pairs), 1e-9)
    error = [float(((np.clip(c * gain, 0, 1) - p) ** 2).mean()) for p, c in pairs if len(p)]
    return {"silhouette_iou": float(np.mean(iou)), "psnr": float(np.mean([-10 * np.log10(e) for e in error]))}
