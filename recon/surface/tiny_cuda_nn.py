"""tiny-cuda-nn's hash grid and fused network on our own parameters.

What tiny-cuda-nn can do decides the route (its documentation and sources of version 2):
- Its grid lays rows out as `hashgrid.GridLayout` does, so our table is its parameter vector as it lies in memory and is
  handed over in every call. Its modules' own parameters stay as they were made, unused: as much memory once more.
- Its grid has a double backward pass (input gradient with respect to parameters and to the output's gradient), so J^T g
  is taken by autograd. In float32, which its fused kernels for half precision are not; that it computes a gradient of
  the table in the first pass too, which nobody reads, is the price.
- Its networks have no double backward pass, so the SDF network, whose gradient is trained, stays in torch.
- Its networks have no biases and only half precision. The colour's networks are packed into such with a bias column for
  the inputs and a hidden unit that is always 1 for the other layers, which is exact.
- Half precision is float16 there, in which a sample's gradient of 1e-6 would vanish. Its own scale of the loss comes
  after the cast to float16, so it is set to 1, and gradients are scaled in float32 before the cast.
- Its levels cannot be weighted, so features are multiplied by the weights afterwards, and closed levels cost time too.
- Its scales are float32 powers, ours are rounded from float64: positions differ by up to 1e-6 of the resolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from recon.device import TINYCUDANN_PAGE
from recon.errors import UserError
from recon.surface.hashgrid import GridLayout, Pull

FUSED_WIDTHS = (16, 32, 64, 128)
"""Hidden widths that the fused network comes in."""
GRADIENT_SCALE = 2.0**10
"""Of the loss within the fused network: 1e-6 of a sample becomes 1e-3, and sums over a batch stay far from 65504."""


def load_tinycudann() -> Any:
    """The package. Raises UserError where it is installed but does not work on this machine."""
    try:
        import tinycudann
    except Exception as error:  # built for another GPU: an EnvironmentError, in some versions a NameError
        raise UserError(
            f"tiny-cuda-nn is installed but cannot be loaded ({error}): build it for this GPU as {TINYCUDANN_PAGE} "
            "says, or choose surface.engine=triton."
        ) from error
    return tinycudann


class _Contiguous(torch.autograd.Function):
    """The identity, whose gradient is contiguous in memory: tiny-cuda-nn's second backward pass takes no other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()


def encoding_config(layout: GridLayout) -> dict[str, Any]:
    """The layout in tiny-cuda-nn's words. Raises UserError where its levels would come out otherwise than ours."""
    scales, resolutions = layout.scales().astype(float), layout.resolutions()
    rows = np.diff(layout.offsets())
    # its rounding may turn a whole number of cells into one more: no matter in a hashed level, another table in a dense
    dense = resolutions**3 <= rows
    unsure = np.ceil(scales * (1 - 2e-6)) != np.ceil(scales * (1 + 2e-6))
    unsure[0] = False  # its power 0 is exact
    if (dense & unsure).any():
        raise UserError(
            "tiny-cuda-nn may round this grid's levels to other sizes: choose another surface.finest_resolution or "
            "surface.engine=triton."
        )
    return {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": layout.n_levels,
        "n_features_per_level": layout.n_features,
        "log2_hashmap_size": layout.log2_rows,
        "base_resolution": layout.base_resolution,
        "per_level_scale": layout.growth(),
        "interpolation": "Linear",
    }


class TcnnGrid:
    """tiny-cuda-nn's grid behind the engines' interface (`recon.surface.engine.Grid`)."""

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout
        self.encoding = load_tinycudann().Encoding(3, encoding_config(layout), dtype=torch.float32)
        wanted, found = layout.n_rows() * layout.n_features, self.encoding.params.numel()
        if found != wanted:
            raise RuntimeError(f"tiny-cuda-nn's table has {found} numbers where ours has {wanted}")

    def _raw(self, table: Tensor, x: Tensor) -> Tensor:
        result: Tensor = functional_call(self.encoding, {"params": table.reshape(-1)}, (x.contiguous(),))
        return result

    def encode(
        self,
        table: Float[Tensor, "n_rows n_features"],
        x: Float[Tensor, "n 3"],
        level_weight: Float[Tensor, " n_levels"],
    ) -> tuple[Float[Tensor, "n n_encoded"], Pull]:
        weight = level_weight.repeat_interleave(self.layout.n_features)
        trained = torch.is_grad_enabled()
        x = x.detach().requires_grad_()
        with torch.enable_grad():  # the slope along x is wanted even where nothing is trained
            raw = self._raw(table, x)

        def pull(g: Float[Tensor, "n n_encoded"]) -> Float[Tensor, "n 3"]:
            seed = (g * weight).contiguous()
            (slope,) = torch.autograd.grad(raw, x, seed, create_graph=trained, retain_graph=True)
            return _Contiguous.apply(slope) if trained else slope

        return (raw if trained else raw.detach()) * weight, pull

    @torch.no_grad()
    def features(
        self,
        table: Float[Tensor, "n_rows n_features"],
        x: Float[Tensor, "n 3"],
        level_weight: Float[Tensor, " n_levels"],
    ) -> Float[Tensor, "n n_encoded"]:
        return self._raw(table, x) * level_weight.repeat_interleave(self.layout.n_features)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def fits_fused(layers: nn.Sequential) -> bool:
    """Whether `FusedNetwork` takes such layers: one hidden unit is added to theirs, and there is a widest network."""
    return linear_layers(layers)[0].out_features < FUSED_WIDTHS[-1]


class FusedNetwork:
    """tiny-cuda-nn's fused network with the weights and biases of linear layers that have ReLUs between them.

    The layers must be ones that `fits_fused` takes.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        linear = linear_layers(layers)
        self.width = next(w for w in FUSED_WIDTHS if w > linear[0].out_features)
        config = {
            "otype": "FullyFusedMLP",
            "activation": "ReLU",
            "output_activation": "None",
            "n_neurons": self.width,
            "n_hidden_layers": len(linear) - 1,
        }
        self.network = load_tinycudann().Network(linear[0].in_features + 1, linear[-1].out_features, config)
        self.network.loss_scale = 1.0

    def __call__(self, layers: nn.Sequential, inputs: Float[Tensor, "n n_in"]) -> Float[Tensor, "n n_out"]:
        """What the layers' last linear one returns, in float32."""
        with_one = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
        packed = pack(linear_layers(layers), self.width)
        packed, with_one = (_ScaledGradient.apply(x, 1 / GRADIENT_SCALE) for x in (packed, with_one))
        half: Tensor = functional_call(self.network, {"params": packed}, (with_one,))
        result: Tensor = _ScaledGradient.apply(half.float(), GRADIENT_SCALE)
        return result


def linear_layers(layers: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def pack(linear: list[nn.Linear], width: int) -> Float[Tensor, " n_params"]:
    """Weights and biases as the fused network's parameters: row-major matrices (out, in), each padded with zeros.

    The last input is 1, and so is the hidden unit after the real ones: it reads and hands on nothing but that 1. Widths
    of inputs and outputs are rounded up to 16; tiny-cuda-nn fills up inputs with ones, which meet zeros here.
    """
    parts = []
    for i, layer in enumerate(linear):
        last = i == len(linear) - 1
        block = torch.cat([layer.weight, layer.bias[:, None]], 1)
        if not last:
            one = torch.zeros_like(block[:1])
            one[0, -1] = 1
            block = torch.cat([block, one])
        rows = -(-block.shape[0] // 16) * 16 if last else width
        columns = width if i else -(-block.shape[1] // 16) * 16
        block = nn.functional.pad(block, (0, columns - block.shape[1], 0, rows - block.shape[0]))
        parts.append(block.reshape(-1))
    return torch.cat(parts)
