"""preview.png: a quick look at the asset from several sides, ray-cast on the CPU, and once without its texture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8
from PIL import Image

from recon.data import Asset, UvMesh
from texturing.gltf import vertex_normals

AZIMUTHS_DEG = (0.0, 72.0, 144.0, 216.0, 288.0, 36.0)
"""Of the six tiles, from the front anticlockwise; the last one is the grey render."""
ELEVATION_DEG = 22.0
ROWS, COLUMNS = 2, 3
OVERSAMPLING = 2
FOCAL = 3.2
"""In tile heights: a long lens, as product photos have."""
FILLED = 0.92
"""How much of a tile the object takes up at most."""
BACKGROUND_TOP, BACKGROUND_BOTTOM = 0.93, 0.80
GREY = 0.72


@dataclass(frozen=True)
class Model:
    """What is drawn, ready for ray casting."""

    uv_mesh: UvMesh
    vertices: Float64[np.ndarray, "n 3"]
    normals: Float64[np.ndarray, "n 3"]
    texture: UInt8[np.ndarray, "t t 3"]
    scene: Any
    """Embree's."""


@dataclass(frozen=True)
class Viewpoint:
    """A pinhole camera of w x h pixels whose axes are given in the asset's frame."""

    eye: Float64[np.ndarray, "3"]
    right: Float64[np.ndarray, "3"]
    up: Float64[np.ndarray, "3"]
    forward: Float64[np.ndarray, "3"]
    w: int
    h: int

    @property
    def focal_px(self) -> float:
        return FOCAL * self.h


def write_preview(path: Path, asset: Asset, vertices: Float64[np.ndarray, "n 3"], width_px: int) -> None:
    """Draw the asset (vertices in its own frame, +Y up) from five sides with its texture, and from one in grey."""
    width, height = width_px // COLUMNS, width_px * 9 // 16 // ROWS
    views = [_viewpoint(vertices, a, width * OVERSAMPLING, height * OVERSAMPLING) for a in AZIMUTHS_DEG]
    model = _model(asset, vertices, views[0])
    tiles = [_tile(model, view, textured=view is not views[-1]) for view in views]
    rows = [np.concatenate(tiles[r * COLUMNS : (r + 1) * COLUMNS], axis=1) for r in range(ROWS)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)


def _model(asset: Asset, vertices: Float64[np.ndarray, "n 3"], view: Viewpoint) -> Model:
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), asset.uv_mesh.faces.astype(np.int32))
    texture = _shrunk_texture(asset, vertices, view)
    return Model(asset.uv_mesh, vertices, vertex_normals(asset.uv_mesh, vertices), texture, scene)


def _shrunk_texture(
    asset: Asset, vertices: Float64[np.ndarray, "n 3"], view: Viewpoint
) -> UInt8[np.ndarray, "t2 t2 3"]:
    """The texture halved until its texels are about as large as the picture's samples: no sparkle."""
    uv_mesh = asset.uv_mesh
    flat = np.concatenate([uv_mesh.uv, np.zeros((len(uv_mesh.uv), 1))], axis=1)
    texels = _area(flat, uv_mesh.faces) * len(asset.base_colour) ** 2
    distance = float(np.linalg.norm(view.eye - vertices.mean(0)))
    samples = _area(vertices, uv_mesh.faces) * (view.focal_px / distance) ** 2
    halvings = max(0, int(0.5 * np.log2(max(texels, 1.0) / max(samples, 1.0))))
    size = max(1, len(asset.base_colour) >> halvings)
    return cv2.resize(asset.base_colour, (size, size), interpolation=cv2.INTER_AREA)


def _viewpoint(vertices: Float64[np.ndarray, "n 3"], azimuth_deg: float, w: int, h: int) -> Viewpoint:
    """A camera that holds the whole object, at the same distance from all sides."""
    azimuth, elevation = np.radians(azimuth_deg), np.radians(ELEVATION_DEG)
    right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
    level = np.array([np.sin(azimuth), 0.0, np.cos(azimuth)])
    back = level * np.cos(elevation) + np.array([0.0, np.sin(elevation), 0.0])
    centre = (vertices.min(0) + vertices.max(0)) / 2
    radius = float(np.hypot(vertices[:, 0] - centre[0], vertices[:, 2] - centre[2]).max())
    tall = float(np.ptp(vertices[:, 1])) / 2 * np.cos(elevation) + radius * np.sin(elevation)
    distance = FOCAL * 2 * max(tall, radius * h / w) / FILLED + radius
    return Viewpoint(centre + back * distance, right, np.cross(back, right), -back, w, h)


def _tile(model: Model, view: Viewpoint, textured: bool) -> UInt8[np.ndarray, "h w 3"]:
    pixels = _pixels_around(model.vertices, view)
    x, y = pixels % view.w + 0.5 - view.w / 2, pixels // view.w + 0.5 - view.h / 2
    ray = x[:, None] * view.right - y[:, None] * view.up + view.focal_px * view.forward
    ray = (ray / np.linalg.norm(ray, axis=1, keepdims=True)).astype(np.float32)
    start = np.ascontiguousarray(np.broadcast_to(view.eye.astype(np.float32), ray.shape))
    hit = model.scene.run(start, ray, output=1)
    struck = hit["primID"] >= 0
    u, v = hit["u"][struck], hit["v"][struck]
    corners, weights = model.uv_mesh.faces[hit["primID"][struck]], np.stack([1 - u - v, u, v], -1)
    light = _light(model, view, corners, weights)
    if textured:
        # Mostly the texture itself: photos already hold the light that they were taken in.
        colour = _colours(model, corners, weights) * (0.85 + 0.15 * light)
    else:
        colour = np.repeat(GREY * (0.35 + 0.65 * light), 3, axis=1)
    ramp = np.linspace(BACKGROUND_TOP, BACKGROUND_BOTTOM, view.h, dtype=np.float32)
    picture = np.repeat(ramp, 3 * view.w).reshape(-1, 3)
    picture[pixels[struck]] = colour
    size = (view.w // OVERSAMPLING, view.h // OVERSAMPLING)
    small = cv2.resize(picture.reshape(view.h, view.w, 3), size, interpolation=cv2.INTER_AREA)
    return np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)


def _pixels_around(vertices: Float64[np.ndarray, "n 3"], view: Viewpoint) -> Int[np.ndarray, " k"]:
    """Flat indices of the pixels in the rectangle around the object: no rays are spent on the rest."""
    away = vertices - view.eye
    depth = away @ view.forward
    u = view.focal_px * (away @ view.right) / depth + view.w / 2
    v = -view.focal_px * (away @ view.up) / depth + view.h / 2
    columns = np.arange(max(int(u.min()) - 1, 0), min(int(u.max()) + 2, view.w))
    rows = np.arange(max(int(v.min()) - 1, 0), min(int(v.max()) + 2, view.h))
    return (rows[:, None] * view.w + columns[None]).ravel()


def _light(
    model: Model, view: Viewpoint, corners: Int[np.ndarray, "k 3"], weights: Float32[np.ndarray, "k 3"]
) -> Float32[np.ndarray, "k 1"]:
    """0..1: a soft light over the camera's left shoulder, wrapped around so that nothing is black."""
    normal = np.einsum("kij,ki->kj", model.normals[corners], weights)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = -view.forward - 0.5 * view.right + 0.7 * view.up
    cosine = normal @ (light / np.linalg.norm(light))
    return np.clip((cosine + 0.35) / 1.35, 0, 1)[:, None].astype(np.float32)


def _colours(
    model: Model, corners: Int[np.ndarray, "k 3"], weights: Float32[np.ndarray, "k 3"]
) -> Float32[np.ndarray, "k 3"]:
    """Bilinear texture colours, 0..1."""
    uv = np.einsum("kij,ki->kj", model.uv_mesh.uv[corners], weights)
    size = len(model.texture)
    # remap counts pixels from the first one's centre, and takes at most 32767 columns: fold the list.
    columns = 4096
    n_rows = max(1, -(-len(uv) // columns))
    x, y = np.zeros((2, n_rows * columns), np.float32)
    x[: len(uv)], y[: len(uv)] = uv[:, 0] * size - 0.5, (1 - uv[:, 1]) * size - 0.5
    x, y = x.reshape(n_rows, columns), y.reshape(n_rows, columns)
    colours = cv2.remap(model.texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return colours.reshape(-1, 3)[: len(uv)].astype(np.float32) / 255


def _area(vertices: Float64[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> float:
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.linalg.norm(cross, axis=1).sum() / 2)
