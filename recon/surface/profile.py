"""Where a training step's time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.surface.baking import Baker
from recon.surface.batch import Batch
from recon.surface.field import Field
from recon.surface.trainer import Trainer

PARTS = ("encode", "networks", "sampling", "patches", "optimiser", "baking")
"""What is measured by itself; the others of a step are its rest."""


@dataclass(frozen=True)
class StepProfile:
    """Seconds of a training step and of its parts, each forward and backward and by itself on one batch."""

    step: float
    """A whole step, baking's share in it included."""
    sampling: float
    """Drawing rays and points, and placing sections on the rays."""
    encode: float
    """The hash grid: features, J^T g and the gradient of the table."""
    networks: float
    """The SDF and colour networks."""
    patches: float
    """Warping and comparing patches, with what these evaluate of the field; 0 where they have no weight yet."""
    optimiser: float
    baking: float
    """A refresh's seconds over the steps between refreshes."""
    encode_bytes: int
    """What the encoding must at least read and write, n_points' rows counted once each for every use."""
    copy_bytes_per_s: float
    """Of a large copy on this device, read and written bytes: the memory's limit in practice."""

    def rest(self) -> float:
        """Rendering, losses, launching: what is left of the step."""
        return self.step - sum(getattr(self, name) for name in PARTS)

    def shares(self) -> dict[str, float]:
        """Each part over the whole step."""
        return {name: getattr(self, name) / self.step for name in PARTS} | {"rest": self.rest() / self.step}

    def encode_limit_share(self) -> float:
        """The encoding's rate over the memory's; above 1 where caches serve it."""
        return self.encode_bytes / self.encode / self.copy_bytes_per_s


def step_profile(trainer: Trainer, baker: Baker, n: int = 20) -> StepProfile:
    """Medians over n runs of each part. The trainer trains on meanwhile, so take one that is not needed any more."""
    cfg, field = trainer.cfg, trainer.field
    device = trainer.device
    batch = trainer.draw(baker)
    x, direction = points_of(trainer, batch)
    encode = median_seconds(lambda: _encode(field, x), device, n)
    fields = median_seconds(lambda: _evaluate(field, x, direction), device, n)
    band = median_seconds(lambda: baker.refresh(field, 4.0), device, 3)
    whole = median_seconds(lambda: baker.refresh(field, None), device, 3)
    baking = (0.9 * band + 0.1 * whole) / cfg.bake_every
    return StepProfile(
        step=median_seconds(lambda: trainer.train_step(baker), device, n) + baking,
        sampling=median_seconds(lambda: trainer.draw(baker), device, n),
        encode=encode,
        networks=fields - encode,
        patches=patch_seconds(trainer, batch, baker, n),
        optimiser=median_seconds(lambda: trainer.optimizer.step(), device, n),
        baking=baking,
        encode_bytes=encode_traffic(field, len(x)),
        copy_bytes_per_s=copy_rate(device),
    )


def patch_seconds(trainer: Trainer, batch: Batch, baker: Baker, n: int) -> float:
    """Median seconds of the patches' term, forward and backward; 0 where it has no weight at this step."""
    if trainer.data.photos is None or trainer.patch_weight() == 0:
        return 0.0
    x, _ = points_of(trainer, batch)
    middle = (batch.edges[:, 1:] + batch.edges[:, :-1]) / 2
    with torch.no_grad():
        sdf = trainer.field.geometry(x[: middle.numel()])[0].view(middle.shape)

    def compare() -> None:
        term = trainer.compare_patches(batch, middle, sdf, baker.baked)
        trainer.field.zero_grad()
        if term.requires_grad:  # some ray meets the surface
            term.backward()

    return median_seconds(compare, trainer.device, n)


def median_seconds(work: Callable[[], object], device: torch.device, n: int) -> float:
    """Median of n runs after one that is not counted; a GPU is waited for before and after each."""
    taken = []
    for _ in range(n + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def points_of(trainer: Trainer, batch: Batch) -> tuple[Tensor, Tensor]:
    """All points (n, 3) that a step evaluates, those on rays first, and the directions (m, 3) of the latter."""
    middle = (batch.edges[:, 1:] + batch.edges[:, :-1]) / 2
    on_rays = (batch.origin[:, None] + middle[..., None] * batch.direction[:, None]).reshape(-1, 3)
    direction = batch.direction[:, None].expand(*middle.shape, 3).reshape(-1, 3)
    return torch.cat([on_rays, *trainer.places(batch), trainer.neighbours(batch, middle)]), direction


def encode_traffic(field: Field, n: int) -> int:
    """Bytes that encoding n points forward and backward moves at least, with all open levels."""
    layout = field.layout
    open_levels = field.n_open
    row = 4 * layout.n_features
    results = row * open_levels * (1 + 3)
    rows = 8 * row * open_levels
    # forward: rows read, results written; backward: their gradients read, the table's read and written
    return n * (2 * 12 + rows + 2 * results + 2 * rows)


def copy_rate(device: torch.device, n_bytes: int = 1 << 28) -> float:
    """Bytes read and written a second by copying `n_bytes`, more than any cache holds."""
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / median_seconds(lambda: target.copy_(source), device, 5)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _encode(field: Field, x: Tensor) -> None:
    features, pull = field.grid.encode(field.table, x, field.level_weight)
    g = torch.ones_like(features, requires_grad=True)
    field.zero_grad()
    (features.sum() + pull(g).sum()).backward()


def _evaluate(field: Field, x: Tensor, direction: Tensor) -> None:
    sdf, gradient, geometry = field.geometry(x)
    n = len(direction)
    colour = field.radiance(x[:n], direction, gradient[:n], geometry[:n])
    field.zero_grad()
    (sdf.sum() + gradient.sum() + colour.sum()).backward()
