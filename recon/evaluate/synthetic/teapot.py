"""A glazed teapot with a thin loop handle and a curved spout: dark, glossy, sparsely painted. Our own design.

The spout points to +x, up is +z, metres.
"""

from __future__ import annotations

import numpy as np

from recon.evaluate.synthetic.design import Brush, Design, Paint, Rgb
from recon.evaluate.synthetic.noise import NoiseField, cell_random, step
from recon.evaluate.synthetic.shapes import Distances, Points, blend, carve, cone_capsule, cylinder, ellipsoid, torus

COBALT: Rgb = (0.012, 0.035, 0.16)
CELADON: Rgb = (0.30, 0.42, 0.33)
BONE: Rgb = (0.74, 0.70, 0.60)
RUST: Rgb = (0.40, 0.12, 0.03)

SPOUT = ((0.058, 0, 0.060), (0.082, 0, 0.068), (0.094, 0, 0.088), (0.101, 0, 0.112), (0.112, 0, 0.126))
SPOUT_RADII = (0.0175, 0.0130, 0.0100, 0.0080, 0.0072)


def chain(p: Points, points: tuple[tuple[float, float, float], ...], radii: tuple[float, ...]) -> Distances:
    """A bent tube through points, its joints smoothed."""
    out = cone_capsule(p, points[0], points[1], radii[0], radii[1])
    for k in range(1, len(points) - 1):
        out = blend(out, cone_capsule(p, points[k], points[k + 1], radii[k], radii[k + 1]), 0.006)
    return out


def handle(p: Points) -> Distances:
    """A thin loop at the back, flattened like a strap."""
    q = p * np.asarray((1, 0.72, 1), p.dtype)
    return torus(q, (-0.064, 0, 0.084), 1, 0.0375, 0.0052)


def lid(p: Points) -> Distances:
    """The lid with its knob."""
    cap = ellipsoid(p, (0, 0, 0.122), (0.036, 0.036, 0.0125))
    knob = blend(
        ellipsoid(p, (0, 0, 0.150), (0.0105, 0.0105, 0.009)),
        cone_capsule(p, (0, 0, 0.128), (0, 0, 0.146), 0.0075, 0.0045),
        0.004,
    )
    return blend(cap, knob, 0.005)


def teapot_sdf(p: Points) -> Distances:
    """The whole teapot, cut flat at z = 0."""
    body = ellipsoid(p, (0, 0, 0.068), (0.066, 0.066, 0.058))
    body = blend(body, cylinder(p, 0.0, 0.014, 0.042, 0.003), 0.008)
    body = blend(body, chain(p, SPOUT, SPOUT_RADII), 0.012)
    body = carve(body, cone_capsule(p, (0.106, 0, 0.119), (0.120, 0, 0.136), 0.0042, 0.0055), 0.002)
    body = blend(body, handle(p), 0.010)
    body = carve(body, torus(p, (0, 0, 0.121), 2, 0.0375, 0.0022), 0.002)  # the seam around the lid
    out = blend(body, lid(p), 0.0025)
    return np.maximum(out, -p[:, 2])


def paint_teapot(p: Points, noise: NoiseField) -> Paint:
    """Cobalt glaze that runs into a bone-coloured foot, a rust band, a scatter of brushed dots."""
    b = Brush(len(p), COBALT, 0.07, 1.0)
    phi, r = np.arctan2(p[:, 1], p[:, 0]), np.hypot(p[:, 0], p[:, 1])
    run = p[:, 2] - 0.022 - 0.006 * noise(p, (0.012, 0.012, 0.2), 2)
    b.shade(1 + 0.35 * noise(p, 0.035, 3))
    b.lay(step(run, 0.004), BONE, 0.35, 0.8)
    b.lay(step(np.abs(run + 0.001) - 0.0016, 0.002), RUST)
    top = (p[:, 2] > 0.108) & (r < 0.05)
    b.lay(top * step(0.6 - noise(p, 0.02, 2), 0.8) * 0.6, CELADON)
    u, v = phi / 0.36, p[:, 2] / 0.021
    row = np.floor(v)
    cu = np.floor(u + 0.5 * (row % 2))
    du, dv = u + 0.5 * (row % 2) - cu - 0.5, v - row - 0.5
    dot = np.hypot(du, dv) - 0.13 - 0.13 * cell_random(cu, row) + 0.03 * noise(p, 0.004)
    on_body = (p[:, 2] > 0.040) & (p[:, 2] < 0.106) & (r > 0.045) & (r < 0.0672)
    b.lay(on_body * (cell_random(row, cu) > 0.45) * step(dot, 0.06), BONE)
    b.lay(on_body * (cell_random(row, cu) > 0.45) * step(dot + 0.12, 0.05), RUST)
    b.lay(step(2.3 - noise(p, 0.0025), 0.2) * 0.7, (0.02, 0.015, 0.01))
    return b.done()


TEAPOT = Design(
    words="a glazed teapot with a loop handle and a thin spout (own design)",
    material_class="weak texture, very glossy, thin parts",
    sdf=teapot_sdf,
    paint=paint_teapot,
    low=(-0.115, -0.075, -0.004),
    high=(0.125, 0.075, 0.165),
)
