"""Which photo sees which cell, how well, and in which colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numba import njit

from recon.camera import View
from texturing.cells import Cells
from texturing.photos import PhotoStack, look_up, sample_colour
from texturing.rasterize import blocks_of, run_blocks

RISKY_PX = 1.5
"""Nearer than this to an edge, a photo is not even used as the last resort: interpolation reaches across."""


@dataclass(frozen=True)
class Observations:
    """What every photo knows of every cell."""

    share: Float32[np.ndarray, "n_faces n_views"]
    """Of the cell's sample points, how many the photo sees; 0 is not at all."""
    safety: Float32[np.ndarray, "n_faces n_views"]
    """0..1, from next to an edge to clear of it."""
    colour: Float32[np.ndarray, "n_faces n_views 3"]
    """Mean colour over the seen sample points, levelled by the gains in force when it was taken."""
    density: Float64[np.ndarray, "n_faces n_views"]
    """Pixels per world length along the foreshortened direction, f cos(angle) / z, times sharpness."""

    @property
    def seen(self) -> Bool[np.ndarray, "n_faces n_views"]:
        return self.share > 0


def observe(
    cells: Cells,
    views: tuple[View, ...],
    sharpness: Float64[np.ndarray, " n_views"],
    stack: PhotoStack,
    min_cosine: float,
    edge_margin_px: float,
) -> Observations:
    """Look at four sample points of every cell in every photo.

    min_cosine: a photo that looks at a cell flatter than this does not count as seeing it.
    edge_margin_px: distance from a mask border or depth edge at which a pixel is quite trusted.
    """
    cosine, density = _geometry(cells, views)
    shape = density.shape
    share, safety = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    colour = np.zeros((*shape, 3), np.float32)
    args = (cells.vertices_world, cells.faces, stack, cosine > min_cosine, edge_margin_px, share, safety, colour)
    run_blocks(lambda lo, hi: _observe_faces(lo, hi, *args), blocks_of(shape[0], 2048))
    density *= np.clip(sharpness, 0.05, 1.5)
    return Observations(share, safety, colour, density)


def _geometry(cells: Cells, views: tuple[View, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Cosine between normal and viewing ray, and sampling density, of every cell in every photo."""
    middle = cells.vertices_world[cells.faces].mean(1)
    cosine, density = np.zeros((2, len(middle), len(views)))
    for v, view in enumerate(views):
        ray = view.centre_world() - middle
        distance = np.linalg.norm(ray, axis=1)
        cosine[:, v] = np.einsum("ij,ij->i", ray, cells.normals) / np.maximum(distance, 1e-12)
        depth_z = view.cam_from_world.apply(middle)[:, 2]
        focal = np.sqrt(view.camera.fx_px * view.camera.fy_px)
        density[:, v] = focal * np.maximum(cosine[:, v], 0) / np.maximum(depth_z, 1e-9)
    return cosine, density


@njit(cache=True, nogil=True)
def edge_safety(edge_px, margin_px):  # type: ignore[no-untyped-def]
    """0..1: how far a pixel lies from an edge; the small floor keeps it as a last resort."""
    if edge_px < RISKY_PX:
        return 0.0
    return min(max((edge_px - 0.5 * margin_px) / margin_px, 0.002), 1.0)


@njit(cache=True, nogil=True)
def _observe_faces(first, last, vertices, faces, stack, facing, margin_px, share, safety, colour):  # type: ignore[no-untyped-def]
    samples = np.array([[1 / 3, 1 / 3, 1 / 3], [0.7, 0.15, 0.15], [0.15, 0.7, 0.15], [0.15, 0.15, 0.7]])
    for f in range(first, last):
        for v in range(facing.shape[1]):
            if not facing[f, v]:
                continue
            n, safe, red, green, blue = 0, 0.0, 0.0, 0.0, 0.0
            for k in range(4):
                x, y, z = 0.0, 0.0, 0.0
                for i in range(3):
                    x += samples[k, i] * vertices[faces[f, i], 0]
                    y += samples[k, i] * vertices[faces[f, i], 1]
                    z += samples[k, i] * vertices[faces[f, i], 2]
                column, row, edge_px = look_up(stack, v, x, y, z)
                s = edge_safety(edge_px, margin_px)
                if s <= 0:
                    continue
                r, g, b = sample_colour(stack, v, column, row)
                n += 1
                safe += s
                red, green, blue = red + r, green + g, blue + b
            if n > 0:
                share[f, v], safety[f, v] = n / 4, safe / 4
                colour[f, v, 0], colour[f, v, 1], colour[f, v, 2] = red / n, green / n, blue / n
