"""The prior's point cloud for report.html: drawn from four sides, by photo and by confidence, and told in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, Int, UInt8

from recon.camera import View
from recon.data import PriorCloud
from recon.transforms import Similarity

BACKGROUND = (216, 216, 216)
"""Flat, as a ramp between the points would only cost bytes."""
OVERSAMPLING = 2
"""Pixels drawn per pixel shown along each side: discs get soft rims."""
DISC_RADIUS_PX = 3
"""Of a point before shrinking: 1.5 shown pixels, which closes the gaps of a usual cloud and no larger ones."""
METHODS = {
    "sweep": "a plane sweep",
    "mvsnet": "a depth network",
    "both": "a plane sweep and a depth network that confirm each other",
}


@dataclass(frozen=True)
class Trust:
    """One step of the confidence, as it is drawn and named."""

    name: str
    rgb: tuple[int, int, int]
    at_least: float


TRUST = (
    Trust("below 0.25", (224, 82, 44), 0.0),
    Trust("0.25 to 0.5", (240, 180, 60), 0.25),
    Trust("0.5 to 0.75", (150, 200, 225), 0.5),
    Trust("0.75 or more", (60, 130, 190), 0.75),
)
"""From bad to good, in the colours of the cover's grades."""


@dataclass(frozen=True)
class Dots:
    """A cloud ready to be drawn, in the frame that it is looked at in."""

    points: Float64[np.ndarray, "n 3"]
    normals: Float64[np.ndarray, "n 3"]
    rgb: UInt8[np.ndarray, "n 3"]


def photo_dots(cloud: PriorCloud, asset_from_world: Similarity) -> Dots:
    """The cloud in the photos' colours and the asset's frame."""
    normals = cloud.normals_world @ asset_from_world.rotation.T
    return Dots(asset_from_world.apply(cloud.points_world), normals, cloud.rgb)


def trust_dots(cloud: PriorCloud, asset_from_world: Similarity) -> Dots:
    """The cloud in the colours of its confidence."""
    plain = photo_dots(cloud, asset_from_world)
    return Dots(plain.points, plain.normals, np.array([t.rgb for t in TRUST], np.uint8)[trust_of(cloud)])


def trust_of(cloud: PriorCloud) -> Int[np.ndarray, " n"]:
    """Index into `TRUST` of every point."""
    return np.searchsorted([t.at_least for t in TRUST], cloud.confidence, side="right") - 1


def trust_shares(cloud: PriorCloud) -> Float64[np.ndarray, " n_steps"]:
    """Of the points, by step of the confidence; zeros for an empty cloud."""
    return np.bincount(trust_of(cloud), minlength=len(TRUST)) / max(len(cloud.confidence), 1)


def draw_dots(dots: Dots, view: View) -> UInt8[np.ndarray, "h w 3"]:
    """Every point that faces the camera as a disc, the nearest on top."""
    w, h = view.camera.width_px * OVERSAMPLING, view.camera.height_px * OVERSAMPLING
    fine = View(view.name, view.camera.resized(w, h), view.cam_from_world)
    facing = ((view.centre_world() - dots.points) * dots.normals).sum(1) > 0
    pixels, depth_z = fine.project(dots.points)
    drawn = np.flatnonzero(facing & fine.in_image(pixels, depth_z))
    drawn = drawn[np.argsort(-depth_z[drawn], kind="stable")]
    reach = np.arange(-DISC_RADIUS_PX, DISC_RADIUS_PX + 1)
    dy, dx = (d.ravel() for d in np.meshgrid(reach, reach, indexing="ij"))
    disc = dx**2 + dy**2 <= DISC_RADIUS_PX**2
    at = np.floor(pixels[drawn]).astype(int)
    column, row = at[:, :1] + dx[disc], at[:, 1:] + dy[disc]
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    canvas = np.full((h * w, 3), BACKGROUND, np.uint8)
    colours = np.broadcast_to(dots.rgb[drawn, None], (*column.shape, 3))
    # From far to near, point after point: of repeated indices numpy keeps the last value, so the nearest wins.
    canvas[(row * w + column)[inside]] = colours[inside]
    return cv2.resize(canvas.reshape(h, w, 3), (w // OVERSAMPLING, h // OVERSAMPLING), interpolation=cv2.INTER_AREA)


def cloud_sentence(cloud: PriorCloud, notes: Mapping[str, Any]) -> str:
    """What the cloud is, for people. notes: the stage's."""
    if notes.get("method") == "none":
        return "No dense points were asked for: the surface was found from outlines and shading alone."
    if not len(cloud.points_world):
        return "The photos gave no dense points: the surface was found from outlines and shading alone."
    method = notes.get("method", "sweep")  # a cloud made before there was a choice does not say
    sentence = f"{len(cloud.points_world):,} points on the object, found by {METHODS.get(method, method)}"
    if "n_depth_maps" in notes:
        sentence += f" in {notes['n_depth_maps']} depth maps"
    sentence += "; the surface was fitted to them and to the photos."
    if "kept_share" in notes:
        sentence += (
            f" Of the object's pixels in these maps, {notes['kept_share']:.0%} have a depth that others confirm."
        )
    return sentence
