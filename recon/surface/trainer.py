"""The training of the surface: its optimiser and its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon.surface.baked import BakedSdf
from recon.surface.baking import Baker
from recon.surface.batch import Batch, Data, draw_batch
from recon.surface.config import SurfaceConfig
from recon.surface.engine import Engine, open_sampler
from recon.surface.field import Field
from recon.surface.hidden import HIDDEN_SLACK, HiddenSpace
from recon.surface.importance import RayDraw
from recon.surface.losses import Losses, curvature, eikonal, hold_loss, opacity_loss, point_loss
from recon.surface.patches import PatchRays, patch_loss
from recon.surface.pixels import OBJECT, OUTSIDE, UNSURE
from recon.surface.pyramid import blend_scales, scale_at
from recon.surface.random_numbers import RandomNumbers
from recon.surface.render import annealed_cosine, ray_weights, section_opacity
from recon.surface.trust import WEIGH_EVERY, PhotoErrors

FAINT = 1e-4
"""Weight up to which a sample's colour cannot be told in an 8-bit photo, even of ten of them."""


class Trainer:
    """The field, its optimiser and the state of the training, all on the device of a resolved engine."""

    def __init__(self, cfg: SurfaceConfig, engine: Engine, data: Data, n_views: int) -> None:
        torch.manual_seed(cfg.seed)
        self.cfg, self.step = cfg, 0
        self.field = Field(cfg.field_config(), engine, cfg.precision)
        self.device = self.field.table.device
        self.data, self.sample_rays = data.to(self.device), open_sampler(engine)
        self.rng = RandomNumbers(cfg.seed, self.device)
        self.log_gain = torch.zeros(n_views, 3, device=self.device, requires_grad=True)
        networks = [p for k, p in self.field.named_parameters() if k != "table"]
        self.optimizer = torch.optim.Adam(
            [{"params": [self.field.table], "scale": 1.0}, {"params": [*networks, self.log_gain], "scale": 0.25}],
            lr=cfg.learning_rate,
            betas=(0.9, 0.99),
            eps=1e-15,  # Instant-NGP's: a row that is seldom hit has tiny gradients and must still move
            fused=True,
        )
        self.first_inv_s = cfg.first_inv_s
        self.unseen = HiddenSpace(torch.zeros(0, 3), torch.zeros(0), 0.0).to(self.device)
        """What no camera sees past the surface as it was baked last."""
        self.rate, self.gradient_norm = 1.0, 0.0
        self._averages: dict[str, Tensor] = {}
        self.rays = RayDraw(cfg.importance, self.data.pool.tiles)
        self.photos = PhotoErrors(cfg.trust, n_views, self.device)

    @property
    def averages(self) -> dict[str, float]:
        """Running means of the loss's terms and, as `total`, of their sum without the patches'; reading them waits."""
        if not self._averages:
            return {}
        return dict(zip(self._averages, torch.stack(list(self._averages.values())).tolist(), strict=True))

    def parameters(self) -> list[Tensor]:
        """All that is trained."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def calm(self, rate: float, gradient_norm: float) -> None:
        """From now on multiply the learning rates by `rate`, and shorten gradients to `gradient_norm` (0: never)."""
        self.rate, self.gradient_norm = rate, gradient_norm

    def centred_gain(self) -> Float[Tensor, "n_views 3"]:
        """Per-photo log gains with zero mean, so that they cannot shift the object's own colour."""
        return self.log_gain - self.log_gain.mean(0)

    def inv_s(self) -> float:
        """NeuS's sharpness at this step, on a geometric schedule.

        NeuS learns it. In so few steps it rises too slowly, and blunter schedules measured worse: docs/results.md.
        """
        share = min(1.0, self.step / self.cfg.n_steps / 0.8)
        return float(self.first_inv_s * (self.cfg.last_inv_s / self.first_inv_s) ** share)

    @property
    def open_share(self) -> float:
        """How much of the levels that open on the way is open at this step, 0..1."""
        return min(1.0, self.step / self.cfg.n_steps / max(self.cfg.open_share, 1e-6))

    @property
    def released(self) -> float:
        """How much of the photos' pull the shape obeys at this step, 0..1."""
        if self.cfg.hold_share == 0:
            return 1.0
        since = self.step / self.cfg.n_steps - self.cfg.hold_share
        return min(max(since / max(self.cfg.release_share, 1e-6), 0.0), 1.0)

    def n_holding(self) -> int:
        """How many of the start's places, from the first on, have a say at this step."""
        cfg, start = self.cfg, self.data.start
        if cfg.hold_share == 0 or cfg.loss.hold == 0:
            return 0
        return start.n_near if self.released < 1 else start.n_unknown if cfg.loss.hold_left > 0 else 0

    def point_reach(self) -> float:
        """How far a prior point may be from the surface at this step before it counts half, in unit lengths."""
        cfg = self.cfg
        return float(cfg.first_point_reach * (cfg.last_point_reach / cfg.first_point_reach) ** self.open_share)

    def warm_start(self, n_steps: int = 200, n_points: int = 8192) -> None:
        """Regress the SDF to where it starts before any ray is rendered."""
        start = self.data.start
        self.field.open_levels(self.cfg.first_levels)
        for _ in range(n_steps):
            chosen = self.rng.integers(0, len(start.points), size=n_points)
            at, wanted = start.around(chosen, self.rng.random((n_points, 3)))
            sdf, gradient, _ = self.field.geometry(at)
            loss = 10 * (sdf - wanted).abs().mean() + 0.1 * eikonal(gradient)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def schedule(self) -> None:
        """Set the learning rates and the open levels of this step."""
        cfg, done = self.cfg, self.step / self.cfg.n_steps
        warm = min(1.0, (self.step + 1) / 100)
        decay = 0.03 ** max(0.0, (done - 0.3) / 0.7)
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * group["scale"] * warm * decay * self.rate
        n_open = cfg.first_levels + (cfg.n_levels - cfg.first_levels) * self.open_share
        self.field.open_levels(n_open)
        self.scale = scale_at(n_open, self.field.layout, self.data.pixel_size, cfg.pyramid)
        if done >= cfg.trust.from_share and self.step % WEIGH_EVERY == 0:
            self.photos.weigh()

    def train_step(self, baker: Baker) -> None:
        """One step of the optimiser on one batch of rays and points."""
        self.schedule()
        losses = self.losses(self.draw(baker), baker.baked)
        self.optimizer.zero_grad()
        losses.total(self.cfg.loss, self.open_share, self.released, self.patch_weight()).backward()
        if self.gradient_norm:
            nn.utils.clip_grad_norm_(self.parameters(), self.gradient_norm)
        self.optimizer.step()
        # the patches' term is bounded, and grows with its weight: its coming in must not look like a breakdown
        total = losses.total(self.cfg.loss, self.open_share, self.released, patch_weight=0.0).detach()
        for k, v in (losses.values() | {"total": total}).items():
            self._averages[k] = 0.95 * self._averages.get(k, v) + 0.05 * v
        self.step += 1

    def draw(self, baker: Baker) -> Batch:
        """What the next step trains on."""
        return draw_batch(
            self.data, self.rays, self.cfg, self.rng, baker.baked, self.unseen, self.inv_s(), self.sample_rays,
            self.n_holding(),
        )  # fmt: skip

    def losses(self, batch: Batch, baked: BakedSdf) -> Losses:
        """Render the batch's rays and compare them with the photos, the prior cloud and the visual hull."""
        cfg, data = self.cfg, self.data
        middle, length = (batch.edges[:, 1:] + batch.edges[:, :-1]) / 2, batch.edges.diff(dim=1)
        shape = middle.shape
        on_rays = batch.origin[:, None] + middle[..., None] * batch.direction[:, None]
        # one pass through the field for all points: a kernel call costs as much as a few hundred points
        parts = [on_rays.reshape(-1, 3), *self.places(batch), self.neighbours(batch, middle)]
        sizes = [len(part) for part in parts]
        sdf, gradient, geometry = self.field.geometry(torch.cat(parts))
        normals = (gradient / (gradient.norm(dim=1, keepdim=True) + 1e-6)).split(sizes)
        along_rays, at_points, at_free, at_held, at_hidden, _ = sdf.split(sizes)
        along_rays = along_rays.view(shape)
        slope = (gradient.split(sizes)[0].view(on_rays.shape) * batch.direction[:, None]).sum(2)
        share = min(1.0, self.step / max(cfg.cosine_share * cfg.n_steps, 1e-6)) if cfg.cosine_share else 1.0
        opacity = section_opacity(along_rays, annealed_cosine(slope, share), length, torch.tensor(self.inv_s()))
        weights = ray_weights(opacity)
        colour = self.colours(batch, weights, parts[0], normals[0], geometry.split(sizes)[0])
        colour_term, mask_term = self.compare(batch, weights, colour)
        too_near = torch.relu(data.free_distance[batch.free_idx] - at_free)
        not_hidden = torch.relu(at_hidden + (batch.hidden_depth - HIDDEN_SLACK).clamp(min=0))
        prior_normal, confidence = data.normals[batch.point_idx], data.confidence[batch.point_idx]
        at_surface = normals[0].view(on_rays.shape)[batch.aside_idx, cfg.n_samples // 2]
        return Losses(
            colour=colour_term,
            mask=mask_term,
            eikonal=eikonal(gradient),
            points=point_loss(at_points, normals[1], prior_normal, confidence, self.point_reach(), cfg.loss),
            free_space=too_near.sum() / max(len(too_near), 1),
            hold=hold_loss(at_held, batch.held_distance),
            hidden=not_hidden.sum() / max(len(not_hidden), 1),
            curvature=curvature(at_surface, normals[-1]),
            gain=(self.log_gain**2).mean(),
            patches=self.compare_patches(batch, middle, along_rays.detach(), baked),
        )

    def colours(
        self,
        batch: Batch,
        weights: Float[Tensor, "n_rays n_samples"],
        x: Float[Tensor, "n 3"],
        normal: Float[Tensor, "n 3"],
        geometry: Float[Tensor, "n n_geometry"],
    ) -> Float[Tensor, "n_rays n_samples 3"]:
        """The colour at the samples of all rays (n in all, ray by ray); on the CPU 0 where nothing of it shows."""
        n_samples = weights.shape[1]
        if x.device.type != "cpu":  # to pick samples is to wait for the device
            direction = batch.direction.repeat_interleave(n_samples, 0)
            return self.field.radiance(x, direction, normal, geometry).view(*weights.shape, 3)
        on = self.data.pool.label[batch.pixel_idx] == OBJECT
        told = torch.nonzero((weights.detach() * on[:, None] > FAINT).reshape(-1))[:, 0]
        direction = batch.direction[torch.div(told, n_samples, rounding_mode="floor")]
        shown = self.field.radiance(
            x.index_select(0, told), direction, normal.index_select(0, told), geometry.index_select(0, told)
        )
        return torch.zeros_like(x).index_copy(0, told, shown).view(*weights.shape, 3)

    def places(self, batch: Batch) -> list[Float[Tensor, "n 3"]]:
        """Where a step looks at the SDF besides on rays: at known, free, start's and hidden points."""
        data = self.data
        known, free = data.points[batch.point_idx], data.free_points[batch.free_idx]
        return [known, free, batch.held, batch.hidden]

    def neighbours(self, batch: Batch, middle: Float[Tensor, "n_rays n_samples"]) -> Float[Tensor, "n 3"]:
        """Points a cell of the finest open level beside some rays' middle samples, where most of the weight lies."""
        rays, k = batch.aside_idx, self.cfg.n_samples // 2
        at_surface = batch.origin[rays] + middle[rays, k : k + 1] * batch.direction[rays]
        return at_surface + batch.step_aside * self.finest_cell()

    def finest_cell(self) -> float:
        """Edge of a cell of the finest open level of the hash grid."""
        return float(1 / self.field.layout.scales()[self.field.n_open - 1])

    def patch_weight(self) -> float:
        """Of the patches' term at this step."""
        return self.cfg.patches.weight_at(self.step / self.cfg.n_steps) if self.released > 0 else 0.0

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
        on = torch.nonzero(self.data.pool.label[batch.pixel_idx] == OBJECT)[:, 0]
        counts = batch.weight * self.photos.counts[batch.view_idx]
        rays = PatchRays(batch.view_idx, batch.origin, batch.direction, middle, sdf, counts).take(on)
        cfg, exposure = self.cfg.patches, self.centred_gain().detach().mean(1)
        worst_cost = cfg.worst_cost_at(self.step / self.cfg.n_steps)
        return patch_loss(self.field.geometry, self.data.photos, exposure, rays, baked, worst_cost, cfg)

    def compare(
        self, batch: Batch, weights: Float[Tensor, "n_rays n_samples"], colour: Float[Tensor, "n_rays n_samples 3"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The colour term (mean absolute difference on the object) and the mask term."""
        pool = self.data.pool
        label = pool.label[batch.pixel_idx]
        target = blend_scales(pool.rgb[batch.pixel_idx], pool.coarse[batch.pixel_idx], self.scale)
        # a colour that is not yet learnt is least wrong where nothing is: until it is, photos must not move the shape.
        # They may turn its normals, which is how metal tells them
        weights = weights.detach().lerp(weights, self.released)
        accumulated = weights.sum(1)
        gain = torch.exp(self.centred_gain()[batch.view_idx])
        # what is still transparent is filled with the photo: where the colour is right, opacity is the masks' business
        # alone, or the colour term would swell the shape to hide what lies behind
        rendered = gain * (weights[..., None] * colour).sum(1) + (1 - accumulated).detach()[:, None] * target
        on, outside = label == OBJECT, label == OUTSIDE
        difference = (rendered - target).abs().mean(1) * on
        opacity = opacity_loss(accumulated, on, outside, self.cfg.loss.mask_enough)
        self.rays.observe(batch.tile_idx, (difference + self.cfg.loss.mask * opacity).detach(), self.step)
        self.observe_photos(batch, torch.stack([difference, (on.float() - accumulated).abs()]).detach())
        counts = batch.weight * self.photos.counts[batch.view_idx]
        colour_term = (counts * difference).sum() / (counts * on).sum().clamp(min=1e-6)
        return colour_term, (counts * opacity).sum() / counts.sum().clamp(min=1e-6)

    def observe_photos(self, batch: Batch, errors: Float[Tensor, "2 n_rays"]) -> None:
        """Take in what each photo's rays miss by in colour and opacity; those that miss the hull have opacity 0."""
        pool, weight = self.data.pool, batch.drawn_weight
        label = pool.label[batch.drawn_idx]
        on = (label == OBJECT).float()
        wrong = torch.stack([torch.zeros_like(on), on]).index_copy(1, batch.kept, errors)
        # no colour is seen where the hull is missed
        met = torch.zeros_like(on).index_fill(0, batch.kept, 1.0)
        seen = torch.stack([on * met, (label != UNSURE).float()]) * weight
        self.photos.observe(pool.view_idx[batch.drawn_idx].long(), wrong, seen)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on as if nothing had happened: tensors and plain values."""
        return {
            "step": self.step,
            "field": self.field.state_dict(),
            "level_weight": self.field.level_weight,
            "log_gain": self.log_gain.detach(),
            "optimizer": self.optimizer.state_dict(),
            "averages": dict(self._averages),
            "rays": self.rays.state(),
            "photos": self.photos.state(),
            "calm": [self.rate, self.gradient_norm],
            "unseen": self.unseen.state(),
            "draws": {"batches": self.rng.state(), "torch": torch.get_rng_state()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back, or on, to where `state` was called, be it by another engine."""
        self.step, self._averages = state["step"], {k: v.to(self.device) for k, v in state["averages"].items()}
        self.field.load_state_dict(state["field"])
        self.field.level_weight = state["level_weight"].to(self.device)
        with torch.no_grad():
            self.log_gain.copy_(state["log_gain"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rays.restore(state["rays"])
        self.photos.restore(state["photos"])
        self.unseen = HiddenSpace.from_state(state["unseen"]).to(self.device)
        self.calm(*state["calm"])
        self.rng.restore(state["draws"]["batches"], self.step)
        torch.set_rng_state(state["draws"]["torch"])
