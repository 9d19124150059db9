"""A small classifier that learns, from one capture alone, what its object and its surroundings look like."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from recon.isolate.frames import Frame

MISSING_PLANE = 7
"""The feature that is 1 where the plane cue says nothing."""


def features(
    frame: Frame, plane_cost: Float32[np.ndarray, "h w 3"], far_cost: Float32[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w f"]:
    """What the classifier sees of each pixel: colour at two scales, texture, agreement with plane and far planes."""
    rgb = frame.rgb
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB) / np.float32(50)
    coarse = cv2.blur(lab, (7, 7))
    texture = np.sqrt(np.maximum(cv2.blur(lab[..., 0] ** 2, (5, 5)) - cv2.blur(lab[..., 0], (5, 5)) ** 2, 0))
    missing = np.isnan(plane_cost[..., 0])
    colour = np.where(missing[..., None], 0, np.log(plane_cost[..., :2] + np.float32(0.01)) + 3)
    correlation = np.where(np.isnan(plane_cost[..., 2]), 0, plane_cost[..., 2] - np.float32(0.7))
    no_far = np.isnan(far_cost)
    far = np.where(no_far, 0, np.log(far_cost + np.float32(0.01)) + 3)
    parts = [lab, coarse, texture * 4, missing, colour, correlation, no_far, far]
    return np.dstack([np.asarray(p, np.float32) for p in parts]).astype(np.float32)


def training_set(
    stacks: Sequence[Float32[np.ndarray, "_ _ f"]],
    inside: Sequence[Bool[np.ndarray, "_ _"]],
    outside: Sequence[Bool[np.ndarray, "_ _"]],
    n_per_view: int,
    seed: int,
) -> tuple[Float32[np.ndarray, "n f"], Float32[np.ndarray, " n"]]:
    """Equally many pixels that are surely object and surely not, from every photo."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for stack, yes, no in zip(stacks, inside, outside, strict=True):
        # Equal numbers on and off the plane: else a missing cue would itself count as a sign of the surroundings.
        for stratum in (stack[..., MISSING_PLANE] > 0.5, stack[..., MISSING_PLANE] < 0.5):
            flat_yes, flat_no = np.flatnonzero(yes & stratum), np.flatnonzero(no & stratum)
            n = min(n_per_view, len(flat_yes), len(flat_no))
            for flat, label in ((flat_yes, 1.0), (flat_no, 0.0)):
                chosen = rng.choice(flat, n, replace=False)
                rows.append(stack.reshape(-1, stack.shape[2])[chosen])
                labels.append(np.full(n, label, np.float32))
    return np.concatenate(rows), np.concatenate(labels)


class PixelClassifier:
    """A two-layer perceptron on standardised features; its output is log odds of `object`."""

    def __init__(self, x: Float32[np.ndarray, "n f"], y: Float32[np.ndarray, " n"], n_steps: int, seed: int) -> None:
        import torch

        self.mean, self.scale = x.mean(0), x.std(0) + np.float32(1e-3)
        generator = torch.Generator().manual_seed(seed)
        xs, ys = torch.from_numpy((x - self.mean) / self.scale), torch.from_numpy(y)
        sizes = [x.shape[1], 32, 24, 1]
        self.layers = []
        for a, b in pairwise(sizes):
            weight = (torch.randn(a, b, generator=generator) * (2 / a) ** 0.5).requires_grad_()
            self.layers.append((weight, torch.zeros(b, requires_grad=True)))
        # Both classes weigh the same, whatever their numbers.
        weights = torch.where(ys > 0.5, 0.5 / max(float(y.mean()), 1e-3), 0.5 / max(float(1 - y.mean()), 1e-3))
        optimiser = torch.optim.AdamW([p for layer in self.layers for p in layer], lr=5e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
        for _ in range(n_steps):
            batch = torch.randint(len(xs), (2048,), generator=generator)
            logit = self._forward(xs[batch])
            # 0.03: hull labels are wrong here and there, and no pixel should be beyond doubt.
            target = ys[batch] * 0.94 + 0.03
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, target, weights[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()

    def _forward(self, x):  # type: ignore[no-untyped-def]
        for weight, bias in self.layers[:-1]:
            x = (x @ weight + bias).relu()
        weight, bias = self.layers[-1]
        return (x @ weight + bias)[:, 0]

    def log_odds(self, x: Float32[np.ndarray, "n f"]) -> Float32[np.ndarray, " n"]:
        """Log odds of being object for rows of features."""
        import torch

        with torch.no_grad():
            out: np.ndarray = self._forward(torch.from_numpy((x - self.mean) / self.scale)).numpy()
        return out
