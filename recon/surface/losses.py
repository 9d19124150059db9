"""The terms of the surface's loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

HOLD_REACH = 0.03
"""In edges of the unit cube: about what the start is wrong by in hollows."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss's terms against the colour term's 1."""

    mask: float = 0.1
    """Makes rays opaque on the object and transparent beside it."""
    mask_enough: float = 0.8
    """Opacity, or transparency, that is right enough for the masks; from 0.5 on the surface lies on the right side of
    the ray. Higher swells what no outline shows, lower leaves the outlines to chance."""
    eikonal: float = 0.3
    """Keeps the SDF's gradient at unit length; too high smooths detail away."""
    points: float = 1.0
    """Pulls the SDF's zero set to the prior cloud."""
    normals: float = 0.02
    """Turns the SDF's normals to the prior cloud's."""
    free_space: float = 1.0
    """Keeps the SDF as large as the distance, outside the visual hull and in what prior points are seen through."""
    hold: float = 10.0
    """Keeps the SDF where it starts while colours are learnt on it (`surface.hold_share`)."""
    hold_left: float = 0.01
    """Share of that weight that is left afterwards where neither a prior point nor the closed underside is near. Higher
    keeps hollows as the start has them, and its faults."""
    hidden: float = 0.3
    """Keeps the SDF negative in what no camera sees past the current surface, or caves grow there."""
    curvature: float = 0.0
    """Keeps neighbouring normals alike, a cell of the finest open level apart; for noisy photos of smooth things."""
    smoothness_left: float = 1.0
    """Share of the Eikonal and curvature weights that is left once all levels of the hash grid are open; they fade as
    the levels do open. Lower lets fine detail and hollows through, and noise."""
    gain: float = 0.01
    """Keeps the photos' gains near 1."""


@dataclass
class Losses:
    """One step's terms, unweighted."""

    colour: Tensor
    mask: Tensor
    eikonal: Tensor
    points: Tensor
    free_space: Tensor
    hold: Tensor
    hidden: Tensor
    curvature: Tensor
    gain: Tensor
    patches: Tensor

    def total(self, cfg: LossConfig, open_share: float, released: float, patch_weight: float) -> Tensor:
        """Their weighted sum when a share `open_share` of the levels that open on the way is open, and the shape obeys
        a share `released` of the photos' pull."""
        smoothness = 1 + (cfg.smoothness_left - 1) * open_share
        hold = 1 + (cfg.hold_left - 1) * released
        return (
            self.colour
            + cfg.mask * self.mask
            + smoothness * cfg.eikonal * self.eikonal
            + cfg.points * self.points
            + cfg.free_space * self.free_space
            + hold * cfg.hold * self.hold
            + cfg.hidden * self.hidden
            + smoothness * cfg.curvature * self.curvature
            + cfg.gain * self.gain
            + patch_weight * self.patches
        )

    def values(self) -> dict[str, Tensor]:
        """Each term's value, left on its device: reading one waits for the step to end."""
        return {k: v.detach() for k, v in vars(self).items()}


def eikonal(gradient: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """Mean of (|grad f| - 1)^2 (Gropp et al. 2020, eq. 2)."""
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


def curvature(normal: Float[Tensor, "n 3"], beside: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """Mean of 1 - n . n', normals at points and at neighbours of theirs (after Rosu and Behnke 2023, PermutoSDF)."""
    return (1 - (normal * beside).sum(1)).sum() / max(len(normal), 1)


def opacity_loss(
    accumulated: Float[Tensor, " n"], on: Bool[Tensor, " n"], outside: Bool[Tensor, " n"], enough: float
) -> Float[Tensor, " n"]:
    """Binary cross-entropy of each ray's opacity against the masks, constant where it is right enough; 0 for unsure
    pixels.

    0.01 bounds a wrong mask's pull, yet leaves a gradient where opacity is saturated on the wrong side, which
    clamping there would not. enough: opacity from which a ray of the object is not pulled, and transparency from which
    one beside it is not. A blunt density is never quite opaque, and asked to be it moves out, into every hollow.
    """
    p = accumulated.clamp(max=1.0)  # accumulated weights may exceed 1 by rounding
    inside, beside = (-torch.log(right.clamp(max=enough) + 0.01) for right in (p, 1 - p))
    return torch.where(on, inside, torch.where(outside, beside, torch.zeros_like(p)))


def hold_loss(sdf: Float[Tensor, " n"], start: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of |f(x) - f_0(x)|, f_0 being the SDF at the start; 0 of none.

    Where prior points or free space have moved it by `HOLD_REACH` it is held half as much (Geman-McClure weights).
    """
    off = (sdf - start).abs()
    return (off / (1 + (off.detach() / HOLD_REACH) ** 2)).sum() / max(len(off), 1)


def point_loss(
    sdf: Float[Tensor, " n"],
    normal: Float[Tensor, "n 3"],
    prior_normal: Float[Tensor, "n 3"],
    confidence: Float[Tensor, " n"],
    reach: float,
    cfg: LossConfig,
) -> Float[Tensor, ""]:
    """|f(p)| + w (1 - n . n_prior) over prior points, each by its confidence; the normals' part is scaled within.

    A point as far as `reach` from the surface counts half (Geman-McClure weights): a wrong point just inside the object
    would else open a cave around itself.
    """
    if len(sdf) == 0:
        return sdf.new_zeros(())
    turn = 1 - (normal * prior_normal).sum(1)
    weight = confidence / (1 + (sdf.detach() / reach) ** 2)
    return (weight * (sdf.abs() + cfg.normals / max(cfg.points, 1e-9) * turn)).sum() / (confidence.sum() + 1e-6)
