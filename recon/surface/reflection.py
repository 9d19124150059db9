"""Colour of what mirrors: paint of the place under light by the normal, plus surroundings by the mirrored direction.

After Ref-NeRF (Verbin et al. 2022): a gloss looks different from everywhere, but it is one and the same surroundings
that all of the surface mirrors. Networks that know a direction and not the place cannot paint a picture of those
surroundings onto a wrong shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Evaluate = Callable[[nn.Sequential, Tensor], Tensor]
"""What evaluates linear layers with ReLUs between them at inputs (n, n_in): (n, n_out), float32."""


def evaluate_plainly(layers: nn.Sequential, inputs: Float[Tensor, "n n_in"]) -> Float[Tensor, "n n_out"]:
    """The layers as they are, in their own precision."""
    result: Tensor = layers(inputs)
    return result


_BAND = [1] * 3 + [2] * 5 + [3] * 7 + [4] * 9
N_DIFFUSE = 8
"""Harmonics of bands 1 and 2: diffuse light by the normal holds no more (Ramamoorthi and Hanrahan 2001)."""


def harmonics(direction: Float[Tensor, "n 3"]) -> Float[Tensor, "n 24"]:
    """Real spherical harmonics of bands 1..4 of unit vectors, each scaled to about 1 at its largest."""
    x, y, z = direction.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            x, y, z,
            2 * x * y, 2 * y * z, 1.5 * zz - 0.5, 2 * x * z, xx - yy,
            y * (3 * xx - yy), 5 * x * y * z, 1.4 * y * (5 * zz - 1), 0.5 * z * (5 * zz - 3),
            1.4 * x * (5 * zz - 1), 2.5 * z * (xx - yy), x * (xx - 3 * yy),
            4 * x * y * (xx - yy), 3 * y * z * (3 * xx - yy), 2 * x * y * (7 * zz - 1), 1.4 * y * z * (7 * zz - 3),
            (35 * zz * zz - 30 * zz + 3) / 8, 1.4 * x * z * (7 * zz - 3), (xx - yy) * (7 * zz - 1),
            3 * x * z * (xx - 3 * yy), xx * xx - 6 * xx * yy + yy * yy,
        ],
        1,
    )  # fmt: skip


class SplitColour(nn.Module):
    """albedo(x) * light(n) + tint(x) * surroundings(mirrored direction, roughness(x)), none of it negative."""

    band: Tensor

    def __init__(self, n_geometry: int, hidden: int) -> None:
        super().__init__()
        self.paint = nn.Sequential(nn.Linear(3 + n_geometry, hidden), nn.ReLU(), nn.Linear(hidden, 7))
        self.light = nn.Sequential(nn.Linear(N_DIFFUSE, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, 3))
        self.surroundings = nn.Sequential(
            nn.Linear(1 + len(_BAND), hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)
        )
        self.register_buffer("band", torch.tensor(_BAND, dtype=torch.float32), persistent=False)

    def networks(self) -> tuple[nn.Sequential, ...]:
        """All that `evaluate` may be asked for."""
        return self.paint, self.light, self.surroundings

    def forward(
        self,
        x: Float[Tensor, "n 3"],
        direction: Float[Tensor, "n 3"],
        normal: Float[Tensor, "n 3"],
        geometry: Float[Tensor, "n n_geometry"],
        evaluate: Evaluate = evaluate_plainly,
    ) -> Float[Tensor, "n 3"]:
        """Colour leaving x (in -1..1) against `direction`, not negative.

        `evaluate` is asked for the three networks; what they are joined by is always computed here, in float32.
        """
        cosine = (direction * normal).sum(1, keepdim=True)
        reflected = direction - 2 * cosine * normal
        paint = evaluate(self.paint, torch.cat([x, geometry], 1))
        albedo, tint = torch.sigmoid(paint[:, :3]), torch.sigmoid(paint[:, 3:6])
        # Ref-NeRF eq. 8: a rough lobe damps band l by exp(-l (l + 1) / 2 kappa); 3: half rough at the start
        roughness = nn.functional.softplus(paint[:, 6:] - 3)
        damped = harmonics(reflected) * torch.exp(-0.5 * self.band * (self.band + 1) * roughness)
        light = nn.functional.softplus(evaluate(self.light, harmonics(normal)[:, :N_DIFFUSE]))
        gloss = nn.functional.softplus(evaluate(self.surroundings, torch.cat([cosine, damped], 1)))
        result: Tensor = albedo * light + tint * gloss
        return result
