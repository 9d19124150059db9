"""Seeded ray-cast scenes: an object on a table in a room, photographed from several places, with exact depth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import trimesh
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8

from recon.camera import Pinhole, View
from recon.evaluate.synthetic.camera import looking_at
from recon.evaluate.synthetic.noise import NoiseField
from recon.evaluate.synthetic.phone import develop
from recon.prior.training.paint import Finish, Surroundings, albedo, random_finish, random_surroundings
from recon.prior.training.shapes import Piece, random_object

WIDTH_PX, HEIGHT_PX = 256, 192
N_VIEWS = 8
SUBSAMPLES = ((0.125, 0.625), (0.375, 0.125), (0.625, 0.875), (0.875, 0.375))
"""Where in a pixel its rays go (a rotated grid)."""
SHADOW_OFFSET = 1e-3


@dataclass(frozen=True)
class Views:
    """Photos of one scene and what is true of them."""

    rgb: UInt8[np.ndarray, "n_views h w 3"]
    depth_z: Float32[np.ndarray, "n_views h w"]
    """At each pixel's centre, in object sizes; 0 where the ray meets nothing."""
    mask: Bool[np.ndarray, "n_views h w"]
    """Where a pixel's centre shows the object, and not what stands about."""
    intrinsics: Float64[np.ndarray, "n_views 4"]
    """fx, fy, cx, cy in pixels."""
    cam_from_world: Float64[np.ndarray, "n_views 3 4"]
    inv_depth: Float64[np.ndarray, "n_views 2"]
    """1 / depth_z of the object's farthest and nearest point."""


@dataclass(frozen=True)
class Scene:
    """All triangles, what covers them, and what lights them."""

    geometry: rtcore_scene.EmbreeScene
    normals: Float32[np.ndarray, "m 3 3"]
    """At the corners."""
    uv: Float32[np.ndarray, "m 3 2"]
    piece_idx: Int[np.ndarray, " m"]
    n_object: int
    """The first so many pieces are the object."""
    finishes: list[Finish]
    lamps: Float32[np.ndarray, "n_lamps 4"]
    """Positions and powers."""
    surroundings: Surroundings
    noise: NoiseField
    object_points: Float64[np.ndarray, "n 3"]


def make_views(seed: int) -> Views:
    """A random scene and `N_VIEWS` photos of it; the same for the same seed."""
    rng = np.random.default_rng([seed, 47])
    scene = _scene(rng)
    gain = None
    rows = []
    for view in _walk(rng):
        depth_z, mask = _look(scene, view)
        light = _render(scene, view)
        if gain is None:  # one exposure for the whole walk, which then wobbles
            gain = rng.uniform(0.55, 1.1) / max(float(np.percentile(light, 95)), 1e-3)
        photo = develop(_blurred(light, rng), gain * 2.0 ** rng.normal(0, 0.12) * rng.uniform(0.95, 1.05, 3), rng)
        z = view.project(scene.object_points)[1]
        c, pose = view.camera, view.cam_from_world.matrix()[:3]
        rows.append((_compressed(photo, rng), depth_z, mask, [c.fx_px, c.fy_px, c.cx_px, c.cy_px], pose,
                     [1 / z.max(), 1 / max(float(z.min()), 0.1)]))  # fmt: skip
    return Views(*(np.stack([np.asarray(x) for x in column]) for column in zip(*rows, strict=True)))


def _scene(rng: np.random.Generator) -> Scene:
    pieces = random_object(rng)
    n_object = len(pieces)
    shared = [random_finish(rng) for _ in range(int(rng.integers(1, 4)))]
    for _ in range(int(rng.integers(0, 3))):  # things that stand about
        for other in random_object(rng):
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 2.0)
            other.mesh.apply_translation([far * np.cos(angle), far * np.sin(angle), 0])
            pieces.append(other)
    room = trimesh.creation.box([9.0, 9.0, 7.0])
    room.invert()
    room.apply_translation([0, 0, 2.0])
    half = float(rng.uniform(1.0, 3.5))
    table = trimesh.creation.box([2 * half, 2 * half, 0.05])
    table.apply_translation([0, 0, -0.025])
    pieces += [Piece(table, False), Piece(room, False)]
    finishes = [shared[int(rng.integers(len(shared)))] for _ in range(n_object)]
    finishes += [random_finish(rng) for _ in pieces[n_object:]]
    corners = np.concatenate([p.mesh.vertices[p.mesh.faces] for p in pieces]).astype(np.float32)
    geometry = rtcore_scene.EmbreeScene()
    TriangleMesh(geometry, corners)
    n_lamps = int(rng.integers(1, 4))
    place = np.column_stack([rng.uniform(-3.5, 3.5, (n_lamps, 2)), rng.uniform(1.5, 4.5, n_lamps)])
    return Scene(
        geometry=geometry,
        normals=np.concatenate([_corner_normals(p) for p in pieces]).astype(np.float32),
        uv=np.concatenate([_box_uv(p.mesh, k) for k, p in enumerate(pieces)]).astype(np.float32),
        piece_idx=np.repeat(np.arange(len(pieces)), [len(p.mesh.faces) for p in pieces]),
        n_object=n_object,
        finishes=finishes,
        lamps=np.column_stack([place, rng.uniform(0.2, 1.0, n_lamps) * (place**2).sum(1)]).astype(np.float32),
        surroundings=random_surroundings(rng),
        noise=NoiseField(int(rng.integers(4))),
        object_points=np.concatenate([np.asarray(p.mesh.vertices) for p in pieces[:n_object]]),
    )


def _corner_normals(piece: Piece) -> np.ndarray:
    mesh = piece.mesh
    return mesh.vertex_normals[mesh.faces] if piece.smooth else np.repeat(mesh.face_normals[:, None], 3, axis=1)


def _box_uv(mesh: trimesh.Trimesh, index: int) -> np.ndarray:
    """The two axes that a triangle faces least carry its picture, as on the sides of a box."""
    axes = np.argsort(np.abs(mesh.face_normals), axis=1)[:, :2]
    axes.sort(axis=1)
    return np.take_along_axis(mesh.vertices[mesh.faces], axes[:, None].repeat(3, 1), axis=2) + index * 0.37


def _walk(rng: np.random.Generator) -> list[View]:
    """Hand-held cameras on two arcs around the object, which fills most of the picture."""
    step, start = np.radians(rng.uniform(9, 26)), rng.uniform(0, 2 * np.pi)
    low, high = np.radians(rng.uniform(5, 30)), np.radians(rng.uniform(30, 62))
    reach, fill = rng.uniform(1.6, 3.5), rng.uniform(0.75, 1.25)
    focal = WIDTH_PX * reach * fill * rng.uniform(0.75, 1.0)
    views = []
    for k in range(N_VIEWS):
        azimuth = start + (k // 2 + 0.4 * (k % 2)) * step + rng.normal(0, 0.05)
        elevation = (low, high)[k % 2] + rng.normal(0, 0.04)
        away = [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
        target = np.array([0, 0, 0.35]) + rng.normal(0, 0.05, 3)
        centre = np.array([0, 0, 0.35]) + reach * (1 + rng.normal(0, 0.04)) * np.array(away)
        pose = looking_at(centre, target, rng.normal(0, 4.0)).inverse()
        middle = np.array([WIDTH_PX, HEIGHT_PX]) / 2 + rng.normal(0, 6, 2)  # crops have it anywhere
        views.append(View(f"{k}", Pinhole(WIDTH_PX, HEIGHT_PX, focal, focal, *middle.tolist()), pose))
    return views


def _look(scene: Scene, view: View) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """depth_z at the pixels' centres, and which of them show the object."""
    rays = view.rays(_corners() + 0.5)
    start = np.broadcast_to(view.centre_world().astype(np.float32), rays.shape)
    triangle, distance, _ = _cast(scene, start, rays)
    hit = triangle >= 0
    depth_z = np.where(hit, distance * (rays @ view.forward_world()), 0).astype(np.float32)
    mask = hit & (scene.piece_idx[np.maximum(triangle, 0)] < scene.n_object)
    return depth_z.reshape(HEIGHT_PX, WIDTH_PX), mask.reshape(HEIGHT_PX, WIDTH_PX)


def _render(scene: Scene, view: View) -> Float32[np.ndarray, "h w 3"]:
    """Linear radiance."""
    corners = _corners()
    start = np.broadcast_to(view.centre_world().astype(np.float32), (len(corners), 3))
    light = np.mean(
        [_shade(scene, start, view.rays(corners + s).astype(np.float32), view.camera.fx_px) for s in SUBSAMPLES], axis=0
    )
    return light.reshape(HEIGHT_PX, WIDTH_PX, 3).astype(np.float32)


def _corners() -> Float64[np.ndarray, "n 2"]:
    """The pixels' corners, row by row."""
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    return np.stack([x.ravel(), y.ravel()], -1).astype(float)


def _cast(scene: Scene, start: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First hits: triangle (-1 for none), distance, barycentric coordinates."""
    hit = scene.geometry.run(
        np.ascontiguousarray(start, np.float32), np.ascontiguousarray(rays, np.float32), output=True
    )
    return hit["primID"], hit["tfar"], np.stack([1 - hit["u"] - hit["v"], hit["u"], hit["v"]], -1)


def _shade(scene: Scene, start: np.ndarray, rays: np.ndarray, focal_px: float) -> Float32[np.ndarray, "n 3"]:
    """Lambert under point lamps (the first casts shadows) and surroundings, which gloss mirrors (Schlick 1994)."""
    triangle, distance, weight = _cast(scene, start, rays)
    face = np.maximum(triangle, 0)
    at = (start + rays * distance[:, None]).astype(np.float32)
    n = np.einsum("nk,nki->ni", weight, scene.normals[face]).astype(np.float32)
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6)
    n *= np.where((n * rays).sum(1, keepdims=True) > 0, -1, 1)
    uv = np.einsum("nk,nki->ni", weight, scene.uv[face]).astype(np.float32)
    owner = scene.piece_idx[face]
    colour = np.zeros((len(rays), 3), np.float32)
    for index, finish in enumerate(scene.finishes):
        rows = np.flatnonzero(owner == index)
        if len(rows):
            texels = 512 * float(np.median(distance[rows])) / focal_px / finish.repeat
            colour[rows] = albedo(finish, at[rows], uv[rows], texels, scene.noise)
    dull = np.ones(len(rays), np.float32)
    light, shine = 0.5 * scene.surroundings.seen(n, dull), np.zeros(len(rays), np.float32)
    roughness = np.array([f.roughness for f in scene.finishes], np.float32)[owner]
    mirrored = rays - 2 * (rays * n).sum(1, keepdims=True) * n
    for index, lamp in enumerate(scene.lamps):
        to_lamp = lamp[:3] - at
        square = (to_lamp**2).sum(1)
        to_lamp /= np.sqrt(square)[:, None]
        power = lamp[3] / square
        if index == 0:
            blocked, reach, _ = _cast(scene, at + SHADOW_OFFSET * n, to_lamp)
            power = power * ~((blocked >= 0) & (reach**2 < square * 0.98))
        light = light + (power * np.clip((n * to_lamp).sum(1), 0, None))[:, None]
        lobe = 2 / np.maximum(roughness, 0.08) ** 4  # about the exponent of a Phong lobe of that GGX roughness
        shine += power * np.clip((mirrored * to_lamp).sum(1), 0, 1) ** lobe * np.minimum(0.05 * lobe, 8.0)
    gloss = np.array([f.gloss for f in scene.finishes], np.float32)[owner]
    facing = np.clip(-(rays * n).sum(1), 0, 1)
    fresnel = np.where(gloss > 0, gloss + (1 - gloss) * (1 - roughness) * (1 - facing) ** 5, 0)[:, None]
    tint = np.where(gloss[:, None] > 0.3, 0.5 + 0.5 * colour / np.maximum(colour.max(1, keepdims=True), 1e-3), 1)
    seen = scene.surroundings.seen(mirrored.astype(np.float32), roughness) + shine[:, None]
    out = (1 - fresnel) * colour * light + fresnel * tint * seen
    return np.where(triangle[:, None] >= 0, np.minimum(out, 8), 0.02).astype(np.float32)


def _blurred(light: Float32[np.ndarray, "h w 3"], rng: np.random.Generator) -> Float[np.ndarray, "h w 3"]:
    """Out of focus, or shaken, now and then."""
    kind = rng.random()
    if kind < 0.35:
        return cv2.GaussianBlur(light, (0, 0), rng.uniform(0.3, 1.3))
    if kind < 0.45:
        length = int(rng.integers(2, 5))
        kernel = np.eye(length, dtype=np.float32) if rng.random() < 0.5 else np.ones((1, length), np.float32)
        return cv2.filter2D(light, -1, kernel / kernel.sum())
    return light


def _compressed(rgb: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """As a JPEG leaves it, half of the time."""
    if rng.random() < 0.5:
        return rgb
    ok, code = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 97))])
    if not ok:
        raise RuntimeError("OpenCV could not write a JPEG.")
    return np.ascontiguousarray(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])
