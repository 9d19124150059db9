"""Pictures of a textured mesh through pinhole cameras, ray-cast on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8

from recon.camera import View
from recon.data import UvMesh
from texturing.normals import vertex_normals

OVERSAMPLING = 2
"""Rays a pixel along each side."""
GREY = 0.72


class Shading(Enum):
    """What a surface point's colour is made of."""

    texture = "texture"
    """The texture as it is: photos already hold the light that they were taken in."""
    lit = "lit"
    """The texture with a little light from the camera's shoulder, so that shape shows."""
    clay = "clay"
    """Grey under that light alone."""


@dataclass(frozen=True)
class Model:
    """A mesh ready for ray casting, in any frame."""

    uv_mesh: UvMesh
    vertices: Float64[np.ndarray, "n 3"]
    normals: Float64[np.ndarray, "n 3"]
    scene: Any
    """Embree's."""


@dataclass(frozen=True)
class Picture:
    """A render before it is laid over a background."""

    rgb: Float32[np.ndarray, "h w 3"]
    """0..1, already multiplied by `alpha`."""
    alpha: Float32[np.ndarray, "h w"]
    """How much of each pixel the object covers."""

    def over(self, background: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The render laid over a picture with values 0..1."""
        mixed = self.rgb + (1 - self.alpha[..., None]) * background
        return np.round(np.clip(mixed, 0, 1) * 255).astype(np.uint8)


def make_model(uv_mesh: UvMesh, vertices: Float64[np.ndarray, "n 3"]) -> Model:
    """A model whose vertices (in the order of `uv_mesh`'s) are given in the frame that it is looked at in."""
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), uv_mesh.faces.astype(np.int32))
    return Model(uv_mesh, vertices, vertex_normals(uv_mesh, vertices), scene)


def render(model: Model, view: View, texture: UInt8[np.ndarray, "t t 3"], shading: Shading) -> Picture:
    """What a camera sees of a model; view: its camera in the model's frame."""
    w, h = view.camera.width_px, view.camera.height_px
    fine = View(view.name, view.camera.resized(w * OVERSAMPLING, h * OVERSAMPLING), view.cam_from_world)
    fine_w = fine.camera.width_px
    pixels = _pixels_around(model.vertices, fine)
    ray = fine.rays(np.stack([pixels % fine_w + 0.5, pixels // fine_w + 0.5], -1)).astype(np.float32)
    start = np.ascontiguousarray(np.broadcast_to(fine.centre_world().astype(np.float32), ray.shape))
    hit = model.scene.run(start, ray, output=1)
    struck = hit["primID"] >= 0
    u, v = hit["u"][struck], hit["v"][struck]
    corners, weights = model.uv_mesh.faces[hit["primID"][struck]], np.stack([1 - u - v, u, v], -1)
    layers = np.zeros((fine.camera.height_px * fine_w, 4), np.float32)
    layers[pixels[struck], :3] = _colour(model, fine, texture, shading, corners, weights)
    layers[pixels[struck], 3] = 1
    small = cv2.resize(layers.reshape(-1, fine_w, 4), (w, h), interpolation=cv2.INTER_AREA)
    return Picture(small[..., :3], small[..., 3])


def shrunk_texture(model: Model, view: View, texture: UInt8[np.ndarray, "t t 3"]) -> UInt8[np.ndarray, "t2 t2 3"]:
    """The texture halved until its texels are about as large as a render's samples: no sparkle."""
    uv_mesh = model.uv_mesh
    flat = np.concatenate([uv_mesh.uv, np.zeros((len(uv_mesh.uv), 1))], axis=1)
    texels = _area(flat, uv_mesh.faces) * len(texture) ** 2
    distance = float(np.linalg.norm(view.centre_world() - model.vertices.mean(0)))
    samples = _area(model.vertices, uv_mesh.faces) * (OVERSAMPLING * view.camera.fx_px / distance) ** 2
    halvings = max(0, int(0.5 * np.log2(max(texels, 1.0) / max(samples, 1.0))))
    size = max(1, len(texture) >> halvings)
    return cv2.resize(texture, (size, size), interpolation=cv2.INTER_AREA)


def _pixels_around(vertices: Float64[np.ndarray, "n 3"], view: View) -> Int[np.ndarray, " k"]:
    """Flat indices of the pixels in the rectangle around the object: no rays are spent on the rest."""
    w, h = view.camera.width_px, view.camera.height_px
    pixels, depth_z = view.project(vertices)
    low, high = np.zeros(2, int), np.array([w, h])
    if (depth_z > 0).all():  # else a part lies behind the camera, and its place in the image says nothing
        low = np.clip(np.floor(pixels.min(0)).astype(int) - 1, 0, (w, h))
        high = np.clip(np.ceil(pixels.max(0)).astype(int) + 2, 0, (w, h))
    return (np.arange(low[1], high[1])[:, None] * w + np.arange(low[0], high[0])[None]).ravel()


def _colour(
    model: Model,
    view: View,
    texture: UInt8[np.ndarray, "t t 3"],
    shading: Shading,
    corners: Int[np.ndarray, "k 3"],
    weights: Float32[np.ndarray, "k 3"],
) -> Float32[np.ndarray, "k 3"]:
    if shading is Shading.texture:
        return _texture_colours(model, texture, corners, weights)
    light = _light(model, view, corners, weights)
    if shading is Shading.clay:
        return np.repeat(GREY * (0.35 + 0.65 * light), 3, axis=1)
    return _texture_colours(model, texture, corners, weights) * (0.85 + 0.15 * light)


def _light(
    model: Model, view: View, corners: Int[np.ndarray, "k 3"], weights: Float32[np.ndarray, "k 3"]
) -> Float32[np.ndarray, "k 1"]:
    """0..1: a soft light over the camera's left shoulder, wrapped around so that nothing is black."""
    normal = np.einsum("kij,ki->kj", model.normals[corners], weights)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    right, down, forward = view.cam_from_world.rotation
    light = -forward - 0.5 * right - 0.7 * down
    cosine = normal @ (light / np.linalg.norm(light))
    return np.clip((cosine + 0.35) / 1.35, 0, 1)[:, None].astype(np.float32)


def _texture_colours(
    model: Model,
    texture: UInt8[np.ndarray, "t t 3"],
    corners: Int[np.ndarray, "k 3"],
    weights: Float32[np.ndarray, "k 3"],
) -> Float32[np.ndarray, "k 3"]:
    """Bilinear texture colours, 0..1."""
    uv = np.einsum("kij,ki->kj", model.uv_mesh.uv[corners], weights)
    size = len(texture)
    # remap counts pixels from the first one's centre, and takes at most 32767 columns: fold the list.
    columns = 4096
    n_rows = max(1, -(-len(uv) // columns))
    x, y = np.zeros((2, n_rows * columns), np.float32)
    x[: len(uv)], y[: len(uv)] = uv[:, 0] * size - 0.5, (1 - uv[:, 1]) * size - 0.5
    x, y = x.reshape(n_rows, columns), y.reshape(n_rows, columns)
    colours = cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return colours.reshape(-1, 3)[: len(uv)].astype(np.float32) / 255


def _area(vertices: Float64[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> float:
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.linalg.norm(cross, axis=1).sum() / 2)
