"""The feature pyramid (FPN, Lin et al. 2017): what views are compared by, at a quarter, a half and the full size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (32, 16, 8)
"""Of the maps at a quarter, a half and the full size."""
STRIDES = (4, 2, 1)
MULTIPLE = 16
"""Pictures are padded to a multiple of this: the quarter size is halved twice more when the volume is regularised."""
BLUR_PX = 15
NOISE_LEVEL = 0.008
"""Added to the local deviation (of 1), so that noise on plain surfaces is not blown up to full contrast."""

LEAST_SHARE = 1e-4
"""Of a blurred square that is within the mask; below a single pixel's."""

Pyramid = list[Float[Tensor, "_ _ _ _"]]
"""Maps of one view, coarse to fine."""


def padded(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
    """With zeros at the right and below, up to multiples of 16."""
    height, width = maps.shape[2:]
    return functional.pad(maps, (0, -width % MULTIPLE, 0, -height % MULTIPLE))


def _blurred(grey: Float[Tensor, "b 1 h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Means over the mask's pixels in squares, which end at the border."""
    pad = BLUR_PX // 2
    sums = torch.cat([grey * mask, mask], 1)
    sums = functional.avg_pool2d(sums, (1, BLUR_PX), 1, (0, pad), count_include_pad=False)
    sums = functional.avg_pool2d(sums, (BLUR_PX, 1), 1, (pad, 0), count_include_pad=False)
    return sums[:, :1] / sums[:, 1:].clamp(min=LEAST_SHARE)


def standardised(rgb: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 4 hh ww"]:
    """What the network sees of a picture (0..1), free of exposure and shading, padded to multiples of 16.

    Colours less their mean over their deviation, and grey likewise in a small neighbourhood, all of the mask's (1)
    pixels only, so that what lies beside the object changes nothing. Zeros, which are the mean, outside the mask.
    """
    count = mask.sum((1, 2, 3), keepdim=True).clamp(min=1) * 3
    less = rgb - (rgb * mask).sum((1, 2, 3), keepdim=True) / count
    deviation = ((less * less * mask).sum((1, 2, 3), keepdim=True) / count).sqrt()
    grey = rgb.mean(1, keepdim=True)
    grey = grey - _blurred(grey, mask)
    local = (grey / (_blurred(grey * grey, mask).sqrt() + NOISE_LEVEL)).clamp(-4, 4)
    return padded(torch.cat([less / (deviation + NOISE_LEVEL), local], 1) * mask)


def _block(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU; at stride 2 a 4x4 kernel keeps cells centred on the pixels they cover."""
    conv = nn.Conv2d(n_in, n_out, 4 if stride == 2 else 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


class FeaturePyramid(nn.Module):
    """Down by strided convolutions, up by bilinear enlargement with lateral connections.

    A map's cell (i, j) at stride s covers the pixels from (s i, s j) to (s i + s, s j + s), so that cameras are scaled
    as for a resized photo.
    """

    def __init__(self) -> None:
        super().__init__()
        coarse, middle, fine = CHANNELS
        self.stride1 = nn.Sequential(_block(4, fine), _block(fine, fine))
        self.stride2 = nn.Sequential(_block(fine, middle, 2), _block(middle, middle))
        self.stride4 = nn.Sequential(_block(middle, coarse, 2), _block(coarse, coarse), _block(coarse, coarse))
        self.out_quarter = nn.Conv2d(coarse, coarse, 1)
        self.lateral_half = nn.Conv2d(middle, coarse, 1)
        self.out_half = nn.Conv2d(coarse, middle, 3, padding=1)
        self.narrow = nn.Conv2d(coarse, middle, 1)
        self.lateral_full = nn.Conv2d(fine, middle, 1)
        self.out_full = nn.Conv2d(middle, fine, 3, padding=1)

    def forward(self, pictures: Float[Tensor, "b 4 h w"]) -> Pyramid:
        """Maps at a quarter, a half and the full size of `standardised` pictures."""
        full = self.stride1(pictures)
        half = self.stride2(full)
        quarter = self.stride4(half)
        top_half = _enlarged(quarter) + self.lateral_half(half)
        top_full = _enlarged(self.narrow(top_half)) + self.lateral_full(full)
        return [self.out_quarter(quarter), self.out_half(top_half), self.out_full(top_full)]


def _enlarged(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
    return functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
