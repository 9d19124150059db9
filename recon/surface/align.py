"""What patches of the photos, warped through the surface, tell about their cameras: a dense bundle adjustment.

A patch of a reference photo i lies on the surface at depth z along its ray; a source photo j should show it at q, and
shows it at q + d. To first order
    d = Q_j c_j + Q_i c_i + Q_z s,
with c the small corrections of the two cameras and s that of the patch's own depth, in shares of it. d is found as by
Lucas and Kanade (1981) on grey levels of equal mean and variance, and counts by their slopes: along an edge it says
nothing. Each patch's s is eliminated (Schur complement; Triggs et al. 2000, sec. 6), so that a surface that stands in
the wrong place does not drag the cameras with it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from recon.surface.patch_match import Patch, PatchPlaces, homographies, sample_level, sample_slopes, source_level
from recon.surface.patch_photos import PatchPhotos

N_CAMERA = 7
"""Numbers of a camera's correction: turned by an axis-angle vector (radians), then moved (unit lengths), both along
the camera's own axes, and the lens's log focal length."""
N_INDEPENDENT = 10.0
"""Pixels of a patch whose errors do not hang together."""
LEAST_ERROR = 0.02
"""Variance of what remains between two patches that agree, of 1."""
USUAL_COST = 0.4
"""1 - NCC at which a pair of patches counts half."""
LEAST_SHIFT_PX = 0.1
"""A shift is not known better, in pixels of its level: highlights, bends of the surface."""
MOST_SHIFT_PX = 2.0
"""A step of Lucas and Kanade does not hold farther, in pixels of its level."""
CHUNK = 1024
"""Patches that are compared at once: some 100 MB."""
DEPTH_SHARE = 0.02
"""How far the surface is likely off, as a share of the distance from the camera."""


class SurfacePatches(NamedTuple):
    """Pieces of the surface as the photos' own cameras see them; they move along when those are corrected."""

    view_idx: Int[Tensor, " n"]
    at_px: Float[Tensor, "n 2"]
    """In level 0 of the photo as the pyramid holds it."""
    depth_z: Float[Tensor, " n"]
    """In unit lengths."""
    normal_cam: Float[Tensor, "n 3"]
    sources: Int[Tensor, "n n_sources"]
    """Views to compare with; -1: none."""


class Equations(NamedTuple):
    """Least-squares equations of all views' corrections: `normal` @ correction = `right`."""

    normal: Float64[Tensor, "n_views n_views 7 7"]
    right: Float64[Tensor, "n_views 7"]
    cost: Float64[Tensor, " n_views"]
    """Mean 1 - NCC of what was compared with or in each view; NaN where nothing was."""


def point_in_cam(patches: SurfacePatches, photos: PatchPhotos) -> Float[Tensor, "n 3"]:
    """The patches' middles in their own cameras' axes."""
    k = photos.cameras.intrinsics[patches.view_idx]
    ray = torch.cat([(patches.at_px - k[:, 2:]) / k[:, :2], torch.ones_like(k[:, :1])], 1)
    return patches.depth_z[:, None] * ray


class Warped(NamedTuple):
    """Patches' pixels beside what their sources show there."""

    mine: Float[Tensor, "n n_pixels"]
    theirs: Float[Tensor, "n n_sources n_pixels"]
    slope: Float[Tensor, "n n_sources n_pixels 2"]
    """Of theirs, per pixel of their level."""
    weight: Float[Tensor, "n n_sources n_pixels"]
    """0 where either is not on the object."""
    scale: Float[Tensor, "n n_sources"]
    """Pixels of level 0 to one of the sources' level."""


def warp(plane: Float[Tensor, "n 3"], photos: PatchPhotos, patch: Patch, at: PatchPlaces) -> Warped:
    """Look patches up in their sources through the tangent plane (see `patches.py`)."""
    cameras, pyramid = photos.cameras, photos.pyramid
    look, k, scale = cameras.rotation[at.view_idx], cameras.intrinsics[at.view_idx], torch.exp2(at.level.float())
    position = at.at_px[:, None] / scale[:, None, None] + patch.pattern_px
    view, level = (x[:, None].expand(position.shape[:2]) for x in (at.view_idx, at.level))
    mine, on = sample_level(pyramid, view, level, position)
    in_cam = (position * scale[:, None, None] - k[:, None, 2:]) / k[:, None, :2]
    ray = torch.cat([in_cam, torch.ones_like(in_cam[..., :1])], -1) @ look.transpose(1, 2)
    source = at.sources.clamp(min=0)
    h = homographies(plane, photos, at.view_idx, source)
    its_level = source_level(h, photos, at)
    its_scale = torch.exp2(its_level.float())
    there = torch.einsum("nsij,npj->nspi", h, ray)
    before = (there[..., 2] > 1e-9).all(-1) & (at.sources >= 0)
    there_px = there[..., :2] / there[..., 2:].clamp(min=1e-9) / its_scale[..., None, None]
    shape = there_px.shape[:3]
    view, level = source[..., None].expand(shape), its_level[..., None].expand(shape)
    theirs, slope, seen = sample_slopes(pyramid, view, level, there_px)
    return Warped(mine, theirs, slope, (on * patch.nearness)[:, None] * seen * before[..., None], its_scale)


def shifts(
    plane: Float[Tensor, "n 3"], photos: PatchPhotos, patch: Patch, at: PatchPlaces
) -> tuple[Float[Tensor, "n n_sources 2"], Float[Tensor, "n n_sources 2 2"], Float[Tensor, "n n_sources"]]:
    """Where patches show in their sources against where they should, the inverse of its covariance, and 1 - NCC.

    In pixels of level 0; where a patch is not compared, the information is 0 and the cost NaN.
    """
    mine, theirs, slope, weight, scale = warp(plane, photos, patch, at)
    total = weight.sum(-1)
    usable = total >= patch.least_common
    weight = weight / total.clamp(min=1e-6)[..., None]
    mine = mine[:, None] - (weight * mine[:, None]).sum(-1, keepdim=True)
    theirs = theirs - (weight * theirs).sum(-1, keepdim=True)
    deviation = [((weight * x**2).sum(-1, keepdim=True) + patch.noise_variance).sqrt() for x in (mine, theirs)]
    mine, theirs, slope = mine / deviation[0], theirs / deviation[1], slope / deviation[1][..., None]
    cost = 1 - (weight * mine * theirs).sum(-1)
    # what a gain and an offset would explain tells nothing of a shift
    slope = slope - (weight[..., None] * slope).sum(2, keepdim=True)
    slope = slope - theirs[..., None] * (weight[..., None] * theirs[..., None] * slope).sum(2, keepdim=True)
    known = (weight[..., None, None] * slope[..., None] * slope[..., None, :]).sum(2)
    pull = (weight[..., None] * slope * (mine - theirs)[..., None]).sum(2)
    identity = torch.eye(2, device=plane.device)
    shift = torch.linalg.solve(known + 1e-4 * identity, pull)
    shift = shift * (MOST_SHIFT_PX / shift.norm(dim=-1, keepdim=True).clamp(min=MOST_SHIFT_PX))
    known = known * (N_INDEPENDENT / (2 * cost.clamp(min=0) + LEAST_ERROR))[..., None, None]
    known = torch.linalg.solve(identity + LEAST_SHIFT_PX**2 * known, known)
    known = known * (usable / (1 + (cost / USUAL_COST) ** 2))[..., None, None]
    return shift * scale[..., None], known / scale[..., None, None] ** 2, torch.where(usable, cost, torch.nan)


def own_move(point: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 7"]:
    """How a point moves in a camera's axes when the camera is corrected and the point stays in the world."""
    x, y, z = point.unbind(1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [
        torch.stack([zero, z, -y, -one, zero, zero, x], 1),
        torch.stack([-z, zero, x, zero, -one, zero, y], 1),
        torch.stack([y, -x, zero, zero, zero, -one, zero], 1),
    ]
    return torch.stack(rows, 1)


def gather_equations(patches: SurfacePatches, photos: PatchPhotos, patch: Patch, level: int) -> Equations:
    """Compare patches with all their sources on a level of the photos' pyramid; gather what that says of cameras."""
    device, n_views = photos.cameras.centre.device, len(photos.cameras.centre)
    normal = torch.zeros(n_views * n_views, N_CAMERA, N_CAMERA, dtype=torch.float64, device=device)
    right = torch.zeros(n_views, N_CAMERA, dtype=torch.float64, device=device)
    cost, count = torch.zeros(2, n_views, dtype=torch.float64, device=device)
    for part in (SurfacePatches(*(x[i : i + CHUNK] for x in patches)) for i in range(0, len(patches.view_idx), CHUNK)):
        point = point_in_cam(part, photos)
        look = photos.cameras.rotation[part.view_idx]
        plane = (look @ (part.normal_cam / (part.normal_cam * point).sum(1, keepdim=True))[..., None])[..., 0]
        places = PatchPlaces(part.view_idx, part.at_px, torch.full_like(part.view_idx, level), part.sources)
        shift, known, its_cost = (x.double() for x in shifts(plane, photos, patch, places))
        whole, wanted = without_depth(shift, known, *pixel_slopes(point, part, photos))
        views = torch.cat([part.view_idx[:, None], part.sources.clamp(min=0)], 1)
        pairs = views[:, :, None] * n_views + views[:, None]
        normal.index_add_(0, pairs.flatten(), whole.flatten(0, 2))
        right.index_add_(0, views.flatten(), wanted.flatten(0, 1))
        compared = ~its_cost.isnan()
        for view in (part.view_idx[:, None].expand_as(compared)[compared], part.sources[compared]):
            cost.index_add_(0, view, its_cost[compared])
            count.index_add_(0, view, torch.ones_like(its_cost[compared]))
    return Equations(normal.unflatten(0, (n_views, n_views)), right, cost / count)


def without_depth(
    shift: Float64[Tensor, "n n_sources 2"],
    known: Float64[Tensor, "n n_sources 2 2"],
    slopes: Float[Tensor, "n n_sources 2 14"],
    by_depth: Float[Tensor, "n n_sources 2"],
) -> tuple[Float64[Tensor, "n n_cameras n_cameras 7 7"], Float64[Tensor, "n n_cameras 7"]]:
    """The equations of each patch's cameras, its own first and then its sources', with its depth eliminated."""
    n, s = shift.shape[:2]
    size = shift.norm(dim=-1)
    some = known[..., 0, 0] > 0
    usual = 1.5 * size[some].median() + LEAST_SHIFT_PX if bool(some.any()) else 1.0
    known = known / (1 + (size / usual) ** 2)[..., None, None]  # Cauchy's weight
    # columns: the patch's own camera, its sources', its depth
    jacobian = torch.zeros(n, s, 2, N_CAMERA * (s + 1) + 1, dtype=torch.float64, device=shift.device)
    jacobian[..., :N_CAMERA] = slopes[..., :N_CAMERA]
    for j in range(s):
        jacobian[:, j, :, N_CAMERA * (j + 1) : N_CAMERA * (j + 2)] = slopes[:, j, :, N_CAMERA:]
    jacobian[..., -1] = by_depth
    pull = known @ jacobian
    whole = jacobian.flatten(1, 2).transpose(1, 2) @ pull.flatten(1, 2)
    wanted = (pull.flatten(1, 2).transpose(1, 2) @ shift.flatten(1, 2)[..., None])[..., 0]
    of_depth = (whole[:, -1, :-1] / (whole[:, -1:, -1] + DEPTH_SHARE**-2))[..., None]
    left = whole[:, :-1, :-1] - of_depth @ whole[:, -1:, :-1]
    right = wanted[:, :-1] - of_depth[..., 0] * wanted[:, -1:]
    blocks = left.unflatten(1, (s + 1, N_CAMERA)).unflatten(3, (s + 1, N_CAMERA)).transpose(2, 3)
    return blocks, right.unflatten(1, (s + 1, N_CAMERA))


def pixel_slopes(
    point: Float[Tensor, "n 3"], patches: SurfacePatches, photos: PatchPhotos
) -> tuple[Float[Tensor, "n n_sources 2 14"], Float[Tensor, "n n_sources 2"]]:
    """How a patch's pixel in each source moves with the reference's correction and the source's, and with its depth.

    point: the patches' middles in their own cameras' axes, where they stay.
    """
    cameras, source = photos.cameras, patches.sources.clamp(min=0)
    look = cameras.rotation[patches.view_idx]
    world = cameras.centre[patches.view_idx] + (look @ point[..., None])[..., 0]
    turned = cameras.rotation[source].transpose(-1, -2)
    there = (turned @ (world[:, None] - cameras.centre[source])[..., None])[..., 0]
    x, y, z = there.unbind(-1)
    fx, fy = cameras.intrinsics[source][..., :2].unbind(-1)
    zero = torch.zeros_like(x)
    project = torch.stack([fx / z, zero, -fx * x / z**2, zero, fy / z, -fy * y / z**2], -1).unflatten(-1, (2, 3))
    carried = project @ turned @ look[:, None]
    its = project @ own_move(there.flatten(0, 1)).unflatten(0, there.shape[:2])
    return torch.cat([-carried @ own_move(point)[:, None], its], -1), (carried @ point[:, None, :, None])[..., 0]
