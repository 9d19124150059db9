"""Masks and visual hull, each made from the other in turn until they agree.

After Campbell et al. 2010 (automatic object segmentation from calibrated images): a volume that all photos agree on
says where the object may be; colours and cues learnt from it cut each photo; the cuts carve the volume anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from recon.isolate.aim import Aim
from recon.isolate.carve import carve, main_bodies, signed_distance_px
from recon.isolate.classify import PixelClassifier, training_set
from recon.isolate.frames import Frame, in_threads
from recon.isolate.segment import cut
from recon.isolate.volume import Grid, grid_over, seen_share, shell_of, silhouette


@dataclass(frozen=True)
class Round:
    """How sure one round is of the hull that it starts from; distances are in working pixels."""

    clear_px: float
    """Pixels farther outside the hull's silhouette than this are examples of the surroundings."""
    core_share: float
    """Pixels deeper inside than this share of the local half thickness are examples of the object."""
    reach_px: float
    """How far outside the silhouette the object may still grow."""
    softness_px: float
    """Over this distance beyond the silhouette the odds fall by a factor of e."""
    wrong_share: float
    """A voxel may lie outside this share of the masks."""
    belief: float
    """Log odds that a pixel deep inside the silhouette gains; falls so that holes seen in a few photos can open."""


ROUNDS = (
    Round(2, 0.3, 60, 12, 0.15, 1.5),
    Round(4, 0.4, 40, 8, 0.10, 1.5),
    Round(4, 0.3, 30, 6, 0.06, 1.0),
    Round(3, 0.25, 20, 5, 0.06, 0.7),
    Round(2, 0.2, 15, 4, 0.06, 0.5),
    Round(2, 0.2, 12, 3, 0.06, 0.5),
)
THICKNESS_WINDOW_PX = 41
"""Half thicknesses are compared within this window, so that a chair's leg is not judged by its seat."""


@dataclass(frozen=True)
class Body:
    """A solid of voxels and the part of the grid where a solid may be."""

    aim: Aim
    grid: Grid
    solid: Bool[np.ndarray, "i j k"]
    allowed: Bool[np.ndarray, "i j k"]

    def silhouettes(self, frames: Sequence[Frame]) -> list[Bool[np.ndarray, "_ _"]]:
        shell = shell_of(self.solid)
        return [silhouette(self.grid, shell, f) for f in frames]


def deep_inside(distance_px: Float32[np.ndarray, "h w"], share: float, at_least_px: float) -> Bool[np.ndarray, "h w"]:
    """Pixels deeper inside than `share` of the local half thickness."""
    window = np.ones((THICKNESS_WINDOW_PX, THICKNESS_WINDOW_PX), np.uint8)
    deep: np.ndarray = distance_px > np.maximum(at_least_px, share * cv2.dilate(distance_px, window))
    return deep


def segment_round(
    frames: Sequence[Frame],
    stacks: Sequence[Float32[np.ndarray, "_ _ f"]],
    hull: Sequence[Bool[np.ndarray, "_ _"]],
    core: Sequence[Bool[np.ndarray, "_ _"]],
    spots: Sequence[Bool[np.ndarray, "_ _"]] | None,
    plan: Round,
    smoothness: float,
    seed: int,
) -> tuple[list[Bool[np.ndarray, "_ _"]], list[Float32[np.ndarray, "_ _"]]]:
    """Cut every photo by a classifier trained inside `core` (and on `spots`) against outside `hull`.

    Returns masks and how sure they are (0..1) per pixel.
    """
    distances = [signed_distance_px(h) for h in hull]
    cores = distances if core is hull else [signed_distance_px(c) for c in core]
    inside = [deep_inside(d, plan.core_share, 1.5) for d in cores]
    if spots is not None:
        inside = [a | b for a, b in zip(inside, spots, strict=True)]
    # 90 px: examples from nearby teach more than the far corners of the photo.
    outside = [(d < -plan.clear_px) & (d > -90) for d in distances]
    x, y = training_set(stacks, inside, outside, 600, seed)
    classifier = PixelClassifier(x, y, 400, seed)

    def one(frame: Frame, stack: np.ndarray, distance: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        active = distance > -plan.reach_px
        log_odds = np.full(frame.shape(), -8, np.float32)
        prior = np.clip((distance[active] + 1) / plan.softness_px, -4, 0) + plan.belief * deep_inside(c, 0.5, 3)[active]
        log_odds[active] = np.clip(classifier.log_odds(stack[active]), -4, 4) + prior
        share = cut(frame.rgb, log_odds, (log_odds > 0).astype(np.float32), active, smoothness, 120)
        return (share > 0.5) & active, np.clip(np.abs(log_odds) / 1.5, 0.1, 1).astype(np.float32)

    found = in_threads(one, frames, stacks, distances, cores)
    return [mask for mask, _ in found], [sure for _, sure in found]


def agree(
    frames: Sequence[Frame],
    stacks: Sequence[Float32[np.ndarray, "_ _ f"]],
    loose: Body,
    core: Body,
    spots: Sequence[Bool[np.ndarray, "_ _"]],
    smoothness: float,
    n_voxels: int,
    seed: int,
    progress: Callable[[float, str], None],
) -> tuple[list[Bool[np.ndarray, "_ _"]], Body]:
    """Masks at working size and the body that they carve, starting from a loose body and a sure core of it."""
    hull, inner = loose.silhouettes(frames), core.silhouettes(frames)
    body = loose
    for n, plan in enumerate(ROUNDS):
        progress(n / len(ROUNDS), f"round {n + 1} of {len(ROUNDS)}")
        masks, sure = segment_round(frames, stacks, hull, inner, spots if n < 2 else None, plan, smoothness, seed + n)
        body = carved(frames, masks, sure, body, plan.wrong_share)
        if n in (0, 2):  # once the size is known, and once more when it is known well
            body = regrid(frames, body, n_voxels if n else round(0.8 * n_voxels), loose.grid.low[2])
            body = carved(frames, masks, sure, body, plan.wrong_share)
        hull = inner = body.silhouettes(frames)
    return masks, body


def carved(
    frames: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    sure: Sequence[Float32[np.ndarray, "_ _"]] | None,
    body: Body,
    wrong_share: float,
    tolerance_px: float = 0.5,
    tolerance_voxels: float = 0.5,
) -> Body:
    """The body of the masks; the old one where nothing would remain of it."""
    solid = carve(body.grid, frames, masks, body.allowed, wrong_share, sure, tolerance_px, tolerance_voxels)
    if not solid.any():
        return body
    return replace(body, solid=main_bodies(solid, body.grid, body.aim.focus_world, body.aim.others_share))


def regrid(frames: Sequence[Frame], body: Body, n_voxels: int, floor: float) -> Body:
    """The same body on a grid that fits it, with some room; `floor` is the grid's lowest height."""
    index = np.argwhere(body.solid)
    room = np.maximum(4, 0.06 * np.array(body.solid.shape))
    axes = body.grid.world_from_grid
    low = body.grid.low + (index.min(0) - room) * body.grid.edge
    high = body.grid.low + (index.max(0) + 1 + room) * body.grid.edge
    low[2] = max(low[2], floor)
    grid = grid_over(low, high, axes, n_voxels)
    seen = seen_share(grid, frames)
    allowed = (seen >= 0.4 * seen.max()) & body.aim.allows(grid)
    return Body(body.aim, grid, allowed, allowed)
