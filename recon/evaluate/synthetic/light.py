"""Diffuse light on the object and the table, path-traced once for all photos.

Diffuse light does not depend on where the camera stands, so it is gathered at the object's vertices and at a grid of
table points (lights sampled explicitly, everything else by cosine-weighted rays, two bounces) and interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float
from trimesh import Trimesh

from recon.evaluate.synthetic.design import Design
from recon.evaluate.synthetic.noise import NoiseField
from recon.evaluate.synthetic.room import TABLE_HALF, TABLE_THICKNESS, Room, radiance, sample, table_colour, wall_hit
from recon.evaluate.synthetic.shapes import gradient

OFFSET_M = np.float32(3e-5)
"""Rays start this far off a surface: above float32 noise at half a metre, far below a pixel."""
FINE_HALF_M = 0.30
"""Half the edge of the square of table around the object on which light is kept on the fine grid."""


@dataclass(frozen=True)
class Hits:
    """What a bundle of rays met first."""

    triangle: np.ndarray
    """Index of the object's triangle; -1 nothing (the room), -2 the table top, -3 the table's sides."""
    u: np.ndarray
    v: np.ndarray
    distance: np.ndarray


@dataclass
class Scene:
    """The object on its table in the room, with its light."""

    room: Room
    design: Design
    noise: NoiseField
    faces: np.ndarray
    vertices: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    face_normals: Float[np.ndarray, "m 3"]
    tracer: EmbreeScene
    vertex_light: Float[np.ndarray, "n 3"]
    """Irradiance / pi at the vertices: what a white diffuse surface there would send out."""
    vertex_albedo: Float[np.ndarray, "n 3"]
    table_light: tuple[np.ndarray, np.ndarray]
    """The same on the table: the fine square, then the whole top."""

    def trace(self, o: np.ndarray, d: np.ndarray) -> Hits:
        """First hits of rays (float32)."""
        r = self.tracer.run(np.ascontiguousarray(o), np.ascontiguousarray(d), output=1)
        prim = r["primID"].astype(np.int64)
        n = len(self.faces)
        triangle = np.where(prim < n, prim, np.where(prim < n + 2, -2, -3))
        return Hits(triangle, r["u"], r["v"], r["tfar"])

    def at_vertices(self, values: Float[np.ndarray, "n c"], hits: Hits, rows: np.ndarray) -> np.ndarray:
        """Per-vertex values interpolated at hits on the object."""
        f = self.faces[hits.triangle[rows]]
        u, v = hits.u[rows, None], hits.v[rows, None]
        return values[f[:, 0]] * (1 - u - v) + values[f[:, 1]] * u + values[f[:, 2]] * v

    def light_on_table(self, at: Float[np.ndarray, "n 3"]) -> np.ndarray:
        """Irradiance / pi at points of the table top."""
        fine, whole = self.table_light
        out = grid_value(whole, at, TABLE_HALF)
        near = (np.abs(at[:, :2]) < FINE_HALF_M).all(1)
        out[near] = grid_value(fine, at[near], np.full(2, FINE_HALF_M))
        return out

    def diffuse_seen(self, o: np.ndarray, d: np.ndarray, hits: Hits, blur: int) -> np.ndarray:
        """Radiance along rays, surfaces taken as purely diffuse: for bounces and reflections."""
        out = np.zeros((len(d), 3), np.float32)  # stays for the table's sides and the object's inside (from under it)
        miss = np.flatnonzero(hits.triangle == -1)
        out[miss] = radiance(self.room, o[miss], d[miss], blur)
        rows = np.flatnonzero(hits.triangle >= 0)
        rows = rows[(self.face_normals[hits.triangle[rows]] * d[rows]).sum(1) < 0]
        out[rows] = self.at_vertices(self.vertex_light * self.vertex_albedo, hits, rows)
        rows = np.flatnonzero(hits.triangle == -2)
        at = o[rows] + d[rows] * hits.distance[rows, None]
        out[rows] = table_colour(self.room, at) * self.light_on_table(at)
        return out


def grid_value(grid: np.ndarray, at: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Bilinear value of a table grid whose nodes run from -half to +half."""
    h, w, _ = grid.shape
    x = (at[:, 0] / np.float32(half[0]) + 1) / 2 * (w - 1) + 0.5
    y = (at[:, 1] / np.float32(half[1]) + 1) / 2 * (h - 1) + 0.5
    return sample(grid, x, y)


def grid_points(half: np.ndarray, spacing_m: float) -> tuple[np.ndarray, tuple[int, int]]:
    """Nodes of a table grid, just above the top."""
    w, h = (int(np.ceil(2 * a / spacing_m)) + 1 for a in half)
    x, y = np.meshgrid(np.linspace(-half[0], half[0], w), np.linspace(-half[1], half[1], h))
    return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], -1).astype(np.float32), (h, w)


def table_box() -> tuple[np.ndarray, np.ndarray]:
    """The table top as triangles: the first two are its upper side."""
    x, y = TABLE_HALF
    corners = np.array([[-x, -y], [x, -y], [x, y], [-x, y]])
    v = np.concatenate([np.c_[corners, np.zeros(4)], np.c_[corners, np.full(4, -TABLE_THICKNESS)]])
    f = [[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]]
    for k in range(4):
        j = (k + 1) % 4
        f += [[k, k + 4, j], [j, k + 4, j + 4]]
    return v, np.array(f)


def basis(n: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors at right angles to each unit normal (Duff et al. 2017)."""
    sign = np.where(n[:, 2] >= 0, np.float32(1), np.float32(-1))
    a = -1 / (sign + n[:, 2])
    b = n[:, 0] * n[:, 1] * a
    t = np.stack([1 + sign * n[:, 0] ** 2 * a, sign * b, -sign * n[:, 0]], -1)
    return t, np.stack([b, sign + n[:, 1] ** 2 * a, -n[:, 1]], -1)


def direct(scene: Scene, p: np.ndarray, n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Irradiance / pi from the windows and the lamp, stratified over their areas."""
    total = np.zeros((len(p), 3), np.float32)
    for light in scene.room.emitters:
        k = light.side
        normal = np.cross(light.edge_u, light.edge_v)
        area = float(np.linalg.norm(normal))
        normal /= area
        for i in range(k * k):
            s = (np.array([i % k, i // k]) + rng.random((len(p), 2))) / k
            at = (light.corner + s[:, :1] * light.edge_u + s[:, 1:] * light.edge_v).astype(np.float32)
            d = at - p
            far2 = (d * d).sum(1)
            d /= np.sqrt(far2)[:, None]
            cosine = (d * n).sum(1)
            rows = np.flatnonzero(cosine > 0)
            free = rows[scene.trace(p[rows], d[rows]).triangle == -1]
            weight = cosine[free] * np.abs(d[free] @ normal) * area / (far2[free] * k * k * np.pi)
            total[free] += radiance(scene.room, p[free], d[free], 0) * weight[:, None].astype(np.float32)
    return total


def on_emitter(room: Room, o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Which rays that leave the scene end on a light (those are counted by `direct`)."""
    wall, at = wall_hit(o, d)
    out = np.zeros(len(d), bool)
    for light in room.emitters:
        axis = int(np.argmin(np.abs(light.edge_u) + np.abs(light.edge_v)))
        q = at - light.corner.astype(np.float32)
        s = q @ light.edge_u / (light.edge_u @ light.edge_u)
        t = q @ light.edge_v / (light.edge_v @ light.edge_v)
        out |= (wall // 2 == axis) & (np.abs(q[:, axis]) < 1e-3) & (s > 0) & (s < 1) & (t > 0) & (t < 1)
    return out


def indirect(scene: Scene, p: np.ndarray, n: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Irradiance / pi from everything but the lights: `side`^2 stratified cosine-weighted rays per point."""
    total = np.zeros((len(p), 3), np.float32)
    t, b = basis(n)
    for i in range(side * side):
        s = ((np.array([i % side, i // side]) + rng.random((len(p), 2))) / side).astype(np.float32)
        r, phi = np.sqrt(s[:, 0]), 2 * np.pi * s[:, 1]
        z = np.sqrt(1 - s[:, 0])
        d = t * (r * np.cos(phi))[:, None] + b * (r * np.sin(phi))[:, None] + n * z[:, None]
        d = d.astype(np.float32)
        hits = scene.trace(p, d)
        seen = scene.diffuse_seen(p, d, hits, 0)
        miss = np.flatnonzero(hits.triangle == -1)
        seen[miss[on_emitter(scene.room, p[miss], d[miss])]] = 0
        total += seen
    return total / (side * side)


def light_scene(
    mesh: Trimesh, design: Design, room: Room, seed: int, side: int = 11, table_grid_m: float = 0.0025
) -> Scene:
    """Put a mesh on the table and gather its diffuse light; `side` squared rays per point and bounce."""
    rng, noise = np.random.default_rng([seed, 11]), NoiseField(seed)
    v = np.ascontiguousarray(mesh.vertices, np.float32)
    tv, tf = table_box()
    tracer = EmbreeScene()
    TriangleMesh(
        tracer,
        np.concatenate([v, tv]).astype(np.float32),
        np.concatenate([mesh.faces, tf + len(v)]).astype(np.int32),
    )
    fine_p, fine_shape = grid_points(np.full(2, FINE_HALF_M), table_grid_m)
    whole_p, whole_shape = grid_points(TABLE_HALF, 6 * table_grid_m)
    normals = gradient(design.sdf, v)
    dark = np.zeros_like(v)
    grids = (np.zeros((*fine_shape, 3), np.float32), np.zeros((*whole_shape, 3), np.float32))
    scene = Scene(
        room,
        design,
        noise,
        np.asarray(mesh.faces),
        v,
        normals,
        np.asarray(mesh.face_normals, np.float32),
        tracer,
        dark,
        design.paint(v, noise).albedo,
        grids,
    )
    up = np.array([0, 0, 1], np.float32)
    points = np.concatenate([v + OFFSET_M * 3 * normals, fine_p + OFFSET_M * up, whole_p + OFFSET_M * up])
    dirs = np.concatenate([normals, np.tile(up, (len(fine_p) + len(whole_p), 1))])
    first = direct(scene, points, dirs, rng)
    light = first
    for _ in range(2):
        keep_light(scene, light, fine_shape, whole_shape)
        light = first + indirect(scene, points, dirs, side, rng)
    keep_light(scene, light, fine_shape, whole_shape)
    return scene


def keep_light(scene: Scene, light: np.ndarray, fine_shape: tuple[int, int], whole_shape: tuple[int, int]) -> None:
    """Store gathered light, smoothed over neighbouring vertices to take the last sampling noise out."""
    n, m = len(scene.vertices), int(np.prod(fine_shape))
    mine = light[:n].copy()
    a, b = scene.faces[:, [0, 1, 2]].ravel(), scene.faces[:, [1, 2, 0]].ravel()
    total, count = np.zeros_like(mine), np.bincount(a, minlength=n)[:, None]
    np.add.at(total, a, light[b])
    scene.vertex_light = (0.5 * mine + 0.5 * total / np.maximum(count, 1)).astype(np.float32)
    scene.table_light = (light[n : n + m].reshape(*fine_shape, 3), light[n + m :].reshape(*whole_shape, 3))
