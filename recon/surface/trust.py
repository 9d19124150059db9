"""Photos that disagree with all others: the object was moved, the pose is wrong, or the mask is.

What a photo's rays miss by, in colour (its gain taken out) and in opacity against its mask, is averaged over the last
few hundred steps. With m the median of such an error over the photos and d = max(1.4826 MAD, f m) its spread (f: a
floor, as photos that agree very well must not make the next one suspect), a photo lies z = (e - m) / d spreads above
the others. It counts by

    trust = 1 / (1 + (max(z - z0, 0) / z0)^2),

z being the larger of its two terms: 1 up to z0, a half at 2 z0, and less with the square beyond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

FORGET, WEIGH_EVERY = 0.995, 50
"""What of the errors is kept from one step to the next (a memory of 200 steps); steps between two new weights."""


@dataclass(frozen=True)
class TrustConfig:
    """When a photo counts for less than the others."""

    tolerance: float = 4.0
    """Spreads above the median error from which a photo loses weight; 0: all photos count alike. Raising it tolerates
    more."""
    least_spread: float = 0.3
    """The spread is taken as at least this share of the median error."""
    from_share: float = 0.25
    """Share of the steps after which photos lose weight: before, errors tell more of the fit than of the photos."""
    named_below: float = 0.5
    """Photos that count for less than this at the end are named to the user."""


class PhotoErrors:
    """The photos' running errors and what follows for their weights."""

    def __init__(self, cfg: TrustConfig, n_views: int, device: torch.device) -> None:
        self.cfg = cfg
        # colour and opacity, each the sum of weighted errors and that of the weights
        self.sums = torch.zeros(2, 2, n_views, dtype=torch.float64, device=device)
        self.counts = torch.ones(n_views, device=device)
        """How much each photo counts in the loss."""

    def observe(
        self, view_idx: Int[Tensor, " n_rays"], errors: Float[Tensor, "2 n_rays"], weights: Float[Tensor, "2 n_rays"]
    ) -> None:
        """Take in a step's rays: their errors in colour and opacity, and what each counts (0: not at all)."""
        self.sums *= FORGET
        self.sums.index_add_(2, view_idx, torch.stack([errors * weights, weights], 1).double())

    def weigh(self) -> None:
        """Bring the photos' weights up to the errors seen so far."""
        self.counts = torch.from_numpy(self.trust()).to(self.counts)

    def mean(self) -> Float[np.ndarray, "2 n_views"]:
        """Mean error of each photo in colour and opacity; NaN where no ray was drawn yet."""
        total, seen = self.sums.cpu().numpy().swapaxes(0, 1)
        return np.where(seen > 0, total / np.maximum(seen, 1e-9), np.nan)

    def spreads_above(self) -> Float[np.ndarray, "2 n_views"]:
        """z of the module's formula; 0 where no ray was drawn yet."""
        mean = self.mean()
        known = [row[~np.isnan(row)] for row in mean]
        z = np.zeros_like(mean)
        for k, row in enumerate(known):
            if len(row):
                median = np.median(row)
                spread = max(1.4826 * np.median(np.abs(row - median)), self.cfg.least_spread * median, 1e-6)
                z[k] = np.nan_to_num((mean[k] - median) / spread)
        return z

    def trust(self) -> Float[np.ndarray, " n_views"]:
        """How much each photo counts, 0..1."""
        if self.cfg.tolerance <= 0:
            return np.ones(len(self.counts))
        beyond = np.maximum(self.spreads_above().max(0) - self.cfg.tolerance, 0) / self.cfg.tolerance
        return 1 / (1 + beyond**2)

    def state(self) -> dict[str, Tensor]:
        return {"sums": self.sums, "counts": self.counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.sums.copy_(state["sums"])
        self.counts.copy_(state["counts"])


def doubted(photos: PhotoErrors, names: list[str]) -> dict[str, float]:
    """The photos that count for little, by name, and how much each counts."""
    trust = photos.trust()
    chosen = np.flatnonzero(trust < photos.cfg.named_below)
    return {names[i]: round(float(trust[i]), 3) for i in chosen}


def sentence_about(found: dict[str, float], n_photos: int) -> str:
    """What to tell the user about doubted photos."""
    listed, rest = ", ".join(found), n_photos - len(found)
    if len(found) == 1:
        return (
            f"Photo {listed} disagrees with the other {rest} about the object's shape or colours and counted for "
            "little: leave it out, or take it again if the object or the camera moved."
        )
    return (
        f"Photos {listed} disagree with the other {rest} about the object's shape or colours and counted for little: "
        "leave them out, or take them again if the object or the camera moved."
    )
