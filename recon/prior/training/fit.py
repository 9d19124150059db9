"""The fit of the depth network: tuples in, weights and a validation curve out."""

from __future__ import annotations

import csv
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from recon.prior.network.cascade import (
    STEPS,
    CascadeMvsNet,
    StageDepth,
    load_weights,
    next_hypotheses,
    padded_reach,
    whole_probability,
)
from recon.prior.network.features import MULTIPLE, STRIDES
from recon.prior.training.tuples import Batch, SceneSource, ViewTuple, collate, draw


@dataclass(frozen=True)
class FitConfig:
    """How the network is fitted."""

    start: str = ""
    """A weights.npz to go on from; empty: random weights."""
    n_steps: int = 8000
    most_s: float = 0.0
    """The fit ends after so many seconds, earlier sessions counted in, even if steps are left; the learning rate falls
    with whichever runs out first. 0: no limit."""
    tuples_per_step: int = 2
    """More is steadier and costs time in proportion; one alone takes as long as two on a CPU."""
    fewest_sources: int = 2
    most_sources: int = 4
    learning_rate: float = 1.5e-3
    """Highest, reached after `warm_steps`; it falls to nothing along a cosine."""
    warm_steps: int = 200
    stage_weights: tuple[float, float, float] = (0.5, 1.0, 2.0)
    """Of the stages' losses, coarse to fine (Gu et al. 2020)."""
    unreached_weight: float = 0.0
    """Of pixels whose true depth a stage's hypotheses do not reach, as the stage before erred. 1 is as published; at 0
    a stage is not taught to be sure of its nearest end."""
    check_every: int = 250
    """Steps between validations, and between checkpoints."""
    seed: int = 0


LEAST_OBJECT = 0.2
"""Share of a cell on the outline that must be object for its depth to be asked."""
N_AHEAD = 4
"""Steps whose tuples are drawn while one is learned from."""
RIGHT_STEPS = 2.0
"""A depth is right within so many steps of the last stage: 0.8 % of the depth range."""


def found_by(net: CascadeMvsNet, batch: Batch) -> list[StageDepth]:
    """What the network finds for a batch, at every stage."""
    n, views = batch.rgb.shape[:2]
    maps = net.pyramid(batch.rgb.flatten(0, 1), batch.mask.flatten(0, 1)[:, None])
    split = [m.reshape(n, views, *m.shape[1:]) for m in maps]
    pyramids = [[m[:, i] for m in split] for i in range(views)]
    reach = padded_reach(batch.reach(), *pyramids[0][-1].shape[2:])
    out: list[StageDepth] = net(pyramids[0], pyramids[1:], batch.rig, reach)
    return out


def truth_at(batch: Batch, stride: int) -> tuple[Float[Tensor, "b h w"], Bool[Tensor, "b h w"]]:
    """True positions and where they are known, for the cells of a stage.

    The mean where a cell's pixels are all known and lie on one surface (within two steps of the first stage); where
    they do not, nothing is asked: a cell on an edge has no one depth. On a mask's outline it is the object's.
    """
    if stride == 1:
        return batch.position, batch.known
    position, known = batch.position[:, None], batch.known[:, None]
    share, beside = (functional.avg_pool2d(x.float(), stride)[:, 0] for x in (known, batch.beside[:, None] & ~known))
    mean = functional.avg_pool2d(position * known, stride)[:, 0] / share.clamp(min=1e-6)
    high = functional.max_pool2d(torch.where(known, position, 0), stride)[:, 0]
    low = -functional.max_pool2d(-torch.where(known, position, 1), stride)[:, 0]
    return mean, (share >= LEAST_OBJECT) & (share + beside > 0.999) & (high - low < 2 * STEPS[0])


def reached(
    found: list[StageDepth], stage: int, true: Float[Tensor, "b h w"], reach: Float[Tensor, "b 2 _ _"]
) -> Bool[Tensor, "b h w"]:
    """Where a stage's hypotheses hold the true position, with a step to spare."""
    if stage == 0:
        return torch.ones_like(true, dtype=torch.bool)
    height, width = true.shape[1:]
    position = found[stage - 1].position.detach()
    around = next_hypotheses(position, stage, reach)[:, [0, -1], :height, :width]
    return (true >= around[:, 0] - STEPS[stage]) & (true <= around[:, 1] + STEPS[stage])


def loss_of(found: list[StageDepth], batch: Batch, cfg: FitConfig) -> Tensor:
    """Smooth L1 of each stage, where depth is known, in steps of that stage; each tuple counts the same."""
    total, reach = torch.zeros((), device=batch.position.device), batch.reach()
    reach = padded_reach(reach, *(-(-n // MULTIPLE) * MULTIPLE for n in reach.shape[2:]))
    for stage, (weight, stride, step) in enumerate(zip(cfg.stage_weights, STRIDES, STEPS, strict=True)):
        true, known = truth_at(batch, stride)
        height, width = true.shape[1:]
        position = found[stage].position[:, :height, :width]
        error = functional.smooth_l1_loss(position / step, true / step, reduction="none")
        share = known * torch.where(reached(found, stage, true, reach), 1.0, cfg.unreached_weight)
        total = total + weight * ((error * share).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)).mean()
    return total


@torch.no_grad()
def validate(net: CascadeMvsNet, batches: Sequence[Batch], cfg: FitConfig) -> dict[str, float]:
    """Over all pixels of known depth: mean loss, error as a share of the range, shares right, in all and of the half
    that the network holds most probable."""
    net.eval()
    rows = []
    for batch in batches:
        found = found_by(net, batch)
        height, width = batch.position.shape[1:]
        error = (found[-1].position[:, :height, :width] - batch.position).abs()[batch.known]
        sure = whole_probability(found)[:, :height, :width][batch.known]
        right = (error < RIGHT_STEPS * STEPS[-1]).float()
        best = sure.argsort(descending=True)[: max(len(sure) // 2, 1)]
        rows.append([
            float(loss_of(found, batch, cfg)), float(error.mean()), float(error.median()),
            float(right.mean()), float(right[best].mean()), float(sure.mean()),
        ])  # fmt: skip
    net.train()
    names = ("loss", "mean_error", "median_error", "right_share", "right_share_of_surer_half", "mean_probability")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def check_batches(scenes: SceneSource, n: int, device: torch.device) -> list[Batch]:
    """The same tuples of held-out scenes for every validation, with 2, 3 and 4 sources."""
    return [
        collate([*draw(scenes, 2, 2 + k % 3, np.random.default_rng([12, k]))], device) for k in range(max(1, n // 2))
    ]


class Fit:
    """The training's state between steps."""

    def __init__(self, folder: Path, device: torch.device, cfg: FitConfig) -> None:
        torch.manual_seed(cfg.seed)
        self.cfg, self.device, self.folder = cfg, device, folder
        self.net = CascadeMvsNet().to(device).train()
        if cfg.start:
            self.net.load_state_dict(load_weights(Path(cfg.start), device).state_dict())
        self.optimiser = torch.optim.AdamW(self.net.parameters(), cfg.learning_rate, weight_decay=1e-4)
        self.step, self.seconds = 0, 0.0
        self.checkpoint = folder / "checkpoint.pt"
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location=device, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = state["step"], state["seconds"]

    def used(self) -> float:
        """Share of the steps or of the time, whichever is more, that is used up."""
        of_time = self.seconds / self.cfg.most_s if self.cfg.most_s > 0 else 0.0
        return max(self.step / self.cfg.n_steps, of_time)

    def save(self) -> None:
        """Leave a checkpoint, whole or not at all."""
        state = {"net": self.net.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step,
                 "seconds": self.seconds}  # fmt: skip
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def train_step(self, tuples: Sequence[ViewTuple]) -> float:
        """One step; returns its loss."""
        cfg = self.cfg
        fall = 0.5 * (1 + np.cos(np.pi * min(self.used(), 1.0)))
        for group in self.optimiser.param_groups:
            group["lr"] = float(cfg.learning_rate * min(1.0, (self.step + 1) / cfg.warm_steps) * fall)
        batch = collate(tuples, self.device)
        loss = loss_of(found_by(self.net, batch), batch, cfg)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())


def tuples_of(step: int, scenes: SceneSource, cfg: FitConfig) -> list[ViewTuple]:
    """The same tuples at the same step whether or not the training was interrupted."""
    rng = np.random.default_rng([cfg.seed, step, 5])
    n_sources = int(rng.integers(cfg.fewest_sources, cfg.most_sources + 1))
    return draw(scenes, cfg.tuples_per_step, n_sources, rng)


def fit(
    scenes: SceneSource, checks: Sequence[Batch], folder: Path, device: torch.device, cfg: FitConfig
) -> CascadeMvsNet:
    """Train; goes on from the checkpoint in `folder`, and writes `curve.csv` and `checkpoint.pt` there."""
    run = Fit(folder, device, cfg)
    before, losses = time.perf_counter() - run.seconds, []
    with ThreadPoolExecutor(N_AHEAD) as pool:
        ahead = deque(pool.submit(tuples_of, run.step + k, scenes, cfg) for k in range(N_AHEAD))
        while run.used() < 1:
            tuples = ahead.popleft().result()
            ahead.append(pool.submit(tuples_of, run.step + N_AHEAD, scenes, cfg))
            losses.append(run.train_step(tuples))
            run.seconds = time.perf_counter() - before
            if run.step % cfg.check_every == 0 or run.used() >= 1:
                row = {"step": run.step, "seconds": round(run.seconds, 1), "train_loss": float(np.mean(losses))}
                append_row(folder / "curve.csv", row | validate(run.net, checks, cfg))
                run.save()
                losses.clear()
    return run.net.eval()


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a line to a CSV file, whose first line names its columns."""
    fresh = not path.exists()
    with path.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, row)
        if fresh:
            writer.writeheader()
        writer.writerow({k: round(v, 5) for k, v in row.items()})
