"""From a cost volume to a depth map: a light 3D U-Net, soft-argmin, and how probable the result is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (8, 16, 32)
"""Channels of the volume at its own, half and a quarter of its size."""
PEAK_REACH = 2
"""Hypotheses on either side of the most probable one that a depth is the mean of."""


class Convolution(nn.Conv3d):
    """A 3D convolution that asks for oneDNN on CPUs, where torch's own choice for a batch of one is up to twenty times
    slower (torch 2.13; its backward pass still is)."""

    def forward(self, volume: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b cc dd hh ww"]:
        if volume.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return super().forward(volume)
        laid = volume.contiguous(memory_format=torch.channels_last_3d)
        padding = [int(p) for p in self.padding]
        return torch.mkldnn_convolution(laid, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)


def _block(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    conv = Convolution(n_in, n_out, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(n_out), nn.ReLU(inplace=True))


class VolumeNet(nn.Module):
    """The regularisation of one stage: correlation in, a logit for each hypothesis out.

    All three sides of the volume must be multiples of 4.
    """

    def __init__(self, n_groups: int) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.first = _block(n_groups, fine)
        self.down = nn.Sequential(_block(fine, middle, 2), _block(middle, middle))
        self.bottom = nn.Sequential(_block(middle, coarse, 2), _block(coarse, coarse))
        self.narrow_bottom = Convolution(coarse, middle, 1)
        self.narrow = Convolution(middle, fine, 1)
        self.last = Convolution(fine, 1, 3, padding=1, bias=False)

    def forward(self, volume: Float[Tensor, "b g d h w"]) -> Float[Tensor, "b d h w"]:
        first = self.first(volume)
        down = self.down(first)
        up = down + _enlarged(self.narrow_bottom(self.bottom(down)), down)
        return self.last(first + _enlarged(self.narrow(up), first))[:, 0]


def _enlarged(volume: Float[Tensor, "b c d h w"], like: Float[Tensor, "b c dd hh ww"]) -> Float[Tensor, "b c dd hh ww"]:
    return functional.interpolate(volume, size=like.shape[2:], mode="trilinear", align_corners=False)


def soft_argmin(probability: Float[Tensor, "b d h w"], hypotheses: Float[Tensor, "b d h w"]) -> Float[Tensor, "b h w"]:
    """The expected hypothesis (Kendall et al. 2017, eq. 1)."""
    return (probability * hypotheses).sum(1)


def soft_argmin_near_peak(
    probability: Float[Tensor, "b d h w"], hypotheses: Float[Tensor, "b d h w"]
) -> Float[Tensor, "b h w"]:
    """The expected hypothesis of those within two of the most probable one.

    At a jump in depth the whole expectation lies between both sides, where there is nothing.
    """
    peak = probability.argmax(1, keepdim=True)
    index = torch.arange(probability.shape[1], device=probability.device)[None, :, None, None]
    near = torch.where((index - peak).abs() <= PEAK_REACH, probability, 0)
    return (near * hypotheses).sum(1) / near.sum(1)


def probability_around(
    probability: Float[Tensor, "b d h w"], value: Float[Tensor, "b h w"], hypotheses: Float[Tensor, "b d h w"]
) -> Float[Tensor, "b h w"]:
    """The probability that lies within the four hypotheses around a value (Yao et al. 2018, sec. 3.3).

    hypotheses: evenly stepped along the second axis.
    """
    depths = probability.shape[1]
    step = hypotheses[:, 1] - hypotheses[:, 0]
    lower = torch.floor((value - hypotheses[:, 0]) / step).long()
    first = (lower - 1).clamp(0, max(depths - 4, 0))
    total = functional.pad(probability.cumsum(1), (0, 0, 0, 0, 1, 0))
    upto = total.gather(1, (first + min(4, depths))[:, None])
    return (upto - total.gather(1, first[:, None]))[:, 0].clamp(0, 1)
