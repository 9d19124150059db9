"""The table top's picture: oak boards, scratches, and a linen mat printed with sprigs, no two alike."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from recon.evaluate.synthetic.noise import NoiseField
from recon.evaluate.synthetic.room import TABLE_HALF


def planks(noise: NoiseField, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Oak boards along x: grain, rings, joints, scratches, at table positions `x`, `y` (flat arrays)."""
    width = 0.124
    board = np.floor(y / width + 0.37)
    shift = board * 0.731
    q = np.stack([x + shift, y + 0.004 * np.sin(7 * (x + shift)), shift], -1).astype(np.float32)
    ring = noise(q, (0.5, 0.022, 1.0), 3)
    grain = noise(q + 1, (0.05, 0.0012, 1.0), 2)
    pore = noise(q + 2, (0.012, 0.0007, 1.0))
    tone = 1 + 0.16 * np.sin(board * 12.9898) + 0.13 * np.sin(5 * ring) + 0.12 * grain
    tone -= 0.30 * np.clip(pore - 1.3, 0, 1)
    joint = np.abs((y / width + 0.37) % 1 - 0.5)
    tone *= 1 - 0.75 * (joint > 0.5 - 0.0009 / width)
    stain = noise(q * np.array([1, 1, 0], np.float32), 0.11, 3)
    colour = np.array([0.36, 0.185, 0.078]) * np.clip(tone, 0.25, 1.9)[:, None]
    return colour * (1 + 0.07 * stain[:, None] * np.array([1, 0.9, 0.7]))


def scratch(picture: np.ndarray, rng: np.random.Generator, count: int) -> None:
    """Draw thin light and dark scratches into the picture."""
    h, w, _ = picture.shape
    for _ in range(count):
        a = rng.random(2) * (w, h)
        b = a + rng.standard_normal(2) * (0.05 * w)
        tone = 1.35 if rng.random() < 0.5 else 0.6
        colour = picture[int(a[1]), int(a[0])] * tone
        cv2.line(picture, tuple(int(v) for v in a), tuple(int(v) for v in b), colour.tolist(), 1, cv2.LINE_AA)


def mat(noise: NoiseField, rng: np.random.Generator, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """A square linen mat printed with sprigs: its colours and its coverage."""
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    flat = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], -1) * np.float32(0.4 / size_px)
    weave = (
        (np.sin(x * 1.9) * np.sin(y * 1.9) * 0.06).ravel()
        + 0.05 * noise(flat, (0.03, 0.0009, 1.0))
        + 0.05 * noise(flat + 1, (0.0009, 0.03, 1.0))
    )
    cloth = np.array([0.70, 0.64, 0.52]) * (1 + weave + 0.05 * noise(flat, 0.06, 3))[:, None]
    ink = Image.new("RGB", (size_px, size_px), (255, 255, 255))
    draw = ImageDraw.Draw(ink)
    inks = [(60, 92, 140), (168, 62, 52), (96, 120, 70), (190, 140, 60), (70, 60, 66)]
    s = size_px / 400
    for k, edge in enumerate((10, 15, 27)):
        draw.rectangle(
            [edge * s, edge * s, size_px - edge * s, size_px - edge * s], outline=inks[0], width=int((2, 1, 1)[k] * s)
        )
    for _ in range(90):
        cx, cy = (34 + 332 * rng.random(2)) * s
        sprig(draw, cx, cy, (7 + 9 * rng.random()) * s, rng.random() * 6.28, inks[rng.integers(len(inks))], rng)
    print_ = (np.asarray(ink, np.float32) / 255) ** 2.2
    print_ = print_ + (1 - print_) * 0.25 * np.clip(noise(flat, 0.004, 2).reshape(size_px, size_px, 1), 0, 1)
    cover = np.zeros((size_px, size_px), np.float32)
    cover[2:-2, 2:-2] = 1
    return (cloth.reshape(size_px, size_px, 3) * print_).astype(np.float32), cover


def sprig(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    size: float,
    turn: float,
    ink: tuple[int, int, int],
    rng: np.random.Generator,
) -> None:
    """A twig with leaves or berries, no two alike."""
    direction = np.array([np.cos(turn), np.sin(turn)])
    side = np.array([-direction[1], direction[0]])
    start = np.array([x, y])
    draw.line([*start, *(start + direction * size * 2)], fill=ink, width=max(1, int(size * 0.11)))
    n = int(rng.integers(3, 7))
    round_ones = rng.random() < 0.35
    for k in range(n):
        at = start + direction * size * 2 * (k + 0.7) / n
        for sign in (-1, 1):
            tip = at + (side * sign + direction * (0.3 + 0.6 * rng.random())) * size * (0.75 - 0.07 * k)
            middle, half = (at + tip) / 2, (tip - at) / 2
            if round_ones:
                r = size * 0.16
                draw.line([*at, *tip], fill=ink, width=1)
                draw.ellipse([tip[0] - r, tip[1] - r, tip[0] + r, tip[1] + r], fill=ink)
            else:
                normal = np.array([-half[1], half[0]]) * (0.3 + 0.2 * rng.random())
                draw.polygon([tuple(at), tuple(middle + normal), tuple(tip), tuple(middle - normal)], fill=ink)


def table_picture(noise: NoiseField, rng: np.random.Generator, width_px: int) -> np.ndarray:
    """Albedo of the whole table top."""
    h, w = int(width_px * TABLE_HALF[1] / TABLE_HALF[0]), width_px
    out = np.empty((h, w, 3), np.float32)
    x = ((np.arange(w) + 0.5) / w * 2 - 1) * TABLE_HALF[0]
    for i0 in range(0, h, 256):
        rows = np.arange(i0, min(i0 + 256, h))
        y = (1 - (rows + 0.5) / h * 2) * TABLE_HALF[1]
        xx, yy = np.meshgrid(x, y)
        out[rows] = planks(noise, xx.ravel(), yy.ravel()).reshape(len(rows), w, 3)
    scratch(out, rng, 160)
    scale = w / (2 * TABLE_HALF[0])
    size_px = int(0.36 * scale)
    cloth, cover = mat(noise, rng, size_px)
    angle = 0.31
    c, s = np.cos(angle), np.sin(angle)
    place = np.array([[c, -s, 0], [s, c, 0]], np.float32)
    place[:, 2] = np.array([w / 2, h / 2]) - place[:, :2] @ np.full(2, size_px / 2)
    shadow = cv2.GaussianBlur(cv2.warpAffine(cover, place, (w, h)), (0, 0), 0.0022 * scale)
    laid = cv2.warpAffine(cloth, place, (w, h), flags=cv2.INTER_LINEAR)
    cover = cv2.warpAffine(cover, place, (w, h))[..., None]
    return (out * (1 - 0.45 * shadow[..., None]) * (1 - cover) + laid * cover).clip(0.01, 0.85).astype(np.float32)
