"""The shape of the owl: rounded parts blended into one closed surface.

Front is -y, up is +z, metres.
"""

from __future__ import annotations

import numpy as np

from recon.evaluate.synthetic.shapes import (
    Distances,
    Points,
    blend,
    box,
    carve,
    cone_capsule,
    cylinder,
    ellipsoid,
    torus,
    turned,
)

EYES = ((-0.0205, -0.0385, 0.1585), (0.0205, -0.0385, 0.1585))
"""Centres of the eyes."""
SLOT = (0, 0.020, 0.192)
"""Middle of the coin slot."""


def side_by_side(p: Points) -> Points:
    """Points mirrored to x >= 0: the owl's left and right are alike."""
    return np.concatenate([np.abs(p[:, :1]), p[:, 1:]], 1)


def wing_frame(p: Points) -> Points:
    """Points in a wing's own axes: x away from the body, z along the wing."""
    q = turned(side_by_side(p), (0.0475, 0.010, 0.085), "x", 20.0)
    return turned(q, (0, 0, 0), "y", -9.0)


def scarf_frame(p: Points) -> Points:
    """Points in the axes of the scarf's hanging end."""
    return turned(turned(p, (0.021, -0.0535, 0.098), "x", -7.0), (0, 0, 0), "y", 9.0)


def scarf(p: Points) -> Distances:
    """The wound scarf, its knot and its hanging end."""
    ring = p * np.asarray((1, 1.06, 1), p.dtype)
    phi = np.arctan2(p[:, 0], -p[:, 1])
    fold = 0.0011 * np.sin(9 * phi + 1.3) + 0.0008 * np.sin(17 * phi)
    around = torus(ring, (0, -0.002, 0.126), 2, 0.0415, 0.0105) - fold
    around = np.maximum(around, np.abs(p[:, 2] - 0.126) - 0.0095)
    q = scarf_frame(p)
    end = box(q, (0.0105 + 0.0012, 0.0036, 0.030), 0.003) - 0.0006 * np.sin(q[:, 2] * 420)
    knot = ellipsoid(p, (0.018, -0.0475, 0.125), (0.0125, 0.0085, 0.012))
    return blend(blend(around, knot, 0.004), end, 0.003)


def parts(p: Points) -> dict[str, Distances]:
    """Distance to each painted part."""
    m = side_by_side(p)
    body = blend(
        ellipsoid(p, (0, 0, 0.078), (0.0505, 0.0455, 0.066)),
        ellipsoid(p, (0, 0.040, 0.036), (0.020, 0.024, 0.020)),
        0.02,
    )
    head = ellipsoid(p, (0, -0.002, 0.156), (0.0475, 0.042, 0.0375))
    head = blend(head, cone_capsule(m, (0.027, -0.004, 0.180), (0.0425, -0.008, 0.2085), 0.0135, 0.0035), 0.012)
    head = carve(head, box(p - np.asarray(SLOT, p.dtype), (0.0145, 0.0022, 0.018), 0.001), 0.0015)
    q = turned(m, EYES[1], "z", -24.0)
    dish = blend(torus(q, (0, 0, 0), 1, 0.0165, 0.0042), ellipsoid(q, (0, 0.006, 0), (0.0175, 0.0075, 0.0175)), 0.004)
    toes = np.min(
        [
            cone_capsule(m, (0.021, -0.036, 0.030), (0.021 + dx, -0.0535, 0.0245), 0.006, 0.0047)
            for dx in (-0.0105, 0, 0.0105)
        ],
        axis=0,
    )
    return {
        "plinth": cylinder(p, 0.0, 0.0215, 0.0585, 0.004),
        "body": body,
        "head": head,
        "wing": ellipsoid(wing_frame(p), (0, 0, 0), (0.0125, 0.030, 0.054)),
        "dish": dish,
        "eye": ellipsoid(q, (0, -0.001, 0), (0.0108, 0.0075, 0.0108)),
        "beak": cone_capsule(p, (0, -0.0405, 0.1515), (0, -0.0565, 0.1365), 0.0085, 0.0026),
        "toes": toes,
        "scarf": scarf(p),
    }


def owl_sdf(p: Points) -> Distances:
    """The whole owl, cut flat at z = 0."""
    d = parts(p)
    out = blend(d["body"], d["head"], 0.012)
    out = blend(out, d["wing"], 0.005)
    out = blend(out, d["dish"], 0.005)
    for name, width in (("eye", 0.0015), ("beak", 0.004), ("toes", 0.004), ("scarf", 0.003), ("plinth", 0.005)):
        out = blend(out, d[name], width)
    return np.maximum(out, -p[:, 2])
