"""The random numbers of a fit, drawn where they are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class RandomNumbers:
    """Numpy's generator on the CPU; on a GPU its own, since numbers of the host would be copied there in every step."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device, self.seed = device, seed
        self.host = np.random.default_rng(seed)
        self.on_device = None if device.type == "cpu" else torch.Generator(device).manual_seed(seed)

    def integers(self, low: int, high: int, size: int) -> Tensor:
        """`size` integers of low .. high - 1, int64."""
        if self.on_device is None:
            return torch.from_numpy(self.host.integers(low, high, size=size))
        return torch.randint(low, high, (size,), generator=self.on_device, device=self.device)

    def random(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers in [0, 1), float32."""
        if self.on_device is None:
            return torch.from_numpy(self.host.random(shape, dtype=np.float32))
        return torch.rand(shape, generator=self.on_device, device=self.device)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "host": self.host.bit_generator.state,
            "on_device": None if self.on_device is None else self.on_device.get_state(),
        }

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Go on where `state` was taken; a state taken on another kind of device starts a new stream for this step."""
        self.host.bit_generator.state = state["host"]
        if self.on_device is None and state["on_device"] is not None:
            self.host = np.random.default_rng([self.seed, step])
        elif self.on_device is not None and state["on_device"] is not None:
            self.on_device.set_state(state["on_device"].cpu())
        elif self.on_device is not None:
            self.on_device.manual_seed(self.seed + step)
