"""The fit of the network: pictures in, weights out."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from pose.learned.network import FeatureNet
from pose.learned.training.samples import Pair, view_pair, warped_pair
from pose.learned.training.scenes import Views


@dataclass(frozen=True)
class FitConfig:
    """How the network is fitted."""

    n_steps: int = 1200
    pairs_per_step: int = 8
    learning_rate: float = 3e-3
    """Highest, reached after `warm_steps`; it falls to nothing along a cosine."""
    warm_steps: int = 100
    view_share: float = 0.6
    """Share of pairs that are two views of a scene; the others are two warps of a flat picture."""
    sharpness: float = 22.0
    """Factor on cosines in the soft-max: raising it looks at the hardest negatives only."""
    near_px: float = 6.0
    """Other points of the same picture so near to the right place are not called wrong."""
    unfound_weight: float = 0.3
    """Weight of points where the other picture has no blob of its own: they are met near their true place."""
    check_every: int = 200
    """Steps between validations, and between checkpoints."""
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Pairs side by side, as tensors; the first axis of pictures and keypoints is all first ones, then all second."""

    images: Float[Tensor, "two_b 1 h w"]
    xy_px: Float[Tensor, "two_b n 2"]
    log_strength: Float[Tensor, "two_b n"]
    seen: Bool[Tensor, " bn"]
    judged: Bool[Tensor, " bn"]
    found_again: Bool[Tensor, " bn"]


def draw(
    scenes: Sequence[Views], flats: Sequence[np.ndarray], n: int, view_share: float, rng: np.random.Generator
) -> list[Pair]:
    """Random pairs."""
    out = []
    for _ in range(n):
        if rng.random() < view_share:
            out.append(view_pair(scenes[int(rng.integers(len(scenes)))], rng))
        else:
            out.append(warped_pair(flats[int(rng.integers(len(flats)))], rng))
    return out


def collate(pairs: Sequence[Pair], device: torch.device) -> Batch:
    """Pairs as one batch on a device."""

    def joined(name: str) -> Tensor:
        stacked = np.stack([getattr(p, name) for p in pairs], axis=1)
        return torch.from_numpy(stacked.reshape(-1, *stacked.shape[2:])).to(device)

    def flat(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(p, name) for p in pairs])).to(device)

    images = joined("images")[:, None].contiguous(memory_format=torch.channels_last)
    return Batch(images, joined("xy_px"), joined("log_strength"), flat("seen"), flat("judged"), flat("found_again"))


def losses(net: FeatureNet, batch: Batch, cfg: FitConfig) -> tuple[Tensor, Tensor, Bool[Tensor, " bn"]]:
    """Loss of descriptors and of reliability, and which rows of the first pictures found their partner.

    Descriptors: cross entropy of the right partner among all keypoints of the step, both ways (dual soft-max).
    Reliability: binary cross entropy of `found again, and its descriptor's nearest is right`.
    """
    descriptors, reliable = net.read(net.maps(batch.images), batch.xy_px, batch.log_strength)
    half = len(batch.images) // 2
    a, b = descriptors[:half].flatten(0, 1), descriptors[half:].flatten(0, 1)
    owner = torch.arange(half, device=a.device).repeat_interleave(batch.xy_px.shape[1])
    place = batch.xy_px[half:].flatten(0, 1)
    same = (owner[:, None] == owner) & (torch.cdist(place, place) < cfg.near_px)
    same.fill_diagonal_(False)
    cosine = (a @ b.T).masked_fill(same, -1.0)
    rows = batch.seen.nonzero()[:, 0]
    logits = cfg.sharpness * cosine
    both_ways = [functional.cross_entropy(table[rows], rows, reduction="none") for table in (logits, logits.T)]
    weight = torch.where(batch.found_again[rows], 1.0, cfg.unfound_weight)
    matching = 0.5 * (weight * (both_ways[0] + both_ways[1])).sum() / weight.sum()
    with torch.no_grad():
        within = cosine.masked_fill(owner[:, None] != owner, -1.0)
        right = within.argmax(1) == torch.arange(len(a), device=a.device)
        target = (right & batch.found_again).float()
    rely_a = reliable[:half].flatten()[batch.judged]
    reliability = functional.binary_cross_entropy_with_logits(rely_a, target[batch.judged])
    return matching, reliability, right


@torch.no_grad()
def validate(net: FeatureNet, batches: Sequence[Batch], cfg: FitConfig) -> dict[str, float]:
    """Mean losses, the share of seen points whose nearest descriptor is right, and how well reliability ranks them."""
    net.eval()
    rows = []
    for batch in batches:
        matching, reliability, right = losses(net, batch, cfg)
        _, score = net.read(net.maps(batch.images), batch.xy_px, batch.log_strength)
        score = score[: len(batch.images) // 2].flatten()[batch.judged]
        good = (right & batch.found_again)[batch.judged]
        best = score.argsort(descending=True)[: len(score) // 3]
        rows.append([
            float(matching), float(reliability), float(right[batch.seen].float().mean()),
            float(good.float().mean()), float(good[best].float().mean()),
        ])  # fmt: skip
    net.train()
    names = ("matching_loss", "reliability_loss", "right_share", "good_share", "good_share_of_best_third")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def fit(
    scenes: Sequence[Views], flats: Sequence[np.ndarray], checks: Sequence[Pair], folder: Path, cfg: FitConfig
) -> FeatureNet:
    """Train; goes on from the checkpoint in `folder`, writes `curve.csv` and `checkpoint.pt` there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(cfg.seed)
    net = FeatureNet().to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), cfg.learning_rate, weight_decay=1e-4)
    step, cpu_s = 0, 0.0
    checkpoint, curve = folder / "checkpoint.pt", folder / "curve.csv"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        step, cpu_s = state["step"], state["cpu_s"]
    judged = [collate(checks[i : i + 8], device) for i in range(0, len(checks), 8)]
    started = time.process_time() - cpu_s
    while step < cfg.n_steps:
        share = step / cfg.n_steps
        rate = float(cfg.learning_rate * min(1.0, (step + 1) / cfg.warm_steps) * 0.5 * (1 + np.cos(np.pi * share)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([cfg.seed, step])  # the same pairs whether or not it was interrupted
        batch = collate(draw(scenes, flats, cfg.pairs_per_step, cfg.view_share, rng), device)
        matching, reliability, _ = losses(net, batch, cfg)
        optimiser.zero_grad()
        (matching + 0.5 * reliability).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step % cfg.check_every == 0 or step == cfg.n_steps:
            cpu_s = time.process_time() - started
            figures = {"step": step, "cpu_s": round(cpu_s, 1), "train_loss": float(matching.detach())}
            figures |= validate(net, judged, cfg)
            _append(curve, figures)
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "cpu_s": cpu_s}
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
    return net.eval()


def _append(path: Path, row: dict[str, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, row)
        if fresh:
            writer.writeheader()
        writer.writerow({k: round(v, 4) for k, v in row.items()})
