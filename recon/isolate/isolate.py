"""Finds the object: a mask in every photo, a tight box and a convex hull, without a click and without downloads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from recon.camera import View
from recon.data import ObjectRegion, PosedCapture, read_mask
from recon.errors import UserError
from recon.isolate.aim import Aim, aim_at, parse_box, parse_point
from recon.isolate.carve import main_bodies
from recon.isolate.classify import features
from recon.isolate.consensus import Body, agree, carved, regrid
from recon.isolate.consult import network_named, prompted_masks, salient_shares, with_shares, with_their_feature
from recon.isolate.contact_sheet import write_contact_sheet
from recon.isolate.cues import far_cues, plane_cue, unknown
from recon.isolate.frames import Frame, in_threads, load_frames
from recon.isolate.region import agreement, region_of, with_base
from recon.isolate.seed import evidence, evidence_of_turning, mean_evidence, point_spots, search_grid
from recon.isolate.segmenter import PromptedNetwork, SalientNetwork, files_read, require_runtime
from recon.isolate.sharpen import LOOSE_SHARE, at_size, common_solids, sharpen
from recon.isolate.volume import shell_of, silhouette
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
    hull_margin_share: float = 0.0035
    """The convex hull is grown by this share of the box's diagonal. Nothing is sampled outside the hull: raising it
    forgives masks that lack an edge, and costs time."""
    given_share: float = 0.6
    """Masks that came with the photos are used if at least this share of the views has one."""
    point: str = ""
    """Where the object is, if it is not what the photos show in common: PHOTO:x,y in shares of the photo's width and
    height from the top left corner, such as IMG_0003:0.4,0.55."""
    box: str = ""
    """A rectangle that holds all of the object in one photo: PHOTO:left,top,right,bottom in the same shares."""
    keep_base: bool = False
    """Keep a piece of what the object stands on, all around its foot."""
    base_share: float = 0.15
    """How far that piece reaches beyond the foot, as a share of the foot's width."""
    model: str = ""
    """A segmentation network to ask as one more witness: the ONNX file of a salient-object network as rembg uses them
    (u2netp.onnx, isnet-general-use.onnx, ...), or SAM 2 as samexporter writes it, named by its folder or by its path
    before .encoder.onnx. Needs onnxruntime."""
    seed: int = 0
    """Seed of the classifiers' sampling."""

    def files(self) -> tuple[Path, ...]:
        """Files whose contents the result depends on."""
        return files_read(self.model) if self.model else ()

    def check(self) -> None:
        """Raise UserError for a hint that is not of its form, and for a network that could not be run."""
        if self.point:
            parse_point(self.point)
        if self.box:
            parse_box(self.box)
        if self.model:
            files_read(self.model)
            require_runtime(self.model)


@stage(result=ObjectRegion, version=2)
def isolate_object(posed: PosedCapture, cfg: IsolateConfig, job: Job) -> ObjectRegion:
    """Masks, box and hull of the object that the photos show in common.

    Raises UserError if nothing stands out from the surroundings.
    """
    frames = load_frames(posed, cfg.work_side_px)
    aim = aim_at(posed, frames, cfg.point, cfg.box)
    given = [posed.mask_path(v.name) for v in posed.views]
    use_given = sum(path is not None for path in given) >= cfg.given_share * len(given)
    (job.folder / "masks").mkdir(parents=True, exist_ok=True)
    full = load_frames(posed, cfg.refine_side_px)
    if use_given:
        if cfg.model:
            job.warn(f"isolate.model={cfg.model} was not asked, because the photos came with masks.")
        masks, body = from_given_masks(posed, frames, full, aim, cfg, job)
    else:
        masks, body = found_masks(posed, frames, full, aim, cfg, job)
    grid, (solid,) = common_solids(frames, full, masks, body, (LOOSE_SHARE,))
    if cfg.keep_base:
        if posed.support_plane is None:
            raise UserError("isolate.keep_base=true, but no plane was found that the object stands on.")
        grid, solid = with_base(grid, solid, cfg.base_share)
        shell = shell_of(solid)
        masks = [m | silhouette(grid, shell, f) for m, f in zip(masks, full, strict=True)]
    in_threads(partial(write_mask, posed, job), posed.views, masks)
    small = [at_size(m, f.shape()) for m, f in zip(masks, frames, strict=True)]
    source = "given" if use_given else "estimated"
    region = region_of(posed, grid, solid, cfg.hull_margin_share, job, source)
    region = dataclasses.replace(region, stats=agreement(frames, small, grid, solid, job))
    write_contact_sheet(job.folder / "debug" / "isolate.jpg", frames, small, region)
    job.progress(1, 1, "object found")
    return region


def found_masks(
    posed: PosedCapture, frames: Sequence[Frame], full: Sequence[Frame], aim: Aim, cfg: IsolateConfig, job: Job
) -> tuple[list[Bool[np.ndarray, "_ _"]], Body]:
    """Masks at `full` size and the body behind them, from the photos and a network where the user has one."""
    network = network_named(cfg.model, job)
    shares = salient_shares(network, full, frames, job) if isinstance(network, SalientNetwork) else []
    masks, body = search(posed, frames, shares, aim, cfg, job)
    if isinstance(network, PromptedNetwork):
        masks = prompted_masks(network, full, masks, body.silhouettes(frames), job)
    job.progress(0.6, 1, "sharpening outlines")
    return sharpen(posed, frames, full, masks, body, 2 * cfg.smoothness, cfg.seed), body


def search(
    posed: PosedCapture,
    frames: Sequence[Frame],
    shares: Sequence[Float32[np.ndarray, "_ _"]],
    aim: Aim,
    cfg: IsolateConfig,
    job: Job,
) -> tuple[list[Bool[np.ndarray, "_ _"]], Body]:
    """Masks at working size and the body behind them, from the photos and what a network says of them (or nothing)."""
    plane = posed.support_plane
    grid, allowed = search_grid(frames, aim.focus_world, plane, cfg.search_radius_share, 72)
    allowed &= aim.allows(grid)
    job.progress(0.02, 1, "comparing photos")
    swept = posed.swept()
    far = far_cues(frames, aim.focus_world, cfg.n_far_photos) if swept is None else [unknown(f) for f in frames]
    allowed_shell = shell_of(allowed)

    def look(i: int) -> tuple[np.ndarray, np.ndarray]:
        frame = frames[i]
        cost = np.dstack([unknown(frame)] * 3) if plane is None else plane_cue(frames, i, plane, cfg.n_plane_photos)
        if swept is not None:
            return features(frame, cost, far[i]), evidence_of_turning(cost[..., 0], at_size(swept > 127, frame.shape()))
        explained = np.fmin(np.fmin(cost[..., 0], 0.7 * cost[..., 1]), far[i])
        in_region = silhouette(grid, allowed_shell, frame)
        return features(frame, cost, far[i]), evidence(explained, np.isfinite(cost[..., 0]), ~in_region)

    looks = in_threads(look, range(len(frames)))
    mean = np.where(allowed, mean_evidence(grid, frames, with_shares([m for _, m in looks], shares)), -1)
    strongest = float(np.percentile(mean[allowed], 99.9)) if allowed.any() else 0.0
    if strongest <= 0:
        raise UserError("nothing in the photos stands out from its surroundings; photograph one object from all sides")
    loose, core = (
        Body(aim, grid, main_bodies(mean > share * strongest, grid, aim.focus_world, aim.others_share), allowed)
        for share in (cfg.loose_share, cfg.core_share)
    )
    stacks = with_their_feature([stack for stack, _ in looks], shares, frames, loose, core, job)
    distance = np.median([np.linalg.norm(f.centre_world() - aim.focus_world) for f in frames])
    spots = point_spots(posed, frames, grid, loose.solid, 0.02 * float(distance), 2)

    def progress(share: float, note: str) -> None:
        job.progress(0.3 + 0.3 * share, 1, note)

    return agree(frames, stacks, loose, core, spots, cfg.smoothness, cfg.n_voxels, cfg.seed, progress)


def write_mask(posed: PosedCapture, job: Job, view: View, mask: Bool[np.ndarray, "h w"]) -> None:
    """Save a mask at the photo's own size: the user's as it came, any other softened at its edge."""
    given = posed.mask_path(view.name)
    size = (view.camera.width_px, view.camera.height_px)
    image = read_mask(given) if given is not None else None
    if image is None or image.shape != size[::-1] or not np.array_equal(at_size(image > 127, mask.shape), mask):
        image = cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), 0.6)
    if image.shape != size[::-1]:
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    Image.fromarray(image).save(job.folder / "masks" / f"{view.name}.png")


def from_given_masks(
    posed: PosedCapture, frames: Sequence[Frame], full: Sequence[Frame], aim: Aim, cfg: IsolateConfig, job: Job
) -> tuple[list[Bool[np.ndarray, "_ _"]], Body]:
    """Masks at `full` size as the user gave them, and the body that they carve.

    A view without a mask gets the body's silhouette. Raises UserError if the masks have no volume in common.
    """
    grid, allowed = search_grid(frames, aim.focus_world, posed.support_plane, cfg.search_radius_share, 72)
    found = {}
    for frame in full:
        path = posed.mask_path(frame.name)
        if path is not None:
            found[frame.name] = at_size(read_mask(path) > 127, frame.shape())
    seeing = [f for f in frames if f.name in found]
    masks = [at_size(found[f.name], f.shape()) for f in seeing]
    start = Body(aim, grid, np.zeros(grid.shape, bool), allowed & aim.allows(grid))
    body = carved(seeing, masks, None, start, 0.06)
    if not body.solid.any():
        raise UserError("the masks that came with the photos have no volume in common; check that they fit the photos")
    body = carved(seeing, masks, None, regrid(frames, body, cfg.n_voxels, grid.low[2]), 0.06)
    tight = carved(seeing, masks, None, body, 0.06, 0.0, 0.0)
    shell = shell_of(tight.solid)
    for frame in full:
        if frame.name not in found:
            found[frame.name] = silhouette(tight.grid, shell, frame)
    job.notes["masks_given"] = len(seeing)
    return [found[f.name] for f in full], body
