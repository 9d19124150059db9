"""A stand-in for tiny-cuda-nn in plain torch: what its sources say its grid and its fused network compute.

It tests how our parameters are handed over and packed; what the real one computes is tested on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HALF = False
"""Whether the network rounds where the real one does, so that gradients can vanish or overflow as there."""


class _Enter(torch.autograd.Function):
    """A network's input or parameters become float16, their gradient comes out of it and out of the loss's scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss_scale: float) -> Tensor:
        ctx.loss_scale = loss_scale
        return x.half().float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return (grads[0].half() / ctx.loss_scale).float(), None


class _Leave(torch.autograd.Function):
    """Outputs are float16, and so is their gradient when the loss's scale meets it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss_scale: float) -> Tensor:
        ctx.loss_scale = loss_scale
        return x.half()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        assert grads[0].dtype == torch.float16
        return (grads[0] * ctx.loss_scale).float(), None


class Encoding(nn.Module):
    """`Grid` of type `Hash`, linear; differentiable twice, in the input as well."""

    def __init__(self, n_input_dims: int, config: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        assert n_input_dims == 3 and dtype == torch.float32
        self.n_features = config["n_features_per_level"]
        growth = np.log2(np.float32(config["per_level_scale"]))
        base = np.float32(config["base_resolution"])
        self.scales = [np.exp2(np.float32(k) * growth) * base - np.float32(1) for k in range(config["n_levels"])]
        self.resolutions = [int(np.ceil(s)) + 1 for s in self.scales]
        self.rows = [min(-(-(r**3) // 8) * 8, 2 ** config["log2_hashmap_size"]) for r in self.resolutions]
        self.params = nn.Parameter(torch.zeros(sum(self.rows) * self.n_features))

    def forward(self, x: Tensor) -> Tensor:
        assert x.is_contiguous() and self.params.is_contiguous()
        parts, first = [], 0
        for scale, resolution, rows in zip(self.scales, self.resolutions, self.rows, strict=True):
            table = self.params[first : first + rows * self.n_features].view(rows, self.n_features)
            first += rows * self.n_features
            position = x * float(scale) + 0.5
            cell = position.detach().floor()
            frac, total = position - cell, 0
            for corner in range(8):
                bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
                at = cell.long() + bits
                index = at[:, 0] + at[:, 1] * resolution + at[:, 2] * resolution**2
                if rows < resolution**3:
                    index = at[:, 0] ^ (at[:, 1] * 2654435761 & 0xFFFFFFFF) ^ (at[:, 2] * 805459861 & 0xFFFFFFFF)
                weight = torch.where(bits.bool(), frac, 1 - frac).prod(1)
                total = total + weight[:, None] * table[index % rows]
            parts.append(total)
        return torch.cat(parts, 1)


class Network(nn.Module):
    """`FullyFusedMLP`: no biases, row-major matrices, inputs filled up to a multiple of 16 with ones, outputs cut."""

    def __init__(self, n_input_dims: int, n_output_dims: int, config: dict[str, Any]) -> None:
        super().__init__()
        assert config["otype"] == "FullyFusedMLP" and config["n_neurons"] in (16, 32, 64, 128)
        assert (config["activation"], config["output_activation"]) == ("ReLU", "None")
        width, self.n_out = config["n_neurons"], n_output_dims
        n_in, n_out = (-(-n // 16) * 16 for n in (n_input_dims, n_output_dims))
        self.shapes = [(width, n_in), *[(width, width)] * (config["n_hidden_layers"] - 1), (n_out, width)]
        self.params = nn.Parameter(torch.zeros(sum(a * b for a, b in self.shapes)))
        self.loss_scale = 128.0

    def forward(self, x: Tensor) -> Tensor:
        if not HALF:
            return self._forward(x, self.params)
        x, params = (_Enter.apply(a, self.loss_scale) for a in (x, self.params))
        return _Leave.apply(self._forward(x, params), self.loss_scale)

    def _forward(self, x: Tensor, params: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, self.shapes[0][1] - x.shape[1]), value=1.0)
        first = 0
        for i, (rows, columns) in enumerate(self.shapes):
            x = x @ params[first : first + rows * columns].view(rows, columns).T
            first += rows * columns
            x = torch.relu(x) if i < len(self.shapes) - 1 else x
        return x[:, : self.n_out]
