"""Multi-view supervision: patches of a photo, warped through the surface's tangent plane, must agree with other photos.

Where a ray meets the surface, the SDF's zero point x and its normal n give a plane, and the plane a homography into
any other photo (Geo-Neus, Fu et al. 2022; NeuralWarp, Darmon et al. 2022). In the unit frame, with the reference
camera's centre c and the plane as p = n / (n . (x - c)), a ray r of the reference photo meets it at c + r / (p . r),
and a source camera (K_s, R_s, c_s) sees that at
    K_s R_s (r / (p . r) + c - c_s)  ~  [K_s R_s + K_s R_s (c - c_s) p^T] r,
so that all that a patch can say about the surface is said to the three numbers of p. The patches are compared by their
normalised cross-correlation, which a photo's gain and offset do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon.data import ObjectRegion, PosedCapture
from recon.surface.baked import BakedSdf
from recon.surface.baking import sphere_directions
from recon.surface.importance import spread_evenly
from recon.surface.patch_match import (
    NOT_COMPARED,
    Matches,
    Patch,
    PatchPlaces,
    match_reference,
    visible_sources_reference,
)
from recon.surface.patch_photos import PatchPhotos, gather_photos
from recon.surface.pixels import UnitCameras
from recon.surface.sampling_reference import trilinear

Geometry = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Points (n, 3) of the unit cube to their SDF (n,), its gradient (n, 3) and more."""
NOISE_VARIANCE = 4.0
"""Of the photos' grey levels (0..255): that of a phone's photo in good light, as JPEG."""
LEAST_COMMON = 0.6
"""Share of a patch that must lie on the object in both photos."""
GOLDEN = (5**0.5 - 1) / 2
CPU = torch.device("cpu")
N_SURFACE = 2000
"""Points that the photos' partners are chosen by."""
STEEPEST_COSINE = 0.5
"""Patches seen more flatly count as this flat when their extent on the surface is told."""


@dataclass(frozen=True)
class PatchConfig:
    """How patches are compared between photos."""

    weight: float = 3.0
    """Of the patches' term against the colour term's 1; 0 leaves it out."""
    start_share: float = 0.4
    """Share of the steps after which it begins, but never while the shape is held (`surface.hold_share`); earlier digs
    hollows, and pulls gloss inwards."""
    ramp_share: float = 0.1
    """Share of the steps over which it then grows to its full weight."""
    n_rays: int = 512
    """Patches a step."""
    radius_px: int = 6
    """From a patch's middle to its edge; larger matches weaker texture, and rounds detail."""
    stride_px: int = 2
    """Between a patch's pixels; 1 takes four times as long and hardly tells more."""
    level: float = 0.5
    """Mean level of the photo pyramid: 0 is the photo, 1 half its resolution, 0.5 every second patch there. Higher
    reaches farther, matches weaker texture and rounds detail."""
    n_sources: int = 8
    """Photos that a photo's patches are compared with."""
    n_best: int = 6
    """Of these, the number that agree best and count; the others may be hidden or glossy."""
    first_worst_cost: float = 1.0
    """1 - NCC from which a patch no longer pulls, when patches begin: far from the surface most are bad."""
    last_worst_cost: float = 0.4
    """The same at the end, where what still matches badly is glossy, hidden or out of focus."""
    grazing_deg: float = 75.0
    """Angle to the normal from which a photo sees a patch too flatly."""
    least_contrast: float = 2.0
    """Standard deviation of grey levels (of 255) at which a patch counts half; weaker ones count less."""
    gloss: float = 0.06
    """Standard deviation of a patch's brightness over the photos, as a share of it, at which it counts half: what
    mirrors its surroundings changes from photo to photo, and matches behind the surface. Higher trusts gloss more."""
    max_side_px: int = 1600
    """Photos larger than this are reduced to it."""

    def weight_at(self, done: float) -> float:
        """The term's weight when a share `done` of the steps is done."""
        return self.weight * float(np.clip((done - self.start_share) / max(self.ramp_share, 1e-6), 0, 1))

    def worst_cost_at(self, done: float) -> float:
        """The cost from which a patch no longer pulls when a share `done` of the steps is done."""
        share = float(np.clip((done - self.start_share) / max(1 - self.start_share, 1e-6), 0, 1))
        return self.first_worst_cost + (self.last_worst_cost - self.first_worst_cost) * share

    def patch(self, device: torch.device = CPU) -> Patch:
        """Its pixels, with weights that fall off to 60 % towards the edges."""
        steps = np.arange(-self.radius_px, self.radius_px + 1, self.stride_px, dtype=np.float32)
        pattern = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        nearness = np.exp(-0.5 * (pattern**2).sum(1) / max(self.radius_px, 1) ** 2)
        pattern_px, weight = (torch.from_numpy(x).to(device) for x in (pattern, nearness / nearness.sum()))
        return Patch(pattern_px, weight, NOISE_VARIANCE, LEAST_COMMON)


def first_crossing(
    middle: Float[Tensor, "n_rays n_samples"], sdf: Float[Tensor, "n_rays n_samples"]
) -> tuple[Float[Tensor, " n_rays"], Bool[Tensor, " n_rays"]]:
    """Where each ray first enters the surface, linear between two samples, and whether it does so from outside."""
    enters = (sdf[:, :-1] > 0) & (sdf[:, 1:] <= 0)
    k = enters.byte().argmax(1, keepdim=True)
    f0, f1, t0, t1 = (x.gather(1, i)[:, 0] for x in (sdf, middle) for i in (k, k + 1))
    share = f0 / torch.where(f0 - f1 == 0, torch.ones_like(f0), f0 - f1)
    return t0 + share * (t1 - t0), enters.any(1) & (sdf[:, 0] > 0)


def tangent_plane(
    t: Float[Tensor, " n"],
    sdf: Float[Tensor, " n"],
    gradient: Float[Tensor, "n 3"],
    direction: Float[Tensor, "n 3"],
    sag: Float[Tensor, " n"] | float = 0.0,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """The plane p (see above) of the surface near the points at t along rays, and the surface's distance along the ray.

    sdf, gradient: at these points. One Newton step takes the point to the surface, and its derivative is that of the
    implicit surface: d t = - d f / (grad f . v) (IDR, Yariv et al. 2020, eq. 3), with grad f . v held fixed. That the
    normal turns as the point moves is left out: a patch is small against the surface's curvature. sag: the plane lies
    so far under the surface (`mean_sag`), where it fits what the patch shows best.
    """
    slope = (gradient * direction).sum(1).detach()
    depth = t - sdf / torch.where(slope.abs() < 1e-3, torch.full_like(slope, -1e-3), slope)
    normal = gradient / (gradient.norm(dim=1, keepdim=True) + 1e-6)
    facing = (normal * direction).sum(1)
    away = depth * torch.where(facing.abs() < 1e-3, torch.full_like(facing, -1e-3), facing) - sag
    return normal / away[:, None], depth


def mean_sag(
    baked: BakedSdf,
    points: Float[Tensor, "n 3"],
    slope: Float[Tensor, " n"],
    spread: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """How deep the surface lies under its tangent plane in the mean over a patch; negative in hollows.

    slope: length of the SDF's gradient; spread: mean squared distance of the patch's pixels from its middle, on the
    surface. With a mean curvature H = div n / 2 the surface sags by H / 2 times that. The curvature is the baked SDF's
    over about the patch's own extent, at most that of a ball of two such steps.
    """
    step = spread.sqrt().clamp(min=baked.cell)
    axes = torch.eye(3, device=points.device)
    aside = torch.cat([axes, -axes, 0 * axes[:1]])[:, None] * step[:, None]
    values = trilinear(baked, points + aside)
    laplacian = (values[:6].sum(0) - 6 * values[6]) / (step**2 * slope.clamp(min=0.1))
    return (laplacian / 2).clamp(-0.5 / step, 0.5 / step) / 2 * spread


def robust_mean(
    matches: Matches,
    gain: Float[Tensor, "n n_sources"],
    counts: Float[Tensor, " n"],
    worst_cost: float,
    cfg: PatchConfig,
) -> Float[Tensor, ""]:
    """Mean cost of each patch's best sources, cut off at `worst_cost`; patches of little contrast or much gloss count
    less, and those that no source sees as 0.

    gain: logarithm of the sources' exposures over the patch's own; counts: what each patch counts in the mean.
    """
    best = matches.cost.sort(1).values[:, : cfg.n_best]
    compared = best < NOT_COMPARED
    per_patch = (best.clamp(max=worst_cost) * compared).sum(1) / compared.sum(1).clamp(min=1)
    return (counts * trust(matches, gain, cfg) * per_patch).sum() / counts.sum().clamp(min=1e-6)


def trust(matches: Matches, gain: Float[Tensor, "n n_sources"], cfg: PatchConfig) -> Float[Tensor, " n"]:
    """What each patch counts, 0..1: less where its contrast is weak, and where its brightness changes over the photos,
    as mirrored light does and paint under a steady light does not (after Ref-NeuS's reflection scores, Ge et al. 2023).
    """
    compared = matches.cost < NOT_COMPARED
    change = torch.where(compared, matches.source_grey * torch.exp(-gain) - matches.grey[:, None], 0.0)
    n = compared.sum(1) + 1  # and the patch itself, which does not change
    variance = (change**2).sum(1) / n - (change.sum(1) / n) ** 2
    change_share = variance / (cfg.gloss * matches.grey.clamp(min=1)) ** 2
    # squared once more, so that what is plainly metal does not count by its sheer number
    return matches.contrast / (matches.contrast + cfg.least_contrast**2) / (1 + change_share**2)


def gather_for_patches(
    posed: PosedCapture,
    region: ObjectRegion,
    cameras: UnitCameras,
    surface: tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]],
    cfg: PatchConfig,
) -> PatchPhotos | None:
    """The photos, if patches have any weight. surface: points and normals of roughly the surface in the unit cube."""
    if cfg.weight == 0:
        return None
    points, normals = surface
    if len(points) == 0:  # no prior: as if it were a ball
        normals = sphere_directions(N_SURFACE)
        points = 0.5 + 0.3 * normals
    thinned = np.linspace(0, len(points) - 1, min(len(points), N_SURFACE)).astype(int)
    return gather_photos(posed, region, cameras, (points[thinned], normals[thinned]), cfg.n_sources, cfg.max_side_px)


@dataclass(frozen=True)
class PatchRays:
    """A step's rays through the object, and the SDF at samples along them."""

    view_idx: Int[Tensor, " n_rays"]
    origin: Float[Tensor, "n_rays 3"]
    direction: Float[Tensor, "n_rays 3"]
    middle: Float[Tensor, "n_rays n_samples"]
    """Of the sections, along the ray."""
    sdf: Float[Tensor, "n_rays n_samples"]
    counts: Float[Tensor, " n_rays"]
    """What each counts in the mean over all."""

    def take(self, chosen: Int[Tensor, " n"]) -> PatchRays:
        return PatchRays(*(x[chosen] for x in vars(self).values()))


def patch_loss(
    geometry: Geometry,
    photos: PatchPhotos,
    log_gain: Float[Tensor, " n_views"],
    rays: PatchRays,
    baked: BakedSdf,
    worst_cost: float,
    cfg: PatchConfig,
) -> Float[Tensor, ""]:
    """Mean robust 1 - NCC of patches around `n_rays` of the rays that meet the surface, in photos that see it.

    log_gain: logarithm of the photos' exposures; worst_cost: from which a patch no longer pulls.
    """
    t, meets = first_crossing(rays.middle, rays.sdf.detach())
    meeting = torch.nonzero(meets)[:, 0]
    chosen = meeting[spread_evenly(len(meeting), cfg.n_rays, t.device)]
    if len(chosen) == 0:
        return torch.zeros((), device=t.device)
    t, rays = t[chosen], rays.take(chosen)
    points = rays.origin + t[:, None] * rays.direction
    sdf, gradient, _ = geometry(points)
    # a low-discrepancy sequence, so that any few patches have the levels' shares
    level = torch.floor(cfg.level + torch.arange(len(t), device=t.device) * GOLDEN % 1).long()
    sag = mean_sag(baked, points, gradient.detach().norm(dim=1), spread_of(photos, rays, t, gradient, level, cfg))
    plane, depth = tangent_plane(t, sdf, gradient, rays.direction, sag)
    sources = seen_sources(photos, rays, depth.detach(), gradient.detach(), baked, cfg)
    # a long Newton step is one past a bend of the surface
    sources = torch.where(((depth - t).abs() < baked.cell)[:, None], sources, -1)
    places = PatchPlaces(rays.view_idx, middle_px(photos, rays), level, sources)
    if plane.device.type == "cpu":
        from recon.surface.patch_match_cpu import match_cpu as match
    else:
        match = match_reference
    matches = match(plane, photos, cfg.patch(plane.device), places)
    gain = log_gain[sources.clamp(min=0)] - log_gain[rays.view_idx][:, None]
    return robust_mean(matches, gain, rays.counts, worst_cost, cfg)


def spread_of(
    photos: PatchPhotos,
    rays: PatchRays,
    t: Float[Tensor, " n_rays"],
    gradient: Float[Tensor, "n_rays 3"],
    level: Int[Tensor, " n_rays"],
    cfg: PatchConfig,
) -> Float[Tensor, " n_rays"]:
    """Mean squared distance of a patch's pixels from its middle, on the surface's tangent plane at t along its ray."""
    patch = cfg.patch(t.device)
    square_px = (patch.nearness * (patch.pattern_px**2).sum(1)).sum() * 4.0**level
    normal = gradient.detach() / (gradient.detach().norm(dim=1, keepdim=True) + 1e-6)
    cosine = (normal * rays.direction).sum(1).abs().clamp(min=STEEPEST_COSINE)
    # stretched along one of its two axes, where it is seen at an angle
    return square_px * (t / photos.cameras.intrinsics[rays.view_idx, 0]) ** 2 * (1 + cosine**-2) / 2


def middle_px(photos: PatchPhotos, rays: PatchRays) -> Float[Tensor, "n_rays 2"]:
    """The photo's positions (level 0) through which the rays go."""
    in_cam = (rays.direction[:, None] @ photos.cameras.rotation[rays.view_idx])[:, 0]
    k = photos.cameras.intrinsics[rays.view_idx]
    return in_cam[:, :2] / in_cam[:, 2:] * k[:, :2] + k[:, 2:]


def seen_sources(
    photos: PatchPhotos,
    rays: PatchRays,
    depth: Float[Tensor, " n_rays"],
    gradient: Float[Tensor, "n_rays 3"],
    baked: BakedSdf,
    cfg: PatchConfig,
) -> Int[Tensor, "n_rays n_sources"]:
    """For each ray, the partners of its photo that see the point; -1 instead of those that do not."""
    points = rays.origin + depth[:, None] * rays.direction
    normals = gradient / (gradient.norm(dim=1, keepdim=True) + 1e-6)
    least_cosine = float(np.cos(np.radians(cfg.grazing_deg)))
    sources = photos.neighbours[rays.view_idx]
    flat = (normals * rays.direction).sum(1) > -least_cosine
    sources = torch.where(flat[:, None], -1, sources)
    if points.device.type == "cpu":
        from recon.surface.patch_match_cpu import visible_sources as see
    else:
        see = visible_sources_reference
    return see(baked, points, normals, sources, photos.cameras.centre, least_cosine)
