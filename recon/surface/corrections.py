"""Small corrections of the cameras, found while the surface is fitted.

`align.py` says what patches of the photos tell about them. The equations are solved together with a prior that holds
cameras where they were: of all corrections that photos cannot tell apart (moving, turning and scaling the world with
its cameras) the one nearest to none is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64

from recon.camera import Pinhole, View
from recon.data import PosedCapture
from recon.surface.align import Equations, SurfacePatches, gather_equations
from recon.surface.patch_match import Patch
from recon.surface.patch_photos import PatchPhotos
from recon.surface.pixels import UnitCameras, unit_cameras
from recon.transforms import Rigid, Similarity

N_POSE = 6
CENTRE = 0.5
"""Of the unit cube, where the object is, along each axis."""


@dataclass(frozen=True)
class CameraConfig:
    """How cameras are corrected during the fit."""

    likely_px: float = 0.0
    """How far cameras are likely off, as pixels at the object; higher lets them go further, and 1 wins back several
    pixels. 0 leaves them alone, and so does patches.weight=0."""
    likely_focal: float = 0.002
    """How far focal lengths are likely off, as a share; 0 leaves them alone."""
    first_share: float = 0.2
    """Share of the steps after which cameras are corrected first; until `surface.hold_share` on the shape that the fit
    starts from."""
    n_times: int = 3
    """How often they are corrected ..."""
    every_share: float = 0.15
    """... and after which share of the steps again."""
    n_patches: int = 4096
    """Patches that are compared each time."""
    n_rounds: int = 3
    """Rounds on each level of the photos' pyramid, from coarse to fine."""
    least_gain: float = 0.006
    """By how much the NCC of the median photo's patches must rise with corrected cameras, or they are left alone:
    structure from motion is right to a tenth of a pixel where it succeeds, and patches are not."""
    least_gain_alone: float = 0.02
    """The same of a single photo, where most are left alone."""
    most_cost: float = 0.5
    """The median photo's 1 - NCC above which photos do not agree for other reasons: metal, gloss."""
    first_level: int = 2
    """The coarsest level; higher reaches cameras that are farther off."""


class Corrections:
    """The corrections found so far."""

    def __init__(self, cfg: CameraConfig, posed: PosedCapture, unit_from_world: Similarity) -> None:
        self.cfg, self.posed, self.unit_from_world = cfg, posed, unit_from_world
        lenses = list(dict.fromkeys(v.camera for v in posed.views))
        self.lens_idx = np.array([lenses.index(v.camera) for v in posed.views])
        """Views with equal intrinsics share a lens."""
        self.pose = np.zeros((len(posed.views), N_POSE))
        self.log_focal = np.zeros(len(lenses))
        self.n_done = 0
        """Times that cameras were corrected."""

    def due(self, done: float) -> bool:
        """Whether cameras are to be corrected when a share `done` of the steps is done."""
        cfg = self.cfg
        return (
            cfg.likely_px > 0 and self.n_done < cfg.n_times and done >= cfg.first_share + self.n_done * cfg.every_share
        )

    def improve(self, patches: SurfacePatches, photos: PatchPhotos, patch: Patch) -> PatchPhotos:
        """Correct the cameras until the patches agree best, from coarse to fine; returns the photos seen by them.

        Tried on the coarsest level first; cameras that are not worth it go back.
        """
        cfg, before = self.cfg, (self.pose.copy(), self.log_focal.copy())
        everyone = np.ones(len(self.posed.views), bool)
        first = gather_equations(patches, photos, patch, cfg.first_level)
        equations = first
        for _ in range(cfg.n_rounds):
            photos = photos.seen_by(self.solve(equations, everyone))
            equations = gather_equations(patches, photos, patch, cfg.first_level)
        free = self.worth(first.cost.cpu().numpy(), equations.cost.cpu().numpy())
        self.pose = np.where(free[:, None], self.pose, before[0])
        if not free.all():
            self.log_focal = before[1]
        photos = photos.seen_by(self.cameras())
        for level in range(cfg.first_level if free.any() else 0, 0, -1):
            for _ in range(cfg.n_rounds):
                equations = gather_equations(patches, photos, patch, level - 1)
                photos = photos.seen_by(self.solve(equations, free))
        self.n_done += 1
        return photos

    def worth(
        self, before: Float64[np.ndarray, " n_views"], after: Float64[np.ndarray, " n_views"]
    ) -> Bool[np.ndarray, " n_views"]:
        """Which views to correct, by the cost of their patches: all, those that stand out, or none."""
        cfg, gain = self.cfg, before - after
        if np.isnan(gain).all() or np.nanmedian(after) > cfg.most_cost:
            return np.zeros(len(gain), bool)
        result: np.ndarray = (gain > cfg.least_gain_alone) | (np.nanmedian(gain) > cfg.least_gain)
        return result

    def solve(self, equations: Equations, free: Bool[np.ndarray, " n_views"]) -> UnitCameras:
        """Correct the cameras of the free views; returns all in the unit cube."""
        n_views, n_lenses = len(self.posed.views), len(self.log_focal)
        n_poses = n_views * N_POSE
        n = n_poses + n_lenses
        # unknowns in standard deviations of the prior, 0 for those that are held; views share a lens's focal length,
        # which a few views that are off say nothing about
        likely = self.likely() * free[:, None]
        likely[:, N_POSE] *= free.all()
        lens = np.full(n_lenses, self.cfg.likely_focal * free.all())
        unit = np.concatenate([likely[:, :N_POSE].ravel(), lens])
        so_far = np.concatenate([self.pose.ravel(), self.log_focal])
        column = np.hstack([np.arange(n_poses).reshape(n_views, N_POSE), n_poses + self.lens_idx[:, None]]).ravel()
        gathered = equations.normal.cpu().numpy().transpose(0, 2, 1, 3).reshape(len(column), len(column))
        scale = likely.ravel()
        matrix, right = np.eye(n), -so_far / np.where(unit > 0, unit, np.inf)
        np.add.at(matrix, (column[:, None], column[None]), gathered * scale[:, None] * scale)
        np.add.at(right, column, equations.right.cpu().numpy().ravel() * scale)
        step = unit * np.linalg.solve(matrix, right)
        self.pose += step[:n_poses].reshape(n_views, N_POSE)
        self.log_focal += step[n_poses:]
        return self.cameras()

    def likely(self) -> Float64[np.ndarray, "n_views 7"]:
        """Standard deviations of the prior: each number alone moves the object by `likely_px` in the photo."""
        cameras = unit_cameras(self.posed, self.unit_from_world)
        turn = self.cfg.likely_px / cameras.intrinsics[:, :1].double().numpy()
        distance = (cameras.centre.double() - CENTRE).norm(dim=1, keepdim=True).numpy()
        focal = np.full_like(turn, self.cfg.likely_focal)
        return np.hstack([turn.repeat(3, 1), (turn * distance).repeat(3, 1), focal])

    def cameras(self) -> UnitCameras:
        """The corrected cameras in the unit cube."""
        return unit_cameras(replace(self.posed, views=self.views()), self.unit_from_world)

    def views(self) -> tuple[View, ...]:
        """The views with corrected cameras, in world."""
        out = []
        for view, pose, log_focal in zip(self.posed.views, self.pose, self.log_focal[self.lens_idx], strict=True):
            if not pose.any() and log_focal == 0:
                out.append(view)  # itself, not a rounding error away
                continue
            rotation = cv2.Rodrigues(pose[:3])[0] @ view.cam_from_world.rotation
            moved = view.cam_from_world.rotation.T @ pose[3:] / self.unit_from_world.scale
            c, grown = view.camera, float(np.exp(log_focal))
            camera = Pinhole(c.width_px, c.height_px, c.fx_px * grown, c.fy_px * grown, c.cx_px, c.cy_px)
            out.append(View(view.name, camera, Rigid(rotation, -rotation @ (view.centre_world() + moved))))
        return tuple(out)

    def notes(self) -> dict[str, float]:
        """For the report: how far the object's middle moved in the photos, in the median and at most."""
        middle = self.unit_from_world.inverse().apply(np.full((1, 3), CENTRE))
        pairs = zip(self.posed.views, self.views(), strict=True)
        moved = [np.linalg.norm(after.project(middle)[0] - before.project(middle)[0]) for before, after in pairs]
        grown = np.exp(self.log_focal)
        return {
            "camera_moved_px": round(float(np.median(moved)), 3),
            "camera_moved_px_max": round(float(max(moved)), 3),
            "focal_grown_pct": round(100 * float(grown[np.abs(self.log_focal).argmax()] - 1), 4),
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        found = {"pose": torch.from_numpy(self.pose.copy()), "log_focal": torch.from_numpy(self.log_focal.copy())}
        return found | {"n_done": self.n_done}

    def restore(self, state: dict[str, Any]) -> UnitCameras:
        """Go on from `state()`; returns the corrected cameras in the unit cube."""
        self.pose, self.log_focal = state["pose"].numpy().copy(), state["log_focal"].numpy().copy()
        self.n_done = state["n_done"]
        return self.cameras()
