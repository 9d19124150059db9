"""The terms of the surface's loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss's terms against the colour term's 1."""

    mask: float = 0.1
    """Pulls opacity to 1 on the object and to 0 beside it."""
    eikonal: float = 0.1
    """Keeps the SDF's gradient at unit length; too high smooths detail away."""
    points: float = 1.0
    """Pulls the SDF's zero set to the prior cloud."""
    normals: float = 0.02
    """Turns the SDF's normals to the prior cloud's."""
    free_space: float = 1.0
    """Keeps the SDF positive in front of prior points and, beside the masks' visual hull, as large as the distance."""
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
    gain: Tensor

    def total(self, cfg: LossConfig) -> Tensor:
        return (
            self.colour
            + cfg.mask * self.mask
            + cfg.eikonal * self.eikonal
            + cfg.points * self.points
            + cfg.free_space * self.free_space
            + cfg.gain * self.gain
        )

    def values(self) -> dict[str, float]:
        return {k: float(v.detach()) for k, v in vars(self).items()}


def eikonal(gradient: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """Mean of (|grad f| - 1)^2 (Gropp et al. 2020, eq. 2)."""
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


def opacity_loss(
    accumulated: Float[Tensor, " n"], on: Bool[Tensor, " n"], outside: Bool[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Binary cross-entropy of each ray's opacity against the masks, 0 for unsure pixels.

    0.01 bounds a wrong mask's pull, yet leaves a gradient where opacity is saturated on the wrong side, which
    clamping would not.
    """
    # accumulated weights may exceed 1 by rounding
    p = accumulated.clamp(max=1.0)
    inside, beside = -torch.log(p + 0.01), -torch.log(1.01 - p)
    return torch.where(on, inside, torch.where(outside, beside, torch.zeros_like(p)))


def point_loss(
    sdf: Float[Tensor, " n"],
    normal: Float[Tensor, "n 3"],
    prior_normal: Float[Tensor, "n 3"],
    confidence: Float[Tensor, " n"],
    cfg: LossConfig,
) -> Float[Tensor, ""]:
    """|f(p)| + w (1 - n . n_prior) over prior points, each by its confidence; the normals' part is scaled within."""
    if len(sdf) == 0:
        return torch.zeros(())
    turn = 1 - (normal * prior_normal).sum(1)
    return (confidence * (sdf.abs() + cfg.normals / max(cfg.points, 1e-9) * turn)).sum() / (confidence.sum() + 1e-6)
