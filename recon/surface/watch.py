"""Watching a training: a breakdown is noticed, explained and taken back once.

An adaptive optimiser that meets one broken gradient, or too high a learning rate, ends in NaN, in a field that is
solid or empty everywhere, or in a loss that never comes down again. None of these mends itself.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor

from recon.errors import UserError
from recon.surface.baking import Refresh


@dataclass(frozen=True)
class WatchConfig:
    """Noticing that the training breaks down, and the safer settings of its second try."""

    keep_every: int = 200
    """Steps between copies of the state in memory, at the least; a breakdown costs up to twice as many steps. 0: the
    training is not watched."""
    loss_ratio: float = 5.0
    """A loss this many times its median over the last ten looks counts as a breakdown; raising it forgives more."""
    safer_rate: float = 0.3
    """What the second try multiplies the learning rate by."""
    safer_norm: float = 3.0
    """Longest gradient that the second try steps along; longer ones are shortened to it."""


class Training(Protocol):
    """What is watched: `recon.surface.trainer.Trainer`."""

    step: int

    @property
    def averages(self) -> dict[str, float]:
        """Running means of the loss's terms, and by the name `total` of what is watched of their weighted sum."""
        ...

    def parameters(self) -> Iterable[Tensor]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...

    def calm(self, rate: float, gradient_norm: float) -> None: ...


class Watch:
    """Looks at a training now and then, and keeps copies of its state from when all was well."""

    def __init__(self, cfg: WatchConfig) -> None:
        self.cfg = cfg
        self.levels: deque[float] = deque(maxlen=10)
        """The loss at the last looks."""
        self.kept: deque[dict[str, Any]] = deque(maxlen=2)
        """Two copies: a breakdown that begins just before the later one is only seen after it."""
        self.broke_at: int | None = None
        """The step at which the training broke down the first time."""

    def lost_surface(self, seen: Refresh, cell: float) -> str:
        """What is wrong with the SDF on the baked grid of that cell, as the end of a sentence; "" where all is well."""
        if not self.cfg.keep_every:
            return ""
        if not math.isfinite(seen.lowest + seen.highest):
            return "its SDF is no longer a number"
        if seen.lowest > cell:  # a wire that passes between the grid's points is within a cell of one of them
            return "the object vanished"
        return "everything in the hull became solid" if seen.highest < 0 else ""

    def trouble(self, training: Training) -> str:
        """What is wrong with the loss or the parameters, as the end of a sentence; "" where all is well."""
        total = training.averages.get("total")
        if not self.cfg.keep_every:
            return ""
        if not math.isfinite(total or 0.0):
            return "its loss is no longer a number"
        if not all(bool(torch.isfinite(p).all()) for p in training.parameters()):
            return "its parameters are no longer numbers"
        if total is None:  # nothing has been trained yet
            return ""
        if len(self.levels) >= 3 and total > self.cfg.loss_ratio * median(self.levels):
            return f"its loss rose to {total / median(self.levels):.0f} times what it was"
        self.levels.append(total)
        if self.broke_at is None and training.step >= self.kept[-1]["step"] + self.cfg.keep_every:
            self.keep(training)
        return ""

    def keep(self, training: Training) -> None:
        """Copy the training's state, of which all is known to be well."""
        if self.cfg.keep_every:
            self.kept.append(copy.deepcopy(training.state()))

    def take_back(self, training: Training, trouble: str) -> str:
        """Restore the older copy with safer settings, and return a sentence for the user.

        The random draws go on from where they are, so that the second try does not meet the same ones. Raises
        UserError the second time.
        """
        if self.broke_at is not None:
            raise UserError(
                f"The training of the surface broke down twice, the last time at step {training.step} as {trouble}: "
                "look for photos or masks that are plainly wrong and leave them out, or lower surface.learning_rate "
                "to a tenth."
            )
        self.broke_at = training.step
        draws = training.state()["draws"]
        training.restore(self.kept[0] | {"draws": draws})
        training.calm(self.cfg.safer_rate, self.cfg.safer_norm)
        self.levels.clear()
        self.kept.clear()
        return (
            f"The training of the surface broke down at step {self.broke_at} as {trouble}; it went back to step "
            f"{training.step} and on with {self.cfg.safer_rate:g} times the learning rate."
        )

    def state(self) -> dict[str, Any]:
        """What a resumed fit needs; the copies are not among it, as the checkpoint itself is one."""
        return {"levels": list(self.levels), "broke_at": self.broke_at}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.levels.extend(state["levels"])
        self.broke_at = state["broke_at"]
