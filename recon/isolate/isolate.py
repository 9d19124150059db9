"""Finds the object: a mask in every photo, a tight box and a convex hull, without a click and without downloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from recon.data import ObjectRegion, PosedCapture, read_mask
from recon.errors import UserError
from recon.isolate.box import clip_at_plane, convex_hull, shell_points, upright_box
from recon.isolate.carve import main_bodies
from recon.isolate.classify import features
from recon.isolate.consensus import Body, agree, carved, regrid
from recon.isolate.contact_sheet import write_contact_sheet
from recon.isolate.cues import far_cues, plane_cue
from recon.isolate.frames import Frame, load_frames
from recon.isolate.refine import refine
from recon.isolate.seed import evidence, mean_evidence, point_spots, search_grid
from recon.isolate.volume import silhouette
from recon.stage import Job, stage


@dataclass(frozen=True)
class IsolateConfig:
    """How the object is told from its surroundings."""

    work_side_px: int = 480
    """Longer side of the photos while masks are searched, in pixels. Raising it keeps thinner parts, costs time
    by its square."""
    refine_side_px: int = 1600
    """Longer side, in pixels, at which outlines are sharpened at last; larger photos get the mask enlarged."""
    n_plane_photos: int = 10
    """Other photos that each photo is compared with through the support plane. More is steadier and slower."""
    n_far_photos: int = 4
    """Nearest other photos that each photo is compared with through planes far behind the object."""
    n_voxels: int = 110
    """Voxels per side of the carving grid (its cube is spent on the object's box). More keeps thinner parts."""
    search_radius_share: float = 0.6
    """The object is looked for within this share of the median camera distance around the looked-at point."""
    loose_share: float = 0.5
    """Voxels with at least this share of the strongest evidence may be object at first. Lower catches weaker parts,
    and needs longer to let go of the surroundings."""
    core_share: float = 0.7
    """Voxels with at least this share of the strongest evidence teach what the object looks like."""
    smoothness: float = 2.0
    """Cost of a pixel of outline on flat colour, in log odds. Raising it rounds outlines and drops specks."""
    hull_margin_share: float = 0.02
    """The convex hull is grown by this share of the box's diagonal."""
    given_share: float = 0.6
    """Masks that came with the photos are used if at least this share of the views has one."""
    seed: int = 0
    """Seed of the classifiers' sampling."""


@stage(result=ObjectRegion, version=1)
def isolate_object(posed: PosedCapture, cfg: IsolateConfig, job: Job) -> ObjectRegion:
    """Masks, box and hull of the object that the photos show in common.

    Raises UserError if nothing stands out from the surroundings.
    """
    frames = load_frames(posed, cfg.work_side_px)
    given = [posed.mask_path(v.name) for v in posed.views]
    use_given = sum(path is not None for path in given) >= cfg.given_share * len(given)
    (job.folder / "masks").mkdir(parents=True, exist_ok=True)
    if use_given:
        masks, body = from_given_masks(posed, frames, cfg, job)
    else:
        masks, body = search(posed, frames, cfg, job)
        masks = sharpen(posed, frames, masks, body, cfg, job)
        body = carved(frames, masks, None, body, posed.focus_world, 0.06, 0.3, 0.2)
    stats = agreement(frames, masks, body, job)
    region = region_of(posed, body, cfg, job, "given" if use_given else "estimated", stats)
    write_contact_sheet(job.folder / "debug" / "isolate.jpg", frames, masks, region)
    job.progress(1, 1, "object found")
    return region


def search(
    posed: PosedCapture, frames: Sequence[Frame], cfg: IsolateConfig, job: Job
) -> tuple[list[Bool[np.ndarray, "_ _"]], Body]:
    """Masks at working size and the body behind them, from the photos alone."""
    plane = posed.support_plane
    grid, allowed = search_grid(frames, posed.focus_world, plane, cfg.search_radius_share, 72)
    region = [silhouette(grid, allowed, f) for f in frames]
    far = far_cues(frames, posed.focus_world, cfg.n_far_photos)
    stacks, maps = [], []
    for i, frame in enumerate(frames):
        job.progress(0.05 + 0.35 * i / len(frames), 1, "comparing photos")
        cost = np.full((*frame.shape(), 3), np.nan, np.float32)
        if plane is not None:
            cost = plane_cue(frames, i, plane, cfg.n_plane_photos)
        explained = np.fmin(np.fmin(cost[..., 0], 0.7 * cost[..., 1]), far[i])
        maps.append(evidence(explained, np.isfinite(cost[..., 0]), ~region[i]))
        stacks.append(features(frame, cost, far[i]))
    mean = np.where(allowed, mean_evidence(grid, frames, maps), -1)
    strongest = float(np.percentile(mean[allowed], 99.9))
    if strongest <= 0:
        raise UserError("nothing in the photos stands out from its surroundings; photograph one object from all sides")
    loose, core = (
        Body(grid, main_bodies(mean > share * strongest, grid, posed.focus_world), allowed)
        for share in (cfg.loose_share, cfg.core_share)
    )
    distance = np.median([np.linalg.norm(f.centre_world() - posed.focus_world) for f in frames])
    spots = point_spots(posed, frames, grid, loose.solid, 0.02 * float(distance), 2)

    def progress(share: float, note: str) -> None:
        job.progress(0.4 + 0.35 * share, 1, note)

    return agree(
        frames, stacks, loose, core, spots, posed.focus_world, cfg.smoothness, cfg.n_voxels, cfg.seed, progress
    )


def sharpen(
    posed: PosedCapture,
    frames: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    body: Body,
    cfg: IsolateConfig,
    job: Job,
) -> list[Bool[np.ndarray, "_ _"]]:
    """Write masks with outlines sharpened at full size; returns them at working size."""
    job.progress(0.75, 1, "sharpening outlines")
    full = load_frames(posed, cfg.refine_side_px)

    def hulls_of(coarse: Sequence[Bool[np.ndarray, "_ _"]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # A few wrong masks must not remove a part; that two photos deny it is enough not to add it to others.
        loose, strict = (
            carved(frames, coarse, None, body, posed.focus_world, share, 0.3, 0.4)
            for share in (0.06, 2.5 / len(frames))
        )
        return loose.silhouettes(frames), strict.silhouettes(frames)

    sharp = refine(full, masks, posed.support_plane, hulls_of, 2 * cfg.smoothness, cfg.seed)
    small = []
    for view, mask, coarse in zip(posed.views, sharp, masks, strict=True):
        write_mask(posed, job, view.name, mask, (view.camera.width_px, view.camera.height_px))
        small.append(cv2.resize(mask, coarse.shape[::-1], interpolation=cv2.INTER_AREA) > 127)
    return small


def write_mask(posed: PosedCapture, job: Job, name: str, mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> None:
    """Save a mask at the photo's `size` (width, height)."""
    if mask.shape != size[::-1]:
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
    Image.fromarray(mask).save(job.folder / "masks" / f"{name}.png")


def from_given_masks(
    posed: PosedCapture, frames: Sequence[Frame], cfg: IsolateConfig, job: Job
) -> tuple[list[Bool[np.ndarray, "_ _"]], Body]:
    """Masks at working size as the user gave them, and the body that they carve.

    A view without a mask gets the body's silhouette. Raises UserError if the masks have no volume in common.
    """
    grid, allowed = search_grid(frames, posed.focus_world, posed.support_plane, cfg.search_radius_share, 72)
    found = {}
    for view, frame in zip(posed.views, frames, strict=True):
        path = posed.mask_path(view.name)
        if path is not None:
            mask = read_mask(path)
            write_mask(posed, job, view.name, mask, (view.camera.width_px, view.camera.height_px))
            found[view.name] = cv2.resize(mask, frame.shape()[::-1], interpolation=cv2.INTER_AREA) > 127
    seeing = [f for f in frames if f.name in found]
    masks = [found[f.name] for f in seeing]
    start = Body(grid, np.zeros(grid.shape, bool), allowed)
    body = carved(seeing, masks, None, start, posed.focus_world, 0.06)
    if not body.solid.any():
        raise UserError("the masks that came with the photos have no volume in common; check that they fit the photos")
    body = carved(seeing, masks, None, regrid(frames, body, cfg.n_voxels, grid.low[2]), posed.focus_world, 0.06)
    tight = carved(seeing, masks, None, body, posed.focus_world, 0.06, 0.0, 0.0)
    for view, frame in zip(posed.views, frames, strict=True):
        if view.name not in found:
            found[view.name] = silhouette(tight.grid, tight.solid, frame)
            mask = found[view.name].astype(np.uint8) * 255
            write_mask(posed, job, view.name, mask, (view.camera.width_px, view.camera.height_px))
    job.notes["masks_given"] = len(seeing)
    return [found[f.name] for f in frames], body


def agreement(
    frames: Sequence[Frame], masks: Sequence[Bool[np.ndarray, "_ _"]], body: Body, job: Job
) -> dict[str, float]:
    """Figures on the masks; tells the user which photos do not fit the common hull or cut the object off."""
    hull = body.silhouettes(frames)
    iou = np.array([(m & h).sum() / max(1, (m | h).sum()) for m, h in zip(masks, hull, strict=True)])
    share = np.array([m.mean() for m in masks])
    border = [np.concatenate([m[0], m[-1], m[:, 0], m[:, -1]]).mean() for m in masks]
    cut_off = np.array(border) > 0.02
    bad = [f.name for f, value in zip(frames, iou, strict=True) if value < 0.8 * float(np.median(iou))]
    if np.median(iou) < 0.7:
        job.warn("the object's masks hardly agree with each other: see debug/isolate.jpg, or give masks of your own")
    elif bad:
        job.warn(f"the masks of {', '.join(bad[:6])}{' and others' if len(bad) > 6 else ''} do not fit the others")
    if cut_off.mean() > 0.3:
        job.warn(f"the object is cut off by the frame in {int(cut_off.sum())} of {len(frames)} photos: step back")
    return {
        "hull_iou_median": float(np.median(iou)),
        "hull_iou_min": float(iou.min()),
        "photo_share_median": float(np.median(share)),
        "cut_off_share": float(cut_off.mean()),
    }


def region_of(
    posed: PosedCapture, body: Body, cfg: IsolateConfig, job: Job, source: str, stats: dict[str, float]
) -> ObjectRegion:
    """Box and hull of the body; both end at the support plane where the object touches it."""
    points = shell_points(body.grid, body.solid)
    half = 0.5 * body.grid.edge
    plane = posed.support_plane
    rests = False
    if plane is not None:
        height = points @ plane.normal_world - plane.offset
        # Two voxels: the lowest layer may be lost to a shadow.
        rests = bool(np.percentile(height, 0.5) < 2.5 * body.grid.edge)
    hull_margin = cfg.hull_margin_share * float(np.linalg.norm(np.ptp(points, axis=0)))
    if rests and plane is not None:
        lowest = points[height < np.percentile(height, 0.5) + 2 * body.grid.edge]
        points = np.concatenate(
            [points, lowest - ((lowest @ plane.normal_world) - plane.offset)[:, None] * plane.normal_world]
        )
    world_from_box, size = upright_box(points)
    vertices, faces = convex_hull(points, half + hull_margin)
    if rests and plane is not None:
        vertices, faces = convex_hull(clip_at_plane(vertices, plane, -0.5 * hull_margin), 0.0)
    job.notes["box_size"] = [round(float(s), 4) for s in size]
    return ObjectRegion(job.folder, world_from_box, size + 2 * half, vertices, faces, source, rests, stats)
