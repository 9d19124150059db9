"""The SDF and colour networks on the hash grid, with the SDF's gradient written out as forward operations.

With h = softplus(W1 [x, F(x)] + b1) and sdf = w2 . h + b2, the gradient is
    d sdf / d x = W1x^T g + J(x)^T W1F^T g,   g = softplus'(W1 [x, F] + b1) * w2,
where F and J are the grid's features and Jacobian. Every term is an ordinary forward operation, so training on
normals (Eikonal term, NeuS's cosine, shading) needs no double backward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon.data import SurfaceField
from recon.surface.engine import Engine, Precision, device_for, is_half, open_grid
from recon.surface.hashgrid import GridLayout
from recon.surface.reflection import Evaluate, SplitColour, evaluate_plainly

SOFTPLUS_BETA = 100.0
"""NeuS's choice: close to ReLU, but smooth enough for normals."""


@dataclass(frozen=True)
class FieldConfig:
    """The field's architecture; two fields with equal configs can exchange parameters."""

    n_levels: int = 12
    """Levels of the hash grid; more levels hold more detail and cost time in proportion."""
    n_features: int = 2
    """Features per level."""
    log2_rows: int = 17
    """Rows per level as a power of two; raising it lowers hash collisions and costs memory and cache."""
    base_resolution: int = 16
    """Cells along the unit cube at the coarsest level."""
    finest_resolution: int = 1024
    """Cells along the unit cube at the finest level; the smallest detail is about 1 / this."""
    hidden: int = 64
    """Width of the hidden layers."""
    n_geometry: int = 15
    """Features that the SDF network hands to the colour network."""
    split_colour: bool = False
    """Whether colour is split into paint and mirrored surroundings."""

    def layout(self) -> GridLayout:
        return GridLayout(self.n_levels, self.n_features, self.log2_rows, self.base_resolution, self.finest_resolution)


def spherical_harmonics(direction: Float[Tensor, "n 3"]) -> Float[Tensor, "n 9"]:
    """Real spherical harmonics of bands 0..2, without constants (the next layer has its own scale)."""
    x, y, z = direction.unbind(1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], 1)


def plain_colour(cfg: FieldConfig) -> nn.Sequential:
    """The colour network of all inputs together, up to the sigmoid that follows it."""
    return nn.Sequential(
        nn.Linear(3 + 9 + 9 + 3 + cfg.n_geometry, cfg.hidden),
        nn.ReLU(),
        nn.Linear(cfg.hidden, cfg.hidden),
        nn.ReLU(),
        nn.Linear(cfg.hidden, 3),
    )


class Field(nn.Module):
    """The trainable field over the unit cube, on the device of its engine.

    Engines differ in what evaluates the parameters, not in the parameters: `state_dict` is the same for all.
    At half precision the colour's networks are bfloat16, or tiny-cuda-nn's fused ones (float16) with its engine.
    Table, positions, Jacobian and SDF are float32 at any precision. The Jacobian multiplies differences of neighbouring
    rows by up to `finest_resolution`, so that half precision's error in a row would turn normals by degrees; a sample's
    SDF is multiplied by the sharpness, up to 2,500, and would be off by whole sections; and 11 bits of position are
    coarser than the finest level. What half precision would save is little besides: a row of two features is 8 bytes
    of the 32 that a read moves.
    """

    def __init__(self, cfg: FieldConfig, engine: Engine, precision: Precision = Precision.auto) -> None:
        super().__init__()
        self.cfg, self.layout = cfg, cfg.layout()
        self.grid = open_grid(engine, self.layout)
        encoded = cfg.n_levels * cfg.n_features
        self.table = nn.Parameter((torch.rand(self.layout.n_rows(), cfg.n_features) * 2 - 1) * 1e-4)
        self.sdf_in = nn.Linear(3 + encoded, cfg.hidden)
        self.sdf_out = nn.Linear(cfg.hidden, 1 + cfg.n_geometry)
        self.register_buffer("level_weight", torch.ones(cfg.n_levels), persistent=False)
        self.n_open = cfg.n_levels
        """Levels of any weight, known without asking the device."""
        device = device_for(engine)
        self.in_half = is_half(precision, device)
        self.colour = SplitColour(cfg.n_geometry, cfg.hidden) if cfg.split_colour else plain_colour(cfg)
        self.fused = fused_networks(self.colour) if engine is Engine.tcnn and self.in_half else {}
        """What evaluates the colour's networks instead of torch, where it can."""
        self.to(device)

    def open_levels(self, n_open: float) -> None:
        """Coarse-to-fine: the first floor(n_open) levels count fully, the next by the fraction."""
        levels = torch.arange(self.cfg.n_levels, dtype=torch.float32, device=self.table.device)
        self.level_weight = (n_open - levels).clamp(0, 1)
        self.n_open = min(max(math.ceil(n_open - 1e-6), 1), self.cfg.n_levels)

    def geometry(
        self, x: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"], Float[Tensor, "n n_geometry"]]:
        """SDF, its gradient with respect to x, and the geometry features, at points of the unit cube."""
        features, pull = self.grid.encode(self.table, x, self.level_weight)
        z = self.sdf_in(torch.cat([2 * x - 1, features], 1))
        out = self.sdf_out(nn.functional.softplus(z, beta=SOFTPLUS_BETA))
        g = (torch.sigmoid(SOFTPLUS_BETA * z) * self.sdf_out.weight[0]) @ self.sdf_in.weight
        by_place, by_features = g.split([3, g.shape[1] - 3], 1)
        sdf, geometry = out.split([1, self.cfg.n_geometry], 1)
        return sdf[:, 0], 2 * by_place + pull(by_features), geometry

    def radiance(
        self,
        x: Float[Tensor, "n 3"],
        direction: Float[Tensor, "n 3"],
        normal: Float[Tensor, "n 3"],
        geometry: Float[Tensor, "n n_geometry"],
    ) -> Float[Tensor, "n 3"]:
        """Colour (0..1, the photos' encoding) leaving x against the viewing direction.

        The network is also given the mirrored direction, in which highlights are simple (Ref-NeRF, sec. 3.1).
        """
        if isinstance(self.colour, SplitColour):
            split: Tensor = self.colour(2 * x - 1, direction, normal, geometry, self._evaluate)
            return split
        reflected = direction - 2 * (direction * normal).sum(1, keepdim=True) * normal
        inputs = torch.cat(
            [2 * x - 1, spherical_harmonics(direction), spherical_harmonics(reflected), normal, geometry], 1
        )
        return torch.sigmoid(self._evaluate(self.colour, inputs))

    def _evaluate(self, layers: nn.Sequential, inputs: Float[Tensor, "n n_in"]) -> Float[Tensor, "n n_out"]:
        """One of the colour's networks, in half precision if that is wanted; the result is float32.

        What follows, which the loss compares with 8-bit photos, is float32. bfloat16 has float32's range: the gradient
        of a single sample, about 1e-6, would vanish in an unscaled float16.
        """
        if not self.in_half:
            return evaluate_plainly(layers, inputs)
        if layers in self.fused:
            return self.fused[layers](layers, inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            result: Tensor = layers(inputs)
        return result.float()

    @torch.no_grad()
    def distance(self, x: Float[Tensor, "n 3"], chunk: int = 1 << 17) -> Float[Tensor, " n"]:
        """SDF alone, without gradients, in bounded memory; x on the field's device."""
        out = torch.empty(len(x), device=x.device)
        for i in range(0, len(x), chunk):
            part = x[i : i + chunk]
            features = self.grid.features(self.table, part, self.level_weight)
            z = self.sdf_in(torch.cat([2 * part - 1, features], 1))
            h = nn.functional.softplus(z, beta=SOFTPLUS_BETA)
            out[i : i + chunk] = h @ self.sdf_out.weight[0] + self.sdf_out.bias[0]
        return out

    def sdf(self, x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        """`distance` of and to host memory."""
        points = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self.table.device)
        result: np.ndarray = self.distance(points).cpu().numpy()
        return result

    def arrays(self) -> dict[str, np.ndarray]:
        """All parameters as float32 arrays by name."""
        return {k: v.detach().cpu().numpy().astype(np.float32) for k, v in self.state_dict().items()}


def fused_networks(colour: nn.Sequential | SplitColour) -> dict[nn.Sequential, Evaluate]:
    """tiny-cuda-nn's fused networks for those of a colour that are not too wide for it."""
    from recon.surface.tiny_cuda_nn import FusedNetwork, fits_fused

    networks = colour.networks() if isinstance(colour, SplitColour) else (colour,)
    return {layers: FusedNetwork(layers) for layers in networks if fits_fused(layers)}


def load_field(surface: SurfaceField, engine: Engine = Engine.cpu) -> Field:
    """The trained network of a SurfaceField, ready to be evaluated by a resolved engine, whichever trained it."""
    field = Field(FieldConfig(**surface.config), engine)
    field.load_state_dict({k: torch.from_numpy(v) for k, v in surface.parameters.items()})
    field.requires_grad_(False)
    return field
