"""fit_surface: a neural SDF trained by unbiased volume rendering, pulled by the prior cloud, bounded by the hull."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon.data import ObjectRegion, PosedCapture, PriorCloud, SurfaceField
from recon.stage import Job, stage
from recon.surface.baking import Baker, unit_from_region, unit_planes
from recon.surface.field import Engine, Field, FieldConfig
from recon.surface.losses import LossConfig, Losses, eikonal, opacity_loss, point_loss
from recon.surface.pixels import OBJECT, OUTSIDE, PixelPool, UnitCameras, gather_pixels, unit_cameras
from recon.surface.render import annealed_cosine, ray_weights, section_opacity
from recon.surface.sampling import sample_rays
from recon.surface.visual_hull import hull_sdf, support_points


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
    """Least sharpness of the NeuS density (per unit cube edge) at the start; higher trusts the visual hull more."""
    last_inv_s: float = 2500.0
    """Least sharpness at four fifths of the steps; the learned sharpness may be higher."""
    support_confidence: float = 0.5
    """Confidence of the points on the support plane that close the underside, 0 to leave it open."""
    cosine_share: float = 0.0
    """Share of the steps over which the entering cosine turns from forgiving to exact (NeuS); 0: exact at once."""
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


@dataclass
class Data:
    """What a training step draws from."""

    pool: PixelPool
    cameras: UnitCameras
    planes: np.ndarray
    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    confidence: Float[Tensor, " n"]
    free_points: Float[Tensor, "n_free 3"]
    """Points outside the masks' visual hull ..."""
    free_distance: Float[Tensor, " n_free"]
    """... and how far outside at least, in unit lengths."""


@stage(result=SurfaceField, version=1, resumable=True)
def fit_surface(
    posed: PosedCapture, region: ObjectRegion, prior: PriorCloud, cfg: SurfaceConfig, job: Job
) -> SurfaceField:
    """Train the SDF and colour field; resumes from `checkpoint.pt` in the job's folder."""
    engine = Engine.cpu if cfg.engine is Engine.auto else cfg.engine
    job.notes["engine"] = engine.name
    unit_from_world = unit_from_region(region)
    pool = gather_pixels(posed, region, cfg.ring_share, cfg.max_side_px)
    baker = Baker(region, unit_from_world, cfg.bake_resolution)
    hull = hull_sdf(baker.baked, posed, region, unit_from_world).reshape(-1)[baker.near_hull]
    # one cell of slack: masks are right to a few pixels, the carving to half a cell
    free = hull > baker.baked.cell
    below, below_normals = support_points(posed, region, region.diagonal() / 150)
    job.notes["support_points"] = len(below)
    points = np.concatenate([prior.points_world, below])
    normals = np.concatenate([prior.normals_world, below_normals])
    confidence = np.concatenate([prior.confidence, np.full(len(below), cfg.support_confidence)])
    data = Data(
        pool,
        unit_cameras(posed, unit_from_world),
        unit_planes(region, unit_from_world),
        torch.from_numpy(unit_from_world.apply(points)).float(),
        torch.from_numpy(normals @ unit_from_world.rotation.T).float(),
        torch.from_numpy(confidence).float(),
        torch.from_numpy(baker.points[baker.near_hull][free]),
        torch.from_numpy(hull[free] - np.float32(baker.baked.cell)),
    )
    trainer = Trainer(cfg, engine, data, len(posed.views))
    checkpoint = job.folder / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
        job.notes["resumed_at_step"] = trainer.step
    else:
        trainer.warm_start(baker.points[baker.near_hull], hull)
    train(trainer, baker, region, unit_from_world, checkpoint, job)
    checkpoint.unlink(missing_ok=True)
    job.notes["pool_pixels"] = len(pool.label)
    return SurfaceField(
        unit_from_world,
        asdict(cfg.field_config()),
        trainer.field.arrays(),
        trainer.field.log_inv_s.item(),
        np.exp(trainer.centred_gain().detach().double().numpy()),
        {k: round(v, 5) for k, v in trainer.averages.items()} | {"n_steps": cfg.n_steps},
    )


def train(
    trainer: Trainer, baker: Baker, region: ObjectRegion, unit_from_world: object, checkpoint: Path, job: Job
) -> None:
    """Run the steps that are left, baking, reporting and checkpointing on the way."""
    cfg, saved_at = trainer.cfg, time.monotonic()
    late = cfg.n_steps // 2
    fresh = True
    while trainer.step < cfg.n_steps:
        if trainer.step >= late and baker.baked.cell > 1.001 / cfg.bake_resolution_late:
            baker, fresh = Baker(region, unit_from_world, cfg.bake_resolution_late), True  # type: ignore[arg-type]
        if fresh or trainer.step % cfg.bake_every == 0:
            whole = fresh or trainer.step % (10 * cfg.bake_every) == 0
            baker.refresh(trainer.field, None if whole else 4.0)
            fresh = False
        trainer.train_step(baker)
        if trainer.step % 20 == 0:
            a = trainer.averages
            job.progress(trainer.step, cfg.n_steps, f"colour {a['colour']:.4f}  1/s {np.exp(a['log_inv_s']):.0f}")
        if time.monotonic() - saved_at > cfg.checkpoint_s:
            trainer.save(checkpoint)
            saved_at = time.monotonic()


class Trainer:
    """The field, its optimiser and the state of the training."""

    def __init__(self, cfg: SurfaceConfig, engine: Engine, data: Data, n_views: int) -> None:
        torch.manual_seed(cfg.seed)
        self.cfg, self.data, self.step = cfg, data, 0
        self.rng = np.random.default_rng(cfg.seed)
        self.field = Field(cfg.field_config(), engine)
        self.log_gain = torch.zeros(n_views, 3, requires_grad=True)
        networks = [p for k, p in self.field.named_parameters() if k not in ("table", "log_inv_s")]
        self.optimizer = torch.optim.Adam(
            [
                {"params": [self.field.table], "lr": cfg.learning_rate, "scale": 1.0},
                {"params": networks, "lr": cfg.learning_rate / 4, "scale": 0.25},
                {"params": [self.field.log_inv_s, self.log_gain], "lr": cfg.learning_rate / 4, "scale": 0.25},
            ],
            betas=(0.9, 0.99),
            eps=1e-15,  # Instant-NGP's: a row that is seldom hit has tiny gradients and must still move
            fused=True,
        )
        self.averages: dict[str, float] = {"colour": 0.0, "log_inv_s": 3.0}

    def centred_gain(self) -> Float[Tensor, "n_views 3"]:
        """Per-photo log gains with zero mean, so that they cannot shift the object's own colour."""
        return self.log_gain - self.log_gain.mean(0)

    def warm_start(self, points: np.ndarray, values: np.ndarray, n_steps: int = 200, n_points: int = 8192) -> None:
        """Regress the SDF to the visual hull's before any ray is rendered."""
        self.field.open_levels(self.cfg.first_levels)
        for _ in range(n_steps):
            chosen = self.rng.integers(len(points), size=n_points)
            x = torch.from_numpy(points[chosen])
            sdf, gradient, _ = self.field.geometry(x)
            loss = (sdf - torch.from_numpy(values[chosen])).abs().mean() * 10 + 0.1 * eikonal(gradient)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def schedule(self) -> None:
        """Set the learning rates and the open levels of this step."""
        cfg, done = self.cfg, self.step / self.cfg.n_steps
        warm = min(1.0, (self.step + 1) / 100)
        decay = 0.03 ** max(0.0, (done - 0.3) / 0.7)
        self.least_log_inv_s = np.log(cfg.first_inv_s) + min(1.0, done / 0.8) * np.log(cfg.last_inv_s / cfg.first_inv_s)
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * group["scale"] * warm * decay
        opened = cfg.first_levels + (cfg.n_levels - cfg.first_levels) * done / cfg.open_share
        self.field.open_levels(min(opened, cfg.n_levels))

    def draw(self) -> np.ndarray:
        """Indices into the pixel pool for one step."""
        pool, n_inner = self.data.pool, round(self.cfg.n_rays * self.cfg.object_share)
        inner = self.rng.integers(pool.n_object, size=n_inner)
        if pool.n_object == len(pool.label):
            return inner
        outer = self.rng.integers(pool.n_object, len(pool.label), size=self.cfg.n_rays - n_inner)
        return np.concatenate([inner, outer])

    def train_step(self, baker: Baker) -> None:
        """One step of the optimiser on one batch of rays and prior points."""
        self.schedule()
        losses = self.losses(baker)
        total = losses.total(self.cfg.loss)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.step += 1
        for k, v in losses.values().items() | {"log_inv_s": self.field.log_inv_s.item()}.items():
            self.averages[k] = 0.95 * self.averages.get(k, v) + 0.05 * v

    def losses(self, baker: Baker) -> Losses:
        cfg, data, done = self.cfg, self.data, self.step / self.cfg.n_steps
        chosen = self.draw()
        view_idx = data.pool.view_idx[chosen].astype(np.int64)
        position = data.pool.pixel[chosen] + 0.5
        rays_o, rays_d = data.cameras.rays(view_idx, position)
        log_inv_s = torch.clamp(self.field.log_inv_s, min=self.least_log_inv_s)
        inv_s = float(np.exp(log_inv_s.item()))
        jitter = self.rng.random((len(chosen), cfg.n_samples + 1), dtype=np.float32)
        # a baked grid cannot place samples more sharply than a few per cell
        proposal = min(inv_s, 5.0 / baker.baked.cell)
        edges, hit = sample_rays(baker.baked, rays_o, rays_d, data.planes, proposal, cfg.n_samples, jitter)
        rows = np.flatnonzero(hit)
        t = torch.from_numpy(edges[rows])
        o, d = torch.from_numpy(rays_o[rows]), torch.from_numpy(rays_d[rows])
        n_prior = min(cfg.n_points, len(data.points))
        prior_idx = torch.from_numpy(self.rng.integers(max(len(data.points), 1), size=n_prior))
        middle, length = (t[:, 1:] + t[:, :-1]) / 2, t[:, 1:] - t[:, :-1]
        x = (o[:, None] + middle[..., None] * d[:, None]).reshape(-1, 3)
        free_idx = torch.from_numpy(
            self.rng.integers(max(len(data.free_points), 1), size=min(cfg.n_free, len(data.free_points)))
        )
        sdf, gradient, geometry = self.field.geometry(
            torch.cat([x, data.points[prior_idx], data.free_points[free_idx]])
        )
        m = len(x) + n_prior
        n = len(x)
        normal = gradient / (gradient.norm(dim=1, keepdim=True) + 1e-6)
        d_all = d[:, None].expand(-1, cfg.n_samples, -1).reshape(-1, 3)
        cosine = annealed_cosine((gradient[:n] * d_all).sum(1), min(1.0, done / max(cfg.cosine_share, 1e-6)))
        shape = (len(rows), cfg.n_samples)
        opacity = section_opacity(sdf[:n].view(shape), cosine.view(shape), length, torch.exp(log_inv_s))
        weights = ray_weights(opacity)
        colour = self.field.radiance(x, d_all, normal[:n], geometry[:n]).view(*shape, 3)
        return self.assemble(
            chosen[rows],
            view_idx[rows],
            weights,
            colour,
            sdf[n:m],
            normal[n:m],
            gradient,
            prior_idx,
            (data.free_distance[free_idx] - sdf[m:]),
        )

    def assemble(
        self,
        chosen: np.ndarray,
        view_idx: np.ndarray,
        weights: Tensor,
        colour: Tensor,
        prior_sdf: Tensor,
        prior_normal: Tensor,
        gradient: Tensor,
        prior_idx: Tensor,
        intrusion: Tensor,
    ) -> Losses:
        """Compare the rendered rays with the photos and the SDF with the prior cloud."""
        cfg, data = self.cfg, self.data
        label = torch.from_numpy(data.pool.label[chosen])
        source = data.pool.blurred if self.step < cfg.blurred_share * cfg.n_steps else data.pool.rgb
        target = torch.from_numpy(source[chosen]).float() / 255
        accumulated = weights.sum(1)
        gain = torch.exp(self.centred_gain()[torch.from_numpy(view_idx)])
        # what is still transparent is filled with the photo: opacity is the masks' business alone, so that the
        # colour term cannot swell the shape to hide what lies behind
        rendered = gain * (weights[..., None] * colour).sum(1) + (1 - accumulated).detach()[:, None] * target
        on = label == OBJECT
        return Losses(
            colour=(rendered - target).abs()[on].mean(),
            mask=opacity_loss(accumulated, on, label == OUTSIDE),
            eikonal=eikonal(gradient),
            points=point_loss(prior_sdf, prior_normal, data.normals[prior_idx], data.confidence[prior_idx], cfg.loss),
            free_space=torch.relu(intrusion).sum() / max(len(intrusion), 1),
            gain=(self.log_gain**2).mean(),
        )

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
