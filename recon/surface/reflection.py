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


N_HARMONICS, N_DIFFUSE = 24, 8
"""How many there are of bands 1..4; and of bands 1 and 2, more than which diffuse light by the normal does not hold
(Ramamoorthi and Hanrahan 2001)."""


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


def mirrored_inputs(
    direction: Float[Tensor, "n 3"], normal: Float[Tensor, "n 3"], roughness: Float[Tensor, "n 1"]
) -> tuple[Float[Tensor, "n 8"], Float[Tensor, "n 25"]]:
    """What the networks of light and of surroundings know: harmonics of the normal, which diffuse light needs; and the
    cosine to it, with the mirrored direction's harmonics as a rough lobe damps them."""
    cosine = (direction * normal).sum(1, keepdim=True)
    # Ref-NeRF eq. 8: a rough lobe damps band n by exp(-n (n + 1) / 2 kappa)
    damping = [torch.exp(-0.5 * n * (n + 1) * roughness).expand(-1, 2 * n + 1) for n in range(1, 5)]
    damped = harmonics(direction - 2 * cosine * normal) * torch.cat(damping, 1)
    return harmonics(normal)[:, :N_DIFFUSE], torch.cat([cosine, damped], 1)


class SplitColour(nn.Module):
    """albedo(x) * light(n) + tint(x) * surroundings(mirrored direction, roughness(x)), none of it negative."""

    def __init__(self, n_geometry: int, hidden: int) -> None:
        super().__init__()
        self.paint = nn.Sequential(nn.Linear(3 + n_geometry, hidden), nn.ReLU(), nn.Linear(hidden, 7))
        self.light = nn.Sequential(nn.Linear(N_DIFFUSE, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, 3))
        self.surroundings = nn.Sequential(
            nn.Linear(1 + N_HARMONICS, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)
        )

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
        paint = evaluate(self.paint, torch.cat([x, geometry], 1))
        shares, rough = paint.split([6, 1], 1)
        albedo, tint = torch.sigmoid(shares).split(3, 1)
        roughness = nn.functional.softplus(rough - 3)  # 3: half rough at the start
        if x.device.type == "cpu":
            from recon.surface.reflection_cpu import mirrored_inputs_cpu as look_up
        else:
            look_up = mirrored_inputs
        diffuse, mirrored = look_up(direction, normal, roughness)
        light = nn.functional.softplus(evaluate(self.light, diffuse))
        gloss = nn.functional.softplus(evaluate(self.surroundings, mirrored))
        result: Tensor = albedo * light + tint * gloss
        return result
