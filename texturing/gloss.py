"""Roughness and metal of a surface, from how much the photos' colours of a place differ.

A matt surface has one colour in all photos; paint under a gloss has it in most and is brighter in the few that catch
a light; bare metal mirrors something else in each. Two figures tell these apart, and nothing finer is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from texturing.gains import srgb_to_linear
from texturing.levelling import weighted_median
from texturing.visibility import Observations

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
LEAST_VIEWS = 8
"""A place seen clearly by fewer photos says nothing about its highlights."""
LEAST_AREA_SHARE = 0.15
"""Of the surface, that must be seen by so many."""
MAX_CELLS = 8000
"""Enough for figures of the whole object."""
METAL_WANDER, METAL_HIGHLIGHT = 0.03, 0.35
"""Linear units (1 is a photo's white); only what has more of both is metal. Two metals measured 0.058 and more, 0.57
and more; plaster, worn paint, plastic and glaze at most 0.016 and 0.24."""
METAL_ROUGHNESS = 0.35
"""Of satin metal, the only kind that was measured."""
DULL_HIGHLIGHT, DULL_ROUGHNESS, SLOPE = 0.036, 0.85, 0.32
"""Highlights of plaster, its roughness, and how much less that is where they are e times as strong. A line by eye past
plaster (0.036), worn paint (0.07), plastic (0.16) and glaze (0.24, truly 0.16): an order, no measure."""
ROUGHNESS_RANGE = (0.2, 0.9)


@dataclass(frozen=True)
class Gloss:
    """How a surface's colour depends on the place that it is seen from, in linear units; 1 is a photo's white."""

    wander: float
    """Median over the surface of the median absolute deviation of luminance between photos."""
    highlight: float
    """Of the brightest photo in 30 over the median one; nine tenths of the surface have less."""
    area_share: float
    """Of the surface, that enough photos saw clearly."""


def measure_gloss(
    observed: Observations, gains: Float64[np.ndarray, "n_views 3"], areas: Float64[np.ndarray, " n_faces"]
) -> Gloss:
    """The gloss of cells that enough photos see clearly, whole and not too flatly."""
    some = np.random.default_rng(0).permutation(len(areas))[:MAX_CELLS]
    density = observed.density[some]
    clear = (
        (observed.share[some] >= 1) & (observed.safety[some] > 0.9) & (density > 0.4 * density.max(1, keepdims=True))
    )
    enough = clear.sum(1) >= LEAST_VIEWS
    share = float(areas[some][enough].sum() / areas[some].sum())
    if not enough.any():
        return Gloss(0.0, 0.0, 0.0)
    linear = srgb_to_linear(observed.colour[some][enough]) * gains
    luminance = np.where(clear[enough], linear @ LUMINANCE, np.nan)
    middle, bright = np.nanpercentile(luminance, [50, 97], axis=1)
    wander = 1.4826 * np.nanmedian(np.abs(luminance - middle[:, None]), axis=1)
    weight = areas[some][enough]
    order = np.argsort(bright - middle)
    place = np.searchsorted(np.cumsum(weight[order]), 0.9 * weight.sum())
    highlight = float((bright - middle)[order[min(place, len(order) - 1)]])
    return Gloss(round(float(weighted_median(wander, weight)), 4), round(highlight, 4), round(share, 3))


def roughness_and_metallic(gloss: Gloss) -> tuple[float, float] | None:
    """glTF's two values, or None where the photos do not tell."""
    if gloss.area_share < LEAST_AREA_SHARE:
        return None
    if gloss.wander > METAL_WANDER and gloss.highlight > METAL_HIGHLIGHT:
        return METAL_ROUGHNESS, 1.0
    roughness = DULL_ROUGHNESS - SLOPE * np.log(max(gloss.highlight, 1e-6) / DULL_HIGHLIGHT)
    return round(float(np.clip(roughness, *ROUGHNESS_RANGE)), 2), 0.0
