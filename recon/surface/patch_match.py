"""Patches of a photo against other photos: NCC through homographies, and who sees a point; plain, on any device.

`patch_match_cpu.py` holds the fast kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon.surface.baked import BakedSdf
from recon.surface.patch_photos import PatchPhotos, Pyramid
from recon.surface.sampling_reference import trilinear

NOT_COMPARED = 3.0
"""Cost of a source in which too little of a patch is seen; 1 - NCC is at most 2."""
FIRST_CELLS, STEP_CELLS, DEEP_CELLS = 2.0, 1.0, 0.5
"""Where a ray to a camera is first tested, how often, and how deep inside it is blocked, in cells of the baked SDF."""


class Patch(NamedTuple):
    """A patch's pixels and how they are compared. Arrays or tensors."""

    pattern_px: Float[Tensor, "n_pixels 2"]
    """From the middle, in pixels of the patch's level."""
    nearness: Float[Tensor, " n_pixels"]
    """Weights that fall off from the middle, of sum 1."""
    noise_variance: float
    """Of grey levels; added to both patches' variances, so that noise does not match."""
    least_common: float
    """Share of a patch that must lie on the object in both photos."""


class PatchPlaces(NamedTuple):
    """Where patches are cut, and what they are compared with."""

    view_idx: Int[Tensor, " n"]
    at_px: Float[Tensor, "n 2"]
    """Middle, in pixels of level 0 of the photo as the pyramid holds it."""
    level: Int[Tensor, " n"]
    sources: Int[Tensor, "n n_sources"]
    """Views to compare with; -1: none."""


class Matches(NamedTuple):
    """What patches have in common with their sources."""

    cost: Float[Tensor, "n n_sources"]
    """1 - NCC; `NOT_COMPARED` where too little of the patch is seen."""
    contrast: Float[Tensor, " n"]
    """The patch's variance of grey levels (of 255); 0 where too little of it is on the object."""
    grey: Float[Tensor, " n"]
    """The patch's mean grey level ..."""
    source_grey: Float[Tensor, "n n_sources"]
    """... and that of each source; 0 where they were not compared."""


def sample_level(
    pyramid: Pyramid, view: Int[Tensor, "*n"], level: Int[Tensor, "*n"], at_px: Float[Tensor, "*n 2"]
) -> tuple[Float[Tensor, "*n"], Bool[Tensor, "*n"]]:
    """Grey values at positions in a level's whole photo, bilinear, and whether all four pixels are the object's."""
    value, _, inside = sample_slopes(pyramid, view, level, at_px)
    return value, inside


def sample_slopes(
    pyramid: Pyramid, view: Int[Tensor, "*n"], level: Int[Tensor, "*n"], at_px: Float[Tensor, "*n 2"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
    """`sample_level` with the values' slopes to the right and down, per pixel of the level."""
    columns, rows = pyramid.size[view, level].unbind(-1)
    p = at_px - pyramid.corner[view, level] - 0.5
    inside = (p[..., 0] >= 0) & (p[..., 1] >= 0) & (p[..., 0] < columns - 1) & (p[..., 1] < rows - 1)
    first = torch.where(inside[..., None], p, torch.zeros_like(p)).detach().floor().long()
    at = pyramid.offset[view, level] + first[..., 1] * columns + first[..., 0]
    four = [pyramid.grey[at + step] for step in (0, 1, columns, columns + 1)]
    for value in four:
        inside = inside & (value > 0)
    a, b, c, d = (value.to(p.dtype) for value in four)
    fx, fy = (torch.where(inside[..., None], p - first, torch.zeros_like(p))).unbind(-1)
    top, low = a + fx * (b - a), c + fx * (d - c)
    return top + fy * (low - top), torch.stack([(b - a) + fy * ((d - c) - (b - a)), low - top], -1), inside


def match_reference(plane: Float[Tensor, "n 3"], photos: PatchPhotos, patch: Patch, at: PatchPlaces) -> Matches:
    """Each patch against each of its sources; plain, on any device.

    Pixels that leave the object in either photo have no weight.
    """
    cameras, pyramid = photos.cameras, photos.pyramid
    look, k, scale = cameras.rotation[at.view_idx], cameras.intrinsics[at.view_idx], torch.exp2(at.level.float())
    position = at.at_px[:, None] / scale[:, None, None] + patch.pattern_px
    view, level = (x[:, None].expand(position.shape[:2]) for x in (at.view_idx, at.level))
    value, on = sample_level(pyramid, view, level, position)
    weight = on * patch.nearness
    whole = weight.sum(1) >= patch.least_common
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
    grey = (weight * value).sum(1)
    contrast = (weight * (value - grey[:, None]) ** 2).sum(1)

    in_cam = (position * scale[:, None, None] - k[:, None, 2:]) / k[:, None, :2]
    ray = torch.cat([in_cam, torch.ones_like(in_cam[..., :1])], -1) @ look.transpose(1, 2)
    source = at.sources.clamp(min=0)
    h = homographies(plane, photos, at.view_idx, source)
    its_level = source_level(h, photos, at)
    warped = torch.einsum("nsij,npj->nspi", h, ray)
    before = (warped[..., 2] > 1e-9).all(-1)
    warped_px = warped[..., :2] / warped[..., 2:].clamp(min=1e-9)
    shape = warped_px.shape[:3]
    theirs, seen = sample_level(
        pyramid,
        source[..., None].expand(shape),
        its_level[..., None].expand(shape),
        warped_px / torch.exp2(its_level.float())[..., None, None],
    )
    weight = weight[:, None] * seen
    total = weight.sum(-1)
    usable = whole[:, None] & (at.sources >= 0) & before & (total >= patch.least_common)
    weight = weight / total.clamp(min=1e-6)[..., None]
    source_grey = (weight * theirs).sum(-1)
    mine = value[:, None] - (weight * value[:, None]).sum(-1, keepdim=True)
    theirs = theirs - source_grey[..., None]
    var = [(weight * x**2).sum(-1) + patch.noise_variance for x in (mine, theirs)]
    cost = 1 - (weight * mine * theirs).sum(-1) / (var[0] * var[1]).sqrt()
    cost = torch.where(usable, cost, torch.full_like(cost, NOT_COMPARED))
    contrast, grey = (torch.where(whole, x, 0.0) for x in (contrast, grey))
    return Matches(cost, contrast, grey, torch.where(usable, source_grey, 0.0).detach())


def homographies(
    plane: Float[Tensor, "n 3"], photos: PatchPhotos, view: Int[Tensor, " n"], source: Int[Tensor, "n n_sources"]
) -> Float[Tensor, "n n_sources 3 3"]:
    """From the reference's rays in the unit frame to each source's pixels of level 0 (homogeneous)."""
    cameras = photos.cameras
    fx, fy, cx, cy = cameras.intrinsics[source].unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    k = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).unflatten(-1, (3, 3))
    turned = k @ cameras.rotation[source].transpose(-1, -2)
    moved = turned @ (cameras.centre[view][:, None] - cameras.centre[source])[..., None]
    return turned + moved * plane[:, None, None, :]


def source_level(
    h: Float[Tensor, "n n_sources 3 3"], photos: PatchPhotos, at: PatchPlaces
) -> Int[Tensor, "n n_sources"]:
    """The level of each source on which a pixel of the patch covers about one pixel."""
    look, k = photos.cameras.rotation[at.view_idx], photos.cameras.intrinsics[at.view_idx]
    in_cam = (at.at_px - k[:, 2:]) / k[:, :2]
    ray = (look @ torch.cat([in_cam, torch.ones_like(in_cam[:, :1])], 1)[..., None])[:, None]
    with torch.no_grad():
        warped = h @ ray
        z = warped[..., 2:, :]
        change = (h[..., :2, :] - warped[..., :2, :] / z * h[..., 2:, :]) / z
        area = (change @ (look[:, :, :2] / k[:, None, :2])[:, None]).det().abs()
        level = at.level[:, None] + 0.5 * torch.log2(area.clamp(min=1e-9))
        return (level + 0.5).floor().long().clamp(0, photos.pyramid.offset.shape[1] - 1)


def visible_sources_reference(
    baked: BakedSdf,
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    sources: Int[Tensor, "n n_sources"],
    centre: Float[Tensor, "n_views 3"],
    least_cosine: float,
) -> Int[Tensor, "n n_sources"]:
    """The sources, with -1 for those that see a point too flatly, or not for what the baked SDF has in between."""
    towards = centre[sources.clamp(min=0)] - points[:, None]
    towards = towards / towards.norm(dim=-1, keepdim=True)
    facing = (towards * normals[:, None]).sum(-1) >= least_cosine
    shape = baked.values.shape
    n_steps = int(sum(n**2 for n in shape) ** 0.5 / STEP_CELLS) + 1
    ahead = FIRST_CELLS + STEP_CELLS * torch.arange(n_steps, device=points.device)
    at = points[:, None, None] + baked.cell * ahead[:, None] * towards[:, :, None]
    cells = ((at - baked.origin) / baked.cell).unbind(-1)
    inside = torch.stack([(x >= 0) & (x <= n - 1) for x, n in zip(cells, shape, strict=True)]).all(0)
    blocked = (inside & (trilinear(baked, at) < -DEEP_CELLS * baked.cell)).any(-1)
    return torch.where((sources >= 0) & facing & ~blocked, sources, -1)
