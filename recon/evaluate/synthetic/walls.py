"""The room's walls, drawn: windows, books, pictures, a door. What is drawn bright lights the scene."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from recon.evaluate.synthetic.design import Rgb
from recon.evaluate.synthetic.room import ROOM_HIGH, ROOM_LOW, WALL_PX, Emitter

WALL_LIGHT = 0.72
"""How bright the walls are against the windows; lower makes harder shadows."""
SPINES = (
    (0.24, 0.04, 0.03),
    (0.03, 0.06, 0.15),
    (0.05, 0.12, 0.06),
    (0.34, 0.22, 0.06),
    (0.42, 0.37, 0.27),
    (0.12, 0.06, 0.03),
    (0.03, 0.03, 0.035),
    (0.06, 0.17, 0.19),
    (0.36, 0.14, 0.06),
    (0.50, 0.48, 0.43),
)
"""Colours of the books."""


class WallPicture:
    """One wall, drawn on in linear radiance; places are world metres along the wall's two axes in x, y, z order."""

    def __init__(self, wall: int, colour: Rgb) -> None:
        axes = [(1, 2), (0, 2), (0, 1)][wall // 2]
        self.size = (ROOM_HIGH - ROOM_LOW)[list(axes)]
        self.low = ROOM_LOW[list(axes)]
        self.pixels = np.tile(np.asarray(colour, np.float32), (WALL_PX, WALL_PX, 1))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb) -> None:
        """Fill a rectangle."""
        rows, columns = self._slices(x0, y0, x1, y1)
        self.pixels[rows, columns] = colour

    def _slices(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        def px(value: float, axis: int) -> int:
            return max(round((value - self.low[axis]) / self.size[axis] * WALL_PX), 0)

        return slice(max(WALL_PX - px(y1, 1), 0), max(WALL_PX - px(y0, 1), 0)), slice(px(x0, 0), px(x1, 0))

    def window(self, x0: float, y0: float, x1: float, y1: float, sky: float, rng: np.random.Generator) -> None:
        """A bright window: sky above blurred trees, a white frame with a cross."""
        self.box(x0 - 0.07, y0 - 0.07, x1 + 0.07, y1 + 0.07, (0.75, 0.74, 0.70))
        rows, columns = self._slices(x0, y0, x1, y1)
        h, w = rows.stop - rows.start, columns.stop - columns.start
        up = np.linspace(1, 0, h)[:, None, None]
        view = sky * (np.array([0.80, 0.92, 1.08]) * (0.75 + 0.35 * up)) * np.ones((h, w, 1))
        leaves = cv2.resize(rng.random((9, 9)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)[..., None]
        line = 0.30 + 0.35 * leaves
        trees = np.clip((line - up) * 8, 0, 1)
        view = view * (1 - trees) + trees * sky * np.array([0.20, 0.27, 0.12]) * (0.5 + leaves)
        self.pixels[rows, columns] = view
        x, y = (x0 + x1) / 2, y0 + (y1 - y0) * 0.66
        self.box(x - 0.022, y0, x + 0.022, y1, (0.6, 0.59, 0.56))
        self.box(x0, y - 0.02, x1, y + 0.02, (0.6, 0.59, 0.56))

    def picture(self, x0: float, y0: float, x1: float, y1: float, rng: np.random.Generator) -> None:
        """A framed abstract painting."""
        self.box(x0, y0, x1, y1, (0.06, 0.04, 0.03))
        self.box(x0 + 0.03, y0 + 0.03, x1 - 0.03, y1 - 0.03, (0.62, 0.58, 0.50))
        rows, columns = self._slices(x0 + 0.09, y0 + 0.09, x1 - 0.09, y1 - 0.09)
        h, w = rows.stop - rows.start, columns.stop - columns.start
        canvas = Image.new("RGB", (w, h), tuple(int(v) for v in rng.integers(90, 220, 3)))
        draw = ImageDraw.Draw(canvas)
        for _ in range(14):
            cx, cy, r = rng.random() * w, rng.random() * h, (0.05 + 0.25 * rng.random()) * min(w, h)
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape((cx - r, cy - r, cx + r, cy + r), fill=tuple(int(v) for v in rng.integers(20, 235, 3)))
        self.pixels[rows, columns] = (np.asarray(canvas, np.float32) / 255) ** 2.2 * 0.55

    def books(self, x0: float, y0: float, x1: float, shelves: int, rng: np.random.Generator) -> None:
        """A bookcase of rows of coloured spines."""
        height = 0.32
        self.box(x0 - 0.03, y0 - 0.03, x1 + 0.03, y0 + shelves * height + 0.02, (0.16, 0.09, 0.045))
        for k in range(shelves):
            base, x = y0 + k * height, x0
            self.box(x0, base, x1, base + height - 0.03, (0.03, 0.022, 0.016))
            while x < x1 - 0.06:
                width = 0.02 + 0.035 * rng.random()
                if rng.random() < 0.93:
                    hue = np.array(SPINES[rng.integers(len(SPINES))]) * (0.6 + 0.7 * rng.random())
                    top = base + 0.17 + 0.10 * rng.random()
                    self.box(x, base, x + width - 0.004, top, tuple(hue))
                    self.box(x, top - 0.06, x + width - 0.004, top - 0.05, tuple(hue * 0.4 + 0.15))
                x += width

    def done(self, shading: float, rng: np.random.Generator) -> np.ndarray:
        """The finished picture, darker towards its edges and corners, with uneven plaster."""
        y, x = np.mgrid[0:WALL_PX, 0:WALL_PX] / WALL_PX - 0.5
        corner = 1 - shading * ((2 * x) ** 4 + (2 * y) ** 4) / 2
        blotch = cv2.resize(
            rng.standard_normal((24, 24)).astype(np.float32), (WALL_PX, WALL_PX), interpolation=cv2.INTER_CUBIC
        )
        return (self.pixels * (WALL_LIGHT * corner * (1 + 0.025 * blotch))[..., None]).astype(np.float32)


def window_wall(rng: np.random.Generator) -> np.ndarray:
    w = WallPicture(0, (0.36, 0.35, 0.31))
    w.window(-1.45, 0.02, -0.35, 1.45, 27.0, rng)
    w.window(0.35, 0.02, 1.45, 1.45, 27.0, rng)
    w.box(-2.1, -0.74, 2.4, -0.64, (0.45, 0.43, 0.40))
    w.box(-1.2, -0.60, 1.2, -0.12, (0.50, 0.49, 0.46))
    for x in np.arange(-1.15, 1.2, 0.1):
        w.box(x, -0.58, x + 0.03, -0.14, (0.33, 0.32, 0.30))
    return w.done(0.35, rng)


def door_wall(rng: np.random.Generator) -> np.ndarray:
    w = WallPicture(1, (0.47, 0.36, 0.24))
    w.box(-1.55, -0.74, -0.60, 1.36, (0.50, 0.48, 0.44))
    w.box(-1.47, -0.70, -0.68, 1.28, (0.24, 0.13, 0.06))
    for y in (-0.55, 0.40):
        w.box(-1.36, y, -0.79, y + 0.75, (0.17, 0.09, 0.04))
    w.box(-0.80, 0.24, -0.72, 0.28, (0.6, 0.5, 0.25))
    w.picture(0.0, 0.25, 0.75, 1.20, rng)
    w.picture(0.95, 0.55, 1.45, 1.10, rng)
    w.box(0.2, -0.74, 1.9, -0.02, (0.11, 0.16, 0.17))
    for x in (0.23, 0.80, 1.37):
        w.box(x, -0.62, x + 0.50, -0.08, (0.15, 0.22, 0.23))
    return w.done(0.40, rng)


def near_wall(rng: np.random.Generator) -> np.ndarray:
    w = WallPicture(2, (0.30, 0.37, 0.36))
    w.window(0.75, 0.25, 1.55, 1.40, 8.0, rng)
    w.picture(-1.6, 0.35, -0.5, 1.15, rng)
    w.box(-1.9, -0.74, -0.2, -0.20, (0.22, 0.06, 0.04))
    w.box(-1.9, -0.45, -0.2, -0.20, (0.30, 0.09, 0.05))
    w.box(-2.5, -0.74, 2.3, -0.66, (0.45, 0.43, 0.40))
    return w.done(0.40, rng)


def far_wall(rng: np.random.Generator) -> np.ndarray:
    w = WallPicture(3, (0.46, 0.44, 0.38))
    w.books(-0.4, -0.72, 1.6, 7, rng)
    w.picture(-1.9, 0.2, -0.9, 1.3, rng)
    w.box(-1.45, -0.74, -1.41, -0.10, (0.05, 0.04, 0.03))
    w.box(-1.75, -0.30, -1.10, -0.02, (1.9, 1.35, 0.75))
    return w.done(0.40, rng)


def floor_wall(rng: np.random.Generator) -> np.ndarray:
    w = WallPicture(4, (0.2, 0.12, 0.06))
    for x in np.arange(-2.5, 2.3, 0.14):
        y = -2.1 - rng.random() * 0.8
        while y < 2.4:
            tone = 0.7 + 0.6 * rng.random()
            w.box(x, y, x + 0.13, y + 0.79, (0.24 * tone, 0.13 * tone, 0.06 * tone))
            y += 0.8
    w.box(-1.3, -1.2, 1.3, 1.2, (0.20, 0.05, 0.05))
    for k, colour in enumerate([(0.35, 0.28, 0.18), (0.06, 0.08, 0.14), (0.22, 0.07, 0.06)]):
        m = 0.1 + 0.12 * k
        w.box(-1.3 + m, -1.2 + m, 1.3 - m, 1.2 - m, colour)
    return w.done(0.3, rng) * 0.8


def ceiling_wall(rng: np.random.Generator) -> np.ndarray:
    w = WallPicture(5, (0.52, 0.50, 0.46))
    w.box(0.25, -0.75, 0.85, -0.15, (5.0, 4.2, 3.1))
    return w.done(0.25, rng)


def rectangle(wall: int, x0: float, y0: float, x1: float, y1: float, side: int) -> Emitter:
    """A light that covers a rectangle drawn on a wall."""
    axis = wall // 2
    i, j = [(1, 2), (0, 2), (0, 1)][axis]
    corner, u, v = np.zeros(3), np.zeros(3), np.zeros(3)
    corner[axis] = (ROOM_LOW, ROOM_HIGH)[wall % 2][axis]
    corner[i], corner[j], u[i], v[j] = x0, y0, x1 - x0, y1 - y0
    return Emitter(corner, u, v, side)


def draw_walls(rng: np.random.Generator) -> list[np.ndarray]:
    """The six wall pictures in the order -x +x -y +y -z +z."""
    return [draw(rng) for draw in (window_wall, door_wall, near_wall, far_wall, floor_wall, ceiling_wall)]


def lights() -> tuple[Emitter, ...]:
    """The windows and the lamp, where the walls show them."""
    return (
        rectangle(0, -1.45, 0.02, -0.35, 1.45, 5),
        rectangle(0, 0.35, 0.02, 1.45, 1.45, 5),
        rectangle(2, 0.75, 0.25, 1.55, 1.40, 4),
        rectangle(5, 0.25, -0.75, 0.85, -0.15, 4),
    )
