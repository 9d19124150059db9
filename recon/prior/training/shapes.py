"""Seeded random shapes to learn depth from: lumps, vases, crates, bumpy balls and frames of thin sticks.

None is a model of anything: every shape is drawn from random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh

from recon.evaluate.synthetic.shapes import Points, Sdf, blend, box, carve, cone_capsule, ellipsoid, torus

GRID = 52
"""Samples along each side of a lump's distance field."""


@dataclass(frozen=True)
class Piece:
    """A mesh and whether light sees it smooth or with its facets."""

    mesh: trimesh.Trimesh
    smooth: bool


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    return trimesh.transformations.random_rotation_matrix(rng.random(3))[:3, :3]


def _part(rng: np.random.Generator) -> Sdf:
    """A turned primitive within about 0.6 of the origin."""
    rotation, centre = random_rotation(rng).astype(np.float32), rng.normal(0, 0.2, 3).astype(np.float32)
    size, kind, middle = rng.uniform(0.08, 0.4, 3).tolist(), int(rng.integers(4)), (0.0, 0.0, 0.0)

    def distance(p: Points) -> np.ndarray:
        q = (p - centre) @ rotation
        if kind == 0:
            return ellipsoid(q, middle, size)
        if kind == 1:
            return box(q, size, 0.3 * min(size))
        if kind == 2:
            return torus(q, middle, 2, 0.15 + size[0], 0.03 + 0.25 * size[1])
        return cone_capsule(q, (0, 0, -size[0]), (0, 0, size[0]), 0.5 * size[1], 0.5 * size[2])

    return distance


def lump(rng: np.random.Generator) -> list[Piece]:
    """A few primitives blended into one body, sometimes with a bite taken out."""
    from skimage.measure import marching_cubes

    parts, width = [_part(rng) for _ in range(int(rng.integers(2, 7)))], float(rng.uniform(0.01, 0.15))
    bite = _part(rng) if rng.random() < 0.4 else None
    axis = np.linspace(-0.95, 0.95, GRID, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    field = parts[0](points)
    for part in parts[1:]:
        field = blend(field, part(points), width)
    if bite is not None:
        field = carve(field, bite(points), 0.02)
    step = float(axis[1] - axis[0])
    if field.min() >= -step or field.max() <= 0:  # too small for the grid, or nothing left of it
        return vase(rng)
    cube = np.pad(field.reshape(GRID, GRID, GRID), 1, constant_values=1.0)
    vertices, faces, _, _ = marching_cubes(cube, 0.0, spacing=(step,) * 3, gradient_direction="descent")
    return [Piece(trimesh.Trimesh(vertices, faces, process=False), True)]


def vase(rng: np.random.Generator) -> list[Piece]:
    """A random profile turned about the upright axis, with or without facets."""
    heights = np.linspace(0, rng.uniform(0.6, 1.5), 40)
    knots = rng.uniform(0.12, 0.5, int(rng.integers(3, 8)))
    radii = np.interp(heights, np.linspace(0, heights[-1], len(knots)), knots)
    if rng.random() < 0.6:
        radii = np.convolve(np.pad(radii, 4, mode="edge"), np.hanning(9) / np.hanning(9).sum(), mode="valid")
    profile = np.concatenate([[[0, 0]], np.column_stack([radii, heights]), [[0, heights[-1]]]])
    sections = int(rng.choice([5, 6, 8, 48, 48, 48]))
    return [Piece(trimesh.creation.revolve(profile, sections=sections), sections == 48)]


def bumpy(rng: np.random.Generator) -> list[Piece]:
    """A ball or a can whose surface waves."""
    if rng.random() < 0.7:
        mesh = trimesh.creation.icosphere(5, 0.5)
    else:
        mesh = trimesh.creation.capsule(rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.4), count=[64, 64])
    waves, grow = rng.normal(0, 1, (10, 3)) * rng.uniform(3, 22, (10, 1)), np.zeros(len(mesh.vertices))
    for wave in waves:
        grow += np.sin(mesh.vertices @ wave + rng.uniform(0, 6)) / max(float(np.linalg.norm(wave)), 3)
    mesh.vertices = mesh.vertices * (1 + grow[:, None] * rng.uniform(0.05, 0.8)) * rng.uniform(0.6, 1.3, 3)
    return [Piece(mesh, True)]


def crates(rng: np.random.Generator) -> list[Piece]:
    """Boxes leant against and stuck into each other."""
    out = []
    for _ in range(int(rng.integers(1, 5))):
        mesh = trimesh.creation.box(rng.uniform(0.15, 0.8, 3))
        turn = np.eye(4)
        turn[:3, :3] = random_rotation(rng)
        mesh.apply_transform(turn)
        mesh.apply_translation(rng.normal(0, 0.25, 3))
        out.append(Piece(mesh, False))
    return out


def sticks(rng: np.random.Generator) -> list[Piece]:
    """Thin rods and rings between random joints, sometimes with a plate or a body in their midst."""
    joints, out = rng.uniform(-0.5, 0.5, (int(rng.integers(5, 10)), 3)), []
    for _ in range(int(rng.integers(4, 12))):
        i, j = rng.choice(len(joints), 2, replace=False)
        out.append(
            Piece(trimesh.creation.cylinder(rng.uniform(0.012, 0.05), segment=joints[[i, j]], sections=14), True)
        )
    if rng.random() < 0.5:
        ring = trimesh.creation.torus(rng.uniform(0.2, 0.5), rng.uniform(0.015, 0.05))
        turn = np.eye(4)
        turn[:3, :3] = random_rotation(rng)
        out.append(Piece(ring.apply_transform(turn), True))
    if rng.random() < 0.5:
        out.append(Piece(trimesh.creation.box([*rng.uniform(0.4, 0.9, 2), 0.05]), False))
    return out + (lump(rng) if rng.random() < 0.3 else [])


KINDS: tuple[Callable[[np.random.Generator], list[Piece]], ...] = (lump, lump, vase, bumpy, crates, sticks)


def random_object(rng: np.random.Generator) -> list[Piece]:
    """One or two kinds of shape together, of unit size about the z axis, standing on z = 0."""
    pieces = KINDS[int(rng.integers(len(KINDS)))](rng)
    if rng.random() < 0.3:
        pieces = pieces + KINDS[int(rng.integers(len(KINDS)))](rng)
    turn = np.eye(4)
    if rng.random() < 0.5:
        turn[:3, :3] = random_rotation(rng)
    turn[:3, :3] *= rng.uniform(0.6, 1.0, 3)  # also squeezes
    for piece in pieces:
        piece.mesh.apply_transform(turn)
    low = np.min([p.mesh.bounds[0] for p in pieces], axis=0)
    high = np.max([p.mesh.bounds[1] for p in pieces], axis=0)
    scale = 1 / float((high - low).max())
    for piece in pieces:
        piece.mesh.apply_translation([*(-(low + high)[:2] / 2), -low[2]])
        piece.mesh.apply_scale(scale)
    return pieces
