"""Evaluating a trained surface in world coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from recon.data import SurfaceField
from recon.surface.field import load_field


def load_sdf(surface: SurfaceField) -> Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, " n"]]:
    """A function from points_world (n, 3) to signed distances (n,) in world units, positive outside."""
    field = load_field(surface)

    def sdf(points_world: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        return field.sdf(surface.unit_from_world.apply(points_world)) / np.float32(surface.unit_from_world.scale)

    return sdf
