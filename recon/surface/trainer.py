"""The training of the surface: its options, its data, its optimiser, its steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon.surface.baking import Baker
from recon.surface.field import Engine, Field, FieldConfig
from recon.surface.losses import LossConfig, Losses, eikonal, opacity_loss, point_loss
from recon.surface.pixels import OBJECT, OUTSIDE, PixelPool, UnitCameras
from recon.surface.render import annealed_cosine, ray_weights, section_opacity
from recon.surface.sampling import BakedSdf, sample_rays


@dataclass(frozen=True)
class SurfaceConfig:
    """How the surface is trained."""

    engine: Engine = Engine.auto
    """What evaluates the hash grid: cpu (numba kernels), reference (plain torch); auto takes the fastest here."""
    n_steps: int = 4000
    """Training steps; the time of the stage is in proportion."""
    n_rays: int = 1024
    """Rays a step."""
    n_samples: int = 10
    """Sections a ray; they are concentrated at the surface, so that few do."""
    object_share: float = 0.8
    """Share of the rays through the object; the others pass just beside it, or the shape would swell."""
    ring_share: float = 0.06
    """Width of the ring of pixels around the object, as a share of its size in the photo."""
    max_side_px: int = 1600
    """Photos larger than this are thinned to about this size."""
    n_levels: int = 12
    """Levels of the hash grid; more hold finer detail and cost time in proportion."""
    log2_rows: int = 17
    """Rows of a level as a power of two."""
    finest_resolution: int = 1024
    """Cells along the object's longest side at the finest level."""
    hidden: int = 64
    """Width of the networks' hidden layers."""
    open_share: float = 0.4
    """Share of the steps after which all levels are open (coarse to fine)."""
    first_levels: int = 4
    """Levels open at the start."""
    blurred_share: float = 0.2
    """Share of the steps that train on photos at a quarter of their resolution."""
    first_inv_s: float = 400.0
    """Sharpness 1/s of the NeuS density at the start, per edge of the unit cube, at most: it starts blunter where the
    prior points lie far inside the visual hull. Higher trusts the hull more."""
    last_inv_s: float = 2500.0
    """Sharpness from four fifths of the steps on; higher lets the surface follow finer detail, and noise."""
    support_share: float = 0.1
    """Share of the prior points a step that close the underside."""
    support_confidence: float = 0.5
    """Confidence of the points on the support plane that close the underside, 0 to leave it open."""
    cosine_share: float = 0.0
    """Share of the steps over which the entering cosine turns from forgiving to exact (NeuS); 0: exact at once."""
    n_looked_through: int = 512
    """Points between prior points and the cameras that see them, a step; nothing may be solid there."""
    n_free: int = 1024
    """Points outside the visual hull a step."""
    learning_rate: float = 1e-2
    """Of the hash grid, at its highest; the networks take a quarter of it."""
    bake_resolution: int = 96
    """Cells along the object's longest side of the baked SDF that places the samples, in the first half."""
    bake_resolution_late: int = 160
    """The same in the second half."""
    bake_every: int = 50
    """Steps between refreshes of the baked SDF."""
    n_points: int = 1024
    """Prior points a step."""
    seed: int = 0
    """Of all randomness in the fit."""
    checkpoint_s: float = 30.0
    """Seconds between checkpoints, which an interrupted run goes on from."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the loss's terms."""

    def field_config(self) -> FieldConfig:
        return FieldConfig(
            n_levels=self.n_levels,
            log2_rows=self.log2_rows,
            finest_resolution=self.finest_resolution,
            hidden=self.hidden,
        )


@dataclass(frozen=True)
class Data:
    """What a training step draws from, in the unit cube."""

    pool: PixelPool
    cameras: UnitCameras
    planes: np.ndarray
    """The hull's half-spaces, (n_planes, 4)."""
    points: Float[Tensor, "n_points 3"]
    """Prior points, then those that close the underside."""
    normals: Float[Tensor, "n_points 3"]
    confidence: Float[Tensor, " n_points"]
    n_prior: int
    """How many of the points are prior points."""
    towards: Float[Tensor, "n_prior 3"]
    """Direction from each prior point to the camera that sees it best; zero: none."""
    free_points: Float[Tensor, "n_free 3"]
    """Points outside the masks' visual hull ..."""
    free_distance: Float[Tensor, " n_free"]
    """... and how far outside at least."""


@dataclass(frozen=True)
class Batch:
    """One step's draw."""

    pixel_idx: np.ndarray
    """(n_rays,) into the pool."""
    view_idx: Tensor
    origin: Float[Tensor, "n_rays 3"]
    direction: Float[Tensor, "n_rays 3"]
    edges: Float[Tensor, "n_rays n_edges"]
    """Of the rays' sections."""
    point_idx: Tensor
    free_idx: Tensor
    looked_through: Float[Tensor, "n 3"]
    """Points between prior points and the cameras that see them."""


LOOKED_THROUGH_MARGIN, LOOKED_THROUGH_REACH = 0.02, 0.6
"""How far in front of a prior point space is taken as empty, in edges of the unit cube."""


def draw_batch(data: Data, cfg: SurfaceConfig, rng: np.random.Generator, baked: BakedSdf, inv_s: float) -> Batch:
    """Draw rays through and beside the object, sections on them where the baked SDF puts the weights, and points."""
    pool, n_inner = data.pool, round(cfg.n_rays * cfg.object_share)
    pixel_idx = rng.integers(pool.n_object, size=n_inner)
    if pool.n_object < len(pool.label):
        outer = rng.integers(pool.n_object, len(pool.label), size=cfg.n_rays - n_inner)
        pixel_idx = np.concatenate([pixel_idx, outer])
    view_idx = pool.view_idx[pixel_idx].astype(np.int64)
    rays_o, rays_d = data.cameras.rays(view_idx, pool.pixel[pixel_idx] + 0.5)
    jitter = rng.random((len(pixel_idx), cfg.n_samples + 1), dtype=np.float32)
    # a baked grid cannot place samples more sharply than a few to a cell
    sharpness = min(inv_s, 5.0 / baked.cell)
    edges, hit = sample_rays(baked, rays_o, rays_d, data.planes, sharpness, cfg.n_samples, jitter)
    n_below = len(data.points) - data.n_prior
    below = rng.integers(data.n_prior, max(len(data.points), data.n_prior + 1), size=_share(n_below, cfg))
    prior = rng.integers(max(data.n_prior, 1), size=cfg.n_points if data.n_prior else 0)
    free = rng.integers(max(len(data.free_points), 1), size=cfg.n_free if len(data.free_points) else 0)
    from_prior = torch.from_numpy(prior[: cfg.n_looked_through])
    # squared: most of them near the surface, where the hull and the cloud differ
    ahead = torch.from_numpy(rng.random((len(from_prior), 1), dtype=np.float32) ** 2)
    ahead = LOOKED_THROUGH_MARGIN + (LOOKED_THROUGH_REACH - LOOKED_THROUGH_MARGIN) * ahead
    return Batch(
        pixel_idx[hit],
        torch.from_numpy(view_idx[hit]),
        torch.from_numpy(rays_o[hit]),
        torch.from_numpy(rays_d[hit]),
        torch.from_numpy(edges[hit]),
        torch.from_numpy(np.concatenate([prior, below])),
        torch.from_numpy(free),
        data.points[from_prior] + ahead * data.towards[from_prior],
    )


def _share(n_below: int, cfg: SurfaceConfig) -> int:
    return round(cfg.support_share * cfg.n_points) if n_below else 0


class Trainer:
    """The field, its optimiser and the state of the training."""

    def __init__(self, cfg: SurfaceConfig, engine: Engine, data: Data, n_views: int) -> None:
        torch.manual_seed(cfg.seed)
        self.cfg, self.data, self.step = cfg, data, 0
        self.rng = np.random.default_rng(cfg.seed)
        self.field = Field(cfg.field_config(), engine)
        self.log_gain = torch.zeros(n_views, 3, requires_grad=True)
        networks = [p for k, p in self.field.named_parameters() if k != "table"]
        self.optimizer = torch.optim.Adam(
            [{"params": [self.field.table], "scale": 1.0}, {"params": [*networks, self.log_gain], "scale": 0.25}],
            lr=cfg.learning_rate,
            betas=(0.9, 0.99),
            eps=1e-15,  # Instant-NGP's: a row that is seldom hit has tiny gradients and must still move
            fused=True,
        )
        self.first_inv_s = cfg.first_inv_s
        self.averages: dict[str, float] = {}
        """Running means of the loss's terms."""

    def centred_gain(self) -> Float[Tensor, "n_views 3"]:
        """Per-photo log gains with zero mean, so that they cannot shift the object's own colour."""
        return self.log_gain - self.log_gain.mean(0)

    def inv_s(self) -> float:
        """NeuS's sharpness at this step, on a geometric schedule.

        NeuS learns it. In so few steps it rises too slowly, and blunter schedules measured worse: docs/results.md.
        """
        share = min(1.0, self.step / self.cfg.n_steps / 0.8)
        return float(self.first_inv_s * (self.cfg.last_inv_s / self.first_inv_s) ** share)

    def warm_start(self, points: np.ndarray, values: np.ndarray, n_steps: int = 200, n_points: int = 8192) -> None:
        """Regress the SDF to the visual hull's before any ray is rendered."""
        self.field.open_levels(self.cfg.first_levels)
        for _ in range(n_steps):
            chosen = self.rng.integers(len(points), size=n_points)
            sdf, gradient, _ = self.field.geometry(torch.from_numpy(points[chosen]))
            loss = 10 * (sdf - torch.from_numpy(values[chosen])).abs().mean() + 0.1 * eikonal(gradient)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def schedule(self) -> None:
        """Set the learning rates and the open levels of this step."""
        cfg, done = self.cfg, self.step / self.cfg.n_steps
        warm = min(1.0, (self.step + 1) / 100)
        decay = 0.03 ** max(0.0, (done - 0.3) / 0.7)
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * group["scale"] * warm * decay
        opened = cfg.first_levels + (cfg.n_levels - cfg.first_levels) * done / cfg.open_share
        self.field.open_levels(min(opened, cfg.n_levels))

    def train_step(self, baker: Baker) -> None:
        """One step of the optimiser on one batch of rays and points."""
        self.schedule()
        losses = self.losses(draw_batch(self.data, self.cfg, self.rng, baker.baked, self.inv_s()))
        self.optimizer.zero_grad()
        losses.total(self.cfg.loss).backward()
        self.optimizer.step()
        self.step += 1
        for k, v in losses.values().items():
            self.averages[k] = 0.95 * self.averages.get(k, v) + 0.05 * v

    def losses(self, batch: Batch) -> Losses:
        """Render the batch's rays and compare them with the photos, the prior cloud and the visual hull."""
        cfg, data = self.cfg, self.data
        shape = (len(batch.edges), cfg.n_samples)
        middle, length = (batch.edges[:, 1:] + batch.edges[:, :-1]) / 2, batch.edges.diff(dim=1)
        x = (batch.origin[:, None] + middle[..., None] * batch.direction[:, None]).reshape(-1, 3)
        # one pass through the field for all points: a kernel call costs as much as a few hundred points
        parts = [x, data.points[batch.point_idx], data.free_points[batch.free_idx], batch.looked_through]
        together = torch.cat(parts)
        sdf, gradient, geometry = self.field.geometry(together)
        normal = gradient / (gradient.norm(dim=1, keepdim=True) + 1e-6)
        n, m, k = np.cumsum([len(part) for part in parts[:3]])
        direction = batch.direction[:, None].expand(*shape, 3).reshape(-1, 3)
        share = min(1.0, self.step / max(cfg.cosine_share * cfg.n_steps, 1e-6)) if cfg.cosine_share else 1.0
        cosine = annealed_cosine((gradient[:n] * direction).sum(1), share)
        opacity = section_opacity(sdf[:n].view(shape), cosine.view(shape), length, torch.tensor(self.inv_s()))
        weights = ray_weights(opacity)
        colour = self.field.radiance(x, direction, normal[:n], geometry[:n]).view(*shape, 3)
        colour_term, mask_term = self.compare(batch, weights, colour)
        beyond_hull = torch.relu(data.free_distance[batch.free_idx] - sdf[m:k])
        # half the margin: the SDF in front of a slanted surface is smaller than the way to it
        in_view = torch.relu(LOOKED_THROUGH_MARGIN / 2 - sdf[k:])
        prior_normal, confidence = data.normals[batch.point_idx], data.confidence[batch.point_idx]
        return Losses(
            colour=colour_term,
            mask=mask_term,
            eikonal=eikonal(gradient),
            points=point_loss(sdf[n:m], normal[n:m], prior_normal, confidence, cfg.loss),
            free_space=beyond_hull.sum() / max(len(beyond_hull), 1) + in_view.sum() / max(len(in_view), 1),
            gain=(self.log_gain**2).mean(),
        )

    def compare(
        self, batch: Batch, weights: Float[Tensor, "n_rays n_samples"], colour: Float[Tensor, "n_rays n_samples 3"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The colour term (mean absolute difference on the object) and the mask term."""
        pool = self.data.pool
        label = torch.from_numpy(pool.label[batch.pixel_idx])
        source = pool.blurred if self.step < self.cfg.blurred_share * self.cfg.n_steps else pool.rgb
        target = torch.from_numpy(source[batch.pixel_idx]).float() / 255
        accumulated = weights.sum(1)
        gain = torch.exp(self.centred_gain()[batch.view_idx])
        # what is still transparent is filled with the photo: opacity is the masks' business alone, so that the
        # colour term cannot swell the shape to hide what lies behind
        rendered = gain * (weights[..., None] * colour).sum(1) + (1 - accumulated).detach()[:, None] * target
        on = label == OBJECT
        difference = (rendered - target).abs().mean(1)
        return (difference * on).sum() / on.sum().clamp(min=1), opacity_loss(accumulated, on, label == OUTSIDE)

    def save(self, path: Path) -> None:
        """Write everything that `restore` needs, whole or not at all."""
        state = {
            "field": self.field.state_dict(),
            "log_gain": self.log_gain.detach(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "averages": self.averages,
            "rng": self.rng.bit_generator.state,
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def restore(self, path: Path) -> None:
        """Continue where `save` was called."""
        state = torch.load(path, weights_only=False)
        self.field.load_state_dict(state["field"])
        with torch.no_grad():
            self.log_gain.copy_(state["log_gain"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.averages = state["step"], state["averages"]
        self.rng.bit_generator.state = state["rng"]
