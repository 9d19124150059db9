"""The surroundings as the ray tracer sees them: a box whose walls shine with a drawn radiance, and a table top.

Metres; z = 0 is the table top.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

ROOM_LOW, ROOM_HIGH = np.array([-2.5, -2.1, -0.74]), np.array([2.3, 2.4, 1.86])
TABLE_HALF = np.array([0.62, 0.50])
"""Half edge lengths of the table top."""
TABLE_THICKNESS = 0.03
WALL_PX = 512
"""Each wall's picture is this many pixels square, about 9 mm a pixel: as sharp as a phone focused on the object."""


@dataclass(frozen=True)
class Emitter:
    """A bright rectangle on a wall, sampled explicitly as a light."""

    corner: Float[np.ndarray, "3"]
    edge_u: Float[np.ndarray, "3"]
    edge_v: Float[np.ndarray, "3"]
    side: int
    """Samples per edge."""


@dataclass(frozen=True)
class Room:
    """Wall pictures and the table's colours."""

    atlases: tuple[Float[np.ndarray, "h w 3"], ...]
    """Six wall pictures side by side, -x +x -y +y -z +z: as seen directly, in a glossy coat, in a dull one."""
    table_albedo: Float[np.ndarray, "table_h table_w 3"]
    emitters: tuple[Emitter, ...]


def sample(image: Float[np.ndarray, "h w c"], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear values of an image at positions whose pixel centres are at +0.5; edges are extended."""
    width = 8192  # cv2.remap takes at most 32767 rows and columns
    n = len(x)
    rows = max(1, -(-n // width))
    maps = np.zeros((2, rows * width), np.float32)
    maps[0, :n], maps[1, :n] = x - 0.5, y - 0.5
    shape = (rows, width)
    out = cv2.remap(
        image, maps[0].reshape(shape), maps[1].reshape(shape), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return out.reshape(rows * width, -1)[:n]


def wall_hit(o: Float[np.ndarray, "n 3"], d: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Which wall (0..5) a ray from inside the room meets, and where."""
    low, high = ROOM_LOW.astype(np.float32), ROOM_HIGH.astype(np.float32)
    safe = np.where(np.abs(d) < 1e-7, np.float32(1e-7), d)
    t = (np.where(d > 0, high, low) - o) / safe
    axis = t.argmin(1)
    rows = np.arange(len(d))
    wall = 2 * axis + (d[rows, axis] > 0)
    return wall, o + d * t[rows, axis][:, None]


def radiance(room: Room, o: np.ndarray, d: np.ndarray, blur: int) -> Float[np.ndarray, "n 3"]:
    """What a ray that leaves the scene sees; `blur` picks an atlas."""
    wall, at = wall_hit(o, d)
    unit = (at - ROOM_LOW.astype(np.float32)) / (ROOM_HIGH - ROOM_LOW).astype(np.float32)
    axis = wall // 2
    across = np.where(axis == 0, unit[:, 1], unit[:, 0])
    up = np.where(axis == 2, unit[:, 1], unit[:, 2])
    x = np.clip(across * WALL_PX, 0.5, WALL_PX - 0.5) + wall * WALL_PX
    return sample(room.atlases[blur], x, np.clip((1 - up) * WALL_PX, 0.5, WALL_PX - 0.5))


def table_colour(room: Room, at: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Albedo of the table top at points on it."""
    h, w, _ = room.table_albedo.shape
    unit = at[:, :2] / (2 * TABLE_HALF).astype(np.float32) + np.float32(0.5)
    return sample(room.table_albedo, unit[:, 0] * w, (1 - unit[:, 1]) * h)
