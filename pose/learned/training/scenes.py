"""Seeded ray-cast scenes of textured things on a textured floor, seen from several places, with depth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import trimesh
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from jaxtyping import Float32, Float64, UInt8

from pose.learned.training.textures import SIDE_PX, texture

WIDTH_PX, HEIGHT_PX = 320, 240
N_VIEWS = 6
SUBSAMPLES = ((0.125, 0.625), (0.375, 0.125), (0.625, 0.875), (0.875, 0.375))
"""Where in a pixel its rays go (a rotated grid)."""


@dataclass(frozen=True)
class Views:
    """Renderings of one scene from several places."""

    grey: UInt8[np.ndarray, "n_views h w"]
    depth_z: Float32[np.ndarray, "n_views h w"]
    """Along the optical axis at each pixel's centre, in scene units."""
    intrinsics: Float64[np.ndarray, "n_views 3 3"]
    cam_from_world: Float64[np.ndarray, "n_views 3 4"]


@dataclass(frozen=True)
class Things:
    """All triangles of a scene, and how each is textured and how it shines."""

    triangles: Float32[np.ndarray, "m 3 3"]
    normals: Float32[np.ndarray, "m 3 3"]
    """At the corners."""
    uv: Float32[np.ndarray, "m 3 2"]
    """At the corners, in texture repeats."""
    thing_idx: np.ndarray
    textures: list[Float32[np.ndarray, "side side"]]
    gloss: Float32[np.ndarray, " n_things"]
    shininess: Float32[np.ndarray, " n_things"]


def make_scene(seed: int) -> Views:
    """A random scene and `N_VIEWS` views of it, up to 70 degrees apart; the same for the same seed."""
    rng = np.random.default_rng([seed, 4])
    things = _things(rng)
    geometry = rtcore_scene.EmbreeScene()
    TriangleMesh(geometry, things.triangles)
    lamps = _lamps(rng)
    out = [_view(things, geometry, lamps, *_camera(rng)) for _ in range(N_VIEWS)]
    return Views(*(np.stack(column) for column in zip(*out, strict=True)))


def _shape(rng: np.random.Generator) -> tuple[trimesh.Trimesh, bool]:
    """A box, can, ring or lump of about unit size standing on z = 0, and whether it is smooth."""
    kind = int(rng.integers(5))
    if kind == 0:
        mesh, smooth = trimesh.creation.box(rng.uniform(0.4, 1.1, 3)), False
    elif kind == 1:
        mesh, smooth = trimesh.creation.cylinder(rng.uniform(0.2, 0.5), rng.uniform(0.4, 1.3), sections=48), False
    elif kind == 2:
        mesh, smooth = trimesh.creation.torus(rng.uniform(0.3, 0.5), rng.uniform(0.08, 0.2)), True
    else:
        mesh, smooth = trimesh.creation.icosphere(5, 0.5), True
        bumps, grow = rng.normal(0, 1, (12, 3)) * rng.uniform(2, 14, (12, 1)), np.zeros(len(mesh.vertices))
        for bump in bumps:
            grow += np.sin(mesh.vertices @ bump + rng.uniform(0, 6)) / max(np.linalg.norm(bump), 3)
        mesh.vertices = mesh.vertices * (1 + grow[:, None] * rng.uniform(0.1, 0.8)) * rng.uniform(0.6, 1.3, 3)
    turn = trimesh.transformations.random_rotation_matrix(rng.random(3))
    if rng.random() < 0.5:
        turn = trimesh.transformations.rotation_matrix(rng.uniform(0, 6.3), [0, 0, 1])
    mesh.apply_transform(turn)
    mesh.apply_translation([0, 0, -mesh.bounds[0, 2]])
    return mesh, smooth


def _things(rng: np.random.Generator) -> Things:
    room = trimesh.creation.box([9.0, 9.0, 6.0])
    room.invert()
    room.apply_translation([0, 0, 2.0])
    floor = trimesh.Trimesh([[-4, -4, 0], [4, -4, 0], [4, 4, 0], [-4, 4, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    parts = [(room, False, 2.5), (floor, False, float(rng.uniform(0.8, 2.5)))]
    for k in range(int(rng.integers(1, 6))):
        mesh, smooth = _shape(rng)
        mesh.apply_scale(rng.uniform(0.5, 1.0) if k else rng.uniform(0.9, 1.4))
        mesh.apply_translation([*(rng.normal(0, 0.7, 2) * (k > 0)), 0])
        parts.append((mesh, smooth, float(rng.uniform(0.5, 1.5))))
    corners, normals, uvs, owner = [], [], [], []
    for index, (mesh, smooth, repeat) in enumerate(parts):
        faces = mesh.vertices[mesh.faces]
        flat = np.repeat(mesh.face_normals[:, None], 3, axis=1)
        corners.append(faces)
        normals.append(mesh.vertex_normals[mesh.faces] if smooth else flat)
        # the two axes that a triangle faces least carry its texture, as on the sides of a box
        axes = np.argsort(np.abs(mesh.face_normals), axis=1)[:, :2]
        axes.sort(axis=1)
        uvs.append(np.take_along_axis(faces, axes[:, None].repeat(3, 1), axis=2) / repeat + index * 0.37)
        owner.append(np.full(len(faces), index))
    n = len(parts)
    gloss = rng.uniform(0, 0.6, n) * (rng.random(n) < 0.6)
    triangles, corner_normals, uv = (np.concatenate(a).astype(np.float32) for a in (corners, normals, uvs))
    return Things(
        triangles=triangles,
        normals=corner_normals,
        uv=uv,
        thing_idx=np.concatenate(owner),
        textures=[texture(rng) for _ in parts],
        gloss=gloss.astype(np.float32),
        shininess=(2.0 ** rng.uniform(2, 8, n)).astype(np.float32),
    )


def _lamps(rng: np.random.Generator) -> Float32[np.ndarray, "n 4"]:
    """Positions and powers; the first casts shadows."""
    n = int(rng.integers(1, 4))
    place = np.column_stack([rng.uniform(-3.5, 3.5, (n, 2)), rng.uniform(2, 4.5, n)])
    return np.column_stack([place, rng.uniform(0.3, 1.0, n) * (place**2).sum(1)]).astype(np.float32)


def _camera(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics, and a pose within a sector of 70 degrees that looks at the middle, at most 20 degrees off level."""
    azimuth, height = np.radians(rng.uniform(-35, 35)), np.radians(rng.uniform(8, 60))
    distance = rng.uniform(1.6, 3.0)
    level = np.cos(height)
    centre = distance * np.array([np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(height)])
    centre[2] += 0.3
    forward = np.array([0, 0, 0.35]) + rng.normal(0, 0.12, 3) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    roll = np.radians(rng.uniform(-20, 20))
    down = np.cross(forward, right)
    x, y = right * np.cos(roll) + down * np.sin(roll), down * np.cos(roll) - right * np.sin(roll)
    rotation = np.stack([x, y, forward])
    focal = WIDTH_PX * rng.uniform(0.7, 1.1)
    k = np.array([[focal, 0, WIDTH_PX / 2], [0, focal, HEIGHT_PX / 2], [0, 0, 1.0]])
    return k, np.column_stack([rotation, -rotation @ centre])


def _cast(
    geometry: rtcore_scene.EmbreeScene, start: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First hits: triangle (-1 for none), distance, barycentric coordinates."""
    hit = geometry.run(np.ascontiguousarray(start, np.float32), np.ascontiguousarray(rays, np.float32), output=True)
    return hit["primID"], hit["tfar"], np.stack([1 - hit["u"] - hit["v"], hit["u"], hit["v"]], -1)


def _view(
    things: Things, geometry: rtcore_scene.EmbreeScene, lamps: np.ndarray, k: np.ndarray, pose: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float64)
    rotation, centre = pose[:, :3], -pose[:, :3].T @ pose[:, 3]

    def rays(dx: float, dy: float) -> np.ndarray:
        z = np.ones(x.size)
        cam = np.stack([(x.ravel() + dx - k[0, 2]) / k[0, 0], (y.ravel() + dy - k[1, 2]) / k[1, 1], z], -1)
        return (cam @ rotation).astype(np.float32)

    start = np.broadcast_to(centre.astype(np.float32), (x.size, 3))
    _, depth_z, _ = _cast(geometry, start, rays(0.5, 0.5))  # rays have depth_z 1 a unit, so distance is depth_z
    light = np.mean([_shade(things, geometry, lamps, start, rays(*s), k[0, 0]) for s in SUBSAMPLES], axis=0)
    light /= max(float(np.percentile(light, 97)), 1e-3)
    grey = np.clip(light, 0, 1) ** (1 / 2.2)
    return (grey.reshape(x.shape) * 255).astype(np.uint8), depth_z.reshape(x.shape), k, pose


def _shade(
    things: Things, geometry: rtcore_scene.EmbreeScene, lamps: np.ndarray, start: np.ndarray, rays: np.ndarray,
    focal_px: float,
) -> Float32[np.ndarray, " n"]:  # fmt: skip
    """Lambert and Blinn-Phong under point lamps and a grey sky, shadows of the first lamp."""
    face, distance, weight = _cast(geometry, start, rays)
    face = np.maximum(face, 0)
    at = start + rays * distance[:, None]
    n = np.einsum("nk,nki->ni", weight, things.normals[face])
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6)
    n *= np.where((n * rays).sum(1, keepdims=True) > 0, -1, 1)
    toward = -rays / np.linalg.norm(rays, axis=1, keepdims=True)
    uv, owner = np.einsum("nk,nki->ni", weight, things.uv[face]), things.thing_idx[face]
    albedo = np.zeros(len(rays), np.float32)
    for index, picture in enumerate(things.textures):
        rows = np.flatnonzero(owner == index)
        if len(rows):
            span = np.linalg.norm(things.uv[face[rows], 1] - things.uv[face[rows], 0], axis=1)
            side = np.linalg.norm(things.triangles[face[rows], 1] - things.triangles[face[rows], 0], axis=1)
            texels = np.median(span / np.maximum(side, 1e-9) * distance[rows]) / focal_px * SIDE_PX
            albedo[rows] = _lookup(picture, uv[rows], float(texels))
    light = 0.25 + 0.15 * n[:, 2]
    shine = np.zeros(len(rays), np.float32)
    for index, lamp in enumerate(lamps):
        to_lamp = lamp[:3] - at
        square = (to_lamp**2).sum(1)
        to_lamp /= np.sqrt(square)[:, None]
        power = lamp[3] / square
        if index == 0:
            blocked, reach, _ = _cast(geometry, at + 1e-3 * n, to_lamp)
            power = power * ~((blocked >= 0) & (reach**2 < square * 0.98))
        light = light + power * np.clip((n * to_lamp).sum(1), 0, None)
        half = to_lamp + toward
        half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
        shine += things.gloss[owner] * power * np.clip((n * half).sum(1), 0, 1) ** things.shininess[owner]
    return albedo * light + shine


def _lookup(picture: np.ndarray, uv: np.ndarray, texels: float) -> Float32[np.ndarray, " n"]:
    """The repeated, mirrored texture at uv, first made smaller where a pixel covers several texels."""
    while texels > 1.5 and len(picture) > 32:
        picture, texels = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), texels / 2
    fold = np.abs((uv / 2 - np.floor(uv / 2)) * 2 - 1) * (len(picture) - 1)
    rows = -(-len(fold) // 4096)  # remap takes no side above 32767
    padded = np.zeros((rows * 4096, 2), np.float32)
    padded[: len(fold)] = fold
    at = padded.reshape(rows, 4096, 2)
    return cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR).ravel()[: len(fold)]
