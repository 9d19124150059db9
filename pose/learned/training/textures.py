"""Seeded grey textures of many kinds, newspaper to plaster: the only pictures that the network learns from."""

from __future__ import annotations

import string
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw, ImageFont

Texture = Float32[np.ndarray, "side side"]

SIDE_PX = 512


def fractal(rng: np.random.Generator, stretch: float = 1.0) -> Texture:
    """Noise with a power spectrum of 1/f^a: clouds and marble at large a, sand at small a; `stretch` makes streaks."""
    f = np.fft.fftfreq(SIDE_PX)
    radius = np.hypot(f[:, None], f[None, :] * stretch)
    radius[0, 0] = 1
    spectrum = np.fft.fft2(rng.standard_normal((SIDE_PX, SIDE_PX))) * radius ** -rng.uniform(0.6, 2.0)
    return _unit(np.fft.ifft2(spectrum).real)


def dead_leaves(rng: np.random.Generator) -> Texture:
    """Shapes of a plain or shaded grey that cover each other, sizes by a power law (Lee, Mumford and Huang 2001)."""
    out = np.full((SIDE_PX, SIDE_PX), rng.uniform(0, 1), np.float32)
    inside = fractal(rng) - 0.5
    smallest = rng.uniform(3, 8)
    for _ in range(int(rng.integers(200, 900))):
        size = min(smallest / max(rng.random(), 1e-3) ** 0.7, SIDE_PX / 3)
        centre, n = rng.uniform(0, SIDE_PX, 2), int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, n)) if n < 8 else np.linspace(0, 2 * np.pi, 24, endpoint=False)
        corners = centre + size * np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.4, 1)], -1)
        mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], 1, cv2.LINE_AA, 4)
        out[mask > 0] = rng.uniform(0, 1) + inside[mask > 0] * rng.choice([0, 0.15, 0.5])
    return np.clip(out, 0, 1)


def print_page(rng: np.random.Generator) -> Texture:
    """Columns of random words, headlines, rules and grey pictures, as in a newspaper or on a label."""
    page = Image.new("L", (SIDE_PX, SIDE_PX), int(rng.integers(170, 255)))
    draw = ImageDraw.Draw(page)
    ink, n_columns = int(rng.integers(0, 90)), int(rng.integers(1, 5))
    letters = string.ascii_letters + string.digits + "   .,-"
    for column in range(n_columns):
        left, y = column * SIDE_PX // n_columns + 6, int(rng.integers(0, 20))
        width = SIDE_PX // n_columns - 12
        while y < SIDE_PX:
            size = int(rng.choice([9, 11, 11, 13, 16, 24, 40]))
            if rng.random() < 0.06:
                height = int(rng.integers(20, 120))
                picture = Image.fromarray((fractal(rng)[:height, :width] * 255).astype(np.uint8))
                page.paste(picture, (left, y))
                y += height + 5
                continue
            words = "".join(rng.choice(list(letters), max(2, int(width / size * 1.8))))
            draw.text((left, y), words, fill=ink, font=ImageFont.load_default(size))
            y += int(size * rng.uniform(1.1, 1.6))
    return np.asarray(page, np.float32) / 255


def doodles(rng: np.random.Generator) -> Texture:
    """Strokes, rings, dots and characters on a plain or cloudy ground."""
    out = 0.5 + (fractal(rng) - 0.5) * rng.choice([0.05, 0.3])
    canvas = np.ascontiguousarray(out * 255).astype(np.uint8)
    for _ in range(int(rng.integers(30, 250))):
        grey, thick = int(rng.integers(0, 256)), int(rng.integers(1, 7))
        p, q = rng.integers(0, SIDE_PX, (2, 2)).tolist()
        kind = int(rng.integers(0, 4))
        if kind == 0:
            steps = rng.normal(0, 14, (int(rng.integers(3, 20)), 2)).cumsum(0) + p
            cv2.polylines(canvas, [steps.astype(np.int32)], False, grey, thick, cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(canvas, p, int(rng.integers(2, 40)), grey, int(rng.choice([-1, thick])), cv2.LINE_AA)
        elif kind == 2:
            cv2.rectangle(canvas, p, [p[0] + q[0] // 8, p[1] + q[1] // 8], grey, int(rng.choice([-1, thick])))
        else:
            word = "".join(rng.choice(list(string.printable[:90]), 4))
            cv2.putText(
                canvas, word, p, int(rng.integers(0, 8)), rng.uniform(0.4, 2), grey, 1 + thick // 3, cv2.LINE_AA
            )
    return canvas.astype(np.float32) / 255


def wood(rng: np.random.Generator) -> Texture:
    """Rings cut lengthwise, with fine streaks and a few scratches."""
    bend = cv2.GaussianBlur(fractal(rng, rng.uniform(3, 8)), (0, 0), 3)
    rings = np.sin(bend * rng.uniform(20, 90))
    return _unit(rings * rng.uniform(0.2, 1) + fractal(rng, 12.0) * 3 + fractal(rng) * rng.uniform(0, 2))


def weave(rng: np.random.Generator) -> Texture:
    """Threads over and under, uneven in thickness and brightness, sometimes checked."""
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(np.float32)
    x, y = x + 8 * (fractal(rng) - 0.5), y + 8 * (fractal(rng) - 0.5)
    pitch = rng.uniform(4, 14)
    threads = np.sin(x / pitch * np.pi) * np.sin(y / pitch * np.pi)
    band = np.sin(x / rng.uniform(15, 60)) + np.sin(y / rng.uniform(15, 60))
    return _unit(threads * rng.uniform(0.1, 0.6) + band * rng.choice([0, 0.6]) + fractal(rng) * 2)


def cells(rng: np.random.Generator) -> Texture:
    """Stones, tiles or leather: the distance to the second nearest of random sites less that to the nearest."""
    n = int(rng.integers(30, 900))
    sites = rng.integers(0, SIDE_PX, (n, 2))
    mask = np.full((SIDE_PX, SIDE_PX), 255, np.uint8)
    mask[sites[:, 1], sites[:, 0]] = 0
    distance, label = cv2.distanceTransformWithLabels(mask, cv2.DIST_L2, 5)
    tone = rng.uniform(0, 1, label.max() + 1).astype(np.float32)[label]
    return _unit(tone * rng.choice([0.0, 1.0]) - distance / distance.max() * 2 + 0.5 * fractal(rng))


def speckle(rng: np.random.Generator) -> Texture:
    """Plain paint or plaster: nearly one grey, with faint relief and scattered spots."""
    out = rng.uniform(0.3, 0.9) + (fractal(rng) - 0.5) * rng.uniform(0.03, 0.2)
    spots = np.zeros_like(out)
    for x, y in rng.integers(0, SIDE_PX, (int(rng.integers(20, 500)), 2)).tolist():
        cv2.circle(spots, (x, y), int(rng.integers(1, 6)), rng.uniform(-0.4, 0.2), -1, cv2.LINE_AA)
    return np.clip(out + spots, 0, 1).astype(np.float32)


KINDS: tuple[Callable[[np.random.Generator], Texture], ...] = (
    fractal, dead_leaves, print_page, doodles, wood, weave, cells, speckle,
)  # fmt: skip


def texture(rng: np.random.Generator) -> Texture:
    """A texture of a random kind, or two of them in patches, at a random contrast."""
    out = KINDS[int(rng.integers(len(KINDS)))](rng)
    if rng.random() < 0.4:
        other = KINDS[int(rng.integers(len(KINDS)))](rng)
        share = np.clip((cv2.GaussianBlur(fractal(rng), (0, 0), 8) - 0.5) * 30 + rng.uniform(-3, 3), 0, 1)
        out = out * (1 - share) + other * share
    contrast, middle = rng.uniform(0.15, 1), rng.uniform(0.35, 0.65)
    return np.clip((out - 0.5) * contrast + middle, 0.02, 1).astype(np.float32)


def _unit(values: np.ndarray) -> Texture:
    """Mapped to 0..1 at the 1st and 99th percentile."""
    low, high = np.percentile(values[::4, ::4], (1, 99))
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1).astype(np.float32)
