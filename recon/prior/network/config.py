"""The options of the learned multi-view stereo, apart from the network so that reading them takes no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recon.errors import UserError

SHIPPED = Path(__file__).parent / "weights.npz"


@dataclass(frozen=True)
class NetworkConfig:
    """How depth maps are found by the network."""

    checkpoint: str = ""
    """A weights.npz of your own, as scripts/train_mvsnet.py writes it, or the published checkpoint of CasMVSNet
    (casmvsnet.ckpt; its licence is yours to look up). Empty: the weights that come with recon."""
    n_sources: int = 4
    """The network is shown so many, the best ones, of the views that a view is matched with (`prior.n_sources`). Ours
    was trained with two to four; time goes in proportion."""
    refine_rounds: int = 1
    """For method=mvsnet: scans of the sweep's slanted-plane refinement that begin with the network's depth; 0 leaves it
    out. Raising it costs time in proportion; beside the sweep, both would err alike."""
    min_probability: float = 0.5
    """Pixels whose depth the network holds for less probable are dropped. Raising it drops plain and mirroring areas
    first; CasMVSNet is surer of itself than recon's network, and its authors take 0.9."""

    def weights(self) -> Path:
        """The file that holds the weights. Raises UserError where it is missing."""
        path = Path(self.checkpoint) if self.checkpoint else SHIPPED
        if path.is_file():
            return path
        if self.checkpoint:
            raise UserError(
                f"{path} is missing; name a weights.npz that scripts/train_mvsnet.py wrote, or a casmvsnet.ckpt."
            )
        raise UserError(
            f"prior.method=mvsnet needs trained weights, but {path} is missing; make them with scripts/train_mvsnet.py "
            "and name them by prior.network.checkpoint, or choose prior.method=sweep."
        )
