"""Seeded colours, finishes and surroundings: printed and plain, dull and glossy, painted and bare metal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32

from pose.learned.training.textures import texture
from recon.evaluate.synthetic.noise import NoiseField

N_PICTURES = 96
"""Grey pictures that all scenes draw from; each takes about a tenth of a second and 1 MB."""
N_BLURS = 4
"""How often an environment is blurred: mirror, satin, dull, and nearly even."""


@cache
def picture(index: int) -> Float32[np.ndarray, "side side"]:
    """A grey picture of a random kind, the same for the same index."""
    return texture(np.random.default_rng([index, 31]))


@dataclass(frozen=True)
class Finish:
    """What one piece is covered with."""

    picture_idx: int
    """-1: solid noise instead, which has no seams."""
    grain: float
    """Of the solid noise, in object sizes."""
    repeat: float
    """Object sizes that one picture covers."""
    palette: Float32[np.ndarray, "3 3"]
    """Linear colours of dark, middle and light grey."""
    gloss: float
    """Share of the mirrored surroundings at normal incidence; 0 none, 0.04 glaze, above 0.3 metal."""
    roughness: float
    """0 mirrors sharply, 1 evenly."""


def random_finish(rng: np.random.Generator) -> Finish:
    """A finish: a quarter bare (satin or polished) metal or nearly so, a third glazed, a fifth nearly plain."""
    hue = rng.uniform(0.03, 0.9, 3)
    palette = np.stack([hue * rng.uniform(0.05, 0.7), hue, hue + (1 - hue) * rng.uniform(0.1, 0.9)])
    if rng.random() < 0.4:
        palette = rng.uniform(0.03, 0.9, (3, 3))
    if rng.random() < 0.2:  # nearly plain
        palette = hue + (palette - hue) * rng.uniform(0.0, 0.25)
    kind = rng.random()
    gloss = rng.uniform(0.35, 0.9) if kind < 0.22 else rng.uniform(0.02, 0.08) if kind < 0.55 else 0.0
    if kind < 0.22:  # a metal's colour lies in its reflection
        palette = palette * rng.uniform(0.05, 0.4)
    return Finish(
        picture_idx=int(rng.integers(N_PICTURES)) if rng.random() < 0.7 else -1,
        grain=float(2 ** rng.uniform(-7, -2)),
        repeat=float(rng.uniform(0.5, 1.6)),
        palette=palette.astype(np.float32),
        gloss=float(gloss),
        roughness=float(rng.uniform(0.1, 0.9)),
    )


def albedo(
    finish: Finish, at: Float32[np.ndarray, "n 3"], uv: Float32[np.ndarray, "n 2"], texels: float, noise: NoiseField
) -> Float32[np.ndarray, "n 3"]:
    """Linear colours at places on a piece; texels: of the picture that one pixel covers."""
    if finish.picture_idx < 0:
        grey = np.clip(0.5 + 0.25 * noise(at, finish.grain, 2), 0, 1)
    else:
        grey = look_up(picture(finish.picture_idx), uv / finish.repeat, texels)
    dark, middle, light = finish.palette
    low, high = np.clip(2 * grey, 0, 1)[:, None], np.clip(2 * grey - 1, 0, 1)[:, None]
    return np.asarray(dark + (middle - dark) * low + (light - middle) * high, np.float32)


def look_up(
    grey: Float32[np.ndarray, "side side"], uv: Float32[np.ndarray, "n 2"], texels: float
) -> Float32[np.ndarray, " n"]:
    """The repeated, mirrored picture at uv, first made smaller where a pixel covers several texels."""
    while texels > 1.5 and len(grey) > 32:
        grey, texels = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), texels / 2
    fold = np.abs((uv / 2 - np.floor(uv / 2)) * 2 - 1) * (len(grey) - 1)
    return sample(grey, fold)


def sample(image: np.ndarray, xy: Float32[np.ndarray, "n 2"]) -> np.ndarray:
    """Bilinear values at array positions; the border's beyond it."""
    rows = -(-len(xy) // 4096)  # remap takes no side above 32767
    padded = np.zeros((rows * 4096, 2), np.float32)
    padded[: len(xy)] = xy
    at = padded.reshape(rows, 4096, 2)
    values = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values.reshape(rows * 4096, *image.shape[2:])[: len(xy)])


@dataclass(frozen=True)
class Surroundings:
    """What glossy things mirror: a room by direction, ever more blurred."""

    panoramas: list[Float32[np.ndarray, "h w 3"]]
    """Rows from straight up to straight down, columns around."""

    def seen(
        self, direction: Float32[np.ndarray, "n 3"], roughness: Float32[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n 3"]:
        """Radiance in unit directions, of the two panoramas nearest to a roughness."""
        h, w, _ = self.panoramas[0].shape
        row = np.arccos(np.clip(direction[:, 2], -1, 1)) / np.pi * h - 0.5
        column = (np.arctan2(direction[:, 1], direction[:, 0]) / (2 * np.pi) + 0.5) * w - 0.5
        at = np.stack([column, row], -1).astype(np.float32)
        level = np.clip(roughness, 0, 1) * (N_BLURS - 1)
        return np.asarray(
            sum(sample(p, at) * np.maximum(1 - np.abs(level - k), 0)[:, None] for k, p in enumerate(self.panoramas))
        )


def random_surroundings(rng: np.random.Generator) -> Surroundings:
    """Walls that shade, windows and lamps as bright patches, dark furniture, a table below the horizon."""
    h, w = 64, 128
    coarse = rng.uniform(0.15, 0.6, (4, 8, 3)).astype(np.float32)
    room = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC).clip(0.02, 1)
    for _ in range(int(rng.integers(3, 12))):
        x, y = int(rng.integers(0, w)), int(rng.integers(0, h))
        size = rng.integers(3, 26, 2).tolist()
        bright = rng.uniform(1.5, 6.0) if rng.random() < 0.5 else rng.uniform(0.01, 0.3)
        room[y : y + size[0], x : x + size[1]] = bright * rng.uniform(0.7, 1.0, 3)
    room[h // 2 + 2 :] = room[h // 2 + 2 :] * 0.2 + rng.uniform(0.05, 0.5, 3) * 0.8
    wide = np.concatenate([room, room, room], 1).astype(np.float32)
    blurred = [wide, *(cv2.GaussianBlur(wide, (0, 0), s) for s in (2.0, 5.0, 14.0))]
    return Surroundings([np.ascontiguousarray(p[:, w : 2 * w]) for p in blurred])
