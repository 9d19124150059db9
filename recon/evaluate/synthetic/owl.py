"""A painted, glazed ceramic owl with a knitted scarf, a money box on a lettered plinth: our own design.

Front is -y, up is +z, metres. Every pattern is a function of the place in space, so that no unwrapping is needed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float

from recon.evaluate.synthetic.design import Brush, Design, Paint, Rgb, lettering, look_up
from recon.evaluate.synthetic.noise import NoiseField, cell_random, step
from recon.evaluate.synthetic.owl_shape import EYES, SLOT, owl_sdf, parts, scarf_frame, side_by_side, wing_frame
from recon.evaluate.synthetic.shapes import Points, turned

TEAL: Rgb = (0.035, 0.16, 0.19)
DEEP: Rgb = (0.018, 0.055, 0.10)
CREAM: Rgb = (0.72, 0.62, 0.45)
BROWN: Rgb = (0.17, 0.065, 0.025)
OCHRE: Rgb = (0.60, 0.31, 0.05)
ORANGE: Rgb = (0.72, 0.24, 0.03)
RED: Rgb = (0.45, 0.035, 0.035)
GREEN: Rgb = (0.045, 0.12, 0.05)
CLAY: Rgb = (0.55, 0.36, 0.24)
BLACK: Rgb = (0.012, 0.011, 0.012)
WHITE: Rgb = (0.8, 0.78, 0.72)


def flower(u: np.ndarray, v: np.ndarray, petals: int, radius: float, turn: float) -> np.ndarray:
    """Signed distance (roughly) to a petalled outline around the origin of a plane."""
    r, angle = np.hypot(u, v), np.arctan2(v, u) + turn
    return r - radius * (0.72 + 0.28 * np.cos(petals * angle))


def scales(u: np.ndarray, v: np.ndarray, width: float, height: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping scales (feathers) in a plane: distance inside the nearest one's rim, and its column and row."""
    best = np.full(u.shape, np.inf)
    column, row = np.zeros(u.shape), np.zeros(u.shape)
    for k in (1, 0):  # the upper row lies over the lower one
        r = np.floor(v / height) + k
        c = np.floor(u / width + 0.5 * (r % 2))
        cu = (c + 0.5 - 0.5 * (r % 2)) * width
        rim = np.hypot(u - cu, (v - (r + 0.45) * height) * 0.8) - 0.56 * width
        take = (rim < 0) if k == 1 else ~np.isfinite(best)
        best, column, row = np.where(take, rim, best), np.where(take, c, column), np.where(take, r, row)
    return best, column, row


def paint_body(b: Brush, on: np.ndarray, p: Points, noise: NoiseField) -> None:
    """Teal coat, cream belly with brown feathers, folk-art flowers and dots on the back."""
    wob = 0.0010 * noise(p, 0.016)
    phi, z = np.arctan2(p[:, 0], -p[:, 1]), p[:, 2] + wob
    u = phi * 0.049 + 0.0010 * noise(p + 0.3, 0.013)
    b.lay(on, TEAL, 0.16, 1)
    b.lay(on * step(0.9 - noise(p, (0.020, 0.020, 0.006), 2), 0.5) * 0.5, (0.05, 0.24, 0.26))
    belly = np.hypot(u / 0.036, (z - 0.072) / 0.047) - 1
    rim, column, row = scales(u, z, 0.0115, 0.0098)
    pick = cell_random(column, row)
    inside = on * step(belly, 0.03)
    b.lay(inside, CREAM)
    b.lay(inside * step(-0.0011 - rim, 0.0008) * step(rim + 0.00005, 0.0002), BROWN)
    b.lay(inside * step(rim + 0.0026, 0.0006) * (pick > 0.35) * 0.85, (0.54, 0.279, 0.045))
    b.lay(inside * step(np.abs(rim + 0.0040) - 0.0005, 0.0005) * (pick > 0.7), RED)
    b.lay(on * step(np.abs(belly) - 0.035, 0.02), BROWN)
    garden = ((0.125, 0.088, 6, ORANGE), (-0.128, 0.062, 5, CREAM), (0.155, 0.052, 7, RED), (-0.112, 0.103, 8, OCHRE))
    for at, up, petals, colour in garden:
        du = (u - at + 0.154) % 0.308 - 0.154
        b.lay(on * step(flower(du, z - up, petals, 0.0125, at * 40), 0.0008), colour)
        b.lay(on * step(np.hypot(du, z - up) - 0.0036, 0.0006), BROWN if colour == CREAM else WHITE)
        b.lay(
            on
            * step(np.abs(np.hypot(du, z - up) - 0.0155) - 0.0005, 0.0006)
            * step(-np.sin(24 * np.arctan2(du, z - up)), 0.6),
            CREAM,
        )
    cu, cz = np.floor(u / 0.0085), np.floor(z / 0.0085)
    fu, fz = (u / 0.0085 - cu - 0.5), (z / 0.0085 - cz - 0.5)
    size = 0.05 + 0.12 * cell_random(cu, cz)
    dot = np.hypot(fu - 0.3 * (cell_random(cz, cu + 7) - 0.5), fz) - size
    b.lay(on * step(0.06 - belly, 0.02) * step(dot, 0.06) * (cell_random(cu + 3, cz) > 0.3), CREAM)


def paint_head(b: Brush, on: np.ndarray, p: Points, noise: NoiseField) -> None:
    """Dark crown with cream chevrons between the tufts, dashes on the back of the head."""
    x = np.abs(p[:, 0]) + 0.0008 * noise(p, 0.012)
    z = p[:, 2] + 0.0008 * noise(p + 0.7, 0.012)
    b.lay(on, TEAL, 0.18, 1)
    b.lay(on * step(0.172 - z + 0.20 * (p[:, 1] + 0.01), 0.002), DEEP)
    wave = ((z - 0.55 * x) / 0.0072) % 1
    front = step(p[:, 1] + 0.004, 0.003) * step(0.160 - z, 0.002) * step(x - 0.023 - 0.5 * (z - 0.18), 0.0015)
    b.lay(on * front * step(np.abs(wave - 0.5) - 0.17, 0.10), OCHRE)
    b.lay(on * front * step(np.abs(wave - 0.5) - 0.05, 0.10), CREAM)
    phi = np.arctan2(p[:, 0], -p[:, 1])
    row = np.floor(z / 0.0078)
    cell = phi / 0.19 + 0.5 * (row % 2)
    across, along = (cell % 1) - 0.5, (z / 0.0078 - row) - 0.5
    keep = cell_random(np.floor(cell), row) > 0.22
    dash = np.hypot(across * (1.6 + 2 * cell_random(row, np.floor(cell))), along * 1.25) - 0.30
    back = step(-p[:, 1], 0.004)
    b.lay(on * back * keep * step(dash, 0.12), CREAM)
    b.lay(on * back * keep * step(dash + 0.16, 0.08), RED)
    b.lay(on * step(0.2015 - z, 0.003) * (x > 0.02), ORANGE)


def paint_wing(b: Brush, on: np.ndarray, p: Points, noise: NoiseField) -> None:
    """Rows of feathers, each row its own colour, with a quill line in each feather."""
    q = wing_frame(p)
    v = q[:, 2] + 0.0009 * noise(p, 0.012)
    u = q[:, 1] + 0.0007 * noise(p + 0.5, 0.010)
    rim, column, row = scales(u, v, 0.0125, 0.0135)
    b.lay(on, DEEP, 0.14, 1)
    pick = cell_random(row, np.zeros_like(row))
    fill = on * step(rim + 0.0009, 0.0006)
    for low, colour in ((0.0, TEAL), (0.3, OCHRE), (0.55, (0.10, 0.26, 0.20)), (0.78, CREAM)):
        b.lay(fill * (pick >= low), colour)
    b.lay(fill * step(rim + 0.0032, 0.0012) * 0.35 * (0.5 + cell_random(column, row)), BROWN)
    cu = (column + 0.5 - 0.5 * (row % 2)) * 0.0125
    b.lay(fill * step(np.abs(u - cu) - 0.00045, 0.0005), BROWN)
    b.lay(on * step(np.abs(np.hypot(q[:, 1] / 0.030, q[:, 2] / 0.054) - 0.94) - 0.018, 0.02), CREAM)


def paint_face(b: Brush, dish: np.ndarray, eye: np.ndarray, p: Points, noise: NoiseField) -> None:
    """Cream eye dishes with brown strokes running outward, orange eyes."""
    q = turned(side_by_side(p), EYES[1], "z", -24.0)
    r, angle = np.hypot(q[:, 0], q[:, 2]), np.arctan2(q[:, 2], q[:, 0]) + np.where(p[:, 0] > 0, 0.2, 0.0)
    b.lay(dish, CREAM, 0.2, 1)
    spoke = (angle / (2 * np.pi) * 26) % 1
    n = np.floor(angle / (2 * np.pi) * 26)
    long = 0.0150 + 0.005 * cell_random(n, np.sign(p[:, 0]))
    stroke = np.abs(spoke - 0.5) - 0.26 * (1 - (r - 0.011) / (long - 0.0095))
    b.lay(dish * step(stroke, 0.10) * step(r - long, 0.001), BROWN)
    b.lay(dish * step(np.abs(r - 0.0201 - 0.0004 * noise(p, 0.006)) - 0.0008, 0.0006), ORANGE)
    b.lay(eye, BLACK, 0.07, 1)
    b.lay(eye * step(r - 0.0089, 0.0005), ORANGE)
    b.lay(eye * step(r - 0.0075, 0.002) * (0.5 + 0.4 * np.sin(angle * 31)), (0.78, 0.50, 0.06))
    b.lay(eye * step(r - 0.0050, 0.0004), BLACK)


def paint_scarf(b: Brush, on: np.ndarray, p: Points, noise: NoiseField) -> None:
    """Red wool with cream and ochre stripes, stitches, a fringe at the hanging end."""
    phi = np.arctan2(p[:, 0], -p[:, 1])
    q = scarf_frame(p)
    hangs = np.maximum(np.maximum(np.abs(q[:, 0]) - 0.0135, np.abs(q[:, 1]) - 0.007), q[:, 2] - 0.018) < 0
    along = np.where(hangs, q[:, 2], phi * 0.049) + 0.0005 * noise(p, 0.006)
    b.lay(on, RED, 0.8, 0.15)
    t = (along / 0.0165) % 1
    b.lay(on * step(np.abs(t - 0.5) - 0.16, 0.06), CREAM)
    b.lay(on * step(np.abs(t - 0.5) - 0.045, 0.05), DEEP)
    b.lay(on * step(np.abs(t - 0.02) - 0.03, 0.04), OCHRE)
    side = np.where(hangs, q[:, 0], p[:, 2])
    stitch = np.sin((along + 0.35 * np.abs(((side / 0.0032) % 1) - 0.5) * 0.0032) / 0.0024 * 2 * np.pi)
    rib = np.cos(2 * np.pi * side / 0.0032)
    b.shade(1 + on * (0.16 * stitch * (0.6 + 0.4 * rib) + 0.12 * rib + 0.08 * noise(p, 0.002)))
    fringe = on * hangs * step(q[:, 2] + 0.0225, 0.0008)
    b.lay(fringe, CREAM)
    b.lay(fringe * step(np.abs((q[:, 0] / 0.0030) % 1 - 0.5) - 0.14, 0.1), BROWN)


@cache
def plinth_words() -> Float[np.ndarray, "h w"]:
    """The lettering around the plinth, once around."""
    return lettering(
        "SAVE  A  LITTLE,  BE  WISE   *   OTTO  THE  OWL   *   No. 27   *   ", 96, 2 * np.pi * 0.0585 / 0.0125
    )


def paint_plinth(b: Brush, on: np.ndarray, p: Points, noise: NoiseField) -> None:
    """Green with ochre rims, cream letters, a dotted top."""
    phi, r = np.arctan2(p[:, 0], -p[:, 1]), np.hypot(p[:, 0], p[:, 1])
    z = p[:, 2] + 0.0003 * noise(p, 0.01)
    b.lay(on, GREEN, 0.22, 1)
    b.lay(on * step(0.9 - noise(p, (0.012, 0.012, 0.004), 2), 0.5) * 0.5, (0.08, 0.19, 0.07))
    b.lay(on * look_up(plinth_words(), phi / (2 * np.pi), (z - 0.0045) / 0.0125), CREAM)
    b.lay(on * step(np.abs(z - 0.0188) - 0.0008, 0.0004), OCHRE)
    b.lay(on * step(np.abs(z - 0.0030) - 0.0007, 0.0004), OCHRE)
    top = on * step(0.0207 - z, 0.0006)
    angle = phi / (2 * np.pi) * 40
    bead = (
        np.hypot(((angle % 1) - 0.5) * 0.0085, r - 0.0525)
        - 0.0017
        - 0.0012 * cell_random(np.floor(angle), np.zeros_like(r))
    )
    b.lay(top * step(bead, 0.0005), CREAM)


def weather(b: Brush, p: Points, noise: NoiseField, wool: np.ndarray) -> None:
    """Uneven glaze, brush hairs, dark flecks, crackle, and chips at the plinth's edges that show the clay."""
    hard = 1 - wool
    b.shade(1 + 0.10 * noise(p, 0.03, 3) + 0.07 * noise(p, (0.0022, 0.0022, 0.016), 2) * hard)
    b.lay(hard * step(2.55 - noise(p + 1.1, 0.0028), 0.25) * 0.8, BROWN)
    b.lay(hard * step(2.5 - noise(p + 2.3, 0.0024), 0.25) * 0.6, WHITE)
    crack = np.abs(noise(p + 3.1, 0.011, 2))
    b.lay(hard * step(crack - 0.02, 0.03) * step(-0.4 - noise(p, 0.05), 0.5) * 0.4, BROWN)
    r = np.hypot(p[:, 0], p[:, 1])
    edge = np.maximum(np.minimum(np.abs(p[:, 2] - 0.0200), np.abs(p[:, 2] - 0.0012)), np.abs(r - 0.0575))
    chip = edge * 600 + 0.9 - 1.1 * noise(p + 4.7, 0.007, 3)
    tip = np.abs(p[:, 2] - 0.2095) * 400 + 0.3 - noise(p + 5.3, 0.006, 2)
    b.lay(step(np.minimum(chip, tip), 0.12), CLAY, 0.9, 0)


def paint_owl(p: Points, noise: NoiseField) -> Paint:
    """Colour and finish of the owl at points on (or near) its surface."""
    d = parts(p)
    names = list(d)
    wobble = 0.0004 * noise(p, 0.008)
    nearest = np.argmin([d[k] + (wobble if i % 2 else 0) for i, k in enumerate(names)], axis=0)
    on = {k: (nearest == i).astype(np.float32) for i, k in enumerate(names)}
    b = Brush(len(p), TEAL, 0.16, 1.0)
    paint_body(b, on["body"], p, noise)
    paint_head(b, on["head"], p, noise)
    paint_wing(b, on["wing"], p, noise)
    paint_face(b, on["dish"], on["eye"], p, noise)
    b.lay(on["beak"], ORANGE, 0.12, 1)
    b.lay(on["toes"], ORANGE, 0.2, 1)
    b.lay(on["toes"] * step(p[:, 1] + 0.0535, 0.001), BLACK)
    paint_plinth(b, on["plinth"], p, noise)
    paint_scarf(b, on["scarf"], p, noise)
    weather(b, p, noise, on["scarf"])
    slot = np.max(np.abs((p - np.asarray(SLOT, p.dtype)) / np.asarray((0.0143, 0.0021, 0.030), p.dtype)), 1)
    b.lay(step(slot - 1, 0.02), (0.05, 0.03, 0.02), 0.9, 0)
    return b.done()


OWL = Design(
    words="a painted and glazed ceramic owl with a knitted scarf, a money box on a lettered plinth (own design)",
    material_class="strongly textured, glossy",
    sdf=owl_sdf,
    paint=paint_owl,
    low=(-0.075, -0.075, -0.004),
    high=(0.075, 0.075, 0.222),
)
