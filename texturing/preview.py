"""preview.png: a quick look at the asset from several sides, and once without its texture; the turntable's cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import Asset
from recon.transforms import Rigid
from texturing.render import Model, Shading, make_model, render, shrunk_texture

AZIMUTHS_DEG = (0.0, 72.0, 144.0, 216.0, 288.0, 36.0)
"""Of the six tiles, from the front anticlockwise; the last one is the grey render."""
ELEVATION_DEG = 22.0
ROWS, COLUMNS = 2, 3
FOCAL = 3.2
"""In picture heights: a long lens, as product photos have."""
FILLED = 0.92
"""How much of a picture the object takes up at most."""
BACKGROUND_TOP, BACKGROUND_BOTTOM = 0.93, 0.80


def write_preview(path: Path, asset: Asset, vertices: Float64[np.ndarray, "n 3"], width_px: int) -> None:
    """Draw the asset (vertices in its own frame, +Y up) from five sides with its texture, and from one in grey."""
    w, h = width_px // COLUMNS, width_px * 9 // 16 // ROWS
    views = [turntable_view(vertices, azimuth, ELEVATION_DEG, (w, h)) for azimuth in AZIMUTHS_DEG]
    model = make_model(asset.uv_mesh, vertices)
    texture = shrunk_texture(model, views[0], asset.base_colour)
    tiles = [draw_on_grey(model, v, texture, Shading.clay if v is views[-1] else Shading.lit) for v in views]
    rows = [np.concatenate(tiles[r * COLUMNS : (r + 1) * COLUMNS], axis=1) for r in range(ROWS)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)


def turntable_view(
    vertices: Float64[np.ndarray, "n 3"], azimuth_deg: float, elevation_deg: float, size_px: tuple[int, int]
) -> View:
    """A camera (of width x height) that holds the whole object (+Y up), at the same distance from all azimuths."""
    w, h = size_px
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
    level = np.array([np.sin(azimuth), 0.0, np.cos(azimuth)])
    back = level * np.cos(elevation) + np.array([0.0, np.sin(elevation), 0.0])
    centre = (vertices.min(0) + vertices.max(0)) / 2
    radius = float(np.hypot(vertices[:, 0] - centre[0], vertices[:, 2] - centre[2]).max())
    tall = float(np.ptp(vertices[:, 1])) / 2 * np.cos(elevation) + radius * abs(np.sin(elevation))
    distance = FOCAL * 2 * max(tall, radius * h / w) / FILLED + radius
    rotation = np.stack([right, -np.cross(back, right), -back])
    eye = centre + back * distance
    return View(
        f"turn_{azimuth_deg:g}", Pinhole(w, h, FOCAL * h, FOCAL * h, w / 2, h / 2), Rigid(rotation, -rotation @ eye)
    )


def draw_on_grey(
    model: Model, view: View, texture: UInt8[np.ndarray, "t t 3"], shading: Shading
) -> UInt8[np.ndarray, "h w 3"]:
    """A render before a light grey that darkens a little towards the bottom."""
    w, h = view.camera.width_px, view.camera.height_px
    ramp = np.linspace(BACKGROUND_TOP, BACKGROUND_BOTTOM, h, dtype=np.float32)
    background = np.repeat(ramp, 3 * w).reshape(h, w, 3)
    return render(model, view, texture, shading).over(background)
