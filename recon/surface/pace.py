"""An early end: while the surface no longer moves, the schedule runs faster.

Learning rate, sharpness, open levels and image resolution all follow `step / n_steps`, and a fit that simply stopped
would stop blunt and noisy. So steps are skipped instead: every schedule goes on, in fewer steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from recon.surface.baking import Refresh


@dataclass(frozen=True)
class PaceConfig:
    """When the fit may end early."""

    still: float = 0.0
    """Steps are skipped while half of the surface moves less than this between two refreshes of the baked SDF, in
    thousandths of the box's longest side; raising it ends sooner. 0: every step is made."""
    n_skipped: int = 1
    """Refreshes' worth of steps skipped at a time; 1 doubles the pace, raising it ends sooner still."""


def steps_to_skip(cfg: PaceConfig, seen: Refresh, may_move: bool, bake_every: int) -> int:
    """How many steps the schedule may leave out after a refresh; none before it may move at all scales."""
    return cfg.n_skipped * bake_every if may_move and 1000 * seen.moved < cfg.still else 0
