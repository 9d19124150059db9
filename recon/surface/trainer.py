"""The training of the surface: its optimiser and its steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon.surface.baking import Baker
from recon.surface.batch import LOOKED_THROUGH_MARGIN, Batch, Data, draw_batch
from recon.surface.config import SurfaceConfig
from recon.surface.field import Engine, Field
from recon.surface.importance import RayDraw
from recon.surface.losses import Losses, eikonal, opacity_loss, point_loss
from recon.surface.pixels import OBJECT, OUTSIDE, UNSURE
from recon.surface.pyramid import blend_scales, scale_at
from recon.surface.render import annealed_cosine, ray_weights, section_opacity
from recon.surface.trust import WEIGH_EVERY, PhotoErrors


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
        self.rays = RayDraw(cfg.importance, data.pool.tiles, self.log_gain.device)
        self.photos = PhotoErrors(cfg.trust, n_views, self.log_gain.device)
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
        n_open = min(opened, cfg.n_levels)
        self.field.open_levels(n_open)
        self.scale = scale_at(n_open, self.field.layout, self.data.pixel_size, cfg.pyramid)
        if done >= cfg.trust.from_share and self.step % WEIGH_EVERY == 0:
            self.photos.weigh()

    def train_step(self, baker: Baker) -> None:
        """One step of the optimiser on one batch of rays and points."""
        self.schedule()
        losses = self.losses(draw_batch(self.data, self.rays, self.cfg, self.rng, baker.baked, self.inv_s()))
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
        pool, chosen = self.data.pool, batch.pixel_idx
        label = torch.from_numpy(pool.label[chosen])
        target = torch.from_numpy(blend_scales(pool.rgb[chosen], pool.coarse[chosen], self.scale))
        accumulated = weights.sum(1)
        gain = torch.exp(self.centred_gain()[batch.view_idx])
        # what is still transparent is filled with the photo: opacity is the masks' business alone, so that the
        # colour term cannot swell the shape to hide what lies behind
        rendered = gain * (weights[..., None] * colour).sum(1) + (1 - accumulated).detach()[:, None] * target
        on, outside = label == OBJECT, label == OUTSIDE
        difference = (rendered - target).abs().mean(1) * on
        opacity = opacity_loss(accumulated, on, outside)
        self.rays.observe(batch.tile_idx, (difference + self.cfg.loss.mask * opacity).detach(), self.step)
        self.observe_photos(batch, torch.stack([difference, (on.float() - accumulated).abs()]).detach(), label)
        counts = batch.weight * self.photos.counts[batch.view_idx]
        colour_term = (counts * difference).sum() / (counts * on).sum().clamp(min=1e-6)
        return colour_term, (counts * opacity).sum() / counts.sum().clamp(min=1e-6)

    def observe_photos(self, batch: Batch, errors: Float[Tensor, "2 n_rays"], label: Int[Tensor, " n_rays"]) -> None:
        """Take in what each photo's rays miss by in colour and opacity; those that miss the hull have opacity 0."""
        missed = torch.from_numpy(self.data.pool.label[batch.missed_idx])
        # no colour is seen where the hull is missed
        label_of = torch.stack([torch.cat([label, torch.full_like(missed, UNSURE)]), torch.cat([label, missed])])
        weight = torch.cat([batch.weight, batch.missed_weight])
        self.photos.observe(
            torch.cat([batch.view_idx, torch.from_numpy(self.data.pool.view_idx[batch.missed_idx].astype(np.int64))]),
            torch.cat([errors, torch.stack([torch.zeros(len(missed)), (missed == OBJECT).float()])], 1),
            weight * torch.stack([label_of[0] == OBJECT, label_of[1] != UNSURE]),
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
            "rays": self.rays.state(),
            "photos": self.photos.state(),
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
        self.rays.restore(state["rays"])
        self.photos.restore(state["photos"])
