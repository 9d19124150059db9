"""CasMVSNet as its authors published it (Gu et al. 2020), so that their checkpoint can be used.

The layers carry the checkpoint's names, so that it loads strictly. It differs from our own cascade (cascade.py) in what
it sees (plain colours), what it compares (the variance of features over all views) and where it looks: its hypotheses
are even in depth_z and may leave the range after the first stage.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from recon.errors import UserError
from recon.prior.network.cascade import Rig, StageDepth, within_reach
from recon.prior.network.features import CHANNELS, STRIDES, Pyramid
from recon.prior.network.regularise import Convolution, probability_around, soft_argmin
from recon.prior.network.warp import LEAST_Z, sampled, source_positions

N_HYPOTHESES = (48, 32, 8)
SPANS = (1.0, 32 * 2 / 192, 8 * 1 / 192)
"""What each stage's hypotheses cover, in shares of the depth range: all of it, then so many of its 192 intervals times
the stage's ratio."""
MULTIPLE = 32
"""Pictures are padded to a multiple of this: the quarter size is halved three times more."""
LEAST_SHARE = 0.1
"""A hypothesis nearer than this share of the range's near end is looked up there, as it may lie behind the camera."""
UNREADABLE = (RuntimeError, pickle.UnpicklingError, struct.error, EOFError, LookupError, TypeError, ValueError,
              AttributeError, OSError)  # fmt: skip
"""What torch raises on files that are not its own, and on states of other networks."""


def _block(conv: nn.Module, norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=conv, bn=norm, relu=nn.ReLU(inplace=True)))


def _flat(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return _block(nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(n_out))


def _solid(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return _block(Convolution(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm3d(n_out))


def _enlarging(n_in: int, n_out: int) -> nn.Sequential:
    return _block(nn.ConvTranspose3d(n_in, n_out, 3, 2, 1, 1, bias=False), nn.BatchNorm3d(n_out))


class FeatureNet(nn.Module):
    """The feature pyramid. A map's cell i at stride s is centred on pixel s i, as its 5x5 kernels are."""

    def __init__(self) -> None:
        super().__init__()
        coarse, middle, fine = CHANNELS
        self.conv0 = nn.Sequential(_flat(3, fine), _flat(fine, fine))
        self.conv1 = nn.Sequential(_flat(fine, middle, 5, 2), _flat(middle, middle), _flat(middle, middle))
        self.conv2 = nn.Sequential(_flat(middle, coarse, 5, 2), _flat(coarse, coarse), _flat(coarse, coarse))
        self.inner1 = nn.Conv2d(middle, coarse, 1)
        self.inner2 = nn.Conv2d(fine, coarse, 1)
        self.out1 = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.out2 = nn.Conv2d(coarse, middle, 3, padding=1, bias=False)
        self.out3 = nn.Conv2d(coarse, fine, 3, padding=1, bias=False)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Pyramid:
        """Maps at a quarter, a half and the full size."""
        full = self.conv0(pictures)
        half = self.conv1(full)
        quarter = self.conv2(half)
        top_half = functional.interpolate(quarter, scale_factor=2.0, mode="nearest") + self.inner1(half)
        top_full = functional.interpolate(top_half, scale_factor=2.0, mode="nearest") + self.inner2(full)
        return [self.out1(quarter), self.out2(top_half), self.out3(top_full)]


class VarianceNet(nn.Module):
    """The regularisation of one stage: variance in, a logit for each hypothesis out.

    All three sides of the volume must be multiples of 8.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv0 = _solid(n_channels, 8)
        self.conv1, self.conv2 = _solid(8, 16, 2), _solid(16, 16)
        self.conv3, self.conv4 = _solid(16, 32, 2), _solid(32, 32)
        self.conv5, self.conv6 = _solid(32, 64, 2), _solid(64, 64)
        self.conv7 = _enlarging(64, 32)
        self.conv9 = _enlarging(32, 16)
        self.conv11 = _enlarging(16, 8)
        self.prob = Convolution(8, 1, 3, padding=1, bias=False)

    def forward(self, volume: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b d h w"]:
        whole = self.conv0(volume)
        half = self.conv2(self.conv1(whole))
        quarter = self.conv4(self.conv3(half))
        up = quarter + self.conv7(self.conv6(self.conv5(quarter)))
        up = half + self.conv9(up)
        return self.prob(whole + self.conv11(up))[:, 0]


@dataclass(frozen=True)
class FoundDepth:
    """What a stage finds, at its own size."""

    depth_z: Float[Tensor, "b h w"]
    probability: Float[Tensor, "b h w"]


def range_ends(rig: Rig) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    """Nearest and farthest depth_z."""
    far, near = (1 / rig.inv_depth[:, i].reshape(-1, 1, 1, 1) for i in (0, 1))
    return near, far


def depth_hypotheses(
    rig: Rig, stage: int, like: Float[Tensor, "b c h w"], before: Float[Tensor, "b hh ww"] | None
) -> Float[Tensor, "b d h w"]:
    """Even depth_z over the stage's share of the range: around what the stage before found, or all of it."""
    near, far = range_ends(rig)
    if before is None:
        middle = ((near + far) / 2).expand(-1, -1, *like.shape[2:])
    else:
        middle = functional.interpolate(before[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)
    even = torch.linspace(-0.5, 0.5, N_HYPOTHESES[stage], dtype=like.dtype, device=like.device)
    return middle + SPANS[stage] * (far - near) * even[None, :, None, None]


def cell_motion(
    a: Float[Tensor, "b 3 3"], b: Float[Tensor, "b 3"], stride: int
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """`warp.motion_between` for this network's cells.

    `source_positions` has cell i at stride s centred at s (i + 0.5) as in a resized photo; here it is at s i + 0.5, so
    that positions in both photos are moved by the difference of (s - 1) / 2.
    """
    shift = torch.eye(3, dtype=a.dtype, device=a.device)
    shift[:2, 2] = (stride - 1) / 2
    back = 2 * torch.eye(3, dtype=a.dtype, device=a.device) - shift
    return shift @ a @ back, b @ shift.T


def warp_to_depths(
    source: Float[Tensor, "b c hs ws"],
    a: Float[Tensor, "b 3 3"],
    b: Float[Tensor, "b 3"],
    depths: Float[Tensor, "b d h w"],
    stride: int,
) -> Float[Tensor, "b c d h w"]:
    """The source's features as seen from the reference if the surface lay at each (positive) depth_z.

    The published warp counts cells from 0 at the first one's centre, and was trained with the `grid_sample` of torch
    1.2, whose corners are such centres: the same as ours by `cell_motion`.
    """
    at = source_positions(*cell_motion(a, b, stride), 1 / depths, stride)
    size = torch.tensor([source.shape[3], source.shape[2]], dtype=a.dtype, device=a.device)
    # bilinear reading fades out over half a cell beyond the border, here as there
    kept = (at[..., 2] > LEAST_Z) & (at[..., :2] > -0.5).all(-1) & (at[..., :2] < size + 0.5).all(-1)
    return sampled(source, at, kept)


def confidence(probability: Float[Tensor, "b d h w"]) -> Float[Tensor, "b h w"]:
    """The probability of the four hypotheses around the expected one; what lies beyond the ends counts as zero."""
    padded = functional.pad(probability, (0, 0, 0, 0, 1, 2))
    index = torch.arange(-1, padded.shape[1] - 1, dtype=padded.dtype, device=padded.device)
    index = index[None, :, None, None].expand_as(padded)
    return probability_around(padded, soft_argmin(probability, index[:, 1:-2]), index)


class CasMvsNet(nn.Module):
    """Depth maps from one view and any number of sources."""

    def __init__(self) -> None:
        super().__init__()
        self.feature = FeatureNet()
        self.cost_regularization = nn.ModuleList([VarianceNet(n) for n in CHANNELS])

    def pyramid(self, rgb: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"]) -> Pyramid:
        """The features of pictures (0..1) of any size, padded with zeros to multiples of 32.

        mask: not looked at, as it was trained on whole photos.
        """
        height, width = rgb.shape[2:]
        maps: Pyramid = self.feature(functional.pad(rgb, (0, -width % MULTIPLE, 0, -height % MULTIPLE)))
        return maps

    def forward(
        self,
        reference: Pyramid,
        sources: list[Pyramid],
        rig: Rig,
        reach: Float[Tensor, "b 2 h w"] | None = None,
    ) -> list[FoundDepth]:
        """What each stage finds, coarse to fine; `reach` as in `CascadeMvsNet`, without it all is as published."""
        near, far = range_ends(rig)
        found: list[FoundDepth] = []
        for stage, own in enumerate(reference):
            depths = depth_hypotheses(rig, stage, own, found[-1].depth_z if found else None)
            volume = self._variance(own, [s[stage] for s in sources], depths.clamp(min=LEAST_SHARE * near), rig, stage)
            logits = self.cost_regularization[stage](volume)
            if reach is not None and stage == 0:
                farthest_first = 1 / rig.inverse_depth(reach).clamp(min=1e-12)
                logits = within_reach(logits, depths, farthest_first.flip(1), (far - near) / (N_HYPOTHESES[0] - 1))
            probability = torch.softmax(logits, 1)
            found.append(FoundDepth(soft_argmin(probability, depths), confidence(probability)))
        return found

    def depth(
        self,
        reference: Pyramid,
        sources: list[Pyramid],
        rig: Rig,
        reach: Float[Tensor, "b 2 h w"] | None = None,
    ) -> StageDepth:
        """The last stage's depth and confidence."""
        last = self(reference, sources, rig, reach)[-1]
        nearest = LEAST_SHARE * range_ends(rig)[0][:, 0]
        return StageDepth(rig.position(1 / last.depth_z.clamp(min=nearest)), last.probability)

    def _variance(
        self,
        own: Float[Tensor, "b c h w"],
        others: list[Float[Tensor, "_ _ _ _"]],
        depths: Float[Tensor, "b d h w"],
        rig: Rig,
        stage: int,
    ) -> Float[Tensor, "b c d h w"]:
        """The variance of each feature over all views, the reference among them (Yao et al. 2018, eq. 2)."""
        total = own[:, :, None].repeat(1, 1, depths.shape[1], 1, 1)
        squares = total.square()
        n_views = len(others) + 1
        for k, other in enumerate(others):  # in place, as the volume is large and nothing here is trained
            warped = warp_to_depths(other, rig.a[:, k], rig.b[:, k], depths, STRIDES[stage])
            total += warped
            squares += warped.square_()
        return squares.div_(n_views).sub_(total.div_(n_views).square_())


def load_weights(path: Path, device: torch.device) -> CasMvsNet:
    """The network for inference. Raises UserError where the file holds something else."""
    net = CasMvsNet()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["model"]
        # written from several GPUs at once, each name begins with `module.`
        net.load_state_dict({name.removeprefix("module."): values for name, values in state.items()})
    except UNREADABLE as error:
        raise UserError(
            f"{path} holds no weights of a known network; what is read is a weights.npz of scripts/train_mvsnet.py, or "
            "the published checkpoint of CasMVSNet (casmvsnet.ckpt: three stages with FPN features)."
        ) from error
    return net.eval().requires_grad_(False).to(device)
