"""The training of the surface: its optimiser and its steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon.surface.baking import Baker
from recon.surface.batch import LOOKED_THROUGH_MARGIN, Batch, Data, draw_batch
from recon.surface.config import SurfaceConfig
from recon.surface.field import Engine, Field
from recon.surface.losses import Losses, eikonal, opacity_loss, point_loss
from recon.surface.patches import PatchRays, patch_loss
from recon.surface.pixels import OBJECT, OUTSIDE
from recon.surface.render import annealed_cosine, ray_weights, section_opacity
from recon.surface.sampling import BakedSdf


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
        losses = self.losses(draw_batch(self.data, self.cfg, self.rng, baker.baked, self.inv_s()), baker.baked)
        self.optimizer.zero_grad()
        losses.total(self.cfg.loss, self.patch_weight()).backward()
        self.optimizer.step()
        self.step += 1
        for k, v in losses.values().items():
            self.averages[k] = 0.95 * self.averages.get(k, v) + 0.05 * v

    def losses(self, batch: Batch, baked: BakedSdf) -> Losses:
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
            patches=self.compare_patches(batch, middle, sdf[:n].view(shape).detach(), baked),
        )

    def patch_weight(self) -> float:
        """Of the patches' term at this step."""
        return self.cfg.patches.weight_at(self.step / self.cfg.n_steps)

    def compare_patches(
        self,
        batch: Batch,
        middle: Float[Tensor, "n_rays n_samples"],
        sdf: Float[Tensor, "n_rays n_samples"],
        baked: BakedSdf,
    ) -> Float[Tensor, ""]:
        """The patches' term on the object's rays; 0 while it has no weight."""
        if self.data.photos is None or self.patch_weight() == 0:
            return torch.zeros((), device=sdf.device)
        on = torch.from_numpy(self.data.pool.label[batch.pixel_idx] == OBJECT)
        rays = PatchRays(batch.view_idx[on], batch.origin[on], batch.direction[on], middle[on], sdf[on])
        return patch_loss(self.field.geometry, self.data.photos, rays, baked, self.cfg.patches)

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
