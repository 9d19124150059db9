"""Put the room together: drawn walls, their blurred copies for reflections, the table, the lights."""

from __future__ import annotations

import cv2
import numpy as np

from recon.evaluate.synthetic.noise import NoiseField
from recon.evaluate.synthetic.room import Room
from recon.evaluate.synthetic.tabletop import table_picture
from recon.evaluate.synthetic.walls import draw_walls, lights

BLUR_PX = (1.6, 5.0, 24.0)
"""Blur of the wall pictures: seen directly (out of focus), in a glossy coat, in a dull one."""


def make_room(seed: int, table_px: int) -> Room:
    """The room and the table, the same for the same seed; `table_px` is the width of the table top's picture."""
    rng, noise = np.random.default_rng([seed, 5]), NoiseField(seed + 1)
    walls = draw_walls(rng)
    atlases = tuple(np.concatenate([cv2.GaussianBlur(w, (0, 0), blur) for w in walls], 1) for blur in BLUR_PX)
    return Room(atlases, table_picture(noise, rng, table_px), lights())
