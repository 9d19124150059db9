"""From masks and the solid behind them to what the later stages need: box, hull, figures and warnings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from recon.data import ObjectRegion, PosedCapture, SupportPlane
from recon.isolate.box import clip_at_plane, convex_hull, shell_points, upright_box
from recon.isolate.frames import Frame
from recon.isolate.volume import Grid, shell_of, silhouette
from recon.stage import Job


def agreement(
    frames: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    grid: Grid,
    solid: Bool[np.ndarray, "i j k"],
    job: Job,
) -> dict[str, float]:
    """Figures on the masks; tells the user which photos do not fit the common hull or cut the object off."""
    shell = shell_of(solid)
    hull = [silhouette(grid, shell, f) for f in frames]
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


def touches(points_world: Float64[np.ndarray, "n 3"], plane: SupportPlane | None, edge: float) -> bool:
    """Whether a solid of voxels of size `edge` reaches the support plane."""
    if plane is None:
        return False
    height = points_world @ plane.normal_world - plane.offset
    # Some voxels: the lowest layers may be lost to a shadow.
    return bool(np.percentile(height, 0.5) < 5 * edge)


def region_of(
    posed: PosedCapture, grid: Grid, solid: Bool[np.ndarray, "i j k"], margin_share: float, job: Job, source: str
) -> ObjectRegion:
    """Box and hull of a carved solid; both end at the support plane where the object touches it.

    margin_share: the hull is grown by this share of the solid's diagonal.
    """
    points = shell_points(grid, solid)
    plane = posed.support_plane
    rests = touches(points, plane, grid.edge)
    if rests and plane is not None:
        height = points @ plane.normal_world - plane.offset
        lowest = height < np.percentile(height, 0.5) + 4 * grid.edge
        points = np.concatenate([points, points[lowest] - height[lowest, None] * plane.normal_world])
    world_from_box, size = upright_box(points)
    margin = margin_share * float(np.linalg.norm(size))
    vertices, faces = convex_hull(points, 0.5 * grid.edge + margin)
    if rests and plane is not None:
        vertices, faces = convex_hull(clip_at_plane(vertices, plane, -0.25 * margin), 0.0)
    job.notes["box_size"] = [round(float(s), 4) for s in size]
    return ObjectRegion(job.folder, world_from_box, size, vertices, faces, source, rests)


def with_base(
    grid: Grid, solid: Bool[np.ndarray, "i j k"], width_share: float
) -> tuple[Grid, Bool[np.ndarray, "i2 j2 k"]]:
    """A solid together with a slab of the support around its foot, `width_share` of its width wide on every side.

    The grid's third axis leaves the support plane and its lowest layer lies on it; the grid grows to hold the slab.
    """
    footprint = solid.any(2)
    spread = max(np.ptp(np.argwhere(footprint), axis=0)) + 1
    reach = max(1, round(width_share * float(spread)))
    wide = np.pad(solid, ((reach, reach), (reach, reach), (0, 0)))
    # A disc-shaped neighbourhood, by distance, keeps the slab's corners round.
    slab = ndimage.distance_transform_edt(~np.pad(footprint, reach)) <= reach
    thickness = max(1, round(0.01 * float(spread)))
    wide[:, :, :thickness] |= slab[:, :, None]
    low = grid.low - np.array([reach, reach, 0]) * grid.edge
    return Grid(grid.world_from_grid, low, grid.edge, wide.shape), wide
