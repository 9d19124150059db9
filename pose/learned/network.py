"""The network: feature maps of a locally normalised photo, and a descriptor and a reliability where they are sampled.

Maps at a half to a sixteenth of the size; a descriptor is a small perceptron over the maps around a keypoint, ends
in a ReLU and has unit length: bytes of 512 times its values go through any matcher of SIFT descriptors.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64, 64)
"""Channels at strides 2, 4, 8 and 16."""
HIDDEN, DESCRIPTOR = 192, 128
COARSEST = 16
"""Photos are padded to a multiple of this."""
NORMALISE_SIGMA_PX = 10.0
NOISE_LEVEL = 2.0
"""Grey levels added to the local deviation, so that noise on plain surfaces is not blown up to full contrast."""


def normalised(grey: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """The photo (0..255) less its local mean over its local deviation: free of exposure and shading."""
    mean = cv2.GaussianBlur(grey, (0, 0), NORMALISE_SIGMA_PX)
    less = grey - mean
    deviation = cv2.sqrt(cv2.GaussianBlur(less * less, (0, 0), NORMALISE_SIGMA_PX))
    return np.clip(less / (deviation + NOISE_LEVEL), -4, 4)


def _block(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """Convolution, normalisation, ReLU; at stride 2 a 4x4 kernel keeps cells centred on the pixels they cover."""
    conv = nn.Conv2d(n_in, n_out, 4 if stride == 2 else 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


class FeatureNet(nn.Module):
    """Convolutional maps and the head that reads them at keypoints."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stride2 = nn.Sequential(_block(1, a, 2), _block(a, a, 1))
        self.stride4 = nn.Sequential(_block(a, b, 2), _block(b, b, 1), _block(b, b, 1))
        self.stride8 = nn.Sequential(_block(b, c, 2), _block(c, c, 1), _block(c, c, 1), _block(c, c, 1))
        self.stride16 = nn.Sequential(_block(c, d, 2), _block(d, d, 1))
        n_read = 9 * b + 9 * c + d
        self.hidden = nn.Sequential(
            nn.Linear(n_read, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(inplace=True)
        )
        self.describe = nn.Sequential(
            nn.Linear(HIDDEN, DESCRIPTOR, bias=False), nn.BatchNorm1d(DESCRIPTOR, affine=False)
        )
        self.rely = nn.Linear(HIDDEN + 1, 1)

    def maps(self, images: Float[Tensor, "b 1 h w"]) -> list[Float[Tensor, "_ _ _ _"]]:
        """Feature maps at strides 4, 8 and 16 of normalised photos whose sides are multiples of 16."""
        quarter = self.stride4(self.stride2(images))
        eighth = self.stride8(quarter)
        return [quarter, eighth, self.stride16(eighth)]

    def read(
        self,
        maps: list[Float[Tensor, "_ _ _ _"]],
        xy_px: Float[Tensor, "b n 2"],
        log_strength: Float[Tensor, "b n"],
    ) -> tuple[Float[Tensor, "b n 128"], Float[Tensor, "b n"]]:
        """Non-negative unit descriptors and reliability logits at pixel positions (centres at +0.5)."""
        quarter, eighth, sixteenth = maps
        columns = [_sample(quarter, xy_px, 4, 3), _sample(eighth, xy_px, 8, 3), _sample(sixteenth, xy_px, 16, 1)]
        b, n = log_strength.shape
        hidden = self.hidden(torch.cat(columns, -1).reshape(b * n, -1))
        descriptor = functional.normalize(functional.relu(self.describe(hidden)) + 1e-6, dim=-1)
        strength = log_strength.reshape(-1, 1) / 4
        return descriptor.reshape(b, n, -1), self.rely(torch.cat([hidden, strength], -1)).reshape(b, n)


def _sample(
    feature_map: Float[Tensor, "b c i j"], xy_px: Float[Tensor, "b n 2"], stride: int, side: int
) -> Float[Tensor, "b n read"]:
    """Bilinear values of a map on a grid of side x side cells centred on each position."""
    step = torch.arange(side, dtype=xy_px.dtype, device=xy_px.device) - side // 2
    offsets = torch.stack(torch.meshgrid(step, step, indexing="xy"), -1).reshape(-1, 2) * stride
    size = torch.tensor([feature_map.shape[3], feature_map.shape[2]], dtype=xy_px.dtype, device=xy_px.device) * stride
    grid = (xy_px[:, :, None] + offsets) / size * 2 - 1
    values = functional.grid_sample(feature_map, grid, padding_mode="border", align_corners=False)
    return values.permute(0, 2, 3, 1).flatten(2)


def save_weights(net: FeatureNet, path: Path) -> None:
    """Write the weights as float16, by name."""
    state = {k: v.cpu().numpy() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    np.savez_compressed(path, **{k: v.astype(np.float16) for k, v in state.items()})  # type: ignore[arg-type]


def load_weights(path: Path) -> FeatureNet:
    """The network for inference. Raises RuntimeError where the file holds another network's weights."""
    net = FeatureNet()
    with np.load(path) as arrays:
        state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in arrays.items()}
    counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
    net.load_state_dict(state | counters)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
