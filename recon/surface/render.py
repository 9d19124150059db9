"""NeuS's unbiased volume rendering (Wang et al. 2021): weights that peak where the SDF is zero."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def section_opacity(
    sdf: Float[Tensor, "n_rays n_samples"],
    cosine: Float[Tensor, "n_rays n_samples"],
    length: Float[Tensor, "n_rays n_samples"],
    inv_s: Float[Tensor, ""],
) -> Float[Tensor, "n_rays n_samples"]:
    """Opacity of each ray section, NeuS eq. 13: max((Phi_s(f(t_i)) - Phi_s(f(t_i+1))) / Phi_s(f(t_i)), 0).

    sdf: at the sections' middles; cosine: between the ray and the SDF's gradient, at most 0 (entering);
    length: of the sections. The SDF at a section's ends is extended linearly from its middle.
    """
    half = cosine * length * 0.5
    before, after = torch.sigmoid((sdf - half) * inv_s), torch.sigmoid((sdf + half) * inv_s)
    # 1e-5 keeps the ratio finite deep inside, where both are 0
    return ((before - after + 1e-5) / (before + 1e-5)).clamp(0, 1)


def ray_weights(opacity: Float[Tensor, "n_rays n_samples"]) -> Float[Tensor, "n_rays n_samples"]:
    """w_i = alpha_i prod_{j<i} (1 - alpha_j), NeuS eq. 12."""
    passed = torch.cumprod(1 - opacity + 1e-7, 1)
    return opacity * torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], 1)


def annealed_cosine(cosine: Float[Tensor, "..."], share: float) -> Float[Tensor, "..."]:
    """NeuS's entering cosine, from forgiving (share 0: any direction counts) to exact (share 1)."""
    return -(torch.relu(0.5 - 0.5 * cosine) * (1 - share) + torch.relu(-cosine) * share)
