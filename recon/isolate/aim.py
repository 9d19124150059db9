"""What the search is after: where the object is, and what the user said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from recon.data import PosedCapture
from recon.errors import UserError
from recon.isolate.frames import Frame
from recon.isolate.volume import Grid, gather

NEAR_SHARE = 0.05
"""Sparse points within this share of a photo's width around a click tell how far away the clicked thing is."""


@dataclass(frozen=True)
class Window:
    """A rectangle in one photo that the object lies in."""

    frame: Frame
    inside: Float32[np.ndarray, "h w"]
    """1 inside the rectangle, 0 outside."""


@dataclass(frozen=True)
class Aim:
    """Where to look."""

    focus_world: Float64[np.ndarray, "3"]
    others_share: float = 0.1
    """Bodies beside the main one that have at least this share of its weight belong to the object."""
    window: Window | None = None

    def allows(self, grid: Grid) -> Bool[np.ndarray, "i j k"]:
        """Voxels that the user's rectangle does not rule out."""
        if self.window is None:
            return np.ones(grid.shape, bool)
        inside = gather(self.window.inside, grid.pixel_from_index(self.window.frame), grid.shape, np.float32(0))
        allowed: np.ndarray = inside > 0.5
        return allowed


def aim_at(posed: PosedCapture, frames: Sequence[Frame], point: str, box: str) -> Aim:
    """The aim from the user's hints (see IsolateConfig.point and .box), or from where the cameras look together.

    Raises UserError for a hint that names no photo or is not made of shares of one.
    """
    window = None
    focus = posed.focus_world
    if box:
        name, (x0, y0, x1, y1) = parse_box(box)
        view = view_named("isolate.box", box, name, posed)
        h, w = frames[view].shape()
        inside = np.zeros((h, w), np.float32)
        inside[round(y0 * h) : round(y1 * h), round(x0 * w) : round(x1 * w)] = 1
        window = Window(frames[view], inside)
        focus = point_seen(posed, view, (x0 + x1) / 2, (y0 + y1) / 2)
    if point:
        name, (x, y) = parse_point(point)
        focus = point_seen(posed, view_named("isolate.point", point, name, posed), x, y)
    return Aim(focus, 1.0 if point or box else 0.1, window)


def parse_point(text: str) -> tuple[str, list[float]]:
    """`PHOTO:x,y` as a photo's name and shares of its width and height. Raises UserError for anything else."""
    return _parse_hint("isolate.point", text, "PHOTO:x,y")


def parse_box(text: str) -> tuple[str, list[float]]:
    """`PHOTO:left,top,right,bottom` as a photo's name and such shares. Raises UserError for anything else."""
    name, numbers = _parse_hint("isolate.box", text, "PHOTO:left,top,right,bottom")
    if not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise UserError(f"isolate.box={text} is empty: give its left, top, right and bottom edge in that order.")
    return name, numbers


def _parse_hint(option: str, text: str, form: str) -> tuple[str, list[float]]:
    name, _, tail = text.rpartition(":")
    n_numbers = form.count(",") + 1
    if not name:
        raise UserError(f"{option}={text} names no photo: write {form}, in shares of its width and height.")
    try:
        numbers = [float(part) for part in tail.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != n_numbers or not all(0 <= x <= 1 for x in numbers):
        raise UserError(
            f"{option}={text} needs {n_numbers} numbers from 0 to 1 after the photo's name: shares of its width and "
            "height, counted from the top left corner."
        )
    return name, numbers


def view_named(option: str, text: str, name: str, posed: PosedCapture) -> int:
    """The number of the view whose photo has that name, with or without extension. Raises UserError without one."""
    names = [v.name for v in posed.views]
    stem = name if name in names else name.rsplit(".", 1)[0]
    if stem not in names:
        raise UserError(f"{option}={text} names no photo that was used; name one such as {names[0]}.")
    return names.index(stem)


def point_seen(posed: PosedCapture, view_idx: int, x: float, y: float) -> Float64[np.ndarray, "3"]:
    """The world point that a photo shows at (x, y), in shares of its size, as near as the sparse points tell.

    Among points that appear close by, the nearer ones count: a click is on the object, its surroundings are behind.
    Without such points, the place on the ray that is nearest to the common focus.
    """
    view = posed.views[view_idx]
    pixel = np.array([x * view.camera.width_px, y * view.camera.height_px])
    seen = np.unique(posed.obs_point_idx[posed.obs_view_idx == view_idx])
    pixels, depth_z = view.project(posed.points_world[seen])
    near = (np.linalg.norm(pixels - pixel, axis=1) < NEAR_SHARE * view.camera.width_px) & (depth_z > 0)
    ray, centre = view.rays(pixel[None])[0], view.centre_world()
    if near.sum() >= 3:
        along = float(np.quantile(depth_z[near], 0.25)) / float(ray @ view.forward_world())
    else:
        along = float((posed.focus_world - centre) @ ray)
    hit: np.ndarray = centre + along * ray
    return hit
