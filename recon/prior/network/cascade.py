"""The network: a cascade of three cost volumes, each finer and narrower than the one before (Gu et al. 2020).

Depth inside the network is a `position`: 0 at the far end of the reference view's range, 1 at the near end, linear in
inverse depth, which is linear along the epipolar line for sources beside the reference. The network never sees units.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from recon.errors import UserError
from recon.prior.network.features import STRIDES, FeaturePyramid, Pyramid, padded, standardised
from recon.prior.network.regularise import (
    Convolution,
    VolumeNet,
    probability_around,
    soft_argmin,
    soft_argmin_near_peak,
)
from recon.prior.network.warp import correlator

N_HYPOTHESES = (32, 16, 8)
"""Of each stage; multiples of 4."""
STEPS = (1 / 31, 1 / 124, 1 / 248)
"""Distance of two hypotheses at each stage: the whole range, then 3.75 steps of the first, 3.5 of the second."""
GROUPS = (8, 8, 4)
LEAST_WEIGHT = 1e-4


@dataclass(frozen=True)
class StageDepth:
    """What a stage finds, at its own size."""

    position: Float[Tensor, "b h w"]
    probability: Float[Tensor, "b h w"]
    """That the depth is within the four hypotheses around it."""


@dataclass(frozen=True)
class Rig:
    """How the sources stand to the reference, and where its depth lies."""

    a: Float[Tensor, "b s 3 3"]
    b: Float[Tensor, "b s 3"]
    """`warp.motion_between` for each source."""
    inv_depth: Float[Tensor, "b 2"]
    """1 / depth_z at the far and the near end of the reference's range."""

    def inverse_depth(self, position: Float[Tensor, "b *more"]) -> Float[Tensor, "b *more"]:
        """1 / depth_z of positions in the range."""
        shape = (-1, *[1] * (position.ndim - 1))
        far, near = (self.inv_depth[:, i].reshape(shape) for i in (0, 1))
        return far + position * (near - far)

    def position(self, inv_depth: Float[Tensor, "b *more"]) -> Float[Tensor, "b *more"]:
        """Where in the range 1 / depth_z lies."""
        shape = (-1, *[1] * (inv_depth.ndim - 1))
        far, near = (self.inv_depth[:, i].reshape(shape) for i in (0, 1))
        return (inv_depth - far) / (near - far)


class ViewWeights(nn.Module):
    """How far each source is to be trusted at each cell: the best of a small perceptron over its correlation along
    depth (Wang et al. 2021, sec. 3.2). An occluded view correlates nowhere and gets little.
    """

    def __init__(self, n_groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Convolution(n_groups, 16, 1), nn.ReLU(inplace=True), Convolution(16, 8, 1), nn.ReLU(inplace=True),
            Convolution(8, 1, 1),
        )  # fmt: skip

    def forward(self, correlation: Float[Tensor, "b g d h w"]) -> Float[Tensor, "b h w"]:
        return torch.sigmoid(self.layers(correlation)[:, 0].amax(1))


def first_hypotheses(like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """Even positions over the whole range, the same in each cell."""
    even = torch.linspace(0, 1, N_HYPOTHESES[0], dtype=like.dtype, device=like.device)
    return even[None, :, None, None].expand(len(like), -1, *like.shape[2:])


def next_hypotheses(
    before: Float[Tensor, "b h w"], stage: int, reach: Float[Tensor, "b 2 _ _"] | None = None
) -> Float[Tensor, "b d hh ww"]:
    """Positions around what the stage before found, moved where they would leave the range.

    reach: as in `CascadeMvsNet.forward`; cells beside the object, which found nothing, have no say, and what lies out
    of reach is moved into it.
    """
    n, step = N_HYPOTHESES[stage], STEPS[stage]
    middle = _enlarged(before[:, None])
    if reach is not None:
        low, high = reach_of_cells(reach, STRIDES[stage - 1])
        some = (low <= high).to(before.dtype)
        share = _enlarged(some)
        middle = torch.where(share > 0, _enlarged(before[:, None] * some) / share.clamp(min=1e-3), middle)
        low, high = reach_of_cells(reach, STRIDES[stage])
        middle = torch.where(low <= high, torch.minimum(torch.maximum(middle, low), high), middle)
    half = step * (n - 1) / 2
    offsets = torch.linspace(-half, half, n, dtype=before.dtype, device=before.device)
    return middle.clamp(half, 1 - half) + offsets[None, :, None, None]


class CascadeMvsNet(nn.Module):
    """Depth maps from one view and any number of sources."""

    def __init__(self) -> None:
        super().__init__()
        self.features = FeaturePyramid()
        self.view_weights = ViewWeights(GROUPS[0])
        self.volumes = nn.ModuleList([VolumeNet(g) for g in GROUPS])

    def pyramid(self, rgb: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"]) -> Pyramid:
        """The features of pictures (0..1) of any size, padded to multiples of 16.

        mask: 1 on the object. Cells beside it are zeros: a depth that leads there correlates with nothing, as it
        should, since no point of the object is seen there.
        """
        maps: Pyramid = self.features(standardised(rgb, mask))
        return [m * functional.max_pool2d(padded(mask), stride) for m, stride in zip(maps, STRIDES, strict=True)]

    def forward(
        self,
        reference: Pyramid,
        sources: list[Pyramid],
        rig: Rig,
        reach: Float[Tensor, "b 2 h w"] | None = None,
    ) -> list[StageDepth]:
        """What each stage finds, coarse to fine; the last at the (padded) size of the reference's picture.

        reach: lowest and highest position of each pixel, where something outside bounds it, 1 and 0 where nothing can
        be; hypotheses of the first stage that no pixel of a cell can reach are ruled out, and later ones begin within
        reach. Sources may be of other sizes than the reference.
        """
        found: list[StageDepth] = []
        weights: list[Float[Tensor, "b h w"]] = []
        for stage in range(len(STRIDES)):
            own = reference[stage]
            # as in the source: a stage does not teach the one before through its hypotheses
            positions = next_hypotheses(found[-1].position.detach(), stage, reach) if found else first_hypotheses(own)
            volume, weights = self._volume(stage, own, [s[stage] for s in sources], positions, rig, weights)
            logits = self.volumes[stage](volume)
            if reach is not None and stage == 0:
                logits = within_reach(logits, positions, reach, STEPS[0])
            probability = torch.softmax(logits, 1)
            # only the whole expectation has a slope wherever the truth lies, and so it is what is trained
            expected = soft_argmin if self.training else soft_argmin_near_peak
            position = expected(probability, positions)
            with torch.no_grad():
                sure = probability_around(probability, position, positions)
            found.append(StageDepth(position, sure))
        return found

    def depth(
        self,
        reference: Pyramid,
        sources: list[Pyramid],
        rig: Rig,
        reach: Float[Tensor, "b 2 h w"] | None = None,
    ) -> StageDepth:
        """The last stage's depth, and how probable it is by all stages."""
        found = self(reference, sources, rig, reach)
        return StageDepth(found[-1].position, whole_probability(found))

    def _volume(
        self,
        stage: int,
        own: Float[Tensor, "b c h w"],
        others: list[Float[Tensor, "_ _ _ _"]],
        positions: Float[Tensor, "b d h w"],
        rig: Rig,
        weights: list[Float[Tensor, "_ _ _"]],
    ) -> tuple[Float[Tensor, "b g d h w"], list[Float[Tensor, "_ _ _"]]]:
        """The weighted mean over the sources of their correlation with the reference; weights are set at the first
        stage and enlarged from then on."""
        inv_depth = rig.inverse_depth(positions)
        weights, correlate = [_doubled(w) for w in weights], correlator(own)
        total = own.new_zeros(len(own), GROUPS[stage], *positions.shape[1:])
        norm = own.new_full((len(own), 1, *positions.shape[1:]), LEAST_WEIGHT)
        for k, other in enumerate(others):
            a, b = rig.a[:, k], rig.b[:, k]
            correlation, inside = correlate(own, other, a, b, inv_depth, STRIDES[stage], GROUPS[stage])
            if stage == 0:
                weights.append(self.view_weights(correlation))
            weight = (weights[k][:, None] * inside)[:, None]
            total, norm = total + correlation * weight, norm + weight
        return total / norm, weights


def _enlarged(maps: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 hh ww"]:
    return functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def _doubled(weight: Float[Tensor, "b h w"]) -> Float[Tensor, "b hh ww"]:
    return weight.repeat_interleave(2, 1).repeat_interleave(2, 2)


def reach_of_cells(
    reach: Float[Tensor, "b 2 h w"], stride: int
) -> tuple[Float[Tensor, "b 1 hh ww"], Float[Tensor, "b 1 hh ww"]]:
    """Lowest and highest value that any pixel of a cell can reach; a pixel that can reach none has no say."""
    return -functional.max_pool2d(-reach[:, :1], stride), functional.max_pool2d(reach[:, 1:], stride)


def padded_reach(reach: Float[Tensor, "b 2 h w"], height: int, width: int) -> Float[Tensor, "b 2 hh ww"]:
    """Of a picture padded to a size: nothing can be where it ended."""
    pad = (0, width - reach.shape[3], 0, height - reach.shape[2])
    return torch.cat([functional.pad(reach[:, i : i + 1], pad, value=1.0 - i) for i in (0, 1)], 1)


def within_reach(
    logits: Float[Tensor, "b d h w"],
    hypotheses: Float[Tensor, "b d h w"],
    reach: Float[Tensor, "b 2 hh ww"],
    step: float | Float[Tensor, "b 1 1 1"],
) -> Float[Tensor, "b d h w"]:
    """Logits of the first stage without the hypotheses more than a step out of reach of all pixels of a cell.

    reach: lowest and highest value of each pixel, in the hypotheses' unit.
    """
    low, high = reach_of_cells(reach, STRIDES[0])
    out = (hypotheses < low - step) | (hypotheses > high + step)
    return logits.masked_fill(out & ~out.all(1, keepdim=True), -1e4)


def whole_probability(found: list[StageDepth]) -> Float[Tensor, "b h w"]:
    """How probable the last stage's depth is: the geometric mean of all stages' probabilities, at its size.

    The last stages look at narrow bands, in which a wrong depth can be sure of itself; the first one tells.
    """
    size = found[-1].position.shape[1:]
    logs = [torch.log(s.probability.clamp(min=1e-6))[:, None] for s in found]
    enlarged = [functional.interpolate(x, size=size, mode="bilinear", align_corners=False)[:, 0] for x in logs]
    return torch.exp(torch.stack(enlarged).mean(0))


def save_weights(net: CascadeMvsNet, path: Path) -> None:
    """Write the weights as float16, by name; statistics of the normalisation stay float32, as they can be tiny."""
    state = {k: v.cpu().numpy() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    small = {k: v if "running" in k else v.astype(np.float16) for k, v in state.items()}
    np.savez_compressed(path, **small)  # type: ignore[arg-type]


def load_weights(path: Path, device: torch.device) -> CascadeMvsNet:
    """The network for inference. Raises UserError where the file holds something else."""
    net = CascadeMvsNet()
    try:
        with np.load(path) as arrays:
            state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in arrays.items()}
        counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
        net.load_state_dict(state | counters)
    except (RuntimeError, ValueError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no weights of this network; make them with scripts/train_mvsnet.py.") from error
    return net.eval().requires_grad_(False).to(device)
