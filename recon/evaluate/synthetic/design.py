"""What a designed object is: a distance field and a solid paint, both functions of the place in space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from recon.evaluate.synthetic.noise import NoiseField
from recon.evaluate.synthetic.shapes import Points, Sdf

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Paint:
    """The surface at a set of points."""

    albedo: Float[np.ndarray, "n 3"]
    """Linear diffuse reflectance."""
    roughness: Float[np.ndarray, " n"]
    """Of the clear coat: 0 a mirror, 1 dull."""
    coat: Float[np.ndarray, " n"]
    """Share of the Fresnel reflection that the coat shows: 1 glazed, 0 bare."""

    def where(self, keep: np.ndarray) -> Paint:
        return Paint(self.albedo[keep], self.roughness[keep], self.coat[keep])


@dataclass(frozen=True)
class Design:
    """An object that can be meshed and painted."""

    words: str
    material_class: str
    sdf: Sdf
    paint: Callable[[Points, NoiseField], Paint]
    low: tuple[float, float, float]
    """Corner of a box around the shape, metres; the object stands on z = 0."""
    high: tuple[float, float, float]


class Brush:
    """Lays colours over each other like paint: coverage in [0, 1] per point."""

    def __init__(self, n: int, colour: Rgb, roughness: float, coat: float) -> None:
        self.albedo = np.tile(np.asarray(colour, np.float32), (n, 1))
        self.roughness = np.full(n, roughness, np.float32)
        self.coat = np.full(n, coat, np.float32)

    def lay(self, coverage: np.ndarray, colour: Rgb, roughness: float | None = None, coat: float | None = None) -> None:
        """Cover what is there by `colour` (and finish, where given) to the extent of `coverage`."""
        c = np.asarray(coverage, np.float32)
        self.albedo += c[:, None] * (np.asarray(colour, np.float32) - self.albedo)
        if roughness is not None:
            self.roughness += c * (np.float32(roughness) - self.roughness)
        if coat is not None:
            self.coat += c * (np.float32(coat) - self.coat)

    def shade(self, factor: np.ndarray) -> None:
        """Make the colours lighter (> 1) or darker."""
        self.albedo *= np.asarray(factor, np.float32)[:, None]

    def done(self) -> Paint:
        return Paint(np.clip(self.albedo, 0.005, 0.92), np.clip(self.roughness, 0.04, 1), np.clip(self.coat, 0, 1))


def lettering(text: str, height_px: int, aspect: float) -> Float[np.ndarray, "h w"]:
    """Coverage of a line of text that fills a band of the given width-to-height ratio (it repeats to fill it)."""
    font = ImageFont.load_default(size=height_px * 0.78)
    width_px = round(height_px * aspect)
    repeats = max(1, round(width_px / font.getlength(text)))
    image = Image.new("L", (round(font.getlength(text * repeats)), height_px), 0)
    ImageDraw.Draw(image).text((0, height_px / 2), text * repeats, fill=255, font=font, anchor="lm")
    return np.asarray(image.resize((width_px, height_px), Image.Resampling.LANCZOS), np.float32) / 255


def look_up(band: Float[np.ndarray, "h w"], s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Bilinear value of a band at `s` along it (periodic, one turn is 1) and `t` from bottom 0 to top 1; 0 outside."""
    from scipy.ndimage import map_coordinates

    h, w = band.shape
    inside = (t > 0) & (t < 1)
    value = map_coordinates(band, np.stack([(1 - t) * h - 0.5, (s % 1) * w - 0.5]), order=1, mode="nearest")
    return np.where(inside, value, 0)
