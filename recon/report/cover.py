"""How well the photos cover the asset's surface: in how many of them each part is seen, and what was filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from recon.camera import View
from recon.data import Asset
from recon.mesh.visibility import seen_by

OVERLAY_PX = 1024
"""Side of the map of the cover, whatever the texture's size."""
DOWNWARD = -0.7
"""A face whose unit normal points further down than this belongs to the underside."""


@dataclass(frozen=True)
class Grade:
    """One step of the cover, as it is drawn and named."""

    name: str
    rgb: tuple[int, int, int]
    at_least: int
    """Photos that see the surface."""


GRADES = (
    Grade("in no photo: filled in", (224, 82, 44), 0),
    Grade("in 1 or 2 photos", (240, 180, 60), 1),
    Grade("in 3 to 5 photos", (150, 200, 225), 3),
    Grade("in 6 photos or more", (60, 130, 190), 6),
)
"""From bad to good; told apart by people who see red and green alike."""


@dataclass(frozen=True)
class Cover:
    """The cover of a whole surface."""

    grade_map: UInt8[np.ndarray, "t t"]
    """By texel, row 0 at v = 1: 0 outside all charts, else 1 + the index of its grade."""
    shares: Float64[np.ndarray, " n_grades"]
    """Of the surface's area, by grade."""
    underside_share: float
    """How much of what no photo saw points down."""

    def overlay(self) -> UInt8[np.ndarray, "t t 3"]:
        """The grades' colours by texel; outside the charts as good as the best, where no filter may see it."""
        colours = np.array([GRADES[-1].rgb, *(g.rgb for g in GRADES)], np.uint8)
        return colours[self.grade_map]

    def sentence(self) -> str:
        """What the surface lacks, for people."""
        unseen = float(self.shares[0])
        if unseen < 0.005:
            return "All of the surface was photographed."
        where = (
            "nearly all of it the underside"
            if self.underside_share > 0.8
            else "partly the underside"
            if self.underside_share > 0.3
            else "in folds and on sides that no camera faced"
        )
        filled = "there its shape was closed smoothly and its colour filled in from around it"
        return f"{unseen:.0%} of the surface is in no photo, {where}; {filled}."


def surface_cover(asset: Asset, views: Sequence[View]) -> Cover:
    """Grade every face by how many views see it, and by what the texture had no photo for."""
    mesh = asset.uv_mesh
    n_seen, _ = seen_by(mesh.vertices_world, mesh.faces, np.arange(len(mesh.faces)), views)
    grade = np.searchsorted([g.at_least for g in GRADES], n_seen, side="right").astype(np.uint8)
    filled = _filled_faces(asset)
    grade[filled] = 1
    grade[~filled & (grade == 1)] = 2  # its centre is hidden, but some of it was painted from a photo
    corners = mesh.vertices_world[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    shares = np.bincount(grade - 1, area, len(GRADES)) / max(float(area.sum()), 1e-300)
    down = cross[:, 2] < DOWNWARD * area
    underside = float(area[filled & down].sum() / max(float(area[filled].sum()), 1e-300))
    return Cover(_grade_map(asset, grade), shares, underside)


def _filled_faces(asset: Asset) -> Bool[np.ndarray, " n_faces"]:
    """Faces the texel under whose centre was filled in."""
    size = len(asset.seen)
    centre = asset.uv_mesh.uv[asset.uv_mesh.faces].mean(1)
    column = np.clip((centre[:, 0] * size).astype(int), 0, size - 1)
    row = np.clip(((1 - centre[:, 1]) * size).astype(int), 0, size - 1)
    return asset.seen[row, column] == 128


def _grade_map(asset: Asset, grade: UInt8[np.ndarray, " n_faces"]) -> UInt8[np.ndarray, "t t"]:
    """The faces' grades painted into the atlas, a few texels over the charts' borders."""
    mesh = asset.uv_mesh
    shift = 4  # OpenCV takes fixed-point corners, here in sixteenths of a texel
    corners = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], -1) * OVERLAY_PX - 0.5
    corners = np.round(corners * (1 << shift)).astype(np.int32)[mesh.faces]
    painted = np.zeros((OVERLAY_PX, OVERLAY_PX), np.uint8)
    for triangle, value in zip(corners, grade.tolist(), strict=True):
        cv2.fillConvexPoly(painted, triangle, value, cv2.LINE_8, shift)
    around = cv2.dilate(painted, np.ones((5, 5), np.uint8))
    return np.where(painted > 0, painted, around)
