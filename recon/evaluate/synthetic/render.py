"""Photos of a lit scene: primary rays through a thin lens, solid paint, and a traced reflection in the clear coat."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from recon.evaluate.synthetic.camera import Lens, Shot
from recon.evaluate.synthetic.design import Paint
from recon.evaluate.synthetic.light import OFFSET_M, Scene, basis
from recon.evaluate.synthetic.room import radiance, table_colour

TABLE_ROUGHNESS, TABLE_COAT = 0.42, 0.55
MASK_SIDE = 4
"""Sub-samples per pixel edge of the true mask."""
ROWS = 60
"""Rows of a photo rendered at a time: bounds the memory."""


def reflected(
    scene: Scene, at: np.ndarray, n: np.ndarray, d: np.ndarray, roughness: np.ndarray, blur: int, s: np.ndarray
) -> Float[np.ndarray, "n 3"]:
    """What the clear coat mirrors: one ray about the mirror direction, spread like a GGX lobe (Walter et al. 2007).

    at, n, d: points, unit normals and incoming directions; s: two uniform numbers a ray; `blur` as in `radiance`.
    """
    alpha = roughness * roughness
    slope = alpha * np.sqrt(s[:, 0] / np.maximum(1 - s[:, 0], 0.02))
    t, b = basis(n)
    phi = 2 * np.pi * s[:, 1]
    h = n + t * (slope * np.cos(phi))[:, None] + b * (slope * np.sin(phi))[:, None]
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    r = d - 2 * (d * h).sum(1, keepdims=True) * h
    under = (r * n).sum(1) <= 0.01  # below the surface: fall back to the mirror direction
    r[under] = (d - 2 * (d * n).sum(1, keepdims=True) * n)[under]
    r = r.astype(np.float32)
    o = at + OFFSET_M * n
    return scene.diffuse_seen(o, r, scene.trace(o, r), blur)


def coated(paint: Paint, light: np.ndarray, mirrored: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """Diffuse paint under a clear coat: Fresnel by Schlick (1994), 4 % at normal incidence, less rise where rough."""
    albedo, rise = paint.albedo, np.maximum(1 - paint.roughness, 0.04) - 0.04
    fresnel = (paint.coat * (0.04 + rise * (1 - np.clip(cosine, 0, 1)) ** 5))[:, None]
    return (1 - fresnel) * albedo * light + fresnel * mirrored


def shade(scene: Scene, o: np.ndarray, d: np.ndarray, lobe: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """Radiance along camera rays; `lobe` holds two uniform numbers a ray, for its reflection."""
    hits = scene.trace(o, d)
    out = np.full((len(d), 3), 0.03, np.float32)
    rows = np.flatnonzero(hits.triangle == -1)
    out[rows] = radiance(scene.room, o[rows], d[rows], 0)

    rows = np.flatnonzero(hits.triangle == -2)
    at = o[rows] + d[rows] * hits.distance[rows, None]
    n = np.tile(np.array([0, 0, 1], np.float32), (len(rows), 1))
    finish = np.ones(len(rows), np.float32)
    paint = Paint(table_colour(scene.room, at), TABLE_ROUGHNESS * finish, TABLE_COAT * finish)
    mirrored = reflected(scene, at, n, d[rows], paint.roughness, 2, lobe[rows])
    out[rows] = coated(paint, scene.light_on_table(at), mirrored, -d[rows, 2])

    rows = np.flatnonzero(hits.triangle >= 0)
    if len(rows):
        at = o[rows] + d[rows] * hits.distance[rows, None]
        n = scene.at_vertices(scene.normals, hits, rows)
        facing = (n * d[rows]).sum(1, keepdims=True)
        n -= np.maximum(facing + 0.02, 0) * d[rows]  # an interpolated normal may lean away at the outline
        n /= np.linalg.norm(n, axis=1, keepdims=True)
        paint = scene.design.paint(at, scene.noise)
        mirrored = reflected(scene, at, n, d[rows], paint.roughness, 1, lobe[rows])
        light = scene.at_vertices(scene.vertex_light, hits, rows)
        out[rows] = coated(paint, light, mirrored, -(n * d[rows]).sum(1))
    return out


def lens_rays(lens: Lens, shot: Shot, pixels: np.ndarray, pupil: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World rays through pixel positions and points of the pupil (unit disc), in focus at the shot's distance."""
    through = lens.directions(pixels) * shot.focus_m
    start = np.concatenate([pupil * lens.aperture_m, np.zeros((len(pupil), 1))], 1)
    pose = shot.world_from_cam
    d = (through - start) @ pose.rotation.T
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    return pose.apply(start).astype(np.float32), d.astype(np.float32)


def photograph(scene: Scene, lens: Lens, shot: Shot, spp: int, rng: np.random.Generator) -> Float[np.ndarray, "h w 3"]:
    """Linear radiance of a photo with `spp` samples a pixel, stratified over pixel, pupil and exposure time."""
    h, w = lens.height_px, lens.width_px
    out = np.zeros((h, w, 3), np.float32)
    golden = np.array([0.7548776662, 0.5698402910])  # R2 sequence (Roberts 2018): even over the pixel for any spp
    angle = np.radians(shot.blur_direction_deg)
    sweep = shot.blur_px * np.array([np.cos(angle), np.sin(angle)])
    for top in range(0, h, ROWS):
        y, x = np.mgrid[top : min(top + ROWS, h), 0:w]
        corner = np.stack([x.ravel(), y.ravel()], -1).astype(float)
        own, turn, lobe = rng.random((3, len(corner), 2))
        total = np.zeros((len(corner), 3), np.float32)
        for k in range(spp):
            s = (turn + (k + 1) * golden[::-1]) % 1
            pupil = np.sqrt(s[:, :1]) * np.stack([np.cos(2 * np.pi * s[:, 1]), np.sin(2 * np.pi * s[:, 1])], -1)
            pixels = corner + (own + k * golden) % 1 + sweep * ((k + 0.5) / spp - 0.5)
            # clipping each sample keeps a window's edge as soft as a sensor would
            o, d = lens_rays(lens, shot, pixels, pupil)
            total += np.minimum(shade(scene, o, d, ((lobe + k * golden) % 1).astype(np.float32)), 4.0)
        out[top : top + ROWS] = (total / spp).reshape(-1, w, 3)
    return out


def true_mask(scene: Scene, lens: Lens, shot: Shot) -> Float[np.ndarray, "h w"]:
    """Share of each pixel that the object covers, through an ideal pinhole."""
    h, w = lens.height_px, lens.width_px
    out = np.zeros((h, w), np.float32)
    for top in range(0, h, ROWS):
        y, x = np.mgrid[top : min(top + ROWS, h), 0:w]
        corner = np.stack([x.ravel(), y.ravel()], -1).astype(float)
        for k in range(MASK_SIDE * MASK_SIDE):
            pixels = corner + (np.array([k % MASK_SIDE, k // MASK_SIDE]) + 0.5) / MASK_SIDE
            o, d = lens_rays(lens, shot, pixels, np.zeros_like(corner))
            out[top : top + ROWS] += (scene.trace(o, d).triangle >= 0).reshape(-1, w)
    return out / MASK_SIDE**2
