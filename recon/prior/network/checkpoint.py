"""Which network a file of weights belongs to: our own cascade, or CasMVSNet as published."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recon.prior.network import cascade, casmvsnet
from recon.prior.network.cascade import Rig, StageDepth
from recon.prior.network.features import Pyramid


@runtime_checkable
class DepthNetwork(Protocol):
    """What any network of `prior.method=mvsnet` can do."""

    def pyramid(self, rgb: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"]) -> Pyramid:
        """The features of pictures (0..1) of any size, padded at the right and below as the network needs it.

        mask: 1 on the object; a network that was trained without masks does not look at it.
        """

    def depth(
        self,
        reference: Pyramid,
        sources: list[Pyramid],
        rig: Rig,
        reach: Float[Tensor, "b 2 h w"] | None = None,
    ) -> StageDepth:
        """The depth of each pixel of the (padded) reference.

        reach: lowest and highest position of each pixel, where something outside bounds it; 1 and 0 where nothing can
        be.
        """


def load_network(path: Path, device: torch.device) -> DepthNetwork:
    """The network that a file holds, for inference. Raises UserError where it holds none that is known."""
    load = cascade.load_weights if _is_npz(path) else casmvsnet.load_weights
    return load(path, device)


def _is_npz(path: Path) -> bool:
    """Torch's newer files are zip archives as well, but not of arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False
